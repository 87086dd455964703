"""The layers: parameters around the functions of tinymrcnn.ops, with PyTorch's names.

Every layer draws different weights when it is made. Module.initialize(seed) draws those of a whole network anew; a
network that will be loaded can do without drawing them (init.without_drawing).
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, channels_first, like
from tinymrcnn.nn import init as initialisers
from tinymrcnn.nn.allowance import take
from tinymrcnn.nn.init import Initialiser
from tinymrcnn.nn.module import Module, Parameter


class _Weighted(Module):
    """A layer with a weight, drawn by `init`, and perhaps a bias, which starts at zero."""

    def __init__(self, shape: tuple[int, ...], bias_size: int, init: Initialiser) -> None:
        super().__init__()
        take(math.prod(shape) + bias_size)
        self.init = init
        if len(shape) == 4:  # filters lie channels-last in memory, as the maps do
            o, i, h, w = shape
            self.weight = Parameter(channels_first(np.zeros((o, h, w, i), np.float32)))
        else:
            self.weight = Parameter(np.zeros(shape, np.float32))
        self.bias = Parameter(np.zeros(bias_size, np.float32)) if bias_size else None
        if initialisers.is_drawing():
            self.reset_parameters(initialisers.next_generator())

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw the weight by `init`, and set the bias to 0."""
        self.weight.data[...] = like(self.init(rng, self.weight.shape).astype(np.float32), self.weight.data)
        if self.bias is not None:
            self.bias.data.fill(0)


class Conv2d(_Weighted):
    """ops.conv2d with a weight (out, in / groups, kernel, kernel); with relu=True, a ReLU behind it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
        dilation: int = 1, *, groups: int = 1, bias: bool = True, relu: bool = False,
        init: Initialiser = initialisers.kaiming_normal,
    ) -> None:  # fmt: skip
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} channels in and {out_channels} out.")
        filters = out_channels, in_channels // groups, kernel_size, kernel_size
        super().__init__(filters, out_channels if bias else 0, init)
        self.stride, self.padding, self.dilation, self.groups, self.relu = stride, padding, dilation, groups, relu

    def forward(self, x: Tensor, residual: Tensor | None = None, inplace: bool = False) -> Tensor:
        """(N, in, H, W) -> (N, out, out_h, out_w); see ops.conv2d for a residual and inplace."""
        rule = functools.partial(ops.conv2d, relu=self.relu, groups=self.groups, residual=residual, inplace=inplace)
        return rule(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class ConvTranspose2d(_Weighted):
    """ops.conv_transpose2d with a weight (in, out, kernel, kernel); with relu=True, a ReLU behind it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, relu: bool = False,
        init: Initialiser = initialisers.kaiming_normal,
    ) -> None:  # fmt: skip
        super().__init__((in_channels, out_channels, kernel_size, kernel_size), out_channels, init)
        self.stride, self.relu = stride, relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, (H - 1) stride + kernel, (W - 1) stride + kernel)."""
        return ops.conv_transpose2d(x, self.weight, self.bias, self.stride, relu=self.relu)


class Linear(_Weighted):
    """ops.linear with a weight (out, in)."""

    def __init__(self, in_features: int, out_features: int, *, init: Initialiser = initialisers.xavier_uniform) -> None:
        super().__init__((out_features, in_features), out_features, init)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return ops.linear(x, self.weight, self.bias)


class BatchNorm2d(Module):
    """ops.batch_norm: batch statistics in train mode, running ones in eval mode.

    across: adds arrays up over the processes that share a batch, where they also share its statistics."""

    buffers = ("running_mean", "running_var")
    across: Callable[[Array], Array] | None = None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean: Array = np.zeros(num_features, np.float32)
        self.running_var: Array = np.ones(num_features, np.float32)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        for zeros in (self.bias.data, self.running_mean):
            zeros.fill(0)
        for ones in (self.weight.data, self.running_var):
            ones.fill(1)

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W) -> the same; see ops.batch_norm for a residual and a ReLU."""
        constants = self.running_mean, self.running_var, self.weight, self.bias
        rule = self.training, self.momentum, self.eps
        return ops.batch_norm(x, *constants, *rule, residual=residual, relu=relu, across=self.across)


class FrozenBatchNorm2d(Module):
    """Batch normalisation whose statistics, weight and bias are all constants: x * scale + shift.

    For networks that start from public weights; from scratch it would be the identity."""

    buffers = ("weight", "bias", "running_mean", "running_var")

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight: Array = np.ones(num_features, np.float32)
        self.bias: Array = np.zeros(num_features, np.float32)
        self.running_mean: Array = np.zeros(num_features, np.float32)
        self.running_var: Array = np.ones(num_features, np.float32)

    def scale_and_shift(self) -> tuple[Array, Array]:
        """The two constants of every channel, arrays (C,)."""
        scale = self.weight / (self.running_var + self.eps) ** 0.5
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W) -> the same; see ops.batch_norm for a residual and a ReLU."""
        constants = self.running_mean, self.running_var, Tensor(self.weight), Tensor(self.bias)
        return ops.batch_norm(x, *constants, eps=self.eps, residual=residual, relu=relu)


class GroupNorm(Module):
    """ops.group_norm: the same in train and in eval mode."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = Parameter(np.ones(num_channels, np.float32))
        self.bias = Parameter(np.zeros(num_channels, np.float32))

    def reset_parameters(self, rng: np.random.Generator) -> None:
        self.weight.data.fill(1)
        self.bias.data.fill(0)

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W) -> the same, as the others."""
        out = ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        out = out if residual is None else out + residual
        return ops.relu(out) if relu else out


class ReLU(Module):
    """ops.relu."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return ops.relu(x)


class MaxPool2d(Module):
    """ops.max_pool2d."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, out_h, out_w)."""
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class Sequential(Module):
    """Layers one after the other, named "0", "1", ... in the state_dict; it can be indexed and walked."""

    def __init__(self, *layers: Module) -> None:
        super().__init__(**{str(i): layer for i, layer in enumerate(layers)})

    def __iter__(self) -> Iterator[Module]:
        return (layer for _, layer in self.named_children())

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's result."""
        for layer in self:
            x = layer(x)
        return x
