"""Differentiable functions on Tensors, with the names and argument orders of torch.nn.functional. Arguments that
PyTorch has in another place, or does not have, are given by keyword."""

from tinymrcnn.ops.activations import log_softmax, relu, sigmoid, softmax
from tinymrcnn.ops.convolution import conv2d, conv_transpose2d, linear
from tinymrcnn.ops.losses import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from tinymrcnn.ops.normalization import batch_norm, group_norm
from tinymrcnn.ops.pooling import avg_pool2d, max_pool2d
from tinymrcnn.ops.resize import interpolate

__all__ = [
    "avg_pool2d", "batch_norm", "binary_cross_entropy_with_logits", "conv2d", "conv_transpose2d",
    "cross_entropy", "group_norm", "interpolate", "linear", "log_softmax", "max_pool2d", "relu", "sigmoid",
    "smooth_l1_loss", "softmax",
]  # fmt: skip
