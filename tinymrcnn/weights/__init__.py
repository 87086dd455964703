"""Weights: our own checkpoint file."""

from tinymrcnn.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    environment,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "environment",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "save_checkpoint",
]
