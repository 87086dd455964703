"""Masks between two frames: the whole image, and the small m x m grid of a box in which the mask branch works.

`crop_masks` makes the m x m training target of a box from an object's image-sized mask; `paste_masks` puts
predicted m x m probabilities back into the image. Both treat a mask as a function of continuous coordinates,
so crop and paste are inverses of each other up to the resolution of the grid, and nothing shifts by half a
pixel. "The m x m floating-number mask output is then resized to the RoI size, and binarized at a threshold of
0.5": section 3.1 of the Mask R-CNN paper. Lesson 09 explains both.
"""

import math
import mmap
from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module, to_numpy
from tinymrcnn.boxes.geometry import check_finite
from tinymrcnn.kernels import cpu_kernel, run, scalar
from tinymrcnn.roi.roi_align import align_arrays
from tinymrcnn.roi.rois import check_rows


def crop_masks(masks: Array, boxes: Array, size: int, *, aligned: bool = True, index: Any = None) -> Any:
    """The part of each object's mask that lies in its box, as a `size` x `size` grid of coverages from 0 to 1.

    masks: (N, H, W), 0 and 1 in any dtype, as large as the image. boxes: (N, 4), box i for mask i. Each cell is
    the mean of about one bilinear sample per pixel: RoIAlign of the mask. Threshold it at 0.5 for a binary
    target. aligned=False gives torchvision's targets, which lie half a pixel off.
    index: (N,) integers, the mask of each box where many boxes share few masks; a copy of an image-sized mask
    for every box would fill the memory.

    Returns (N, size, size) in the dtype of the boxes, where they are. Raises ValueError for wrong shapes and,
    on the host, for boxes that are not finite or wider or higher than 1e5 pixels, or an index that is no mask's.
    """
    check_finite(boxes)
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be images (N, H, W), not {tuple(masks.shape)}.")
    xp = array_module(masks, boxes)
    if index is None:
        _check_pairs(masks, boxes)
        index = xp.arange(len(boxes))
    elif len(index) != len(boxes):
        raise ValueError(f"index must name a mask for every box: it has {len(index)} entries for {len(boxes)} boxes.")
    elif isinstance(index, np.ndarray) and ((index < 0) | (index >= len(masks))).any():
        raise ValueError(f"index must be within 0..{len(masks) - 1}, the masks, not {index.min()}..{index.max()}.")
    rois = xp.empty((len(boxes), 5), boxes.dtype)
    rois[:, 0], rois[:, 1:] = index, boxes
    if isinstance(rois, np.ndarray):
        check_rows(rois, len(masks), 1.0, adaptive=True)
    features = xp.ascontiguousarray(masks.astype(boxes.dtype, copy=False))[..., None]
    return align_arrays(features, rois, size, aligned=aligned)[..., 0]


def paste_masks(masks: Array, boxes: Array, size: tuple[int, int], *, whole_pixels: bool = False) -> np.ndarray:
    """Masks of m x m cells, (N, m, m) floats, stretched over their boxes (N, 4) in an image of `size` (h, w).

    Every pixel takes the bilinear sample of the mask at the place where the pixel's centre falls on the grid,
    with zeros outside of the grid: over the box from x1 to x2, x lies at cell (x - x1) / (x2 - x1) * m - 0.5.
    A box without a positive size, or outside of the image, pastes nothing.
    whole_pixels=True pastes as torchvision does: the mask with a rim of one cell of zeros, over the box that is as
    much larger, from its first whole pixel to its last.

    Returns (N, h, w) on the host, in the dtype of the masks, as soft as they are. For many masks in a large
    image paste one at a time (a slice of one). Raises ValueError for wrong shapes and for boxes that are not
    finite.
    """
    masks, boxes = to_numpy(masks), to_numpy(boxes)
    if masks.ndim != 3 or masks.dtype.kind != "f" or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be floating-point probabilities (N, m, m), not {masks.dtype} {masks.shape}.")
    check_finite(boxes)
    _check_pairs(masks, boxes)
    # zeros straight from the system: the pages to which nothing is written, as most of a mask's are, take no memory
    count = len(masks) * math.prod(size)
    pages = mmap.mmap(-1, max(1, count * masks.itemsize), access=mmap.ACCESS_COPY)
    image = np.frombuffer(pages, masks.dtype, count).reshape(len(masks), *size)
    if whole_pixels:
        masks, boxes = np.pad(masks, ((0, 0), (1, 1), (1, 1))), over_whole_pixels(boxes, masks.shape[1:])
    # a rim of zeros, so that a sample beyond the outermost cells' centres fades out
    run(paste_kernel, None, image.size, np.pad(masks, ((0, 0), (1, 1), (1, 1))), boxes.astype(np.float64), image)
    return image


