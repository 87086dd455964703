"""Reverse-mode automatic differentiation: the Tensor, the graph behind it, and its basic operators.

An operator computes its result with plain NumPy or CuPy and hands `record` a closure that turns the
gradient of the result into the gradients of the inputs. That is the whole engine:

    y = record(data, parents, backward)      y.backward()  walks the closures in reverse order

The chain rule in this form is explained in lesson 01.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinymrcnn.backend import array_module, elementwise, empty, empty_like, like, memory_order, scatter_add, to_numpy


class Node:
    """A step of the graph. It refers to other Nodes only, never to data or to a Tensor, so that an array
    lives exactly as long as a closure captures it or a Tensor shows it.

    A leaf (no closure) owns the accumulated gradient."""

    __slots__ = ("backward", "parents", "name", "grad", "released")

    def __init__(self, backward: Callable | None = None, parents: tuple = (), name: str = "leaf"):
        self.backward = backward
        self.parents = parents
        self.name = name
        self.grad = None
        self.released = False


_grad_enabled = True


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within this block (or a function decorated with it) no graph is recorded."""
    global _grad_enabled
    before, _grad_enabled = _grad_enabled, False
    try:
        yield
    finally:
        _grad_enabled = before


def record(data, parents: tuple, backward: Callable) -> "Tensor":
    """The result of an operation as a Tensor, with the way back to its inputs.

    data: the result, an array. parents: the input Tensors.
    backward(grad, needs) gets the gradient of the result, an array of its shape, and one bool per parent;
    it returns one array, or None where it is not needed, per parent. It captures the arrays that it needs
    and never a Tensor.

    Raises TypeError when the result and the floating-point inputs are not of one dtype.
    """
    result = Tensor(data)
    operator = backward.__qualname__.rpartition(".<locals>")[0]  # the function that defines the closure
    name = (operator or backward.__qualname__).rpartition(".")[2].strip("_")
    dtypes = [parent.dtype for parent in parents if isinstance(parent, Tensor) and parent.dtype.kind == "f"]
    if any(dtype != result.dtype for dtype in dtypes):
        raise TypeError(
            f"The operator '{name}' made {result.dtype} out of {' and '.join(map(str, dtypes))}. Convert its inputs to "
            "one dtype: no operation changes it."
        )
    if _grad_enabled and any(parent.node is not None for parent in parents):
        result.node = Node(backward, tuple(parent.node for parent in parents), name)
    return result


