"""The gradient checker: is the backward of a function the derivative of its forward?

For a random upstream gradient g (never all ones: the sum over a softmax is constant, so that its true
gradient is 0 and a broken backward would pass) the scalar phi(x) = sum(g * fn(x)) is differentiated twice:
by the backward under test, and by central differences (phi(x + e r) - phi(x - e r)) / 2e. The fast mode
takes a few random directions r over all elements at once, the full mode one element at a time.

Lesson 02 builds one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinymrcnn.autograd.graph import no_grad
from tinymrcnn.autograd.tensor import Tensor
from tinymrcnn.backend import Array, array_module, like, to_numpy

Function = Callable[..., Any]  # of Tensors, to a Tensor or a tuple of them
Phi = Callable[[np.ndarray], float]

STEP = 1e-6
DIRECTIONS = 4


class GradcheckError(AssertionError):
    """The backward does not agree with the forward."""


class NondifferentiableError(GradcheckError):
    """The function has a kink (as ReLU at 0) within the step of the difference, so the gradient cannot be checked."""


def gradcheck(fn: Function, inputs: Iterable[Any], *, rtol: float = 1e-6, full: bool = False, seed: int = 0) -> bool:
    """Check the gradients of fn(*inputs) for every input that requires one.

    fn: takes Tensors, returns a Tensor or a tuple of them. inputs: Tensors, float64 where they require gradients.
    rtol: the largest error allowed, relative to the typical size of the gradient. full: element by element.

    Returns True. Raises GradcheckError with the input, the index and both values; NondifferentiableError
    where the function has a kink; TypeError for inputs that are not float64; ValueError when none requires
    a gradient.
    """
    worst_relative_error(fn, inputs, rtol=rtol, full=full, seed=seed)
    return True


def worst_relative_error(
    fn: Function, inputs: Iterable[Any], *, rtol: float = 1e-6, full: bool = False, seed: int = 0
) -> float:
    """gradcheck, returning the largest relative error that it met."""
    inputs = tuple(inputs)
    checked = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck needs at least one input Tensor with requires_grad=True.")
    for i in checked:
        if inputs[i].dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 inputs: input {i} is {inputs[i].dtype}.")

    rng = np.random.default_rng(seed)
    outputs = _outputs(fn, inputs)
    upstream = [_direction(rng, out.shape) for out in outputs]
    gradients = _backward(fn, inputs, upstream)
    # Rounding alone moves a central difference by about this; `floor` keeps it from counting against a gradient of 0.
    sizes = [float(np.abs(to_numpy(out.data) * g).sum()) for out, g in zip(outputs, upstream, strict=True)]
    floor = max(1e-9 * max(sizes) / rtol, np.finfo(float).tiny)
    _check_strided(fn, inputs, upstream, gradients, rtol, floor)

    worst = 0.0
    for i in checked:
        x, gradient = to_numpy(inputs[i].data), gradients[i]
        if x.size == 0:
            continue

        def phi(moved: np.ndarray, i: int = i) -> float:
            arguments = [Tensor(like(moved, x.data)) if j == i else x for j, x in enumerate(inputs)]
            with no_grad():
                outputs = _outputs(fn, arguments)
            return sum(float((to_numpy(out.data) * g).sum()) for out, g in zip(outputs, upstream, strict=True))

        if not full:
            # an inner product with a random direction is about as large as the gradient's norm
            errors = [_directional(phi, x, gradient, _direction(rng, x.shape), floor) for _ in range(DIRECTIONS)]
            if all(error <= rtol for error in errors):  # not max(): it may pass over a NaN
                worst = max(worst, *errors)
                continue
        worst = max(worst, _element_by_element(phi, x, gradient, rtol, floor, i))
        if not full:
            raise GradcheckError(
                f"The gradient of input {i} is off by {np.max(errors):.1e} (relative) along a random direction, "
                "though no single element is."
            )
    return worst


def _outputs(fn: Function, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    out = fn(*inputs)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def _backward(fn: Function, inputs: Sequence[Any], upstream: list[np.ndarray]) -> list[Any]:
    """The gradient of phi for each input by the backward under test (None where none is required)."""
    leaves = [Tensor(x.data, requires_grad=x.requires_grad) if isinstance(x, Tensor) else x for x in inputs]
    total = Tensor(like(np.zeros(()), leaves[0].data if isinstance(leaves[0], Tensor) else np.zeros(())))
    for out, g in zip(_outputs(fn, leaves), upstream, strict=True):
        if out.dtype != np.float64:
            raise GradcheckError(f"An output is {out.dtype} though the inputs are float64.")
        total = total + (out * like(g, out.data)).sum()
    if total.requires_grad:
        total.backward()
    gradients: list[Any] = []
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            gradients.append(None)
            continue
        gradient = np.zeros(leaf.shape) if leaf.grad is None else to_numpy(leaf.grad)
        if gradient.shape != leaf.shape or gradient.dtype != np.float64:
            raise GradcheckError(
                f"The gradient of input {i} has the shape {gradient.shape} and dtype {gradient.dtype}; "
                f"the input has {leaf.shape} and {leaf.dtype}."
            )
        if not np.isfinite(gradient).all():
            raise GradcheckError(f"The gradient of input {i} has elements that are not finite.")
        gradients.append(gradient)
    return gradients


def _check_strided(
    fn: Function, inputs: Sequence[Any], upstream: list[np.ndarray], gradients: list[Any], rtol: float, floor: float
) -> None:
    """The same inputs in another memory order and with gaps must give the same gradients."""
    strided = [Tensor(_strided(x.data), x.requires_grad) if isinstance(x, Tensor) else x for x in inputs]
    for i, (a, b) in enumerate(zip(gradients, _backward(fn, strided, upstream), strict=True)):
        if a is not None and a.size and np.abs(a - b).max() > rtol * max(np.abs(a).max(), floor):
            raise GradcheckError(f"The gradient of input {i} changes when the inputs are not contiguous in memory.")


def _strided(array: Array) -> Array:
    if array.ndim == 0:
        return array
    *rest, last = array.shape
    wide = array_module(array).zeros((2 * last, *rest[::-1]), array.dtype).transpose()
    wide[..., ::2] = array
    return wide[..., ::2]


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random direction; every element is large enough to be tested."""
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))


