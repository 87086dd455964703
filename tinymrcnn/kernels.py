"""Numba for both targets: compiling a kernel for the CPU or for CUDA, and choosing which one runs.

This is the one file that imports numba.cuda. A kernel family is written as

- scalar functions in plain Python, decorated with `@scalar`: the arithmetic itself, written once. They
  take their float type from an argument (`T = type(x)`) and wrap every constant in it (`T(0.5)`), so that
  the float32 kernel on a GPU holds no float64 instruction;
- a CPU kernel (`@cpu_kernel`) and a CUDA kernel (`@cuda_kernel`) around them. Each is the work of one thread, which
  strides over the elements: `range(thread, elements, threads)` in a CPU kernel, whose first arguments are `thread` and
  `threads`, and `range(cuda.grid(1), elements, cuda.gridsize(1))` in a CUDA kernel. No two threads write to the same
  element, and the order of a sum does not depend on the number of threads. run() calls one of the two.

A `@cpu_kernel` without `thread` and `threads` is the work of one thread on one piece; functions that run under
threads.spread() call it.

Arrays are channels-last, so the innermost loop of a CPU kernel and neighbouring threads of a CUDA kernel
read neighbouring channels.

Kernels are compiled once and kept on disk: in the package's folder, in the user's cache, or in NUMBA_CACHE_DIR. Where
none of these can be written, they are kept in this user's own folder in the system's temporary folder.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import inspect
import re
import struct
from collections.abc import Callable
from typing import Any, TypeVar, cast
from unittest.mock import patch

import numba
import numpy as np

from tinymrcnn.backend import BACKENDS, backend_of
from tinymrcnn.machine import kept, temporary_cache
from tinymrcnn.threads import BYTES, spread, threads_for

HOST = np.empty(0)
Function = TypeVar("Function", bound=Callable[..., Any])


# numba-cuda 0.30 uses NumPy's row_stack, which NumPy 2.5 no longer has: it exists within this block
with patch.object(np, "row_stack", np.vstack, create=True):
    from numba import cuda

    # Only numba-cuda has this module. Its errors show again when a CUDA kernel is compiled; the CPU does not need it
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("numba.cuda.np.arrayobj")

__all__ = ["cpu_kernel", "cuda", "cuda_kernel", "each", "launch", "numba", "run", "scalar", "unravel"]

THREADS_PER_BLOCK = 256
MAX_BLOCKS = 4096  # the kernels stride over the grid, so more blocks gain nothing
LANES, EACH = 8, 16  # threads side by side on the channels of one place, and how many of these each takes
SECONDS_PER_ELEMENT = 2e-9  # roughly what a CPU kernel takes for one element of its result


# Compiling


def scalar(function: Function) -> Function:
    """A decorator: plain Python that kernels of both targets may call."""
    return cast(Function, numba.extending.register_jitable(function))


@scalar
def unravel(element: int, height: int, width: int, channels: int) -> Any:
    """The indices (r, y, x, c) of an element of an (R, height, width, channels) array of fewer than 2^32 elements."""
    h, w = np.uint32(height), np.uint32(width)  # a GPU divides numbers of 32 bits much faster than those of 64
    pixel, c = np.uint32(element) // np.uint32(channels), np.uint32(element) % np.uint32(channels)
    row, x = pixel // w, pixel % w
    return np.int64(row // h), np.int64(row % h), np.int64(x), np.int64(c)


@scalar
def lanes_of(channels: int) -> int:
    """How many CUDA threads share the channels of one place: what they compute of it, each computes once for EACH."""
    return int(np.uint32(channels + LANES * EACH - 1) // np.uint32(LANES * EACH)) * min(LANES, channels)


@scalar
def unravel_bin(element: int, height: int, width: int, channels: int) -> tuple[int, int, int, int, int]:
    """A thread's bin, or pixel, (r, y, x), the first of its channels, and how many channels there are from it on. It
    takes every LANES-th of these, at most EACH, so that neighbouring threads read neighbouring channels.

    element: 0 to R * height * width * lanes_of(channels) - 1."""
    r, y, x, lane = unravel(element, height, width, lanes_of(channels))
    first = lane + lane // LANES * (LANES * (EACH - 1))
    return r, y, x, first, channels - first


def cpu_kernel(function: Function) -> Function:
    """A decorator: compiled for the CPU, without Python's lock (the GIL), and kept on disk where possible."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # Numba finds no folder that it can write to
        return cast(Function, compiled(cache=True)(function))
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, temporary_cache()
    try:
        return cast(Function, compiled(cache=bool(numba.config.CACHE_DIR))(function))
    finally:
        numba.config.CACHE_DIR = before


