"""A fused model detects what the plain one does, and nobody can change it."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest
from tiny_models import DETECTORS, RESNEXT, batch_of, scene, tiny_model

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.models.fuse import fused
from tinymrcnn.nn import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm
from tinymrcnn.ops import products

ROOT = Path(__file__).resolve().parent.parent
IMAGES, TARGETS = batch_of(scene(1), scene(2, (40, 72), ((5, 6, 30, 30),), (3,)))
KINDS = {**DETECTORS, "frozen": dict(norm="frozen"), "group": dict(norm="group"), "resnext": RESNEXT}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_detections(kind):
    model = tiny_model(dtype=np.float64, score_threshold=0.0, **KINDS[kind]).eval()
    for found, expected in zip(fused(model).detect(IMAGES), model.detect(IMAGES), strict=True):
        assert len(expected["boxes"]) > 0 and np.array_equal(found["labels"], expected["labels"])
        for name in ("boxes", "scores", "masks"):
            assert np.allclose(found[name], expected[name], rtol=1e-9, atol=1e-9), name


def test_in_float32_and_for_every_image_again():
    model = tiny_model(seed=3, widths=(16, 16, 32, 32), stem_width=16).eval()  # wide enough for Winograd
    constant = fused(model)
    image = Tensor(np.random.default_rng(0).random((1, 3, 96, 128), np.float32))
    with no_grad():
        expected = model.backbone.body(image)
        for _ in range(2):  # the second time with what was kept
            for ours, theirs in zip(constant.backbone.body(image), expected, strict=True):
                assert np.abs(ours.data - theirs.data).max() < 1e-4 * np.abs(theirs.data).max()


def test_what_is_constant_moves_into_the_filters():
    model = tiny_model(norm="frozen")
    constant = fused(model)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, BatchNorm2d | FrozenBatchNorm2d) for module in constant.modules())
    assert all(module.bias is not None for module in constant.modules() if isinstance(module, Conv2d))
    of_images = fused(tiny_model(norm="group"))  # it depends on the image
    assert any(isinstance(module, GroupNorm) for module in of_images.modules())


def test_the_model_itself_stays_as_it_is():
    model = tiny_model().train()
    state, losses = model.state_dict(), model.losses(IMAGES, TARGETS)
    fused(model)
    assert model.training and {name: loss.item() for name, loss in losses.items()} == {
        name: loss.item() for name, loss in model.losses(IMAGES, TARGETS).items()
    }
    assert all(np.array_equal(state[name], array) or "running" in name for name, array in model.state_dict().items())
    next(model.parameters()).data[...] = 0


def bytes_per_weight(model):
    """Of the weights and what is kept of them, counted from the arrays."""
    arrays = {id(parameter.data): parameter.data for parameter in model.parameters()}
    forms = [form for (of, *_), form in products._kept.items() if of in arrays]
    return sum(array.nbytes for array in [*arrays.values(), *forms]) / sum(array.size for array in arrays.values())


def test_the_memory_it_holds():
    """What meets many pixels is there once, as it is; what meets few also in the forms that products need."""
    model = fused(tiny_model(widths=(16, 16, 32, 32), stem_width=16)).backbone
    with no_grad():
        model.fpn(model.body(Tensor(np.zeros((1, 3, 928, 960), np.float32))))
        assert bytes_per_weight(model) == 4
        model.fpn(model.body(Tensor(np.zeros((1, 3, 96, 128), np.float32))))
    assert 5 < bytes_per_weight(model) < 24  # with panels (4) and Winograd's transform (16) of all of them


def test_nobody_can_change_it():
    constant = fused(tiny_model())
    assert not constant.training and not any(parameter.requires_grad for parameter in constant.parameters())
    for parameter in constant.parameters():
        with pytest.raises(ValueError, match="read-only"):
            parameter.data += 1


def test_on_a_device(device):
    model = tiny_model().to(device).eval()
    for found, expected in zip(fused(model).detect(IMAGES), model.detect(IMAGES), strict=True):
        assert np.allclose(found["scores"], expected["scores"], atol=1e-5)


DETECT = """
import hashlib, numpy as np
from tinymrcnn.commands.predict import SHIPPED_MODEL, load_predictor
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models.fuse import fused
model, seen = fused(load_predictor(SHIPPED_MODEL, None)), hashlib.sha256()
for index in range(3):
    for found in model.detect([ShapesDataset(3, seed=3)[index][0]]):
        assert len(found["boxes"]) > 0
        for name in sorted(found):
            seen.update(np.ascontiguousarray(found[name]).tobytes())
print(seen.hexdigest())
"""


@pytest.mark.exhaustive
def test_the_same_bits_on_other_cpus():
    """With AVX2 and whatever this CPU has beyond it, and with other kernels of BLAS."""
    has = llvmlite.binding.get_host_cpu_features()
    if not (has.get("avx2") and has.get("fma")):
        pytest.skip("this CPU has no AVX2")
    avx2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2,+bmi,+bmi2"}
    said = set()
    for settings in ({}, avx2, {"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Nehalem"}):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
        done = subprocess.run([sys.executable, "-c", DETECT], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1
