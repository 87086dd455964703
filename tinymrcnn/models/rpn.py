"""The region proposal network: at every cell of every level, which of a few anchors holds an object, and how to
correct it.

Ren et al., Faster R-CNN (2015), section 3.1; on a pyramid as in section 4.1 of the FPN paper. Head, targets, loss
and inference, in this order. Lesson 05 steps through them.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, cat
from tinymrcnn.backend import array_module, like, to_numpy
from tinymrcnn.boxes import Matcher, batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes, sample_balanced
from tinymrcnn.nn import Conv2d, Module, Sequential
from tinymrcnn.nn.init import normal

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
            n = len(feature)
            hidden = self.conv(feature)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).reshape(n, -1))
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(n, -1, 4))
        return cat(logits, dim=1), cat(deltas, dim=1)


# Targets


@dataclass
class AnchorSamples:
    """Which anchors of one image the loss looks at: host int64 indices. objects: the ground truth of each positive."""

    positives: np.ndarray
    negatives: np.ndarray
    objects: np.ndarray


def rpn_targets(anchors, boxes, fg_iou: float = 0.7, bg_iou: float = 0.3):
    """The object of every anchor: (A, 4) anchors and (G, 4) ground truth to (A,) int64, -1 background, -2 ignored.

    Positive from fg_iou on, or as the best anchor of some object; background below bg_iou; ignored between."""
    return Matcher(fg_iou, bg_iou, allow_low_quality=True)(box_iou(boxes, anchors))


def sample_anchors(matches, count: int, positive_fraction: float, rng) -> AnchorSamples:
    """Draw up to `count` anchors of one image, at most the given fraction of them positive."""
    matches = to_numpy(matches)
    positives, negatives = sample_balanced(np.clip(matches + 1, -1, 1), count, positive_fraction, rng)
    return AnchorSamples(positives, negatives, matches[positives])


# Loss


def rpn_loss(logits: Tensor, deltas: Tensor, anchors, boxes, samples: list[AnchorSamples], coder, beta: float):
    """Is there an object (binary cross-entropy over the sample), and where (smooth L1 over its positives)?

    logits (N, A), deltas (N, A, 4), anchors (A, 4), boxes: per image (G, 4).
    Returns ((sum, count) of the objectness loss, (sum, count) of the box loss); both counts are the sample's size."""
    xp, num_anchors = array_module(anchors), len(anchors)
    positives = np.concatenate([i * num_anchors + s.positives for i, s in enumerate(samples)])
    negatives = np.concatenate([i * num_anchors + s.negatives for i, s in enumerate(samples)])
    index = np.concatenate([positives, negatives])
    labels = (np.arange(len(index)) < len(positives)).astype(np.dtype(logits.dtype))
    objectness = ops.binary_cross_entropy_with_logits(logits.reshape(-1)[index], like(labels, anchors), reduction="sum")
    wanted = [
        coder.encode(b[like(s.objects, anchors)], anchors[like(s.positives, anchors)])
        for b, s in zip(boxes, samples, strict=True)
    ]
    box = ops.smooth_l1_loss(deltas.reshape(-1, 4)[positives], xp.concatenate(wanted), beta=beta, reduction="sum")
    return (objectness, len(index)), (box, len(index))


# Inference


def decode_proposals(logits, deltas, anchors, level_sizes, image_size, coder, pre_nms, post_nms, nms, min_size):
    """The proposals of one image: the best anchors of every level, corrected, clipped, without duplicates.

    logits (A,), deltas (A, 4), anchors (A, 4). level_sizes: how many of the anchors belong to each level.
    pre_nms: kept per level before non-maximum suppression, post_nms: over all levels after it.
    Returns (boxes (P, 4), logits (P,)), best first. Proposals that are not finite are dropped."""
    xp = array_module(logits)
    chosen, levels, start = [], [], 0
    for level, size in enumerate(level_sizes):
        best = xp.argsort(-logits[start : start + size], kind="stable")[:pre_nms] + start
        chosen.append(best)
        levels.append(xp.full(len(best), level, xp.int64))
        start += size
    index, levels = xp.concatenate(chosen), xp.concatenate(levels)
    boxes, scores = coder.decode(deltas[index], anchors[index])[:, 0], logits[index]
    finite = xp.isfinite(boxes).all(axis=1) & xp.isfinite(scores)
    boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
    boxes = clip_boxes_to_image(boxes, image_size)
    keep = remove_small_boxes(boxes, min_size)
    boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    keep = batched_nms(boxes, scores, levels, nms)[:post_nms]
    return boxes[keep], scores[keep]
