"""The checkpoint: one file that holds a model, and everything that its training needs to go on.

    weights/NAME      the parameters and buffers, named as in Module.state_dict()
    optimizer/NAME    the optimiser's state, named as in its state_dict(); absent in a finished model
    average/NAME      the moving average of the weights, in a run that keeps one (TrainConfig.ema)
    metadata          JSON: Config, TrainConfig, categories, step, seed, environment; the number of the format

It is an .npz file or, if its name ends so, one of safetensors, which other programs can read: there the weights have
their names without "weights/", which are torchvision's, and the metadata are the text "tinymrcnn" beside the arrays.

It holds no pickle, so that opening a stranger's file runs nothing, and reading it takes memory in proportion to the
file. It appears whole or not at all: a crash while it is written leaves the file that was there before. Files of older
versions are brought up to date by migrations.py. Lesson 10 tells what a resumed run repeats.
"""

import dataclasses
import json
import typing
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinymrcnn import __version__
from tinymrcnn.archives import RefusedError, open_zip
from tinymrcnn.backend import to_numpy
from tinymrcnn.files import SHIPPED_MODEL, replacing
from tinymrcnn.models import Config, TrainConfig, TwoStage, make_model
from tinymrcnn.nn.allowance import at_most
from tinymrcnn.safetensors import is_safetensors, read_metadata, read_safetensors, write_safetensors
from tinymrcnn.settings import from_dict
from tinymrcnn.weights.comparison import differences, no_weights, shapes_of
from tinymrcnn.weights.environment import environment
from tinymrcnn.weights.migrations import FORMAT_VERSION, migrate

