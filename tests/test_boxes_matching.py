"""Matching of anchors and proposals to objects, by hand and against torchvision."""

import numpy as np
import pytest

from tinymrcnn.boxes import AnchorGenerator, Matcher, box_iou


def iou(*rows):
    return np.array(rows, np.float32)


def test_thresholds_by_hand():
    # anchors:           0.7 and more -> its object; 0.3 .. 0.7 -> ignored (-2); below 0.3 -> background (-1)
    matrix = iou(
        [0.90, 0.10, 0.50, 0.00, 0.70, 0.30],
        [0.20, 0.75, 0.60, 0.29, 0.00, 0.10],
    )
    matches = Matcher(0.7, 0.3)(matrix)
    assert matches.dtype == np.int64
    np.testing.assert_array_equal(matches, [0, 1, -2, -1, 0, -2])  # the bounds themselves belong to the upper side


def test_proposals_have_no_ignored_zone():
    np.testing.assert_array_equal(Matcher(0.5, 0.5)(iou([0.5, 0.49, 0.0], [0.2, 0.3, 0.8])), [0, -1, 1])


def test_every_object_gets_its_best_anchors():
    # Object 1 is covered badly: its best anchors, 2 and 3 (a tie), become positive. Without the rule they are
    # background and ignored.
    matrix = iou(
        [0.80, 0.10, 0.00, 0.00],
        [0.00, 0.10, 0.25, 0.25],
    )
    np.testing.assert_array_equal(Matcher(0.7, 0.3)(matrix), [0, -1, -1, -1])
    np.testing.assert_array_equal(Matcher(0.7, 0.3, allow_low_quality=True)(matrix), [0, -1, 1, 1])


def test_a_best_anchor_keeps_its_own_best_object():
    # Anchor 0 is the best that object 1 has (0.4), but overlaps object 0 more (0.5), as anchor 1 does even better.
    # It becomes positive for object 0.
    matrix = iou([0.5, 0.6], [0.4, 0.1])
    np.testing.assert_array_equal(Matcher(0.7, 0.3, allow_low_quality=True)(matrix), [0, 0])


def test_an_object_that_nothing_touches_makes_nothing_positive():
    matrix = iou([0.8, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(Matcher(0.7, 0.3, allow_low_quality=True)(matrix), [0, -1, -1, -1])


def test_without_objects_or_anchors():
    for low_quality in (False, True):
        matcher = Matcher(0.7, 0.3, low_quality)
        matches = matcher(np.zeros((0, 5), np.float32))
        assert matches.dtype == np.int64
        np.testing.assert_array_equal(matches, [-1] * 5)
        assert matcher(np.zeros((3, 0), np.float32)).shape == (0,)
        assert matcher(np.zeros((0, 0), np.float32)).shape == (0,)


def test_an_iou_that_is_no_number_is_background():
    np.testing.assert_array_equal(Matcher(0.5, 0.5)(iou([np.nan, 0.9])), [-1, 0])


def test_equally_good_anchors_of_a_grid_are_all_positive():
    """In float32 the four anchors around an object in the middle between four cells tie exactly, and all count."""
    (anchors,) = AnchorGenerator(((12,),), (1.0,))([(4, 6)], (32, 48), [8])
    assert anchors.dtype == np.float32
    gt = np.array([[16, 8, 24, 16]], np.float32)  # its centre (20, 12) lies between columns 2, 3 and rows 1, 2
    matches = Matcher(0.7, 0.3, allow_low_quality=True)(box_iou(gt, anchors)).reshape(4, 6)
    np.testing.assert_array_equal(np.argwhere(matches == 0), [[1, 2], [1, 3], [2, 2], [2, 3]])


def test_wrong_arguments_are_refused():
    for high, low in ((0.3, 0.7), (1.5, 0.3), (0.5, -0.1)):
        with pytest.raises(ValueError, match="low <= high"):
            Matcher(high, low)
    with pytest.raises(ValueError, match="objects, anchors"):
        Matcher(0.5, 0.5)(np.zeros(4, np.float32))


@pytest.mark.parity
@pytest.mark.parametrize("high, low, low_quality", [(0.7, 0.3, True), (0.5, 0.5, False), (0.6, 0.1, True)])
def test_as_torchvision(high, low, low_quality):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.models.detection._utils").Matcher(high, low, low_quality)
    rng = np.random.default_rng(2)
    for trial in range(50):
        # few distinct values: ties everywhere, and values exactly on the thresholds
        matrix = (rng.integers(1, 11, (1 + trial % 6, 40)) / 10).astype(np.float32)
        expected = theirs(torch.from_numpy(matrix)).numpy()
        np.testing.assert_array_equal(Matcher(high, low, low_quality)(matrix), expected)
