"""Optimisers. Each changes the parameters in place by their .grad; a parameter without one stays as it is."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module, backend_of, memory_order, to_device, to_numpy, zeros_like
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, run, scalar
from tinymrcnn.nn.module import Parameter


class _Optimizer:
    slots: tuple[str, ...] = ()  # the running averages that are kept for each parameter

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        # a parameter that is given twice moves once
        self.parameters = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
        if not self.parameters:
            raise ValueError("The optimiser got no parameter that requires a gradient.")
        self.lr = lr
        self.steps = [0] * len(self.parameters)  # how often each has moved
        self.state = {slot: [zeros_like(parameter.data) for parameter in self.parameters] for slot in self.slots}

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                self.steps[i] += 1
                averages = [self.state[slot][i] for slot in self.slots]
                self._update(parameter.data, parameter.grad, self.steps[i], *averages)

    def _update(self, p: Array, grad: Array, step: int, *averages: Array) -> None:
        """Move p, and its running averages, in place; step counts from 1."""
        raise TypeError(f"{type(self).__name__} does not say how a parameter moves.")

    def state_dict(self) -> dict[str, Any]:
        """How many steps each parameter has made ("steps"), and the running averages ("slot.index"), as host arrays."""
        arrays = {f"{slot}.{i}": to_numpy(a).copy() for slot in self.slots for i, a in enumerate(self.state[slot])}
        return {"steps": np.array(self.steps, np.int64), **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what state_dict() gave; "steps" may be one number for all parameters, as in older files. Raises
        ValueError when it belongs to other parameters or to another kind of optimiser; nothing is taken over then."""
        if np.ndim(state.get("steps", ())) == 0:
            state = {**state, "steps": np.full(len(self.parameters), state["steps"], np.int64)}
        own = {f"{slot}.{i}": array for slot in self.slots for i, array in enumerate(self.state[slot])}
        shapes = {"steps": (len(self.parameters),), **{name: array.shape for name, array in own.items()}}
        for name in sorted(shapes.keys() | state.keys()):
            here, there = shapes.get(name, "no such entry"), state[name].shape if name in state else "no such entry"
            if here != there:
                raise ValueError(
                    f"The optimiser's state does not fit these parameters: for {name} the file has {there}, "
                    f"the optimiser {here}."
                )
        for name, array in own.items():
            array[...] = to_device(state[name].astype(array.dtype), backend_of(array).device)
        self.steps = state["steps"].tolist()


class SGD(_Optimizer):
    """v = momentum v + (grad + weight_decay p);  p = p - lr v   (as torch.optim.SGD)."""

    slots = ("velocity",)

    def __init__(
        self, parameters: Iterable[Parameter], lr: float, momentum: float = 0.0, *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr)
        self.momentum, self.weight_decay = momentum, weight_decay

    def _update(self, p: Array, grad: Array, step: int, *averages: Array) -> None:
        (velocity,) = averages
        velocity *= self.momentum
        velocity += grad
        if self.weight_decay:
            velocity += p * self.weight_decay
        p -= velocity * self.lr


class AdamW(_Optimizer):
    """m, v: running means of grad and grad^2;  p = p - lr (m' / (sqrt(v') + eps) + weight_decay p), where the
    primes undo the bias of the parameter's first steps (Loshchilov & Hutter 2019; as torch.optim.AdamW)."""

    slots = ("mean", "square")

    def __init__(
        self, parameters: Iterable[Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def _update(self, p: Array, grad: Array, step: int, *averages: Array) -> None:
        (beta1, beta2), order = self.betas, memory_order(p)
        numbers = (1 - self.lr * self.weight_decay, 1 - beta1, 1 - beta2, 1 / math.sqrt(1 - beta2**step), self.eps,
                   self.lr / (1 - beta1**step))  # fmt: skip
        flat = [array.transpose(order).reshape(-1) for array in (p, grad, *averages)]  # all but the gradient are views
        run(_adamw_cpu, _adamw_cuda, p.size, *flat, *map(np.dtype(p.dtype).type, numbers))


@scalar
def _adamw(i: int, p: Array, grad: Array, mean: Array, square: Array, *numbers: float) -> None:
    """Move element i of a parameter and of its averages."""
    decay, share1, share2, unbias, eps, lr = numbers
    mean[i] += (grad[i] - mean[i]) * share1
    square[i] += (grad[i] * grad[i] - square[i]) * share2
    p[i] = p[i] * decay - mean[i] / (math.sqrt(square[i]) * unbias + eps) * lr


@cpu_kernel
def _adamw_cpu(thread: int, threads: int, p: Array, grad: Array, mean: Array, square: Array, *numbers: Any) -> None:
    for i in range(thread * p.size // threads, (thread + 1) * p.size // threads):
        _adamw(i, p, grad, mean, square, *numbers)


@cuda_kernel
def _adamw_cuda(
    p: Array, grad: Array, mean: Array, square: Array, decay: float, share1: float, share2: float, unbias: float,
    eps: float, lr: float,
) -> None:  # fmt: skip
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        _adamw(i, p, grad, mean, square, decay, share1, share2, unbias, eps, lr)


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most max_norm; returns the norm before
    that (on a GPU this waits for the backward pass)."""
    gradients = [(parameter, parameter.grad) for parameter in dict.fromkeys(parameters) if parameter.grad is not None]
    if not gradients:
        return 0.0
    arrays, xp = [gradient for _, gradient in gradients], array_module(gradients[0][1])
    if xp is not np:  # one array, and so a few kernels
        arrays = [xp.concatenate([array.transpose(memory_order(array)).reshape(-1) for array in arrays])]
    norm = math.sqrt(float(sum((array * array).sum() for array in arrays)))
    if norm > max_norm:
        for parameter, gradient in gradients:
            parameter.grad = gradient * (max_norm / norm)
    return norm
