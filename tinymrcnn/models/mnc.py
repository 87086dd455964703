"""MNC: a cascade in which every stage reads what the one before has found. Boxes, then their masks, then the classes of
what the masks let through, and once more from the corrected boxes.

Dai et al., Instance-aware Semantic Segmentation via Multi-task Network Cascades (2016), sections 3 and 4, figures 2
and 3; the article's Table 1 compares Mask R-CNN with it, in which mask, class and box do not depend on each other.

    1  the RPN: boxes (RoIs)                                                                      two_stage.py
    2  RoI warping -> fully connected layers -> one mask, of whatever class                       MaskStage
    3  features, and features times mask -> fully connected layers -> class of the masked
       features, which is the score; class of the box; correction of the box for every class      run_stages
    4, 5  the boxes corrected for their best class -> stages 2 and 3, with the same weights       next_rois

In stages 4 and 5 the RoIs are functions of weights: the losses reach the corrections through the corners at which
roi_crop reads. Targets are constants.

Settings, layers, corrected boxes, targets and the model, in this order; how masks are voted for is in voting.py. The
differences from the authors' code: no gradient reaches the RPN through the first RoIs; those through the corners are
not clipped to 1/512; roi_crop, see there; the second pass trains on the corrected RoIs only, where the authors add the
objects' own boxes; at inference it follows the best class of an object also where the background scores more.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, cat, maximum, minimum
from tinymrcnn.backend import Array, array_module, like, to_device, to_numpy
from tinymrcnn.boxes import BoxCoder, box_area, crop_masks
from tinymrcnn.models.box_branch import BoxHead, BoxPredictor, BoxSettings, RoISamples, box_loss, box_targets
from tinymrcnn.models.resnet import make_stage
from tinymrcnn.models.transform import Batch
from tinymrcnn.models.two_stage import LossSums, TwoStage
from tinymrcnn.models.voting import VotingSettings, candidates_of, cut_at_half, decode_candidates, masks_over
from tinymrcnn.nn import Linear, Module
from tinymrcnn.nn.init import normal
from tinymrcnn.roi.roi_crop import roi_crop_unchecked
from tinymrcnn.roi.rois import boxes_to_rois
from tinymrcnn.settings import Fraction, NotNegative, PoolSize, Width

# Shapes below: N images, R RoIs of all of them, P positives, G ground-truth objects, K classes, D detections, C
# channels, grids of g x g cells, masks of m x m


@dataclass(frozen=True)
class MNCSettings(VotingSettings):
    """The stages after the RPN; the layers of stage 3 are those of the box branch (BoxSettings)."""

    hidden: Width = 96  # units of the layer before the mask
    size: PoolSize = 21  # the cells of a mask, along each axis
    mask_weight: NotNegative = 2.0  # of the mask loss
    mask_iou: Fraction = 0.5  # with its object, from which on a mask shows the object


# The layers


class MaskStage(Module):
    """Stage 2: two fully connected layers from the features of an RoI to its mask."""

    def __init__(self, in_channels: int, grid: int, settings: MNCSettings) -> None:
        super().__init__()
        self.fc1 = Linear(in_channels * grid**2, settings.hidden)
        self.fc2 = Linear(settings.hidden, settings.size**2, init=normal(0.001))

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, g, g) -> (R, m, m) logits."""
        logits: Tensor = self.fc2(ops.relu(self.fc1(x.flatten(1))))
        size = round(logits.shape[1] ** 0.5)
        return logits.reshape(len(logits), size, size)


class Stages(NamedTuple):
    """What the stages 2 and 3 say of RoIs, (R, 5): masks (R, m, m), logits. mask_classes and box_classes: (R, K),
    logits of the masked features and of the box. deltas: (R, 4K), corrections of the box for every class."""

    rois: Tensor
    masks: Tensor
    mask_classes: Tensor
    box_classes: Tensor
    deltas: Tensor


# Corrected boxes


def corrected(boxes: Array, deltas: Tensor, coder: BoxCoder) -> Tensor:
    """coder.decode with gradients to the corrections: boxes and deltas (R, 4) -> (R, 4)."""
    deltas = deltas / like(np.array(coder.weights, deltas.dtype), boxes)
    sizes = boxes[:, 2:] - boxes[:, :2]
    centres = deltas[:, :2] * sizes + (boxes[:, :2] + 0.5 * sizes)
    halves = minimum(deltas[:, 2:], coder.clip).exp() * (0.5 * sizes)
    return cat([centres - halves, centres + halves], 1)


