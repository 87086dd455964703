"""The check cells of the lessons: they say whether an exercise is still empty, right, or wrong and where.

A check never raises: what goes wrong inside an answer is part of what it says.
"""

import traceback

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
