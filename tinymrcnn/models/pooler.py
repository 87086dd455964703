"""RoI features: which pyramid level an RoI is cut from, and cutting it.

FPN paper, formula 1: an RoI of w x h pixels goes to level k = floor(k0 + log2(sqrt(w h) / 224)), so that an RoI
half the size is read from a map twice as fine. Lessons 04, 06 and 07.
"""

import math

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import array_module, channels_first, channels_last
from tinymrcnn.roi.roi_align import roi_align_unchecked
from tinymrcnn.roi.roi_pool import roi_pool_unchecked
from tinymrcnn.roi.roi_warp import roi_warp_unchecked
from tinymrcnn.roi.rois import boxes_to_rois


def assign_levels(boxes, scales, canonical_size: float = 224.0, canonical_level: int = 4, epsilon=(0.0, 1e-6)):
    """The index into `scales` for every box: (R, 4) -> (R,) int64.

    scales: cells per pixel of every level, finest first (1/4, 1/8, ...). epsilon: what is added within the logarithm
    and to it, which keeps an RoI of exactly the canonical size on its level in spite of rounding."""
    xp = array_module(boxes)
    finest = round(-math.log2(scales[0]))
    area = xp.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-12)
    inside, outside = epsilon
    level = xp.floor(canonical_level + xp.log2(xp.sqrt(area) / canonical_size + inside) + outside)
    return xp.clip(level - finest, 0, len(scales) - 1).astype(xp.int64)


def make_roi_op(roi_op: str, sampling_ratio: int, aligned: bool):
    """The RoI operator of that name as a function of (features, rois, output_size, spatial_scale)."""
    if roi_op == "roi_pool":
        return roi_pool_unchecked
    if roi_op == "roi_warp":
        return lambda features, rois, size, scale: roi_warp_unchecked(features, rois, size, scale, sampling_ratio)
    return lambda features, rois, size, scale: roi_align_unchecked(features, rois, size, scale, sampling_ratio, aligned)


def pool_rois(
    features, boxes, scales, output_size: int, roi_op, canonical_size=224.0, canonical_level=4, epsilon=(0.0, 1e-6)
) -> Tensor:
    """Cut every RoI out of the level that suits it.

    features: the maps (N, C, H_l, W_l), finest first. boxes: per image (R_i, 4) in pixels of the padded images.
    scales: cells per pixel of every level. Returns (sum R_i, C, output_size, output_size), image by image."""
    xp = array_module(features[0].data)
    rois = boxes_to_rois(boxes)
    if len(features) == 1:
        return roi_op(features[0], rois, output_size, scales[0])
    levels = assign_levels(rois[:, 1:], scales, canonical_size, canonical_level, epsilon)
    rows = [xp.flatnonzero(levels == level) for level in range(len(features))]
    parts = [roi_op(f, rois[r], output_size, s) for f, r, s in zip(features, rows, scales, strict=True)]
    return _interleave(parts, rows)


def _interleave(parts: list[Tensor], rows) -> Tensor:
    """The RoIs of all levels in their original order: row rows[l][i] of the result is row i of parts[l]."""
    xp, first = array_module(parts[0].data), channels_last(parts[0].data)
    result = xp.empty((sum(len(part) for part in parts), *first.shape[1:]), first.dtype)
    for part, r in zip(parts, rows, strict=True):
        result[r] = channels_last(part.data)

    def backward(grad, needs):
        grad = channels_last(grad)
        return tuple(channels_first(grad[r]) if need else None for r, need in zip(rows, needs, strict=True))

    return record(channels_first(result), tuple(parts), backward, "interleave")
