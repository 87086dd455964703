"""Augmentation: every function by hand, what leaves the target, and that nothing is random but what the seed says."""

import numpy as np
import pytest

from tinymrcnn.data import ShapesDataset, augment, batches
from tinymrcnn.data.augment import LEAST_SHARE, blur, flip_horizontally, paste, recolor, turn, zoom
from tinymrcnn.data.loader import load_batch, load_image
from tinymrcnn.data.targets import check_target
from tinymrcnn.randomness import Purpose, generator
from tinymrcnn.settings import AugmentSettings

ALL = AugmentSettings(turn=True, zoom=(0.5, 2.0), brightness=0.3, contrast=0.3, hue=0.1, blur=1.0, paste=0.6)


def pictures(number=6):
    return list(ShapesDataset(number, (48, 70), seed=100))


def around(masks):
    found = [np.nonzero(mask) for mask in masks]
    return [[c.min(), r.min(), c.max() + 1, r.max() + 1] for r, c in found]


def one_object(mask, crowd=0):
    """The target of an image with one object, or crowd region."""
    mask = np.asarray([mask], np.uint8)
    return {
        "boxes": np.array(around(mask), np.float32), "labels": np.array([3]), "masks": mask, "image_id": 4,
        "area": mask.sum((1, 2)).astype(np.float32), "iscrowd": np.array([crowd]),
    }  # fmt: skip


def unchanged(image, target, before):
    """Whether the inputs are still equal to their copies."""
    return np.array_equal(image, before[0]) and all(np.array_equal(target[k], v) for k, v in before[1].items())


# Turns


def test_a_turn_by_hand():
    image = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    target = one_object([[0, 1, 1, 0], [0, 0, 0, 0]])
    turned, other = turn(image, target, 1)
    assert turned[0].tolist() == [[3, 7], [2, 6], [1, 5], [0, 4]]
    assert other["masks"].tolist() == [[[0, 0], [1, 0], [1, 0], [0, 0]]] and other["masks"].dtype == np.uint8
    assert other["boxes"].tolist() == [[0, 1, 1, 3]] and other["boxes"].dtype == np.float32
    assert other["labels"] is target["labels"] and other["image_id"] == 4


@pytest.mark.parametrize("quarters", range(4))
def test_turns_keep_boxes_around_masks_and_four_are_none(quarters):
    for image, target in pictures():
        before = image.copy(), {name: np.copy(value) for name, value in target.items()}
        turned, other = turn(image, target, quarters)
        assert turned.shape == ((3, 70, 48) if quarters % 2 else (3, 48, 70)) and turned.flags.c_contiguous
        assert other["boxes"].tolist() == around(other["masks"])
        back, whole = turn(turned, other, 4 - quarters)
        assert np.array_equal(back, image) and np.array_equal(whole["masks"], target["masks"])
        assert np.array_equal(whole["boxes"], target["boxes"]) and unchanged(image, target, before)


def test_boxes_off_the_pixels_are_turned_exactly():
    target = {"boxes": np.array([[0.5, 1.25, 3.75, 2.0]], np.float32), "labels": np.array([1])}
    assert turn(np.zeros((3, 10, 20), np.float32), target, 1)[1]["boxes"].tolist() == [[1.25, 16.25, 2.0, 19.5]]
    assert turn(np.zeros((3, 10, 20), np.float32), target, 2)[1]["boxes"].tolist() == [[16.25, 8.0, 19.5, 8.75]]


# Zoom


def test_a_zoom_of_one_changes_nothing():
    for image, target in pictures():
        zoomed, other = zoom(image, target, 1.0, (0.3, 0.9))
        np.testing.assert_array_equal(zoomed, image)
        for name in ("boxes", "masks", "labels", "iscrowd"):
            assert np.array_equal(other[name], target[name]) and other[name].dtype == target[name].dtype, name


