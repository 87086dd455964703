"""Mask R-CNN: a box branch and a mask branch on the proposals of a two-stage detector.

In training both branches run on the same sampled RoIs; at inference the box branch runs on all proposals and the mask
branch on the best detections only (paper, section 3.1). What comes before is in two_stage.py. Lessons 08 to 11.
"""

import functools

import numpy as np

from tinymrcnn.autograd import Tensor, cat
from tinymrcnn.backend import Array, array_module, backend_of, to_numpy
from tinymrcnn.models.box_branch import BoxHead, BoxPredictor, RoISamples, as_detections, best_detections, box_loss
from tinymrcnn.models.mask_branch import MaskHead, MaskMLP, MaskPredictor, decode_masks, mask_loss, mask_targets
from tinymrcnn.models.resnet import make_stage
from tinymrcnn.models.transform import Batch
from tinymrcnn.models.two_stage import LossSums, TwoStage
from tinymrcnn.nn import Module

# Shapes below: N images, R RoIs of all of them (R_i of image i), C channels, K classes, masks of m x m cells


class MaskRCNN(TwoStage):
    """The model of a Config; Faster R-CNN where config.masks is False."""

    def make_roi_heads(self) -> Module:
        """Figure 4. Right (FPN, and C5): a head for each branch. Left (C4): the last stage of the ResNet runs on every
        RoI, and both branches read its result."""
        config = self.config
        heads: dict[str, Module] = {}
        if config.backbone == "c4":
            heads["layer4"] = make_stage(self.channels, 3, config.resnet.roi_stage_stride, config.resnet)
            box_channels = mask_channels = config.resnet.out_channels[3]
        else:
            heads["box_head"] = BoxHead(self.channels, config.box)
            box_channels, mask_channels = config.box.hidden, (self.channels, *config.mask.layers)[-1]
        heads["box_predictor"] = BoxPredictor(box_channels, config.num_classes)
        if config.masks:
            num_masks = 1 if config.mask.class_agnostic_masks else config.num_classes
            if config.mask.head == "mlp":
                heads["mask_predictor"] = MaskMLP(self.channels, num_masks, config.mask)
            else:
                if config.backbone != "c4":
                    heads["mask_head"] = MaskHead(self.channels, config.mask)
                heads["mask_predictor"] = MaskPredictor(mask_channels, num_masks, config.mask)
        return Module(**heads)

    def roi_features(self, features: list[Tensor], rois: list[Array], size: int) -> Tensor:
        """What the branches read of every RoI, (R, C, size, size); for C4 the last stage has run on it."""
        pooled = self.pool(features, rois, size)
        return self.roi_heads.layer4(pooled) if self.config.backbone == "c4" else pooled

    # The box branch

    def box_branch(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, K) and box corrections (R, 4K) of every RoI."""
        c4 = self.config.backbone == "c4"
        hidden = roi_features.mean((2, 3)) if c4 else self.roi_heads.box_head(roi_features)  # (R, F)
        logits, deltas = self.roi_heads.box_predictor(hidden)
        return logits, deltas

    def box_losses(self, roi_features: Tensor, batch: Batch, samples: list[RoISamples]) -> LossSums:
        """The (sum, count) of loss_classifier and loss_box_reg on the sampled RoIs."""
        logits, deltas = self.box_branch(roi_features)
        return box_loss(logits, deltas, gt_boxes=batch.gt_boxes, samples=samples, settings=self.config.box)

    def box_detections(self, roi_features: Tensor, batch: Batch, proposals: list[Array]) -> list[dict[str, Array]]:
        """Per image boxes, scores and labels in the resized image, best first, on the host, which waits once."""
        logits, deltas = (output.data for output in self.box_branch(roi_features))
        xp, ends = array_module(logits), np.cumsum([len(boxes) for boxes in proposals])[:-1].tolist()
        parts = zip(xp.split(logits, ends), xp.split(deltas, ends), proposals, batch.sizes, strict=True)
        best = [best_detections(*part, settings=self.config.box) for part in parts]
        ends = np.cumsum([len(rows) for rows in best])[:-1].tolist()
        return [as_detections(rows) for rows in np.split(to_numpy(xp.concatenate(best)), ends)]

    # The mask branch

    def mask_branch(self, features: list[Tensor], rois: list[Array]) -> Tensor:
        """Mask logits (R, K, m, m) of every RoI, whose features are cut on a finer grid than the box branch's; C4 has
        one head, and one grid, for both."""
        size = self.config.box.pool if self.config.backbone == "c4" else self.config.mask.pool
        return self.mask_logits(self.roi_features(features, rois, size))

    def mask_logits(self, roi_features: Tensor) -> Tensor:
        """(R, C, size, size) -> (R, K, m, m), m twice the size."""
        if hasattr(self.roi_heads, "mask_head"):  # neither C4 nor the MLP has one
            roi_features = self.roi_heads.mask_head(roi_features)
        logits: Tensor = self.roi_heads.mask_predictor(roi_features)
        return logits

    def mask_losses(self, logits: Tensor, batch: Batch, samples: list[RoISamples]) -> LossSums:
        """The (sum, count) of loss_mask, from the mask logits of all positives (P, K, m, m)."""
        cut = functools.partial(mask_targets, size=logits.shape[2], settings=self.config.mask)
        pairs = zip(batch.targets or (), samples, strict=True)
        targets = [cut(target["masks"], s.positives, objects=s.objects) for target, s in pairs]
        labels = np.concatenate([s.labels[: len(s.objects)] for s in samples])
        joined = backend_of(*targets).module.concatenate(targets)
        return {"loss_mask": mask_loss(logits, labels, targets=joined, kind=self.config.mask.loss)}

    def mask_detections(self, features: list[Tensor], detections: list[dict[str, Array]]) -> list[np.ndarray]:
        """Per image the masks (D, m, m) of its detections: probabilities, on the host."""
        labels = [detection["labels"] for detection in detections]
        logits = self.mask_branch(features, [detection["boxes"] for detection in detections])
        masks = decode_masks(logits, np.concatenate(labels), settings=self.config.mask)
        return np.split(to_numpy(masks), np.cumsum([len(part) for part in labels])[:-1].tolist())

    # Both

    def branch_losses(self, features: list[Tensor], batch: Batch, samples: list[RoISamples]) -> LossSums:
        """loss_classifier, loss_box_reg and loss_mask on the sampled RoIs."""
        roi_features = self.roi_features(features, [s.boxes for s in samples], self.config.box.pool)
        sums = self.box_losses(roi_features, batch, samples)
        if self.config.masks:
            if self.config.backbone == "c4":  # the positives' features are there already
                logits = self.mask_logits(_positives(roi_features, samples))
            else:
                logits = self.mask_branch(features, [s.positives for s in samples])
            sums |= self.mask_losses(logits, batch, samples)
        return sums

    def branch_detections(self, features: list[Tensor], batch: Batch, proposals: list[Array]) -> list[dict[str, Array]]:
        """Boxes, labels and scores of all proposals, then the masks of the best."""
        detections = self.box_detections(self.roi_features(features, proposals, self.config.box.pool), batch, proposals)
        if self.config.masks:
            masks = self.mask_detections(features, detections)
            detections = [{**d, "masks": m} for d, m in zip(detections, masks, strict=True)]
        return detections


def _positives(roi_features: Tensor, samples: list[RoISamples]) -> Tensor:
    """The rows of the positives, which come first in every image: (R, C, H, W) -> (P, C, H, W)."""
    starts = np.cumsum([0] + [len(s.labels) for s in samples])[:-1].tolist()
    return cat([roi_features[start : start + len(s.objects)] for start, s in zip(starts, samples, strict=True)])
