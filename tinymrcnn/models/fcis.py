"""FCIS: the last stage of the backbone and the position-sensitive maps run once on the image, and RoIs only read them.

Li et al. (2017), section 2.3 and figure 3. What comes before is in two_stage.py, the branch in fcis_branch.py. The
differences from the authors' code: how bins are rounded, see read_rois; the RoIs of a training step are drawn at random
as everywhere here, where the authors take those with the largest losses (OHEM); the box maps have no second set for the
background.
"""

import dataclasses

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array
from tinymrcnn.models.box_branch import RoISamples, box_loss
from tinymrcnn.models.fcis_branch import (
    Candidates,
    Reading,
    ScoreMaps,
    candidates_of,
    class_logits,
    decode_fcis,
    fcis_mask_loss,
    fcis_mask_targets,
    on_pixels,
    read_rois,
    refine,
)
from tinymrcnn.models.resnet import make_stage
from tinymrcnn.models.transform import Batch
from tinymrcnn.models.two_stage import LossSums, TwoStage
from tinymrcnn.nn import Module


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
        passes = [candidates_of(proposals, reading)]
        if self.config.fcis.second_pass:
            refined = refine(reading, batch.sizes, self.config.box)
            passes.append(candidates_of(refined, self.read(maps, refined)))
        found = [Candidates(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*passes, strict=True)]
        return [
            decode_fcis(candidates, image_size=size, settings=self.config.fcis, box=self.config.box)
            for candidates, size in zip(found, batch.sizes, strict=True)
        ]
