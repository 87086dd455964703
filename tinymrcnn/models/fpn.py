"""The feature pyramid network: strong features at every resolution.

Lin et al., Feature Pyramid Networks (2017), figure 3: a lateral 1x1 convolution brings every backbone map to the
same width, the coarser level is enlarged and added (top-down), a 3x3 convolution smooths the sum. Lesson 04.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.nn import Conv2d, Module, Sequential
from tinymrcnn.nn.init import xavier_uniform
from tinymrcnn.settings import Settings, Width

# Shapes below: N images, C channels of a level, maps of H x W cells


@dataclass(frozen=True)
class FPNSettings(Settings):
    channels: Width = 64  # of every level
    extra_level: bool = False  # P6, every second cell of P5, for the RPN's largest anchors only


class FPN(Module):
    """in_channels: those of the backbone maps, finest first."""

    def __init__(self, in_channels: list[int], settings: FPNSettings):
        super().__init__()
        channels, self.extra_level = settings.channels, settings.extra_level
        self.inner_blocks = Sequential(*(Sequential(Conv2d(c, channels, 1, init=xavier_uniform)) for c in in_channels))
        self.layer_blocks = Sequential(
            *(Sequential(Conv2d(channels, channels, 3, padding=1, init=xavier_uniform)) for _ in in_channels)
        )

    def forward(self, maps: Iterable[Tensor]) -> list[Tensor]:
        """Backbone maps C2..C5, (N, C_i, H_i, W_i), to the levels P2..P5 (and P6), (N, C, H_i, W_i), finest first."""
        maps = list(maps)
        merged = self.inner_blocks[-1](maps.pop())
        levels = [self.layer_blocks[-1](merged)]
        for i in reversed(range(len(maps))):
            merged = ops.interpolate(merged, size=maps[-1].shape[2:])
            merged = self.inner_blocks[i][0](maps.pop(), merged, inplace=True)  # the lateral map plus the enlarged one
            levels.insert(0, self.layer_blocks[i](merged))
        if self.extra_level:
            levels.append(ops.max_pool2d(levels[-1], 1, 2))
        return levels
