"""Reverse-mode automatic differentiation: the Tensor.

An operator computes its result with plain NumPy or CuPy and hands `record` a closure that turns the
gradient of the result into the gradients of the inputs. That is the whole engine:

    y = record(data, parents, backward, name)      y.backward()  walks the closures in reverse order

The arithmetic itself is in operators.py, the graph in graph.py. The chain rule in this form is explained in lesson 01.
"""

import math
from collections.abc import Callable
from typing import Any, Union

import numpy as np

from tinymrcnn.autograd import operators
from tinymrcnn.autograd.graph import Backward, Node, observers, outputs_first, recording
from tinymrcnn.backend import Array, array_module, elementwise, empty_like, to_numpy

Operand = Union["Tensor", Array, float]
Dims = int | tuple[int, ...] | None


def record(data: Array, parents: tuple[Any, ...], backward: Backward, name: str) -> "Tensor":
    """The result of an operation as a Tensor, with the way back to its inputs.

    data: the result, an array. parents: the input Tensors. name: the operator's, for messages and drawings.
    backward(grad, needs) gets the gradient of the result, an array of its shape, and one bool per parent;
    it returns one array, or None where it is not needed, per parent. It captures the arrays that it needs
    and never a Tensor.

    Raises TypeError when the result and the floating-point inputs are not of one dtype.
    """
    for watch in observers.get():
        backward = watch(name, data, parents, backward)
    result = Tensor(data)
    dtypes = [parent.data.dtype for parent in parents if isinstance(parent, Tensor) and parent.data.dtype.kind == "f"]
    if dtypes.count(result.data.dtype) < len(dtypes):
        wrong = f"'{name}' made {result.dtype} out of {' and '.join(map(str, dtypes))}"
        raise TypeError(f"The operator {wrong}. Convert its inputs to one dtype: no operation changes it.")
    nodes = tuple([parent.node for parent in parents])  # lists: generators take longer
    if recording.get() and any(nodes):
        result.node = Node(backward, nodes, name)
    return result


class _Constant:
    node = None  # takes the place of an operand that is not a Tensor


def apply(operator: Callable[..., operators.Result], *operands: Operand, **settings: Any) -> "Tensor":
    """The result of a function of operators.py on Tensors, arrays and Python numbers, recorded under its name.

    Raises TypeError when they are of different dtypes or libraries."""
    values, name = [_value(operand) for operand in operands], operator.__name__
    operators.check_dtypes(name, values)
    shapes = [np.shape(value) for value in values]
    parents = tuple(operand if isinstance(operand, Tensor) else _Constant for operand in operands)
    data, gradients = operator(*values, **settings)
    # what no one will ask for is let go, and with it the arrays that it captured
    wanted = [g if parent.node is not None else None for g, parent in zip(gradients, parents, strict=True)]

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return tuple(
            operators.unbroadcast(gradient(grad), shape) if need and gradient is not None else None
            for gradient, shape, need in zip(wanted, shapes, needs, strict=True)
        )

    return record(data, parents, backward, name)


def _value(operand: Operand) -> Array:
    """The operand as an array or a Python number."""
    return operand.data if isinstance(operand, Tensor) else operators.as_array(operand)


