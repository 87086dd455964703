"""COCO's metrics for boxes and masks, counted by pycocotools: the numbers that are quoted.

AP is the average precision over classes and over IoU thresholds 0.5, 0.55, ..., 0.95; AP50 and AP75 are at
one threshold; APs, APm and APl are over objects of up to 32^2 pixels, up to 96^2, and beyond (section 4 of
the article). average_precision.py computes the same from scratch, and lesson 12 explains it.

Of every image and class, the max_detections with the highest scores count. COCO's own numbers are those of 100; where
the images hold more objects than that, no more than 100 of them can be found.
"""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from tinymrcnn.boxes import paste_masks
from tinymrcnn.data import map_categories
from tinymrcnn.data.coco import annotations_of, corners_to_sides, encode_mask
from tinymrcnn.stopping import out_of_memory

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AREAS = {"AP": "all", "AP50": "all", "AP75": "all", "APs": "small", "APm": "medium", "APl": "large"}
IOU_THRESHOLDS = {"AP50": 0.5, "AP75": 0.75}  # all other metrics are means over ten


def evaluate(model, dataset, batch_size: int = 8, progress: bool = True) -> dict[str, float]:
    """Detect in every image of the data set, and compare with its targets.

    Returns {"bbox/AP": ..., "bbox/AP50": ..., "segm/AP": ...}, see METRICS; -1 where the data set has no
    object of that size, and no "segm" where the model predicts no masks or the targets have none. As many detections
    of an image count as the model may find, its config.max_detections (100, as in COCO, unless set); a warning says
    where an image has more objects. The model is in eval mode meanwhile; its mode is restored afterwards.
    Pasted masks are encoded one at a time, so that memory does not grow with the data set. progress: whether to show
    a progress bar.
    Classes are compared by name: the data set may have them in another order, or some of the model's only, and then
    what the model finds of the others does not count (see map_categories, which raises ValueError for other classes).
    Raises ValueError for an empty data set, and MemoryError, which names the batch size to try, where batch_size
    images at once are too many."""
    labels = map_categories(getattr(model, "categories", None), dataset.categories)
    training = model.training
    model.eval()
    try:
        pairs = _renamed(_detect(model, dataset, batch_size, progress), labels)
        limit = model.config.box.max_detections
        counted = _counted(pairs, limit, of_class=False)
        return _metrics(counted, dataset.categories, model.config.mask.paste_whole_pixels, limit)
    finally:
        model.train(training)


def evaluate_detections(
    detections: list[dict], dataset, whole_pixels: bool = False, max_detections: int = 100
) -> dict[str, float]:
    """The metrics (see evaluate) of detections that exist already, one dict an image in the order of the data
    set, as model.detect returns them. whole_pixels: see coco_results. max_detections: how many of an image and a class
    count, those with the highest scores. A data set with a method read_target(index) is asked for targets
    alone, not for images. Raises ValueError where their numbers differ, or max_detections is below 1."""
    if len(detections) != len(dataset):
        raise ValueError(f"There are detections for {len(detections)} images, but the data set has {len(dataset)}.")
    if max_detections < 1:
        raise ValueError(f"max_detections must be 1 at least, not {max_detections}.")
    target_of = getattr(dataset, "read_target", lambda index: dataset[index][1])
    pairs = ((target_of(index), detection) for index, detection in enumerate(detections))
    counted = _counted(pairs, max_detections, of_class=True)
    return _metrics(counted, dataset.categories, whole_pixels, max_detections)


def coco_results(
    detections: list[dict], image_ids: list[int], sizes: list, categories: list[dict], whole_pixels: bool = False
) -> list[dict]:
    """Detections as the records of COCO's results JSON: image_id, category_id, bbox, score, segmentation.

    detections: one dict an image, host arrays: boxes (N, 4) float32 in the image, labels (N,) int64, scores
    (N,) float32, and masks (N, m, m), probabilities that are pasted here and cut at 0.5, or no masks. sizes: (h, w) of
    each image. categories: see tinymrcnn.data. whole_pixels: how to paste, the model's Config.paste_whole_pixels.
    Raises ValueError for a label that is no category."""
    ids = {category["label"]: category["id"] for category in categories}
    records = []
    for detection, image_id, size in zip(detections, image_ids, sizes, strict=True):
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
                one = slice(n, n + 1)
                pasted = paste_masks(detection["masks"][one], detection["boxes"][one], size, whole_pixels=whole_pixels)
                record["segmentation"] = encode_mask(pasted[0] >= 0.5)
            records.append(record)
    return records


