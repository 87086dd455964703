"""Pictures that move, frame by frame: animated GIF, WebP and PNG by Pillow, videos by imageio-ffmpeg where it is there.

One frame is in memory at a time, in the form of images.py. Not from the paper.
"""

import contextlib
import importlib.util
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from tinymrcnn.data.images import MAX_PIXELS, to_rgb
from tinymrcnn.files import printable, replacing

ANIMATIONS = (".gif", ".webp", ".png", ".apng")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def is_film(path) -> bool:
    """Whether a file is a video, by its suffix, or an animation of more than one frame."""
    suffix = Path(path).suffix.lower()
    if suffix in VIDEOS:
        return True
    if suffix not in ANIMATIONS:
        return False
    with contextlib.suppress(Exception), Image.open(path, formats=["GIF", "WEBP", "PNG"]) as image:
        return getattr(image, "n_frames", 1) > 1
    return False  # read_image says what is wrong with it


def read_film(path) -> tuple[Iterator[np.ndarray], float]:
    """(frames, frames a second) of an animation or a video: each frame (3, H, W) RGB, float32 in 0..1.

    Raises FileNotFoundError where there is no such file, ValueError where it cannot be read, or is a video and
    imageio-ffmpeg is not installed; a frame that is damaged raises ValueError when it is asked for."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{printable(path)}'.")
    return _video(path) if path.suffix.lower() in VIDEOS else _animation(path)


def write_film(path, frames: Iterable[np.ndarray], rate: float) -> None:
    """Write frames, (H, W, 3) uint8, all of one size, as an animated GIF or as a video, by the suffix.

    rate: frames a second. The file appears whole or not at all. Raises ValueError where there is no frame, or for a
    video without imageio-ffmpeg."""
    path, frames = Path(path), iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"There is no frame to write to '{printable(path)}'.")
    with replacing(path) as file:
        if path.suffix.lower() in VIDEOS:
            _write_video(file, path.suffix, first, frames, rate)
        else:
            others = (Image.fromarray(frame) for frame in frames)
            duration = round(1000 / rate)
            Image.fromarray(first).save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)


# Animations ------------------------------------------------------------------------------------------------


def _animation(path: Path) -> tuple[Iterator[np.ndarray], float]:
    with _told(path), Image.open(path, formats=["GIF", "WEBP", "PNG"]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"its frames have more than {MAX_PIXELS / 1e6:.0f} million pixels")
        image.load()
        duration = image.info.get("duration") or 100  # milliseconds; browsers show 0 as 100

    def frames():
        with _told(path), Image.open(path, formats=["GIF", "WEBP", "PNG"]) as image:
            for frame in ImageSequence.Iterator(image):
                yield to_rgb(frame)

    return frames(), 1000 / duration


# Videos ----------------------------------------------------------------------------------------------------


def _ffmpeg(path: Path):
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError(f"'{printable(path)}' is a video: to read and write those, pip install imageio-ffmpeg.")
    import imageio_ffmpeg

    return imageio_ffmpeg


def _video(path: Path) -> tuple[Iterator[np.ndarray], float]:
    ffmpeg = _ffmpeg(path)
    with _told(path):
        stream = ffmpeg.read_frames(str(path))
        about = next(stream)
    width, height = about["size"]

    def frames():
        with _told(path), contextlib.closing(stream):
            for data in stream:
                pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
                yield pixels.transpose(2, 0, 1).astype(np.float32) / 255

    return frames(), about["fps"]


def _write_video(file: BinaryIO, suffix: str, first: np.ndarray, others: Iterator[np.ndarray], rate: float) -> None:
    """ffmpeg writes a file of its own, which is copied into `file`."""
    height, width = (side // 2 * 2 for side in first.shape[:2])  # the usual compression wants even sides
    with tempfile.TemporaryDirectory(prefix="tinymrcnn-") as folder:
        made = Path(folder, f"film{suffix}")
        writer = _ffmpeg(made).write_frames(str(made), (width, height), fps=rate, macro_block_size=1, quality=8)
        with contextlib.closing(writer):
            writer.send(None)  # it starts
            for frame in itertools.chain([first], others):
                writer.send(np.ascontiguousarray(frame[:height, :width]))
        with open(made, "rb") as written:
            shutil.copyfileobj(written, file)


@contextlib.contextmanager
def _told(path: Path):
    """Errors of the decoders, of many kinds, become one that names the file."""
    try:
        yield
    except (MemoryError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = printable(str(error).strip().split("\n")[-1]).rstrip(".") or type(error).__name__  # ffmpeg tells a lot
        raise ValueError(f"The file '{printable(path)}' cannot be read as a film: {reason}.") from error
