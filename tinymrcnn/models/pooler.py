"""RoI features: which pyramid level an RoI is cut from, and cutting it.

FPN paper, formula 1: an RoI of w x h pixels goes to level k = floor(k0 + log2(sqrt(w h) / 224)), so that an RoI
half the size is read from a map twice as fine. Lessons 04, 06 and 07.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, backend_of, to_device, to_numpy
from tinymrcnn.roi.roi_align import roi_align_unchecked
from tinymrcnn.roi.roi_pool import roi_pool_unchecked
from tinymrcnn.roi.roi_warp import roi_warp_unchecked
from tinymrcnn.roi.rois import Reduction, boxes_to_rois, interleave
from tinymrcnn.settings import NotNegative, Positive, Range, Settings

# Shapes below: R RoIs (R_i of image i), C channels


@dataclass(frozen=True)
class PoolerSettings(Settings):
    """How RoIs are cut out of the feature maps."""

    roi_op: Literal["roi_align", "roi_pool", "roi_warp"] = "roi_align"
    aligned: bool = True  # RoIAlign only: pixel centres lie at half coordinates
    sampling_ratio: Annotated[int, Range(0, 16)] = 2  # samples a bin and axis; 0: as many as the bin has cells
    reduce: Reduction = "mean"  # of a bin's samples; RoIAlign and RoIWarp only: RoIPool takes the largest cell
    canonical_size: Positive = 224.0  # pixels: an RoI of this size goes to ...
    canonical_level: Annotated[int, Range(0, 10)] = 4  # ... this level (FPN paper, formula 1)
    level_epsilon: tuple[NotNegative, NotNegative] = (0.0, 1e-6)  # added in and to the logarithm, against rounding


def assign_levels(boxes: np.ndarray, scales: list[float], settings: PoolerSettings) -> Array:
    """The index into `scales` for every box: (R, 4) -> (R,) int64.

    scales: cells per pixel of every level, finest first (1/4, 1/8, ...)."""
    finest = round(-math.log2(scales[0]))
    area = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-12)
    inside, outside = settings.level_epsilon
    level = settings.canonical_level + np.log2(np.sqrt(area) / settings.canonical_size + inside)
    return np.clip(np.floor(level + outside) - finest, 0, len(scales) - 1).astype(np.int64)


def cut_rois(feature: Tensor, rois: Array, output_size: int, scale: float, settings: PoolerSettings) -> Tensor:
    """RoIs (R, 5) cut out of one map (N, C, H, W) by the operator of the settings: (R, C, output_size, output_size)."""
    samples, reduce = settings.sampling_ratio, settings.reduce
    if settings.roi_op == "roi_pool":
        return roi_pool_unchecked(feature, rois, output_size, scale)
    if settings.roi_op == "roi_warp":
        return roi_warp_unchecked(feature, rois, output_size, scale, samples, reduce)
    return roi_align_unchecked(feature, rois, output_size, scale, samples, settings.aligned, reduce)


def pool_rois(
    features: list[Tensor], boxes: list[Array], scales: list[float], output_size: int, settings: PoolerSettings
) -> Tensor:
    """Cut every RoI out of the level that suits it.

    features: the maps (N, C, H_l, W_l), finest first. boxes: per image (R_i, 4) in pixels of the padded images, on the
    host (on a GPU, a map's level is waited for). scales: cells per pixel of every level.
    Returns (R, C, output_size, output_size), image by image."""
    rois, device = boxes_to_rois(boxes), backend_of(features[0].data).device  # (R, 5)
    if len(features) == 1:
        return cut_rois(features[0], to_device(rois, device), output_size, scales[0], settings)
    rois = to_numpy(rois)
    levels = assign_levels(rois[:, 1:], scales, settings)
    rows = [np.flatnonzero(levels == level) for level in range(len(features))]
    parts = (
        cut_rois(feature, to_device(rois[of_level], device), output_size, scale, settings)
        for feature, of_level, scale in zip(features, rows, scales, strict=True)
    )
    return interleave(parts, [to_device(of_level, device) for of_level in rows])
