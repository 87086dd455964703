"""The full-size presets: how the three families differ, field by field, and that small models of them run."""

import numpy as np
import pytest
from PIL import Image
from tiny_models import batch_of, empty_scene, scene

from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.boxes import paste_masks
from tinymrcnn.cli import main
from tinymrcnn.commands import models as models_command
from tinymrcnn.models import Config, build_model, list_presets
from tinymrcnn.models.cost import cost_of
from tinymrcnn.models.pooler import PoolerSettings, assign_levels
from tinymrcnn.models.presets import ANY_SIZE, PUBLIC_FILES, get_config
from tinymrcnn.models.transform import make_batch, resized_size
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.settings import find_field, flatten, replace, value_of

FULL_SIZE = [name for name in list_presets() if not name.startswith("shapes")]
WITHOUT_MASKS = [name for name in FULL_SIZE if not name.endswith(("fcis", "mnc"))]
FEW_CHANNELS = dict(
    depths=(1, 1, 1, 1), widths=(4, 4, 4, 4), stem_width=4, fpn_channels=8, rpn_channels=8, box_hidden=8,
    mask_layers=(4,), mask_channels=4, num_classes=6, box_samples=16, min_size=64, max_size=100,
    train_min_sizes=(48, 64), **{"fcis.channels": 4, "mnc.hidden": 8},
)  # fmt: skip


def few_channels(preset):
    """FEW_CHANNELS, of which ResNeXt has two groups."""
    return {**FEW_CHANNELS, "groups": 2 if "resnext" in preset else 1}


BATCH = batch_of(scene(0, (50, 83), ((9, 6, 31, 24), (40, 20, 80, 48))), empty_scene(1, (121, 70)))


def test_the_presets():
    assert FULL_SIZE == [
        "detectron2_resnet101_fpn", "detectron2_resnet50_c4", "detectron2_resnet50_fpn", "detectron2_resnext101_fpn",
        "paper_resnet101_fcis", "paper_resnet101_fpn", "paper_resnet101_mnc", "paper_resnet50_c4", "paper_resnet50_c5",
        "paper_resnet50_fpn", "paper_resnext101_fpn", "torchvision_resnet50_fpn",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "masks"), [*((name, True) for name in FULL_SIZE), *((name, False) for name in WITHOUT_MASKS)]
)
def test_a_small_one_trains_and_detects(preset, masks):
    model = build_model(preset, **few_channels(preset), masks=masks)
    losses = model(*BATCH)
    assert len(losses) == 4 + masks + preset.endswith("mnc") and all(
        np.isfinite(loss.item()) for loss in losses.values()
    )
    sum(losses.values(), start=0.0).backward()
    assert all(np.isfinite(parameter.grad).all() for parameter in model.parameters())
    for result, image in zip(model.eval()(BATCH[0]), BATCH[0], strict=True):
        height, width = image.shape[1:]
        assert (result["boxes"] >= 0).all() and (result["boxes"] <= np.float32([width, height] * 2) * 1.00001).all()
        if masks:
            assert result["masks"].shape == (len(result["boxes"]), height, width)
    assert ("masks" in result) == masks


# The values of every family: (torchvision R50-FPN, detectron2 R50-FPN, detectron2 R50-C4, paper R50-C4, paper R50-FPN)
FAMILIES = ("torchvision_resnet50_fpn", "detectron2_resnet50_fpn", "detectron2_resnet50_c4", "paper_resnet50_c4",
            "paper_resnet50_fpn")  # fmt: skip
