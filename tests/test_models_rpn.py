"""The region proposal network: head, targets, sample, loss and proposals, worked by hand."""

import numpy as np
import pytest
from tiny_models import scene, tiny_model

from tinymrcnn.autograd import Tensor
from tinymrcnn.models import rpn
from tinymrcnn.models.rpn import (
    Anchors,
    AnchorSamples,
    RPNHead,
    RPNOutputs,
    RPNSettings,
    anchors_on,
    decode_proposals,
    rpn_loss,
    rpn_targets,
    sample_anchors,
)

DEFAULT = RPNSettings()


def f32(values):
    return np.array(values, np.float32)


def ints(*values):
    return np.array(values, np.int64)


# Head


def zeroed_head(in_channels, channels, anchors):
    head = RPNHead(in_channels, channels, anchors)
    for parameter in head.parameters():
        parameter.data[...] = 0
    return head


def test_the_order_of_logits_and_deltas():
    """Level by level, row by row, column by column, anchor by anchor."""
    head = zeroed_head(1, 1, 3)
    head.conv[0][0].weight.data[0, 0, 1, 1] = 1
    head.cls_logits.weight.data[...] = 1
    head.cls_logits.bias.data[...] = [0.1, 0.2, 0.3]
    head.bbox_pred.weight.data[...] = 1
    head.bbox_pred.bias.data[...] = np.arange(12) / 100
    maps = [np.arange(2 * 6, dtype=np.float32).reshape(2, 1, 2, 3), 100 + np.arange(2 * 2).reshape(2, 1, 1, 2)]
    logits, deltas = head([Tensor(f32(m)) for m in maps])
    assert logits.shape == (2, 8 * 3) and deltas.shape == (2, 8 * 3, 4)
    assert logits.dtype == deltas.dtype == np.float32
    for n in range(2):
        cells = np.concatenate([m[n].reshape(-1) for m in maps])
        np.testing.assert_allclose(logits.data[n], (cells[:, None] + f32([0.1, 0.2, 0.3])).reshape(-1), rtol=1e-6)
        expected = cells[:, None, None] + np.arange(12).reshape(3, 4) / 100
        np.testing.assert_allclose(deltas.data[n], expected.reshape(-1, 4), rtol=1e-5)


def test_the_head_is_shared_and_nonlinear():
    head = zeroed_head(2, 1, 1)
    head.conv[0][0].weight.data[0, :, 1, 1] = [1, -1]
    head.cls_logits.weight.data[...] = 2
    features = f32([[[[1, 5, 0]], [[4, 2, 0]]]])  # the difference of the two channels: -3, 3, 0
    logits, _ = head([Tensor(features), Tensor(features[..., ::-1])])
    np.testing.assert_array_equal(logits.data, [[0, 6, 0, 0, 6, 0]])


# Targets


ANCHORS = f32(
    [
        [0, 0, 10, 20],  # object 0 itself
        [0, 0, 10, 14],  # IoU 0.7 with it
        [0, 0, 10, 13],  # 0.65
        [0, 0, 10, 6],  # 0.3
        [0, 0, 10, 5],  # 0.25
        [40, 30, 44, 40],  # 0.2 with object 1, its best
        [40, 30, 42, 40],  # 0.1
        [70, 70, 80, 80],  # nothing
    ]
)
BOXES = f32([[0, 0, 10, 20], [40, 30, 60, 40]])


def test_targets():
    assert rpn_targets(ANCHORS, BOXES, DEFAULT).tolist() == [0, 0, -2, -2, -1, 1, -1, -1]
    matches = rpn_targets(ANCHORS, BOXES, RPNSettings(fg_iou=0.6, bg_iou=0.6))
    assert matches.tolist() == [0, 0, 0, -1, -1, 1, -1, -1] and matches.dtype == np.int64


def test_all_best_anchors_of_an_object_are_positive():
    tied = f32([[0, 0, 4, 10], [6, 0, 10, 10], [0, 0, 3, 10]])
    assert rpn_targets(tied, f32([[0, 0, 10, 10]]), DEFAULT).tolist() == [0, 0, -2]


