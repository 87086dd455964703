"""From images of any sizes to one batch: resizing, normalising, padding, and what is refused."""

import numpy as np
import pytest
from tiny_models import batch_of, empty_scene, scene, tiny_model

from tinymrcnn.backend import to_numpy
from tinymrcnn.data.targets import check_images, check_target, check_targets
from tinymrcnn.models.transform import (
    TransformSettings,
    make_batch,
    resized_size,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.4)


def make(images, targets=None, divisible=32, device="cpu", **settings):
    settings = TransformSettings(pixel_mean=MEAN, pixel_std=STD, size_divisible=divisible, **settings)
    return make_batch(images, targets, settings=settings, device=device)


@pytest.mark.parametrize(
    ("size", "min_size", "max_size", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # the shorter side decides; 1066.67 is rounded down
        ((640, 480), 800, 1333, (1066, 800)),
        ((300, 900), 800, 1333, (444, 1333)),  # the longer one would be 2400
        ((334, 400), 800, 1333, (799, 958)),  # 334 * (800 / 334) is 799.99...
        ((100, 120), 50, None, (50, 60)),
        ((3, 900), 100, 300, (1, 300)),  # never without a pixel
        ((64, 96), 64, 96, (64, 96)),
    ],
)
def test_resized_size(size, min_size, max_size, expected):
    assert resized_size(size, min_size, max_size) == expected


def test_native_sizes_are_normalised_and_padded():
    images, targets = batch_of(
        scene(3, (40, 70), ((9, 6, 31, 24), (40, 20, 70, 40))), scene(4, (50, 33), ((2, 3, 20, 40),))
    )
    batch = make(images, targets)
    assert batch.images.shape == (2, 3, 64, 96) and batch.images.dtype == np.float32
    assert batch.images.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert not batch.images.requires_grad
    assert batch.sizes == batch.original_sizes == [(40, 70), (50, 33)]
    assert batch.image_ids == [3, 4]
    for i, (image, (h, w)) in enumerate(zip(images, batch.sizes, strict=True)):
        expected = (image - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        np.testing.assert_allclose(batch.images.data[i, :, :h, :w], expected, rtol=1e-5, atol=1e-6)
        assert not batch.images.data[i, :, h:].any() and not batch.images.data[i, :, :, w:].any()
    for target, given in zip(batch.targets, targets, strict=True):
        assert set(target) == {"boxes", "labels", "masks"}
        for name in target:
            np.testing.assert_array_equal(target[name], given[name])


@pytest.mark.parametrize(("divisible", "padded"), [(1, (50, 70)), (16, (64, 80)), (32, (64, 96)), (64, (64, 128))])
def test_padding_to_a_multiple(divisible, padded):
    images, _ = batch_of(empty_scene(0, (40, 70)), empty_scene(1, (50, 33)))
    assert make(images, divisible=divisible).images.shape == (2, 3, *padded)


def test_without_targets_images_are_numbered():
    batch = make([scene(7)[0], scene(8)[0]])
    assert batch.targets is None and batch.image_ids == [0, 1]


def test_targets_are_resized_along():
    image, target = scene(0, (40, 60), ((6, 8, 30, 36),), (2,))
    batch = make([image], [target], min_size=20, max_size=None)
    assert batch.sizes == [(20, 30)] and batch.original_sizes == [(40, 60)]
    (resized,) = batch.targets
    np.testing.assert_array_equal(resized["boxes"], [[3, 4, 15, 18]])
    np.testing.assert_array_equal(resized["masks"], target["masks"][:, ::2, ::2])  # nearest
    assert resized["masks"].dtype == np.uint8 and resized["boxes"].dtype == np.float32
    larger = make([image], [target], min_size=80).targets[0]
    np.testing.assert_array_equal(larger["masks"], target["masks"].repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(larger["boxes"], [[12, 16, 60, 72]])


def test_the_two_axes_have_scales_of_their_own():
    # 334 x 400 becomes 799 x 958: neither factor is 800 / 334
    image, target = scene(0, (334, 400), ((40, 20, 400, 334),), (2,))
    batch = make([image], [target], min_size=800, max_size=1333)
    np.testing.assert_allclose(batch.targets[0]["boxes"], [[40 * 958 / 400, 20 * 799 / 334, 958, 799]], rtol=1e-6)
    assert batch.targets[0]["masks"].shape == (1, 799, 958)


def test_images_are_resized_bilinearly():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32) / 8, (3, 4, 8))
    batch = make([np.ascontiguousarray(ramp)], min_size=2, divisible=1)
    expected = (np.array([0.5, 2.5, 4.5, 6.5]) / 8 - 0.5) / 0.1  # the mean of two neighbours
    np.testing.assert_allclose(batch.images.data[0, 0], [expected, expected], rtol=1e-5)


