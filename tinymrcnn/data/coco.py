"""Data sets in the COCO format: reading them, writing them, and its run-length encoding of masks.

Annotations are one JSON file beside a folder of images. A mask is given as polygons or as run lengths: the
counts of 0s and 1s in turn down the columns, either a list of integers or the same packed into a string.
The article trains and evaluates on COCO (section 4).
"""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from tinymrcnn.data.images import read_image, write_image

SMALLEST_SIDE = 1e-3  # pixels; what is thinner is empty in float32

# Masks ---------------------------------------------------------------------------------------------------


def encode_mask(mask) -> dict:
    """A mask (H, W) of 0/1, bool or uint8, as COCO's compressed run lengths {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def unpack_counts(packed: str) -> np.ndarray:
    """The run lengths in a compressed string: int64.

    A number is a row of 5-bit digits, lowest first, each written as the character 48 + digit, plus 32 where
    more follow; its last digit carries the sign. From the fourth on, a number is the difference to the run
    two before it. Raises ValueError where the string is no such row."""
    codes = np.frombuffer(packed.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    if ((codes < 0) | (codes > 63)).any() or len(last) == 0 or last[-1] < len(codes) - 1:
        raise ValueError("its compressed run lengths are no complete string of COCO's characters")
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("its compressed run lengths hold a number beyond 32 bits")
    counts = np.add.reduceat((codes & 31) << 5 * place, first)
    counts -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def decode_mask(segmentation, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, run lengths or packed run lengths) as a mask (H, W), uint8.

    Raises ValueError, half a sentence that says what is wrong with it."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"its mask has the size {segmentation.get('size')}, the image has {[height, width]}")
        counts = segmentation.get("counts")
        runs = unpack_counts(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, np.ndarray) and not _is_numbers(runs, integers=True):
            raise ValueError("its run lengths are neither a string nor a list of integers")
        runs = np.asarray(runs, np.int64)
        if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
            raise ValueError(f"its run lengths do not add up to the {height} x {width} pixels of the image")
        values = (np.arange(len(runs)) % 2).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    for polygon in segmentation:
        if not _is_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon of its segmentation is no list x1, y1, x2, y2, ... of three or more points")
        x, y = np.array(polygon[0::2]), np.array(polygon[1::2])
        if (abs(x - width / 2) > 1.5 * width).any() or (abs(y - height / 2) > 1.5 * height).any():
            raise ValueError(f"a polygon of its segmentation lies far outside the image of {height} x {width}")
    whole = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return decode_mask({"size": [height, width], "counts": whole["counts"].decode("ascii")}, height, width)


# Reading -------------------------------------------------------------------------------------------------


def _is_numbers(value, integers: bool = False) -> bool:
    """Whether a value from JSON is a list of numbers, none of them NaN, infinite or absurdly large."""
    kinds = int if integers else (int, float)
    return isinstance(value, list) and all(isinstance(v, kinds) and abs(v) < 2**53 for v in value)


def _is_count(value, least: int = 0) -> bool:
    """Whether a value from JSON is an integer >= least."""
    return isinstance(value, int) and value >= least


def _by_id(entries: list, what: str) -> dict:
    """{entry["id"]: entry}; the ids must be different non-negative integers."""
    table = {}
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not _is_count(key):
            raise ValueError(f"{what} number {len(table) + 1} has no non-negative integer 'id'.")
        if key in table:
            raise ValueError(f"two {what} entries have the id {key}.")
        table[key] = entry
    return table


class CocoDataset:
    """dataset[i] -> (image, target) of the i-th image of an annotation file in COCO's format.

    image_dir: the folder in which the file names of the images are looked up. annotation_file: the JSON.
    Images without annotations are kept. Categories get the labels 1, 2, ... in the order of their COCO ids.

    image: see read_image. target: boxes (N, 4) float32 from the annotations' "bbox", clipped to the image;
    labels (N,) int64; masks (N, H, W) uint8; image_id, COCO's; area (N,) float32, the annotations', or the
    mask's where they have none; iscrowd (N,) int64. categories: a list of {"label", "name", "id"}.

    The whole file is checked when it is opened, masks when they are decoded: FileNotFoundError for what is
    missing, ValueError, naming the annotation and the image file, for what is wrong. An annotation whose
    box has no width or no height is left out with a warning (COCO itself has a few)."""

    def __init__(self, image_dir, annotation_file, masks: bool = True):
        self.image_dir, self.annotation_file = Path(image_dir), Path(annotation_file)
        if not self.annotation_file.is_file():
            raise FileNotFoundError(f"There is no annotation file '{annotation_file}'.")
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"There is no image folder '{image_dir}'.")
        try:
            content = json.loads(self.annotation_file.read_bytes())
            self._check_and_index(content)
        except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors too
            raise ValueError(f"The annotation file '{annotation_file}' cannot be used: {error}") from error
        missing = [e["file_name"] for e in self._images if not (self.image_dir / e["file_name"]).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self)} images of '{annotation_file}' are not in the folder '{image_dir}'; "
                f"the first is '{missing[0]}'."
            )

    def _check_and_index(self, content) -> None:
        parts = ("images", "annotations", "categories")
        if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
            raise ValueError("it is no COCO data set (a JSON object with lists 'images', 'annotations', 'categories').")
        categories, images = _by_id(content["categories"], "category"), _by_id(content["images"], "image")
        self.categories = [
            {"label": label, "name": str(categories[key].get("name", key)), "id": key}
            for label, key in enumerate(sorted(categories), start=1)
        ]
        for key, image in images.items():
            if not isinstance(image.get("file_name"), str):
                raise ValueError(f"image {key} has no 'file_name'.")
            if not _is_count(image.get("width"), 1) or not _is_count(image.get("height"), 1):
                raise ValueError(f"image {key} ('{image['file_name']}') has no positive integer 'width' and 'height'.")
        self._images = list(images.values())
        self._annotations = {key: [] for key in images}
        empty = []
        for key, annotation in _by_id(content["annotations"], "annotation").items():
            owner = annotation.get("image_id")
            if not _is_count(owner) or owner not in images:
                raise ValueError(f"annotation {key} belongs to the unknown image id {owner!r}.")
            if problem := self._problem(annotation, images[owner], categories):
                raise ValueError(f"annotation {key} of image '{images[owner]['file_name']}' {problem}.")
            if min(annotation["bbox"][2:]) < SMALLEST_SIDE:
                empty.append(key)
            else:
                self._annotations[owner].append(annotation)
        if empty:
            warnings.warn(
                f"{len(empty)} annotations of '{self.annotation_file}' are left out because their boxes have no "
                f"width or no height; the first has the id {empty[0]}.",
                stacklevel=3,
            )

    @staticmethod
    def _problem(annotation: dict, image: dict, categories: dict) -> str | None:
        """What is wrong with an annotation, except for its mask."""
        category = annotation.get("category_id")
        if not _is_count(category) or category not in categories:
            return f"has the unknown category id {category!r}"
        box = annotation.get("bbox")
        if not _is_numbers(box) or len(box) != 4:
            return f"needs a 'bbox' of four finite numbers [x, y, width, height], not {box!r}"
        if min(box[2:]) < 0:
            return f"has a box of negative size, [x, y, width, height] = {box}"
        x, y, width, height = box
        shown = min(min(x + width, image["width"]) - max(x, 0), min(y + height, image["height"]) - max(y, 0))
        if min(width, height) >= SMALLEST_SIDE > shown:
            return f"has the box {box}, outside the image of width {image['width']} and height {image['height']}"
        if not isinstance(annotation.get("segmentation"), (list, dict)):
            return "has no 'segmentation'"
        if annotation.get("iscrowd", 0) not in (0, 1):
            return f"has iscrowd {annotation['iscrowd']!r}, which should be 0 or 1"
        if not _is_numbers([annotation.get("area", 0)]) or annotation.get("area", 0) < 0:
            return f"has the area {annotation['area']!r}, which should be a number of pixels"
        return None

    def __repr__(self) -> str:
        return f"CocoDataset({str(self.image_dir)!r}, {str(self.annotation_file)!r})"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int):
        entry = self._images[index]
        path = self.image_dir / entry["file_name"]
        image = read_image(path)
        height, width = entry["height"], entry["width"]
        if image.shape[1:] != (height, width):
            raise ValueError(
                f"The image '{path}' has height {image.shape[1]} and width {image.shape[2]}, but "
                f"'{self.annotation_file}' says {height} and {width}."
            )
        annotations = self._annotations[entry["id"]]
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, annotation in zip(masks, annotations, strict=True):
            try:
                mask[:] = decode_mask(annotation["segmentation"], height, width)
            except ValueError as error:
                raise ValueError(f"Annotation {annotation['id']} of image '{path}' cannot be used: {error}.") from error
        labels = {category["id"]: category["label"] for category in self.categories}
        corners = [(x, y, x + w, y + h) for x, y, w, h in (annotation["bbox"] for annotation in annotations)]
        boxes = np.array(corners, np.float64).reshape(-1, 4)
        target = {
            "boxes": boxes.clip(0, [width, height, width, height]).astype(np.float32),
            "labels": np.array([labels[annotation["category_id"]] for annotation in annotations], np.int64),
            "masks": masks,
            "image_id": entry["id"],
            "area": np.array([a.get("area", m.sum()) for a, m in zip(annotations, masks, strict=True)], np.float32),
            "iscrowd": np.array([annotation.get("iscrowd", 0) for annotation in annotations], np.int64),
        }
        return image, target


# Writing -------------------------------------------------------------------------------------------------


def write_coco(dataset, folder) -> None:
    """Write a data set as `folder`/images/*.png and `folder`/annotations.json, masks as packed run lengths.

    Read back with CocoDataset, everything is identical (images, if their values are multiples of 1/255).
    The folder appears when it is complete: an interrupted run leaves none. Raises FileExistsError where
    something is there already, ValueError where two images have one id."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists already; name a new folder, or delete it first.")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    try:
        content = {
            "info": {"description": repr(dataset)},
            "images": [],
            "annotations": [],
            "categories": [{"id": category["id"], "name": category["name"]} for category in dataset.categories],
        }
        for index in range(len(dataset)):
            image, target = dataset[index]
            name = f"{target['image_id']:06d}.png"
            if (partial / "images" / name).exists():
                raise ValueError(f"Two images of the data set have the image_id {target['image_id']}.")
            write_image(partial / "images" / name, image)
            height, width = image.shape[1:]
            content["images"].append({"id": target["image_id"], "file_name": name, "width": width, "height": height})
            content["annotations"] += annotations_of(target, dataset.categories, len(content["annotations"]) + 1)
        (partial / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def annotations_of(target: dict, categories: list[dict], first_id: int) -> list[dict]:
    """The objects of a target as COCO annotations with the ids first_id, first_id + 1, ..."""
    ids = {category["label"]: category["id"] for category in categories}
    return [
        {
            "id": first_id + n,
            "image_id": target["image_id"],
            "category_id": ids[target["labels"][n].item()],
            "bbox": corners_to_sides(target["boxes"][n]),
            "area": target["area"][n].item(),
            "iscrowd": target["iscrowd"][n].item(),
            "segmentation": encode_mask(target["masks"][n]),
        }
        for n in range(len(target["labels"]))
    ]


def corners_to_sides(box) -> list[float]:
    """One box (x1, y1, x2, y2) as COCO's [x, y, width, height], Python floats."""
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def image_ids_of(annotation_file) -> dict:
    """{file name: id} of the images of an annotation file."""
    content = json.loads(Path(annotation_file).read_bytes())
    return {image["file_name"]: image["id"] for image in content["images"]}
