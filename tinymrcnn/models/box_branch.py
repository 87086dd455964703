"""The box branch: what is in each RoI, and the box around it.

Girshick, Fast R-CNN (2015), section 2; in Mask R-CNN it runs beside the mask branch (section 3). Head, targets, loss
and inference, in this order. Lesson 08 steps through them.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import array_module, like, to_numpy
from tinymrcnn.boxes import Matcher, batched_nms, box_iou, clip_boxes_to_image, sample_balanced
from tinymrcnn.nn import Linear, Module
from tinymrcnn.nn.init import normal

# The head


class BoxHead(Module):
    """Two fully connected layers on the flattened RoI features (Figure 4, right)."""

    def __init__(self, in_channels: int, pool: int, hidden: int):
        super().__init__()
        self.fc6 = Linear(in_channels * pool * pool, hidden)
        self.fc7 = Linear(hidden, hidden)

    def forward(self, roi_features: Tensor) -> Tensor:
        """(R, C, pool, pool) -> (R, hidden)."""
        return ops.relu(self.fc7(ops.relu(self.fc6(roi_features.flatten(1)))))


class BoxPredictor(Module):
    """A score for every class and a box correction for every class."""

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.cls_score = Linear(in_features, num_classes, init=normal(0.01))
        self.bbox_pred = Linear(in_features, 4 * num_classes, init=normal(0.001))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> logits (R, num_classes) and deltas (R, 4 num_classes)."""
        return self.cls_score(x), self.bbox_pred(x)


# Targets


@dataclass
class RoISamples:
    """The RoIs of one image on which the box and mask branch are trained, positives first.

    boxes: (S, 4) device array. objects: (P,) the ground truth of each positive, labels: (S,) its class, 0 for the
    rest; both int64 on the host."""

    boxes: object
    objects: np.ndarray
    labels: np.ndarray

    @property
    def positives(self):
        """The boxes of the positives, (P, 4): the RoIs of the mask branch."""
        return self.boxes[: len(self.objects)]


def box_targets(proposals, boxes, fg_iou: float = 0.5):
    """The object of every proposal: (P, 4) and (G, 4) ground truth to (P,) int64, -1 for the background."""
    return Matcher(fg_iou, fg_iou)(box_iou(boxes, proposals))


def sample_rois(proposals, target: dict, fg_iou: float, count: int, positive_fraction: float, rng) -> RoISamples:
    """Draw the RoIs of one image from its proposals and the ground truth itself, which is appended so that there
    are positives from the first step on. The background is drawn too: the branch must learn to say no."""
    xp = array_module(proposals)
    candidates = xp.concatenate([proposals, target["boxes"]])
    matches = to_numpy(box_targets(candidates, target["boxes"], fg_iou))
    positives, negatives = sample_balanced(np.clip(matches + 1, 0, 1), count, positive_fraction, rng)
    index = np.concatenate([positives, negatives])
    labels = np.zeros(len(index), np.int64)
    labels[: len(positives)] = to_numpy(target["labels"])[matches[positives]]
    return RoISamples(candidates[like(index, candidates)], matches[positives], labels)


# Loss


def box_loss(logits: Tensor, deltas: Tensor, samples: list[RoISamples], boxes, coder, beta: float):
    """Which class (cross-entropy over all samples), and where (smooth L1 over the positives, on the deltas of their
    class only). Fast R-CNN, formula 1.

    logits (S, K), deltas (S, 4K) of all images' samples. boxes: per image the ground truth (G, 4).
    Returns ((sum, count) of the classification loss, (sum, count) of the box loss); both counts are S."""
    xp = array_module(logits.data)
    labels = np.concatenate([s.labels for s in samples])
    classification = ops.cross_entropy(logits, like(labels, logits.data), reduction="sum")
    positives = np.flatnonzero(labels)
    of_class = deltas.reshape(len(labels), deltas.shape[1] // 4, 4)[positives, labels[positives]]
    wanted = [coder.encode(b[like(s.objects, b)], s.positives) for b, s in zip(boxes, samples, strict=True)]
    box = ops.smooth_l1_loss(of_class, xp.concatenate(wanted), beta=beta, reduction="sum")
    return (classification, len(labels)), (box, len(labels))


# Inference


def decode_detections(logits, deltas, boxes, image_size, coder, score_threshold, nms, max_detections, min_size) -> dict:
    """The detections of one image: every class of every RoI that scores well, without duplicates within a class.

    logits (R, K), deltas (R, 4K), boxes (R, 4). Returns boxes (D, 4), scores (D,), labels (D,), the best
    max_detections over all classes, best first. Whatever is not finite is dropped."""
    xp = array_module(logits)
    num_classes = logits.shape[1]
    scores = ops.softmax(Tensor(logits), 1).data[:, 1:].reshape(-1)
    corrected = clip_boxes_to_image(coder.decode(deltas, boxes), image_size)[:, 1:].reshape(-1, 4)
    labels = xp.tile(xp.arange(1, num_classes), len(boxes))
    sizes = corrected[:, 2:] - corrected[:, :2]
    # comparisons with NaN are false, so what is not finite goes with the low scores
    good = xp.flatnonzero((scores > score_threshold) & (sizes >= min_size).all(axis=1) & xp.isfinite(sizes).all(axis=1))
    corrected, scores, labels = corrected[good], scores[good], labels[good]
    keep = batched_nms(corrected, scores, labels, nms)[:max_detections]
    return {"boxes": corrected[keep], "scores": scores[keep], "labels": labels[keep]}