FIELDS = {
    "num_classes": (91, 81, 81, 81, 81),
    "channel_order": ("rgb", "bgr", "bgr", "bgr", "bgr"),
    "pixel_scale": (1, 255, 255, 255, 255),
    "pixel_mean": ((0.485, 0.456, 0.406), *[(103.53, 116.28, 123.675)] * 4),
    "pixel_std": ((0.229, 0.224, 0.225), *[(1, 1, 1)] * 4),
    "min_size": (800,) * 5,
    "max_size": (1333,) * 5,
    "train_min_sizes": ((), *[(640, 672, 704, 736, 768, 800)] * 2, (), ()),
    "resize": ("float", *["pillow"] * 4),
    "round_sizes": (False, True, True, True, True),
    "size_divisible": (32, 32, 1, 1, 32),
    "stride_in_1x1": (False, True, True, True, True),
    "norm_eps": (0, 1e-5, 1e-5, 1e-5, 1e-5),
    "rpn_channels": (256, 256, 1024, 1024, 256),
    "anchor_order": ("ratio", "size", "size", "size", "size"),
    "anchor_rounded": (True, False, False, False, False),
    "nominal_strides": (False, True, True, True, True),
    "rpn_pre_nms_train": (2000, 2000, 12000, 12000, 2000),
    "rpn_pre_nms_test": (1000, 1000, 6000, 6000, 1000),
    "rpn_post_nms_train": (2000, 1000, 2000, 2000, 1000),
    "rpn_post_nms_test": (1000, 1000, 1000, 300, 1000),
    "rpn_box_beta": (1 / 9, 0, 0, 1 / 9, 1 / 9),
    "min_proposal_size": (1e-3, *[ANY_SIZE] * 4),
    "rpn_fixed_count": (False, True, True, True, True),
    "aligned": (False, True, True, False, False),
    "sampling_ratio": (2, 0, 0, 2, 2),
    "level_epsilon": ((0, 1e-6), *[(1e-8, 0)] * 4),
    "box_pool": (7, 7, 14, 7, 7),
    "roi_stage_stride": (2, 2, 2, 1, 2),
    "box_samples": (512, 512, 512, 64, 512),
    "box_beta": (1 / 9, 0, 0, 1, 1),
    "box_nms": (0.5, 0.5, 0.5, 0.3, 0.3),
    "min_box_size": (1e-2, 0, 0, 0, 0),
    "clip_results": (False, True, True, True, True),
    "soft_mask_targets": (True, False, False, False, False),
    "crop_aligned": (False, True, True, True, True),
    "paste_whole_pixels": (True, False, False, False, False),
    "score_threshold": (0.05,) * 5,
    "max_detections": (100,) * 5,
    "rpn_nms": (0.7,) * 5,
    "box_weights": ((10, 10, 5, 5),) * 5,
    "norm": ("frozen",) * 5,
}


@pytest.mark.parametrize("field", FIELDS)
def test_the_families(field):
    assert tuple(value_of(get_config(name), field) for name in FAMILIES) == FIELDS[field]


def test_nothing_else_differs():
    """But what the backbone asks for, and what a C4 or C5 model has no use for."""
    of_the_backbone = {
        "preset", "backbone", "fpn.extra_level", "rpn.anchor_sizes", "mask.layers", "box.hidden", "fpn.channels",
    }  # fmt: skip
    configs = [flatten(get_config(name)) for name in FAMILIES]
    differing = {field for field in configs[0] if any(c[field] != configs[0][field] for c in configs)}
    assert differing - of_the_backbone <= {find_field(Config, field) for field in FIELDS}
    fpn = [configs[i] for i in (0, 1, 4)]
    assert all(c[field] == fpn[0][field] for c in fpn for field in of_the_backbone - {"preset"})


def test_deeper_and_coarser():
    assert get_config("detectron2_resnet101_fpn") == replace(
        get_config("detectron2_resnet50_fpn"), preset="detectron2_resnet101_fpn", depths=(3, 4, 23, 3)
    )
    assert get_config("paper_resnet101_fpn") == replace(
        get_config("paper_resnet50_fpn"), preset="paper_resnet101_fpn", depths=(3, 4, 23, 3)
    )
    resnext = dict(widths=(256, 512, 1024, 2048), expansion=1, stride_in_1x1=False)
    assert get_config("detectron2_resnext101_fpn") == replace(
        get_config("detectron2_resnet101_fpn"), preset="detectron2_resnext101_fpn", **resnext, groups=32,
        pixel_std=(57.375, 57.12, 58.395),
    )  # fmt: skip
    assert get_config("paper_resnext101_fpn") == replace(
        get_config("paper_resnet101_fpn"), preset="paper_resnext101_fpn", **resnext, groups=64
    )
    c4, c5 = get_config("paper_resnet50_c4"), get_config("paper_resnet50_c5")
    assert (c5.backbone, c5.rpn.channels, c5.box.hidden, c5.mask.layers) == ("c5", 2048, 1024, (256,) * 4)
    assert (c5.rpn.post_nms_test, c5.box.samples, c5.rpn.anchor_sizes) == (300, 64, c4.rpn.anchor_sizes)


