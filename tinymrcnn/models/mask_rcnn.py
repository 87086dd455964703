"""Mask R-CNN: backbone, proposals, box branch and mask branch, wired together.

The calls below are made one after the other by losses() and detect(), and by the lessons:

    transform -> features -> propose -> sample (training) -> box_branch -> mask_branch -> postprocess

In training all branches run on the same sampled RoIs; at inference the box branch runs on all proposals and the mask
branch on the best detections only (paper, section 3.1). Lessons 10 and 11.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn.autograd import Tensor, cat, no_grad
from tinymrcnn.backend import backend_of, to_device, to_numpy
from tinymrcnn.boxes import AnchorGenerator, BoxCoder, clip_boxes_to_image, paste_masks
from tinymrcnn.models.box_branch import BoxHead, BoxPredictor, RoISamples, box_loss, decode_detections, sample_rois
from tinymrcnn.models.config import Config
from tinymrcnn.models.fpn import FPN
from tinymrcnn.models.mask_branch import MaskHead, MaskPredictor, decode_masks, mask_loss, mask_targets
from tinymrcnn.models.pooler import make_roi_op, pool_rois
from tinymrcnn.models.resnet import BLOCKS, ResNet, make_stage
from tinymrcnn.models.rpn import AnchorSamples, RPNHead, decode_proposals, rpn_loss, rpn_targets, sample_anchors
from tinymrcnn.models.transform import Batch, make_batch
from tinymrcnn.nn import Module
from tinymrcnn.randomness import Purpose, generator

STRIDES = {"fpn": (4, 8, 16, 32, 64), "c4": (16,), "c5": (32,)}  # pixels per cell of the levels
NUM_ROI_LEVELS = 4  # RoIs are cut from P2 to P5; P6 is for the RPN only


@dataclass
class Samples:
    """What chance decided in one training step; losses(..., samples=...) repeats it exactly. One entry an image."""

    anchors: list[AnchorSamples]
    rois: list[RoISamples]


class MaskRCNN(Module):
    """The model of a Config; Faster R-CNN where config.masks is False.

    Attributes: config, categories (list of {"label", "name", "id"} or None), seed and step, of which, with the
    image_ids, the random samples are a function; counts, the numbers of positives behind the last losses."""

    def __init__(self, config: Config, seed: int = 0):
        super().__init__()
        self.config, self.seed, self.step = config, seed, 0
        self.categories = None
        self.counts: dict[str, int] = {}
        c = config
        num_stages = 3 if c.backbone == "c4" else 4
        body = ResNet(
            c.block, c.depths[:num_stages], c.widths[:num_stages], c.stem_width, c.norm, c.stride_in_1x1
        )  # fmt: skip
        channels = body.out_channels[-1]
        self.backbone = Module(body=body)
        if c.backbone == "fpn":
            channels = c.fpn_channels
            self.backbone.fpn = FPN(body.out_channels, channels, c.extra_level)
        self.anchors = AnchorGenerator(c.anchor_sizes, c.aspect_ratios, c.anchor_rounded, c.anchor_order)
        self.rpn = Module(head=RPNHead(channels, c.rpn_channels, self.anchors.num_anchors_per_cell[0]))
        self.roi_heads = Module()
        if c.backbone == "c4":
            # Figure 4, left: the last stage runs on every RoI, and both branches read its result
            self.roi_heads.layer4 = make_stage(
                c.block, channels, c.widths[3], c.depths[3], c.roi_stage_stride, c.norm, c.stride_in_1x1
            )
            box_channels = mask_channels = BLOCKS[c.block].expansion * c.widths[3]
        else:
            self.roi_heads.box_head = BoxHead(channels, c.box_pool, c.box_hidden)
            box_channels, mask_channels = c.box_hidden, (channels, *c.mask_layers)[-1]
        self.roi_heads.box_predictor = BoxPredictor(box_channels, c.num_classes)
        if c.masks:
            if c.backbone != "c4":
                self.roi_heads.mask_head = MaskHead(channels, c.mask_layers)
            num_masks = 1 if c.class_agnostic_masks else c.num_classes
            self.roi_heads.mask_predictor = MaskPredictor(mask_channels, c.mask_channels, num_masks)
        self.rpn_coder, self.box_coder = BoxCoder(), BoxCoder(c.box_weights)
        self.roi_op = make_roi_op(c.roi_op, c.sampling_ratio, c.aligned)
        for module in self.modules():
            if hasattr(module, "eps"):
                module.eps = c.norm_eps
        self.initialize(seed)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda": where the parameters are."""
        return backend_of(next(self.parameters()).data).device

    # The steps

    def transform(self, images, targets=None) -> Batch:
        """Images of any sizes, (3, H, W) floats in 0..1 on the host, and their targets, as one Batch."""
        c = self.config
        drawn = self.training and targets is not None and c.train_min_sizes
        min_size = self._draw_min_size if drawn else c.min_size
        sizes = c.pixel_mean, c.pixel_std, min_size, c.max_size, c.size_divisible
        family = c.channel_order, c.pixel_scale, c.resize, c.round_sizes
        dtype = np.dtype(next(self.parameters()).dtype)
        return make_batch(images, targets, *sizes, c.num_classes, c.masks, self.device, dtype, *family)

    def _draw_min_size(self, image_id: int) -> int:
        rng = generator(self.seed, Purpose.RESIZE, self.step, image_id)
        return int(rng.choice(self.config.train_min_sizes))

    def features(self, batch: Batch) -> list[Tensor]:
        """The feature maps (N, C, H_l, W_l) that the branches read, finest first: P2..P5 or the one of C4 or C5."""
        maps = self.backbone.body(batch.images)
        return self.backbone.fpn(maps) if self.config.backbone == "fpn" else maps[-1:]

    def all_anchors(self, features, batch: Batch) -> tuple[object, list[int]]:
        """The anchors of all levels, (A, 4) on the model's device, and how many belong to each level."""
        strides = STRIDES[self.config.backbone][: len(features)] if self.config.nominal_strides else None
        anchors = self.anchors([feature.shape[2:] for feature in features], batch.images.shape[2:], strides)
        joined = np.concatenate(anchors).astype(np.dtype(features[0].dtype))
        return to_device(joined, self.device), [len(level) for level in anchors]

    def propose(self, features, batch: Batch, targets=None, samples: list[AnchorSamples] | None = None):
        """The RPN: proposals, a list of (P_i, 4) arrays, detached; with targets also its losses.

        Returns (proposals, losses), losses the (sum, count) of loss_objectness and loss_rpn_box_reg, empty without
        targets. samples: which anchors to look at, instead of drawing them; then no proposals are made.

        Raises FloatingPointError in training when a proposal is not finite."""
        anchors, level_sizes = self.all_anchors(features, batch)
        logits, deltas = self.rpn.head(features)
        losses = {}
        if targets is not None:
            drawn = samples or self.sample_anchors(anchors, batch, targets)
            boxes = [target["boxes"] for target in targets]
            beta = self.config.rpn_box_beta
            objectness, box = rpn_loss(logits, deltas, anchors, boxes, drawn, self.rpn_coder, beta)
            if self.config.rpn_fixed_count:
                count = self.config.rpn_samples * len(drawn)
                objectness, box = (objectness[0], count), (box[0], count)
            losses = {"loss_objectness": objectness, "loss_rpn_box_reg": box}
            self.counts["positive_anchors"] = sum(len(s.positives) for s in drawn)
        proposals = [] if samples else self._decode_proposals(logits.data, deltas.data, anchors, level_sizes, batch)
        return proposals, losses

    def _decode_proposals(self, logits, deltas, anchors, level_sizes, batch):
        c = self.config
        if self.training and not bool((abs(logits) < np.inf).all() & (abs(deltas) < np.inf).all()):
            raise FloatingPointError(f"The RPN's outputs are not finite for the images {batch.image_ids}.")
        kept = (
            (c.rpn_pre_nms_train, c.rpn_post_nms_train) if self.training else (c.rpn_pre_nms_test, c.rpn_post_nms_test)
        )
        return [
            decode_proposals(
                logits[i], deltas[i], anchors, level_sizes, size, self.rpn_coder, *kept, c.rpn_nms, c.rpn_min_size
            )[0]
            for i, size in enumerate(batch.sizes)
        ]

    def sample_anchors(self, anchors, batch: Batch, targets) -> list[AnchorSamples]:
        """Draw the anchors that the RPN's loss looks at, image by image."""
        c = self.config
        samples = []
        for target, image_id in zip(targets, batch.image_ids, strict=True):
            matches = rpn_targets(anchors, target["boxes"], c.rpn_fg_iou, c.rpn_bg_iou)
            rng = generator(self.seed, Purpose.RPN_SAMPLE, self.step, image_id)
            samples.append(sample_anchors(matches, c.rpn_samples, c.rpn_positive_fraction, rng))
        return samples

    def sample(self, proposals, batch: Batch) -> list[RoISamples]:
        """Draw the RoIs on which box and mask branch are trained from the proposals and the ground truth."""
        c = self.config
        samples = []
        for boxes, target, image_id in zip(proposals, batch.targets, batch.image_ids, strict=True):
            rng = generator(self.seed, Purpose.ROI_SAMPLE, self.step, image_id)
            samples.append(sample_rois(boxes, target, c.box_fg_iou, c.box_samples, c.box_positive_fraction, rng))
        return samples

    def pool(self, features, batch: Batch, rois, size: int) -> Tensor:
        """RoI features (R, C, size, size) of a list of (R_i, 4) boxes; for C4 the last stage has run on them."""
        c = self.config
        features = features[:NUM_ROI_LEVELS]
        scales = [1 / stride for stride in STRIDES[c.backbone][: len(features)]]
        level_rule = c.canonical_size, c.canonical_level, c.level_epsilon
        pooled = pool_rois(features, rois, scales, size, self.roi_op, *level_rule)
        return self.roi_heads.layer4(pooled) if c.backbone == "c4" else pooled

    def box_branch(self, features, batch: Batch, rois, samples: list[RoISamples] | None = None):
        """Class and box of every RoI. Returns (losses, RoI features) with samples, (detections, RoI features) without.

        rois: a list of (R_i, 4), the samples' boxes or the proposals. losses: the (sum, count) of loss_classifier and
        loss_box_reg. detections: per image boxes, scores and labels in the resized image, best first."""
        c = self.config
        roi_features = self.pool(features, batch, rois, c.box_pool)
        hidden = roi_features.mean((2, 3)) if c.backbone == "c4" else self.roi_heads.box_head(roi_features)
        logits, deltas = self.roi_heads.box_predictor(hidden)
        if samples is not None:
            boxes = [target["boxes"] for target in batch.targets]
            classification, box = box_loss(logits, deltas, samples, boxes, self.box_coder, c.box_beta)
            self.counts["positive_rois"] = sum(len(s.objects) for s in samples)
            return {"loss_classifier": classification, "loss_box_reg": box}, roi_features
        limits = self.box_coder, c.score_threshold, c.box_nms, c.max_detections, c.min_box_size
        ends = np.cumsum([0] + [len(boxes) for boxes in rois]).tolist()
        detections = [
            decode_detections(logits.data[start:end], deltas.data[start:end], boxes, size, *limits)
            for start, end, boxes, size in zip(ends, ends[1:], rois, batch.sizes, strict=False)
        ]
        return detections, roi_features

    def mask_branch(self, features, batch: Batch, rois, samples: list[RoISamples] | None = None, roi_features=None):
        """The masks of RoIs. With samples the (sum, count) of loss_mask; else per image (D, m, m) probabilities.

        rois: the samples' positives, or the detections (dicts with boxes and labels). roi_features: those of all
        samples, from the box branch, which the C4 head shares; others cut their own."""
        c = self.config
        boxes = rois if samples is not None else [detection["boxes"] for detection in rois]
        if c.backbone == "c4" and roi_features is not None:
            starts = np.cumsum([0] + [len(s.labels) for s in samples])[:-1].tolist()
            positives = (slice(start, start + len(s.objects)) for start, s in zip(starts, samples, strict=True))
            x = cat([roi_features[part] for part in positives])
        elif c.backbone == "c4":
            x = self.pool(features, batch, boxes, c.box_pool)
        else:
            x = self.roi_heads.mask_head(self.pool(features, batch, boxes, c.mask_pool))
        logits = self.roi_heads.mask_predictor(x)
        if samples is not None:
            targets = [
                mask_targets(
                    target["masks"], s.positives, s.objects, logits.shape[2], c.crop_aligned, c.soft_mask_targets
                )
                for target, s in zip(batch.targets, samples, strict=True)
            ]
            labels = np.concatenate([s.labels[: len(s.objects)] for s in samples])
            joined = backend_of(*targets).module.concatenate(targets)
            return {"loss_mask": mask_loss(logits, labels, joined, c.mask_loss)}
        labels = [to_numpy(detection["labels"]) for detection in rois]
        masks = decode_masks(logits, np.concatenate(labels), c.mask_loss)
        ends = np.cumsum([len(part) for part in labels])[:-1].tolist()
        return np.split(to_numpy(masks), ends)

    def postprocess(self, detections, batch: Batch) -> list[dict]:
        """Detections as the user wants them: on the host, boxes in the original images, masks pasted there, as
        (D, H, W) float32 probabilities."""
        results = self._rescale(detections, batch)
        for result, size in zip(results, batch.original_sizes, strict=True):
            if "masks" in result:
                whole = self.config.paste_whole_pixels
                result["masks"] = paste_masks(result["masks"], result["boxes"], size, whole_pixels=whole)
        return results

    def _rescale(self, detections, batch: Batch) -> list[dict]:
        results = []
        for detection, (h, w), (full_h, full_w) in zip(detections, batch.sizes, batch.original_sizes, strict=True):
            result = {name: to_numpy(array) for name, array in detection.items()}
            scale = np.array([full_w / w, full_h / h] * 2, result["boxes"].dtype)
            result["boxes"] = result["boxes"] * scale
            if self.config.clip_results:
                result["boxes"] = boxes = clip_boxes_to_image(result["boxes"], (full_h, full_w))
                kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
                result = {name: array[kept] for name, array in result.items()}
            results.append(result)
        return results

    # The whole

    def losses(self, images, targets, samples: Samples | None = None) -> dict[str, Tensor]:
        """The five losses (four without masks) of a batch, in train or eval mode: loss_objectness, loss_rpn_box_reg,
        loss_classifier, loss_box_reg, loss_mask, each a mean over what it looks at and 0 over nothing.

        samples: from draw_samples(), to repeat a step exactly."""
        batch = self.transform(images, targets)
        features = self.features(batch)
        proposals, sums = self.propose(features, batch, batch.targets, samples.anchors if samples else None)
        rois = samples.rois if samples else self.sample(proposals, batch)
        box_losses, roi_features = self.box_branch(features, batch, [s.boxes for s in rois], rois)
        sums |= box_losses
        if self.config.masks:
            sums |= self.mask_branch(features, batch, [s.positives for s in rois], rois, roi_features)
        return {name: total * (1 / max(1, count)) for name, (total, count) in sums.items()}

    def draw_samples(self, images, targets) -> Samples:
        """The anchors and RoIs that losses(images, targets) would draw at this step. A forward pass like any other:
        in train mode the running statistics of batch normalisation take part in it."""
        with no_grad():
            batch = self.transform(images, targets)
            features = self.features(batch)
            anchors, _ = self.all_anchors(features, batch)
            proposals, _ = self.propose(features, batch)
            return Samples(self.sample_anchors(anchors, batch, batch.targets), self.sample(proposals, batch))

    @no_grad()
    @np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
    def _detect(self, images) -> tuple[list[dict], Batch]:
        batch = self.transform(images)
        features = self.features(batch)
        proposals, _ = self.propose(features, batch)
        detections, _ = self.box_branch(features, batch, proposals)
        if self.config.masks:
            masks = self.mask_branch(features, batch, detections)
            detections = [{**d, "masks": m} for d, m in zip(detections, masks, strict=True)]
        return detections, batch

    def detect(self, images) -> list[dict]:
        """Per image boxes (D, 4) in its own pixels, labels (D,), scores (D,) and masks (D, m, m), probabilities on
        a grid over each box, best first, as NumPy arrays. Evaluation pastes them one at a time."""
        return self._rescale(*self._detect(images))

    def forward(self, images, targets=None):
        """losses() in train mode; in eval mode the detections of detect() with the masks pasted into the images."""
        if not self.training:
            return self.postprocess(*self._detect(images))
        if targets is None:
            raise ValueError("In train mode the model needs targets; call model.eval() to detect objects.")
        return self.losses(images, targets)
