"""Winograd's minimal filtering for 3x3 convolutions with stride 1 on the CPU: F(4x4, 3x3).

A tile of 4x4 outputs needs 6x6 inputs. After the transforms below a convolution becomes an elementwise product,

    Y = A^T [ (G g G^T) . (B^T d B) ] A,

36 multiplications where the definition takes 144; summed over the channels, the elementwise products of all tiles
are 36 matrix products. Lavin & Gray, Fast Algorithms for Convolutional Neural Networks (2015), section 4.2.
The gradient of the filters follows by reading the same formula backwards: dg = G^T [ (B^T d B) . (A dY A^T) ] G.

In float32 the result is off by about 1e-5 of the largest value, where a plain product is off by 1e-7; so float64
never uses it, and `enabled = False` switches this file off. ops/convolution.py chooses.
"""

from typing import Any

import numpy as np

from tinymrcnn.backend import Array
from tinymrcnn.kernels import cpu_kernel, scalar
from tinymrcnn.ops.im2col import Window
from tinymrcnn.ops.micro_kernel import WIDTH
from tinymrcnn.ops.products import is_ours, kept, multiply, pack
from tinymrcnn.threads import PIECE, get_num_threads, one_blas_thread, shares, slices, spread, workspace

enabled = True

G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float32) / np.float32(24)
GG = np.kron(G, G)  # (36, 9): G g G^T as one product with the flattened g

# A piece is some rows of tiles: enough tiles for fast products, or as many numbers as a core's cache holds. The
# gradient of the filters is a sum over all tiles; every piece costs a pass over that sum, so there are fewer pieces.
TILES, GRAD_TILES = 128, 512


def fits(image: Array, filters: int, window: Window) -> bool:
    """Whether this is the faster way for so many filters: 3x3 with stride 1, where our own kernel multiplies, and
    enough channels and tiles to pay for the transforms."""
    kernel, stride, padding, dilation = window
    if not enabled or not is_ours(image) or tuple(kernel) != (3, 3) or stride != 1 or dilation != 1 or padding > 2:
        return False
    height, width = window.out_size(image.shape[1:3])
    return min(image.shape[3], filters) >= 16 and len(image) * height * width >= 256


