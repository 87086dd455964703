"""Images of any sizes to one batch, with the targets scaled too.

Resized so that the shorter side is min_size unless the longer one would exceed max_size (paper, section 3.1),
normalised, padded at the right and the bottom to a common size. The public models differ in each of these steps:

                    torchvision                              detectron2
    resized         the normalised floats, bilinearly        the 8-bit pixels, by Pillow, antialiased
    resized sizes   rounded down                             rounded to the nearest pixel
    channels        RGB, 0 to 1, mean and standard deviation BGR, 0 to 255, mean only
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, array_module, channels_first, like, to_device
from tinymrcnn.settings import Positive, Range, Settings

# Shapes below: N images of H x W pixels, G ground-truth objects of an image

Size = Annotated[int, Range(1, 65_536)]
Images = list[Array]  # (3, H, W) floats in 0..1, of any sizes
Targets = list[dict[str, Any]]  # what check_target asks for, of every image


@dataclass(frozen=True)
class TransformSettings(Settings):
    """How images are resized and normalised. Lengths are in pixels."""

    min_size: Size | None = None  # of the shorter side after resizing; None keeps the native size
    max_size: Size | None = None  # of the longer side
    train_min_sizes: tuple[Size, ...] = ()  # in training the shorter side is one of these, drawn for every image
    resize: Literal["float", "pillow"] = "float"  # bilinear, of normalised floats; or antialiased, of 8-bit pixels
    round_sizes: bool = False  # resized sides to the nearest pixel (detectron2), else down (torchvision)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # of the network's input, and of mean and std
    pixel_scale: Positive = 1.0  # the brightest pixel, before the mean is subtracted; 255 in detectron2
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    size_divisible: Annotated[int, Range(1, 4096)] = 32  # a batch is padded to a multiple; 1: to its largest image


@dataclass
class Batch:
    """What the network sees.

    images: (N, 3, H, W) Tensor, normalised and padded. sizes, original_sizes: the (height, width) of every image
    after and before resizing. image_ids: ints. step: the training step; all random choices are a function of it
    and the image_ids. targets: per image a dict of device arrays boxes (G, 4) in resized pixels, labels (G,),
    masks (G, h, w); None without targets. objects: the same on the host, where samples are drawn."""

    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    image_ids: list[int]
    targets: list[dict[str, Array]] | None
    step: int = 0
    objects: list[dict[str, np.ndarray]] | None = None

    @property
    def gt_boxes(self) -> list[Array]:
        """The boxes of the ground truth on the host, (G, 4) for every image."""
        return [target["boxes"] for target in self.objects or ()]


def make_batch(
    images: Images, targets: Targets | None = None, *, settings: TransformSettings, min_sizes: list[int] | None = None,
    device: str = "cpu", dtype: Any = np.float32,
) -> Batch:  # fmt: skip
    """Normalise, resize, pad and move a list of images, and their targets if there are any. check_images and
    check_targets (data/targets.py) must have passed them.

    images: (3, H, W) float arrays in 0..1, RGB. targets: a dict an image (see check_target). min_sizes: for every
    image the length of its shorter side, in place of settings.min_size."""
    ids = image_ids_of(images, targets)
    original_sizes = [image.shape[1:] for image in images]
    resized = []
    for i, (image, before) in enumerate(zip(images, original_sizes, strict=True)):
        shorter = min_sizes[i] if min_sizes else settings.min_size
        after = resized_size(before, shorter, settings.max_size, rounded=settings.round_sizes) if shorter else before
        if settings.resize == "pillow":
            image = _resize_bytes(image, after)
        resized.append(_resize(normalize(to_device(image.astype(dtype), device), settings), after))
    sizes = [image.shape[1:] for image in resized]
    divisor = settings.size_divisible
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    padded = array_module(*resized).zeros((len(images), height, width, 3), dtype)
    for canvas, image, (h, w) in zip(padded, resized, sizes, strict=True):
        canvas[:h, :w] = image.transpose(1, 2, 0)
    objects = moved = None
    if targets is not None:
        objects = [_scale_target(*frame, dtype) for frame in zip(targets, original_sizes, sizes, strict=True)]
        moved = [{name: to_device(array, device) for name, array in target.items()} for target in objects]
    return Batch(Tensor(channels_first(padded)), sizes, original_sizes, ids, moved, objects=objects)


def image_ids_of(images: Images, targets: Targets | None) -> list[int]:
    """The image_id of every target; where it has none, or there are no targets, the position in the batch."""
    return [int(target.get("image_id", i)) for i, target in enumerate(targets or [{}] * len(images))]


def normalize(image: Array, settings: TransformSettings) -> Array:
    """(3, H, W) RGB in 0..1 as the network takes it: channels in its order, scaled, minus the mean, divided by std."""
    if settings.channel_order == "bgr":
        image = image[::-1]
    if settings.pixel_scale != 1:
        image = image * settings.pixel_scale
    mean, std = like(np.array([settings.pixel_mean, settings.pixel_std], image.dtype).reshape(2, 3, 1, 1), image)
    return (image - mean) / std


def resized_size(
    size: tuple[int, int], min_size: int, max_size: int | None, *, rounded: bool = False
) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is min_size or, if that is less, the longer max_size; rounded
    down, as torchvision does, or to the nearest pixel, as detectron2 does."""
    scale, most = min_size / min(size), math.inf if max_size is None else max_size
    if rounded:  # in two steps, as detectron2 computes it
        sides = [scale * side for side in size]
        sides = [side * min(1.0, most / max(sides)) + 0.5 for side in sides]
    else:
        sides = [side * min(scale, most / max(size)) for side in size]
    height, width = (max(1, int(side)) for side in sides)
    return height, width


