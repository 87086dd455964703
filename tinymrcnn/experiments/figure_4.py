"""Figure 4: the two kinds of heads, counted: parameters, multiply-adds, and the time of an RoI.

On C4 the last stage of the ResNet runs on every RoI; on FPN two fully connected layers, and for masks four convolutions
on finer features. The article: the FPN's backbone has that stage already, which allows of a leaner head.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.draw.figures import ROLE_COLORS
from tinymrcnn.experiments.training import one_thread
from tinymrcnn.models import MaskRCNN, build_model

TITLE = "The heads of C4 and FPN, for one RoI"
PRESETS = ("shapes_c4", "shapes", "paper_resnet50_c4", "paper_resnet50_fpn")
ROIS = 16
SECONDS = 0.5  # so long each is repeated


@one_thread()
def run(quick: bool = False) -> dict[str, Any]:
    """The rows of PRESETS, of the toy ones only if quick. Times are those of one thread."""
    return {"rows": [measure(preset, 0.02 if quick else SECONDS) for preset in PRESETS[: 2 if quick else None]]}


def measure(preset: str, seconds: float) -> dict[str, Any]:
    """The heads of one preset: parameters, and for one RoI the millions of multiply-adds and the milliseconds of the
    class and box, and of the mask. On C4 the mask reads what the last stage has made for the box, so that only the
    layers after it count for the mask; at inference it runs once more, on the detections (the last column)."""
    model: MaskRCNN = build_model(preset).eval()
    c4, config = model.config.backbone == "c4", model.config
    parameters = {name: p.size for name, p in model.named_parameters() if name.startswith("roi_heads.")}
    of_mask = sum(size for name, size in parameters.items() if name.startswith("roi_heads.mask_"))
    rng = np.random.default_rng(0)
    box_rois, mask_rois = (
        Tensor(rng.random((ROIS, model.channels, size, size), np.float32))
        for size in (config.box.pool, config.box.pool if c4 else config.mask.pool)
    )
    with no_grad():
        stage: Callable = model.roi_heads.layer4 if c4 else lambda x: x
        shared = stage(mask_rois)
        box = cost(lambda: model.box_branch(stage(box_rois)), seconds)
        mask = cost(lambda: model.mask_logits(shared), seconds)
        alone = cost(lambda: model.mask_logits(stage(mask_rois)), seconds)
    return {
        "preset": preset,
        "box parameters": sum(parameters.values()) - of_mask,
        "mask parameters": of_mask,
        **{f"box {name}": value for name, value in box.items()},
        **{f"mask {name}": value for name, value in mask.items()},
        **{f"mask at inference {name}": value for name, value in alone.items()},
    }


def cost(work: Callable, seconds: float) -> dict[str, float]:
    """Per RoI, of work on ROIS of them, which is repeated for so many seconds. They are those of the processor, so that
    programs beside it do not count."""
    with counting_operations() as count:
        work()
    operations = count()
    began, times, taken = time.process_time(), 0, 0.0
    while taken < seconds:
        work()
        times, taken = times + 1, time.process_time() - began
    return {"Mmul-add": operations / 2e6 / ROIS, "ms": 1000 * taken / times / ROIS}


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    titles = ["head", "parameters: box, mask", "million multiply-adds: box, mask", "ms: box, mask"]
    titles += ["the mask at inference: multiply-adds, ms"]
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join(['---'] * len(titles))} |"]
    for row in result["rows"]:
        lines.append(
            f"| `{row['preset']}` | {row['box parameters']:,}, {row['mask parameters']:,} "
            f"| {row['box Mmul-add']:.2f}, {row['mask Mmul-add']:.2f} | {row['box ms']:.3f}, {row['mask ms']:.3f} "
            f"| {row['mask at inference Mmul-add']:.2f}, {row['mask at inference ms']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any]) -> Figure:
    """Bars, C4 beside FPN: the multiply-adds and the time of an RoI, box and mask."""
    rows = result["rows"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("Mmul-add", "ms"), strict=True):
        at = np.arange(len(rows))
        for shift, part, color in ((-0.2, "box", "prediction"), (0.2, "mask at inference", "roi")):
            axes.bar(at + shift, [row[f"{part} {unit}"] for row in rows], 0.4, label=part, color=ROLE_COLORS[color])
        axes.set_xticks(at, [row["preset"].replace("_", "\n") for row in rows], fontsize=7)
        axes.set_yscale("log")
        axes.set_ylabel(f"{'million multiply-adds' if unit == 'Mmul-add' else 'milliseconds'} an RoI", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(TITLE, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure
