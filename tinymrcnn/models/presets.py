"""The models by name."""

from tinymrcnn.models.config import Config, replace
from tinymrcnn.models.mask_rcnn import MaskRCNN

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
    )
}  # fmt: skip


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
