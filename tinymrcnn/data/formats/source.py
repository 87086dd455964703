"""Which format a path holds: the readers are asked one after the other, and what is found is said."""

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tinymrcnn.data.check import Report
from tinymrcnn.data.coco import CocoDataset
from tinymrcnn.data.formats import (
    cityscapes,
    coco,
    cvat,
    ids,
    instances,
    labelme,
    labelstudio,
    via,
    voc,
    yolo,
)
from tinymrcnn.data.formats.collect import Split
from tinymrcnn.data.formats.files import folders_of, is_part
from tinymrcnn.files import printable

# The most particular first: the last ones fit many folders
FORMATS: dict[str, ModuleType] = {
    "cityscapes": cityscapes,
    "voc": voc,
    "coco": coco,
    "labelstudio": labelstudio,
    "via": via,
    "cvat": cvat,
    "yolo": yolo,
    "labelme": labelme,
    "instances": instances,
    "ids": ids,
}
HELD_OUT = ("val", "test")  # how the names of splits to evaluate on begin, the better one first
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
MOST_KEYS = 6
MOST_LISTED = 8


class Source(NamedTuple):
    """A data set that was found. path: as it was given. format: a name of FORMATS. splits: {name: Split}; one that is
    not split has the name "all"."""

    path: Path
    format: str
    splits: dict[str, Split]

    def __str__(self) -> str:
        parts = ", ".join(
            f"{'' if name == 'all' else f'{printable(name)}: '}{len(split.content['images'])} images"
            for name, split in self.splits.items()
        )
        return f"'{printable(self.path)}' was recognised as {FORMATS[self.format].TITLE} ({parts})."

    def training(self) -> Split:
        """The split to train on: the one whose name begins with train, or the only one. Raises ValueError."""
        names = [name for name in self.splits if name.lower().startswith("train")] or list(self.splits)
        if len(names) > 1:
            raise ValueError(
                f"'{printable(self.path)}' has the splits {', '.join(map(printable, self.splits))}: which of them is "
                "to be trained on? Name its images and its annotation file, or its folder."
            )
        return self.splits[names[0]]

    def held_out(self) -> Split | None:
        """The split to evaluate on, where there is one beside that for training."""
        names = [name for start in HELD_OUT for name in self.splits if name.lower().startswith(start)]
        return self.splits[names[0]] if names and len(self.splits) > 1 else None


def open_source(path, format: str | None = None) -> Source:
    """Find out what a file or a folder holds and read it; masks in files stay there until they are asked for.

    format: a name of FORMATS, where it is known. Raises FileNotFoundError where there is nothing, ValueError, with what
    is there and what would be needed, where it is not recognised, and as the reader does."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder '{printable(path)}'.")
    if format is not None and format not in FORMATS:
        raise ValueError(f"There is no format {format!r}; there are {', '.join(FORMATS)}.")
    names = list(FORMATS) if format is None else [format]
    found = next((pair for name in names if (pair := _places(name, path))), None)
    if found is None and format is None:
        raise ValueError(f"{_seen(path)}\n{_needed(names)}")
    name, places = found or (names[0], {"all": path})
    splits: dict[str, Split] = {}
    for part, place in places.items():
        read = FORMATS[name].read(place)
        splits |= {part if key == "all" else key if part == "all" else f"{part}-{key}": value
                   for key, value in read.items()}  # fmt: skip
    if not any(split.content["images"] for split in splits.values()):
        raise ValueError(f"There is nothing to read in '{printable(path)}'. {_needed([name])}")
    splits = {part: splits[part] for part in sorted(splits, key=lambda part: not part.lower().startswith("train"))}
    return Source(path, name, _with_all_classes(splits))


def _places(name: str, path: Path) -> tuple[str, dict[str, Path]] | None:
    """(the format, {split: its folder}) if it fits the path; or train/, valid/ and test/ in it; or its only folder."""
    fits = FORMATS[name].fits
    if fits(path):
        return name, {"all": path}
    folders = folders_of(path)
    if parts := {folder.name: folder for folder in folders if is_part(folder) and fits(folder)}:
        return name, parts
    return _places(name, folders[0]) if len(folders) == 1 and not is_part(folders[0]) else None


def _with_all_classes(splits: dict[str, Split]) -> dict[str, Split]:
    """The splits with one list of categories: a class that one of them lacks has the same number in all."""
    lists = [[(each.get("id"), each.get("name")) for each in split.content["categories"]
              if isinstance(each, dict)] for split in splits.values()]  # fmt: skip
    names = list(dict.fromkeys(name for some in lists for _, name in some))
    if all(some == lists[0] for some in lists) or any(len({name for _, name in some}) < len(some) for some in lists):
        return splits
    numbers = {name: number for number, name in enumerate(names, start=1)}
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    for split, some in zip(splits.values(), lists, strict=True):
        new = {old: numbers[name] for old, name in some}
        split.content["categories"] = categories
        for each in split.content["annotations"] if isinstance(split.content["annotations"], list) else ():
            each["category_id"] = new.get(each.get("category_id"), each.get("category_id"))
    return splits


# What cannot be recognised -------------------------------------------------------------------------------


def _seen(path: Path) -> str:
    """What lies at a path, in a sentence or two."""
    shown = printable(path)
    if path.is_file():
        packed = " Unpack it, and name the folder." if path.suffix.lower() in PACKED else ""
        return f"'{shown}' was not recognised as a data set.{packed}{_keys(path)}"
    lines = []
    for folder in [path, *folders_of(path)][: MOST_LISTED + 1]:
        files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
        kinds = Counter(sorted(file.suffix.lower() or "without a suffix" for file in files)).most_common(4)
        if kinds:
            inside = "" if folder == path else f" in {printable(folder.name)}/"
            lines.append(", ".join(f"{count} {kind}" for kind, count in kinds) + inside)
    json_file = next((file for folder in (path, *folders_of(path)) for file in sorted(folder.glob("*.json"))), None)
    found = "; ".join(lines) or "nothing but folders"
    return f"'{shown}' was not recognised as a data set. It holds {found}.{_keys(json_file) if json_file else ''}"


def _keys(file: Path) -> str:
    """What a JSON file holds."""
    if file.suffix.lower() != ".json":
        return ""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return f" '{printable(file.name)}' is no JSON file."
    kind, first = "an object", content
    if isinstance(content, list):
        kind, first = f"a list of {len(content)}", content[0] if content else None
    keys = ", ".join(f"'{printable(key)}'" for key in list(first)[:MOST_KEYS]) if isinstance(first, dict) else "no keys"
    return f" '{printable(file.name)}' is {kind} with {keys}."


def _needed(names: list[str]) -> str:
    width = max(map(len, names))
    return "What is needed:\n" + "\n".join(f"  {name:<{width}}  {FORMATS[name].NEEDS}" for name in names)


def open_split(split: Split, masks: bool = True, report: Report | None = None) -> CocoDataset:
    """A split as a data set; see CocoDataset for the arguments. Raises and warns as that does."""
    return CocoDataset(split.image_dir, split.content, masks, report, split.name)
