"""The test of a trained model: what it finds, what of it is right, and on crowded pictures how good each mask is."""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.boxes import box_iou, paste_masks
from tinymrcnn.data import ShapesDataset
from tinymrcnn.evaluation.average_precision import match
from tinymrcnn.experiments import heads, inference_order
from tinymrcnn.experiments.matches import Matches, match_detections, mean_precision, rank
from tinymrcnn.experiments.plan import PROPOSALS, Run
from tinymrcnn.experiments.training import model_of, proposals_on, test_pictures
from tinymrcnn.models import TwoStage
from tinymrcnn.settings import replace

THRESHOLDS = {"AP": slice(None), "AP50": 0, "AP75": 5}  # which of the ten IoUs 0.5, 0.55, ..., 0.95
KINDS = {"bbox": "box", "segm": "mask"}
FREE, CROWDED = 0.4, 0.6  # largest overlap of an object's box with one of its class, below and from which
BATCH = 8


class Found(NamedTuple):
    """What the metrics of a run are computed from. objects: see objects_of, empty on pictures that are not crowded.
    seconds: of one core, to detect in one picture."""

    matches: Matches
    objects: dict[str, np.ndarray]
    seconds: float = 0.0


def judge(run: Run, scratch: Path, device: str) -> Found:
    """Train or load the model of a run, and test it."""
    model = model_of(run.training, scratch, device)
    model.config = replace(model.config, **dict(run.test))
    dataset = test_pictures(run.pictures, run.images)
    proposals = proposals_on(run.training, dataset, run.pictures, scratch, device) if run.training.trunk_steps else None
    began = time.process_time()
    detections = detections_of(model, dataset, run.masks, proposals)
    seconds = (time.process_time() - began) / len(dataset)
    matches = match_detections(detections, dataset)
    objects = {}
    if model.config.masks and run.pictures == "crowded":
        objects = objects_of(model, dataset, detections)
    return Found(matches, objects, seconds)


def detections_of(
    model: Any, dataset: ShapesDataset, masks: str, proposals: list[np.ndarray] | None
) -> list[dict[str, np.ndarray]]:
    """What the model finds in every picture. proposals: those of the pictures, for heads on a stored trunk."""
    found: list[dict] = []
    for start in range(0, len(dataset), BATCH):
        part = range(start, min(start + BATCH, len(dataset)))
        images = [dataset[index][0] for index in part]
        if masks == PROPOSALS:
            found += inference_order.detect(model, images)
        elif proposals is not None:
            found += heads.detect(model, images, [proposals[index] for index in part])
        else:
            found += model.detect(images)
    return found


# Metrics ---------------------------------------------------------------------------------------------------


def metrics_of(found: Found) -> dict[str, float]:
    """All metrics by name: "bbox/AP", ..., "segm/AP75" where masks were predicted, and on crowded pictures "fall"."""
    kinds = [kind for kind in KINDS if kind == "bbox" or found.matches.mask_right.shape[1]]
    names = [f"{kind}/{name}" for kind in kinds for name in THRESHOLDS] + ["fall"] * bool(found.objects)
    every = np.ones(len(found.matches.objects), np.int64)
    return {name: metric(found, name)(every) for name in names}


def metric(found: Found, name: str) -> Callable[[np.ndarray], float]:
    """One metric as a function of weights (M,), how often each picture counts, which is called many times by the
    bootstrap.

    "fall": how much worse masks in true boxes are where objects of a class overlap: the mean mask IoU of the objects
    whose box overlaps none of their class by FREE or more, minus that of those whose box overlaps one by CROWDED at
    least."""
    if name != "fall":
        kind, _, threshold = name.partition("/")
        return functools.partial(mean_precision, rank(found.matches, KINDS[kind], THRESHOLDS[threshold]))
    image, given, same = (found.objects[column] for column in ("object_image", "given", "same"))

    def fall(weights: np.ndarray) -> float:
        free, crowded = weights[image] * (same < FREE), weights[image] * (same >= CROWDED)
        return float(given @ free / free.sum() - given @ crowded / crowded.sum())

    return fall


# Objects ---------------------------------------------------------------------------------------------------


def objects_of(model: TwoStage, dataset: ShapesDataset, detections: list[dict]) -> dict[str, np.ndarray]:
    """A row for every object of the pictures:

    object_image, object_label; same and other: the largest IoU of its box with that of another object of its class, and
    of another class; given: the IoU of its mask with the one that the model predicts in its true box, of its true
    class; found: with that of the detection that takes it, where detections choose in turn, the best first; 0 where
    none does."""
    rows: list[tuple] = []
    for index, detection in enumerate(detections):
        image, target = dataset[index]
        boxes, labels, truth = target["boxes"], target["labels"], target["masks"]
        overlaps = box_iou(boxes, boxes)
        np.fill_diagonal(overlaps, 0)
        alike = labels[:, None] == labels
        given = given_masks(model, image, target)
        found = np.zeros(len(labels))
        for label in np.unique(labels):
            mine, its = np.flatnonzero(labels == label), detection["labels"] == label
            pasted = paste_masks(detection["masks"][its], detection["boxes"][its], image.shape[1:]) >= 0.5
            ious = mask_iou(pasted, truth[mine])
            none = np.zeros(len(mine), bool)
            for row, taken in enumerate(match(ious, none, none, 1e-9)):
                if taken >= 0:
                    found[mine[taken]] = ious[row, taken]
        for n in range(len(labels)):
            own = mask_iou(given[n : n + 1], truth[n : n + 1])[0, 0]
            same, other = ((overlaps[n] * which).max(initial=0) for which in (alike[n], ~alike[n]))
            rows.append((index, labels[n], same, other, own, found[n]))
    names = ("object_image", "object_label", "same", "other", "given", "found")
    types = (np.uint16, np.uint8, *[np.float32] * 4)
    columns = zip(*rows, strict=True)
    return {name: np.array(column, kind) for name, kind, column in zip(names, types, columns, strict=True)}


@no_grad()
def given_masks(model: TwoStage, image: np.ndarray, target: dict) -> np.ndarray:
    """The masks (G, H, W) bool that a model predicts in the true boxes, of the true classes."""
    batch = model.transform([image], [target])
    detection = {"boxes": batch.gt_boxes[0], "labels": target["labels"]}
    (masks,) = model.mask_detections(model.features(batch), [detection])
    pasted: np.ndarray = paste_masks(masks, target["boxes"], image.shape[1:]) >= 0.5
    return pasted


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, H, W) and (B, H, W) to (A, B); 0 for two empty masks."""
    a, b = (masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32) for masks in (a, b))
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - shared
    return shared / np.maximum(union, 1)
