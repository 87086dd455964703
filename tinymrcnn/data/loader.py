"""Training batches: a seeded order, a random horizontal flip, more augmentation on request, and one thread that
reads ahead.

A batch is a function of (data set, settings, seed, step) alone. So a run that resumes at any step sees the same
batches, bit for bit, however far the thread had read ahead. Lesson 10 trains with it; the article flips
only left and right (section 3.1, after Fast R-CNN).
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from tinymrcnn.data.augment import augment, flip_horizontally
from tinymrcnn.randomness import Purpose, generator
from tinymrcnn.settings import AugmentSettings

PREFETCH = 4  # batches
ALL = slice(None)


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which images of a data set of `length` make up the batch of a step.

    Every epoch is a permutation of all images; the epochs are laid end to end and cut into batches, so that
    a batch may hold the end of one and the start of the next."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = range(positions[0] // length, positions[-1] // length + 1)
    orders = {epoch: generator(seed, Purpose.ORDER, epoch).permutation(length) for epoch in epochs}
    return [orders[position // length][position % length].item() for position in positions]


def load_image(dataset, index: int, step: int, seed: int, flip: bool = True, more: AugmentSettings | None = None):
    """(image, target) of a data set as they are seen in a step: mirrored with probability 1/2, and augmented as `more`
    says."""
    image, target = dataset[index]
    if flip and generator(seed, Purpose.FLIP, step, target["image_id"]).random() < 0.5:
        image, target = flip_horizontally(image, target)
    if more is not None:
        image, target = augment(image, target, more, generator(seed, Purpose.AUGMENT, step, target["image_id"]))
    return image, target


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
