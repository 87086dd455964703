"""One mask image for each object, a folder for each image: ID/images/*.png and ID/masks/*.png, the layout of the 2018
Data Science Bowl's nuclei.

All objects are of one class. Nothing is lost: holes, several parts, touching and overlapping objects.
"""

import warnings
from pathlib import Path

from tinymrcnn.data.check import DataWarning
from tinymrcnn.data.coco_masks import encode_ids
from tinymrcnn.data.formats.collect import OBJECT, Split, checked_ids, lazy_split
from tinymrcnn.data.formats.files import folders_of, images_of, is_part
from tinymrcnn.files import printable

TITLE = "one mask image for each object"
NEEDS = "for each image a folder with images/ (one image) and masks/ (a PNG for each object)"


def fits(path: Path) -> bool:
    folders = [folder for folder in folders_of(path) if (folder / "masks").is_dir() and not is_part(folder)]
    return any(len(images_of(folder / "images")) == 1 for folder in folders[:20])


def read(path: Path) -> dict[str, Split]:
    masks: dict[Path, list[Path]] = {}
    for folder in folders_of(path):
        images = images_of(folder / "images")
        if len(images) > 1:
            raise ValueError(f"'{printable(folder)}/images' should hold one image, but holds {len(images)}.")
        masks |= {image: images_of(folder / "masks") for image in images}
    return {"all": lazy_split(path, masks, [OBJECT], _objects)}


def _objects(masks: list[Path], size: tuple[int, int]) -> list[dict]:
    objects = []
    for mask in masks:
        values = checked_ids(mask, size)
        found = encode_ids(values > values.max() // 2)  # softened edges count from half of the brightest value on
        objects += [{"category_id": 1, **each} for each in found.values()]
        if not found:
            warnings.warn(f"The mask '{printable(mask)}' is left out, because it is empty.", DataWarning, stacklevel=2)
    return objects
