"""Images of any sizes to one batch, with the targets scaled along; and the checks of what the user handed in.

Resized so that the shorter side is min_size unless the longer one would exceed max_size (paper, section 3.1),
normalised, padded at the right and the bottom to a common size. The public models differ in each of these steps:

                    torchvision                              detectron2
    resized         the normalised floats, bilinearly        the 8-bit pixels, by Pillow, antialiased
    resized sizes   rounded down                             rounded to the nearest pixel
    channels        RGB, 0 to 1, mean and standard deviation BGR, 0 to 255, mean only
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import channels_first, to_device


@dataclass
class Batch:
    """What the network sees.

    images: (N, 3, H, W) Tensor, normalised and padded. sizes, original_sizes: the (height, width) of every image
    after and before resizing. image_ids: ints. targets: per image a dict of device arrays boxes (G, 4) in resized
    pixels, labels (G,), masks (G, h, w); None without targets."""

    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    image_ids: list[int]
    targets: list[dict] | None


def make_batch(
    images,
    targets,
    mean,
    std,
    min_size,
    max_size,
    size_divisible,
    num_classes,
    needs_masks=False,
    device="cpu",
    dtype=None,
    channel_order="rgb",
    pixel_scale=1.0,
    resize="float",
    round_sizes=False,
):
    """Check, normalise, resize, pad and move a list of images, and their targets if there are any.

    images: (3, H, W) float arrays in 0..1, RGB. targets: a dict an image (see check_target). min_size: None keeps the
    sizes; a function of the image_id draws one. needs_masks: whether targets must have masks. mean, std: of the
    channels in channel_order ("rgb" or "bgr"), of pixels from 0 to pixel_scale. resize: "float", of the normalised
    image, or "pillow", of its 8-bit pixels. Raises ValueError that names the image, and the object in it, for
    anything malformed."""
    check_images(images)
    if targets is not None and len(targets) != len(images):
        raise ValueError(f"There are {len(images)} images but {len(targets)} targets.")
    dtype = dtype or images[0].dtype
    original_sizes = [image.shape[1:] for image in images]
    for i, target in enumerate(targets or ()):
        check_target(target, i, original_sizes[i], num_classes, needs_masks)
    ids = [int(target.get("image_id", i)) for i, target in enumerate(targets or [{}] * len(images))]
    resized = []
    for image, before, image_id in zip(images, original_sizes, ids, strict=True):
        shorter = min_size(image_id) if callable(min_size) else min_size
        after = before if shorter is None else resized_size(before, shorter, max_size, round_sizes)
        if resize == "pillow":
            image = _resize_bytes(image, after)
        image = normalize(image.astype(dtype), mean, std, channel_order, pixel_scale)
        resized.append(image if resize == "pillow" else _resize(image, after))
    sizes = [image.shape[1:] for image in resized]
    height, width = (-(-max(side) // size_divisible) * size_divisible for side in zip(*sizes, strict=True))
    padded = np.zeros((len(images), height, width, 3), dtype)
    for canvas, image, (h, w) in zip(padded, resized, sizes, strict=True):
        canvas[:h, :w] = image.transpose(1, 2, 0)
    moved = None
    if targets is not None:
        moved = [
            _move_target(target, before, after, device, dtype)
            for target, before, after in zip(targets, original_sizes, sizes, strict=True)
        ]
    return Batch(Tensor(to_device(channels_first(padded), device)), sizes, original_sizes, ids, moved)


def normalize(image, mean, std, channel_order: str = "rgb", pixel_scale: float = 1.0):
    """(3, H, W) RGB in 0..1 as the network wants it: channels in its order, scaled, less the mean, over std."""
    if channel_order == "bgr":
        image = image[::-1]
    if pixel_scale != 1:
        image = image * pixel_scale
    mean, std = (np.asarray(values, image.dtype).reshape(3, 1, 1) for values in (mean, std))
    return (image - mean) / std


def resized_size(size, min_size: int, max_size: int | None, rounded: bool = False) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is min_size or, if that is less, the longer max_size; rounded
    down, as torchvision does, or to the nearest pixel, as detectron2 does."""
    scale = min_size / min(size)
    if rounded:  # in two steps, as detectron2 computes it
        sides = [scale * side for side in size]
        shrunk = 1.0 if max_size is None or max(sides) <= max_size else max_size / max(sides)
        return tuple(max(1, int(side * shrunk + 0.5)) for side in sides)
    if max_size is not None:
        scale = min(scale, max_size / max(size))
    return tuple(max(1, int(side * scale)) for side in size)


def _resize(image, size):
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


def _resize_bytes(image, size):
    """By Pillow, which averages over all pixels that a new one covers; in 8 bits a channel before and after."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    height, width = size
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1) / 255.0


def _move_target(target, before, after, device, dtype) -> dict:
    """Drop crowd regions (they are ignored, never learned), scale boxes and masks, move to the device."""
    keep = np.flatnonzero(np.asarray(target.get("iscrowd", np.zeros(len(target["labels"])))) == 0)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2, dtype)
    moved = {"boxes": target["boxes"][keep].astype(dtype) * scale, "labels": target["labels"][keep].astype(np.int64)}
    if "masks" in target:
        masks = target["masks"][keep]
        if before != after:
            rows, columns = (_nearest(m, n) for m, n in zip(before, after, strict=True))
            masks = masks[:, rows[:, None], columns]
        moved["masks"] = masks
    return {name: to_device(np.ascontiguousarray(array), device) for name, array in moved.items()}


def _nearest(before: int, after: int) -> np.ndarray:
    """Which of `before` pixels each of `after` reads: floor(i before / after), in float32 as torch rounds it."""
    step = np.float32(before) / np.float32(after)
    return np.minimum(np.floor(np.arange(after, dtype=np.float32) * step).astype(np.int64), before - 1)


def check_images(images) -> None:
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


def check_target(target: dict, i: int, size, num_classes: int, needs_masks: bool = False) -> None:
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
    if len(np.atleast_1d(target.get("iscrowd", labels))) != len(boxes):
        raise ValueError(f"{where}: iscrowd must have one entry for each of the {len(boxes)} boxes.")
    corners = boxes.astype(np.float32)  # in which a sliver that float64 tells apart has no size
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
