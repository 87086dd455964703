"""COCO's JSON, in the folders in which it comes: beside images/ or the images themselves; one file a split (train.json
beside train/, or COCO's own annotations/instances_train2017.json beside train2017/); Roboflow's
train/_annotations.coco.json, where open_source goes from train/ to valid/ and test/.
"""

import re
from pathlib import Path

from tinymrcnn.data.coco_files import find_files
from tinymrcnn.data.formats.collect import Split
from tinymrcnn.data.formats.files import folders_of, mentions, read_json, reading, sniffed

TITLE = "COCO"
NEEDS = "a JSON file with 'images', 'annotations' and 'categories' beside the images or a folder of them"
KEYS = ("images", "annotations", "categories")
OF_NO_SPLIT = re.compile(r"instances|annotations?|labels?|coco", re.IGNORECASE)
MOST_TRIED = 5  # images, to see whether a folder has them


def fits(path: Path) -> bool:
    return bool(annotation_files(path))


def annotation_files(path: Path) -> list[Path]:
    def of_coco(file: Path) -> bool:
        return mentions(file, *(f'"{key}"' for key in KEYS))

    files = [*sniffed(path, ".json", of_coco), *(sniffed(path / "annotations", ".json", of_coco))]
    instances = [file for file in files if file.name.startswith("instances_")]  # COCO has other tasks beside them
    return instances or files


def read(path: Path) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for file in annotation_files(path):
        with reading(file, "COCO"):
            content = read_json(file)
            if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in KEYS):
                raise ValueError(f"it is no JSON object with lists {', '.join(map(repr, KEYS))}")
        name = OF_NO_SPLIT.sub("", file.stem).strip("._- ") or "all"
        name = name if name not in splits else file.stem
        splits[name] = Split(image_folder(file, name, content["images"]), content, file)
    return splits


def image_folder(file: Path, split: str, images: list) -> Path:
    """The folder near an annotation file that has most of the first images; its own where none has."""
    given = [image.get("file_name") for image in images[:MOST_TRIED] if isinstance(image, dict)]
    names = [name for name in given if isinstance(name, str)]
    tops = (file.parent, file.parent.parent) if file.parent.name == "annotations" else (file.parent,)
    likely = [top / end for top in tops for end in (f"images/{split}", split, "images", "")]
    others = [folder for top in tops for folder in folders_of(top)]
    there = [folder for folder in dict.fromkeys([*likely, *others]) if folder.is_dir()]
    return max(there, key=lambda folder: len(find_files(folder, names)[0]))
