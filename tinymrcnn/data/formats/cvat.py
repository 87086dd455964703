"""CVAT's XML ("CVAT for images 1.1"): for each image polygons, ellipses and masks; boxes are boxes without masks;
points and lines are no objects. Shapes of one class and group_id are parts of one object. The subsets of a project are
splits.

A polygon has no holes; masks have. A mask is run lengths of background and object in turn, along the rows of its
rectangle.
"""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from tinymrcnn.data.formats.collect import Collected, Split, ellipse, placed, turned_box
from tinymrcnn.data.formats.files import ImageIndex, mentions, reading, sniffed

TITLE = "CVAT for images"
NEEDS = "annotations.xml as CVAT exports it ('CVAT for images 1.1'), beside the images"


def fits(path: Path) -> bool:
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    return sniffed(path, ".xml", lambda file: mentions(file, "<annotations>", "<image "))


def read(path: Path) -> dict[str, Split]:
    root = path if path.is_dir() else path.parent
    index = ImageIndex(root)
    splits: dict[str, Collected] = {}
    for file in _files(path):
        with reading(file, TITLE):
            tree = ElementTree.parse(file).getroot()
            names = [label.findtext("name") or "" for label in tree.iterfind("meta//labels/label")]
            if tree.find("track") is not None:
                raise ValueError("it holds tracks of a video; export the job as 'CVAT for images 1.1'")
            for element in tree.iterfind("image"):
                collected = splits.setdefault((element.get("subset") or "all").lower(), Collected(dict.fromkeys(names)))
                size = int(element.attrib["height"]), int(element.attrib["width"])
                image = collected.add_image(index.find(element.attrib["name"]), size)
                for shape in element:
                    _add(collected, image, shape, size)
    return {part: collected.split(root) for part, collected in splits.items()}


def _add(collected: Collected, image: dict, shape, size: tuple[int, int]) -> None:
    def number(key: str) -> float:
        return float(shape.attrib[key])

    group = int(shape.get("group_id", 0)) or None
    if shape.tag == "polygon":
        points = [float(value) for point in shape.attrib["points"].split(";") for value in point.split(",")]
        collected.add(image, shape.attrib["label"], polygons=[points], group=group)
    elif shape.tag == "ellipse":
        angle = math.radians(float(shape.get("rotation", 0)))
        outline = ellipse(number("cx"), number("cy"), number("rx"), number("ry"), angle)
        collected.add(image, shape.attrib["label"], polygons=[outline], group=group)
    elif shape.tag == "mask":
        counts = [int(count) for count in shape.attrib["rle"].split(",")]
        height, width, x, y = (int(number(key)) for key in ("height", "width", "left", "top"))
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError(f"the run lengths of a mask do not add up to its {height} x {width} pixels")
        crop = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
        collected.add(image, shape.attrib["label"], mask=placed(crop, x, y, *size), group=group)
    elif shape.tag == "box":
        x1, y1, x2, y2 = (number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        turn, centre = math.radians(float(shape.get("rotation", 0))), ((x1 + x2) / 2, (y1 + y2) / 2)
        collected.add(image, shape.attrib["label"], box=turned_box(x1, y1, x2 - x1, y2 - y1, turn, centre))
