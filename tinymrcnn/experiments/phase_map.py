"""The phase map: the mask IoU of one object as the picture moves by 0 to 32 pixels in x and y, for each RoI operator.

What an operator loses by rounding, before any training. Its 14 x 14 bins lie over the object's true box. Each should
look at its own place in the box, and looks somewhere else where the operator rounds to cells of the feature map. Where
it looks is read off the operator itself, from maps that hold the coordinates of their cells: for RoIAlign and RoIWarp
it is the mean of the bin's samples, for RoIPool the middle of the bin's cells. The features are taken to be perfect: a
bin says how much of an area of its size, around the place at which it looks, is the object. These answers are pasted
over the box as a mask, and compared with the object's. Without any misplacement that gives the limit of the grid.

When the picture moves, only the object's place among the cells (its phase) changes, which nobody tells the network
behind the operator. What is the same at every phase could be learned (RoIWarp lies half a cell off, RoIPool's box is a
cell larger), so the mean misplacement of every bin over all phases is taken off. Real features are not perfect, and
tell of more than one place; so the finding is the difference between operators and between phases, and the level is no
prediction of what a trained network reaches. Lessons 06 and 07 show the operators.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import paste_masks
from tinymrcnn.data.shapes import Shape, boxes_around, coverage, unit_distance
from tinymrcnn.roi.roi_align import roi_align
from tinymrcnn.roi.roi_pool import roi_pool
from tinymrcnn.roi.roi_warp import roi_warp
from tinymrcnn.roi.rois import boxes_to_rois

TITLE = "What RoI operators lose by rounding, as the picture moves"
OBJECT = Shape(label=4, x=96.0, y=96.0, radius=28.0, angle=0.4)  # a star, before the picture moves
SIDE = 256  # of the picture
STRIDES = (16, 32)
LARGEST_SHIFT = 32
BINS = 14  # as the mask branch has them
SAMPLES = 4  # of the object in a bin, along each axis
OPERATORS: dict[str, Callable[[Tensor, Any, float], Tensor]] = {
    "RoIPool": lambda features, rois, scale: roi_pool(features, rois, BINS, scale),
    "RoIWarp": lambda features, rois, scale: roi_warp(features, rois, BINS, scale, sampling_ratio=2),
    "RoIAlign": lambda features, rois, scale: roi_align(features, rois, BINS, scale, sampling_ratio=2, aligned=True),
}


def places(operator: str, boxes: np.ndarray, stride: int) -> np.ndarray:
    """Where the bins of boxes (R, 4) look, in pixels: (R, 2, BINS, BINS) float64, x and y.

    Each coordinate is read twice, as it is and negative: half the difference is the middle of a bin's least and
    largest value where the operator takes the maximum, and the value itself where it is linear."""
    centres = (np.arange(SIDE // stride) + 0.5) * stride
    x, y = np.meshgrid(centres, centres)
    maps = Tensor(np.stack([x, y, -x, -y])[None])
    read = OPERATORS[operator](maps, boxes_to_rois([boxes.astype(np.float64)]), 1 / stride).data
    middle: np.ndarray = (read[:, :2] - read[:, 2:]) / 2
    return middle


def misplacements(operator: str, box: np.ndarray, stride: int, shifts: np.ndarray) -> np.ndarray:
    """How far from their own places the bins of a box (4,) look, but for what is the same at all phases, in pixels:
    (S, S, 2, BINS, BINS), for the S shifts of the picture in y, those in x, and the coordinates x and y."""
    y, x = np.meshgrid(shifts, shifts, indexing="ij")
    moves = np.stack([x, y], axis=-1).reshape(-1, 2)
    looked = places(operator, box + np.tile(moves, 2), stride) - moves[:, :, None, None]
    return (looked - looked.mean(axis=0)).reshape(*x.shape, 2, BINS, BINS)


def object_at(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of a pixel around each place (x, y) the object covers, 0 to 1, in the shape of x and y."""
    x, y = (x - shape.x) / shape.radius, (y - shape.y) / shape.radius
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    distance = unit_distance(shape.label, cos * x + sin * y, cos * y - sin * x) * shape.radius
    share: np.ndarray = np.clip(0.5 - distance, 0, 1)
    return share


