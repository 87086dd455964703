"""What the RoI operators share: the array of RoIs, and the checks of their arguments.

RoIs are an (R, 5) array: the index of the image in the batch, then x1, y1, x2, y2 in image coordinates.
They are data, not Tensors: no gradient flows to them. Lesson 06 shows them.
"""

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last, to_numpy

OutputSize = int | tuple[int, int]
Reduction = Literal["mean", "max"]

# Limits of the arguments, so that no number in them keeps a kernel busy for hours
MAX_COORDINATE = 1e7  # in the image's units and in cells: float32 still tells neighbouring integers apart there
MAX_BINS = 1000  # along an axis
MAX_SAMPLES = 100  # in a bin, along an axis
MAX_CELLS = 1e5  # the width and height of a RoI that takes about one sample a cell


def boxes_to_rois(boxes: Sequence[Array]) -> Array:
    """One (R_i, 4) array of boxes per image as one (R, 5) array with the image's index in front.

    boxes: a list of arrays of one dtype, at least one. Raises ValueError, naming the image, for another shape.
    """
    xp = array_module(*boxes)
    for image, part in enumerate(boxes):
        if part.ndim != 2 or part.shape[1] != 4:
            raise ValueError(f"The boxes of image {image} must have the shape (R, 4), not {part.shape}.")
    index = [xp.full((len(part), 1), image, part.dtype) for image, part in enumerate(boxes)]
    return xp.concatenate([xp.concatenate(index), xp.concatenate(list(boxes))], axis=1)


def check_arguments(features: Tensor, rois: Any, output_size: OutputSize, spatial_scale: float, sampling_ratio: int = 1,
    reduce: str = "mean") -> Array:  # fmt: skip
    """The RoIs as an (R, 5) array of the features' dtype, when every argument of a RoI operator is valid.

    Raises TypeError or ValueError that says which one is not; for a RoI, with the number of its row."""
    if not isinstance(features, Tensor):
        raise TypeError(f"The features must be a Tensor, not {type(features).__name__}.")
    if features.ndim != 4 or 0 in features.shape[2:]:
        raise ValueError(f"The features must have the shape (N, C, H, W) with H and W above 0, not {features.shape}.")
    if features.dtype not in (np.float32, np.float64):
        raise TypeError(f"The features must be float32 or float64, not {features.dtype}.")
    check_size(output_size, "output size")
    if not 0 < spatial_scale < float("inf"):
        raise ValueError(f"The spatial scale must be positive, such as 1/16 at stride 16, not {spatial_scale!r}.")
    if not isinstance(sampling_ratio, numbers.Integral) or sampling_ratio > MAX_SAMPLES:
        raise ValueError(f"The sampling ratio must be an integer, at most {MAX_SAMPLES} or -1, not {sampling_ratio!r}.")
    if reduce not in ("mean", "max"):
        raise ValueError(f"The samples of a bin are reduced by 'mean' or 'max', not by {reduce!r}.")

    per_image = isinstance(rois, (list, tuple))
    parts = rois if per_image else [rois]
    xp = array_module(features.data, *parts)
    for part in parts:
        if part.dtype.kind not in "fiu":
            raise ValueError(f"The RoIs must be real numbers, not {part.dtype}.")
    if per_image:
        if len(parts) != features.shape[0]:
            raise ValueError(f"There are {len(parts)} arrays of boxes for {features.shape[0]} images.")
        wide = [part.astype(np.float64) for part in parts]
        rois = boxes_to_rois(wide) if parts else xp.empty((0, 5), np.float64)
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"The RoIs must have the shape (R, 5): batch index, x1, y1, x2, y2; not {rois.shape}.")
    check_rows(to_numpy(rois), features.shape[0], spatial_scale, bool(sampling_ratio <= 0))
    return rois.astype(features.dtype)


def check_size(size: Any, name: str) -> tuple[int, int]:
    """(h, w) of a size that is one integer or two. Raises ValueError, with its name, for anything else."""
    sizes = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sizes) != 2 or not all(isinstance(side, numbers.Integral) and 0 < int(side) <= MAX_BINS for side in sizes):
        raise ValueError(f"The {name} must be an integer from 1 to {MAX_BINS} or two of them (h, w), not {size!r}.")
    return int(sizes[0]), int(sizes[1])


def check_rows(rois: np.ndarray, images: int, spatial_scale: float, adaptive: bool) -> None:
    """Raise ValueError, naming the row, for a RoI of an (R, 5) array that no kernel should get.

    adaptive: whether the bins take as many samples as they have cells."""
    index, boxes = rois[:, 0], rois[:, 1:].astype(np.float64)
    with np.errstate(all="ignore"):  # values that are not finite are reported first
        coordinates = abs(boxes) * max(1.0, spatial_scale)
        cells = abs(boxes[:, 2:] - boxes[:, :2]) * spatial_scale if adaptive else np.zeros((len(rois), 2))
    for wrong, problem in (
        (~np.isfinite(rois).all(axis=1), "holds a value that is not finite"),
        (index != np.floor(index), "has a batch index that is not an integer"),
        ((index < 0) | (index >= images), f"has a batch index outside 0..{images - 1}"),
        ((coordinates > MAX_COORDINATE).any(axis=1), f"has a coordinate beyond {MAX_COORDINATE:.0e} (units or cells)"),
        ((cells > MAX_CELLS).any(axis=1), f"has a side of more than {MAX_CELLS:.0e} cells, and no sampling ratio"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"RoI {row} {problem}: {rois[row].tolist()} (batch index, x1, y1, x2, y2).")


def output_shape(features: Array, rois: Array, output_size: OutputSize) -> tuple[int, int, int, int]:
    """(R, h, w, C), the shape of a RoI operator's result in memory, for features (N, H, W, C)."""
    return len(rois), *check_size(output_size, "output size"), features.shape[3]


def interleave(parts: Iterable[Tensor], rows: list[Array]) -> Tensor:
    """Features of RoIs, cut out in several parts, in their order: row rows[p][i] of the result is row i of parts[p]."""
    result, parents = None, []  # type: Array, list[Tensor]
    for part, r in zip(parts, rows, strict=True):
        data = channels_last(part.data)
        if result is None:
            result = array_module(data).empty((sum(map(len, rows)), *data.shape[1:]), data.dtype)
        result[r] = data
        parents.append(part if part.requires_grad else Tensor(result[:0]))  # no part need stay for its numbers

    def backward(grad: Array, needs: Sequence[bool]) -> tuple[Array | None, ...]:
        grad = channels_last(grad)
        return tuple(channels_first(grad[r]) if need else None for r, need in zip(rows, needs, strict=True))

    return record(channels_first(result), tuple(parents), backward, "interleave")
