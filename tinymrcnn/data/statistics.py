"""What a data set holds, in numbers, and how a model's anchors fit it.

Everything here takes arrays and returns numbers; nothing is read but by gather(). Sizes are in pixels of the images as
they are: for a model that resizes them, multiply boxes and sizes first.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL, MEDIUM = 32**2, 96**2  # pixels: the areas up to which COCO calls an object small or medium
NO_FIT, GOOD_FIT = 0.3, 0.7  # IoU with the best anchor: below, it is background to the RPN; from here on, an object
Sizes = Sequence[Sequence[float]]  # of anchors, for each level, finest first


class Objects(NamedTuple):
    """The objects of a data set without crowds. N objects, M images."""

    image_sizes: np.ndarray  # (M, 2) int64: height, width
    images: np.ndarray  # (N,) int64: the index of the image
    labels: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64: x1, y1, x2, y2
    areas: np.ndarray  # (N,) float64: of the mask where the data tell it, else of the box


def gather(dataset) -> Objects:
    """The objects of a CocoDataset or a Subset of one; no image is read, and no mask but those that are files."""
    labels = {category["id"]: category["label"] for category in dataset.categories}
    sizes, rows = [], []
    for index in range(len(dataset)):
        height, width = dataset.image_of(index)["size"]
        sizes.append((height, width))
        for each in dataset.objects_of(index):
            if not each["iscrowd"]:
                x, y, w, h = each["bbox"]
                x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
                area = (x2 - x1) * (y2 - y1) if each["area"] is None else each["area"]
                rows.append((index, labels[each["category_id"]], x1, y1, x2, y2, area))
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Objects(
        np.array(sizes, np.int64).reshape(-1, 2),
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2:6],
        table[:, 6],
    )


def per_image(objects: Objects) -> np.ndarray:
    """(M,) int64: how many objects each image shows."""
    return np.bincount(objects.images, minlength=len(objects.image_sizes))


def per_class(objects: Objects, classes: int) -> np.ndarray:
    """(classes, 2) int64: of the labels 1, 2, ..., how many objects there are, and in how many images."""
    pairs = np.unique(np.stack([objects.labels, objects.images], 1), axis=0)
    return np.stack([np.bincount(labels, minlength=classes + 1)[1:] for labels in (objects.labels, pairs[:, 0])], 1)


def side_lengths(boxes: np.ndarray) -> np.ndarray:
    """(N,): the side of the square that has the area of each box (N, 4)."""
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1))


def quantiles(values: np.ndarray) -> list[float]:
    """Those of QUANTILES; of no values, zeros."""
    return np.quantile(values, QUANTILES).tolist() if len(values) else [0.0] * len(QUANTILES)


# Anchors -------------------------------------------------------------------------------------------------


def anchor_fit(boxes: np.ndarray, shapes: Sequence[np.ndarray], strides: Sequence[int]) -> np.ndarray:
    """The IoU of each box (N, 4) with the anchor that fits it best: (N,) float64.

    shapes: for each level, (A, 2) widths and heights. strides: the pixels per cell of each level; the centres of the
    anchors are its multiples. Of the anchors of a shape the nearest one overlaps most, so only that is looked at."""
    best = np.zeros(len(boxes))
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for anchors, stride in zip(shapes, strides, strict=True):
        off = abs(centres - stride * np.rint(centres / stride))  # along x and y, to the nearest centre
        for anchor in anchors:
            overlap = np.minimum(np.minimum(sides, anchor), (sides + anchor) / 2 - off).clip(min=0).prod(1)
            union = sides.prod(1) + anchor.prod() - overlap
            best = np.maximum(best, overlap / np.maximum(union, 1e-12))
    return best


def anchor_shapes(sizes: Sizes, ratios: Sequence[float]) -> list[np.ndarray]:
    """For each level (A, 2) float64: the widths and heights of anchors of these sizes and ratios height / width."""
    return [
        np.array([(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in level for ratio in ratios])
        for level in sizes
    ]