def _difference(phi: Phi, x: np.ndarray, direction: np.ndarray) -> tuple[float, float]:
    """The central difference of phi along a direction, and how far its two one-sided halves lie apart."""
    ahead, here, behind = phi(x + STEP * direction), phi(x), phi(x - STEP * direction)
    return (ahead - behind) / (2 * STEP), abs((ahead - here) - (here - behind)) / STEP


def _directional(phi: Phi, x: np.ndarray, gradient: np.ndarray, direction: np.ndarray, floor: float) -> float:
    numeric, _ = _difference(phi, x, direction)
    error = abs(float((gradient * direction).sum()) - numeric)
    return float(error / max(float(np.linalg.norm(gradient)), abs(numeric), floor))


def _element_by_element(phi: Phi, x: np.ndarray, gradient: np.ndarray, rtol: float, floor: float, i: int) -> float:
    numeric, kink = np.zeros(x.shape), np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        direction = np.zeros(x.shape)
        direction[index] = 1
        numeric[index], kink[index] = _difference(phi, x, direction)
    errors = np.abs(gradient - numeric)
    relative = errors / max(np.abs(numeric).max(), np.abs(gradient).max(), floor)
    if relative.max() <= rtol:
        return float(relative.max())
    at = np.unravel_index(relative.argmax(), x.shape)
    index = tuple(int(j) for j in at)
    message = (
        f"The gradient of input {i} at index {index} is {gradient[at]:.9g} by backward() and {numeric[at]:.9g} by "
        f"central differences (relative error {relative.max():.1e}, allowed {rtol:.0e})."
    )
    # At a kink the slopes of its two sides differ by twice the error; elsewhere they differ by the curvature only.
    if kink[at] > errors[at]:
        raise NondifferentiableError(message + " The function has a kink there.")
    raise GradcheckError(message)
