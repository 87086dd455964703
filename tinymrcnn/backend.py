"""NumPy or CuPy: which library an array belongs to, and moving arrays between host and device.

Everything above this file computes with `xp = array_module(x)`, so that the same lines run on the CPU
and on the GPU. This is the one file that imports CuPy, and it does so only when a GPU is asked for or
a CuPy array is given.
"""

import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a NumPy or a CuPy array; the two have no common type


class Backend(NamedTuple):
    """One array library. `host_view` gives the NumPy array on which the CPU kernels run; it is None where
    the CUDA kernels run instead."""

    device: str
    array_type: type
    module: ModuleType
    to_numpy: Callable[[Any], np.ndarray]
    host_view: Callable[[Any], np.ndarray] | None


# device name -> Backend. CuPy joins on first use; the tests register a strict imitation of it.
BACKENDS = {"cpu": Backend("cpu", np.ndarray, np, np.asarray, np.asarray)}


@functools.cache
def _import_cupy() -> None:
    import cupy

    BACKENDS["cuda"] = Backend("cuda", cupy.ndarray, cupy, cupy.asnumpy, None)


@functools.cache  # each call would wait for the GPU
def cuda_problem() -> str | None:
    """A sentence that says why no GPU can be used, or None when one can."""
    try:
        _import_cupy()
    except ImportError as error:
        return f"CuPy cannot be imported ({error}). With an NVIDIA GPU, in the clone: pip install -e '.[gpu]'."
    try:
        BACKENDS["cuda"].module.zeros(1).sum().item()
    except Exception as error:  # CuPy raises its own classes for a missing driver, device or library
        return f"CuPy is installed but cannot compute: {type(error).__name__}: {error}"
    return None


def tf32(allowed: bool | None = None) -> bool:
    """Whether a GPU computes products of float32 numbers with TF32: several times as fast on a data-centre GPU, and on
    factors that keep 10 of the 23 bits of their fractions. First switched on or off, for the whole process, if
    `allowed` is given. It is off at first, unless the environment has CUPY_TF32=1; a GPU from before 2020 (compute
    capability below 8.0) has none. Raises ImportError without CuPy, and CuPy's own error without a GPU."""
    _import_cupy()
    products = importlib.import_module("cupy._core._routines_linalg")
    if allowed is not None:
        products.set_compute_type(np.float32, products.COMPUTE_TYPE_TF32 if allowed else products.COMPUTE_TYPE_DEFAULT)
    return bool(products.get_compute_type(np.float32) == products.COMPUTE_TYPE_TF32)


def resolve_device(device: str) -> str:
    """Turn "cpu", "cuda" or "auto" into the name of a usable device.

    Raises ValueError for an unknown name, RuntimeError when "cuda" is asked for and cannot be used."""
    if device == "auto":
        return "cpu" if cuda_problem() else "cuda"
    if device == "cuda" and (problem := cuda_problem()):
        raise RuntimeError(f"The device 'cuda' cannot be used. {problem} Use --device cpu to run without a GPU.")
    if device not in BACKENDS:
        raise ValueError(f"Unknown device {device!r}: use 'cpu', 'cuda' or 'auto'.")
    return device


def backend_of(*arrays: Array) -> Backend:
    """The one library that all these arrays belong to.

    Raises TypeError when they belong to different ones (naming both), when one is not an array, or none is given."""
    found: Backend | None = None
    for array in arrays:
        if found is not None and type(array) is found.array_type:  # as a rule, and quickly: it precedes every launch
            continue
        backend: Backend | None = BACKENDS["cpu"]
        if not isinstance(array, (np.ndarray, np.generic)):  # NumPy turns arrays without dimensions into the latter
            backend = next((b for b in BACKENDS.values() if isinstance(array, b.array_type)), None)
        if backend is None and type(array).__module__.partition(".")[0] == "cupy" and "cupy" in sys.modules:
            _import_cupy()
            backend = BACKENDS["cuda"]
        if backend is None:
            raise TypeError(f"Expected an array, got {type(array).__module__}.{type(array).__qualname__}.")
        if found is not None and backend is not found:
            both = " with a ".join(f"{b.module.__name__} array on '{b.device}'" for b in (found, backend))
            raise TypeError(f"An operation mixes a {both}. Move one of them with to_device().")
        found = backend
    if found is None:
        raise TypeError("No array was given, so there is no library to compute with.")
    return found


