"""The check cells of the lessons: they say whether an exercise is still empty, right, or wrong and where.

A check never raises: what goes wrong inside an answer is part of what it says.
"""

import traceback

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.autograd.gradcheck import worst_relative_error


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
            at = traceback.extract_tb(error.__traceback__)[-1]
            _say(number, f"case {position} raised {type(error).__name__}: {error} (in {at.name}, line {at.lineno}).")
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
    if isinstance(expected, (tuple, list)) and any(np.ndim(part) for part in expected):
        if not isinstance(result, (tuple, list)) or len(result) != len(expected):
            return f"{len(expected)} things should come back, got {type(result).__name__}."
        for index, (part, wanted) in enumerate(zip(result, expected, strict=True), 1):
            if problem := _difference(part, wanted, tolerance):
                return f"result {index}: {problem}"
        return None
    try:
        result, expected = (np.asarray(x.data if isinstance(x, Tensor) else x) for x in (result, expected))
        if result.shape != expected.shape:
            return f"the shape should be {expected.shape}, got {result.shape}."
        if expected.dtype.kind not in "fiub":
            return None if np.array_equal(result, expected) else f"expected {expected}, got {result}."
        off = np.abs(result.astype(float) - expected.astype(float))
    except (TypeError, ValueError):
        return f"expected {type(expected).__name__}, got {type(result).__name__}: {result!r:.80}."
    off[(result == expected) | (np.isnan(expected) & np.isnan(result) if expected.dtype.kind == "f" else False)] = 0
    scale = max(1e-30, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
    wrong = ~(off <= tolerance * scale)
    if not wrong.any():
        return None
    at = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    place = f"at index {tuple(int(i) for i in at)}, " if off.ndim else ""
    return f"{wrong.sum()} of {off.size} numbers are wrong; {place}expected {expected[at]:.6g}, got {result[at]:.6g}."
