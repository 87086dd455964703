"""Pickles, read without trusting them: arrays and plain containers only.

A pickle is a program for a small stack machine, and two of its instructions, "fetch this Python object" and "call
it", let whoever wrote the file run anything. This is the machine without that danger: it knows the instructions
that files of weights use; of objects it has its own short table (ARRAYS, and what the caller adds) and refuses any
other by its name; nothing is ever imported, and nothing is called but the functions of that table. Whatever an
instruction claims (a length, a shape, a place in the memo) is checked before memory is taken for it, so that reading
takes memory in proportion to the file. Lesson 15 has a hostile one refused.
"""

import math
import pickle
import struct

import numpy as np

MAX_INSTRUCTIONS = 1_000_000  # the largest public models need some 20,000
MAX_NESTING = 32  # containers within containers
MAX_LINE, MAX_DIMENSIONS = 500, 16  # characters of a name, axes of an array
# Instructions that hold a number or a text: how struct calls its type or that of its length, and its encoding
NUMBERS = {pickle.BININT: "i", pickle.BININT1: "B", pickle.BININT2: "H"}
STRINGS = {
    pickle.SHORT_BINUNICODE: ("B", "utf8"), pickle.BINUNICODE: ("I", "utf8"),
    pickle.SHORT_BINSTRING: ("B", "latin1"), pickle.BINSTRING: ("i", "latin1"),  # Python 2; arrays too
    pickle.SHORT_BINBYTES: ("B", None), pickle.BINBYTES: ("I", None),
    pickle.BINBYTES8: ("Q", None), pickle.BYTEARRAY8: ("Q", None),
}  # fmt: skip
NAMES = {code: name for name, code in vars(pickle).items() if type(code) is bytes and len(code) == 1}


class PickleError(ValueError):
    """A pickle that is damaged, or that asks for more than arrays and plain containers."""


# The machine


def read_pickle(file, size: int, table: dict, persistent=None):
    """Run the one pickle that begins at the file's position, and return what it builds.

    file: a binary file, of which at most `size` bytes are read. table: {"module.name": value}, the objects that the
    pickle may ask for; those of them that are functions may be called. persistent: called with the id of an object
    that is stored outside of the pickle. Raises PickleError."""
    try:
        value = _run(_Bytes(file, size), table, persistent)
    except PickleError:
        raise
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise PickleError(f"It is damaged: its pickle makes no sense ({type(error).__name__}: {error}).") from error
    _check_nesting(value)
    return value


class _Bytes:
    """A file that is read to `size` bytes at most."""

    def __init__(self, file, size: int):
        self.file, self.left = file, size

    def read(self, count: int) -> bytes:
        data = self.file.read(count) if 0 <= count <= self.left else b""
        if len(data) != count:
            raise PickleError("It is truncated, or damaged: its pickle ends in the middle.")
        self.left -= count
        return data

    def number(self, code: str) -> int:
        """The next number, little-endian, of a type that struct calls `code`."""
        return struct.unpack("<" + code, self.read(struct.calcsize(code)))[0]

    def line(self) -> str:
        data = self.file.readline(min(self.left, MAX_LINE))
        if not data.endswith(b"\n"):
            raise PickleError("It is damaged: a name in its pickle does not end.")
        self.left -= len(data)
        return data[:-1].decode()


def _run(data: _Bytes, table: dict, persistent):
    stack, marked, memo = [], [], {}  # marked: the stacks below the marks that are open
    allowance = 2 * data.left + 10_000_000

    def since_mark():
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    def charge(parts):
        """Functions may copy what they are given: all of the file, but not the same again and again."""
        nonlocal allowance
        for part in parts:
            if type(part) in (str, bytes, tuple, list, dict):  # an entry takes some 100 bytes
                allowance -= len(part) * (1 if type(part) in (str, bytes) else 100)
        if allowance < 0:
            raise PickleError("It is a bomb: it would have the same content copied many times over.")

    for _ in range(MAX_INSTRUCTIONS):
        match data.read(1):
            # constants
            case pickle.PROTO | pickle.FRAME as code:
                data.read(1 if code == pickle.PROTO else 8)
            case pickle.NONE:
                stack.append(None)
            case pickle.NEWTRUE | pickle.NEWFALSE as code:
                stack.append(code == pickle.NEWTRUE)
            case code if code in NUMBERS:
                stack.append(data.number(NUMBERS[code]))
            case pickle.LONG1:
                stack.append(int.from_bytes(data.read(data.number("B")), "little", signed=True))
            case pickle.BINFLOAT:
                stack.append(struct.unpack(">d", data.read(8))[0])
            case code if code in STRINGS:
                length, encoding = STRINGS[code]
                content = data.read(data.number(length))
                stack.append(content.decode(encoding) if encoding else content)
            # containers
            case pickle.MARK:
                marked.append(stack)
                stack = []
            case pickle.EMPTY_TUPLE:
                stack.append(())
            case pickle.TUPLE1:
                stack[-1:] = [(stack[-1],)]
            case pickle.TUPLE2:
                stack[-2:] = [(stack[-2], stack[-1])]
            case pickle.TUPLE3:
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            case pickle.TUPLE:
                items = tuple(since_mark())
                stack.append(items)
            case pickle.EMPTY_LIST:
                stack.append([])
            case pickle.APPEND:
                item = stack.pop()
                _only(list, stack[-1]).append(item)
            case pickle.APPENDS:
                items = since_mark()
                _only(list, stack[-1]).extend(items)
            case pickle.EMPTY_DICT:
                stack.append({})
            case pickle.SETITEM:
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case pickle.SETITEMS:
                items = since_mark()
                _set_items(stack[-1], items)
            # the memo, and the stack itself
            case pickle.MEMOIZE:
                memo[len(memo)] = stack[-1]
            case pickle.BINPUT:
                memo[data.number("B")] = stack[-1]
            case pickle.LONG_BINPUT:
                memo[data.number("I")] = stack[-1]
            case pickle.BINGET:
                stack.append(memo[data.number("B")])
            case pickle.LONG_BINGET:
                stack.append(memo[data.number("I")])
            case pickle.POP:
                stack.pop()
            # objects: of the table only
            case pickle.GLOBAL:
                stack.append(look_up(table, data.line(), data.line()))
            case pickle.STACK_GLOBAL:
                name, module = stack.pop(), stack.pop()
                stack.append(look_up(table, _only(str, module), _only(str, name)))
            case pickle.REDUCE:
                arguments, function = stack.pop(), stack.pop()
                if not callable(function):  # only what the table holds can be
                    raise PickleError(f"It calls a {type(function).__name__}, which cannot be called.")
                charge(_only(tuple, arguments))
                stack.append(function(*arguments))
            case pickle.BUILD:
                state = stack.pop()
                charge(state if type(state) is tuple else ())
                _set_state(stack[-1], state)
            case pickle.BINPERSID if persistent is not None:
                stack.append(persistent(stack.pop()))
            case pickle.STOP:
                return stack.pop()
            case code:
                name = NAMES.get(code, code.hex())
                raise PickleError(f"Its pickle holds the instruction {name}, which no file of weights needs.")
    raise PickleError(f"Its pickle holds more than {MAX_INSTRUCTIONS:,} instructions, too many for weights.")