def correlate(
    image: Array, filters: Array, padding: int, bias: Array | None = None, relu: bool = False,
    residual: Array | None = None,
) -> Array:  # fmt: skip
    """(N, H, W, C) and (O, C, 3, 3) to (N, out_h, out_w, O), plus bias (O,) and residual, and through a ReLU if so
    said: all float32 and C-contiguous."""
    n, h, w, channels = image.shape
    bias = np.zeros(len(filters), np.float32) if bias is None else bias
    lowest = np.float32(0 if relu else -np.inf)
    out = np.empty((n, h + 2 * padding - 2, w + 2 * padding - 2, len(filters)), np.float32)
    transformed = kept(transform_filters, filters, out.size // len(filters))
    grid = _tile_grid(out)
    most = max(TILES, PIECE // (36 * max(channels, len(filters))))
    cuts = shares(n * grid[0], most // grid[1], get_num_threads())

    def work(index: int) -> None:
        first, count = cuts[index].start, (cuts[index].stop - cuts[index].start) * grid[1]
        tiles, products = workspace("tiles", (count, 36, channels)), workspace("products", (count, 36, len(filters)))
        _transform_input(image, tiles, first, *grid, padding)
        multiply(tiles, transformed, products)
        _transform_output(products, out, first, *grid, bias, lowest, out[:0] if residual is None else residual)

    spread(work, len(cuts), image, 4 * out.size * channels)  # products: 36 multiplications a tile of 16 outputs
    return out


def transform_filters(filters: Array) -> Array:
    """G g G^T of every filter, (O, C, 3, 3), as the packed factor of 36 products (C, O)."""
    count, channels = filters.shape[:2]
    result = np.empty((36, -(-count // WIDTH), channels, WIDTH), np.float32)

    def transform(p: int) -> None:
        some = pack(filters[p * WIDTH : (p + 1) * WIDTH].transpose(2, 3, 1, 0).reshape(9 * channels, -1))
        multiply(GG, pack(some.reshape(9, -1)), result[:, p].reshape(36, -1))

    spread(transform, result.shape[1], filters, 18 * result.size, result.nbytes)
    return result


def correlate_weight_grad(grad: Array, image: Array, padding: int) -> Array:
    """The gradient of the filters, (O, C, 3, 3), from that of the output, (N, out_h, out_w, O), and the image."""
    channels, filters = image.shape[3], grad.shape[3]
    total = np.zeros((36, channels, filters), np.float32)
    tiles_h, tiles_w = _tile_grid(grad)
    rows, step = len(grad) * tiles_h, max(1, GRAD_TILES // tiles_w)
    for first in range(0, rows, step):
        _add_products(total, grad, image, padding, first, min(first + step, rows))
    with one_blas_thread:
        gradient = (GG.T @ total.reshape(36, -1)).reshape(9, channels, filters).transpose(2, 0, 1)
    return np.ascontiguousarray(gradient).reshape(filters, 3, 3, channels).transpose(0, 3, 1, 2)


def _add_products(total: Array, grad: Array, image: Array, padding: int, first: int, end: int) -> None:
    """Add to total (36, C, O) what the tiles of rows first to end - 1 contribute."""
    (tiles_h, tiles_w), channels = _tile_grid(grad), image.shape[3]
    count = (end - first) * tiles_w
    tiles, products = workspace("tiles", (count, 36, channels)), workspace("products", (count, 36, grad.shape[3]))
    rows, matrices = slices(end - first), slices(36)

    def transform(part: int) -> None:
        row, end = rows[part].start, rows[part].stop
        some = slice(row * tiles_w, end * tiles_w)
        _transform_input(image, tiles[some], first + row, tiles_h, tiles_w, padding)
        _transform_grad(grad, products[some], first + row, tiles_h, tiles_w)

    def multiply(part: int) -> None:
        some = matrices[part]
        total[some] += np.matmul(tiles.transpose(1, 2, 0)[some], products.transpose(1, 0, 2)[some])

    spread(transform, len(rows), image, 0, 2 * (tiles.nbytes + products.nbytes))
    spread(multiply, len(matrices), image, 2 * tiles.size * grad.shape[3])


def _tile_grid(out: Array) -> tuple[int, int]:
    return -(-out.shape[1] // 4), -(-out.shape[2] // 4)


# One factor of each transform, on six or four rows of a matrix from row `at` on; row k of the result goes to row
# `to + k * step` of out. With a loop for every row, few enough arrays are in use for the compiler to vectorise it.


@scalar
def _apply_b(d: Array, at: int, out: Array, to: int, step: int) -> None:
    """B^T d: six rows to six."""
    channels = d.shape[1]
    for c in range(channels):
        out[to, c] = 4 * (d[at, c] - d[at + 2, c]) - (d[at + 2, c] - d[at + 4, c])
    for c in range(channels):
        out[to + step, c] = (d[at + 3, c] + d[at + 4, c]) - 4 * (d[at + 1, c] + d[at + 2, c])
    for c in range(channels):
        out[to + 2 * step, c] = (d[at + 4, c] - d[at + 3, c]) + 4 * (d[at + 1, c] - d[at + 2, c])
    for c in range(channels):
        out[to + 3 * step, c] = (d[at + 4, c] - d[at + 2, c]) + 2 * (d[at + 3, c] - d[at + 1, c])
    for c in range(channels):
        out[to + 4 * step, c] = (d[at + 4, c] - d[at + 2, c]) - 2 * (d[at + 3, c] - d[at + 1, c])
    for c in range(channels):
        out[to + 5 * step, c] = 4 * (d[at + 1, c] - d[at + 3, c]) - (d[at + 3, c] - d[at + 5, c])


@scalar
def _apply_a(m: Array, at: int, out: Array, to: int, step: int) -> None:
    """A^T m: six rows to four."""
    channels = m.shape[1]
    for c in range(channels):
        out[to, c] = m[at, c] + (m[at + 1, c] + m[at + 2, c]) + (m[at + 3, c] + m[at + 4, c])
    for c in range(channels):
        out[to + step, c] = (m[at + 1, c] - m[at + 2, c]) + 2 * (m[at + 3, c] - m[at + 4, c])
    for c in range(channels):
        out[to + 2 * step, c] = (m[at + 1, c] + m[at + 2, c]) + 4 * (m[at + 3, c] + m[at + 4, c])
    for c in range(channels):
        out[to + 3 * step, c] = (m[at + 1, c] - m[at + 2, c]) + 8 * (m[at + 3, c] - m[at + 4, c]) + m[at + 5, c]


@scalar
def _apply_a_transposed(g: Array, at: int, out: Array, to: int, step: int) -> None:
    """A g: four rows to six."""
    channels = g.shape[1]
    for c in range(channels):
        out[to, c] = g[at, c]
    for c in range(channels):
        out[to + step, c] = (g[at, c] + g[at + 2, c]) + (g[at + 1, c] + g[at + 3, c])
    for c in range(channels):
        out[to + 2 * step, c] = (g[at, c] + g[at + 2, c]) - (g[at + 1, c] + g[at + 3, c])
    for c in range(channels):
        out[to + 3 * step, c] = (g[at, c] + 4 * g[at + 2, c]) + 2 * (g[at + 1, c] + 4 * g[at + 3, c])
    for c in range(channels):
        out[to + 4 * step, c] = (g[at, c] + 4 * g[at + 2, c]) - 2 * (g[at + 1, c] + 4 * g[at + 3, c])
    for c in range(channels):
        out[to + 5 * step, c] = g[at + 3, c]


@cpu_kernel
def _transform_input(image: Array, tiles: Array, first: int, tiles_h: int, tiles_w: int, padding: int) -> None:
    """B^T d B of every tile: first along the columns, for a whole row of tiles at once, then along the rows."""
    _, height, width, channels = image.shape
    wide = 4 * tiles_w + 2
    shown = min(width, wide - padding)  # the rest lies under no window
    lines, columns = np.zeros((6, wide, channels), image.dtype), np.empty((6, wide, channels), image.dtype)
    for row in range(len(tiles) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        for i in range(6):
            y = 4 * ty + i - padding
            if 0 <= y < height:
                for x in range(shown):  # a whole slice takes as long to compile as all other kernels of this file
                    for c in range(channels):
                        lines[i, padding + x, c] = image[n, y, x, c]
            else:
                lines[i] = 0
        _apply_b(lines.reshape(6, -1), 0, columns.reshape(6, -1), 0, 1)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_b(columns[i], 4 * tx, tiles[row * tiles_w + tx], 6 * i, 1)


@cpu_kernel
def _transform_output(
    products: Array, out: Array, first: int, tiles_h: int, tiles_w: int, bias: Array, lowest: Any, residual: Array
) -> None:
    """A^T m A of every tile, cut at the borders of the output, plus bias and residual (may be empty), and at least
    `lowest`."""
    _, height, width, filters = out.shape
    half, tile = np.empty((24, filters), out.dtype), np.empty((16, filters), out.dtype)
    for row in range(len(products) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_a(products[row * tiles_w + tx], 6 * i, half, i, 6)
            for j in range(4):
                _apply_a(half, 6 * j, tile, j, 4)
            for i in range(min(4, height - 4 * ty)):
                for j in range(min(4, width - 4 * tx)):
                    y, x = 4 * ty + i, 4 * tx + j
                    for c in range(filters):
                        value = tile[4 * i + j, c] + bias[c]
                        if len(residual) > 0:
                            value += residual[n, y, x, c]
                        out[n, y, x, c] = lowest if value < lowest else value  # a NaN stays


@cpu_kernel
def _transform_grad(grad: Array, products: Array, first: int, tiles_h: int, tiles_w: int) -> None:
    """A g A^T of every tile of the output's gradient, the transpose of _transform_output."""
    _, height, width, filters = grad.shape
    lines, columns = np.zeros((4, 4 * tiles_w, filters), grad.dtype), np.empty((6, 4 * tiles_w, filters), grad.dtype)
    for row in range(len(products) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        for i in range(4):
            if 4 * ty + i < height:
                for x in range(width):
                    for c in range(filters):
                        lines[i, x, c] = grad[n, 4 * ty + i, x, c]
            else:
                lines[i] = 0
        _apply_a_transposed(lines.reshape(4, -1), 0, columns.reshape(6, -1), 0, 1)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_a_transposed(columns[i], 4 * tx, products[row * tiles_w + tx], 6 * i, 1)
