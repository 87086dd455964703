"""How many weights a model may have while it is made for a file, so that it takes no more memory than the file."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from tinymrcnn.threads import holding

# How many layers, and numbers in their weights, can still be made; None: no limit
_allowance: ContextVar[tuple[int, int] | None] = ContextVar("allowance", default=None)


@contextlib.contextmanager
def at_most(layers: int, numbers: int) -> Iterator[None]:
    """Within this block so many layers with weights can be made, with so many numbers in all. One more raises
    ValueError, before memory is taken for it."""
    with holding(_allowance, (layers, numbers)):
        yield


def take(numbers: int) -> None:
    """A layer with so many numbers is about to be made. Raises ValueError where they are not left."""
    if left := _allowance.get():
        _allowance.set((left[0] - 1, left[1] - numbers))
        if left[0] < 1 or left[1] < numbers:
            raise ValueError("The model would have more weights than are at hand.")
