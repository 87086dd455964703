"""The basic operators: arithmetic, reductions and changes of shape, each next to its gradients.

An operator is a function of arrays. It returns its result and, for each array, a function that turns the gradient of
the result into the gradient of that array. Such a function captures exactly the arrays that it needs. The Tensor calls
the operator, keeps such a function only where its gradient is needed, and sums its result over the axes along which
the operand was broadcast.

Operands of the arithmetic may be Python numbers, and stay Python numbers, so that float32 stays float32.
Lesson 01 derives the gradients.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinymrcnn.backend import Array, array_module, elementwise, empty, like, memory_order, scatter_add, select
from tinymrcnn.threads import one_blas_thread

Gradient = Callable[[Array], Array]
Result = tuple[Array, tuple[Gradient, ...]]


# What every operator needs


def as_array(value: Any) -> Any:
    """A NumPy scalar as an array without dimensions; anything else as it is."""
    return np.asarray(value) if isinstance(value, np.generic) else value  # np.float64 is a subclass of float


def check_dtypes(name: str, values: list[Array]) -> None:
    """Raises TypeError when arrays and Python numbers are not of one dtype and one library."""
    numbers = [value for value in values if isinstance(value, (bool, int, float))]
    arrays = [value for value in values if not isinstance(value, (bool, int, float))]
    array_module(*arrays)
    dtypes = list(dict.fromkeys(array.dtype for array in arrays))
    if len(dtypes) > 1:
        why = "the result would be promoted to a dtype that not all asked for"
        raise TypeError(f"The operands of '{name}' are {' and '.join(map(str, dtypes))}. Convert one of them: {why}.")
    for number in numbers:
        if np.result_type(dtypes[0], number) != dtypes[0]:
            rule = "whose result would be of another dtype. Convert the Tensor first"
            raise TypeError(f"'{name}' takes {dtypes[0]} and the number {number}, {rule}.")


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an operand of `shape` that was broadcast to the shape of grad: summed over the copies."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    copies = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and grad.shape[extra + i] != 1
    )
    return grad.sum(axis=copies).reshape(shape)


# Arithmetic


def add(x: Array, y: Array) -> Result:
    """x + y."""
    return elementwise("add", x, y), (lambda grad: grad, lambda grad: grad)


def sub(x: Array, y: Array) -> Result:
    """x - y."""
    return elementwise("subtract", x, y), (lambda grad: grad, lambda grad: elementwise("negative", grad))


def mul(x: Array, y: Array) -> Result:
    """x * y."""
    return elementwise("multiply", x, y), (
        lambda grad: elementwise("multiply", grad, y),
        lambda grad: elementwise("multiply", grad, x),
    )


def div(x: Array, y: Array) -> Result:
    """x / y, of floats."""
    _check_floats("div", x, y)

    def grad_y(grad: Array) -> Array:
        return elementwise(
            "multiply", elementwise("negative", elementwise("divide", grad, y)), elementwise("divide", x, y)
        )

    return elementwise("divide", x, y), (lambda grad: elementwise("divide", grad, y), grad_y)


def pow(x: Array, *, exponent: int | float) -> Result:
    """x ** exponent for a Python number. The gradient of x ** 0 is 0, at x = 0 too.

    Raises TypeError for an exponent of another type, and for a root or a negative power of integers."""
    if not isinstance(exponent, (int, float)) or isinstance(exponent, np.generic):
        raise TypeError(f"The exponent must be a Python number, not {type(exponent).__name__}.")
    if isinstance(exponent, float) or exponent < 0:
        _check_floats("pow", x)

    def grad_x(grad: Array) -> Array:
        if exponent == 0:
            return array_module(grad).zeros_like(grad)
        slope = elementwise("multiply", exponent, elementwise("power", x, exponent - 1))
        return elementwise("multiply", grad, slope)

    return elementwise("power", x, exponent), (grad_x,)


def exp(x: Array) -> Result:
    """e ** x."""
    _check_floats("exp", x)
    result = elementwise("exp", x)
    return result, (lambda grad: elementwise("multiply", grad, result),)


def log(x: Array) -> Result:
    """The natural logarithm."""
    _check_floats("log", x)
    return elementwise("log", x), (lambda grad: elementwise("divide", grad, x),)


def sqrt(x: Array) -> Result:
    """The square root. Its slope at 0 is infinite."""
    _check_floats("sqrt", x)
    result = elementwise("sqrt", x)
    return result, (lambda grad: elementwise("divide", grad, elementwise("multiply", result, 2)),)


def tanh(x: Array) -> Result:
    """The hyperbolic tangent."""
    _check_floats("tanh", x)
    result = elementwise("tanh", x)

    def grad_x(grad: Array) -> Array:
        return elementwise("multiply", grad, elementwise("subtract", 1, elementwise("multiply", result, result)))

    return result, (grad_x,)


def abs(x: Array) -> Result:
    """|x|. The gradient at 0 is 0."""
    return elementwise("absolute", x), (lambda grad: elementwise("multiply", grad, elementwise("sign", x)),)


def clip(x: Array, *, min: float | None, max: float | None) -> Result:
    """x, but at least min and at most max. The gradient flows strictly between them.

    Raises ValueError when neither is given."""
    if min is None and max is None:
        raise ValueError("clip needs min or max or both.")
    result = x if min is None else elementwise("maximum", x, min)
    result = result if max is None else elementwise("minimum", result, max)

    def grad_x(grad: Array) -> Array:
        grad = grad if min is None else select(x > min, grad, 0)
        return grad if max is None else select(x < max, grad, 0)

    return result, (grad_x,)


def maximum(x: Array, y: Array) -> Result:
    """The larger of both, NaN where either is. Where they are equal, each gets half of the gradient."""
    return elementwise("maximum", x, y), (lambda g: _share(g, x < y, x == y), lambda g: _share(g, y < x, x == y))


def minimum(x: Array, y: Array) -> Result:
    """The smaller of both, NaN where either is. Where they are equal, each gets half of the gradient."""
    return elementwise("minimum", x, y), (lambda g: _share(g, x > y, x == y), lambda g: _share(g, y > x, x == y))


def _share(grad: Array, lost: Array, tied: Array) -> Array:
    return select(lost, 0, select(tied, elementwise("multiply", grad, 0.5), grad))


def where(x: Array, y: Array, *, condition: Array) -> Result:
    """x where the condition holds, else y."""
    return select(condition, x, y), (lambda grad: select(condition, grad, 0), lambda grad: select(condition, 0, grad))


def matmul(x: Array, y: Array) -> Result:
    """The product of (..., n, k) and (..., k, m), the axes before the last two broadcast.

    Raises ValueError when the shapes do not fit."""
    if np.ndim(x) < 2 or np.ndim(y) < 2 or x.shape[-1] != y.shape[-2]:
        raise ValueError(f"A matrix product takes (..., n, k) and (..., k, m), not {np.shape(x)} and {np.shape(y)}.")

    def product(a: Array, b: Array) -> Array:
        with one_blas_thread:
            return a @ b

    return product(x, y), (lambda g: product(g, y.swapaxes(-1, -2)), lambda g: product(x.swapaxes(-1, -2), g))


def _check_floats(name: str, *operands: Array) -> None:
    for x in operands:
        if hasattr(x, "dtype") and x.dtype.kind != "f":
            raise TypeError(f"'{name}' takes floats, not {x.dtype}: its result would be of another dtype.")


# Reductions


def axes(dim: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes that `dim` (an axis, a tuple of axes, or None for all) means. A single number has an axis 0, as in
    PyTorch: it may be reduced and exchanged with itself."""
    if dim is None:
        return tuple(range(ndim))
    found = normalize_axis_tuple(dim, max(ndim, 1))
    return found if ndim else ()


