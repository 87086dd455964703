"""What a pickle may build: dictionaries with plain keys, and arrays of little-endian numbers.

ARRAYS is the table of the objects that files of weights ask for; every function in it checks what it is given before
memory is taken for it. pickles.py is the machine that calls them.
"""

import math
import typing

import numpy as np

from tinymrcnn.archives import RefusedError

MAX_DIMENSIONS = 16  # axes of an array


def only(kind: type, value):
    if type(value) is not kind:
        raise RefusedError(f"It is damaged: its pickle has a {type(value).__name__} where a {kind.__name__} must be.")
    return value


def set_items(target, items: list) -> None:
    only(dict, target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, bytes, int, float, bool, type(None)):  # deep tuples overflow the C stack in hash()
            raise RefusedError(f"It has a {type(key).__name__} as the key of a dictionary; a name must be there.")
        target[key] = value


def set_state(target, state) -> None:
    """The state of an array, which begins empty; that of a dictionary (torch adds notes to it) is left out."""
    if type(target) is np.ndarray and target.size == 0:  # an array with content keeps it
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if type(content) is str else content
        _check_array(shape, dtype, content)
        set_all: typing.Any = target.__setstate__  # NumPy declares too little of it
        set_all((1, shape, dtype, bool(fortran), content))
    elif isinstance(target, np.dtype):
        if state[1] == ">" or any(part is not None for part in state[2:5]):
            raise RefusedError("It holds an array of big-endian or structured numbers, which is not supported.")
    else:
        only(dict, target)


def show(sizes) -> str:
    """A shape that may be absurd, for a message."""
    return "(" + ", ".join(str(size) if size < 10**15 else "more than 10^15" for size in sizes) + ")"


def _check_array(shape, dtype, content) -> None:
    only(bytes, content)
    if not isinstance(dtype, np.dtype) or type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        raise RefusedError("It is damaged: it holds an array without a proper type or shape.")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise RefusedError("It is damaged: it holds an array whose shape is not made of numbers from 0 on.")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise RefusedError(f"It holds an array of shape {show(shape)} ({dtype}), but {len(content)} bytes for it.")


def _dtype(code, *_) -> np.dtype:
    if type(code) is not str or code.lstrip("<|=") not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"):
        raise RefusedError(f"It holds an array of type {ascii(code)[:40]}; only little-endian numbers are read.")
    return np.dtype(code)


def _empty_array(*_) -> np.ndarray:
    return np.empty(0, np.uint8)  # set_state gives it its content


def _from_buffer(content, dtype, shape, order) -> np.ndarray:
    _check_array(shape, dtype, content)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype, content):
    _check_array((), dtype, content)
    return np.frombuffer(content, dtype)[0]


def _encode(text, encoding) -> bytes:
    """How protocol 2, of Python 2, spells the bytes of Python 3."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"It holds bytes in the encoding {ascii(encoding)[:40]}, which is not supported.")
    return only(str, text).encode("latin1")


def _ordered_dict(items=()) -> dict:
    result: dict = {}
    for pair in items:
        set_items(result, list(pair))
    return result


ARRAYS: dict[str, typing.Any] = {
    "collections.OrderedDict": _ordered_dict,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # the empty ones in protocol 2
    "numpy.ndarray": "numpy.ndarray",  # only handed to _empty_array
    "numpy.dtype": _dtype,
}
for _core in ("numpy.core.", "numpy._core."):  # before and since NumPy 2
    ARRAYS[_core + "multiarray._reconstruct"] = _empty_array
    ARRAYS[_core + "multiarray.scalar"] = _scalar
    ARRAYS[_core + "numeric._frombuffer"] = _from_buffer
