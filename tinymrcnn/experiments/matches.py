"""What one run found, small enough to be kept: score, class and picture of every detection, and whether it is right.

Average precision needs no more, no boxes and no masks: which detections are right at each of ten IoU thresholds, and
how many objects there are. So the interval of a comparison can be computed anew from one small file a run (18 to 66 kB
for 500 pictures), and a test set drawn with replacement is the same detections with whole numbers as weights.
evaluation/average_precision.py computes the same curves without weights, to be read, and lesson 12 explains them.
"""

import io
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from tinymrcnn.data.coco import annotations_of
from tinymrcnn.evaluation.average_precision import IOU_THRESHOLDS, MAX_DETECTIONS, RECALLS, match
from tinymrcnn.evaluation.coco import coco_results
from tinymrcnn.files import printable, replacing


class Matches(NamedTuple):
    """D detections in M pictures. Classes are labels below K.

    image: (D,) uint16, the index of the picture in the data set. label: (D,) uint8. score: (D,) float32.
    box_right, mask_right: (D, 10) bool, whether the detection has found an object at an IoU of 0.5, 0.55, ..., 0.95, by
    COCO's rules: the best first, each object once. mask_right is (D, 0) where there are no masks.
    objects: (M, K) uint8, how many objects of each class a picture holds; column 0 is unused.
    The pictures come in the order of their image_id, and their detections as they were found, which decides between
    equal scores as COCO does."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box_right: np.ndarray
    mask_right: np.ndarray
    objects: np.ndarray


# Which detections are right ------------------------------------------------------------------------------


def match_detections(
    detections: list[dict], dataset, whole_pixels: bool = False, max_detections: int = MAX_DETECTIONS
) -> Matches:
    """Compare detections, one dict an image in the order of the data set, as model.detect returns them, with its
    targets.

    The arguments are those of evaluation.evaluate_detections, and average_precision below gives its numbers. Of an
    image and a class the max_detections with the highest scores count; the others are left out. A data set with a
    method read_target(index) is asked for targets alone, not for images.
    Raises ValueError where the numbers of images differ or are 0, for a label that is no category, for a crowd (what is
    found in it counts neither as right nor as wrong, which Matches cannot say), and for more than 65,535 images, 255
    classes, or 255 objects of a class in one image."""
    if len(detections) != len(dataset) or not detections:
        raise ValueError(f"There are detections for {len(detections)} images, and the data set has {len(dataset)}.")
    num_labels = 1 + max(category["label"] for category in dataset.categories)
    if len(dataset) > 65_535 or num_labels > 256:
        raise ValueError(
            f"{len(dataset):,} images of {num_labels - 1} classes are too many: matches hold 65,535 images and 255 "
            "classes. Use evaluate_detections(), which keeps nothing."
        )
    target_of = getattr(dataset, "read_target", lambda index: dataset[index][1])
    order, parts, objects = [], [], []
    for index, detection in enumerate(detections):
        target = target_of(index)
        present = np.bincount(target["labels"], minlength=num_labels)
        if target["iscrowd"].any() or present.max() > 255:
            raise ValueError(
                f"Image {index} of the data set holds a crowd, or more than 255 objects of one class: matches have no "
                "place for what is neither right nor wrong, nor for more objects. Use evaluate_detections()."
            )
        kept, box_right, mask_right = _match_image(target, detection, dataset.categories, whole_pixels, max_detections)
        labels, scores = detection["labels"][kept], detection["scores"][kept]
        order.append(target["image_id"])
        objects.append(present)
        parts.append((np.full(len(labels), index), labels, scores, box_right[kept], mask_right[kept]))
    if min(part[4].shape[1] for part in parts) == 0:  # an image without masks: as in evaluate(), none count
        parts = [(*part[:4], part[4][:, :0]) for part in parts]
    columns = zip(*(parts[index] for index in np.argsort(order, kind="stable")), strict=True)
    image, label, score, box_right, mask_right = (np.concatenate(column) for column in columns)
    return Matches(
        image.astype(np.uint16),
        label.astype(np.uint8),
        score.astype(np.float32),
        box_right,
        mask_right,
        np.array(objects, np.uint8),
    )


def _match_image(
    target: dict, detection: dict, categories: list[dict], whole_pixels: bool, max_detections: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kept, box_right, mask_right) of the D detections of one image: (D,) bool, which of them count, and (D, 10) bool;
    mask_right is (D, 0) without masks."""
    with_masks = "masks" in target and "masks" in detection
    if not with_masks:
        target, detection = (
            {key: value for key, value in each.items() if key != "masks"} for each in (target, detection)
        )
    size = target["masks"].shape[1:] if with_masks else (0, 0)  # which only masks need
    found = coco_results([detection], [target["image_id"]], [size], categories, whole_pixels)
    objects = annotations_of(target, categories, first_id=1)
    kept = np.zeros(len(found), bool)
    right = {kind: np.zeros((len(found), 10), bool) for kind in ("bbox", "segmentation")[: 1 + with_masks]}
    for label in np.unique(detection["labels"]):
        mine = np.flatnonzero(detection["labels"] == label)
        mine = mine[np.argsort(-detection["scores"][mine], kind="stable")][:max_detections]
        kept[mine] = True
        theirs = np.flatnonzero(target["labels"] == label)
        if len(theirs) == 0:
            continue
        no = np.zeros(len(theirs), bool)  # none is a crowd, and of all sizes none is ignored
        for kind, rows in right.items():
            overlaps = coco_mask.iou([found[i][kind] for i in mine], [objects[i][kind] for i in theirs], no.tolist())
            for t, threshold in enumerate(IOU_THRESHOLDS):
                rows[mine, t] = match(overlaps, no, no, threshold) >= 0
    return kept, right["bbox"], right.get("segmentation", np.zeros((len(found), 0), bool))


