"""Tiles, mirrored looks and settings after training: hand-made detections, and a model that finds what is there."""

import numpy as np
import pytest
from tiny_models import scene, tiny_model

from tinymrcnn.models.test_time import FREE, TestTime, average_views, merge_tiles, mirror, set_free_settings, tiles
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
