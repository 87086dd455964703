"""The network: Mask R-CNN and its branches, and the presets that build it."""

from tinymrcnn.models.config import Config, TrainConfig
from tinymrcnn.models.mask_rcnn import MaskRCNN, Samples
from tinymrcnn.models.presets import build_model, list_presets

__all__ = ["Config", "MaskRCNN", "Samples", "TrainConfig", "build_model", "list_presets"]
