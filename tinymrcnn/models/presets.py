"""The models by name: the toy ones, and the full-size ones as torchvision, detectron2 and the paper have them.

The three differ in many small ways. Each is a setting, set below for a whole family; weights fit only the
family that they were trained in. Differences that are not settings:

- A file's class order: the loader moves the background to 0. torchvision counts the 91 ids of COCO, of which 10 are
  unused, detectron2 its 80 classes without a gap.
- Random weights: all presets draw them as detectron2 does. torchvision draws its fully connected layers and
  predictors wider, which matters only without weights from a file.
- torchvision ranks proposals by probability, we and detectron2 by logit: the same order, except where the
  probabilities of two logits round to one number.
- Masks that are resized for training: the nearest pixel, in every family. detectron2 also trains on polygons.
"""

from typing import Any

from tinymrcnn.models.config import Config
from tinymrcnn.models.fcis import FCIS
from tinymrcnn.models.mask_rcnn import MaskRCNN
from tinymrcnn.models.mnc import MNC
from tinymrcnn.models.two_stage import TwoStage
from tinymrcnn.settings import replace

Table = dict[str, Any]  # full name of a setting -> its value

# Sizes

RESNET50: Table = {
    "transform.min_size": 800,
    "transform.max_size": 1333,
    "resnet.block": "bottleneck",
    "resnet.depths": (3, 4, 6, 3),
    "resnet.widths": (64, 128, 256, 512),
    "resnet.stem_width": 64,
    "resnet.norm": "frozen",
}
RESNET101 = RESNET50 | {"resnet.depths": (3, 4, 23, 3)}
# 32 groups of 8 channels in the first stage, or 64 of 4. It strides as torchvision's ResNet does
RESNEXT101_32X8D: Table = {
    "resnet.depths": (3, 4, 23, 3),
    "resnet.widths": (256, 512, 1024, 2048),
    "resnet.groups": 32,
    "resnet.expansion": 1,
    "resnet.stride_in_1x1": False,
}
RESNEXT101_64X4D = RESNEXT101_32X8D | {"resnet.groups": 64}

PYRAMID: Table = {
    "fpn.channels": 256,
    "fpn.extra_level": True,
    "rpn.anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
    "rpn.channels": 256,
    "rpn.pre_nms_train": 2000,
    "rpn.pre_nms_test": 1000,
    "rpn.post_nms_train": 1000,
    "rpn.post_nms_test": 1000,
    "box.hidden": 1024,
    "box.samples": 512,
    "mask.layers": (256, 256, 256, 256),
    "mask.channels": 256,
}
# One map: all anchors on it, the RPN as wide as it is, and no padding beyond the largest image
ONE_MAP: Table = {
    "transform.size_divisible": 1,
    "rpn.anchor_sizes": ((32, 64, 128, 256, 512),),
    "rpn.pre_nms_train": 12000,
    "rpn.pre_nms_test": 6000,
    "rpn.post_nms_train": 2000,
    "rpn.post_nms_test": 1000,
    "mask.channels": 256,
}
C4 = ONE_MAP | {"backbone": "c4", "rpn.channels": 1024}
C5 = ONE_MAP | {"backbone": "c5", "rpn.channels": 2048, "box.hidden": 1024, "mask.layers": (256, 256, 256, 256)}

# Families

