"""ResNet: the backbone that turns an image into feature maps C2, C3, C4, C5 at strides 4, 8, 16, 32.

He et al., Deep Residual Learning (2015), figure 5 and table 1: a stem, then four stages of residual blocks; each
stage halves the size of the map and doubles the width. Lesson 03 walks through it.

ResNeXt (Xie et al., Aggregated Residual Transformations, 2017) is the same network with the 3x3 convolutions of its
bottlenecks cut into groups, which makes them so cheap that they can be wider.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.nn import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm, MaxPool2d, Module, ReLU, Sequential
from tinymrcnn.settings import Range, Settings, Width

# Shapes below: N images, C channels, maps of H x W cells

Depth = Annotated[int, Range(1, 200)]
Stride = Annotated[int, Range(1, 2)]
STEM_STRIDE = 4


@dataclass(frozen=True)
class ResNetSettings(Settings):
    """The backbone's layers. The C4 network runs the last of the four stages on every RoI."""

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 1)  # blocks of each stage
    widths: tuple[Width, Width, Width, Width] = (16, 32, 64, 128)  # of the 3x3 convolutions of each stage
    groups: Width = 1  # of the 3x3 convolutions of bottlenecks: "32x8d" has 32, of 8 channels each in the first stage
    expansion: Annotated[int, Range(1, 16)] = 4  # how many times wider the output of a bottleneck is than they are
    stem_width: Width = 16
    norm: Literal["batch", "frozen", "group"] = "batch"
    norm_eps: Annotated[float, Range(0, 1)] = 1e-5  # added to the variance; 0 in torchvision's published models
    stride_in_1x1: bool = False  # the original bottleneck strides its first 1x1 convolution, v1.5 the 3x3
    # How much each stage shrinks its map. Where one of the last three does not, its 3x3 convolutions and those after it
    # are dilated, so that they look as far as they would on the smaller map (FCIS)
    strides: tuple[Stride, Stride, Stride, Stride] = (1, 2, 2, 2)
    roi_stage_stride: Stride = 2  # of the stage on RoIs (Figure 4: RoIs of 7x7, and stride 1)

    @property
    def out_channels(self) -> list[int]:
        """The channels of each stage's map."""
        return [width * (self.expansion if self.block == "bottleneck" else 1) for width in self.widths]

    def map_stride(self, stage: int) -> int:
        """How many pixels a cell of a stage's map (0 to 3) is wide and high."""
        return STEM_STRIDE * math.prod(self.strides[: stage + 1])

    def dilation(self, stage: int) -> int:
        """How far apart the cells are that a 3x3 convolution of a stage (0 to 3) reads."""
        return int(2 ** self.strides[1 : stage + 1].count(1))


def make_norm(channels: int, settings: ResNetSettings) -> Module:
    """The normalisation layer of the settings: "batch", "frozen" or "group" (groups of 8 channels)."""
    if settings.norm == "group":
        return GroupNorm(max(1, channels // 8), channels, settings.norm_eps)
    if settings.norm == "frozen":
        return FrozenBatchNorm2d(channels, settings.norm_eps)
    return BatchNorm2d(channels, settings.norm_eps)


def conv_norm(
    x: Tensor, conv: Conv2d, norm: Module | None = None, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """relu(norm(conv(x)) + residual), or without the residual or the ReLU.

    A frozen normalisation only scales and shifts channels: on the CPU it moves into the filters and the bias, and all
    that follows into the convolution's own pass over the memory. In a fused model it has moved there for good, and norm
    is None."""
    scale, bias = None, conv.bias  # type: np.ndarray | None, Tensor | None
    if isinstance(norm, FrozenBatchNorm2d) and isinstance(x.data, np.ndarray):
        scale, shift = norm.scale_and_shift()
        bias = Tensor(shift)
    elif norm is not None:
        out: Tensor = norm(conv(x), residual, relu)
        return out
    sizes = conv.stride, conv.padding, conv.dilation
    return ops.conv2d(x, conv.weight, bias, *sizes, residual=residual, relu=relu, groups=conv.groups, scale=scale)


class BasicBlock(Module):
    """relu(x + F(x)), F two 3x3 convolutions; the first one strides."""

    def __init__(self, in_channels: int, width: int, stride: int, settings: ResNetSettings, dilation: int = 1):
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = make_norm(width, settings)
        self.conv2 = Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = make_norm(width, settings)
        self.relu = ReLU()  # conv_norm computes it; it has a number among the modules, by which weights are drawn
        self.downsample = make_shortcut(in_channels, width, stride, settings)

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        return conv_norm(out, self.conv2, self.bn2, shortcut, relu=True)


class Bottleneck(Module):
    """relu(x + F(x)), F a 3x3 convolution, in groups, between two 1x1 ones, the last of which widens.

    The stride sits in the 3x3 convolution ("v1.5", torchvision) or in the first 1x1 (the paper, detectron2)."""

    def __init__(self, in_channels: int, width: int, stride: int, settings: ResNetSettings, dilation: int = 1):
        super().__init__()
        stride1, stride2 = (stride, 1) if settings.stride_in_1x1 else (1, stride)
        out_channels = settings.expansion * width
        self.conv1 = Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = make_norm(width, settings)
        self.conv2 = Conv2d(width, width, 3, stride2, dilation, dilation, groups=settings.groups, bias=False)
        self.bn2 = make_norm(width, settings)
        self.conv3 = Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = make_norm(out_channels, settings)
        self.relu = ReLU()
        self.downsample = make_shortcut(in_channels, out_channels, stride, settings)

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        out = conv_norm(out, self.conv2, self.bn2, relu=True)
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        return conv_norm(out, self.conv3, self.bn3, shortcut, relu=True)


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def make_shortcut(in_channels: int, out_channels: int, stride: int, settings: ResNetSettings) -> Sequential | None:
    """The identity (None) where the shapes agree, else a strided 1x1 convolution with normalisation."""
    if stride == 1 and in_channels == out_channels:
        return None
    return Sequential(Conv2d(in_channels, out_channels, 1, stride, bias=False), make_norm(out_channels, settings))


def make_stage(in_channels: int, stage: int, stride: int, settings: ResNetSettings, dilation: int = 1) -> Sequential:
    """The blocks of a stage (0 to 3), the first of which strides. The C4 head runs the last stage on RoI features."""
    block, width = BLOCKS[settings.block], settings.widths[stage]
    blocks = [block(in_channels, width, stride, settings, dilation)]
    channels = settings.out_channels[stage]
    blocks += [block(channels, width, 1, settings, dilation) for _ in range(settings.depths[stage] - 1)]
    return Sequential(*blocks)


class ResNet(Module):
    """The stem and the first stages. Parameter names are torchvision's.

    out_channels: the channels of each stage's map."""

    def __init__(self, settings: ResNetSettings, num_stages: int = 4):
        super().__init__()
        self.conv1 = Conv2d(3, settings.stem_width, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(settings.stem_width, settings)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, 2, padding=1)
        self.out_channels = settings.out_channels[:num_stages]
        channels = settings.stem_width
        for i in range(num_stages):
            setattr(self, f"layer{i + 1}", make_stage(channels, i, settings.strides[i], settings, settings.dilation(i)))
            channels = self.out_channels[i]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) images to the map of every stage, finest first: (N, C_i, H / s_i, W / s_i), s_i the settings'
        map_stride, with the usual strides 4, 8, 16, 32."""
        x = self.maxpool(conv_norm(images, self.conv1, self.bn1, relu=True))
        maps = []
        for i in range(len(self.out_channels)):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return maps