def cache_place(kernel: Callable[..., Any]) -> str | None:
    """The folder in which a compiled CPU kernel is kept; None where it is compiled anew in every process."""
    return cast(Any, kernel).stats.cache_path or None


def cuda_kernel(function: Function) -> Any:
    """A decorator: a CUDA kernel for run() or launch()."""
    return cuda.jit(function)


def compile_to_ptx(kernel: Any, signature: Any, capability: tuple[int, int] = (8, 0)) -> str:
    """The PTX code of a CUDA kernel for a compute capability. This needs numba-cuda, but no GPU; for kernels that call
    @scalar functions Numba also asks the driver.

    signature: Numba's types of the arguments, void(...)."""
    code = kernel.py_func.__code__
    if code.co_flags & inspect.CO_VARARGS:
        named, rest = signature.args[: code.co_argcount], signature.args[code.co_argcount :]
        signature = numba.void(*named, numba.types.Tuple(rest))
    ptx, _ = cuda.compile(kernel.py_func, signature, device=False, abi="numba", output="ptx", cc=capability)
    return str(ptx)


# Running on a GPU. A launch by Numba takes up to 0.3 ms of the host's time, one by CuPy some microseconds. So Numba
# compiles a kernel only, once for every combination of argument types; CuPy loads it, and launches it like its own.


