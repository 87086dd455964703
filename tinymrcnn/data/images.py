"""Image files to arrays and back: (3, H, W), RGB, float32 in 0..1, whatever the file holds.

Not from the paper; every other part of the package sees images only in this form.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def read_image(path) -> np.ndarray:
    """An image file as (3, H, W) RGB, float32 in 0..1, as a viewer shows it.

    A rotation noted in the EXIF data is applied, transparency is composited on white, grey and palette
    images become RGB, 16-bit greys keep their precision (value / 65535); of an animation, the first frame.
    Raises FileNotFoundError where there is no such file, ValueError where it cannot be read as an image."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no image file '{path}'.")
    try:
        with Image.open(path) as image:
            pixels = _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"The file '{path}' cannot be read as an image: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in 0..1."""
    if image.mode.startswith("I"):  # 16-bit greys; Pillow opens some of them as 32-bit integers
        grey = np.asarray(image).astype(np.float32) / 65535
        if grey.min() < 0 or grey.max() > 1:
            raise ValueError("its grey values do not fit into 16 bits; save it with 8 or 16 bits a channel.")
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
