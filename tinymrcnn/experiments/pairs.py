"""The pictures of figure 6: pairs chosen by a rule, and the masks that the trained models of one seed predict for them,
in the true boxes; of all pairs, how alike their two masks are; and of all objects, where their masks have edges.
`tinymrcnn reproduce figure-6` keeps them once the runs are made; lesson 14 shows them."""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import to_numpy
from tinymrcnn.boxes import box_iou, crop_masks
from tinymrcnn.experiments import report
from tinymrcnn.experiments.judging import CROWDED, FREE, given_masks
from tinymrcnn.experiments.oracle import OVERLAPS, Pair
from tinymrcnn.experiments.plan import Plan, key, training_of
from tinymrcnn.experiments.runner import Places
from tinymrcnn.experiments.training import model_of, test_pictures
from tinymrcnn.files import printable, replacing
from tinymrcnn.models import FCIS, MNC, TwoStage
from tinymrcnn.models.fcis import mask_logits

FILE = "figure-6-masks.npz"  # beside the results of the plan
SEED = 0


class Chosen(NamedTuple):
    """A pair of one class. picture: its index. rows: which two objects of the picture they are."""

    picture: int
    rows: list[int]
    pair: Pair


class Kept(NamedTuple):
    """masks: those of the chosen pairs, (P, 2, H, W) bool by variant. overlap: the IoU of the boxes of all pairs (Q,).
    alike: how alike the two masks of each are, (Q,) by variant. steps: see steps_of, of all objects that overlap none
    of their class by FREE and of those that overlap one by CROWDED, (2, m - 1) by variant, and as "truth"."""

    masks: dict[str, np.ndarray]
    overlap: np.ndarray
    alike: dict[str, np.ndarray]
    steps: dict[str, np.ndarray]


def every(dataset) -> list[Chosen]:
    """All pairs of one class whose boxes overlap by an IoU of at least 0.1."""
    found = []
    for picture in range(len(dataset)):
        target = dataset[picture][1]
        overlaps, labels = box_iou(target["boxes"], target["boxes"]), target["labels"]
        for i, j in combinations(range(len(labels)), 2):
            if labels[i] == labels[j] and overlaps[i, j] >= OVERLAPS[0]:
                pair = Pair(target["masks"][[i, j]] > 0, target["boxes"][[i, j]], float(overlaps[i, j]))
                found.append(Chosen(picture, [i, j], pair))
    return found


