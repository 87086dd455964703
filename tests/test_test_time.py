"""Tiles, mirrored looks and settings after training: hand-made detections, and a model that finds what is there."""

import math

import numpy as np
import pytest
from tiny_models import FCIS, empty_scene, scene, tiny_model

from tinymrcnn.boxes import batched_nms, box_iou
from tinymrcnn.models.test_time import (
    FREE,
    TestTime,
    average_views,
    merge_tiles,
    mirror,
    set_free_settings,
    soft_nms,
    tiles,
)
from tinymrcnn.settings import field_names, value_of


def found(boxes, labels, scores, masks=None):
    result = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.array(labels, np.int64),
        "scores": np.array(scores, np.float32),
    }  # fmt: skip
    return result if masks is None else {**result, "masks": np.array(masks, np.float32)}


class Finder:
    """A model that finds the bright columns and rows of an image, each bright rectangle's box, with score 0.9."""

    def __init__(self, like):
        self.config, self.training = like.config, False

    def detect(self, images):
        results = []
        for image in images:
            values = [value for value in np.unique(image) if value > 0]
            boxes = []
            for value in values:  # every object has a brightness of its own
                ys, xs = np.nonzero(image[0] == value)
                boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            masks = np.ones((len(boxes), 2, 2)) * [[1, 0], [1, 0]]
            results.append(found(boxes, [1] * len(boxes), np.full(len(boxes), 0.9), masks))
        return results


def image_of(boxes, size):
    image = np.zeros((3, *size), np.float32)
    for n, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = (n + 1) / 100
    return image


def test_tiles_cover_and_share():
    assert list(tiles((50, 64), 64)) == [(0, 0, 64, 50)]
    for size, side in (((100, 257), 64), ((64, 65), 64), ((1000, 333), 100)):
        parts = list(tiles(size, side))
        covered = np.zeros(size, int)
        for x1, y1, x2, y2 in parts:
            assert (x2 - x1, y2 - y1) == (min(side, size[1]), min(side, size[0])) and x1 >= 0 and y1 >= 0
            covered[y1:y2, x1:x2] += 1
        assert (covered > 0).all()
        for axis, length in ((0, size[1]), (1, size[0])):
            starts = sorted({part[axis] for part in parts})
            assert all(b - a <= side - side // 4 for a, b in zip(starts, starts[1:], strict=False))
            assert starts[-1] + side >= length
    assert [part[0] for part in tiles((32, 112), 64)] == [0, 48]  # no tile more than is needed


def test_every_object_of_a_large_image_is_found_once():
    rng = np.random.default_rng(0)
    corners = [(x + rng.integers(0, 8), y + rng.integers(0, 8)) for y in range(2, 170, 24) for x in range(2, 280, 24)]
    boxes = [(x, y, min(x + rng.integers(4, 15), 290), min(y + rng.integers(4, 15), 180)) for x, y in corners]
    model = Finder(tiny_model(max_detections=1000))
    image = image_of(boxes, (180, 290))
    (whole,), (tiled,) = model.detect([image]), TestTime(model, tile=64).detect([image])
    assert len(boxes) == len(whole["boxes"]) > 80
    order = np.lexsort(tiled["boxes"].T)
    assert np.array_equal(tiled["boxes"][order], whole["boxes"][np.lexsort(whole["boxes"].T)])
    assert all(tiled[name].dtype == whole[name].dtype for name in whole)
    (limited,) = TestTime(Finder(tiny_model(max_detections=7)), tile=64).detect([image])
    assert len(limited["scores"]) == 7


def test_what_is_merged_and_what_is_not():
    parts, size = [(0, 0, 64, 64), (48, 0, 112, 64)], (64, 112)
    # one object whole in both; a piece at an inner edge, whole in the other; another class; two nested in one tile
    left = found([[52, 10, 60, 20], [55, 30, 64, 50], [10, 10, 20, 20], [10, 10, 20, 21]], [1, 1, 1, 1],
                 [0.8, 0.99, 0.7, 0.6])  # fmt: skip
    right = found([[4, 10, 12, 20], [7, 30, 30, 50], [4, 10, 12, 20]], [1, 1, 2], [0.9, 0.5, 0.4])
    merged = merge_tiles([left, right], parts, size, limit=100)
    assert merged["scores"].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5, 0.4])
    assert merged["boxes"][0].tolist() == [52, 10, 60, 20] and merged["boxes"][3].tolist() == [55, 30, 78, 50]
    assert merged["labels"].tolist() == [1, 1, 1, 1, 2]
    nothing = found([], [], [])
    assert len(merge_tiles([nothing, nothing], parts, size, limit=9)["scores"]) == 0
    # at the image's own edge nothing is cut off
    edge = merge_tiles([found([[0, 0, 10, 10]], [1], [0.3]), nothing], parts, size, limit=9)
    assert edge["boxes"].tolist() == [[0, 0, 10, 10]]


