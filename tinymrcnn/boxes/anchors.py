"""Anchors: the reference boxes that the RPN corrects, a few shapes laid over every cell of every feature map.

A cell anchor of size s and aspect ratio r = height / width has the area s^2:

    width = sqrt(s^2 / r)        height = r * width

and is centred on (0, 0); cell (row i, column j) of a map of stride t shifts it by (j t, i t). Section 3.1.1
of the Faster R-CNN paper; one size per pyramid level as in section 4.1 of the FPN paper. Lesson 05 draws them.

The public models come in two families, and weights trained with the anchors of one do not fit the other's:

                                   torchvision                         detectron2
    half extents                   rounded to whole pixels             as they are
    order within a cell            ratio by ratio (order="ratio")      size by size (order="size")
    stride                         padded image size // map size       the level's nominal stride
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Cell = tuple[tuple[float, ...], ...]  # the anchors of a cell, centred on (0, 0)


class AnchorGenerator:
    """All anchors of an image, level by level.

    sizes: one tuple of sizes in pixels for each level, ((32,), (64,), ...).
    aspect_ratios: one tuple of height / width for each level, or a single tuple for all of them.
    rounded: whether half widths and half heights are rounded to whole pixels (half to even).
    order: "size" (all ratios of the first size, then of the next) or "ratio" (all sizes of the first ratio, ...).

    Raises ValueError for sizes or ratios that are not positive or not one tuple for each level.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Any] = (0.5, 1.0, 2.0), rounded: bool =
        False, order: str = "size",
    ):  # fmt: skip
        if not isinstance(aspect_ratios[0], (tuple, list)):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        if order not in ("size", "ratio"):
            raise ValueError(f"Unknown order {order!r} of anchors: use 'size' or 'ratio'.")
        if len(sizes) != len(aspect_ratios):
            raise ValueError(f"There are sizes for {len(sizes)} levels but aspect ratios for {len(aspect_ratios)}.")
        for level, values in enumerate(zip(sizes, aspect_ratios, strict=True)):
            for name, group in zip(("sizes", "aspect_ratios"), values, strict=True):
                if not isinstance(group, (tuple, list)) or not group or min(group) <= 0:
                    raise ValueError(f"{name}[{level}] must be a tuple of positive numbers, not {group!r}.")
        levels = zip(sizes, aspect_ratios, strict=True)
        self.cells = tuple(_cell_anchors(*level, rounded, order) for level in levels)

    @property
    def num_anchors_per_cell(self) -> list[int]:
        """A for each level: the RPN's head has A objectness and 4 A box channels there."""
        return [len(cell) for cell in self.cells]

    def __call__(
        self, grid_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int], strides: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """The anchors of each level: float32 (h * w * A, 4) on the host, in (row, column, anchor) order.

        grid_sizes: the (h, w) of each feature map. image_size: the (height, width) of the padded batch.
        strides: the pixels per cell of each level; without them image_size // grid_size, taken for height
        and width separately.

        Raises ValueError when the number of maps or strides is not the number of levels.
        """
        levels = len(self.cells)
        if len(grid_sizes) != levels or (strides is not None and len(strides) != levels):
            raise ValueError(f"These anchors are for {levels} levels: got grid sizes {grid_sizes}, strides {strides}.")
        steps = [(image_size[0] // max(h, 1), image_size[1] // max(w, 1)) for h, w in grid_sizes]
        if strides is not None:
            steps = [(stride, stride) for stride in strides]
        grids = zip(self.cells, grid_sizes, steps, strict=True)
        return [_grid_anchors(cell, *map(int, size), *map(int, step)) for cell, size, step in grids]


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool, order: str) -> Cell:
    """The A anchors of a cell, centred on (0, 0), as (x1, y1, x2, y2)."""
    shapes = [(s, r) for s in sizes for r in ratios] if order == "size" else [(s, r) for r in ratios for s in sizes]
    cell = []
    for size, ratio in shapes:
        width = math.sqrt(size * size / ratio)
        half_width, half_height = width / 2, ratio * width / 2
        if rounded:
            half_width, half_height = float(round(half_width)), float(round(half_height))
        cell.append((-half_width, -half_height, half_width, half_height))
    return tuple(cell)


def _grid_anchors(cell: Cell, h: int, w: int, stride_y: int, stride_x: int) -> np.ndarray:
    """A cell's anchors shifted to every cell of an (h, w) grid: (h * w * A, 4)."""
    # float32 from the start: computed in float64, two equally good anchors would not tie
    anchors = np.empty((h, w, len(cell), 4), np.float32)
    anchors[...] = np.asarray(cell, np.float32)
    anchors[..., 0::2] += (np.arange(w, dtype=np.float32) * stride_x)[:, None, None]
    anchors[..., 1::2] += (np.arange(h, dtype=np.float32) * stride_y)[:, None, None, None]
    return anchors.reshape(-1, 4)
