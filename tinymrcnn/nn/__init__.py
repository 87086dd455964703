"""Layers with parameters, their initialisers, and the optimisers."""

from tinymrcnn.nn import init
from tinymrcnn.nn.layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    FrozenBatchNorm2d,
    GroupNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from tinymrcnn.nn.module import Module, Parameter
from tinymrcnn.nn.optim import SGD, AdamW

__all__ = [
    "SGD", "AdamW", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "FrozenBatchNorm2d", "GroupNorm", "Linear",
    "MaxPool2d", "Module", "Parameter", "ReLU", "Sequential", "init",
]  # fmt: skip
