"""The CUDA kernels where there is no GPU, and the threads of the CPU kernels, in processes of their own."""

import importlib.util
import json
import os
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
    "overlaps_cuda",
    "walk_cuda",
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


LAYER = """
import numpy as np, numba
from tinymrcnn.boxes.nms import nms, nms_cpu
nms(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), 0.5)
print(numba.threading_layer(), sum(nms_cpu.stats.cache_hits.values()))
"""


def test_threading_layer(tmp_path):
    fresh = dict(NUMBA_CACHE_DIR=str(tmp_path), NUMBA_THREADING_LAYER=None)
    assert python("-c", LAYER, **fresh) == "workqueue 0\n"  # compiled
    assert python("-c", LAYER, **fresh) == "workqueue 1\n"  # read from the cache


@pytest.mark.skipif(sys.platform != "linux", reason="Other systems may lack OpenMP.")
def test_the_threading_layer_that_a_user_chose_stays():
    assert python("-c", LAYER, NUMBA_THREADING_LAYER="omp").startswith("omp ")
