"""Optimisers. Each changes the parameters in place by their .grad; a parameter without one stays as it is."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinymrcnn.autograd.operators import check_dtypes
from tinymrcnn.backend import Array, array_module, backend_of, memory_order, shaped, to_device, to_numpy
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, run, scalar
from tinymrcnn.nn.module import Parameter

ALIGNED = 64  # numbers: every parameter begins at such a place, as new memory on a GPU does


class _Optimizer:
    """All parameters lie in one array, flat["data"], side by side, their gradients in flat["grad"], and each of their
    running averages: so all of them move in one kernel. parameter.data and .grad show parts of these, and the next
    backward pass writes over the gradients of the last one."""

    slots: tuple[str, ...] = ()  # the running averages that are kept for each parameter

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        # a parameter that is given twice moves once
        self.parameters = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
        if not self.parameters:
            raise ValueError("The optimiser got no parameter that requires a gradient.")
        self.lr = lr
        self.steps = [0] * len(self.parameters)  # how often each has moved
        arrays = [parameter.data for parameter in self.parameters]
        check_dtypes(type(self).__name__, arrays)
        self.starts = np.cumsum([0] + [-(-array.size // ALIGNED) * ALIGNED for array in arrays]).tolist()
        xp, dtype = array_module(*arrays), arrays[0].dtype
        self.flat = {name: xp.zeros(self.starts[-1], dtype) for name in ("data", "grad", *self.slots)}
        forms = [(slice(i, i + a.size), a.shape, memory_order(a)) for i, a in zip(self.starts, arrays, strict=False)]
        self.state = {name: [shaped(flat[i], *form) for i, *form in forms] for name, flat in self.flat.items()}
        self.data, self.grads = self.state.pop("data"), self.state.pop("grad")
        self._gather()

    def _gather(self) -> None:
        """Copy what was put in the place of a parameter's data, or of its gradient, into the flat arrays."""
        for parameter, data, grad in zip(self.parameters, self.data, self.grads, strict=True):
            if parameter.data is not data:
                check_dtypes(type(self).__name__, [data, parameter.data])
                data[...], parameter.data = parameter.data, data
            if parameter.node is not None:  # it is not frozen by now
                parameter.node.home = grad
            if parameter.grad is None:
                grad.fill(0)
            elif parameter.grad is not grad:
                grad[...], parameter.grad = parameter.grad, grad

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self._gather()
        for i, parameter in enumerate(self.parameters):
            self.steps[i] += parameter.grad is not None
        # neighbours that have moved equally often move together: all of them, as a rule
        kinds = [(parameter.grad is not None, n) for parameter, n in zip(self.parameters, self.steps, strict=True)]
        for (moves, steps), group in itertools.groupby(range(len(kinds)), kinds.__getitem__):
            if moves:
                indices = list(group)
                some = slice(self.starts[indices[0]], self.starts[indices[-1] + 1])
                self._update(steps, *(flat[some] for flat in self.flat.values()))

    def _update(self, step: int, p: Array, grad: Array, *averages: Array) -> None:
        """Move p, and its running averages, in place; step counts from 1. All arrays are (n,)."""
        raise TypeError(f"{type(self).__name__} does not say how a parameter moves.")

    def clip_grad_norm(self, max_norm: float) -> float:
        """Scale all gradients so that their joint norm is at most max_norm; returns the norm before that, for which a
        GPU's host waits for the backward pass."""
        self._gather()
        whole = self.flat["grad"]  # the gaps in it, and what has no gradient, are 0
        arrays = self.grads if isinstance(whole, np.ndarray) else [whole]
        norm = math.sqrt(float(sum((array * array).sum() for array in arrays)))
        if norm > max_norm:
            whole *= max_norm / norm
        return norm

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
                wrong = f"for {name} the file has {there}, the optimiser {here}"
                raise ValueError(f"The optimiser's state does not fit these parameters: {wrong}.")
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

    def _update(self, step: int, p: Array, grad: Array, *averages: Array) -> None:
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

    def _update(self, step: int, p: Array, grad: Array, *averages: Array) -> None:
        beta1, beta2 = self.betas
        numbers = (1 - self.lr * self.weight_decay, 1 - beta1, 1 - beta2, 1 / math.sqrt(1 - beta2**step), self.eps,
                   self.lr / (1 - beta1**step))  # fmt: skip
        run(_adamw_cpu, _adamw_cuda, p.size, p, grad, *averages, *map(p.dtype.type, numbers))


@scalar
def _adamw(p: float, grad: float, mean: float, square: float, *numbers: float) -> tuple[float, float, float]:
    """An element of a parameter and of its averages, moved."""
    decay, share1, share2, unbias, eps, lr = numbers
    mean += (grad - mean) * share1
    square += (grad * grad - square) * share2
    return p * decay - mean / (math.sqrt(square) * unbias + eps) * lr, mean, square


@cpu_kernel
def _adamw_cpu(thread: int, threads: int, p: Array, grad: Array, mean: Array, square: Array, *numbers: float) -> None:
    some = slice(thread * p.size // threads, (thread + 1) * p.size // threads)
    p, grad, mean, square = p[some], grad[some], mean[some], square[some]  # from 0 on, so that the loop becomes vectors
    for i in range(p.size):
        p[i], mean[i], square[i] = _adamw(p[i], grad[i], mean[i], square[i], *numbers)


@cuda_kernel
def _adamw_cuda(p: Array, grad: Array, mean: Array, square: Array, *numbers: float) -> None:
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        p[i], mean[i], square[i] = _adamw(p[i], grad[i], mean[i], square[i], *numbers)
