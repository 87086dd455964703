"""Training batches: a seeded order, a random horizontal flip, more augmentation on request, and one thread that
reads ahead.

A batch is a function of (data set, settings, seed, step) alone. So a run that resumes at any step sees the same
batches, bit for bit, however far the thread had read ahead. Lesson 10 trains with it; the article flips
only left and right (section 3.1, after Fast R-CNN).
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tinymrcnn.data.augment import augment, flip_horizontally, paste
from tinymrcnn.randomness import Purpose, generator
from tinymrcnn.settings import AugmentSettings

PREFETCH = 4  # batches
ALL = slice(None)
PURPOSES = Purpose.FLIP, Purpose.AUGMENT, Purpose.PASTE


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which images of a data set of `length` make up the batch of a step.

    Every epoch is a permutation of all images; the epochs are laid end to end and cut into batches, so that
    a batch may hold the end of one and the start of the next."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = range(positions[0] // length, positions[-1] // length + 1)
    orders = {epoch: generator(seed, Purpose.ORDER, epoch).permutation(length) for epoch in epochs}
    return [orders[position // length][position % length].item() for position in positions]


def load_image(dataset, index: int, step: int, seed: int, flip: bool = True, more: AugmentSettings | None = None):
    """(image, target) of a data set as they are seen in a step: mirrored with probability 1/2, augmented as `more`
    says, and with objects of another image in front, which is seen likewise.

    Raises ValueError where objects are to be pasted and there are no masks to cut them out by."""
    image, target = dataset[index]
    image_id = target["image_id"]
    flips, varies, rng = (generator(seed, purpose, step, image_id) for purpose in PURPOSES)
    image, target = _seen(image, target, flip, more, flips, varies)
    if more is None or rng.random() >= more.paste:
        return image, target
    other, theirs = dataset[int(rng.integers(len(dataset)))]
    other, theirs = _seen(other, theirs, flip, more, rng, rng)
    if "masks" not in target or "masks" not in theirs:
        raise ValueError(
            f"augment.paste is {more.paste}, but objects are cut out by their masks, and image {image_id} or "
            f"{theirs['image_id']} has none: set it to 0 (--set augment.paste=0)."
        )
    half = (rng.random(len(theirs["labels"])) < 0.5) & (theirs.get("iscrowd", 0) == 0)
    return paste(image, target, other, theirs, np.flatnonzero(half))


def _seen(image, target: dict, flip: bool, more: AugmentSettings | None, flips, rng):
    """(image, target) mirrored or not, then augmented; two generators decide."""
    if flip and flips.random() < 0.5:
        image, target = flip_horizontally(image, target)
    return (image, target) if more is None else augment(image, target, more, rng)


def load_batch(
    dataset, batch_size: int, step: int, seed: int, flip: bool = True, more: AugmentSettings | None = None,
    some: slice = ALL,
):  # fmt: skip
    """(step, images, targets): the batch of one step, or some of it, see load_image."""
    indices = batch_indices(len(dataset), batch_size, step, seed)[some]
    pairs = [load_image(dataset, index, step, seed, flip, more) for index in indices]
    return step, [image for image, _ in pairs], [target for _, target in pairs]


def batches(
    dataset, batch_size: int, start_step: int, num_steps: int, seed: int, flip: bool = True,
    more: AugmentSettings | None = None, some: slice = ALL,
) -> Generator[tuple[int, list, list], None, None]:  # fmt: skip
    """The batches of a run: (step, images, targets) for step in range(start_step, num_steps).

    dataset: see tinymrcnn.data. num_steps: of the whole run, also when it resumes at start_step. some: the part of
    every batch that is wanted, where several workers share it.
    One background thread, which runs no parallel kernel, reads ahead; an error in it is raised here with its
    own traceback, and closing the iterator ends it. Raises ValueError for sizes below 1 or a negative
    step, or an empty data set."""
    if batch_size < 1 or start_step < 0 or num_steps < start_step:
        raise ValueError(
            f"batches() needs batch_size >= 1 and 0 <= start_step <= num_steps, "
            f"got batch_size={batch_size}, start_step={start_step}, num_steps={num_steps}."
        )
    if len(dataset) == 0:
        raise ValueError("The data set holds no image, so there is nothing to make batches of.")
    return _read_ahead(dataset, batch_size, range(start_step, num_steps), seed, flip, more, some)


def _read_ahead(dataset, batch_size: int, steps: range, seed: int, *varied):
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting: deque = deque()
        for step in steps:
            for ahead in range(step + len(waiting), min(step + PREFETCH, steps.stop)):
                waiting.append(pool.submit(load_batch, dataset, batch_size, ahead, seed, *varied))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
