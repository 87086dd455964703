"""Votes for masks, counted by hand, and detections from candidates."""

import numpy as np
import pytest

from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.models.voting import Candidates, VotingSettings, cut_at_half, decode_candidates, masks_over, vote

DEFAULT = VotingSettings()
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
    boxes, masks = vote(found, 0, 1, (10, 14), DEFAULT)
    assert boxes.tolist() == [list(box)] and masks.shape == (1, 8, 8)
    shares = np.float32([1, 1, weights[1] / sum(weights), weights[1] / sum(weights)])[: box[2] - 2]
    np.testing.assert_allclose(masks[0][4, [2, 5]], [1, shares[-1]], atol=1e-6)


def test_who_votes():
    """Those that overlap the detection enough; the weights are the scores for the detection's class."""
    place, near, less = (0, 0, 4, 4), (0, 0, 4, 2), (0, 0, 4, 1)  # IoU 1, 0.5, 0.25
    none = np.zeros((4, 4), np.float32)
    found = candidates((place, (0.2, 0.2), ALL), (near, (0.3, 0.1), none), (less, (0.9, 0.0), none))
    np.testing.assert_allclose(vote(found, 0, 1, (6, 6), DEFAULT)[1], [np.full((8, 8), 0.4)], rtol=1e-6)  # 0.2 / 0.5
    stricter = VotingSettings(voting_iou=0.51)
    np.testing.assert_allclose(vote(found, 0, 1, (6, 6), stricter)[1], 1, atol=1e-6)
    everyone = VotingSettings(voting_iou=0.2)
    boxes, masks = vote(found, 0, 1, (6, 6), everyone)
    assert boxes.shape == (0, 4) and masks.shape == (0, 8, 8)  # 0.2 / 1.4: nothing is left
    assert len(vote(found, 0, 2, (6, 6), everyone)[0]) == 1  # for class 2 it is 0.2 / 0.3


@pytest.mark.parametrize(
    ("place", "box"),
    [
        ((-2, -3, 6, 7), (0, 0, 6, 7)),  # over the upper left corner of the image
        ((8, 6, 18, 14), (8, 6, 14, 10)),  # over the lower right one
        ((-3, -2, 20, 13), (0, 0, 14, 10)),  # larger than the image
        ((2.4, 3.4, 6.6, 7.6), (2, 3, 7, 8)),  # between pixels: their centres, 2.5 to 6.5, are inside
        ((2.6, 3.2, 6.4, 7.8), (3, 3, 6, 8)),  # 2.5 and 6.5 are not
    ],
)
def test_votes_at_the_border_of_the_image_and_between_pixels(place, box):
    found = candidates((place, (0.9, 0), ALL))
    boxes, masks = vote(found, 0, 1, (10, 14), DEFAULT)
    assert boxes.tolist() == [list(box)]
    np.testing.assert_array_equal(masks[0, 3:5, 3:5], 1)


def test_a_voter_with_a_larger_roi_widens_the_window():
    """The second mask lies over an RoI of its own, which reaches further than the detection's on all sides."""
    found = candidates(((4, 4, 8, 8), (0.1, 0), ALL), ((4, 4, 8, 8), (0.8, 0), ALL))
    found.rois[1] = 3, 2, 11, 9
    assert vote(found, 0, 1, (10, 14), DEFAULT)[0].tolist() == [[3, 2, 11, 9]]


def test_the_vote_of_a_box_without_an_area():
    """It overlaps nothing, but counts as its own voter."""
    found = candidates(((3, 3, 3, 8), (0.9, 0), ALL))
    found.rois[0] = 3, 3, 7, 8
    assert vote(found, 0, 1, (10, 14), DEFAULT)[0].tolist() == [[3, 3, 7, 8]]


def test_a_score_must_exceed_the_threshold():
    place, far = (2, 2, 6, 6), (8, 2, 12, 6)
    found = candidates((place, (0.25, 0), ALL), (far, (0.26, 0), ALL))
    for settings in (DEFAULT, VotingSettings(voting=False)):
        result = decode_candidates(
            [found], image_size=(10, 14), settings=settings, box=BoxSettings(score_threshold=0.25)
        )
        assert result["boxes"].tolist() == [list(far)]


def test_what_nothing_is_left_of_is_dropped():
    """The best detection has no mask: box, mask, label and score of the other stay together."""
    none = np.zeros((4, 4), np.float32)
    found = candidates(((2, 2, 6, 6), (0.7, 0), none), ((8, 2, 12, 6), (0.1, 0.3), ALL))
    box = BoxSettings(score_threshold=0.2)
    result = decode_candidates([found], image_size=(10, 14), settings=DEFAULT, box=box)
    assert result["labels"].tolist() == [2] and result["boxes"].tolist() == [[8, 2, 12, 6]]
    np.testing.assert_allclose(result["scores"], [0.3])
    assert result["masks"].shape == (1, 8, 8) and result["masks"].all()


