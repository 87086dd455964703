"""What every preset costs, and where its weights are: `tinymrcnn models`.

A model is counted without being computed: the operators are replaced by stand-ins that know only shapes. The counts
are those of watch.counting_operations; a test compares the two.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.models import make_model
from tinymrcnn.models.config import Config
from tinymrcnn.roi.rois import boxes_to_rois

SIZE = (800, 1088)


@dataclass(frozen=True)
class Cost:
    """The parameters of one model (without the constants of frozen normalisation), and the operations of one inference,
    2 for a multiplication and an addition; for each also the mask branch's share."""

    parameters: int
    operations: int
    mask_parameters: int
    mask_operations: int


def cost_of(config: Config, size: tuple[int, int] = SIZE) -> Cost:
    """What a model costs on one image (h, w), with as many proposals and detections as its Config allows.

    The convolutions and the fully connected layers are counted. Faster R-CNN costs this minus the masks' share; in
    FCIS and MNC the classes need what the masks are made of, so that no layers are for the masks alone."""
    with no_grad(), _counting() as count:
        model = make_model(config, seed=None).eval()
        batch = model.transform([np.zeros((3, *size), np.float32)])
        features = model.features(batch)
        model.rpn.head(features)
        total, masks = count(), 0
        rois = [np.array([[0, 0, 64, 64]], np.float32)]  # the branches do the same for every RoI
        if config.model == "fcis":  # an RoI takes means of the maps only
            model.score_maps(features)
            total += count()
        elif config.model == "mnc":
            model.run_stages(features, Tensor(boxes_to_rois(rois)))
            total += (1 + config.mnc.second_pass) * config.rpn.post_nms_test * count()
        else:
            model.box_branch(model.roi_features(features, rois, config.box.pool))
            total += config.rpn.post_nms_test * count()
        if config.model == "mask_rcnn" and config.masks:
            model.mask_branch(features, rois)
            masks = config.box.max_detections * count()
    parameters = {name: parameter.size for name, parameter in model.named_parameters()}
    of_masks = sum(number for name, number in parameters.items() if name.startswith("roi_heads.mask_"))
    return Cost(sum(parameters.values()), total + masks, of_masks, masks)


@contextlib.contextmanager
def _counting() -> Iterator[Callable[[], int]]:
    """Within this block the operators compute nothing. Yields a function that returns the operations since it was
    last called."""
    total = 0

    def nothing(*shape: int) -> Tensor:
        return Tensor(np.broadcast_to(np.float32(0), shape))

    def sides(x: Tensor, kernel: Any, stride: int, padding: int, dilation: int) -> list[int]:
        lengths = zip(x.shape[2:], kernel, strict=True)
        return [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in lengths]

    def conv2d(
        x: Tensor, weight: Tensor, bias: Any = None, stride: int = 1, padding: int = 0, dilation: int = 1, **_: Any
    ) -> Tensor:
        nonlocal total
        out = nothing(len(x), len(weight), *sides(x, weight.shape[2:], stride, padding, dilation))
        total += 2 * out.size * math.prod(weight.shape[1:])
        return out

    def conv_transpose2d(x: Tensor, weight: Tensor, bias: Any = None, stride: int = 1, **_: Any) -> Tensor:
        nonlocal total
        total += 2 * x.size * math.prod(weight.shape[1:])
        lengths = zip(x.shape[2:], weight.shape[2:], strict=True)
        return nothing(len(x), weight.shape[1], *((n - 1) * stride + k for n, k in lengths))

    def linear(x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
        nonlocal total
        total += 2 * len(x) * weight.size
        return nothing(len(x), len(weight))

    def max_pool2d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
        return nothing(*x.shape[:2], *sides(x, (kernel_size, kernel_size), stride or kernel_size, padding, 1))

    stand_ins: dict[str, Callable[..., Tensor]] = {
        "conv2d": conv2d,
        "conv_transpose2d": conv_transpose2d,
        "linear": linear,
        "max_pool2d": max_pool2d,
        "interpolate": lambda x, size, **_: Tensor(np.zeros((*x.shape[:2], *size), np.float32)),  # it is added to
        "relu": lambda x: x,
        "batch_norm": lambda x, *settings, **more: x,
        "group_norm": lambda x, *settings: x,
    }

    def count() -> int:
        nonlocal total
        counted, total = total, 0
        return counted

    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch.object(ops, name, stand_in))
        yield count