def array_module(*arrays: Array) -> Any:
    """The module (NumPy or CuPy) of these arrays; TypeError when they mix."""
    return backend_of(*arrays).module


def to_device(array: Array, device: str) -> Array:
    """The array on `device` ("cpu" or "cuda") in the same memory order; the same object when it is there already."""
    target = BACKENDS[resolve_device(device)]
    if isinstance(array, target.array_type):
        return array
    array, order = to_numpy(array), memory_order(array)
    if device == "cpu":
        return array
    lying = target.module.asarray(np.asarray(array.transpose(order), order="C"))  # a copy, no kernel
    return lying.transpose([order.index(axis) for axis in range(array.ndim)])


def to_numpy(array: Array) -> np.ndarray:
    """The array on the host, as NumPy."""
    return np.asarray(array) if isinstance(array, (np.ndarray, np.generic)) else backend_of(array).to_numpy(array)


def like(array: Any, reference: Array) -> Array:
    """An array (or a list of numbers) moved to the device of `reference`."""
    return to_device(array if hasattr(array, "dtype") else np.asarray(array), backend_of(reference).device)


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes from the outermost in memory to the innermost: (0, 2, 3, 1) for a channels-last feature map."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def shaped(line: Array, shape: Sequence[int], order: Sequence[int]) -> Array:
    """The elements of a flat array as an array of `shape` whose axes lie in memory as `order` says (a view)."""
    array = line.reshape(tuple(shape[axis] for axis in order))
    return array.transpose(tuple(order.index(axis) for axis in range(len(shape))))


def empty(xp: Any, shape: Sequence[int], dtype: Any, order: Sequence[int]) -> Array:
    """An uninitialised array of `shape` whose axes lie in memory as `order` says (see memory_order)."""
    return shaped(xp.empty(math.prod(shape), dtype), shape, order)


def empty_like(array: Array, dtype: Any = None) -> Array:
    """An uninitialised array of the same shape and memory order."""
    if (xp := array_module(array)) is np:  # it keeps the order itself
        return np.empty_like(array, dtype, subok=False)
    return empty(xp, array.shape, dtype or array.dtype, memory_order(array))


def elementwise(name: str, *operands: Array) -> Array:
    """xp.name(*operands) in the memory order of the first operand that has the shape of the result.

    CuPy's own results are C-ordered, and so are NumPy's where orders mix: this keeps channels-last maps
    channels-last. operands: arrays of one dtype, and Python numbers."""
    arrays = [operand for operand in operands if hasattr(operand, "dtype")]
    xp, out = array_module(*arrays), _result_of(arrays)
    if xp is np:  # it walks through the axes as they lie in memory, CuPy as they are given
        return getattr(xp, name)(*operands, out=out)
    order = memory_order(out)
    turned = [xp.broadcast_to(o, out.shape).transpose(order) if hasattr(o, "dtype") else o for o in operands]
    getattr(xp, name)(*turned, out=out.transpose(order))
    return out


def select(condition: Array, x: Array, y: Array) -> Array:
    """xp.where(condition, x, y) in the memory order of the first of x and y that has the shape of the result.

    condition: a bool array. x, y: arrays of one dtype, or one of them a Python number."""
    arrays = [operand for operand in (x, y) if hasattr(operand, "dtype")]
    result = _result_of(arrays, condition.shape)
    result[...] = y
    array_module(condition, *arrays).copyto(result, x, where=condition)
    return result


def _result_of(arrays: list[Array], *shapes: tuple[int, ...]) -> Array:
    """An uninitialised array for an elementwise function of arrays of one dtype (and of others, of these shapes)."""
    shape = np.broadcast_shapes(*shapes, *(array.shape for array in arrays))
    reference = next((array for array in arrays if array.shape == shape), None)
    return array_module(*arrays).empty(shape, arrays[0].dtype) if reference is None else empty_like(reference)


def channels_last(array: Array) -> Array:
    """A (N, C, H, W) array as a C-contiguous (N, H, W, C) one: a view where its memory has this order already."""
    return array_module(array).ascontiguousarray(array.transpose(0, 2, 3, 1))


def channels_first(array: Array) -> Array:
    """A (N, H, W, C) array seen as (N, C, H, W), channels-last in memory (a view)."""
    return array.transpose(0, 3, 1, 2)


def scatter_add(target: Array, indices: Any, values: Any) -> None:
    """target[indices] += values in place, counting repeated indices every time."""
    array_module(target).add.at(target, indices, values)
