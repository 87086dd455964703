"""The moving average of the weights: often a better model than the weights of any one step.

    average = decay average + (1 - decay) weights        after every step

Polyak & Juditsky (1992); with a decay, Tarvainen & Valpola, Mean teachers (2017). Over the first steps the decay is
smaller, so that the random weights of the beginning are soon forgotten. Buffers, such as the running statistics of
batch normalisation, are averaged alike.
"""

import contextlib
from collections.abc import Iterator

from tinymrcnn.backend import Array

Average = dict[str, Array]  # {name of a parameter or buffer: its average, on the model's device}


def arrays_of(model) -> Average:
    """The parameters and buffers themselves, not copies."""
    return {name: parameter.data for name, parameter in model.named_parameters()} | dict(model.named_buffers())


def start_average(model) -> Average:
    """The average before the first step: copies of the weights."""
    return {name: array.copy() for name, array in arrays_of(model).items()}


def update_average(average: Average, model, decay: float, step: int) -> None:
    """Move the average, in place, towards the weights after a step, 0, 1, ..."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, array in arrays_of(model).items():
        average[name] += (array - average[name]) * (1 - decay)


@contextlib.contextmanager
def averaged(model, average: Average | None) -> Iterator[None]:
    """Within this block the model has the weights of the average, if there is one; then its own again, bit for bit."""
    own = arrays_of(model)
    kept = {name: own[name].copy() for name in average or ()}
    try:
        for name in kept:
            own[name][...] = (average or {})[name]
        yield
    finally:
        for name, array in kept.items():
            own[name][...] = array
