"""The pictures of figure 6: pairs chosen by a rule, and the masks that the trained models of one seed predict for them,
in the true boxes; and of all pairs, how alike their two masks are. `tinymrcnn reproduce figure-6` keeps them once the
runs are made; lesson 14 shows them."""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.boxes import box_iou
from tinymrcnn.experiments import report
from tinymrcnn.experiments.judging import given_masks
from tinymrcnn.experiments.oracle import OVERLAPS, Pair
from tinymrcnn.experiments.plan import Plan, key, training_of
from tinymrcnn.experiments.runner import Places
from tinymrcnn.experiments.training import model_of, test_pictures
from tinymrcnn.files import printable, replacing

FILE = "figure-6-masks.npz"  # beside the results of the plan
SEED = 0


class Chosen(NamedTuple):
    """A pair of one class. picture: its index. rows: which two objects of the picture they are."""

    picture: int
    rows: list[int]
    pair: Pair


class Kept(NamedTuple):
    """masks: those of the chosen pairs, (P, 2, H, W) bool by variant. overlap: the IoU of the boxes of all pairs (Q,).
    alike: how alike the two masks of each are, (Q,) by variant."""

    masks: dict[str, np.ndarray]
    overlap: np.ndarray
    alike: dict[str, np.ndarray]


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
    return Kept(masks, arrays["overlap"], {name: arrays[f"{name}, alike"] for name in names})
