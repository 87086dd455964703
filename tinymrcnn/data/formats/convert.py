"""Writing what was read as COCO: images/ with copies of the image files, and annotations.json or, of data that are
split, a JSON file for each split.
"""

import json
import os
import shutil
from pathlib import Path

from tinymrcnn.data.coco import CocoDataset
from tinymrcnn.data.formats.source import Source, open_split
from tinymrcnn.files import make_folder, printable, replacing


def convert(source: Source, folder) -> list[str]:
    """Write a data set in COCO's form into a new folder, which appears when it is complete. Returns a line for each
    annotation file: its name, how many images and objects it has.

    Images are copied as they are; those of a split lie in images/SPLIT. Polygons stay polygons. Objects without a mask
    are left out, with a warning, unless none has one. Raises FileExistsError where something is there already, and as
    CocoDataset does."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{printable(folder)}' exists already; name a new folder, or delete it first.")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial / "images")
    lines = []
    try:
        for part, split in source.splits.items():
            dataset = open_split(split, split.has_masks())
            name = "annotations" if part == "all" else part
            content = _content(dataset, partial / "images", "" if part == "all" else f"{part}/")
            content["info"] = {"description": f"{source.path.name}, {part}, converted from {source.format}"}
            with replacing(partial / f"{name}.json") as file:
                file.write(json.dumps(content).encode())
            lines.append(f"{name}.json: {len(dataset)} images, {len(content['annotations'])} objects")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return lines


def _content(dataset: CocoDataset, folder: Path, prefix: str) -> dict:
    """The data set as COCO's JSON; its images are copied to `folder`/`prefix`."""
    images: list[dict] = []
    annotations: list[dict] = []
    taken: set[str] = set()
    make_folder(folder / prefix)
    for index in range(len(dataset)):
        image, area = dataset.image_of(index), dataset.read_target(index)["area"]
        name = image["file"].name
        if name.lower() in taken:  # two images of one name, in two folders
            name = "_".join(image["file"].relative_to(dataset.image_dir).parts)
        taken.add(name.lower())
        shutil.copyfile(image["file"], folder / prefix / name)
        height, width = image["size"]
        images.append({"id": image["id"], "file_name": f"{prefix}{name}", "width": width, "height": height})
        for each, own in zip(dataset.objects_of(index), area.tolist(), strict=True):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image["id"], **each, "area": own})
    categories = [{"id": each["id"], "name": each["name"]} for each in dataset.categories]
    return {"images": images, "annotations": annotations, "categories": categories}