def test_the_c4_heads_of_both_kinds():
    """detectron2 pools 14 x 14 and strides, the paper's figure pools 7 x 7 and does not: the masks are as large."""
    rois = [np.array([[4, 8, 60, 40], [0, 0, 30, 90]], np.float32)]
    for preset, pooled in (("detectron2_resnet50_c4", 14), ("paper_resnet50_c4", 7)):
        model = build_model(preset, **FEW_CHANNELS).eval()
        assert model.config.box.pool == pooled
        assert [block.conv1.stride for block in model.roi_heads.layer4][0] == (2 if pooled == 14 else 1)
        batch = model.transform([scene(0)[0]])
        features = model.features(batch)
        assert len(features) == 1 and features[0].shape[2:] == tuple(-(-side // 16) for side in batch.sizes[0])
        assert model.roi_features(features, rois, model.config.box.pool).shape == (2, 16, 7, 7)
        found = [{"boxes": rois[0], "labels": np.array([1, 5])}]
        assert model.mask_detections(features, found)[0].shape == (2, 14, 14)


# Images as detectron2 prepares them


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 1066.67 is rounded
        ((334, 400), (800, 958)),  # never 799
        ((300, 900), (444, 1333)),
        ((427, 640), (800, 1199)),
        ((640, 427), (1199, 800)),
        ((500, 500), (800, 800)),
        ((1, 4000), (1, 1333)),  # never without a pixel
    ],
)
def test_sizes_that_are_rounded(size, expected):
    assert resized_size(size, 800, 1333, rounded=True) == expected


def test_the_shorter_side_is_always_800():
    for side in range(50, 1400):
        assert resized_size((side, side + side // 3), 800, 1333, rounded=True)[0] == 800
    assert sum(resized_size((side, side), 800, None)[0] == 799 for side in range(50, 1400)) == 65  # torchvision's


def test_images_as_detectron2_takes_them():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 83, 3)).astype(np.uint8)
    image = pixels.transpose(2, 0, 1).astype(np.float32) / 255
    mean = (103.53, 116.28, 123.675)
    family = replace(
        get_config("detectron2_resnet50_fpn").transform, train_min_sizes=(), max_size=133, size_divisible=1
    )
    for min_size, size in ((None, (50, 83)), (25, (25, 42)), (80, (80, 133))):
        batch = make_batch([image], settings=replace(family, min_size=min_size))
        resized = Image.fromarray(pixels[:, :, ::-1].copy()).resize(size[::-1], Image.Resampling.BILINEAR)
        expected = np.asarray(resized).transpose(2, 0, 1) - np.reshape(mean, (3, 1, 1))
        assert batch.images.shape == (1, 3, *size) and batch.images.dtype == np.float32
        np.testing.assert_allclose(batch.images.data[0], expected, atol=1e-4)


def test_sizes_that_are_drawn_in_training():
    model = build_model("shapes", train_min_sizes=(40, 64, 90), min_size=64, max_size=200)
    images, targets = batch_of(*(empty_scene(i, (48, 60)) for i in range(12)))
    drawn = [min(size) for size in model.transform(images, targets).sizes]
    assert set(drawn) == {40, 64, 90}
    assert [min(size) for size in model.transform(images, targets).sizes] == drawn  # the step's own
    assert [min(size) for size in model.transform(images, targets, step=1).sizes] != drawn
    assert {min(size) for size in model.transform(images).sizes} == {64}  # without targets nothing is drawn
    assert {min(size) for size in model.eval().transform(images, targets).sizes} == {64}
    with pytest.raises(ValueError, match="Image 1: the target must be a dict"):
        model.train().transform(images[:2], [targets[0], None])
    with pytest.raises(ValueError, match="12 images but 3 targets"):
        model.transform(images, targets[:3])


