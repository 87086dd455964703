"""What FCIS and MNC make of their RoIs at inference: detections whose masks are voted for by the RoIs around them.

MNC (Dai et al. 2016) brought this in; FCIS (Li et al. 2017), section 2.3, does the same. A candidate is an RoI with a
score for every class and one mask. Both models look twice, at the proposals and at the proposals corrected, and the
RoIs of both passes are candidates.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, to_numpy
from tinymrcnn.boxes import batched_nms, box_iou, crop_masks, paste_masks
from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.settings import Fraction, Range, Settings

# Shapes below: R RoIs, K classes, D detections, masks of m x m cells


@dataclass(frozen=True)
class VotingSettings(Settings):
    """How candidates become detections."""

    mask_threshold: Annotated[float, Range(0.01, 0.99)] = 0.4  # on a target's coverage, and a mask's probability
    second_pass: bool = True  # the corrected boxes are RoIs as well
    voting: bool = True  # masks are means over all RoIs that overlap a detection
    voting_iou: Fraction = 0.5  # by how much they do


class Candidates(NamedTuple):
    """What may be a detection of one image, on the host. boxes: (R, 4). rois: (R, 4), what was read for them, over
    which their masks lie. scores: (R, K) probabilities. masks: (R, m, m) probabilities, for the foreground class with
    the highest score."""

    boxes: np.ndarray
    rois: np.ndarray
    scores: np.ndarray
    masks: np.ndarray


def candidates_of(boxes: list[Array], rois: list[Array], scores: Tensor, masks: Tensor) -> list[Candidates]:
    """The candidates of every image. boxes, rois: per image (R_i, 4). scores (R, K) and masks (R, m, m): of all
    images."""
    ends = np.cumsum([len(part) for part in boxes])[:-1].tolist()
    parts = zip(np.split(to_numpy(scores.data), ends), np.split(to_numpy(masks.data), ends), strict=True)
    return [Candidates(to_numpy(b), to_numpy(r), s, m) for b, r, (s, m) in zip(boxes, rois, parts, strict=True)]


def decode_candidates(
    passes: list[Candidates], *, image_size: tuple[int, int], settings: VotingSettings, box: BoxSettings
) -> dict[str, np.ndarray]:
    """The detections of one image, from its candidates of every pass: boxes (D, 4), scores (D,), labels (D,), the best
    max_detections without duplicates within a class, best first, and masks (D, 2m, 2m), probabilities that are cut at
    0.5 (see cut_at_half).

    With voting the mask is the vote of all candidates around a detection, and the box is drawn around it; a detection
    whose mask nothing is left of is dropped. Whatever is not finite is dropped."""
    found = Candidates(*map(np.concatenate, zip(*passes, strict=True)))
    finite = np.all([np.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in found], axis=0)
    found = Candidates(*(array[finite] for array in found))
    large = (found.boxes[:, 2:] - found.boxes[:, :2] >= box.min_box_size).all(axis=1)
    rows, labels = np.nonzero((found.scores[:, 1:] > box.score_threshold) & large[:, None])
    scores = found.scores[rows, labels + 1]
    keep = batched_nms(found.boxes[rows], scores, labels, box.nms)[: box.max_detections]
    rows, labels, scores = rows[keep], labels[keep] + 1, scores[keep]
    boxes, size = found.boxes[rows], 2 * found.masks.shape[1]
    if settings.voting:
        votes = [vote(found, row, label, image_size, settings) for row, label in zip(rows, labels, strict=True)]
        there = np.array([len(v[0]) > 0 for v in votes], bool)
        boxes = np.concatenate([boxes[:0], *(v[0] for v in votes)])
        masks = np.concatenate([np.zeros((0, size, size), scores.dtype), *(v[1] for v in votes)])
        labels, scores = labels[there], scores[there]
    else:
        masks = masks_over(boxes, found.masks[rows], found.rois[rows])
    masks = cut_at_half(masks, settings.mask_threshold)
    return {"boxes": boxes, "scores": scores, "labels": labels.astype(np.int64), "masks": masks}


def vote(
    found: Candidates, row: int, label: int, image_size: tuple[int, int], settings: VotingSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of a detection as its candidates see it: box (1, 4) and mask (1, 2m, 2m), or (0, 4) and (0, 2m, 2m).

    All candidates whose boxes overlap that of `row` by voting_iou vote, with their scores for the class as weights;
    each votes, pixel by pixel of the image, whether its mask reaches mask_threshold, and the object is where the mean
    does. The box is the tightest one around it."""
    size, dtype = 2 * found.masks.shape[1], found.boxes.dtype
    overlaps = box_iou(found.boxes[row : row + 1], found.boxes)[0]
    overlaps[row] = 1  # of a box without an area too
    votes = np.flatnonzero(overlaps >= settings.voting_iou)
    height, width = image_size
    # only the part of the image that their RoIs cover
    left, top = np.maximum(np.floor(found.rois[votes, :2].min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.ceil(found.rois[votes, 2:].max(axis=0)).astype(int).tolist()
    window = max(min(bottom, height) - top, 0), max(min(right, width) - left, 0)
    corner = np.array([left, top, left, top], dtype)
    pasted = paste_masks(found.masks[votes], found.rois[votes] - corner, window) >= settings.mask_threshold
    weights = found.scores[votes, label] / found.scores[votes, label].sum()
    mean = np.tensordot(weights, pasted.astype(dtype), 1)  # (h, w)
    rows, columns = (np.flatnonzero((mean >= settings.mask_threshold).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((0, 4), dtype), np.zeros((0, size, size), dtype)
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype)
    return box + corner, crop_masks(mean[None], box, size)


def masks_over(boxes: np.ndarray, masks: np.ndarray, rois: np.ndarray) -> np.ndarray:
    """Masks (D, m, m) that lie over the RoIs (D, 4), each as a finer one over its box (D, 4): (D, 2m, 2m)."""
    size = masks.shape[1]
    corners, lengths = np.tile(rois[:, :2], 2), np.tile(rois[:, 2:] - rois[:, :2], 2)
    finer: np.ndarray = crop_masks(masks, (boxes - corners) / lengths * size, 2 * size)
    return finer


def cut_at_half(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities that rise with the given ones, from 0 to 1, and are 0.5 where those are `threshold`: every model's
    masks are cut at 0.5, while FCIS and MNC cut theirs at mask_threshold."""
    inside, outside = probabilities * (1 - threshold), (1 - probabilities) * threshold
    return inside / (inside + outside)
