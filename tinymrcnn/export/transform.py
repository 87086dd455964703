"""Image to batch, as nodes of an ONNX graph: what models/transform.py computes, to the last bit.

Operators that resize exist in ONNX, but every runtime rounds places in them as it likes. Here they are computed, in the
precision of transform.py, and the pixels of those places are taken.
"""

import numpy as np

from tinymrcnn.export.graph import Graph
from tinymrcnn.models.transform import TransformSettings

# A size is (height, width), (2,) int64; the length of an axis is (1,) int64

ZERO, HALF, ONE, BRIGHTEST, PRECISION = np.array([0, 0.5, 1, 255, 2**22])  # float64


def transform(g: Graph, image: str, settings: TransformSettings) -> tuple[str, str, str]:
    """(3, height, width), 0 to 1, as (1, 3, H, W), resized, normalised and padded; the sizes after and before."""
    original = size = g.Shape(image, start=1)
    if settings.min_size:
        size = resized_size(g, original, settings.min_size, settings)
    if settings.min_size and settings.resize == "pillow":
        image = resize_bytes(g, image, size)
    image = normalize(g, image, settings)
    if settings.min_size and settings.resize == "float":
        for axis in (1, 2):
            image = resize(g, image, axis, g.Slice(size, [axis - 1], [axis]))
    padding = g.Mod(g.Sub(0, size), settings.size_divisible)
    image = g.Pad(image, g.Concat([0, 0, 0, 0], padding, axis=0))
    return g.Unsqueeze(image, [0]), size, original


def resized_size(g: Graph, size: str, min_size: int, settings: TransformSettings) -> str:
    """See transform.resized_size."""
    sides = g.to(size, np.float64)
    scale = g.Div(np.float64(min_size), g.ReduceMin(sides))
    if settings.round_sizes:
        sides = g.Mul(scale, sides)
        if settings.max_size is not None:
            sides = g.Mul(sides, g.Min(g.Div(np.float64(settings.max_size), g.ReduceMax(sides)), ONE))
        sides = g.Add(sides, HALF)
    else:
        if settings.max_size is not None:
            scale = g.Min(scale, g.Div(np.float64(settings.max_size), g.ReduceMax(sides)))
        sides = g.Mul(sides, scale)
    return g.Max(g.to(sides, np.int64), 1)


def normalize(g: Graph, image: str, settings: TransformSettings) -> str:
    """See transform.normalize."""
    if settings.channel_order == "bgr":
        image = g.Gather(image, [2, 1, 0])
    if settings.pixel_scale != 1:
        image = g.Mul(image, float(settings.pixel_scale))
    mean, std = np.array([settings.pixel_mean, settings.pixel_std], np.float32).reshape(2, 3, 1, 1)
    return g.Div(g.Sub(image, mean), std)


def resize(g: Graph, image: str, axis: int, after: str) -> str:
    """One axis of an image, bilinearly: every pixel between the two nearest. See transform._resize."""
    before = g.size(image, axis)
    step = g.to(g.Div(g.to(before, np.float32), g.to(after, np.float32)), np.float64)
    last = g.Sub(before, 1)
    at = g.Sub(g.Mul(g.Add(g.arange(after, np.float64), HALF), step), HALF)
    at = g.to(g.Min(g.Max(at, ZERO), g.to(last, np.float64)), np.float32)
    low = g.Floor(at)
    share = g.Sub(at, low)
    if axis == 1:
        share = g.Unsqueeze(share, [1])
    low = g.to(low, np.int64)
    first, second = g.Gather(image, low, axis=axis), g.Gather(image, g.Min(g.Add(low, 1), last), axis=axis)
    return g.Add(g.Mul(first, g.Sub(1.0, share)), g.Mul(second, share))


# As Pillow resizes: in 8 bits, width first; every pixel is the mean of all that it covers, by weights that fall off
# from its centre as a triangle does and are rounded to 22 bits. Sums of whole numbers are exact in float64.


def resize_bytes(g: Graph, image: str, size: str) -> str:
    """See transform._resize_bytes."""
    pixels = g.to(g.Round(g.Mul(g.Clip(image, 0.0, 1.0), 255.0)), np.float64)
    rows, columns = (weights(g, image, size, axis) for axis in (1, 2))
    pixels = to_bytes(g, g.MatMul(rows, to_bytes(g, g.MatMul(pixels, columns))))
    return g.to(g.Div(pixels, BRIGHTEST), np.float32)


def to_bytes(g: Graph, sums: str) -> str:
    """Sums of bytes by weights, to bytes again."""
    return g.Clip(g.Floor(g.Add(g.Div(sums, PRECISION), HALF)), ZERO, BRIGHTEST)


def weights(g: Graph, image: str, size: str, axis: int) -> str:
    """The share of each pixel of an axis in each one of the resized axis, float64, whole numbers: (after, before) for
    axis 1, (before, after) for axis 2, as the products need them."""
    before, after = g.size(image, axis), g.Slice(size, [axis - 1], [axis])
    step = g.Div(g.to(before, np.float64), g.to(after, np.float64))
    places = g.Unsqueeze(g.Add(g.arange(before, np.float64), HALF), [axis - 1])
    centres = g.Unsqueeze(g.Mul(g.Add(g.arange(after, np.float64), HALF), step), [2 - axis])
    shares = g.Max(g.Sub(ONE, g.Div(g.Abs(g.Sub(places, centres)), g.Max(step, ONE))), ZERO)
    shares = g.Div(shares, g.ReduceSum(shares, [2 - axis]))
    return g.Floor(g.Add(g.Mul(shares, PRECISION), HALF))