class Tensor:
    """An array (`data`) and its place in the graph (`node`, None when no gradient flows to it).

    data: a NumPy or CuPy array, whose dtype is kept, or numbers and lists of them, which become float32.
    requires_grad: makes the Tensor a leaf whose `.grad` the backward pass fills.

    Raises TypeError when requires_grad is asked of anything but floats.
    """

    __slots__ = ("data", "node")
    __array_ufunc__ = None  # array + Tensor comes to Tensor.__radd__

    def __init__(self, data, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        if isinstance(data, np.generic):  # before the numbers: np.float64 is a subclass of float
            data = np.asarray(data)
        elif isinstance(data, (bool, int, float, list, tuple)):
            data = np.asarray(data, dtype=np.float32)
        array_module(data)
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"Only floating-point Tensors can require gradients, not {data.dtype}.")
        self.data = data
        self.node = Node() if requires_grad else None

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        return self.node is None or self.node.name == "leaf"

    @property
    def grad(self):
        """The gradient that backward() accumulated on this leaf: a plain array of its shape, or None."""
        return self.node.grad if self.node is not None else None

    @grad.setter
    def grad(self, value) -> None:
        if self.node is None or not self.is_leaf:
            raise RuntimeError("Only a leaf Tensor that requires gradients has a .grad.")
        self.node.grad = value

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made_by = "" if self.node is None else ", requires_grad=True" if self.is_leaf else f", from={self.node.name}"
        return f"Tensor({to_numpy(self.data)}, dtype={self.dtype}{made_by})"

    def item(self) -> float:
        """The only element as a Python number."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """The data on the host (shared with the Tensor when it is there already)."""
        return to_numpy(self.data)

    def detach(self) -> "Tensor":
        """The same data outside the graph."""
        return Tensor(self.data)

    # The backward pass

    def backward(self, gradient=None) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf that self was computed from.

        gradient: the upstream gradient, an array of self's shape; may be left out for a single number.

        Every closure is released as soon as it has run, so a graph can be walked once. Raises RuntimeError
        when self does not depend on anything that requires gradients, when a part of its graph was walked
        before, or when the gradient is missing; ValueError when its shape is not self's.
        """
        if self.node is None:
            raise RuntimeError(
                "backward() was called on a Tensor without a graph: nothing it was computed from requires "
                "gradients, or it was computed under no_grad()."
            )
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"backward() without a gradient needs a single number, but this Tensor has the shape {self.shape}. "
                    "Reduce it first (.sum(), .mean()) or pass backward(gradient)."
                )
            gradient = empty_like(self.data)
            gradient.fill(1)
        elif isinstance(gradient, Tensor):
            raise TypeError("The upstream gradient is a plain array: second derivatives are not supported.")
        array_module(self.data, gradient)
        if gradient.shape != self.shape:
            raise ValueError(f"The upstream gradient has the shape {gradient.shape}, the Tensor {self.shape}.")
        if gradient.dtype != self.dtype:
            raise TypeError(f"The upstream gradient is {gradient.dtype}, the Tensor {self.dtype}.")

        gradients = {self.node: gradient}
        for node in _outputs_first(self.node):
            gradient = gradients.pop(node, None)
            if node.backward is None:
                if gradient is not None:  # "positive": a copy in the same memory order
                    node.grad = elementwise("positive", gradient) if node.grad is None else _added(node.grad, gradient)
                continue
            if gradient is not None:
                needs = tuple(parent is not None for parent in node.parents)
                for parent, part in zip(node.parents, node.backward(gradient, needs), strict=True):
                    if parent is not None and part is not None:
                        gradients[parent] = _added(gradients[parent], part) if parent in gradients else part
            node.backward, node.parents, node.released = None, (), True

    # Operators: the functions below, under the names that one expects

    def __add__(self, other) -> "Tensor":
        return add(self, other)

    def __radd__(self, other) -> "Tensor":
        return add(other, self)

    def __sub__(self, other) -> "Tensor":
        return sub(self, other)

    def __rsub__(self, other) -> "Tensor":
        return sub(other, self)

    def __mul__(self, other) -> "Tensor":
        return mul(self, other)

    def __rmul__(self, other) -> "Tensor":
        return mul(other, self)

    def __truediv__(self, other) -> "Tensor":
        return div(self, other)

    def __rtruediv__(self, other) -> "Tensor":
        return div(other, self)

    def __neg__(self) -> "Tensor":
        return mul(self, -1)

    def __pow__(self, exponent) -> "Tensor":
        return pow(self, exponent)

    def __matmul__(self, other) -> "Tensor":
        return matmul(self, other)

    def __rmatmul__(self, other) -> "Tensor":
        return matmul(other, self)

    def __getitem__(self, index) -> "Tensor":
        return getitem(self, index)

    def exp(self) -> "Tensor":
        return exp(self)

    def log(self) -> "Tensor":
        return log(self)

    def sum(self, dim=None, keepdim: bool = False) -> "Tensor":
        return sum(self, dim, keepdim)

    def mean(self, dim=None, keepdim: bool = False) -> "Tensor":
        return mean(self, dim, keepdim)

    def reshape(self, *shape) -> "Tensor":
        return reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)

    def flatten(self, start_dim: int = 0) -> "Tensor":
        return reshape(self, self.shape[:start_dim] + (math.prod(self.shape[start_dim:]),))

    def permute(self, *dims) -> "Tensor":
        return permute(self, dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims)

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        dims = list(range(self.ndim))
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return permute(self, dims)

    @property
    def T(self) -> "Tensor":
        return permute(self, tuple(reversed(range(self.ndim))))


def _added(a, b):
    return elementwise("add", a, b)


def _outputs_first(root: Node) -> list[Node]:
    """The graph below `root` so that every Node comes before those it was computed from. Iterative, since a
    deep network would overrun Python's stack."""
    order, seen, stack = [], {root}, [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        if node.released:
            raise RuntimeError(
                f"backward() reached the operator '{node.name}' a second time, but its graph was released by an "
                "earlier backward(). Compute the result again before walking it again."
            )
        for parent in parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


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
    result = x @ y
    x = x if parents[1].node is not None else None
    y = y if parents[0].node is not None else None

    def backward(grad, needs):
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