def _resize(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear: every pixel between the two nearest of each axis, whose centres are half a pixel from their edges."""
    for axis in (1, 2):
        before, after, dtype = image.shape[axis], size[axis - 1], image.dtype
        if before == after:
            continue
        # in the image's own dtype as torch does it: the step rounded, and the product and the difference as one
        step = dtype.type(before) / dtype.type(after)
        at = np.clip((np.arange(after) + 0.5) * float(step) - 0.5, 0, before - 1).astype(dtype)
        low = at.astype(np.int64)
        share = (at - low).astype(dtype).reshape((-1, 1) if axis == 1 else (-1,))
        low, high, share = (like(part, image) for part in (low, np.minimum(low + 1, before - 1), share))
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def _resize_bytes(image: Array, size: tuple[int, int]) -> Array:
    """By Pillow, which averages over all pixels that a new one covers; in 8 bits a channel before and after."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    height, width = size
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1) / 255.0


def _scale_target(
    target: dict[str, Any], before: tuple[int, int], after: tuple[int, int], dtype: Any
) -> dict[str, np.ndarray]:
    """The target without its crowd regions (they are ignored, never learned), with boxes and masks
    scaled."""
    keep = np.flatnonzero(np.asarray(target.get("iscrowd", np.zeros(len(target["labels"])))) == 0)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2, dtype)
    scaled = {"boxes": target["boxes"][keep].astype(dtype) * scale, "labels": target["labels"][keep].astype(np.int64)}
    if "masks" in target:
        masks = target["masks"][keep]
        if before != after:
            rows, columns = (_nearest(m, n) for m, n in zip(before, after, strict=True))
            masks = masks.take(columns, 2).take(rows, 1)
        scaled["masks"] = masks
    return {name: np.ascontiguousarray(array) for name, array in scaled.items()}


def _nearest(before: int, after: int) -> Array:
    """Which of `before` pixels each of `after` reads: floor(i before / after), in float32 as torch rounds it."""
    step = np.float32(before) / np.float32(after)
    return np.minimum(np.floor(np.arange(after, dtype=np.float32) * step).astype(np.int64), before - 1)
