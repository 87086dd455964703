"""Validation: every so often, how good the model is on held-out images; which step was the best, and when to stop.

What is found is a line of validation.jsonl: the step, each loss, and COCO's metrics. The losses are those of training,
with the same RoIs drawn every time, so that they can be compared from one validation to the next.
"""

from collections.abc import Iterator

import numpy as np

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import to_numpy
from tinymrcnn.data import map_categories
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models.fuse import fused
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.training.parallel import ALONE, Workers

MOST_IMAGES = 200
BATCH, LOSS_BATCH = 8, 4  # images at once, at most: for the metrics, and for the losses, which take more memory


class Some:
    """At most `count` images of a data set, evenly spread over it."""

    def __init__(self, dataset, count: int = MOST_IMAGES):
        self.dataset, self.categories = dataset, dataset.categories
        count = min(count, len(dataset))
        self.indices = [place * len(dataset) // count for place in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.dataset[self.indices[index]]


def validate(model, dataset, batch_size: int = BATCH, workers: Workers = ALONE) -> dict[str, float]:
    """{"loss", "loss_classifier", ..., "bbox/AP", ...} of a model on a data set. batch_size: images at once, at most;
    where those are no more than in a step, it takes no more memory than training.

    The classes are found by name, see map_categories. The losses are left out where the data set has no masks and the
    model learns them. Several workers call it together; it is complete on the first."""
    model = fused(model)
    losses = losses_on(model, dataset, min(batch_size, LOSS_BATCH), workers)
    return losses | evaluate(model, dataset, min(batch_size, BATCH), progress=False, workers=workers)


def losses_on(model, dataset, batch_size: int = LOSS_BATCH, workers: Workers = ALONE) -> dict[str, float]:
    """The losses over a whole data set, and "loss", their sum."""
    starts = range(0, len(dataset), batch_size)[workers.share]
    totals: dict[str, tuple] = {}
    training = model.training
    model.eval()
    try:
        with no_grad():
            batches = list(workers.in_turn(_sums_of_batches(model, dataset, starts, batch_size)))
    finally:
        model.train(training)
    if {} in batches:
        return {}
    for sums in batches:
        for name, (total, count) in sums.items():
            before = totals.get(name, (0, 0))
            totals[name] = total + before[0], count + before[1]
    losses = {name: loss.item() for name, loss in mean_losses(totals).items()}
    return {"loss": sum(losses.values()), **losses}


def _sums_of_batches(model, dataset, starts: range, batch_size: int) -> Iterator[dict]:
    """{name of a loss: (sum, count)} of the batches that start there, on the host. The first without masks, where the
    model learns them, ends it with {}."""
    labels = map_categories(model.categories, dataset.categories)
    for start in starts:
        indices = range(start, min(start + batch_size, len(dataset)))
        images, targets = zip(*(dataset[index] for index in indices), strict=True)
        if model.config.masks and any("masks" not in target for target in targets):
            yield {}
            return
        known = [
            {**target, "labels": np.array([labels[label] for label in target["labels"].tolist()], np.int64)}
            for target in targets
        ]
        sums, _ = model.loss_sums(list(images), known, step=0)
        yield {name: (Tensor(to_numpy(total.data)), count) for name, (total, count) in sums.items()}


def score(line: dict) -> float:
    """By which validations are compared: AP of masks, or of boxes where there are no masks."""
    return line.get("segm/AP", line["bbox/AP"])


def best_of(lines: list[dict]) -> dict:
    """The validation with the highest AP, the first of equals."""
    return max(lines, key=score)


def is_over(lines: list[dict], patience: int) -> bool:
    """Whether the last `patience` validations were all no better than the best before them; never where it is 0."""
    if not patience or not lines:
        return False
    return len(lines) - 1 - lines.index(best_of(lines)) >= patience


def in_words(lines: list[dict]) -> str:
    """The last validation, for people."""
    line, best = lines[-1], best_of(lines)
    loss = f"loss {line['loss']:.3f}, " if "loss" in line else ""
    kind = "mask" if "segm/AP" in line else "box"
    so_far = "the best so far" if best is line else f"the best was {score(best):.3f} after {best['step']}"
    return f"Validation after {line['step']} steps: {loss}{kind} AP {score(line):.3f}, {so_far}."