def test_crowd_regions_are_dropped():
    image, target = scene(0, labels=(2, 5))
    target["iscrowd"] = np.array([1, 0])
    (moved,) = make([image], [target]).targets
    np.testing.assert_array_equal(moved["boxes"], target["boxes"][1:])
    np.testing.assert_array_equal(moved["labels"], [5])
    np.testing.assert_array_equal(moved["masks"], target["masks"][1:])


def test_neither_images_nor_targets_are_changed():
    image, target = scene(0)
    kept = image.copy(), {name: np.copy(array) for name, array in target.items()}
    batch = make([image], [target])
    batch.images.data[...] = 7
    for array in batch.targets[0].values():
        array[...] = 0
    np.testing.assert_array_equal(image, kept[0])
    for name in target:
        np.testing.assert_array_equal(target[name], kept[1][name])


def test_dtypes():
    image, target = scene(0)
    target["boxes"], target["labels"] = target["boxes"].astype(np.float64), target["labels"].astype(np.int32)
    target["masks"] = target["masks"].astype(bool)
    (moved,) = make([image], [target]).targets
    assert moved["boxes"].dtype == np.float32 and moved["labels"].dtype == np.int64
    batch = make_batch([image], [target], settings=TransformSettings(), dtype=np.float64)
    assert batch.images.dtype == np.float64 and batch.targets[0]["boxes"].dtype == np.float64


def test_on_a_device(fake_device):
    images, targets = batch_of(
        scene(3, (40, 70), ((9, 6, 31, 24), (40, 20, 70, 40))), scene(4, (50, 33), ((2, 3, 20, 40),))
    )
    expected, batch = make(images, targets, min_size=60), make(images, targets, min_size=60, device="fake")
    assert isinstance(batch.images.data, fake_device) and fake_device.copies == 0
    np.testing.assert_array_equal(to_numpy(batch.images.data), expected.images.data)
    for moved, on_host in zip(batch.targets, expected.targets, strict=True):
        for name in on_host:
            np.testing.assert_array_equal(to_numpy(moved[name]), on_host[name])


# What is refused


GOOD = np.zeros((3, 40, 60), np.float32)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GOOD[0], r"Image 1 .* not float32 \(40, 60\)"),
        (GOOD.transpose(1, 2, 0), r"Image 1 .* \(3, H, W\) .* not float32 \(40, 60, 3\)"),
        (np.zeros((1, 40, 60), np.float32), r"Image 1 .* not float32 \(1, 40, 60\)"),
        (np.zeros((3, 40, 60), np.uint8), "Image 1 .* not uint8"),
        (GOOD.tolist(), "Image 1 .* not list"),
        (GOOD[:, :0], r"Image 1 .* \(3, 0, 60\)"),
        (GOOD[:, :, :0], r"Image 1 .* \(3, 40, 0\)"),
        (np.where(np.arange(60) == 7, np.nan, GOOD), "Image 1 has pixels that are not finite"),
        (np.where(np.arange(60) == 7, np.inf, GOOD), "Image 1 has pixels that are not finite"),
    ],
)
def test_wrong_images(image, message):
    with pytest.raises(ValueError, match=message):
        check_images([GOOD, image])


@pytest.mark.parametrize("images", [[], np.zeros((2, 3, 40, 60), np.float32), GOOD])
def test_wrong_batches(images):
    with pytest.raises(ValueError, match="list of at least one image"):
        check_images(images)


def test_numbers_of_images_and_targets_differ():
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        check_targets([GOOD, GOOD], [empty_scene(0, (40, 60))[1]], num_classes=6)


def wrong(**changes):
    """The target of a 64 x 96 image with two objects and image_id 17, with some entries changed."""
    target = {**scene(17)[1], **changes}
    return {name: value for name, value in target.items() if value is not None}


def box(index, *coordinates, dtype=np.float32):
    boxes = scene(17)[1]["boxes"].astype(dtype)
    boxes[index] = coordinates
    return boxes


