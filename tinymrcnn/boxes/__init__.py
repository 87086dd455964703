"""Boxes and their masks on plain arrays, without gradients: geometry, coder, anchors, matching, sampling, NMS."""

from tinymrcnn.boxes.anchors import AnchorGenerator
from tinymrcnn.boxes.coder import BoxCoder
from tinymrcnn.boxes.geometry import box_area, box_iou, clip_boxes_to_image
from tinymrcnn.boxes.masks import crop_masks, paste_masks
from tinymrcnn.boxes.matching import Matcher
from tinymrcnn.boxes.nms import batched_nms, nms
from tinymrcnn.boxes.sampling import sample_balanced

__all__ = [
    "AnchorGenerator", "BoxCoder", "Matcher", "batched_nms", "box_area", "box_iou", "clip_boxes_to_image",
    "crop_masks", "nms", "paste_masks", "sample_balanced",
]  # fmt: skip
