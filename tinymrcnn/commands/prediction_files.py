"""What `tinymrcnn predict` writes of an image beside its picture: something to count with, and something to correct.

NAME_predicted.csv    a line for every object: its number, class, score, area, centre and box
NAME_predicted_ids.png  a picture in which every pixel holds the number of its object, 0 where there is none
labels/NAME.txt         on request: polygons as YOLO reads them, and labels/classes.txt, the names of the classes
labels/NAME.json        on request: polygons as LabelMe opens them, to be corrected by hand and trained on again
"""

import csv
import io
import json
import os
from pathlib import Path

import contourpy
import numpy as np
from PIL import Image

from tinymrcnn.data.coco import decode_mask
from tinymrcnn.files import replacing

COLUMNS = ("id", "class", "score", "area", "centroid_x", "centroid_y", "x1", "y1", "x2", "y2")
MOST_IDS = 65_535  # of a 16-bit picture


def mask_of(record: dict) -> np.ndarray | None:
    """The mask (H, W) uint8 of a COCO record, or None where it has a box only."""
    segmentation = record.get("segmentation")
    return None if segmentation is None else decode_mask(segmentation, *segmentation["size"])


def table_rows(records: list[dict]) -> list[list]:
    """A row of COLUMNS for every record, numbered from 1. Area in pixels, of the mask or else of the box; the centre
    of that area and the corners of the box in pixels from the image's upper left corner."""
    rows = []
    for number, record in enumerate(records, start=1):
        x, y, width, height = record["bbox"]
        area, centre = width * height, (x + width / 2, y + height / 2)
        if (mask := mask_of(record)) is not None:
            ys, xs = np.nonzero(mask)
            area = len(xs)
            if area:
                centre = xs.mean() + 0.5, ys.mean() + 0.5
        numbers = [record["score"], area, *centre, x, y, x + width, y + height]
        rows.append([number, record["category_name"], *(f"{round(float(value), 4):.12g}" for value in numbers)])
    return rows


def write_table(path, rows: list[list], columns=COLUMNS) -> None:
    """A CSV file with a head line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def write_ids(path, records: list[dict], size: tuple[int, int]) -> None:
    """A 16-bit grey PNG of the size (h, w): the number of the object (as in the table) that every pixel belongs to,
    0 for none. Where objects overlap, the one with the higher score, which comes first in records, has the pixel."""
    ids = np.zeros(size, np.uint16)
    for number, record in reversed(list(enumerate(records[:MOST_IDS], start=1))):
        if (mask := mask_of(record)) is not None:
            ids[mask > 0] = number
    with replacing(path) as file:
        Image.fromarray(ids).save(file, "PNG")


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of a mask (H, W), one polygon (V, 2) of x, y in pixels for every part, the largest part first.

    Holes are filled: neither YOLO's files nor LabelMe's can hold them. They run around the pixels' middles and half a
    pixel out, so that drawn again they give the mask with its corners cut."""
    padded = np.pad(mask.astype(np.float32), 1)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    parts = []
    for points, offsets in zip(*generator.filled(0.5, 2), strict=True):
        outer = points[offsets[0] : offsets[1] - 1] - 0.5  # without the last, which is the first again
        x, y = outer.T
        parts.append((abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))), outer))
    return [outer for _, outer in sorted(parts, key=lambda part: -part[0])]


def outlines_of(record: dict) -> list[np.ndarray]:
    """The polygons of a record: its mask's, or the corners of its box."""
    if (mask := mask_of(record)) is not None:
        return polygons(mask)
    x, y, width, height = record["bbox"]
    return [np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])]


def write_yolo(folder, name: str, records: list[dict], size: tuple[int, int], classes: list[str]) -> None:
    """labels/NAME.txt: a line for every object, the number of its class (from 0) and its largest outline as fractions
    of width and height; and classes.txt, the names in that order."""
    height, width = size
    lines = []
    for record in records:
        for outline in outlines_of(record)[:1]:
            points = (outline / [width, height]).clip(0, 1).ravel()
            number = classes.index(record["category_name"])
            lines.append(" ".join([str(number), *(f"{value:.6f}" for value in points)]))
    for path, text in ((f"{name}.txt", lines), ("classes.txt", classes)):
        with replacing(Path(folder, path)) as file:
            file.write("".join(line + "\n" for line in text).encode())


def write_labelme(folder, name: str, records: list[dict], size: tuple[int, int], image) -> None:
    """labels/NAME.json: every outline of every object as a polygon, those of one object with one group_id, beside the
    path to the image file from the folder."""
    shapes = [
        {
            "label": record["category_name"], "points": outline.round(2).tolist(), "group_id": number,
            "shape_type": "polygon", "flags": {}, "description": f"score {record['score']:.3f}",
        }
        for number, record in enumerate(records, start=1)
        for outline in outlines_of(record)
    ]  # fmt: skip
    content: dict = {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": _relative(image, folder), "imageData": None,
        "imageHeight": size[0], "imageWidth": size[1],
    }  # fmt: skip
    with replacing(Path(folder, f"{name}.json")) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def _relative(path, folder) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(path).resolve().as_posix()