def chosen(pairs: list[Chosen], count: int = 6) -> list[Chosen]:
    """Of all pairs, sorted by the IoU of their boxes: the `count` with the largest one, and the `count` in the
    middle."""
    ordered = sorted(pairs, key=lambda one: -one.pair.overlap)
    middle = max(0, len(ordered) // 2 - count // 2)
    return ordered[:count] + ordered[middle : middle + count]


def alike(masks: np.ndarray, boxes: np.ndarray) -> float:
    """The IoU of two masks (2, H, W) bool with each other, where both boxes (2, 4) are: 0 for the true masks, of which
    none has a pixel of the other, and 1 for a model that tells nothing apart. 0 where both masks are empty."""
    (x1, y1), (x2, y2) = np.floor(boxes[:, :2].max(axis=0)), np.ceil(boxes[:, 2:].min(axis=0))
    first, second = masks[:, int(y1) : int(y2), int(x1) : int(x2)]
    return float((first & second).sum() / max(1, (first | second).sum()))


@no_grad()
def cells_of(model: TwoStage, image: np.ndarray, target: dict) -> np.ndarray:
    """The masks (G, m, m) that a model predicts in the true boxes, of the true classes: probabilities, cell by cell as
    its layers give them. An RoI of FCIS consists of whole cells of the score maps."""
    batch = model.transform([image], [target])
    features, boxes, labels = model.features(batch), [batch.gt_boxes[0]], target["labels"]
    if isinstance(model, FCIS):
        scores = model.read(model.score_maps(features), boxes).scores
        logits = mask_logits(scores, np.arange(len(labels)), labels)
    elif isinstance(model, MNC):
        logits = model.roi_heads.mask(model.warp(features, model.rois(boxes)))
    else:
        return model.mask_detections(features, [{"boxes": boxes[0], "labels": labels}])[0]
    return to_numpy(ops.sigmoid(logits).data)


def steps_of(masks: np.ndarray) -> np.ndarray:
    """How much masks (N, m, m) change from a cell to the next, (N, m - 1): between the cells i and i + 1 of all rows
    and of all columns, the mean of the absolute differences."""
    along_x, along_y = np.diff(masks, axis=2).transpose(0, 2, 1), np.diff(masks, axis=1)
    changes: np.ndarray = np.abs(np.concatenate([along_x, along_y], axis=2)).mean(axis=2)
    return changes


def edge_index(steps: np.ndarray, k: int = 7) -> float:
    """How much stronger the steps (m - 1,) are where one of k parts of the RoI ends than elsewhere. m is a multiple of
    k. A mask that knows nothing of the parts has about 1; the true ones have a little less, since more of their outline
    lies near the RoI's ends."""
    ends = np.arange(1, len(steps) + 1) * k % (len(steps) + 1) == 0
    return float(steps[ends].mean() / steps[~ends].mean())


def crowding(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Of all objects, whether they overlap none of their class by FREE, and whether they overlap one by CROWDED."""
    largest = []
    for picture in range(len(dataset)):
        boxes, labels = dataset[picture][1]["boxes"], dataset[picture][1]["labels"]
        overlaps = box_iou(boxes, boxes) * (labels[:, None] == labels)
        np.fill_diagonal(overlaps, 0)
        largest.append(overlaps.max(axis=1, initial=0))
    same = np.concatenate(largest)
    return same < FREE, same >= CROWDED


def keep(plan: Plan, places: Places) -> Path:
    """Write what Kept holds: the masks that the models of a plan's variants, of SEED, predict in its test pictures.

    Raises FileNotFoundError where the plan's results or a trained model are not there: nothing is trained here."""
    result = report.read(plan.name, places)
    if not result or not result.get("rates"):
        raise FileNotFoundError(
            f"There is no result of {plan.name!r} yet: run `tinymrcnn reproduce {plan.name}` first."
        )
    dataset = test_pictures(plan.tests, plan.test_images)
    pairs, done = every(dataset), set()
    arrays: dict[str, Any] = {"overlap": np.array([one.pair.overlap for one in pairs], np.float32)}
    groups = crowding(dataset)

    def mean_steps(masks: list[np.ndarray]) -> np.ndarray:
        steps = steps_of(np.concatenate(masks))
        return np.array([steps[group].mean(axis=0) for group in groups], np.float32)

    truths = [dataset[picture][1] for picture in range(len(dataset))]
    truth = [crop_masks(target["masks"].astype(np.float32), target["boxes"], 21) for target in truths]  # FCIS's cells
    arrays["truth, steps"] = mean_steps(truth)
    for variant in plan.variants:
        training = training_of(plan, variant, SEED, result["rates"][variant.name], plan.steps)
        path = places.scratch / "models" / f"{key(training)}.npz"
        if training in done:
            continue  # what differs only in the votes has the same masks here
        if not path.exists():
            raise FileNotFoundError(f"The trained model of {variant.name!r} is not there: '{printable(path)}'.")
        done.add(training)
        model = model_of(training, places.scratch, places.device)
        with no_grad():
            given = {picture: given_masks(model, *dataset[picture]) for picture in {one.picture for one in pairs}}
        masks = [given[one.picture][one.rows] for one in chosen(pairs)]
        arrays[f"{variant.name}, masks"] = np.packbits(np.array(masks), axis=-1)
        values = [alike(given[one.picture][one.rows], one.pair.boxes) for one in pairs]
        arrays[f"{variant.name}, alike"] = np.array(values, np.float32)
        cells = [cells_of(model, *dataset[picture]) for picture in range(len(dataset))]
        arrays[f"{variant.name}, steps"] = mean_steps(cells)
    with replacing(places.results / FILE) as file:
        np.savez_compressed(file, **arrays)
    return places.results / FILE


def load(path: Path) -> Kept | None:
    """What keep() wrote; None where there is no file. The pictures' width is a multiple of 8."""
    if not path.exists():
        return None
    with np.load(path) as file:
        arrays = dict(file)
    names = [name.removesuffix(", masks") for name in arrays if name.endswith(", masks")]
    masks = {name: np.unpackbits(arrays[f"{name}, masks"], axis=-1).astype(bool) for name in names}
    alike_of = {name: arrays[f"{name}, alike"] for name in names}
    return Kept(masks, arrays["overlap"], alike_of, {name: arrays[f"{name}, steps"] for name in ("truth", *names)})
