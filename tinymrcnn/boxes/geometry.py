"""Boxes as arrays: area, overlap, clipping.

A box is (x1, y1, x2, y2) with x to the right and y down, in continuous coordinates where pixel i covers
[i, i + 1): the width is x2 - x1, with no "+ 1". Boxes are NumPy or CuPy arrays of floats; the result has
their dtype and lives where they live. Nothing here has a gradient.

Intersection over union decides which anchor answers for which object (section 3.1.2 of the Faster R-CNN
paper, section 3.1 of the Mask R-CNN paper). Lesson 05 draws it.
"""

from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module, like
from tinymrcnn.boxes.nms import iou
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, run


def box_area(boxes: Array) -> Array:
    """(..., 4) boxes to their (...) areas, in square pixels. Raises ValueError when they are not boxes."""
    _check_last_axis(boxes, "boxes")
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(boxes1: Array, boxes2: Array) -> Array:
    """Intersection over union of every box of `boxes1` (N, 4) with every one of `boxes2` (M, 4): (N, M), 0 to 1.

    Where the union is empty the result is 0. Raises ValueError for wrong shapes and for two dtypes: float64
    anchors against float32 objects break the ties between equally good anchors, so that a few are never
    positive and the model trains a little worse, without any error.
    """
    check_boxes(boxes1, "boxes1")
    check_boxes(boxes2, "boxes2")
    xp, one, other = array_module(boxes1, boxes2), boxes1.dtype, boxes2.dtype
    if one != other:
        raise ValueError(f"boxes1 is {one} and boxes2 is {other}: convert one to the dtype of the other.")
    corners = xp.ascontiguousarray(xp.concatenate([boxes1, boxes2]).T)
    ious = xp.empty((len(boxes1), len(boxes2)), boxes1.dtype)
    run(_ious_cpu, _ious_cuda, ious.size, corners, ious)
    return ious


# Of crowded images these are tens of millions of pairs in every step, too many for NumPy's many passes over them


@cpu_kernel
def _ious_cpu(thread: int, threads: int, corners: Array, ious: Array) -> None:
    """corners: (4, N + M), those of both. ious: (N, M). The IoU of two empty boxes is not a number, and becomes 0."""
    for i in range(thread, ious.shape[0], threads):
        for j in range(ious.shape[1]):
            value = iou(corners, i, ious.shape[0] + j)
            ious[i, j] = value if value > 0 else 0


@cuda_kernel
def _ious_cuda(corners: Array, ious: Array) -> None:
    for element in range(cuda.grid(1), ious.size, cuda.gridsize(1)):
        i, j = divmod(element, ious.shape[1])
        value, zero = iou(corners, i, ious.shape[0] + j), ious.dtype.type(0)
        ious[i, j] = value if value > zero else zero


def clip_boxes_to_image(boxes: Array, size: Any) -> Array:
    """(..., 4) boxes cut at the borders of an image of `size` (height, width): a new array.

    For boxes of N images (N, M, 4) size may be (N, 2), or a list of such pairs."""
    _check_last_axis(boxes, "boxes")
    limits = np.tile(np.asarray(size, boxes.dtype)[..., ::-1], 2)  # (width, height) twice
    return array_module(boxes).clip(boxes, 0, like(limits if limits.ndim == 1 else limits[:, None], boxes))


def check_boxes(boxes: Array, name: str = "boxes") -> None:
    """Raise ValueError unless `boxes` is a floating-point array of shape (N, 4)."""
    if boxes.ndim != 2:
        raise ValueError(f"{name} must have the shape (N, 4), not {tuple(boxes.shape)}.")
    _check_last_axis(boxes, name)


def check_finite(boxes: Array, name: str = "boxes") -> None:
    """check_boxes, and on the host a ValueError naming the first row with a NaN or an infinity."""
    check_boxes(boxes, name)
    if isinstance(boxes, np.ndarray):  # on a GPU, looking at the values would wait for the device
        _refuse_rows(boxes, ~np.isfinite(boxes).all(axis=1), name, "every coordinate must be finite")


def check_positive_size(boxes: Array, name: str = "boxes") -> None:
    """check_boxes, and on the host a ValueError naming the first row without a positive, finite width and height."""
    check_boxes(boxes, name)
    if isinstance(boxes, np.ndarray):
        sizes = boxes[:, 2:] - boxes[:, :2]
        bad = ~((sizes > 0) & np.isfinite(sizes)).all(axis=1)
        _refuse_rows(boxes, bad, name, "width x2 - x1 and height y2 - y1 must be positive and finite")


def _check_last_axis(boxes: Array, name: str) -> None:
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"The last axis of {name} must hold x1, y1, x2, y2: its shape is {tuple(boxes.shape)}.")
    if boxes.dtype not in (np.float32, np.float64):  # areas overflow float16
        raise ValueError(f"{name} must be float32 or float64, not {boxes.dtype}.")


def _refuse_rows(boxes: np.ndarray, bad: Any, name: str, rule: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"Row {row} of {name} is {boxes[row].tolist()}: {rule}.")
