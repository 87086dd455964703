"""ResNet: the backbone that turns an image into feature maps C2, C3, C4, C5 at strides 4, 8, 16, 32.

He et al., Deep Residual Learning (2015), figure 5 and table 1: a stem, then four stages of residual blocks; each
stage halves the size of the map and doubles the width. Lesson 03 walks through it.
"""

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.nn import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm, MaxPool2d, Module, ReLU, Sequential

STEM_STRIDE = 4


def make_norm(norm: str, channels: int) -> Module:
    """The normalisation layer called "batch", "frozen" or "group" (groups of 8 channels)."""
    if norm == "group":
        return GroupNorm(max(1, channels // 8), channels)
    return {"batch": BatchNorm2d, "frozen": FrozenBatchNorm2d}[norm](channels)


def conv_norm(x: Tensor, conv: Conv2d, norm: Module, relu: ReLU | None = None) -> Tensor:
    """relu(norm(conv(x))), or without the ReLU.

    A frozen normalisation only scales and shifts the channels, so it moves into the filters and the bias."""
    if isinstance(norm, FrozenBatchNorm2d):
        scale, shift = norm.scale_and_shift()
        filters = conv.weight * scale.reshape(-1, 1, 1, 1)
        return ops.conv2d(x, filters, Tensor(shift), conv.stride, conv.padding, conv.dilation, relu is not None)
    out = norm(conv(x))
    return out if relu is None else relu(out)


class BasicBlock(Module):
    """relu(x + F(x)), F two 3x3 convolutions; the first one strides."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: str, stride_in_1x1: bool = False):
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, width)
        self.relu = ReLU()
        self.downsample = make_shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1, self.relu)
        out = conv_norm(out, self.conv2, self.bn2)
        return ops.add_relu(out, x if self.downsample is None else conv_norm(x, *self.downsample))


class Bottleneck(Module):
    """relu(x + F(x)), F a 3x3 convolution between two 1x1 ones, the last of which widens fourfold.

    The stride sits in the 3x3 convolution ("v1.5", torchvision) or in the first 1x1 (the paper, detectron2)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: str, stride_in_1x1: bool = False):
        super().__init__()
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = Conv2d(width, width, 3, stride2, padding=1, bias=False)
        self.bn2 = make_norm(norm, width)
        self.conv3 = Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = make_norm(norm, 4 * width)
        self.relu = ReLU()
        self.downsample = make_shortcut(in_channels, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1, self.relu)
        out = conv_norm(out, self.conv2, self.bn2, self.relu)
        out = conv_norm(out, self.conv3, self.bn3)
        return ops.add_relu(out, x if self.downsample is None else conv_norm(x, *self.downsample))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> Sequential | None:
    """The identity (None) where the shapes agree, else a strided 1x1 convolution with normalisation."""
    if stride == 1 and in_channels == out_channels:
        return None
    return Sequential(Conv2d(in_channels, out_channels, 1, stride, bias=False), make_norm(norm, out_channels))


def make_stage(block: str, in_channels: int, width: int, depth: int, stride: int, norm: str, stride_in_1x1=False):
    """`depth` blocks, the first of which strides. The C4 head runs such a stage on RoI features."""
    kind = BLOCKS[block]
    first = kind(in_channels, width, stride, norm, stride_in_1x1)
    others = (kind(kind.expansion * width, width, 1, norm, stride_in_1x1) for _ in range(depth - 1))
    return Sequential(first, *others)


class ResNet(Module):
    """The stem and the first stages, as many as `depths` has entries.

    block: "basic" or "bottleneck". depths, widths: blocks and width of each stage. Parameter names are torchvision's.
    out_channels: the channels of each stage's map."""

    def __init__(self, block: str, depths, widths, stem_width: int = 64, norm: str = "batch", stride_in_1x1=False):
        super().__init__()
        self.conv1 = Conv2d(3, stem_width, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(norm, stem_width)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, 2, padding=1)
        self.out_channels = []
        channels = stem_width
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stage = make_stage(block, channels, width, depth, 1 if i == 0 else 2, norm, stride_in_1x1)
            setattr(self, f"layer{i + 1}", stage)
            channels = BLOCKS[block].expansion * width
            self.out_channels.append(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) images to the map of every stage: (N, C_i, H / 2^(i+2), W / 2^(i+2)), finest first."""
        x = self.maxpool(conv_norm(images, self.conv1, self.bn1, self.relu))
        maps = []
        for i in range(len(self.out_channels)):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return maps
