"""Solutions of lesson 06, RoIPool."""


# %% exercise-1
def round_away(values):
    """values: a float array. Returns an int64 array of the same shape."""
    whole = np.trunc(values)
    # the fraction is exact, so that twice the fraction reaches 1 only from a half on
    return (whole + np.trunc(2 * (values - whole))).astype(np.int64)


# %% exercise-2
def play(x, stride):
    """The left side at x pixels may lie from the first returned position up to, without, the second."""
    cell = math.floor(x / stride + 0.5)
    return (cell - 0.5) * stride, (cell + 0.5) * stride


# %% exercise-3
# The width was rounded, and so was the left side; but what RoIPool rounds is the right side, and the difference of two
# rounded numbers is not the rounded difference.
def mended(feature, box, bins, scale):
    """As pool_by_hand, but box is (x1, y1, width, height) in pixels."""
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left + 1, 1)  # in cells; the last one counts as inside
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top + 1, 1)
    out = np.zeros((len(feature), *bins), feature.dtype)
    for ph in range(bins[0]):
        rows = [top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])]
        for pw in range(bins[1]):
            columns = [left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])]
            part = feature[:, max(rows[0], 0) : max(rows[1], 0), max(columns[0], 0) : max(columns[1], 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-4
def pool_one_gradient(values, roi, grad, scale):
    """values: (H, W). grad: (h, w), of the bins. Returns (H, W)."""
    x1, y1, x2, y2 = roi
    result = np.zeros(values.shape)
    for ph, (top, bottom) in enumerate(cells_of(y1, y2, scale, grad.shape[0], values.shape[0])):
        for pw, (left, right) in enumerate(cells_of(x1, x2, scale, grad.shape[1], values.shape[1])):
            part = values[top:bottom, left:right]
            y, x = np.unravel_index(part.argmax(), part.shape)  # the first of equal ones
            result[top + y, left + x] += grad[ph, pw]
    return result


# %% exercise-5
# a right side just at a half is rounded up by half a cell, and the cell that it falls into counts as inside
answer = (0.5 + 1) * 32
