"""Area, overlap, clipping and filtering of boxes, worked out by hand."""

import numpy as np
import pytest

from tinymrcnn.boxes import box_area, box_iou, clip_boxes_to_image


def boxes(*rows, dtype=np.float32):
    return np.array(rows, dtype).reshape(-1, 4)


def random_boxes(rng, count, height=300, width=500, dtype=np.float32):
    corners = rng.random((count, 2)) * [width, height]
    return np.concatenate([corners, corners + rng.uniform(1, 120, (count, 2))], axis=1).astype(dtype)


def test_area_has_no_plus_one():
    # 3 wide and 4 high; half a pixel each way; no width
    area = box_area(boxes([1, 2, 4, 6], [0, 0, 0.5, 0.5], [7, 1, 7, 9]))
    assert area.dtype == np.float32
    np.testing.assert_array_equal(area, [12, 0.25, 0])


def test_iou_by_hand():
    first = boxes([0, 0, 4, 2], [10, 10, 12, 13])
    second = boxes(
        [0, 0, 4, 2],  # the same: 8 / 8
        [2, 1, 6, 3],  # overlap x 2..4, y 1..2: 2 / (8 + 8 - 2) = 1/7
        [1, 0, 3, 1],  # inside: 2 / 8
        [4, 0, 8, 2],  # a common edge only: 0
        [11, 9, 14, 12],  # with the second box: x 11..12, y 10..12: 2 / (6 + 9 - 2) = 2/13
    )
    iou = box_iou(first, second)
    assert iou.shape == (2, 5) and iou.dtype == np.float32
    np.testing.assert_allclose(iou[0], [1, 1 / 7, 1 / 4, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(iou[1], [0, 0, 0, 0, 2 / 13], rtol=1e-6)


def test_iou_is_symmetric_and_scales_with_the_boxes():
    rng = np.random.default_rng(3)
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    iou = box_iou(a, b)
    assert 0 <= iou.min() and iou.max() <= 1 and (iou > 0).any()
    np.testing.assert_array_equal(iou.T, box_iou(b, a))
    np.testing.assert_allclose(box_iou(4 * a, 4 * b), iou)
    # width and height change places: a mix-up of x and y would show
    np.testing.assert_allclose(box_iou(a[:, [1, 0, 3, 2]], b[:, [1, 0, 3, 2]]), iou, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(np.diag(box_iou(a, a)), np.ones(30, np.float32))


def test_iou_of_empty_boxes_is_zero_without_a_warning():
    empty = boxes([5, 5, 5, 5], [2, 3, 2, 8], [9, 9, 4, 4])  # a point, a line, a reversed box
    with np.errstate(all="raise"):
        assert (box_iou(empty[:2], empty[:2]) == 0).all()
        assert (box_iou(empty, boxes([0, 0, 4, 4])) == 0).all()


@pytest.mark.parametrize("n, m", [(0, 3), (2, 0), (0, 0)])
def test_iou_without_boxes(n, m):
    iou = box_iou(np.zeros((n, 4), np.float32), np.zeros((m, 4), np.float32))
    assert iou.shape == (n, m) and iou.dtype == np.float32


def plain_iou(a, b):
    """In NumPy, in the same order of operations."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    return both / (box_area(a)[:, None] + box_area(b) - both)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_iou_is_that_of_plain_numpy_to_the_last_bit(dtype):
    rng = np.random.default_rng(3)
    corners = rng.uniform(-10, 90, (2, 150, 2))
    a, b = (np.concatenate([c, c + rng.uniform(1, 40, c.shape)], axis=1).astype(dtype) for c in corners)
    iou = box_iou(a[:7], b)
    assert iou.dtype == dtype and (iou > 0).any() and (iou == 0).any()
    np.testing.assert_array_equal(iou, plain_iou(a[:7], b))


def test_iou_in_float64_stays_float64():
    assert box_iou(boxes([0, 0, 1, 1], dtype=np.float64), boxes([0, 0, 1, 1], dtype=np.float64)).dtype == np.float64


def test_iou_refuses_two_dtypes():
    """float64 anchors against float32 objects once cost a project weeks: ties between anchors broke silently."""
    with pytest.raises(ValueError, match="boxes1 is float32 and boxes2 is float64"):
        box_iou(boxes([0, 0, 1, 1]), boxes([0, 0, 1, 1], dtype=np.float64))


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((3, 5), np.float32), "x1, y1, x2, y2"),
        (np.zeros(4, np.float32), r"shape \(N, 4\)"),
        (np.zeros((3, 4), np.int64), "float32 or float64, not int64"),
        (np.zeros((3, 4), np.float16), "float32 or float64, not float16"),
    ],
)
def test_wrong_boxes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        box_iou(bad, boxes([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="boxes2"):
        box_iou(boxes([0, 0, 1, 1]), bad)


def test_clipping_in_a_wide_image():
    # The image is 10 high and 20 wide: x stops at 20, y at 10.
    inside, outside = [1, 2, 19, 9], [-3, -4, 25, 15]
    original = boxes(inside, outside, [30, 30, 40, 40])
    clipped = clip_boxes_to_image(original, (10, 20))
    np.testing.assert_array_equal(clipped, boxes(inside, [0, 0, 20, 10], [20, 10, 20, 10]))
    assert clipped.dtype == np.float32 and original[1, 0] == -3
    np.testing.assert_array_equal(clip_boxes_to_image(original.reshape(1, 3, 4), (10, 20))[0], clipped)
    # sizes as NumPy integers must not turn the boxes into float64
    assert clip_boxes_to_image(original, (np.int64(10), np.int64(20))).dtype == np.float32
    assert clip_boxes_to_image(boxes(), (10, 20)).shape == (0, 4)


@pytest.mark.parity
def test_as_torchvision():
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(11)
    a, b = random_boxes(rng, 300), random_boxes(rng, 200)
    a[:5, 2:] = a[:5, :2] + 1e-3
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    np.testing.assert_array_equal(box_area(a), ops.box_area(ta).numpy())
    np.testing.assert_array_equal(box_iou(a, b), ops.box_iou(ta, tb).numpy())
    np.testing.assert_array_equal(clip_boxes_to_image(a, (200, 320)), ops.clip_boxes_to_image(ta, (200, 320)).numpy())
