"""The functions on boxes off the host: the same numbers, and no copy to the host that nobody asked for."""

import numpy as np
import pytest

from tinymrcnn.backend import BACKENDS, to_device, to_numpy
from tinymrcnn.boxes import (
    BoxCoder,
    Matcher,
    box_area,
    box_iou,
    clip_boxes_to_image,
    crop_masks,
    paste_masks,
)


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2)) * [70, 50]
    return np.concatenate([corners, corners + rng.uniform(2, 40, (count, 2))], axis=1).astype(np.float32)


GT, BOXES = random_boxes(0, 12), random_boxes(1, 12)
MASKS = (np.random.default_rng(2).random((12, 60, 90)) < 0.5).astype(np.uint8)
DELTAS = np.random.default_rng(3).normal(0, 1, (12, 8)).astype(np.float32)
IOU = np.concatenate([box_iou(GT, random_boxes(4, 40)), np.zeros((1, 40), np.float32)])

CALLS = {
    "box_area": (box_area, BOXES),
    "box_iou": (box_iou, GT, BOXES),
    "clip": (lambda boxes: clip_boxes_to_image(boxes, (40, 60)), BOXES),
    "encode": (BoxCoder((10, 10, 5, 5)).encode, GT, BOXES),
    "decode": (BoxCoder((10, 10, 5, 5)).decode, DELTAS, BOXES),
    "match": (Matcher(0.5, 0.3, allow_low_quality=True), IOU),
    "match without objects": (Matcher(0.5, 0.3, allow_low_quality=True), np.zeros((0, 7), np.float32)),
    "crop": (lambda masks, boxes: crop_masks(masks, boxes, 14), MASKS, BOXES),
    "crop by index": (
        lambda masks, boxes, index: crop_masks(masks, boxes, 14, index=index),
        MASKS,
        BOXES,
        np.arange(12),
    ),
}


def on_device(device, name):
    """(on the host, on the device): the results of one of the CALLS."""
    function, *arrays = CALLS[name]
    return function(*arrays), function(*(to_device(array, device) for array in arrays))


@pytest.mark.parametrize("name", CALLS)
def test_on_the_fake_device(fake_device, name):
    expected, result = on_device("fake", name)
    assert isinstance(result, fake_device) and fake_device.copies == 0
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(to_numpy(result), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("name", CALLS)
def test_on_the_gpu(name):
    expected, result = on_device("cuda", name)
    assert isinstance(result, BACKENDS["cuda"].array_type) and result.dtype == expected.dtype
    np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-5, atol=1e-5)


def test_paste_comes_to_the_host(fake_device):
    masks = np.random.default_rng(0).random((12, 7, 7), dtype=np.float32)
    pasted = paste_masks(to_device(masks, "fake"), to_device(BOXES, "fake"), (60, 90))
    assert isinstance(pasted, np.ndarray)
    np.testing.assert_array_equal(pasted, paste_masks(masks, BOXES, (60, 90)))


def test_host_and_device_do_not_mix(fake_device):
    with pytest.raises(TypeError, match="mixes"):
        box_iou(GT, to_device(BOXES, "fake"))
    with pytest.raises(TypeError, match="mixes"):
        BoxCoder().decode(DELTAS, to_device(BOXES, "fake"))
    with pytest.raises(TypeError, match="mixes"):
        crop_masks(MASKS, to_device(BOXES, "fake"), 14)
