"""The image files of an annotation file: found where their names are written in other people's ways, never outside
of the image folder."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tinymrcnn.files import printable

MOST_FOLDERS = 1000  # that are looked into for missing files


def find_files(image_dir, names: list[str]) -> tuple[dict[str, Path], list[str]]:
    """({name: its file}, the names without a file). Both in the order of the names.

    A name is a path below the folder. Where there is no such file, these are tried: `/` for `\\`, composed letters
    for decomposed ones and the other way round, and the name without its first folders (the image folder itself is
    often among them), down to the bare file name. Names that leave the folder ("..", other people's absolute
    paths) are tried in this way only; so nothing outside is opened, except for what a link in the folder leads to.
    A file to which two different names lead in this way belongs to neither."""
    root = os.path.abspath(image_dir)
    found = {name: path for name in names if (path := _below(root, name)) and os.path.isfile(path)}
    guessed: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name not in found:
            paths = (_below(root, spelling) for spelling in _spellings(name))
            if path := next((path for path in paths if path and os.path.isfile(path)), None):
                guessed[name] = path
    claims = Counter([*found.values(), *guessed.values()])
    found |= {name: path for name, path in guessed.items() if claims[path] == 1}
    return {name: Path(found[name]) for name in names if name in found}, [name for name in names if name not in found]


def _below(root: str, name: str) -> str | None:
    """The path of a name below the folder, None where it leaves it."""
    path = os.path.normpath(os.path.join(root, name))
    return path if path.startswith(root.rstrip(os.sep) + os.sep) else None


def _spellings(name: str) -> Iterator[str]:
    """The ways to write a name, from the nearest to the bare file name."""
    parts = name.replace("\\", "/").split("/")
    for first in range(len(parts)):
        tail = "/".join(parts[first:])
        yield from dict.fromkeys((tail, unicodedata.normalize("NFC", tail), unicodedata.normalize("NFD", tail)))


# When files are missing ----------------------------------------------------------------------------------


def missing_files(image_dir, annotation_file, names: list[str], missing: list[str]) -> str:
    """A sentence about files that are missing, with what may help: the folder that has them, or a similar name."""
    text = (
        f"{len(missing)} of the {len(names)} images of '{printable(annotation_file)}' are not in the folder "
        f"'{printable(image_dir)}'; the first is '{printable(missing[0])}'."
    )
    if (place := _fitting_folder(Path(image_dir), Path(annotation_file), missing)) is not None:
        count = sum(place.joinpath(name).is_file() for name in missing if _below(str(place), name))
        text += f" The folder '{printable(place)}' has {count} of them."
    elif similar := _similar_name(Path(image_dir), missing[0]):
        text += f" There is '{printable(similar)}'."
    return text


def _fitting_folder(image_dir: Path, annotation_file: Path, missing: list[str]) -> Path | None:
    """A folder near the image folder or the annotation file that has the first of the missing files."""
    near = [image_dir.resolve().parent, annotation_file.resolve().parent]
    folders = [*near, *(folder for parent in (image_dir.resolve(), *near) for folder in _folders(parent))]
    for folder in folders[:MOST_FOLDERS]:
        path = _below(str(folder), missing[0])
        if path and os.path.isfile(path):
            return folder
    return None


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(parent) if entry.is_dir())
    except OSError:  # a folder that cannot be read is skipped
        return []


def _similar_name(image_dir: Path, name: str) -> str | None:
    """A file whose name differs by its case, its suffix, or spaces around it."""

    def plain(text: str) -> str:
        stem = os.path.splitext(os.path.basename(text.strip().replace("\\", "/")))[0]
        return unicodedata.normalize("NFC", stem).strip().casefold()

    return next((other for other in sorted(os.listdir(image_dir)) if plain(other) == plain(name)), None)
