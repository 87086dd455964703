"""The network: settings, presets, Mask R-CNN and the parts that it is made of."""

from tinymrcnn.models.config import Config
from tinymrcnn.models.fcis import FCIS
from tinymrcnn.models.mask_rcnn import MaskRCNN
from tinymrcnn.models.mnc import MNC
from tinymrcnn.models.presets import build_model, list_presets, make_model
from tinymrcnn.models.two_stage import Samples, TwoStage, mean_losses
from tinymrcnn.settings import TrainConfig

__all__ = [
    "FCIS", "MNC", "Config", "MaskRCNN", "Samples", "TrainConfig", "TwoStage", "build_model", "list_presets",
    "make_model", "mean_losses",
]  # fmt: skip
