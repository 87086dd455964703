"""RoI feature extraction: cutting the same small grid of features out of every region of interest.

RoIPool rounds twice and RoIAlign not at all; roi_pool.py and roi_align.py have the same sections in the same
order, so that a diff of the two shows what the Mask R-CNN paper changed. RoIWarp lies between them. FCIS needs
PSRoIPool, and MNC the crop whose corners get gradients. The names ending in `_unchecked` are for callers whose RoIs
are valid already, such as the network.
"""

from tinymrcnn.roi.ps_roi_pool import ps_roi_pool, ps_roi_pool_unchecked
from tinymrcnn.roi.roi_align import roi_align, roi_align_unchecked
from tinymrcnn.roi.roi_crop import roi_crop, roi_crop_unchecked
from tinymrcnn.roi.roi_pool import roi_pool, roi_pool_unchecked
from tinymrcnn.roi.roi_warp import roi_warp, roi_warp_unchecked
from tinymrcnn.roi.rois import boxes_to_rois

__all__ = [
    "boxes_to_rois", "ps_roi_pool", "ps_roi_pool_unchecked", "roi_align", "roi_align_unchecked", "roi_crop",
    "roi_crop_unchecked", "roi_pool", "roi_pool_unchecked", "roi_warp", "roi_warp_unchecked",
]  # fmt: skip
