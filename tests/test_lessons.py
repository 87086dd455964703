"""The lessons: each runs from top to bottom with its solutions and, where it uses a device, on an imitation of a GPU
(how it runs as it is, its stored outputs show), and is whole: links, exercises, summary, outputs. What executes them
carries the marker `lessons`; the rest reads the files and runs in plain pytest."""

import ast
import functools
import json
import re
import textwrap
import urllib.parse
from pathlib import Path

import pytest

from tinymrcnn.files import source_files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "lessons"
COURSE = (
    "00_start_here", "01_autograd", "02_convolution", "03_backbone", "04_fpn", "05_rpn", "06_roi_pool", "07_roi_align",
    "08_box_branch", "09_mask_branch", "10_training", "11_inference", "12_average_precision", "13_the_article_on_trial",
    "14_who_owns_this_pixel", "15_photographs", "16_gpu", "17_your_own_data",
)  # fmt: skip
LARGEST = 700_000  # bytes
CELL_SECONDS = 600  # a cell that takes longer hangs

every_lesson = pytest.mark.parametrize("lesson", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


def test_the_course_is_complete():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(COURSE)
    assert sorted(path.stem for path in (FOLDER / "solutions").glob("[0-9]*.py")) == list(COURSE)


# Reading them --------------------------------------------------------------------------------------------


def cells_of(lesson: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(lesson.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell) -> str:
    return "".join(cell["source"])


def prose(lesson: Path) -> str:
    return "\n\n".join(source(cell) for cell in cells_of(lesson, "markdown"))


def tag(cell, kind: str) -> int | None:
    """The N of a cell with the tag `kind`-N."""
    numbers = [name.removeprefix(f"{kind}-") for name in cell["metadata"].get("tags", []) if name.startswith(kind)]
    return int(numbers[0]) if numbers else None


def printed(cell, stream: str = "stdout") -> str:
    return "".join("".join(out["text"]) for out in cell["outputs"] if out.get("name") == stream)


@functools.cache
def functions_of_the_package() -> dict[str, list[list[str]]]:
    """{name: the lines of each function of this name}, methods too."""
    found: dict[str, list[list[str]]] = {}
    for path in source_files():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                found.setdefault(node.name, []).append(words("\n".join(lines)))
    return found


def words(code: str) -> list[str]:
    """The lines of a piece of code without blank ones, indentation and the numbers that a lesson prints before them."""
    lines = (re.sub(r"^\s*\d+\s", "", line).strip() for line in textwrap.dedent(code).splitlines())
    return [line for line in lines if line]


def solutions_of(lesson: Path) -> dict[int, str]:
    """{1: the code that replaces the cell exercise-1, ...}"""
    text = (FOLDER / "solutions" / f"{lesson.stem}.py").read_text()
    parts = re.split(r"^# %% exercise-(\d+)$", text, flags=re.MULTILINE)[1:]
    return {int(number): code.strip("\n") for number, code in zip(parts[::2], parts[1::2], strict=True)}


def links_of(lesson: Path) -> list[str]:
    """Where the links and pictures of its prose lead, code and formulas left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", prose(lesson), flags=re.DOTALL)
    found = re.findall(r"\]\(\s*<?([^()\s>]+)>?[^()]*\)", text) + re.findall(r"(?:href|src)\s*=\s*[\"']([^\"']+)", text)
    return [urllib.parse.unquote(link) for link in found]


def problem_with(link: str, lesson: Path) -> str | None:
    if re.match(r"https?://|attachment:|data:", link):
        return None
    file, _, anchor = link.partition("#")
    target = (FOLDER / file).resolve() if file else lesson
    if not target.exists() or not target.is_relative_to(ROOT):
        return f"{link}: there is no such file"
    if anchor and target.suffix == ".ipynb":
        headings = re.findall(r"^#+ +(.*?) *$", prose(target), flags=re.MULTILINE)
        if anchor.lower() not in (heading.replace(" ", "-").lower() for heading in headings):
            return f"{link}: there is no such heading"
    elif anchor and not re.fullmatch(r"L\d+", anchor):
        return f"{link}: only lessons have headings to link to"
    elif anchor and int(anchor[1:]) > len(target.read_text().splitlines()):
        return f"{link}: the file has no such line"
    return None


@every_lesson
def test_code_that_is_printed_is_that_of_the_package(lesson):
    """A stored output shows a function as it was when the lesson was executed."""
    for cell in cells_of(lesson, "code"):
        text = printed(cell)
        for match in re.finditer(r"^ *(?:\d+ )? *def (\w+)\(", text, re.MULTILINE):
            shown, known = words(text[match.start() :]), functions_of_the_package().get(match.group(1), [])
            assert not known or any(shown[: len(lines)] == lines for lines in known), match.group(1)


@every_lesson
def test_every_link_leads_somewhere(lesson):
    links = links_of(lesson)
    assert links  # to the code and to the neighbours at least
    assert [problem for link in links if (problem := problem_with(link, lesson))] == []


@every_lesson
def test_a_lesson_links_to_its_neighbours(lesson):
    at = COURSE.index(lesson.stem)
    links = {link.partition("#")[0] for link in links_of(lesson)}
    assert {f"{name}.ipynb" for name in COURSE[max(0, at - 1) : at + 2] if name != lesson.stem} <= links


@every_lesson
def test_exercises_checks_and_solutions_belong_together(lesson):
    cells = cells_of(lesson, "code")
    exercises = {tag(cell, "exercise"): place for place, cell in enumerate(cells) if tag(cell, "exercise")}
    checks = {tag(cell, "check"): place for place, cell in enumerate(cells) if tag(cell, "check")}
    assert list(exercises) == list(range(1, len(exercises) + 1)) and 3 <= len(exercises) <= 8
    assert checks == {number: place + 1 for number, place in exercises.items()}
    solutions = solutions_of(lesson)
    assert list(solutions) == list(exercises)
    for number, place in exercises.items():
        compile(solutions[number], f"solution {number}", "exec")
        assert solutions[number] != source(cells[place])


@every_lesson
def test_title_summary_and_exercises(lesson):
    text = prose(lesson)
    assert text.startswith(f"# {lesson.stem[:2]} ")
    assert text.count("\n## Summary\n") + text.count("\n## Exercises\n") == 2
    summary = re.split(r"^#+ ", text.partition("\n## Summary\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert len(re.findall(r"^[-*] ", summary, flags=re.MULTILINE)) == 4


@every_lesson
def test_outputs_are_committed(lesson):
    assert lesson.stat().st_size < LARGEST
    for cell in cells_of(lesson, "code"):
        assert cell["execution_count"], f"not executed: {source(cell)[:80]}"
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert not warnings_in(printed(cell, "stderr"))
        if "print(" in source(cell) and "def " not in source(cell):
            assert cell["outputs"], f"prints nothing: {source(cell)[:80]}"
        if number := tag(cell, "check"):
            assert verdicts(printed(cell), number) == {"still empty"}


@every_lesson
def test_a_caption_stands_below_every_figure(lesson):
    """In italics, at the beginning of the next text: the site gives it to screen readers in the figure's place."""
    cells = json.loads(lesson.read_text())["cells"]
    for at, cell in enumerate(cells):
        if any(kind.startswith("image/") for output in cell.get("outputs", ()) for kind in output.get("data", ())):
            below = next(source(other) for other in cells[at + 1 :] if other["cell_type"] == "markdown")
            caption = below.partition("\n\n")[0].strip()
            assert re.fullmatch(r"\*[^*].{20,}[^*]\*", caption, re.DOTALL), f"{source(cell)[:60]} ... {below[:60]}"


@every_lesson
def test_no_path_of_one_machine(lesson):
    texts = [prose(lesson), *map(source, cells_of(lesson, "code"))]
    for output in (output for cell in cells_of(lesson, "code") for output in cell["outputs"]):
        shown = {"": output.get("text", []), **output.get("data", {})}
        texts += ["".join(text) for kind, text in shown.items() if not kind.startswith("image/")]
    assert [
        path for text in texts for path in re.findall(r"(?<![\w./-])/(?:home|root|tmp|opt|work|Users)/\S*", text)
    ] == []


# Executing them ------------------------------------------------------------------------------------------


def warnings_in(text: str) -> list[str]:
    """The lines that warn, but for what other packages say about their own future."""
    return [
        line
        for line in text.splitlines()
        if "Warning" in line and not ("DeprecationWarning" in line and "site-packages" in line)
    ]


def verdicts(said: str, number: int) -> set[str]:
    """What a check cell says about its exercise: still empty, right, or not yet."""
    return set(re.findall(rf"^Exercise {number}: (still empty|right|not yet)", said, flags=re.MULTILINE))


@pytest.fixture
def execute(monkeypatch):
    """execute(lesson, solutions, first, last) -> {number: what check number says}; no cell may fail or warn. `first`
    and `last`: lines before the first cell and a cell behind the last one."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient not installed: pip install -e '.[lessons]'")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.delenv("MPLBACKEND")  # figures go into the notebook

    def run(lesson, solutions, first="", last="") -> dict[int, str]:
        notebook = nbformat.read(lesson, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell in cells:
            cell.source = solutions.get(tag(cell, "exercise"), cell.source)
        cells[0].source = f"{first}\n{cells[0].source}"
        notebook.cells.append(nbformat.v4.new_code_cell(last))
        nbclient.NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": FOLDER}}).execute()
        assert [line for cell in cells for line in warnings_in(printed(cell, "stderr"))] == []
        return {tag(cell, "check"): printed(cell) for cell in cells if tag(cell, "check")}

    return run


@pytest.mark.lessons
@every_lesson
def test_the_solutions_are_right(lesson, execute):
    for number, said in execute(lesson, solutions_of(lesson)).items():
        assert verdicts(said, number) == {"right"}, said


ON_THE_FAKE_DEVICE = """
import sys
sys.path.append("../tests")
import fake_device
fake_device.install("fake")
from tinymrcnn import backend
backend.resolve_device = lambda device, resolve=backend.resolve_device: "fake" if device == "auto" else resolve(device)
"""


# They train: each step is some 1,100 launches, of which the imitation takes every one apart. test_gpu.py trains there
LONG_TRAINING = ("09_mask_branch", "10_training", "15_photographs", "17_your_own_data")
WITHOUT_A_NETWORK = ("01_autograd", "02_convolution")  # they use no device


@pytest.mark.lessons
@every_lesson
def test_a_lesson_uses_the_device_that_is_there(lesson, execute):
    if lesson.stem in LONG_TRAINING:
        pytest.skip("its training takes more than five minutes on the imitation")
    if lesson.stem in WITHOUT_A_NETWORK:
        pytest.skip("it uses no device")
    used = "assert fake_device.FakeArray.copies > 0"
    for number, said in execute(lesson, solutions_of(lesson), ON_THE_FAKE_DEVICE, used).items():
        assert verdicts(said, number) == {"right"}, said