def phase_map(operator: str, stride: int, shifts: np.ndarray, shape: Shape = OBJECT) -> dict[str, Any]:
    """What is lost at all pairs of S shifts: ious, S rows (y) of S numbers (x); their mean, least and largest; and the
    bins' misplacement in pixels (root of the mean square, along one axis)."""
    (rows, columns), share = coverage(shape, SIDE, SIDE)
    mask = share >= 0.5
    window = np.array([columns.start, rows.start] * 2, np.float32)
    box = boxes_around(mask[None])[0]  # in the window
    away = misplacements(operator, box + window, stride, shifts)
    sizes = (box[2:] - box[:2]) / BINS
    x, y = np.meshgrid(*(window[:2] + box[:2] + np.multiply.outer(np.arange(BINS) + 0.5, sizes)).T)
    offsets = np.multiply.outer((np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5, sizes)
    samples = [
        object_at(shape, x + right + away[:, :, 0], y + down + away[:, :, 1])
        for right, down in product(offsets[:, 0], offsets[:, 1])
    ]
    answers = np.mean(samples, axis=0).reshape(-1, BINS, BINS)
    pasted = paste_masks(answers, np.tile(box, (len(answers), 1)), mask.shape) >= 0.5
    ious = (pasted & mask).sum((1, 2)) / (pasted | mask).sum((1, 2))
    return {
        "operator": operator,
        "stride": stride,
        "mean": round(float(ious.mean()), 4),
        "least": round(float(ious.min()), 4),
        "largest": round(float(ious.max()), 4),
        "misplacement": round(float(np.sqrt((away**2).mean())), 2),
        "ious": ious.reshape(len(shifts), -1).round(3).tolist(),
    }


def run(quick: bool = False) -> dict[str, Any]:
    """The maps of all operators with what they are of, as JSON can hold them; quick: every fourth pixel."""
    shifts = np.arange(0, LARGEST_SHIFT + 1, 4 if quick else 1)
    return {
        "data": f"a star with a radius of {OBJECT.radius:g} pixels",
        "measure": "mask IoU if every bin is right about where it looks, by the shift in y and x",
        "shifts": shifts.tolist(),
        "maps": [phase_map(operator, stride, shifts) for stride in STRIDES for operator in OPERATORS],
    }


def table(result: dict[str, Any]) -> str:
    """The maps as Markdown: of each the range of the IoU."""
    lines = ["| operator | stride | mask IoU, mean | least | largest |", "| --- | --- | --- | --- | --- |"]
    for each in result["maps"]:
        values = " | ".join(f"{each[name]:.3f}" for name in ("mean", "least", "largest"))
        lines.append(f"| {each['operator']} | {each['stride']} | {values} |")
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any]) -> Figure:
    """A picture for each operator (column) and stride (row), brighter where the IoU is higher."""
    shifts, maps = result["shifts"], result["maps"]
    low = min(each["least"] for each in maps)
    half = (shifts[1] - shifts[0]) / 2
    extent = (shifts[0] - half, shifts[-1] + half, shifts[-1] + half, shifts[0] - half)
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    panels = figure.subplots(len(STRIDES), len(OPERATORS), sharex=True, sharey=True)
    for panel, each in zip(panels.flat, maps, strict=True):
        image = panel.imshow(each["ious"], cmap="cividis", vmin=low, vmax=1, extent=extent)
        constant = each["largest"] - each["least"] < 0.005
        span = "everywhere" if constant else f"from {each['least']:.2f} to {each['largest']:.2f}, mean"
        panel.set_title(f"{each['operator']}, stride {each['stride']}\n{span} {each['mean']:.2f}", fontsize=10)
        panel.set(xticks=range(0, LARGEST_SHIFT + 1, 8), yticks=range(0, LARGEST_SHIFT + 1, 8))
    for panel in panels[-1]:
        panel.set_xlabel("shift in x (pixels)")
    for panel in panels[:, 0]:
        panel.set_ylabel("shift in y (pixels)")
    figure.colorbar(image, ax=panels, label="mask IoU", shrink=0.8)
    return figure
