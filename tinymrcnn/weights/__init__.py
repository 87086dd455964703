"""Weights: our own checkpoint file, and the public files of torchvision and detectron2."""

from tinymrcnn.weights.backbone import Backbone, load_backbone, read_backbone
from tinymrcnn.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from tinymrcnn.weights.environment import environment
from tinymrcnn.weights.loading import WeightsReport, load_public_model, load_weights, read_weights

__all__ = [
    "Backbone",
    "Checkpoint",
    "CheckpointError",
    "WeightsReport",
    "environment",
    "load_backbone",
    "load_checkpoint",
    "load_model",
    "load_public_model",
    "load_weights",
    "read_backbone",
    "read_weights",
    "save_checkpoint",
]
