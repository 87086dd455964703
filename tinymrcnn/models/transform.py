"""Images of any sizes to one batch, with the targets scaled along; and the checks of what the user handed in.

Resized so that the shorter side is min_size unless the longer one would exceed max_size (paper, section 3.1),
normalised, padded at the right and the bottom to a common size.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, no_grad
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
):
    """Check, normalise, resize, pad and move a list of images, and their targets if there are any.

    images: (3, H, W) float arrays in 0..1. targets: a dict an image (see check_target). min_size: None keeps the
    sizes. needs_masks: whether targets must have masks. Raises ValueError that names the image, and the object in
    it, for anything malformed."""
    check_images(images)
    if targets is not None and len(targets) != len(images):
        raise ValueError(f"There are {len(images)} images but {len(targets)} targets.")
    dtype = dtype or images[0].dtype
    mean, std = (np.asarray(values, dtype).reshape(3, 1, 1) for values in (mean, std))
    original_sizes = [image.shape[1:] for image in images]
    resized = [(image.astype(dtype) - mean) / std for image in images]
    if min_size is not None:
        resized = [_resize(image, resized_size(image.shape[1:], min_size, max_size)) for image in resized]
    sizes = [image.shape[1:] for image in resized]
    height, width = (-(-max(side) // size_divisible) * size_divisible for side in zip(*sizes, strict=True))
    padded = np.zeros((len(images), height, width, 3), dtype)
    for canvas, image, (h, w) in zip(padded, resized, sizes, strict=True):
        canvas[:h, :w] = image.transpose(1, 2, 0)
    moved = None
    if targets is not None:
        moved = []
        for i, target in enumerate(targets):
            check_target(target, i, original_sizes[i], num_classes, needs_masks)
            moved.append(_move_target(target, original_sizes[i], sizes[i], device, dtype))
    ids = [int(target.get("image_id", i)) for i, target in enumerate(targets or [{}] * len(images))]
    return Batch(Tensor(to_device(channels_first(padded), device)), sizes, original_sizes, ids, moved)


def resized_size(size, min_size: int, max_size: int | None) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is min_size or, if that is less, the longer max_size; rounded
    down, as torchvision does."""
    scale = min_size / min(size)
    if max_size is not None:
        scale = min(scale, max_size / max(size))
    return tuple(max(1, int(side * scale)) for side in size)


def _resize(image, size):
    with no_grad():
        return ops.interpolate(Tensor(image[None]), size=size, mode="bilinear").data[0]


def _move_target(target, before, after, device, dtype) -> dict:
    """Drop crowd regions (they are ignored, never learned), scale boxes and masks, move to the device."""
    keep = np.flatnonzero(np.asarray(target.get("iscrowd", np.zeros(len(target["labels"])))) == 0)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2, dtype)
    moved = {"boxes": target["boxes"][keep].astype(dtype) * scale, "labels": target["labels"][keep].astype(np.int64)}
    if "masks" in target:
        masks = target["masks"][keep]
        if before != after:
            rows, columns = (np.arange(n) * m // n for n, m in zip(after, before, strict=True))
            masks = masks[:, rows[:, None], columns]
        moved["masks"] = masks
    return {name: to_device(np.ascontiguousarray(array), device) for name, array in moved.items()}


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
