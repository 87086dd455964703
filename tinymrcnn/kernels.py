"""Numba for both targets: compiling a kernel for the CPU or for CUDA, and choosing which one runs.

This is the one file that imports numba.cuda. A kernel family is written as

- scalar functions in plain Python, decorated with `@scalar`: the arithmetic itself, written once. They
  take their float type from an argument (`T = type(x)`) and wrap every constant in it (`T(0.5)`), so that
  the float32 kernel on a GPU holds no float64 instruction;
- a CPU kernel (`@cpu_kernel`) and a CUDA kernel (`@cuda_kernel`) around them. Each is the work of one thread, which
  strides over the elements: `range(thread, elements, threads)` in a CPU kernel, whose first arguments are `thread` and
  `threads`, and `range(cuda.grid(1), elements, cuda.gridsize(1))` in a CUDA kernel. No two threads write to the same
  element, and the order of a sum does not depend on the number of threads. run() calls one of the two.

A `@piece_kernel` is the work of one thread on one piece; functions that run under threads.spread() call it.

Arrays are channels-last, so the innermost loop of a CPU kernel and neighbouring threads of a CUDA kernel
read neighbouring channels.

Kernels are compiled once and kept on disk: in the package's folder, in the user's cache, or in NUMBA_CACHE_DIR. Where
none of these can be written, they are kept in this user's own folder in the system's temporary folder.
"""

import contextlib
import functools
import importlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

from tinymrcnn.backend import BACKENDS, backend_of
from tinymrcnn.threads import BYTES, spread, threads_for

log = logging.getLogger("tinymrcnn")
HOST = np.empty(0)
Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def _row_stack() -> Iterator[None]:
    """numba-cuda 0.30 uses NumPy's row_stack, which NumPy 2.5 no longer has: it exists within this context."""
    missing = not hasattr(np, "row_stack")
    if missing:
        vars(np)["row_stack"] = np.vstack
    try:
        yield
    finally:
        if missing:
            del vars(np)["row_stack"]


with _row_stack():
    from numba import cuda

    # Only numba-cuda has this module. Its errors show again when a CUDA kernel is compiled; the CPU does not need it
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("numba.cuda.np.arrayobj")

__all__ = ["cpu_kernel", "cuda", "cuda_kernel", "launch", "launch_size", "numba", "piece_kernel", "run", "scalar"]

THREADS_PER_BLOCK = 256
LEAST_BLOCKS = 128  # Numba warns about fewer; blocks without work end at once
MAX_BLOCKS = 4096  # the kernels stride over the grid, so more blocks gain nothing
LANES, EACH = 16, 16  # threads side by side on the channels of one place, and how many of these each takes
SECONDS_PER_ELEMENT = 2e-9  # roughly what a CPU kernel takes for one element of its result


# Compiling


def scalar(function: Function) -> Function:
    """A decorator: plain Python that kernels of both targets may call."""
    return cast(Function, numba.extending.register_jitable(function))


@scalar
def lanes_of(channels: int) -> int:
    """How many CUDA threads share the channels of one place: what they compute of it, each computes once for EACH."""
    return int(np.uint32(channels + LANES * EACH - 1) // np.uint32(LANES * EACH)) * min(LANES, channels)


def _compiled(function: Function) -> Function:
    """Compile for the CPU; the function releases Python's lock (the GIL), and is kept on disk where possible."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # Numba finds no folder that it can write to
        return cast(Function, compiled(cache=True)(function))
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _temporary_cache()
    try:
        return cast(Function, compiled(cache=bool(numba.config.CACHE_DIR))(function))
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _temporary_cache() -> str:
    """A folder for compiled kernels in the system's temporary folder, or "" if none can be used; logs this once."""
    own = os.getuid() if hasattr(os, "getuid") else None  # None on Windows: temporary folders are per user
    try:
        folder = Path(tempfile.gettempdir()) / f"tinymrcnn-kernels-{own}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if own is not None and (found.st_uid != own or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077):
            raise PermissionError(f"'{folder}' is not this user's alone")  # its files are executed
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        log.warning("Compiled kernels can be kept nowhere (%s): every process compiles them anew.", error)
        return ""
    log.warning("Neither the package's folder nor the home can be written: compiled kernels are kept in '%s'.", folder)
    return str(folder)


def cache_place(kernel: Callable[..., Any]) -> str | None:
    """The folder in which a compiled CPU kernel is kept; None where it is compiled anew in every process."""
    return cast(Any, kernel).stats.cache_path or None


def cpu_kernel(function: Function) -> Function:
    """A decorator: a kernel (thread, threads, *args) that does the share of one thread; for run()."""
    return _compiled(function)


def piece_kernel(function: Function) -> Function:
    """A decorator: the work of one thread on one piece."""
    return _compiled(function)


def cuda_kernel(function: Function) -> Any:
    """A decorator: a CUDA kernel for run() or launch()."""
    return cuda.jit(function)


def compile_to_ptx(kernel: Any, signature: Any, capability: tuple[int, int] = (8, 0)) -> str:
    """The PTX code of a CUDA kernel for a compute capability. This needs numba-cuda, but no GPU; for kernels that call
    @scalar functions Numba also asks the driver.

    signature: Numba's types of the arguments, void(...)."""
    ptx, _ = cuda.compile(kernel.py_func, signature, device=False, abi="numba", output="ptx", cc=capability)
    return str(ptx)


# Running


def launch_size(elements: int) -> tuple[int, int]:
    """(blocks, threads per block) for a grid-stride kernel over `elements` outputs. In the CUDA simulator
    every thread is a thread of the operating system: one block of 32 there."""
    if numba.config.ENABLE_CUDASIM:
        return 1, 32
    return max(LEAST_BLOCKS, min(MAX_BLOCKS, -(-elements // THREADS_PER_BLOCK))), THREADS_PER_BLOCK


def launch(kernel: Any, elements: int, *args: Any) -> None:
    """Run a CUDA kernel over `elements` outputs on CuPy's current stream (an empty launch is skipped).

    Raises ValueError for 2^32 outputs and more, which the kernels' numbers of 32 bits do not count."""
    if elements >= 2**32:
        raise ValueError(f"A CUDA kernel computes fewer than 2^32 numbers at a time, not {elements}: cut the work.")
    if elements > 0:
        cupy = BACKENDS["cuda"].module if "cuda" in BACKENDS else None
        stream = cupy.cuda.get_current_stream().ptr if cupy else 0
        kernel[(*launch_size(elements), cuda.external_stream(stream) if stream else 0)](*args)


def run(on_cpu: Callable[..., None], on_cuda: Any, elements: int, *args: Any) -> None:
    """Run the CPU kernel on as many threads as it is worth, or the CUDA kernel, whichever fits the arrays among `args`.

    elements: how many outputs the CUDA kernel's grid covers, and how much work it is for the CPU."""
    types = tuple(backend.array_type for backend in BACKENDS.values())
    backend = backend_of(*(arg for arg in args if isinstance(arg, types)))
    host_view = backend.host_view
    if host_view is None:
        launch(on_cuda, elements, *args)
        return
    args = tuple(host_view(arg) if isinstance(arg, backend.array_type) else arg for arg in args)
    bytes = elements * SECONDS_PER_ELEMENT * BYTES
    threads = threads_for(0, bytes)
    spread(lambda thread: on_cpu(thread, threads, *args), threads, HOST, 0, bytes)
