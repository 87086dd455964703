"""The check cells of the lessons: they say whether an exercise is still empty, right, or wrong and where.

A check never raises: what goes wrong inside an answer is part of what it says.
"""

import traceback
import types

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.autograd.gradcheck import worst_relative_error
from tinymrcnn.backend import to_numpy


def check(number: int, answer, *cases, tolerance: float = 1e-5) -> None:
    """Compare an answer with what it should be, and print the verdict.

    number: of the exercise. answer: a function, tried on every case (arguments, expected); or a value, with the
    expected value as the only case. An answer of None, or a function that returns None, counts as empty.
    tolerance: how far numbers may be off, relative to the largest expected one."""
    if not callable(answer):
        _say(number, _empty if answer is None else _difference(answer, cases[0], tolerance))
        return
    for position, (arguments, expected) in enumerate(cases, 1):
        try:
            result = answer(*_copies(arguments))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:2]  # the answer's own, after this function's
            place = "".join(f" (in {frame.name}, line {frame.lineno})" for frame in frames)
            _say(number, f"case {position} raised {type(error).__name__}: {error}{place}.")
            return
        problem = _empty if result is None else _difference(result, expected, tolerance)
        if problem:
            _say(number, problem if problem is _empty else f"in case {position}, {problem}")
            return
    _say(number, None)


def check_gradient(number: int, operator, make_inputs) -> None:
    """Check the gradient of an operator by finite differences, and print the verdict.

    operator: a function of Tensors that returns a Tensor, or None while it is empty. make_inputs: a function of a
    numpy Generator that draws its inputs, a tuple of float64 arrays."""
    inputs = [Tensor(array, requires_grad=True) for array in make_inputs(np.random.default_rng(0))]
    try:
        empty = operator(*inputs) is None
        error = None if empty else worst_relative_error(operator, inputs)
    except Exception as problem:
        _say(number, f"{type(problem).__name__}: {problem}")
        return
    _say(number, _empty if empty else None, f"largest relative error of the gradient: {error or 0:.0e}")


_tries: dict[int, int] = {}  # of each exercise, how often examine has found its answer wrong


def examine(number: int, answer, *cases, hints, mistakes=None, tolerance: float = 1e-5, may_use=()) -> None:
    """As check, but what should come out is not shown, and a function must be the learner's own work.

    A wrong answer is told what is wrong with it if it does the same as one of the known mistakes, {what is wrong with
    it: a function that makes it}; and it gets a hint, with every failed try the next one of `hints`. A function that
    calls something of this package is refused, but for the names in may_use."""
    if answer is None:
        _say(number, _empty)
    elif not callable(answer):
        _refuse(number, None if _difference(answer, cases[0], tolerance) is None else "not all of it is right.", hints)
    elif name := _borrowed(answer, may_use):
        _say(number, f"it uses `{name}`, which is the package's: write it yourself, with NumPy or plain Python.")
    else:
        _refuse(number, _examined(answer, cases, mistakes or {}, tolerance), hints)


def _examined(answer, cases, mistakes, tolerance: float) -> str | None:
    """What is wrong with a function, without the values that it should give; or None."""
    results = []
    for position, (arguments, expected) in enumerate(cases, 1):
        try:
            results.append(answer(*_copies(arguments)))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:2]
            place = "".join(f" (in {frame.name}, line {frame.lineno})" for frame in frames)
            return f"case {position} of {len(cases)} raised {type(error).__name__}: {error}{place}."
        if results[-1] is None:
            return _empty if position == 1 else f"in case {position} of {len(cases)} nothing comes back."
        try:
            shape = np.shape(results[-1])
        except ValueError:  # a ragged list
            return f"case {position} of {len(cases)} gives no array: {_named(results[-1])}."
        if shape != np.shape(expected):
            return f"the shape should be {np.shape(expected)} in case {position} of {len(cases)}, got {shape}."
    wrong = [n for n, (r, c) in enumerate(zip(results, cases, strict=True), 1) if _difference(r, c[1], tolerance)]
    if not wrong:
        return None
    said = f"{len(wrong)} of {len(cases)} cases are wrong, the first is case {wrong[0]}."
    for name, mistake in mistakes.items():
        same = (_difference(r, mistake(*_copies(c[0])), tolerance) for r, c in zip(results, cases, strict=True))
        if not any(same):
            return f"{said} It looks as if {name}"
    return said


