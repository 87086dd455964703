"""ReLU, sigmoid and softmax."""

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, elementwise, empty_like, memory_order
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, run


def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise. The gradient at 0 is 0."""
    out = relu_grad(x.data, x.data)  # it lets through what its gradient would
    return record(out, (x,), lambda grad, needs: (relu_grad(grad, out),), "relu")


def relu_grad(grad: Array, out: Array) -> Array:
    """The gradient of a ReLU's input, from the gradient of its result and the result, in the memory order of that."""
    order, result = memory_order(out), empty_like(out)
    lines = [array.transpose(order).reshape(-1) for array in (out, grad, result)]
    run(_relu_grad_cpu, _relu_grad_cuda, result.size, *lines)
    return result


def combine(
    x: Array, scale: Array | None, shift: Array, y: Array | None = None, factor: Array | None = None, *,
    lowest: float = -np.inf, out: Array | None = None,
) -> Array:  # fmt: skip
    """x scale + shift + y factor, or `lowest` where it is less. x, y: (n, C). scale, shift, factor: (C,); no scale and
    no factor is 1. out: x itself, or an array that shares no memory with it."""
    row, table = shift[:0], x[:0]  # empty: kernels know no None
    source = table if out is x else x
    out = array_module(x).empty_like(x) if out is None else out
    given = [(source, table), (scale, row), (shift, row), (y, table), (factor, row)]
    arrays = (empty if array is None else array for array, empty in given)
    run(_combine_cpu, _combine_cuda, x.size, *arrays, x.dtype.type(lowest), out)
    return out


# Each is one pass over the memory, where NumPy would need several, on one core, and CuPy several kernels. A NaN is not
# less than anything: it stays, and lets its gradient through


@cpu_kernel
def _relu_grad_cpu(thread: int, threads: int, out: Array, grad: Array, result: Array) -> None:
    some = slice(thread * out.size // threads, (thread + 1) * out.size // threads)
    out, grad, result = out[some], grad[some], result[some]  # indices from 0 on, so that the loop becomes vectors
    for i in range(out.size):
        result[i] = 0 if out[i] <= 0 else grad[i]


@cuda_kernel
def _relu_grad_cuda(out: Array, grad: Array, result: Array) -> None:
    zero = grad.dtype.type(0)
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        result[i] = zero if out[i] <= zero else grad[i]


@cpu_kernel
def _combine_cpu(
    thread: int, threads: int, x: Array, scale: Array, shift: Array, y: Array, factor: Array, lowest: float, out: Array
) -> None:
    """x, scale, y and factor may be empty; without x the work is done in place. Were x and out two names of one memory,
    the compiler could make no vectors of the loop: six times slower."""
    for i in range(thread, out.shape[0], threads):
        for c in range(out.shape[1]):
            value = x[i, c] if x.size > 0 else out[i, c]
            value = (value * scale[c] if scale.size > 0 else value) + shift[c]
            if y.size > 0:
                value += y[i, c] * factor[c] if factor.size > 0 else y[i, c]
            out[i, c] = lowest if value < lowest else value


@cuda_kernel
def _combine_cuda(x: Array, scale: Array, shift: Array, y: Array, factor: Array, lowest: float, out: Array) -> None:
    for element in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        i, c = divmod(np.uint32(element), np.uint32(out.shape[1]))
        value = x[i, c] if x.size > 0 else out[i, c]
        value = (value * scale[c] if scale.size > 0 else value) + shift[c]
        if y.size > 0:
            value += y[i, c] * factor[c] if factor.size > 0 else y[i, c]
        out[i, c] = lowest if value < lowest else value


def stable_sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) of an array, computed from e^-|x| so that nothing overflows."""
    xp = array_module(x)
    e = elementwise("exp", elementwise("negative", elementwise("absolute", x)))
    numerator = elementwise("maximum", e, (x >= 0).astype(x.dtype))  # 1 for x >= 0 (where e <= 1), else e
    return elementwise("divide", numerator, elementwise("add", e, 1)) if x.size else xp.empty_like(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), elementwise."""
    out = stable_sigmoid(x.data)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return (elementwise("multiply", grad, elementwise("multiply", out, 1 - out)),)

    return record(out, (x,), backward, "sigmoid")


def softmax(x: Tensor, dim: int) -> Tensor:
    """e^x / sum(e^x) along `dim`."""
    out = elementwise("exp", _log_softmax(x.data, dim))

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        weighted = elementwise("multiply", grad, out)
        return (elementwise("subtract", weighted, elementwise("multiply", out, weighted.sum(axis=dim, keepdims=True))),)

    return record(out, (x,), backward, "softmax")


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """log(softmax(x)) along `dim`, without the overflow."""
    out = _log_softmax(x.data, dim)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        shares = elementwise("exp", out)
        return (elementwise("subtract", grad, elementwise("multiply", shares, grad.sum(axis=dim, keepdims=True))),)

    return record(out, (x,), backward, "log_softmax")


def _log_softmax(x: Array, dim: int) -> Array:
    xp = array_module(x)
    shifted = elementwise("subtract", x, x.max(axis=dim, keepdims=True)) if x.size else x
    return elementwise("subtract", shifted, xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True)))
