"""Initialisers: functions of (rng, shape) that draw a weight.

shape is (out, in) for a fully connected layer, (out, in, kh, kw) for a convolution and (in, out, kh, kw) for
a transposed one. fan_in counts the inputs of one output, fan_out the outputs of one input, both as PyTorch
counts them (axis 1 and axis 0 times the kernel's area).
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy as np

from tinymrcnn.randomness import Purpose, generator
from tinymrcnn.threads import holding

Initialiser = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def normal(std: float) -> Initialiser:
    """Normal with mean 0."""
    return lambda rng, shape: rng.normal(0.0, std, shape)


def kaiming_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal with variance 2 / fan_out, which keeps the size of gradients through ReLUs (He et al. 2015)."""
    return rng.normal(0.0, math.sqrt(2 / fans(shape)[1]), shape)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform within sqrt(3 / fan_in): variance 1 / fan_in, for layers without a ReLU behind them."""
    bound = math.sqrt(3 / fans(shape)[0])
    return rng.uniform(-bound, bound, shape)


# Whether weights are drawn at all

_drawing: ContextVar[bool] = ContextVar("drawing", default=True)
_layers = itertools.count(1)


@contextlib.contextmanager
def without_drawing() -> Iterator[None]:
    """Within this block (of this thread) new layers and Module.initialize() draw no weights: a new model's are 0.
    It is for models that are loaded afterwards, since drawing millions of weights takes seconds."""
    with holding(_drawing, False):
        yield


def is_drawing() -> bool:
    """Whether weights are drawn here: outside of without_drawing()."""
    return _drawing.get()


def next_generator() -> np.random.Generator:
    """The generator of a new layer's weights: another one for every layer that this process makes, so that no two
    layers are alike."""
    return generator(0, Purpose.WEIGHTS, 0, next(_layers))
