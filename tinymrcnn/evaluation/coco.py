"""COCO's metrics for boxes and masks, counted by pycocotools: the numbers that are quoted.

AP is the average precision over classes and over IoU thresholds 0.5, 0.55, ..., 0.95; AP50 and AP75 are at
one threshold; APs, APm and APl are over objects of up to 32^2 pixels, up to 96^2, and beyond (section 4 of
the article). average_precision.py computes the same from scratch, and lesson 12 explains it.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from tinymrcnn.boxes import paste_masks
from tinymrcnn.data import map_categories
from tinymrcnn.data.coco import annotations_of, corners_to_sides, encode_mask

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate(model, dataset, batch_size: int = 8, progress: bool = True) -> dict[str, float]:
    """Detect in every image of the data set, and compare with its targets.

    Returns {"bbox/AP": ..., "bbox/AP50": ..., "segm/AP": ...}, see METRICS; -1 where the data set has no
    object of that size, and no "segm" where the model predicts no masks. The model is in eval mode meanwhile
    and then again in the mode that it was in. Pasted masks are encoded one at a time, so that memory does not
    grow with the data set. progress: whether to show a progress bar.
    Classes are compared by name: the data set may have them in another order, or some of the model's only, and then
    what the model finds of the others does not count (see map_categories, which raises ValueError for other classes).
    Raises ValueError for an empty data set."""
    labels = map_categories(getattr(model, "categories", None), dataset.categories)
    training = model.training
    model.eval()
    try:
        pairs = _renamed(_detect(model, dataset, batch_size, progress), labels)
        return _metrics(pairs, dataset.categories, model.config.paste_whole_pixels)
    finally:
        model.train(training)


def evaluate_detections(detections: list[dict], dataset, whole_pixels: bool = False) -> dict[str, float]:
    """The metrics (see evaluate) of detections that exist already, one dict an image in the order of the data
    set, as model.detect returns them. whole_pixels: see coco_results. Raises ValueError where their numbers differ."""
    if len(detections) != len(dataset):
        raise ValueError(f"There are detections for {len(detections)} images, but the data set has {len(dataset)}.")
    pairs = ((dataset[index][1], detection) for index, detection in enumerate(detections))
    return _metrics(pairs, dataset.categories, whole_pixels)


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
                pasted = paste_masks(detection["masks"][one], detection["boxes"][one], size, whole_pixels)
                record["segmentation"] = encode_mask(pasted[0] >= 0.5)
            records.append(record)
    return records


def _detect(model, dataset, batch_size: int, progress: bool) -> Iterator[tuple[dict, dict]]:
    """(target, detection) of every image."""
    with tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not progress) as bar:
        for start in range(0, len(dataset), batch_size):
            batch = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
            detections = model.detect([image for image, _ in batch])
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


def _metrics(
    pairs: Iterable[tuple[dict, dict]], categories: list[dict], whole_pixels: bool = False
) -> dict[str, float]:
    """The metrics of (target, detection) pairs, which are read one by one."""
    images, annotations, results, kinds = [], [], [], ()
    for target, detection in pairs:
        image_id, size = target["image_id"], target["masks"].shape[1:]
        images.append({"id": image_id, "height": size[0], "width": size[1]})
        annotations += annotations_of(target, categories, len(annotations) + 1)
        results += coco_results([detection], [image_id], [size], categories, whole_pixels)
        kinds = ("bbox", "segm") if "masks" in detection else ("bbox",)
    if not images:
        raise ValueError("The data set holds no image, so there is nothing to evaluate.")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        ground_truth = _coco(images, annotations, categories)
        return {
            f"{kind}/{name}": value
            for kind in kinds
            for name, value in zip(METRICS, _stats(ground_truth, results, kind), strict=True)
        }


def _stats(ground_truth: COCO, results: list[dict], kind: str) -> list[float]:
    found = [
        {**record, "id": number, "iscrowd": 0, "area": _area(record, kind)}
        for number, record in enumerate(results, start=1)  # pycocotools takes an id of 0 for "no match"
    ]
    dataset = ground_truth.dataset
    run = COCOeval(ground_truth, _coco(dataset["images"], found, dataset["categories"]), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[: len(METRICS)].tolist()


def _area(record: dict, kind: str) -> float:
    """By which a detection counts as small, medium or large: of its box or of its mask."""
    if kind == "bbox":
        return record["bbox"][2] * record["bbox"][3]
    return float(coco_mask.area(record["segmentation"]))


def _coco(images: list[dict], annotations: list[dict], categories: list[dict]) -> COCO:
    """pycocotools' index of a data set in memory."""
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco
