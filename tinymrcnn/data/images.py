"""Image files to arrays and back: (3, H, W), RGB, float32 in 0..1, whatever the file holds.

Not from the paper; every other part of the package sees images only in this form.
"""

import glob
import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from tinymrcnn.files import printable, replacing

# The formats that are read, and the suffixes by which a folder's images are found. Pillow knows more formats, which
# photographs do not use and which are unsafe in strangers' files: for EPS, under any suffix, it starts a program.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2k", ".jp2", ".jpx"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
LOSSY = ("AVIF", "JPEG", "JPEG2000", "MPO", "WEBP")  # they may change the values of pixels
COLOR = 1 << 24  # added to the numbers of colours in a label image, which no grey value is then
MAX_PIXELS = 89_000_000  # of an image; beyond, Pillow warns of files that are small on disk and fill the memory
PREDICTED = "_predicted"  # how the names of what `tinymrcnn predict` writes of an image end, before their suffix

# The turn that brings a picture upright, by its orientation in the EXIF data; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_images(names) -> tuple[list[str], list[str]]:
    """The image files that a list of files, folders and patterns (*, ?, [...], and ** for folders below) stands for.

    A folder stands for the images that lie in it, in the order of their names, known by their suffixes, without
    hidden ones and what `tinymrcnn predict` wrote. A file is taken as it is; so is the part of a
    pattern that is there, such as a folder 'photos [2024]'.
    Returns (files, problems): every file once, and a sentence about each name that stands for none."""
    files, problems = [], []
    for name in map(str, names):
        if os.path.isdir(name):
            found = sorted(entry.path for entry in os.scandir(name) if _is_image(entry))
            problem = f"There is no image in the folder '{printable(name)}'."
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(path for path in glob.glob(_pattern(name), recursive=True) if os.path.isfile(path))
            problem = f"No file fits the pattern '{printable(name)}'."
        else:
            found, problem = [name], ""
        files += found
        if not found:
            problems.append(problem)
    return list(dict.fromkeys(files)), problems


def _pattern(name: str) -> str:
    """A pattern, in which the folders that exist stand for themselves."""
    there = name
    while there and not os.path.exists(there):
        there = os.path.dirname(there.rstrip("/" + os.sep))
    return glob.escape(there) + name[len(there) :]


def _is_image(entry: os.DirEntry) -> bool:
    name, suffix = os.path.splitext(entry.name)
    ours = name.endswith((PREDICTED, f"{PREDICTED}_ids"))
    return entry.is_file() and suffix.lower() in SUFFIXES and not name.startswith(".") and not ours


def read_image(path) -> np.ndarray:
    """An image file as (3, H, W) RGB, float32 in 0..1, as a viewer shows it.

    A rotation noted in the EXIF data is applied, transparency is composited on white; grey, palette and CMYK
    images become RGB, 16-bit greys keep their precision (value / 65535); of an animation, the first frame.
    Raises FileNotFoundError where there is no such file, ValueError where it cannot be read as an image: another
    format than FORMATS, more than MAX_PIXELS, or any error of Pillow's."""
    return _opened(path, lambda image, file: to_rgb(_upright(image)))


def image_size(path) -> tuple[int, int]:
    """(height, width) of what read_image gives, without decoding the pixels. Raises as read_image does.

    A file that does not end as its format should is decoded, to see whether it is whole."""
    return _opened(path, _size)


def read_ids(path) -> np.ndarray:
    """A label image, whose pixels tell to which object they belong, as (H, W) int64: grey values and palette indices
    as they are, a colour as the number COLOR + red * 65536 + green * 256 + blue; transparent and black pixels are 0.

    Raises as read_image does, and for formats that do not keep values as they are."""
    return _opened(path, lambda image, file: _to_ids(image))


def _to_ids(image: Image.Image) -> np.ndarray:
    if image.format in LOSSY:
        raise ValueError(f"{image.format} changes the values of pixels; save masks as PNG or TIFF")
    if image.mode in ("1", "L", "P", "F") or image.mode.startswith("I"):
        values = np.asarray(image)
        ids = values.astype(np.int64)
        if (ids != values).any():
            raise ValueError("its values are no whole numbers; save masks with the numbers of the objects")
        return ids
    colors = np.asarray(image.convert("RGBA")).astype(np.int64)
    red, green, blue, alpha = np.moveaxis(colors, 2, 0)
    number = red << 16 | green << 8 | blue
    return np.where((alpha > 0) & (number > 0), red if image.mode == "LA" else COLOR | number, 0)


