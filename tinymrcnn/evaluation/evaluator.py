"""COCO's metrics by our own kernels: the numbers of pycocotools, bit for bit, and many times faster.

Every image is compared when it comes, and then forgotten. What stays of a detection are 40 bytes: its class, its score,
and at which of the ten IoU thresholds it is right, among objects of all sizes, small, medium and large ones. From these
rows come precision and recall, as often as they are wanted: once for the metrics, a thousand times for an interval.
average_precision.py does the same to be read, and lesson 12 explains it.
"""

from typing import NamedTuple

import numpy as np

from tinymrcnn.evaluation.average_precision import AREAS, IOU_THRESHOLDS, RECALLS
from tinymrcnn.evaluation.spans import Spans, shared_pixels
from tinymrcnn.kernels import cpu_kernel

RANGES = np.array(list(AREAS.values()), np.float64)  # of areas: all, small, medium, large
THRESHOLDS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
EPSILON = np.spacing(1.0)


class Objects(NamedTuple):
    """The N objects of an image, or the N detections in it.

    labels: (N,) int64. boxes: (N, 4) float64, x, y, width, height. areas: (N,) float64, which make them small, medium
    or large. crowd: (N,) bool, False for detections. scores: (N,) float64, 0 for objects. spans: the masks, or None."""

    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray
    spans: Spans | None = None


# One image -----------------------------------------------------------------------------------------------


def overlaps_of(found: Objects, objects: Objects, wanted: np.ndarray) -> np.ndarray:
    """IoU (D, G) float64 of D detections and G objects, by their masks where they have them, else by their boxes; 0
    where wanted (D, G) is False. Of a crowd, any part may have been found: the share of the detection that is in it."""
    if found.spans is None or objects.spans is None:
        return _box_overlaps(found.boxes, objects.boxes, objects.crowd, wanted)
    shared = shared_pixels(*found.spans, *objects.spans, wanted)
    own = found.spans.areas()[:, None]
    whole = np.where(objects.crowd, own, own + objects.spans.areas() - shared)
    return np.divide(shared, whole, out=np.zeros(shared.shape), where=shared > 0)


@cpu_kernel
def _box_overlaps(found, boxes, crowd, wanted):
    overlaps = np.zeros(wanted.shape)
    for d in range(len(found)):
        for g in range(len(boxes)):
            w = min(found[d, 2] + found[d, 0], boxes[g, 2] + boxes[g, 0]) - max(found[d, 0], boxes[g, 0])
            h = min(found[d, 3] + found[d, 1], boxes[g, 3] + boxes[g, 1]) - max(found[d, 1], boxes[g, 1])
            if wanted[d, g] and w > 0 and h > 0:
                own, other = found[d, 2] * found[d, 3], boxes[g, 2] * boxes[g, 3]
                overlaps[d, g] = w * h / (own if crowd[g] else own + other - w * h)
    return overlaps


@cpu_kernel
def match(overlaps, found_areas, areas, crowd):
    """Which detections of an image are right. overlaps: (D, G), the detection with the highest score first; 0 where the
    classes differ.

    Returns right and ignored, (D, 4) uint16, of each range of areas; bit t stands for threshold t. And chosen (D,), the
    object that a detection has found at the first threshold, where all sizes count; -1 for none.
    Detections choose in turn: the object that they overlap most among those that are left, of two equals the later.
    An object that is ignored (a crowd, or one of another size) is chosen only where no other is left; the detection is
    ignored then, and so is one that has found nothing and has another size itself."""
    right, ignored = np.zeros((len(overlaps), 4), np.uint16), np.zeros((len(overlaps), 4), np.uint16)
    chosen = np.full(len(overlaps), -1)
    aside, taken = np.empty(len(areas), np.bool_), np.empty(len(areas), np.bool_)
    for a in range(4):
        low, high = RANGES[a]
        for g in range(len(areas)):
            aside[g] = crowd[g] or areas[g] < low or areas[g] > high
        for t in range(len(THRESHOLDS)):
            taken[:] = False
            bit = 1 << t
            for d in range(len(overlaps)):
                mine = -1
                for last_resort in (False, True):
                    most = THRESHOLDS[t]
                    for g in range(len(areas)):
                        if overlaps[d, g] >= most and aside[g] == last_resort and (crowd[g] or not taken[g]):
                            mine, most = g, overlaps[d, g]
                    if mine >= 0:
                        break
                if mine >= 0:
                    taken[mine] = True
                if aside[mine] if mine >= 0 else found_areas[d] < low or found_areas[d] > high:
                    ignored[d, a] |= bit
                elif mine >= 0:
                    right[d, a] |= bit
                if a == 0 and t == 0:
                    chosen[d] = mine
    return right, ignored, chosen


@cpu_kernel
def _places(labels, num_labels):
    """The place of each detection among those of its class, from 0."""
    count, places = np.zeros(num_labels, np.int32), np.empty(len(labels), np.int32)
    for d in range(len(labels)):
        places[d] = count[labels[d]]
        count[labels[d]] += 1
    return places


