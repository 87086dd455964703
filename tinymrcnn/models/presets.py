"""The models by name: the toy ones, and the full-size ones as torchvision, detectron2 and the paper have them.

The three differ in many small ways. Each is a field of Config, set below for a whole family; weights fit only the
family that they were trained in. What no field says:

- A file's class order: the loader moves the background to 0. torchvision counts the 91 ids of COCO, of which 10 are
  unused, detectron2 its 80 classes without a gap.
- Random weights: all presets draw them as detectron2 does. torchvision draws its fully connected layers and
  predictors wider, which matters only without weights from a file.
- torchvision ranks proposals by probability, we and detectron2 by logit: the same order, except where the
  probabilities of two logits round to one number.
- Masks that are resized for training: the nearest pixel, in every family. detectron2 also trains on polygons.
"""

from tinymrcnn.models.config import Config, replace
from tinymrcnn.models.mask_rcnn import MaskRCNN

RESNET50 = dict(
    block="bottleneck", depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), stem_width=64, norm="frozen",
    min_size=800, max_size=1333,
)  # fmt: skip
RESNET101 = {**RESNET50, "depths": (3, 4, 23, 3)}

PYRAMID = dict(
    fpn_channels=256, extra_level=True, anchor_sizes=((32,), (64,), (128,), (256,), (512,)), rpn_channels=256,
    rpn_pre_nms_train=2000, rpn_pre_nms_test=1000, rpn_post_nms_train=1000, rpn_post_nms_test=1000,
    box_samples=512, box_hidden=1024, mask_layers=(256,) * 4, mask_channels=256,
)  # fmt: skip
# One map: all anchors on it, the RPN as wide as it is, and no padding beyond the largest image
ONE_MAP = dict(
    anchor_sizes=((32, 64, 128, 256, 512),), size_divisible=1, mask_channels=256,
    rpn_pre_nms_train=12000, rpn_pre_nms_test=6000, rpn_post_nms_train=2000, rpn_post_nms_test=1000,
)  # fmt: skip
C4 = dict(ONE_MAP, backbone="c4", rpn_channels=1024)
C5 = dict(ONE_MAP, backbone="c5", rpn_channels=2048, box_hidden=1024, mask_layers=(256,) * 4)

TORCHVISION = dict(
    num_classes=91, norm_eps=0.0, anchor_order="ratio", anchor_rounded=True, nominal_strides=False,
    rpn_post_nms_train=2000, aligned=False, crop_aligned=False, soft_mask_targets=True, paste_whole_pixels=True,
)  # fmt: skip
POSITIVE = 1e-30  # as the least size of a box: any size above 0
DETECTRON2 = dict(
    num_classes=81, channel_order="bgr", pixel_scale=255.0, pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(1.0, 1.0, 1.0), resize="pillow", round_sizes=True, train_min_sizes=(640, 672, 704, 736, 768, 800),
    stride_in_1x1=True, rpn_box_beta=0.0, rpn_fixed_count=True, rpn_min_size=POSITIVE, sampling_ratio=0,
    level_epsilon=(1e-8, 0.0), box_beta=0.0, min_box_size=0.0, clip_results=True,
)  # fmt: skip
# The paper's numbers (section 3.1) where it gives any, the losses of its authors' code, else as detectron2
PAPER = dict(
    DETECTRON2, train_min_sizes=(), rpn_box_beta=1 / 9, sampling_ratio=2, aligned=False, box_beta=1.0, box_nms=0.3,
)  # fmt: skip
FEW_ROIS = dict(rpn_post_nms_test=300, box_samples=64)

PRESETS = {
    config.preset: config
    for config in (
        Config(preset="shapes"),
        Config(
            preset="shapes_c4", backbone="c4", widths=(24, 48, 96, 192), stem_width=24, rpn_channels=96, box_pool=14,
            anchor_sizes=((16, 32, 64, 128),), rpn_pre_nms_train=1000, rpn_pre_nms_test=1000,
        ),
        Config(
            preset="shapes_c5", backbone="c5", box_hidden=80,
            anchor_sizes=((16, 32, 64, 128),), rpn_pre_nms_train=1000, rpn_pre_nms_test=1000,
        ),
        Config("torchvision_resnet50_fpn", **{**RESNET50, **PYRAMID, **TORCHVISION}),
        Config("detectron2_resnet50_fpn", **RESNET50, **PYRAMID, **DETECTRON2),
        Config("detectron2_resnet101_fpn", **RESNET101, **PYRAMID, **DETECTRON2),
        # res5 halves a grid of 14 x 14; in the paper's Figure 4 it runs on 7 x 7 and strides nowhere
        Config("detectron2_resnet50_c4", **RESNET50, **C4, **DETECTRON2, box_pool=14, box_samples=512),
        Config("paper_resnet50_c4", **{**RESNET50, **C4, **PAPER, **FEW_ROIS}, roi_stage_stride=1),
        Config("paper_resnet50_c5", **{**RESNET50, **C5, **PAPER, **FEW_ROIS}),
        Config("paper_resnet50_fpn", **RESNET50, **PYRAMID, **PAPER),
        Config("paper_resnet101_fpn", **RESNET101, **PYRAMID, **PAPER),
    )
}  # fmt: skip

# Where the weights of a preset can be had: of Mask R-CNN, and of Faster R-CNN (the preset with masks=False)
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


def build_model(preset: str | Config, num_classes: int | None = None, seed: int = 0, **overrides) -> MaskRCNN:
    """A model with random weights drawn from `seed`, in train mode, on the CPU.

    preset: a name of list_presets(), or a Config. num_classes: counts the background, class 0. overrides: fields of
    Config to replace. Raises ValueError for unknown names, listing those that exist."""
    config = get_config(preset) if isinstance(preset, str) else preset
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    return MaskRCNN(replace(config, **overrides), seed)