def sum(x: Array, *, dim: int | tuple[int, ...] | None, keepdim: bool) -> Result:
    """The sum over `dim`."""
    shape, order, over = x.shape, memory_order(x), axes(dim, x.ndim)
    kept = tuple(1 if axis in over else n for axis, n in enumerate(shape))
    return x.sum(axis=over, keepdims=keepdim), (lambda grad: _spread(grad.reshape(kept), shape, order),)


def amax(x: Array, *, dim: int | tuple[int, ...] | None, keepdim: bool) -> Result:
    """The largest value over `dim`. Values that tie share the gradient."""
    return _extreme(x, "max", dim, keepdim)


def amin(x: Array, *, dim: int | tuple[int, ...] | None, keepdim: bool) -> Result:
    """The smallest value over `dim`. Values that tie share the gradient."""
    return _extreme(x, "min", dim, keepdim)


def _extreme(x: Array, name: str, dim: int | tuple[int, ...] | None, keepdim: bool) -> Result:
    over = axes(dim, x.ndim)
    if any(x.shape[axis] == 0 for axis in over):
        raise ValueError(f"Nothing has no {name}: the shape is {x.shape}, dim {dim}.")
    extreme = getattr(x, name)(axis=over, keepdims=True)
    kept = extreme.shape

    def grad_x(grad: Array) -> Array:
        taken = (x == extreme) | (x != x)  # where there is a NaN, the result is NaN
        share = elementwise("divide", grad.reshape(kept), taken.sum(axis=over, keepdims=True).astype(x.dtype))
        return select(taken, _spread(share, x.shape, memory_order(x)), 0)

    rest = tuple(n for axis, n in enumerate(x.shape) if axis not in over)
    return extreme if keepdim else extreme.reshape(rest), (grad_x,)


