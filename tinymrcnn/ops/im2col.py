"""im2col and col2im: a convolution's windows as the rows of a matrix, and back.

Row (n, i, j) of the matrix holds the window under output pixel (i, j) of image n, in the order (kernel row,
kernel column, channel): for channels-last images every piece of it is a contiguous run. Windows that reach
over the border read zeros. col2im is the transpose: every element of the matrix is added back to the pixel
that it was read from.
"""

from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.backend import Array
from tinymrcnn.kernels import EACH, LANES, cpu_kernel, cuda, cuda_kernel, lanes_of, run, scalar, unravel, unravel_bin


class Window(NamedTuple):
    """How the windows of a convolution lie on an image. kernel: (height, width) of the filters; stride, padding and
    dilation in pixels, the same both ways."""

    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(out_h, out_w): how many windows there are on an image of this size (height, width)."""
        reach_h, reach_w = (self.dilation * (k - 1) + 1 - 2 * self.padding for k in self.kernel)
        return (size[0] - reach_h) // self.stride + 1, (size[1] - reach_w) // self.stride + 1

    @property
    def is_pointwise(self) -> bool:
        """Whether every window is one pixel: that of a 1x1 convolution."""
        return tuple(self.kernel) == (1, 1) and self.stride == 1 and self.padding == 0


@cpu_kernel
def _im2col_cpu(thread: int, threads: int, x: Array, columns: Array, first_row: int, *numbers: int) -> None:
    """im2col for the lines of output pixels from first_row on that `columns` has room for."""
    height, width, kernel_h, kernel_w, stride, padding, dilation = numbers
    _, x_height, x_width, channels = x.shape
    lines = x.reshape(len(x), x_height, x_width * channels)
    run = kernel_w if dilation == 1 else 1  # so many pixels of a window lie side by side in memory
    for row in range(thread, columns.shape[0] // width, threads):
        n, i = divmod(np.int64(first_row + row), height)
        for j in range(width):
            out = columns[row * width + j]
            for u in range(kernel_h):
                y = i * stride - padding + u * dilation
                for v in range(0, kernel_w, run):
                    z = j * stride - padding + v * dilation
                    at = (u * kernel_w + v) * channels
                    first, end = (max(z, 0), min(z + run, x_width)) if 0 <= y < x_height else (z, z)
                    if end - first == run and run * channels >= 32:  # from 0 on, so that the loop becomes vectors
                        source, target = lines[n, y, z * channels : end * channels], out[at:]
                        for c in range(len(source)):
                            target[c] = source[c]
                        continue
                    if end - first < run:
                        out[at : at + run * channels] = 0
                    shift = at - z * channels
                    for c in range(first * channels, end * channels):
                        out[shift + c] = lines[n, y, c]


@cuda_kernel
def _im2col_cuda(x: Array, columns: Array, first_row: int, *numbers: int) -> None:
    """The same; some threads share the channels of a window's pixel, whose place each works out once."""
    height, width, kernel_h, kernel_w, stride, padding, dilation = numbers
    channels, lanes = x.shape[3], lanes_of(x.shape[3])
    for index in range(cuda.grid(1), columns.size // channels * lanes, cuda.gridsize(1)):
        row, u, v, lane = unravel(index, kernel_h, kernel_w, lanes)
        line, j = divmod(np.uint32(row), np.uint32(width))
        n, i = divmod(np.uint32(first_row + line), np.uint32(height))
        y, z = np.int64(i) * stride - padding + u * dilation, np.int64(j) * stride - padding + v * dilation
        inside, at = 0 <= y < x.shape[1] and 0 <= z < x.shape[2], (u * kernel_w + v) * channels
        while lane < channels:
            columns[row, at + lane] = x[n, y, z, lane] if inside else x.dtype.type(0)
            lane += lanes


def check_whole_numbers(**sizes: int | None) -> None:
    """Raises TypeError unless stride, padding and so on are whole numbers: here they are the same both ways."""
    for name, value in sizes.items():
        if value is not None and not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is a whole number, the same in both directions, not {value!r}.")


def im2col(x: Array, columns: Array, first_row: int, size: tuple[int, int], window: Window) -> None:
    """Fill `columns` with the windows of some rows of output pixels.

    x: (N, H, W, C), C-contiguous. columns: (rows * out_w, kernel_h * kernel_w * C), C-contiguous.
    first_row: the first output row, counted through the whole batch (n * out_h + i). size: (out_h, out_w)."""
    numbers = *size, *window.kernel, window.stride, window.padding, window.dilation
    run(_im2col_cpu, _im2col_cuda, columns.size, x, columns, first_row, *numbers)


@cpu_kernel
def _col2im_cpu(thread: int, threads: int, columns: Array, x: Array, *numbers: int) -> None:
    """col2im; a thread adds to one line of x, so that no two add to the same pixel."""
    height, width, kernel_h, kernel_w, stride, padding, dilation = numbers
    channels = x.shape[3]
    for line in range(thread, x.shape[0] * x.shape[1], threads):
        n, y = divmod(np.int64(line), x.shape[1])
        for u in range(kernel_h):
            i, rest = divmod(y + padding - u * dilation, stride)
            if rest == 0 and 0 <= i < height:
                for j in range(width):
                    row = (n * height + i) * width + j
                    for v in range(kernel_w):
                        z = j * stride - padding + v * dilation
                        if 0 <= z < x.shape[2]:
                            at = (u * kernel_w + v) * channels
                            for c in range(channels):
                                x[n, y, z, c] += columns[row, at + c]


@scalar
def window_at(pixel: int, stride: int, windows: int) -> Any:
    """Along one axis, which of the windows begins at this pixel (of the padded image); -1 where none does."""
    index = np.int64(np.uint32(pixel) // np.uint32(stride))  # a GPU divides numbers of 32 bits faster than those of 64
    return index if 0 <= pixel == index * stride and index < windows else -1


@cuda_kernel
def _col2im_cuda(columns: Array, x: Array, *numbers: int) -> None:
    """The same; some threads share the channels of a pixel, and gather all that belongs to it."""
    height, width, kernel_h, kernel_w, stride, padding, dilation = numbers
    channels = x.shape[3]
    for index in range(cuda.grid(1), x.size // channels * lanes_of(channels), cuda.gridsize(1)):
        n, y, z, first, rest = unravel_bin(index, x.shape[1], x.shape[2], channels)
        for u in range(kernel_h):
            i = window_at(y + padding - u * dilation, stride, height)
            for v in range(kernel_w):
                j = window_at(z + padding - v * dilation, stride, width)
                if i >= 0 and j >= 0:
                    # without a sign, so that nothing has to ask whether an index is negative
                    row, at = np.uint32((n * height + i) * width + j), np.uint32((u * kernel_w + v) * channels)
                    for k in range(EACH):
                        if k * LANES < rest:
                            x[n, y, z, first + k * LANES] += columns[row, at + first + k * LANES]


def col2im(columns: Array, x: Array, size: tuple[int, int], window: Window) -> None:
    """Add every element of `columns` (all windows of the batch, as im2col lays them out) to its pixel of x."""
    numbers = *size, *window.kernel, window.stride, window.padding, window.dilation
    run(_col2im_cpu, _col2im_cuda, max(x.size, columns.size), columns, x, *numbers)
