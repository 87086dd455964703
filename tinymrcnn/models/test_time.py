"""More from a trained model, without training: large images in tiles, images seen mirrored too, Soft-NMS, other limits.

None of it is part of the network, and none of it is on unless asked for. Tiles keep small objects of a large image
as large as they were in training; a mirrored second look lets two opinions about an object be averaged (the simplest
test-time augmentation); Soft-NMS (Bodla et al. 2017) lowers the scores of boxes that overlap a better one, where NMS
drops them. `tinymrcnn predict` and `evaluate` offer them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import to_numpy
from tinymrcnn.boxes import box_area, box_iou
from tinymrcnn.models.box_branch import as_detections, best_detections
from tinymrcnn.models.mask_rcnn import MaskRCNN
from tinymrcnn.models.two_stage import TwoStage
from tinymrcnn.settings import find_field, replace

Detections = dict[str, np.ndarray]  # of one image: boxes (D, 4), labels (D,), scores (D,), masks (D, m, m), on the host

# The settings that say how outputs are read; all others belong to what was trained
FREE = (
    "transform.min_size", "transform.max_size", "rpn.pre_nms_test", "rpn.post_nms_test", "rpn.nms",
    "rpn.min_proposal_size", "box.score_threshold", "box.nms", "box.max_detections", "box.min_box_size",
    "box.clip_results", "mask.softmax_decoding",
)  # fmt: skip
# Of Soft-NMS: the larger, the less an overlap costs. 0.5 is the paper's. Of its two decays the linear one needs an IoU
# from which on an overlap costs something, one more threshold to choose; the Gaussian needs none.
SIGMA = 0.5
SAME = 0.5  # IoU of two boxes of one class in two views: one object
COVERED = 0.7  # a piece of an object that a tile's edge cut off lies so far inside the whole one
EDGE = 2  # pixels: a box that comes so near to a tile's inner edge may be cut off there


def set_free_settings(model: TwoStage, overrides: dict[str, Any]) -> None:
    """Replace settings that may change after training, such as box.score_threshold, in place.

    overrides: {name, in any form of settings.find_field: value}. Raises ValueError for a name that is unknown or that
    belongs to what was trained, and for a bad value."""
    kind = type(model.config)
    for name in overrides:
        if find_field(kind, name) not in FREE:
            raise ValueError(
                f"{find_field(kind, name)} is part of what was trained and cannot be set afterwards. "
                f"What can be set: {', '.join(FREE)}."
            )
    model.config = replace(model.config, **overrides)


class TestTime:
    """A trained model that looks at an image several times. It has what evaluation and drawing ask of a model: detect,
    config, categories, and its mode.

    tile: the side of the square tiles, in pixels, that larger images are cut into, or None. Neighbours share a quarter
    of it, so an object of up to a quarter of a tile is whole in one of them at least. mirrored: whether every view is
    looked at from left to right and from right to left. soft: Soft-NMS in place of NMS. Raises ValueError for a tile of
    less than 32 pixels, and for Soft-NMS with another model than Mask R-CNN: FCIS and MNC merge overlaps by votes."""

    __test__ = False  # pytest must not take it for a test

    def __init__(self, model: TwoStage, *, tile: int | None = None, mirrored: bool = False, soft: bool = False) -> None:
        if tile is not None and tile < 32:
            raise ValueError(f"Tiles are squares of 32 pixels at least, not of {tile}.")
        if soft and not isinstance(model, MaskRCNN):
            raise ValueError(f"Soft-NMS is for Mask R-CNN; {type(model).__name__} merges what overlaps by votes.")
        self.model, self.tile, self.mirrored, self.soft = model, tile, mirrored, soft

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        """As model.detect: the objects of every image (3, H, W), the best first."""
        if self.tile is None and not self.mirrored:
            return self._look(images)
        return [self._in_tiles(image) for image in images]

    def _look(self, images: list[np.ndarray]) -> list[Detections]:
        if self.soft and isinstance(self.model, MaskRCNN):
            return detect_softly(self.model, images)
        return self.model.detect(images)

    def _in_tiles(self, image: np.ndarray) -> Detections:
        size = image.shape[1:]
        parts = list(tiles(size, self.tile or max(size)))
        views = [self._in_both_directions(image[:, y1:y2, x1:x2]) for x1, y1, x2, y2 in parts]
        return views[0] if len(parts) == 1 else merge_tiles(views, parts, size, limit=self.config.box.max_detections)

    def _in_both_directions(self, image: np.ndarray) -> Detections:
        if not self.mirrored:
            (found,) = self._look([image])
            return found
        forth, back = (self._look([view])[0] for view in (image, np.ascontiguousarray(image[:, :, ::-1])))
        return average_views(forth, mirror(back, image.shape[2]))


def tiles(size: tuple[int, int], side: int) -> Iterator[tuple[int, int, int, int]]:
    """The corners (x1, y1, x2, y2) of square tiles that cover an image of the size (h, w), neighbours sharing a
    quarter of a side at least; an image that is not larger than a tile along an axis is not cut along it."""
    ys, xs = (_starts(length, side) for length in size)
    for y in ys:
        for x in xs:
            yield x, y, min(x + side, size[1]), min(y + side, size[0])


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    step = side - side // 4
    count = -(-(length - side) // step) + 1
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def merge_tiles(
    views: list[Detections], parts: list[tuple[int, int, int, int]], size: tuple[int, int], *, limit: int
) -> Detections:
    """The detections of all tiles in the image's coordinates, every object once, at most `limit` of them.

    views: the detections of each tile, in its own coordinates. parts: the tiles' corners. An object that several tiles
    show is kept from the one with the highest score among those that show it whole; a piece that an edge cut off goes
    where it lies within a kept object. Two detections of one tile are never merged: its own NMS has let both pass."""
    found, tile_of, cut = [], [], []
    for n, (view, (x1, y1, x2, y2)) in enumerate(zip(views, parts, strict=True)):
        boxes = view["boxes"] + np.array([x1, y1, x1, y1], view["boxes"].dtype)
        near = np.stack([
            (boxes[:, 0] < x1 + EDGE) & (x1 > 0), (boxes[:, 1] < y1 + EDGE) & (y1 > 0),
            (boxes[:, 2] > x2 - EDGE) & (x2 < size[1]), (boxes[:, 3] > y2 - EDGE) & (y2 < size[0]),
        ])  # fmt: skip
        found.append({**view, "boxes": boxes})
        tile_of.append(np.full(len(boxes), n))
        cut.append(near.any(axis=0))
    joined = {name: np.concatenate([view[name] for view in found]) for name in found[0]}
    tile, pieces = np.concatenate(tile_of), np.concatenate(cut)
    kept: list[int] = []
    for n in np.lexsort((-joined["scores"], pieces)).tolist():  # whole objects first, and of those the best
        others = [k for k in kept if tile[k] != tile[n] and joined["labels"][k] == joined["labels"][n]]
        if not others or not _is_seen(joined["boxes"][n], joined["boxes"][others], pieces[n]):
            kept.append(n)
    best = sorted(kept, key=lambda n: -joined["scores"][n])[:limit]
    return {name: values[best] for name, values in joined.items()}


def _is_seen(box: np.ndarray, others: np.ndarray, piece: bool) -> bool:
    """Whether the object in a box is one of the others'."""
    if (box_iou(box[None], others)[0] > SAME).any():
        return True
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return bool(piece and (sides.clip(min=0).prod(axis=1) > COVERED * box_area(box[None])).any())


