"""Weights: our own checkpoint file, and the public files of torchvision and detectron2."""

from tinymrcnn.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    environment,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from tinymrcnn.weights.foreign.public_weights import WeightsReport, load_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "WeightsReport",
    "environment",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "save_checkpoint",
]
