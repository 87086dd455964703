"""The CUDA kernels without a GPU, what an import changes, and where kernels are kept, in processes of their own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KERNELS = {
    "_im2col_cuda",
    "_col2im_cuda",
    "_forward_cuda",  # of max_pool2d, as the next
    "_backward_cuda",
    "roi_pool_forward_cuda",
    "roi_pool_backward_cuda",
    "roi_align_forward_cuda",
    "roi_align_backward_cuda",
    "ps_roi_pool_forward_cuda",
    "ps_roi_pool_backward_cuda",
    "roi_crop_forward_cuda",
    "roi_crop_backward_cuda",
    "roi_crop_slopes_cuda",
    "overlaps_cuda",
    "walk_cuda",
    "_relu_grad_cuda",
    "_constants_cuda",
    "_slopes_cuda",
    "_sums_of_products_cuda",
    "_combine_cuda",
    "_adamw_cuda",
}


def python(*arguments, **variables):
    """What a fresh Python process prints; variables of the environment that are None are removed."""
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cuda_kernels_in_the_simulator():
    errors = json.loads(python(str(TESTS / "cuda_without_gpu.py"), "simulate", NUMBA_ENABLE_CUDASIM="1"))
    assert set(errors["float32"]) == set(errors["float64"]) == KERNELS
    assert max(errors["float32"].values()) < 1e-6
    assert max(errors["float64"].values()) < 1e-14


@pytest.mark.skipif(sys.platform != "linux", reason="The compiler of CUDA kernels is tested on Linux only.")
@pytest.mark.skipif(not importlib.util.find_spec("numba_cuda"), reason="numba-cuda[cu12] is not installed.")
def test_cuda_kernels_compile_and_float32_stays_float32():
    counts = json.loads(python(str(TESTS / "cuda_without_gpu.py"), "compile", NUMBA_ENABLE_CUDASIM=None))
    assert set(counts["float32"]) == set(counts["float64"]) == KERNELS
    assert not any(counts["float32"].values()), counts["float32"]
    assert all(count > 0 for name, count in counts["float64"].items() if name != "walk_cuda")  # that one holds bits


BARRIERS = """
from tinymrcnn.boxes.nms import walk_cuda
from tinymrcnn.kernels import compile_to_ptx
ptx = compile_to_ptx(walk_cuda, "void(uint64[:, ::1], int64[::1], uint64[:, ::1], boolean[::1])")
print("bar.sync" in ptx)
"""


@pytest.mark.skipif(not importlib.util.find_spec("numba_cuda"), reason="numba-cuda[cu12] is not installed.")
def test_the_threads_that_walk_through_the_boxes_of_nms_wait_for_one_another():
    """The simulator runs them one after the other, in an order in which nothing goes wrong without it."""
    assert python("-c", BARRIERS, NUMBA_ENABLE_CUDASIM=None) == "True\n"


MACHINE_CODE = """
import numpy as np
from tinymrcnn import kernels
from tinymrcnn.boxes.nms import walk_cuda
signature, _ = kernels.parameters(("L", 2, True), ("q", 1, True), ("L", 2, True), ("?", 1, True))
compile_to_ptx, compiled = kernels.compile_to_ptx, []
kernels.compile_to_ptx = lambda *what: compiled.append(what) or compile_to_ptx(*what)
code = kernels.machine_code(walk_cuda, signature, "90")
assert code[1:4] == b"ELF" and b"walk_cuda" in code and b"_ZN9tinymrcnn5boxes3nms9walk" not in code, code[:200]
assert kernels.machine_code(walk_cuda, signature, "90") == code
print(len(compiled))
"""


@pytest.mark.skipif(not importlib.util.find_spec("numba_cuda"), reason="numba-cuda[cu12] is not installed.")
def test_the_code_for_a_gpu_is_kept_between_processes(tmp_path):
    for compiled in ("1", "0"):
        kept = dict(NUMBA_CACHE_DIR=str(tmp_path), NUMBA_ENABLE_CUDASIM=None)
        assert python("-c", MACHINE_CODE, **kept) == f"{compiled}\n"
    (file,) = tmp_path.rglob("*.cubin")
    assert file.name.endswith("-walk_cuda.cubin")


IMPORTS = """
import os, threading
before = dict(os.environ)
import numpy as np
from threadpoolctl import threadpool_info

