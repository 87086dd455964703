"""The box branch: what is in each RoI, and the box around it.

Girshick, Fast R-CNN (2015), section 2; in Mask R-CNN it runs in parallel with the mask branch (section 3). Head,
targets, loss and inference, in this order. Lesson 08 steps through them.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, in_parts
from tinymrcnn.backend import Array, array_module, like, to_numpy
from tinymrcnn.boxes import BoxCoder, Matcher, box_iou, clip_boxes_to_image, sample_balanced
from tinymrcnn.boxes.nms import survivors
from tinymrcnn.nn import Linear, Module
from tinymrcnn.nn.init import normal
from tinymrcnn.settings import Count, Fraction, NotNegative, PoolSize, Positive, Settings, Width

# Shapes below: R RoIs, P positives among them, G ground-truth objects, K classes (0 is the background), D detections


@dataclass(frozen=True)
class BoxSettings(Settings):
    """The box branch."""

    pool: PoolSize = 7  # cells of an RoI's grid, along each axis
    hidden: Width = 128
    fg_iou: Fraction = 0.5
    samples: Count = 32  # RoIs an image
    positive_fraction: Fraction = 0.25
    weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)  # of the corrections x, y, w, h
    beta: NotNegative = 1 / 9  # of the smooth L1 loss; 0 is L1
    score_threshold: Fraction = 0.05
    nms: Fraction = 0.5
    max_detections: Count = 100  # for each image
    min_box_size: NotNegative = 1e-2  # pixels: detections with a smaller side are dropped
    clip_results: bool = False  # boxes are clipped once more, and empty ones dropped, in the original image

    def coder(self) -> BoxCoder:
        return BoxCoder(self.weights)


# The head


class BoxHead(Module):
    """Two fully connected layers on the flattened RoI features (Figure 4, right)."""

    def __init__(self, in_channels: int, settings: BoxSettings):
        super().__init__()
        self.fc6 = Linear(in_channels * settings.pool**2, settings.hidden)
        self.fc7 = Linear(settings.hidden, settings.hidden)

    def forward(self, roi_features: Tensor) -> Tensor:
        """(R, C, pool, pool) -> (R, hidden)."""
        return in_parts(lambda x: ops.relu(self.fc7(ops.relu(self.fc6(x.flatten(1))))), roi_features, 256)


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

    boxes: (S, 4). objects: (P,) the ground truth of each positive, labels: (S,) its class, 0 for the rest; both int64.
    All are on the host, where the samples are drawn (but the boxes of MNC's second pass)."""

    boxes: Array
    objects: np.ndarray
    labels: np.ndarray

    @property
    def positives(self) -> Array:
        """The boxes of the positives, (P, 4): the RoIs of the mask branch."""
        return self.boxes[: len(self.objects)]


def box_targets(rois: Array, gt_boxes: Array, settings: BoxSettings) -> Array:
    """The object of every RoI: (R, 4) and (G, 4) ground truth to (R,) int64, -1 for the background."""
    return Matcher(settings.fg_iou, settings.fg_iou)(box_iou(gt_boxes, rois))


def sample_rois(
    proposals: np.ndarray, target: dict[str, np.ndarray], *, settings: BoxSettings, rng: np.random.Generator
) -> RoISamples:
    """Draw the RoIs of one image from its proposals and the ground truth itself, which is appended so that there
    are positives from the first step on. The background is drawn too: the branch must learn to say no."""
    candidates = np.concatenate([proposals, target["boxes"]])
    matches = box_targets(candidates, target["boxes"], settings)
    positives, negatives = sample_balanced(matches, settings.samples, settings.positive_fraction, rng)
    classes = np.append(target["labels"][matches[positives]], np.zeros_like(negatives))
    return RoISamples(candidates[np.concatenate([positives, negatives])], matches[positives], classes)


# Loss


