"""Every switch of the model and of training, in two frozen dataclasses.

The functions underneath take plain values, never a Config. Where the public models differ from each other
and from the paper, the difference is a field here and not a hidden constant.
"""

import dataclasses
import difflib
from dataclasses import dataclass


def replace(config, **overrides):
    """config with some fields replaced. Raises ValueError for an unknown field, listing those that exist."""
    names = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{type(config).__name__} has no field {name!r}.{hint} Its fields are: {', '.join(names)}."
            )
    return dataclasses.replace(config, **overrides)


@dataclass(frozen=True)
class Config:
    """The model. Lengths are in pixels of the (resized) image; a "top n" is a count per image."""

    preset: str = "shapes"
    num_classes: int = 6  # background, class 0, included

    # Images (transform.py): None keeps the native size
    min_size: int | None = None
    max_size: int | None = None
    train_min_sizes: tuple[int, ...] = ()  # in training the shorter side is one of these, drawn for every image
    resize: str = "float"  # bilinear, two pixels a side, of normalised floats; "pillow": antialiased, of 8-bit pixels
    round_sizes: bool = False  # resized sides to the nearest pixel (detectron2), else down (torchvision)
    channel_order: str = "rgb"  # of the network's input, and of mean and std; or "bgr"
    pixel_scale: float = 1.0  # the brightest pixel, before the mean is subtracted; 255 in detectron2
    pixel_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size_divisible: int = 32  # a batch is padded to a multiple; 1: only to its largest image

    # Backbone (resnet.py, fpn.py): "fpn" P2..P5; "c4" the third stage, the fourth is run on RoIs; "c5" the fourth
    backbone: str = "fpn"
    block: str = "basic"  # or "bottleneck"
    depths: tuple[int, ...] = (2, 2, 2, 1)
    widths: tuple[int, ...] = (16, 32, 64, 128)  # of the 3x3 convolutions of each stage
    stem_width: int = 16
    norm: str = "batch"  # "batch", "frozen" or "group"
    norm_eps: float = 1e-5  # added to the variance; 0 in torchvision's published models
    stride_in_1x1: bool = False  # the original bottleneck strides its first 1x1 convolution, v1.5 the 3x3
    fpn_channels: int = 64
    extra_level: bool = False  # P6, for the RPN only

    # Region proposal network (rpn.py)
    anchor_sizes: tuple[tuple[float, ...], ...] = ((16,), (32,), (64,), (128,))
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_order: str = "size"  # which of size and ratio is the outer loop within a cell
    anchor_rounded: bool = False  # half widths and heights to whole pixels, as torchvision does
    nominal_strides: bool = True  # else padded size // map size, as torchvision does
    rpn_channels: int = 64
    rpn_fg_iou: float = 0.7
    rpn_bg_iou: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_box_beta: float = 1 / 9  # of the smooth L1 loss; 0 is L1
    rpn_fixed_count: bool = False  # its losses are divided by rpn_samples an image even where fewer were drawn
    rpn_pre_nms_train: int = 500  # per level
    rpn_pre_nms_test: int = 500
    rpn_post_nms_train: int = 250  # over all levels
    rpn_post_nms_test: int = 250
    rpn_nms: float = 0.7
    rpn_min_size: float = 1e-3

    # RoI features (pooler.py)
    roi_op: str = "roi_align"  # or "roi_pool", "roi_warp"
    aligned: bool = True  # the half pixel, RoIAlign only
    sampling_ratio: int = 2
    canonical_size: float = 224.0  # an object of this size goes to ...
    canonical_level: int = 4  # ... this level (FPN, formula 1)
    level_epsilon: tuple[float, float] = (0.0, 1e-6)  # against rounding, added within the formula's logarithm and to it

    # Box branch (box_branch.py)
    box_pool: int = 7
    roi_stage_stride: int = 2  # C4: of the stage that runs on RoIs (the paper's figure: 7x7 RoIs and stride 1)
    box_hidden: int = 128
    box_fg_iou: float = 0.5
    box_samples: int = 32
    box_positive_fraction: float = 0.25
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    box_beta: float = 1 / 9
    score_threshold: float = 0.05
    box_nms: float = 0.5
    max_detections: int = 100
    min_box_size: float = 1e-2
    clip_results: bool = False  # boxes are clipped once more, and empty ones dropped, in the original image

    # Mask branch (mask_branch.py)
    masks: bool = True  # without it the model is Faster R-CNN
    mask_pool: int = 14
    mask_layers: tuple[int, ...] = (64, 64, 64, 64)
    mask_channels: int = 64  # of the transposed convolution
    mask_loss: str = "sigmoid"  # or "softmax"
    class_agnostic_masks: bool = False
    crop_aligned: bool = True  # mask targets cut exactly at the box; torchvision's lie half a pixel off
    soft_mask_targets: bool = False  # torchvision trains on the interpolated crop, others on crop >= 0.5
    paste_whole_pixels: bool = False  # torchvision stretches a mask over the box's whole pixels, others over the box

    def __post_init__(self):
        choices = {
            "resize": ("float", "pillow"),
            "channel_order": ("rgb", "bgr"),
            "backbone": ("fpn", "c4", "c5"),
            "block": ("basic", "bottleneck"),
            "norm": ("batch", "frozen", "group"),
            "anchor_order": ("size", "ratio"),
            "roi_op": ("roi_align", "roi_pool", "roi_warp"),
            "mask_loss": ("sigmoid", "softmax"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, allowed))}."
                )
        if self.num_classes < 2:
            raise ValueError(f"num_classes is {self.num_classes}; it counts the background too, so 2 is the least.")
        if self.class_agnostic_masks and self.mask_loss == "softmax":
            raise ValueError("A class-agnostic mask has no classes to compete: use mask_loss='sigmoid' with it.")
        levels = {"fpn": 5 if self.extra_level else 4, "c4": 1, "c5": 1}[self.backbone]
        if len(self.anchor_sizes) != levels:
            raise ValueError(f"The backbone {self.backbone!r} has {levels} levels, but anchor_sizes names "
                             f"{len(self.anchor_sizes)}.")  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Training. The defaults train the `shapes` preset from scratch on two CPU cores in a quarter of an hour."""

    steps: int = 1800
    batch_size: int = 8
    optimizer: str = "adamw"  # or "sgd"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9  # SGD only
    schedule: str = "cosine"  # or "step"
    warmup_steps: int = 100
    drops: tuple[float, ...] = (0.67, 0.89)  # "step": where the rate drops to a tenth, as fractions of all steps
    clip_norm: float = 10.0
    flip: bool = True
    seed: int = 0
    checkpoint_every: int = 200
    preview_every: int = 200

    def __post_init__(self):
        for name, allowed in {"optimizer": ("adamw", "sgd"), "schedule": ("cosine", "step")}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, allowed))}."
                )
        for name in ("steps", "batch_size", "checkpoint_every", "preview_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("lr", "weight_decay", "momentum", "warmup_steps", "clip_norm"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0.")
