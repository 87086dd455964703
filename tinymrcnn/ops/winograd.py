"""Winograd's minimal filtering for 3x3 convolutions with stride 1 on the CPU: F(4x4, 3x3).

A tile of 4x4 outputs needs 6x6 inputs. After the transforms below a convolution becomes an elementwise product,

    Y = A^T [ (G g G^T) . (B^T d B) ] A,

36 multiplications where the definition takes 144; summed over the channels, the elementwise products of all tiles
are 36 matrix products. Lavin & Gray, Fast Algorithms for Convolutional Neural Networks (2015), section 4.2.
The gradient of the filters follows by reading the same formula backwards: dg = G^T [ (B^T d B) . (A dY A^T) ] G.

In float32 the result is off by about 1e-5 of the largest value, where a plain product is off by 1e-7; so float64
never comes here, and `enabled = False` switches this file off. ops/convolution.py chooses.
"""

import numpy as np

from tinymrcnn.kernels import cpu_kernel, prange, scalar

enabled = True

G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float32) / np.float32(24)
GG = np.kron(G, G)  # (36, 9): G g G^T as one product with the flattened g

# The transformed tiles are made in pieces of about this many numbers, to stay in the cache and bound the memory.
PIECE = 1 << 20


def fits(image, shape, stride: int, padding: int, dilation: int) -> bool:
    """Whether this is the faster way for filters of `shape` (O, C, kh, kw): 3x3 with stride 1 in float32 on the CPU,
    and enough channels and tiles to pay for the transforms."""
    if not enabled or not isinstance(image, np.ndarray) or image.dtype != np.float32:
        return False
    if tuple(shape[2:]) != (3, 3) or stride != 1 or dilation != 1 or padding > 2:
        return False
    n, h, w, channels = image.shape
    return min(channels, shape[0]) >= 16 and n * (h + 2 * padding - 2) * (w + 2 * padding - 2) >= 256


def correlate(image, filters, padding: int):
    """(N, H, W, C) and (O, C, 3, 3) to (N, out_h, out_w, O), all C-contiguous float32."""
    n, h, w, channels = image.shape
    out = np.empty((n, h + 2 * padding - 2, w + 2 * padding - 2, len(filters)), np.float32)
    transformed = (GG @ filters.transpose(2, 3, 1, 0).reshape(9, -1)).reshape(36, channels, -1)
    grid = _tile_grid(out)
    for first, tiles, products in _pieces(out, channels, len(filters)):
        _transform_input(image, tiles, first, *grid, padding)
        np.matmul(tiles.transpose(1, 0, 2), transformed, out=products.transpose(1, 0, 2))
        _transform_output(products, out, first, *grid)
    return out


def correlate_weight_grad(grad, image, padding: int):
    """The gradient of the filters, (O, C, 3, 3), from that of the output, (N, out_h, out_w, O), and the image."""
    channels, filters = image.shape[3], grad.shape[3]
    total = np.zeros((36, channels, filters), np.float32)
    grid = _tile_grid(grad)
    for first, tiles, products in _pieces(grad, channels, filters):
        _transform_input(image, tiles, first, *grid, padding)
        _transform_grad(grad, products, first, *grid)
        total += np.matmul(tiles.transpose(1, 2, 0), products.transpose(1, 0, 2))
    gradient = (GG.T @ total.reshape(36, -1)).reshape(9, channels, filters).transpose(2, 0, 1)
    return np.ascontiguousarray(gradient).reshape(filters, 3, 3, channels).transpose(0, 3, 1, 2)


_workspaces = {}


def workspace(name: str, size: int):
    """An uninitialised float32 buffer that is used again and again: fresh memory costs more than the transforms."""
    if name not in _workspaces or _workspaces[name].size < size:
        _workspaces[name] = np.empty(size, np.float32)
    return _workspaces[name][:size]


def _tile_grid(out) -> tuple[int, int]:
    return -(-out.shape[1] // 4), -(-out.shape[2] // 4)


def _pieces(out, channels: int, filters: int):
    """Some rows of tiles at a time: (the first row of tiles, buffers (tiles, 36, C) and (tiles, 36, O))."""
    tiles_h, tiles_w = _tile_grid(out)
    rows = len(out) * tiles_h
    step = max(1, min(rows, PIECE // (36 * tiles_w * max(channels, filters))))
    tiles = workspace("tiles", 36 * step * tiles_w * channels)
    products = workspace("products", 36 * step * tiles_w * filters)
    for first in range(0, rows, step):
        count = min(step, rows - first) * tiles_w
        yield (
            first,
            tiles[: 36 * count * channels].reshape(count, 36, channels),
            products[: 36 * count * filters].reshape(count, 36, filters),
        )


# One factor of each transform, on six or four rows of a matrix from row `at` on; row k of the result goes to row
# `to + k * step` of out. A loop for every row keeps few enough arrays in play for the compiler to vectorise it.


@scalar
def _apply_b(d, at, out, to, step):
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
def _apply_a(m, at, out, to, step):
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
def _apply_a_transposed(g, at, out, to, step):
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
def _transform_input(image, tiles, first, tiles_h, tiles_w, padding):
    """B^T d B of every tile: first along the columns, for a whole row of tiles at once, then along the rows."""
    _, height, width, channels = image.shape
    wide = 4 * tiles_w + 2
    shown = min(width, wide - padding)  # the rest lies under no window
    for row in prange(len(tiles) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        lines = np.zeros((6, wide, channels), image.dtype)  # zero outside of the image
        for i in range(max(0, padding - 4 * ty), min(6, height + padding - 4 * ty)):
            lines[i, padding : padding + shown] = image[n, 4 * ty + i - padding, :shown]
        columns = np.empty((6, wide, channels), image.dtype)
        _apply_b(lines.reshape(6, -1), 0, columns.reshape(6, -1), 0, 1)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_b(columns[i], 4 * tx, tiles[row * tiles_w + tx], 6 * i, 1)


@cpu_kernel
def _transform_output(products, out, first, tiles_h, tiles_w):
    """A^T m A of every tile, cut at the borders of the output."""
    _, height, width, filters = out.shape
    for row in prange(len(products) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        half = np.empty((24, filters), out.dtype)
        tile = np.empty((16, filters), out.dtype)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_a(products[row * tiles_w + tx], 6 * i, half, i, 6)
            for j in range(4):
                _apply_a(half, 6 * j, tile, j, 4)
            shown = min(4, width - 4 * tx)
            for i in range(min(4, height - 4 * ty)):
                out[n, 4 * ty + i, 4 * tx : 4 * tx + shown] = tile[4 * i : 4 * i + shown]


@cpu_kernel
def _transform_grad(grad, products, first, tiles_h, tiles_w):
    """A g A^T of every tile of the output's gradient, the transpose of _transform_output."""
    _, height, width, filters = grad.shape
    for row in prange(len(products) // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        lines = np.zeros((4, 4 * tiles_w, filters), grad.dtype)
        for i in range(min(4, height - 4 * ty)):
            lines[i, :width] = grad[n, 4 * ty + i]
        columns = np.empty((6, 4 * tiles_w, filters), grad.dtype)
        _apply_a_transposed(lines.reshape(4, -1), 0, columns.reshape(6, -1), 0, 1)
        for tx in range(tiles_w):
            for i in range(6):
                _apply_a_transposed(columns[i], 4 * tx, products[row * tiles_w + tx], 6 * i, 1)