def _refuse(number: int, problem, hints) -> None:
    """The verdict, and after a wrong answer the next hint."""
    if problem and problem is not _empty:
        at = _tries.get(number, 0)
        _tries[number] = at + 1
        problem += f" Hint {min(at + 1, len(hints))} of {len(hints)}: {hints[min(at, len(hints) - 1)]}"
    _say(number, problem)


def _borrowed(function, may_use=(), seen=()) -> str | None:
    """The name of something of the package that a function uses, or another one of the notebook that it calls."""
    if getattr(function, "__module__", None) and function.__module__.startswith("tinymrcnn"):
        return getattr(function, "__name__", str(function))
    names, codes = set(), [function.__code__] if hasattr(function, "__code__") else []
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    for name in sorted(names.difference(may_use)):
        value = function.__globals__.get(name)
        value = getattr(value, "py_func", value)  # of a kernel
        module = getattr(value, "__module__", None) or (value.__name__ if isinstance(value, types.ModuleType) else "")
        if f"{name}.".startswith("tinymrcnn.") or f"{module}.".startswith("tinymrcnn."):
            return name
        if getattr(value, "__globals__", None) is function.__globals__ and value not in (function, *seen):
            if found := _borrowed(value, may_use, (function, *seen)):
                return found
    return None


_empty = "still empty. Write your answer into the cell above and run both again."


def _say(number: int, problem, remark: str = "") -> None:
    if problem is _empty:
        print(f"Exercise {number}: {problem}")
    elif problem:
        print(f"Exercise {number}: not yet: {problem}")
    else:
        print(f"Exercise {number}: right." + (f" ({remark})" if remark else ""))


def _copies(arguments):
    """Fresh copies, so that an answer that writes into its arguments cannot spoil the next case."""
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)


def _difference(result, expected, tolerance: float) -> str | None:
    """What is wrong with a result, in words, or None."""
    if isinstance(expected, dict):
        if not isinstance(result, dict) or result.keys() != expected.keys():
            return f"a dict with the keys {', '.join(map(str, expected))} should come back, got {_named(result)}."
        problems = ((name, _difference(result[name], expected[name], tolerance)) for name in expected)
        return next((f"{name}: {problem}" for name, problem in problems if problem), None)
    if isinstance(expected, (tuple, list)) and any(np.ndim(part) for part in expected):
        if not isinstance(result, (tuple, list)) or len(result) != len(expected):
            return f"{len(expected)} things should come back, got {_named(result)}."
        for index, (part, wanted) in enumerate(zip(result, expected, strict=True), 1):
            if problem := _difference(part, wanted, tolerance):
                return f"result {index}: {problem}"
        return None
    try:
        result, expected = (_array(x) for x in (result, expected))
    except (TypeError, ValueError):
        return f"expected {_named(expected)}, got {_named(result)}."
    if expected.dtype.kind not in "fiub":
        return None if np.array_equal(result, expected) else f"expected {expected}, got {result}."
    if result.dtype.kind not in "fiub":
        return f"expected numbers, got {result.dtype} values: {str(result):.80}"
    if result.shape != expected.shape:
        return f"the shape should be {expected.shape}, got {result.shape}."
    result, expected = result.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    off = np.full(result.shape, np.inf)  # where one of the two is not finite
    finite = np.isfinite(result) & np.isfinite(expected)
    off[finite] = np.abs(result[finite] - expected[finite])
    off[(result == expected) | (np.isnan(result) & np.isnan(expected))] = 0
    wrong = off > tolerance * scale
    if not wrong.any():
        return None
    at = np.unravel_index(off.argmax(), off.shape)
    found = f"expected {expected[at]:.6g}, got {result[at]:.6g}."
    if off.ndim == 0:
        return found
    return f"{wrong.sum()} of {off.size} numbers are wrong; at index {tuple(int(i) for i in at)}, {found}"


def _array(value) -> np.ndarray:
    """A value as an array on the host."""
    value = value.data if isinstance(value, Tensor) else value
    return to_numpy(value) if hasattr(value, "shape") else np.asarray(value)


def _named(value) -> str:
    return f"{type(value).__name__} {' '.join(repr(value).split()):.60}"
