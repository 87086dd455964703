"""A label image beside each image: the value of a pixel is the number of its object, 0 the background. In a folder of
its own (Penn-Fudan: PNGImages/1.png and PedMasks/1_mask.png), or in the same one (Cellpose: 1.tif and 1_masks.tif).

All objects are of one class. Holes, several parts and touching objects are kept, overlapping ones cannot be.
"""

import contextlib
import re
import warnings
from pathlib import Path

import numpy as np

from tinymrcnn.data.check import DataWarning
from tinymrcnn.data.coco_masks import encode_ids
from tinymrcnn.data.formats.collect import OBJECT, Split, checked_ids, lazy_split
from tinymrcnn.data.formats.files import folders_of, images_of
from tinymrcnn.data.images import read_ids
from tinymrcnn.files import printable

TITLE = "label images, one for each image"
NEEDS = "images/ and masks/ (or 1.png and 1_masks.png), PNG or TIFF, in which each object has a value of its own"
SUFFIX = re.compile(r"[_-](cp_)?(masks?|labels?|ids?|instances?|seg)$", re.IGNORECASE)
FOLDER = re.compile(r"masks?|labels?|instances?|ids|gt|groundtruth|annotations?", re.IGNORECASE)
MOST_TRIED = 10  # masks
OF_IMAGE = re.compile(r"[_-](img|image)$", re.IGNORECASE)


def fits(path: Path) -> bool:
    return path.is_dir() and bool(pairs(path))


def pairs(path: Path) -> dict[Path, Path]:
    """{image: its label image}."""
    beside = images_of(path)
    masks = [file for file in beside if SUFFIX.search(file.stem)]
    if found := _matched([file for file in beside if file not in set(masks)], masks):
        return found
    folders = folders_of(path)
    of_masks = [folder for folder in folders if FOLDER.search(folder.name)]
    options = [
        _matched(images_of(images), images_of(masks)) for masks in of_masks for images in folders if images != masks
    ]
    return max(options, key=len, default={})


def _matched(images: list[Path], masks: list[Path]) -> dict[Path, Path]:
    by_stem = {SUFFIX.sub("", mask.stem): mask for mask in masks}
    keys = {image: next((key for key in (image.stem, OF_IMAGE.sub("", image.stem)) if key in by_stem), None)
            for image in images}  # fmt: skip
    return {image: by_stem[key] for image, key in keys.items() if key is not None}


def read(path: Path) -> dict[str, Split]:
    found = pairs(path)
    _warn_of_one_value(list(found.values())[:MOST_TRIED])
    return {"all": lazy_split(path, {image: [mask] for image, mask in found.items()}, [OBJECT], _objects)}


def _warn_of_one_value(masks: list[Path]) -> None:
    """Masks that are all black and white tell where objects are, but not where one ends and the next begins."""
    seen = []
    for mask in masks:
        with contextlib.suppress(ValueError, OSError):  # told when the data set is opened
            seen.append(set(np.unique(read_ids(mask)).tolist()) - {0})
    if len(seen) > 1 and len(set().union(*seen)) == 1:
        text = f"All objects in the first {len(seen)} masks, as '{printable(masks[0])}', have one value: "
        text += "whatever an image shows is taken as a single object. Several need a value each, or a mask image each."
        warnings.warn(text, DataWarning, stacklevel=3)


def _objects(masks: list[Path], size: tuple[int, int]) -> list[dict]:
    return [{"category_id": 1, **each} for mask in masks for each in encode_ids(checked_ids(mask, size)).values()]
