"""Resizing feature maps: nearest neighbour (the FPN's top-down path) and bilinear.

Both are linear and separable: out = A_h x A_w^T with two small matrices of weights, so that the backward
pass is the product with the transposed matrices.
"""

import functools
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, backend_of, channels_first, channels_last, like, to_device
from tinymrcnn.threads import one_blas_thread

Step = tuple[float, float]


def interpolate(
    x: Tensor, size: int | tuple[int, ...] | None = None, scale_factor: float | None = None, mode: str = "nearest"
) -> Tensor:
    """Resize feature maps, as torch.nn.functional.interpolate (bilinear with align_corners=False).

    x: (N, C, H, W). size: (out_h, out_w) or an int, or scale_factor: a number, out = floor(in * scale_factor).
    mode: "nearest" or "bilinear". Returns (N, C, out_h, out_w), channels-last.

    Raises ValueError unless exactly one of size and scale_factor is given, and for an unknown mode."""
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate needs either size or scale_factor, not both and not neither.")
    if mode not in _WEIGHTS:
        raise ValueError(f"Unknown mode {mode!r}: use one of {sorted(_WEIGHTS)}.")
    if x.ndim != 4:
        raise ValueError(f"interpolate takes (N, C, H, W), not {x.shape}.")
    image = channels_last(x.data)
    n, h, w, c = image.shape
    if size is None:
        size = (int(h * scale_factor), int(w * scale_factor))
    out_h, out_w = (size, size) if isinstance(size, int) else size
    if min(out_h, out_w, h, w) < 1:
        raise ValueError(f"Cannot resize maps of {(h, w)} to {(out_h, out_w)}.")
    # One step in the output is h / out_h steps in the input, or 1 / scale_factor if that is given; the latter can be
    # smaller, since out_h is rounded down.
    steps = ((h, out_h), (w, out_w)) if scale_factor is None else ((1, scale_factor), (1, scale_factor))
    sides, device = ((h, out_h, steps[0]), (w, out_w, steps[1])), backend_of(image).device
    if mode == "nearest":  # every output is one of the inputs
        rows, columns = (_sources(device, *side[1:]) for side in sides)
        out = image.reshape(n, h * w, c).take(rows[:, None] * w + columns, axis=1)
    else:
        out = _resize(image, *(_WEIGHTS[mode](*side, x.dtype) for side in sides))

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        return (channels_first(_resize(channels_last(grad), *(_WEIGHTS[mode](*side, grad.dtype).T for side in sides))),)

    return record(channels_first(out), (x,), backward, "interpolate")


def _resize(image: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """rows: (out_h, H), columns: (out_w, W) applied to (N, H, W, C)."""
    xp, rows, columns = array_module(image), like(rows, image), like(columns, image)
    n, h, w, c = image.shape
    with one_blas_thread:
        tall = xp.matmul(rows, image.reshape(n, h, w * c))
        return xp.matmul(columns, tall.reshape(-1, w, c)).reshape(n, len(rows), len(columns), c)


@functools.lru_cache(maxsize=64)
def _sources(device: str, out: int, step: Step) -> Array:
    """(out,) on the device, where it stays: output i of the nearest neighbour is input floor(i step), the step as
    (numerator, denominator)."""
    return to_device(np.floor(np.arange(out) * step[0] / step[1]).astype(int), device)


def _nearest(n: int, out: int, step: Step, dtype: np.dtype[Any]) -> Array:
    """(out, n): output i reads its source."""
    return np.eye(n, dtype=dtype)[_sources("cpu", out, step)]


def _bilinear(n: int, out: int, step: Step, dtype: np.dtype[Any]) -> np.ndarray:
    """(out, n): output i lies at (i + 1/2) step - 1/2 of the input, between two neighbours."""
    at = np.clip((np.arange(out) + 0.5) * step[0] / step[1] - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), max(n - 2, 0))
    weights = np.zeros((out, n), dtype)
    np.add.at(weights, (np.arange(out), low), 1 - (at - low))
    np.add.at(weights, (np.arange(out), np.minimum(low + 1, n - 1)), at - low)
    return weights


_WEIGHTS = {"nearest": _nearest, "bilinear": _bilinear}
