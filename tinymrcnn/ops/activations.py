"""ReLU, sigmoid and softmax."""

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import array_module, elementwise


def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise. The gradient at 0 is 0."""
    out = elementwise("maximum", x.data, 0)

    def backward(grad, needs):
        return (elementwise("multiply", grad, (out > 0).astype(grad.dtype)),)  # NumPy multiplies by bool slowly

    return record(out, (x,), backward)


def stable_sigmoid(x):
    """1 / (1 + e^-x) of an array, computed from e^-|x| so that nothing overflows."""
    xp = array_module(x)
    e = elementwise("exp", elementwise("negative", elementwise("absolute", x)))
    numerator = elementwise("maximum", e, (x >= 0).astype(x.dtype))  # 1 for x >= 0 (where e <= 1), else e
    return elementwise("divide", numerator, elementwise("add", e, 1)) if x.size else xp.empty_like(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), elementwise."""
    out = stable_sigmoid(x.data)

    def backward(grad, needs):
        return (elementwise("multiply", grad, elementwise("multiply", out, 1 - out)),)

    return record(out, (x,), backward)


def softmax(x: Tensor, dim: int) -> Tensor:
    """e^x / sum(e^x) along `dim`."""
    out = elementwise("exp", _log_softmax(x.data, dim))

    def backward(grad, needs):
        weighted = elementwise("multiply", grad, out)
        return (elementwise("subtract", weighted, elementwise("multiply", out, weighted.sum(axis=dim, keepdims=True))),)

    return record(out, (x,), backward)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """log(softmax(x)) along `dim`, without the overflow."""
    out = _log_softmax(x.data, dim)

    def backward(grad, needs):
        shares = elementwise("exp", out)
        return (elementwise("subtract", grad, elementwise("multiply", shares, grad.sum(axis=dim, keepdims=True))),)

    return record(out, (x,), backward)


def _log_softmax(x, dim):
    xp = array_module(x)
    shifted = elementwise("subtract", x, x.max(axis=dim, keepdims=True)) if x.size else x
    return elementwise("subtract", shifted, xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True)))
