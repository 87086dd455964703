"""RoIWarp: RoIAlign on an RoI rounded as RoIPool rounds it.

Mask R-CNN (He et al. 2017), section 4.2 and table 2c, after Dai et al. 2016 (MNC). It samples bilinearly but
keeps the first quantisation, so the two changes that RoIAlign makes can be told apart. Lesson 07 uses it.
"""

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, array_module
from tinymrcnn.roi.roi_align import roi_align_unchecked
from tinymrcnn.roi.rois import OutputSize, Reduction, check_arguments


def roi_warp(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0,
    sampling_ratio: int = -1, reduce: Reduction = "mean") -> Tensor:  # fmt: skip
    """roi_align(aligned=False) of RoIs whose corners are rounded to whole cells of the feature map, halves
    away from zero. Arguments, result and errors: see roi_align."""
    rois = check_arguments(features, rois, output_size, spatial_scale, sampling_ratio, reduce)
    return roi_warp_unchecked(features, rois, output_size, spatial_scale, sampling_ratio, reduce)


def roi_warp_unchecked(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0,
    sampling_ratio: int = -1, reduce: Reduction = "mean") -> Tensor:  # fmt: skip
    """roi_warp for RoIs that are known to be an (R, 5) array of finite numbers on the features' device."""
    xp = array_module(features.data, rois)
    cells = rois.astype(features.dtype)
    corners = cells[:, 1:] * features.dtype.type(spatial_scale)
    whole = xp.trunc(corners)
    cells[:, 1:] = whole + xp.trunc(2 * (corners - whole))  # round_half_away of roi_pool.py
    return roi_align_unchecked(features, cells, output_size, 1.0, sampling_ratio, False, reduce)
