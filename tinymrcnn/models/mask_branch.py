"""The mask branch: which pixels of an RoI belong to the object.

He et al., Mask R-CNN (2017), section 3: a small fully convolutional network on every RoI predicts one m x m mask per
class (or, to compare, fully connected layers do). Head, targets, loss and inference, in this order. Lesson 09 steps
through them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, in_parts
from tinymrcnn.backend import Array, array_module, like
from tinymrcnn.boxes import crop_masks
from tinymrcnn.nn import Conv2d, ConvTranspose2d, Linear, Module, Sequential
from tinymrcnn.nn.init import normal
from tinymrcnn.settings import PoolSize, Settings, Width

# Shapes below: R RoIs, of which P positives, C channels, K classes, G ground-truth objects, masks of m x m cells


@dataclass(frozen=True)
class MaskSettings(Settings):
    """The mask branch."""

    pool: PoolSize = 14  # cells of an RoI's grid, along each axis; the predicted mask has twice as many
    head: Literal["fcn", "mlp"] = "fcn"  # convolutions, or fully connected layers (Table 2e)
    layers: tuple[Width, ...] = (64, 64, 64, 64)  # the channels of the 3x3 convolutions; "fcn" only
    channels: Width = 64  # of the transposed convolution; of "mlp", the units of both hidden layers
    loss: Literal["sigmoid", "softmax"] = "sigmoid"  # a mask for each class on its own, or classes that compete
    # Where the mask of the softmax is: where its class beats the background, or all others together (see decode_masks)
    softmax_decoding: Literal["background", "all"] = "background"
    class_agnostic_masks: bool = False  # one mask for all classes
    crop_aligned: bool = True  # mask targets cut exactly at the box; torchvision's lie half a pixel off
    soft_mask_targets: bool = False  # torchvision trains on the interpolated crop, others on crop >= 0.5
    paste_whole_pixels: bool = False  # torchvision stretches a mask over the box's whole pixels, others over the box

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_agnostic_masks and self.loss == "softmax":
            raise ValueError("A class-agnostic mask has no classes to compete: use the mask loss 'sigmoid' with it.")


# The head


class MaskHead(Sequential):
    """3x3 convolutions with ReLU that keep the RoI's grid (Figure 4, right: four of them):
    (R, C, pool, pool) -> (R, layers[-1], pool, pool).

    Each is wrapped in a Sequential, as in torchvision, whose parameter names these are."""

    def __init__(self, in_channels: int, settings: MaskSettings):
        widths = [in_channels, *settings.layers]
        super().__init__(
            *(Sequential(Conv2d(a, b, 3, padding=1, relu=True)) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )


class MaskPredictor(Module):
    """A transposed convolution with ReLU doubles the grid, a 1x1 convolution gives one logit per class and cell."""

    def __init__(self, in_channels: int, num_masks: int, settings: MaskSettings):
        super().__init__()
        channels = settings.channels
        self.conv5_mask = ConvTranspose2d(in_channels, channels, 2, 2, relu=True)
        self.mask_fcn_logits = Conv2d(channels, num_masks, 1, init=normal(0.001))

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, pool, pool) -> (R, num_masks, 2 pool, 2 pool) logits."""
        return in_parts(lambda some: self.mask_fcn_logits(self.conv5_mask(some)), x, 32)


class MaskMLP(Module):
    """What the paper compares the convolutions with (Table 2e): two fully connected layers with ReLU on the flattened
    RoI features, and one that gives the logits of all classes and cells, each with weights of its own."""

    def __init__(self, in_channels: int, num_masks: int, settings: MaskSettings):
        super().__init__()
        hidden, cells = settings.channels, settings.pool**2
        self.fc1 = Linear(in_channels * cells, hidden)
        self.fc2 = Linear(hidden, hidden)
        self.mask_fc_logits = Linear(hidden, num_masks * 4 * cells, init=normal(0.001))

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, pool, pool) -> (R, num_masks, 2 pool, 2 pool) logits."""
        logits: Tensor = self.mask_fc_logits(ops.relu(self.fc2(ops.relu(self.fc1(x.flatten(1))))))
        side = 2 * x.shape[2]
        return logits.reshape(len(x), logits.shape[1] // side**2, side, side)


# Targets


def mask_targets(masks: Array, rois: Array, *, objects: np.ndarray, size: int, settings: MaskSettings) -> Array:
    """What each positive RoI should predict: its object's mask, cropped to the RoI and resized to size x size.

    masks (G, H, W) of the image, rois (P, 4), objects (P,) host indices of the masks. Returns (P, size, size) floats,
    0 and 1 (soft_mask_targets: the interpolated values between)."""
    crops = crop_masks(masks, like(rois, masks), size, aligned=settings.crop_aligned, index=like(objects, masks))
    return crops if settings.soft_mask_targets else (crops >= 0.5).astype(crops.dtype)


# Loss


def mask_loss(logits: Tensor, labels: np.ndarray, *, targets: Array, kind: str = "sigmoid") -> tuple[Tensor, int]:
    """The mask loss over positives and pixels. Paper, section 3 and Table 2b.

    logits (P, K, m, m), or (P, 1, m, m) if class-agnostic. labels: (P,) host classes. targets: (P, m, m) in 0..1.
    kind "sigmoid": binary cross-entropy on the true class's mask alone, so that classes do not compete. "softmax":
    at every pixel the classes compete, the object's class inside its mask and 0 outside.
    Returns (sum, count), count = P m m."""
    if kind == "softmax":
        classes = array_module(targets).where(targets >= 0.5, like(labels, targets).reshape(-1, 1, 1), 0)
        return ops.cross_entropy(logits, classes, reduction="sum"), classes.size
    own = _own_class(logits, labels)
    return ops.binary_cross_entropy_with_logits(own, targets, reduction="sum"), targets.size


def _own_class(logits: Tensor, labels: np.ndarray) -> Tensor:
    """(P, K, m, m) -> (P, m, m): the mask of each RoI's class, or the only one."""
    return logits[np.arange(len(labels)), labels if logits.shape[1] > 1 else np.zeros_like(labels)]


# Inference


def decode_masks(logits: Tensor, labels: np.ndarray, *, settings: MaskSettings) -> Array:
    """The probability that each cell belongs to the object, which is where it is at least 0.5: logits (D, K, m, m) and
    (D,) host classes to an array (D, m, m).

    The box branch has decided the class. What is left to the softmax is this class or the background, and of the two
    the class has the probability own / (own + background) = sigmoid(own - background): softmax_decoding "background".
    "all" takes own among all classes, so that a cell which two classes share belongs to neither. On frozen features
    that alone lowers the mean IoU of the same heads from 0.724 to 0.630, where the sigmoid reaches 0.806 (lesson 09).
    Whoever measures what competition costs must not count this in."""
    if settings.loss == "softmax" and settings.softmax_decoding == "all":
        return _own_class(ops.softmax(logits, 1), labels).data
    own = _own_class(logits, labels)
    return ops.sigmoid(own - logits[:, 0] if settings.loss == "softmax" else own).data
