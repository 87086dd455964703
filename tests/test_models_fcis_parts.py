"""The branch of FCIS: what is read from constructed maps, the loss, and votes counted by hand."""

import math

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.models.box_branch import BoxSettings, RoISamples, box_loss
from tinymrcnn.models.fcis import (
    Candidates,
    FCISSettings,
    Reading,
    ScoreMaps,
    class_logits,
    cut_at_half,
    decode_fcis,
    fcis_mask_loss,
    fcis_mask_targets,
    mask_logits,
    on_pixels,
    read_rois,
    refine,
    vote,
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


LEFT, ALL = np.tile(np.float32([0.9, 0.9, 0.1, 0.1]), (4, 1)), np.full((4, 4), 0.7, np.float32)


def candidates(*rows):
    """rows: (box, scores of the classes 1 and 2, mask)."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([[1 - sum(row[1]), *row[1]] for row in rows], np.float32).reshape(-1, 3)
    masks = np.array([row[2] for row in rows], np.float32).reshape(-1, 4, 4)
    return Candidates(boxes, boxes.copy(), scores, masks)


@pytest.mark.parametrize(
    ("weights", "box"),
    [((0.2, 0.6), (2, 3, 6, 7)), ((0.6, 0.2), (2, 3, 4, 7)), ((0.3, 0.2), (2, 3, 6, 7)), ((0.31, 0.2), (2, 3, 4, 7))],
)
def test_votes_by_hand(weights, box):
    """Two candidates for one place: one says that the left half is the object, the other that all is. The right half
    has the share of the second's score, which must reach 0.4."""
    place, far = (2, 3, 6, 7), (8, 3, 12, 7)
    found = candidates((place, (weights[0], 0), LEFT), (place, (weights[1], 0), ALL), (far, (0.9, 0), ALL))
    boxes, masks = vote(found, 0, 1, (10, 14), FOUR)
    assert boxes.tolist() == [list(box)] and masks.shape == (1, 8, 8)
    shares = np.float32([1, 1, weights[1] / sum(weights), weights[1] / sum(weights)])[: box[2] - 2]
    np.testing.assert_allclose(masks[0][4, [2, 5]], [1, shares[-1]], atol=1e-6)


def test_who_votes():
    """Those that overlap the detection enough; the weights are the scores for the detection's class."""
    place, near, less = (0, 0, 4, 4), (0, 0, 4, 2), (0, 0, 4, 1)  # IoU 1, 0.5, 0.25
    none = np.zeros((4, 4), np.float32)
    found = candidates((place, (0.2, 0.2), ALL), (near, (0.3, 0.1), none), (less, (0.9, 0.0), none))
    assert len(vote(found, 0, 1, (6, 6), FOUR)[0]) == 1  # 0.2 / (0.2 + 0.3) is 0.4
    stricter = FCISSettings(group=2, pooled=4, voting_iou=0.51)
    np.testing.assert_allclose(vote(found, 0, 1, (6, 6), stricter)[1], 1, atol=1e-6)
    everyone = FCISSettings(group=2, pooled=4, voting_iou=0.2)
    boxes, masks = vote(found, 0, 1, (6, 6), everyone)
    assert boxes.shape == (0, 4) and masks.shape == (0, 8, 8)  # 0.2 / 1.4: nothing is left
    assert len(vote(found, 0, 2, (6, 6), everyone)[0]) == 1  # for class 2 it is 0.2 / 0.3


def test_detections_with_and_without_votes():
    place, near, other = (2, 2, 6, 6), (2, 2, 6, 5.5), (8, 2, 12, 6)
    found = candidates((place, (0.7, 0.1), LEFT), (near, (0.5, 0.0), ALL), (other, (0.01, 0.3), ALL))
    box = BoxSettings(nms=0.3, score_threshold=0.05)
    settings = FCISSettings(group=2, pooled=4, voting=False)
    plain = decode_fcis(found, image_size=(10, 14), settings=settings, box=box)
    # the second is a duplicate of the first for class 1; the first is there once more for class 2
    assert plain["labels"].tolist() == [1, 2, 2] and plain["labels"].dtype == np.int64
    np.testing.assert_allclose(plain["scores"], [0.7, 0.3, 0.1])
    assert plain["boxes"].tolist() == [list(place), list(other), list(place)]
    assert plain["masks"].shape == (3, 8, 8) and plain["masks"].dtype == np.float32
    half = cut_at_half(LEFT, 0.4)
    np.testing.assert_allclose(plain["masks"][0][:, [0, 7]], np.tile(half[0, [0, 3]], (8, 1)), atol=1e-6)
    np.testing.assert_array_equal(plain["masks"][0], plain["masks"][2])  # both have the mask of the best class
    voted = decode_fcis(found, image_size=(10, 14), settings=FOUR, box=box)
    assert voted["labels"].tolist() == [1, 2, 2]
    assert voted["boxes"].tolist() == [[2, 2, 6, 6], list(other), [2, 2, 4, 6]]  # 5 / 12 of class 1 vote for the right
    one = BoxSettings(nms=0.3, score_threshold=0.05, max_detections=1)
    assert decode_fcis(found, image_size=(10, 14), settings=FOUR, box=one)["labels"].tolist() == [1]
    large = BoxSettings(nms=0.3, min_box_size=3.8)
    loose = BoxSettings(nms=0.999, min_box_size=3.8)
    assert len(decode_fcis(found, image_size=(10, 14), settings=settings, box=large)["scores"]) == 3
    assert len(decode_fcis(found, image_size=(10, 14), settings=settings, box=loose)["scores"]) == 3  # not the near one


def test_masks_follow_from_where_they_were_read_to_the_box():
    """The mask lies over the RoI on cells (0, 0, 8, 8), and is wanted over the box (4, 0, 8, 8): its right half."""
    mask = np.tile(np.float32([0.1, 0.1, 0.9, 0.9]), (4, 1))
    found = candidates(((4, 0, 8, 8), (0.9, 0), mask))._replace(rois=np.float32([[0, 0, 8, 8]]))
    settings = FCISSettings(group=2, pooled=4, voting=False)
    (result,) = decode_fcis(found, image_size=(8, 8), settings=settings, box=BoxSettings())["masks"]
    np.testing.assert_allclose(result[:, 2:], cut_at_half(np.float32(0.9), 0.4), atol=1e-6)
    assert (result[:, 0] < result[:, 2]).all()  # the bilinear sample next to the other half


def test_what_is_not_finite_is_dropped():
    place = (2, 2, 6, 6)
    found = candidates((place, (0.7, 0.1), ALL), (place, (0.8, 0.0), ALL), (place, (0.9, 0.0), ALL))
    found.scores[1, 2], found.masks[2, 0, 0] = np.nan, np.nan
    for settings in (FOUR, FCISSettings(group=2, pooled=4, voting=False)):
        result = decode_fcis(found, image_size=(8, 8), settings=settings, box=BoxSettings())
        np.testing.assert_allclose(result["scores"], [0.7, 0.1])
        assert result["boxes"].tolist() == [list(place)] * 2 and np.isfinite(result["masks"]).all()


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.8])
def test_probabilities_are_cut_at_half(threshold):
    probabilities = np.linspace(0, 1, 101)
    mapped = cut_at_half(probabilities, threshold)
    assert mapped[0] == 0 and mapped[-1] == 1 and (np.diff(mapped) > 0).all()
    assert cut_at_half(np.float64(threshold), threshold) == pytest.approx(0.5)
    assert ((mapped > 0.5) == (probabilities > threshold + 1e-9)).all()
