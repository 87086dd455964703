"""Settings from the data: what a data set of one's own asks for, where the toy set's settings do not fit.

In: the sizes of all boxes, the numbers of objects, the sizes of the images, and the memory at hand. Out: settings, each
with its reason. Every rule is a few lines below; `--set` overrides each.

The rules aim at the `shapes` network: 1.2 million parameters, levels of strides 4 to 32, trained from random weights on
a laptop.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.data.statistics import NO_FIT, anchor_fit, anchor_shapes
from tinymrcnn.settings import TrainConfig
from tinymrcnn.training.validation import Some

# Shapes below: N boxes in I images

STRIDES = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors
WELL_SEEN, SMALL_SHARE = 32, 0.2  # pixels: objects that the network sees well, and the share that may be smaller
LARGEST_FACTOR = 3  # by which images are enlarged; beyond, there is nothing more to see in them
MOST_PIXELS = 600_000  # of a usual image, resized
STEP_PIXELS = 550_000  # of a batch
BYTES_A_PIXEL = 800  # that a step takes, at most: measured 600 on nuclei
SECONDS_A_PIXEL = 1.1e-6  # of two cores together that a step takes: measured on nuclei, where one waits at times
LEAST_BATCH = 2  # images
ENOUGH_FOR_BATCH_NORM = 8  # images
MOST_AVERAGED = 100  # steps: with more, the mean lags behind while the learning rate falls
SEEN_AT_LEAST = 5_400  # images in a run,
EPOCHS_AT_LEAST = 6  # and how often each of them
MOST_STEPS = 20_000
BASES = (8, 12, 16, 24, 32, 48, 64)  # pixels: the smallest anchor
SECOND_SIZE_GAIN = 0.03  # of mean IoU, for which every level gets a second size
ZOOM, COLOR, PASTE = (0.8, 1.25), 0.2, 0.5


class Statistics(NamedTuple):
    """What is known of a data set, in pixels. boxes: (N, 4), image by image; objects: (I,) how many an image has; crowd
    regions are left out of both. images: (I, 2) heights and widths. total: of all images, of which these are some."""

    boxes: np.ndarray
    objects: np.ndarray
    images: np.ndarray
    total: int

    @property
    def shorter(self) -> float:
        """The shorter side of a usual image."""
        return float(np.median(self.images.min(1)))

    @property
    def sides(self) -> np.ndarray:
        """(N, 2): the widths and heights of the objects."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    def scales(self, side: int | None) -> np.ndarray:
        """(I,): by how much every image grows if its shorter side becomes `side`; None keeps it."""
        return np.ones(len(self.images)) if side is None else side / self.images.min(1)


class Choice(NamedTuple):
    """name: of a field of Config or TrainConfig. reason: a phrase for people."""

    name: str
    value: Any
    reason: str


def choose(data: Statistics, memory: int | None = None, given: dict[str, Any] | None = None) -> list[Choice]:
    """The settings for a data set. memory: bytes that are free, or None where that is not known. given: settings that
    are fixed already, by their full names; the others follow them.

    Without any object only what the images ask for is chosen."""
    given = given or {}
    chosen = image_size(data)
    side = _known(chosen, given).get("transform.min_size")
    window = windows(data, side)
    chosen += window
    in_training = _known(chosen, given).get("transform.train_min_sizes") or (side,)
    sizes = data.images * data.scales(in_training[-1])[:, None]
    chosen += training_length(data.total, sizes, memory, given.get("batch_size"))
    known = _known(chosen, given)
    chosen += small_batches(known["batch_size"], known["steps"])
    if len(data.boxes):
        boxes = data.boxes * np.repeat(data.scales(side), data.objects)[:, None]
        factor = side / in_training[-1] if window and side else 1.0
        chosen += [*anchors(boxes), *counts(data.objects), *variations(data.sides, factor)]
        if given.get("masks", True):
            why = f"{PASTE:.0%} of the images get objects of another in front, which masks cut out"
            chosen.append(Choice("augment.paste", PASTE, why))
    return chosen


def _known(chosen: list[Choice], given: dict[str, Any]) -> dict[str, Any]:
    return {choice.name: choice.value for choice in chosen} | given