def state():
    blas = [(i["filepath"], i["num_threads"]) for i in threadpool_info() if i["user_api"] == "blas"]
    return blas, threading.active_count(), hasattr(np, "row_stack"), np.geterr()

state_before = state()
import tinymrcnn
names = [name for name in tinymrcnn.__all__ if getattr(tinymrcnn, name)]
from tinymrcnn import commands, evaluation, threads, randomness, machine
import tinymrcnn.cli
assert state() == state_before, (state(), state_before)
from tinymrcnn.data import ShapesDataset
images, targets = zip(*(ShapesDataset(2, 64)[i] for i in range(2)))
model = tinymrcnn.build_model("shapes")
sum(model(images, targets).values()).backward()
model.eval()(images)
after, expected = state(), state_before
assert (after[0], after[2:]) == (expected[0], expected[2:]), (after, expected)
assert dict(os.environ) == before
print(len(names))
"""


def test_importing_and_computing_leave_the_environment_and_blas_as_they_are():
    assert int(python("-c", IMPORTS, OPENBLAS_NUM_THREADS="2", MKL_NUM_THREADS="2")) > 10


CACHE = """
import logging
logging.lastResort.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
import numpy as np, numba
before = numba.config.CACHE_DIR
from tinymrcnn.boxes.nms import nms, nms_cpu
from tinymrcnn.kernels import cache_place
assert list(nms(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), 0.5)) == [0]
assert numba.config.CACHE_DIR == before
print(sum(nms_cpu.stats.cache_hits.values()), cache_place(nms_cpu))
"""


@pytest.fixture
def no_cache(tmp_path):
    """A copy of the package, and an environment, in which no folder can be made for Numba's cache: files stand where
    it would be (a folder without permission would not stop root)."""
    for folder in (TESTS.parent / "tinymrcnn").rglob("*"):
        target = tmp_path / folder.relative_to(TESTS.parent)
        if folder.suffix == ".py":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder, target)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (folder / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    places = dict.fromkeys(("HOME", "LOCALAPPDATA", "USERPROFILE"), str(home))
    return places | dict(
        XDG_CACHE_HOME=None, NUMBA_CACHE_DIR=None, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1"
    )


def all_output(*arguments, **variables):
    """What a fresh Python process prints, what it logs, and its exit code."""
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment,
        cwd=TESTS.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout, done.stderr, done.returncode


def test_where_no_cache_can_be_written_kernels_are_kept_among_temporary_files(no_cache, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for hits in ("0", "1"):
        out, log, code = all_output("-c", CACHE, TMPDIR=str(temporary), TEMP=str(temporary), **no_cache)
        assert code == 0, log
        assert out.startswith(f"{hits} {temporary}")
        assert log.count("\n") == 1 and "compiled kernels are kept in" in log
    (folder,) = temporary.iterdir()
    if hasattr(os, "getuid"):
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o777)  # others may have put something there: what lies in a cache is run
        out, log, code = all_output("-c", CACHE, TMPDIR=str(temporary), **no_cache)
        assert (out, code) == ("0 None\n", 0)
        assert "is not this user's alone" in log and "compiles them anew" in log


ROW_STACK = """
import sys, types
import numpy as np
vars(np).pop("row_stack", None)
seen = []
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("numba.cuda"):
            seen.append(hasattr(np, "row_stack"))
sys.meta_path.insert(0, Finder)
import tinymrcnn.kernels
print(all(seen), len(seen) > 0, hasattr(np, "row_stack"))
"""


def test_numba_cuda_finds_row_stack_and_numpy_stays_without_it():
    assert python("-W", "ignore", "-c", ROW_STACK) == "True True False\n"
