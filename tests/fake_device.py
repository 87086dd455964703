"""A strict imitation of CuPy on the host: code that runs on it makes none of the usual mistakes with GPU arrays.

Like CuPy's, and unlike NumPy's, its arrays

- refuse to mix with NumPy arrays (in arithmetic, in functions, as an index) and refuse np.asarray();
- come C-ordered out of ufuncs and copy(), and without dimensions, but as arrays, out of reductions;
- know only the functions that CuPy has.

What costs time on a GPU is counted, so that a test can say what a training step costs there:

- FakeArray.launches: operations for which CuPy starts a kernel, or several (a sort), and kernels of our own. Views and
  uninitialised arrays are free;
- FakeArray.waits: how often the host waits for the device: for every copy to the host (to_numpy, item(), tolist(),
  float(), int(), bool(): FakeArray.copies), and where the length of a result depends on values (a mask as an index,
  flatnonzero and its kin). FakeArray.waiting names the functions of the package that did;
- FakeArray.uploads: arrays that are copied to the device.
"""

import operator
import sys
import types

import numpy as np
import pytest

from tinymrcnn import kernels
from tinymrcnn.backend import BACKENDS, Backend
from tinymrcnn.threads import spread

MISSING_IN_CUPY = set("errstate seterr insert block ndenumerate ndindex nditer frompyfunc geomspace".split())
MISSING_IN_CUPY |= set("einsum_path memmap vectorize testing random".split())  # random numbers come from the host
MISSING_IN_CUPY |= set(
    "nanpercentile nanquantile unstack vecdot matvec vecmat spacing histogram_bin_edges polyint".split()
)
MISSING_KEYWORDS = {"max": {"initial", "where"}, "min": {"initial", "where"}, "sum": {"initial", "where"}}
MISSING_KEYWORDS |= {"clip": {"min", "max"}} | dict.fromkeys(["full", "zeros", "ones", "empty"], {"like"})
WAITS = {"flatnonzero", "nonzero", "argwhere", "unique", "compress", "extract"}  # the length of the result is a value
FREE = {"empty", "empty_like"}  # no kernel
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
    FakeArray.launches += not is_view and result.size > 0
    return FakeArray(result if is_view else np.asarray(result, order="C"))


def _uploaded(value):
    """A host array on the device; anything else as it is."""
    return FakeArray(value.copy(order="C")) if isinstance(value, np.ndarray) else value


def _wait():
    """Count a wait, and note which function of the package waits."""
    FakeArray.waits += 1
    frame = sys._getframe(1)
    while frame and frame.f_globals["__name__"].partition(".")[::2] in (("tinymrcnn", "backend"), (__name__, "")):
        frame = frame.f_back
    FakeArray.waiting.append(frame.f_code.co_qualname)


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
        if unknown := MISSING_KEYWORDS.get(name, set()) & kwargs.keys():
            raise TypeError(f"{name}() on the device has no {' and no '.join(unknown)}.")
        FakeArray.used.add((name, *kwargs))
        if name in COMES_FROM_HOST:
            FakeArray.uploads += 1
            return FakeArray(function(_unwrap(_uploaded(args[0])), *args[1:], **kwargs))
        if name in WAITS:
            _wait()
        args, out = first + args, kwargs.get("out")
        inputs = list(_host_arrays(args))
        if name == "sum" and args[0].dtype == np.float32:  # CuPy adds in a tree, NumPy row by row, which is less exact
            args = (FakeArray(args[0]._host.astype(np.float64)), *args[1:])
        result = function(*_unwrap(args), **{key: _unwrap(value) for key, value in kwargs.items()})
        if name == "sum" and inputs[0].dtype == np.float32:
            result = result.astype(np.float32)
        if isinstance(result, bool) and inputs:
            result = np.bool_(result)  # array_equal, allclose: the answer stays on the device
        if name in FREE:
            return FakeArray(result)
        if out is not None or result is None or name == "astype":
            FakeArray.launches += 1
            return out if out is not None or result is None else FakeArray(result)
        return _wrap(result, inputs)

    return call


def _add_at(target, index, values):
    if target.dtype.name not in ATOMIC_ADD:
        raise TypeError(f"add.at on the device knows {ATOMIC_ADD}, not {target.dtype}.")
    FakeArray.launches += 1
    np.add.at(target._host, _unwrap(index), _unwrap(values))


class FakeArray:
    """An array on the fake device."""

    __array_ufunc__ = None  # NumPy's ufuncs and operators refuse it
    __hash__ = None
    copies = waits = launches = uploads = 0
    waiting = []
    used = set()  # functions and methods, with their keywords

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

    @classmethod
    def reset(cls):
        """Count from 0."""
        cls.copies = cls.waits = cls.launches = cls.uploads = 0
        cls.waiting, cls.used = [], set()

    def __getitem__(self, index):
        arrays = [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, FakeArray)]
        result = self._host[_index(index)]
        if not arrays:
            return FakeArray(result)  # a view, of one element too
        if any(array.dtype == bool for array in arrays):
            _wait()
        return _wrap(result)

    def __setitem__(self, index, value):
        FakeArray.launches += 1
        self._host[_index(index)] = _unwrap(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"FakeArray(shape={self.shape}, dtype={self.dtype})"

    def _to_host(self):
        FakeArray.copies += 1
        _wait()
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
        FakeArray.launches += 1
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


def _host_view(array):
    """The CPU kernel runs in place of the CUDA kernel."""
    _host_view.used = True
    return array._host


def _spread(*args):
    """threads.spread() as kernels.run() calls it: a launch, if the kernel takes arrays of the device."""
    FakeArray.launches += _host_view.used
    _host_view.used = False
    spread(*args)


_host_view.used = False
FAKE = Backend("fake", FakeArray, FakeModule(np), FakeArray._to_host, _host_view)


@pytest.fixture
def fake_device(monkeypatch):
    """Registers the device "fake" for one test; gives its array type, which counts from 0."""
    monkeypatch.setattr(kernels, "spread", _spread)
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    FakeArray.reset()
    return FakeArray
