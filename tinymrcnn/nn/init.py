"""Initialisers: functions of (rng, shape) that draw a weight.

shape is (out, in) for a fully connected layer, (out, in, kh, kw) for a convolution and (in, out, kh, kw) for
a transposed one. fan_in counts the inputs of one output, fan_out the outputs of one input, both as PyTorch
counts them (axis 1 and axis 0 times the kernel's area).
"""

import math


def fans(shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def normal(std: float):
    """Normal with mean 0."""
    return lambda rng, shape: rng.normal(0.0, std, shape)


def kaiming_normal(rng, shape):
    """Normal with variance 2 / fan_out, which keeps the size of gradients through ReLUs (He et al. 2015)."""
    return rng.normal(0.0, math.sqrt(2 / fans(shape)[1]), shape)


def xavier_uniform(rng, shape):
    """Uniform within sqrt(3 / fan_in): variance 1 / fan_in, for layers without a ReLU behind them."""
    bound = math.sqrt(3 / fans(shape)[0])
    return rng.uniform(-bound, bound, shape)
