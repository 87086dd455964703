"""Every switch of the model, made of the settings of its stages.

Where the public models differ from each other and from the paper, the difference is a field and not a hidden
constant. The fields of a stage are described in the stage's file: `rpn.nms` in rpn.py.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.models.fcis import FCISSettings
from tinymrcnn.models.fpn import FPNSettings
from tinymrcnn.models.mask_branch import MaskSettings
from tinymrcnn.models.mnc import MNCSettings
from tinymrcnn.models.pooler import PoolerSettings
from tinymrcnn.models.resnet import ResNetSettings
from tinymrcnn.models.rpn import RPNSettings
from tinymrcnn.models.transform import TransformSettings
from tinymrcnn.settings import Range, Settings


@dataclass(frozen=True)
class Config(Settings):
    """The model. Lengths are in pixels of the (resized) image."""

    preset: str = "shapes"
    model: Literal["mask_rcnn", "fcis", "mnc"] = "mask_rcnn"  # which of presets.MODELS it is
    num_classes: Annotated[int, Range(2, 65_536)] = 6  # the background, class 0, included
    # The maps that the branches read. "fpn": P2 to P5. "c4": the third stage's map (the fourth stage runs on RoIs; in
    # FCIS it runs on the map). "c5": the fourth stage's map
    backbone: Literal["fpn", "c4", "c5"] = "fpn"
    masks: bool = True  # without the mask branch the model is Faster R-CNN
    transform: TransformSettings = TransformSettings()
    resnet: ResNetSettings = ResNetSettings()
    fpn: FPNSettings = FPNSettings()
    rpn: RPNSettings = RPNSettings()
    pooler: PoolerSettings = PoolerSettings()
    box: BoxSettings = BoxSettings()
    mask: MaskSettings = MaskSettings()
    fcis: FCISSettings = FCISSettings()
    mnc: MNCSettings = MNCSettings()

    @property
    def strides(self) -> list[int]:
        """The pixels per cell of every level, finest first."""
        if self.backbone == "fpn":
            levels = [self.resnet.map_stride(stage) for stage in range(4)]
            return [*levels, 2 * levels[-1]] if self.fpn.extra_level else levels
        return [self.resnet.map_stride(2 if self.backbone == "c4" else 3)]

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = {"fcis": ("c4",), "mnc": ("c4", "c5")}.get(self.model)
        if allowed and (self.backbone not in allowed or not self.masks):
            raise ValueError(f"{self.model.upper()} has the backbone {' or '.join(map(repr, allowed))} and masks=True.")
        if self.mask.head == "mlp" and self.backbone == "c4":
            raise ValueError("With the backbone 'c4' both branches share a head of convolutions: mask.head is 'fcn'.")
        if self.backbone == "fpn" and self.resnet.strides[1:] != (2, 2, 2):
            raise ValueError(f"Each level of an FPN halves the one before; resnet.strides is {self.resnet.strides}.")
        groups, widths = self.resnet.groups, self.resnet.widths
        if groups > 1 and (self.resnet.block == "basic" or any(width % groups for width in widths)):
            raise ValueError(f"{groups} groups must divide the widths {widths} of bottlenecks; basic blocks have one.")
        if (named := len(self.rpn.anchor_sizes)) != (levels := len(self.strides)):
            raise ValueError(f"The backbone {self.backbone!r} has {levels} levels, but anchor_sizes names {named}.")
