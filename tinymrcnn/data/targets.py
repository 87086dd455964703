"""What the models take: images and their targets, checked before anything is computed from them."""

from typing import Any

import numpy as np


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


def check_targets(images: Any, targets: Any, *, num_classes: int, needs_masks: bool = False) -> None:
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
