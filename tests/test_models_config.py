"""The switches of the model and of training: what they change, and which are refused."""

import dataclasses

import numpy as np
import pytest
from tiny_models import C4, TINY

from tinymrcnn.models import Config, MaskRCNN, TrainConfig, build_model
from tinymrcnn.models.config import replace


def test_unknown_names():
    with pytest.raises(ValueError, match="no preset 'shape'.*shapes, shapes_c4, shapes_c5"):
        build_model("shape")
    with pytest.raises(ValueError, match="no field 'mask_los'. Did you mean 'mask_loss'.*num_classes.*mask_layers"):
        build_model("shapes", mask_los="softmax")
    with pytest.raises(ValueError, match="no field 'xyzzy'. Its fields are: steps"):
        replace(TrainConfig(), xyzzy=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(backbone="c3"), "backbone is 'c3'; it must be one of 'fpn', 'c4', 'c5'"),
        (dict(block="wide"), "block is 'wide'"),
        (dict(norm=None), "norm is None"),
        (dict(roi_op="roi_crop"), "roi_op is 'roi_crop'"),
        (dict(mask_loss="dice"), "mask_loss is 'dice'"),
        (dict(anchor_order="random"), "anchor_order is 'random'"),
        (dict(num_classes=1), "num_classes is 1; it counts the background"),
        (dict(class_agnostic_masks=True, mask_loss="softmax"), "class-agnostic mask has no classes to compete"),
        (dict(extra_level=True), "'fpn' has 5 levels, but anchor_sizes names 4"),
        (dict(backbone="c4"), "'c4' has 1 levels, but anchor_sizes names 4"),
        (dict(anchor_sizes=((8,), (16,), (32,), (0,))), r"sizes\[3\] must be a tuple of positive numbers"),
    ],
)
def test_impossible_switches(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model("shapes", **overrides)


def test_impossible_training():
    with pytest.raises(ValueError, match="optimizer is 'lion'"):
        TrainConfig(optimizer="lion")
    with pytest.raises(ValueError, match="steps is 0"):
        TrainConfig(steps=0)


def test_a_config_builds_the_same_model_as_its_preset():
    config = replace(Config(), **TINY, num_classes=3)
    models = build_model("shapes", 3, seed=4, **TINY), build_model(config, seed=4), MaskRCNN(config, 4)
    assert models[0].config == models[1].config == config
    assert dataclasses.asdict(config)["num_classes"] == 3
    for name, array in models[0].state_dict().items():
        assert all(np.array_equal(array, model.state_dict()[name]) for model in models[1:])
    other = build_model(config, seed=5).state_dict()
    assert not np.array_equal(other["backbone.body.conv1.weight"], models[0].backbone.body.conv1.weight.data)


def test_switches_change_the_shape_of_the_heads():
    def shapes(**overrides):
        return {name: p.shape for name, p in build_model("shapes", **{**TINY, **overrides}).named_parameters()}

    logits, cls, reg = (
        f"roi_heads.{name}.weight"
        for name in ("mask_predictor.mask_fcn_logits", "box_predictor.cls_score", "box_predictor.bbox_pred")
    )
    default = shapes()
    assert (default[logits], default[cls], default[reg]) == ((6, 4, 1, 1), (6, 8), (24, 8))
    assert shapes(class_agnostic_masks=True)[logits] == (1, 4, 1, 1)
    assert shapes(num_classes=3)[logits] == (3, 4, 1, 1) and shapes(num_classes=3)[reg] == (12, 8)
    assert shapes(aspect_ratios=(1.0, 2.0))["rpn.head.bbox_pred.weight"] == (8, 8, 1, 1)
    assert shapes(**C4)["rpn.head.cls_logits.weight"] == (12, 8, 1, 1)
    c4 = shapes(**C4, block="bottleneck")
    assert c4["roi_heads.layer4.0.conv1.weight"] == (8, 32, 1, 1)
    assert c4[cls] == (6, 32) and c4["roi_heads.mask_predictor.conv5_mask.weight"] == (32, 4, 2, 2)
    assert not any("layer4" in name for name in c4 if name.startswith("backbone"))


def test_the_weights_of_the_two_coders():
    model = build_model("shapes", **TINY, box_weights=(1, 2, 3, 4))
    assert model.rpn_coder.weights == (1, 1, 1, 1) and model.box_coder.weights == (1, 2, 3, 4)
