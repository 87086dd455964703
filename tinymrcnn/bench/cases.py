"""The operators that are measured, each on the same numbers as torch's or torchvision's.

"Backward" is the operator's own backward pass, from the gradient of its result to those of its inputs: the
closure that it recorded here, torch.autograd.grad there; neither side adds anything up on leaves. Where torch
has a choice of memory layouts (convolution) both are measured, and ours is compared with the faster one.

What counts as work: for a convolution the operations of its definition (2 for a multiplication and an addition),
even if an algorithm needs fewer, so that Winograd can exceed the ceiling; for other operators the least bytes that
must be moved: inputs read and outputs written once.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import channels_first
from tinymrcnn.bench.measure import Setting
from tinymrcnn.boxes import nms, paste_masks
from tinymrcnn.data.coco_masks import encode_mask
from tinymrcnn.evaluation.run_lengths import encode_findings
from tinymrcnn.ops import conv2d
from tinymrcnn.roi import roi_align, roi_pool

FLOAT = 4  # bytes
IOU_OPERATIONS = 12  # of one intersection over union: 4 corners, 4 for the overlap, 2 for its area, 2 for the rest


@dataclass(frozen=True)
class Case:
    """One row of the table. amount: how many operations ("FLOP") or bytes ("B") the work counts as. sides: what is
    measured, by name, as functions without arguments; ours comes first, and alone where torch is not installed."""

    name: str
    amount: float
    unit: str
    sides: Mapping[str, Callable[[], object]]
    note: str = ""


def random_boxes(rng, count: int, size, smallest: float = 16, largest: float = 448) -> np.ndarray:
    """(count, 4) float32 boxes in an image of `size` (h, w): any shape, small ones as often as large ones."""
    height, width = size
    sides = np.exp(rng.uniform(np.log(smallest), np.log(largest), (count, 2)))
    corner1 = rng.uniform(0, 1, (count, 2)) * (width, height) - sides / 2
    boxes = np.concatenate([corner1, corner1 + sides], axis=1)
    return boxes.clip(0, (width, height, width, height)).astype(np.float32)


# RoI features


def roi_cases(setting: Setting) -> Iterator[Case]:
    """RoIAlign (two samples a bin and axis) and RoIPool on a map at stride 4."""
    count, channels, height, width = (8, 8, 20, 27) if setting.quick else (512, 256, 200, 272)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, height, width, channels), np.float32)
    boxes = random_boxes(rng, count, (4 * height, 4 * width))
    rois = np.concatenate([np.zeros((count, 1), np.float32), boxes], axis=1)
    ours = {"RoIAlign": functools.partial(roi_align, sampling_ratio=2), "RoIPool": roi_pool}
    theirs = {}
    if setting.torch:
        from torchvision import ops

        theirs = {"RoIAlign": functools.partial(ops.roi_align, sampling_ratio=2), "RoIPool": ops.roi_pool}
    for operator in ours:
        for size in (7, 14):
            upstream = rng.standard_normal((count, size, size, channels), np.float32)
            sides = [_our_roi_sides(setting, ours[operator], features, rois, upstream)]
            if setting.torch:
                sides.append(_their_roi_sides(setting, theirs[operator], features, rois, upstream))
            moved = FLOAT * (features.size + upstream.size + (upstream.size if operator == "RoIPool" else 0))
            names = ("ours", "torchvision")
            for i, direction in enumerate(("forward", "backward")):
                functions = {name: side[i] for name, side in zip(names, sides, strict=False)}
                yield Case(f"{operator} {size}x{size} {direction}", moved, "B", functions)


def _our_roi_sides(setting, operator, features, rois, upstream):
    x = Tensor(setting.ours(channels_first(features)), requires_grad=True)
    rois, size = setting.ours(rois), upstream.shape[1]
    upstream = setting.ours(channels_first(upstream))
    backward = operator(x, rois, size, 0.25).node.backward

    def forward():
        with no_grad():
            return operator(x, rois, size, 0.25)

    return forward, lambda: backward(upstream, (True,))


def _their_roi_sides(setting, operator, features, rois, upstream):
    torch, size = setting.torch, upstream.shape[1]
    x = setting.theirs(channels_first(features)).requires_grad_()
    rois, upstream = setting.theirs(rois), setting.theirs(channels_first(upstream))
    out = operator(x, rois, size, 0.25)

    def forward():
        with torch.no_grad():
            return operator(x, rois, size, 0.25)

    return forward, lambda: torch.autograd.grad(out, x, upstream, retain_graph=True)


# Non-maximum suppression


def nms_cases(setting: Setting) -> Iterator[Case]:
    """The boxes of an image at the RPN's threshold. The work: an IoU of every box that stays with every worse one."""
    for count in (2_000, 12_000):
        rng = np.random.default_rng(count)
        n = count // 50 if setting.quick else count
        boxes, scores = random_boxes(rng, n, (800, 1088)), rng.permutation(n).astype(np.float32) / n
        arrays = setting.ours(boxes), setting.ours(scores)
        kept = nms(boxes, scores, 0.7)
        worse = n - 1 - np.argsort(np.argsort(-scores))[kept]
        sides = {"ours": functools.partial(nms, *arrays, 0.7)}
        if setting.torch:
            from torchvision import ops

            sides["torchvision"] = functools.partial(ops.nms, setting.theirs(boxes), setting.theirs(scores), 0.7)
        note = f"{len(kept)} of {n} boxes stay; {IOU_OPERATIONS} operations for an IoU"
        yield Case(f"NMS of {count:,} boxes", IOU_OPERATIONS * float(worse.sum()), "FLOP", sides, note)