def _spread(grad: Array, shape: tuple[int, ...], order: tuple[int, ...]) -> Array:
    """grad copied along its axes of length 1, in this memory order."""
    result = empty(array_module(grad), shape, grad.dtype, order)
    result[...] = grad
    return result


# Shape


def reshape(x: Array, *, shape: tuple[int, ...]) -> Result:
    """The elements in logical (row-major) order in another shape; one entry may be -1."""
    before = x.shape
    return x.reshape(shape), (lambda grad: grad.reshape(before),)


def permute(x: Array, *, dims: tuple[int, ...]) -> Result:
    """The axes in another order (a view).

    Raises ValueError unless every axis is named once."""
    dims = normalize_axis_tuple(dims, x.ndim)
    if len(dims) != x.ndim:
        raise ValueError(f"permute names every axis once: {dims} are not the axes of the shape {x.shape}.")
    inverse = tuple(dims.index(d) for d in range(x.ndim))
    return x.transpose(dims), (lambda grad: grad.transpose(inverse),)


def getitem(x: Array, *, index: Any) -> Result:
    """x[index] for slices, integers and index arrays, by NumPy's rules (the order of axes differs from
    PyTorch's where a slice stands between an integer and an array); an element taken twice gets both gradients."""
    index = tuple(index) if isinstance(index, tuple) else (index,)
    index = tuple(np.zeros(0, np.int64) if isinstance(part, list) and not part else part for part in index)
    index = tuple(like(part, x) if isinstance(part, (list, np.ndarray)) else part for part in index)
    shape, dtype, order, xp = x.shape, x.dtype, memory_order(x), array_module(x)
    may_repeat = any(hasattr(part, "dtype") and part.dtype != bool for part in index)

    def grad_x(grad: Array) -> Array:
        full = empty(xp, shape, dtype, order)
        full.fill(0)
        if may_repeat:
            scatter_add(full, index, grad)
        else:
            full[index] = grad
        return full

    return x[index], (grad_x,)


def cat(*arrays: Array, dim: int) -> Result:
    """Arrays, joined along `dim`; all other axes must be equal. Raises ValueError when their shapes do not fit."""
    first, xp, shapes = arrays[0], array_module(*arrays), [array.shape for array in arrays]
    (axis,) = normalize_axis_tuple(dim, first.ndim)
    if len({(len(shape), shape[:axis] + shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"cat along {dim} got Tensors of the shapes {shapes}.")
    ends = np.cumsum([shape[axis] for shape in shapes]).tolist()
    pieces = [(slice(None),) * axis + (slice(end - shape[axis], end),) for end, shape in zip(ends, shapes, strict=True)]
    whole = first.shape[:axis] + (ends[-1],) + first.shape[axis + 1 :]
    result = empty(xp, whole, first.dtype, memory_order(first))
    for piece, array in zip(pieces, arrays, strict=True):
        result[piece] = array
    return result, tuple(lambda grad, piece=piece: grad[piece] for piece in pieces)
