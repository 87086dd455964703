"""The RoI operators once more, slowly, from their definitions; and the RoIs that the tests try them on.

For every bin these make one (H, W) map: of the cells in it, or of the weights of its samples. Positions are
computed in the dtype under test, since a rounding error may move a sample across the border of the map.
"""

import math
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("roi_golden.npz")  # made by make_roi_golden.py

# image, x1, y1, x2, y2 on maps of 7 x 10 cells at spatial scale 0.5, two images
AWKWARD_ROIS = np.array(
    [
        [0, 2, 2, 10, 8],  # corners on cells
        [1, 1, 3, 9, 11],  # corners at .5
        [0, 5, 5, 5, 5],  # a point at .5
        [1, 4, 6, 4, 6],  # a point on a cell
        [0, 3, 2, 3, 12],  # no width
        [0, 2, 7, 15, 7],  # no height
        [1, 12, 10, 4, 2],  # reversed
        [0, 12, 2, 4, 10],  # reversed along x
        [0, -6, -4, 6, 5],  # over the top left corner
        [1, 14, 9, 28, 21],  # over the bottom right corner
        [0, -40, -30, -20, -22],  # outside, top left
        [1, 40, 2, 50, 10],  # outside, right
        [1, 2, 30, 10, 40],  # outside, below
        [0, -2, -2, 20, 14],  # one cell more than the map
        [0, 0, 0, 19, 13],  # the map
        [1, -200, -100, 300, 150],  # far more than the map
        [1, 0.25, 0.75, 3.3, 1.7],  # less than a cell
        [0, 17.9, 11.9, 18.1, 12.1],  # in the last cell
    ]
)


def random_rois(rng, count, images, height, width, scale):
    """Boxes of all sizes around a map of height x width cells, some over its border, a few reversed."""
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * [width, height]
    half = rng.uniform(0, 0.5, (count, 1)) ** 2 * rng.uniform(0.5, 1, (count, 2)) * [width, height]
    half *= np.where(rng.random((count, 1)) < 0.1, -1, 1)
    image = rng.integers(0, images, (count, 1))
    return np.concatenate([image, (centre - half) / scale, (centre + half) / scale], axis=1)


def round_half_away(value) -> int:
    return int(Decimal(float(value)).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _pool_cells(T, low, high, scale, bins, size):
    """The cells of every bin along one axis."""
    start, end = round_half_away(T(low) * T(scale)), round_half_away(T(high) * T(scale))
    bin_size = T(max(end - start + 1, 1)) / T(bins)
    for p in range(bins):
        first, last = start + math.floor(T(p) * bin_size), start + math.ceil(T(p + 1) * bin_size) - 1
        yield [cell for cell in range(max(first, 0), min(last, size - 1) + 1)]


def roi_pool_reference(features, rois, bins, scale, grad=None):
    """features (N, C, H, W) -> (R, C, h, w), or with grad the gradient of the features."""
    T, (_, channels, height, width) = features.dtype.type, features.shape
    out = np.zeros((len(rois), channels, *bins), T)
    grad_features = np.zeros_like(features)
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        image = features[int(image)], grad_features[int(image)]
        for ph, ys in enumerate(_pool_cells(T, y1, y2, scale, bins[0], height)):
            for pw, xs in enumerate(_pool_cells(T, x1, x2, scale, bins[1], width)):
                for c in range(channels):
                    values = [(image[0][c, y, x], -y, -x) for y in ys for x in xs]
                    if values:
                        value, y, x = max(values)  # of equal values the first: -y, then -x, is largest there
                        out[r, c, ph, pw] = value
                        if grad is not None:
                            image[1][c, -y, -x] += grad[r, c, ph, pw]
    return out if grad is None else grad_features


def _tap_weights(T, position, size):
    """The weight of every cell along one axis for a sample at `position`: all 0 beyond one cell off the map."""
    if not -1 <= position <= size:
        return np.zeros(size, T)
    position = min(max(position, T(0)), T(size - 1))
    return np.maximum(T(0), T(1) - np.abs(position - np.arange(size).astype(T)))  # a tent over the two neighbours


def _sample_weights(T, low, high, scale, bins, size, sampling_ratio, aligned):
    """(bins, samples, size): the weights of every bin's samples along one axis."""
    offset = T(0.5) if aligned else T(0)
    start, end = T(low) * T(scale) - offset, T(high) * T(scale) - offset
    length = end - start if aligned else max(end - start, T(1))
    bin_size = length / T(bins)
    samples = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_size), 0)
    weights = np.zeros((bins, samples, size))
    for p in range(bins):
        for i in range(samples):
            weights[p, i] = _tap_weights(T, start + T(p) * bin_size + (T(i) + T(0.5)) * bin_size / T(samples), size)
    return weights


def roi_align_reference(features, rois, bins, scale, sampling_ratio, aligned, grad=None):
    """features (N, C, H, W) -> (R, C, h, w), or with grad the gradient of the features; summed in float64."""
    T, (_, channels, height, width) = features.dtype.type, features.shape
    out = np.zeros((len(rois), channels, *bins))
    grad_features = np.zeros(features.shape)
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        rows = _sample_weights(T, y1, y2, scale, bins[0], height, sampling_ratio, aligned)
        columns = _sample_weights(T, x1, x2, scale, bins[1], width, sampling_ratio, aligned)
        count = max(rows.shape[1] * columns.shape[1], 1)
        rows, columns = rows.sum(axis=1), columns.sum(axis=1)
        out[r] = rows @ features[int(image)].astype(np.float64) @ columns.T / count
        if grad is not None:
            grad_features[int(image)] += rows.T @ grad[r].astype(np.float64) @ columns / count
    return out if grad is None else grad_features


