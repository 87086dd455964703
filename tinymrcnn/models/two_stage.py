"""What every two-stage detector here shares: find regions that may hold an object, then look at each of them.

    transform -> features -> run_rpn -> propose -> sample (training) -> the model's own branches -> postprocess

Ren et al., Faster R-CNN (2015), section 3. mask_rcnn.py, fcis.py and mnc.py add their branches. The calls are made
one after the other by loss_sums() and detect(), and by the lessons 10 and 11.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import Array, array_module, backend_of, like, to_numpy
from tinymrcnn.boxes import box_iou, clip_boxes_to_image, paste_masks
from tinymrcnn.data.targets import check_images, check_targets
from tinymrcnn.models import rpn
from tinymrcnn.models.box_branch import RoISamples, sample_rois
from tinymrcnn.models.few_anchors import FewAnchors
from tinymrcnn.models.fpn import FPN
from tinymrcnn.models.pooler import pool_rois
from tinymrcnn.models.resnet import ResNet
from tinymrcnn.models.transform import Batch, Images, Targets, image_ids_of, make_batch
from tinymrcnn.nn import Module
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.randomness import Purpose, generator

if TYPE_CHECKING:  # it is made of the settings of the models that are built on this file
    from tinymrcnn.models.config import Config

# Shapes below: N images, A anchors of all levels, R RoIs (R_i of image i), P proposals, G ground-truth objects, D
# detections, C channels, levels of H_l x W_l cells, masks of m x m cells

NUM_ROI_LEVELS = 4  # RoIs are cut from P2 to P5; P6 is for the RPN only

LossSums = dict[str, tuple[Tensor, int]]  # name -> (sum, count): the loss is their quotient


@dataclass
class Samples:
    """The random choices of one training step; losses(..., samples=...) repeats them exactly. One entry an image."""

    anchors: list[rpn.AnchorSamples]
    rois: list[RoISamples]

    @property
    def counts(self) -> dict[str, int]:
        """How many positives the losses look at."""
        return {
            "positive_anchors": sum(len(s.positives) for s in self.anchors),
            "positive_rois": sum(len(s.objects) for s in self.rois),
        }


class TwoStage(Module):
    """The shared part of the models. Each brings branches of its own:

    make_roi_heads() -> Module                                      their layers
    branch_losses(features, batch, samples) -> LossSums             their losses on the sampled RoIs
    branch_detections(features, batch, proposals) -> list of dicts  per image boxes, labels, scores and, where the model
                                                                    has them, masks (D, m, m), in the resized image

    config: the settings. seed: of the weights, and, with the step and the image_ids, of the random samples; None leaves
    the weights 0, for a model that is loaded.

    Attributes: config, seed, categories (list of {"label", "name", "id"} or None)."""

    def __init__(self, config: "Config", seed: int | None = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed or 0
        self.categories: list[dict[str, Any]] | None = None
        self.anchor_generator = config.rpn.anchor_generator()
        with without_drawing():  # initialize() draws
            body = ResNet(config.resnet, 3 if config.backbone == "c4" else 4)
            fpn = {"fpn": FPN(body.out_channels, config.fpn)} if config.backbone == "fpn" else {}
            self.backbone = Module(body=body, **fpn)
            self.channels = config.fpn.channels if fpn else body.out_channels[-1]  # of the maps that are read
            num_anchors = self.anchor_generator.num_anchors_per_cell[0]
            self.rpn = Module(head=rpn.RPNHead(self.channels, config.rpn.channels, num_anchors))
            self.roi_heads = self.make_roi_heads()
        if seed is not None:
            self.initialize(seed)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda": where the parameters are."""
        return backend_of(next(self.parameters()).data).device

    # The steps

    def transform(self, images: Images, targets: Targets | None = None, *, step: int = 0) -> Batch:
        """Images of any sizes, (3, H, W) floats in 0..1 on the host, and their targets, as one Batch.

        Raises ValueError that names the image, and the object in it, for anything malformed."""
        config = self.config
        check_images(images)
        min_sizes = None
        if targets is not None:
            check_targets(images, targets, num_classes=config.num_classes, needs_masks=config.masks)
            if self.training and (sizes := config.transform.train_min_sizes):
                ids = image_ids_of(images, targets)
                min_sizes = [int(generator(self.seed, Purpose.RESIZE, step, i).choice(sizes)) for i in ids]
        dtype = np.dtype(next(self.parameters()).dtype)
        batch = make_batch(images, targets, settings=config.transform, min_sizes=min_sizes, device=self.device,
                           dtype=dtype)  # fmt: skip
        batch.step = step
        return batch

    def features(self, batch: Batch) -> list[Tensor]:
        """The feature maps (N, C, H_l, W_l) that the branches read, finest first: P2..P5 or the one of C4 or C5."""
        maps = iter(self.backbone.body(batch.images))  # the FPN, which alone holds them, frees each when it was read
        return self.backbone.fpn(maps) if self.config.backbone == "fpn" else list(maps)[-1:]

    def run_rpn(self, features: list[Tensor], batch: Batch) -> rpn.RPNOutputs:
        """The RPN's outputs for every anchor of every level."""
        logits, deltas = self.rpn.head(features)
        return rpn.RPNOutputs(logits, deltas, self.all_anchors(features, batch))

    def all_anchors(self, features: list[Tensor], batch: Batch) -> rpn.Anchors:
        """The anchors of all levels, on the model's device."""
        strides = tuple(self.config.strides) if self.config.rpn.nominal_strides else None
        grids = tuple(feature.shape[2:] for feature in features), batch.images.shape[2:], strides
        return rpn.anchors_on(self.device, np.dtype(features[0].dtype), self.anchor_generator, *grids)

    def sample_anchors(self, anchors: rpn.Anchors, batch: Batch) -> list[rpn.AnchorSamples]:
        """Draw the anchors that the RPN's loss looks at, on the host, which waits for all images' matches at once."""
        boxes, counts = batch.gt_boxes, np.array([len(of_image) for of_image in batch.gt_boxes])
        there = np.arange(counts.max()) < counts[:, None]  # (N, G): every image has room for as many objects
        padded = np.zeros((there.size, 4), boxes[0].dtype)
        padded[there.reshape(-1)] = np.concatenate(boxes)
        ious = box_iou(like(padded, anchors.boxes), anchors.boxes)
        ious[like(np.flatnonzero(~there), ious)] = -1
        matches = to_numpy(self.config.rpn.matcher()(ious.reshape(*there.shape, len(anchors.boxes))))  # the host waits
        rngs = [generator(self.seed, Purpose.RPN_SAMPLE, batch.step, image_id) for image_id in batch.image_ids]
        return [rpn.sample_anchors(of_image, self.config.rpn, rng) for of_image, rng in zip(matches, rngs, strict=True)]

    def propose(self, outputs: rpn.RPNOutputs, batch: Batch) -> list[Array]:
        """The proposals of every image: a list of (P_i, 4) arrays, detached, on the host.

        Raises FloatingPointError in training when the RPN's outputs are not finite."""
        logits, deltas = outputs.logits.data, outputs.deltas.data
        xp = array_module(logits, deltas)
        if self.training and not bool(xp.isfinite(logits).all() & xp.isfinite(deltas).all()):  # the host waits
            raise FloatingPointError(f"The RPN's outputs are not finite for the images {batch.image_ids}.")
        found = rpn.decode_proposals(
            logits, deltas, anchors=outputs.anchors, image_sizes=batch.sizes, settings=self.config.rpn,
            training=self.training,
        )  # fmt: skip
        return [boxes for boxes, _ in found]

    def sample(self, proposals: list[Array], batch: Batch) -> list[RoISamples]:
        """Draw the RoIs on which the branches are trained from the proposals and the ground truth, on the host."""
        rngs = [generator(self.seed, Purpose.ROI_SAMPLE, batch.step, image_id) for image_id in batch.image_ids]
        trios = zip(map(to_numpy, proposals), batch.objects or (), rngs, strict=True)
        return [sample_rois(boxes, target, settings=self.config.box, rng=rng) for boxes, target, rng in trios]

    def pool(self, features: list[Tensor], rois: list[Array], size: int) -> Tensor:
        """RoI features (R, C, size, size) of a list of (R_i, 4) boxes."""
        features = features[:NUM_ROI_LEVELS]
        scales = [1 / stride for stride in self.config.strides[: len(features)]]
        return pool_rois(features, rois, scales, size, self.config.pooler)

    def rescale(self, detections: list[dict[str, Array]], batch: Batch) -> list[dict[str, np.ndarray]]:
        """Detections on the host, with boxes in the original images."""
        results = []
        for detection, (h, w), (full_h, full_w) in zip(detections, batch.sizes, batch.original_sizes, strict=True):
            result = {name: to_numpy(array) for name, array in detection.items()}
            result["boxes"] = result["boxes"] * np.array([full_w / w, full_h / h] * 2, result["boxes"].dtype)
            if self.config.box.clip_results:
                result["boxes"] = boxes = clip_boxes_to_image(result["boxes"], (full_h, full_w))
                kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
                result = {name: array[kept] for name, array in result.items()}
            results.append(result)
        return results

    def postprocess(self, detections: list[dict[str, Array]], batch: Batch) -> list[dict[str, np.ndarray]]:
        """Detections for the user: those of rescale(), with the masks pasted into the images as (D, H, W) float32
        probabilities."""
        results = self.rescale(detections, batch)
        for result, size in zip(results, batch.original_sizes, strict=True):
            if "masks" in result:
                whole_pixels = self.config.mask.paste_whole_pixels
                result["masks"] = paste_masks(result["masks"], result["boxes"], size, whole_pixels=whole_pixels)
        return results

    # The whole

    def loss_sums(
        self, images: Images, targets: Targets, *, step: int = 0, samples: Samples | None = None
    ) -> tuple[LossSums, Samples]:
        """Every loss of a batch as (sum, count), in train or eval mode, and the samples on which they were computed.

        Several processes that share a batch add sums and counts before they divide. samples: those of an earlier call,
        to repeat it exactly; otherwise they are drawn, for the training step `step`."""
        batch = self.transform(images, targets, step=step)
        features = self.features(batch)
        with no_grad():  # the loss looks at few of them, and computes these once more
            outputs = self.run_rpn(features, batch)
        if samples is None:
            rois = self.sample(self.propose(outputs, batch), batch)
            samples = Samples(self.sample_anchors(outputs.anchors, batch), rois)
        few = FewAnchors(outputs.anchors, self.rpn.head, features)
        sums = rpn.rpn_loss(few, batch.gt_boxes, samples=samples.anchors, settings=self.config.rpn)
        return sums | self.branch_losses(features, batch, samples.rois), samples

    def losses(
        self, images: Images, targets: Targets, *, step: int = 0, samples: Samples | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch, in train or eval mode, each a mean over what it looks at and 0 over nothing; of Mask
        R-CNN loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg and loss_mask. See loss_sums."""
        return mean_losses(self.loss_sums(images, targets, step=step, samples=samples)[0])

    def draw_samples(self, images: Images, targets: Targets, *, step: int = 0) -> Samples:
        """The anchors and RoIs that losses(images, targets, step=step) would draw. This is a normal forward
        pass: in train mode it updates the running statistics of batch normalisation."""
        with no_grad():
            return self.loss_sums(images, targets, step=step)[1]

    @no_grad()
    @np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
    def _detect(self, images: Images) -> tuple[list[dict[str, Array]], Batch]:
        batch = self.transform(images)
        features = self.features(batch)
        proposals = self.propose(self.run_rpn(features, batch), batch)
        return self.branch_detections(features, batch, proposals), batch

    def detect(self, images: Images) -> list[dict[str, np.ndarray]]:
        """Per image boxes (D, 4) in its own pixels, labels (D,), scores (D,) and masks (D, m, m), probabilities on
        a grid over each box, best first, as NumPy arrays. Evaluation makes run lengths of them."""
        return self.rescale(*self._detect(images))

    def forward(self, images: Images, targets: Targets | None = None, *, step: int = 0) -> Any:
        """losses() in train mode; in eval mode the detections of detect() with the masks pasted into the images."""
        if not self.training:
            return self.postprocess(*self._detect(images))
        if targets is None:
            raise ValueError("In train mode the model needs targets; call model.eval() to detect objects.")
        return self.losses(images, targets, step=step)


def mean_losses(sums: LossSums) -> dict[str, Tensor]:
    """Every loss from its (sum, count); 0 over nothing."""
    return {name: total * (1 / max(1, count)) for name, (total, count) in sums.items()}
