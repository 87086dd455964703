"""Table 1 on COCO and Figure 8 on Cityscapes with the paper's schedules, for those who have the pictures and GPUs.

They were not run: the lines say what to run, beside the article's numbers. Sources: the paper's section 3.1 (COCO) and
appendix A (Cityscapes)."""

from typing import NamedTuple


class FullSize(NamedTuple):
    """settings: of every line, as FIELD=VALUE. lines: (name, preset, further settings, the article's mask AP)."""

    title: str
    needs: str
    settings: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[str, ...], float], ...]


SGD = ("optimizer=sgd", "momentum=0.9", "weight_decay=1e-4", "schedule=step", "clip_norm=0", "warmup_steps=500")

COCO = FullSize(
    "Table 1 on COCO",
    "COCO's train2017 and val2017 (118,287 and 5,000 pictures); in the paper, 8 GPUs for one to two days and weights "
    "of ImageNet to start from",
    (*SGD, "steps=160000", "lr=0.02", "drops=(0.75,)"),
    (
        ("MNC, ResNet-101-C4", "paper_resnet101_mnc", (), 24.6),
        ("FCIS, ResNet-101-C5 dilated", "paper_resnet101_fcis", ("lr=5e-4",), 29.2),
        ("Mask R-CNN, ResNet-101-C4", "paper_resnet50_c4", ("resnet.depths=(3,4,23,3)",), 33.1),
        ("Mask R-CNN, ResNet-101-FPN", "paper_resnet101_fpn", (), 35.7),
        ("Mask R-CNN, ResNeXt-101-FPN", "paper_resnext101_fpn", ("lr=0.01",), 37.1),
    ),
)
CITYSCAPES = FullSize(
    "Figure 8 on Cityscapes",
    "Cityscapes' fine annotations as COCO files (2,975 and 500 pictures, 8 classes); in the paper, 8 GPUs for four "
    "hours, starting from a model trained on COCO",
    (
        *SGD, "steps=24000", "lr=0.01", "drops=(0.75,)", "min_size=1024", "max_size=2048",
        "train_min_sizes=(800,832,864,896,928,960,992,1024)",
    ),
    (("Mask R-CNN, ResNet-50-FPN", "paper_resnet50_fpn", (), 32.0),),
)  # fmt: skip
EXPERIMENTS = {"coco": (COCO, 16), "cityscapes": (CITYSCAPES, 8)}


def text(name: str) -> str:
    """What an experiment needs, and its lines."""
    experiment, batch = EXPERIMENTS[name]
    lines = [f"{experiment.title}. Not run here. It needs {experiment.needs}.", ""]
    for title, preset, further, article in experiment.lines:
        settings = {setting.partition("=")[0]: setting for setting in (*experiment.settings, *further)}
        lines += [
            f"{title} (the article's mask AP: {article}):",
            f"  {command(preset, batch, list(settings.values()))}",
            "",
        ]
    return "\n".join(lines)


def command(preset: str, batch: int, settings: list[str]) -> str:
    """The line that trains and evaluates one model."""
    data = "--data TRAIN_IMAGES TRAIN_JSON --val VAL_IMAGES VAL_JSON"
    sets = " ".join(f"--set '{setting}'" for setting in settings)
    return f"tinymrcnn train --preset {preset} {data} --batch-size {batch} {sets}"
