"""Data sets in the COCO format: reading them and writing them.

Annotations are one JSON file next to a folder of images: images, categories, and for each object a box and a mask
(see coco_masks.py). The article trains and evaluates on COCO (section 4).
"""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from tinymrcnn.data.annotations import read_annotations
from tinymrcnn.data.check import DataWarning, Entries, Report, as_integer, shown
from tinymrcnn.data.coco_files import find_files, missing_files
from tinymrcnn.data.coco_masks import decode_mask, encode_mask
from tinymrcnn.data.images import MAX_PIXELS, image_size, read_image, write_image
from tinymrcnn.files import printable, replacing

# Reading -------------------------------------------------------------------------------------------------


class CocoDataset:
    """dataset[i] -> (image, target) of the i-th image of an annotation file in COCO's format.

    image_dir: the folder in which the file names of the images are looked up, see find_files. annotation_file: the
    JSON, or its content, as a reader of data/formats makes it. masks: False reads boxes alone, as Faster R-CNN learns
    them; no mask needs to be there then. report: where given, it gets everything that is wrong, case by case. name: of
    the content, the file or folder that messages name.
    Images without annotations are kept. Categories get the labels 1, 2, ... in the order of their COCO ids.

    image: see read_image. target: boxes (N, 4) float32 from the annotations' "bbox", or around their masks where
    they have none, clipped to the image; labels (N,) int64; masks (N, H, W) uint8, unless masks is False; image_id,
    COCO's; area (N,) float32, the annotations', or the mask's or the box's where they have none; iscrowd (N,) int64.
    categories: a list of {"label", "name", "id"}.

    Numbers may be written in any way, also as texts; ids that are other texts are numbered 1, 2, ... in their order;
    missing ids of annotations and missing sizes of images are filled in. Everything else that is wrong is reported when
    the file is opened, each kind with its count and its first case:

    left out, with a DataWarning     an object in no image of the file; a box without a positive width and height, or
                                     outside of the image; a mask that cannot be read, or covers no pixel
    kept, with a DataWarning         a box that differs from its mask, with a guess why; a data set without objects
    ValueError                       what is no COCO data set; no image or no category; equal ids; an unknown category;
                                     a box without four finite numbers, an iscrowd that is neither 0 nor 1, a negative
                                     area; an image that cannot be read, or has another size than the file says;
                                     objects that are left out, or boxes that follow another convention, where these
                                     are more than half of the file's
    FileNotFoundError                files that are not there, with the folder or the name that may be meant"""

    def __init__(self, image_dir, annotation_file, masks: bool = True, report: Report | None = None, name=None):
        self.image_dir, self.masks, report = Path(image_dir), masks, report or Report()
        if isinstance(annotation_file, dict):
            content, annotation_file = annotation_file, image_dir if name is None else name
        else:
            content = read_annotation_file(annotation_file)
        kind = "data set" if Path(annotation_file).is_dir() else "annotation file"
        told = f"{kind} '{printable(annotation_file)}'"
        self.annotation_file = Path(annotation_file)
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"There is no image folder '{printable(image_dir)}'.")
        try:
            categories, images = _categories_and_images(content, report)
            names = [image["file_name"] for image in images.values()]
            files, missing = find_files(image_dir, names)
            report.cases += [(each, None, "the file is missing") for each in missing]
            self._mask_files = None if isinstance(content["annotations"], list) else content["annotations"]
            _check_sizes(images, files, report)
            if self._mask_files is None:
                objects = read_annotations(content["annotations"], images, categories, masks, report)
            else:
                objects = dict.fromkeys(images)
                _check_mask_files(images, self._mask_files.files, report)
        except (ValueError, RecursionError) as error:  # of what is no COCO data set
            raise ValueError(f"The {told} cannot be used: {error}") from error
        lines = "\n  ".join(report.problems + report.odd)
        if missing:
            text = missing_files(image_dir, annotation_file, names, missing)
            raise FileNotFoundError(f"{text}\n  {lines}" if lines else text)
        if report.problems:
            raise ValueError(f"The {told} cannot be used: {lines}")
        if report.odd:
            warnings.warn(f"In the {told}: {lines}", DataWarning, stacklevel=2)
        self.categories = [
            {"label": label, "name": str(key if (name := categories[key].get("name")) is None else name), "id": key}
            for label, key in enumerate(sorted(categories), start=1)
        ]
        self._images = [
            {"id": key, "name": image["file_name"], "file": files[image["file_name"]], "size": image["size"],
             "objects": objects[key]}
            for key, image in images.items()
        ]  # fmt: skip

    def __repr__(self) -> str:
        masks = "" if self.masks else ", masks=False"
        return f"CocoDataset({str(self.image_dir)!r}, {str(self.annotation_file)!r}{masks})"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int):
        entry = self._images[index]
        image = read_image(entry["file"])
        if image.shape[1:] != entry["size"]:
            raise ValueError(
                f"The image '{printable(entry['file'])}' has height {image.shape[1]} and width {image.shape[2]}; when "
                f"the data set was opened, it had {entry['size'][0]} and {entry['size'][1]}."
            )
        return image, self.read_target(index)

    def image_of(self, index: int) -> dict:
        """{"id", "name" (as the annotation file has it), "file" (its path), "size" (height, width)} of an image."""
        return {key: self._images[index][key] for key in ("id", "name", "file", "size")}

    def objects_of(self, index: int) -> list[dict]:
        """The objects of an image, in COCO's form: category_id, bbox, iscrowd, area (or None), and segmentation, unless
        masks is False."""
        entry = self._images[index]
        return entry["objects"] if self._mask_files is None else self._mask_files(entry["id"], entry["size"])

    def noted(self, index: int) -> str:
        """A text that changes when the labels of an image do: its objects, or the sizes of the files of its masks."""
        entry = self._images[index]
        if self._mask_files is None:
            return json.dumps([entry["name"], entry["objects"]])
        return json.dumps([entry["name"], [file.stat().st_size for file in self._mask_files.files[entry["id"]]]])

    def read_target(self, index: int) -> dict:
        """The target of dataset[index], without reading the image."""
        entry = self._images[index]
        (height, width), objects = entry["size"], self.objects_of(index)
        labels = {category["id"]: category["label"] for category in self.categories}
        corners = [(x, y, x + w, y + h) for x, y, w, h in (each["bbox"] for each in objects)]
        boxes = np.array(corners, np.float64).reshape(-1, 4).clip(0, [width, height, width, height])
        target = {
            "boxes": boxes.astype(np.float32),
            "labels": np.array([labels[each["category_id"]] for each in objects], np.int64),
        }
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if self.masks:
            masks = target["masks"] = np.zeros((len(objects), height, width), np.uint8)
            for mask, each in zip(masks, objects, strict=True):
                mask[:] = decode_mask(each["segmentation"], height, width)
            areas = masks.sum((1, 2))
        given = [each["area"] for each in objects]
        area = [own if own is not None else other for own, other in zip(given, areas, strict=True)]
        target |= {
            "image_id": entry["id"],
            "area": np.array(area, np.float32),
            "iscrowd": np.array([each["iscrowd"] for each in objects], np.int64),
        }
        return target


