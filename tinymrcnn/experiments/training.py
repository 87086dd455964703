"""The trainings of the plans: what one of them does, and where its model is kept."""

import contextlib
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinymrcnn import threads
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.loader import batches
from tinymrcnn.experiments import heads
from tinymrcnn.experiments.plan import Training, key, trunk_of
from tinymrcnn.files import make_folder, printable, replacing
from tinymrcnn.models import TrainConfig, TwoStage, build_model
from tinymrcnn.training import make_optimizer, training_step
from tinymrcnn.weights import load_weights, save_checkpoint

TRAINING_IMAGES, TRAINING_SEED, VALIDATION_SEED, TEST_SEED = 20_000, 0, 2, 1
BATCH, WARM_UP = 8, 0.1  # of the steps


def pictures(kind: str, images: int, seed: int) -> ShapesDataset:
    """A data set of one of the kinds of pictures, see plan.PICTURES."""
    crowded = {"ordinary": False, "crowded": True, "half of them crowded": 0.5}[kind]
    return ShapesDataset(images, seed=seed, crowded=crowded)


def training_pictures(training: Training) -> ShapesDataset:
    return pictures(training.pictures, TRAINING_IMAGES, TRAINING_SEED)


def test_pictures(kind: str, images: int) -> ShapesDataset:
    """The pictures of a test; those of "validation, KIND" choose the learning rates and judge nothing."""
    validation, kind = kind.startswith("validation, "), kind.removeprefix("validation, ")
    return pictures(kind, images, VALIDATION_SEED if validation else TEST_SEED)


def new_model(training: Training, device: str) -> TwoStage:
    """The model before its first step; a trunk has no settings of its own."""
    model = build_model(training.preset, seed=training.seed, **dict(training.settings))
    model.categories = ShapesDataset.categories
    return model.to(device)


def model_of(training: Training, scratch: Path, device: str) -> TwoStage:
    """The trained model, out of the folder or else trained now and put there."""
    model, path = new_model(training, device), make_folder(scratch / "models") / f"{key(training)}.npz"
    if path.exists():
        load_weights(model, path)
    else:
        train(model, training, scratch, device)
        save_checkpoint(path, model, training.steps)
    return model.eval()


def train(model: TwoStage, training: Training, scratch: Path, device: str) -> None:
    """The steps of a training: end to end, or of the trunk alone, or of heads on a stored trunk."""
    learner: Any = model
    if training.trunk_steps < 0:
        learner = heads.RPNOnly(model)
    elif training.trunk_steps:
        trunk = model_of(trunk_of(training), scratch, device)
        heads.take_over(model, trunk)
        learner = heads.Heads(model, training_proposals(training, scratch, device))
    config = config_of(training)
    optimizer = make_optimizer(model.train(), config)
    for step, images, targets in batches(training_pictures(training), BATCH, 0, training.steps, training.seed):
        training_step(learner, optimizer, step, images, targets, config)


def config_of(training: Training) -> TrainConfig:
    """As `tinymrcnn train` does it, but for the number of steps and the learning rate."""
    warm_up = round(WARM_UP * training.steps)
    return TrainConfig(
        steps=training.steps, batch_size=BATCH, lr=training.rate, warmup_steps=warm_up, seed=training.seed
    )


# The proposals of a trunk ---------------------------------------------------------------------------------


def training_proposals(training: Training, scratch: Path, device: str) -> list[list[np.ndarray]]:
    """The proposals of a trunk on the pictures of every step of a training of heads."""
    trunk, steps = trunk_of(training), training.steps

    def find() -> list[np.ndarray]:
        model, dataset = model_of(trunk, scratch, device), training_pictures(training)
        steps_of = heads.training_proposals(model, dataset, steps, BATCH, training.seed)
        return [boxes for step in steps_of for boxes in step]

    found = _stored(scratch, f"{key(trunk)}-{steps}-steps", find)
    return [found[start : start + BATCH] for start in range(0, len(found), BATCH)]


def proposals_on(training: Training, dataset: ShapesDataset, name: str, scratch: Path, device: str) -> list[np.ndarray]:
    """The proposals of a training's trunk on the pictures of a test. name: of the pictures."""
    trunk = trunk_of(training)

    def find() -> list[np.ndarray]:
        model = model_of(trunk, scratch, device)
        return [heads.propose(model, [dataset[index][0]])[0] for index in range(len(dataset))]

    return _stored(scratch, f"{key(trunk)}-{name.replace(', ', '-').replace(' ', '-')}-{len(dataset)}", find)


def _stored(scratch: Path, name: str, find) -> list[np.ndarray]:
    """Lists of boxes, out of a file or else found now and put there."""
    path = make_folder(scratch / "proposals") / f"{name}.npz"
    if not path.exists():
        found: Sequence[np.ndarray] = find()
        with replacing(path) as file:
            counts = np.array([len(boxes) for boxes in found])
            np.savez(file, counts=counts, boxes=np.concatenate([np.zeros((0, 4), np.float32), *found]))
    try:
        with np.load(path) as stored:
            return np.split(stored["boxes"], np.cumsum(stored["counts"])[:-1])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{printable(path)}' is damaged: remove it, and it is made again. {error}") from error


def parameters_of(model: TwoStage) -> int:
    return sum(parameter.size for parameter in model.parameters())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within this block everything runs on one thread: the bits of a run do not depend on the number of cores."""
    before = threads.get_num_threads()
    threads.set_num_threads(1)
    try:
        yield
    finally:
        threads.set_num_threads(before)


def timed(work, *arguments) -> tuple[Any, float]:
    """What a function returns, and how many seconds it took."""
    began = time.perf_counter()
    result = work(*arguments)
    return result, round(time.perf_counter() - began, 1)