def mirror(found: Detections, width: int) -> Detections:
    """Detections in an image as they lie in its mirror image, left and right exchanged. width: of the image, pixels."""
    boxes = found["boxes"].copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    masks = {"masks": found["masks"][:, :, ::-1]} if "masks" in found else {}
    return {**found, "boxes": boxes, **masks}


def average_views(one: Detections, other: Detections) -> Detections:
    """The mean of two looks at one image: of every pair of the same class and place the mean score, box and mask; what
    one look alone has found keeps half of its score.

    The pairs are made greedily, the best scores first. Both in the same coordinates."""
    overlaps = box_iou(one["boxes"], other["boxes"])
    overlaps[one["labels"][:, None] != other["labels"]] = 0
    partner = np.full(len(one["labels"]), -1)
    for n in range(len(partner)):  # the best first
        if overlaps.shape[1] and overlaps[n].max() > SAME:
            partner[n] = overlaps[n].argmax()
            overlaps[:, partner[n]] = 0
    paired = np.flatnonzero(partner >= 0)
    alone, others_alone = np.flatnonzero(partner < 0), np.setdiff1d(np.arange(len(other["labels"])), partner)
    result = {}
    for name, values in one.items():
        half = values.dtype.type(0.5) if name == "scores" else 1
        pairs = values[paired]
        if name != "labels":
            pairs = (pairs + other[name][partner[paired]]) / 2
        result[name] = np.concatenate([pairs, values[alone] * half, other[name][others_alone] * half])
    order = np.argsort(-result["scores"], kind="stable")
    return {name: values[order] for name, values in result.items()}


@no_grad()
@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def detect_softly(model: MaskRCNN, images: list[np.ndarray]) -> list[Detections]:
    """As model.detect, with Soft-NMS: the same steps, but every class of every RoI that scores well stays until its
    score has been lowered, for all that it shares with better ones, to score_threshold."""
    settings = model.config.box
    batch = model.transform(images)
    features = model.features(batch)
    proposals = model.propose(model.run_rpn(features, batch), batch)
    roi_features = model.roi_features(features, proposals, settings.pool)
    logits, deltas = (output.data for output in model.box_branch(roi_features))
    found, start = [], 0
    for rois, size in zip(proposals, batch.sizes, strict=True):
        part, start = slice(start, start + len(rois)), start + len(rois)
        limit = max(1, len(rois) * (model.config.num_classes - 1))
        every = replace(settings, nms=1.0, max_detections=limit)  # no overlap is above 1
        candidates = as_detections(to_numpy(best_detections(logits[part], deltas[part], rois, size, settings=every)))
        scores = soft_nms(candidates["boxes"], candidates["scores"], candidates["labels"])
        best = np.argsort(-scores, kind="stable")[: settings.max_detections]
        best = best[scores[best] > settings.score_threshold]
        found.append({**{name: values[best] for name, values in candidates.items()}, "scores": scores[best]})
    if model.config.masks:
        masks = model.mask_detections(features, found)
        found = [{**detections, "masks": of_image} for detections, of_image in zip(found, masks, strict=True)]
    return model.rescale(found, batch)


def soft_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """The scores that Soft-NMS leaves to boxes (n, 4) with scores (n,) of the classes (n,), in their order and dtype.

    As in NMS the best box of a class is taken, again and again. The others then lose the more, the more they overlap
    it: their scores are multiplied by exp(-IoU^2 / sigma), the paper's Gaussian. Of equal scores the first counts as
    the better. Boxes of other classes change nothing."""
    lowered = scores.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        factors = np.exp(-np.square(box_iou(boxes[rows], boxes[rows])) / sigma)
        left = scores[rows]  # minus infinity: taken
        for _ in rows:
            best = left.argmax()
            lowered[rows[best]] = left[best]
            left[best] = -np.inf
            left *= factors[best]
    return lowered
