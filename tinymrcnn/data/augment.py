"""Augmentation: the same objects seen in other ways, so that a few images teach more.

Every function here takes an image (3, H, W) float32 in 0..1 and, where it moves pixels, its target, and returns new
ones; nothing is changed in place. What is drawn at random comes from a generator that loader.py makes from (seed, step,
image). Where pixels are resampled, cut off or covered, the boxes are those around what is left of the masks.

The article flips only left and right (section 3.1). With a few hundred images more pays: turns for what has no up, as
in Ronneberger et al., U-Net (2015); zoom and paste as in Ghiasi et al., Simple Copy-Paste (2021), section 3, where zoom
is "scale jittering".
"""

import math

import numpy as np

from tinymrcnn.settings import AugmentSettings

# Shapes below: images of H x W pixels, N objects

LEAST_SHARE = 0.1  # an object of which less is left is no target any more
PER_OBJECT = ("boxes", "labels", "masks", "area", "iscrowd")  # the arrays of a target with a row for each object


def augment(image, target: dict, settings: AugmentSettings, rng: np.random.Generator):
    """(image, target), varied once at random as the settings say; paste takes a second image, see loader.py."""
    if settings.turn:
        image, target = turn(image, target, int(rng.integers(4)))
    if settings.zoom != (1, 1):
        least, most = settings.zoom
        scale = math.exp(rng.uniform(math.log(least), math.log(most)))  # halves are as likely as doubles
        image, target = zoom(image, target, scale, tuple(rng.random(2).tolist()))
    if settings.brightness or settings.contrast or settings.hue:
        brightness, contrast, hue = (
            rng.uniform(-most, most) for most in (settings.brightness, settings.contrast, settings.hue)
        )
        image = recolor(image, 1 + brightness, 1 + contrast, hue)
    if settings.blur:
        image = blur(image, rng.uniform(0, settings.blur))
    return image, target


# Where the pixels are ------------------------------------------------------------------------------------


def flip_horizontally(image, target: dict):
    """The mirror image (3, H, W) and its target: boxes and masks, if it has any, mirrored, the rest unchanged. No input
    is modified."""
    width = image.shape[2]
    boxes = target["boxes"].copy()
    boxes[:, 0::2] = width - boxes[:, 2::-2]
    mirrored = {**target, "boxes": boxes}
    if "masks" in target:
        mirrored["masks"] = np.ascontiguousarray(target["masks"][:, :, ::-1])
    return np.ascontiguousarray(image[:, :, ::-1]), mirrored


def turn(image, target: dict, quarters: int):
    """The image and its target turned by so many quarters, against the clock: (3, H, W) becomes (3, W, H) if that is
    odd."""
    boxes, width = target["boxes"], image.shape[2]
    for side in (width, image.shape[1], width)[: quarters % 4]:
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, side - x2, y2, side - x1], axis=1)
    turned = {**target, "boxes": boxes}
    if "masks" in target:
        turned["masks"] = np.ascontiguousarray(np.rot90(target["masks"], quarters, axes=(1, 2)))
    return np.ascontiguousarray(np.rot90(image, quarters, axes=(1, 2))), turned


def zoom(image, target: dict, scale: float, place: tuple[float, float]):
    """The image enlarged (scale > 1), of which a window of the old size is cut out, or made smaller (scale < 1) on a
    ground of its mean colour. place: where the window lies, or the smaller image, from 0 (top, left) to 1 (bottom,
    right).

    Objects that keep less than LEAST_SHARE of their pixels are dropped from the target. Crowd regions stay as long as a
    pixel of them does."""
    ground = image.mean(axis=(1, 2), keepdims=True)
    axes = [_window(side, scale, at) for side, at in zip(image.shape[1:], place, strict=True)]
    for axis, (pixels, _) in zip((1, 2), axes, strict=True):
        image = _resampled(image, axis, pixels)
    (_, row_within), (_, column_within) = axes
    image = np.where(row_within[:, None] & column_within, image, ground)
    masks = None
    if "masks" in target:
        rows, columns = ((pixels + 0.5).astype(np.int64) for pixels, _ in axes)  # the nearest
        masks = target["masks"].take(rows, 1).take(columns, 2) * (row_within[:, None] & column_within)
    return image, _cut_target(target, image.shape[1:], scale, place, masks)


def _window(side: int, scale: float, place: float) -> tuple[np.ndarray, np.ndarray]:
    """Of every pixel along one axis of the new image: the pixel of the old one, a float32 in 0..side - 1, that lies
    there, and whether it lies within the old image."""
    pixels = (np.arange(side, dtype=np.float32) + 0.5) / scale + _offset(side, scale, place) - 0.5
    return pixels.clip(0, side - 1), (pixels >= -0.5) & (pixels < side - 0.5)


def _offset(side: int, scale: float, place: float) -> float:
    """Where the window begins in the old image; below 0 where the image becomes smaller."""
    return place * (side - side / scale)


