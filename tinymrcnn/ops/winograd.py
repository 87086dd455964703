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

from tinymrcnn.kernels import cpu_kernel, prange

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
        np.matmul(tiles, transformed, out=products)
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
        total += np.matmul(tiles.transpose(0, 2, 1), products)
    gradient = (GG.T @ total.reshape(36, -1)).reshape(9, channels, filters).transpose(2, 0, 1)
    return np.ascontiguousarray(gradient).reshape(filters, 3, 3, channels).transpose(0, 3, 1, 2)


def _tile_grid(out) -> tuple[int, int]:
    return -(-out.shape[1] // 4), -(-out.shape[2] // 4)


def _pieces(out, channels: int, filters: int):
    """Some rows of tiles at a time: (the first row of tiles, buffers (36, tiles, C) and (36, tiles, O))."""
    tiles_h, tiles_w = _tile_grid(out)
    rows = len(out) * tiles_h
    step = max(1, min(rows, PIECE // (36 * tiles_w * max(channels, filters))))
    tiles = np.empty(36 * step * tiles_w * channels, np.float32)
    products = np.empty(36 * step * tiles_w * filters, np.float32)
    for first in range(0, rows, step):
        count = min(step, rows - first) * tiles_w
        yield (
            first,
            tiles[: 36 * count * channels].reshape(36, count, channels),
            products[: 36 * count * filters].reshape(36, count, filters),
        )


@cpu_kernel
def _transform_input(image, tiles, first, tiles_h, tiles_w, padding):
    """B^T d B of every tile: first along the columns, for a whole row of tiles at once, then along the rows."""
    _, height, width, channels = image.shape
    for row in prange(tiles.shape[1] // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        # the row of tiles, 6 pixels high and zero outside of the image, transformed along the columns
        columns = np.zeros((6, 4 * tiles_w + 2, channels), image.dtype)
        lines = np.zeros((6, width * channels), image.dtype)
        for i in range(6):
            y = 4 * ty + i - padding
            if 0 <= y < height:
                lines[i] = image[n, y].reshape(-1)
        shift = padding * channels
        end = min(width * channels, (4 * tiles_w + 2) * channels - shift)
        flat = columns.reshape(6, -1)
        for c in range(end):
            d0, d1, d2, d3, d4, d5 = lines[0, c], lines[1, c], lines[2, c], lines[3, c], lines[4, c], lines[5, c]
            even, odd = d4 - 4 * d2, d3 - 4 * d1
            even2, odd2 = d4 - d2, 2 * (d3 - d1)
            flat[0, shift + c] = 4 * d0 - 5 * d2 + d4
            flat[1, shift + c] = even + odd
            flat[2, shift + c] = even - odd
            flat[3, shift + c] = even2 + odd2
            flat[4, shift + c] = even2 - odd2
            flat[5, shift + c] = 4 * d1 - 5 * d3 + d5
        for tx in range(tiles_w):
            tile = row * tiles_w + tx
            for i in range(6):
                d = columns[i, 4 * tx : 4 * tx + 6]
                for c in range(channels):
                    d0, d1, d2, d3, d4, d5 = d[0, c], d[1, c], d[2, c], d[3, c], d[4, c], d[5, c]
                    even, odd = d4 - 4 * d2, d3 - 4 * d1
                    even2, odd2 = d4 - d2, 2 * (d3 - d1)
                    tiles[6 * i, tile, c] = 4 * d0 - 5 * d2 + d4
                    tiles[6 * i + 1, tile, c] = even + odd
                    tiles[6 * i + 2, tile, c] = even - odd
                    tiles[6 * i + 3, tile, c] = even2 + odd2
                    tiles[6 * i + 4, tile, c] = even2 - odd2
                    tiles[6 * i + 5, tile, c] = 4 * d1 - 5 * d3 + d5


@cpu_kernel
def _transform_output(products, out, first, tiles_h, tiles_w):
    """A^T m A of every tile, cut at the borders of the output."""
    _, height, width, filters = out.shape
    for row in prange(products.shape[1] // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        columns = np.empty((4, 6, filters), out.dtype)
        corner = np.empty((4, filters), out.dtype)
        for tx in range(tiles_w):
            m = products[:, row * tiles_w + tx]
            for j in range(6):
                for c in range(filters):
                    m1, m2, m3, m4 = m[6 + j, c], m[12 + j, c], m[18 + j, c], m[24 + j, c]
                    columns[0, j, c] = m[j, c] + (m1 + m2) + (m3 + m4)
                    columns[1, j, c] = (m1 - m2) + 2 * (m3 - m4)
                    columns[2, j, c] = (m1 + m2) + 4 * (m3 + m4)
                    columns[3, j, c] = (m1 - m2) + 8 * (m3 - m4) + m[30 + j, c]
            for i in range(min(4, height - 4 * ty)):
                s = columns[i]
                for c in range(filters):
                    s1, s2, s3, s4 = s[1, c], s[2, c], s[3, c], s[4, c]
                    corner[0, c] = s[0, c] + (s1 + s2) + (s3 + s4)
                    corner[1, c] = (s1 - s2) + 2 * (s3 - s4)
                    corner[2, c] = (s1 + s2) + 4 * (s3 + s4)
                    corner[3, c] = (s1 - s2) + 8 * (s3 - s4) + s[5, c]
                for j in range(min(4, width - 4 * tx)):
                    for c in range(filters):
                        out[n, 4 * ty + i, 4 * tx + j, c] = corner[j, c]


@cpu_kernel
def _transform_grad(grad, products, first, tiles_h, tiles_w):
    """A g A^T of every tile of the output's gradient, the transpose of _transform_output."""
    _, height, width, filters = grad.shape
    for row in prange(products.shape[1] // tiles_w):
        n, ty = divmod(np.int64(first + row), tiles_h)
        columns = np.zeros((6, 4 * tiles_w, filters), grad.dtype)
        lines = np.zeros((4, width * filters), grad.dtype)
        for i in range(min(4, height - 4 * ty)):
            lines[i] = grad[n, 4 * ty + i].reshape(-1)
        flat = columns.reshape(6, -1)
        for c in range(width * filters):
            g0, g1, g2, g3 = lines[0, c], lines[1, c], lines[2, c], lines[3, c]
            flat[0, c] = g0
            flat[1, c] = (g0 + g2) + (g1 + g3)
            flat[2, c] = (g0 + g2) - (g1 + g3)
            flat[3, c] = (g0 + 4 * g2) + 2 * (g1 + 4 * g3)
            flat[4, c] = (g0 + 4 * g2) - 2 * (g1 + 4 * g3)
            flat[5, c] = g3
        for tx in range(tiles_w):
            tile = row * tiles_w + tx
            for i in range(6):
                g = columns[i, 4 * tx : 4 * tx + 4]
                for c in range(filters):
                    g0, g1, g2, g3 = g[0, c], g[1, c], g[2, c], g[3, c]
                    products[6 * i, tile, c] = g0
                    products[6 * i + 1, tile, c] = (g0 + g2) + (g1 + g3)
                    products[6 * i + 2, tile, c] = (g0 + g2) - (g1 + g3)
                    products[6 * i + 3, tile, c] = (g0 + 4 * g2) + 2 * (g1 + 4 * g3)
                    products[6 * i + 4, tile, c] = (g0 + 4 * g2) - 2 * (g1 + 4 * g3)
                    products[6 * i + 5, tile, c] = g3