def roi_align_max_reference(features, rois, bins, scale, sampling_ratio, aligned, grad=None):
    """As roi_align_reference, with the largest sample of a bin instead of the mean, the first of equal ones."""
    T, (_, channels, height, width) = features.dtype.type, features.shape
    out = np.zeros((len(rois), channels, *bins))
    grad_features = np.zeros(features.shape)
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        rows = _sample_weights(T, y1, y2, scale, bins[0], height, sampling_ratio, aligned)
        columns = _sample_weights(T, x1, x2, scale, bins[1], width, sampling_ratio, aligned)
        for c, ph, pw in np.ndindex(channels, *bins):
            samples = rows[ph] @ features[int(image), c].astype(np.float64) @ columns[pw].T
            if samples.size:
                i, j = np.unravel_index(samples.argmax(), samples.shape)
                out[r, c, ph, pw] = samples[i, j]
                if grad is not None:
                    grad_features[int(image), c] += np.outer(rows[ph, i], columns[pw, j]) * grad[r, c, ph, pw]
    return out if grad is None else grad_features


def _position_sensitive_means(T, low, high, scale, bins, size):
    """(bins, size): the share of every cell in the mean of every bin along one axis. The last cell is never read."""
    start, end = round_half_away(T(low) * T(scale)), round_half_away(T(high) * T(scale))
    bin_size = T(max(end - start, 1)) / T(bins)
    means = np.zeros((bins, size))
    for p in range(bins):
        first, last = start + math.floor(T(p) * bin_size), start + math.ceil(T(p + 1) * bin_size) - 1
        cells = [cell for cell in range(size - 1) if first <= cell <= last]
        means[p, cells] = 1 / max(len(cells), 1)
    return means


def ps_roi_pool_reference(features, rois, bins, groups, scale, grad=None):
    """features (N, C * rows * columns, H, W) -> (R, C, h, w), or with grad the gradient of the features; summed in
    float64. The mean over the cells of a bin is one along y of one along x."""
    T, (_, channels, height, width) = features.dtype.type, features.shape
    channels //= groups[0] * groups[1]
    out = np.zeros((len(rois), channels, *bins))
    grad_features = np.zeros(features.shape)
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        rows = _position_sensitive_means(T, y1, y2, scale, bins[0], height)
        columns = _position_sensitive_means(T, x1, x2, scale, bins[1], width)
        for c, ph, pw in np.ndindex(channels, *bins):
            row, column = math.floor(ph * groups[0] / bins[0]), math.floor(pw * groups[1] / bins[1])
            channel = (c * groups[0] + row) * groups[1] + column
            share = np.outer(rows[ph], columns[pw])
            out[r, c, ph, pw] = (share * features[int(image), channel]).sum()
            if grad is not None:
                grad_features[int(image), channel] += share * grad[r, c, ph, pw]
    return out if grad is None else grad_features


def crop_positions(low, high, scale, bins):
    """(bins,): where an RoI is sampled along one axis, in cells, before it is held on the map."""
    return (low + (high - low) * (np.arange(bins) + 0.5) / bins) * scale - 0.5


def _crop_weights(low, high, scale, bins, size):
    """Of the samples along one axis, (bins, size): the weights of the cells, their derivatives for `low`, and those for
    `high`."""
    positions, cells = crop_positions(low, high, scale, bins)[:, None], np.arange(size)
    distances = np.clip(positions, 0, size - 1) - cells
    near = np.abs(distances) < 1
    moves = (positions > 0) & (positions < size - 1)
    slopes = np.where(near & moves, -np.sign(distances), 0)
    share = (np.arange(bins)[:, None] + 0.5) / bins
    return near * (1 - np.abs(distances)), slopes * (1 - share) * scale, slopes * share * scale


def roi_crop_reference(features, rois, bins, scale, grad=None):
    """features (N, C, H, W) -> (R, C, h, w), or with grad the gradients of the features and of the RoIs, whose samples
    must not lie on the centres of cells; in float64."""
    _, channels, height, width = features.shape
    out = np.zeros((len(rois), channels, *bins))
    grad_features, grad_rois = np.zeros(features.shape), np.zeros((len(rois), 5))
    for r, (image, x1, y1, x2, y2) in enumerate(np.asarray(rois, np.float64)):
        values = features[int(image)].astype(np.float64)
        rows, rows_y1, rows_y2 = _crop_weights(y1, y2, scale, bins[0], height)
        columns, columns_x1, columns_x2 = _crop_weights(x1, x2, scale, bins[1], width)
        out[r] = rows @ values @ columns.T
        if grad is not None:
            grad_features[int(image)] += rows.T @ grad[r] @ columns
            grad_rois[r, 1:] = [
                (grad[r] * (a @ values @ b.T)).sum()
                for a, b in ((rows, columns_x1), (rows_y1, columns), (rows, columns_x2), (rows_y2, columns))
            ]
    return out if grad is None else (grad_features, grad_rois)