TORCHVISION: Table = {
    "num_classes": 91,
    "resnet.norm_eps": 0.0,
    "rpn.anchor_order": "ratio",
    "rpn.anchor_rounded": True,
    "rpn.nominal_strides": False,
    "rpn.post_nms_train": 2000,
    "pooler.aligned": False,
    "mask.crop_aligned": False,
    "mask.soft_mask_targets": True,
    "mask.paste_whole_pixels": True,
}
ANY_SIZE = 1e-30  # as the least side of a box: any side above 0
DETECTRON2: Table = {
    "num_classes": 81,
    "transform.train_min_sizes": (640, 672, 704, 736, 768, 800),
    "transform.resize": "pillow",
    "transform.round_sizes": True,
    "transform.channel_order": "bgr",
    "transform.pixel_scale": 255.0,
    "transform.pixel_mean": (103.53, 116.28, 123.675),
    "transform.pixel_std": (1.0, 1.0, 1.0),
    "resnet.stride_in_1x1": True,
    "rpn.box_beta": 0.0,
    "rpn.fixed_count": True,
    "rpn.min_proposal_size": ANY_SIZE,
    "pooler.sampling_ratio": 0,
    "pooler.level_epsilon": (1e-8, 0.0),
    "box.beta": 0.0,
    "box.min_box_size": 0.0,
    "box.clip_results": True,
}
# Its backbone was first trained elsewhere than detectron2's others: on pixels divided by their deviation
DETECTRON2_RESNEXT101 = RESNEXT101_32X8D | {"transform.pixel_std": (57.375, 57.12, 58.395)}
# The paper's numbers (section 3.1) where it gives any, the losses of its authors' code, else as detectron2
PAPER = DETECTRON2 | {
    "transform.train_min_sizes": (),
    "rpn.box_beta": 1 / 9,
    "pooler.aligned": False,
    "pooler.sampling_ratio": 2,
    "box.beta": 1.0,
    "box.nms": 0.3,
}
FEW_ROIS: Table = {"rpn.post_nms_test": 300, "box.samples": 64}

# The toy models on one map

SHAPES_ONE_MAP: Table = {
    "rpn.anchor_sizes": ((16, 32, 64, 128),),
    "rpn.pre_nms_train": 1000,
    "rpn.pre_nms_test": 1000,
}
SHAPES_C4 = SHAPES_ONE_MAP | {
    "backbone": "c4",
    "resnet.widths": (24, 48, 96, 192),
    "resnet.stem_width": 24,
    "rpn.channels": 96,
    "box.pool": 14,
}
SHAPES_C5 = SHAPES_ONE_MAP | {"backbone": "c5", "box.hidden": 80}

# The rivals. FCIS: at a stride of 8, where an object of these pictures spans as many cells as one of COCO's at 16

SHAPES_FCIS = SHAPES_C4 | {
    "model": "fcis",
    "resnet.strides": (1, 2, 1, 1),
    "box.weights": (5.0, 5.0, 2.0, 2.0),
    "box.nms": 0.3,
    "box.min_box_size": 0.5,
}
# MNC: on a map of the same stride, of few channels, since its layers are fully connected
SHAPES_MNC = SHAPES_ONE_MAP | {
    "model": "mnc",
    "backbone": "c5",
    "resnet.strides": (1, 2, 1, 1),
    "resnet.widths": (24, 48, 96, 48),
    "resnet.stem_width": 24,
    "rpn.channels": 96,
    "box.pool": 5,
    "box.hidden": 80,
    "box.samples": 64,
    "box.nms": 0.3,
}
# The authors' numbers, where they give any (section 4 and their code), else the paper's of Mask R-CNN
PAPER_FCIS: Table = {
    "model": "fcis",
    "resnet.strides": (1, 2, 2, 1),
    "transform.min_size": 600,
    "transform.max_size": 1000,
    "rpn.anchor_sizes": ((64, 128, 256, 512),),
    "rpn.channels": 512,
    "rpn.post_nms_train": 300,
    "rpn.post_nms_test": 300,
    "box.samples": 128,
    "box.weights": (5.0, 5.0, 2.0, 2.0),
    "box.beta": 1.0,
    "box.nms": 0.3,
    "box.min_box_size": 2.0,
    "fcis.channels": 1024,
}
# Theirs are of VGG-16. The article compares with a ResNet-101 of which nothing but "C4" was published: here its last
# stage takes the place of VGG's fully connected layers
PAPER_MNC: Table = {
    "model": "mnc",
    "transform.min_size": 600,
    "transform.max_size": 1000,
    "rpn.anchor_sizes": ((128, 256, 512),),
    "rpn.channels": 512,
    "rpn.min_proposal_size": 16.0,
    "rpn.post_nms_test": 300,
    "box.pool": 14,
    "box.samples": 64,
    "box.positive_fraction": 0.3,
    "box.nms": 0.3,
    "mnc.hidden": 256,
}

