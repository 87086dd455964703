"""Functions of several Tensors, with PyTorch's names."""

from collections.abc import Callable, Iterable

from tinymrcnn.autograd import operators
from tinymrcnn.autograd.graph import recording
from tinymrcnn.autograd.tensor import Operand, Tensor, apply
from tinymrcnn.backend import Array
from tinymrcnn.threads import slices


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of both, elementwise, with broadcasting, as torch.maximum. Where they tie, each gets half."""
    return apply(operators.maximum, a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of both, elementwise, with broadcasting, as torch.minimum. Where they tie, each gets half."""
    return apply(operators.minimum, a, b)


def where(condition: Array, a: Operand, b: Operand) -> Tensor:
    """a where the condition (a bool array, such as x > 0) holds, else b, with broadcasting, as torch.where."""
    return apply(operators.where, a, b, condition=condition)


def cat(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Tensors, joined along `dim`; all other axes must be equal.

    Raises ValueError when there are none or their shapes do not fit, TypeError when their dtypes differ."""
    return apply(operators.cat, *_several("cat", tensors), dim=dim)


def stack(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape, joined along a new axis `dim`. Raises as cat does."""
    return cat([tensor.unsqueeze(dim) for tensor in _several("stack", tensors)], dim)


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """function(x), each row of which depends on the same row of x alone. Where no graph is recorded, about `size` rows
    go through at a time, so that what lies between x and the result is never there as a whole."""
    if recording.get() or len(x) <= size:
        return function(x)
    return cat(function(x[rows]) for rows in slices(len(x), -(-len(x) // size)))


def _several(name: str, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name} takes a list or tuple of Tensors, not one Tensor.")
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError(f"{name} needs at least one Tensor.")
    return tensors
