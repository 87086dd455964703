"""An image with its objects drawn over it: masks, boxes, names and scores, on a toy picture as on a photograph.

Lines and letters grow with the picture, and a label moves aside where another one lies. Lessons 00, 03, 05,
09 to 12 and 15 draw with it, through figures.py.
"""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from tinymrcnn.files import printable

# Seven colours that people with any kind of colour vision tell apart (Okabe & Ito 2008), class 1 first
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442")
MASK_OPACITY = 0.45
LARGEST = 2048  # pixels of a picture's longer side
LETTERS = 13  # pixels: smaller ones cannot be read


def class_color(label: int) -> tuple[int, int, int]:
    """The colour of a class (1, 2, ...), the same in every picture, as RGB in 0..255."""
    code = COLORS[(int(label) - 1) % len(COLORS)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def draw_instances(
    image, instances: dict, categories=(), score_threshold: float = 0.5, size: int = 512, *, font=None,
    with_boxes: bool = True, with_labels: bool = True, by_instance: bool = False,
):  # fmt: skip
    """The image with its objects: masks tinted and outlined, boxes, class names and scores.

    image: (3, H, W) float32 in 0..1. instances: a target or a model's output (boxes, labels, and where it has
    them masks and scores), in the image's coordinates; a mask counts where it is >= 0.5, an object where
    its score is >= score_threshold. categories: a data set's, for the names. size: the image is enlarged by
    a whole factor so that its shorter side comes near this many pixels, as far as the longer stays within 2048.
    font: a file, for names with letters that DejaVu Sans lacks; a class whose name it lacks too appears by its number.
    with_boxes, with_labels: whether boxes are drawn, and names and scores are written.

    Colours tell the classes apart; by_instance, or where there is one class only, or more than there are colours, the
    objects. The name of a single class is not written. In a crowd a label that finds no place clear of others is left
    out."""
    names = {category["label"]: category["name"] for category in categories}
    labels, scores = instances["labels"], instances.get("scores")
    kept = range(len(labels)) if scores is None else np.flatnonzero(scores >= score_threshold).tolist()
    kept = sorted(kept, key=lambda n: 0 if scores is None else scores[n].item())  # the best on top
    if by_instance or names and not 1 < len(names) <= len(COLORS):
        colors = {n: class_color(rank) for rank, n in enumerate(reversed(kept), start=1)}
    else:
        colors = {n: class_color(labels[n]) for n in kept}

    factor = max(1, min(round(size / min(image.shape[1:])), LARGEST // max(image.shape[1:])))
    pixels = _enlarged(image.transpose(1, 2, 0), factor) * 255
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    letters = max(LETTERS, shorter / 26 if shorter <= 520 else (shorter / 1.3) ** 0.5)
    line = max(2, round(letters / 9))
    for n in kept:
        if (masks := instances.get("masks")) is not None:
            _tint(pixels, _enlarged(masks[n] >= 0.5, factor), colors[n], line)

    canvas = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    boxes = {n: (instances["boxes"][n] * factor).tolist() for n in kept}
    for n in kept if with_boxes else ():
        x1, y1, x2, y2 = boxes[n]
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colors[n], width=line)

    plates: list[tuple] = []
    written: list[tuple] = []  # the best choose their place first, and are written last
    for n in reversed(kept) if with_labels else ():
        name = drawable(names.get(int(labels[n])), int(labels[n]), font)
        words = [name] * (len(names) != 1) + ([] if scores is None else [f"{scores[n].item():.2f}"])
        letter_size = max(LETTERS, round(min(letters, (boxes[n][3] - boxes[n][1]) / 4)))
        face = _face(" ".join(words), letter_size, font)
        right, bottom = draw.textbbox((0, 0), " ".join(words), font=face)[2:]
        if words and (plate := _place(boxes[n], right + 6, bottom + 4, (height, width), plates)):
            plates.append(plate)
            written.append((plate, " ".join(words), face, colors[n]))
    for (x1, y1, x2, y2), text, face, color in reversed(written):
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 120
        draw.text((x1 + 3, y1 + 1), text, font=face, fill="black" if bright else "white")
    return np.asarray(canvas)


# Letters -------------------------------------------------------------------------------------------------


def check_font(path) -> None:
    """Raise FileNotFoundError or ValueError where a file holds no font."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no font file '{printable(path)}'.")
    try:
        ImageFont.truetype(path, LETTERS)
        _letters_of(path)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"The file '{printable(path)}' cannot be read as a font (.ttf, .otf, .ttc): {error}"
        ) from error


def drawable(name: str | None, label: int, font=None) -> str:
    """The name of a class as it can be drawn: without line breaks, or its number where the font lacks a letter."""
    name = None if name is None else printable(name)
    if name is None or not (name.isascii() or set(map(ord, name)) <= _letters_of(font or _dejavu_sans())):
        return f"class {label}"
    return name


def _face(text: str, size: int, font=None):
    """Pillow's own font, which knows little beyond ASCII, or another."""
    if font is None and text.isascii():
        return ImageFont.load_default(size)
    return ImageFont.truetype(font or _dejavu_sans(), size)


def _dejavu_sans() -> str:
    """The font that comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic letters, and many signs."""
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@functools.cache
def _letters_of(font) -> frozenset[int]:
    """The code points that a font has a picture of."""
    return frozenset(FT2Font(str(font)).get_charmap())


# Pixels --------------------------------------------------------------------------------------------------


def shrunk(image, largest: int = LARGEST):
    """An image (3, H, W) whose longer side has at most `largest` pixels: the same image or a smaller one."""
    sides = image.shape[1:]
    if max(sides) <= largest:
        return image
    height, width = (max(1, round(side * largest / max(sides))) for side in sides)
    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BOX) for channel in image]
    return np.stack([np.asarray(channel) for channel in channels])


def _enlarged(array, factor: int):
    """Every pixel of an (H, W, ...) array repeated factor x factor times."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _tint(pixels, mask, color, line: int) -> None:
    """Lay a colour over the pixels of a mask, lightly inside and fully along its outline, in place."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels, mask = pixels[part], mask[part]
    inside = np.zeros_like(mask)  # the mask without its outermost `line` pixels
    inside[line:-line, line:-line] = mask[line:-line, line:-line]
    for axis in (0, 1):
        for shift in (-line, line):
            inside &= np.roll(mask, shift, axis)
    pixels[inside] += (np.asarray(color, pixels.dtype) - pixels[inside]) * MASK_OPACITY
    pixels[mask & ~inside] = color


def _place(box, width: float, height: float, picture, taken: list) -> tuple | None:
    """Where a label goes, (x1, y1, x2, y2): above the box if the picture has room there, or else inside; but where
    other labels lie, the first of some places around the box that keeps clear of them, or None."""
    x1, y1, x2, y2 = box
    above, below = y1 >= height, y2 + height <= picture[0]
    heights = [y1 - height] * above + [y1] * (not above) + [y1 - 2 * height] * (y1 >= 2 * height)
    heights += [y2] * below + [y1, y2 - height]
    for y in heights:
        for x in (x1, x2 - width):
            x, y = max(0, min(x, picture[1] - width)), max(0, min(y, picture[0] - height))
            place = x, y, x + width, y + height
            if not any(_overlap(place, other) for other in taken):
                return place
    return None


def _overlap(a, b) -> bool:
    """Whether two rectangles share an area."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
