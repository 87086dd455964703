"""Where the data of a run come from: what its data.json notes, and whether they are still the same when it resumes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tinymrcnn.data import CocoDataset, ShapesDataset
from tinymrcnn.data.categories import listed
from tinymrcnn.files import printable
from tinymrcnn.training.trainer import check_held_out

TRAIN_IMAGES, TEST_IMAGES = 20_000, 500  # shapes with the seeds 0 and 1; 1,800 steps of 8 see most of them once


def open_data(source: dict, masks: bool = True):
    """The data set to train on and the one to evaluate on; without masks, boxes are enough. Raises ValueError where
    they do not fit each other, and as CocoDataset does."""
    if source["data"]:
        dataset, held_out = (CocoDataset(source[name][0], source[name][1], masks=masks) for name in ("data", "val"))
        check_held_out(dataset, held_out)
        return dataset, held_out
    return ShapesDataset(TRAIN_IMAGES, seed=0), ShapesDataset(source["test_images"], seed=1)


def found(paths: Sequence[str] | None, dataset) -> dict | None:
    """What identifies a user's data set: images, classes, and a hash of the annotation file."""
    if not paths:
        return None
    with open(paths[1], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"images": len(dataset), "classes": [c["name"] for c in dataset.categories], "annotations": digest}


def read_source(path: Path) -> dict:
    """The content of a data.json. Raises ValueError where it is missing or is no such file."""
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
        pairs = [source["data"], source["val"]]
        noted = source.setdefault("found", {"data": None, "val": None})  # earlier versions noted nothing
        right = (
            (all(map(_is_pair, pairs)) or pairs == [None, None])
            and isinstance(source["test_images"], int)
            and isinstance(source.setdefault("freeze_at", 0), int)
            and noted.keys() == {"data", "val"}
            and all(noted[name] is None or _is_known_again(noted[name]) for name in noted)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{printable(path)}' should tell which data the run uses: {error}") from error
    if not right:
        raise ValueError(f"'{printable(path)}' should tell which data the run uses, and is damaged.")
    return source


def _is_known_again(value) -> bool:
    """Whether it is what found() returned."""
    return (
        value.keys() >= {"images", "classes", "annotations"}
        and isinstance(value["classes"], list)
        and all(isinstance(name, str) for name in value["classes"])
    )


def _is_pair(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(path, str) for path in value)


def moved(source: dict, places: dict[str, Sequence[str] | None]) -> dict:
    """The source with new places for "data" and "val". Raises ValueError for a run on toy shapes."""
    new = {name: [str(Path(path).resolve()) for path in pair] for name, pair in places.items() if pair}
    if new and not source["data"]:
        raise ValueError(f"The run trains on toy shapes: leave out {', '.join(f'--{name}' for name in new)}.")
    return source | new


def compare(source: dict, name: str, dataset) -> None:
    """Compare a data set with what the run began with, and note it. Raises ValueError where it has another number of
    images or other classes; reports if its annotations have changed in another way."""
    then, now = source["found"][name], found(source[name], dataset)
    if then and now:
        for key in ("images", "classes"):
            if then[key] != now[key]:
                shown = [listed(value[key]) if key == "classes" else value[key] for value in (then, now)]
                raise ValueError(
                    f"'{printable(source[name][1])}' is not the data set that the run began with: its {key} were "
                    f"{shown[0]} and are {shown[1]}. Restore it, or start a new run with --weights."
                )
        if then != now:
            print(
                f"Note: '{printable(source[name][1])}' has changed since the run began; it goes on with what it is now."
            )
    source["found"][name] = now