class Tensor:
    """An array (`data`) and its place in the graph (`node`, None when no gradient flows to it).

    data: a NumPy or CuPy array, whose dtype is kept, or numbers and lists of them, which become float32.
    requires_grad: makes the Tensor a leaf whose `.grad` the backward pass fills.

    Raises TypeError when requires_grad is set and the data are not floats.
    """

    __slots__ = ("data", "node")
    __array_ufunc__ = None  # array + Tensor calls Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            data = data.data
        data = operators.as_array(data)  # before the numbers
        if isinstance(data, (bool, int, float, list, tuple)):
            data = np.asarray(data, dtype=np.float32)
        array_module(data)
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"Only floating-point Tensors can require gradients, not {data.dtype}.")
        self.data: Array = data
        self.node = Node() if requires_grad else None

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the data."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return int(self.data.ndim)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return int(self.data.size)

    @property
    def requires_grad(self) -> bool:
        """Whether a backward pass would reach this Tensor."""
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operator made it."""
        return self.node is None or self.node.is_leaf

    @property
    def grad(self) -> Array:
        """The gradient that backward() accumulated on this leaf: a plain array of its shape, or None."""
        return self.node.grad if self.node is not None else None

    @grad.setter
    def grad(self, value: Array) -> None:
        if self.node is None or not self.is_leaf:
            raise RuntimeError("Only a leaf Tensor that requires gradients has a .grad.")
        self.node.grad = value

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)  # for one element only, as in NumPy

    def __repr__(self) -> str:
        made_by = "" if self.node is None else ", requires_grad=True" if self.is_leaf else f", from={self.node.name}"
        return f"Tensor({to_numpy(self.data)}, dtype={self.dtype}{made_by})"

    def item(self) -> float:
        """The only element as a Python number."""
        number: float = self.data.item()
        return number

    def numpy(self) -> np.ndarray:
        """The data on the host (shared with the Tensor when it is there already)."""
        return to_numpy(self.data)

    def detach(self) -> "Tensor":
        """The same data outside the graph."""
        return Tensor(self.data)

    # Arithmetic with Tensors, arrays of the same dtype, and Python numbers; shapes broadcast

    def __add__(self, other: Operand) -> "Tensor":
        return apply(operators.add, self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> "Tensor":
        return apply(operators.sub, self, other)

    def __rsub__(self, other: Operand) -> "Tensor":
        return apply(operators.sub, other, self)

    def __mul__(self, other: Operand) -> "Tensor":
        return apply(operators.mul, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Tensor":
        return apply(operators.div, self, other)

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return apply(operators.div, other, self)

    def __neg__(self) -> "Tensor":
        return self * -1

    def __pow__(self, exponent: int | float) -> "Tensor":
        return apply(operators.pow, self, exponent=exponent)

    def __matmul__(self, other: Operand) -> "Tensor":
        """The matrix product, as torch.matmul: (..., n, k) @ (..., k, m), or with (k,) on either side."""
        return _matmul(self, other)

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return _matmul(other, self)

    def abs(self) -> "Tensor":
        """|x|; the gradient at 0 is 0."""
        return apply(operators.abs, self)

    __abs__ = abs

    def exp(self) -> "Tensor":
        """e ** x."""
        return apply(operators.exp, self)

    def log(self) -> "Tensor":
        """The natural logarithm."""
        return apply(operators.log, self)

    def sqrt(self) -> "Tensor":
        """The square root."""
        return apply(operators.sqrt, self)

    def tanh(self) -> "Tensor":
        """The hyperbolic tangent."""
        return apply(operators.tanh, self)

    def clip(self, min: float | None = None, max: float | None = None) -> "Tensor":
        """At least min and at most max; the gradient flows strictly between them."""
        return apply(operators.clip, self, min=min, max=max)

    # Comparisons give plain arrays of bool: no gradient flows through them

    def __eq__(self, other: object) -> Array:  # elementwise, as NumPy's
        return _compared("equal", self, other)

    def __ne__(self, other: object) -> Array:
        return _compared("not_equal", self, other)

    def __lt__(self, other: Operand) -> Array:
        return _compared("less", self, other)

    def __le__(self, other: Operand) -> Array:
        return _compared("less_equal", self, other)

    def __gt__(self, other: Operand) -> Array:
        return _compared("greater", self, other)

    def __ge__(self, other: Operand) -> Array:
        return _compared("greater_equal", self, other)

    __hash__ = object.__hash__  # by identity, as PyTorch's

    # Reductions over `dim`: an axis, a tuple of axes, or None for all

    def sum(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """The sum over `dim`."""
        return apply(operators.sum, self, dim=dim, keepdim=keepdim)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """The mean over `dim`; a mean over nothing is 0."""
        count = math.prod(self.shape[axis] for axis in operators.axes(dim, self.ndim))
        return self.sum(dim, keepdim) * (1 / max(1, count))

    def amax(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """The largest values over `dim`; where several tie, they share the gradient evenly."""
        return apply(operators.amax, self, dim=dim, keepdim=keepdim)

    def amin(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """The smallest values over `dim`; where several tie, they share the gradient evenly."""
        return apply(operators.amin, self, dim=dim, keepdim=keepdim)

    def max(self) -> "Tensor":
        """The largest value of all. Over some axes: amax(dim); where it lies: data.argmax(dim)."""
        return self.amax()

    def min(self) -> "Tensor":
        """The smallest value of all. Over some axes: amin(dim); where it lies: data.argmin(dim)."""
        return self.amin()

    # Shape

    def __getitem__(self, index: Any) -> "Tensor":
        """x[index] for slices, integers and index arrays, by NumPy's rules."""
        return apply(operators.getitem, self, index=index)

    def reshape(self, *shape: Any) -> "Tensor":
        """The elements in logical (row-major) order in another shape; one entry may be -1."""
        return apply(operators.reshape, self, shape=_unpacked(shape))

    def flatten(self, start_dim: int = 0) -> "Tensor":
        """All axes from start_dim on as one."""
        start = operators.axes(start_dim, self.ndim)[0] if self.ndim else 0
        return self.reshape(self.shape[:start] + (math.prod(self.shape[start:]),))

    def unsqueeze(self, dim: int) -> "Tensor":
        """A new axis of length 1 at `dim`."""
        (axis,) = operators.axes(dim, self.ndim + 1)
        return self.reshape(self.shape[:axis] + (1,) + self.shape[axis:])

    def squeeze(self, dim: Dims = None) -> "Tensor":
        """Without the axes among `dim` that have length 1."""
        dims = operators.axes(dim, self.ndim)
        return self.reshape(tuple(n for axis, n in enumerate(self.shape) if axis not in dims or n != 1))

    def permute(self, *dims: Any) -> "Tensor":
        """The axes in another order (a view)."""
        return apply(operators.permute, self, dims=_unpacked(dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """The Tensor with two axes exchanged."""
        dims = list(range(self.ndim))
        for a, b in zip(operators.axes(dim0, self.ndim), operators.axes(dim1, self.ndim), strict=True):
            dims[a], dims[b] = b, a
        return self.permute(dims)

    @property
    def T(self) -> "Tensor":
        """All axes in reverse order: the transpose of a matrix."""
        return self.permute(tuple(reversed(range(self.ndim))))

    # The backward pass

    def backward(self, gradient: Array = None) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf that self was computed from.

        gradient: the upstream gradient, an array of self's shape; may be left out for a single number.

        Every closure is released as soon as it has run, so a graph can be walked once. Raises RuntimeError
        when self does not depend on anything that requires gradients, when a part of its graph was walked
        before, or when the gradient is missing; ValueError when its shape is not self's.
        """
        if self.node is None:
            why = "nothing it was computed from requires gradients, or it was computed under no_grad()"
            raise RuntimeError(f"backward() was called on a Tensor without a graph: {why}.")
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
        for node in outputs_first(self.node):
            gradient = part = earlier = None  # what a closure does not need is free while it runs
            if node.backward is None and node in gradients:
                gradient = gradients.pop(node)
                if node.grad is None:
                    node.grad = empty_like(gradient) if node.home is None else node.home
                    node.grad[...] = gradient
                else:
                    node.grad = elementwise("add", node.grad, gradient)
                if node.ready is not None:
                    node.ready()
            elif node.backward is not None and node in gradients:
                needs = tuple([parent is not None for parent in node.parents])
                for parent, part in zip(node.parents, node.backward(gradients.pop(node), needs), strict=True):
                    if parent is not None and part is not None:
                        earlier = gradients.get(parent)
                        gradients[parent] = part if earlier is None else elementwise("add", earlier, part)
            node.backward, node.parents = None, ()


def _unpacked(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3) whether it was given as f(2, 3) or as f((2, 3))."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def _matmul(a: Operand, b: Operand) -> Tensor:
    a, b = (x if isinstance(x, Tensor) else Tensor(x) for x in (a, b))
    left, right = a.ndim == 1, b.ndim == 1  # a vector is a row on the left and a column on the right
    product = apply(operators.matmul, a.unsqueeze(0) if left else a, b.unsqueeze(1) if right else b)
    return product.squeeze((-2,) * left + (-1,) * right) if left or right else product


def _compared(name: str, a: Tensor, b: Any) -> Array:
    value = _value(b)
    if not isinstance(value, (bool, int, float)) and not hasattr(value, "dtype"):
        return NotImplemented
    arrays = [x for x in (a.data, value) if hasattr(x, "dtype")]
    return getattr(array_module(*arrays), name)(a.data, value)