def test_a_zoom_by_hand():
    """Twice as large, at the right and the bottom: the window is the last quarter of the image."""
    image = np.zeros((3, 4, 8), np.float32)
    image[:, 2, 5] = 1.0
    zoomed, other = zoom(image, one_object(image[0]), 2.0, (1.0, 1.0))
    row, column = np.array([0.75, 0.75, 0.25, 0]), np.array([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0])
    np.testing.assert_array_equal(zoomed[0], np.outer(row, column).astype(np.float32))
    assert zoomed.dtype == np.float32
    assert other["boxes"].tolist() == [[2, 0, 4, 2]] and other["area"].tolist() == [4] == [other["masks"].sum()]
    image[:, 2:, 4:6] = 1.0
    zoomed, other = zoom(image, one_object(image[0]), 0.5, (0.0, 1.0))  # at the top right
    assert other["masks"][0].tolist() == [[0] * 8, [0] * 6 + [1, 0], [0] * 8, [0] * 8]
    assert zoomed[0].tolist() == [[0.125] * 4 + [0] * 4, [0.125] * 4 + [0, 0, 1, 0], [0.125] * 8, [0.125] * 8]


def test_what_loses_nearly_all_of_its_pixels_leaves_the_target():
    mask = np.zeros((20, 30), np.uint8)
    mask[0:20, 0:16] = 1  # twice as large, at the right, the window begins in column 15 of 30
    image = np.zeros((3, 20, 30), np.float32)
    assert 10 / 320 < LEAST_SHARE  # ten pixels of the old image are left
    _, other = zoom(image, one_object(mask), 2.0, (0.0, 1.0))
    assert [len(other[name]) for name in ("boxes", "labels", "masks", "area", "iscrowd")] == [0] * 5
    assert other["masks"].shape == (0, 20, 30) and other["boxes"].shape == (0, 4)
    _, other = zoom(image, one_object(mask, crowd=1), 2.0, (0.0, 1.0))
    assert other["boxes"].tolist() == [[0, 0, 2, 20]] and other["iscrowd"].tolist() == [1]  # a crowd region stays
    mask[:, 16:19] = 1  # 40 of 380 pixels
    _, other = zoom(image, one_object(mask), 2.0, (0.0, 1.0))
    assert other["boxes"].tolist() == [[0, 0, 8, 20]] and other["labels"].tolist() == [3]


def test_boxes_alone_are_zoomed_like_masks():
    for image, target in pictures():
        boxes_only = {name: value for name, value in target.items() if name != "masks"}
        for scale, place in ((1.6, (0.2, 0.7)), (0.6, (0.9, 0.1))):
            masks, boxes = zoom(image, target, scale, place)[1], zoom(image, boxes_only, scale, place)[1]
            both = {(x, *box) for x, box in zip(masks["labels"], masks["boxes"].round(), strict=True)}
            assert "masks" not in boxes and boxes["boxes"].dtype == np.float32
            check_target(boxes, 0, image.shape[1:], num_classes=6)
            if scale < 1:  # nothing is cut
                np.testing.assert_allclose(boxes["boxes"], masks["boxes"], atol=1.01)
                assert len(both) == len(boxes["boxes"]) == len(target["boxes"])


def test_what_a_target_may_lack():
    """The model needs neither areas nor iscrowd."""
    for image, target in pictures(3):
        bare = {name: target[name] for name in ("boxes", "labels", "masks")}
        found, whole = zoom(image, bare, 2.0, (0.5, 0.5))[1], zoom(image, target, 2.0, (0.5, 0.5))[1]
        assert found.keys() == bare.keys() and all(np.array_equal(found[name], whole[name]) for name in bare)


def test_images_without_objects():
    empty = {
        "boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "image_id": 0, "area": np.zeros(0, "f"),
        "masks": np.zeros((0, 48, 70), np.uint8), "iscrowd": np.zeros(0, np.int64),
    }  # fmt: skip
    image, target = augment(pictures(1)[0][0], empty, ALL, generator(0, Purpose.AUGMENT))
    assert target["masks"].shape == (0, *image.shape[1:]) and target["boxes"].shape == (0, 4)


# Colours


# Copy-paste


