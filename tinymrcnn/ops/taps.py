"""Convolution without im2col: a sum over the taps of the filters, the places (i, j) in their windows.

    out = sum over (i, j) of the map as it lies under this tap @ filters[:, :, i, j].T

The map under a tap is a view, every stride-th cell from the tap's on, so nothing is copied; the results of some lines
stay in the cache until all taps were added. ops/convolution.py chooses.
"""

import numpy as np

from tinymrcnn.backend import Array
from tinymrcnn.ops.im2col import Window
from tinymrcnn.ops.products import finish, is_ours, kept, multiply, pack
from tinymrcnn.threads import spread

PIECE = 1 << 18  # numbers of the map, or of the result, that a core's cache holds


def fits(image: Array, window: Window) -> bool:
    """Whether this is the faster way: with our own kernel, channels enough for a product with each tap, and lines so
    long that few of a tile's rows lie behind their ends."""
    long = image.shape[3] >= 32 and window.out_size(image.shape[1:3])[1] >= 12
    return is_ours(image) and long and not window.is_pointwise


def _pack(filters: Array) -> Array:
    return pack(filters.transpose(2, 3, 1, 0).reshape(-1, *filters.shape[1::-1]))


def correlate(
    image: Array, filters: Array, window: Window, bias: Array | None, relu: bool, residual: Array | None
) -> Array:
    """As winograd.correlate, for filters of any size, and any stride and dilation."""
    kernel, stride, padding, dilation = window
    out = np.empty((len(image), *window.out_size(image.shape[1:3]), len(filters)), np.float32)
    factor = kept(_pack, filters, out.size // len(filters))
    _, height, width, channels = out.shape
    step = max(1, PIECE // (width * max(image.shape[3], channels)))
    pieces = [(n, y, min(y + step, height)) for n in range(len(image)) for y in range(0, height, step)]

    def under(tap: int, length: int, first: int, end: int) -> tuple[slice, slice]:
        """Which windows, from `first` to before `end`, have a cell of the map under the tap, and which cells."""
        at = tap * dilation - padding
        first, end = max(first, -(at // stride)), min(end, (length - 1 - at) // stride + 1)
        return slice(first, max(first, end)), slice(first * stride + at, max(first, end) * stride + at, stride)

    def work(index: int) -> None:
        n, y, end = pieces[index]
        lines = out[n, y:end]
        lines[...] = 0 if residual is None else residual[n, y:end]
        for (i, j), matrix in zip(np.ndindex(*kernel), factor, strict=True):
            (rows, cells_y), (columns, cells_x) = under(i, image.shape[1], y, end), under(j, image.shape[2], 0, width)
            some = out[n, rows, columns].transpose(1, 0, 2)
            every_line = np.broadcast_to(matrix, (some.shape[1], *matrix.shape))
            multiply(image[n, cells_y, cells_x].transpose(1, 0, 2), every_line, some, start=some)
        finish(lines.reshape(-1, channels), bias, relu=relu)

    spread(work, len(pieces), image, 2 * out.size * filters[0].size, out.nbytes)
    return out
