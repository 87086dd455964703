"""Images of any sizes to one batch, with the targets scaled too; and the checks of the user's images and targets.

Resized so that the shorter side is min_size unless the longer one would exceed max_size (paper, section 3.1),
normalised, padded at the right and the bottom to a common size. The public models differ in each of these steps:

                    torchvision                              detectron2
    resized         the normalised floats, bilinearly        the 8-bit pixels, by Pillow, antialiased
    resized sizes   rounded down                             rounded to the nearest pixel
    channels        RGB, 0 to 1, mean and standard deviation BGR, 0 to 255, mean only
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import Array, channels_first, to_device
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
    masks (G, h, w); None without targets."""

    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    image_ids: list[int]
    targets: list[dict[str, Array]] | None
    step: int = 0

    @property
    def gt_boxes(self) -> list[Array]:
        """The boxes of the ground truth, (G, 4) for every image."""
        return [target["boxes"] for target in self.targets or ()]


def make_batch(
    images: Images, targets: Targets | None = None, *, settings: TransformSettings, min_sizes: list[int] | None = None,
    device: str = "cpu", dtype: Any = np.float32,
) -> Batch:  # fmt: skip
    """Normalise, resize, pad and move a list of images, and their targets if there are any. check_images and
    check_targets must have passed them.

    images: (3, H, W) float arrays in 0..1, RGB. targets: a dict an image (see check_target). min_sizes: for every
    image the length of its shorter side, in place of settings.min_size."""
    ids = image_ids_of(images, targets)
    original_sizes = [image.shape[1:] for image in images]
    resized = []
    for i, (image, before) in enumerate(zip(images, original_sizes, strict=True)):
        shorter = min_sizes[i] if min_sizes else settings.min_size
        after = before
        if shorter is not None:
            after = resized_size(before, shorter, settings.max_size, rounded=settings.round_sizes)
        if settings.resize == "pillow":
            resized.append(normalize(_resize_bytes(image, after).astype(dtype), settings))
        else:
            resized.append(_resize(normalize(image.astype(dtype), settings), after))
    sizes = [image.shape[1:] for image in resized]
    divisor = settings.size_divisible
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    padded = np.zeros((len(images), height, width, 3), dtype)
    for canvas, image, (h, w) in zip(padded, resized, sizes, strict=True):
        canvas[:h, :w] = image.transpose(1, 2, 0)
    moved = None
    if targets is not None:
        frames = zip(targets, original_sizes, sizes, strict=True)
        moved = [_scale_target(*frame, device, dtype) for frame in frames]
    return Batch(Tensor(to_device(channels_first(padded), device)), sizes, original_sizes, ids, moved)


def image_ids_of(images: Images, targets: Targets | None) -> list[int]:
    """The image_id of every target; where it has none, or there are no targets, the position in the batch."""
    return [int(target.get("image_id", i)) for i, target in enumerate(targets or [{}] * len(images))]


def normalize(image: Array, settings: TransformSettings) -> Array:
    """(3, H, W) RGB in 0..1 as the network takes it: channels in its order, scaled, minus the mean, divided by std."""
    if settings.channel_order == "bgr":
        image = image[::-1]
    if settings.pixel_scale != 1:
        image = image * settings.pixel_scale
    constants = settings.pixel_mean, settings.pixel_std
    mean, std = (np.asarray(values, image.dtype).reshape(3, 1, 1) for values in constants)
    return (image - mean) / std


