"""Shared by all tests: the gradient-check fixture with its table, who is skipped where, what `-m quick` runs, and how
pytest-xdist shares the tests out."""

import importlib.util
import os
import tracemalloc

os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window

import numpy as np
import pytest
from fake_device import fake_device, gpu  # noqa: F401  (fixtures, as is the next)
from operator_contract import check_contract  # noqa: F401

from tinymrcnn.autograd import NondifferentiableError, Tensor
from tinymrcnn.autograd.gradcheck import worst_relative_error
from tinymrcnn.backend import cuda_problem, to_device

ATTEMPTS = 5
MAX_PROCESSES = 4

# What `-m quick` runs, beginning with tests/test_: whole files that take no time, and of the others some tests
QUICK = """
    first tiny.py augment boxes_ data_statistics images loader models_box_branch models_mask_branch models_pooler
    models_resnet_fpn models_rpn models_transform nn optim
    ops_activations ops_losses ops_normalization ops_pooling roi_warp schedule
    autograd.py::test_gradients  autograd.py::test_a_diamond  autograd.py::test_a_second_backward
    backend.py::test_like_arrays  backend.py::test_scatter_add  backend.py::test_the_cpu_kernel
    bench.py::test_a_row_holds  bench.py::test_bench_prints  bench.py::test_profile_writes bench.py::test_resident
    checkpoint.py::test_everything_comes_back  checkpoint.py::test_truncated
    cli.py::test_train_writes  cli.py::test_evaluate_shapes  cli.py::test_data_shapes  cli.py::test_doctor_has
    coco.py::test_the_three_forms  coco.py::test_images_and_targets  coco.py::test_written_and_read_back
    formats.py::test_the_same_objects  formats.py::test_a_label_image  own_data.py::test_a_fifth
    draw.py::test_instances_lie  draw.py::test_curves_show  draw.py::test_describe
    evaluation.py::test_a_worked_example  evaluation.py::test_a_perfect_model
    export.py::test_an_image_without  export.py::test_images_are
    evaluation_errors.py::test_one_of_each  evaluator.py::test_random_cases_are_equal[1]
    fake_training.py::test_on_the_fake_device[fpn-  finetuning.py::test_a_checkpoint_brings
    freezing.py::test_the_network_computes  gradcheck.py::test_a_planted_bug  layout.py::test_maps_are_channels_last[fpn
    models_config.py::test_unknown_names  models_config.py::test_impossible  models_degenerate.py::test_no_samples
    models_gradcheck.py::test_a_planted_bug  models_mask_rcnn.py::test_the_steps  models_presets.py::test_the_presets
    models_presets.py::test_the_models_command  models_samples.py::test_frozen_samples
    nms.py::test_by_hand  nms.py::test_golden  ops_convolution.py::test_conv2d_equals_the_definition
    ops_convolution.py::test_gradients_of_conv2d  ops_resize.py::test_values  ops_resize.py::test_gradients
    prediction.py::test_names  prediction.py::test_what_is_found  roi_align.py::test_known_values
    roi_align.py::test_gradients  roi_pool.py::test_by_hand  roi_pool.py::test_gradients  shapes.py::test_form
    shapes.py::test_boxes_and_areas
    threads.py::test_every_piece  threads.py::test_matmul  training.py::test_it_learns
    training.py::test_the_log_has  weights_pickles.py::test_plain_values  weights_pickles.py::test_a_foreign_object
    weights_public.py::test_torchvision  weights_public.py::test_a_trap  weights_torch_files.py::test_tensors
    winograd.py::test_against_the_definition
""".split()

_worst_errors = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[_worst_errors] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """How many processes share the tests: one a core, at most MAX_PROCESSES. Where files are named only this one runs
    them, so that a debugger works and what a test prints is seen at once."""
    if any(".py" in argument for argument in config.args):
        return 0
    return min(os.cpu_count() or 1, MAX_PROCESSES)


@pytest.hookimpl(tryfirst=True)  # before those without a mark are left out
def pytest_collection_modifyitems(items):
    for item in items:
        slow = any(item.get_closest_marker(name) for name in ("cuda", "exhaustive", "fuzz", "lessons", "parity"))
        if not slow and any(item.nodeid.startswith(f"tests/test_{prefix}") for prefix in QUICK):
            item.add_marker("quick")


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


def pytest_sessionfinish(session):
    """A process of pytest-xdist hands its part of the table to the one that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worst_errors"] = list(session.config.stash[_worst_errors].items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    worst = node.config.stash[_worst_errors]
    for key, error in getattr(node, "workeroutput", {}).get("worst_errors", ()):
        worst[tuple(key)] = max(error, worst.get(tuple(key), 0.0))


def pytest_terminal_summary(terminalreporter, config):
    worst = config.stash[_worst_errors]
    if not worst or "gradcheck" not in config.getoption("markexpr"):
        return
    width = max(len("operator"), *(len(name) for name, _, _ in worst)) + 2
    terminalreporter.section("worst relative error of the gradients")
    terminalreporter.write_line(f"{'operator':<{width}}{'dtype':<10}{'device':<8}worst relative error")
    for (name, dtype, where), error in sorted(worst.items()):
        terminalreporter.write_line(f"{name:<{width}}{dtype:<10}{where:<8}{error:.1e}")
