"""The losses of the article: cross-entropy, binary cross-entropy and smooth L1.

Targets are plain arrays. A mean over nothing is 0 with zero gradient, where torch gives NaN: an image
without objects adds nothing to the loss.
"""

from collections.abc import Callable

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, backend_of, elementwise, scatter_add
from tinymrcnn.ops.activations import _log_softmax, stable_sigmoid


def _reduced(name: str, values: Array, reduction: str, x: Tensor, derivative: Callable[[Array], Array]) -> Tensor:
    """The loss as a Tensor. values: one per element or row. derivative(grad): d(sum of values)/dx, with `grad`
    (a single number, or one per value) multiplied in."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"Unknown reduction {reduction!r}: use 'mean', 'sum' or 'none'.")
    scale = 1 / max(1, values.size) if reduction == "mean" else 1.0
    result = values if reduction == "none" else values.sum() * scale
    return record(result, (x,), lambda grad, needs: (derivative(grad * scale),), name)


def cross_entropy(input: Tensor, target: Array, *, reduction: str = "mean") -> Tensor:
    """-log softmax(input)[target], as torch.nn.functional.cross_entropy.

    input: (N, C) or (N, C, ...) logits. target: (N,) or (N, ...) int64 class indices in 0..C-1.
    reduction: "mean" over all targets, "sum" or "none" (the shape of target).

    Raises ValueError when the shapes do not fit, TypeError for targets that are no integers, IndexError for a class
    out of range (on the host: on a GPU the question would wait for the answer)."""
    x, xp = input.data, array_module(input.data, target)
    if input.ndim < 2 or target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(f"Logits of shape {input.shape} do not fit targets of shape {target.shape}.")
    log_p = xp.moveaxis(_log_softmax(x, 1), 1, -1)
    by_row = log_p.reshape(-1, input.shape[1])
    rows, classes = xp.arange(len(by_row)), target.reshape(-1)
    if target.dtype.kind not in "iu":
        raise TypeError(f"Class targets are integers, not {target.dtype}.")
    if backend_of(x).device == "cpu" and classes.size and not 0 <= classes.min() <= classes.max() < input.shape[1]:
        raise IndexError(f"Class targets from {classes.min()} to {classes.max()} do not fit {input.shape[1]} classes.")

    def derivative(grad: Array) -> Array:
        result = xp.exp(by_row)
        scatter_add(result, (rows, classes), xp.full(len(rows), -1, x.dtype))
        result *= grad.reshape(-1, 1)
        return xp.moveaxis(result.reshape(log_p.shape), -1, 1)

    values = -by_row[rows, classes].reshape(target.shape)
    return _reduced("cross_entropy", values, reduction, input, derivative)


def binary_cross_entropy_with_logits(input: Tensor, target: Array, *, reduction: str = "mean") -> Tensor:
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(input), as in torch.nn.functional.

    input: logits of any shape. target: an array of the same shape and dtype, values in 0..1.

    Raises ValueError or TypeError when they differ."""
    x, xp = input.data, array_module(input.data, target)
    _check_same(input, target)

    def derivative(grad: Array) -> Array:
        return elementwise("multiply", elementwise("subtract", stable_sigmoid(x), target), grad)

    softplus = elementwise("log1p", elementwise("exp", elementwise("negative", elementwise("absolute", x))))
    values = elementwise("add", softplus, xp.maximum(x, 0) - x * target)
    return _reduced("binary_cross_entropy_with_logits", values, reduction, input, derivative)


def smooth_l1_loss(input: Tensor, target: Array, *, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta/2, for d = input - target; beta 0 is the L1 loss.

    input: any shape. target: an array of the same shape and dtype. As torch.nn.functional.smooth_l1_loss; Fast
    R-CNN, formula 3. Raises ValueError or TypeError when they differ, ValueError for a negative beta."""
    xp = array_module(input.data, target)
    _check_same(input, target)
    if beta < 0:
        raise ValueError(f"beta is the width of the quadratic part and not negative: {beta}.")
    d = input.data - target
    size = xp.abs(d)
    values = size if beta == 0 else xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)

    def derivative(grad: Array) -> Array:
        return grad * (xp.sign(d) if beta == 0 else xp.clip(d * (1 / beta), -1, 1))

    return _reduced("smooth_l1_loss", values, reduction, input, derivative)


def _check_same(input: Tensor, target: Array) -> None:
    if input.shape != target.shape:
        raise ValueError(f"The input has the shape {input.shape}, the target {target.shape}.")
    if input.dtype != target.dtype:
        raise TypeError(f"The input is {input.dtype}, the target {target.dtype}.")
