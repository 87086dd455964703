"""The box branch: head, targets, sample, loss and detections, worked by hand."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.models.box_branch import (
    BoxHead,
    BoxPredictor,
    BoxSettings,
    RoISamples,
    box_loss,
    box_targets,
    decode_detections,
    sample_rois,
)

DEFAULT = BoxSettings()


def f32(values):
    return np.array(values, np.float32)


def ints(*values):
    return np.array(values, np.int64)


# Head


def test_features_are_flattened_channel_by_channel():
    head = BoxHead(2, BoxSettings(pool=3, hidden=2 * 9))
    head.fc6.weight.data[...] = np.eye(18)
    head.fc7.weight.data[...] = np.eye(18)
    features = np.arange(4 * 18, dtype=np.float32).reshape(4, 2, 3, 3)
    channels_last = np.ascontiguousarray(features.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for array in (features, channels_last):
        np.testing.assert_array_equal(head(Tensor(array)).data, features.reshape(4, 18))


def test_both_layers_are_followed_by_relu():
    head = BoxHead(1, BoxSettings(pool=1, hidden=2))
    head.fc6.weight.data[...] = [[1], [-1]]
    head.fc7.weight.data[...] = [[1, -1], [-1, -1]]
    head.fc7.bias.data[...] = [-1, 5]
    out = head(Tensor(f32([3, -4]).reshape(2, 1, 1, 1)))
    np.testing.assert_array_equal(out.data, [[2, 2], [0, 1]])  # hidden: (3, 0), (0, 4)


def test_predictor_shapes():
    logits, deltas = BoxPredictor(7, 6)(Tensor(np.ones((5, 7), np.float32)))
    assert logits.shape == (5, 6) and deltas.shape == (5, 24)


# Targets

OBJECTS = f32([[0, 0, 10, 20], [40, 30, 60, 40]])
TARGET = {"boxes": OBJECTS, "labels": ints(3, 1)}


def test_targets():
    proposals = f32(
        [
            [0, 0, 10, 10],  # IoU 0.5 with object 0
            [0, 0, 10, 9],  # 0.45
            [42, 30, 60, 40],  # 0.9 with object 1
            [0, 0, 60, 40],
            [70, 70, 80, 80],
        ]
    )
    matches = box_targets(proposals, OBJECTS, DEFAULT)
    assert matches.tolist() == [0, -1, 1, -1, -1] and matches.dtype == np.int64
    assert box_targets(proposals, OBJECTS, BoxSettings(fg_iou=0.6)).tolist() == [-1, -1, 1, -1, -1]
    assert box_targets(proposals, OBJECTS[:0], DEFAULT).tolist() == [-1] * 5
    assert box_targets(proposals[:0], OBJECTS, DEFAULT).shape == (0,)


def test_the_sample_has_positives_first_and_the_objects_themselves():
    proposals = f32([[70, 70, 80, 80], [0, 0, 10, 19], [1, 1, 5, 5], [41, 30, 60, 40]])
    samples = sample_rois(proposals, TARGET, settings=BoxSettings(samples=100), rng=np.random.default_rng(0))
    assert samples.labels.tolist() == [3, 1, 3, 1, 0, 0]
    assert samples.objects.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(samples.boxes, [*proposals[[1, 3]], *OBJECTS, *proposals[[0, 2]]])
    np.testing.assert_array_equal(samples.positives, samples.boxes[:4])
    assert samples.boxes.dtype == np.float32 and samples.labels.dtype == samples.objects.dtype == np.int64


def test_the_size_of_the_sample():
    rng = np.random.default_rng(1)
    near = OBJECTS[rng.integers(0, 2, 40)] + rng.uniform(-0.5, 0.5, (40, 4)).astype(np.float32)
    far = f32([[100, 100, 120, 130]]) + rng.uniform(0, 30, (60, 1)).astype(np.float32)
    samples = sample_rois(np.concatenate([near, far]), TARGET, settings=BoxSettings(samples=20), rng=rng)
    assert len(samples.objects) == 5 and len(samples.labels) == len(samples.boxes) == 20
    assert (samples.labels[:5] > 0).all() and not samples.labels[5:].any()
    np.testing.assert_array_equal(samples.labels[:5], TARGET["labels"][samples.objects])
    assert (samples.boxes[5:, 0] >= 100).all()


def test_sampling_without_objects_or_proposals():
    nothing = {"boxes": OBJECTS[:0], "labels": ints()}
    proposals = f32([[70, 70, 80, 80], [1, 2, 3, 4]])
    samples = sample_rois(proposals, nothing, settings=BoxSettings(samples=8), rng=np.random.default_rng(0))
    assert samples.labels.tolist() == [0, 0] and len(samples.objects) == 0 and samples.positives.shape == (0, 4)
    samples = sample_rois(proposals[:0], TARGET, settings=BoxSettings(samples=8), rng=np.random.default_rng(0))
    assert samples.labels.tolist() == [3, 1]
    samples = sample_rois(proposals[:0], nothing, settings=BoxSettings(samples=8), rng=np.random.default_rng(0))
    assert samples.boxes.shape == (0, 4) and samples.labels.shape == (0,)


# Loss


def test_loss():
    boxes = [OBJECTS, f32([[5, 5, 15, 45]])]
    samples = [
        RoISamples(f32([[0, 0, 10, 20], [44, 30, 64, 40], [1, 1, 7, 9]]), ints(0, 1), ints(2, 1, 0)),
        RoISamples(f32([[5, 5, 15, 25]]), ints(0), ints(1)),
    ]
    logits = f32([[0, 1, 2], [0, 0, 0], [1, -1, 0], [0.5, 0, -0.5]])
    deltas = np.full((4, 12), 9, np.float32)
    deltas[0, 8:] = [0.05, 0, 0, 0]  # wanted: 0
    deltas[1, 4:8] = [0, 0, 0, 0]  # wanted: dx = 10 * -4 / 20
    deltas[3, 4:8] = [0, 4, 0, 3]  # wanted: dy = 10 * 10 / 20, dh = 5 log 2
    leaves = Tensor(logits, requires_grad=True), Tensor(deltas, requires_grad=True)
    losses = box_loss(*leaves, gt_boxes=boxes, samples=samples, settings=BoxSettings(beta=0.1))
    assert list(losses) == ["loss_classifier", "loss_box_reg"]
    (classification, count), (box, box_count) = losses.values()
    assert count == box_count == 4
    rows = [(logits[0], 2), (logits[1], 1), (logits[2], 0), (logits[3], 1)]
    expected = sum(np.log(np.exp(row).sum()) - row[label] for row, label in rows)
    assert classification.item() == pytest.approx(expected, rel=1e-6)
    expected = 0.05**2 / 0.2 + (2 - 0.05) + (1 - 0.05) + (5 * np.log(2) - 3 - 0.05)
    assert box.item() == pytest.approx(expected, rel=1e-5)
    (classification + box).backward()
    assert (leaves[0].grad != 0).all()
    touched = {(int(r), int(c)) for r, c in zip(*np.nonzero(np.abs(leaves[1].grad) > 1e-5), strict=True)}
    assert touched == {(0, 8), (1, 4), (3, 5), (3, 7)}


# Detections


def decode(logits, deltas=None, boxes=None, size=(50, 100), threshold=0.05, nms=0.5, most=100, small=1e-2):
    logits, boxes = f32(logits), f32(boxes)
    deltas = np.zeros((len(boxes), 4 * logits.shape[1])) if deltas is None else deltas
    settings = BoxSettings(score_threshold=threshold, nms=nms, max_detections=most, min_box_size=small)
    return decode_detections(logits, f32(deltas), rois=boxes, image_size=size, settings=settings)


def log(*scores):
    """Logits whose softmax these scores are."""
    return np.log(scores)


def test_every_class_has_its_own_box():
    boxes = [[10, 10, 30, 20], [60, 30, 110, 60]]
    deltas = np.zeros((2, 12))
    deltas[0, 4:8] = [10 * 0.5, 0, 0, 0]  # half a width to the right
    deltas[0, 8:12] = [0, 0, 0, 5 * np.log(2)]  # twice as high
    deltas[:, :4] = 100  # the background's box is never used
    found = decode([log(0.1, 0.3, 0.6), log(0.5, 0.4, 0.1)], deltas, boxes)
    np.testing.assert_allclose(found["scores"], [0.6, 0.4, 0.3, 0.1], rtol=1e-5)
    assert found["labels"].tolist() == [2, 1, 1, 2]
    clipped = [60, 30, 100, 50]
    np.testing.assert_allclose(found["boxes"], [[10, 5, 30, 25], clipped, [20, 10, 40, 20], clipped], rtol=1e-5)
    assert found["boxes"].dtype == found["scores"].dtype == np.float32 and found["labels"].dtype == np.int64


def test_thresholds():
    boxes = [[10, 10, 30, 20], [40, 10, 60, 20], [70, 10, 90, 20]]
    logits = [log(0.2, 0.7, 0.1), log(0.9, 0.06, 0.04), log(0.49, 0.02, 0.49)]
    found = decode(logits, boxes=boxes)
    np.testing.assert_allclose(found["scores"], [0.7, 0.49, 0.1, 0.06], rtol=1e-5)
    assert found["labels"].tolist() == [1, 2, 2, 1]
    assert decode(logits, boxes=boxes, threshold=0.5)["labels"].tolist() == [1]
    assert decode(logits, boxes=boxes, most=2)["labels"].tolist() == [1, 2]  # the best over all classes
    # a score at the threshold is not above it
    assert decode([[0, 0, 0, 0]], boxes=boxes[:1], threshold=0.25)["labels"].tolist() == []


def test_duplicates_are_suppressed_within_a_class_only():
    boxes = [[10, 10, 30, 20], [10, 10, 30, 19], [10, 10, 30, 15]]
    found = decode([log(0.2, 0.7, 0.1), log(0.1, 0.3, 0.6), log(0.6, 0.2, 0.2)], boxes=boxes)
    # class 1: 0.7 drops 0.3 (IoU 0.9), keeps 0.2 (IoU 0.5); class 2: 0.6 drops 0.2 (0.56) and 0.1 (0.9)
    np.testing.assert_allclose(found["scores"], [0.7, 0.6, 0.2], rtol=1e-5)
    assert found["labels"].tolist() == [1, 2, 1]
    np.testing.assert_allclose(found["boxes"], f32(boxes), rtol=1e-6)


def test_small_and_outside_detections_are_dropped():
    boxes = [[10, 10, 14, 30], [20, 10, 40, 13], [99, 10, 120, 30], [60, 45, 80, 70]]
    found = decode([log(0.1, 0.9)] * 4, boxes=boxes, small=5.0)
    assert found["boxes"].tolist() == [[60, 45, 80, 50]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_dropped(value):
    boxes = [[10, 10, 30, 20], [40, 10, 60, 20]]
    logits = f32([log(0.2, 0.7, 0.1), log(0.2, 0.5, 0.3)])
    deltas = np.zeros((2, 12))
    deltas[0, 4] = value
    with np.errstate(invalid="ignore"):
        found = decode(logits, deltas, boxes)
        np.testing.assert_allclose(found["scores"], [0.5, 0.3, 0.1], rtol=1e-5)
        logits[0, 1] = value
        found = decode(logits, None, boxes)
    if value == -np.inf:  # a score of 0: the other classes share the rest
        np.testing.assert_allclose(found["scores"], [0.5, 1 / 3, 0.3], rtol=1e-5)
    else:
        np.testing.assert_allclose(found["scores"], [0.5, 0.3], rtol=1e-5)
        assert found["boxes"].tolist() == [boxes[1]] * 2


def test_no_rois():
    found = decode(np.zeros((0, 3)), boxes=np.zeros((0, 4)))
    assert found["boxes"].shape == (0, 4) and found["scores"].shape == found["labels"].shape == (0,)
    assert found["boxes"].dtype == np.float32 and found["labels"].dtype == np.int64
