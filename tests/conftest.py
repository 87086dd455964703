"""Shared by all tests: the gradient-check fixture with its table, and who is skipped where."""

import importlib.util
import os
import tracemalloc

os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window

import numpy as np
import pytest
from fake_device import fake_device  # noqa: F401  (a fixture, as is the next)
from operator_contract import check_contract  # noqa: F401

from tinymrcnn.autograd import NondifferentiableError, Tensor
from tinymrcnn.autograd.gradcheck import worst_relative_error
from tinymrcnn.backend import cuda_problem, to_device

ATTEMPTS = 5

_worst_errors = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[_worst_errors] = {}


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and (problem := cuda_problem()):
        pytest.skip(problem)
    if item.get_closest_marker("parity"):
        absent = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
        if absent:
            pytest.skip(f"{' and '.join(absent)} not installed: pip install -e '.[parity]'")


@pytest.fixture
def little_memory():
    """Fails a test that takes more than 20 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """The test runs on the CPU and, where there is one, on the GPU."""
    return request.param


@pytest.fixture
def check_gradients(request, device):
    """check_gradients(name, fn, make_inputs, rtol=1e-6): fn's gradients against central differences.

    name: the operator, for the table. fn: takes Tensors, returns one or a tuple of them. make_inputs(rng): the list
    of inputs, float64 leaf Tensors (other things are handed through), moved to the device under test. Draws new
    inputs, up to ATTEMPTS times, where fn has a kink. Returns the worst relative error."""

    def check(name, fn, make_inputs, rtol=1e-6):
        for attempt in range(ATTEMPTS):
            inputs = [_moved(value, device) for value in make_inputs(np.random.default_rng([attempt, 1]))]
            try:
                error = worst_relative_error(fn, inputs, rtol=rtol)
            except NondifferentiableError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                break
        dtype = next(x.dtype for x in inputs if isinstance(x, Tensor) and x.requires_grad)
        worst = request.config.stash[_worst_errors]
        worst[name, str(dtype), device] = max(error, worst.get((name, str(dtype), device), 0.0))
        return error

    return check


def _moved(value, device):
    return Tensor(to_device(value.data, device), value.requires_grad) if isinstance(value, Tensor) else value


def pytest_terminal_summary(terminalreporter, config):
    worst = config.stash[_worst_errors]
    if not worst or "gradcheck" not in config.getoption("markexpr"):
        return
    width = max(len("operator"), *(len(name) for name, _, _ in worst)) + 2
    terminalreporter.section("worst relative error of the gradients")
    terminalreporter.write_line(f"{'operator':<{width}}{'dtype':<10}{'device':<8}worst relative error")
    for (name, dtype, where), error in sorted(worst.items()):
        terminalreporter.write_line(f"{name:<{width}}{dtype:<10}{where:<8}{error:.1e}")
