"""Answers to the exercises of lesson 07 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: four cells
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    return (1 - b) * ((1 - a) * values[y0, x0] + a * values[y0, x1]) + b * (
        (1 - a) * values[y1, x0] + a * values[y1, x1]
    )


# %% exercise-1 right: by the package's taps
def bilinear(values, y, x):
    (y0, b0, y1, b1), (x0, a0, x1, a1) = taps(y, values.shape[0]), taps(x, values.shape[1])
    if y0 < 0 or x0 < 0:
        return 0
    return np.array([b0, b1]) @ values[np.ix_([y0, y1], [x0, x1])] @ np.array([a0, a1])


# %% exercise-1 wrong: the weights exchanged
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    return b * (a * values[y0, x0] + (1 - a) * values[y0, x1]) + (1 - b) * (
        a * values[y1, x0] + (1 - a) * values[y1, x1]
    )


# %% exercise-1 wrong: the nearest cell
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    _y1, _x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    _b, _a = y - y0, x - x0
    return values[round(y), round(x)]


# %% exercise-1 wrong: no rim
def bilinear(values, y, x):
    height, width = values.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    return (1 - b) * ((1 - a) * values[y0, x0] + a * values[y0, x1]) + b * (
        (1 - a) * values[y1, x0] + a * values[y1, x1]
    )


# %% exercise-1 wrong: 0 as soon as it leaves the outermost centres
def bilinear(values, y, x):
    height, width = values.shape
    if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    return (1 - b) * ((1 - a) * values[y0, x0] + a * values[y0, x1]) + b * (
        (1 - a) * values[y1, x0] + a * values[y1, x1]
    )


# %% exercise-1 wrong: x and y exchanged
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = x - x0, y - y0
    return (1 - b) * ((1 - a) * values[y0, x0] + a * values[y0, x1]) + b * (
        (1 - a) * values[y1, x0] + a * values[y1, x1]
    )


# %% exercise-1 wrong: centres at a half
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    return (1 - b) * ((1 - a) * values[y0, x0] + a * values[y0, x1]) + b * (
        (1 - a) * values[y1, x0] + a * values[y1, x1]
    )


# %% exercise-1 wrong: along x only
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    _y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    _b, a = y - y0, x - x0
    return (1 - a) * values[y0, x0] + a * values[y0, x1]


# %% exercise-1 wrong: the mean of the four
def bilinear(values, y, x):
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    _b, _a = y - y0, x - x0
    return (values[y0, x0] + values[y0, x1] + values[y1, x0] + values[y1, x1]) / 4


# %% exercise-2 right: bin by bin, in lists
def sampling_points(roi, scale, bins, ratio):
    points = []
    for low, high, n in ((roi[0], roi[2], bins[1]), (roi[1], roi[3], bins[0])):
        size = (high - low) * scale / n
        points.append([low * scale - 0.5 + p * size + (i + 0.5) * size / ratio for p in range(n) for i in range(ratio)])
    return tuple(points)


# %% exercise-2 wrong: without the half of aligned
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: at the left ends of the parts
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + np.arange(n * ratio) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: the half in pixels
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return (low - 0.5) * scale + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: the bins are (w, h)
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[0]), along(y1, y2, bins[1])


# %% exercise-2 wrong: ys before xs
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(y1, y2, bins[0]), along(x1, x2, bins[1])


# %% exercise-2 wrong: one sample a bin
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n) + 0.5) * (high - low) * scale / n

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: from end to end
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return np.linspace(low * scale, high * scale, n * ratio) - 0.5

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: the RoI rounded first
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return np.round(low * scale) - 0.5 + (np.arange(n * ratio) + 0.5) * np.round((high - low) * scale) / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-2 wrong: the half added
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale + 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-3 right: as a product of matrices
def roi_align_gradient(grad, roi, shape, scale, ratio):
    def weights(low, high, n, size):
        position = low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)
        inside = (position >= -1) & (position <= size)
        near = np.maximum(0, 1 - np.abs(position.clip(0, size - 1)[:, None] - np.arange(size)))
        return (near * inside[:, None]).reshape(n, ratio, size).mean(1)

    return weights(roi[1], roi[3], grad.shape[0], shape[0]).T @ grad @ weights(roi[0], roi[2], grad.shape[1], shape[1])


# %% exercise-3 wrong: the sum instead of the mean
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio]
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] += b * a * share
    return result


# %% exercise-3 wrong: divided by the samples along one axis
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] += b * a * share
    return result


# %% exercise-3 wrong: overwritten, not added
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio**2
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] = b * a * share
    return result


# %% exercise-3 wrong: no weights
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio**2
            for row, _b in ((y0, b0), (y1_, b1)):
                for column, _a in ((x0, a0), (x1_, a1)):
                    result[row, column] += share / 4
    return result


# %% exercise-3 wrong: the wrong sign
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio**2
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] -= b * a * share
    return result


# %% exercise-3 wrong: samples off the map fall on the last cell
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            share = grad[i // ratio, j // ratio] / ratio**2
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] += (b * a if y0 >= 0 and x0 >= 0 else 0.25) * share
    return result


# %% exercise-3 wrong: the bins are interleaved
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i % grad.shape[0], j % grad.shape[1]] / ratio**2
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] += b * a * share
    return result


# %% exercise-3 wrong: to the nearest cell alone
def roi_align_gradient(grad, roi, shape, scale, ratio):
    x1, y1, x2, y2 = roi
    (h, w), result = grad.shape, np.zeros(shape)
    ys = y1 * scale - 0.5 + (np.arange(h * ratio) + 0.5) * (y2 - y1) * scale / (h * ratio)
    xs = x1 * scale - 0.5 + (np.arange(w * ratio) + 0.5) * (x2 - x1) * scale / (w * ratio)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1_, b1), (x0, a0, x1_, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio**2
            for row, b in ((y0, b0), (y1_, b1)):
                for column, a in ((x0, a0), (x1_, a1)):
                    result[row, column] += (b >= 0.5) * (a >= 0.5) * share
    return result


# %% exercise-4 right: rounded in pixels
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = (np.trunc(cells) + np.trunc(2 * (cells - np.trunc(cells)))) / scale
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, scale, 2, aligned=False)


# %% exercise-4 wrong: halves to the even neighbour
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.round(cells)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-4 wrong: halves up
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.floor(cells + 0.5)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-4 wrong: with the half of aligned
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.sign(cells) * np.floor(np.abs(cells) + 0.5)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, 2, aligned=True)


# %% exercise-4 wrong: scaled twice
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.sign(cells) * np.floor(np.abs(cells) + 0.5)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, scale, 2)


# %% exercise-4 wrong: not rounded
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = cells
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-4 wrong: cut off
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.trunc(cells)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-4 wrong: the last cell inside, as in RoIPool
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.sign(cells) * np.floor(np.abs(cells) + 0.5) + np.array([0, 0, 1, 1])
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-4 wrong: another number of samples
def my_roi_warp(features, rois, bins, scale):
    cells = rois[:, 1:] * scale
    cells = np.sign(cells) * np.floor(np.abs(cells) + 0.5)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=1)


# %% exercise-4 wrong: RoIAlign as it is
def my_roi_warp(features, rois, bins, scale):
    return roi_align(features, rois, bins, scale, 2, aligned=True)


# %% exercise-5 right: corner by corner
def shifted_rois(rois, scale):
    moved = rois.copy()
    moved[:, 1:] -= 0.5 / scale
    return moved


# %% exercise-5 wrong: to the other side
def shifted_rois(rois, scale):
    return rois + np.array([0, 1, 1, 1, 1]) * 0.5 / scale


# %% exercise-5 wrong: half a pixel
def shifted_rois(rois, scale):
    return rois - np.array([0, 1, 1, 1, 1]) * 0.5


# %% exercise-5 wrong: half a cell, counted in cells
def shifted_rois(rois, scale):
    return rois - np.array([0, 1, 1, 1, 1]) * 0.5 * scale


# %% exercise-5 wrong: a whole cell
def shifted_rois(rois, scale):
    return rois - np.array([0, 1, 1, 1, 1]) / scale


# %% exercise-5 wrong: the upper left corner alone
def shifted_rois(rois, scale):
    return rois - np.array([0, 1, 1, 0, 0]) * 0.5 / scale


# %% exercise-5 wrong: x alone
def shifted_rois(rois, scale):
    return rois - np.array([0, 1, 0, 1, 0]) * 0.5 / scale


# %% exercise-5 wrong: the stride of this lesson
def shifted_rois(rois, scale):
    return rois - np.array([0, 8, 8, 8, 8])


# %% exercise-5 wrong: as it is
def shifted_rois(rois, scale):
    return rois
