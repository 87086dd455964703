"""Answers to the exercises of lesson 06 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: in float64, where half is exact enough
def round_away(values):
    return (np.sign(values) * np.floor(np.abs(values.astype(np.float64)) + 0.5)).astype(np.int64)


# %% exercise-1 right: number by number
def round_away(values):
    def one(v):
        whole = int(v)
        return whole + (v - whole >= 0.5) - (whole - v >= 0.5)

    return np.array([one(v) for v in values.ravel().tolist()]).reshape(values.shape)


# %% exercise-1 wrong: to the even neighbour
def round_away(values):
    return np.round(values).astype(np.int64)


# %% exercise-1 wrong: a half added, and the floor
def round_away(values):
    return np.floor(values + values.dtype.type(0.5)).astype(np.int64)


# %% exercise-1 wrong: a half added to the magnitude
def round_away(values):
    return (np.sign(values) * np.floor(np.abs(values) + values.dtype.type(0.5))).astype(np.int64)


# %% exercise-1 wrong: halves down
def round_away(values):
    return np.ceil(values - values.dtype.type(0.5)).astype(np.int64)


# %% exercise-1 wrong: cut off
def round_away(values):
    return np.trunc(values).astype(np.int64)


# %% exercise-1 wrong: the wrong sign
def round_away(values):
    return -(np.trunc(values) + np.trunc(2 * (values - np.trunc(values)))).astype(np.int64)


# %% exercise-1 wrong: the floor
def round_away(values):
    return np.floor(values).astype(np.int64)


# %% exercise-2 right: by the package's functions
def bin_ranges(low, high, scale, bins, size):
    return np.array([bin_cells(*roi_bins(low, high, scale, bins), p, size) for p in range(bins)])


# %% exercise-2 right: in whole numbers
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    length = max(end - start + 1, 1)
    ranges = [(start + p * length // bins, start - (-(p + 1) * length // bins)) for p in range(bins)]
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in ranges]


# %% exercise-2 wrong: the last cell counts as outside
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: rounded to even
def bin_ranges(low, high, scale, bins, size):
    start, end = round(low * scale), round(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: both ends by the floor
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.floor((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: both ends by the ceiling
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.ceil(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: beyond the map
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return (start + ranges).astype(int)


# %% exercise-2 wrong: no least size
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = (end - start + 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: end before first
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)[:, ::-1]


# %% exercise-2 wrong: the corners are not rounded
def bin_ranges(low, high, scale, bins, size):
    start, end = low * scale, high * scale
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width)], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-2 wrong: the last cell instead of the end
def bin_ranges(low, high, scale, bins, size):
    start, end = round_half_away(low * scale), round_half_away(high * scale)
    width = max(end - start + 1, 1) / bins
    p = np.arange(bins)
    ranges = np.stack([np.floor(p * width), np.ceil((p + 1) * width) - 1], axis=1)
    return np.clip(start + ranges, 0, size).astype(int)


# %% exercise-3 right: cell by cell
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (top, bin_h), (left, bin_w) = roi_bins(y1, y2, scale, bins[0]), roi_bins(x1, x2, scale, bins[1])
    result = np.full(bins, -np.inf)
    for ph in range(bins[0]):
        for pw in range(bins[1]):
            for y in range(*bin_cells(top, bin_h, ph, len(values))):
                for x in range(*bin_cells(left, bin_w, pw, values.shape[1])):
                    result[ph, pw] = max(result[ph, pw], values[y, x])
    return result


# %% exercise-3 wrong: the mean
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a:b, c:d].mean() for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: the smallest
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a:b, c:d].min() for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: x and y of the RoI exchanged
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = (roi[1], roi[0], roi[3], roi[2])
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a:b, c:d].max() for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: rows and columns of the map exchanged
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[c:d, a:b].max(initial=-9) for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: the result transposed
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a:b, c:d].max() for a, b in rows] for c, d in columns])


# %% exercise-3 wrong: the end included
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a : b + 1, c : d + 1].max() for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: never below 0
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[values[a:b, c:d].max(initial=0) for c, d in columns] for a, b in rows])


# %% exercise-3 wrong: the largest magnitude
def pool_one(values, roi, bins, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = bins, values.shape
    rows = [bin_cells(*roi_bins(y1, y2, scale, h), p, height) for p in range(h)]
    columns = [bin_cells(*roi_bins(x1, x2, scale, w), p, width) for p in range(w)]
    return np.array([[np.abs(values[a:b, c:d]).max() for c, d in columns] for a, b in rows])


# %% exercise-4 right: the first cell that has the maximum
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.argwhere(part == part.max())[0]
            result[a + y, c + x] += grad[ph, pw]
    return result


# %% exercise-4 wrong: shared by all cells
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            result[a:b, c:d] += grad[ph, pw] / part.size
    return result


# %% exercise-4 wrong: to all cells that tie
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            result[a:b, c:d] += grad[ph, pw] * (part == part.max())
    return result


# %% exercise-4 wrong: the last of equal ones
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.argwhere(part == part.max())[-1]
            result[a + y, c + x] += grad[ph, pw]
    return result


# %% exercise-4 wrong: overwritten, not added
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.unravel_index(part.argmax(), part.shape)
            result[a + y, c + x] = grad[ph, pw]
    return result


# %% exercise-4 wrong: the wrong sign
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.unravel_index(part.argmax(), part.shape)
            result[a + y, c + x] -= grad[ph, pw]
    return result


# %% exercise-4 wrong: to the smallest
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.unravel_index(part.argmin(), part.shape)
            result[a + y, c + x] += grad[ph, pw]
    return result


# %% exercise-4 wrong: the bin's corner forgotten
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.unravel_index(part.argmax(), part.shape)
            result[y, x] += grad[ph, pw]
    return result


# %% exercise-4 wrong: times the value
def pool_one_gradient(values, roi, grad, scale):
    x1, y1, x2, y2 = roi
    (h, w), (height, width) = grad.shape, values.shape
    result = np.zeros(values.shape)
    for ph in range(h):
        a, b = bin_cells(*roi_bins(y1, y2, scale, h), ph, height)
        for pw in range(w):
            c, d = bin_cells(*roi_bins(x1, x2, scale, w), pw, width)
            part = values[a:b, c:d]
            y, x = np.unravel_index(part.argmax(), part.shape)
            result[a + y, c + x] += grad[ph, pw] * part[y, x]
    return result


# %% exercise-5 right: as a product
answer = 1.5 * 32

# %% exercise-5 wrong: the rounding alone
answer = 16

# %% exercise-5 wrong: the last cell alone
answer = 32

# %% exercise-5 wrong: two cells
answer = 64

# %% exercise-5 wrong: in cells
answer = 1.5

# %% exercise-5 wrong: rounded down
answer = 31 + 16

# %% exercise-5 wrong: at stride 16
answer = 24

# %% exercise-5 wrong: both sides together
answer = 48 + 16