MASKS = scene(17)[1]["masks"]
WHERE = r"Image 3 \(image_id 17\): "
WRONG_TARGETS = {
    "no dict": ([1, 2], "Image 3: .*dict"),
    "no boxes": (wrong(boxes=None), WHERE + ".*'boxes'"),
    "boxes as a list": (wrong(boxes=[[1, 2, 3, 4]] * 2), WHERE + ".*'boxes'"),
    "no labels": (wrong(labels=None), WHERE + ".*'labels'"),
    "integer boxes": (wrong(boxes=box(0, 1, 2, 3, 4, dtype=np.int64)), WHERE + "boxes must be floats.*int64"),
    "boxes of 5": (wrong(boxes=np.zeros((2, 5), np.float32)), WHERE + r"boxes must be .*\(2, 5\)"),
    "no width": (wrong(boxes=box(1, 40, 20, 40, 58)), WHERE + r"box 1, \[40.0, 20.0, 40.0, 58.0\], .*positive"),
    "no height": (wrong(boxes=box(0, 9, 24, 31, 24)), WHERE + "box 0, .*positive"),
    "no width in float32": (wrong(boxes=box(1, 40, 20, 40 + 1e-9, 58, dtype=np.float64)), WHERE + "box 1, .*positive"),
    "reversed": (wrong(boxes=box(1, 88, 20, 40, 58)), WHERE + "box 1, .*positive"),
    "x and y swapped": (wrong(boxes=box(1, 20, 40, 58, 88)), WHERE + "box 1, .*inside the image of 64 x 96"),
    "beyond the right border": (wrong(boxes=box(1, 40, 20, 98, 58)), WHERE + "box 1, .*inside"),
    "beyond the left border": (wrong(boxes=box(0, -2, 6, 31, 24)), WHERE + "box 0, .*inside"),
    "wholly outside, by a fraction": (wrong(boxes=box(0, -0.9, 6, -0.1, 24)), WHERE + "box 0, .*inside"),
    "wholly below, by a fraction": (wrong(boxes=box(0, 9, 64.1, 31, 64.9)), WHERE + "box 0, .*inside"),
    "NaN": (wrong(boxes=box(1, 40, np.nan, 88, 58)), WHERE + "box 1, .*finite"),
    "infinite": (wrong(boxes=box(1, 40, 20, np.inf, 58)), WHERE + "box 1, .*finite"),
    "too few labels": (wrong(labels=np.array([1])), WHERE + r"labels must be 2 integers, not int64 \(1,\)"),
    "float labels": (wrong(labels=np.array([1.0, 2.0])), WHERE + "labels must be 2 integers, not float64"),
    "label 0": (wrong(labels=np.array([1, 0])), WHERE + "label 1 is 0, .*1 to 5"),
    "label -1": (wrong(labels=np.array([-1, 2])), WHERE + "label 0 is -1, .*1 to 5"),
    "label 6": (wrong(labels=np.array([5, 6])), WHERE + "label 1 is 6, .*1 to 5"),
    "masks of another size": (wrong(masks=MASKS[:, :32]), WHERE + r"masks must .* the shape \(2, 64, 96\).*\(2, 32,"),
    "too few masks": (wrong(masks=MASKS[:1]), WHERE + r"masks must .* the shape \(2, 64, 96\)"),
    "masks turned": (wrong(masks=MASKS.transpose(0, 2, 1)), WHERE + r"masks must .*\(2, 96, 64\)"),
    "masks of 255": (wrong(masks=MASKS * 255), WHERE + "masks must be uint8 .*values 0 and 1"),
    "float masks": (wrong(masks=MASKS.astype(np.float32)), WHERE + "masks must be uint8"),
    "masks as a list": (wrong(masks=MASKS.tolist()), WHERE + "masks must be"),
    "too few iscrowd": (wrong(iscrowd=np.array([1])), WHERE + "iscrowd must have one entry for each of the 2"),
    "image_id of another kind": (wrong(image_id="a.png"), r"Image 3: image_id .*'a.png'"),
    "negative image_id": (wrong(image_id=-1), r"Image 3: image_id .*-1"),
}


@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_wrong_targets(name):
    target, message = WRONG_TARGETS[name]
    with pytest.raises(ValueError, match=message):
        check_target(target, 3, (64, 96), num_classes=6)
    images, targets = batch_of(scene(0), empty_scene(1), scene(2))
    with pytest.raises(ValueError, match=message):
        check_targets([*images, scene(17)[0]], [*targets, target], num_classes=6)