def test_targets_without_objects():
    assert rpn_targets(ANCHORS, f32(np.zeros((0, 4))), DEFAULT).tolist() == [-1] * 8


def test_the_sample():
    matches = np.repeat(ints(-1, -2, 0, 1), [50, 20, 10, 5])
    samples = sample_anchors(matches, RPNSettings(samples=24), np.random.default_rng(0))
    assert len(samples.positives) == 12 and len(samples.negatives) == 12
    assert (matches[samples.positives] >= 0).all() and (matches[samples.negatives] == -1).all()
    np.testing.assert_array_equal(samples.objects, matches[samples.positives])
    assert len(set(samples.positives) | set(samples.negatives)) == 24
    assert all(part.dtype == np.int64 for part in (samples.positives, samples.negatives, samples.objects))
    few = sample_anchors(matches, RPNSettings(samples=60), np.random.default_rng(0))
    assert (len(few.positives), len(few.negatives)) == (15, 45)  # the negatives fill up


# Loss


def bce(logit, label):
    return np.log1p(np.exp(-logit if label else logit))


def test_loss():
    anchors = f32([[0, 0, 10, 20], [0, 0, 20, 10], [5, 5, 15, 45], [30, 0, 40, 10]])
    boxes = [f32([[1, 2, 11, 22], [30, 0, 50, 10]]), f32([[5, 5, 15, 45]])]
    logits = f32([[0.5, -1, 2, 0.25], [3, -0.5, 0.75, 1]])
    deltas = np.zeros((2, 4, 4), np.float32)
    deltas[0, 0] = [0.1, 0.1, 0.5, 0]  # wanted: (1 / 10, 2 / 20, 0, 0)
    deltas[0, 3] = [0, 0, 0, 0.05]  # wanted: (0.5, 0, log 2, 0)
    deltas[1, 2] = [0.25, 0, 0, 0]  # wanted: 0
    deltas[1, 1] = 7  # not a positive
    samples = [
        AnchorSamples(ints(0, 3), ints(1), ints(0, 1)),
        AnchorSamples(ints(2), ints(0, 3), ints(0)),
    ]
    leaves = Tensor(logits, requires_grad=True), Tensor(deltas, requires_grad=True)
    outputs = RPNOutputs(*leaves, Anchors(anchors, [4]))
    losses = rpn_loss(outputs, boxes, samples=samples, settings=RPNSettings(box_beta=0.1))
    assert list(losses) == ["loss_objectness", "loss_rpn_box_reg"]
    (objectness, count), (box, box_count) = losses.values()
    assert count == box_count == 6
    expected = bce(0.5, 1) + bce(0.25, 1) + bce(-1, 0) + bce(0.75, 1) + bce(3, 0) + bce(1, 0)
    assert objectness.item() == pytest.approx(expected, rel=1e-6)
    # smooth L1 with beta 0.1: |d| - 0.05, or d^2 / 0.2 where |d| < 0.1
    expected = (0.5 - 0.05) + (0.5 - 0.05) + (np.log(2) - 0.05) + 0.05**2 / 0.2 + (0.25 - 0.05)
    assert box.item() == pytest.approx(expected, rel=1e-6)
    (objectness + box).backward()
    assert (leaves[0].grad != 0).tolist() == [[True, True, False, True], [True, False, True, True]]
    touched = np.zeros((2, 4, 4), bool)
    touched[0, 0, 2] = touched[0, 3, 0] = touched[0, 3, 2] = touched[0, 3, 3] = touched[1, 2, 0] = True
    assert ((np.abs(leaves[1].grad) > 1e-5) == touched).all()


def test_loss_with_beta_0_is_l1():
    anchors, boxes = f32([[0, 0, 10, 20]]), [f32([[0, 0, 10, 20]])]
    deltas = f32([[[0.5, -0.25, 0.125, 1]]])
    samples = [AnchorSamples(ints(0), ints(), ints(0))]
    outputs = RPNOutputs(Tensor(f32([[0]])), Tensor(deltas), Anchors(anchors, [1]))
    box, count = rpn_loss(outputs, boxes, samples=samples, settings=RPNSettings(box_beta=0.0))["loss_rpn_box_reg"]
    assert (box.item(), count) == (1.875, 1)