def test_a_mirrored_look_finds_the_same_places():
    boxes = [(3, 4, 20, 12), (30, 20, 37, 41)]
    image = image_of(boxes, (48, 56))
    plain = Finder(tiny_model()).detect([image])[0]
    (back,) = Finder(tiny_model()).detect([np.ascontiguousarray(image[:, :, ::-1])])
    back = mirror(back, 56)
    assert back["boxes"].tolist() == plain["boxes"].tolist() and (back["masks"] == [[0, 1], [0, 1]]).all()
    (both,) = TestTime(Finder(tiny_model()), mirrored=True).detect([image])
    assert both["boxes"].tolist() == plain["boxes"].tolist() and both["scores"].tolist() == plain["scores"].tolist()
    assert (both["masks"] == 0.5).all() and all(both[name].dtype == plain[name].dtype for name in plain)


def test_views_are_averaged_in_pairs():
    one = found(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [1, 1, 2], [0.9, 0.8, 0.7], [[[1.0]], [[0.4]], [[1]]]
    )
    other = found(
        [[40, 0, 50, 10], [0, 0, 10, 12], [60, 0, 70, 10]], [1, 1, 1], [0.8, 0.5, 0.6], [[[0]], [[0.5]], [[1]]]
    )
    mean = average_views(one, other)
    assert mean["scores"].tolist() == pytest.approx([0.7, 0.4, 0.4, 0.35, 0.3])  # a pair, and four found by one look
    assert mean["boxes"][0].tolist() == [0, 0, 10, 11] and mean["masks"][0].item() == 0.75
    assert mean["labels"].tolist() == [1, 1, 1, 2, 1] and mean["labels"].dtype == np.int64
    assert mean["scores"].dtype == mean["boxes"].dtype == np.float32
    nothing = found([], [], [], np.zeros((0, 1, 1)))
    assert average_views(nothing, nothing)["scores"].shape == (0,)
    assert average_views(one, nothing)["scores"].tolist() == pytest.approx([0.45, 0.4, 0.35])
    assert average_views(nothing, one)["scores"].tolist() == pytest.approx([0.45, 0.4, 0.35])


def test_the_model_itself_where_nothing_is_asked():
    model = tiny_model(seed=2, score_threshold=0.0).eval()
    images = [scene(n)[0] for n in range(3)]
    for plain, same in zip(model.detect(images), TestTime(model, tile=96).detect(images), strict=True):
        assert len(plain["scores"]) > 0
        assert np.allclose(plain["boxes"], same["boxes"], atol=1e-3)
    plain, same = model.detect(images), TestTime(model).detect(images)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(plain, same, strict=True) for name in a)
    tiled, mirrored = TestTime(model, tile=48), TestTime(model, mirrored=True)
    for looks in (tiled, mirrored):
        (result,) = looks.detect(images[:1])
        assert len(result["scores"]) > 0 and (np.diff(result["scores"]) <= 0).all()
        assert {len(values) for values in result.values()} == {len(result["scores"])}
    with pytest.raises(ValueError, match="32 pixels at least, not of 8"):
        TestTime(model, tile=8)


