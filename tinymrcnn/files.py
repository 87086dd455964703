"""Files that appear whole or not at all, and text out of files that is safe to print."""

import contextlib
import os
from pathlib import Path

# The trained toy model that comes with the package
SHIPPED_MODEL = Path(__file__).resolve().parent / "assets" / "shapes.npz"


def printable(text: object) -> str:
    """A text out of a file as it may be shown in one line of a terminal: line breaks, control characters (which would
    move the cursor or change colours) and lone surrogates appear as escapes, such as \\n and \\x1b."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


@contextlib.contextmanager
def replacing(path):
    """A new binary file that takes the place of `path` when the block has ended well, and not before."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
