"""A strict imitation of CuPy on the host: code that runs on it makes none of the usual mistakes with GPU arrays.

Like CuPy's, and unlike NumPy's, its arrays

- refuse to mix with NumPy arrays and lists (in arithmetic, in functions, as values to set) and refuse np.asarray();
- come C-ordered out of ufuncs and copy(), and without dimensions, but as arrays, out of reductions;
- know only the functions, keywords and dtypes that CuPy has (cupy_api.py).

Kernels of our own take the way that they take with CuPy, through kernels.launch(): fake_driver.py runs what is passed.
It is stricter than CuPy where CuPy would copy silently: NumPy's own functions refuse its arrays, and an index is no
list and no NumPy array. Memory that nobody has written holds NaN, and FakeArray.largest says how much there is.

What costs time on a GPU is counted, so that a test can say what a training step costs there:

- FakeArray.launches: operations for which CuPy starts a kernel, or several (a sort), and kernels of our own. Views and
  uninitialised arrays are free;
- FakeArray.waits: how often the host waits for the device: for every copy to the host (to_numpy, item(), tolist(),
  float(), int(), bool(): FakeArray.copies), and where what is done depends on values (a mask as an index, flatnonzero
  and its kin). FakeArray.waiting names the functions of the package that did;
- FakeArray.uploads: arrays that are copied to the device.
"""

import math
import operator
import sys
import types

import cupy_api
import numpy as np
import pytest

from tinymrcnn import backend, kernels
from tinymrcnn.backend import BACKENDS, Backend, cuda_problem
from tinymrcnn.ops.resize import _sources

VERSION, CUPY = cupy_api.read()
# How often each waits. The length of its result is a value, or it looks at values first
WAITS = dict.fromkeys("flatnonzero nonzero argwhere unique compress extract delete".split(), 1)
WAITS |= dict.fromkeys("bincount setdiff1d trim_zeros argpartition sliding_window_view".split(), 2)
MODULES = {"linalg.", "lib.", "lib.stride_tricks."}  # no random numbers: these come from the host
FREE = {"empty", "empty_like"}  # no kernel
SORTS = {"argsort", "sort"}
ATOMIC_ADD = ("int32", "int64", "float16", "float32", "float64", "uint32", "uint64")
COMES_FROM_HOST = {"asarray", "array"}  # the explicit ways onto the device
KEEPS_ORDER = {"astype", "empty_like", "zeros_like", "ones_like", "full_like", "asarray", "array"}
JOINS = {"concatenate", "stack", "vstack", "hstack", "column_stack"}
ONLY_LOOK = {"shape", "ndim"}  # np.shape(x) is harmless
ATTRIBUTES = {"shape", "dtype", "ndim", "size", "strides", "nbytes", "itemsize", "flags"}
COPY_TO_HOST = set("dump dumps get mdspan put set tobytes tofile toDlpack".split())  # CuPy's arrays have these
NUMBERS = (bool, int, float, complex, np.generic)
# The operators, and what CuPy computes for them
BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor",
}  # fmt: skip
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
               "ne": "not_equal"}  # fmt: skip
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


