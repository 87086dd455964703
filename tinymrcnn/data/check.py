"""What can be wrong with a data set, reported when it is opened: all at once, with the count and first of each kind.

Values from JSON are taken for what they mean: 7.0, "7" and "007" for 7, null for what is absent.
"""

import re

import numpy as np

from tinymrcnn.files import printable

MANY = 3  # objects; with fewer, nothing is said about a whole file
SAME_IOU = 0.7  # a box and the box around its mask are the same from this IoU on,
SAME_PIXELS = 2  # or where no side is further from the other than this
INTEGER = re.compile(r"\s*-?[0-9]{1,18}(\.0*)?\s*")


class DataWarning(UserWarning):
    """Something in a data set is odd or cannot be used; the rest of it is."""


# Values --------------------------------------------------------------------------------------------------


def as_integer(value) -> int | None:
    """The integer that a value from JSON means, None where it means none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and abs(value) < 2**53 and value.is_integer():
        return int(value)
    if isinstance(value, str) and INTEGER.fullmatch(value):
        return int(value.partition(".")[0])
    return None


def as_number(value) -> float | None:
    """The finite number that a value from JSON means, None where it means none."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if sound else None


class Entries(dict):
    """{id: entry} of a list of entries. The ids are the integers that the entries' own ids mean. If these are texts,
    such as file names, all different, the ids are 1, 2, ... in their order."""

    def __init__(self, entries: list, what: str, report: "Report", optional: bool = False):
        """what: what an entry is. optional: missing ids are numbered, too. Adds bad ids to the report."""
        super().__init__()
        given: list = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
        self.numbers: dict[str, int] | None = None
        if _are_texts(given):
            self.numbers = {}
            for number, (text, entry) in enumerate(zip(given, entries, strict=True), start=1):
                if text in self.numbers:
                    report.problem(f"equal {what} ids", f"two {what} entries have the id {shown(text)}")
                self.numbers[text] = number
                self[number] = entry
            return
        ids = [as_integer(value) for value in given]
        free = max((number for number in ids if number is not None), default=0) + 1
        for place, (meant, value, entry) in enumerate(zip(ids, given, entries, strict=True), start=1):
            if not isinstance(entry, dict):
                report.problem(f"{what}s that are none", f"{what} number {place} is no JSON object but {shown(entry)}")
                continue
            if value is None and optional:
                meant, free = free, free + 1
            if meant is None or meant < 0:
                text = f"{what} number {place} has no non-negative integer 'id' but {shown(value)}"
                report.problem(f"{what} ids", text)
            elif meant in self:
                report.problem(f"equal {what} ids", f"two {what} entries have the id {shown(value)}")
            else:
                self[meant] = entry

    def find(self, value) -> int | None:
        """The id that a reference to one of the entries means, None where it means none."""
        if self.numbers is not None:
            return self.numbers.get(value) if isinstance(value, str) else None
        number = as_integer(value)
        return number if number in self else None


def _are_texts(ids: list) -> bool:
    """Whether the ids are texts that do not mean integers, all different."""
    meant = {number for number in map(as_integer, ids) if number is not None and number >= 0}
    return all(isinstance(value, str) for value in ids) and len(meant) < len(set(ids))


# What was found ------------------------------------------------------------------------------------------


class Report:
    """What is wrong with a file, by kind, each with how many there are and the first: the problems, for which it cannot
    be used, and what is only odd. cases: every single case, as (file of the image, or "", id of the annotation or
    image, or None, what is wrong)."""

    def __init__(self):
        self._problems: dict[str, list] = {}
        self.odd: list[str] = []
        self.cases: list[tuple[str, int | None, str]] = []

    def problem(self, kind: str, text: str, file: str = "", number: int | None = None) -> None:
        """text tells of one case, as a sentence without its full stop; that of the first is kept."""
        self._problems.setdefault(kind, [text, 0])[1] += 1
        self.cases.append((file, number, text))

    @property
    def problems(self) -> list[str]:
        """One sentence a kind."""
        more = {1: "."}
        return [text + more.get(count, f" (and {count - 1} more like it).") for text, count in self._problems.values()]