def test_detections_with_and_without_votes():
    place, near, other = (2, 2, 6, 6), (2, 2, 6, 5.5), (8, 2, 12, 6)
    found = candidates((place, (0.7, 0.1), LEFT), (near, (0.5, 0.0), ALL), (other, (0.01, 0.3), ALL))
    box = BoxSettings(nms=0.3, score_threshold=0.05)
    settings = VotingSettings(voting=False)
    plain = decode_candidates([found], image_size=(10, 14), settings=settings, box=box)
    # the second is a duplicate of the first for class 1; the first is there once more for class 2
    assert plain["labels"].tolist() == [1, 2, 2] and plain["labels"].dtype == np.int64
    np.testing.assert_allclose(plain["scores"], [0.7, 0.3, 0.1])
    assert plain["boxes"].tolist() == [list(place), list(other), list(place)]
    assert plain["masks"].shape == (3, 8, 8) and plain["masks"].dtype == np.float32
    half = cut_at_half(LEFT, 0.4)
    np.testing.assert_allclose(plain["masks"][0][:, [0, 7]], np.tile(half[0, [0, 3]], (8, 1)), atol=1e-6)
    np.testing.assert_array_equal(plain["masks"][0], plain["masks"][2])  # both have the mask of the best class
    voted = decode_candidates([found], image_size=(10, 14), settings=DEFAULT, box=box)
    assert voted["labels"].tolist() == [1, 2, 2]
    assert voted["boxes"].tolist() == [[2, 2, 6, 6], list(other), [2, 2, 4, 6]]  # 5 / 12 of class 1 vote for the right
    one = BoxSettings(nms=0.3, score_threshold=0.05, max_detections=1)
    assert decode_candidates([found], image_size=(10, 14), settings=DEFAULT, box=one)["labels"].tolist() == [1]
    large = BoxSettings(nms=0.3, min_box_size=3.8)
    loose = BoxSettings(nms=0.999, min_box_size=3.8)
    assert len(decode_candidates([found], image_size=(10, 14), settings=settings, box=large)["scores"]) == 3
    assert (
        len(decode_candidates([found], image_size=(10, 14), settings=settings, box=loose)["scores"]) == 3
    )  # not the near one


def test_masks_follow_from_where_they_were_read_to_the_box():
    """The mask lies over the RoI on cells (0, 0, 8, 8), and is wanted over the box (4, 0, 8, 8): its right half."""
    mask = np.tile(np.float32([0.1, 0.1, 0.9, 0.9]), (4, 1))
    found = candidates(((4, 0, 8, 8), (0.9, 0), mask))._replace(rois=np.float32([[0, 0, 8, 8]]))
    settings = VotingSettings(voting=False)
    (result,) = decode_candidates([found], image_size=(8, 8), settings=settings, box=BoxSettings())["masks"]
    np.testing.assert_allclose(result[:, 2:], cut_at_half(np.float32(0.9), 0.4), atol=1e-6)
    assert (result[:, 0] < result[:, 2]).all()  # the bilinear sample next to the other half


def test_what_is_not_finite_is_dropped():
    place = (2, 2, 6, 6)
    found = candidates((place, (0.7, 0.1), ALL), (place, (0.8, 0.0), ALL), (place, (0.9, 0.0), ALL))
    found.scores[1, 2], found.masks[2, 0, 0] = np.nan, np.nan
    for settings in (DEFAULT, VotingSettings(voting=False)):
        result = decode_candidates([found], image_size=(8, 8), settings=settings, box=BoxSettings())
        np.testing.assert_allclose(result["scores"], [0.7, 0.1])
        assert result["boxes"].tolist() == [list(place)] * 2 and np.isfinite(result["masks"]).all()


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.8])
def test_probabilities_are_cut_at_half(threshold):
    probabilities = np.linspace(0, 1, 101)
    mapped = cut_at_half(probabilities, threshold)
    assert mapped[0] == 0 and mapped[-1] == 1 and (np.diff(mapped) > 0).all()
    assert cut_at_half(np.float64(threshold), threshold) == pytest.approx(0.5)
    assert ((mapped > 0.5) == (probabilities > threshold + 1e-9)).all()


def test_candidates_of_both_passes():
    """The better of two duplicates wins, of whichever pass it is, and those of both passes vote."""
    place, other = (2, 2, 6, 6), (8, 2, 12, 6)
    first, second = candidates((place, (0.5, 0), ALL)), candidates((place, (0.7, 0), LEFT), (other, (0.6, 0), ALL))
    result = decode_candidates([first, second], image_size=(10, 14), settings=DEFAULT, box=BoxSettings(nms=0.3))
    np.testing.assert_allclose(result["scores"], [0.7, 0.6])
    assert result["boxes"].tolist() == [list(place), list(other)]  # 5 / 12 vote for the right half
    alone = decode_candidates([second], image_size=(10, 14), settings=DEFAULT, box=BoxSettings(nms=0.3))
    assert alone["boxes"].tolist() == [[2, 2, 4, 6], list(other)]


def test_masks_over_their_boxes():
    masks = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    rois = np.float32([[0, 0, 8, 4], [2, 2, 6, 10]])
    same = masks_over(rois, masks, rois)
    assert same.shape == (2, 8, 8) and same.dtype == np.float32
    # twice as fine: between the centres of two cells, at a quarter of the way from one to the next
    expected = 0.75 * (0.75 * masks[0, 1, 2] + 0.25 * masks[0, 1, 1]) + 0.25 * (
        0.75 * masks[0, 2, 2] + 0.25 * masks[0, 2, 1]
    )
    np.testing.assert_allclose(same[0, 3, 4], expected, rtol=1e-6)
    assert masks_over(rois[:0], masks[:0], rois[:0]).shape == (0, 8, 8)
