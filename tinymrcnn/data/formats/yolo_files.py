"""Where the images and labels of a YOLO data set lie: as data.yaml says, or side by side."""

import re
from pathlib import Path

import yaml

from tinymrcnn.data.formats.files import files_of, folders_of, images_of
from tinymrcnn.files import printable

LINE = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")
PARTS = ("train", "val", "test")
MOST_TRIED = 20  # images, to see whether a folder has labels


def yaml_file(path: Path) -> Path | None:
    files = [path] if path.suffix in (".yaml", ".yml") else files_of(path, ".yaml", ".yml")
    return next((file for file in files if {"names", "train"} <= read_yaml(file).keys()), None)


def read_yaml(file: Path) -> dict:
    """{} where it is no YAML file of names and values."""
    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def label_file(image: Path) -> Path:
    """x/images/y/1.jpg -> x/labels/y/1.txt; beside the image where no folder is called images."""
    parts = list(image.with_suffix(".txt").parts)
    last = max((n for n, part in enumerate(parts) if part == "images"), default=None)
    if last is not None:
        parts[last] = "labels"
    return Path(*parts)


def folders_with_labels(path: Path) -> dict[str, list[Path]]:
    """{split: [its folder of images]} where labels lie beside them, without a data.yaml."""
    images = path / "images"
    found = {"all": images if images.is_dir() else path} | {each.name: each for each in folders_of(images)}
    return {name: [each] for name, each in found.items() if any(map(_is_labelled, images_of(each)[:MOST_TRIED]))}


def _is_labelled(image: Path) -> bool:
    file = label_file(image)
    return file.is_file() and bool(LINE.fullmatch(file.read_text(errors="replace").partition("\n")[0]))


def folders_of_yaml(root: Path, content: dict) -> dict[str, list[Path]]:
    """{split: its folders of images, or text files that list images}. Raises FileNotFoundError."""
    given = {part: content[part] for part in PARTS if content.get(part)}
    lists = {part: value if isinstance(value, list) else [value] for part, value in given.items()}
    return {part: [_place(root, str(content.get("path") or ""), str(each)) for each in some]
            for part, some in lists.items()}  # fmt: skip


def _place(root: Path, top: str, name: str) -> Path:
    """From `path`, or from the file's own place; Roboflow writes ../train for train."""
    ends = [Path(name), Path(*[part for part in Path(name).parts if part != ".."])]
    places = [place / end for end in ends for place in (root / top, root)]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"There is no '{printable(places[0])}', which the YAML file in '{printable(root)}' names.")


def images_at(place: Path) -> list[Path]:
    """Those of a folder and of the folders in it, or those that a text file lists, a line each."""
    if place.is_file():
        return [place.parent / line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [image for folder in (place, *folders_of(place)) for image in images_of(folder)]
