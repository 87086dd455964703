"""Reads a file of functions, checks them, and puts those of the list in the place of the package's for a while."""

import contextlib
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinymrcnn.files import printable
from tinymrcnn.mine.table import REPLACEABLE

TOLERANCE = 1e-5  # of the largest number that is expected
LONGEST = 24  # numbers: longer arrays are not written out in messages

Functions = dict[str, Callable[..., Any]]


@contextlib.contextmanager
def in_place(path) -> Iterator[str]:
    """While the block runs, the functions of a file of Python stand in the place of the package's.

    Gives the table of whose each function is. Raises FileNotFoundError where there is no such file, ValueError for a
    file that cannot be run or holds none of the list, and for a function that is wrong, naming the case."""
    found = read(path)
    functions = {name: _on_copies(function) for name, function in found.items() if _is_right(name, function, path)}
    if not functions:
        raise ValueError(
            f"'{printable(path)}' holds none of the functions that can replace the package's, or all of them are still "
            f"empty. These can: {', '.join(REPLACEABLE)}."
        )
    with contextlib.ExitStack() as stack:
        for home in dict.fromkeys(REPLACEABLE[name].home for name in functions):
            row = next(row for row in REPLACEABLE.values() if row.home == home)
            owner, _, name = home.rpartition(".")
            holder = _found(owner)
            original = getattr(holder, name)
            new = row.build(original, functions)
            _swap(holder, name, original, new)
            stack.callback(_swap, holder, name, new, original)
        yield as_table(found, functions, path)


# Replacing ---------------------------------------------------------------------------------------------------


def _found(path: str) -> Any:
    """The module or class "ops.resize" or "boxes.coder.BoxCoder" of the package."""
    try:
        return importlib.import_module(f"tinymrcnn.{path}")
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(f"tinymrcnn.{module}"), name)


def _swap(holder: Any, name: str, old: Any, new: Any) -> None:
    """Put `new` in the place of `old`: in its class, or in every module of the package that has it under its name."""
    if not isinstance(holder, types.ModuleType):
        setattr(holder, name, new)
        return
    for module, content in list(sys.modules.items()):  # those, too, that were imported since the last swap
        here = module.startswith("tinymrcnn.") and not module.startswith("tinymrcnn.mine.")  # whose cases need the old
        if here and vars(content).get(name) is old:
            setattr(content, name, new)


# Reading and checking ----------------------------------------------------------------------------------------


def read(path) -> Functions:
    """{name: function}: what a file holds of the list. Raises as in_place does."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{printable(path)}': --mine names a file of Python functions.")
    names: dict[str, Any] = {"__name__": "mine", "__file__": str(path)}
    try:
        exec(compile(Path(path).read_bytes(), str(path), "exec"), names)
    except Exception as error:
        raise ValueError(f"'{printable(path)}' cannot be run: {_in_words(error, path)}") from error
    return {name: names[name] for name in REPLACEABLE if callable(names.get(name))}


def _is_right(name: str, function: Callable[..., Any], path) -> bool:
    """Whether a function agrees with the package's; False where it is still empty: it returns None. Raises ValueError
    where it is wrong."""
    lesson, _, exercise = REPLACEABLE[name].exercise.partition(".")
    where = f"lesson {lesson}, exercise {exercise}" if exercise else f"lesson {lesson}"
    cases = REPLACEABLE[name].cases(np.random.default_rng(0))
    for number, (arguments, expected) in enumerate(cases, 1):
        problem: str | None
        try:
            result = _on_copies(function)(*arguments)
        except Exception as error:
            problem = f"raises {_in_words(error, path)}"
        else:
            if result is None and number == 1:
                return False
            problem = _difference(result, expected)
        if problem:
            raise ValueError(
                f"{name} of '{printable(path)}' ({where}) is not right yet. Case {number} "
                f"of {len(cases)}, {name}({_with_names(function, arguments)}), {problem}. Mend it, or take it out "
                "of the file: then the package's is used."
            )
    return True


def _in_words(error: Exception, path) -> str:
    """An error and, if one is known, its line of the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}, {text.rstrip('.')}" + (f", in line {lines[-1]}" if lines else "")


def _on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but what it changes in its arguments only it sees."""

    def copy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(copy, value))
        return value.copy() if isinstance(value, np.ndarray) else value

    return lambda *arguments: function(*map(copy, arguments))


def _difference(result: Any, expected: Any) -> str | None:
    """What is wrong with a result, or None."""
    if isinstance(expected, tuple):
        if not isinstance(result, (tuple, list)) or len(result) != len(expected):
            return f"should give {len(expected)} arrays and gives {_shown(result)}"
        pairs = zip(result, expected, strict=True)
        problems = ((i, _difference(*pair)) for i, pair in enumerate(pairs, 1))
        return next((f"{problem} (result {i} of {len(expected)})" for i, problem in problems if problem), None)
    try:
        array = np.asarray(result, np.float64)
    except (TypeError, ValueError):
        return f"should give {_shown(expected)} and gives {_shown(result)}"
    if array.shape != np.shape(expected):
        if max(array.size, np.size(expected)) <= LONGEST:
            return f"should give {_shown(expected)} and gives {_shown(np.asarray(result))}"
        return f"should give the shape {np.shape(expected)} and gives {array.shape}"
    expected = np.asarray(expected, np.float64)
    off = np.abs(array - expected)
    wrong = ~(off <= TOLERANCE * np.abs(expected).max(initial=1e-30))  # a NaN is wrong, too
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f" at index {at}" if at else ""
    return f"should give {expected[at]:.6g}{where} and gives {array[at]:.6g}"


def _with_names(function: Callable[..., Any], arguments: tuple) -> str:
    """The arguments of a case as they would be written in a call."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = []
    parameters += ["..."] * (len(arguments) - len(parameters))
    return ", ".join(f"{p}={_shown(value)}" for p, value in zip(parameters, arguments, strict=False))


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > LONGEST:
        return f"an array {value.shape}"
    if isinstance(value, np.ndarray):
        return " ".join(np.array2string(value, precision=4, separator=", ", threshold=LONGEST).split())
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:.6g}" if isinstance(value, float) else printable(" ".join(repr(value).split()))[:60]


# Telling -----------------------------------------------------------------------------------------------------


def as_table(found: Functions, functions: Functions, path) -> str:
    """Whose each function of the list is. found: those of the file, functions: those that are not empty."""
    rows = [("function", "exercise", "in the place of tinymrcnn's", "whose")]
    for name, row in REPLACEABLE.items():
        empty = "the package's: still empty" if name in found else "the package's: not in the file"
        whose = f"yours, right in {len(row.cases(np.random.default_rng(0)))} cases" if name in functions else empty
        rows.append((name, row.exercise, row.home, whose))
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(3)]
    lines = ["".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    title = f"{len(functions)} of {len(REPLACEABLE)} functions are yours, from '{printable(path)}':"
    return "\n".join([title, *(f"  {line}" for line in lines)])
