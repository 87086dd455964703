"""Tiny is a promise: the path from the arrays to the network stays short enough to be read, and few files know of CUDA
and torch."""

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "tinymrcnn"
CORE = ("backend.py", "kernels.py", "threads.py", "randomness.py", "autograd", "ops", "roi", "boxes", "nn", "models")
RIVALS = {"roi/ps_roi_pool.py", "roi/roi_crop.py"}  # what only FCIS and MNC need is not on the path to Mask R-CNN
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


def test_the_core_stays_under_4000_lines_and_the_package_under_10000():
    files = {path.relative_to(PACKAGE): lines_of_code(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert RIVALS < {path.as_posix() for path in files}
    core = sum(n for path, n in files.items() if path.parts[0] in CORE and path.as_posix() not in RIVALS)
    assert 3000 < core < 4000
    assert core < sum(files.values()) < 10_000


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
    """CuPy, numba.cuda and torch: each known to one place only, so that all else runs without them."""
    allowed = {"cupy": {"backend.py"}, "numba.cuda": {"kernels.py"}, "torch": {"bench"}, "torchvision": {"bench"}}
    for module, places in allowed.items():
        importing = {
            path.relative_to(PACKAGE).parts[0]
            for path in PACKAGE.rglob("*.py")
            if any(f"{name}.".startswith(f"{module}.") for name in imports_of(path.read_text()))
        }
        assert importing == places, module
