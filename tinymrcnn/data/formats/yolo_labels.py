"""Which text file tells the objects of an image in YOLO's way, and what it says: in labels/, or beside the image."""

import re
from collections.abc import Iterable
from pathlib import Path

from tinymrcnn.data.formats.files import images_of, lines_of, reading
from tinymrcnn.files import printable

LINE = re.compile(r"\s*\d+([ \t]+[-+.\deE]+){4,}\s*(\n|$)")
MOST_TRIED = 20  # images, to see whether a folder has labels


def label_files(image: Path) -> list[Path]:
    """Those of x/images/y/1.jpg that are there: x/labels/y/1.txt, x/images/y/1.txt and x/images/y/labels/1.txt. Of
    several, those that are YOLO's; a text beside an image may also describe it."""
    beside, folders = image.with_suffix(".txt"), image.parts[:-1]
    places = [beside, image.parent / "labels" / beside.name]
    if "images" in folders:
        last = max(n for n, part in enumerate(folders) if part == "images")
        places.insert(0, Path(*folders[:last], "labels", *folders[last + 1 :], beside.name))
    files = [file for file in places if file.is_file()]
    if len(files) < 2:
        return files
    return [file for file in files if not (text := _text(file)).strip() or LINE.match(text)] or files[:1]


def labelled(folder: Path) -> list[Path]:
    """Those of the first images of a folder whose text file begins with the line of an object."""
    images = images_of(folder)[:MOST_TRIED]
    return [image for image in images if any(LINE.match(_text(file)) for file in label_files(image))]


def rows_of(image: Path, title: str) -> list[tuple[int, list[str]]]:
    """(class, its numbers as texts) of each line. title: what the file should be."""
    for file in label_files(image)[:1]:
        with reading(file, title):
            lines = [line.split() for line in lines_of(file)]
            return [(int(float(line[0])), line[1:]) for line in lines]
    return []


def check_labels(images: Iterable[Path]) -> None:
    """Raise ValueError where images have two text files that do not say the same."""
    told: list[tuple[Path, Path]] = []
    for image in images:
        first, *others = label_files(image) or [image]
        told += [(first, other) for other in others if _text(other).split() != _text(first).split()][:1]
    if told:
        names = " and ".join(f"'{printable(file)}'" for file in told[0])
        raise ValueError(
            f"{len(told)} images have two label files that differ; those of the first are {names}. Only "
            "you know which are right: keep those, and move the others out of the data set."
        )


def names_in(path: Path, folders: dict[str, list[Path]]) -> dict[int, str] | None:
    """The names in classes.txt, a line each, which some tools write beside the images or the labels; None where there
    is none. folders: {split: its folders of images}."""
    files = [file for some in folders.values() for folder in some for each in labelled(folder)
             for file in label_files(each)]  # fmt: skip
    places = dict.fromkeys([path, path / "labels", path / "images", *(file.parent for file in files)])
    file = next((place / "classes.txt" for place in places if (place / "classes.txt").is_file()), None)
    return dict(enumerate(lines_of(file))) if file else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig", errors="replace")
