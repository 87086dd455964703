"""The exercises' checks, by lists of answers: every wrong one is refused, every right one accepted.

The answers lie in lesson_answers/, one file a lesson, each under a line `# %% exercise-N right: which` or `wrong: ...`.
A check runs here after the lesson's first cell and those with the tag `setup`, so it must need no more than these and
its own lines."""

import contextlib
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from test_lessons import FOLDER, cells_of, solutions_of, source, tag, verdicts

pytest.importorskip("IPython", reason="the lessons need: pip install -e '.[lessons]'")

ANSWERS = Path(__file__).parent / "lesson_answers"
KINDS = {"right": "right", "wrong": "not yet"}


def answers_of(path: Path) -> list[tuple[int, str, str, str]]:
    """(exercise, "right" or "wrong", which, code) of every answer in a file."""
    parts = re.split(r"^# %% exercise-(\d+) (right|wrong): (.*)$", path.read_text(), flags=re.MULTILINE)[1:]
    return [(int(n), kind, which, code) for n, kind, which, code in zip(*(parts[i::4] for i in range(4)), strict=True)]


LISTS = {FOLDER / f"{path.stem}.ipynb": answers_of(path) for path in sorted(ANSWERS.glob("*.py"))}
CASES = [(lesson, *answer) for lesson, answers in LISTS.items() for answer in answers]


@pytest.fixture
def verdict(monkeypatch):
    """verdict(lesson, exercise, code): the line that the check prints about an answer."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(FOLDER)

    def say(lesson, number, code) -> str:
        cells = cells_of(lesson, "code")
        check = next(source(cell) for cell in cells if tag(cell, "check") == number)
        names, printed = {"__name__": "__main__"}, io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()):
            for cell in cells[:1] + [cell for cell in cells[1:] if "setup" in cell["metadata"].get("tags", [])]:
                exec(source(cell), names)
        sys.modules["checking"]._tries.clear()
        exec(code, names)
        with contextlib.redirect_stdout(printed):
            exec(check, names)
        return printed.getvalue()

    with plt.rc_context():
        yield say


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].stem[:2]}-{case[1]}-{case[2]}-{case[3]}")
def test_an_answer(case, verdict):
    lesson, number, kind, _, code = case
    said = verdict(lesson, number, code)
    assert verdicts(said, number) == {KINDS[kind]} and said.count("\n") == 1, said


@pytest.mark.parametrize("lesson", LISTS, ids=lambda lesson: lesson.stem)
def test_stubs_and_solutions(lesson, verdict):
    for number, code in solutions_of(lesson).items():
        assert verdicts(verdict(lesson, number, code), number) == {"right"}
        stub = next(source(cell) for cell in cells_of(lesson, "code") if tag(cell, "exercise") == number)
        assert verdicts(verdict(lesson, number, stub), number) == {"still empty"}


@pytest.mark.parametrize("lesson", LISTS, ids=lambda lesson: lesson.stem)
def test_every_exercise_has_a_list(lesson):
    for number in solutions_of(lesson):
        kinds = [kind for at, kind, *_ in LISTS[lesson] if at == number]
        assert kinds.count("right") >= 1 and kinds.count("wrong") >= 6


def test_known_mistakes_are_named_and_hints_come_in_steps(verdict):
    lesson = FOLDER / "14_who_owns_this_pixel.ipynb"
    codes = {which: code for number, _, which, code in LISTS[lesson] if number == 3}
    assert "It looks as if the majority of a group's pixels decides" in verdict(lesson, 3, codes["the majority"])
    assert "It looks as if every object chooses its own set" in verdict(lesson, 3, codes["each object alone"])
    assert "it uses `oracle`, which is the package's" in verdict(lesson, 3, codes["the package's own functions"])
    twice = verdict(lesson, 3, codes["the majority"])
    assert "Hint 1 of 3" in twice
