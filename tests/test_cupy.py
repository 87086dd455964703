"""The CuPy that is installed has all that the package asks of it: functions, keywords, dtypes. This needs no GPU."""

import ast
import functools
import operator

import cupy_api
import numpy as np
import pytest
from fake_device import FakeArray
from test_fake_training import MODELS, train_and_detect
from tiny_models import tiny_model

from tinymrcnn.files import source_files

ROOTS = {"xp": "", "cupy": "", "gpu": "cuda."}  # how the package calls CuPy, and its parts


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed: pip install -e '.[gpu]', which needs no GPU.")


def lacking(used, has) -> list[str]:
    """What of `used` (see FakeArray.used) there is not. has: as cupy_api.installed() gives it."""
    problems = []
    for name, *keywords, dtype in sorted(used):
        if name not in has:
            problems.append(f"There is no {name}.")
            continue
        known, loops = has[name]
        problems += [f"{name} has no {word}." for word in keywords if word not in known and "*" not in known]
        if loops and dtype and not cupy_api.computes(loops, np.dtype(dtype)):
            problems.append(f"{name} does not compute {dtype}.")
    return problems


def names_in(source: str) -> set[str]:
    """What a file takes from CuPy by name, such as "cuda.Device"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        parts.reverse()
        if isinstance(node, ast.Name) and node.id in ROOTS and parts:
            found.add(ROOTS[node.id] + ".".join(parts))
        elif "module" in parts[:-1] and parts[-1] != "__name__":  # BACKENDS["cuda"].module.cuda
            found.add(".".join(parts[parts.index("module") + 1 :]))
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def missing_names(names, module) -> list[str]:
    missing = []
    for name in sorted(names):
        try:
            operator.attrgetter(name)(module)
        except AttributeError:
            missing.append(name)
    return missing


@functools.cache
def names_of_the_package() -> frozenset[str]:
    return frozenset(name for file in source_files() for name in names_in(file.read_text(encoding="utf-8")))


def test_cupy_has_what_training_and_inference_use(cupy, fake_device):
    for name in ("fpn", "fcis", "mnc, c4", "largest samples", "softmax masks among all classes", "group norm"):
        train_and_detect(tiny_model(**MODELS[name]), "fake")
    train_and_detect(tiny_model(), "fake", dtype=np.float64)
    used = set(FakeArray.used)
    assert len({name for name, *_ in used}) > 50
    assert lacking(used, cupy_api.installed(cupy)) == []


def test_cupy_has_what_the_source_names(cupy):
    names = names_of_the_package()
    assert len(names) > 40 and {"concatenate", "cuda.driver.launchKernel", "cuda.get_current_stream"} <= names
    assert missing_names(names, cupy) == []


def test_the_imitation_knows_this_cupy(cupy):
    version, found = cupy_api.read()
    if cupy.__version__.split(".")[:2] != version.split(".")[:2]:
        pytest.skip(f"The imitation is of CuPy {version}, and {cupy.__version__} is installed.")
    assert found == cupy_api.installed(cupy), "python tests/cupy_api.py writes the file anew."


# That faults are found: without CuPy


def test_what_the_source_names_is_in_the_imitation():
    known = cupy_api.read()[1]
    assert [name for name in names_of_the_package() if "." not in name and name not in known] == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (("nanpercentile", "axis", ""), "There is no nanpercentile."),
        (("ndarray.max", "axis", "initial", ""), "ndarray.max has no initial."),
        (("sum", "axis", "where", ""), "sum has no where."),
        (("add", "where", "float32"), "add has no where."),
        (("exp", "bool"), "exp does not compute bool."),
        (("bitwise_and", "float32"), "bitwise_and does not compute float32."),
        (("maximum", "out", "timedelta64"), "maximum does not compute timedelta64."),
    ],
)
def test_a_planted_fault_is_found(fault, found):
    right = {("add", "out", "float32"), ("ndarray.sum", "axis", "keepdims", ""), ("concatenate", "axis", "")}
    has = cupy_api.read()[1]
    assert lacking(right, has) == [] and lacking(right | {fault}, has) == [found]


def test_a_planted_name_is_found():
    source = """
def f(xp, x):
    return xp.vecdot(x, x), xp.linalg.vecdot(x), x.nothing_of_cupy, BACKENDS["cuda"].module.cuda.Devise().synchronize()
gpu.driver.launch_kernel(1)
"""
    names = names_in(source)
    assert names == {"vecdot", "linalg.vecdot", "cuda.Devise", "cuda.driver.launch_kernel"}
    assert missing_names({"linalg.norm", "stack", "stac", "linalg.norn"}, np) == ["linalg.norn", "stac"]
