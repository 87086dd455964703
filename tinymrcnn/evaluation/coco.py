"""COCO's metrics counted by pycocotools: the reference, whose numbers are the ones that papers quote.

evaluator.py gives the same numbers faster. Whether it does with the pycocotools that is installed is seen once in a
process, on a small case that has everything that is awkward; where it does not, pycocotools counts.
"""

import contextlib
import functools
import importlib.metadata
import io
import warnings

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinymrcnn.data.coco import annotations_of, corners_to_sides
from tinymrcnn.evaluation.comparison import Comparison, metrics_of
from tinymrcnn.evaluation.run_lengths import encode_findings


def coco_results(
    detections: list[dict], image_ids: list[int], sizes: list, categories: list[dict], whole_pixels: bool = False
) -> list[dict]:
    """Detections as the records of COCO's results JSON: image_id, category_id, bbox, score, segmentation.

    detections: one dict an image, host arrays: boxes (N, 4) float32 in the image, labels (N,) int64, scores
    (N,) float32, and masks (N, m, m), probabilities that are cut at 0.5, or no masks. sizes: (h, w) of each image.
    categories: see tinymrcnn.data. whole_pixels: how masks lie over their boxes, the model's Config.paste_whole_pixels.
    Raises ValueError for a label that is no category."""
    ids = {category["label"]: category["id"] for category in categories}
    records = []
    for detection, image_id, size in zip(detections, image_ids, sizes, strict=True):
        if "masks" in detection:
            segmentations = encode_findings(detection["masks"], detection["boxes"], size, whole_pixels)
        for n, label in enumerate(detection["labels"].tolist()):
            if label not in ids:
                raise ValueError(f"A detection in image {image_id} has the label {label}, which is no category: {ids}.")
            record = {
                "image_id": image_id,
                "category_id": ids[label],
                "bbox": corners_to_sides(detection["boxes"][n]),
                "score": detection["scores"][n].item(),
            }
            if "masks" in detection:
                record["segmentation"] = segmentations[n]
            records.append(record)
    return records


class Reference:
    """As Comparison, by pycocotools: what is added is kept, and is all compared at the end."""

    def __init__(self, categories: list[dict], max_detections: int = 100, whole_pixels: bool = False):
        self.categories, self.max_detections, self.whole_pixels = categories, max_detections, whole_pixels
        self.kinds: tuple[str, ...] = ("bbox", "segm")
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._results: list[dict] = []

    def add(self, target: dict, detection: dict) -> None:
        """See Comparison.add."""
        self.keep(self.compared(target, detection))

    def keep(self, image: tuple[dict, list[dict], list[dict]]) -> None:
        """See Comparison.keep."""
        size, annotations, results = image
        if not size["height"]:
            self.kinds = ("bbox",)
        self._images.append(size)
        self._annotations += [{**each, "id": len(self._annotations) + 1 + n} for n, each in enumerate(annotations)]
        self._results += results

    def compared(self, target: dict, detection: dict) -> tuple[dict, list[dict], list[dict]]:
        """COCO's records of an image, its objects and its detections; a height of 0 where only boxes are compared."""
        image_id, size = target["image_id"], (0, 0)  # which only masks need
        if "segm" in self.kinds and "masks" in target and "masks" in detection:
            size = target["masks"].shape[1:]
        else:
            target, detection = (
                {key: value for key, value in each.items() if key != "masks"} for each in (target, detection)
            )
        records = coco_results([detection], [image_id], [size], self.categories, self.whole_pixels)
        return (
            {"id": image_id, "height": size[0], "width": size[1]},
            annotations_of(target, self.categories, 1),
            records,
        )

    def curves(self, kind: str, limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """See Comparison.curves."""
        found = [
            {**record, "id": number, "iscrowd": 0, "area": _area(record, kind)}
            for number, record in enumerate(self._results, start=1)  # pycocotools takes an id of 0 for "no match"
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            run = COCOeval(self._coco(self._annotations), self._coco(found), kind)
            run.params.maxDets = limits
            run.evaluate()
            run.accumulate()
        return run.eval["precision"], run.eval["recall"]

    def metrics(self) -> dict[str, float]:
        """See Comparison.metrics."""
        if not self._images:
            raise ValueError("The data set holds no image, so there is nothing to evaluate.")
        return {
            f"{kind}/{name}": value
            for kind in self.kinds
            for name, value in metrics_of(self.curves(kind, [self.max_detections])[0]).items()
        }

    def _coco(self, annotations: list[dict]) -> COCO:
        """pycocotools' index of a data set in memory."""
        coco = COCO()
        coco.dataset = {"images": self._images, "annotations": annotations, "categories": self.categories}
        coco.createIndex()
        return coco


def _area(record: dict, kind: str) -> float:
    """The area, of its box or its mask, by which a detection counts as small, medium or large."""
    if kind == "bbox":
        return record["bbox"][2] * record["bbox"][3]
    return float(coco_mask.area(record["segmentation"]))


# Are they equal here? ------------------------------------------------------------------------------------


@functools.cache
def is_our_own_equal() -> bool:
    """Whether our own evaluator gives the numbers of the pycocotools that is installed, precision and recall of a small
    case bit for bit. Warns where it does not."""
    categories = [{"label": label, "id": 10 - label, "name": str(label)} for label in (1, 2, 3)]
    ours, theirs = Comparison(categories, 5), Reference(categories, 5)
    for image_id in (4, 1, 3, 2, 0):
        for judge in (ours, theirs):
            judge.add(*_awkward(image_id))
    pairs = (zip(ours.curves(kind, [1, 5]), theirs.curves(kind, [1, 5]), strict=True) for kind in ours.kinds)
    equal = all(np.array_equal(own, other) for pair in pairs for own, other in pair)
    if not equal:
        warnings.warn(
            "For a small case our own evaluator does not give the same numbers as pycocotools "
            f"{importlib.metadata.version('pycocotools')}. evaluate() lets that one count, which takes longer; "
            "intervals and kinds of errors are counted by our own.",
            stacklevel=2,
        )
    return equal


def _awkward(image_id: int) -> tuple[dict, dict]:
    """A target and detections with equal scores, crowds, objects of all sizes, boxes without a size, more detections of
    a class than count; nothing there in image 0, nothing found in image 1."""
    rng = np.random.default_rng(image_id)
    size, objects, found = (110, 130), 6 if image_id else 0, 24 if image_id != 1 else 0
    corners = rng.integers(0, 60, (objects, 2))
    boxes = np.concatenate([corners, corners + rng.integers(4, 70, (objects, 2))], axis=1).astype(np.float32)
    masks = np.zeros((objects, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = rng.integers(1, 4, objects)
    crowd = np.arange(objects) % 5 // 4  # the fifth
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.choice([1, 3], objects).astype(np.float32)
    near = rng.integers(0, objects, found) if objects else np.empty(0, np.int64)
    moved = boxes[near] + rng.integers(-4, 5, (len(near), 4)).astype(np.float32)
    moved[::7, 2] = moved[::7, 0]
    target = {"boxes": boxes, "labels": labels, "masks": masks, "image_id": image_id, "area": area, "iscrowd": crowd}
    return target, {
        "boxes": moved,
        "labels": np.where(rng.random(len(near)) < 0.8, labels[near], 1),
        "scores": (rng.integers(1, 6, len(near)) / 6).astype(np.float32),
        "masks": rng.random((len(near), 5, 4), np.float32) + np.float32(0.3),
    }
