"""FCIS: the backbone's last stage and position-sensitive maps run once on the image, and RoIs only read them.

Li et al., Fully Convolutional Instance-aware Semantic Segmentation (2017), sections 2 and 2.3, figure 3; the article's
section 6 compares Mask R-CNN with it. An RoI is cut into group x group parts, and each part reads score maps of its
own: for every class one that says "inside the object" and one that says "in its box, but outside of it". Nothing is
computed for a single RoI but means:

    inside high, outside low    the object                 max(inside, outside) high: the class is here
    inside low, outside high    in its box, beside it      softmax of the two: the mask
    both low                    not this class's box

Settings, head, reading, loss, inference and the model, in this order; what comes before is in two_stage.py, how masks
are voted for in voting.py. The differences from the authors' code: how bins are rounded, see read_rois; the RoIs of a
training step are drawn at random as everywhere here, where the authors take those with the largest losses (OHEM); the
box maps have no second set for the background.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, maximum
from tinymrcnn.backend import Array, array_module, backend_of, like, to_numpy
from tinymrcnn.boxes import clip_boxes_to_image, crop_masks
from tinymrcnn.models.box_branch import BoxSettings, RoISamples, box_loss
from tinymrcnn.models.resnet import make_stage
from tinymrcnn.models.transform import Batch
from tinymrcnn.models.two_stage import LossSums, TwoStage
from tinymrcnn.models.voting import (
    Candidates,
    VotingSettings,
    candidates_of,
    cut_at_half,
    decode_candidates,
    masks_over,
)
from tinymrcnn.nn import Conv2d, Module
from tinymrcnn.nn.init import normal
from tinymrcnn.roi.ps_roi_pool import ps_roi_pool_unchecked
from tinymrcnn.roi.rois import boxes_to_rois
from tinymrcnn.settings import NotNegative, PoolSize, Width

# Shapes below: N images, R RoIs (of one image, or of all), P positives, K classes, D detections, masks of m x m cells


@dataclass(frozen=True)
class FCISSettings(VotingSettings):
    """The position-sensitive maps, and what is read from them."""

    channels: Width = 96  # of the 1x1 convolution before the maps
    group: PoolSize = 7  # the parts of an RoI along each axis, with maps of their own
    pooled: PoolSize = 21  # the cells of an RoI's grid, along each axis
    mask_weight: NotNegative = 10.0  # of the mask loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group > self.pooled:
            raise ValueError(
                f"FCISSettings: of {self.group} x {self.group} parts of an RoI, group, a grid of {self.pooled} x "
                f"{self.pooled} cells, pooled, would read some only."
            )


# The head


class ScoreMaps(Module):
    """A 1x1 convolution with ReLU on the whole map, then one that makes the score maps and one that makes the box
    maps, which are the same for all classes."""

    def __init__(self, in_channels: int, num_classes: int, settings: FCISSettings) -> None:
        super().__init__()
        self.conv_new = Conv2d(in_channels, settings.channels, 1, padding=1, relu=True)
        self.cls_seg = Conv2d(settings.channels, 2 * num_classes * settings.group**2, 1, init=normal(0.01))
        self.bbox = Conv2d(settings.channels, 4 * settings.group**2, 1, init=normal(0.01))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> scores (N, 2 K group^2, H + 2, W + 2) and boxes (N, 4 group^2, H + 2, W + 2): around the map
        is a rim of one cell, for ps_roi_pool never reads the last row and column.

        Channel ((class * 2 + inside) * group + row) * group + column, and (coordinate * group + row) * group + column.
        """
        hidden = self.conv_new(x)
        return self.cls_seg(hidden), self.bbox(hidden)


# Reading


class Reading(NamedTuple):
    """What the maps say of RoIs. rois: per image (R_i, 4), on whole pixels. scores: (R, K, 2, m, m),
    outside and inside. deltas: (R, 4), the corrections of the boxes."""

    rois: list[Array]
    scores: Tensor
    deltas: Tensor


