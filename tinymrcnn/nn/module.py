"""Module: a tree of layers whose parameters can be listed, saved, moved and frozen.

There is no registration: every Parameter, Module or buffer that is an attribute belongs to the tree, under the
attribute's name and in the order in which the attributes were set.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, backend_of, empty, like, memory_order, to_device, to_numpy
from tinymrcnn.nn.init import is_drawing
from tinymrcnn.randomness import Purpose, generator


class Parameter(Tensor):
    """A Tensor that an optimiser may change."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True)


class Module:
    """The base class. A subclass sets its layers, Parameters and buffers in __init__ and defines forward().

    Attributes: training (bool) tells train mode from eval mode; buffers (class attribute) names the attributes
    that are arrays to be saved with the parameters but not trained."""

    buffers: tuple[str, ...] = ()

    def __init__(self, **children: "Module") -> None:
        self.training = True
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer computes; every subclass defines it."""
        names = [name for name, _ in self.named_children()]
        raise TypeError(f"{type(self).__name__} only groups its parts: call one of {names} instead.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    if TYPE_CHECKING:  # children are attributes that type checkers cannot know

        def __getattr__(self, name: str) -> Any: ...

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The Modules that are attributes of this one."""
        yield from ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This Module and all below it, each with its path."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator["Module"]:
        """This Module and all below it."""
        yield from (module for _, module in self.named_modules())

    def _owned(self, wanted: Callable[["Module", str, Any], bool]) -> Iterator[tuple[str, "Module", str]]:
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if wanted(module, name, value):
                    yield f"{path}.{name}" if path else name, module, name

    def _paths(self) -> Iterator[tuple[str, Parameter]]:
        for path, module, name in self._owned(lambda module, name, value: isinstance(value, Parameter)):
            yield path, getattr(module, name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every Parameter with its path, as torchvision names it. A Parameter with several paths (tied weights)
        is listed once, under the first."""
        seen: set[Parameter] = set()
        for path, parameter in self._paths():
            if parameter not in seen:
                seen.add(parameter)
                yield path, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every Parameter, once."""
        yield from (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Every buffer with its path."""
        for path, module, name in self._owned(lambda module, name, value: name in module.buffers):
            yield path, getattr(module, name)

    def _arrays(self) -> dict[str, Array]:
        """All parameters and buffers under all their paths."""
        return {path: parameter.data for path, parameter in self._paths()} | dict(self.named_buffers())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers on the host, by path (tied weights under each of theirs); convolution
        weights in (O, I, H, W) order."""
        return {path: np.array(to_numpy(array), order="C") for path, array in self._arrays().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy the arrays of `state` into the parameters and buffers of the same paths.

        Raises ValueError listing every missing, unexpected and mis-shaped entry; nothing is loaded then."""
        own = self._arrays()
        problems = [f"  missing     {name} {own[name].shape}" for name in own if name not in state]
        problems += [f"  unexpected  {name} {np.shape(state[name])}" for name in state if name not in own]
        problems += [
            f"  wrong shape {name}: {np.shape(state[name])} in the file, {own[name].shape} in the model"
            for name in own
            if name in state and np.shape(state[name]) != own[name].shape
        ]
        if problems:
            raise ValueError("The weights do not fit this model:\n" + "\n".join(problems))
        for name, array in own.items():
            array[...] = like(np.asarray(state[name], dtype=np.dtype(array.dtype)), array)

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode (batch statistics, losses) or, with False, to eval mode. Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """train(False)."""
        return self.train(False)

    def requires_grad_(self, flag: bool = True) -> Self:
        """Freeze (False) or thaw all parameters below. Returns self."""
        for parameter in self.parameters():
            parameter.node = Tensor(parameter.data, requires_grad=flag).node
        return self

    def to(self, device: str | None = None, dtype: Any = None) -> Self:
        """Move all parameters and buffers to "cpu", "cuda" or "auto", or the floats among them to another dtype.
        Returns self."""

        def moved(array: Array) -> Array:
            if dtype is not None and array.dtype.kind == "f":
                cast = empty(backend_of(array).module, array.shape, dtype, memory_order(array))
                cast[...] = array
                array = cast
            return array if device is None else to_device(array, device)

        for _, parameter in self.named_parameters():
            parameter.data, parameter.node = moved(parameter.data), Tensor(parameter.data, parameter.requires_grad).node
        for _, module, name in list(self._owned(lambda module, name, value: name in module.buffers)):
            setattr(module, name, moved(getattr(module, name)))
        return self

    def initialize(self, seed: int) -> Self:
        """Draw all weights anew from `seed`, each layer from a stream of its own (within
        init.without_drawing none are drawn). Returns self."""
        for index, module in enumerate(self.modules() if is_drawing() else ()):
            module.reset_parameters(generator(seed, Purpose.WEIGHTS, index))
        return self

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw the weights of this layer itself (not of those below); layers with weights override it."""
