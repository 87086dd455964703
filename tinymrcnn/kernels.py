"""Numba for both targets: compiling a kernel for the CPU or for CUDA, and choosing which one runs.

This is the one file that imports numba.cuda. A kernel family is written as

- scalar functions in plain Python, decorated with `@scalar`: the arithmetic itself, written once. They
  take their float type from an argument (`T = type(x)`) and wrap every constant in it (`T(0.5)`), so that
  the float32 kernel on a GPU holds no float64 instruction;
- a CPU kernel (`@cpu_kernel`, loops over `prange`; or `@piece_kernel`, the work of one thread on one piece, which
  threads.spread() hands out) and a CUDA kernel (`@cuda_kernel`, a grid-stride loop) around them.

Arrays are channels-last, so the innermost loop of a CPU kernel and neighbouring threads of a CUDA kernel
read neighbouring channels.
"""

import os

# Numba's OpenMP threads spin after a kernel, on cores that others need (calls of 1 ms became 8 to 16 ms); its own
# work queue does not. A choice that the user made stays.
_layer = os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

import numba  # noqa: E402
from numba import cuda, prange  # noqa: E402
from numba.extending import register_jitable as scalar  # noqa: E402

from tinymrcnn.backend import BACKENDS, backend_of  # noqa: E402

numba.config.THREADING_LAYER = _layer  # with a warm disk cache the environment variable alone is ignored

__all__ = ["cpu_kernel", "cuda", "cuda_kernel", "launch", "launch_size", "piece_kernel", "prange", "run", "scalar"]

THREADS_PER_BLOCK = 256
MAX_BLOCKS = 4096  # the kernels stride over the grid, so more blocks bring nothing

cpu_kernel = numba.njit(parallel=True, cache=True, error_model="numpy")
piece_kernel = numba.njit(nogil=True, cache=True, error_model="numpy")
cuda_kernel = cuda.jit


def launch_size(elements: int) -> tuple[int, int]:
    """(blocks, threads per block) for a grid-stride kernel over `elements` outputs. In the CUDA simulator
    every thread is a thread of the operating system: one block of 32 there."""
    if numba.config.ENABLE_CUDASIM:
        return 1, 32
    return max(1, min(MAX_BLOCKS, -(-elements // THREADS_PER_BLOCK))), THREADS_PER_BLOCK


def launch(kernel, elements: int, *args) -> None:
    """Run a CUDA kernel over `elements` outputs on the default stream (an empty launch is skipped)."""
    if elements > 0:
        kernel[launch_size(elements)](*args)


def run(on_cpu, on_cuda, elements: int, *args) -> None:
    """Run the CPU or the CUDA kernel, whichever fits the arrays among `args`.

    elements: how many outputs the CUDA kernel's grid covers."""
    types = tuple(backend.array_type for backend in BACKENDS.values())
    backend = backend_of(*(arg for arg in args if isinstance(arg, types)))
    if backend.host_view is None:
        launch(on_cuda, elements, *args)
    else:
        on_cpu(*(backend.host_view(arg) if isinstance(arg, backend.array_type) else arg for arg in args))
