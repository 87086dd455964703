"""Every switch of the model, made of the settings of its stages, and those of training.

Where the public models differ from each other and from the paper, the difference is a field and not a hidden
constant. The fields of a stage are described in the stage's file: `rpn.nms` in rpn.py.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.models.fpn import FPNSettings
from tinymrcnn.models.mask_branch import MaskSettings
from tinymrcnn.models.pooler import PoolerSettings
from tinymrcnn.models.resnet import ResNetSettings
from tinymrcnn.models.rpn import RPNSettings
from tinymrcnn.models.transform import TransformSettings
from tinymrcnn.settings import Count, CountOrZero, Fraction, NotNegative, Range, Settings


@dataclass(frozen=True)
class Config(Settings):
    """The model. Lengths are in pixels of the (resized) image."""

    preset: str = "shapes"
    num_classes: Annotated[int, Range(2, 65_536)] = 6  # the background, class 0, included
    # The maps that the branches read. "fpn": P2 to P5. "c4": the third stage's map (the fourth stage runs on RoIs).
    # "c5": the fourth stage's map
    backbone: Literal["fpn", "c4", "c5"] = "fpn"
    masks: bool = True  # without the mask branch the model is Faster R-CNN
    transform: TransformSettings = TransformSettings()
    resnet: ResNetSettings = ResNetSettings()
    fpn: FPNSettings = FPNSettings()
    rpn: RPNSettings = RPNSettings()
    pooler: PoolerSettings = PoolerSettings()
    box: BoxSettings = BoxSettings()
    mask: MaskSettings = MaskSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = {"fpn": 5 if self.fpn.extra_level else 4, "c4": 1, "c5": 1}[self.backbone]
        if len(self.rpn.anchor_sizes) != levels:
            raise ValueError(
                f"The backbone {self.backbone!r} has {levels} levels, but anchor_sizes names "
                f"{len(self.rpn.anchor_sizes)}."
            )


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Training. The defaults train the `shapes` preset from scratch, on two CPU cores in less than ten minutes."""

    steps: Count = 1800
    batch_size: Annotated[int, Range(1, 65_536)] = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: NotNegative = 1e-3
    weight_decay: NotNegative = 1e-4
    momentum: Fraction = 0.9  # SGD only
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_steps: CountOrZero = 100
    drops: tuple[Fraction, ...] = (0.67, 0.89)  # "step": where the rate drops to a tenth, as fractions of all steps
    clip_norm: NotNegative = 10.0  # of all gradients together; 0 does not clip
    flip: bool = True
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    checkpoint_every: Count = 200
    preview_every: Count = 200
