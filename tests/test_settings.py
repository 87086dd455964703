"""Settings: what a field takes, what it refuses, and how it is found by name."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from tinymrcnn.models import Config, TrainConfig, build_model
from tinymrcnn.models.mask_branch import MaskSettings
from tinymrcnn.models.pooler import PoolerSettings
from tinymrcnn.models.resnet import ResNetSettings
from tinymrcnn.models.rpn import RPNSettings
from tinymrcnn.models.transform import TransformSettings
from tinymrcnn.settings import (
    Count,
    Fraction,
    Settings,
    field_names,
    find_field,
    flatten,
    from_dict,
    replace,
    value_of,
)


@dataclass(frozen=True)
class Kitchen(Settings):
    plates: Count = 4
    full: Fraction = 0.5
    lamp: bool = True
    name: str = "red"
    side: Literal["left", "right"] = "left"
    pair: tuple[int, float] = (1, 2.0)
    cups: tuple[int, ...] = ()
    oven: Count | None = None


@pytest.mark.parametrize(
    ("field", "value", "held"),
    [
        ("plates", np.int64(3), 3),
        ("full", 1, 1.0),
        ("full", np.float32(0.25), 0.25),
        ("pair", [3, 4], (3, 4.0)),
        ("cups", [1, 2, 3], (1, 2, 3)),
        ("cups", (), ()),
        ("oven", None, None),
        ("oven", 7, 7),
        ("side", "right", "right"),
    ],
)
def test_what_fits_is_held_in_the_declared_type(field, value, held):
    found = getattr(Kitchen(**{field: value}), field)
    assert found == held and type(found) is type(held)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("plates", 0, "Kitchen: plates is 0; it must be a whole number from 1 to 1e\\+06"),
        ("plates", 2.0, "plates is 2.0; it must be a whole number"),
        ("plates", True, "plates is True; it must be a whole number"),
        ("plates", "3", "plates is '3'"),
        ("plates", None, "plates is None"),
        ("full", float("nan"), "full is nan; it must be a number"),
        ("full", float("inf"), "full is inf"),
        ("full", 10**400, "full is 1000"),
        ("full", 1.5, "full is 1.5; it must be a number from 0 to 1"),
        ("full", False, "full is False"),
        ("lamp", 1, "lamp is 1; it must be True or False"),
        ("name", 3, "name is 3; it must be a text"),
        ("side", "up", "side is 'up'; it must be one of 'left', 'right'"),
        ("side", ["left"], "side is \\['left'\\]"),
        ("pair", (1,), "pair is \\(1,\\); it must be a tuple of 2"),
        ("pair", (1, "a"), "pair\\[1\\] is 'a'; it must be a number"),
        ("cups", 3, "cups is 3; it must be a tuple, each entry a whole number"),
        ("cups", "ab", "cups is 'ab'"),
        ("oven", 0, "oven is 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        Kitchen(**{field: value})


def test_every_field_of_config_has_its_stage():
    names = field_names(Config)
    assert names[:5] == ("preset", "model", "num_classes", "backbone", "masks")
    assert {name.partition(".")[0] for name in names[5:]} == {
        "transform", "resnet", "fpn", "rpn", "pooler", "box", "mask", "fcis", "mnc",
    }  # fmt: skip
    assert len(names) == 91


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("rpn.nms", "rpn.nms"),
        ("rpn_nms", "rpn.nms"),
        ("roi_op", "pooler.roi_op"),
        ("masks", "masks"),
        ("mask_loss", "mask.loss"),
        ("anchor_sizes", "rpn.anchor_sizes"),
        ("box_beta", "box.beta"),  # the stage's name first: "rpn.box_beta" is "rpn_box_beta"
        ("rpn_box_beta", "rpn.box_beta"),
        ("min_size", "transform.min_size"),
        ("rpn", "rpn"),
    ],
)
def test_names(name, full):
    assert find_field(Config, name) == full


def test_ambiguous_and_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="'nms' can mean several fields of Config: name one of rpn.nms, box.nms"):
        find_field(Config, "nms")
    with pytest.raises(ValueError, match="no field 'sampling_rato'. Did you mean 'pooler.sampling_ratio'.*rpn.nms"):
        find_field(Config, "sampling_rato")


def test_replacing_settings_all_at_once():
    config = replace(Config(), backbone="c4", anchor_sizes=((16, 32),), **{"rpn.nms": 0.6}, mask_loss="softmax")
    assert (config.backbone, config.rpn.anchor_sizes, config.rpn.nms) == ("c4", ((16.0, 32.0),), 0.6)
    assert config.mask.loss == value_of(config, "mask_loss") == "softmax"
    assert config.rpn.samples == Config().rpn.samples and Config().backbone == "fpn"
    whole = replace(Config(), rpn=RPNSettings(nms=0.4), rpn_samples=7)
    assert (whole.rpn.nms, whole.rpn.samples) == (0.4, 7)
    with pytest.raises(ValueError, match="rpn is 3"):
        replace(Config(), rpn=3)


def test_there_and_back():
    config = replace(Config(), num_classes=3, depths=(1, 2, 3, 4), anchor_sizes=((4.5,), (9,), (18,), (36,)))
    text = json.dumps(dataclasses.asdict(config))
    assert from_dict(Config, json.loads(text)) == config
    assert flatten(config)["rpn.anchor_sizes"] == ((4.5,), (9.0,), (18.0,), (36.0,))
    fields = json.loads(text)
    del fields["rpn"]["nms"]
    with pytest.raises(ValueError, match="RPNSettings lacks the field 'nms'"):
        from_dict(Config, fields)
    fields["rpn"] |= {"nms": 0.5, "warp": 9}
    with pytest.raises(ValueError, match="RPNSettings has no field 'warp'"):
        from_dict(Config, fields)
    with pytest.raises(ValueError, match="RPNSettings must be an object with named fields, not 3"):
        from_dict(Config, {**fields, "rpn": 3})


IMPOSSIBLE = [
    (dict(rpn_nms=2.0), "nms is 2.0"),
    (dict(score_threshold=-1), "score_threshold is -1.0"),
    (dict(rpn_samples=-1), "samples is -1"),
    (dict(norm_eps=-1), "norm_eps is -1.0"),
    (dict(min_size=0), "min_size is 0"),
    (dict(size_divisible=0), "size_divisible is 0"),
    (dict(canonical_level=40), "canonical_level is 40"),
    (dict(canonical_size=0.0), "canonical_size is 0.0"),
    (dict(depths=(2, 2, 2)), r"depths is \(2, 2, 2\); it must be a tuple of 4"),
    (dict(depths=("a", "b", "c", "d")), r"depths\[0\] is 'a'"),
    (dict(widths=None), "widths is None"),
    (dict(num_classes=10**7), "num_classes is 10000000"),
    (dict(box_hidden=10**9), "hidden is 1000000000"),
    (dict(sampling_ratio=2000.0), "sampling_ratio is 2000.0"),
    (dict(sampling_ratio=-3), "sampling_ratio is -3"),
    (dict(max_detections=-1), "max_detections is -1"),
    (dict(box_pool=0), "pool is 0"),
    (dict(fpn_channels=0), "channels is 0"),
    (dict(pixel_std=(0, 0, 0)), r"pixel_std\[0\] is 0.0"),
    (dict(aspect_ratios=()), "every level needs an anchor"),
    (dict(anchor_sizes=((8,), (16,), (32,), ())), "every level needs an anchor"),
    (dict(anchor_sizes=((8, 16), (32,), (64,), (128,))), "every level must have as many sizes"),
    (dict(rpn_bg_iou=0.8), "bg_iou is 0.8, above fg_iou, 0.7"),
    (dict(train_min_sizes=(None,)), r"train_min_sizes\[0\] is None"),
]


@pytest.mark.parametrize(("overrides", "message"), IMPOSSIBLE, ids=str)
def test_impossible_settings(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model("shapes", **overrides)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(steps=2.5), "steps is 2.5"),
        (dict(flip="no"), "flip is 'no'"),
        (dict(seed=-1), "seed is -1"),
        (dict(lr=float("nan")), "lr is nan"),
        (dict(drops=(0.5, 1.5)), r"drops\[1\] is 1.5"),
        (dict(batch_size=10**30), "batch_size is 1000"),
    ],
)
def test_impossible_training_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_the_stages_check_themselves():
    for kind, bad in (
        (TransformSettings, dict(resize="cubic")),
        (ResNetSettings, dict(block="wide")),
        (PoolerSettings, dict(roi_op="roi_crop")),
        (MaskSettings, dict(class_agnostic_masks=True, loss="softmax")),
    ):
        kind()
        with pytest.raises(ValueError):
            kind(**bad)
