"""The basic operators of Tensors: arithmetic, reductions and changes of shape, each with its gradient beside it.

Lesson 01 derives them.
"""

import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinymrcnn.autograd.tensor import Tensor, record
from tinymrcnn.backend import array_module, elementwise, empty, like, memory_order, scatter_add
from tinymrcnn.threads import one_blas_thread

# Arithmetic. Python numbers stay Python numbers, so that float32 stays float32.


class _Constant:
    node = None  # stands among the parents for an operand that is no Tensor


def _operands(a, b):
    """The two operands as arrays or Python numbers, and as parents for record().

    Raises TypeError when they are arrays of different dtypes or libraries."""
    values = [x.data if isinstance(x, Tensor) else np.asarray(x) if isinstance(x, np.generic) else x for x in (a, b)]
    arrays = [value for value in values if not isinstance(value, (bool, int, float))]
    array_module(*arrays)
    if len({array.dtype for array in arrays}) > 1:
        raise TypeError(
            f"The operands are {values[0].dtype} and {values[1].dtype}. Convert one of them: the result would be "
            "promoted to a dtype that neither asked for."
        )
    return *values, tuple(x if isinstance(x, Tensor) else _Constant for x in (a, b))


def _unbroadcast(grad, shape):
    """The gradient of an operand of `shape` that was broadcast to the shape of grad: summed over the copies."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    copies = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and grad.shape[extra + i] != 1
    )
    return grad.sum(axis=copies).reshape(shape)


def add(a, b) -> Tensor:
    """a + b with broadcasting."""
    x, y, parents = _operands(a, b)
    x_shape, y_shape = np.shape(x), np.shape(y)

    def backward(grad, needs):
        return (
            _unbroadcast(grad, x_shape) if needs[0] else None,
            _unbroadcast(grad, y_shape) if needs[1] else None,
        )

    return record(elementwise("add", x, y), parents, backward)


def sub(a, b) -> Tensor:
    """a - b with broadcasting."""
    x, y, parents = _operands(a, b)
    x_shape, y_shape = np.shape(x), np.shape(y)

    def backward(grad, needs):
        return (
            _unbroadcast(grad, x_shape) if needs[0] else None,
            _unbroadcast(elementwise("negative", grad), y_shape) if needs[1] else None,
        )

    return record(elementwise("subtract", x, y), parents, backward)


def mul(a, b) -> Tensor:
    """a * b with broadcasting."""
    x, y, parents = _operands(a, b)
    x_shape, y_shape = np.shape(x), np.shape(y)
    result = elementwise("multiply", x, y)
    # each factor is kept only for the other's gradient
    x = x if parents[1].node is not None else None
    y = y if parents[0].node is not None else None

    def backward(grad, needs):
        return (
            _unbroadcast(elementwise("multiply", grad, y), x_shape) if needs[0] else None,
            _unbroadcast(elementwise("multiply", grad, x), y_shape) if needs[1] else None,
        )

    return record(result, parents, backward)


def div(a, b) -> Tensor:
    """a / b with broadcasting."""
    x, y, parents = _operands(a, b)
    x_shape, y_shape = np.shape(x), np.shape(y)
    result = elementwise("divide", x, y)
    x = x if parents[1].node is not None else None

    def backward(grad, needs):
        grad_x, grad_y = elementwise("divide", grad, y), None
        if needs[1]:
            grad_y = elementwise("multiply", elementwise("negative", grad_x), elementwise("divide", x, y))
            grad_y = _unbroadcast(grad_y, y_shape)
        return (_unbroadcast(grad_x, x_shape) if needs[0] else None, grad_y)

    return record(result, parents, backward)


def pow(a: Tensor, exponent: int | float) -> Tensor:
    """a ** exponent for a Python number."""
    if not isinstance(exponent, (int, float)) or isinstance(exponent, np.generic):
        raise TypeError(f"The exponent must be a Python number, not {type(exponent).__name__}.")
    x = a.data

    def backward(grad, needs):
        slope = elementwise("multiply", exponent, elementwise("power", x, exponent - 1))
        return (elementwise("multiply", grad, slope),)

    return record(elementwise("power", x, exponent), (a,), backward)


def exp(a: Tensor) -> Tensor:
    """e ** a."""
    result = elementwise("exp", a.data)

    def backward(grad, needs):
        return (elementwise("multiply", grad, result),)

    return record(result, (a,), backward)


def log(a: Tensor) -> Tensor:
    """The natural logarithm."""
    x = a.data

    def backward(grad, needs):
        return (elementwise("divide", grad, x),)

    return record(elementwise("log", x), (a,), backward)


def matmul(a, b) -> Tensor:
    """The product of an (n, k) and a (k, m) matrix."""
    x, y, parents = _operands(a, b)
    if np.ndim(x) != 2 or np.ndim(y) != 2 or x.shape[1] != y.shape[0]:
        raise ValueError(f"A matrix product takes (n, k) and (k, m), not {np.shape(x)} and {np.shape(y)}.")
    with one_blas_thread:
        result = x @ y
    x = x if parents[1].node is not None else None
    y = y if parents[0].node is not None else None

    def backward(grad, needs):
        with one_blas_thread:
            return (grad @ y.T if needs[0] else None, x.T @ grad if needs[1] else None)

    return record(result, parents, backward)


# Reductions


def _axes(dim, ndim: int) -> tuple[int, ...]:
    """The axes that `dim` (an axis, a tuple of axes, or None for all) means."""
    return normalize_axis_tuple(range(ndim) if dim is None else dim, ndim)


def sum(a: Tensor, dim=None, keepdim: bool = False) -> Tensor:
    """The sum over `dim` (an axis, a tuple of axes, or None for all)."""
    shape, dtype, order, xp = a.shape, a.dtype, memory_order(a.data), array_module(a.data)
    dims = _axes(dim, a.ndim)
    kept_shape = tuple(1 if axis in dims else n for axis, n in enumerate(shape))

    def backward(grad, needs):
        spread = empty(xp, shape, dtype, order)
        spread[...] = grad.reshape(kept_shape)
        return (spread,)

    return record(a.data.sum(axis=dim, keepdims=keepdim), (a,), backward)


def mean(a: Tensor, dim=None, keepdim: bool = False) -> Tensor:
    """The mean over `dim`; a mean over nothing is 0."""
    return sum(a, dim, keepdim) * (1 / max(1, math.prod(a.shape[axis] for axis in _axes(dim, a.ndim))))


# Shape


def reshape(a: Tensor, shape) -> Tensor:
    """The same elements in logical (row-major) order under another shape; one size may be -1."""
    before = a.shape

    def backward(grad, needs):
        return (grad.reshape(before),)

    return record(a.data.reshape(shape), (a,), backward)


def permute(a: Tensor, dims) -> Tensor:
    """The axes in another order (a view)."""
    dims = normalize_axis_tuple(dims, a.ndim)
    inverse = tuple(dims.index(d) for d in range(a.ndim))

    def backward(grad, needs):
        return (grad.transpose(inverse),)

    return record(a.data.transpose(dims), (a,), backward)


def getitem(a: Tensor, index) -> Tensor:
    """a[index] for slices, integers and index arrays; an element taken twice gets both gradients."""
    index = tuple(index) if isinstance(index, tuple) else (index,)
    index = tuple(np.zeros(0, np.int64) if isinstance(part, list) and not part else part for part in index)
    index = tuple(like(part, a.data) if isinstance(part, (list, np.ndarray)) else part for part in index)
    shape, dtype, order, xp = a.shape, a.dtype, memory_order(a.data), array_module(a.data)
    may_repeat = any(hasattr(part, "dtype") and part.dtype != bool for part in index)

    def backward(grad, needs):
        full = empty(xp, shape, dtype, order)
        full.fill(0)
        if may_repeat:
            scatter_add(full, index, grad)
        else:
            full[index] = grad
        return (full,)

    return record(a.data[index], (a,), backward)


def cat(tensors, dim: int = 0) -> Tensor:
    """Tensors of equal shape but for `dim`, joined along it.

    Raises ValueError when there are none or their shapes do not fit, TypeError when their dtypes differ."""
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError("cat needs at least one Tensor.")
    first, xp = tensors[0].data, array_module(*(tensor.data for tensor in tensors))
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise TypeError(f"cat got Tensors of different dtypes: {[str(tensor.dtype) for tensor in tensors]}.")
    ends = np.cumsum([tensor.shape[dim] for tensor in tensors]).tolist()
    axis = dim % first.ndim
    if len({tensor.shape[:axis] + tensor.shape[axis + 1 :] for tensor in tensors}) > 1:
        raise ValueError(f"cat along {dim} got Tensors of the shapes {[tensor.shape for tensor in tensors]}.")
    pieces = [
        (slice(None),) * axis + (slice(end - tensor.shape[dim], end),)
        for end, tensor in zip(ends, tensors, strict=True)
    ]
    shape = first.shape[:axis] + (ends[-1],) + first.shape[axis + 1 :]
    result = empty(xp, shape, first.dtype, memory_order(first))
    for piece, tensor in zip(pieces, tensors, strict=True):
        result[piece] = tensor.data

    def backward(grad, needs):
        return tuple(grad[piece] if need else None for piece, need in zip(pieces, needs, strict=True))

    return record(result, tensors, backward)


# The same as methods of Tensor, attached here because they are made of Tensors themselves.


def _unpacked(sizes):
    """(2, 3) whether it was given as f(2, 3) or as f((2, 3))."""
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def _transposed(self: Tensor, dim0: int, dim1: int) -> Tensor:
    """The Tensor with two axes exchanged."""
    dims = list(range(self.ndim))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(self, dims)


def _flattened(self: Tensor, start_dim: int = 0) -> Tensor:
    """All axes from start_dim on as one."""
    return reshape(self, self.shape[:start_dim] + (math.prod(self.shape[start_dim:]),))


Tensor.__add__, Tensor.__radd__ = add, lambda self, other: add(other, self)
Tensor.__sub__, Tensor.__rsub__ = sub, lambda self, other: sub(other, self)
Tensor.__mul__, Tensor.__rmul__ = mul, lambda self, other: mul(other, self)
Tensor.__truediv__, Tensor.__rtruediv__ = div, lambda self, other: div(other, self)
Tensor.__matmul__, Tensor.__rmatmul__ = matmul, lambda self, other: matmul(other, self)
Tensor.__neg__, Tensor.__pow__ = lambda self: mul(self, -1), pow
Tensor.__getitem__ = getitem
Tensor.exp, Tensor.log, Tensor.sum, Tensor.mean = exp, log, sum, mean
Tensor.reshape = lambda self, *shape: reshape(self, _unpacked(shape))
Tensor.permute = lambda self, *dims: permute(self, _unpacked(dims))
Tensor.transpose, Tensor.flatten = _transposed, _flattened
Tensor.T = property(lambda self: permute(self, tuple(reversed(range(self.ndim)))))