def test_a_fixed_count_divides_by_what_was_asked_for_in_every_image():
    """Two images with one sample each, of 10 that were asked for: the losses are divided by 20."""
    anchors, boxes = f32([[0, 0, 10, 20]]), [f32([[0, 0, 10, 20]])] * 2
    outputs = RPNOutputs(Tensor(f32([[1], [2]])), Tensor(f32(np.ones((2, 1, 4)))), Anchors(anchors, [1]))
    samples = [AnchorSamples(ints(0), ints(), ints(0))] * 2
    for fixed, count in ((False, 2), (True, 20)):
        settings = RPNSettings(samples=10, fixed_count=fixed)
        losses = rpn_loss(outputs, boxes, samples=samples, settings=settings)
        assert [loss[1] for loss in losses.values()] == [count, count]
        assert losses["loss_objectness"][0].item() == pytest.approx(bce(1, 1) + bce(2, 1), rel=1e-6)


# Anchors


def test_a_model_makes_its_anchors_once_for_a_size(fake_device):
    model = tiny_model().eval()
    batches = [model.transform([scene(i, size)[0]]) for i, size in ((1, (64, 96)), (2, (64, 96)), (3, (96, 64)))]
    first, second, third = (model.all_anchors(model.features(batch), batch) for batch in batches)
    assert first is second and first.boxes.shape == third.boxes.shape
    assert not np.array_equal(first.boxes, third.boxes)
    on_device = anchors_on("fake", np.dtype("float32"), model.anchor_generator, ((4, 6),) * 4, (64, 96), None)
    assert isinstance(on_device.boxes, fake_device) and on_device.level_sizes == [72] * 4


# Proposals


def decode(logits, deltas=None, anchors=None, level_sizes=None, size=(50, 100), pre=100, post=100, nms=0.7, small=1e-3):
    anchors = f32(anchors)
    deltas = np.zeros((len(anchors), 4), np.float32) if deltas is None else f32(deltas)
    anchors = Anchors(anchors, level_sizes or [len(anchors)])
    settings = RPNSettings(pre_nms_test=pre, post_nms_test=post, nms=nms, min_proposal_size=small)
    rules = dict(anchors=anchors, image_sizes=[size], settings=settings, training=False)
    (proposals,) = decode_proposals(f32(logits)[None], deltas[None], **rules)
    return proposals


def test_the_proposals_of_several_images_are_those_of_each():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (40, 2))
    anchors = Anchors(f32(np.concatenate([corners, corners + rng.uniform(5, 30, (40, 2))], axis=1)), [25, 15])
    logits, deltas = f32(rng.normal(size=(3, 40))), f32(rng.normal(size=(3, 40, 4)) / 4)
    logits[1, :36], deltas[2, 7] = -np.inf, np.nan  # one image has few proposals, one a broken one
    sizes, settings = [(50, 100), (70, 60), (80, 90)], RPNSettings(pre_nms_test=12, post_nms_test=9, nms=0.4)
    rules = dict(anchors=anchors, settings=settings, training=False)
    together = decode_proposals(logits, deltas, image_sizes=sizes, **rules)
    assert len(together[0][0]) == 9 and 0 < len(together[1][0]) <= 4
    for i, (boxes, scores) in enumerate(together):
        (alone,) = decode_proposals(logits[i : i + 1], deltas[i : i + 1], image_sizes=sizes[i : i + 1], **rules)
        np.testing.assert_array_equal(boxes, alone[0])
        np.testing.assert_array_equal(scores, alone[1])
        assert (np.diff(scores) <= 0).all() and np.isfinite(boxes).all()


def test_proposals_are_corrected_clipped_and_sorted():
    anchors = [[0, 0, 10, 20], [20, 10, 40, 20], [80, 30, 110, 60]]
    deltas = [[0.5, 0.25, 0, 0], [0, 0, np.log(2), np.log(3)], [0, 0, 0, 0]]
    boxes, logits = decode([-1, 3, 0.5], deltas, anchors)
    np.testing.assert_array_equal(logits, f32([3, 0.5, -1]))
    np.testing.assert_allclose(boxes, [[10, 0, 50, 30], [80, 30, 100, 50], [5, 5, 15, 25]], rtol=1e-5, atol=1e-5)
    assert boxes.dtype == logits.dtype == np.float32


