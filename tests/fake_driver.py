"""The driver of the fake device: what kernels.launch() asks CuPy for, and the kernels that it passes on.

A launch comes as on a GPU: a pointer to a function, and the arguments packed into bytes, arrays as addresses, shapes
and strides. They are unpacked again, as the signature that Numba would compile says, and the CPU's kernel of the same
name (_cpu instead of _cuda) computes on what is found at these addresses.
"""

import ctypes
import inspect
import sys
import types

import numpy as np
from fake_device import FakeArray, OutOfMemoryError
from numba.core import types as numba_types
from numba.np.numpy_support import as_dtype

POINTER = ctypes.sizeof(ctypes.c_void_p)


class Driver:
    """cupy.cuda, as far as it is used. launched: (kernel's name, stream) of each launch."""

    imitated = True
    _functions = []  # of all drivers: kernels._loaded keeps their numbers

    def __init__(self):
        self.launched, self._streams, self._tf32 = [], [0], False
        self.driver = types.SimpleNamespace(launchKernel=self._launch)
        self.runtime = types.SimpleNamespace(
            getDevice=lambda: "fake",  # no GPU has this number, so nothing that is kept for one is taken
            setDevice=lambda number: None,
            getDeviceProperties=lambda number: {"name": b"an imitation"},
        )
        self.memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)

    def machine_code(self, kernel, signature, capability):
        """In the place of kernels.machine_code: the "code" is what is needed to run the CPU's kernel."""
        assert capability == "90"
        return kernel, signature

    def switch_tf32(self, allowed=None):
        """In the place of backend.tf32."""
        self._tf32 = self._tf32 if allowed is None else allowed
        return self._tf32

    def Device(self, number=0):
        return types.SimpleNamespace(compute_capability="90", synchronize=lambda: None)

    def Module(self):
        number = len(self._functions)
        function = types.SimpleNamespace(ptr=number)
        return types.SimpleNamespace(load=self._functions.append, get_function=lambda name: function)

    def get_current_stream(self):
        return types.SimpleNamespace(ptr=self._streams[-1])

    def Stream(self, non_blocking=False):
        """A context, within which it is the current stream."""
        return _Stream(self._streams)

    def _launch(self, function, blocks, y, z, threads, ty, tz, shared, stream, without, options):
        assert blocks > 0 and threads > 0 and (y, z, ty, tz, shared, without) == (1, 1, 1, 1, 0, 0)
        first, address, second, size, end = (ctypes.c_size_t * 5).from_address(options)
        assert (first, second, end) == (1, 2, 0)
        kernel, signature = self._functions[function]
        name = kernel.py_func.__name__
        args, used = unpacked(address, signature.args)
        assert used == ctypes.c_size_t.from_address(size).value, f"{name} is passed {size} bytes, and takes {used}."
        FakeArray.launches += 1
        self.launched.append((name, stream))
        twin(kernel)(*args)


class _Stream:
    ptr = 77

    def __init__(self, streams):
        self._streams = streams

    def __enter__(self):
        self._streams.append(self.ptr)
        return self

    def __exit__(self, *_):
        self._streams.pop()

    def synchronize(self):
        pass


def unpacked(address, signature):
    """(arguments, bytes): the arguments at an address, as a kernel of this signature reads them, each at a multiple of
    its size."""
    args, at = [], 0

    def read(dtype):
        nonlocal at
        at = -(-at // dtype.itemsize) * dtype.itemsize
        value = np.frombuffer(ctypes.string_at(address + at, dtype.itemsize), dtype)[0]
        at += dtype.itemsize
        return value

    for kind in signature:
        if not isinstance(kind, numba_types.Array):
            args.append(read(as_dtype(kind)))
            continue
        numbers = [int(read(np.dtype(np.intp))) for _ in range(5 + 2 * kind.ndim)]
        nothing, _, size, itemsize, start = numbers[:5]
        shape, strides = numbers[5 : 5 + kind.ndim], numbers[5 + kind.ndim :]
        assert nothing == 0 and itemsize == as_dtype(kind.dtype).itemsize and size == np.prod(shape, dtype=int)
        array = array_at(start, as_dtype(kind.dtype), shape, strides)
        assert array.flags.c_contiguous or kind.layout == "A", f"{kind} is no name for strides of {strides}."
        args.append(array)
    return args, at


def array_at(start, dtype, shape, strides):
    """The array whose element [0, 0, ...] lies at an address."""
    if 0 in shape:
        return np.empty(shape, dtype)
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    before = -sum(step for step in steps if step < 0)
    buffer = (ctypes.c_char * (before + sum(step for step in steps if step > 0) + dtype.itemsize)).from_address(
        start - before
    )
    return np.ndarray(shape, dtype, buffer, before, strides)


# Kernels that the CPU has in one, in two here as on a GPU


def overlaps(corners, first, end, threshold, bits):
    """See overlaps_cuda."""
    x1, y1, x2, y2 = corners
    area, bits[...] = (x2 - x1) * (y2 - y1), 0
    for i in range(len(bits)):
        j = np.arange(i + 1, end[i])
        width = np.maximum(np.minimum(x2[i], x2[j]) - np.maximum(x1[i], x1[j]), 0)
        shared = width * np.maximum(np.minimum(y2[i], y2[j]) - np.maximum(y1[i], y1[j]), 0)
        with np.errstate(all="ignore"):
            place = j[shared / (area[i] + area[j] - shared) > threshold] - first[i]
        np.bitwise_or.at(bits[i], place // 64, np.uint64(1) << (place % 64).astype(np.uint64))


def walk(bits, starts, removed, keep):
    """See walk_cuda."""
    for group in range(len(starts) - 1):
        for i in range(starts[group], starts[group + 1]):
            word, bit = divmod(i - starts[group], 64)
            if removed[group, word] >> np.uint64(bit) & np.uint64(1):
                keep[i] = False
            else:
                removed[group] |= bits[i]


WITHOUT_A_TWIN = {"overlaps_cuda": overlaps, "walk_cuda": walk}


def twin(kernel):
    """The CPU's kernel that computes what a CUDA kernel computes, as the only thread."""
    function = kernel.py_func
    if function.__name__ in WITHOUT_A_TWIN:
        return WITHOUT_A_TWIN[function.__name__]
    if body := inspect.getclosurevars(function).nonlocals.get("of_thread"):  # of kernels.each
        return lambda *args: body(slice(None), *args)
    on_cpu = getattr(sys.modules[function.__module__], function.__name__.removesuffix("_cuda") + "_cpu")
    shares = next(iter(inspect.signature(on_cpu.py_func).parameters)) == "thread"
    return (lambda *args: on_cpu(0, 1, *args)) if shares else on_cpu