# All images ----------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What is kept of D detections and G objects of M images, in the order of the images' ids.

    image: (D,) int32, which one. label: (D,) int32. score: (D,) float64. place: (D,) int32, among the detections of its
    class and image. right, ignored: (D, 4) uint16, see match. object_image, object_label: (G,) int32. counted: (G, 4)
    bool, whether the object is one to be found, of each range of areas."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    place: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    counted: np.ndarray


def best_of(found: Objects, num_labels: int, max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(which detections of an image count, the highest score first; the place of each among those of its class)."""
    order = np.argsort(-found.scores, kind="stable")
    places = _places(found.labels[order], num_labels)
    return order[places < max_detections], places[places < max_detections]


def image_rows(found: Objects, objects: Objects, num_labels: int, max_detections: int) -> Rows:
    """The rows of one image, whose number is 0. Labels are below num_labels. max_detections: how many of a class count,
    those with the highest scores."""
    best, places = best_of(found, num_labels, max_detections)
    labels, areas = found.labels[best], found.areas[best]
    overlaps = overlaps_of(found, objects, found.labels[:, None] == objects.labels)[best]
    right, ignored, _ = match(overlaps, areas, objects.areas, objects.crowd)
    size = objects.areas[:, None]
    counted = (size >= RANGES[:, 0]) & (size <= RANGES[:, 1]) & ~objects.crowd[:, None]
    labels, object_labels = labels.astype(np.int32), objects.labels.astype(np.int32)
    image, object_image = np.zeros_like(labels), np.zeros_like(object_labels)
    return Rows(image, labels, found.scores[best], places, right, ignored, object_image, object_labels, counted)


def join_rows(images: list[Rows], ids: list) -> Rows:
    """All images' rows in the order of their ids, by which the images are numbered."""
    ordered = [images[i] for i in np.argsort(np.array(ids), kind="stable")]
    number = np.arange(len(images), dtype=np.int32)
    found, objects = [len(each.label) for each in ordered], [len(each.object_label) for each in ordered]
    rows = Rows(*(np.concatenate(column) for column in zip(*ordered, strict=True)))
    return rows._replace(image=np.repeat(number, found), object_image=np.repeat(number, objects))


class Ranking(NamedTuple):
    """Rows made ready to be counted: those of class k are first[k] to first[k + 1], the highest score first."""

    rows: Rows
    first: np.ndarray
    num_images: int


def rank(rows: Rows, num_labels: int, num_images: int) -> Ranking:
    """Detections class by class, the highest score first; of equal scores, in the order of the images."""
    order = np.lexsort((-rows.score, rows.label))
    first = np.searchsorted(rows.label[order], np.arange(num_labels + 1))
    found = (rows.image, rows.label, rows.score, rows.place, rows.right, rows.ignored)
    return Ranking(Rows(*(column[order] for column in found), *rows[len(found) :]), first, num_images)


def curves(ranking: Ranking, limits=(1, 10, 100), weights=None) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, 4, L) and recall (T, K, 4, L), as pycocotools has them, for T IoU thresholds, R recalls, K
    classes, 4 ranges of areas, L limits to the detections of an image and a class. -1 where there is nothing to find.

    weights: (M,) int64, how often each image is in the data set, None: once."""
    rows, num_labels = ranking.rows, len(ranking.first) - 1
    weights = np.ones(ranking.num_images, np.int64) if weights is None else weights
    objects = np.empty((num_labels, 4), np.int64)
    for a in range(4):
        counted = rows.counted[:, a]
        times = weights[rows.object_image[counted]]
        objects[:, a] = np.bincount(rows.object_label[counted], times, num_labels)
    shape = len(THRESHOLDS), len(RECALLS), num_labels, 4, len(limits)
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    _curves(ranking.first, rows.right, rows.ignored, rows.place, weights[rows.image], objects, np.array(limits),
            precision, recall)  # fmt: skip
    return precision, recall


@cpu_kernel
def _curves(first, right, ignored, place, times, objects, limits, precision, recall):
    best, reached = np.empty(len(place)), np.empty(len(place))  # precision and recall at each right detection
    for k in range(len(first) - 1):
        for a in range(4):
            total = objects[k, a]
            if total == 0:
                continue
            for limit in range(len(limits)):
                for t in range(len(THRESHOLDS)):
                    bit = 1 << t
                    n = true = false = 0
                    for d in range(first[k], first[k + 1]):
                        if ignored[d, a] & bit or place[d] >= limits[limit] or times[d] == 0:
                            continue
                        if right[d, a] & bit:
                            true += times[d]
                            best[n], reached[n] = true / (np.float64(false + true) + EPSILON), true / total
                            n += 1
                        else:
                            false += times[d]
                    recall[t, k, a, limit] = true / total
                    for i in range(n - 2, -1, -1):  # the best at this recall or a higher one
                        best[i] = max(best[i], best[i + 1])
                    i = 0
                    for r in range(len(RECALLS)):
                        while i < n and reached[i] < RECALLS[r]:
                            i += 1
                        precision[t, r, k, a, limit] = best[i] if i < n else 0.0
