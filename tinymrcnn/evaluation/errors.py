"""Which mistakes cost how much AP: six kinds of errors, as TIDE has them (Bolya, Foley, Hays and Hoffman, ECCV 2020).

A detection that is wrong, because it has found no object at an IoU of 0.5, is an error of the first kind that fits:

localisation      it overlaps an object of its own class, by an IoU of 0.1 to 0.5
classification    it overlaps an object of another class by 0.5 or more
duplicate         it overlaps an object of its own class by 0.5 or more, which a better detection has found
background        it overlaps no object by more than 0.1
both              what is left: it overlaps objects of other classes only, and these by 0.1 to 0.5

And an object is missed if no detection has found it, and none of the first two kinds of errors overlaps it most.
Crowds, and what is found in them, are neither right nor wrong.

A kind costs what AP50 would gain without it. Of the errors of localisation and of classification, the best one for each
object that was not found becomes right, and the others are left out, as are those of the other kinds; objects that are
missed are not looked for. Each kind is mended alone, so that the costs do not add up to what AP50 lacks.
"""

from typing import NamedTuple

import numpy as np

from tinymrcnn.evaluation.evaluator import Objects, Rows, best_of, curves, match, overlaps_of, rank

FOUND, NEAR = 0.5, 0.1  # the two IoU thresholds
RIGHT, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND, BOTH, IGNORED = range(7)
WRONG = {
    "classification": CLASSIFICATION, "localisation": LOCALISATION, "both": BOTH, "duplicate": DUPLICATE,
    "background": BACKGROUND,
}  # fmt: skip
ERRORS = {
    "classification": "on an object of another class",
    "localisation": f"near an object of its class, IoU {NEAR} to {FOUND}",
    "both": "near an object of another class",
    "duplicate": "on an object that a better one has found",
    "background": "near nothing",
    "missed": "objects that nothing has found",
}


class Errors(NamedTuple):
    """D detections, the highest score of an image first, and G objects, without the crowds.

    label: (D,) int64. score: (D,) float64. kind: (D,) int64, one of RIGHT to IGNORED. mended: (D,) int64, the label
    with which an error becomes right, -1 where it does not. object_label: (G,) int64. missed: (G,) bool."""

    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    mended: np.ndarray
    object_label: np.ndarray
    missed: np.ndarray


def errors_in(found: Objects, objects: Objects, num_labels: int, max_detections: int) -> Errors:
    """The detections and objects of one image. num_labels, max_detections: see evaluator.image_rows."""
    best, _ = best_of(found, num_labels, max_detections)
    label, areas = found.labels[best], found.areas[best]
    overlaps = overlaps_of(found, objects, np.ones((len(found.labels), len(objects.labels)), bool))[best]
    same = label[:, None] == objects.labels
    right, ignored, chosen = match(np.where(same, overlaps, 0), areas, objects.areas, objects.crowd)
    taken = np.isin(np.arange(len(objects.labels)), chosen)

    own, other = (np.where(pairs & ~objects.crowd, overlaps, 0) for pairs in (same, ~same))
    most_own, most_other = own.max(1, initial=0), other.max(1, initial=0)
    kind = np.select(
        [right[:, 0] & 1 == 1, ignored[:, 0] & 1 == 1, (NEAR <= most_own) & (most_own < FOUND), most_other >= FOUND,
         most_own >= FOUND, most_other <= NEAR],
        [RIGHT, IGNORED, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH,
    )  # fmt: skip

    mended, missed = np.full(len(label), -1), ~taken
    for d in np.flatnonzero((kind == LOCALISATION) | (kind == CLASSIFICATION)):
        nearest = (own if kind[d] == LOCALISATION else other)[d].argmax()
        if missed[nearest]:  # neither found nor claimed by a better one
            mended[d], missed[nearest] = objects.labels[nearest], False
    counted = ~objects.crowd
    return Errors(label, found.scores[best], kind, mended, objects.labels[counted], missed[counted])


def join_errors(images: list[Errors], ids: list) -> Errors:
    """Those of all images, in the order of their ids."""
    order = np.argsort(np.array(ids), kind="stable")
    return Errors(*(np.concatenate(column) for column in zip(*(images[i] for i in order), strict=True)))


def price_errors(errors: Errors, num_labels: int) -> dict[str, tuple[int, float]]:
    """{kind: (how many there are, how much AP50 they cost)}, see ERRORS; -1 where there is no object to find."""
    right, kept = errors.kind == RIGHT, errors.kind != IGNORED
    before = _ap50(errors.label, errors.score, right, kept, errors.object_label, num_labels)
    prices = {}
    for name, kind in WRONG.items():
        those = errors.kind == kind
        mended = those & (errors.mended >= 0)
        label = np.where(mended, errors.mended, errors.label)
        after = _ap50(label, errors.score, right | mended, kept & (mended | ~those), errors.object_label, num_labels)
        prices[name] = int(those.sum()), after - before
    after = _ap50(errors.label, errors.score, right, kept, errors.object_label[~errors.missed], num_labels)
    prices["missed"] = int(errors.missed.sum()), after - before
    return prices if len(errors.object_label) else {name: (count, -1.0) for name, (count, _) in prices.items()}


def _ap50(label, score, right, kept, object_label, num_labels: int) -> float:
    """The mean over the classes that have an object; 1 where none has, so that nothing is missed."""
    bits = np.zeros((2, len(label), 4), np.uint16)  # the first threshold of all sizes
    bits[0, :, 0], bits[1, :, 0] = right, ~kept
    counted = np.zeros((len(object_label), 4), bool)
    counted[:, 0] = True
    nothing, nobody = np.zeros(len(label), np.int32), np.zeros(len(object_label), np.int32)
    rows = Rows(nothing, label, score, nothing, bits[0], bits[1], nobody, object_label, counted)
    precision = curves(rank(rows, num_labels, 1), [1])[0][0, :, :, 0, 0]
    defined = precision[precision > -1]
    return defined.mean().item() if len(defined) else 1.0
