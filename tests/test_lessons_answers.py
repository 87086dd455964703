"""What the checks of the lessons say about answers: every wrong one of tests/lesson_answers is refused, and every right
one, in whatever words, accepted. Only cells that an exercise needs are run: those with the tag context and the
check itself."""

import json
import re
import warnings
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "lessons"
ANSWERS = Path(__file__).parent / "lesson_answers"


def cells_of(lesson: str) -> list[tuple[list[str], str]]:
    """The tags and the code of each cell."""
    cells = json.loads((FOLDER / f"{lesson}.ipynb").read_text())["cells"]
    return [(c["metadata"].get("tags", []), "".join(c["source"])) for c in cells if c["cell_type"] == "code"]


def answers() -> list:
    """(lesson, number, "wrong" or "right", code) of all answers, the solutions among them."""
    found = []
    for path in sorted(ANSWERS.glob("*.py")):
        solutions = (FOLDER / "solutions" / path.name).read_text()
        solutions = re.sub(r"^# %% exercise-(\d+)$", r"# %% right-\1: the solution", solutions, flags=re.MULTILINE)
        for text in (path.read_text(), solutions):
            parts = re.split(r"^# %% (wrong|right)-(\d+): (.*)$", text, flags=re.MULTILINE)[1:]
            for kind, number, name, code in zip(*(parts[n::4] for n in range(4)), strict=True):
                found.append(pytest.param(path.stem, int(number), kind, code, id=f"{path.stem[:2]}.{number}-{name}"))
    return found


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """context(lesson): the names that the exercises of a lesson need."""
    kept: dict[str, dict] = {}

    def of(lesson: str) -> dict:
        if lesson not in kept:
            kept[lesson] = {}
            for tags, code in cells_of(lesson):
                if "context" in tags:
                    exec(code, kept[lesson])
        return dict(kept[lesson])

    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context():
        patch.chdir(FOLDER)
        patch.syspath_prepend(FOLDER)
        yield of


@pytest.mark.parametrize(("lesson", "number", "kind", "code"), answers())
def test_answers(context, capsys, lesson, number, kind, code):
    names = context(lesson)
    check = next(code for tags, code in cells_of(lesson) if f"check-{number}" in tags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a wrong answer may cause
        exec(code, names)
        exec(check, names)
    said = capsys.readouterr().out
    assert re.search(rf"^Exercise {number}: (right|not yet|still empty)", said, flags=re.MULTILINE)[1] in (
        ("right",) if kind == "right" else ("not yet", "still empty")
    ), said


@pytest.mark.parametrize("path", sorted(ANSWERS.glob("*.py")), ids=lambda path: path.stem)
def test_every_exercise_has_wrong_answers(path):
    exercises = {tag for tags, _ in cells_of(path.stem) for tag in tags if tag.startswith("exercise-")}
    text = path.read_text()
    assert {
        f"exercise-{number}" for number in re.findall(r"^# %% wrong-(\d+): ", text, flags=re.MULTILINE)
    } == exercises
