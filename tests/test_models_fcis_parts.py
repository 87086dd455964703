"""The branch of FCIS: what is read from constructed maps, the loss, and refined boxes."""

import math

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.models.box_branch import BoxSettings, RoISamples, box_loss
from tinymrcnn.models.fcis import (
    FCISSettings,
    Reading,
    ScoreMaps,
    class_logits,
    fcis_mask_loss,
    fcis_mask_targets,
    mask_logits,
    on_pixels,
    read_rois,
    refine,
)

FOUR = FCISSettings(group=2, pooled=4)


# Where RoIs lie


def test_rois_lie_on_pixels():
    boxes = np.array([[1.4, 2.5, 9.5, 30.0], [0.5, 0.4, 1.4, 0.3], [6, 6, 5, 7], [8, 16, 12, 40]], np.float32)
    # halves away from zero; at least one pixel wide and high
    expected = [[1, 3, 10, 30], [1, 0, 2, 1], [6, 6, 7, 7], [8, 16, 12, 40]]
    pixels = on_pixels(boxes)
    assert pixels.tolist() == expected and pixels.dtype == np.float32
    np.testing.assert_array_equal(on_pixels(pixels), pixels)
    assert on_pixels(boxes[:0]).shape == (0, 4)


# Reading constructed maps


def test_every_part_reads_its_own_maps():
    """Every map is full of the number of its channel."""
    number = np.arange(2 * 3 * 4, dtype=np.float32)
    scores = Tensor(np.broadcast_to(number[None, :, None, None], (1, 24, 9, 10)).copy())
    boxes = Tensor(np.broadcast_to(number[None, :16, None, None], (1, 16, 9, 10)).copy())
    reading = read_rois((scores, boxes), [np.array([[1, 2, 6, 7]], np.float32)], 1, FOUR)
    assert reading.scores.shape == (1, 3, 2, 4, 4)
    for k in range(3):
        for inside in (0, 1):
            first = (k * 2 + inside) * 4
            upper, lower = [first, first, first + 1, first + 1], [first + 2, first + 2, first + 3, first + 3]
            assert reading.scores.data[0, k, inside].tolist() == [upper, upper, lower, lower]
    assert reading.deltas.data.tolist() == [[1.5, 5.5, 9.5, 13.5]]  # means over the four parts


@pytest.mark.parametrize(("stride", "box"), [(1, (1, 2, 5, 6)), (4, (4, 8, 20, 24)), (4, (3.6, 8.4, 19.5, 24.2))])
def test_an_roi_reads_the_cells_that_it_lies_on(stride, box):
    """Every map holds 10 y + x, counted without the rim of one cell; the last rows and columns are read too."""
    y, x = np.mgrid[-1:7, -1:6].astype(np.float32)
    maps = tuple(Tensor(np.tile(10 * y + x, (1, channels, 1, 1))) for channels in (16, 16))
    rois = [np.array([box, (0, 0, 5 * stride, 6 * stride)], np.float32)]
    reading = read_rois(maps, rois, stride, FOUR)
    assert reading.rois[0][0].tolist() == [stride, 2 * stride, 5 * stride, 6 * stride]
    expected = 10 * np.arange(2, 6)[:, None] + np.arange(1, 5)
    for k, inside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.testing.assert_array_equal(reading.scores.data[0, k, inside], expected)
    corners = reading.scores.data[1, 0, 0, [0, 3], [0, 3]]
    if stride == 1:
        np.testing.assert_allclose(corners, [10 * 0.5 + 0.5, 10 * 4.5 + 3.5])  # bins of 1.25 x 1.5 cells, outwards
    else:
        # of 5 x 6 pixels: all of a cell and a part of the next, 4 and 1 pixels, 4 and 2
        np.testing.assert_allclose(corners, [10 * 2 / 6 + 1 / 5, 10 * (5 - 2 / 6) + 4 - 1 / 5], rtol=1e-6)
    np.testing.assert_allclose(reading.deltas.data[0], [10 * 3.5 + 2.5] * 4)


def test_an_roi_between_cells_reads_parts_of_them():
    """Columns of 0 and 8, 4 pixels a cell: bins of 2 pixels from pixel 1 on lie in the first, over both, in the second
    and over the second and the rim."""
    columns = np.array([0, 0, 8, 8], np.float32)  # with the rim
    maps = tuple(Tensor(np.tile(columns, (1, channels, 3, 1))) for channels in (16, 16))
    reading = read_rois(maps, [np.array([[1, 0, 9, 4]], np.float32)], 4, FOUR)
    assert reading.scores.data[0, 1, 1, 0].tolist() == [0, 4, 8, 8]
    assert reading.scores.data[0, 1, 1, 3].tolist() == [0, 4, 8, 8]


