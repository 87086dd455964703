"""Image files to arrays and back: (3, H, W), RGB, float32 in 0..1, whatever the file holds.

Not from the paper; every other part of the package sees images only in this form.
"""

import glob
import io
import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
PREDICTED = "_predicted.png"  # how the pictures that `tinymrcnn predict` writes end

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

    A folder stands for the images that lie in it, in the order of their names, known by their suffixes; hidden
    ones and the pictures that `tinymrcnn predict` wrote are none. A file is taken as it is.
    Returns (files, problems): every file once, and a sentence about each name that stands for none."""
    files, problems = [], []
    for name in map(str, names):
        if os.path.isdir(name):
            found = sorted(entry.path for entry in os.scandir(name) if _is_image(entry))
            problem = f"There is no image in the folder '{name}'."
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
            problem = f"No file fits the pattern '{name}'."
        else:
            found, problem = [name], None
        files += found
        if not found:
            problems.append(problem)
    return list(dict.fromkeys(files)), problems


def _is_image(entry: os.DirEntry) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    return entry.is_file() and suffix in SUFFIXES and not entry.name.startswith(".") and PREDICTED not in entry.name


def read_image(path) -> np.ndarray:
    """An image file as (3, H, W) RGB, float32 in 0..1, as a viewer shows it.

    A rotation noted in the EXIF data is applied, transparency is composited on white; grey, palette and CMYK
    images become RGB, 16-bit greys keep their precision (value / 65535); of an animation, the first frame.
    Raises FileNotFoundError where there is no such file, ValueError where it cannot be read as an image."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no image file '{path}'.")
    try:
        with Image.open(path) as image:
            pixels = _to_rgb(_upright(image))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"The file '{path}' cannot be read as an image: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera was held. (Of the EXIF data only this one entry is read, since a damaged
    entry elsewhere, which PIL's exif_transpose would stumble over, is no reason to refuse a photograph.)"""
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in 0..1."""
    if image.mode.startswith("I"):  # 16-bit greys; Pillow opens some of them as 32-bit integers
        grey = np.asarray(image).astype(np.float32) / 65535
        if grey.min() < 0 or grey.max() > 1:
            raise ValueError("its grey values do not fit into 16 bits; save it with 8 or 16 bits a channel.")
        if "transparency" in image.info:  # one value that means transparent
            grey[np.asarray(image) == image.info["transparency"]] = 1
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels; save it with 8 or 16 bits a channel.")
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA")).astype(np.float32) / 255
        alpha = rgba[:, :, 3:]
        return rgba[:, :, :3] * alpha + (1 - alpha)
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def write_image(path, image) -> None:
    """Write a (3, H, W) RGB image, floats in 0..1, as 8 bits a channel, in the format that the suffix names.

    Values outside 0..1 are clipped. The file appears at once or not at all, so that a viewer never opens
    half of it. Raises ValueError for an array that is no such image or a suffix that names no format."""
    path, image = Path(path), np.asarray(image)
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype.kind != "f" or not np.isfinite(image).all():
        raise ValueError(
            f"write_image takes a (3, H, W) array of finite floats in 0..1 for '{path}', "
            f"got shape {image.shape} and dtype {image.dtype}."
        )
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format not in Image.SAVE:
        raise ValueError(f"The suffix of '{path}' names no image format that can be written; use .png or .jpg.")
    pixels = np.rint(image.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)