def look_up(table: dict, module: str, name: str):
    """The object that a file asks for, where the table has it. Raises PickleError for any other; imports nothing."""
    full = f"{module}.{name}"
    if full not in table:
        raise PickleError(
            f"It asks for the Python object {ascii(full[:MAX_LINE])}. Only arrays and plain containers are read from a "
            "file of weights, because any other object can run code. If you trust the file, load it with the "
            "library that wrote it and save its state_dict() alone."
        )
    return table[full]


def _only(kind: type, value):
    if type(value) is not kind:
        raise PickleError(f"It is damaged: its pickle has a {type(value).__name__} where a {kind.__name__} must be.")
    return value


def _set_items(target, items: list) -> None:
    _only(dict, target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, bytes, int, float, bool, type(None)):  # deep tuples overflow the C stack in hash()
            raise PickleError(f"It has a {type(key).__name__} as the key of a dictionary; a name must be there.")
        target[key] = value


def _set_state(target, state) -> None:
    """The state of an array, which begins empty; that of a dictionary (torch hangs notes on it) is left out."""
    if type(target) is np.ndarray and target.size == 0:  # what has content keeps it
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if type(content) is str else content
        _check_array(shape, dtype, content)
        target.__setstate__((1, shape, dtype, bool(fortran), content))
    elif isinstance(target, np.dtype):
        if state[1] == ">" or any(part is not None for part in state[2:5]):
            raise PickleError("It holds an array of big-endian or structured numbers, which is not supported.")
    else:
        _only(dict, target)


def _check_nesting(value) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        children = {}
        for item in level:
            for child in item.values() if type(item) is dict else item if type(item) in (list, tuple) else ():
                if type(child) in (dict, list, tuple):
                    children[id(child)] = child  # each only once, so that shared ones do not multiply
        if not children:
            return
        level = children.values()
    raise PickleError(f"Its containers are nested more than {MAX_NESTING} deep, or contain themselves.")


# Arrays


def show(sizes) -> str:
    """A shape that may be absurd, for a message."""
    return "(" + ", ".join(str(size) if size < 10**15 else "more than 10^15" for size in sizes) + ")"


def _check_array(shape, dtype, content) -> None:
    _only(bytes, content)
    if not isinstance(dtype, np.dtype) or type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        raise PickleError("It is damaged: it holds an array without a proper type or shape.")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise PickleError("It is damaged: it holds an array whose shape is not made of numbers from 0 on.")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise PickleError(f"It holds an array of shape {show(shape)} ({dtype}), but {len(content)} bytes for it.")


def _dtype(code, *_) -> np.dtype:
    if type(code) is not str or code.lstrip("<|=") not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"):
        raise PickleError(f"It holds an array of type {ascii(code)[:40]}; only little-endian numbers are read.")
    return np.dtype(code)


def _empty_array(*_) -> np.ndarray:
    return np.empty(0, np.uint8)  # _set_state gives it its content


def _from_buffer(content, dtype, shape, order) -> np.ndarray:
    _check_array(shape, dtype, content)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype, content):
    _check_array((), dtype, content)
    return np.frombuffer(content, dtype)[0]


def _encode(text, encoding) -> bytes:
    """How protocol 2, of Python 2, spells the bytes of Python 3."""
    if encoding not in ("latin1", "latin-1"):
        raise PickleError(f"It holds bytes in the encoding {ascii(encoding)[:40]}, which is not supported.")
    return _only(str, text).encode("latin1")


def _ordered_dict(items=()) -> dict:
    result = {}
    for pair in items:
        _set_items(result, list(pair))
    return result


ARRAYS = {
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
