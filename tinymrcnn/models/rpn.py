"""The region proposal network: at every cell of every level, which of a few anchors holds an object, and how to
correct it.

Ren et al., Faster R-CNN (2015), section 3.1; on a pyramid as in section 4.1 of the FPN paper. Head, targets, loss
and inference, in this order. Lesson 05 steps through them.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, cat
from tinymrcnn.backend import Array, array_module, like, to_device, to_numpy
from tinymrcnn.boxes import BoxCoder, box_iou, clip_boxes_to_image, sample_balanced
from tinymrcnn.boxes.anchors import AnchorGenerator
from tinymrcnn.boxes.matching import Matcher
from tinymrcnn.boxes.nms import survivors
from tinymrcnn.nn import Conv2d, Module, Sequential
from tinymrcnn.nn.init import normal
from tinymrcnn.settings import Count, Fraction, NotNegative, Positive, Settings, Width

# Shapes below: N images, A anchors of all levels together, G ground-truth objects, P proposals

CODER = BoxCoder()


@dataclass(frozen=True)
class RPNSettings(Settings):
    """The region proposal network. A "top n" is a count for each image."""

    anchor_sizes: tuple[tuple[Positive, ...], ...] = ((16,), (32,), (64,), (128,))  # pixels, for each level
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)  # height / width
    anchor_order: Literal["size", "ratio"] = "size"  # which of size and ratio is the outer loop within a cell
    anchor_rounded: bool = False  # half widths and heights to whole pixels, as torchvision does
    nominal_strides: bool = True  # else padded size // map size, as torchvision does
    channels: Width = 64
    fg_iou: Fraction = 0.7
    bg_iou: Fraction = 0.3
    samples: Count = 256
    positive_fraction: Fraction = 0.5
    box_beta: NotNegative = 1 / 9  # of the smooth L1 loss; 0 is L1
    fixed_count: bool = False  # the losses are divided by `samples` an image even where fewer were drawn
    pre_nms_train: Count = 500  # per level
    pre_nms_test: Count = 500
    post_nms_train: Count = 250  # over all levels
    post_nms_test: Count = 250
    nms: Fraction = 0.7
    min_proposal_size: NotNegative = 1e-3  # pixels: proposals with a smaller side are dropped

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"RPNSettings: bg_iou is {self.bg_iou}, above fg_iou, {self.fg_iou}.")
        if not self.aspect_ratios or not all(self.anchor_sizes):
            sizes, ratios = self.anchor_sizes, self.aspect_ratios
            raise ValueError(f"RPNSettings: every level needs an anchor, not anchor_sizes {sizes} in ratios {ratios}.")
        if len({len(sizes) for sizes in self.anchor_sizes}) > 1:
            rule = "every level must have as many sizes as the others, because one head predicts for all of them"
            raise ValueError(f"RPNSettings: anchor_sizes is {self.anchor_sizes}; {rule}.")

    def matcher(self) -> Matcher:
        return Matcher(self.fg_iou, self.bg_iou, allow_low_quality=True)

    def anchor_generator(self) -> AnchorGenerator:
        return AnchorGenerator(self.anchor_sizes, self.aspect_ratios, self.anchor_rounded, self.anchor_order)


# The head


class RPNHead(Module):
    """A 3x3 convolution with ReLU, then per anchor one objectness logit and four box corrections; the same for all
    levels."""

    def __init__(self, in_channels: int, channels: int, num_anchors: int):
        super().__init__()
        self.conv = Sequential(Sequential(Conv2d(in_channels, channels, 3, padding=1, relu=True, init=normal(0.01))))
        self.cls_logits = Conv2d(channels, num_anchors, 1, init=normal(0.01))
        self.bbox_pred = Conv2d(channels, 4 * num_anchors, 1, init=normal(0.01))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (N, A) and deltas (N, A, 4) for all A anchors, in (level, row, column, anchor) order."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1))
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return cat(logits, dim=1), cat(deltas, dim=1)


# Targets


@dataclass
class AnchorSamples:
    """Which anchors of one image the loss looks at: host int64 indices. objects: the ground truth of each positive."""

    positives: np.ndarray
    negatives: np.ndarray
    objects: np.ndarray


class Anchors(NamedTuple):
    """The anchors of all levels. boxes: (A, 4) device array, finest level first. level_sizes: how many of them belong
    to each level."""

    boxes: Array
    level_sizes: list[int]


@functools.lru_cache(maxsize=8)
def anchors_on(device: str, dtype: Any, generator: AnchorGenerator, *grids: Any) -> Anchors:
    """The Anchors generator(*grids), of all levels, on a device, where they stay: do not change them."""
    levels = generator(*grids)
    return Anchors(to_device(np.concatenate(levels).astype(dtype), device), [len(level) for level in levels])


class RPNOutputs(NamedTuple):
    """The RPN's outputs for every anchor: logits (N, A) and deltas (N, A, 4)."""

    logits: Tensor
    deltas: Tensor
    anchors: Anchors

    def at(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Those of some anchors, (M,) places among the (N, A): logits (M,) and deltas (M, 4)."""
        return self.logits.reshape(-1)[index], self.deltas.reshape(-1, 4)[index]


def rpn_targets(anchors: Array, gt_boxes: Array, settings: RPNSettings) -> Array:
    """The object of every anchor: (A, 4) anchors and (G, 4) ground truth to (A,) int64, -1 background, -2 ignored.

    Positive from fg_iou on, or as the best anchor of some object; background below bg_iou; ignored between."""
    return settings.matcher()(box_iou(gt_boxes, anchors))


def sample_anchors(matches: Array, settings: RPNSettings, rng: np.random.Generator) -> AnchorSamples:
    """Draw the anchors that the loss looks at from the result of rpn_targets, (A,)."""
    matches = to_numpy(matches)
    positives, negatives = sample_balanced(matches, settings.samples, settings.positive_fraction, rng)
    return AnchorSamples(positives, negatives, matches[positives])


# Loss


def rpn_loss(
    outputs: Any, gt_boxes: list[Array], *, samples: list[AnchorSamples], settings: RPNSettings
) -> dict[str, tuple[Tensor, int]]:
    """Object or background (binary cross-entropy over all samples), and where (smooth L1 over the positives, on the
    corrections). Faster R-CNN, formula 1.

    outputs: RPNOutputs, or few_anchors.FewAnchors. gt_boxes: per image (G, 4). Returns the (sum, count) of
    loss_objectness and loss_rpn_box_reg; both counts are the number of samples."""
    anchors = outputs.anchors.boxes
    positives = np.concatenate([i * len(anchors) + s.positives for i, s in enumerate(samples)])
    negatives = np.concatenate([i * len(anchors) + s.negatives for i, s in enumerate(samples)])
    index = np.concatenate([positives, negatives])
    labels = (np.arange(len(index)) < len(positives)).astype(np.dtype(anchors.dtype))
    logits, deltas = outputs.at(index)
    objectness = ops.binary_cross_entropy_with_logits(logits, like(labels, anchors), reduction="sum")
    objects = np.concatenate([to_numpy(b)[s.objects] for b, s in zip(gt_boxes, samples, strict=True)])
    chosen = like(np.concatenate([s.positives for s in samples]), anchors)
    targets = CODER.encode(like(objects, anchors), anchors[chosen])
    box = ops.smooth_l1_loss(deltas[: len(positives)], targets, beta=settings.box_beta, reduction="sum")
    count = settings.samples * len(samples) if settings.fixed_count else len(index)
    return {"loss_objectness": (objectness, count), "loss_rpn_box_reg": (box, count)}


# Inference


def decode_proposals(
    logits: Array, deltas: Array, *, anchors: Anchors, image_sizes: list[tuple[int, int]], settings: RPNSettings,
    training: bool,
) -> list[tuple[Array, Array]]:  # fmt: skip
    """The proposals of all images: the best anchors of every level, corrected, clipped, without duplicates.

    logits (N, A), deltas (N, A, 4). training: which of the settings' numbers of proposals hold.
    Returns (boxes (P, 4), logits (P,)) of every image, best first, on the host: a GPU works on as many candidates of
    every image and level as may be left, and what is left of them is copied, in one piece. Proposals that are not
    finite are dropped."""
    xp, pre_nms = array_module(logits), settings.pre_nms_train if training else settings.pre_nms_test
    post_nms = settings.post_nms_train if training else settings.post_nms_test
    offsets = np.cumsum([0, *anchors.level_sizes])
    chosen = [_smallest(level, pre_nms) for level in xp.split(-logits, offsets[1:-1].tolist(), axis=1)]
    counts, images = [best.shape[1] for best in chosen], np.arange(len(logits))[:, None]
    index = xp.concatenate(chosen, axis=1) + like(np.repeat(offsets[:-1], counts), logits)  # (N, K) anchors
    rows = (index + like(images * logits.shape[1], logits)).reshape(-1)
    scores = logits.reshape(-1)[rows].reshape(index.shape)
    boxes = CODER.decode(deltas.reshape(-1, 4)[rows], anchors.boxes[index.reshape(-1)]).reshape(*index.shape, 4)
    finite = xp.isfinite(boxes).all(axis=2) & xp.isfinite(scores)
    boxes = clip_boxes_to_image(boxes, image_sizes)
    good = finite & (boxes[..., 2:] - boxes[..., :2] >= settings.min_proposal_size).all(axis=2)
    starts = np.append(np.cumsum([0, *counts])[:-1] + images * sum(counts), index.size)  # of every image's levels
    keep = survivors(boxes.reshape(-1, 4), good.reshape(-1), starts, settings.nms).reshape(index.shape)
    ranked = xp.where(keep, scores, -np.inf)
    best = xp.argsort(-ranked, axis=1, kind="stable")[:, :post_nms] + like(images * sum(counts), logits)
    found = xp.concatenate([boxes, ranked[..., None]], axis=2).reshape(-1, 5)[best.reshape(-1)]
    of_images = to_numpy(found).reshape(*best.shape, 5)  # the wait
    return [(rows[:, :4], rows[:, 4]) for rows in (image[image[:, 4] > -np.inf] for image in of_images)]


def _smallest(values: Array, count: int) -> Array:
    """argsort(values, axis=1, kind="stable")[:, :count]; NumPy, which takes longer over it, sorts only what may be
    among them."""
    if not isinstance(values, np.ndarray) or count >= values.shape[1]:
        return array_module(values).argsort(values, axis=1, kind="stable")[:, :count]
    pairs = zip(values, np.partition(values, count - 1, axis=1)[:, count - 1], strict=True)
    some = ((row, np.flatnonzero(~(row > limit))) for row, limit in pairs)  # and what is no number, which comes last
    return np.stack([index[row[index].argsort(kind="stable")[:count]] for row, index in some])
