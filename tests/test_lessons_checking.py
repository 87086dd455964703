"""The check cells of the lessons: what they say about right, wrong, broken and empty answers. They never raise."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor, record

path = Path(__file__).parents[1] / "lessons" / "checking.py"
spec = importlib.util.spec_from_file_location("checking", path)
checking = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checking)

EMPTY = "Exercise 3: still empty. Write your answer into the cell above and run both again."
RIGHT = "Exercise 3: right."


@pytest.fixture
def verdict(capsys):
    """verdict(function, *arguments): the one line that a check prints; a warning is an error."""

    def say(function, *arguments, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert function(3, *arguments, **options) is None
        out, err = capsys.readouterr()
        assert err == "" and out.count("\n") == 1
        return out.strip()

    return say


BOX = np.array([[1.0, 2, 5, 9]])
NAN, INF = float("nan"), float("inf")

RIGHT_VALUES = {
    "a float": (3.0000001, 3.0),
    "an int": (7, 7),
    "an int as float": (7.0, 7),
    "a NumPy number": (np.float32(0.25), 0.25),
    "a bool": (True, np.True_),
    "a word": ("P3", "P3"),
    "an array": (BOX + 1e-7, BOX),
    "float32": (BOX.astype(np.float32), BOX),
    "a list": ([1, 2, 5], np.array([1, 2, 5])),
    "a tuple of numbers": ((4, 8), (4, 8)),
    "a Tensor": (Tensor(BOX), BOX),
    "an empty array": (np.zeros((0, 4)), np.zeros((0, 4))),
    "bools": (np.array([True, False]), np.array([True, False])),
    "NaN and infinity where they should be": (np.array([NAN, INF, 1]), np.array([NAN, INF, 1])),
    "things of several shapes": ((BOX, 3), (BOX, 3)),
    "a dict": ({"boxes": BOX, "score": 0.5}, {"boxes": BOX, "score": 0.5}),
}

WRONG_VALUES = {
    "a number": (4.0, 3.0, "expected 3, got 4."),
    "a bool": (True, False, "expected 0, got 1."),
    "a word": ("P4", "P3", "expected P3, got P4."),
    "a word for a number": ("four", 4, "expected numbers, got <U4 values: four"),
    "x and y swapped": (
        BOX[:, [1, 0, 3, 2]],
        BOX,
        "4 of 4 numbers are wrong; at index (0, 2), expected 5, got 9.",
    ),
    "the farthest is shown": (
        np.array([1.0, 2.1, 7.0]),
        np.array([1.0, 2.0, 3.0]),
        "2 of 3 numbers are wrong; at index (2,), expected 3, got 7.",
    ),
    "the shape": (BOX[0], BOX, "the shape should be (1, 4), got (4,)."),
    "a number for an array": (1.0, BOX, "the shape should be (1, 4), got ()."),
    "NaN": (np.array([1, NAN]), np.array([1.0, 2]), "1 of 2 numbers are wrong; at index (1,), expected 2, got nan."),
    "no NaN": (2.0, NAN, "expected nan, got 2."),
    "infinity": (np.array([-INF]), np.array([INF]), "1 of 1 numbers are wrong; at index (0,), expected inf, got -inf."),
    "unsigned": (np.array([1], np.uint8), np.array([2], np.uint8), "at index (0,), expected 2, got 1."),
    "complex": (np.array([1 + 1j]), np.array([1.0]), "expected numbers, got complex128 values: [1.+1.j]"),
    "nothing inside": ([None, 1], np.array([1.0, 2]), "expected numbers, got object values: [None 1]"),
    "a ragged list": ([[1], [1, 2]], np.zeros((2, 2)), "expected ndarray array([[0., 0.], [0., 0.]]), got list"),
    "one thing for two": (BOX, (BOX, 3), "2 things should come back, got ndarray"),
    "too few things": ((BOX,), (BOX, BOX), "2 things should come back, got tuple"),
    "the second thing": ((BOX, 4), (BOX, 3), "result 2: expected 3, got 4."),
    "a dict's value": ({"boxes": BOX + 1}, {"boxes": BOX}, "boxes: 4 of 4 numbers are wrong;"),
    "a dict's key": ({"box": BOX}, {"boxes": BOX}, "a dict with the keys boxes should come back, got dict"),
}


@pytest.mark.parametrize("case", RIGHT_VALUES)
def test_right_values(verdict, case):
    assert verdict(checking.check, *RIGHT_VALUES[case]) == RIGHT


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_values_and_where(verdict, case):
    answer, expected, words = WRONG_VALUES[case]
    said = verdict(checking.check, answer, expected)
    assert said.startswith("Exercise 3: not yet: ") and words in said


def test_the_tolerance_is_relative_to_the_largest_number(verdict):
    expected = np.array([1e-3, 100.0])
    assert verdict(checking.check, expected + 9e-4, expected) == RIGHT
    assert "2 of 2 numbers are wrong" in verdict(checking.check, expected + 1.1e-3, expected)
    assert verdict(checking.check, expected + 0.9, expected, tolerance=0.01) == RIGHT


def test_empty_answers(verdict):
    assert verdict(checking.check, None, 3.0) == EMPTY
    assert verdict(checking.check, lambda x: None, ((1,), 2)) == EMPTY
    assert verdict(checking.check_gradient, lambda x: None, lambda rng: (rng.random(3),)) == EMPTY


def test_functions_are_tried_on_every_case(verdict):
    cases = ((np.arange(3.0),), np.arange(3.0) ** 2), ((np.array([-2.0]),), np.array([4.0]))
    assert verdict(checking.check, lambda x: x**2, *cases) == RIGHT
    said = verdict(checking.check, lambda x: x * abs(x), *cases)
    assert said == "Exercise 3: not yet: in case 2, 1 of 1 numbers are wrong; at index (0,), expected 4, got -4."


def test_an_answer_cannot_spoil_the_next_case(verdict):
    x = np.ones(2)

    def doubled(x):
        x *= 2
        return x

    assert verdict(checking.check, doubled, ((x,), 2 * x), ((x,), 2 * x)) == RIGHT
    assert x.tolist() == [1, 1]


def test_exceptions_are_told(verdict):
    def careless(x):
        return np.ones(2) @ x

    said = verdict(checking.check, careless, ((np.ones(2),), 2.0), ((np.ones(3),), 3.0))
    line = careless.__code__.co_firstlineno + 1
    assert said.startswith("Exercise 3: not yet: case 2 raised ValueError: matmul")
    assert said.endswith(f"(in careless, line {line}).")
    said = verdict(checking.check, lambda: 1, ((2,), 3))
    assert "case 1 raised TypeError" in said and "takes 0 positional arguments but 1 was given." in said


def squared(slope):
    """x -> x * x with a backward of slope * x * grad; 2 is right."""

    def operator(x):
        return record(x.data**2, (x,), lambda grad, needs: (slope * x.data * grad,), "square")

    return operator


def test_gradients(verdict):
    def inputs(rng):
        return (rng.normal(size=(2, 3)),)

    said = verdict(checking.check_gradient, squared(2.0), inputs)
    assert said.startswith("Exercise 3: right. (largest relative error of the gradient: ")
    assert float(said.split()[-1].rstrip(")")) < 1e-6
    said = verdict(checking.check_gradient, squared(3.0), inputs)
    assert said.startswith("Exercise 3: not yet: GradcheckError: The gradient of input 0 at index (")
    assert "by backward()" in said and "by central differences" in said
    said = verdict(checking.check_gradient, lambda x: Tensor(x.data**2), inputs)
    assert "is 0 by backward()" in said  # the way back to the input is cut
    assert "not yet: ZeroDivisionError" in verdict(checking.check_gradient, lambda x: x * (1 / 0), inputs)
    assert "not yet: AttributeError" in verdict(checking.check_gradient, lambda x: x.data.nothing, inputs)


# Checks that do not give the answer away -------------------------------------------------------------------

CASES = (((np.arange(3.0),), np.arange(3.0) ** 2), ((np.array([-2.0]),), np.array([4.0])))
OPTIONS = {"hints": ("Think.", "Think again."), "mistakes": {"it is doubled.": lambda x: 2 * x}}


@pytest.fixture
def examined(verdict, monkeypatch):
    """examined(answer): what examine says; the tries are counted from 0."""
    monkeypatch.setattr(checking, "_tries", {})
    return lambda answer, cases=CASES, **options: verdict(checking.examine, answer, *cases, **{**OPTIONS, **options})


def test_examined_answers_that_are_right_or_empty(examined):
    assert examined(lambda x: x**2) == RIGHT and examined(lambda x: [value * value for value in x]) == RIGHT
    assert examined(None) == EMPTY and examined(lambda x: None) == EMPTY
    assert examined({"A": 1}, ({"A": 1},)) == RIGHT


def test_an_examined_answer_is_not_told_the_values(examined):
    said = examined(lambda x: x**2 + 77)
    assert said == "Exercise 3: not yet: 2 of 2 cases are wrong, the first is case 1. Hint 1 of 2: Think."
    said = examined({"A": 2}, ({"A": 77},))
    assert "77" not in said and "not all of it is right. Hint 2 of 2: Think again." in said
    assert "Hint 2 of 2" in examined({"A": 3}, ({"A": 77},))  # the last one stays
    assert examined(lambda x: x**2) == RIGHT


def test_known_mistakes_are_named(examined):
    said = examined(lambda x: x + x)
    assert "2 of 2 cases are wrong" in said and "It looks as if it is doubled. Hint 1 of 2: Think." in said
    assert "It looks as if" not in examined(lambda x: 3 * x)
    assert "1 of 2 cases are wrong, the first is case 2." in examined(lambda x: x * abs(x))


def test_examined_answers_that_are_no_arrays_or_raise(examined):
    assert "the shape should be (3,) in case 1 of 2, got ()." in examined(lambda x: 1.0)
    assert "case 1 of 2 gives no array: list [[1], [1, 2]]." in examined(lambda x: [[1], [1, 2]])
    assert "in case 2 of 2 nothing comes back." in examined(lambda x: x**2 if len(x) > 1 else None)
    assert "case 1 of 2 raised ZeroDivisionError: division by zero (in <lambda>, line" in examined(lambda x: 1 / 0)


def test_what_is_the_packages_is_refused(examined):
    def imported(x):
        from tinymrcnn.backend import to_numpy

        return to_numpy(x) ** 2

    def nested(x):
        return [inner(value) for value in x] if (inner := lambda value: Tensor(value)) else x

    def through_another(x):
        return helped(x)

    for answer, name in ((imported, "tinymrcnn.backend"), (nested, "Tensor"), (through_another, "Tensor")):
        assert f"it uses `{name}`, which is the package's: write it yourself" in examined(answer)
    assert "it uses `record`" in examined(record)


def test_an_answer_may_use_what_an_exercise_allows(examined):
    def allowed(x):
        return Tensor(x).data ** 2

    def through_another(x):
        return helped(x).data ** 2

    assert examined(allowed, may_use=("Tensor",)) == examined(through_another, may_use=("Tensor",)) == RIGHT
    assert "it uses `Tensor`" in examined(allowed, may_use=("record",))


def helped(x):
    return Tensor(x)