def test_masks_may_be_absent_unless_they_are_needed():
    target = wrong(masks=None)
    check_target(target, 3, (64, 96), num_classes=6)
    with pytest.raises(ValueError, match=WHERE + "masks must be an array .*not NoneType"):
        check_target(target, 3, (64, 96), num_classes=6, needs_masks=True)


@pytest.mark.parametrize("boxes", [box(1, -0.5, 20, 88, 58), box(1, 40, 20, 96.5, 64.25), box(0, 0, 0, 96, 64)])
def test_boxes_may_reach_a_fraction_of_a_pixel_over_the_border(boxes):
    check_target(wrong(boxes=boxes), 0, (64, 96), num_classes=6)


@pytest.mark.parity
@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (600, 1000), (64, 100)])
def test_resized_sizes_are_torchvision_s(min_size, max_size):
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    transform = GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD)).eval()
    rng = np.random.default_rng(min_size)
    for size in [(334, 400), (1077, 1025), *rng.integers(30, 1500, (40, 2)).tolist()]:
        resized, _ = transform.resize(torch.empty(3, *size, device="meta"), None)
        assert resized_size(size, min_size, max_size) == tuple(resized.shape[1:]), size


@pytest.mark.parity
def test_resized_pixels_and_masks_are_torchvision_s():
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    rng = np.random.default_rng(0)
    for size in [(334, 400), (300, 61), (700, 1100), *rng.integers(30, 900, (12, 2)).tolist()]:
        min_size = int(rng.integers(30, 400))
        transform = GeneralizedRCNNTransform(min_size, 500, list(MEAN), list(STD)).train()
        image, target = scene(0, size, ((3, 4, 28, 29),), (2,))
        target["masks"] = rng.integers(0, 2, (1, *size)).astype(np.uint8)
        expected, (wanted,) = transform(
            [torch.from_numpy(image)], [{name: torch.from_numpy(target[name]) for name in ("boxes", "labels", "masks")}]
        )
        batch = make([image], [target], min_size=min_size, max_size=500)
        assert batch.sizes == expected.image_sizes
        # torch rounds the positions in float32 in one way or another, depending on how its threads share the rows
        wide = expected.tensors.numpy()
        assert np.abs(batch.images.data - wide).max() <= 1e-4 * np.abs(wide).max()
        np.testing.assert_array_equal(batch.targets[0]["boxes"], wanted["boxes"].numpy())
        np.testing.assert_array_equal(batch.targets[0]["masks"], wanted["masks"].numpy())


# To the last pixel, through a model's own transform


def transformed(image, target=None, **overrides):
    """The Batch of one image in a model that changes no colours."""
    model = tiny_model(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0), max_size=None, **overrides)
    return model.transform([image], None if target is None else [target])


def test_an_enlarged_image_ends_with_its_border_pixels():
    """Two pixels, 0 and 1, become four, whose centres lie at -0.25, 0.25, 0.75 and 1.25 of the old ones: nothing is
    continued beyond the first and the last."""
    image = np.zeros((3, 2, 3), np.float32)
    image[:, 1] = 1
    enlarged = transformed(image, min_size=4).images.data[0, 0, :4, :6]
    np.testing.assert_array_equal(enlarged, np.tile(np.float32([[0], [0.25], [0.75], [1]]), 6))


def test_masks_are_resized_in_float32_as_torch_does():
    """Row 22 of 44 reads row 22 * 26 / 44 = 13 of 26, or 12.9999990 in float32, which is row 12."""
    image, target = scene(0, (26, 39), ((3, 2, 30, 13),), (1,))
    target["masks"][:] = 0
    target["masks"][0, :13] = 1
    (moved,) = transformed(image, target, min_size=44).targets
    assert moved["masks"].shape == (1, 44, 66)
    assert moved["masks"][0].sum(axis=0).tolist() == [23] * 66


def test_pixels_are_rounded_to_the_nearest_of_256():
    for value, expected in ((100.4, 100), (100.6, 101), (0.6, 1), (254.7, 255)):
        image = np.full((3, 20, 30), value / 255, np.float32)
        pixels = transformed(image, resize="pillow", pixel_scale=255.0, min_size=10).images.data[0, :, :10, :15]
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)
