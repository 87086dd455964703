"""Watching the engine: what its operators compute, through autograd.graph.watching, and how many functions it calls."""

import contextlib
import functools
import sys

from tinymrcnn.autograd.graph import watching
from tinymrcnn.threads import get_num_threads, set_num_threads

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
            delattr(owner, name)  # the class's own is visible again


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


def python_calls(work) -> int:
    """How many functions written in Python work() calls, when it runs on one thread: a measure that needs no clock of
    what is not arithmetic. Generators count anew for each of their values; Python 3.12 calls fewer than 3.11."""
    calls = 0

    def watch(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    threads, before = get_num_threads(), sys.getprofile()
    set_num_threads(1)
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(before)
        set_num_threads(threads)
    return calls