# Convolution


def conv_cases(setting: Setting) -> Iterator[Case]:
    """The 3x3 convolutions of the pyramid and the RPN, and 1x1 ones as in a bottleneck, all with a bias."""
    for size in ((100, 136), (200, 272)):
        for training in (False, True):
            yield _conv_case(setting, 3, 256, 256, size, training)
    yield _conv_case(setting, 1, 64, 512, (100, 136), True)
    yield _conv_case(setting, 1, 512, 256, (100, 136), True)


def _conv_case(setting, kernel, inputs, outputs, size, training) -> Case:
    channels = f"{inputs} channels" if inputs == outputs else f"{inputs} to {outputs} channels"
    name = f"{kernel}x{kernel} convolution, {channels}, {size[0]}x{size[1]}, forward"
    name += " + backward" * training
    if setting.quick:
        inputs, outputs, size = inputs // 16, outputs // 16, (10, 13)
    rng = np.random.default_rng(0)
    image = channels_first(rng.standard_normal((1, *size, inputs), np.float32))
    weight = channels_first(rng.standard_normal((outputs, kernel, kernel, inputs), np.float32))
    bias = rng.standard_normal(outputs, np.float32)
    upstream = channels_first(rng.standard_normal((1, *size, outputs), np.float32))
    sides = {"ours": _our_convolution(setting, image, weight, bias, upstream, training)}
    if setting.torch:
        for layout, side in (("contiguous_format", "torch"), ("channels_last", "torch, channels last")):
            sides[side] = _their_convolution(setting, layout, image, weight, bias, upstream, training)
    return Case(name, conv_operations(weight.shape, size) * (3 if training else 1), "FLOP", sides)


def conv_operations(shape, size) -> int:
    """Of one pass of a convolution with filters of `shape` (O, C, kh, kw) that fills an output of `size` (h, w);
    the gradients of the image and of the filters take as many each."""
    return 2 * int(np.prod(shape)) * size[0] * size[1]


def _our_convolution(setting, image, weight, bias, upstream, training):
    x, w, b = (Tensor(setting.ours(array), requires_grad=training) for array in (image, weight, bias))
    upstream, padding = setting.ours(upstream), weight.shape[2] // 2

    def step():
        return conv2d(x, w, b, padding=padding).node.backward(upstream, (True, True, True))

    return step if training else lambda: conv2d(x, w, b, padding=padding)


def _their_convolution(setting, layout, image, weight, bias, upstream, training):
    torch, padding = setting.torch, weight.shape[2] // 2
    layout = {"memory_format": getattr(torch, layout)}
    x, w, upstream = (setting.theirs(array).to(**layout) for array in (image, weight, upstream))
    inputs = [tensor.requires_grad_(training) for tensor in (x, w, setting.theirs(bias))]

    def step():
        out = torch.nn.functional.conv2d(*inputs, padding=padding)
        return torch.autograd.grad(out, inputs, upstream)

    return step if training else lambda: torch.nn.functional.conv2d(*inputs, padding=padding)


# Pasting


def paste_cases(setting: Setting) -> Iterator[Case]:
    """100 masks of 28x28 into an image, as float32 on the host; and to COCO's run lengths, beside pycocotools' encoding
    of the pasted ones. The work of that: a sample (three operations) and a comparison for each pixel of the boxes."""
    count, size = (5, (60, 80)) if setting.quick else (100, (800, 1088))
    rng = np.random.default_rng(0)
    masks, boxes = rng.random((count, 28, 28), np.float32), random_boxes(rng, count, size, 8, size[0] / 2)
    sides: dict[str, Callable[[], object]] = {}
    sides["ours"] = functools.partial(paste_masks, setting.ours(masks), setting.ours(boxes), size)
    if setting.torch:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        their_masks, their_boxes = setting.theirs(masks[:, None]), setting.theirs(boxes)
        sides["torchvision"] = lambda: paste_masks_in_image(their_masks, their_boxes, size).cpu()
    note = "our result is made of pages that the system fills with zeros when they are first touched"
    moved = FLOAT * (masks.size + count * size[0] * size[1])
    yield Case("pasting 100 masks into 800x1088", moved, "B", sides, note)

    def pasted_and_encoded():
        return [encode_mask(mask >= 0.5) for mask in paste_masks(masks, boxes, size)]

    pixels = float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())
    sides = {"ours": functools.partial(encode_findings, masks, boxes, size), "pycocotools": pasted_and_encoded}
    note = "the other side pastes as we do, and then pycocotools encodes"
    yield Case("run lengths of 100 masks in 800x1088", 4 * pixels, "FLOP", sides, note)
