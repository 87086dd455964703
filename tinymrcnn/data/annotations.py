"""The objects of an annotation file, checked: what cannot be used is left out and counted, what would teach nonsense
is a problem of the file. The docstring of CocoDataset lists both."""

import numpy as np

from tinymrcnn.data.check import (
    Entries,
    Report,
    as_integer,
    as_number,
    contradictions,
    guess,
    guess_alone,
    shown,
    whole_file,
)
from tinymrcnn.data.coco_masks import mask_bounds
from tinymrcnn.files import printable

SMALLEST_SIDE = 1e-3  # pixels
STRANGERS = "they belong to images that the file does not list"
NO_MASKS = "their masks cannot be read"


class LeftOut(ValueError):
    """An object that cannot be used. Its arguments: why, and the value that shows it, as text."""


class Wrong(ValueError):
    """An object that makes the file unusable. Its arguments: what is wrong, and the value, as text."""


def read_annotations(entries: list, images: Entries, categories: Entries, masks: bool, report: Report) -> dict:
    """{image id: its objects}, each a dict of category_id, bbox, iscrowd, area (or None), and segmentation with masks.

    images: {id: {"file_name", "size"}}, size (height, width) or None. masks: whether masks are read."""
    table = Entries(entries, "annotation", report, optional=True)
    objects: dict[int, list] = {key: [] for key in images}
    left_out: dict[str, list] = {}
    seen = []  # ((annotation id, image id), its box, the image's size, the box around its mask)

    def file(owner) -> str:
        return images[owner]["file_name"] if owner in images else ""

    def place(number, owner) -> str:
        return f"annotation {number}" + (f" of image '{printable(file(owner))}'" if owner in images else "")

    for number, entry in table.items():
        owner = images.find(entry.get("image_id"))
        try:
            if owner is None:
                raise LeftOut(STRANGERS, f"image_id {shown(entry.get('image_id'))}")
            size = images[owner]["size"]
            each, bounds = _read_object(entry, size, categories, masks)
        except LeftOut as reason:
            why, value = reason.args
            left_out.setdefault(why, [0, f"the first is {place(number, owner)}: {value}"])[0] += 1
            report.cases.append((file(owner), number, f"left out: {_of_one(why)}: {value}"))
        except Wrong as reason:
            what, value = reason.args
            report.problem(what, f"{place(number, owner)} {what} {value}", file(owner), number)
        else:
            objects[owner].append(each)
            if size is not None:
                seen.append(((number, owner), each["bbox"], size, bounds))
    _tell_left_out(left_out, len(table), report)
    _tell_contradictions([each for each in seen if each[3] is not None], file, place, report)
    _tell_boxes_alone([each for each in seen if each[3] is None], place, report)
    if not report.problems and not any(not each["iscrowd"] for of_image in objects.values() for each in of_image):
        report.odd.append("There is no object that a model could learn.")
    return objects


def _read_object(entry: dict, size, categories: Entries, masks: bool) -> tuple[dict, np.ndarray | None]:
    """The object, and the box around its mask where masks are read. Raises LeftOut or Wrong."""
    category = categories.find(entry.get("category_id"))
    if category is None:
        raise Wrong("has the unknown category id", shown(entry.get("category_id")))
    crowd = as_integer(entry.get("iscrowd")) if entry.get("iscrowd") is not None else 0
    if crowd not in (0, 1):
        raise Wrong("needs an iscrowd of 0 or 1, not", shown(entry["iscrowd"]))
    area = as_number(entry.get("area"))
    if entry.get("area") is not None and (area is None or area < 0):
        raise Wrong("needs an area that is a number of pixels, not", shown(entry["area"]))
    box = _read_box(entry.get("bbox"), size)
    each = {"category_id": category, "bbox": box, "iscrowd": crowd, "area": area}
    segmentation, bounds = entry.get("segmentation"), None
    if size is not None and (masks or box is None):
        try:
            bounds = mask_bounds(segmentation, *size)
        except ValueError as error:
            why = NO_MASKS if masks else "they have no box, and no mask that can be read"
            raise LeftOut(why, f"{printable(error)}: {shown(segmentation)}") from error
        if bounds is None:
            raise LeftOut(f"their masks cover no pixel{_in_fractions(segmentation)}", shown(segmentation))
        if box is None:
            x1, y1, x2, y2 = bounds.tolist()
            each["bbox"] = _read_box([x1, y1, x2 - x1, y2 - y1], size)
            bounds = None  # which agrees with itself
    if masks:
        each["segmentation"] = segmentation
    return each, bounds


