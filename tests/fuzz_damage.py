"""What the fuzzer (fuzz.py) has in common: what a target is, and how files are damaged.

An example is a description of the damage, a few small tuples, so that it can be printed and repeated.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st


class Lost(Exception):
    """A file that a command has no business with was changed."""


@dataclass(frozen=True)
class Target:
    """prepare(folder) makes the base files and proves that they work; run(context, example) uses a spoilt one, and
    returns the text of an error that the command line told, or None. context.name is what its errors must mention."""

    prepare: Callable[[Path], Any]
    run: Callable[[Any, Any], str | None]
    examples: st.SearchStrategy
    is_command: bool = False


@dataclass
class Context:
    folder: Path
    name: str
    base: Any = None
    more: Any = None


# What is put in place of something else

ODD = [
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 10**4, 10**7, 10**9, 2**31, 2**63, 2**70, 10**400,
    0.5, 1.5, 64.0, -0.0, 1e-30, 1e30, 1e308, -1e308, float("nan"), float("inf"),
    "", "0", "64", "a", "abc", "1e3", "\ud800", "\x1b[2J\r\n", "../../x", "/dev/null", "x" * 3000,
    [], {}, [[]], [None], [0], [1, 2], [1, 2, 3, 4], [10, 10, 20, 20, 30, 10], [[1, 2], [3, 4]], [[5, 5, 9, 5, 9, 9]],
    [0] * 300, {"size": [32, 48], "counts": [1536]}, {"size": [32, 48], "counts": "0"},
]  # fmt: skip
NUMBERS = st.integers(-3, 300) | st.integers() | st.floats()
VALUES = st.sampled_from(ODD) | NUMBERS | st.text(max_size=6) | st.lists(NUMBERS, max_size=6)
PLACES = st.integers(0, 10**6)
KINDS = st.sampled_from(["set", "set", "set", "delete", "double", "swap"])
JSON_EDITS = st.lists(st.tuples(KINDS, PLACES, VALUES), max_size=3)
BYTES = st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(4), b"\x7f\xff\xff\xff"])
BYTE_KINDS = st.sampled_from(["set", "set", "set", "insert", "delete", "cut", "repeat"])
BYTE_EDITS = st.lists(st.tuples(BYTE_KINDS, st.floats(0, 1, exclude_max=True), BYTES), max_size=4)
ARRAY_KINDS = ["nan", "inf", "f2", "f8", "c8", "i4", "U3", "?", "O", "T", "flat", "half", "gone", "huge"]
ARRAY_EDITS = st.lists(st.tuples(PLACES, st.sampled_from(ARRAY_KINDS)), max_size=1)


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from paths_of(value[key], (*path, key))


done: list[str] = []  # what was done to the last example, in words; fuzz.py prints it with a fault


def spoil_json(value, edits):
    """A copy of what JSON can hold with some of its parts replaced, left out, doubled or exchanged."""
    root = [copy.deepcopy(value)]
    for kind, place, new in edits:
        paths = list(paths_of(root))[1:]
        path, other = paths[place % len(paths)], paths[place * 7 % len(paths)]
        detail = {"set": new, "swap": list(other[1:])}.get(kind, "")
        done.append(f"{kind} {'.'.join(map(str, path[1:]))} {detail!a:.60}")
        parent = root
        for key in path[:-1]:
            parent = parent[key]
        if kind == "set":
            parent[path[-1]] = copy.deepcopy(new)
        elif kind == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif kind == "swap":
            found = root
            for key in other:
                found = found[key]
            parent[path[-1]] = copy.deepcopy(found)
        elif len(path) > 1:
            del parent[path[-1]]
    return root[0]


def spoil_bytes(content: bytes, edits) -> bytes:
    for kind, where, data in edits:
        place = int(where * len(content))
        done.append(f"{kind} byte {place} {data!r}")
        match kind:
            case "set":
                content = content[:place] + data + content[place + len(data) :]
            case "insert":
                content = content[:place] + data + content[place:]
            case "delete":
                content = content[:place] + content[place + len(data) :]
            case "cut":
                content = content[:place]
            case "repeat":
                content = content[:place] + content[place // 2 :]
    return content


def spoil_arrays(arrays: dict, edits) -> dict:
    arrays = dict(arrays)
    for place, kind in edits:
        name = list(arrays)[place % len(arrays)]
        done.append(f"array {name}: {kind}")
        array = np.array(arrays[name])
        if kind in ("nan", "inf"):
            arrays[name] = np.full_like(array, float(kind)) if array.dtype.kind == "f" else array
        elif kind == "gone":
            del arrays[name]
        elif kind == "huge":
            arrays[name] = np.full(array.shape, 3e38, np.float32)
        elif kind in ("T", "flat", "half"):
            arrays[name] = {
                "T": array.T,
                "flat": array.ravel(),
                "half": array[: len(array) // 2] if array.ndim else array,
            }[kind]
        elif array.dtype.kind != "U":
            arrays[name] = array.astype(kind)
    return arrays