def resized_size(
    size: tuple[int, int], min_size: int, max_size: int | None, *, rounded: bool = False
) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is min_size or, if that is less, the longer max_size; rounded
    down, as torchvision does, or to the nearest pixel, as detectron2 does."""
    scale = min_size / min(size)
    if rounded:  # in two steps, as detectron2 computes it
        sides = [scale * side for side in size]
        shrunk = 1.0 if max_size is None or max(sides) <= max_size else max_size / max(sides)
        height, width = (max(1, int(side * shrunk + 0.5)) for side in sides)
        return height, width
    if max_size is not None:
        scale = min(scale, max_size / max(size))
    height, width = (max(1, int(side * scale)) for side in size)
    return height, width


def _resize(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear: every pixel between the two nearest of each axis, whose centres are half a pixel from their edges."""
    for axis in (1, 2):
        before, after = image.shape[axis], size[axis - 1]
        if before == after:
            continue
        # in the image's own dtype as torch does it: the step rounded, and the product and the difference as one
        dtype = image.dtype
        step = dtype.type(before) / dtype.type(after)
        at = np.clip((np.arange(after) + 0.5) * float(step) - 0.5, 0, before - 1).astype(dtype)
        low = at.astype(np.int64)
        share = (at - low).astype(dtype).reshape((-1, 1) if axis == 1 else (-1,))
        high = np.minimum(low + 1, before - 1)
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def _resize_bytes(image: Array, size: tuple[int, int]) -> Array:
    """By Pillow, which averages over all pixels that a new one covers; in 8 bits a channel before and after."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    height, width = size
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1) / 255.0


def _scale_target(
    target: dict[str, Any], before: tuple[int, int], after: tuple[int, int], device: str, dtype: Any
) -> dict[str, Array]:
    """The target on the device, without its crowd regions (they are ignored, never learned), with boxes and masks
    scaled."""
    keep = np.flatnonzero(np.asarray(target.get("iscrowd", np.zeros(len(target["labels"])))) == 0)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2, dtype)
    scaled = {"boxes": target["boxes"][keep].astype(dtype) * scale, "labels": target["labels"][keep].astype(np.int64)}
    if "masks" in target:
        masks = target["masks"][keep]
        if before != after:
            rows, columns = (_nearest(m, n) for m, n in zip(before, after, strict=True))
            masks = masks.take(rows, 1).take(columns, 2)
        scaled["masks"] = masks
    return {name: to_device(np.ascontiguousarray(array), device) for name, array in scaled.items()}


def _nearest(before: int, after: int) -> np.ndarray:
    """Which of `before` pixels each of `after` reads: floor(i before / after), in float32 as torch rounds it."""
    step = np.float32(before) / np.float32(after)
    nearest: np.ndarray = np.minimum(np.floor(np.arange(after, dtype=np.float32) * step).astype(np.int64), before - 1)
    return nearest


def check_images(images: Any) -> None:
    """Raise ValueError unless images is a non-empty list of finite (3, H, W) float arrays."""
    if isinstance(images, np.ndarray) or not len(images):
        raise ValueError(
            "The model takes a list of at least one image, each an array (3, H, W); a batch array is none."
        )
    for i, image in enumerate(images):
        wrong = not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[0] != 3 or image.size == 0
        if wrong or image.dtype.kind != "f":
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"Image {i} must be a NumPy array of floats (3, H, W) with values in 0..1, not {found}.")
        if not np.isfinite(image).all():
            raise ValueError(f"Image {i} has pixels that are not finite.")


def check_targets(images: Images, targets: Any, *, num_classes: int, needs_masks: bool = False) -> None:
    """Raise ValueError unless there is a target for every image that fits it (see check_target)."""
    if len(targets) != len(images):
        raise ValueError(f"There are {len(images)} images but {len(targets)} targets.")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        check_target(target, i, image.shape[1:], num_classes=num_classes, needs_masks=needs_masks)


def check_target(target: Any, i: int, size: tuple[int, int], *, num_classes: int, needs_masks: bool = False) -> None:
    """Check the target of image i: boxes (G, 4) floats inside the image with a positive size, labels (G,) integers
    in 1..num_classes-1, masks (G, H, W) of 0 and 1 (may be absent unless needed), iscrowd (G,) (may be absent),
    image_id (may be absent).

    Raises ValueError naming the image and the first object that is wrong."""
    if not isinstance(target, dict):
        raise ValueError(f"Image {i}: the target must be a dict with boxes and labels, not {type(target).__name__}.")
    image_id = target.get("image_id", 0)
    if not np.issubdtype(type(image_id), np.integer) or image_id < 0:
        raise ValueError(f"Image {i}: image_id must be a non-negative integer, not {image_id!r}.")
    where = f"Image {i}" + (f" (image_id {image_id})" if "image_id" in target else "")
    for name in ("boxes", "labels"):
        if not isinstance(target.get(name), np.ndarray):
            raise ValueError(f"{where}: the target needs a NumPy array {name!r}.")
    boxes, labels, (height, width) = target["boxes"], target["labels"], size
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        raise ValueError(f"{where}: boxes must be floats of shape (G, 4), not {boxes.dtype} {boxes.shape}.")
    if labels.shape != (len(boxes),) or labels.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels must be {len(boxes)} integers, not {labels.dtype} {labels.shape}.")
    crowd: Any = target.get("iscrowd", labels)
    if len(np.atleast_1d(crowd)) != len(boxes):
        raise ValueError(f"{where}: iscrowd must have one entry for each of the {len(boxes)} boxes.")
    corners = boxes.astype(np.float32)  # a very thin box can have a size in float64 and none in float32
    corner1, corner2, corner = corners[:, :2], corners[:, 2:], np.array([width, height])
    slack = 1.0  # annotations often reach a fraction of a pixel over the border
    outside = (corner1 < -slack) | (corner2 <= 0) | (corner1 >= corner) | (corner2 > corner + slack)
    rules = (
        (~np.isfinite(boxes), "has coordinates that are not finite"),
        (corner2 <= corner1, "has no positive width and height (boxes are x1, y1, x2, y2)"),
        (outside, f"does not lie inside the image of {height} x {width} (height x width)"),
    )
    for wrong, what in rules:
        if wrong.any():
            g = int(wrong.any(axis=1).argmax())
            raise ValueError(f"{where}: box {g}, {boxes[g].tolist()}, {what}.")
    wrong = (labels < 1) | (labels >= num_classes)
    if wrong.any():
        g = int(wrong.argmax())
        raise ValueError(
            f"{where}: label {g} is {labels[g]}, but the classes of this model are 1 to {num_classes - 1} "
            "(0 is the background)."
        )
    masks, shape = target.get("masks"), (len(boxes), height, width)
    if masks is None and not needs_masks:
        return
    if not isinstance(masks, np.ndarray) or masks.shape != shape:
        found = masks.shape if isinstance(masks, np.ndarray) else type(masks).__name__
        raise ValueError(
            f"{where}: masks must be an array of the shape {shape}, one mask of the image's size for every box, "
            f"not {found}."
        )
    if masks.dtype.kind not in "ub" or (masks.size and masks.max() > 1):
        raise ValueError(f"{where}: masks must be uint8 (or bool) with values 0 and 1.")
