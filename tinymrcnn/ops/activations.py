"""ReLU, sigmoid and softmax."""

from collections.abc import Callable
from typing import Any

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.autograd.operators import check_dtypes
from tinymrcnn.backend import Array, array_module, elementwise, empty_like, memory_order
from tinymrcnn.kernels import cuda, cuda_kernel, piece_kernel, run
from tinymrcnn.threads import slices


def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise. The gradient at 0 is 0."""
    out = relu_grad(x.data, x.data)  # it lets through what its gradient would
    return record(out, (x,), lambda grad, needs: (relu_grad(grad, out),), "relu")


def add_relu(x: Tensor, y: Tensor) -> Tensor:
    """relu(x + y) of two Tensors of one shape, in one pass over the memory: the end of a residual block.

    Raises ValueError when the shapes differ, TypeError when the dtypes do."""
    if x.shape != y.shape:
        raise ValueError(f"add_relu takes two Tensors of one shape, not {x.shape} and {y.shape}.")
    check_dtypes("add_relu", [x.data, y.data])
    out = _one_pass(_add_relu_cpu, _add_relu_cuda, x.data, y.data)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        grad = relu_grad(grad, out)
        return tuple(grad if need else None for need in needs)

    return record(out, (x, y), backward, "add_relu")


def relu_grad(grad: Array, out: Array) -> Array:
    """The gradient of a ReLU's input, from the gradient of its result and the result."""
    return _one_pass(_relu_grad_cpu, _relu_grad_cuda, out, grad)


def _one_pass(on_cpu: Callable[..., None], on_cuda: Any, first: Array, *others: Array) -> Array:
    """A kernel's result for arrays of one shape and dtype, each flattened in the memory order of the first. NumPy would
    need one pass over the memory, on one core, for every operation, and CuPy one on its own."""
    order, out = memory_order(first), empty_like(first)

    def pieces(thread: int, threads: int, *lines: Array) -> None:
        for part in slices(out.size)[thread::threads]:
            on_cpu(*(line[part] for line in lines))

    run(pieces, on_cuda, out.size, *(array.transpose(order).reshape(-1) for array in (first, *others, out)))
    return out


# A NaN is not less than 0: it stays, and lets its gradient through. All arrays are (n,)


@piece_kernel
def _add_relu_cpu(x: Array, y: Array, out: Array) -> None:
    """out = relu(x + y)."""
    for i in range(x.size):
        out[i] = 0 if x[i] + y[i] < 0 else x[i] + y[i]


@cuda_kernel
def _add_relu_cuda(x: Array, y: Array, out: Array) -> None:
    zero = x.dtype.type(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = zero if x[i] + y[i] < zero else x[i] + y[i]


@piece_kernel
def _relu_grad_cpu(result: Array, grad: Array, out: Array) -> None:
    """out = grad where a ReLU with this result let it through, else 0."""
    for i in range(result.size):
        out[i] = 0 if result[i] <= 0 else grad[i]


@cuda_kernel
def _relu_grad_cuda(result: Array, grad: Array, out: Array) -> None:
    zero = grad.dtype.type(0)
    for i in range(cuda.grid(1), result.size, cuda.gridsize(1)):
        out[i] = zero if result[i] <= zero else grad[i]


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
