"""Answers to the exercises of lesson 07 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: all samples at once
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 right: the lesson's own
def mended(feature, roi, bins, scale, ratio):
    return align_by_hand(feature, roi, bins, scale, ratio)


# %% exercise-1 right: half a cell in pixels
def mended(feature, roi, bins, scale, ratio):
    x1, y1, x2, y2 = np.array(roi, np.float64) - 0.5 / scale
    return align_by_hand(feature, np.array([x1, y1, x2, y2]) + 0.5 / scale, bins, scale, ratio)


# %% exercise-1 wrong: the colleague's function
mended = align_of_a_colleague


# %% exercise-1 wrong: as it was
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (np.array(roi, float) - 0.5) * scale
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: no half at all
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: the half added
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale + 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: half a pixel and half a cell
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (np.array(roi, float) - 0.5) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: a whole cell
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 1
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: the samples at the left ends
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: half a cell of this lesson's stride
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (np.array(roi, float) - 8) * scale
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: x and y exchanged
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float)[[1, 0, 3, 2]] * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: the sum of the samples
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).sum(axis=(2, 4))


# %% exercise-1 wrong: the largest sample
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(ys, height), feature, weights(xs, width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).max(axis=(2, 4))


# %% exercise-1 wrong: rounded
def mended(feature, roi, bins, scale, ratio):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, float) * scale - 0.5
    ys = y1 + (np.arange(bins[0] * ratio) + 0.5) * (y2 - y1) / (bins[0] * ratio)
    xs = x1 + (np.arange(bins[1] * ratio) + 0.5) * (x2 - x1) / (bins[1] * ratio)
    samples = np.einsum("yr,crk,xk->cyx", weights(np.round(ys), height), feature, weights(np.round(xs), width))
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-1 wrong: the package's own operator
def mended(feature, roi, bins, scale, ratio):
    rois = np.array([[0, *roi]], np.float64)
    return roi_align(tinymrcnn.Tensor(feature[None]), rois, bins, scale, ratio, aligned=True).data[0]


# %% exercise-2 right: from the middle of one cell to that of the other
def roi_between(row, column, stride):
    return (column + 0.5) * stride, (row + 0.5) * stride, (column + 1.5) * stride, (row + 1.5) * stride


# %% exercise-2 right: all four cells, as an array
def roi_between(row, column, stride):
    return np.array([column, row, column + 2, row + 2]) * stride


# %% exercise-2 right: a tiny one
def roi_between(row, column, stride):
    x, y = (column + 1) * stride, (row + 1) * stride
    return [x - 0.1, y - 0.1, x + 0.1, y + 0.1]


# %% exercise-2 wrong: the first cell
def roi_between(row, column, stride):
    return column * stride, row * stride, (column + 1) * stride, (row + 1) * stride


# %% exercise-2 wrong: the cells counted by their centres
def roi_between(row, column, stride):
    return (column - 0.5) * stride, (row - 0.5) * stride, (column + 0.5) * stride, (row + 0.5) * stride


# %% exercise-2 wrong: in cells
def roi_between(row, column, stride):
    return column, row, column + 2, row + 2


# %% exercise-2 wrong: rows and columns exchanged
def roi_between(row, column, stride):
    return row * stride, column * stride, (row + 2) * stride, (column + 2) * stride


# %% exercise-2 wrong: two cells of a row
def roi_between(row, column, stride):
    return column * stride, row * stride, (column + 2) * stride, (row + 1) * stride


# %% exercise-2 wrong: two cells of a column
def roi_between(row, column, stride):
    return column * stride, row * stride, (column + 1) * stride, (row + 2) * stride


# %% exercise-2 wrong: the stride of this lesson
def roi_between(row, column, stride):
    return column * 16, row * 16, (column + 2) * 16, (row + 2) * 16


# %% exercise-2 wrong: width and height instead of the second corner
def roi_between(row, column, stride):
    return column * stride, row * stride, 2 * stride, 2 * stride


# %% exercise-2 wrong: one pixel less, as if the last one counted as inside
def roi_between(row, column, stride):
    return column * stride, row * stride, (column + 2) * stride - 1, (row + 2) * stride - 1


# %% exercise-3 right: as a product of matrices
def roi_align_gradient(grad, roi, shape, scale, ratio):
    def weights(low, high, n, size):
        position = low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)
        inside = (position >= -1) & (position <= size)
        near = np.maximum(0, 1 - np.abs(position.clip(0, size - 1)[:, None] - np.arange(size)))
        return (near * inside[:, None]).reshape(n, ratio, size).mean(1)

    return weights(roi[1], roi[3], grad.shape[0], shape[0]).T @ grad @ weights(roi[0], roi[2], grad.shape[1], shape[1])


# %% exercise-3 wrong: the package's own backward
def roi_align_gradient(grad, roi, shape, scale, ratio):
    leaf = tinymrcnn.Tensor(np.zeros((1, 1, *shape)), requires_grad=True)
    roi_align(leaf, np.array([[0, *roi]]), grad.shape, scale, ratio, aligned=True).backward(grad[None, None])
    return leaf.grad[0, 0]


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


# %% exercise-4 wrong: the package's own operator
def my_roi_warp(features, rois, bins, scale):
    return roi_warp(features, rois, bins, scale, 2)


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
