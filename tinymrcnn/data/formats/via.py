"""The JSON of the VGG Image Annotator, versions 1 and 2, an export or a saved project: for each image its regions:
polygons, circles and ellipses; rectangles are boxes without masks; points and lines are no objects.

The class is the first attribute of a region, or the one that is called class, label, name, or type. A polygon holds
neither holes nor several parts. The file has no sizes of the images; they are read from these.
"""

from pathlib import Path
from typing import Any

from tinymrcnn.data.formats.collect import OBJECT, Collected, Split, ellipse
from tinymrcnn.data.formats.files import ImageIndex, mentions, read_json, reading, sniffed

TITLE = "VIA (VGG Image Annotator)"
NEEDS = "a JSON file of 'regions' with 'shape_attributes', exported by version 1 or 2, beside the images"
CLASS = ("class", "label", "name", "type", "category")
NO_OBJECTS = ("point", "line", "polyline")


def fits(path: Path) -> bool:
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    return sniffed(path, ".json", lambda file: mentions(file, '"regions"', '"shape_attributes"', '"filename"'))


def read(path: Path) -> dict[str, Split]:
    collected, index = Collected(), ImageIndex(path if path.is_dir() else path.parent)
    for file in _files(path):
        with reading(file, TITLE):
            content = read_json(file)
            for entry in content.get("_via_img_metadata", content).values():
                image = collected.add_image(index.find(entry["filename"]))
                regions = entry["regions"]
                for region in regions.values() if isinstance(regions, dict) else regions:
                    _add(collected, image, region["shape_attributes"], _class(region.get("region_attributes") or {}))
    return {"all": collected.split(path if path.is_dir() else path.parent)}


def _class(attributes: dict[str, Any]) -> str:
    """A text, or of a choice from several, {"cat": true}, the chosen one."""
    named = {key.lower(): value for key, value in attributes.items() if value not in ("", {}, None)}
    key = next((key for key in CLASS if key in named), next(iter(named), None))
    if key is None:
        return OBJECT
    value = named[key]
    chosen = [name for name, yes in value.items() if yes] if isinstance(value, dict) else [str(value).strip()]
    return ", ".join(chosen) or OBJECT


def _add(collected: Collected, image: dict, shape: dict, name: str) -> None:
    kind = shape["name"]
    if kind == "polygon":
        points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        collected.add(image, name, polygons=[[value for point in points for value in point]])
    elif kind == "circle":
        collected.add(image, name, polygons=[ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])])
    elif kind == "ellipse":
        angle = shape.get("theta", 0.0)
        collected.add(image, name, polygons=[ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], angle)])
    elif kind == "rect":
        collected.add(image, name, box=[shape["x"], shape["y"], shape["width"], shape["height"]])
    elif kind not in NO_OBJECTS:
        raise ValueError(f"it has a region of the unknown kind {kind!r}")
