"""The toy set: what is drawn, what is a target, and that (seed, index) alone decide it."""

import json

import numpy as np
import pytest
from matplotlib.path import Path

from tinymrcnn.data import ShapesDataset, shapes
from tinymrcnn.data.shapes import NAMES, Shape, coverage, draw, place_shapes, unit_distance
from tinymrcnn.randomness import Purpose, generator

SIZE = (96, 150)


@pytest.fixture(scope="module")
def pictures():
    return list(ShapesDataset(200, SIZE, seed=3))


def shapes_of(seed, index, crowded=False):
    """The shapes of a picture, drawn again (they are the first that its generator decides)."""
    return place_shapes(generator(seed, Purpose.SHAPES, index), *SIZE, crowded)


def box_of(shape):
    (rows, columns), share = coverage(shape, *SIZE)
    y, x = np.nonzero(share >= 0.5)
    return [x.min() + columns.start, y.min() + rows.start, x.max() + 1 + columns.start, y.max() + 1 + rows.start]


def outline(points, inner):
    """The corners of a star in the unit circle, one tip at (1, 0), notches between the tips."""
    angles = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2 == 0, 1, inner)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)


def polygon_distance(corners, points):
    """Brute force: the nearest of many points along the outline, negative inside by matplotlib's test."""
    ends = np.roll(corners, -1, 0)
    share = np.linspace(0, 1, 2001)[:, None, None]
    rim = (corners + share * (ends - corners)).reshape(-1, 2)
    distance = np.sqrt(((points[:, None] - rim) ** 2).sum(2).min(1))
    return np.where(Path(corners).contains_points(points), -distance, distance)


# Outlines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, points, inner", [("square", 4, None), ("triangle", 3, None), ("star", 5, 0.45)])
def test_distance_to_polygons(name, points, inner):
    inner = inner or np.cos(np.pi / points)
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (300, 2))
    expected = polygon_distance(outline(points, inner), x)
    np.testing.assert_allclose(unit_distance(NAMES.index(name) + 1, x[:, 0], x[:, 1]), expected, atol=2e-3)