def next_rois(stages: Stages, sizes: list[tuple[int, int]], settings: BoxSettings) -> Tensor:
    """The RoIs (R, 5) of the second pass: those of the first, corrected for the foreground class that scores most, and
    clipped to the images of these (height, width). Gradients reach the corrections."""
    rois, xp = stages.rois.data, array_module(stages.rois.data)
    best = stages.mask_classes.data[:, 1:].argmax(axis=1) + 1
    of_class = stages.deltas.reshape(len(rois), stages.deltas.shape[1] // 4, 4)[xp.arange(len(rois)), best]
    limits = like(np.array([[w, h, w, h] for h, w in sizes], rois.dtype), rois)[rois[:, 0].astype(np.int64)]
    boxes = minimum(maximum(corrected(rois[:, 1:], of_class, settings.coder()), 0), limits)
    return cat([Tensor(rois[:, :1]), boxes], 1)


# Targets


def match_rois(boxes: Array, target: dict[str, Array], settings: BoxSettings) -> tuple[RoISamples, np.ndarray]:
    """All RoIs of an image (R, 4) as samples, none left out, positives first; and (R,) which RoI each sample is."""
    matches = to_numpy(box_targets(boxes, target["boxes"], settings))
    order = np.argsort(matches < 0, kind="stable")
    objects = matches[matches >= 0]
    labels = np.zeros(len(matches), np.int64)
    labels[: len(objects)] = to_numpy(target["labels"])[objects]
    return RoISamples(boxes[like(order, boxes)], objects, labels), order


def crop_objects(masks: Array, samples: RoISamples, size: int) -> tuple[Array, Array]:
    """The objects of the positives, of masks (G, H, W): which part of each of an RoI's cells they cover, (P, size,
    size), and how many pixels they have in the whole image, (P,)."""
    index = like(samples.objects, masks)
    crops = crop_masks(masks, like(samples.positives, masks), size, index=index)
    return crops, masks.sum(axis=(1, 2), dtype=crops.dtype)[index]


def mask_overlaps(masks: Array, crops: Array, rois: Array, areas: Array) -> Array:
    """The IoU of masks with their objects, (P,). masks (P, m, m), 0 and 1, and crops (P, m, m), which part of each cell
    the object covers, lie over the RoIs (P, 4). areas (P,): the pixels of the whole objects."""
    cell = box_area(rois) / (masks.shape[1] * masks.shape[2])
    common = (masks * crops).sum(axis=(1, 2)) * cell
    union = masks.sum(axis=(1, 2)) * cell + areas - common
    overlaps: Array = common / array_module(union).maximum(union, 1e-9)  # of no mask and no object: 0
    return overlaps


# The model


class MNC(TwoStage):
    """The model of a Config whose `model` is "mnc"."""

    @property
    def grid(self) -> int:
        """The cells of an RoI's features, along each axis. Before the fully connected layers of stage 3 they are
        pooled to half as many; in C4 the last stage of the ResNet, which halves them too, is in these layers' place."""
        return self.config.box.pool * (1 if self.config.backbone == "c4" else 2)

    def make_roi_heads(self) -> Module:
        """Stage 2, and the two paths of stage 3 with what is predicted from both together."""
        config, c4 = self.config, self.config.backbone == "c4"

        def path() -> Module:
            if c4:
                return make_stage(self.channels, 3, config.resnet.roi_stage_stride, config.resnet)
            return BoxHead(self.channels, config.box)

        hidden = 2 * (config.resnet.out_channels[3] if c4 else config.box.hidden)
        return Module(
            mask=MaskStage(self.channels, self.grid, config.mnc),
            box_path=path(),
            masked_path=path(),
            box_predictor=BoxPredictor(hidden, config.num_classes),
            seg_cls_score=Linear(hidden, config.num_classes, init=normal(0.01)),
        )

    def rois(self, boxes: list[Array]) -> Tensor:
        """Per image (R_i, 4) boxes as RoIs (R, 5) on the model's device."""
        return Tensor(to_device(boxes_to_rois(boxes), self.device))

    def warp(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """RoIs (R, 5) -> (R, C, g, g): the largest of 2 x 2 samples in every cell. Gradients reach the corners."""
        samples = roi_crop_unchecked(features[0], rois, 2 * self.grid, 1 / self.config.strides[0])
        return ops.max_pool2d(samples, 2)

    def run_stages(self, features: list[Tensor], rois: Tensor) -> Stages:
        """Stages 2 and 3 on RoIs (R, 5)."""
        heads, size, grid = self.roi_heads, self.config.mnc.size, self.grid
        warped = self.warp(features, rois)
        masks = heads.mask(warped)
        shares = ops.interpolate(ops.sigmoid(masks).reshape(-1, 1, size, size), (grid, grid), mode="bilinear")
        box, masked = self.run_path(heads.box_path, warped), self.run_path(heads.masked_path, warped * shares)
        joined = cat([box, masked], 1)
        return Stages(rois, masks, heads.seg_cls_score(joined), *heads.box_predictor(joined))

    def run_path(self, path: Module, x: Tensor) -> Tensor:
        """(R, C, g, g) -> (R, F)."""
        hidden: Tensor = path(x).mean((2, 3)) if self.config.backbone == "c4" else path(ops.max_pool2d(x, 2))
        return hidden

    # Training

    def branch_losses(self, features: list[Tensor], batch: Batch, samples: list[RoISamples]) -> LossSums:
        """loss_classifier, loss_box_reg, loss_mask and loss_mask_classifier; of two passes the sum of their losses."""
        stages = self.run_stages(features, self.rois([s.boxes for s in samples]))
        sums = self.stage_losses(stages, batch, samples)
        if not self.config.mnc.second_pass:
            return sums
        rois = next_rois(stages, batch.sizes, self.config.box)
        samples, order = self.match(rois.data, batch)
        again = self.stage_losses(self.run_stages(features, rois[order]), batch, samples)
        # (sum, count) of both passes together, times 2: where they count alike it is the sum of the two quotients
        return {name: (2 * (sums[name][0] + again[name][0]), sums[name][1] + again[name][1]) for name in sums}

    def match(self, rois: Array, batch: Batch) -> tuple[list[RoISamples], np.ndarray]:
        """The second pass's RoIs (R, 5), per image as samples; and (R,), which RoI is the sample in each place."""
        rows, found, orders = to_numpy(rois[:, 0]), [], []
        for image, target in enumerate(batch.targets or ()):
            of_image = np.flatnonzero(rows == image)
            samples, order = match_rois(rois[like(of_image, rois), 1:], target, self.config.box)
            found.append(samples)
            orders.append(of_image[order])
        return found, np.concatenate(orders)

    def stage_losses(self, stages: Stages, batch: Batch, samples: list[RoISamples]) -> LossSums:
        """The (sum, count) of the losses of one pass. A mask learns its object, in the positives; the masked features
        are of the object's class where the mask shows the object well enough, else of the background."""
        settings, box, xp = self.config.mnc, self.config.box, array_module(stages.rois.data)
        sums = box_loss(stages.box_classes, stages.deltas, gt_boxes=batch.gt_boxes, samples=samples, settings=box)
        targets = zip(batch.targets or (), samples, strict=True)
        parts = [
            (like(s.positives, target["masks"]), *crop_objects(target["masks"], s, settings.size))
            for target, s in targets
        ]
        rois, crops, areas = (xp.concatenate(of_images) for of_images in zip(*parts, strict=True))
        labels = np.concatenate([s.labels for s in samples])
        rows = np.flatnonzero(labels)
        own, wanted = stages.masks[rows], (crops >= settings.mask_threshold).astype(crops.dtype)
        loss = ops.binary_cross_entropy_with_logits(own, wanted, reduction="sum") * settings.mask_weight
        shown = (ops.sigmoid(own.detach()).data >= settings.mask_threshold).astype(crops.dtype)
        labels[rows] *= to_numpy(mask_overlaps(shown, crops, rois, areas)) >= settings.mask_iou
        classes = ops.cross_entropy(stages.mask_classes, like(labels, crops), reduction="sum")
        return sums | {"loss_mask": (loss, crops.size), "loss_mask_classifier": (classes, len(labels))}

    # Inference

    def branch_detections(self, features: list[Tensor], batch: Batch, proposals: list[Array]) -> list[dict[str, Array]]:
        """Boxes, labels, scores and masks from the proposals and, in the second pass, from the proposals corrected."""
        settings, ends = self.config.mnc, np.cumsum([len(boxes) for boxes in proposals])[:-1].tolist()
        passes, rois = [], self.rois(proposals)
        for _ in range(1 + settings.second_pass):
            stages = self.run_stages(features, rois)
            boxes = array_module(rois.data).split(rois.data[:, 1:], ends)
            passes.append(candidates_of(boxes, boxes, ops.softmax(stages.mask_classes, 1), ops.sigmoid(stages.masks)))
            rois = next_rois(stages, batch.sizes, self.config.box)
        return [
            decode_candidates(found, image_size=size, settings=settings, box=self.config.box)
            for *found, size in zip(*passes, batch.sizes, strict=True)
        ]

    def mask_detections(self, features: list[Tensor], detections: list[dict[str, Array]]) -> list[np.ndarray]:
        """Per image the masks (D, 2m, 2m) of given detections, with their boxes (the labels make no difference), as
        stage 2 has them, without votes: probabilities, cut at 0.5, on the host."""
        boxes = [each["boxes"] for each in detections]
        masks = to_numpy(ops.sigmoid(self.roi_heads.mask(self.warp(features, self.rois(boxes)))).data)
        parts = np.split(masks, np.cumsum([len(part) for part in boxes])[:-1])
        lying = (masks_over(to_numpy(b), m, to_numpy(b)) for b, m in zip(boxes, parts, strict=True))
        return [cut_at_half(each, self.config.mnc.mask_threshold) for each in lying]