def _read_box(given, size) -> list[float] | None:
    """[x, y, width, height] as floats, None where there is no box."""
    if given is None or given == []:
        return None
    numbers = [as_number(value) for value in given] if isinstance(given, list) else []
    box = [number for number in numbers if number is not None]
    if len(numbers) != 4 or len(box) != 4:
        raise Wrong("needs a 'bbox' of four finite numbers [x, y, width, height], not", shown(given))
    x, y, width, height = box
    if min(width, height) < 0:
        raise LeftOut("their boxes have a negative size", f"[x, y, width, height] = {shown(given)}")
    if min(width, height) < SMALLEST_SIDE:
        raise LeftOut("their boxes have no width or no height", f"[x, y, width, height] = {shown(given)}")
    if size is not None:
        x1, y1, x2, y2 = map(np.float32, (max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])))
        if min(x2 - x1, y2 - y1) < SMALLEST_SIDE:
            image = f"the image of width {size[1]} and height {size[0]}"
            raise LeftOut("their boxes lie outside of their images", f"{shown(given)}, outside {image}")
    return box


def _in_fractions(segmentation) -> str:
    """A guess why polygons cover no pixel."""
    if isinstance(segmentation, list) and all(0 <= value <= 1 for polygon in segmentation for value in polygon):
        return " (they look like fractions of the image in place of pixels)"
    return ""


def _of_one(why: str) -> str:
    """A reason for leaving objects out, as that of one object."""
    words = {
        "their boxes lie": "its box lies", "their boxes have": "its box has", "their masks cannot": "its mask cannot",
        "their masks cover": "its mask covers", "they belong to images": "it belongs to an image",
        "they have": "it has", "they look": "it looks", "their images": "its image",
    }  # fmt: skip
    for of_many, of_one in words.items():
        why = why.replace(of_many, of_one)
    return why


# Telling -------------------------------------------------------------------------------------------------


def _tell_left_out(left_out: dict, total: int, report: Report) -> None:
    """Report what is left out: as odd, or as a problem if it is most of the file, or all belongs to other images."""
    counts = {why: count for why, (count, _) in left_out.items()}
    strangers = counts.pop(STRANGERS, 0)
    most = whole_file(sum(counts.values()), total - strangers)
    for why, (count, first) in left_out.items():
        refused = whole_file(count, count) and count == total if why == STRANGERS else most
        verb = "cannot be used" if refused else "are left out"
        hint = ". If it holds boxes alone, read it with masks=False (--set masks=false)" if why == NO_MASKS else ""
        text = f"{count} of {total} annotations {verb} because {why}; {first}{hint * refused}"
        if refused:
            report.problem(why, text)
        else:
            report.odd.append(f"{text}.")


def _tell_contradictions(seen: list[tuple], file, place, report: Report) -> None:
    """Boxes that contradict their masks. seen: as in read_annotations, all with a box around the mask."""
    if not seen:
        return
    boxes, sizes, bounds = (np.array([each[n] for each in seen]) for n in (1, 2, 3))
    wrong = np.flatnonzero(contradictions(boxes, bounds, sizes))
    if len(wrong) == 0:
        return
    what, count = guess(boxes[wrong], bounds[wrong], sizes[wrong])
    for (number, owner), box, _, around in (seen[each] for each in wrong):
        text = f"its box {box} contradicts its mask, which lies in {around.round(2).tolist()}"
        report.cases.append((file(owner), number, text))
    where, box, _, around = seen[wrong[0]]
    text = (
        f"{len(wrong)} of {len(seen)} boxes contradict their masks; the first is that of {place(*where)}: its box "
        f"[x, y, width, height] is {box}, its mask lies in [x1, y1, x2, y2] {around.round(2).tolist()}"
    )
    text += f". They look like {what}, where [x, y, width, height] in pixels belong" if what else ""
    if whole_file(count, len(seen)):
        report.problem("boxes and masks", text)
    else:
        report.odd.append(f"{text}.")


def _tell_boxes_alone(seen: list[tuple], place, report: Report) -> None:
    """Boxes without masks, if most of them seem to follow another convention. seen: as in read_annotations."""
    what, count = guess_alone(*(np.array([each[n] for each in seen]) for n in (1, 2))) if seen else ("", 0)
    if whole_file(count, len(seen)):
        text = f"{count} of {len(seen)} boxes look like {what}, where [x, y, width, height] in pixels belong"
        report.problem("boxes", f"{text}; the first box is that of {place(*seen[0][0])}: {seen[0][1]}")