def test_the_best_of_every_level_are_taken_first():
    anchors = [[10 * i, 0, 10 * i + 8, 8] for i in range(8)]
    boxes, logits = decode([1, 5, 3, 4, -1, -3, -2, -4], anchors=anchors, level_sizes=[4, 4], pre=2)
    assert logits.tolist() == [5, 4, -1, -2]
    assert boxes[:, 0].tolist() == [10, 30, 40, 60]
    assert decode([1, 5, 3, 4, -1, -3, -2, -4], anchors=anchors, level_sizes=[4, 4], post=3)[1].tolist() == [5, 4, 3]
    assert decode([1, 5, 3, 4, -1, -3, -2, -4], anchors=anchors, level_sizes=[1, 7], pre=2)[1].tolist() == [5, 4, 1]


def test_of_equal_logits_the_first_come_first():
    anchors = [[10 * i, 0, 10 * i + 8, 8] for i in range(8)]
    boxes, _ = decode([2, 1, 2, 1, 2, 1, 2, 1], anchors=anchors, pre=6)
    assert boxes[:, 0].tolist() == [0, 20, 40, 60, 10, 30]


def test_duplicates_are_suppressed_within_a_level_only():
    anchors = [[0, 0, 40, 40], [0, 0, 40, 38], [0, 0, 40, 20], [1, 0, 40, 40], [1, 0, 40, 39]]
    boxes, logits = decode([1, 2, 3, 0, 0.5], anchors=anchors, level_sizes=[3, 2])
    assert logits.tolist() == [3, 2, 0.5]
    assert boxes.tolist() == [anchors[2], anchors[1], anchors[4]]
    assert decode([1, 2, 3, 0, 0.5], anchors=anchors, level_sizes=[3, 2], nms=1.0)[1].tolist() == [3, 2, 1, 0.5, 0]


def test_small_and_outside_proposals_are_dropped():
    anchors = [[0, 0, 10, 4], [20, 0, 24, 10], [50, 0, 55, 5], [101, 10, 120, 20], [10, 51, 20, 60]]
    boxes, logits = decode([5, 4, 3, 2, 1], anchors=anchors, small=5.0)
    assert boxes.tolist() == [anchors[2]] and logits.tolist() == [3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_proposals_that_are_not_finite_are_dropped(value):
    anchors = [[10 * i, 0, 10 * i + 8, 8] for i in range(4)]
    assert decode([1, value, 3, 4], anchors=anchors)[1].tolist() == [4, 3, 1]
    deltas = np.zeros((4, 4))
    deltas[2, 0] = value
    assert decode([1, 2, 3, 4], deltas, anchors)[1].tolist() == [4, 2, 1]
    boxes, logits = decode([value] * 4, anchors=anchors)
    assert boxes.shape == (0, 4) and logits.shape == (0,)


def test_levels_without_anchors():
    anchors = [[10 * i, 0, 10 * i + 8, 8] for i in range(3)]
    assert decode([1, 2, 3], anchors=anchors, level_sizes=[0, 3, 0])[1].tolist() == [3, 2, 1]
    boxes, logits = decode(np.zeros(0), anchors=np.zeros((0, 4)), level_sizes=[0, 0])
    assert boxes.shape == (0, 4) and logits.shape == (0,)


@pytest.mark.parametrize("count", [1, 7, 40, 60, 99])
def test_the_best_are_those_of_a_stable_sort(count):
    """Among many equal ones, numbers that are none, and infinite ones."""
    rng = np.random.default_rng(count)
    values = rng.integers(0, 5, (3, 60)).astype(np.float32)
    values[1, rng.permutation(60)[:50]] = np.nan
    values[2, ::7], values[2, 1::7] = np.inf, -np.inf
    assert np.array_equal(rpn._smallest(values, count), values.argsort(axis=1, kind="stable")[:, :count])
    assert rpn._smallest(values[:, :0], count).shape == (3, 0)
