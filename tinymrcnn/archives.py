"""Zip archives that hold arrays, opened without trusting them: our own checkpoints, and torch's files."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path


class RefusedError(ValueError):
    """A file holds something that we refuse to read. The text is a few sentences about the file, "It ...", to be put
    behind the file's name."""


@contextlib.contextmanager
def open_zip(path) -> Iterator[zipfile.ZipFile]:
    """A zip archive in which nothing is compressed, so that it unpacks to no more than its own size; whatever is
    compressed may be a bomb. Raises RefusedError for any other, and OSError where the file cannot be opened."""
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        # RuntimeError: of a later version of zip; OSError: a directory before the beginning of the file
        except (zipfile.BadZipFile, ValueError, RuntimeError, OSError) as error:
            problem = f"It is truncated or damaged: it begins as a zip archive, but is none ({error})."
            raise RefusedError(problem) from error
        entries = archive.infolist()
        claimed, actual = sum(entry.file_size for entry in entries), Path(path).stat().st_size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or claimed > actual:
            raise RefusedError(
                f"It is a compressed archive of {actual:,} bytes that would unpack to {claimed:,}. Files of weights "
                "are not compressed; this one is not unpacked, since it could fill the memory."
            )
        yield archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of an entry. Raises RefusedError where it is missing or damaged."""
    try:
        return archive.read(name)
    # RuntimeError: encrypted, say; OSError: an entry that lies before the beginning of the file
    except (KeyError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OSError) as error:
        raise RefusedError(f"It is damaged: its entry {ascii(name)} cannot be read.") from error
