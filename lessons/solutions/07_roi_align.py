"""Solutions of lesson 07, RoIAlign."""


# %% exercise-1
# Half a pixel was taken off before the scaling; the half of `aligned` is half a cell.
def mended(feature, roi, bins, scale, ratio):
    """As align_by_hand."""
    channels, height, width = feature.shape
    x1, y1, x2, y2 = np.array(roi, np.float64)
    samples = np.zeros((channels, bins[0] * ratio, bins[1] * ratio))
    for i in range(bins[0] * ratio):
        y = scale * (y1 + (i + 0.5) * (y2 - y1) / (bins[0] * ratio)) - 0.5
        for j in range(bins[1] * ratio):
            x = scale * (x1 + (j + 0.5) * (x2 - x1) / (bins[1] * ratio)) - 0.5
            if -1 <= y <= height and -1 <= x <= width:
                rows = np.maximum(0, 1 - np.abs(min(max(y, 0), height - 1) - np.arange(height)))
                columns = np.maximum(0, 1 - np.abs(min(max(x, 0), width - 1) - np.arange(width)))
                samples[:, i, j] = feature @ columns @ rows
    return samples.reshape(channels, bins[0], ratio, bins[1], ratio).mean(axis=(2, 4))


# %% exercise-2
# The sample lies in the middle of the RoI, and must lie where the four cells meet.
def roi_between(row, column, stride):
    """Returns (x1, y1, x2, y2) in pixels."""
    x, y = (column + 1) * stride, (row + 1) * stride
    return x - stride, y - stride, x + stride, y + stride


# %% exercise-3
# Forwards, the samples are (rows) map (columns transposed); backwards, the other one of the two is transposed.
def roi_align_gradient(grad, roi, shape, scale, ratio):
    """grad: (h, w). shape: (H, W) of the map. Returns an array of that shape."""
    x1, y1, x2, y2 = roi
    of_rows = weights(positions(y1, y2, scale, grad.shape[0], ratio), shape[0])
    of_columns = weights(positions(x1, x2, scale, grad.shape[1], ratio), shape[1])
    samples = grad.repeat(ratio, axis=0).repeat(ratio, axis=1) / ratio**2  # each gets its share of its bin's gradient
    return of_rows.T @ samples @ of_columns


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
