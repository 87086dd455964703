"""Pickles, read without trusting them: arrays and plain containers only.

A pickle is a program for a small stack machine, and two of its instructions, "fetch this Python object" and "call
it", let whoever wrote the file run anything. This is the machine without that danger: it knows the instructions
that files of weights use, and a short table of objects (pickled_arrays.ARRAYS, and what the caller adds). It refuses
any other object and names it. Nothing is ever imported, and only the functions of that table are called.
Whatever an instruction claims (a length, a shape, a place in the memo) is checked before memory is taken for it, so
that reading takes memory in proportion to the file. Lesson 15 shows a hostile one refused.
"""

import pickle
import struct
from collections.abc import Callable, Collection
from typing import Any

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights.foreign.pickled_arrays import only, set_items, set_state

MAX_INSTRUCTIONS = 1_000_000  # the largest public models need some 20,000
MAX_NESTING = 32  # containers within containers
MAX_LINE = 500  # characters of a name
# Instructions that hold a number or a text: how struct calls its type or that of its length, and its encoding
NUMBERS = {pickle.BININT: "i", pickle.BININT1: "B", pickle.BININT2: "H"}
STRINGS = {
    pickle.SHORT_BINUNICODE: ("B", "utf8"), pickle.BINUNICODE: ("I", "utf8"),
    pickle.SHORT_BINSTRING: ("B", "latin1"), pickle.BINSTRING: ("i", "latin1"),  # Python 2; arrays too
    pickle.SHORT_BINBYTES: ("B", None), pickle.BINBYTES: ("I", None),
    pickle.BINBYTES8: ("Q", None), pickle.BYTEARRAY8: ("Q", None),
}  # fmt: skip
NAMES = {code: name for name, code in vars(pickle).items() if type(code) is bytes and len(code) == 1}


def read_pickle(file, size: int, table: dict[str, Any], persistent: Callable | None = None):
    """Run the one pickle that begins at the file's position, and return what it builds.

    file: a binary file, of which at most `size` bytes are read. table: {"module.name": value}, the objects that the
    pickle may ask for; those of them that are functions may be called. persistent: called with the id of an object
    that is stored outside of the pickle. Raises RefusedError."""
    try:
        value = _Machine(_Bytes(file, size), table, persistent).run()
    except RefusedError:
        raise
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise RefusedError(f"It is damaged: its pickle makes no sense ({type(error).__name__}: {error}).") from error
    _check_nesting(value)
    return value


class _Bytes:
    """A file that is read to `size` bytes at most."""

    def __init__(self, file, size: int):
        self.file, self.left = file, size

    def read(self, count: int) -> bytes:
        data = self.file.read(count) if 0 <= count <= self.left else b""
        if len(data) != count:
            raise RefusedError("It is truncated, or damaged: its pickle ends in the middle.")
        self.left -= count
        return data

    def number(self, code: str) -> int:
        """The next number, little-endian, of a type that struct calls `code`."""
        return struct.unpack("<" + code, self.read(struct.calcsize(code)))[0]

    def line(self) -> str:
        data = self.file.readline(min(self.left, MAX_LINE))
        if not data.endswith(b"\n"):
            raise RefusedError("It is damaged: a name in its pickle does not end.")
        self.left -= len(data)
        return data[:-1].decode()


