"""The switches of the model and of training: what they change, and which are refused."""

import dataclasses

import numpy as np
import pytest
from tiny_models import C4, TINY, batch_of, scene, tiny_model

from tinymrcnn.models import Config, MaskRCNN, TrainConfig, build_model
from tinymrcnn.settings import replace


def test_unknown_names():
    with pytest.raises(ValueError, match="no preset 'shape'.*shapes, shapes_c4, shapes_c5"):
        build_model("shape")
    with pytest.raises(ValueError, match="no field 'mask_los'. Did you mean 'mask.loss'.*num_classes.*mask.layers"):
        build_model("shapes", mask_los="softmax")
    with pytest.raises(ValueError, match="no field 'xyzzy'. Its fields are: steps"):
        replace(TrainConfig(), xyzzy=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(groups=2), r"2 groups must divide the widths \(16, 32, 64, 128\) of bottlenecks; basic blocks have one"),
        (dict(block="bottleneck", groups=3), r"3 groups must divide the widths \(16, 32"),
        (dict(backbone="c3"), "backbone is 'c3'; it must be one of 'fpn', 'c4', 'c5'"),
        (dict(block="wide"), "block is 'wide'"),
        (dict(norm=None), "norm is None"),
        (dict(roi_op="roi_crop"), "roi_op is 'roi_crop'"),
        (dict(mask_loss="dice"), "MaskSettings: loss is 'dice'; it must be one of 'sigmoid', 'softmax'"),
        (dict(anchor_order="random"), "anchor_order is 'random'"),
        (dict(channel_order="RGB"), "channel_order is 'RGB'; it must be one of 'rgb', 'bgr'"),
        (dict(resize="opencv"), "resize is 'opencv'; it must be one of 'float', 'pillow'"),
        (dict(num_classes=1), "num_classes is 1; it must be a whole number from 2 to 65536"),
        (dict(mask_head="rnn"), "MaskSettings: head is 'rnn'; it must be one of 'fcn', 'mlp'"),
        (dict(softmax_decoding="own"), "softmax_decoding is 'own'; it must be one of 'background', 'all'"),
        (dict(reduce="sum"), "PoolerSettings: reduce is 'sum'; it must be one of 'mean', 'max'"),
        (dict(**C4, mask_head="mlp"), "'c4' both branches share a head of convolutions: mask.head is 'fcn'"),
        (dict(class_agnostic_masks=True, mask_loss="softmax"), "class-agnostic mask has no classes to compete"),
        (dict(extra_level=True), "'fpn' has 5 levels, but anchor_sizes names 4"),
        (dict(backbone="c4"), "'c4' has 1 levels, but anchor_sizes names 4"),
        (
            dict(anchor_sizes=((8,), (16,), (32,), (0,))),
            r"anchor_sizes\[3\]\[0\] is 0.0; it must be a number from 1e-09",
        ),
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
    mlp = shapes(mask_head="mlp", mask_pool=3)
    mlp = {name.removeprefix("roi_heads.mask_"): shape for name, shape in mlp.items() if "mask" in name}
    assert {name: shape for name, shape in mlp.items() if name.endswith("weight")} == {
        "predictor.fc1.weight": (4, 8 * 9), "predictor.fc2.weight": (4, 4),
        "predictor.mask_fc_logits.weight": (6 * 36, 4),
    }  # fmt: skip
    assert shapes(num_classes=3)[logits] == (3, 4, 1, 1) and shapes(num_classes=3)[reg] == (12, 8)
    assert shapes(aspect_ratios=(1.0, 2.0))["rpn.head.bbox_pred.weight"] == (8, 8, 1, 1)
    assert shapes(**C4)["rpn.head.cls_logits.weight"] == (12, 8, 1, 1)
    c4 = shapes(**C4, block="bottleneck")
    assert c4["roi_heads.layer4.0.conv1.weight"] == (8, 32, 1, 1)
    assert c4[cls] == (6, 32) and c4["roi_heads.mask_predictor.conv5_mask.weight"] == (32, 4, 2, 2)
    assert not any("layer4" in name for name in c4 if name.startswith("backbone"))


