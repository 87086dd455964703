"""A strict imitation of CuPy on the host: code that runs on it makes none of the usual mistakes with GPU arrays.

Like CuPy's, and unlike NumPy's, its arrays

- refuse to mix with NumPy arrays (in arithmetic, in functions, as an index) and refuse np.asarray();
- come C-ordered out of ufuncs and copy(), and without dimensions, but as arrays, out of reductions;
- know only the functions that CuPy has.

Every copy to the host (to_numpy, item(), tolist(), float(), int(), bool()) is counted in FakeArray.copies, so
that a test can say how often a training step waits for the device.
"""

import operator
import types

import numpy as np
import pytest

from tinymrcnn.backend import BACKENDS, Backend

MISSING_IN_CUPY = set("errstate seterr insert block ndenumerate ndindex nditer frompyfunc geomspace".split())
MISSING_IN_CUPY |= set("einsum_path memmap vectorize testing random".split())  # random numbers come from the host
ATOMIC_ADD = ("float32", "float64", "int32", "uint32", "uint64")
COMES_FROM_HOST = {"asarray", "array"}  # the explicit ways onto the device
ONLY_LOOK = {"shape", "ndim"}  # np.shape(x) is harmless
ATTRIBUTES = {"shape", "dtype", "ndim", "size", "strides", "nbytes", "itemsize", "flags"}
METHODS = set(
    "all any argmax argmin argsort astype clip copy cumsum cumprod diagonal dot fill flatten max mean min nonzero prod "
    "ravel repeat reshape round sort squeeze std sum swapaxes take trace transpose var view".split()
)


def _unwrap(value):
    if isinstance(value, FakeArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type numpy.ndarray: a host array must be moved to the fake device first.")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(part) for part in value)
    return value


def _wrap(result, inputs=()):
    """A NumPy result on the device: a view of an input as it is, a new array C-ordered."""
    if isinstance(result, (tuple, list)):
        parts = [_wrap(part, inputs) for part in result]
        return tuple(parts) if isinstance(result, tuple) else parts
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    is_view = any(np.may_share_memory(result, array) for array in inputs)
    return FakeArray(result if is_view else np.asarray(result, order="C"))


def _host_arrays(values):
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _host_arrays(value)
        elif isinstance(value, FakeArray):
            yield value._host


def _on_device(function, *first):
    """A NumPy function (or a method of the array `first`) as the device offers it."""
    name = function.__name__

    def call(*args, **kwargs):
        if name == "repeat" and not isinstance((first + args)[1], int):
            raise ValueError("repeat() on the device takes an int, no array of them.")
        if name in COMES_FROM_HOST:
            args = tuple(FakeArray(a.copy(order="C")) if isinstance(a, np.ndarray) else a for a in args)
        args, out = first + args, kwargs.get("out")
        inputs = list(_host_arrays(args))
        result = function(*_unwrap(args), **{key: _unwrap(value) for key, value in kwargs.items()})
        if isinstance(result, bool) and inputs:
            result = np.bool_(result)  # array_equal, allclose: the answer stays on the device
        return out if out is not None else FakeArray(result) if name == "astype" else _wrap(result, inputs)

    return call


def _add_at(target, index, values):
    if target.dtype.name not in ATOMIC_ADD:
        raise TypeError(f"add.at on the device knows {ATOMIC_ADD}, not {target.dtype}.")
    np.add.at(target._host, _unwrap(index), _unwrap(values))


class FakeArray:
    """An array on the fake device."""

    __array_ufunc__ = None  # NumPy's ufuncs and operators refuse it
    __hash__ = None
    copies = 0

    def __init__(self, host):
        self._host = np.asarray(host)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use to_numpy().")

    def __array_function__(self, function, types, args, kwargs):
        if function.__name__ not in ONLY_LOOK:
            raise TypeError(f"np.{function.__name__} met an array of the fake device. Use array_module(x).")
        return function(*_unwrap(args))

    def __getattr__(self, name):
        if name in ATTRIBUTES:
            return getattr(self._host, name)
        if name in METHODS:
            return _on_device(getattr(np.ndarray, name), self)
        raise AttributeError(f"An array of the fake device has no attribute {name!r}.")

    @property
    def T(self):
        return FakeArray(self._host.T)

    def __getitem__(self, index):
        return _wrap(self._host[_index(index)], [self._host])

    def __setitem__(self, index, value):
        self._host[_index(index)] = _unwrap(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"FakeArray(shape={self.shape}, dtype={self.dtype})"

    def _to_host(self):
        FakeArray.copies += 1
        return self._host.copy()

    def item(self):
        return self._to_host().item()

    def tolist(self):
        return self._to_host().tolist()

    def __float__(self):
        return float(self._to_host())

    def __int__(self):
        return int(self._to_host())

    def __bool__(self):
        return bool(self._to_host())


def _index(index):
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, (list, np.ndarray)):
            raise TypeError(f"An index on the device is no {type(part).__name__}: it would be copied there silently.")
    return _unwrap(index)


def _binary(function):
    return lambda self, other: _wrap(function(self._host, _unwrap(other)))


def _reflected(function):
    return lambda self, other: _wrap(function(_unwrap(other), self._host))


def _in_place(function):
    def method(self, other):
        self._host = function(self._host, _unwrap(other))
        return self

    return method


def _unary(function):
    return lambda self: _wrap(function(self._host))


for _name in "add sub mul truediv floordiv mod pow matmul and or xor".split():
    setattr(FakeArray, f"__{_name}__", _binary(getattr(operator, f"__{_name}__")))
    setattr(FakeArray, f"__r{_name}__", _reflected(getattr(operator, f"__{_name}__")))
    setattr(FakeArray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))
for _name in "lt le gt ge eq ne".split():
    setattr(FakeArray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in "neg pos abs invert".split():
    setattr(FakeArray, f"__{_name}__", _unary(getattr(operator, _name)))


class FakeModule(types.ModuleType):
    """What `xp` is on the fake device: NumPy's functions, as far as CuPy has them too."""

    def __init__(self, imitated):
        super().__init__(imitated.__name__.replace("numpy", "fake"))
        self._imitated = imitated

    def __getattr__(self, name):
        if name in MISSING_IN_CUPY:
            raise AttributeError(f"CuPy has no {name}.")
        attribute = FakeArray if name == "ndarray" else getattr(self._imitated, name)
        if isinstance(attribute, types.ModuleType):
            return FakeModule(attribute)
        if isinstance(attribute, type) or not callable(attribute):
            return attribute
        function = _on_device(attribute)
        if name == "add":
            function.at = _add_at
        return function


FAKE = Backend("fake", FakeArray, FakeModule(np), FakeArray._to_host, lambda array: array._host)


@pytest.fixture
def fake_device():
    """Registers the device "fake" for one test; gives its array type, whose `copies` counts from 0."""
    BACKENDS["fake"] = FAKE
    FakeArray.copies = 0
    yield FakeArray
    del BACKENDS["fake"]