class _Machine:
    """The stack, the stacks below the marks that are open, and the memo; one method for each group of instructions,
    which tells whether the instruction is one of its own."""

    def __init__(self, data: _Bytes, table: dict[str, Any], persistent: Callable | None):
        self.data, self.table, self.persistent = data, table, persistent
        self.stack: list[Any] = []
        self.marked: list[list] = []
        self.memo: dict[int, Any] = {}
        self.allowance = 2 * data.left + 10_000_000

    def run(self):
        for _ in range(MAX_INSTRUCTIONS):
            code = self.data.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if not (self.constant(code) or self.container(code) or self.recall(code) or self.object(code)):
                name = NAMES.get(code, code.hex())
                raise RefusedError(f"Its pickle holds the instruction {name}, which no file of weights needs.")
        raise RefusedError(f"Its pickle holds more than {MAX_INSTRUCTIONS:,} instructions, too many for weights.")

    def constant(self, code: bytes) -> bool:
        data, push = self.data, self.stack.append
        match code:
            case pickle.PROTO | pickle.FRAME:
                data.read(1 if code == pickle.PROTO else 8)
            case pickle.NONE:
                push(None)
            case pickle.NEWTRUE | pickle.NEWFALSE:
                push(code == pickle.NEWTRUE)
            case code if code in NUMBERS:
                push(data.number(NUMBERS[code]))
            case pickle.LONG1:
                push(int.from_bytes(data.read(data.number("B")), "little", signed=True))
            case pickle.BINFLOAT:
                push(struct.unpack(">d", data.read(8))[0])
            case code if code in STRINGS:
                length, encoding = STRINGS[code]
                content = data.read(data.number(length))
                push(content.decode(encoding) if encoding else content)
            case _:
                return False
        return True

    def container(self, code: bytes) -> bool:
        stack = self.stack
        match code:
            case pickle.MARK:
                self.marked.append(stack)
                self.stack = []
            case pickle.EMPTY_TUPLE | pickle.EMPTY_LIST | pickle.EMPTY_DICT:
                stack.append({pickle.EMPTY_TUPLE: tuple, pickle.EMPTY_LIST: list, pickle.EMPTY_DICT: dict}[code]())
            case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                size = 1 + (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3).index(code)
                stack[-size:] = [tuple(stack[i] for i in range(-size, 0))]
            case pickle.TUPLE:
                items = self.since_mark()
                self.stack.append(tuple(items))
            case pickle.APPEND:
                item = stack.pop()
                only(list, stack[-1]).append(item)
            case pickle.APPENDS:
                items = self.since_mark()
                only(list, self.stack[-1]).extend(items)
            case pickle.SETITEM:
                value, key = stack.pop(), stack.pop()
                set_items(stack[-1], [key, value])
            case pickle.SETITEMS:
                items = self.since_mark()
                set_items(self.stack[-1], items)
            case _:
                return False
        return True

    def recall(self, code: bytes) -> bool:
        """The memo, and the stack itself."""
        data, stack, memo = self.data, self.stack, self.memo
        match code:
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
            case _:
                return False
        return True

    def object(self, code: bytes) -> bool:
        """Objects: those of the table, and what its functions make."""
        data, stack = self.data, self.stack
        match code:
            case pickle.GLOBAL:
                stack.append(look_up(self.table, data.line(), data.line()))
            case pickle.STACK_GLOBAL:
                name, module = stack.pop(), stack.pop()
                stack.append(look_up(self.table, only(str, module), only(str, name)))
            case pickle.REDUCE:
                arguments, function = stack.pop(), stack.pop()
                if not callable(function):  # only objects of the table are
                    raise RefusedError(f"It calls a {type(function).__name__}, which cannot be called.")
                self.charge(only(tuple, arguments))
                stack.append(function(*arguments))
            case pickle.BUILD:
                state = stack.pop()
                self.charge(state if type(state) is tuple else ())
                set_state(stack[-1], state)
            case pickle.BINPERSID if self.persistent is not None:
                stack.append(self.persistent(stack.pop()))
            case _:
                return False
        return True

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def charge(self, parts) -> None:
        """Functions can copy their arguments: up to the whole file, but not one part again and again."""
        for part in parts:
            if type(part) in (str, bytes, tuple, list, dict):  # an entry takes some 100 bytes
                self.allowance -= len(part) * (1 if type(part) in (str, bytes) else 100)
        if self.allowance < 0:
            raise RefusedError("It is a bomb: it would have the same content copied many times over.")


def look_up(table: dict, module: str, name: str):
    """The object that a file asks for, where the table has it. Raises RefusedError for any other; imports nothing."""
    full = f"{module}.{name}"
    if full not in table:
        raise RefusedError(
            f"It asks for the Python object {ascii(full[:MAX_LINE])}. Only arrays and plain containers are read from a "
            "file of weights, because any other object can run code. If you trust the file, load it with the "
            "library that wrote it and save its state_dict() alone."
        )
    return table[full]


def _check_nesting(value) -> None:
    level: Collection = [value]
    for _ in range(MAX_NESTING):
        children: dict[int, Any] = {}
        for item in level:
            for child in item.values() if type(item) is dict else item if type(item) in (list, tuple) else ():
                if type(child) in (dict, list, tuple):
                    children[id(child)] = child  # each only once, so that shared ones do not multiply
        if not children:
            return
        level = children.values()
    raise RefusedError(f"Its containers are nested more than {MAX_NESTING} deep, or contain themselves.")