def image_ids_of(annotation_file) -> dict:
    """{file name: id} of the images of an annotation file, both as they are written there.

    Raises FileNotFoundError and ValueError for a file that is missing or no COCO data set."""
    content = read_annotation_file(annotation_file)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) and "id" in image for image in images):
        raise ValueError(f"The annotation file '{printable(annotation_file)}' has no list 'images' with their ids.")
    return {name: image["id"] for image in images if (name := _file_name(image)) is not None}


def read_annotation_file(annotation_file):
    """The content of a JSON file. Raises FileNotFoundError and ValueError."""
    path = Path(annotation_file)
    if path.is_dir():
        raise FileNotFoundError(
            f"'{printable(path)}' is a folder; a JSON file with annotations in COCO's format is needed."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file '{printable(path)}'.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors too
        text = f"it is no JSON file: {printable(error)}"
        raise ValueError(f"The annotation file '{printable(path)}' cannot be used: {text}.") from error


def _file_name(image: dict) -> str | None:
    """Where an image lies: its file_name or, in LVIS, the end of its address at COCO, folder/name."""
    name, address = image.get("file_name"), image.get("coco_url")
    if name is None and isinstance(address, str):
        name = "/".join(address.split("/")[-2:])
    return name if isinstance(name, str) and name else None


def _categories_and_images(content, report: Report) -> tuple[Entries, Entries]:
    """{id: category} and {id: {"file_name", "size"}}, size being (height, width) or None where it is missing.

    Raises ValueError for what is no COCO data set, and where the ids cannot be used."""
    parts = ("images", "annotations", "categories")
    lists = [isinstance(content, dict) and (isinstance(content.get(part), list) or hasattr(content.get(part), "files"))
             for part in parts]  # fmt: skip
    if not all(lists):
        raise ValueError("it is no COCO data set (a JSON object with lists 'images', 'annotations', 'categories').")
    for part in ("categories", "images"):
        if not content[part]:
            raise ValueError(f"its list '{part}' is empty.")
    categories, images = Entries(content["categories"], "category", report), Entries(content["images"], "image", report)
    for key, image in images.items():
        name, given = _file_name(image), (image.get("height"), image.get("width"))
        size = [side for side in map(as_integer, given) if side is not None and 1 <= side <= MAX_PIXELS]
        if name is None:
            text = f"image {key} has no 'file_name' but {shown(image.get('file_name'))}"
            report.problem("no names", text, number=key)
        elif None not in given and len(size) < 2:
            report.problem(
                "no sizes",
                f"image {key} ('{printable(name)}') has no positive integer 'width' and 'height' "
                f"but {shown(given[1])} and {shown(given[0])}",
                name,
                key,
            )
        images[key] = {"file_name": name, "size": tuple(size) if len(size) == 2 else None}
    if report.problems:
        raise ValueError("\n  ".join(report.problems))
    return categories, images


def _check_sizes(images: dict, files: dict, report: Report) -> None:
    """Compare the sizes in the file with those of the images, and fill in those that are missing."""
    for key, image in images.items():
        if (file := files.get(image["file_name"])) is None:
            continue
        try:
            size = image_size(file)
        except (ValueError, OSError) as error:
            text = f"image {key} is damaged: {str(error).rstrip('.')}"
            report.problem("unreadable", text, image["file_name"], key)
            continue
        said, image["size"] = image["size"] or size, size
        if said != size:
            image["size"] = None  # its objects cannot be checked
            turned = ", which is the same turned by a quarter" if said == size[::-1] else ""
            report.problem(
                "sizes",
                f"the image '{printable(file)}' has height {size[0]} and width {size[1]}, but the annotation file "
                f"says {said[0]} and {said[1]}{turned}",
                image["file_name"],
                key,
            )


def _check_mask_files(images: dict, masks: dict, report: Report) -> None:
    """Compare the sizes of the mask files, {image id: files}, with those of their images, without decoding them."""
    for key, image in images.items():
        for file in masks[key] if image["size"] else ():
            try:
                size = image_size(file)
            except (ValueError, OSError) as error:
                report.problem("masks", str(error).rstrip("."), image["file_name"], key)
                continue
            if size != image["size"]:
                text = f"the mask '{printable(file)}' has the size {size}, its image has {image['size']}"
                report.problem("sizes of masks", text, image["file_name"], key)


# Writing -------------------------------------------------------------------------------------------------


def write_coco(dataset, folder) -> None:
    """Write a data set as `folder`/images/*.png and `folder`/annotations.json, masks, where it has any, as packed run
    lengths.

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
        content: dict = {
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
        with replacing(partial / "annotations.json") as file:
            file.write(json.dumps(content).encode())
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def annotations_of(target: dict, categories: list[dict], first_id: int) -> list[dict]:
    """The objects of a target as COCO annotations with the ids first_id, first_id + 1, ..., without "segmentation"
    where the target has no masks."""
    ids = {category["label"]: category["id"] for category in categories}
    annotations = []
    for n in range(len(target["labels"])):
        annotation = {
            "id": first_id + n,
            "image_id": target["image_id"],
            "category_id": ids[target["labels"][n].item()],
            "bbox": corners_to_sides(target["boxes"][n]),
            "area": target["area"][n].item(),
            "iscrowd": target["iscrowd"][n].item(),
        }
        if "masks" in target:
            annotation["segmentation"] = encode_mask(target["masks"][n])
        annotations.append(annotation)
    return annotations


def corners_to_sides(box) -> list[float]:
    """One box (x1, y1, x2, y2) as COCO's [x, y, width, height], Python floats."""
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