def _detect(model, dataset, batch_size: int, progress: bool) -> Iterator[tuple[dict, dict]]:
    """(target, detection) of every image."""
    with tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not progress) as bar:
        for start in range(0, len(dataset), batch_size):
            batch = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
            try:
                detections = model.detect([image for image, _ in batch])
            except Exception as error:
                if len(batch) > 1 and out_of_memory(error):
                    fewer = f"{batch_size} images at once are too many: try --batch-size {batch_size // 2}."
                    raise MemoryError(f"{error} {fewer}") from error
                raise
            yield from zip((target for _, target in batch), detections, strict=True)
            bar.update(len(batch))


def _renamed(pairs: Iterable[tuple[dict, dict]], labels: dict[int, int]) -> Iterator[tuple[dict, dict]]:
    """The pairs, with the detections of the data set's classes only, under its labels. labels: see map_categories."""
    back = {of_model: of_dataset for of_dataset, of_model in labels.items()}
    for target, detection in pairs:
        kept = np.array([label in back for label in detection["labels"].tolist()], bool)
        shown = {key: values[kept] for key, values in detection.items()}
        shown["labels"] = np.array([back[label] for label in shown["labels"].tolist()], np.int64)
        yield target, shown


def _counted(pairs: Iterable[tuple[dict, dict]], max_detections: int, of_class: bool) -> Iterator[tuple[dict, dict]]:
    """The pairs as they are; after them a warning, where an image has more objects (of one class) than can be found."""
    most = 0
    for target, detection in pairs:
        labels = target["labels"][target["iscrowd"] == 0]
        most = max(most, np.bincount(labels, minlength=1).max().item() if of_class else len(labels))
        yield target, detection
    if most > max_detections:
        objects, limit = ("objects of one class", " and a class") if of_class else ("objects", "")
        warnings.warn(
            f"An image holds {most} {objects}, but at most {max_detections} detections of an image{limit} count "
            "(max_detections), so AP cannot reach 1.",
            stacklevel=4,
        )


def _metrics(
    pairs: Iterable[tuple[dict, dict]], categories: list[dict], whole_pixels: bool, max_detections: int
) -> dict[str, float]:
    """The metrics of (target, detection) pairs, which are read one by one."""
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    with_masks = True
    for target, detection in pairs:
        image_id, size = target["image_id"], (0, 0)  # which only masks need
        with_masks = with_masks and "masks" in target and "masks" in detection
        if with_masks:
            size = target["masks"].shape[1:]
        else:
            target, detection = (
                {key: value for key, value in each.items() if key != "masks"} for each in (target, detection)
            )
        images.append({"id": image_id, "height": size[0], "width": size[1]})
        annotations += annotations_of(target, categories, len(annotations) + 1)
        results += coco_results([detection], [image_id], [size], categories, whole_pixels)
    if not images:
        raise ValueError("The data set holds no image, so there is nothing to evaluate.")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        ground_truth = _coco(images, annotations, categories)
        return {
            f"{kind}/{name}": value
            for kind in (("bbox", "segm") if with_masks else ("bbox",))
            for name, value in _stats(ground_truth, results, kind, max_detections).items()
        }


def _stats(ground_truth: COCO, results: list[dict], kind: str, max_detections: int) -> dict[str, float]:
    """METRICS of one kind, computed as pycocotools' summarize() does it, which knows 100 detections only."""
    found = [
        {**record, "id": number, "iscrowd": 0, "area": _area(record, kind)}
        for number, record in enumerate(results, start=1)  # pycocotools takes an id of 0 for "no match"
    ]
    dataset = ground_truth.dataset
    run = COCOeval(ground_truth, _coco(dataset["images"], found, dataset["categories"]), kind)
    run.params.maxDets = [max_detections]
    run.evaluate()
    run.accumulate()
    stats = {}
    for name in METRICS:
        precision = run.eval["precision"][:, :, :, run.params.areaRngLbl.index(AREAS[name]), 0]
        if name in IOU_THRESHOLDS:
            precision = precision[run.params.iouThrs == IOU_THRESHOLDS[name]]
        defined = precision[precision > -1]
        stats[name] = defined.mean().item() if len(defined) else -1.0
    return stats


def _area(record: dict, kind: str) -> float:
    """The area, of its box or its mask, by which a detection counts as small, medium or large."""
    if kind == "bbox":
        return record["bbox"][2] * record["bbox"][3]
    return float(coco_mask.area(record["segmentation"]))


def _coco(images: list[dict], annotations: list[dict], categories: list[dict]) -> COCO:
    """pycocotools' index of a data set in memory."""
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco
