"""Looking over the engine's shoulder: every operator hands its result to autograd.tensor.record, so whoever
stands in for record() sees all of them. The engine knows nothing of it, and pays nothing while nobody looks.
"""

import contextlib
import functools
import sys

from tinymrcnn.autograd import tensor

PRODUCTS = ("conv2d", "conv_transpose2d", "linear")  # the operators that are matrix products


@contextlib.contextmanager
def replaced(owner, name: str, value):
    """Within this block owner.name is `value`. owner: a module or an object."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)  # it was, and is again, its class's


@contextlib.contextmanager
def watching(watch):
    """Within this block every operator calls watch(name, data, parents, backward), which gets the operator's name
    and the arguments of record(), and returns the closure to record: `backward`, or one wrapped around it."""
    record = tensor.record

    def watched(data, parents, backward):
        return record(data, parents, watch(operator_name(backward), data, parents, backward))

    _exchange(record, watched)
    try:
        yield
    finally:
        _exchange(watched, record)


def _exchange(old, new) -> None:
    """Put `new` where modules of this package have imported `old` as record."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tinymrcnn" and vars(module).get("record") is old:
            module.record = new


def operator_name(backward) -> str:
    """The name of the function that defines the closure, as record() finds it."""
    return backward.__qualname__.rpartition(".<locals>")[0].rpartition(".")[2].strip("_")


@contextlib.contextmanager
def counting_operations():
    """Within this block the operations of all convolutions and fully connected layers are counted, forward and
    those gradients that are computed, as their definitions say (2 for a multiplication and an addition). Yields a
    function that returns the number so far."""
    total = 0

    def watch(name, data, parents, backward):
        nonlocal total
        if name not in PRODUCTS:
            return backward
        x, weight = parents[:2]
        # every element of the larger side's map meets one filter: its output's, or a transposed convolution's input's
        operations = 2 * (x.size if name == "conv_transpose2d" else data.size) * (weight.size // weight.shape[0])
        total += operations

        @functools.wraps(backward)
        def counted(grad, needs):
            nonlocal total
            total += operations * sum(needs[:2])
            return backward(grad, needs)

        return counted

    with watching(watch):
        yield lambda: total
