"""Section 4 of the article: masks for the 100 best detections only, after the boxes, against masks of all proposals,
beside the boxes, as in training. The order saves time, and the masks are those of fewer and better boxes."""

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import to_numpy
from tinymrcnn.boxes import clip_boxes_to_image, crop_masks
from tinymrcnn.experiments.plan import PROPOSALS, Comparison, Plan, Variant
from tinymrcnn.models import MaskRCNN
from tinymrcnn.models.box_branch import decode_detections
from tinymrcnn.models.mask_branch import decode_masks

PLAN = Plan(
    name="inference-order",
    title="Masks of the 100 best detections, or of all proposals",
    claim="To predict masks after the boxes, for the 100 best only, is faster than beside them for all proposals, and "
    "more accurate. The article gives no number.",
    variants=(
        Variant("FPN, the 100 best", "shapes"),
        Variant("FPN, all proposals", "shapes", masks=PROPOSALS),
        Variant("C4, the 100 best", "shapes_c4"),
        Variant("C4, all proposals", "shapes_c4", masks=PROPOSALS),
    ),
    comparisons=(
        Comparison("FPN, the 100 best", "FPN, all proposals", smallest=0.5),
        Comparison("C4, the 100 best", "C4, all proposals", smallest=0.5),
    ),
    steps=1000,
    trunk_steps=0,
    pilot_steps=400,
)


@no_grad()
def detect(model: MaskRCNN, images: list) -> list[dict[str, np.ndarray]]:
    """What model.detect(images) returns, but with masks that were predicted in the proposals, of all of them: that of a
    detection lay over the proposal from which it came, and is shown on its own box."""
    batch = model.transform(images)
    features = model.features(batch)
    proposals = model.propose(model.run_rpn(features, batch), batch)
    box, c4 = model.config.box, model.config.backbone == "c4"
    roi_features = model.roi_features(features, proposals, box.pool)
    logits, deltas = (output.data for output in model.box_branch(roi_features))
    # C4's branches share the features of an RoI
    mask_logits = model.mask_logits(roi_features) if c4 else model.mask_branch(features, proposals)
    found, start = [], 0
    for rois, size in zip(proposals, batch.sizes, strict=True):
        part = slice(start, start + len(rois))
        start += len(rois)
        detection = decode_detections(logits[part], deltas[part], rois=rois, image_size=size, settings=box)
        labels, boxes = to_numpy(detection["labels"]), detection["boxes"]
        boxes_of = clip_boxes_to_image(box.coder().decode(deltas[part], rois), size)  # (R, K, 4)
        rows = [
            int(abs(boxes_of[:, label] - one).sum(axis=1).argmin()) for label, one in zip(labels, boxes, strict=True)
        ]
        masks = to_numpy(decode_masks(mask_logits[part][rows], labels, settings=model.config.mask))
        found.append({**detection, "masks": moved(masks, to_numpy(rois)[rows], to_numpy(boxes))})
    return model.rescale(found, batch)


def moved(masks: np.ndarray, rois: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Masks (D, m, m) over rois (D, 4) as they are over boxes (D, 4): 0 where a box reaches beyond its RoI
    by more than a cell."""
    size = masks.shape[1]
    corners, lengths = np.tile(rois[:, :2], 2), np.tile(rois[:, 2:] - rois[:, :2], 2)
    shown: np.ndarray = crop_masks(masks, (boxes - corners) / lengths * size, size)
    return shown