class OutOfMemoryError(MemoryError):
    """As CuPy's, which is made of two numbers and a limit."""

    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def _unwrap(value):
    if isinstance(value, FakeArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type numpy.ndarray: a host array must be moved to the fake device first.")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(part) for part in value)
    return value


def _operand(value):
    """What an elementwise function takes: an array of the device, or a number."""
    if not isinstance(value, (FakeArray, *NUMBERS, type(None))):
        raise TypeError(f"Unsupported type {type(value).__name__}: an operand on the device is an array or a number.")
    return _unwrap(value)


def _wrap(result, inputs=(), keep_order=False):
    """A NumPy result on the device: a view of an input as it is, a new array C-ordered."""
    if isinstance(result, (tuple, list)):
        parts = [_wrap(part, inputs) for part in result]
        return tuple(parts) if isinstance(result, tuple) else parts
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    is_view = any(np.may_share_memory(result, array) for array in inputs)
    FakeArray.launches += not is_view and result.size > 0
    return FakeArray(result if is_view or keep_order else np.asarray(result, order="C"))


def _wait(times=1):
    """Count waits, and note which function of the package waits."""
    if not times:
        return
    FakeArray.waits += times
    frame = sys._getframe(1)
    while frame and frame.f_globals["__name__"].partition(".")[::2] in (("tinymrcnn", "backend"), (__name__, "")):
        frame = frame.f_back
    FakeArray.waiting += times * [frame.f_code.co_qualname if frame else "a test"]


def _host_arrays(values):
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _host_arrays(value)
        elif isinstance(value, FakeArray):
            yield value._host


def _noted(name, keywords, result):
    """Check that CuPy has this function with these keywords and, if it is elementwise, for the dtype of its result."""
    if not (loops := CUPY[name].loops):
        FakeArray.used.add((name, *sorted(keywords), ""))
        return
    for part in result if isinstance(result, tuple) else (result,):
        dtype = np.asarray(part).dtype
        FakeArray.used.add((name, *sorted(keywords), dtype.name))
        if not cupy_api.computes(loops, dtype):
            raise TypeError(f"{name}() on the device does not compute {dtype}.")


def _check_call(name, args, keywords):
    """Raise what CuPy would raise for such a call."""
    known = CUPY[name].keywords
    if "*" not in known and (unknown := keywords.keys() - known):
        raise TypeError(f"{name}() on the device has no {' and no '.join(sorted(unknown))}.")
    short = name.rpartition(".")[2]
    if short in SORTS and keywords.get("kind") not in (None, "stable"):
        raise ValueError(f"{name}() on the device sorts stably or as it likes, not by {keywords['kind']!r}.")
    if short in JOINS and not all(isinstance(part, FakeArray) for part in args[0]):
        raise TypeError(f"{name}() on the device joins arrays of the device only.")


def _waits_of(name, args):
    if name == "where":
        return len(args) == 1
    if name in ("repeat", "fill"):  # the values of an array, or a list, decide
        return 2 * isinstance(args[1], (FakeArray, list)) if name == "repeat" else isinstance(args[1], FakeArray)
    return WAITS.get(name, 0)


def _on_device(function, name, *first):
    """A NumPy function (or a method of the array `first`) as the device offers it. name: CuPy's."""
    short = name.rpartition(".")[2]

    def call(*args, **kwargs):
        args, out = first + args, kwargs.get("out")
        _check_call(name, args, kwargs)
        if short in COMES_FROM_HOST and isinstance(args[0], np.ndarray):
            _noted(name, kwargs, None)
            FakeArray.uploads += 1
            return FakeArray(function(args[0].copy(order="C"), *args[1:], **kwargs))
        _wait(_waits_of(short, args))
        FakeArray.uploads += short in COMES_FROM_HOST and not list(_host_arrays(args[:1]))
        inputs = list(_host_arrays(args))
        unwrap = _operand if CUPY[name].loops or short in ("where", "clip") else _unwrap
        given = [unwrap(arg) for arg in args]
        if short == "sum" and inputs[0].dtype == np.float32:  # CuPy adds in a tree, NumPy row by row, less exactly
            given[0] = given[0].astype(np.float64)
        result = function(*given, **{key: _unwrap(value) for key, value in kwargs.items()})
        if short == "sum" and inputs[0].dtype == np.float32 and out is None:
            result = result.astype(np.float32)
        _noted(name, kwargs, result)
        if isinstance(result, bool) and inputs:
            result = np.bool_(result)  # array_equal, allclose: the answer stays on the device
        if short in FREE:
            return FakeArray.unwritten(result)
        if out is not None or result is None:
            FakeArray.launches += 1
            return out
        return _wrap(result, () if short == "astype" else inputs, short in KEEPS_ORDER)

    return call


def _add_at(target, index, values):
    if target.dtype.name not in ATOMIC_ADD:
        raise TypeError(f"add.at on the device knows {ATOMIC_ADD}, not {target.dtype}.")
    FakeArray.launches += 1
    np.add.at(target._host, _index(index), _operand(values))


class FakeArray:
    """An array on the fake device.

    largest: from how many bytes on there is no memory for an array."""

    __array_ufunc__ = None  # NumPy's ufuncs and operators refuse it
    __hash__ = None
    copies = waits = launches = uploads = 0
    waiting = []  # the function of the package that waited, for every wait
    used = set()  # (function or method, *its keywords, the dtype of its result where CuPy computes some only)
    largest = math.inf

    def __init__(self, host):
        self._host = np.asarray(host)
        if self._host.nbytes > FakeArray.largest:
            raise OutOfMemoryError(self._host.nbytes, 0)

    @classmethod
    def unwritten(cls, host):
        """An array that nobody has written yet: of NaN, where its dtype has that."""
        if host.dtype.kind in "fc":
            host.fill(np.nan)
        return cls(host)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use to_numpy().")

    def __array_function__(self, function, types, args, kwargs):
        if function.__name__ not in ONLY_LOOK:
            raise TypeError(f"np.{function.__name__} met an array of the fake device. Use array_module(x).")
        return function(*_unwrap(args))

    def __getattr__(self, name):
        if name in ATTRIBUTES:
            return getattr(self._host, name)
        if f"ndarray.{name}" in CUPY and name not in COPY_TO_HOST and hasattr(np.ndarray, name):
            return _on_device(getattr(np.ndarray, name), f"ndarray.{name}", self)
        raise AttributeError(f"An array of the fake device has no attribute {name!r}.")

    @property
    def T(self):
        return FakeArray(self._host.T)

    @property
    def data(self):
        """Where it is, as CuPy tells it."""
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @classmethod
    def reset(cls):
        """Count from 0, with all the memory that one wants."""
        cls.copies = cls.waits = cls.launches = cls.uploads = 0
        cls.waiting, cls.used, cls.largest = [], set(), math.inf

    def __getitem__(self, index):
        result = self._host[_index(index)]
        arrays = _arrays_in(index)
        if not arrays:
            return FakeArray(result)  # a view, of one element too
        _wait(_has_mask(arrays))
        return _wrap(result)

    def __setitem__(self, index, value):
        FakeArray.launches += 1
        _wait(_has_mask(_arrays_in(index)))
        self._host[_index(index)] = _operand(value)

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


def _arrays_in(index):
    return [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, FakeArray)]


