"""Crop and paste of masks: by hand, against a slow reference, and one as the inverse of the other."""

import math

import numpy as np
import pytest

from tinymrcnn.boxes import crop_masks, paste_masks
from tinymrcnn.boxes.masks import first_pixel, tap

HEIGHT, WIDTH = 96, 140


def row(*values, dtype=np.float32):
    return np.array([values], dtype)


def paste_reference(mask, box, size):
    """The definition, pixel by pixel: a bilinear sample at the pixel's centre, zeros outside of the mask."""
    (mh, mw), (h, w) = mask.shape, size
    x1, y1, x2, y2 = (float(v) for v in box)
    image = np.zeros(size)
    for y in range(h):
        for x in range(w):
            u, v = (x + 0.5 - x1) / (x2 - x1) * mw - 0.5, (y + 0.5 - y1) / (y2 - y1) * mh - 0.5
            for j in range(mh):
                for i in range(mw):
                    image[y, x] += mask[j, i] * max(0, 1 - abs(u - i)) * max(0, 1 - abs(v - j))
    return image


def crop_reference(mask, box, size, offset):
    """The mean of ceil(extent / size) samples a bin and axis, each bilinear among the centres of the pixels."""
    h, w = mask.shape
    x1, y1, x2, y2 = (float(v) for v in box)
    box_w, box_h = x2 - x1, y2 - y1
    nx, ny = math.ceil(box_w / size), math.ceil(box_h / size)

    def sample(x, y):
        if not (-1 <= x <= w and -1 <= y <= h):
            return 0.0
        x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
        i, j = min(int(x), w - 2), min(int(y), h - 2)
        a, b = x - i, y - j
        upper = (1 - a) * mask[j, i] + a * mask[j, i + 1]
        return (1 - b) * upper + b * ((1 - a) * mask[j + 1, i] + a * mask[j + 1, i + 1])

    result = np.zeros((size, size))
    for p in range(size):
        for q in range(size):
            for n in range(ny):
                for m in range(nx):
                    x = x1 + (q + (m + 0.5) / nx) * box_w / size - offset
                    y = y1 + (p + (n + 0.5) / ny) * box_h / size - offset
                    result[p, q] += sample(x, y) / (nx * ny)
    return result


# Shapes as an annotator would draw them: (1, HEIGHT, WIDTH) uint8 and the tight box of the pixels.


def pixel_centres():
    return np.mgrid[:HEIGHT, :WIDTH] + 0.5


def circle(cx, cy, radius):
    y, x = pixel_centres()
    return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2


def star(cx, cy, radius, angle):
    """Five points, as the points of the plane within the distance that the direction allows."""
    y, x = pixel_centres()
    around = (np.arctan2(y - cy, x - cx) - angle) % (2 * math.pi / 5) - math.pi / 5
    inner, outer = 0.45 * radius, radius
    # the edge from the tip (angle 36 degrees) to the notch (angle 0)
    tip = np.array([outer * math.cos(math.pi / 5), outer * math.sin(math.pi / 5)])
    normal = np.array([tip[1], inner - tip[0]])
    reach = normal[0] * inner / (normal[0] * np.cos(around) + normal[1] * np.abs(np.sin(around)))
    return np.hypot(x - cx, y - cy) <= reach


def rectangle(x1, y1, x2, y2):
    y, x = pixel_centres()
    return (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)


SHAPES = {
    "circle": circle(50.3, 41.7, 30.2),
    "small circle": circle(100, 20, 9),
    "circle cut by the border": circle(131, 88, 21),
    "star": star(70, 48, 44, 0.3),
    "small star": star(30.6, 60.2, 17, 1.0),
    "wide rectangle": rectangle(3, 40, 137, 61),
    "high rectangle": rectangle(100, 5, 118, 90),
    "whole image": rectangle(0, 0, WIDTH, HEIGHT),
    "few pixels": rectangle(20, 30, 26, 34),
}