# Average precision of a test set with weights ------------------------------------------------------------


class Ranking(NamedTuple):
    """One class: its D detections from the highest score down, made ready to be counted with many weights.

    image: (D,) the picture of each. place: (R,) which of them are right at any of the T thresholds, and right: (T, R)
    float64, 1 where they are. objects: (M,) float64, how many a picture holds. What is wrong at all thresholds only
    stands in the list: precision is wanted where recall grows."""

    image: np.ndarray
    place: np.ndarray
    right: np.ndarray
    objects: np.ndarray


def average_precision(matches: Matches, kind: str = "mask", thresholds: Any = slice(None), weights=None) -> float:
    """Average precision of the "mask" or the "box", a mean over the classes and the thresholds; -1 without an object.

    thresholds: which of the ten, an index, slice or list: all give AP, 0 gives AP50, 5 gives AP75. weights: (M,)
    non-negative integers, how often each picture is in the test set with all its detections and objects; None: once.
    Equal to evaluation.evaluate_detections, for the weights too, if each picture is really there so often; but of
    equal scores, the copies of one detection then come together. For many weights, rank once and call mean_precision.
    Raises ValueError for another kind, for masks where there are none, and for another number of weights."""
    return mean_precision(rank(matches, kind, thresholds), weights)


def rank(matches: Matches, kind: str = "mask", thresholds: Any = slice(None)) -> list[Ranking]:
    """What mean_precision needs of the matches, one Ranking a class. See average_precision."""
    if kind not in ("mask", "box"):
        raise ValueError(f"Average precision is that of the 'mask' or the 'box', not {kind!r}.")
    right = matches.mask_right if kind == "mask" else matches.box_right
    if right.shape[1] == 0:
        raise ValueError("There are no masks in these matches; ask for the 'box'.")
    right = right[:, np.atleast_1d(np.arange(10)[thresholds])].T
    order = np.argsort(-matches.score, kind="stable")
    rankings = []
    for label in range(1, matches.objects.shape[1]):
        mine = order[matches.label[order] == label]
        place = np.flatnonzero(right[:, mine].any(0))
        objects = matches.objects[:, label].astype(np.float64)
        rankings.append(Ranking(matches.image[mine], place, right[:, mine[place]].astype(np.float64), objects))
    return rankings


def mean_precision(rankings: list[Ranking], weights=None) -> float:
    """Average precision, as average_precision explains it, of one run's rankings: a metric for the bootstrap."""
    images = len(rankings[0].objects)
    weights = np.ones(images) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (images,):
        raise ValueError(f"Each of the {images} pictures needs a weight; they have the shape {weights.shape}.")
    curves = []
    for image, place, right, objects in rankings:
        total = weights @ objects
        if total == 0:
            continue  # nothing to find: as in COCO, the class does not count
        times = weights[image]
        true, found = np.cumsum(right * times[place], axis=1), np.cumsum(times)[place]
        best = np.zeros((len(right), len(place) + 1))  # the last is for a recall that is never reached
        precision = true / (found + np.spacing(1))  # the last term as in pycocotools, for the last digit
        best[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = [np.searchsorted(recall, RECALLS) for recall in true / total]
        curves.append(np.take_along_axis(best, np.array(reached), axis=1))
    # thresholds, recalls, classes: the order in which COCO adds them up
    return np.stack(curves, axis=2).ravel().mean().item() if curves else -1.0


# Files ---------------------------------------------------------------------------------------------------


def save_matches(path, matches: Matches, **extra) -> None:
    """Write the matches into a compressed .npz file, whole or not at all, right and wrong as single bits. Of the scores
    only the order is kept, since nothing else counts and whole numbers take half the room.

    extra: other arrays that belong to the run, by names that Matches does not use; load_extra reads them.
    Raises OSError where the file cannot be written, ValueError for a name that is taken and for arrays of objects."""
    for name, array in extra.items():
        if name in Matches._fields or np.asarray(array).dtype.hasobject:
            raise ValueError(f"'{name}' cannot go along: the matches have the name, or it holds Python objects.")
    arrays = matches._asdict()
    arrays["score"] = np.unique(matches.score, return_inverse=True)[1].astype(np.int32)  # the lowest is 0
    for name in ("box_right", "mask_right"):
        arrays[name] = np.packbits(arrays[name].T, axis=1)  # one threshold after the other, which packs best
    with replacing(path) as file:
        np.savez_compressed(file, **arrays, **extra)


def load_matches(path) -> Matches:
    """The matches of a file that save_matches wrote; the scores are whole numbers in the order of the true ones. Raises
    OSError where it cannot be read, ValueError where it is another or damaged."""
    arrays = _load(path)
    arrays["score"], count = arrays["score"].astype(np.float32), len(arrays["image"])
    for name in ("box_right", "mask_right"):
        arrays[name] = np.unpackbits(arrays[name], axis=1, count=count).T.astype(bool)
    return Matches(*(arrays[name] for name in Matches._fields))


def load_extra(path) -> dict[str, np.ndarray]:
    """The other arrays of such a file, by name. Raises as load_matches does."""
    return {name: array for name, array in _load(path).items() if name not in Matches._fields}


def _load(path) -> dict[str, np.ndarray]:
    """All arrays of such a file, as they are stored."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            # read to the end, so that the checksums are compared; np.load stops before
            entries = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
            arrays = {name: np.lib.format.read_array(entry) for name, entry in entries.items()}
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"'{printable(path)}' is no file of matches, or it is damaged: {error}") from error
    if absent := set(Matches._fields) - arrays.keys():
        raise ValueError(f"'{printable(path)}' is no file of matches: {', '.join(sorted(absent))} are missing.")
    return arrays
