"""tinymrcnn: Mask R-CNN from scratch, to be read, run and trusted.

Names are imported when they are first used, so that the command line can choose BLAS kernels before NumPy
is loaded and `import tinymrcnn` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Tensor": "autograd",
    "no_grad": "autograd",
    "gradcheck": "autograd",
    "build_model": "models",
    "load_model": "weights",
    "train": "training",
    "describe": "draw",
}
_MODULES = (
    "autograd", "backend", "boxes", "data", "draw", "evaluation", "kernels", "models", "nn", "ops", "roi", "training",
    "weights",
)  # fmt: skip

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"tinymrcnn.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"tinymrcnn.{name}")
    raise AttributeError(f"module 'tinymrcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