def launch_size(elements: int) -> tuple[int, int]:
    """(blocks, threads per block) for a grid-stride kernel over `elements` outputs. In the CUDA simulator
    every thread is a thread of the operating system: one block of 32 there."""
    if numba.config.ENABLE_CUDASIM:
        return 1, 32
    return max(1, min(MAX_BLOCKS, -(-elements // THREADS_PER_BLOCK))), THREADS_PER_BLOCK


def launch(kernel: Any, elements: int, *args: Any) -> None:
    """Run a CUDA kernel over `elements` outputs on CuPy's current device and stream (an empty launch is skipped).

    args: CuPy arrays and numbers. Arrays of others go to Numba's own launch, which the simulator needs.
    Raises ValueError for 2^32 outputs and more, which the kernels' numbers of 32 bits do not count."""
    if elements <= 0:
        return
    if elements >= 2**32:
        raise ValueError(f"A CUDA kernel computes fewer than 2^32 numbers at a time, not {elements}: cut the work.")
    blocks, threads = launch_size(elements)
    cupy: Any = BACKENDS["cuda"].module if "cuda" in BACKENDS else None
    if cupy is None or not any(isinstance(arg, cupy.ndarray) for arg in args):
        kernel[blocks, threads](*args)
        return
    gpu, layouts, values = cupy.cuda, [], []  # type: Any, list[Any], list[Any]
    for arg in args:
        if isinstance(arg, cupy.ndarray):
            layouts.append((arg.dtype.char, arg.ndim, arg.flags.c_contiguous))
            values += (0, 0, arg.size, arg.itemsize, arg.data.ptr, *arg.shape, *arg.strides)  # as Numba passes it
        else:
            layouts.append((type(arg), None, None))
            values.append(arg)
    number = gpu.runtime.getDevice()
    gpu.runtime.setDevice(number)  # a thread that has not used the GPU yet has no context without it
    function, packer = _loaded(kernel, number, *layouts)
    packed, size = ctypes.create_string_buffer(packer.pack(*values)), ctypes.c_size_t(packer.size)
    # the driver's list of options: 1 announces the arguments' memory, 2 its size, 0 the end
    options = (ctypes.c_size_t * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), 0)
    stream = gpu.get_current_stream().ptr
    gpu.driver.launchKernel(function.ptr, blocks, 1, 1, threads, 1, 1, 0, stream, 0, ctypes.addressof(options))


@functools.cache
def _loaded(kernel: Any, device: int, *layouts: Any) -> tuple[Any, struct.Struct]:
    """A kernel for arguments of these layouts, compiled or read from the disk, and how they are packed."""
    gpu, (signature, codes) = BACKENDS["cuda"].module.cuda, parameters(*layouts)
    module = gpu.Module()
    module.load(machine_code(kernel, signature, gpu.Device(device).compute_capability))
    return module.get_function(kernel.py_func.__name__), struct.Struct(codes)


def parameters(*layouts: tuple[Any, int | None, bool | None]) -> tuple[Any, str]:
    """Numba's signature of a kernel, and the struct format of what is passed to it; for every argument its
    (dtype, dimensions, whether it is C-contiguous), or (type, None, None) of a number."""
    types, codes = [], "@"
    for kind, ndim, contiguous in layouts:
        number = numba.from_dtype(np.dtype(kind))
        types.append(number if ndim is None else numba.types.Array(number, ndim, "C" if contiguous else "A"))
        codes += np.dtype(kind).char if ndim is None else "q" * (5 + 2 * ndim)
    return numba.void(*types), codes


def machine_code(kernel: Any, signature: Any, capability: str) -> bytes:
    """The code for a GPU of this compute capability ("90" is 9.0), kept beside the compiled CPU kernels."""
    name = kernel.py_func.__name__

    def make() -> bytes:
        from cuda.core import Program, ProgramOptions  # comes with numba-cuda

        ptx = compile_to_ptx(kernel, signature, (int(capability[:-1]), int(capability[-1])))
        ptx = ptx.replace(re.findall(r"[.]entry (\w+)", ptx)[0], name)  # a name that can be read in a profile
        return bytes(Program(ptx, "ptx", ProgramOptions(arch=f"sm_{capability}")).compile("cubin").code)

    # where the code of other kernels stands, a notebook for example, nobody knows
    folder = cache_place(cpu_kernel(kernel.py_func)) if kernel.py_func.__module__.startswith("tinymrcnn.") else None
    return kept(folder, f"{name}.cubin", f"{signature} {capability} {importlib.metadata.version('numba-cuda')}", make)


# Running on either


def run(on_cpu: Callable[..., None], on_cuda: Any, elements: int, *args: Any) -> None:
    """Run the CPU kernel on as many threads as it is worth, or the CUDA kernel, whichever fits the arrays among `args`.

    elements: how many outputs the CUDA kernel's grid covers, and how much work it is for the CPU."""
    types = tuple([backend.array_type for backend in BACKENDS.values()])  # lists: generators take longer
    backend = backend_of(*[arg for arg in args if isinstance(arg, types)])
    if (host_view := backend.host_view) is None:
        launch(on_cuda, elements, *args)
        return
    if backend.module is not np:
        args = tuple(host_view(arg) if isinstance(arg, backend.array_type) else arg for arg in args)
    bytes = elements * SECONDS_PER_ELEMENT * BYTES
    threads = threads_for(0, bytes)
    spread(lambda thread: on_cpu(thread, threads, *args), threads, HOST, 0, bytes)


def each(body: Callable[..., None]) -> Callable[..., None]:
    """A decorator for little work in many steps: body(i, *args) computes element i of arrays, or row i.

    The result is called with *args, the last of which has as many elements, or rows. On a GPU it is one kernel, in
    which every thread takes an i; on the CPU i is a slice that takes all, and every step one of NumPy's."""
    of_thread = scalar(body)

    def kernel(*args: Any) -> None:
        for i in range(cuda.grid(1), args[-1].shape[0], cuda.gridsize(1)):
            of_thread(i, *args)

    kernel.__name__ = f"{body.__name__}_cuda"
    on_cuda = cuda_kernel(kernel)

    def of_all(thread: int, threads: int, *args: Any) -> None:
        if thread == 0:  # it takes what there is, however many there are
            body(slice(None), *args)

    return functools.wraps(body)(lambda *args: run(of_all, on_cuda, len(args[-1]), *args))
