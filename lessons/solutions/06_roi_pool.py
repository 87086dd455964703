"""Solutions of lesson 06, RoIPool."""


# %% exercise-1
def round_away(values):
    """values: a float array. Returns an int64 array of the same shape."""
    whole = np.trunc(values)
    # the fraction is exact, so that twice the fraction reaches 1 only from a half on
    return (whole + np.trunc(2 * (values - whole))).astype(np.int64)


# %% exercise-2
def bin_ranges(low, high, scale, bins, size):
    """low, high: the RoI's corners in pixels, floats. Returns an int array (bins, 2): first, end."""
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    bin_size = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * bin_size), np.ceil((p + 1) * bin_size)], axis=1)
    return (start + ranges).clip(0, size).astype(int)


# %% exercise-3
def pool_one(values, roi, bins, scale):
    """values: (H, W). roi: (x1, y1, x2, y2) in pixels. bins: (h, w). Returns the maxima, (h, w)."""
    x1, y1, x2, y2 = roi

    def along(low, high, n, size):  # as bin_ranges
        return [bin_cells(*roi_bins(low, high, scale, n), p, size) for p in range(n)]

    rows, columns = along(y1, y2, bins[0], values.shape[0]), along(x1, x2, bins[1], values.shape[1])
    return np.array([[values[top:bottom, left:right].max() for left, right in columns] for top, bottom in rows])


# %% exercise-4
def pool_one_gradient(values, roi, grad, scale):
    """values: (H, W). grad: (h, w), of the bins. Returns (H, W)."""
    x1, y1, x2, y2 = roi

    def along(low, high, n, size):  # as bin_ranges
        return [bin_cells(*roi_bins(low, high, scale, n), p, size) for p in range(n)]

    result = np.zeros(values.shape)
    for ph, (top, bottom) in enumerate(along(y1, y2, grad.shape[0], values.shape[0])):
        for pw, (left, right) in enumerate(along(x1, x2, grad.shape[1], values.shape[1])):
            part = values[top:bottom, left:right]
            y, x = np.unravel_index(part.argmax(), part.shape)  # the first of equal ones
            result[top + y, left + x] += grad[ph, pw]
    return result


# %% exercise-5
# a right side just at a half is rounded up by half a cell, and the cell that it falls into counts as inside
answer = (0.5 + 1) * 32
