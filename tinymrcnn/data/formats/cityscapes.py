"""Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_instanceIds.png, in which a pixel
of the n-th object of a class is class * 1000 + n. The article reports on its eight classes of instances (its Figure 8).

A crowd whose objects are not told apart has the class alone; it is ignored, as in the benchmark's own evaluation.
"""

from pathlib import Path

from tinymrcnn.data.coco import CocoDataset
from tinymrcnn.data.coco_masks import encode_ids
from tinymrcnn.data.formats.collect import Split, checked_ids, lazy_split
from tinymrcnn.data.formats.files import folders_of, images_of
from tinymrcnn.files import printable

TITLE = "Cityscapes"
NEEDS = "leftImg8bit/ and gtFine/, each with train/ and val/ of folders of cities"
CLASSES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
LABELS = {number: label for label, number in enumerate(CLASSES, start=1)}
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def fits(path: Path) -> bool:
    return (path / "leftImg8bit").is_dir() and (path / "gtFine").is_dir()


def read(path: Path) -> dict[str, Split]:
    parts = [folder.name for folder in folders_of(path / "leftImg8bit") if (path / "gtFine" / folder.name).is_dir()]
    return {part: read_split(path, part) for part in parts}


def read_split(root: Path, split: str) -> Split:
    masks: dict[Path, list[Path]] = {}
    for city in folders_of(root / "leftImg8bit" / split):
        for image in images_of(city):
            mask = root / "gtFine" / split / city.name / image.name.replace(IMAGE, MASK)
            if not mask.is_file():
                raise FileNotFoundError(f"There is no '{printable(mask)}' for the image '{printable(image)}'.")
            masks[image] = [mask]
    if not masks:
        raise FileNotFoundError(f"There is no image in '{printable(root / 'leftImg8bit' / split)}': {NEEDS}.")
    return lazy_split(root / "leftImg8bit" / split, masks, CLASSES.values(), _objects)


def _objects(masks: list[Path], size: tuple[int, int]) -> list[dict]:
    objects = []
    for value, each in encode_ids(checked_ids(masks[0], size)).items():
        number = value if value < 1000 else value // 1000
        if number in LABELS:
            objects.append({"category_id": LABELS[number], **each, "iscrowd": int(value < 1000)})
    return objects


class CityscapesDataset(CocoDataset):
    """Cityscapes' eight classes of instances; see CocoDataset for what dataset[i] is.

    root: the folder of leftImg8bit/ and gtFine/. split: "train" or "val". Masks are read when an image is asked for.
    Raises FileNotFoundError for files that are not there, ValueError for images and masks that do not fit."""

    def __init__(self, root, split: str = "train", masks: bool = True):
        folder, content, name = read_split(Path(root), split)
        super().__init__(folder, content, masks, name=name)