def over_whole_pixels(boxes: np.ndarray, cells: tuple[int, ...]) -> Array:
    """Boxes of (height, width) cells, enlarged by a cell on each side, in whole pixels: the corners are rounded towards
    zero, and the pixel of the second corner is included."""
    half_sizes, centres = (boxes[:, 2:] - boxes[:, :2]) * 0.5, (boxes[:, 2:] + boxes[:, :2]) * 0.5
    height, width = cells
    half_sizes *= np.array([(width + 2) / width, (height + 2) / height], boxes.dtype)
    return np.trunc(np.concatenate([centres - half_sizes, centres + half_sizes], axis=1)) + [0, 0, 1, 1]


@scalar
def first_pixel(edge: float, limit: int) -> int:
    """The first pixel whose centre is not left of (or above) `edge`, kept within 0..limit."""
    return int(math.ceil(min(max(edge - 0.5, 0.0), float(limit))))


@scalar
def tap(pixel: int, start: float, end: float, cells: int) -> tuple[int, float]:
    """Where a pixel's centre falls on a rimmed axis of `cells` + 2 cells: the lower cell, and the upper one's share."""
    position = (pixel + 0.5 - start) / (end - start) * cells + 0.5
    lower = min(int(position), cells)  # rounding may take the last pixel's centre to the end of the rim
    return lower, position - lower


@scalar
def pixels_of(start: float, end: float, cells: int, limit: int) -> tuple[int, int]:
    """The first pixel, and the one after the last, that a mask of `cells` cells from start to end reaches."""
    rim = 0.5 * (end - start) / cells  # samples differ from 0 up to half a cell outside of the box
    return first_pixel(start - rim, limit), first_pixel(end + rim, limit)


@scalar
def fill_row(row: Array, mask: Array, y: int, y1: float, y2: float) -> None:
    """A rimmed mask at the height of the pixel row y, cell by cell."""
    cell, part = tap(y, y1, y2, len(mask) - 2)
    for k in range(len(row)):
        row[k] = (1.0 - part) * mask[cell, k] + part * mask[cell + 1, k]


@scalar
def between(left: float, right: float, share: float) -> float:
    """The sample between two neighbouring cells of a row."""
    return left + share * (right - left)


@cpu_kernel
def paste_kernel(thread: int, threads: int, masks: Array, boxes: Array, image: Array) -> None:
    """masks: (N, mh + 2, mw + 2) with the rim, boxes: (N, 4) float64, image: (N, h, w), zeros at first."""
    (_, h, w), mh, mw = image.shape, masks.shape[1] - 2, masks.shape[2] - 2
    for i in range(thread, len(masks), threads):
        x1, y1, x2, y2 = boxes[i]
        if x1 < x2 and y1 < y2:
            left, right = pixels_of(x1, x2, mw, w)
            top, bottom = pixels_of(y1, y2, mh, h)
            lower, share = np.empty(w, np.int64), np.empty(w, masks.dtype)
            for x in range(left, right):
                lower[x], share[x] = tap(x, x1, x2, mw)
            row = np.empty(mw + 2, masks.dtype)
            for y in range(top, bottom):
                fill_row(row, masks[i], y, y1, y2)
                for x in range(left, right):
                    image[i, y, x] = between(row[lower[x]], row[lower[x] + 1], share[x])


def _check_pairs(masks: Array, boxes: Array) -> None:
    if len(masks) != len(boxes):
        raise ValueError(f"Every box needs its own mask: there are {len(masks)} masks and {len(boxes)} boxes.")
