"""LabelMe's folders: beside each image a JSON file of its shapes: polygons, circles, masks; rectangles are boxes
without masks; points and lines are no objects. Polygons and masks of one class and group_id are parts of one object.

A polygon has no holes; LabelMe's masks, from version 5.3 on, have. Images without a JSON file are not used.
"""

import math
import warnings
from pathlib import Path

from tinymrcnn.data.check import DataWarning
from tinymrcnn.data.formats import files
from tinymrcnn.data.formats.collect import Collected, Split, ellipse, mask_of_png, placed
from tinymrcnn.data.formats.files import ImageIndex, images_of, read_json, reading
from tinymrcnn.files import printable

TITLE = "LabelMe"
NEEDS = "a folder of images with a JSON file of 'shapes' beside each"
NO_OBJECTS = ("point", "line", "linestrip", "points")


def fits(path: Path) -> bool:
    return path.is_dir() and any(files.sniffed(folder, ".json", _is_of_labelme) for folder in _folders(path)[:5])


def _folders(path: Path) -> list[Path]:
    return [path, *(folder for folder in files.folders_of(path) if not files.is_part(folder))]


def _is_of_labelme(file: Path) -> bool:
    return files.mentions(file, '"shapes"', '"imagePath"')


def read(path: Path) -> dict[str, Split]:
    collected, index = Collected(), ImageIndex(path)
    for file in [file for folder in _folders(path) for file in files.files_of(folder, ".json")]:
        with reading(file, TITLE):
            content = read_json(file)
            if not isinstance(content, dict) or "shapes" not in content:
                continue  # another file of the folder
            beside = file.parent / content["imagePath"].replace("\\", "/")
            size = content.get("imageHeight"), content.get("imageWidth")
            image = collected.add_image(
                beside if beside.is_file() else index.find(content["imagePath"]), None if None in size else size
            )
            for shape in content["shapes"]:
                _add(collected, image, shape, size)
    without = sum(len(images_of(folder)) for folder in _folders(path)) - len(collected.images)
    if collected.images and without > 0:
        text = f"{without} images in '{printable(path)}' have no JSON file beside them and are not used."
        warnings.warn(text, DataWarning, stacklevel=2)
    return {"all": collected.split(path)}


def _add(collected: Collected, image: dict, shape: dict, size: tuple) -> None:
    kind, points, group = shape.get("shape_type", "polygon"), shape["points"], shape.get("group_id")
    if kind == "polygon":
        collected.add(image, shape["label"], polygons=[[value for point in points for value in point]], group=group)
    elif kind == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        collected.add(image, shape["label"], polygons=[ellipse(x, y, radius, radius)], group=group)
    elif kind == "rectangle":
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*points, strict=True))
        collected.add(image, shape["label"], box=[x1, y1, x2 - x1, y2 - y1])
    elif kind == "mask":
        crop = mask_of_png(shape["mask"])
        x, y = (round(min(values)) for values in zip(*points, strict=True))
        collected.add(image, shape["label"], mask=placed(crop, x, y, int(size[0]), int(size[1])), group=group)
    elif kind not in NO_OBJECTS:
        raise ValueError(f"it has a shape of the unknown kind {kind!r}")
