"""Finding the files of a data set, and telling which of them cannot be read."""

import contextlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinymrcnn.data.images import SUFFIXES
from tinymrcnn.files import printable

MOST_FILES = 200_000  # that are looked through for the images of a data set
MOST_SNIFFED = 20  # files that are opened to see of which kind a folder is


@contextlib.contextmanager
def reading(path, what: str) -> Iterator[None]:
    """Whatever goes wrong in the block is a ValueError that names the file and what it should be."""
    try:
        yield
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # a damaged file leads to errors of many kinds
        problem = f"it has no {error}" if isinstance(error, KeyError) else printable(str(error).rstrip("."))
        raise ValueError(f"'{printable(path)}' cannot be read as {what}: {problem}.") from error


def lines_of(file: Path) -> list[str]:
    """The lines of a text file, without spaces around them and without empty ones. Some editors write a mark (BOM) at
    the beginning, which belongs to no line."""
    return list(filter(None, map(str.strip, file.read_text(encoding="utf-8-sig").splitlines())))


def read_json(path) -> Any:
    return json.loads(Path(path).read_bytes())


def mentions(path: Path, *words: str) -> bool:
    """Whether a text file has all of these words."""
    try:
        text = path.read_bytes()
    except OSError:
        return False
    return all(word.encode() in text for word in words)


def files_of(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of the suffixes, in the order of their names, without hidden ones."""
    if not folder.is_dir():
        return []
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in suffixes]


def images_of(folder: Path) -> list[Path]:
    return files_of(folder, *SUFFIXES)


def folders_of(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, without hidden ones and what macOS puts into archives."""
    if not folder.is_dir():
        return []
    found = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    return sorted(each for each in found if not each.name.startswith(".") and each.name != "__MACOSX")


def is_part(folder: Path) -> bool:
    """Whether a folder has the name of a split: train, valid, test, train2017, ..."""
    return folder.name.lower().startswith(("train", "val", "test"))


def sniffed(path: Path, suffix: str, fits: Callable[[Path], bool]) -> list[Path]:
    """The path, if it is a file that fits, or those of the first files of the folder that do."""
    files = files_of(path, suffix)[:MOST_SNIFFED] if path.is_dir() else [path] * (path.suffix.lower() == suffix)
    return [file for file in files if fits(file)]


class ImageIndex:
    """The images in a folder and below it, or else in the folder above, to be found by parts of their paths."""

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[str, list[tuple[str, ...]]] = {}
        for top in (root, root.parent):
            if not self._files:
                self._walk(top)

    def _walk(self, top: Path) -> None:
        count = 0
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                    self._files.setdefault(_plain(name), []).append(Path(folder, name).parts)
            count += len(names)
            if count > MOST_FILES:
                return

    def find(self, name: str) -> Path:
        """The image whose path ends most like the name; where there is none, or two, a path below the root at which
        nothing is, so that it is reported as missing."""
        wanted = [_plain(part) for part in name.replace("\\", "/").split("/")]
        best: list[tuple[str, ...]] = []
        most = 0
        for parts in self._files.get(wanted[-1], []):
            pairs = zip(reversed(wanted), map(_plain, reversed(parts)), strict=False)
            same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(parts)))
            if same >= most:
                best, most = [*(best if same == most else []), parts], same
        return Path(*best[0]) if len(best) == 1 else self.root / wanted[-1]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)