def _resampled(image, axis: int, pixels: np.ndarray):
    """Along an axis, the value between the two pixels that lie around each of `pixels`, linearly."""
    low = pixels.astype(np.int64)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    share = (pixels - np.floor(pixels)).reshape((-1, 1) if axis == 1 else (-1,))
    return image.take(low, axis) * (1 - share) + image.take(high, axis) * share


def paste(image, target: dict, other, other_target: dict, chosen: np.ndarray):
    """Objects of another image in front of this one's, where they lie there: `chosen`, their rows in its target. Both
    targets need masks.

    Images of two sizes lie on one another with their corners at the top left. Objects of either that keep less than
    LEAST_SHARE of their pixels are dropped. Crowd regions stay as long as a pixel of them does."""
    h, w = np.minimum(image.shape[1:], other.shape[1:])
    theirs = np.zeros((len(chosen), *image.shape[1:]), np.uint8)
    theirs[:, :h, :w] = other_target["masks"][chosen, :h, :w]
    front = theirs.max(axis=0, initial=0) > 0
    image = image.copy()
    image[:, front] = other[:, :h, :w][:, front[:h, :w]]
    pasted = {name: value[chosen] if name in PER_OBJECT else value for name, value in other_target.items()}
    mine, pasted = _with_masks(target, target["masks"] * ~front), _with_masks(pasted, theirs)
    joined = {name: np.concatenate([mine[name], pasted[name]]) for name in PER_OBJECT if name in target}
    return image, {**target, **joined}


def _cut_target(target: dict, size, scale: float, place, masks) -> dict:
    """The target of zoom(): boxes around the new masks (N, H, W), or moved and clipped where there are none."""
    if masks is not None:
        return _with_masks(target, masks, scale**2)
    dtype = target["boxes"].dtype
    offsets = [_offset(side, scale, at) for side, at in zip(size, place, strict=True)]
    moved = (target["boxes"] - np.array(offsets[::-1] * 2, dtype)) * np.float32(scale)
    boxes = moved.clip(0, np.array([size[1], size[0]] * 2, dtype))
    left, whole = ((corners[:, 2:] - corners[:, :2]).prod(1) for corners in (boxes, moved))
    return _what_is_left({**target, "boxes": boxes}, left, whole)


def _with_masks(target: dict, masks, growth: float = 1.0) -> dict:
    """The target with what is left of its masks, which have grown by this factor in pixels, and the boxes around it."""
    whole = target["masks"].sum((1, 2)) * growth
    boxes = _boxes_around(masks).astype(target["boxes"].dtype)
    return _what_is_left({**target, "masks": masks, "boxes": boxes}, masks.sum((1, 2)), whole)


def _what_is_left(target: dict, left, whole) -> dict:
    """Without the objects that have lost nearly all of their pixels: `left` (N,) of `whole` (N,)."""
    keep = (left > 0) & ((left >= LEAST_SHARE * whole) | (target.get("iscrowd", 0) == 1))
    if "area" in target:
        target = {**target, "area": left.astype(np.float32)}
    return {name: value[keep] if name in PER_OBJECT else value for name, value in target.items()}


def _boxes_around(masks) -> np.ndarray:
    """(N, 4), the boxes around the pixels of masks (N, H, W); 0, 0, 0, 0 around none."""
    boxes = np.zeros((len(masks), 4))
    for n, mask in enumerate(masks):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            boxes[n] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


# What colour they have -----------------------------------------------------------------------------------


def recolor(image, brightness: float, contrast: float, hue: float):
    """The image with its differences from the mean colour multiplied by `contrast`, everything multiplied by
    `brightness`, and the colours turned around the axis of the greys by `hue` circles (1/3 takes red to green); cut
    to 0..1."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    varied = ((image - mean) * np.float32(contrast) + mean) * np.float32(brightness)
    if hue:
        varied = np.einsum("ij,jhw->ihw", _hue_matrix(hue), varied)
    return varied.clip(0, 1)


def _hue_matrix(hue: float) -> np.ndarray:
    """The rotation (3, 3) of RGB around (1, 1, 1) by `hue` circles: grey stays grey (Rodrigues' formula)."""
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    third, side = (1 - cos) / 3, sin / math.sqrt(3)
    rows = [[cos + third, third - side, third + side], [third + side, cos + third, third - side]]
    return np.array([*rows, [third - side, third + side, cos + third]], np.float32)


def blur(image, sigma: float):
    """The image out of focus: a Gaussian of `sigma` pixels, with the border's pixels repeated beyond it."""
    reach = math.ceil(3 * sigma)
    if reach == 0:
        return image
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    weights = (weights / weights.sum()).astype(image.dtype)
    for axis in (1, 2):
        side = image.shape[axis]
        padded = image.take(np.arange(-reach, side + reach).clip(0, side - 1), axis)
        image = sum(weight * padded.take(range(start, start + side), axis) for start, weight in enumerate(weights))
    return image