# The other differences


def test_where_the_level_s_epsilon_is_added():
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    # a hair below 224: 1e-6 in the exponent lifts it, 1e-8 beside the ratio does not; and one that both lift
    sides = np.array([224 * (1 - 5e-7), 224 * (1 - 5e-9), 224 * (1 - 1e-5)])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    assert assign_levels(boxes, scales, PoolerSettings()).tolist() == [2, 2, 1]
    assert assign_levels(boxes, scales, PoolerSettings(level_epsilon=(1e-8, 0.0))).tolist() == [1, 2, 1]


def test_losses_over_a_fixed_count():
    """One object and few anchors: fewer samples than the 256 by which detectron2 divides."""
    image, target = scene(0, (64, 96), ((9, 6, 31, 24),))
    overrides = dict(FEW_CHANNELS, rpn_samples=5000, min_size=None, train_min_sizes=())
    mean, fixed = (
        build_model("torchvision_resnet50_fpn", **overrides, rpn_fixed_count=fixed).losses([image], [target])
        for fixed in (False, True)
    )
    model = build_model("torchvision_resnet50_fpn", **overrides)
    (sample,) = model.draw_samples([image], [target]).anchors
    drawn = len(sample.positives) + len(sample.negatives)
    assert 10 < drawn < 5000
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        assert fixed[name].item() == pytest.approx(mean[name].item() * drawn / 5000, rel=1e-5)
    assert fixed["loss_classifier"].item() == mean["loss_classifier"].item()


def test_the_fixed_count_is_that_of_every_image():
    """Two images divide by twice as many anchors as one: their loss is the mean of what each has alone."""
    images, targets = batch_of(scene(0), scene(1))
    overrides = dict(FEW_CHANNELS, min_size=None, train_min_sizes=(), rpn_fixed_count=True)
    model = build_model("detectron2_resnet50_fpn", **overrides)
    both = model.losses(images, targets)
    alone = [model.losses([image], [target]) for image, target in zip(images, targets, strict=True)]
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        assert both[name].item() == pytest.approx(sum(losses[name].item() for losses in alone) / 2, rel=1e-5)


def test_the_epsilon_of_the_normalisation():
    for eps in (0.0, 1e-5, 0.5):
        model = build_model("torchvision_resnet50_fpn", **FEW_CHANNELS, norm_eps=eps)
        layer = model.backbone.body.bn1
        layer.running_var[:] = 0.25
        np.testing.assert_allclose(layer.scale_and_shift()[0], 1 / np.sqrt(0.25 + eps), rtol=1e-6)


def test_results_are_clipped_once_more():
    """In the original image, where a rounded size leaves them a fraction outside; what becomes empty is dropped."""
    boxes = np.array([[1, 2, 30, 40], [-3, 5, 20, 200], [97, 5, 99, 20]], np.float32)
    found = [{"boxes": boxes, "scores": np.float32([0.9, 0.8, 0.7]), "labels": np.array([1, 2, 3])}]
    batch = build_model("shapes").transform([scene(0)[0]])
    batch.original_sizes = [(32, 48)]
    for clip, expected in (
        (False, boxes / 2),
        (True, [[0.5, 1, 15, 20], [0, 2.5, 10, 32]]),
    ):
        (result,) = build_model("shapes", clip_results=clip).postprocess(found, batch)
        np.testing.assert_array_equal(result["boxes"], expected)
        np.testing.assert_array_equal(result["labels"], [1, 2, 3][: len(expected)])
        assert len(result["scores"]) == len(expected)