FORMAT = "tinymrcnn checkpoint"
WEIGHTS, OPTIMIZER, AVERAGE = "weights/", "optimizer/", "average/"


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, is damaged, or was written by a newer version."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. step: how many training steps are done. categories is empty if the model has no class names;
    train_config and optimizer are None in a finished model, average (of the weights) also in a run without one."""

    weights: dict[str, np.ndarray]
    config: Config
    categories: list[dict]
    step: int
    seed: int
    environment: dict
    train_config: TrainConfig | None = None
    optimizer: dict[str, np.ndarray] | None = None
    average: dict[str, np.ndarray] | None = None


# Writing


def save_checkpoint(
    path, model, step: int = 0, train_config: TrainConfig | None = None, optimizer=None, average=None
) -> None:
    """Write the model, and where they are given the settings, the optimiser and the moving average of the weights that
    its training resumes with. A path that ends in .safetensors gets such a file, any other an .npz file.

    Without train_config and optimizer the file is a finished model: smaller, for use but not for resuming.
    Raises OSError where the file cannot be written, ValueError where model.categories are not those of the model's
    classes; what was there before is intact then."""
    categories = model.categories or []
    _check_categories(categories, model.config.num_classes)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "config": dataclasses.asdict(model.config),
        "train_config": dataclasses.asdict(train_config) if train_config else None,
        "categories": categories,
        "step": step,
        "seed": model.seed,
        "environment": {**environment(), "device": model.device},
    }
    text, weights = json.dumps(metadata), model.state_dict()
    state = optimizer.state_dict() if optimizer is not None else {}
    arrays: dict[str, typing.Any] = {f"{OPTIMIZER}{name}": array for name, array in state.items()}
    arrays |= {f"{AVERAGE}{name}": to_numpy(array) for name, array in (average or {}).items()}
    with replacing(path) as file:
        if Path(path).suffix == ".safetensors":
            write_safetensors(file, weights | arrays, {"format": "pt", "tinymrcnn": text})
        else:
            arrays |= {f"{WEIGHTS}{name}": array for name, array in weights.items()}
            np.savez(file, metadata=np.array(text), **arrays)


# Reading


def load_checkpoint(path) -> Checkpoint:
    """Read a file that save_checkpoint wrote. Its weights fit the model of its Config, and are finite.

    Raises FileNotFoundError where there is none, and CheckpointError, a ValueError that names the file, where
    it is empty, truncated, damaged, something else altogether, contradicts itself, or needs a newer version of this
    package."""
    return _load(Path(path))[0]


def load_model(path=SHIPPED_MODEL, device: str = "auto") -> TwoStage:
    """The model that a checkpoint holds, by default the trained toy model that comes with the package; in eval mode,
    with its Config and categories, on `device` ("cpu", "cuda" or "auto"). Weights of another precision are rounded to
    float32. Raises as load_checkpoint does."""
    checkpoint, model = _load(Path(path))
    model.load_state_dict(checkpoint.weights)
    model.categories = checkpoint.categories or None
    model.to(device).eval()
    return model


def _load(path: Path) -> tuple[Checkpoint, TwoStage]:
    """The checkpoint, and a model into which its weights fit; they are not in it yet."""
    metadata, arrays = _read(path)

    def part(prefix):
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    try:
        checkpoint = _checkpoint(migrate(metadata), part(WEIGHTS), part(OPTIMIZER), part(AVERAGE))
        return checkpoint, _empty_model(checkpoint)
    except Exception as error:  # settings that make no sense can fail anywhere
        told = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"The checkpoint '{path}' cannot be used by this version of tinymrcnn, {__version__}; "
            f"it was written by version {_plain(metadata.get('version'))}. {told}"
        ) from error


def _empty_model(checkpoint: Checkpoint) -> TwoStage:
    """A model of the checkpoint's Config. Raises ValueError if its weights do not match the checkpoint's,
    before it takes more memory than they do."""
    weights = checkpoint.weights
    with at_most(len(weights), sum(array.size for array in weights.values())):
        model = make_model(checkpoint.config, seed=None)
        model.seed = checkpoint.seed
    if table := differences(weights, shapes_of(model)):
        raise ValueError(f"Its settings and its arrays do not belong together.\n{table}")
    return model


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The metadata and all other arrays of a file."""
    if path.is_dir():
        raise FileNotFoundError(f"'{path}' is a folder, no checkpoint. The model of a run is '{path / 'model.npz'}'.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint '{path}'.")
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"The checkpoint '{path}' is empty: it was not written to its end, or not copied whole.")
    if is_safetensors(start, path.stat().st_size):
        return _read_safetensors(path)
    if not zipfile.is_zipfile(path):
        if start.startswith(b"PK"):
            raise CheckpointError(
                f"The checkpoint '{path}' is truncated: its end is missing. Copy or download it again, "
                "or take an earlier one."
            )
        raise CheckpointError(f"The file '{path}' is no checkpoint of tinymrcnn (it begins with {start!r}).")
    try:
        with open_zip(path):  # refuses what is compressed
            pass
    except RefusedError as error:
        raise CheckpointError(f"The checkpoint '{path}' is refused. {error}") from error
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files} if "metadata" in file.files else {}
            metadata = json.loads(arrays.pop("metadata").item()) if arrays else {}
    except Exception as error:  # a damaged file can fail in zip, zlib, NumPy's header, JSON, memory ...
        raise CheckpointError(f"The checkpoint '{path}' is damaged and cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"The file '{path}' is a zip archive, but no checkpoint of tinymrcnn.")
    return metadata, arrays


def _read_safetensors(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """As _read does."""
    try:
        with open(path, "rb") as file:
            text = read_metadata(file).get("tinymrcnn")
            file.seek(0)
            arrays = read_safetensors(file, path.stat().st_size) if text is not None else {}
            metadata = json.loads(text) if text is not None else {}
    except (RefusedError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint '{path}' is damaged and cannot be read. {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"The file '{path}' holds safetensors, but is no checkpoint of tinymrcnn: it does not tell the model's "
            "settings. Name the --preset that it belongs to, or use load_weights()."
        )
    named = {name if name.startswith((OPTIMIZER, AVERAGE)) else WEIGHTS + name: array for name, array in arrays.items()}
    return metadata, named


def _checkpoint(metadata: dict, weights: dict, optimizer: dict, average: dict) -> Checkpoint:
    """The Checkpoint, all checked except whether the weights fit the Config."""
    config = from_dict(Config, metadata["config"])
    for name in ("step", "seed"):
        if type(metadata[name]) is not int or metadata[name] < 0:
            raise ValueError(f"Its {name} is {metadata[name]!r}; it must be an integer of at least 0.")
    _check_categories(metadata["categories"], config.num_classes)
    if problem := no_weights(weights):
        raise ValueError(problem)
    if average and (table := differences(average, {name: array.shape for name, array in weights.items()})):
        raise ValueError(f"Its weights and their average do not belong together.\n{table}")
    if problem := no_weights(average):
        raise ValueError(f"Of the average of its weights: {problem}")
    train_config = from_dict(TrainConfig, metadata["train_config"]) if metadata["train_config"] else None
    if (train_config is not None and train_config.ema > 0) != bool(average):
        raise ValueError("Its settings and its arrays do not agree on whether the weights are averaged (ema).")
    for name, array in optimizer.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(f"Its entry optimizer/{_plain(name)} holds something else than finite numbers.")
    return Checkpoint(
        weights=weights,
        config=config,
        categories=metadata["categories"],
        step=metadata["step"],
        seed=metadata["seed"],
        environment=dict(metadata["environment"]),
        train_config=train_config,
        optimizer=optimizer or None,
        average=average or None,
    )


def _check_categories(categories, num_classes: int) -> None:
    """Raise ValueError for anything but a list of {"label", "name", "id"} for the labels 1 to num_classes - 1, or an
    empty list."""
    if not isinstance(categories, list):
        raise ValueError(f"Its categories are a {type(categories).__name__}; a list must be there.")
    for label, category in enumerate(categories, start=1):
        fields = {"label": int, "name": str, "id": int}
        if not isinstance(category, dict) or any(type(category.get(name)) is not kind for name, kind in fields.items()):
            raise ValueError(f"Its category {label} is {category!a:.80}; it must have a label, a name and an id.")
        if category["label"] != label:
            raise ValueError(f"Its category {label} has the label {category['label']}; labels count from 1 on.")
    if categories and len(categories) != num_classes - 1:
        raise ValueError(
            f"It names {len(categories)} categories, but the model has {num_classes} classes, background included."
        )


def _plain(text) -> str:
    """A text from a file for a message: shortened, with control characters escaped."""
    return ascii(str(text))[1:-1][:80]
