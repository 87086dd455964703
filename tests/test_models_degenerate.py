"""Batches in which some part has nothing to say, and weights that are not finite."""

import warnings

import numpy as np
import pytest
from tiny_models import BACKBONES, DETECTORS, batch_of, empty_scene, losses_and_gradients, scene, tiny_model

from tinymrcnn.models import Samples
from tinymrcnn.models.box_branch import RoISamples
from tinymrcnn.models.rpn import AnchorSamples

VARIANTS = {
    **DETECTORS,
    "softmax masks": dict(mask_loss="softmax"),
    "class-agnostic masks": dict(class_agnostic_masks=True),
    "mlp masks": dict(mask_head="mlp"),
    "frozen norm": dict(norm="frozen"),
    "group norm": dict(norm="group"),
    "roi_pool": dict(roi_op="roi_pool"),
    "extra level": dict(extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,))),
}
SILENT = ["loss_rpn_box_reg", "loss_box_reg", "loss_mask"]  # without objects
NONE, NO_BOXES = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)


def assert_silent(model, batch, name, samples=None):
    """This loss is exactly 0, and so is its gradient for every parameter."""
    loss = model.losses(*batch, samples=samples)[name]
    assert loss.item() == 0 and loss.shape == () and loss.dtype == np.float32
    for parameter in model.parameters():
        parameter.grad = None
    if loss.requires_grad:
        loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# Batches without objects


@pytest.mark.parametrize("name", VARIANTS)
def test_no_image_has_objects(name):
    model = tiny_model(**VARIANTS[name])
    batch = batch_of(empty_scene(0), empty_scene(1, (50, 70)))
    values, gradients = losses_and_gradients(model, batch)
    assert values["loss_objectness"] > 0 and values["loss_classifier"] > 0
    assert model.draw_samples(*batch).counts == {"positive_anchors": 0, "positive_rois": 0}
    assert gradients["rpn.head.cls_logits.bias"].any()
    for silent in SILENT:
        assert values[silent] == 0
        assert_silent(model, batch, silent)


@pytest.mark.parametrize("name", VARIANTS)
def test_half_of_the_batch_is_empty(name):
    model = tiny_model(**VARIANTS[name])
    batch = batch_of(empty_scene(0), scene(1), empty_scene(2, (50, 70)))
    values, _ = losses_and_gradients(model, batch)
    assert all(value > 0 for value in values.values())
    assert model.draw_samples(*batch).counts["positive_rois"] >= 2  # the objects themselves


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("objects", [0, 2])
def test_faster_rcnn(name, objects):
    model = tiny_model(masks=False, **BACKBONES[name])
    image, target = scene(0) if objects else empty_scene(0)
    del target["masks"]
    values, _ = losses_and_gradients(model, ([image], [target]))
    assert list(values) == ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
    assert not any("mask" in name for name, _ in model.named_parameters())
    (result,) = model.eval()([image])
    assert set(result) == {"boxes", "scores", "labels"}


def test_an_image_with_crowd_regions_only_is_an_empty_one():
    image, target = scene(0)
    target["iscrowd"] = np.array([1, 1])
    model = tiny_model()
    values, _ = losses_and_gradients(model, ([image], [target]))
    assert model.draw_samples([image], [target]).counts == {"positive_anchors": 0, "positive_rois": 0}
    assert [values[name] for name in SILENT] == [0, 0, 0]
    assert values == losses_and_gradients(model, ([image], [{**empty_scene(0)[1]}]))[0]


def test_crowd_regions_take_no_part():
    image, target = scene(0)
    crowd = {name: target[name].copy() for name in ("boxes", "labels", "masks")} | {"image_id": 0}
    crowd["iscrowd"] = np.array([0, 1])
    alone = {name: target[name][:1] for name in ("boxes", "labels", "masks")} | {"image_id": 0}
    model = tiny_model()
    found, _ = losses_and_gradients(model, ([image], [crowd]))
    assert found == losses_and_gradients(model, ([image], [alone]))[0]
    assert found != losses_and_gradients(model, ([image], [target]))[0]


