"""Files that appear whole or not at all."""

import contextlib
import os
from pathlib import Path

# The trained toy model that comes with the package
SHIPPED_MODEL = Path(__file__).resolve().parent / "assets" / "shapes.npz"


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
