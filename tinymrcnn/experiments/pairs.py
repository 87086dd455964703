"""The pictures of figure 6: pairs chosen by a rule, and the masks that the trained models of one seed predict for them,
in the true boxes. `tinymrcnn reproduce figure-6` keeps them once the runs are made; lesson 14 shows them."""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


def chosen(dataset, count: int = 6) -> list[Chosen]:
    """Of all pairs of one class, sorted by the IoU of their boxes: the `count` with the largest one, and the `count` in
    the middle. Pairs that overlap by less than 0.1 do not count."""
    every = []
    for picture in range(len(dataset)):
        target = dataset[picture][1]
        overlaps, labels = box_iou(target["boxes"], target["boxes"]), target["labels"]
        for i, j in combinations(range(len(labels)), 2):
            if labels[i] == labels[j] and overlaps[i, j] >= OVERLAPS[0]:
                pair = Pair(target["masks"][[i, j]] > 0, target["boxes"][[i, j]], float(overlaps[i, j]))
                every.append(Chosen(picture, [i, j], pair))
    every.sort(key=lambda one: -one.pair.overlap)
    middle = max(0, len(every) // 2 - count // 2)
    return every[:count] + every[middle : middle + count]


def keep(plan: Plan, places: Places) -> Path:
    """Write the masks that the models of a plan's variants, of SEED, predict for the chosen pairs of its test pictures.

    Raises FileNotFoundError where the plan's results or a trained model are not there: nothing is trained here."""
    result = report.read(plan.name, places)
    if not result or not result.get("rates"):
        raise FileNotFoundError(
            f"There is no result of {plan.name!r} yet: run `tinymrcnn reproduce {plan.name}` first."
        )
    dataset = test_pictures(plan.tests, plan.test_images)
    shown, done = chosen(dataset), set()
    arrays: dict[str, Any] = {}
    for variant in plan.variants:
        training = training_of(plan, variant, SEED, result["rates"][variant.name], plan.steps)
        path = places.scratch / "models" / f"{key(training)}.npz"
        if training in done:
            continue  # what differs only in the votes has the same masks here
        if not path.exists():
            raise FileNotFoundError(f"The trained model of {variant.name!r} is not there: '{printable(path)}'.")
        done.add(training)
        model = model_of(training, places.scratch, places.device)
        masks = [given_masks(model, *dataset[one.picture])[one.rows] for one in shown]
        arrays[variant.name] = np.packbits(np.array(masks), axis=-1)
    with replacing(places.results / FILE) as file:
        np.savez_compressed(file, **arrays)
    return places.results / FILE


def load(path: Path) -> dict[str, np.ndarray]:
    """The masks of a file that keep() wrote, (P, 2, H, W) bool by variant; none where there is no file. The pictures'
    width is a multiple of 8."""
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return {name: np.unpackbits(arrays[name], axis=-1).astype(bool) for name in arrays.files}
