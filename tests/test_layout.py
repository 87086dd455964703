"""Feature maps lie channels-last in memory after every operator of the network, forward and backward."""

import functools
import operator

import numpy as np
import pytest
from operator_contract import is_channels_last
from tiny_models import BACKBONES, DETECTORS, RESNEXT, batch_of, scene, tiny_model

from tinymrcnn.autograd.graph import watching
from tinymrcnn.ops import activations, winograd
from tinymrcnn.ops.im2col import Window

VARIANTS = {
    **DETECTORS,
    "c4, bottleneck": dict(**BACKBONES["c4"], block="bottleneck"),
    "extra level": dict(extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,))),
    "frozen norm": dict(norm="frozen"),
    "resnext": RESNEXT,
    "group norm": dict(norm="group"),
    "roi_pool": dict(roi_op="roi_pool"),
    "roi_warp": dict(roi_op="roi_warp"),
    "softmax masks": dict(mask_loss="softmax"),
}
# Four axes too, but no feature maps: they turn maps into lists of anchors, and slices of such lists into gradients.
NO_MAPS = {"permute", "gradient of permute", "gradient of reshape"}


@pytest.fixture
def maps():
    """[(operator, array)]: everything with four axes that an operator of the network made, the gradients too."""
    seen = []

    def look(name, array):
        if array.ndim == 4 and array.size and name not in NO_MAPS:
            seen.append((name, array))

    def watch(name, data, parents, backward):
        @functools.wraps(backward)
        def watched_backward(grad, needs):
            gradients = backward(grad, needs)
            for gradient in gradients:
                if gradient is not None:
                    look(f"gradient of {name}", gradient)
            return gradients

        look(name, data)
        return watched_backward

    with watching(watch):
        yield seen


def wrong(maps):
    return sorted({f"{name} {array.shape}" for name, array in maps if not is_channels_last(array)})


def train_and_detect(model, maps):
    """Runs both; returns the names of the operators that made feature maps."""
    images, targets = batch_of(scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,)))
    batch = model.transform(images, targets)
    assert is_channels_last(batch.images.data)
    assert all(is_channels_last(feature.data) for feature in model.features(batch))
    functools.reduce(operator.add, model(images, targets).values()).backward()
    for name, parameter in model.named_parameters():
        assert is_channels_last(parameter.data) and is_channels_last(parameter.grad), name
    model.eval()(images)
    return {name for name, _ in maps}


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize("name", VARIANTS)
def test_maps_are_channels_last(fake_device, maps, name, device):
    operators = train_and_detect(tiny_model(**VARIANTS[name]).to(device), maps)
    if name == "fcis":  # takes every second channel of its maps, as a view
        maps[:] = [(operator, array) for operator, array in maps if operator != "getitem"]
    assert wrong(maps) == []
    expected = {"conv2d", "max_pool2d"} | (set() if name in ("fcis", "mnc") else {"conv_transpose2d"})
    if name == "group norm":
        expected |= {"group_norm", "relu"}
    elif device == "fake" or name not in ("frozen norm", "resnext"):  # else the filters hold it
        expected |= {"batch_norm"}
    expected |= {{"roi_pool": "roi_pool", "fcis": "ps_roi_pool", "mnc": "roi_crop"}.get(name, "roi_align")}
    if name[:2] not in ("c4", "c5", "fc", "mn"):
        expected |= {"interpolate", "interleave"}
    assert operators >= expected | {f"gradient of {operator}" for operator in expected}


def test_with_winograd_s_convolutions(maps):
    model = tiny_model(fpn_channels=16, mask_layers=(16,), mask_pool=14, rpn_channels=16)
    image = np.zeros((1, 24, 32, 16), np.float32)
    assert winograd.fits(image, len(model.rpn.head.conv[0][0].weight), Window((3, 3), padding=1))
    train_and_detect(model, maps)
    assert wrong(maps) == []


def test_a_map_in_another_order_is_noticed(maps, monkeypatch):
    monkeypatch.setattr(activations, "relu_grad", lambda grad, out: np.ascontiguousarray(out))
    model = tiny_model(norm="group")
    model.features(model.transform([scene(1)[0]]))
    assert {line.partition(" ")[0] for line in wrong(maps)} >= {"relu"}