# Samples with nothing in them


def rois_of(boxes, objects=NONE, labels=NONE):
    return RoISamples(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(objects, np.int64), np.array(labels, np.int64)
    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("images", [1, 2])
def test_no_samples_at_all(name, images):
    model = tiny_model(**VARIANTS[name])
    batch = batch_of(scene(0), scene(1))
    batch = batch[0][:images], batch[1][:images]
    samples = Samples([AnchorSamples(NONE, NONE, NONE)] * images, [rois_of(NO_BOXES)] * images)
    values, gradients = losses_and_gradients(model, batch, samples)
    assert list(values.values()) == [0] * (5 + (name == "mnc"))
    assert all(gradient is None or not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_no_positives(name):
    model = tiny_model(**VARIANTS[name])
    batch = batch_of(scene(0), scene(1))
    anchors = [AnchorSamples(NONE, np.array([1, 5, 7]), NONE)] * 2
    samples = Samples(anchors, [rois_of([[3, 4, 20, 30]], labels=[0]), rois_of([[1, 2, 9, 60]], labels=[0])])
    values, _ = losses_and_gradients(model, batch, samples)
    assert values["loss_objectness"] > 0 and values["loss_classifier"] > 0
    for silent in SILENT:
        assert_silent(model, batch, silent, samples)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_negatives(name):
    model = tiny_model(**VARIANTS[name])
    batch = batch_of(scene(0), empty_scene(1))
    anchors = [AnchorSamples(np.array([3]), NONE, np.array([1])), AnchorSamples(NONE, NONE, NONE)]
    samples = Samples(anchors, [rois_of([[3, 4, 20, 30]], [0], [2]), rois_of(NO_BOXES)])
    values, _ = losses_and_gradients(model, batch, samples)
    assert all(value > 0 for value in values.values())


@pytest.mark.parametrize("box", [(1, 2, 5, 7), (2, 3, 95, 62)])
def test_levels_without_rois(box):
    """All RoIs are so small, or so large, that one level gets them all."""
    model = tiny_model(canonical_size=28.0)
    batch = batch_of(scene(0))
    samples = Samples([AnchorSamples(NONE, np.array([0]), NONE)], [rois_of([box] * 3, [0, 1, 0], [2, 5, 2])])
    values, gradients = losses_and_gradients(model, batch, samples)
    assert all(values[name] > 0 for name in ("loss_classifier", "loss_box_reg", "loss_mask"))
    level = 0 if box[2] < 10 else 3
    box_only = model.losses(*batch, samples=samples)["loss_box_reg"]
    for parameter in model.parameters():
        parameter.grad = None
    box_only.backward()
    for i in range(4):
        assert model.backbone.fpn.layer_blocks[i][0].weight.grad.any() == (i == level)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_proposals(name):
    """Every proposal is too small, as in a model gone astray: the objects themselves remain, or nothing."""
    model = tiny_model(min_proposal_size=1e4, **DETECTORS[name])
    batch = batch_of(scene(0), empty_scene(1))
    values, _ = losses_and_gradients(model, batch)
    assert model.draw_samples(*batch).counts["positive_rois"] == 2 and values["loss_mask"] > 0
    values, _ = losses_and_gradients(model, batch_of(empty_scene(0), empty_scene(1)))
    assert values["loss_objectness"] > 0
    assert [values[name] for name in ("loss_classifier", "loss_box_reg", "loss_mask")] == [0, 0, 0]
    for result in model.eval()([empty_scene(0)[0], empty_scene(1, (50, 70))[0]]):
        assert_no_detections(result)


def assert_no_detections(result, size=None):
    assert result["boxes"].shape == (0, 4) and result["boxes"].dtype == np.float32
    assert result["scores"].shape == (0,) and result["scores"].dtype == np.float32
    assert result["labels"].shape == (0,) and result["labels"].dtype == np.int64
    assert result["masks"].shape[0] == 0 and result["masks"].ndim == 3 and result["masks"].dtype == np.float32
    assert size is None or result["masks"].shape[1:] == size


@pytest.mark.parametrize("name", [*DETECTORS, "softmax masks", "class-agnostic masks", "mlp masks"])
def test_no_detections(name):
    model = tiny_model(score_threshold=1.0, **VARIANTS[name]).eval()
    images = [scene(0)[0], empty_scene(1, (50, 70))[0]]
    for result, image in zip(model(images), images, strict=True):
        assert_no_detections(result, image.shape[1:])
    for result in model.detect(images):
        assert_no_detections(result)


def test_one_image_of_two_has_detections():
    model = tiny_model().eval()
    images = [scene(0)[0], scene(1)[0]]
    best = [result["scores"].max() for result in model.detect(images)]
    limit = (best[0] + best[1]) / 2
    model = tiny_model(score_threshold=float(limit)).eval()
    counts = [len(result["scores"]) for result in model(images)]
    assert min(counts) == 0 < max(counts)
    assert counts.index(0) == int(np.argmin(best))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [(1, 1), (7, 130), (33, 5)])
def test_odd_sizes(name, size):
    model = tiny_model(**DETECTORS[name])
    image, target = scene(0, size, ((0, 0, *size[::-1]),), (3,))
    images, targets = [image, image], [target, {**target, "image_id": 1}]
    values, _ = losses_and_gradients(model, (images, targets))
    assert len(values) == 5 + (name == "mnc")
    for result in model.eval()(images):
        assert result["masks"].shape[1:] == size


def test_an_object_of_a_fraction_of_a_pixel():
    image, target = scene(0, boxes=((10.0, 10.0, 10.001, 40.0),), labels=(1,))
    values, _ = losses_and_gradients(tiny_model(), ([image], [target]))
    assert all(value < 100 for value in values.values())


# What is not finite


POISONED = [
    ("backbone.body.conv1.weight", np.nan),
    ("backbone.body.conv1.weight", np.inf),
    ("backbone.body.conv1.weight", -np.inf),
    ("rpn.head.conv.0.0.bias", np.nan),
    ("rpn.head.conv.0.0.bias", np.inf),
    ("rpn.head.cls_logits.bias", np.nan),
    ("rpn.head.cls_logits.bias", np.inf),
    ("rpn.head.cls_logits.bias", -np.inf),
    ("rpn.head.bbox_pred.bias", np.nan),
    ("rpn.head.bbox_pred.bias", np.inf),
    ("rpn.head.bbox_pred.bias", -np.inf),
]


@pytest.mark.parametrize(("name", "value"), [*POISONED, ("backbone.fpn.layer_blocks.1.0.bias", np.nan)])
def test_training_stops_at_proposals_that_are_not_finite(name, value):
    model = tiny_model()
    dict(model.named_parameters())[name].data.flat[0] = value
    batch = batch_of(scene(3), scene(4))
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"not finite .*\[3, 4\]"):
        model(*batch)


HEADS = [
    (f"roi_heads.{name}", value)
    for name in ("box_head.fc6.weight", "box_predictor.cls_score.bias", "box_predictor.bbox_pred.bias")
    for value in (np.nan, np.inf, -np.inf)
]


@pytest.mark.parametrize(("name", "value"), POISONED + HEADS)
def test_detection_drops_what_is_not_finite(name, value):
    model = tiny_model().eval()
    dict(model.named_parameters())[name].data[...] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = model([scene(3)[0], scene(4, (50, 70), ((3, 3, 30, 30),))[0]])
    for result in results:
        assert_no_detections(result)


def test_masks_that_are_not_finite():
    model = tiny_model().eval()
    model.roi_heads.mask_predictor.mask_fcn_logits.bias.data[...] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = model([scene(3)[0]])
    assert len(result["scores"]) and np.isfinite(result["boxes"]).all()


def test_a_single_bad_class_does_not_take_the_others_along():
    model = tiny_model().eval()
    model.roi_heads.box_predictor.bbox_pred.bias.data[4 * 2 : 4 * 3] = np.nan
    (result,) = model([scene(3)[0]])
    assert len(result["labels"]) and 2 not in result["labels"]
