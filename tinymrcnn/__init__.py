"""tinymrcnn: Mask R-CNN from scratch, to be read, run and trusted.

Names are imported when they are first used, so that the command line can choose BLAS kernels before NumPy
is loaded and `import tinymrcnn` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "Tensor", "build_model", "describe", "gradcheck", "load_model", "no_grad", "train",
    # the rooms
    "archives", "autograd", "backend", "bench", "boxes", "cli", "commands", "data", "draw", "evaluation", "experiments",
    "export", "files", "kernels", "machine", "mine", "models", "nn", "ops", "randomness", "roi", "safetensors",
    "settings", "stopping", "threads", "training", "weights",
]  # fmt: skip

_HOMES = {
    "Tensor": "autograd",
    "build_model": "models",
    "describe": "draw",
    "gradcheck": "autograd",
    "load_model": "weights",
    "no_grad": "autograd",
    "train": "training",
}

if TYPE_CHECKING:  # the same, as type checkers and editors read it
    from tinymrcnn import (
        archives,
        autograd,
        backend,
        bench,
        boxes,
        cli,
        commands,
        data,
        draw,
        evaluation,
        experiments,
        export,
        files,
        kernels,
        machine,
        mine,
        models,
        nn,
        ops,
        randomness,
        roi,
        safetensors,
        settings,
        stopping,
        threads,
        training,
        weights,
    )
    from tinymrcnn.autograd import Tensor, gradcheck, no_grad
    from tinymrcnn.draw import describe
    from tinymrcnn.models import build_model
    from tinymrcnn.training import train
    from tinymrcnn.weights import load_model
else:

    def __getattr__(name: str):
        if name in _HOMES:
            return getattr(importlib.import_module(f"tinymrcnn.{_HOMES[name]}"), name)
        if name in __all__:
            return importlib.import_module(f"tinymrcnn.{name}")
        raise AttributeError(f"module 'tinymrcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
