"""Solutions of lesson 07, RoIAlign."""


# %% exercise-1
def bilinear(values, y, x):
    """The value of the map `values` (H, W) at row position y and column position x, a float."""
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    rows = np.maximum(0, 1 - np.abs(y - np.arange(height)))
    columns = np.maximum(0, 1 - np.abs(x - np.arange(width)))
    return float(rows @ values @ columns)


# %% exercise-2
def sampling_points(roi, scale, bins, ratio):
    """roi: (x1, y1, x2, y2) in pixels. Returns xs (w * ratio,) and ys (h * ratio,)."""
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        # the samples are the midpoints of n * ratio equal parts of the RoI
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% exercise-3
def roi_align_gradient(grad, roi, shape, scale, ratio):
    """grad: (h, w). shape: (H, W) of the map. Returns an array of that shape."""
    x1, y1, x2, y2 = roi

    def along(low, high, n):  # as in sampling_points
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    result = np.zeros(shape)
    xs, ys = along(x1, x2, grad.shape[1]), along(y1, y2, grad.shape[0])
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            (y0, b0, y1, b1), (x0, a0, x1, a1) = taps(y, shape[0]), taps(x, shape[1])
            if y0 < 0 or x0 < 0:
                continue
            share = grad[i // ratio, j // ratio] / ratio**2
            result[y0, x0] += b0 * a0 * share
            result[y0, x1] += b0 * a1 * share
            result[y1, x0] += b1 * a0 * share
            result[y1, x1] += b1 * a1 * share
    return result


# %% exercise-4
def my_roi_warp(features, rois, bins, scale):
    """RoIWarp with 2 x 2 samples a bin. rois: (R, 5) array; returns a Tensor (R, C, bins, bins)."""
    cells = rois[:, 1:] * scale
    cells = np.sign(cells) * np.floor(np.abs(cells) + 0.5)
    return roi_align(features, np.column_stack([rois[:, 0], cells]), bins, 1.0, sampling_ratio=2)


# %% exercise-5
def shifted_rois(rois, scale):
    """rois: (R, 5) array (batch index, x1, y1, x2, y2) in pixels. Returns the RoIs for aligned=False."""
    half_cell = 0.5 / scale  # in pixels
    return rois - np.array([0, half_cell, half_cell, half_cell, half_cell])
