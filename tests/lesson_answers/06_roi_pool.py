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


# %% exercise-2 right: as a list, by rounding down
def play(x, stride):
    low = (x + stride / 2) // stride * stride - stride / 2
    return [low, low + stride]


# %% exercise-2 right: searched for in steps of a 64th
def play(x, stride):
    def cell(position):
        return math.floor(position / stride + 0.5)

    low = high = math.floor(x * 64) / 64
    while cell(low - 1 / 64) == cell(x):
        low -= 1 / 64
    while cell(high) == cell(x):
        high += 1 / 64
    return low, high


# %% exercise-2 wrong: half a cell to either side
def play(x, stride):
    return x - stride / 2, x + stride / 2


# %% exercise-2 wrong: the cell that it lies in
def play(x, stride):
    return x // stride * stride, (x // stride + 1) * stride


# %% exercise-2 wrong: in cells
def play(x, stride):
    cell = math.floor(x / stride + 0.5)
    return cell - 0.5, cell + 0.5


# %% exercise-2 wrong: how far to either side
def play(x, stride):
    cell = math.floor(x / stride + 0.5)
    return x - (cell - 0.5) * stride, (cell + 0.5) * stride - x


# %% exercise-2 wrong: halves to the even neighbour
def play(x, stride):
    cell = round(x / stride)
    return (cell - 0.5) * stride, (cell + 0.5) * stride


# %% exercise-2 wrong: the ends exchanged
def play(x, stride):
    cell = math.floor(x / stride + 0.5)
    return (cell + 0.5) * stride, (cell - 0.5) * stride


# %% exercise-2 wrong: half a pixel
def play(x, stride):
    cell = math.floor(x / stride + 0.5)
    return cell * stride - 0.5, cell * stride + 0.5


# %% exercise-2 wrong: one cell further
def play(x, stride):
    cell = math.ceil(x / stride)
    return (cell - 0.5) * stride, (cell + 0.5) * stride


# %% exercise-2 wrong: the stride of this lesson
def play(x, stride):
    cell = math.floor(x / 16 + 0.5)
    return (cell - 0.5) * 16, (cell + 0.5) * 16


# %% exercise-2 wrong: by the package's rounding
def play(x, stride):
    cell = round_half_away(x / stride)
    return (cell - 0.5) * stride, (cell + 0.5) * stride


# %% exercise-3 right: by pool_by_hand
def mended(feature, box, bins, scale):
    x1, y1, width, height = box
    return pool_by_hand(feature, (x1, y1, x1 + width, y1 + height), bins, scale)


# %% exercise-3 right: the right side is rounded
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left + 1, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: as it was
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor(box_width * scale + 0.5) + 1, 1)
    height = max(math.floor(box_height * scale + 0.5) + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the colleague's function
mended = pool_of_a_colleague


# %% exercise-3 wrong: mended along x only
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left + 1, 1)
    height = max(math.floor(box_height * scale + 0.5) + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: mended along y only
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor(box_width * scale + 0.5) + 1, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: without the last cell
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the left side added twice
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) + 1, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the width rounded up
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.ceil(box_width * scale) + 1, 1)
    height = max(math.ceil(box_height * scale) + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the width cut off
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor(box_width * scale) + 1, 1)
    height = max(math.floor(box_height * scale) + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the corners cut off
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale), math.floor(y1 * scale)
    width = max(math.floor((x1 + box_width) * scale) - left + 1, 1)
    height = max(math.floor((y1 + box_height) * scale) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the right side rounded up
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.ceil((x1 + box_width) * scale) - left + 1, 1)
    height = max(math.ceil((y1 + box_height) * scale) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out


# %% exercise-3 wrong: the mean
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left + 1, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.mean(axis=(1, 2))
    return out


# %% exercise-3 wrong: the result turned
def mended(feature, box, bins, scale):
    x1, y1, box_width, box_height = map(float, box)
    left, top = math.floor(x1 * scale + 0.5), math.floor(y1 * scale + 0.5)
    width = max(math.floor((x1 + box_width) * scale + 0.5) - left + 1, 1)
    height = max(math.floor((y1 + box_height) * scale + 0.5) - top + 1, 1)
    out = np.zeros((len(feature), *bins))
    for ph in range(bins[0]):
        a, b = top + math.floor(ph * height / bins[0]), top + math.ceil((ph + 1) * height / bins[0])
        for pw in range(bins[1]):
            c, d = left + math.floor(pw * width / bins[1]), left + math.ceil((pw + 1) * width / bins[1])
            part = feature[:, max(a, 0) : max(b, 0), max(c, 0) : max(d, 0)]
            if part.size:
                out[:, ph, pw] = part.max(axis=(1, 2))
    return out.transpose(0, 2, 1)


# %% exercise-3 wrong: the package's own operator
def mended(feature, box, bins, scale):
    x1, y1, width, height = box
    rois = np.array([[0, x1, y1, x1 + width, y1 + height]])
    return roi_pool(tinymrcnn.Tensor(feature[None]), rois, bins, scale).data[0]


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


# %% exercise-4 right: with the lesson's own function
def pool_one_gradient(values, roi, grad, scale):
    result = np.zeros(values.shape)
    for ph, (a, b) in enumerate(cells_of(roi[1], roi[3], scale, len(grad), values.shape[0])):
        for pw, (c, d) in enumerate(cells_of(roi[0], roi[2], scale, len(grad[0]), values.shape[1])):
            at = np.unravel_index(values[a:b, c:d].argmax(), (b - a, d - c))
            result[a:b, c:d][at] += grad[ph, pw]
    return result


# %% exercise-4 wrong: the package's own backward
def pool_one_gradient(values, roi, grad, scale):
    leaf = tinymrcnn.Tensor(values[None, None], requires_grad=True)
    roi_pool(leaf, np.array([[0, *roi]]), grad.shape, scale).backward(grad[None, None])
    return leaf.grad[0, 0]


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
