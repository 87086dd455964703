"""The evaluator beside pycocotools, on made-up results like those of COCO.

An image has 480 x 640 pixels, seven objects of 80 classes on average, some of them crowds, and up to 100 detections:
objects found more or less exactly, some twice or as another class, and others that are not there. Each side begins with
what it takes: pycocotools with its index of annotations, which is made before the clock runs, ours with the arrays of
every image. Masks are packed run lengths on both. Both end with precision and recall for 1, 10 and 100 detections.
"""

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinymrcnn.bench.cases import IOU_OPERATIONS, Case
from tinymrcnn.bench.measure import Setting
from tinymrcnn.evaluation.evaluator import Objects, curves, image_rows, join_rows, rank
from tinymrcnn.evaluation.spans import spans_of_strings

IMAGES, CLASSES, HEIGHT, WIDTH = 1_000, 80, 480, 640
DETECTIONS = 100  # of an image at most
LIMITS = (1, 10, 100)


class MadeUp(NamedTuple):
    """What one image holds, and what was found in it; masks are COCO's packed run lengths."""

    objects: Objects
    masks: list[dict]
    found: Objects
    found_masks: list[dict]


def evaluation_cases(setting: Setting) -> Iterator[Case]:
    """COCO's metrics of boxes and of masks. The work: an IoU of each detection with each object of its class."""
    images = make_images(20 if setting.quick else IMAGES)
    pairs = sum(int((image.found.labels[:, None] == image.objects.labels).sum()) for image in images)
    for kind, name in (("bbox", "boxes"), ("segm", "masks")):
        sides = {
            "ours": functools.partial(count_by_us, images, kind),
            "pycocotools": functools.partial(count_by_pycocotools, *as_coco(images, kind), kind),
        }
        note = f"{pairs:,} pairs of a detection and an object of its class; most of the time goes into all else"
        yield Case(f"COCO metrics of {name}, {IMAGES:,} images", float(IOU_OPERATIONS * pairs), "FLOP", sides, note)


# What is compared ----------------------------------------------------------------------------------------


def make_images(count: int, seed: int = 0) -> list[MadeUp]:
    """`count` images, every one as its number and the seed have it."""
    return [_make_image(np.random.default_rng([seed, index])) for index in range(count)]


def _make_image(rng: np.random.Generator) -> MadeUp:
    count, found = rng.poisson(7), int(rng.integers(0, 2 * DETECTIONS))
    found = min(found, DETECTIONS)
    boxes, labels = _boxes(rng, count), rng.integers(0, CLASSES, count)
    labels[: count // 2] = labels[:1]  # objects of one class come together
    masks, areas = _outlines(rng, boxes)
    objects = Objects(labels, boxes, areas, rng.random(count) < 0.02, np.zeros(count))

    near = rng.integers(0, count, found // 2) if count else np.empty(0, np.int64)
    moved = boxes[near] + rng.normal(0, 0.12, (len(near), 4)) * np.tile(boxes[near, 2:], 2)
    moved[:, 2:] = moved[:, 2:].clip(2)
    moved = np.concatenate([moved, _boxes(rng, found - len(near))]).astype(np.float32).astype(np.float64)
    labels = np.concatenate([labels[near], rng.integers(0, CLASSES, found - len(near))])
    labels = np.where(rng.random(found) < 0.1, rng.integers(0, CLASSES, found), labels)
    scores = np.concatenate([rng.beta(2, 1, len(near)), rng.beta(1, 6, found - len(near))])
    found_masks, areas = _outlines(rng, moved)
    detections = Objects(labels, moved, areas, np.zeros(found, bool), scores.round(3))  # some scores are equal
    return MadeUp(objects, masks, detections, found_masks)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (count, 4), x, y, width, height, inside of the image: small, medium and large ones."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sides), sides], axis=1)


def _outlines(rng: np.random.Generator, boxes: np.ndarray) -> tuple[list[dict], np.ndarray]:
    """A ragged outline of twelve points in every box, as packed run lengths, and the areas."""
    if len(boxes) == 0:
        return [], np.empty(0)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points = rng.uniform(0.6, 1.0, (len(boxes), 12, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = boxes[:, None, :2] + boxes[:, None, 2:] * (1 + points) / 2
    packed = coco_mask.frPyObjects(points.reshape(len(boxes), -1).tolist(), HEIGHT, WIDTH)
    areas = coco_mask.area(packed).astype(np.float64)
    return [mask | {"counts": mask["counts"].decode("ascii")} for mask in packed], areas  # texts, as JSON has them


# The two sides -------------------------------------------------------------------------------------------


def as_coco(images: list[MadeUp], kind: str) -> tuple[COCO, COCO]:
    """pycocotools' indices of the objects and of the detections."""
    head = {
        "images": [{"id": n, "height": HEIGHT, "width": WIDTH} for n in range(len(images))],
        "categories": [{"id": k} for k in range(CLASSES)],
    }
    indices = []
    for detections in (False, True):
        annotations: list[dict] = []
        for n, image in enumerate(images):
            items, masks = (image.found, image.found_masks) if detections else (image.objects, image.masks)
            areas = items.boxes[:, 2] * items.boxes[:, 3] if detections and kind == "bbox" else items.areas
            for label, box, area, crowd, score, mask in zip(
                items.labels, items.boxes, areas, items.crowd, items.scores, masks, strict=True
            ):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": n, "category_id": int(label), "bbox": box.tolist(),
                    "area": float(area), "iscrowd": int(crowd), "score": float(score), "segmentation": mask,
                })  # fmt: skip
        index = COCO()
        index.dataset = head | {"annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
        indices.append(index)
    return indices[0], indices[1]


def count_by_pycocotools(truth: COCO, found: COCO, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, see evaluator.curves."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, found, kind)
        run.params.maxDets = list(LIMITS)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def count_by_us(images: list[MadeUp], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, see evaluator.curves."""
    rows = []
    for image in images:
        objects, found = image.objects, image.found
        if kind == "segm":
            objects, found = (
                each._replace(spans=spans_of_strings([mask["counts"] for mask in masks]))
                for each, masks in ((objects, image.masks), (found, image.found_masks))
            )
        else:
            found = found._replace(areas=found.boxes[:, 2] * found.boxes[:, 3])
        rows.append(image_rows(found, objects, CLASSES, LIMITS[-1]))
    return curves(rank(join_rows(rows, list(range(len(rows)))), CLASSES, len(rows)), LIMITS)