def test_objects_of_another_image_are_pasted_by_hand():
    """The first of two objects lies in front; of what it covers, what is left keeps its label."""
    image, other = np.zeros((3, 2, 4), np.float32), np.arange(1, 19, dtype=np.float32).reshape(3, 2, 3)
    target = one_object([[1, 1, 0, 0], [1, 1, 0, 0]])
    two = {
        **one_object([[0, 1, 1], [0, 0, 0]]), "labels": np.array([5, 6]), "image_id": 9,
        "boxes": np.array([[1, 0, 3, 1], [0, 1, 1, 2]], np.float32), "area": np.array([2, 1], np.float32),
        "masks": np.array([[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]], np.uint8), "iscrowd": np.array([0, 0]),
    }  # fmt: skip
    before = [(i.copy(), {k: np.copy(v) for k, v in t.items()}) for i, t in ((image, target), (other, two))]
    pasted, joined = paste(image, target, other, two, np.array([0]))
    np.testing.assert_array_equal(pasted[1], [[0, 8, 9, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(joined["masks"], [[[1, 0, 0, 0], [1, 1, 0, 0]], [[0, 1, 1, 0], [0, 0, 0, 0]]])
    assert joined["boxes"].tolist() == [[0, 0, 2, 2], [1, 0, 3, 1]] and joined["boxes"].dtype == np.float32
    assert joined["labels"].tolist() == [3, 5] and joined["area"].tolist() == [3, 2] and joined["image_id"] == 4
    assert unchanged(image, target, before[0]) and unchanged(other, two, before[1])
    same, none = paste(image, target, other, two, np.array([], np.int64))
    assert np.array_equal(same, image) and all(np.array_equal(none[name], target[name]) for name in target)


def test_what_is_covered_or_lies_beyond_the_border_is_no_target():
    image, mask = np.zeros((3, 20, 30), np.float32), np.zeros((20, 30), np.uint8)
    mask[:, :11] = 1
    cover = np.zeros((20, 40), np.uint8)
    cover[:, :10] = 1  # it leaves 20 of 220 pixels of the first, which are too few
    wide = np.zeros((3, 20, 40), np.float32)
    assert paste(image, one_object(mask), wide, one_object(cover), np.array([0]))[1]["labels"].tolist() == [3]
    left = paste(image, one_object(mask, crowd=1), wide, one_object(cover), np.array([0]))[1]
    assert left["iscrowd"].tolist() == [1, 0] and left["boxes"].tolist() == [[10, 0, 11, 20], [0, 0, 10, 20]]
    cover[:] = 0
    cover[:, 29:] = 1  # one of its eleven columns lies in the smaller image: 9 %
    assert paste(image, one_object(mask), wide, one_object(cover), np.array([0]))[1]["labels"].tolist() == [3]
    cover[:, 39:] = 0  # one of ten
    found = paste(image, one_object(mask), wide, one_object(cover), np.array([0]))[1]
    assert found["boxes"].tolist() == [[0, 0, 11, 20], [29, 0, 30, 20]]


def test_half_of_another_image_is_pasted_into_so_many_images():
    """What lies in front are pixels of the other image, which is mirrored on its own."""
    dataset, changed, objects = ShapesDataset(2, (40, 56), seed=3), 0, 0
    images, targets = zip(*(dataset[i] for i in range(2)), strict=True)
    for step in range(200):
        plain, mine = load_image(dataset, 0, step, 5)
        image, target = load_image(dataset, 0, step, 5, more=AugmentSettings(paste=0.3))
        check_target(target, 0, image.shape[1:], num_classes=6, needs_masks=True)
        assert target["boxes"].tolist() == around(target["masks"])
        different = (image != plain).any(axis=0)
        if different.any():
            changed += 1
            sources = [(images[i], flip_horizontally(images[i], targets[i])[0]) for i in range(2)]
            assert any((image == seen)[:, different].all() for pair in sources for seen in pair)
        objects += len(target["labels"]) > len(mine["labels"])
    assert 20 < objects <= changed < 85  # of 60; of one object half lies in front of half of the images


def test_crowd_regions_are_not_pasted_and_masks_are_needed():
    class Crowds:
        def __init__(self, without=()):
            self.without = without

        def __len__(self):
            return 3

        def __getitem__(self, index):
            mask = np.zeros((8, 10), np.uint8)
            mask[index : index + 3, 2:7] = 1
            target = {**one_object(mask, crowd=1), "image_id": index}
            return np.full((3, 8, 10), index / 3, np.float32), {
                k: v for k, v in target.items() if k not in self.without
            }

    always = AugmentSettings(paste=1.0)
    for step in range(20):
        image, target = load_image(Crowds(), 1, step, 0, more=always)
        assert (image == np.float32(1 / 3)).all() and target["iscrowd"].tolist() == [1]
    with pytest.raises(ValueError, match=r"augment.paste is 1.0, .* image 1 .*--set augment.paste=0"):
        load_image(Crowds({"masks"}), 1, 0, 0, more=always)
    image, target = load_image(Crowds({"iscrowd", "area"}), 1, 3, 0, more=always)
    assert target.keys() == {"boxes", "labels", "masks", "image_id"}


def test_colours_by_hand():
    image = np.zeros((3, 2, 3), np.float32)
    image[0], image[1] = 0.5, 0.25  # reddish
    image[:, 0, 0] = 0.75
    mean = image.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(recolor(image, 1.2, 1, 0), (image * 1.2).clip(0, 1), rtol=1e-6)
    np.testing.assert_allclose(recolor(image, 1, 0.5, 0), (image + mean) / 2, rtol=1e-6)
    np.testing.assert_allclose(recolor(image, 1, 1, 1 / 3), image[[2, 0, 1]], atol=1e-6)  # red to green
    grey = np.full((3, 2, 3), 0.3, np.float32)
    np.testing.assert_allclose(recolor(grey, 1, 2, 0.17), grey, atol=1e-6)
    assert recolor(image, 2.0, 1.5, 0.2).dtype == np.float32 and recolor(image, 3.0, 1, 0).max() == 1


def test_blur_against_the_whole_sum():
    image = pictures(1)[0][0][:, :14, :20]
    blurred, weights = blur(image, 0.8), np.exp(-0.5 * (np.arange(-3, 4) / 0.8) ** 2)
    weights /= weights.sum()
    padded = np.pad(image.astype(np.float64), ((0, 0), (3, 3), (3, 3)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
    np.testing.assert_allclose(blurred, np.einsum("chwyx,y,x->chw", windows, weights, weights), atol=1e-6)
    assert blurred.dtype == np.float32 and np.array_equal(blur(image, 0.0), image)
    assert np.isfinite(blur(image, 1e-6)).all()


# All together


def test_all_settings_give_targets_that_the_model_takes():
    seen = set()
    for image, target in pictures():
        before = image.copy(), {name: np.copy(value) for name, value in target.items()}
        for step in range(8):
            varied, other = augment(image, target, ALL, generator(0, Purpose.AUGMENT, step, target["image_id"]))
            assert varied.dtype == np.float32 and 0 <= varied.min() <= varied.max() <= 1
            assert other["boxes"].tolist() == around(other["masks"]) and other["image_id"] == target["image_id"]
            check_target(other, 0, varied.shape[1:], num_classes=6, needs_masks=True)
            seen.add(varied.tobytes())
        assert unchanged(image, target, before)
    assert len(seen) == 48


def test_a_batch_depends_on_seed_step_and_image_alone():
    dataset = ShapesDataset(7, (40, 56))
    whole = list(batches(dataset, 3, 0, 6, seed=5, more=ALL))
    for step, images, targets in batches(dataset, 3, 4, 6, seed=5, more=ALL):
        for a, b in zip(images, whole[step][1], strict=True):
            assert np.array_equal(a, b)
        for a, b in zip(targets, whole[step][2], strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)
    others = load_batch(dataset, 3, 0, 6, more=ALL)[1], load_batch(dataset, 3, 1, 5, more=ALL)[1]
    assert all(not np.array_equal(whole[0][1][0], other[0]) for other in others)


def test_equal_images_are_varied_differently():
    class Twins:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            image, target = pictures(1)[0]
            return image, {**target, "image_id": index}

    (first, second), _ = load_batch(Twins(), 2, 0, 5, flip=False, more=AugmentSettings(brightness=0.5))[1:]
    assert first.shape == second.shape and not np.array_equal(first, second)


def test_the_defaults_change_no_bit():
    dataset = ShapesDataset(7, (40, 56))
    for plain, more in zip(
        batches(dataset, 3, 0, 4, 5), batches(dataset, 3, 0, 4, 5, True, AugmentSettings()), strict=True
    ):
        for a, b in zip(plain[1], more[1], strict=True):
            assert np.array_equal(a, b)
        for a, b in zip(plain[2], more[2], strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("fields", [{"zoom": (2.0, 1.0)}, {"zoom": (0.0, 1.0)}, {"hue": 0.6}, {"turn": 1}])
def test_impossible_settings(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        AugmentSettings(**fields)
