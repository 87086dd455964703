"""What the readers of data sets share: each of them makes COCO of what it finds.

A reader is a file with TITLE (what is printed), NEEDS (what must be there), fits(path) -> bool, a quick look, and
read(path) -> {name of a split: Split}; "all" where the data are not split. The functions raise ValueError or OSError.
"""

import base64
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tinymrcnn.data.coco_masks import decode_mask, encode_mask
from tinymrcnn.data.images import read_ids
from tinymrcnn.files import printable

OBJECT = "object"  # the class, where a format names none


class Split(NamedTuple):
    """A part of a data set. image_dir: a folder above the images. content: as in COCO's JSON, {"images", "categories",
    "annotations"}; where masks are files, the last is MaskFiles. name: the file or folder that messages name."""

    image_dir: Path
    content: dict[str, Any]
    name: Path

    def has_masks(self) -> bool:
        """Whether any object has a mask; True for data without objects."""
        some = self.content["annotations"]
        return not isinstance(some, list) or not some or any(
            isinstance(each, dict) and bool(each.get("segmentation")) for each in some
        )  # fmt: skip


class Collected:
    """The images and objects that a reader meets, one after the other. names: the classes in their order, if known."""

    def __init__(self, names: Iterable[str] = ()):
        self.names = {name: number for number, name in enumerate(names, start=1)}
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self._files: list[Path] = []
        self._groups: dict[tuple, dict] = {}

    def add_image(self, file: Path, size: tuple | None = None) -> dict:
        """size: (height, width), if the format tells it; anything that means a number."""
        image: dict[str, Any] = {"id": len(self.images) + 1}
        if size is not None:
            image |= {"height": size[0], "width": size[1]}
        self.images.append(image)
        self._files.append(file)
        return image

    def add(self, image: dict, name: str, *, polygons=None, mask=None, box=None, group=None) -> None:
        """An object: polygons, lists x1, y1, x2, y2, ...; or a mask (H, W); or a box alone, [x, y, width, height].
        group: objects of an image with the same group and class are parts of one."""
        new: dict[str, Any] = {"image_id": image["id"], "category": str(name)}
        if box is not None:
            new["bbox"] = box
        else:
            new["segmentation"] = polygons if mask is None else encode_mask(mask)
        key = (image["id"], group, new["category"])
        if group is not None and box is None and key in self._groups:
            first = self._groups[key]
            first["segmentation"] = _joined(first["segmentation"], new["segmentation"])
            return
        if group is not None and box is None:
            self._groups[key] = new
        self.annotations.append(new)

    def split(self, root: Path) -> Split:
        """root: a folder of the data set."""
        folders = {os.path.dirname(os.path.abspath(file)) for file in self._files}
        top = os.path.commonpath([os.path.abspath(root), *folders])
        for image, file in zip(self.images, self._files, strict=True):
            image["file_name"] = Path(os.path.relpath(os.path.abspath(file), top)).as_posix()
        for name in sorted({each["category"] for each in self.annotations} - self.names.keys()):
            self.names[name] = len(self.names) + 1
        for each in self.annotations:
            each["category_id"] = self.names[each.pop("category")]
        categories = [{"id": number, "name": name} for name, number in self.names.items()]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        return Split(Path(top), content, root)


def _joined(first, second):
    """One segmentation of two, polygons or run lengths."""
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    height, width = next(each["size"] for each in (first, second) if isinstance(each, dict))
    return encode_mask(decode_mask(first, height, width) | decode_mask(second, height, width))


def placed(crop: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """A mask (h, w) as one of the whole image, (height, width) uint8, at column x and row y; cut at the borders."""
    mask = np.zeros((height, width), np.uint8)
    x1, y1 = max(x, 0), max(y, 0)
    part = crop[y1 - y : height - y, x1 - x : width - x]
    mask[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]] = part
    return mask


def mask_of_png(text: str) -> np.ndarray:
    """The mask (H, W), bool, of a PNG in base64. Raises ValueError."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as png:
            return np.asarray(png.convert("L")) > 0
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ValueError("a mask is no PNG in base64") from error


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """A polygon of 64 points for an ellipse around (x, y), turned by an angle in radians."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    along, across = rx * np.cos(turn), ry * np.sin(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1).ravel().round(3).tolist()


def turned_box(x: float, y: float, width: float, height: float, angle: float, pivot: tuple) -> list[float]:
    """The box [x, y, width, height] around a rectangle that is turned by an angle in radians around a point."""
    if angle == 0:
        return [x, y, width, height]
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]]) - pivot
    cos, sin = np.cos(angle), np.sin(angle)
    corners = corners @ [[cos, sin], [-sin, cos]] + pivot
    return [*corners.min(0).tolist(), *np.ptp(corners, 0).tolist()]


# Masks that are files ------------------------------------------------------------------------------------


class MaskFiles:
    """The objects of images whose masks are files, which are read when they are asked for.

    files: {id of an image: the files of its masks}. read: a function from these and the image's (height, width) to its
    objects, each with category_id, bbox, area, iscrowd and segmentation."""

    def __init__(self, files: dict[int, list[Path]], read: Callable[[list[Path], tuple[int, int]], list[dict]]):
        self.files, self._read = files, read

    def __call__(self, key: int, size: tuple[int, int]) -> list[dict]:
        """The objects of the image with this id."""
        return self._read(self.files[key], size)


def lazy_split(root: Path, masks: dict[Path, list[Path]], names: Iterable[str], read) -> Split:
    """masks: {image: the files of its masks}. names: of the categories 1, 2, ... read: as of MaskFiles."""
    collected = Collected(names)
    files = {collected.add_image(image)["id"]: some for image, some in masks.items()}
    split = collected.split(root)
    split.content["annotations"] = MaskFiles(files, read)
    return split


def checked_ids(mask: Path, size: tuple[int, int]) -> np.ndarray:
    """A label image of the given (height, width). Raises ValueError for another size."""
    ids = read_ids(mask)
    if ids.shape != size:
        raise ValueError(f"The mask '{printable(mask)}' has the size {ids.shape}, its image has {size}.")
    return ids