def test_distance_to_round_shapes():
    r = np.array([0.0, 0.3, 0.6, 0.8, 1.0, 1.5])
    x, y = r * np.cos(0.7), r * np.sin(0.7)
    np.testing.assert_allclose(unit_distance(1, x, y), [-1, -0.7, -0.4, -0.2, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(unit_distance(5, x, y), [0.6, 0.3, 0, -0.2, 0, 0.5], atol=1e-12)


AREAS = {  # in units of the squared radius
    "circle": np.pi,
    "square": 2,
    "triangle": 3 * 3**0.5 / 4,
    "star": 5 * 0.45 * np.sin(np.pi / 5),
    "ring": np.pi * (1 - 0.6**2),
}


@pytest.mark.parametrize("name", NAMES)
def test_coverage_is_antialiased_and_adds_up_to_the_area(name):
    shape = Shape(NAMES.index(name) + 1, 61.3, 48.7, 30.0, 0.4)
    (rows, columns), share = coverage(shape, *SIZE)
    assert share.dtype == np.float32 and share.min() == 0 and share.max() == 1
    assert share.shape == (rows.stop - rows.start, columns.stop - columns.start)
    assert share.sum() == pytest.approx(AREAS[name] * 30**2, rel=0.01)
    assert np.count_nonzero(share >= 0.5) == pytest.approx(AREAS[name] * 30**2, rel=0.01)
    edge = (share > 0) & (share < 1)
    assert 100 < np.count_nonzero(edge) < 600  # a rim about one pixel wide


def test_coverage_is_cut_by_the_border():
    shape = Shape(1, 4.0, 90.0, 20.0, 0.0)
    (rows, columns), share = coverage(shape, *SIZE)
    assert (rows.stop, columns.start) == (96, 0)
    y, x = np.mgrid[rows, columns] + 0.5
    inside = np.hypot(x - 4, y - 90) < 20
    np.testing.assert_array_equal(share >= 0.5, inside)
    assert box_of(shape) == [0, 70, 24, 96]


def test_rotation_turns_the_shape():
    """A triangle with a tip at angle 0 points right; turned by a quarter, down."""
    tip_right, tip_down = (box_of(Shape(3, 70.0, 50.0, 20.0, a)) for a in (0.0, np.pi / 2))
    np.testing.assert_allclose(tip_right, [60, 50 - 17.3, 90, 50 + 17.3], atol=1)
    np.testing.assert_allclose(tip_down, [70 - 17.3, 40, 70 + 17.3, 70], atol=1)


# Pictures and targets ------------------------------------------------------------------------------------


def test_form_of_images_and_targets(pictures):
    for number, (image, target) in enumerate(pictures):
        assert image.shape == (3, *SIZE) and image.dtype == np.float32
        levels = np.rint(image * 255)
        np.testing.assert_array_equal(levels.astype(np.float32) / 255, image)  # 8 bit
        assert levels.min() >= 0 and levels.max() <= 255
        count = len(target["labels"])
        assert 1 <= count <= 6 and target["image_id"] == number and type(target["image_id"]) is int
        assert target["masks"].shape == (count, *SIZE) and set(np.unique(target["masks"])) <= {0, 1}
        assert target["boxes"].shape == (count, 4)
        dtypes = {name: value.dtype for name, value in target.items() if name != "image_id"}
        assert dtypes == {
            "boxes": np.float32, "labels": np.int64, "masks": np.uint8, "area": np.float32, "iscrowd": np.int64
        }  # fmt: skip
        assert (target["iscrowd"] == 0).all()


def test_boxes_and_areas_are_those_of_the_visible_masks(pictures):
    for _, target in pictures:
        for mask, box, area in zip(target["masks"], target["boxes"], target["area"], strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == len(rows) >= 30
        assert target["masks"].sum(0).max() <= 1  # nothing is visible through another


def test_variety(pictures):
    labels = np.concatenate([target["labels"] for _, target in pictures])
    assert (np.bincount(labels, minlength=6)[1:] > len(labels) / 10).all() and len(np.bincount(labels)) == 6
    drawn = [shapes_of(3, index) for index in range(200)]
    assert set(map(len, drawn)) == {1, 2, 3, 4, 5, 6}
    flat = np.array([shape for picture in drawn for shape in picture])
    radius = flat[:, 3] / min(SIZE)
    assert 0.08 <= radius.min() < 0.09 and 0.24 < radius.max() <= 0.25
    assert 0.15 < radius.mean() < 0.18  # uniform
    assert flat[:, 4].min() < 0.1 and flat[:, 4].max() > 6.1  # any rotation
    assert flat[:, 1].max() > 130 and flat[:, 2].max() > 80  # x to the right, y down, everywhere in the picture


def test_later_objects_lie_over_earlier_ones(pictures):
    hidden = 0
    for index, (_, target) in enumerate(pictures):
        owner = np.zeros(SIZE, int)
        drawn = shapes_of(3, index)
        for number, shape in enumerate(drawn, start=1):
            window, share = coverage(shape, *SIZE)
            owner[window] = np.where(share >= 0.5, number, owner[window])
        masks = [(owner == number, shape.label) for number, shape in enumerate(drawn, start=1)]
        expected = [(mask, label) for mask, label in masks if mask.sum() >= 30]
        hidden += len(masks) - len(expected)
        assert target["labels"].tolist() == [label for _, label in expected]
        np.testing.assert_array_equal(target["masks"], [mask for mask, _ in expected])
    assert hidden >= 3


def test_hardly_visible_objects_stay_in_the_picture_but_are_no_targets(monkeypatch):
    small, large = Shape(1, 52.0, 50.0, 9.0, 0.0), Shape(2, 62.8, 50.0, 24.0, np.pi / 4)
    monkeypatch.setattr(shapes, "place_shapes", lambda *_: [small, large])
    monkeypatch.setattr(shapes, "NOISE", (0, 0))
    image, masks, labels = draw(np.random.default_rng(0), *SIZE, False)
    assert labels.tolist() == [2] and len(masks) == 1
    window, share = coverage(small, *SIZE)
    shown = np.zeros(SIZE, bool)
    shown[window] = share == 1
    shown &= ~masks[0]
    assert 0 < shown.sum() < 30
    background = image[:, 80:, :30].reshape(3, -1).mean(1)
    assert np.abs(image[:, shown][:, 0] - background).max() > 50


@pytest.mark.parametrize("columns, visible", [(3, [30, 1600]), (2, [1600])])
def test_thirty_visible_pixels_are_enough(monkeypatch, columns, visible):
    """A square of 10 pixels, and before it one of 40 that leaves the given columns of it."""
    small = Shape(2, 50.0, 50.0, 5 * 2**0.5, np.pi / 4)
    large = Shape(2, 45.0 + columns + 20, 50.0, 20 * 2**0.5, np.pi / 4)
    monkeypatch.setattr(shapes, "place_shapes", lambda *_: [small, large])
    _, masks, labels = draw(np.random.default_rng(0), *SIZE, False)
    assert masks.sum((1, 2)).tolist() == visible and labels.tolist() == [2] * len(visible)


def test_the_hole_of_a_ring_is_background(monkeypatch):
    monkeypatch.setattr(shapes, "place_shapes", lambda *_: [Shape(5, 70.0, 48.0, 24.0, 0.0)])
    image, masks, labels = draw(np.random.default_rng(1), *SIZE, False)
    y, x = np.mgrid[:96, :150] + 0.5
    r = np.hypot(x - 70, y - 48)
    np.testing.assert_array_equal(masks[0], (r <= 24) & (r >= 0.6 * 24))
    colors = [image[:, where].mean(1) for where in (r < 13, (r > 26) & (r < 30), masks[0])]
    assert np.abs(colors[0] - colors[1]).max() < 10 and np.abs(colors[0] - colors[2]).max() > 50


def test_every_object_differs_from_all_of_the_background(monkeypatch):
    """By more than 60 of 255 in one channel. Without noise the bare background and the bare object show."""
    monkeypatch.setattr(shapes, "NOISE", (0, 0))
    checked = 0
    for seed in range(80):
        shape = Shape(1 + seed % 5, 40.0 + seed, 50.0, 20.0, 0.3 * seed)
        monkeypatch.setattr(shapes, "place_shapes", lambda *_, shape=shape: [shape])
        image, masks, _ = draw(np.random.default_rng(seed), *SIZE, False)
        (rows, columns), share = coverage(shape, *SIZE)
        covered = np.zeros(SIZE, np.float32)
        covered[rows, columns] = share
        color, background = image[:, covered == 1].astype(int), image[:, covered == 0].astype(int)
        assert (color == color[:, :1]).all()
        gap = np.maximum(background.min(1) - color[:, 0], color[:, 0] - background.max(1))
        assert gap.max() >= 60  # both are rounded
        checked += gap.max() < 120
    assert checked > 10  # and no colour is avoided beyond that


def test_the_background_is_noisy_and_gently_shaded(monkeypatch):
    monkeypatch.setattr(shapes, "place_shapes", lambda *_: [])
    noise, shade = [], []
    for seed in range(40):
        image, masks, labels = draw(np.random.default_rng(seed), *SIZE, False)
        assert masks.shape == (0, *SIZE) and labels.shape == (0,)
        image = image.astype(np.float64)
        noise.append((image[:, :, 1:] - image[:, :, :-1]).std() / 2**0.5)
        blocks = image.reshape(3, 6, 16, 6, 25).mean((2, 4))
        shade.append((blocks.max((1, 2)) - blocks.min((1, 2))).max())
    assert 1 < min(noise) < max(noise) < 12
    assert 3 < min(shade) < max(shade) < 50


# Crowded -------------------------------------------------------------------------------------------------


def shown(shape):
    """The pixels of a shape by brute force, (H, W) bool, if nothing lies over it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    u, v = (x - shape.x) / shape.radius, (y - shape.y) / shape.radius
    c, s = np.cos(shape.angle), np.sin(shape.angle)
    return unit_distance(shape.label, c * u + s * v, c * v - s * u) <= 1e-6


def test_crowded_pairs_overlap_evenly_from_a_little_to_nearly_all():
    counts, overlaps = set(), []
    for index in range(150):
        drawn = shapes_of(5, index, crowded=True)
        counts.add(len(drawn))
        for a, b in zip(drawn[::2], drawn[1::2], strict=True):
            assert a.label == b.label and 0.08 <= b.radius / 96 <= 0.25
            masks = [shown(a) & ~shown(b), shown(b)]
            boxes = [(*np.argwhere(mask).min(0), *np.argwhere(mask).max(0) + 1) for mask in masks]
            (ay1, ax1, ay2, ax2), (by1, bx1, by2, bx2) = boxes
            shared = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
            overlaps.append(shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared))
    assert counts == {2, 4, 6}
    bins = np.histogram(overlaps, [0, 0.27, 0.4, 0.5, 0.6, 0.7, 0.8, 0.93, 1])[0] / len(overlaps)
    assert bins[0] < 0.02 and bins[-1] == 0  # tiny shapes may have no partner that fits
    assert (bins[1:-1] > 0.1).all() and (bins[1:-1] < 0.25).all()


def test_both_of_a_crowded_pair_are_targets():
    dataset = ShapesDataset(60, SIZE, seed=5, crowded=True)
    drawn = sum(len(shapes_of(5, index, crowded=True)) for index in range(60))
    assert sum(len(target["labels"]) for _, target in dataset) > 0.95 * drawn


def test_a_share_of_the_pictures_is_crowded():
    ordinary, crowded = ShapesDataset(8, SIZE, seed=5), ShapesDataset(8, SIZE, seed=5, crowded=True)
    for share, which in ((0.5, [1, 3, 5, 7]), (0.25, [3, 7]), (0, []), (1.0, range(8))):
        mixed = ShapesDataset(8, SIZE, seed=5, crowded=share)
        assert all(equal(mixed[index], (crowded if index in which else ordinary)[index]) for index in range(8))
    assert "crowded=0.25" in repr(ShapesDataset(8, SIZE, crowded=0.25))


# (seed, index) alone -------------------------------------------------------------------------------------


def equal(a, b):
    return np.array_equal(a[0], b[0]) and all(np.array_equal(a[1][key], b[1][key]) for key in a[1])


def test_a_picture_depends_on_seed_and_index_alone(pictures):
    other = ShapesDataset(1000, SIZE, seed=3)
    for index in (150, 3, 0):  # another length, another order
        assert equal(other[index], pictures[index])
    assert equal(other[-997], pictures[3])
    assert not np.array_equal(other[0][0], ShapesDataset(1, SIZE, seed=4)[0][0])
    assert not np.array_equal(other[0][0], other[1][0])


def test_the_second_visit_is_the_same_and_no_view_of_the_cache():
    dataset = ShapesDataset(3, SIZE, seed=9)
    first = dataset[1]
    kept = (first[0].copy(), {key: np.copy(value) for key, value in first[1].items()})
    first[0].fill(0)
    for key in ("boxes", "labels", "masks", "area", "iscrowd"):
        first[1][key].fill(7)
    assert equal(dataset[1], kept)


def test_pictures_are_drawn_once_while_the_cache_has_room(monkeypatch):
    drawn = []
    monkeypatch.setattr(shapes, "draw", lambda rng, *args: drawn.append(1) or draw(rng, *args))
    dataset = ShapesDataset(5, SIZE)
    list(dataset), list(dataset)
    assert len(drawn) == 5
    monkeypatch.setattr(shapes, "CACHE_BYTES", 130_000)  # room for two of them: 3 * 96 * 150 bytes and the masks
    dataset = ShapesDataset(5, SIZE)
    drawn.clear()
    list(dataset), list(dataset)
    assert len(drawn) == 5 + 3


def test_indices_are_those_of_a_sequence():
    dataset = ShapesDataset(4, SIZE)
    assert len(dataset) == 4 and len(list(dataset)) == 4
    assert dataset[-1][1]["image_id"] == 3 == dataset[np.int64(3)][1]["image_id"]
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"Image {index} of a data set of 4 images"):
            dataset[index]
    with pytest.raises(TypeError):
        dataset["1"]


def test_categories_survive_json():
    categories = ShapesDataset(1).categories
    assert json.loads(json.dumps(categories)) == categories
    assert [(c["label"], c["name"]) for c in categories] == list(enumerate(NAMES, start=1))


def test_default_size_and_coco_sizes():
    """At 128 x 128 no object is large in COCO's sense."""
    dataset = ShapesDataset(60)
    assert dataset[0][0].shape == (3, 128, 128)
    assert max(target["area"].max() for _, target in dataset) < 96**2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_images": 0}, "num_images must be a positive integer, got 0"),
        ({"num_images": 2.5}, "num_images"),
        ({"num_images": 1, "image_size": 16}, "image_size must be one side or .* at least 32, got 16"),
        ({"num_images": 1, "image_size": (64, 64, 3)}, "image_size"),
        ({"num_images": 1, "image_size": (64, 20)}, "image_size"),
        ({"num_images": 1, "image_size": None}, "image_size"),
        ({"num_images": 1, "seed": -1}, "seed must be a non-negative integer, got -1"),
        ({"num_images": 1, "crowded": 1.5}, "crowded must be True, False, or a share .* from 0 to 1, got 1.5"),
        ({"num_images": 1, "crowded": float("nan")}, "crowded"),
        ({"num_images": 1, "crowded": "yes"}, "crowded"),
    ],
)
def test_bad_arguments_are_sentences(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**arguments)


def test_small_pictures_may_have_no_target():
    counts = [len(target["labels"]) for _, target in ShapesDataset(100, (32, 40))]
    assert min(counts) == 0 and max(counts) > 1


def test_the_box_of_a_mask_without_a_pixel():
    masks = np.zeros((2, 20, 30), bool)
    masks[1, 3:5, 7:11] = True
    np.testing.assert_array_equal(shapes.boxes_around(masks), [[0, 0, 0, 0], [7, 3, 11, 5]])
