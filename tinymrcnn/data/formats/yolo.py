"""YOLO's segmentation labels: for each image a text file, a line an object: its class from 0 on, and its outline as x1
y1 x2 y2 ..., in fractions of the width and the height. An image without a text file shows no object.

A polygon holds neither holes nor several parts. Lines of four numbers, centre and size, are boxes without masks.
"""

from pathlib import Path

import numpy as np

from tinymrcnn.data.formats.collect import Collected, Split
from tinymrcnn.data.formats.files import reading
from tinymrcnn.data.formats.yolo_files import folders_of_yaml, folders_with_labels, images_at, read_yaml, yaml_file
from tinymrcnn.data.formats.yolo_labels import check_labels, label_files, names_in, rows_of
from tinymrcnn.data.images import image_size

TITLE = "YOLO segmentation"
NEEDS = "data.yaml with 'train' and 'names', or images/, with a .txt of polygons for each beside it or in labels/"


def fits(path: Path) -> bool:
    return bool(yaml_file(path) or folders_with_labels(path))


def read(path: Path) -> dict[str, Split]:
    root, folders = path, folders_with_labels(path)
    names = names_in(path, folders)
    if file := yaml_file(path):
        with reading(file, TITLE):
            content, root = read_yaml(file), file.parent
            given = content["names"]
            pairs = given.items() if isinstance(given, dict) else enumerate(given)
            names = {int(number): str(name) for number, name in pairs}
            folders = folders_of_yaml(root, content)
    lists = {part: [image for place in places for image in images_at(place)] for part, places in folders.items()}
    check_labels(image for images in lists.values() for image in images)
    rows = {part: {image: rows_of(image, TITLE) for image in images} for part, images in lists.items()}
    if names is None:
        most = max((number for part in rows.values() for some in part.values() for number, _ in some), default=0)
        names = {number: f"class {number}" for number in range(most + 1)}
    return {part: _collect(root, some, names) for part, some in rows.items()}


def _collect(root: Path, rows: dict, names: dict[int, str]) -> Split:
    collected = Collected(names[number] for number in sorted(names))
    for file, objects in rows.items():
        try:
            size = image_size(file)
        except (ValueError, OSError):  # told when the data set is opened
            collected.add_image(file)
            continue
        image = collected.add_image(file, size)
        for number, texts in objects:
            if number not in names:
                raise ValueError(f"'{label_files(file)[0]}' has the class {number}; the names are of {sorted(names)}.")
            try:
                scale = np.resize([size[1], size[0]], len(texts))
                values = (np.array(texts, float) * scale).tolist()
            except ValueError:
                values = texts  # told with all others that are no polygons
            if len(values) == 4 and values is not texts:
                x, y, width, height = values
                collected.add(image, names[number], box=[x - width / 2, y - height / 2, width, height])
            else:
                collected.add(image, names[number], polygons=[values])
    return collected.split(root)