def on_pixels(boxes: Array) -> Array:
    """Boxes (R, 4) with their corners on those of pixels, at least one wide and high: what is read of them, so that
    class, box and mask are those of what has been read."""
    xp = array_module(boxes)
    whole = xp.trunc(boxes)
    whole = whole + xp.trunc(2 * (boxes - whole))  # halves away from zero
    low = whole[:, :2]
    return xp.concatenate([low, xp.maximum(whole[:, 2:], low + 1)], axis=1)


def read_rois(maps: tuple[Tensor, Tensor], rois: list[Array], stride: int, settings: FCISSettings) -> Reading:
    """Read RoIs, per image (R_i, 4), from the maps that ScoreMaps makes, whose cells are `stride` pixels wide.

    The corners of RoIs are rounded to pixels, as in the authors' code, and not to the maps' cells, as ps_roi_pool would
    round them; and so are the bins, of which the authors' are rounded outwards to cells."""
    rois = [on_pixels(boxes) for boxes in rois]
    joined = like(boxes_to_rois([boxes + stride for boxes in rois]), maps[0].data)  # the maps' rim is a cell
    size, group = settings.pooled, settings.group
    scores, deltas = (ps_roi_pool_unchecked(each, joined, size, 1.0, group, split=stride) for each in maps)
    return Reading(rois, scores.reshape(len(joined), scores.shape[1] // 2, 2, size, size), deltas.mean((2, 3)))


def class_logits(scores: Tensor) -> Tensor:
    """(R, K, 2, m, m) -> (R, K): a class is there where the pixels are inside or outside of it, whichever is more."""
    return maximum(scores[:, :, 0], scores[:, :, 1]).mean((2, 3))


def mask_logits(scores: Tensor, rows: np.ndarray, labels: np.ndarray) -> Tensor:
    """(R, K, 2, m, m) -> (P, m, m), of P rows the softmax of inside against outside for a class each, as logits: its
    sigmoid is the mask. rows, labels: (P,) host integers."""
    return scores[rows, labels, 1] - scores[rows, labels, 0]


# Loss


def fcis_mask_targets(masks: Array, rois: Array, *, objects: np.ndarray, settings: FCISSettings) -> Array:
    """What each positive RoI should say: masks (G, H, W) of the image, rois (P, 4), objects (P,) host indices of the
    masks, to (P, m, m) floats, 0 and 1."""
    crops = crop_masks(masks, like(rois, masks), settings.pooled, index=like(objects, masks))
    targets: Array = (crops >= settings.mask_threshold).astype(crops.dtype)
    return targets


def fcis_mask_loss(
    scores: Tensor, samples: list[RoISamples], *, targets: list[Array], settings: FCISSettings
) -> tuple[Tensor, int]:
    """Inside or outside (cross-entropy of the two), on the maps of each positive's class: a mean over pixels, times
    mask_weight, over all sampled RoIs and not only the positives.

    scores: (R, K, 2, m, m) of all images' samples. targets: per image (P_i, m, m). Returns (sum, count), count = R."""
    starts = np.cumsum([0] + [len(s.labels) for s in samples])[:-1]
    rows = np.concatenate([start + np.arange(len(s.objects)) for start, s in zip(starts, samples, strict=True)])
    labels = np.concatenate([s.labels for s in samples])
    own = mask_logits(scores, rows, labels[rows])
    joined = backend_of(*targets).module.concatenate(targets)
    total = ops.binary_cross_entropy_with_logits(own, joined, reduction="sum")
    return total * (settings.mask_weight / settings.pooled**2), len(labels)


# Inference


def refine(reading: Reading, sizes: list[tuple[int, int]], settings: BoxSettings) -> list[Array]:
    """The RoIs with their corrections, clipped to the images of these (height, width): per image (R_i, 4).

    An RoI whose correction is not finite stays as it is."""
    coder, ends = settings.coder(), np.cumsum([len(rois) for rois in reading.rois])[:-1].tolist()
    refined = []
    for rois, deltas, size in zip(reading.rois, np.split(to_numpy(reading.deltas.data), ends), sizes, strict=True):
        boxes = clip_boxes_to_image(coder.decode(deltas, rois)[:, 0], size)
        refined.append(np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, rois))
    return refined


def candidates_of_reading(boxes: list[Array], reading: Reading) -> list[Candidates]:
    """The candidates of every image. boxes: per image (R_i, 4), of which the reading is."""
    scores = ops.softmax(class_logits(reading.scores), 1)
    best = to_numpy(scores.data)[:, 1:].argmax(axis=1) + 1
    masks = ops.sigmoid(mask_logits(reading.scores, np.arange(len(best)), best))
    return candidates_of(boxes, reading.rois, scores, masks)


# The model


class FCIS(TwoStage):
    """The model of a Config whose `model` is "fcis"."""

    def make_roi_heads(self) -> Module:
        """The last stage, dilated where it does not stride, and the maps behind it."""
        resnet = self.config.resnet
        stage = make_stage(self.channels, 3, resnet.strides[3], resnet, resnet.dilation(3))
        maps = ScoreMaps(resnet.out_channels[3], self.config.num_classes, self.config.fcis)
        return Module(layer4=stage, maps=maps)

    def score_maps(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The score maps and the box maps of all images, see ScoreMaps."""
        scores, boxes = self.roi_heads.maps(self.roi_heads.layer4(features[0]))
        return scores, boxes

    def read(self, maps: tuple[Tensor, Tensor], rois: list[Array]) -> Reading:
        """What the maps say of RoIs, per image (R_i, 4)."""
        return read_rois(maps, rois, self.config.resnet.map_stride(3), self.config.fcis)

    def sample(self, proposals: list[Array], batch: Batch) -> list[RoISamples]:
        """As of every model, but of RoIs on whole pixels, as they are read: class, box and mask are theirs."""
        samples = super().sample([on_pixels(boxes) for boxes in proposals], batch)
        return [dataclasses.replace(s, boxes=on_pixels(s.boxes)) for s in samples]

    def branch_losses(self, features: list[Tensor], batch: Batch, samples: list[RoISamples]) -> LossSums:
        """loss_classifier, loss_box_reg and loss_mask on the sampled RoIs."""
        settings = self.config.fcis
        reading = self.read(self.score_maps(features), [s.boxes for s in samples])
        samples = [dataclasses.replace(s, boxes=rois) for s, rois in zip(samples, reading.rois, strict=True)]
        logits = class_logits(reading.scores)
        sums = box_loss(logits, reading.deltas, gt_boxes=batch.gt_boxes, samples=samples, settings=self.config.box)
        targets = [
            fcis_mask_targets(target["masks"], s.positives, objects=s.objects, settings=settings)
            for target, s in zip(batch.targets or (), samples, strict=True)
        ]
        return sums | {"loss_mask": fcis_mask_loss(reading.scores, samples, targets=targets, settings=settings)}

    def branch_detections(self, features: list[Tensor], batch: Batch, proposals: list[Array]) -> list[dict[str, Array]]:
        """Boxes, labels, scores and masks from the proposals and, in the second pass, from the proposals refined."""
        maps = self.score_maps(features)
        reading = self.read(maps, proposals)
        passes = [candidates_of_reading(proposals, reading)]
        if self.config.fcis.second_pass:
            refined = refine(reading, batch.sizes, self.config.box)
            passes.append(candidates_of_reading(refined, self.read(maps, refined)))
        return [
            decode_candidates(found, image_size=size, settings=self.config.fcis, box=self.config.box)
            for *found, size in zip(*passes, batch.sizes, strict=True)
        ]

    def mask_detections(self, features: list[Tensor], detections: list[dict[str, Array]]) -> list[np.ndarray]:
        """Per image the masks (D, 2m, 2m) of given detections, with their boxes and labels, as the maps alone have
        them, without votes: probabilities, cut at 0.5, on the host."""
        boxes, labels = ([to_numpy(each[name]) for each in detections] for name in ("boxes", "labels"))
        reading = self.read(self.score_maps(features), [each["boxes"] for each in detections])
        logits = mask_logits(reading.scores, np.arange(len(reading.scores)), np.concatenate(labels))
        masks = np.split(to_numpy(ops.sigmoid(logits).data), np.cumsum([len(part) for part in labels])[:-1])
        lying = (masks_over(b, m, to_numpy(r)) for b, m, r in zip(boxes, masks, reading.rois, strict=True))
        return [cut_at_half(each, self.config.fcis.mask_threshold) for each in lying]