TABLES: dict[str, Table] = {
    "shapes": {},
    "shapes_c4": SHAPES_C4,
    "shapes_c5": SHAPES_C5,
    "shapes_fcis": SHAPES_FCIS,
    "shapes_mnc": SHAPES_MNC,
    "torchvision_resnet50_fpn": RESNET50 | PYRAMID | TORCHVISION,
    "detectron2_resnet50_fpn": RESNET50 | PYRAMID | DETECTRON2,
    "detectron2_resnet101_fpn": RESNET101 | PYRAMID | DETECTRON2,
    "detectron2_resnext101_fpn": RESNET50 | PYRAMID | DETECTRON2 | DETECTRON2_RESNEXT101,
    # res5 halves a grid of 14 x 14; in the paper's Figure 4 it runs on 7 x 7 with stride 1
    "detectron2_resnet50_c4": RESNET50 | C4 | DETECTRON2 | {"box.pool": 14, "box.samples": 512},
    "paper_resnet50_c4": RESNET50 | C4 | PAPER | FEW_ROIS | {"resnet.roi_stage_stride": 1},
    "paper_resnet50_c5": RESNET50 | C5 | PAPER | FEW_ROIS,
    "paper_resnet50_fpn": RESNET50 | PYRAMID | PAPER,
    "paper_resnet101_fpn": RESNET101 | PYRAMID | PAPER,
    # Table 1 does not say which ResNeXt-101. The authors' code, Detectron, has this one, with the ResNeXt paper's own
    # weights, and 32x8d, whose weights are of December 2017 and so later than the paper
    "paper_resnext101_fpn": RESNET50 | PYRAMID | PAPER | RESNEXT101_64X4D,
    "paper_resnet101_fcis": RESNET101 | C4 | PAPER | PAPER_FCIS,
    "paper_resnet101_mnc": RESNET101 | C4 | PAPER | PAPER_MNC,
}
PRESETS = {name: replace(Config(preset=name), **table) for name, table in TABLES.items()}

# Where to get the weights of a preset: of Mask R-CNN, and of Faster R-CNN (the preset with masks=False)
_PYTORCH = "https://download.pytorch.org/models/"
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
PUBLIC_FILES = {
    "torchvision_resnet50_fpn": (
        _PYTORCH + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        _PYTORCH + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    ),
    "detectron2_resnet50_fpn": (
        _DETECTRON2 + "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
    ),
    "detectron2_resnet101_fpn": (
        _DETECTRON2 + "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
    ),
    "detectron2_resnext101_fpn": (
        _DETECTRON2 + "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl",
        _DETECTRON2 + "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl",
    ),
    "detectron2_resnet50_c4": (
        _DETECTRON2 + "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/model_final_4ce675.pkl",
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_50_C4_3x/137849393/model_final_f97cb7.pkl",
    ),
}


def list_presets() -> list[str]:
    """The names that build_model knows."""
    return sorted(PRESETS)


def get_config(preset: str) -> Config:
    """The Config of a preset. Raises ValueError for an unknown name, listing those that exist."""
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}. The presets are: {', '.join(list_presets())}.")
    return PRESETS[preset]


MODELS: dict[str, type[TwoStage]] = {"mask_rcnn": MaskRCNN, "fcis": FCIS, "mnc": MNC}


def make_model(config: Config, seed: int | None = 0) -> Any:
    """The model of a Config, a MaskRCNN, FCIS or MNC. seed: of the weights; None leaves them 0, to be loaded."""
    return MODELS[config.model](config, seed)


def build_model(preset: str | Config, num_classes: int | None = None, seed: int = 0, **overrides: Any) -> Any:
    """A model with random weights drawn from `seed`, in train mode, on the CPU.

    preset: a name of list_presets(), or a Config. num_classes: counts the background, class 0. overrides: settings to
    replace, such as roi_op="roi_pool" or **{"rpn.nms": 0.6} (see settings.find_field). Raises ValueError for unknown
    names, listing those that exist, and for values out of their range."""
    config = get_config(preset) if isinstance(preset, str) else preset
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    return make_model(replace(config, **overrides), seed)