def tight_box(mask):
    ys, xs = np.nonzero(mask)
    return row(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


# Paste


def test_paste_by_hand():
    # A 1 x 2 mask over the box x 1..5, y 1..2, in an image of 3 rows and 6 columns. Each cell is two pixels wide:
    # pixel centres 1.5, 2.5, 3.5, 4.5 are at cells (x - 1) / 4 * 2 - 0.5 = -0.25, 0.25, 0.75, 1.25
    #   -0.25: 3/4 of cell 0 (the rest is outside)     0.25: 3/4 cell 0 + 1/4 cell 1
    #    0.75: 1/4 cell 0 + 3/4 cell 1                 1.25: 3/4 of cell 1
    # and 0.5 and 5.5 at -0.75 and 1.75: 1/4 of the outer cells. The row y = 1.5 is at cell row 0 exactly.
    pasted = paste_masks(np.array([[[0.4, 0.8]]], np.float32), row(1, 1, 5, 2), (3, 6))
    assert pasted.shape == (1, 3, 6) and pasted.dtype == np.float32
    np.testing.assert_allclose(pasted[0, 1], [0.1, 0.3, 0.5, 0.7, 0.6, 0.2], rtol=1e-6)
    assert (pasted[0, [0, 2]] == 0).all()


def test_paste_at_the_size_of_the_grid_copies_it():
    mask = np.random.default_rng(0).random((1, 4, 6), dtype=np.float32)
    pasted = paste_masks(mask, row(3, 2, 9, 6), (10, 12))
    np.testing.assert_allclose(pasted[0, 2:6, 3:9], mask[0], rtol=1e-6)
    assert pasted.sum() == pytest.approx(mask.sum(), rel=1e-6)


def test_paste_of_ones_ends_at_the_box():
    """Thresholded at 0.5, a full mask fills the pixels whose centres lie in the box, with slightly round corners."""
    pasted = paste_masks(np.ones((1, 28, 28), np.float32), row(10.2, 20.7, 90.4, 60.6), (HEIGHT, WIDTH))[0] >= 0.5
    full = rectangle(10.2, 20.7, 90.4, 60.6)
    np.testing.assert_array_equal(pasted[22:59], full[22:59])
    np.testing.assert_array_equal(pasted[:, 12:88], full[:, 12:88])
    assert not pasted[~full].any() and pasted[full].mean() > 0.999


@pytest.mark.parametrize(
    "box",
    [
        (2, 3, 11, 8),
        (2.3, 1.7, 13.9, 7.2),
        (-4.5, -2.25, 6.5, 5),  # over the upper left corner
        (9, 4, 30, 25),  # over the lower right corner
        (-50, -30, 60, 40),  # larger than the image
        (5.2, 6.1, 5.9, 6.3),  # smaller than a pixel
        (7.5, 2.5, 8.5, 4.5),  # edges on pixel centres
    ],
)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_paste_as_defined(box, dtype, tolerance):
    size = (12, 17)
    mask = np.random.default_rng(4).random((5, 4)).astype(dtype)
    pasted = paste_masks(mask[None], row(*box, dtype=dtype), size)
    assert pasted.dtype == dtype
    np.testing.assert_allclose(pasted[0], paste_reference(mask, row(*box, dtype=dtype)[0], size), atol=tolerance)


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (5, 5, 9, 5), (9, 9, 5, 5), (-20, 2, -10, 8), (200, 2, 260, 8), (3, 90, 8, 99), (1e30, 0, 2e30, 9)],
)
def test_paste_of_nothing(box):
    """Boxes without a size, reversed, left, right and below of the image, and far away."""
    boxes = np.concatenate([row(*box), row(2, 2, 6, 6)])
    pasted = paste_masks(np.ones((2, 7, 7), np.float32), boxes, (20, 30))
    assert (pasted[0] == 0).all() and pasted[1].max() == 1


def test_paste_over_everything():
    assert (paste_masks(np.ones((1, 7, 7), np.float32), row(-1e30, -1e30, 1e30, 1e30), (9, 11)) == 1).all()


def test_paste_no_masks_or_no_image():
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (9, 11)).shape == (0, 9, 11)
    assert paste_masks(np.ones((1, 7, 7), np.float32), row(0, 0, 4, 4), (0, 11)).shape == (1, 0, 11)


def test_paste_over_whole_pixels_by_hand():
    """The box (2, 3, 6, 5) of 2 x 2 cells grows by a cell on each side to (0, 2, 8, 6), and covers the pixels 0 to 8
    and 2 to 6, the last ones included, all symmetric about pixel (4, 4); at its border the rim is 0."""
    (pasted,) = paste_masks(np.ones((1, 2, 2), np.float32), np.float32([[2, 3, 6, 5]]), (9, 12), whole_pixels=True)
    assert np.flatnonzero(pasted.any(axis=0)).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert np.flatnonzero(pasted.any(axis=1)).tolist() == [3, 4, 5] and pasted[4, 4] == 1
    np.testing.assert_allclose(pasted[:, :9], pasted[:, 8::-1], atol=1e-6)
    np.testing.assert_allclose(pasted[2:7], pasted[6:1:-1], atol=1e-6)