def as_table(chosen: list[Choice], given: dict[str, Any]) -> str:
    """The settings that the data ask for, with their reasons, and those that were given in their place."""
    rows = [("setting", "value", "because")]
    for name, value, reason in chosen:
        rows.append((name, str(given[name]), "it was given") if name in given else (name, str(value), reason))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for name, value, reason in rows]
    return "\n".join(["What the data ask for; --set FIELD=VALUE changes each:", *lines])


def image_size(data: Statistics) -> list[Choice]:
    """Small objects are enlarged, large images made smaller. No choice where neither is needed."""
    pixels = data.images.prod(1)
    lengths = np.sqrt(data.sides.prod(1)) if len(data.boxes) else np.array([WELL_SEEN])
    length = float(np.quantile(lengths, SMALL_SHARE))
    factor = min(max(1.0, WELL_SEEN / length), LARGEST_FACTOR)
    reason = f"{SMALL_SHARE:.0%} of the objects are smaller than {length:.0f} pixels in images of {data.shorter:.0f}"
    limit = math.sqrt(MOST_PIXELS / float(np.median(pixels)))
    if limit < factor:
        factor = limit
        reason = f"more than {MOST_PIXELS:,} pixels take long; {SMALL_SHARE:.0%} of the objects stay below "
        reason += f"{length * factor:.0f} then"
    elif pixels.max() > 2 * MOST_PIXELS:
        reason = "the images are of very different sizes"
    elif factor < 1.05:
        return []
    side = max(32, round(data.shorter * factor / 32) * 32)
    longest = Choice("transform.max_size", 2 * side, "of longer images, the longer side counts")
    return [Choice("transform.min_size", side, reason), longest]


def windows(data: Statistics, side: int | None) -> list[Choice]:
    """Images that were enlarged until no two fit into a step are trained on windows: `augment.zoom` cuts out a part,
    whose shorter side becomes this long, so that the objects are as large as in the whole image of `side`. No choice
    where images are not enlarged, or where objects are so large that many would be cut."""
    if side is None or side <= data.shorter or not len(data.boxes):
        return []
    most = math.sqrt(STEP_PIXELS / LEAST_BATCH / float(np.median(data.images.prod(1)))) * data.shorter
    window = int(most / 32) * 32
    largest = float(np.quantile(data.sides.max(1), 0.95)) * side / data.shorter
    if window >= side or window < 2 * largest:
        return []
    reason = f"windows of the enlarged images, {LEAST_BATCH} of which make {STEP_PIXELS:,} pixels"
    return [Choice("transform.train_min_sizes", (window,), reason)]


def anchors(boxes: np.ndarray) -> list[Choice]:
    """The grid of anchors that fits boxes (N, 4) best, in pixels of the resized images."""
    grids = {count: [_grid(base, count) for base in BASES] for count in (1, 2)}
    fits = {
        count: [anchor_fit(boxes, anchor_shapes(grid, RATIOS), STRIDES) for grid in grids[count]] for count in grids
    }
    best = {count: int(np.argmax([fit.mean() for fit in fits[count]])) for count in grids}
    gain = float(fits[2][best[2]].mean() - fits[1][best[1]].mean())
    count = 2 if gain >= SECOND_SIZE_GAIN else 1
    fit = fits[count][best[count]]
    reason = f"the best anchor and an object overlap by an IoU of {fit.mean():.2f} on average"
    reason += f", {(fit < NO_FIT).mean():.1%} by less than {NO_FIT}; two sizes a level bring {gain:+.2f}"
    return [Choice("rpn.anchor_sizes", grids[count][best[count]], reason)]


def _grid(base: float, count: int) -> tuple[tuple[float, ...], ...]:
    """`count` sizes for each level, from `base` on, and on every level twice as large."""
    return tuple(
        tuple(float(round(base * 2**level * 2 ** (i / count))) for i in range(count)) for level in range(len(STRIDES))
    )


