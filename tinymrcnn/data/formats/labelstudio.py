"""Label Studio's JSON: a list of tasks, each with an image and the regions of its first annotation that was not
cancelled: polygons and ellipses in percent of the image, and the brush's run lengths; rectangles are boxes without
masks.

A polygon has no holes; what the brush draws has. Images are looked for by their names near the JSON file, without the
eight letters that an upload puts in front.
"""

import math
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tinymrcnn.data.formats.brush import decode_brush
from tinymrcnn.data.formats.collect import OBJECT, Collected, Split, ellipse, turned_box
from tinymrcnn.data.formats.files import ImageIndex, mentions, read_json, reading, sniffed

TITLE = "Label Studio"
NEEDS = "Label Studio's export as JSON (not JSON-MIN), beside the images"
UPLOADED = re.compile(r"^[0-9a-f]{6,}-")


def fits(path: Path) -> bool:
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    return sniffed(path, ".json", lambda file: mentions(file, '"result"', '"data"', '"from_name"'))


def read(path: Path) -> dict[str, Split]:
    root = path if path.is_dir() else path.parent
    collected, index = Collected(), ImageIndex(root)
    for file in _files(path):
        with reading(file, TITLE):
            for task in read_json(file):
                found = [each for each in task["annotations"] if not each.get("was_cancelled")]
                if not found:
                    continue  # nobody has looked at it yet
                results = found[0]["result"]
                sizes = [(r["original_height"], r["original_width"]) for r in results if "original_height" in r]
                image = collected.add_image(_image(index, task["data"], results), sizes[0] if sizes else None)
                named = {each.get("id") for each in results if _names(each)}
                for each in results:
                    if _names(each) or each.get("id") not in named:  # else it is there once more, with its name
                        _add(collected, image, each)
    return {"all": collected.split(root)}


def _image(index: ImageIndex, data: dict, results: list) -> Path:
    """The file of a task: data[the name of the labelled image], or its first text."""
    keys = [each["to_name"] for each in results if each.get("to_name") in data]
    address = data[keys[0]] if keys else next(value for value in data.values() if isinstance(value, str))
    parts = urlsplit(address)
    name = unquote(parse_qs(parts.query)["d"][0] if "d" in parse_qs(parts.query) else parts.path)
    return file if (file := index.find(name)).is_file() else index.find(UPLOADED.sub("", name.split("/")[-1]))


def _names(result: dict) -> list[str]:
    value = result.get("value", {})
    return value.get(result.get("type")) or value.get("labels") or []


def _add(collected: Collected, image: dict, result: dict) -> None:
    value, name = result.get("value", {}), next(iter(_names(result)), OBJECT)
    if not (shape := next((name for name in ("points", "rle", "radiusX", "width") if name in value), None)):
        return  # a choice, a text, a key point
    height, width = int(result["original_height"]), int(result["original_width"])
    x_scale, y_scale, turn = width / 100, height / 100, math.radians(value.get("rotation", 0))
    x, y = value.get("x", 0) * x_scale, value.get("y", 0) * y_scale
    if shape == "points":
        collected.add(image, name, polygons=[[n for x, y in value["points"] for n in (x * x_scale, y * y_scale)]])
    elif shape == "rle":
        collected.add(image, name, mask=decode_brush(value["rle"], height, width))
    elif shape == "radiusX":
        outline = ellipse(x, y, value["radiusX"] * x_scale, value["radiusY"] * y_scale, turn)
        collected.add(image, name, polygons=[outline])
    elif "height" in value:
        sides = value["width"] * x_scale, value["height"] * y_scale
        collected.add(image, name, box=turned_box(x, y, *sides, turn, (x, y)))
