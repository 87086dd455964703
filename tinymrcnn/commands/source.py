"""Where the data of a run come from: what its data.json notes, and whether they are still the same when it resumes.

Data of one's own are named by one path, of which open_source finds out what it is, or by two, a folder of images and a
COCO annotation file.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymrcnn.data import CocoDataset, ShapesDataset
from tinymrcnn.data.categories import listed
from tinymrcnn.data.coco import read_annotation_file
from tinymrcnn.data.formats import Source, Split, open_source, open_split
from tinymrcnn.data.held_out import SHARE, hold_out, shared_images
from tinymrcnn.files import printable
from tinymrcnn.training.trainer import check_held_out

logger = logging.getLogger("tinymrcnn")
NOTE = "data.json"  # in a run's folder
TRAIN_IMAGES, TEST_IMAGES = 20_000, 500  # shapes with the seeds 0 and 1; 1,800 steps of 8 see most of them once


def open_data(source: dict, masks: bool = True):
    """The data set to train on and the one to evaluate on; without masks, boxes are enough. Raises ValueError where
    they do not fit each other, and as CocoDataset does."""
    data, val, format = source["data"], source["val"], source.get("format")
    if not data:
        return ShapesDataset(TRAIN_IMAGES, seed=0), ShapesDataset(source["test_images"], seed=1)
    dataset: Any
    held_out: Any = None
    if len(data) == 2:
        dataset = CocoDataset(data[0], data[1], masks=masks)
    else:
        named = _recognised(data[0], format)
        dataset = open_split(named.training(), masks)
        if val is None and (own := named.held_out()) is not None:
            held_out = open_split(own, masks)
    if isinstance(val, list):
        held_out = open_to_evaluate(val, masks, format)
    if held_out is None:
        share, total = SHARE if val is None else val, len(dataset)
        dataset, held_out = hold_out(dataset, share)
        logger.info("%d of the %d images are held out, to evaluate on.", len(held_out), total)
    elif shared := shared_images(dataset, held_out):
        logger.warning(
            "%d of the %d images to evaluate on are among those to train on; the first is '%s'. What is measured on "
            "them says nothing about new images.", len(shared), len(held_out), shared[0],
        )  # fmt: skip
    check_held_out(dataset, held_out)
    return dataset, held_out


def _recognised(path, format: str | None) -> Source:
    named = open_source(path, format)
    logger.info("%s", named)
    return named


def open_to_evaluate(paths: Sequence[str], masks: bool = True, format: str | None = None, checkpoint=None):
    """The data set of one or two paths; of one that is split, the part to evaluate on.

    checkpoint: of the model to evaluate. Where its run held out a share of the same data, this share is returned; where
    the run was trained on all of them, this is said. Raises as CocoDataset and open_source do."""
    if len(paths) == 2:
        return CocoDataset(paths[0], paths[1], masks=masks)
    named = _recognised(paths[0], format)
    own = named.held_out()
    if own is not None:
        part = next(name for name, split in named.splits.items() if split is own)
        logger.info("Its part '%s' is used.", printable(part))
        return open_split(own, masks)
    dataset = open_split(named.training(), masks)
    try:
        run = read_source(Path(checkpoint).parent / NOTE) if checkpoint else None
    except ValueError:
        run = None
    if run is None or run["data"] != [str(Path(paths[0]).resolve())]:
        return dataset
    if isinstance(run["val"], list):
        logger.warning("The model was trained on these images: what is measured on them says nothing about new ones.")
        return dataset
    held_out = hold_out(dataset, SHARE if run["val"] is None else run["val"])[1]
    logger.info(
        "The model was trained on the rest of them; the %d images that its run held out are used.", len(held_out)
    )
    return held_out


def parts_of(paths: Sequence[str], format: str | None = None) -> dict[str, Split]:
    """The splits of the data set of one or two paths, "all" where there is one only; says what it was recognised as.
    Raises as open_source does, and for an annotation file that is no JSON."""
    if len(paths) == 2:
        content = read_annotation_file(paths[1])
        parts = isinstance(content, dict) and [content.get(key) for key in ("images", "annotations", "categories")]
        if not parts or not all(isinstance(part, list) for part in parts):
            raise ValueError(
                f"'{printable(paths[1])}' is no COCO data set (a JSON object with lists 'images', 'annotations', "
                "'categories')."
            )
        return {"all": Split(Path(paths[0]), content, Path(paths[1]))}
    return _recognised(paths[0], format).splits


def checked_paths(option: str, paths: Sequence[str] | None) -> Sequence[str] | None:
    """Raise ValueError where an option has other than one path or two."""
    if paths is not None and len(paths) not in (1, 2):
        raise ValueError(
            f"{option} takes one path, or a folder of images and an annotation file, but {len(paths)} were given: "
            f"{', '.join(map(printable, paths))}. What is no part of it goes before {option}."
        )
    return paths


def val_of(val: Sequence[str] | None) -> list[str] | float | None:
    """What --val says: one path or two, made absolute, or a share of the images."""
    if not checked_paths("--val", val):
        return None
    assert val is not None
    if len(val) == 1 and not Path(val[0]).exists():
        try:
            share = float(val[0])
        except ValueError:
            share = None
        if share is not None and not 0 < share < 1:
            raise ValueError(f"--val {val[0]} is no share of the images between 0 and 1, and there is no such path.")
        if share is not None:
            return share
    return [str(Path(path).resolve()) for path in val]


def found(paths: Sequence[str] | float | None, dataset) -> dict | None:
    """What identifies a user's data set: images, classes, and a hash of the annotations. paths: one or two; None for
    none of its own."""
    if not isinstance(paths, Sequence) or not paths:
        return None
    if len(paths) == 2:
        with open(paths[1], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        hashed = hashlib.sha256()
        for index in range(len(dataset)):
            hashed.update(dataset.noted(index).encode())
        digest = hashed.hexdigest()
    return {"images": len(dataset), "classes": [c["name"] for c in dataset.categories], "annotations": digest}


def read_source(path: Path) -> dict:
    """The content of a data.json. Raises ValueError where it is missing or is no such file."""
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
        pairs = [source["data"], source["val"]]
        noted = source.setdefault("found", {"data": None, "val": None})  # earlier versions noted nothing
        right = (
            (pairs == [None, None] or (_are_paths(pairs[0]) and (_are_paths(pairs[1]) or _is_share(pairs[1]))))
            and isinstance(source.get("format"), str | None)
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


def _are_paths(value) -> bool:
    return isinstance(value, list) and len(value) in (1, 2) and all(isinstance(path, str) for path in value)


def _is_share(value) -> bool:
    """Whether it is a share of the images to hold out, or None, for the usual one or a split of their own."""
    return value is None or (isinstance(value, float) and 0 < value < 1)


def moved(source: dict, places: dict[str, Sequence[str] | None]) -> dict:
    """The source with new places for "data" and "val". Raises ValueError for a run on toy shapes."""
    new: dict[str, Any] = {name: val_of(paths) for name, paths in places.items() if paths}
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
                    f"'{printable(source[name][-1])}' is not the data set that the run began with: its {key} were "
                    f"{shown[0]} and are {shown[1]}. Restore it, or start a new run with --weights."
                )
        if then != now:
            path = printable(source[name][-1])
            print(f"Note: '{path}' has changed since the run began; it goes on with what it is now.")
    source["found"][name] = now
