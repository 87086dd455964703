"""What CuPy has: its functions, their keywords, and the dtypes of its elementwise ones.

tests/cupy_api.txt holds this of one version, a line for each function, so that the imitation in fake_device.py knows no
more than CuPy where none is installed:

    maximum(out, dtype, casting) bb->b ff->f ...      elementwise, with its loops, as NumPy writes them
    clip(a, a_min, a_max, out)                        any other function
    ndarray.argsort(axis, kind)                       a method
    float32(*)                                        a class

    python tests/cupy_api.py      writes the file anew, from the CuPy that is installed; this needs no GPU
"""

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_suffix(".txt")
ANYTHING = frozenset(["*"])
PARTS = ("", "linalg.", "lib.stride_tricks.")  # the modules of CuPy that are described


class Function(NamedTuple):
    """keywords: its arguments by name, or {"*"} where any can be given. loops: of an elementwise function, such as
    "ff->f"."""

    keywords: frozenset[str]
    loops: frozenset[str] = frozenset()


def installed(cupy) -> dict[str, Function]:
    """What this CuPy has."""
    found = {}
    for part in PARTS:
        module = cupy
        for name in part.split(".")[:-1]:
            module = getattr(module, name)
        for name in dir(module):
            value = getattr(module, name)
            if callable(value) and not (name.startswith("_") or isinstance(value, ModuleType)):
                found[part + name] = Function(ANYTHING) if isinstance(value, type) else _described(value)
    for name in dir(cupy.ndarray):
        if not name.startswith("_") and callable(value := getattr(cupy.ndarray, name)):
            found[f"ndarray.{name}"] = _described(value)
    return found


def _described(function) -> Function:
    if hasattr(function, "types"):
        return Function(frozenset(("out", "dtype", "casting")), frozenset(function.types))
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # compiled: the first line of its documentation tells, "name(self, axis=None, int n=0) -> ..."
        text = re.search(r"\((.*)\)", (function.__doc__ or "").strip().partition("\n")[0])
        names = [part.partition("=")[0].split()[-1] for part in text[1].split(",") if part.strip()] if text else ["*"]
    else:
        names = ["*" if p.kind is p.VAR_KEYWORD else p.name for p in parameters]
    return Function(frozenset(name for name in names if name not in ("self", "/")))


def computes(loops, dtype) -> bool:
    """Whether one of the loops gives this dtype."""
    return any(np.dtype(letter) == dtype for loop in loops for letter in loop.partition("->")[2])


def read() -> tuple[str, dict[str, Function]]:
    """(version, functions) of the file."""
    version, *lines = FILE.read_text().splitlines()
    found = {}
    for line in lines:
        name, keywords, loops = re.fullmatch(r"([\w.]+)\((.*?)\)(.*)", line).groups()
        found[name] = Function(frozenset(keywords.split(", ")) - {""}, frozenset(loops.split()))
    return version, found


def write(version: str, found: dict[str, Function]) -> None:
    lines = [
        f"{name}({', '.join(sorted(function.keywords))}) {' '.join(sorted(function.loops))}".strip()
        for name, function in sorted(found.items())
    ]
    FILE.write_text("\n".join([version, *lines]) + "\n")


if __name__ == "__main__":
    import cupy

    write(cupy.__version__, installed(cupy))
