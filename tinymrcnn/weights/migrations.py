"""Files of older versions: what they lack or name differently, step by step, up to today's format.

A checkpoint's metadata carries the number of its format. Whoever changes what a checkpoint holds (a field that is new,
renamed or moved in Config or TrainConfig) adds 1 to FORMAT_VERSION and one function to MIGRATIONS, which names the
value that the older code worked with. So a default can change without changing the models that were trained before; a
field that is missing without such an entry is an error.

    1    No number; Config and TrainConfig as flat tables, of which the earliest files lack some fields.
    2    The number, and every field, those of Config within the settings of its stages.
    3    Which model it is, what only FCIS has, and the strides of the ResNet's stages.
    4    The head of the mask branch, how softmax masks are decoded, how the samples of a bin are reduced, what only MNC
         has, the groups of the ResNet's bottlenecks, and how much these widen.
    5    Augmentation besides the flip, validation, early stopping, and the moving average of the weights.
    6    Whether several workers share the statistics of batch normalisation.
"""

from collections.abc import Callable

FORMAT_VERSION = 7

# Fields of Config that the earliest files lack, and what the code did at that time
EARLIEST_CONFIG = {
    "train_min_sizes": [],
    "resize": "float",
    "round_sizes": False,
    "channel_order": "rgb",
    "pixel_scale": 1.0,
    "norm_eps": 1e-5,
    "rpn_fixed_count": False,
    "level_epsilon": [0.0, 1e-6],
    "clip_results": False,
    "paste_whole_pixels": False,
}


# The new names of the fields of Config, which now belong to the stages
STAGES = {
    "transform": {
        name: name
        for name in (
            "min_size", "max_size", "train_min_sizes", "resize", "round_sizes", "channel_order", "pixel_scale",
            "pixel_mean", "pixel_std", "size_divisible",
        )
    },
    "resnet": {
        name: name
        for name in (
            "block", "depths", "widths", "stem_width", "norm", "norm_eps", "stride_in_1x1", "roi_stage_stride",
        )
    },
    "fpn": {"fpn_channels": "channels", "extra_level": "extra_level"},
    "rpn": {
        "anchor_sizes": "anchor_sizes", "aspect_ratios": "aspect_ratios", "anchor_order": "anchor_order",
        "anchor_rounded": "anchor_rounded", "nominal_strides": "nominal_strides", "rpn_channels": "channels",
        "rpn_fg_iou": "fg_iou", "rpn_bg_iou": "bg_iou", "rpn_samples": "samples",
        "rpn_positive_fraction": "positive_fraction", "rpn_box_beta": "box_beta", "rpn_fixed_count": "fixed_count",
        "rpn_pre_nms_train": "pre_nms_train", "rpn_pre_nms_test": "pre_nms_test",
        "rpn_post_nms_train": "post_nms_train", "rpn_post_nms_test": "post_nms_test", "rpn_nms": "nms",
        "rpn_min_size": "min_proposal_size",
    },
    "pooler": {
        name: name
        for name in (
            "roi_op", "aligned", "sampling_ratio", "canonical_size", "canonical_level", "level_epsilon",
        )
    },
    "box": {
        "box_pool": "pool", "box_hidden": "hidden", "box_fg_iou": "fg_iou", "box_samples": "samples",
        "box_positive_fraction": "positive_fraction", "box_weights": "weights", "box_beta": "beta",
        "score_threshold": "score_threshold", "box_nms": "nms", "max_detections": "max_detections",
        "min_box_size": "min_box_size", "clip_results": "clip_results",
    },
    "mask": {
        "mask_pool": "pool", "mask_layers": "layers", "mask_channels": "channels", "mask_loss": "loss",
        "class_agnostic_masks": "class_agnostic_masks", "crop_aligned": "crop_aligned",
        "soft_mask_targets": "soft_mask_targets", "paste_whole_pixels": "paste_whole_pixels",
    },
}  # fmt: skip


def from_format_1(metadata: dict) -> dict:
    fields = {**EARLIEST_CONFIG, **metadata["config"]}
    config = {
        stage: {new: fields.pop(old) for old, new in names.items() if old in fields} for stage, names in STAGES.items()
    }
    return {**metadata, "config": {**fields, **config}}


# What FCIS reads its maps with: no model of format 2 has any
FCIS = {
    "channels": 96, "group": 7, "pooled": 21, "mask_weight": 10.0, "mask_threshold": 0.4,
    "second_pass": True, "voting": True, "voting_iou": 0.5,
}  # fmt: skip


def from_format_2(metadata: dict) -> dict:
    config = metadata["config"]
    resnet = {**config["resnet"], "strides": [1, 2, 2, 2]}
    return {**metadata, "config": {**config, "model": "mask_rcnn", "resnet": resnet, "fcis": FCIS}}


# The stages of MNC: no model of format 3 has any
MNC = {
    "mask_threshold": 0.4, "second_pass": True, "voting": True, "voting_iou": 0.5,
    "hidden": 96, "size": 21, "mask_weight": 2.0, "mask_iou": 0.5,
}  # fmt: skip


def from_format_3(metadata: dict) -> dict:
    config = metadata["config"]
    # "all" is how the softmax was decoded; the sigmoid has no use for it, and gets today's default
    decoding = "all" if config["mask"]["loss"] == "softmax" else "background"
    mask = {**config["mask"], "head": "fcn", "softmax_decoding": decoding}
    pooler = {**config["pooler"], "reduce": "mean"}
    resnet = {**config["resnet"], "groups": 1, "expansion": 4}
    return {**metadata, "config": {**config, "resnet": resnet, "mask": mask, "pooler": pooler, "mnc": MNC}}


# What training did before format 5: none of it
TRAINING = {
    "augment": {"turn": False, "zoom": [1.0, 1.0], "brightness": 0.0, "contrast": 0.0, "hue": 0.0, "blur": 0.0},
    "val_every": 0, "patience": 0, "ema": 0.0,
}  # fmt: skip


def from_format_4(metadata: dict) -> dict:
    config = metadata["train_config"]
    return {**metadata, "train_config": {**config, **TRAINING} if config else None}


def from_format_5(metadata: dict) -> dict:
    config = metadata["train_config"]  # until then every worker had its own
    return {**metadata, "train_config": {**config, "sync_norm": False} if config else None}


def from_format_6(metadata: dict) -> dict:
    config = metadata["train_config"]  # nothing was pasted
    if config is None:
        return metadata
    return {**metadata, "train_config": {**config, "augment": {**config["augment"], "paste": 0.0}}}


# From the format of this number to the next one: a function of the metadata, which returns new ones
MIGRATIONS: dict[int, Callable[[dict], dict]] = {
    1: from_format_1, 2: from_format_2, 3: from_format_3, 4: from_format_4, 5: from_format_5, 6: from_format_6,
}  # fmt: skip


def migrate(metadata: dict) -> dict:
    """The metadata of a checkpoint in today's format.

    Raises ValueError for a newer format or one that never was, and KeyError or TypeError where the metadata lack what
    their format has."""
    version = metadata.get("format_version", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"Its format_version is {version!r}, which no version of tinymrcnn has written.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"Its format has the number {version}, and this version knows formats up to {FORMAT_VERSION}: "
            "install a newer tinymrcnn to read it."
        )
    for step in range(version, FORMAT_VERSION):
        metadata = {**MIGRATIONS[step](metadata), "format_version": step + 1}
    return metadata
