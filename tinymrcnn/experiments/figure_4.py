"""Figure 4: the two kinds of heads, counted: parameters, multiply-adds, and the time of an RoI.

On C4 the last stage of the ResNet runs on every RoI; on FPN two fully connected layers, and for masks four convolutions
on finer features. The article: the FPN's backbone has that stage already, which allows of a leaner head.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tinymrcnn import threads
from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.models import MaskRCNN, build_model

TITLE = "The heads of C4 and FPN, for one RoI"
PRESETS = ("shapes_c4", "shapes", "paper_resnet50_c4", "paper_resnet50_fpn")
ROIS, REPEATS = 16, 7


def run(quick: bool = False) -> dict[str, Any]:
    """The rows of PRESETS, of the toy ones only if quick. Times are those of one thread, medians."""
    threads.set_num_threads(1)
    return {"rows": [measure(preset, 1 if quick else REPEATS) for preset in PRESETS[: 2 if quick else None]]}


def measure(preset: str, repeats: int) -> dict[str, Any]:
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
        box = cost(lambda: model.box_branch(stage(box_rois)), repeats)
        mask = cost(lambda: model.mask_logits(shared), repeats)
        alone = cost(lambda: model.mask_logits(stage(mask_rois)), repeats)
    return {
        "preset": preset,
        "box parameters": sum(parameters.values()) - of_mask,
        "mask parameters": of_mask,
        **{f"box {name}": value for name, value in box.items()},
        **{f"mask {name}": value for name, value in mask.items()},
        **{f"mask at inference {name}": value for name, value in alone.items()},
    }


def cost(work: Callable, repeats: int) -> dict[str, float]:
    """Per RoI, of work on ROIS of them."""
    with counting_operations() as count:
        work()
    operations = count()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {"Mmul-add": operations / 2e6 / ROIS, "ms": 1000 * statistics.median(seconds) / ROIS}