# Every switch reaches what it is for, and nothing else

BATCH = batch_of(scene(0), scene(1, (57, 80), ((30, 10, 60, 50),), (1,)))
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
CHANGES_LOSSES = [
    (dict(rpn_box_beta=0.5), LOSSES[1:2]),
    (dict(rpn_fixed_count=True, rpn_samples=1000), LOSSES[:2]),
    (dict(box_beta=0.5), LOSSES[3:4]),
    (dict(box_weights=(1.0, 2.0, 3.0, 4.0)), LOSSES[3:4]),
    (dict(mask_loss="softmax"), LOSSES[4:]),
    (dict(crop_aligned=False), LOSSES[4:]),
    (dict(soft_mask_targets=True), LOSSES[4:]),
    (dict(roi_op="roi_pool"), LOSSES[2:]),
    (dict(roi_op="roi_warp"), LOSSES[2:]),
    (dict(reduce="max"), LOSSES[2:]),
    (dict(softmax_decoding="all"), []),
    (dict(aligned=False), LOSSES[2:]),
    (dict(sampling_ratio=1), LOSSES[2:]),
    (dict(canonical_size=40.0), LOSSES[2:]),
    (dict(canonical_level=6), LOSSES[2:]),
    (dict(pixel_mean=(0.1, 0.2, 0.3)), LOSSES),
    (dict(pixel_std=(0.5, 0.5, 0.6)), LOSSES),
    (dict(pixel_scale=255.0), LOSSES),
    (dict(channel_order="bgr"), LOSSES),
    (dict(norm_eps=0.1), LOSSES),
    (dict(level_epsilon=(0.0, 5.0)), LOSSES[2:]),
    (dict(anchor_sizes=((9,), (17,), (33,), (65,))), LOSSES[1:2]),
    (dict(anchor_rounded=True), LOSSES[1:2]),
]


@pytest.mark.parametrize(("overrides", "expected"), CHANGES_LOSSES, ids=str)
def test_switches_of_the_losses(overrides, expected):
    samples = tiny_model().draw_samples(*BATCH)
    default, changed = tiny_model().eval(), tiny_model(**overrides).eval()
    before, after = (model.losses(*BATCH, samples=samples) for model in (default, changed))
    assert [name for name in LOSSES if before[name].item() != after[name].item()] == expected


CHANGES_SAMPLES = [
    (dict(rpn_samples=20), "anchors"),
    (dict(rpn_positive_fraction=0.01), "anchors"),
    (dict(rpn_fg_iou=0.5), "anchors"),
    (dict(rpn_bg_iou=0.1), "anchors"),
    (dict(anchor_order="ratio", aspect_ratios=(2.0, 1.0, 0.5)), "both"),
    (dict(rpn_pre_nms_train=20), "rois"),
    (dict(rpn_post_nms_train=20), "rois"),
    (dict(rpn_nms=0.3), "rois"),
    (dict(min_proposal_size=10.0), "rois"),
    (dict(box_fg_iou=0.2), "rois"),
    (dict(box_samples=10), "rois"),
    (dict(box_positive_fraction=0.04), "rois"),
    (dict(rpn_pre_nms_test=20), "nothing"),
    (dict(rpn_post_nms_test=20), "nothing"),
    (dict(score_threshold=0.5), "nothing"),
    (dict(box_nms=0.2), "nothing"),
]


def samples_differ(a, b):
    return any(
        not np.array_equal(getattr(x, field.name), getattr(y, field.name))
        for x, y in zip(a, b, strict=True)
        for field in dataclasses.fields(x)
    )