def test_maps_have_a_rim():
    settings = FCISSettings(group=2, channels=4)
    maps = ScoreMaps(5, 3, settings)
    maps.initialize(0)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32))
    scores, boxes = maps(x)
    assert scores.shape == (2, 24, 6, 8) and boxes.shape == (2, 16, 6, 8)
    hidden = np.maximum(np.einsum("oc,nchw->nohw", maps.conv_new.weight.data[:, :, 0, 0], x.data), 0)
    plain = np.einsum("oc,nchw->nohw", maps.cls_seg.weight.data[:, :, 0, 0], hidden)
    np.testing.assert_allclose(scores.data[:, :, 1:-1, 1:-1], plain, atol=1e-6)


def test_classes_and_masks_of_scores():
    scores = np.zeros((2, 2, 2, 1, 2))
    scores[0, 1, 0], scores[0, 1, 1] = [3, -1], [1, 2]  # outside, then inside
    assert class_logits(Tensor(scores)).data.tolist() == [[0, 2.5], [0, 0]]  # the mean of 3 and 2
    found = mask_logits(Tensor(scores), np.array([0, 1, 0]), np.array([1, 1, 0]))
    assert found.data.tolist() == [[[-2, 3]], [[0, 0]], [[0, 0]]]
    outside, inside = math.exp(-1), math.exp(2)
    assert 1 / (1 + math.exp(-3)) == pytest.approx(inside / (inside + outside))  # so it is the softmax of the two


# Loss


def test_mask_targets_begin_at_a_coverage_of_four_tenths():
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[1, :, :5] = 1
    rois = np.array([[0, 0, 8, 8], [0.2, 0, 8.2, 8], [0.3, 0, 8.3, 8]], np.float32)
    settings = FCISSettings(group=2, pooled=4)
    targets = fcis_mask_targets(mask, rois, objects=np.array([1, 1, 1]), settings=settings)
    # the third cell of 2 pixels is covered by 0.5, 0.4 and 0.35
    assert [target[0].tolist() for target in targets] == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    objects = np.array([0])
    assert not fcis_mask_targets(mask, rois[:1], objects=objects, settings=settings).any()


def test_the_mask_loss_by_hand():
    """Two images with 2 and 1 RoIs; the positives are the first of each, of the classes 1 and 2."""
    scores = np.zeros((3, 3, 2, 2, 2))
    scores[0, 1, 1], scores[0, 1, 0] = 2, 0.5  # inside - outside = 1.5
    scores[2, 2, 1] = [[1, -1], [0, 3]]
    scores[1] = 7  # a negative says nothing
    samples = [
        RoISamples(np.zeros((2, 4)), np.array([0]), np.array([1, 0])),
        RoISamples(np.zeros((1, 4)), np.array([0]), np.array([2])),
    ]
    targets = [np.ones((1, 2, 2)), np.array([[[1.0, 0.0], [0.0, 1.0]]])]
    settings = FCISSettings(group=1, pooled=2, mask_weight=10)
    total, count = fcis_mask_loss(Tensor(scores), samples, targets=targets, settings=settings)

    def loss(inside, target):
        return math.log(1 + math.exp(-inside if target else inside))

    first = loss(1.5, 1)
    second = (loss(1, 1) + loss(-1, 0) + loss(0, 0) + loss(3, 1)) / 4
    assert count == 3 and total.item() == pytest.approx(10 * (first + second), rel=1e-12)


def test_box_corrections_for_all_classes_alike():
    samples = [RoISamples(np.array([[0, 0, 10, 20.0], [5, 5, 9, 9]]), np.array([0]), np.array([2, 0]))]
    truth, settings = [np.array([[1.0, 2, 9, 22]])], BoxSettings(weights=(5, 5, 2, 2), beta=0.0)
    deltas = np.array([[0.5, 0, 0, 0], [9, 9, 9, 9]])
    sums = box_loss(Tensor(np.zeros((2, 3))), Tensor(deltas), gt_boxes=truth, samples=samples, settings=settings)
    # dx = 5 (5 - 5) / 10, dy = 5 (12 - 10) / 20, dw = 2 log(8 / 10), dh = 0
    assert sums["loss_box_reg"][0].item() == pytest.approx(0.5 + 0.5 - 2 * math.log(0.8))


# Inference


def reading_of(rois, deltas):
    rois = np.array(rois, np.float32).reshape(-1, 4)
    return Reading([rois], Tensor(np.zeros((len(rois), 2, 2, 1, 1), np.float32)), Tensor(np.array(deltas, np.float32)))


def test_refined_boxes():
    reading = reading_of([[0, 0, 10, 20], [4, 4, 8, 8], [2, 2, 6, 6]], [[1, 0, 0, 0], [0] * 4, [0, np.nan, 0, 0]])
    (boxes,) = refine(reading, [(30, 11)], BoxSettings(weights=(5, 5, 2, 2)))
    np.testing.assert_allclose(boxes, [[2, 0, 11, 20], [4, 4, 8, 8], [2, 2, 6, 6]], atol=1e-5)  # clipped at 11
    (none,) = refine(reading_of([], np.zeros((0, 4))), [(30, 11)], BoxSettings())
    assert none.shape == (0, 4)