def test_settings_that_may_change_after_training():
    model = tiny_model(score_threshold=0.0).eval()
    assert set(FREE) <= set(field_names(type(model.config)))
    image = scene(1)[0]
    before = len(model.detect([image])[0]["scores"])
    set_free_settings(model, {"max_detections": 3, "rpn.nms": 0.6})
    assert value_of(model.config, "box.max_detections") == 3 < before and model.config.rpn.nms == 0.6
    assert len(model.detect([image])[0]["scores"]) == 3
    for bad, message in (
        ({"box.hidden": 4}, "box.hidden is part of what was trained and cannot be set afterwards"),
        ({"aligned": False}, "pooler.aligned is part of what was trained"),
        ({"nms": 0.5}, "can mean several fields"), ({"box.nms": 2}, "number from 0 to 1"),
        ({"x": 1}, "has no field 'x'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            set_free_settings(model, bad)
    assert model.config.box.nms == 0.5


# Soft-NMS


def soft_nms_by_the_paper(boxes, scores, labels, sigma):
    """The pseudo-code of Bodla et al. 2017, Figure 2, in Python's floats, class by class."""
    lowered = [float(score) for score in scores]
    for label in set(labels):
        left = [n for n in range(len(boxes)) if labels[n] == label]
        while left:
            best = max(left, key=lambda n: lowered[n])  # the first of equal ones
            left.remove(best)
            for n in left:
                (a1, b1, a2, b2), (c1, d1, c2, d2) = boxes[best].tolist(), boxes[n].tolist()
                shared = max(0, min(a2, c2) - max(a1, c1)) * max(0, min(b2, d2) - max(b1, d1))
                union = (a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - shared
                lowered[n] *= math.exp(-((shared / union) ** 2) / sigma)
    return lowered


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_nms_against_the_papers_pseudo_code(dtype):
    rng = np.random.default_rng(0)
    for n, classes, sigma in ((60, 3, 0.5), (30, 1, 0.1), (1, 1, 0.5)):
        corners = rng.uniform(0, 30, (n, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (n, 2))], axis=1).astype(dtype)
        scores, labels = rng.uniform(0.05, 1, n).astype(dtype), rng.integers(1, classes + 1, n)
        before = scores.copy()
        lowered = soft_nms(boxes, scores, labels, sigma)
        assert lowered.dtype == dtype and np.array_equal(scores, before)
        expected = soft_nms_by_the_paper(boxes, scores, labels, sigma)
        np.testing.assert_allclose(lowered, expected, rtol=2e-5 if dtype == np.float32 else 1e-12)
        assert (lowered <= scores).all() and (n == 1 or (lowered < scores / 2).any())


def test_soft_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]], np.float32)
    half, whole = math.exp(-0.25 / 0.5), math.exp(-1 / 0.5)  # of an IoU of 1/2, and of 1
    lowered = soft_nms(boxes, np.array([0.8, 0.6, 0.8, 0.7, 0.5], np.float32), np.array([1, 1, 1, 1, 2]))
    # box 0 is the first of two equal ones: box 2 loses by it, then box 1 by both, or 2 by both: the higher goes first
    assert 0.6 * half > 0.8 * whole
    assert lowered.tolist() == pytest.approx([0.8, 0.6 * half, 0.8 * whole * half, 0.7, 0.5])  # class 2 stays
    nothing = soft_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert nothing.shape == (0,) and nothing.dtype == np.float32
    empty = soft_nms(np.zeros((2, 4), np.float32), np.array([0.5, 0.5], np.float32), np.array([1, 1]))
    assert empty.tolist() == [0.5, 0.5]  # boxes without an area overlap nothing


def test_a_model_with_soft_nms():
    """What it finds is what the model finds without NMS, with the scores that the function gives."""
    settings = {"score_threshold": 0.1, "max_detections": 1000}
    model = tiny_model(**settings, box_nms=1.0).eval()
    images = [scene(1)[0], empty_scene(2, (48, 72))[0]]
    every = model.detect(images)
    model = tiny_model(**settings, box_nms=0.5).eval()
    softly = TestTime(model, soft=True).detect(images)
    for plain, found, image in zip(every, softly, images, strict=True):
        scores = soft_nms(plain["boxes"], plain["scores"], plain["labels"])
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0.1]
        assert 5 < len(order) < len(scores) and (np.diff(found["scores"]) <= 0).all()
        for name in ("boxes", "labels", "masks"):
            assert found[name].dtype == plain[name].dtype
            np.testing.assert_allclose(found[name], plain[name][order], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["scores"], scores[order], rtol=1e-4)
        # some overlap more than NMS lets pass, and the best of every class is what NMS keeps first
        kept = batched_nms(found["boxes"], found["scores"], found["labels"], 0.5)
        assert len(kept) < len(order) and kept[0] == 0
        assert box_iou(found["boxes"], found["boxes"]).max() <= 1 and (found["boxes"][:, 2] <= image.shape[2]).all()
    set_free_settings(model, {"max_detections": 3})
    for short, found in zip(TestTime(model, soft=True).detect(images), softly, strict=True):
        assert short["scores"].tolist() == found["scores"][:3].tolist() and len(short["masks"]) == 3
    (both,) = TestTime(model, soft=True, mirrored=True, tile=64).detect(images[:1])
    assert 0 < len(both["scores"]) <= 3
    set_free_settings(model, {"score_threshold": 1.0, "post_nms_test": 1})
    (none,) = TestTime(model, soft=True).detect(images[1:])
    assert none["boxes"].shape == (0, 4) and none["scores"].shape == (0,) and none["masks"].shape[0] == 0


def test_soft_nms_of_boxes_alone_and_of_other_models():
    (found,) = TestTime(tiny_model(masks=False).eval(), soft=True).detect([scene(1)[0]])
    assert "masks" not in found and len(found["scores"]) > 0
    with pytest.raises(ValueError, match="Soft-NMS is for Mask R-CNN; FCIS merges what overlaps by votes"):
        TestTime(tiny_model(**FCIS), soft=True)
