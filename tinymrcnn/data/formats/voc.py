"""Pascal VOC's instance segmentation: JPEGImages/, SegmentationObject/ (whose pixels tell the object) and
SegmentationClass/ (whose pixels tell the class), PNG with a palette; the lists of ImageSets/Segmentation are splits.

Other tools write the same with classes of their own: class_names.txt, or CVAT's labelmap.txt, whose images are in
colours. The border of unknown pixels (255) belongs to no object. Overlapping objects cannot be kept.
"""

from functools import partial
from pathlib import Path

import numpy as np

from tinymrcnn.data.coco_masks import encode_ids
from tinymrcnn.data.formats.collect import Split, checked_ids, lazy_split
from tinymrcnn.data.formats.files import folders_of, images_of, lines_of, reading
from tinymrcnn.data.images import COLOR
from tinymrcnn.files import printable

TITLE = "Pascal VOC"
NEEDS = "JPEGImages/, SegmentationObject/ and SegmentationClass/"
VOC = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
    sheep sofa train tvmonitor""".split()
UNKNOWN = (255, COLOR | 0xE0E0C0)  # the palette's last index, and its colour
SPLITS = ("train", "val", "test")


def root_of(path: Path) -> Path | None:
    """The folder itself, or the one in VOCdevkit/VOC2012."""
    near = [path, *folders_of(path), *(folder for each in folders_of(path) for folder in folders_of(each))]
    return next((each for each in near[:200] if (each / "SegmentationObject").is_dir()), None)


def fits(path: Path) -> bool:
    return root_of(path) is not None


def read(path: Path) -> dict[str, Split]:
    if (root := root_of(path)) is None:
        return {}
    names, values = _classes(root)
    images = {image.stem: image for image in images_of(root / "JPEGImages")}
    objects = {file.stem: file for file in images_of(root / "SegmentationObject")}
    classes = {file.stem: file for file in images_of(root / "SegmentationClass")}
    lists = {part: root / "ImageSets" / "Segmentation" / f"{part}.txt" for part in SPLITS}
    parts = {part: lines_of(file) for part, file in lists.items() if file.is_file()}
    splits = {}
    for part, stems in (parts or {"all": sorted(objects)}).items():
        missing = [stem for stem in stems if stem not in images.keys() & objects.keys() & classes.keys()]
        if missing:
            raise ValueError(f"In '{printable(root)}' the image of '{printable(missing[0])}' or a mask is missing.")
        masks = {images[stem]: [objects[stem], classes[stem]] for stem in stems}
        splits[part] = lazy_split(root, masks, names, partial(_objects, values))
    return splits


def _classes(root: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names, without the background, and {value of a pixel: its category}."""
    names, colors = root / "class_names.txt", root / "labelmap.txt"
    if colors.is_file():
        with reading(colors, "a list of names and colours (name:red,green,blue::)"):
            rows = [line.split(":") for line in lines_of(colors) if not line.startswith("#")]
            rgb = {row[0]: [int(part) for part in row[1].split(",")] for row in rows if row[0] != "background"}
            return tuple(rgb), {COLOR | r << 16 | g << 8 | b: n for n, (r, g, b) in enumerate(rgb.values(), start=1)}
    given = lines_of(names) if names.is_file() else VOC
    own = tuple(name for name in given if name.strip("_") not in ("background", "ignore"))
    return own, {number: number for number in range(1, len(own) + 1)}


def _objects(values: dict[int, int], masks: list[Path], size: tuple[int, int]) -> list[dict]:
    ids, classes = (checked_ids(mask, size) for mask in masks)
    ids[np.isin(ids, UNKNOWN)] = 0
    found = []
    for number, each in encode_ids(ids).items():
        seen, counts = np.unique(classes[ids == number], return_counts=True)
        value = seen[counts.argmax()].item()
        if value not in values:
            raise ValueError(f"'{printable(masks[1])}' has the value {value} in object {number}, which is no class.")
        found.append({"category_id": values[value], **each})
    return found