def counts(objects: np.ndarray) -> list[Choice]:
    """How many RoIs, proposals and detections images with so many objects need."""
    usual, many, most = (float(np.percentile(objects, q)) for q in (75, 95, 100))
    samples = 2 ** round(math.log2(min(max(4 * usual, 32), 256)))
    proposals = min(max(250, 50 * math.ceil(6 * many / 50)), 1000)
    detections = 100 if most <= 80 else min(50 * math.ceil(1.25 * most / 50), 1000)
    quarter = f"a quarter of them can be positive, and a quarter of the images have more than {usual:.0f} objects"
    six = f"six times the {many:.0f} objects of a full image"
    return [
        Choice("box.samples", samples, quarter),
        *(Choice(f"rpn.post_nms_{mode}", proposals, six) for mode in ("train", "test")),
        *(Choice(f"rpn.pre_nms_{mode}", max(500, 2 * proposals), "twice that, a level") for mode in ("train", "test")),
        Choice("box.max_detections", detections, f"the fullest image has {most:.0f} objects"),
    ]


def training_length(count: int, sizes: np.ndarray, memory: int | None = None, batch: int | None = None) -> list[Choice]:
    """Batch, unless it is given, and steps for so many images, some of which have these sizes (I, 2), resized."""
    reason, pixels = f"about {STEP_PIXELS:,} pixels a step", float(np.median(sizes.prod(1)))
    if batch is None:
        batch = int(min(max(LEAST_BATCH, STEP_PIXELS // pixels), TrainConfig().batch_size))
        padded = float(sizes.max(0).prod())  # all images of a batch are padded to one size
        if memory is not None and batch * padded * BYTES_A_PIXEL > memory / 2:
            batch = int(max(1, memory / 2 // (padded * BYTES_A_PIXEL)))
            reason = f"more could take over half of the free memory of {memory / 1e9:.1f} GB"
    seen = max(SEEN_AT_LEAST, EPOCHS_AT_LEAST * count)
    steps = min(max(1, round(seen / batch)), MOST_STEPS)
    minutes = steps * batch * pixels * SECONDS_A_PIXEL / 60 / 2
    often = (
        f"each of {count:,} images is seen {steps * batch / count:.1f} times, in about {minutes:.0f} minutes of 2 cores"
    )
    return [Choice("batch_size", batch, reason), Choice("steps", steps, often)]


def small_batches(batch: int, steps: int) -> list[Choice]:
    """Where batches are small: groups of channels in place of batches (Wu & He, Group Normalization, 2018), and the
    mean of the weights of many steps."""
    if batch >= ENOUGH_FOR_BATCH_NORM:
        return []
    averaged = min(MOST_AVERAGED, max(1, steps // 6))
    return [
        Choice("resnet.norm", "group", f"{batch} images that may differ much say little about the mean of all"),
        Choice(
            "ema", round(1 - 1 / averaged, 4), f"the weights of {averaged} steps or so, since each sees {batch} images"
        ),
    ]


def variations(sides: np.ndarray, factor: float = 1.0) -> list[Choice]:
    """Augmentation: quarter turns only where nothing in the data says which way is up, and zoom around a factor, that
    of windows. sides: (N, 2), the widths and heights of the objects."""
    upright = np.log(sides[:, 1] / sides[:, 0])
    lean = float(upright.mean())
    turn = abs(lean) < 0.05
    what = f"objects are {math.exp(lean):.2f} times as tall as wide on average"
    size = "sizes between those that are there" + f", around {factor:.2f}, the windows' zoom" * (factor != 1)
    up = "nothing says which way is up" if turn else "they may have a way up"
    return [
        Choice("augment.turn", turn, f"{what}: {up}"),
        Choice("augment.zoom", tuple(round(factor * each, 3) for each in ZOOM), size),
        Choice("augment.brightness", COLOR, "light differs from image to image"),
        Choice("augment.contrast", COLOR, "likewise"),
    ]


def statistics(dataset, most: int = 1000) -> Statistics:
    """The Statistics of a data set, from `most` of its images that are spread evenly over it."""
    boxes: list[np.ndarray] = [np.zeros((0, 4))]
    objects, images = [], []
    some = Some(dataset, most)
    for index in some.indices:
        if hasattr(dataset, "read_target"):
            target = dataset.read_target(index)
        else:
            target = dataset[index][1]
        kept = target["boxes"][target["iscrowd"] == 0]
        boxes.append(kept.astype(np.float64))
        objects.append(len(kept))
        images.append(target["masks"].shape[1:] if "masks" in target else dataset[index][0].shape[1:])
    return Statistics(np.concatenate(boxes), np.array(objects), np.array(images), len(dataset))
