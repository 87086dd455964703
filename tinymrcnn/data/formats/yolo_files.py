"""Where the images of a YOLO data set lie: as data.yaml says, or where they have labels."""

from pathlib import Path

from tinymrcnn.data.formats.files import files_of, folders_of, images_of, lines_of
from tinymrcnn.data.formats.yolo_labels import labelled
from tinymrcnn.data.images import PREDICTED
from tinymrcnn.files import printable

PARTS = ("train", "val", "test")


def yaml_file(path: Path) -> Path | None:
    files = files_of(path, ".yaml", ".yml") if path.is_dir() else [path] * (path.suffix in (".yaml", ".yml"))
    return next((file for file in files if {"names", "train"} <= read_yaml(file).keys()), None)


def read_yaml(file: Path) -> dict:
    """{} where it is no YAML file of names and values."""
    import yaml  # only here is it needed

    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def folders_with_labels(path: Path) -> dict[str, list[Path]]:
    """{split: [its folder of images]} where they have labels, without a data.yaml."""
    images = path / "images"
    found = {"all": images if images.is_dir() else path} | {each.name: each for each in folders_of(images)}
    return {name: [each] for name, each in found.items() if labelled(each)}


def folders_of_yaml(root: Path, content: dict) -> dict[str, list[Path]]:
    """{split: its folders of images, or text files that list images}. Raises FileNotFoundError."""
    top = str(content.get("path") or "")
    lists = {part: each if isinstance(each := content[part], list) else [each] for part in PARTS if content.get(part)}
    return {part: [_place(root, top, str(each)) for each in some] for part, some in lists.items()}


def _place(root: Path, top: str, name: str) -> Path:
    """From `path`, or from the file's own place; Roboflow writes ../train for train."""
    ends = [Path(name), Path(*[part for part in Path(name).parts if part != ".."])]
    places = [place / end for end in ends for place in (root / top, root)]
    if there := next(filter(Path.exists, places), None):
        return there
    raise FileNotFoundError(f"There is no '{printable(places[0])}', which the YAML file in '{printable(root)}' names.")


def images_at(place: Path) -> list[Path]:
    """Those of a folder and of the folders in it, without what `predict` has drawn there; or those that a text file
    lists, a line each."""
    if place.is_file():
        return [place.parent / line for line in lines_of(place)]
    images = [image for folder in (place, *folders_of(place)) for image in images_of(folder)]
    return [image for image in images if not image.stem.endswith((PREDICTED, f"{PREDICTED}_ids"))]