def _opened(path, read):
    """read(image, file) of the opened image file; every error becomes one error that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no image file '{printable(path)}'.")
    if not FORMATS.keys() <= Image.OPEN.keys():
        Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    cause: BaseException
    try:
        # given a name, Pillow maps some TIFF files into memory, and mixes up the pixels of those that are turned
        with open(path, "rb") as file, Image.open(file, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return read(image, file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the latter, where it is an error
        problem = (
            f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller, or cut it into pieces, first"
        )
        cause = error
    except Image.UnidentifiedImageError as error:
        problem, cause = f"it is damaged, or of no format that is read here ({', '.join(FORMATS)})", error
    except MemoryError as error:
        problem, cause = "the memory does not suffice; make it smaller, or cut it into pieces, first", error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        problem, cause = str(error).rstrip(".") or type(error).__name__, error
    raise ValueError(f"The file '{printable(path)}' cannot be read as an image: {printable(problem)}.") from cause


def _size(image: Image.Image, file: BinaryIO) -> tuple[int, int]:
    end = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}.get(image.format or "")
    if end is not None:
        here = file.tell()
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1024))
        whole = end in file.read()
        file.seek(here)
        if not whole:
            image.load()
    # A PNG without EXIF data before the pixels would be decoded in search of them; a TIFF tells the size turned already
    asked = image.format not in ("PNG", "TIFF") or not {"exif", "Raw profile type exif"}.isdisjoint(image.info)
    turned = asked and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera was held. (Of the EXIF data only this one entry is read, since a damaged
    entry elsewhere, which PIL's exif_transpose would stumble over, is no reason to refuse a photograph.)"""
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> np.ndarray:
    """(3, H, W) float32 in 0..1."""
    rgb = np.empty((3, image.height, image.width), np.float32)
    if image.mode.startswith("I"):  # 16-bit greys; Pillow opens some of them as 32-bit integers
        values = np.asarray(image)
        grey = values.astype(np.float32)
        grey /= 65535
        if grey.min() < 0 or grey.max() > 1:
            raise ValueError("its grey values do not fit into 16 bits; save it with 8 or 16 bits a channel")
        if "transparency" in image.info:  # one value that means transparent
            grey[values == image.info["transparency"]] = 1
        rgb[:] = grey
        return rgb
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels; save it with 8 or 16 bits a channel")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    bands = image if image.mode == mode else image.convert(mode)
    alpha = None if mode == "RGB" else np.asarray(bands.getchannel("A")).astype(np.float32) / 255
    for n, channel in enumerate(rgb):  # one by one: all of a large image at once would fill the memory
        np.divide(np.asarray(bands.getchannel(n)), 255, out=channel, dtype=np.float32)
        if alpha is not None:
            channel *= alpha
            channel += 1 - alpha
    return rgb


def write_image(path, image: np.ndarray) -> None:
    """Write a (3, H, W) RGB image, floats in 0..1, as 8 bits a channel, in the format that the suffix names.

    Values outside 0..1 are clipped. The file appears at once or not at all, so that a viewer never opens
    half of it. Raises ValueError for an array that is no such image or a suffix that names no format."""
    path, image = Path(path), np.asarray(image)
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype.kind != "f" or not np.isfinite(image).all():
        raise ValueError(
            f"write_image takes a (3, H, W) array of finite floats in 0..1 for '{printable(path)}', "
            f"got shape {image.shape} and dtype {image.dtype}."
        )
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format not in Image.SAVE:
        raise ValueError(
            f"The suffix of '{printable(path)}' names no image format that can be written; use .png or .jpg."
        )
    pixels = np.rint(image.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, file_format)
    except (OSError, ValueError) as error:  # some formats hold no such size
        text = f"'{printable(path)}' cannot be written as {file_format}: {printable(error)}"
        raise ValueError(text) from error
    with replacing(path) as file:
        file.write(buffer.getvalue())
