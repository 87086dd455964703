"""The graph behind the Tensors: its Nodes, whether it is recorded, who watches it, and the order of the backward pass.

Lesson 01 explains it.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Optional

from tinymrcnn.backend import Array
from tinymrcnn.threads import holding

# backward(grad, needs): the gradients of the parents from the gradient of the result
Backward = Callable[[Array, tuple[bool, ...]], tuple[Array | None, ...]]


class Node:
    """A step of the graph. It refers to other Nodes only, never to data or to a Tensor, so that an array
    lives exactly as long as a closure captures it or a Tensor shows it.

    A leaf was made by no operator; it owns the accumulated gradient. home: where an optimiser wants that to lie. ready:
    called when a backward pass has made it."""

    __slots__ = ("backward", "parents", "name", "grad", "home", "ready", "is_leaf")

    def __init__(
        self, backward: Backward | None = None, parents: tuple[Optional["Node"], ...] = (), name: str = "leaf"
    ) -> None:
        self.backward = backward  # None when it has run
        self.parents = parents
        self.name = name
        self.grad: Array | None = None
        self.home: Array | None = None
        self.ready: Callable[[], None] | None = None
        self.is_leaf = backward is None


# Every thread (and every asyncio task) has its own value of both, so that an evaluation in one thread cannot stop the
# training in another. A new thread starts with the defaults given here.
recording: ContextVar[bool] = ContextVar("recording", default=True)
observers: ContextVar[tuple[Callable[..., Any], ...]] = ContextVar("observers", default=())


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within this block (or a function decorated with it) this thread records no graph."""
    with holding(recording, False):
        yield


@contextlib.contextmanager
def watching(watch: Callable[[str, Array, tuple[Any, ...], Backward], Backward]) -> Iterator[None]:
    """Within this block every operator of this thread calls watch(name, data, parents, backward), which gets the
    operator's name and the arguments of record(), and returns the closure to record: `backward`, or one wrapped
    around it."""
    with holding(observers, (*observers.get(), watch)):
        yield


def outputs_first(root: Node) -> list[Node]:
    """The graph below `root` so that every Node comes before those it was computed from. Iterative, since a
    deep network would overrun Python's stack."""
    order, seen, stack = [], {root}, [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        if node.backward is None and not node.is_leaf:
            gone = "its graph was released by an earlier backward(). Compute the result again before walking it again"
            raise RuntimeError(f"backward() reached the operator '{node.name}' a second time, but {gone}.")
        for parent in parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]
