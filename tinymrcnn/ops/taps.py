"""Convolution without im2col: a sum over the rows of the filters.

    out = sum over i of the windows' row i @ filters[:, :, i].T

Row i of all windows is a view of the padded image: every window begins some pixels after the one before, and where they
overlap, the view shows the same numbers twice. So only the border is made, for some lines at a time, whose results stay
in the cache until all rows were added. With a dilation a row is no longer one run of memory, and every pixel of it, a
tap, is added by itself. ops/convolution.py chooses.
"""

import numpy as np

from tinymrcnn.backend import Array
from tinymrcnn.ops.im2col import Window
from tinymrcnn.ops.micro_kernel import ROWS
from tinymrcnn.ops.products import is_ours, kept, multiply, pack
from tinymrcnn.threads import PIECE, get_num_threads, shares, spread, workspace


def fits(image: Array, window: Window) -> bool:
    """Whether this is the faster way: with our own kernel, runs of memory long enough for a product with each, and
    lines so long that few of a tile's rows lie behind their ends."""
    length, width = _run(window) * image.shape[3], window.out_size(image.shape[1:3])[1]
    return is_ours(image) and not window.is_pointwise and length >= 16 and width >= max(12, 8 * (-width % ROWS))


def _run(window: Window) -> int:
    """How many pixels of a window lie side by side in memory."""
    return window.kernel[1] if window.dilation == 1 else 1


def _pack(filters: Array, run: int) -> Array:
    """The factor of every run of a window."""
    count, channels, _, _ = filters.shape
    return pack(filters.transpose(2, 3, 1, 0).reshape(-1, run * channels, count))


def correlate(
    image: Array, filters: Array, window: Window, bias: Array | None, relu: bool, residual: Array | None
) -> Array:
    """As winograd.correlate, for filters of any size, and any stride and dilation."""
    (kernel, stride, _, dilation), run = window, _run(window)
    out = np.empty((len(image), *window.out_size(image.shape[1:3]), len(filters)), np.float32)
    factor = kept(_pack, filters, out.size // len(filters), run)
    _, height, width, channels = out.shape
    most, threads = PIECE // (width * max(stride * image.shape[3], channels)), get_num_threads()
    cuts = shares(height, most, -(-threads // max(1, len(image))))
    pieces = [(n, cut) for n in range(len(image)) for cut in cuts]

    def work(index: int) -> None:
        n, cut = pieces[index]
        lines, result = _padded_lines(image[n], cut.start, cut.stop, window), out[n, cut].transpose(1, 0, 2)
        shift, start = bias, None if residual is None else residual[n, cut].transpose(1, 0, 2)
        down, right = (stride * step for step in lines.strides[:2])
        for number, matrix in enumerate(factor):
            i, j = divmod(number * run, kernel[1])
            at = lines[i * dilation :, j * dilation :]
            rows = np.lib.stride_tricks.as_strided(at, (*result.shape[:2], len(matrix[0])), (right, down, at.itemsize))
            every_line = np.broadcast_to(matrix, (result.shape[1], *matrix.shape))
            multiply(rows, every_line, result, shift, start, relu and number == len(factor) - 1)
            shift, start = None, result

    spread(work, len(pieces), image, 2 * out.size * filters[0].size, out.nbytes)
    return out


def _padded_lines(image: Array, first: int, end: int, window: Window) -> Array:
    """The lines of the padded image (H, W, C) that windows from line `first` to before `end` of the result see."""
    (kernel, stride, padding, dilation), (height, width, channels) = window, image.shape
    top = first * stride - padding
    bottom = (end - 1) * stride - padding + dilation * (kernel[0] - 1) + 1
    if not padding:
        return image[top:bottom]
    lines = workspace("lines", (bottom - top, width + 2 * padding, channels))
    inside = slice(max(0, -top), max(0, min(bottom, height) - top))
    lines[: inside.start], lines[inside.stop :], lines[:, :padding], lines[:, padding + width :] = 0, 0, 0, 0
    lines[inside, padding : padding + width] = image[max(0, top) : max(0, bottom)]
    return lines