def shown(value, length: int = 100) -> str:
    """A value from JSON in a message."""
    text = printable(repr(value))
    return text if len(text) <= length else f"{text[: length - 3]}..."


# Boxes and masks that contradict each other --------------------------------------------------------------


# What people write for [x, y, width, height]: the corners that the four numbers a, b, c, d would mean then
CONVENTIONS = {
    "corners [x1, y1, x2, y2]": lambda a, b, c, d: (a, b, c, d),
    "centres and sizes [x, y, width, height]": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "boxes with x and y exchanged, [y, x, height, width],": lambda a, b, c, d: (b, a, b + d, a + c),
    "corners with x and y exchanged, [y1, x1, y2, x2],": lambda a, b, c, d: (b, a, d, c),
    "boxes with width and height exchanged": lambda a, b, c, d: (a, b, a + d, b + c),
}  # fmt: skip


def contradictions(boxes: np.ndarray, bounds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4), [x, y, width, height], differ from the boxes (N, 4) around their masks, [x1, y1, x2, y2].

    sizes: (N, 2), height and width of the images, at whose borders the boxes are cut. Returns (N,) bool."""
    x, y, width, height = boxes.T
    corners = _cut(np.stack([x, y, x + width, y + height], 1), sizes)
    return ~(_same(corners, bounds) | (abs(corners - bounds).max(1, initial=0) <= SAME_PIXELS))


def guess(boxes: np.ndarray, bounds: np.ndarray, sizes: np.ndarray) -> tuple[str, int]:
    """(what the boxes seem to be instead, how many of them), or ("", 0) where nothing explains half of them.

    All arguments as those of contradictions, of the boxes that contradict their masks."""
    best, most = "", 0
    scale = np.stack([sizes[:, 1], sizes[:, 0]] * 2, 1)
    plain = {"": boxes, ", in fractions of the image": boxes * scale}
    plain_corners = {"boxes": lambda x, y, width, height: (x, y, x + width, y + height)}
    for suffix, numbers in plain.items():
        for name, corners in (plain_corners | CONVENTIONS).items():
            fits = _same(_cut(np.stack(corners(*numbers.T), 1), sizes), bounds).sum()
            if fits > most:
                best, most = name.rstrip(",") + suffix, int(fits)
    return (best, most) if 2 * most > len(boxes) else ("", 0)


def _cut(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return corners.clip(0, np.stack([sizes[:, 1], sizes[:, 0]] * 2, 1))


def _same(corners: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Whether the IoU of pairs of boxes (N, 4) is SAME_IOU at least."""
    sides = np.minimum(corners[:, 2:], bounds[:, 2:]) - np.maximum(corners[:, :2], bounds[:, :2])
    shared = sides.clip(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clip(min=0).prod(1) for box in (corners, bounds)]
    return shared >= SAME_IOU * np.maximum(areas[0] + areas[1] - shared, 1e-12)


def guess_alone(boxes: np.ndarray, sizes: np.ndarray) -> tuple[str, int]:
    """The same of boxes without masks, where it shows: they are less than a pixel, or reach out of their images."""
    x, y, width, height = boxes.T
    (image_height, image_width), slack = sizes.T, SAME_PIXELS
    fractions = (boxes <= 1).all(1) & (sizes > 1).all(1)
    outside = (x + width > image_width + slack) | (y + height > image_height + slack)
    corners = outside & (width > x) & (height > y) & (width <= image_width + slack) & (height <= image_height + slack)
    if fractions.sum() >= corners.sum():
        return "boxes, in fractions of the image", int(fractions.sum())
    return "corners [x1, y1, x2, y2]", int(corners.sum())


def whole_file(count: int, total: int) -> bool:
    """Whether what concerns `count` of `total` objects is a matter of the file and not of some objects."""
    return count >= MANY and 2 * count > total