@pytest.mark.parametrize(("overrides", "expected"), CHANGES_SAMPLES, ids=str)
def test_switches_of_the_samples(overrides, expected):
    before, after = (tiny_model(**changes).draw_samples(*BATCH) for changes in ({}, overrides))
    assert samples_differ(before.anchors, after.anchors) == (expected in ("anchors", "both"))
    assert samples_differ(before.rois, after.rois) == (expected in ("rois", "both"))


CHANGES_DETECTIONS = [
    (dict(rpn_pre_nms_test=20), True),
    (dict(rpn_post_nms_test=20), True),
    (dict(rpn_nms=0.3), True),
    (dict(min_proposal_size=10.0), True),
    (dict(score_threshold=0.9), True),
    (dict(box_nms=0.1), True),
    (dict(max_detections=10), True),
    (dict(min_box_size=20.0), True),
    (dict(mask_loss="softmax"), True),
    (dict(softmax_decoding="all"), False),
    (dict(rpn_pre_nms_train=20), False),
    (dict(rpn_post_nms_train=20), False),
    (dict(box_samples=10), False),
    (dict(crop_aligned=False), False),
]


@pytest.mark.parametrize(("overrides", "expected"), CHANGES_DETECTIONS, ids=str)
def test_switches_of_the_detections(overrides, expected):
    before, after = (tiny_model(**changes).eval().detect(BATCH[0]) for changes in ({}, overrides))
    pairs = [(a[name], b[name]) for a, b in zip(before, after, strict=True) for name in a]
    assert any(not np.array_equal(a, b) for a, b in pairs) == expected


def test_softmax_masks_have_two_decodings():
    """The same boxes with other masks: none of them larger among all classes than between class and background."""
    settings = dict(mask_loss="softmax", mask_channels=4)
    two, among_all = (tiny_model(**settings, softmax_decoding=d).eval().detect(BATCH[0]) for d in ("background", "all"))
    for a, b in zip(two, among_all, strict=True):
        assert np.array_equal(a["boxes"], b["boxes"]) and len(a["masks"]) > 0
        assert (a["masks"] > b["masks"]).mean() > 0.99 and (a["masks"] >= b["masks"] * (1 - 1e-6)).all()


def test_sizes_that_are_limits():
    model = tiny_model(max_detections=7, min_box_size=12.0, score_threshold=0.02, min_proposal_size=9.0).eval()
    for result in model.detect(BATCH[0]):
        assert len(result["scores"]) == 7 and (result["scores"] > 0.02).all()
        assert (result["boxes"][:, 2:] - result["boxes"][:, :2] >= 12).all()


@pytest.mark.parametrize(("stride", "size"), [(1, 4), (2, 2)])
def test_the_stride_of_the_stage_that_runs_on_rois(stride, size):
    model = tiny_model(**C4, roi_stage_stride=stride)
    batch = model.transform(BATCH[0])
    boxes = [np.array([[5, 5, 30, 40]], np.float32)] * 2
    assert model.roi_features(model.features(batch), boxes, 4).shape == (2, 8, size, size)


@pytest.mark.parametrize(("nominal", "stride"), [(True, (64, 64)), (False, (96 // 2, 160 // 3))])
def test_the_strides_of_the_anchors(nominal, stride):
    """P6 of 96 x 160 pixels has 2 x 3 cells, which are not 64 pixels apart if they are to fill the image."""
    model = tiny_model(
        extra_level=True,
        anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        nominal_strides=nominal,
        aspect_ratios=(1.0,),
    )
    batch = model.transform([scene(0, (96, 160), ())[0]])
    anchors, sizes = model.all_anchors(model.features(batch), batch)
    assert sizes == [24 * 40, 12 * 20, 6 * 10, 3 * 5, 2 * 3] and anchors.dtype == np.float32
    last = anchors[-6:].reshape(2, 3, 4)
    np.testing.assert_array_equal(last[0, 0], [-64, -64, 64, 64])
    np.testing.assert_array_equal(last[1, 2] - last[0, 0], [2 * stride[1], stride[0]] * 2)