def paste_over_whole_pixels(mask, box, size):
    """One mask as torchvision pastes it, pixel by pixel."""
    m = len(mask)
    rimmed = np.zeros((m + 2, m + 2))
    rimmed[1:-1, 1:-1] = mask
    image = np.zeros(size)
    x1, y1, x2, y2 = (float(value) for value in box)
    wide, high = (x2 - x1) / 2 * (m + 2) / m, (y2 - y1) / 2 * (m + 2) / m
    left, right = int((x1 + x2) / 2 - wide), int((x1 + x2) / 2 + wide)  # towards zero
    top, bottom = int((y1 + y2) / 2 - high), int((y1 + y2) / 2 + high)

    def taps(pixel, first, last):
        at = min(max((pixel - first + 0.5) * (m + 2) / (last - first + 1) - 0.5, 0), m + 1)
        low = min(int(at), m)
        return low, at - low

    for y in range(max(top, 0), min(bottom + 1, size[0])):
        for x in range(max(left, 0), min(right + 1, size[1])):
            (row, v), (column, u) = taps(y, top, bottom), taps(x, left, right)
            upper = rimmed[row, column] * (1 - u) + rimmed[row, column + 1] * u
            lower = rimmed[row + 1, column] * (1 - u) + rimmed[row + 1, column + 1] * u
            image[y, x] = upper * (1 - v) + lower * v
    return image


def test_masks_over_whole_pixels():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-10, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.02, 40, (40, 2))], axis=1).astype(np.float32)
    boxes[:4] = [[0.5, 0.5, 0.9, 0.9], [-5, -5, 100, 100], [3, 4, 10, 12], [70, 50, 90, 70]]
    masks = rng.random((40, 7, 7), np.float32)
    found = paste_masks(masks, boxes, (50, 70), whole_pixels=True)
    for mask, box, pasted in zip(masks, boxes, found, strict=True):
        np.testing.assert_allclose(pasted, paste_over_whole_pixels(mask, box, (50, 70)), atol=1e-5)
    assert (found.sum(axis=(1, 2)) > 0).sum() > 20
    assert np.abs(found - paste_masks(masks, boxes, (50, 70))).max() > 0.3
    assert paste_masks(masks[:0], boxes[:0], (50, 70), whole_pixels=True).shape == (0, 50, 70)


# What they cost

COUNTED = (
    "torchvision_resnet50_fpn", "detectron2_resnet50_c4", "detectron2_resnext101_fpn", "paper_resnet50_c5", "shapes",
)  # fmt: skip


@pytest.mark.parametrize("preset, head", [*((preset, "fcn") for preset in COUNTED), ("shapes", "mlp")])
def test_the_counted_cost_is_that_of_a_run(preset, head):
    few = {**few_channels(preset), "rpn_post_nms_test": 7, "max_detections": 3}
    config = replace(get_config(preset), **few, mask_head=head)
    cost = cost_of(config, (64, 96))
    model = build_model(config).eval()
    with counting_operations() as count:
        batch = model.transform([scene(0)[0]])
        features = model.features(batch)
        model.rpn.head(features)
        boxes = np.tile(np.float32([[3, 4, 40, 50]]), (7, 1))
        model.box_branch(model.roi_features(features, [boxes], config.box.pool))
        of_boxes = count()
        model.mask_branch(features, [boxes[:3]])
    assert (cost.operations, cost.mask_operations) == (count(), count() - of_boxes)
    without = replace(config, masks=False)
    assert cost.parameters == sum(parameter.size for parameter in model.parameters())
    assert cost.parameters - cost.mask_parameters == sum(p.size for p in build_model(without).parameters())
    assert cost_of(without, (64, 96)).operations == of_boxes and cost_of(without).mask_parameters == 0


def test_counting_leaves_no_trace():
    before = build_model("shapes").state_dict()
    cost_of(get_config("shapes"), (64, 96))
    for name, array in build_model("shapes").state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_models_command(capsys, monkeypatch):
    monkeypatch.setattr(models_command, "list_presets", lambda: ["detectron2_resnet50_c4", "torchvision_resnet50_fpn"])
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("torchvision_resnet50_fpn")).split()
    assert row[1:3] == ["44.40", "41.76"]
    assert [float(value) for value in row[3:]] == [pytest.approx(461.6, abs=0.1), pytest.approx(355.2, abs=0.1)]
    for name in ("detectron2_resnet50_c4", "torchvision_resnet50_fpn"):
        assert all(url in printed for url in PUBLIC_FILES[name])


def test_models_without_weights_are_zero():
    with without_drawing():
        model = build_model("shapes")
    assert not any(parameter.data.any() for name, parameter in model.named_parameters() if "bn" not in name
                   and "downsample.1" not in name)  # fmt: skip