def box_loss(
    logits: Tensor, deltas: Tensor, *, gt_boxes: list[Array], samples: list[RoISamples], settings: BoxSettings
) -> dict[str, tuple[Tensor, int]]:
    """Which class (cross-entropy over all samples), and where (smooth L1 over the positives, on the deltas of their
    class only). Fast R-CNN, formula 1.

    logits (R, K), deltas (R, 4K), or (R, 4) for all classes alike, of all images' samples. gt_boxes: per image (G, 4).
    Returns the (sum, count) of loss_classifier and loss_box_reg; both counts are R."""
    labels = np.concatenate([s.labels for s in samples])
    classification = ops.cross_entropy(logits, like(labels, logits.data), reduction="sum")
    positives = np.flatnonzero(labels)
    column = labels[positives] if deltas.shape[1] > 4 else 0 * positives
    of_class = deltas.reshape(len(labels), deltas.shape[1] // 4, 4)[positives, column]  # (P, 4)
    boxes = np.concatenate([to_numpy(s.positives) for s in samples])
    objects = np.concatenate([to_numpy(b)[s.objects] for b, s in zip(gt_boxes, samples, strict=True)])
    targets = like(settings.coder().encode(objects, boxes), logits.data)
    box = ops.smooth_l1_loss(of_class, targets, beta=settings.beta, reduction="sum")
    return {"loss_classifier": (classification, len(labels)), "loss_box_reg": (box, len(labels))}


# Inference


def decode_detections(
    logits: Array, deltas: Array, *, rois: Array, image_size: tuple[int, int], settings: BoxSettings
) -> dict[str, np.ndarray]:
    """The detections of one image: every class of every RoI that scores well, without duplicates within a class.

    logits (R, K), deltas (R, 4K), rois (R, 4). Returns boxes (D, 4), scores (D,), labels (D,), the best
    max_detections over all classes, best first, on the host. Whatever is not finite is dropped."""
    return as_detections(to_numpy(best_detections(logits, deltas, rois, image_size, settings=settings)))


def best_detections(
    logits: Array, deltas: Array, rois: Array, image_size: tuple[int, int], *, settings: BoxSettings
) -> Array:
    """What decode_detections returns as one array where the logits are, (max_detections, 6): x1, y1, x2, y2, score,
    label. It waits for nothing: where there are fewer detections, the rest has the score minus infinity."""
    xp, classes = array_module(logits), logits.shape[1] - 1
    scores = ops.softmax(Tensor(logits), 1).data[:, 1:].reshape(-1)  # (R (K - 1),), as the arrays that follow
    boxes = settings.coder().decode(deltas, like(rois, deltas))[:, 1:]
    boxes = clip_boxes_to_image(boxes, image_size).reshape(-1, 4)
    # comparisons with NaN are false, so what is not finite goes with the low scores
    good = (scores > settings.score_threshold) & (boxes[:, 2:] - boxes[:, :2] >= settings.min_box_size).all(axis=1)
    scores = xp.where(good, scores, -np.inf)
    order = xp.argsort(-scores.reshape(-1, classes), axis=0, kind="stable")  # of each class, the best RoI first
    rows = (order.T * classes + xp.arange(classes)[:, None]).reshape(-1)  # class by class
    keep = survivors(boxes[rows], good[rows], len(rois) * np.arange(classes + 1), settings.nms)
    scores[rows] = xp.where(keep, scores[rows], -np.inf)
    best = xp.argsort(-scores, kind="stable")[: settings.max_detections]
    labels = (best % classes + 1).astype(scores.dtype)
    return xp.concatenate([boxes[best], scores[best, None], labels[:, None]], axis=1)


def as_detections(best: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of best_detections on the host as boxes (D, 4), scores (D,) and labels (D,)."""
    best = best[best[:, 4] > -np.inf]
    return {"boxes": best[:, :4], "scores": best[:, 4], "labels": best[:, 5].astype(np.int64)}
