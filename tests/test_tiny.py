"""Tiny is a promise: the path from the arrays to the network stays short enough to be read, imports run one way, and
few files know of CUDA and torch."""

import ast
import io
import tokenize
from pathlib import Path

from conftest import QUICK

import tinymrcnn
from tinymrcnn.files import source_files

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "tinymrcnn"
CORE = ("backend.py", "kernels.py", "threads.py", "randomness.py", "autograd", "ops", "roi", "boxes", "nn", "models")
# The rivals FCIS and MNC with their votes for masks and their RoI operators; tables and tools: presets, counting, the
# check of gradients, second looks, what saves time in training and after it, what guards the memory while a file is
# loaded; the instructions of a CPU
RIVALS = {"fcis.py", "mnc.py", "voting.py", "ps_roi_pool.py", "roi_crop.py", "roi_warp.py"}
BESIDE = {
    *RIVALS,
    "presets.py",
    "cost.py",
    "gradcheck.py",
    "test_time.py",
    "few_anchors.py",
    "fuse.py",
    "allowance.py",
    "micro_kernel.py",
}

# The rooms, the ground floor first: a room imports from its own floor and from those above it in this list
FLOORS = [
    "files machine stopping archives safetensors settings",
    "backend",
    "kernels threads",
    "randomness",
    "data",
    "autograd",
    "ops",
    "roi",
    "boxes",
    "nn",
    "models",
    "weights",
    "draw evaluation export",
    "training",
    "experiments bench mine",
    "commands",
    "cli",
    "__main__",
]
LAYOUT = {getattr(tokenize, name) for name in "COMMENT NL NEWLINE INDENT DEDENT ENDMARKER ENCODING".split()}


def lines_of_code(text: str) -> int:
    """How many lines hold code: no blank ones, comments and docstrings."""
    of_code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            of_code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            of_code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(of_code)


def test_what_counts_as_code():
    assert lines_of_code('"""What\nit is."""\n\nx = (1,\n     2)  # two\n') == 2
    assert lines_of_code('# One\n\n\ndef f():\n    """F."""\n    return x\n') == 2


def test_a_file_can_be_read_in_one_sitting():
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files(PACKAGE)}
    assert lengths and {path: length for path, length in lengths.items() if length > 400} == {}


def test_the_core_stays_under_4000_lines():
    files = [path for path in source_files() if path.relative_to(PACKAGE).parts[0] in CORE]
    core = sum(lines_of_code(path.read_text(encoding="utf-8")) for path in files if path.name not in BESIDE)
    assert 3000 < core < 4000


def imports_of(text: str) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_who_may_import_what():
    """CuPy, numba.cuda, torch and onnx: each known to one place only, so that all else runs without them."""
    allowed = {"cupy": {"backend.py"}, "numba.cuda": {"kernels.py"}, "torch": {"bench"}, "torchvision": {"bench"},
               "onnx": {"export"}}  # fmt: skip
    for module, places in allowed.items():
        importing = {
            path.relative_to(PACKAGE).parts[0]
            for path in source_files()
            if any(f"{name}.".startswith(f"{module}.") for name in imports_of(path.read_text(encoding="utf-8")))
        }
        assert importing == places, module


def modules() -> dict[str, ast.Module]:
    """Every file of the package by the name under which it is imported, but the package's own door, which imports
    nothing until a name is used."""
    found = {}
    for path in source_files():
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    del found["tinymrcnn"]
    return found


def import_graph() -> dict[str, set[str]]:
    """Which files each file imports, within functions too; not what only type checkers read."""
    trees = modules()
    graph = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {part if part in trees else node.module for part in whole}
        graph[name] = imported & trees.keys()
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names along one circle of the graph; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if found := walk(other, [*way, name]):
                    return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_files_import_each_other():
    assert circle(import_graph()) == []


def test_imports_run_one_way():
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
    for name, imported in import_graph().items():
        room = name.split(".")[1]
        assert room in floors, f"On which floor is {room}?"
        back = {other for other in imported if floors[other.split(".")[1]] > floors[room]}
        assert not back, f"{name} imports what is built on it: {back}"


def test_every_room_is_a_name_of_the_package():
    rooms = {name.split(".")[1] for name in modules()} - {"__main__"}
    assert rooms <= set(tinymrcnn.__all__) and tinymrcnn._HOMES.keys() <= set(tinymrcnn.__all__)
    for name in tinymrcnn.__all__:
        assert getattr(tinymrcnn, name).__name__.removeprefix("tinymrcnn.") == name
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    checkers = next(node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    assert {alias.name for node in checkers.body for alias in node.names} == set(tinymrcnn.__all__)


def test_every_quick_test_is_there():
    """Each entry of the list in conftest.py is the beginning of a test that exists."""
    names = []
    for path in TESTS.glob("test_*.py"):
        functions = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")]
        names += [f"{path.name}::{function}" for function in functions]
    for entry in QUICK:
        assert any(name.startswith(f"test_{entry.split('[')[0]}") for name in names), entry