def test_paste_one_at_a_time_is_the_same():
    rng = np.random.default_rng(1)
    masks = rng.random((6, 14, 14), dtype=np.float32)
    corners = rng.random((6, 2)) * [100, 60]
    boxes = np.concatenate([corners, corners + rng.uniform(1, 60, (6, 2))], axis=1).astype(np.float32)
    together = paste_masks(masks, boxes, (HEIGHT, WIDTH))
    for i in range(6):
        np.testing.assert_array_equal(paste_masks(masks[i : i + 1], boxes[i : i + 1], (HEIGHT, WIDTH))[0], together[i])


def test_paste_refuses():
    mask = np.ones((2, 7, 7), np.float32)
    boxes = np.array([[0, 0, 4, 4], [1, 1, np.nan, 5]], np.float32)
    with pytest.raises(ValueError, match="Row 1 of boxes is .* must be finite"):
        paste_masks(mask, boxes, (9, 11))
    with pytest.raises(ValueError, match="2 masks and 1 boxes"):
        paste_masks(mask, boxes[:1], (9, 11))
    with pytest.raises(ValueError, match="floating-point probabilities"):
        paste_masks(np.ones((2, 7, 7), np.uint8), boxes, (9, 11))
    with pytest.raises(ValueError, match="floating-point probabilities"):
        paste_masks(np.ones((7, 7), np.float32), boxes[:1], (9, 11))


# Crop


def test_crop_by_hand():
    # Columns 0..3 are 0, columns 4..7 are 1, in an image of 4 rows and 8 columns.
    mask = np.zeros((1, 4, 8), np.uint8)
    mask[..., 4:] = 1
    # Box x 2..6 in 4 bins: each bin one pixel, sampled at its centre.
    crop = crop_masks(mask, row(2, 0, 6, 4), 4)
    assert crop.shape == (1, 4, 4) and crop.dtype == np.float32
    np.testing.assert_array_equal(crop[0], [[0, 0, 1, 1]] * 4)
    # Box x 2.5..6.5: the bins' centres are 3, 4, 5, 6, and 4 lies half way between the centres 3.5 and 4.5.
    np.testing.assert_array_equal(crop_masks(mask, row(2.5, 0, 6.5, 4), 4)[0], [[0, 0.5, 1, 1]] * 4)
    # Without the half pixel everything is read half a pixel further to the right and below.
    np.testing.assert_array_equal(crop_masks(mask, row(2, 0, 6, 4), 4, aligned=False)[0], [[0, 0.5, 1, 1]] * 4)
    # Box x 1..5 in 2 bins: two samples for each bin and axis, at the centres of pixels 1, 2 and of 3, 4.
    np.testing.assert_array_equal(crop_masks(mask, row(1, 0, 5, 4), 2)[0], [[0, 0.5]] * 2)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("box", [(20, 4, 96, 88), (13.4, 10.2, 60.1, 25.9), (44.5, 40.5, 52, 46), (100, 60, 140, 96)])
def test_crop_as_defined(box, aligned):
    mask = SHAPES["star"].astype(np.float64)
    crop = crop_masks(mask[None], row(*box, dtype=np.float64), 7, aligned=aligned)
    assert crop.dtype == np.float64
    np.testing.assert_allclose(crop[0], crop_reference(mask, box, 7, 0.5 if aligned else 0.0), atol=1e-12)


def test_each_box_reads_its_own_mask():
    masks = np.stack([SHAPES["circle"], SHAPES["star"]]).astype(np.uint8)
    boxes = np.concatenate([tight_box(masks[0]), tight_box(masks[1])])
    crops = crop_masks(masks, boxes, 14)
    for i in range(2):
        np.testing.assert_array_equal(crops[i], crop_masks(masks[i : i + 1], boxes[i : i + 1], 14)[0])
    # several boxes on few masks, without a copy of a mask for each box
    chosen = np.array([1, 0, 1])
    np.testing.assert_array_equal(crop_masks(masks, boxes[chosen], 14, index=chosen), crops[chosen])


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32, np.float64])
def test_crop_has_the_dtype_of_the_boxes(dtype):
    masks = SHAPES["circle"][None].astype(dtype)
    for boxes_dtype in (np.float32, np.float64):
        crop = crop_masks(masks, tight_box(masks[0]).astype(boxes_dtype), 28)
        assert crop.dtype == boxes_dtype and crop.min() == 0 and crop.max() == pytest.approx(1, rel=1e-6)


def test_crop_no_masks():
    crop = crop_masks(np.zeros((0, 9, 11), np.uint8), np.zeros((0, 4), np.float32), 28)
    assert crop.shape == (0, 28, 28) and crop.dtype == np.float32
    assert (
        crop_masks(np.zeros((3, 9, 11), np.uint8), np.zeros((0, 4), np.float32), 14, index=np.zeros(0, int)).size == 0
    )


