"""The checkpoint: one .npz file that holds a model, and everything that its training needs to go on.

    weights/NAME      the parameters and buffers, named as in Module.state_dict()
    optimizer/NAME    the optimiser's state, named as in its state_dict(); absent in a finished model
    metadata          JSON: Config, TrainConfig, categories, step, seed, environment

It holds no pickle, so that opening a stranger's file runs nothing. It appears whole or not at all: a crash
while it is written leaves the file that was there before. Lesson 10 saves and resumes with it.
"""

import dataclasses
import json
import platform
import zipfile
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding
import numpy as np
from threadpoolctl import threadpool_info

from tinymrcnn import __version__, kernels, threads
from tinymrcnn.files import replacing
from tinymrcnn.models import Config, MaskRCNN, TrainConfig
from tinymrcnn.models.settings import from_dict
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.weights.foreign.pickles import PickleError
from tinymrcnn.weights.foreign.torch_files import open_zip
from tinymrcnn.weights.migrations import nested_config

FORMAT = "tinymrcnn checkpoint"


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, is damaged, or was written by a newer version."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. step: how many training steps are done. train_config and optimizer are None in a
    finished model."""

    weights: dict[str, np.ndarray]
    config: Config
    categories: list[dict]
    step: int
    seed: int
    environment: dict
    train_config: TrainConfig | None = None
    optimizer: dict[str, np.ndarray] | None = None


def environment() -> dict:
    """What a run depends on, to the last bit, besides its settings: versions, the CPU that the kernels are
    compiled for, BLAS's kernels (its "core type"), and the number of threads of BLAS and of our own."""
    with threads.one_blas_thread:  # as our products run
        libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    libraries.sort(key=lambda info: "numpy" not in info["filepath"])  # another package may bring its own
    blas = libraries[0] if libraries else {}
    return {
        "tinymrcnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": kernels.numba.__version__,
        "cpu": llvmlite.binding.get_host_cpu_name(),
        "blas": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')}".strip(),
        "blas_kernels": blas.get("architecture", "unknown"),
        "blas_threads": blas.get("num_threads", 0),
        "numba_threads": threads.get_num_threads(),
    }


def save_checkpoint(path, model, step: int = 0, train_config: TrainConfig | None = None, optimizer=None) -> None:
    """Write the model, and where they are given the settings and the optimiser that its training resumes with.

    Without train_config and optimizer the file is a finished model: smaller, for use but not for resuming.
    Raises OSError where the file cannot be written; what was there before is intact then."""
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "config": dataclasses.asdict(model.config),
        "train_config": dataclasses.asdict(train_config) if train_config else None,
        "categories": model.categories or [],
        "step": step,
        "seed": model.seed,
        "environment": {**environment(), "device": model.device},
    }
    arrays = {"metadata": np.array(json.dumps(metadata))}
    arrays |= {f"weights/{name}": array for name, array in model.state_dict().items()}
    if optimizer is not None:
        arrays |= {f"optimizer/{name}": array for name, array in optimizer.state_dict().items()}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_checkpoint(path) -> Checkpoint:
    """Read a file that save_checkpoint wrote.

    Raises FileNotFoundError where there is none, and CheckpointError, a ValueError that names the file, where
    it is empty, truncated, damaged, something else altogether, or needs a newer version of this package."""
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"'{path}' is a folder, no checkpoint. The model of a run is '{path / 'model.npz'}'.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint '{path}'.")
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"The checkpoint '{path}' is empty: it was not written to its end, or not copied whole.")
    if not zipfile.is_zipfile(path):
        if start.startswith(b"PK"):
            raise CheckpointError(
                f"The checkpoint '{path}' is truncated: its end is missing. Copy or download it again, "
                "or take an earlier one."
            )
        raise CheckpointError(f"The file '{path}' is no checkpoint of tinymrcnn (it begins with {start!r}).")
    try:
        open_zip(path).close()  # refuses what is compressed
    except PickleError as error:
        raise CheckpointError(f"The checkpoint '{path}' is refused. {error}") from error
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files} if "metadata" in file.files else {}
            metadata = json.loads(arrays.pop("metadata").item()) if arrays else {}
    except Exception as error:  # a damaged file can fail in zip, zlib, NumPy's header, JSON, memory ...
        raise CheckpointError(f"The checkpoint '{path}' is damaged and cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"The file '{path}' is a zip archive, but no checkpoint of tinymrcnn.")

    def part(prefix):
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    try:
        return Checkpoint(
            weights=part("weights/"),
            config=from_dict(Config, nested_config(metadata["config"])),
            categories=metadata["categories"],
            step=int(metadata["step"]),
            seed=int(metadata["seed"]),
            environment=dict(metadata["environment"]),
            train_config=from_dict(TrainConfig, metadata["train_config"]) if metadata["train_config"] else None,
            optimizer=part("optimizer/") or None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint '{path}' cannot be used by this version of tinymrcnn, {__version__}; "
            f"it was written by version {metadata.get('version')}. {type(error).__name__}: {error}"
        ) from error


def _fill(model, checkpoint: Checkpoint, path) -> None:
    try:
        model.load_state_dict(checkpoint.weights)
    except ValueError as error:
        raise CheckpointError(f"The checkpoint '{path}' does not fit the model. {error}") from error


def load_model(path, device: str = "auto"):
    """The model that a checkpoint holds, in eval mode, with its Config and categories, on `device` ("cpu",
    "cuda" or "auto"). Raises as load_checkpoint does."""
    checkpoint = load_checkpoint(path)
    with without_drawing():
        model = MaskRCNN(checkpoint.config, seed=checkpoint.seed)
    _fill(model, checkpoint, path)
    model.categories = checkpoint.categories
    return model.to(device).eval()
