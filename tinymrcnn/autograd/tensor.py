"""Reverse-mode automatic differentiation: the Tensor and the graph behind it.

An operator computes its result with plain NumPy or CuPy and hands `record` a closure that turns the
gradient of the result into the gradients of the inputs. That is the whole engine:

    y = record(data, parents, backward)      y.backward()  walks the closures in reverse order

The arithmetic of Tensors is in operators.py. The chain rule in this form is explained in lesson 01.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from tinymrcnn.backend import array_module, elementwise, empty_like, to_numpy


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
        for node in outputs_first(self.node):
            gradient = gradients.pop(node, None)
            if node.backward is None:
                if gradient is not None:  # "positive": a copy in the same memory order
                    node.grad = (
                        elementwise("positive", gradient)
                        if node.grad is None
                        else elementwise("add", node.grad, gradient)
                    )
                continue
            if gradient is not None:
                needs = tuple(parent is not None for parent in node.parents)
                for parent, part in zip(node.parents, node.backward(gradient, needs), strict=True):
                    if parent is not None and part is not None:
                        earlier = gradients.get(parent)
                        gradients[parent] = part if earlier is None else elementwise("add", earlier, part)
            node.backward, node.parents, node.released = None, (), True


def outputs_first(root: Node) -> list[Node]:
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