def test_crop_refuses():
    masks = np.ones((2, 9, 11), np.uint8)
    boxes = np.array([[0, 0, 4, 4], [1, 1, np.inf, 5]], np.float32)
    with pytest.raises(ValueError, match="Row 1 of boxes is .* must be finite"):
        crop_masks(masks, boxes, 7)
    with pytest.raises(ValueError, match="2 masks and 1 boxes"):
        crop_masks(masks, boxes[:1], 7)
    for index in (np.array([0, 2]), np.array([-1, 0])):
        with pytest.raises(ValueError, match=r"within 0\.\.1"):
            crop_masks(masks, boxes[[0, 0]], 7, index=index)
    with pytest.raises(ValueError, match="1 entries for 2 boxes"):
        crop_masks(masks, boxes[[0, 0]], 7, index=np.array([0]))
    with pytest.raises(ValueError, match="masks must be"):
        crop_masks(masks[0], boxes[:1], 7)


# Crop, then paste


@pytest.mark.parametrize("shift", [0.0, 0.35])
@pytest.mark.parametrize("name", SHAPES)
def test_paste_undoes_crop(name, shift):
    mask = SHAPES[name]
    box = tight_box(mask) + row(-shift, -2 * shift, shift, 0.5 * shift)  # a fractional box a little off
    pasted = paste_masks(crop_masks(mask[None].astype(np.uint8), box, 28), box, (HEIGHT, WIDTH))
    assert overlap(pasted[0] >= 0.5, mask) > 0.95


def test_crop_and_paste_do_not_drift():
    """Over and over, a mask stays where it is: half a pixel lost each time would show."""
    mask, box = SHAPES["circle"], tight_box(SHAPES["circle"])
    again = mask
    for _ in range(10):
        crop = crop_masks(again[None].astype(np.uint8), box, 28)
        again = paste_masks(crop, box, (HEIGHT, WIDTH))[0] >= 0.5
    before, after = (np.argwhere(m).mean(axis=0) for m in (mask, again))
    np.testing.assert_allclose(after, before, atol=0.25)
    assert overlap(again, mask) > 0.95


# Against torch


@pytest.mark.parity
def test_paste_as_torch_samples_a_grid():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    masks = rng.random((20, 28, 28))
    corners = rng.uniform(-20, 120, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.5, 90, (20, 2))], axis=1)
    x1, y1, x2, y2 = (torch.from_numpy(boxes[:, i])[:, None] for i in range(4))
    gx = (torch.arange(WIDTH) + 0.5 - x1) / (x2 - x1) * 2 - 1
    gy = (torch.arange(HEIGHT) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack([gx[:, None].expand(-1, HEIGHT, -1), gy[:, :, None].expand(-1, -1, WIDTH)], dim=-1)
    expected = torch.nn.functional.grid_sample(torch.from_numpy(masks)[:, None], grid, align_corners=False)[:, 0]
    np.testing.assert_allclose(paste_masks(masks, boxes, (HEIGHT, WIDTH)), expected.numpy(), atol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("aligned", [True, False])
def test_crop_as_torchvision(aligned):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    masks = np.stack(list(SHAPES.values())).astype(np.uint8)
    boxes = np.concatenate([tight_box(mask) for mask in masks]) + row(-1.3, 0.4, 2.1, -0.6)
    rois = torch.from_numpy(np.concatenate([np.arange(len(masks), dtype=np.float32)[:, None], boxes], axis=1))
    expected = ops.roi_align(torch.from_numpy(masks)[:, None].float(), rois, 28, 1.0, -1, aligned)[:, 0].numpy()
    np.testing.assert_allclose(crop_masks(masks, boxes, 28, aligned=aligned), expected, atol=1e-5)


def test_a_centre_that_rounding_takes_to_the_end_of_the_rim_reads_no_further():
    # 253.5 lies before 246.57... + the rim of half a cell, but comes out as 13, the end of 12 cells and the rim
    start, end = 80.32077605866648, 246.57283104234668
    assert first_pixel(end + 0.5 * (end - start) / 12, 1000) == 254
    assert tap(253, start, end, 12) == (12, 1.0)


@pytest.mark.parametrize("box", [(0, 0, 2e5, 10), (-2e7, 0, -2e7 + 5, 10)])
def test_a_crop_of_a_huge_box_is_refused(box):
    with pytest.raises(ValueError, match="RoI 0 has a"):
        crop_masks(np.ones((1, 20, 30), np.uint8), row(*box), 14)
