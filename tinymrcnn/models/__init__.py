"""The network: settings, presets, Mask R-CNN and the parts that it is made of."""

from tinymrcnn.models.config import Config, TrainConfig
from tinymrcnn.models.mask_rcnn import MaskRCNN
from tinymrcnn.models.presets import build_model, list_presets
from tinymrcnn.models.two_stage import Samples, mean_losses

__all__ = ["Config", "MaskRCNN", "Samples", "TrainConfig", "build_model", "list_presets", "mean_losses"]
