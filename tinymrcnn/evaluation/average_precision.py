"""Average precision from scratch, as COCO defines it: the same numbers as pycocotools, to be read.

A detector lists its findings with scores. Going down that list from the highest score, every finding is
right (it overlaps an object that no better finding has taken) or wrong, which gives a precision and a recall
at every step. Average precision is the area under that curve: the mean of the precision at 101 recalls.
COCO takes its mean over classes and over ten IoU thresholds (section 4 of the article). Lesson 12 explains it.
"""

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of an image and a class, in COCO's own numbers
AREAS = {"AP": (0, 1e10), "APs": (0, 32**2), "APm": (32**2, 96**2), "APl": (96**2, 1e10)}  # pixels, both ends count


def average_precision(
    targets: list[dict], detections: list[dict], iou_type: str = "bbox", max_detections: int = MAX_DETECTIONS
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm and APl, Python floats; -1 where there is no object of that size.

    targets: one dict an image with boxes (N, 4), labels, image_id, area, iscrowd, and masks (N, H, W) of 0/1.
    detections: one dict an image with boxes, labels, scores, and for iou_type "segm" masks (N, H, W) of 0/1,
    pasted into the image. max_detections: how many of an image and a class count, the best.
    Raises ValueError for another iou_type or lists of different lengths."""
    if iou_type not in ("bbox", "segm") or len(targets) != len(detections):
        raise ValueError(
            f"average_precision takes 'bbox' or 'segm', not {iou_type!r}, and one target for each detection: "
            f"there are {len(targets)} targets and {len(detections)} detections."
        )
    pairs = sorted(zip(targets, detections, strict=True), key=lambda pair: pair[0]["image_id"])
    classes = np.unique(np.concatenate([np.empty(0, np.int64), *(target["labels"] for target in targets)]))
    images = {label: [_of_class(label, *pair, iou_type, max_detections) for pair in pairs] for label in classes}
    metrics = {}
    for name, area in AREAS.items():
        curves = np.empty((len(IOU_THRESHOLDS), len(RECALLS), len(classes)))
        for t, threshold in enumerate(IOU_THRESHOLDS):
            for k, label in enumerate(classes):
                curves[t, :, k] = class_precision(images[label], threshold, area)
        metrics[name] = _mean(curves)
        if name == "AP":
            metrics |= {"AP50": _mean(curves[0]), "AP75": _mean(curves[5])}
    return metrics


def _mean(precision) -> float:
    """The mean of the values that are defined (not -1), or -1."""
    defined = precision[precision > -1]
    return defined.mean().item() if len(defined) else -1.0


def _of_class(label: int, target: dict, detection: dict, iou_type: str, max_detections: int) -> dict:
    """What there is and what was found of one class in one image, the best findings first."""
    mine, found = target["labels"] == label, np.flatnonzero(detection["labels"] == label)
    found = found[np.argsort(-detection["scores"][found], kind="stable")][:max_detections]
    crowd = target["iscrowd"][mine] == 1
    if iou_type == "bbox":
        boxes = detection["boxes"][found].astype(np.float64)
        found_area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        overlaps = box_overlaps(boxes, target["boxes"][mine].astype(np.float64), crowd)
    else:
        masks = detection["masks"][found].astype(bool)
        found_area = masks.sum((1, 2))
        overlaps = mask_overlaps(masks, target["masks"][mine].astype(bool), crowd)
    return {
        "scores": detection["scores"][found],
        "found_area": found_area,
        "area": target["area"][mine],
        "crowd": crowd,
        "overlaps": overlaps,
    }


# How much a finding overlaps an object -------------------------------------------------------------------


def box_overlaps(found, objects, crowd) -> np.ndarray:
    """IoU (D, G) of boxes (D, 4) and (G, 4), float64. A crowd stands for many objects, any part of which may
    have been found: there, the share of the finding that lies inside it."""
    corners = np.minimum(found[:, None, 2:], objects[:, 2:]) - np.maximum(found[:, None, :2], objects[:, :2])
    shared = corners.clip(min=0).prod(2)
    found_area, area = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (found, objects))
    return _ratio(shared, found_area, area, crowd)


def mask_overlaps(found, objects, crowd) -> np.ndarray:
    """The same of masks (D, H, W) and (G, H, W), bool."""
    pixels = found.shape[1] * found.shape[2]
    found, objects = (masks.reshape(len(masks), pixels).astype(np.float64) for masks in (found, objects))
    return _ratio(found @ objects.T, found.sum(1), objects.sum(1), crowd)


def _ratio(shared, found_area, area, crowd) -> np.ndarray:
    whole = np.where(crowd, found_area[:, None], found_area[:, None] + area - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


# Which findings are right --------------------------------------------------------------------------------


def match(overlaps, ignored, crowd, threshold: float) -> np.ndarray:
    """The object (D,) that each finding has found, -1 for none.

    Findings choose in turn, the best first: the object that they overlap most, by the threshold at least,
    among those that are not taken. Objects to ignore (crowds, other sizes) are chosen only where no other
    is left; a crowd can be chosen again and again."""
    matched, taken = np.full(len(overlaps), -1), np.zeros(len(ignored), bool)
    for finding, overlap in enumerate(overlaps):
        free = (overlap >= min(threshold, 1 - 1e-10)) & (~taken | crowd)
        for group in (free & ~ignored, free & ignored):
            candidates = np.flatnonzero(group)[::-1]  # of two equals, COCO takes the later
            if len(candidates):
                matched[finding] = candidates[overlap[candidates].argmax()]
                taken[matched[finding]] = True
                break
    return matched


def class_precision(images: list[dict], threshold: float, area: tuple) -> np.ndarray:
    """Precision (101,) of one class at RECALLS, all -1 where there is no object to find."""
    scores, right, objects = [np.empty(0, np.float32)], [np.empty(0, bool)], 0
    for image in images:
        ignored = image["crowd"] | (image["area"] < area[0]) | (image["area"] > area[1])
        matched = match(image["overlaps"], ignored, image["crowd"], threshold)
        # a finding counts unless what it found is ignored, or it found nothing and has another size itself
        other_size = (image["found_area"] < area[0]) | (image["found_area"] > area[1])
        counts = ~np.where(matched >= 0, np.append(ignored, False)[matched], other_size)  # [-1] is the False
        scores.append(image["scores"][counts])
        right.append(matched[counts] >= 0)
        objects += int(np.count_nonzero(~ignored))
    if objects == 0:
        return np.full(len(RECALLS), -1.0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return precision_at_recalls(np.concatenate(right)[order], objects)


def precision_at_recalls(right, objects: int) -> np.ndarray:
    """right: (D,) bool, from the highest score down. objects: how many there are to find.

    The best precision at RECALLS or any higher recall; 0 where that recall is never reached."""
    true, false = np.cumsum(right), np.cumsum(~right)
    precision = true / (false + true + np.spacing(1))  # the last term as in pycocotools, for the last digit
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true / objects, RECALLS, side="left")
    return np.append(best_from_here, 0.0)[reached]