def _has_mask(arrays):
    return any(array.dtype == bool for array in arrays)


def _computed(name, result):
    _noted(name, {}, result)
    return _wrap(result)


def _binary(function, name):
    return lambda self, other: _computed(name, function(self._host, _operand(other)))


def _reflected(function, name):
    return lambda self, other: _computed(name, function(_operand(other), self._host))


def _in_place(function, name):
    def method(self, other):
        FakeArray.launches += 1
        self._host = function(self._host, _operand(other))
        _noted(name, {}, self._host)
        return self

    return method


def _unary(function, name):
    return lambda self: _computed(name, function(self._host))


for _name, _cupy in BINARY.items():
    setattr(FakeArray, f"__{_name}__", _binary(getattr(operator, f"__{_name}__"), _cupy))
    setattr(FakeArray, f"__r{_name}__", _reflected(getattr(operator, f"__{_name}__"), _cupy))
    setattr(FakeArray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__"), _cupy))
for _name, _cupy in COMPARISONS.items():
    setattr(FakeArray, f"__{_name}__", _binary(getattr(operator, _name), _cupy))
for _name, _cupy in UNARY.items():
    setattr(FakeArray, f"__{_name}__", _unary(getattr(operator, _name), _cupy))


class FakeModule(types.ModuleType):
    """What `xp` is on the fake device: NumPy's functions, as far as CuPy has them too. part: "", or that of a module
    within it, such as "linalg."."""

    def __init__(self, imitated, part=""):
        super().__init__(imitated.__name__.replace("numpy", "fake"))
        self._imitated, self._part = imitated, part

    def __getattr__(self, name):
        attribute = FakeArray if name == "ndarray" else getattr(self._imitated, name)
        if isinstance(attribute, types.ModuleType) and f"{self._part}{name}." in MODULES:
            return FakeModule(attribute, f"{self._part}{name}.")
        if isinstance(attribute, types.ModuleType) or callable(attribute) and self._part + name not in CUPY:
            raise AttributeError(f"CuPy {VERSION} has no {self._part}{name}, or no array of the package needs it.")
        if isinstance(attribute, type) or not callable(attribute):
            return attribute
        function = _on_device(attribute, self._part + name)
        if name == "add":
            function.at = _add_at
        return function


MODULE = FakeModule(np)
FAKE = Backend("fake", FakeArray, MODULE, FakeArray._to_host, None)


def install(name="fake", setitem=operator.setitem, setattr=setattr):
    """Make `name` a fake device: "fake", or "cuda", which is then what "auto" means, too. Returns its driver."""
    from fake_driver import Driver  # after this file: it makes arrays

    cuda_problem()  # before its place is taken, a CuPy that is installed takes it
    device, MODULE.cuda = FAKE._replace(device=name), Driver()
    MODULE.get_default_memory_pool = lambda: types.SimpleNamespace(total_bytes=lambda: 0, free_all_blocks=lambda: None)
    setitem(BACKENDS, name, device)
    setitem(BACKENDS, "cuda", device)  # where kernels.launch() looks for CuPy
    setattr(kernels, "machine_code", MODULE.cuda.machine_code)
    if name == "cuda":
        setattr(backend, "cuda_problem", lambda: None)
        setattr(backend, "tf32", MODULE.cuda.switch_tf32)
    FakeArray.reset()
    return MODULE.cuda


@pytest.fixture
def fake_device(monkeypatch):
    """Registers the device "fake" for one test; gives its array type, which counts from 0."""
    install("fake", monkeypatch.setitem, monkeypatch.setattr)
    yield FakeArray
    FakeArray.reset()


@pytest.fixture(params=["imitation", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu(request, monkeypatch):
    """The test runs on the device "cuda": on the imitation, and on the GPU where there is one. Gives its CuPy, whose
    `cuda.imitated` tells the imitation."""
    _sources.cache_clear()  # it holds arrays of what was "cuda" before
    if request.param == "imitation":
        install("cuda", monkeypatch.setitem, monkeypatch.setattr)
    yield BACKENDS["cuda"].module
    _sources.cache_clear()
    FakeArray.reset()
