"""Answers to the exercises of lesson 16 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: a plain function, the number of the thread by hand
def scale(x, factor, out):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= len(x):
        return
    out[i] = x[i] * factor


# %% exercise-1 right: a grid-stride loop
@cuda_kernel
def scale(x, factor, out):
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        out[i] = factor * x[i]


# %% exercise-1 wrong: no guard
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    out[i] = factor * x[i]


# %% exercise-1 wrong: <= for <
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i <= out.size:
        out[i] = factor * x[i]


# %% exercise-1 wrong: the last number left out
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i < out.size - 1:
        out[i] = factor * x[i]


# %% exercise-1 wrong: counted from 1
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1) + 1
    if i < out.size:
        out[i] = factor * x[i]


# %% exercise-1 wrong: within the block
@cuda_kernel
def scale(x, factor, out):
    i = cuda.threadIdx.x
    if i < out.size:
        out[i] = factor * x[i]


# %% exercise-1 wrong: the wrong sign
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = -factor * x[i]


# %% exercise-1 wrong: block and thread exchanged
@cuda_kernel
def scale(x, factor, out):
    i = cuda.threadIdx.x * cuda.gridDim.x + cuda.blockIdx.x + 1
    if i < out.size:
        out[i] = factor * x[i]


# %% exercise-1 wrong: every thread does everything
@cuda_kernel
def scale(x, factor, out):
    for i in range(out.size):
        out[i] = factor * x[i]


# %% exercise-1 wrong: the first thread does everything
@cuda_kernel
def scale(x, factor, out):
    if cuda.grid(1) == 0:
        for i in range(out.size):
            out[i] = factor * x[i]


# %% exercise-1 wrong: x is changed, too
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i < out.size:
        x[i] = factor * x[i]
        out[i] = x[i]


# %% exercise-1 wrong: NumPy does it, which no compiler of kernels knows
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i : i + 1] = np.multiply(x[i], factor)


# %% exercise-1 wrong: the package's own function
@cuda_kernel
def scale(x, factor, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = factor * to_numpy(x[i])


# %% exercise-1 wrong: another signature
@cuda_kernel
def scale(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = 2.5 * x[i]


# %% exercise-2 right: while
@cuda_kernel
def add(x, y, out):
    i = cuda.grid(1)
    while i < out.size:
        out[i] = y[i] + x[i]
        i += cuda.gridsize(1)


# %% exercise-2 right: by hand
def add(x, y, out):
    threads = cuda.blockDim.x * cuda.gridDim.x
    for i in range(cuda.threadIdx.x + cuda.blockIdx.x * cuda.blockDim.x, len(out), threads):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: one number each
@cuda_kernel
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: contiguous pieces
@cuda_kernel
def add(x, y, out):
    piece = (out.size + cuda.gridsize(1) - 1) // cuda.gridsize(1)
    for i in range(piece * cuda.grid(1), min(piece * (cuda.grid(1) + 1), out.size)):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: the stride of a block
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.grid(1), out.size, cuda.blockDim.x):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: from the thread of the block
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.threadIdx.x, out.size, cuda.gridsize(1)):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: one too far, <= for <
@cuda_kernel
def add(x, y, out):
    i = cuda.grid(1)
    while i <= out.size:
        out[i] = x[i] + y[i]
        i += cuda.gridsize(1)


# %% exercise-2 wrong: a stride one too small
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.grid(1), out.size, max(cuda.gridsize(1) - 1, 1)):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: every thread does everything
@cuda_kernel
def add(x, y, out):
    for i in range(out.size):
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: a difference, the wrong sign
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[i] - y[i]


# %% exercise-2 wrong: y in the opposite order
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[i] + y[out.size - 1 - i]


# %% exercise-2 wrong: a loop that never moves on
@cuda_kernel
def add(x, y, out):
    i = cuda.grid(1)
    while i < out.size:
        out[i] = x[i] + y[i]


# %% exercise-2 wrong: the package's own function
@cuda_kernel
def add(x, y, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = Tensor(x[i]) + y[i]


# %% exercise-3 right: floor, weights that are 0 beyond the border
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), len(points), cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        if y < -1 or y > h or x < -1 or x > w:
            out[i] = 0.0
            continue
        y = max(0.0, min(y, h - 1.0))
        x = max(0.0, min(x, w - 1.0))
        y0, x0 = int(math.floor(y)), int(math.floor(x))
        total = 0.0
        for dy in range(2):
            for dx in range(2):
                weight = (1 - abs(y - y0 - dy)) * (1 - abs(x - x0 - dx))
                if weight > 0:
                    total += weight * cells[y0 + dy, x0 + dx]
        out[i] = total


# %% exercise-3 right: the lower cell at most the last but one
@cuda_kernel
def bilinear(cells, points, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        value = np.float32(0)
        if -1 <= points[i, 0] <= cells.shape[0] and -1 <= points[i, 1] <= cells.shape[1]:
            y = min(max(points[i, 0], 0), cells.shape[0] - 1)
            x = min(max(points[i, 1], 0), cells.shape[1] - 1)
            y0, x0 = min(int(y), cells.shape[0] - 2), min(int(x), cells.shape[1] - 2)
            b, a = y - y0, x - x0
            left = cells[y0, x0] + b * (cells[y0 + 1, x0] - cells[y0, x0])
            value = left
            if a > 0:
                right = (1 - b) * cells[y0, x0 + 1] + b * cells[y0 + 1, x0 + 1]
                value = left + a * (right - left)
        out[i] = value


# %% exercise-3 wrong: x and y exchanged
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        x, y = points[i, 0], points[i, 1]
        out[i] = 0
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1, b, a = min(y0 + 1, h - 1), min(x0 + 1, w - 1), y - y0, x - x0
            out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x1]) + b * (
                (1 - a) * cells[y1, x0] + a * cells[y1, x1]
            )


# %% exercise-3 wrong: the weights exchanged
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        out[i] = 0
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            out[i] = b * (a * cells[y0, x0] + (1 - a) * cells[y0, x0 + 1]) + (1 - b) * (
                a * cells[y0 + 1, x0] + (1 - a) * cells[y0 + 1, x0 + 1]
            )


# %% exercise-3 wrong: no border
@cuda_kernel
def bilinear(cells, points, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        y0, x0 = int(y), int(x)
        b, a = y - y0, x - x0
        out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
            (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
        )


# %% exercise-3 wrong: never 0
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = min(max(points[i, 0], 0), h - 1), min(max(points[i, 1], 0), w - 1)
        y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
        b, a = y - y0, x - x0
        out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
            (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
        )


# %% exercise-3 wrong: < for <= where the border ends
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        out[i] = 0
        if -1 < y < h and -1 < x < w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
                (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
            )


# %% exercise-3 wrong: 0 from half a cell on
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        out[i] = 0
        if -0.5 <= y <= h - 0.5 and -0.5 <= x <= w - 0.5:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
                (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
            )


# %% exercise-3 wrong: the nearest cell
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        out[i] = 0
        if -1 <= y <= h and -1 <= x <= w:
            out[i] = cells[min(max(int(y + 0.5), 0), h - 1), min(max(int(x + 0.5), 0), w - 1)]


# %% exercise-3 wrong: cells centred at their halves
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0] - 0.5, points[i, 1] - 0.5
        out[i] = 0
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
                (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
            )


# %% exercise-3 wrong: one point a thread, no loop
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    i = cuda.grid(1)
    if i < out.size:
        y, x = points[i, 0], points[i, 1]
        out[i] = 0
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            out[i] = (1 - b) * ((1 - a) * cells[y0, x0] + a * cells[y0, x0 + 1]) + b * (
                (1 - a) * cells[y0 + 1, x0] + a * cells[y0 + 1, x0 + 1]
            )


# %% exercise-3 wrong: the whole map is read for every point
@cuda_kernel
def bilinear(cells, points, out):
    h, w = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x, total = points[i, 0], points[i, 1], np.float32(0)
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            for row in range(h):
                for column in range(w):
                    total += max(1 - abs(y - row), 0) * max(1 - abs(x - column), 0) * cells[row, column]
        out[i] = total


# %% exercise-3 wrong: the package's own function
from tinymrcnn.roi.roi_align import taps


@cuda_kernel
def bilinear(cells, points, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y0, b0, y1, b1 = taps(points[i, 0], cells.shape[0])
        x0, a0, x1, a1 = taps(points[i, 1], cells.shape[1])
        out[i] = b0 * (a0 * cells[y0, x0] + a1 * cells[y0, x1]) + b1 * (a0 * cells[y1, x0] + a1 * cells[y1, x1])


# %% exercise-4 right: the first cell to begin with, floats for the ceiling
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        c, q = e % channels, e // channels % w
        p, r = e // (channels * w) % h, e // (channels * w * h)
        x1, y1, x2, y2 = rois[r, 0], rois[r, 1], rois[r, 2], rois[r, 3]
        high, wide = y2 - y1 + 1, x2 - x1 + 1
        y_end = min(y1 + int(math.ceil((p + 1) * high / h)), cells.shape[0])
        x_end = min(x1 + int(math.ceil((q + 1) * wide / w)), cells.shape[1])
        best, found = np.float32(0), False
        for y in range(max(y1 + p * high // h, 0), y_end):
            for x in range(max(x1 + q * wide // w, 0), x_end):
                value = cells[y, x, c]
                if not found or value > best:
                    best, found = value, True
        out[r, p, q, c] = best


# %% exercise-4 right: every cell of the RoI is asked whether it is in the bin, and read only then
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        high, wide = rois[r, 3] - rois[r, 1] + 1, rois[r, 2] - rois[r, 0] + 1
        x1, y1 = rois[r, 0], rois[r, 1]
        best, any_cell = np.float32(-1e30), 0
        for dy in range(high):
            for dx in range(wide):
                y, x = y1 + dy, x1 + dx
                in_bin = dy >= p * high // h and dy * h < (p + 1) * high
                in_bin = in_bin and dx >= q * wide // w and dx * w < (q + 1) * wide
                if in_bin and 0 <= y < cells.shape[0] and 0 <= x < cells.shape[1]:
                    best, any_cell = max(best, cells[y, x, c]), 1
        out[r, p, q, c] = best * any_cell


# %% exercise-4 wrong: the last cell left out
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1, rois[r, 2] - x1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: the bins end at the floor
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 + (p + 1) * high // h, cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 + (q + 1) * wide // w, cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: one cell too many in a bin, <= for <
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h) + 1, cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w) + 1, cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: the search starts at 0
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = np.float32(0)
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best


# %% exercise-4 wrong: not clipped to the map
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = -math.inf
        for y in range(y1 + p * high // h, y1 - (-(p + 1) * high // h)):
            for x in range(x1 + q * wide // w, x1 - (-(q + 1) * wide // w)):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best


# %% exercise-4 wrong: ph and pw exchanged, transposed
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, p = pixel // h, pixel % h
        r, q = row // w, row % w
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 2] - x1 + 1, rois[r, 3] - y1 + 1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: the channel is the slowest, so that neighbours do not read neighbours
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        q, rest = e % w, e // w
        p, rest = rest % h, rest // h
        r, c = rest % n, rest // n
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: each cell is read twice
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = -math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                if cells[y, x, c] > best:
                    best = cells[y, x, c]
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-4 wrong: the best so far is kept in out
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        out[r, p, q, c], first = 0, True
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                value = cells[y, x, c]
                if first or value > out[r, p, q, c]:
                    out[r, p, q, c], first = value, False


# %% exercise-4 wrong: the smallest, the wrong sign
@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        x1, y1 = rois[r, 0], rois[r, 1]
        high, wide = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        best = math.inf
        for y in range(max(y1 + p * high // h, 0), min(y1 - (-(p + 1) * high // h), cells.shape[0])):
            for x in range(max(x1 + q * wide // w, 0), min(x1 - (-(q + 1) * wide // w), cells.shape[1])):
                best = min(best, cells[y, x, c])
        out[r, p, q, c] = best if best < math.inf else 0


# %% exercise-4 wrong: the package's own function
from tinymrcnn.roi.roi_pool import bin_cells


@cuda_kernel
def pool(cells, rois, out):
    n, h, w, channels = out.shape
    for e in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = e // channels, e % channels
        row, q = pixel // w, pixel % w
        r, p = row // h, row % h
        high, wide = rois[r, 3] - rois[r, 1] + 1, rois[r, 2] - rois[r, 0] + 1
        y_first, y_end = bin_cells(rois[r, 1], high / h, p, cells.shape[0])
        x_first, x_end = bin_cells(rois[r, 0], wide / w, q, cells.shape[1])
        best = -math.inf
        for y in range(y_first, y_end):
            for x in range(x_first, x_end):
                best = max(best, cells[y, x, c])
        out[r, p, q, c] = best if best > -math.inf else 0


# %% exercise-5 right: loops over the four, those with weight 0 left out
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        if y < -1 or y > h or x < -1 or x > w:
            continue
        y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
        y0, x0 = int(y), int(x)
        for dy in range(2):
            for dx in range(2):
                weight = (1 - abs(y - y0 - dy)) * (1 - abs(x - x0 - dx))
                if weight > 0:
                    cuda.atomic.add(grad_cells, (y0 + dy, x0 + dx), weight * grad[i])


# %% exercise-5 wrong: a plain addition, updates are lost
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            grad_cells[y0, x0] += (1 - b) * (1 - a) * g
            grad_cells[y0, x0 + 1] += (1 - b) * a * g
            grad_cells[y0 + 1, x0] += b * (1 - a) * g
            grad_cells[y0 + 1, x0 + 1] += b * a * g


# %% exercise-5 wrong: a barrier instead of an atomic addition
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    rounds = (len(grad) + cuda.gridsize(1) - 1) // cuda.gridsize(1)
    for n in range(rounds):
        cuda.syncthreads()
        i = cuda.grid(1) + n * cuda.gridsize(1)
        if i < len(grad) and -1 <= points[i, 0] <= h and -1 <= points[i, 1] <= w:
            y, x, g = min(max(points[i, 0], 0), h - 1), min(max(points[i, 1], 0), w - 1), grad[i]
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            grad_cells[y0, x0] += (1 - b) * (1 - a) * g
            grad_cells[y0, x0 + 1] += (1 - b) * a * g
            grad_cells[y0 + 1, x0] += b * (1 - a) * g
            grad_cells[y0 + 1, x0 + 1] += b * a * g


# %% exercise-5 wrong: three atomic, one plain
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
            grad_cells[y0 + 1, x0 + 1] += b * a * g


# %% exercise-5 wrong: set instead of added
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            grad_cells[y0, x0] = (1 - b) * (1 - a) * g
            grad_cells[y0, x0 + 1] = (1 - b) * a * g
            grad_cells[y0 + 1, x0] = b * (1 - a) * g
            grad_cells[y0 + 1, x0 + 1] = b * a * g


# %% exercise-5 wrong: one thread adds, so that nobody meets
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    if cuda.grid(1) == 0:
        for i in range(len(grad)):
            y, x, g = points[i, 0], points[i, 1], grad[i]
            if -1 <= y <= h and -1 <= x <= w:
                y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
                y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
                b, a = y - y0, x - x0
                cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
                cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
                cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
                cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: the wrong sign
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], -grad[i]
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: the weights of the right column and the lower row exchanged, transposed
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 <= y <= h and -1 <= x <= w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0), (1 - b) * a * g)
            cuda.atomic.add(grad_cells, (y0, x0 + 1), b * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: points far off the map are clamped like the others
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = min(max(points[i, 0], 0), h - 1), min(max(points[i, 1], 0), w - 1), grad[i]
        y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
        b, a = y - y0, x - x0
        cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
        cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
        cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
        cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: < for <=
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    h, w = grad_cells.shape
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 < y < h and -1 < x < w:
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            b, a = y - y0, x - x0
            cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
            cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: one cell beyond, no border
@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        y0, x0 = int(y), int(x)
        b, a = y - y0, x - x0
        cuda.atomic.add(grad_cells, (y0, x0), (1 - b) * (1 - a) * g)
        cuda.atomic.add(grad_cells, (y0, x0 + 1), (1 - b) * a * g)
        cuda.atomic.add(grad_cells, (y0 + 1, x0), b * (1 - a) * g)
        cuda.atomic.add(grad_cells, (y0 + 1, x0 + 1), b * a * g)


# %% exercise-5 wrong: the package's own function
from tinymrcnn.roi.roi_align import taps


@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    for i in range(cuda.grid(1), len(grad), cuda.gridsize(1)):
        y0, b0, y1, b1 = taps(points[i, 0], grad_cells.shape[0])
        x0, a0, x1, a1 = taps(points[i, 1], grad_cells.shape[1])
        if y0 >= 0 and x0 >= 0:
            cuda.atomic.add(grad_cells, (y0, x0), b0 * a0 * grad[i])
            cuda.atomic.add(grad_cells, (y0, x1), b0 * a1 * grad[i])
            cuda.atomic.add(grad_cells, (y1, x0), b1 * a0 * grad[i])
            cuda.atomic.add(grad_cells, (y1, x1), b1 * a1 * grad[i])


# %% exercise-6 right: signed numbers
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 right: while, and a break
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    e = cuda.grid(1)
    while e < out.shape[0] * LANES:
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c >= channels:
                    break
                else:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)
        e += cuda.gridsize(1)


# %% exercise-6 wrong: one thread a number, as before
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    for element in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, c = element // channels, element % channels
        total = np.float32(0)
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            total += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
            total += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        out[n, c] = total / np.float32(count)


# %% exercise-6 wrong: eight channels a thread, but the taps anew for each
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for c in range(lane, channels, LANES):
            total = np.float32(0)
            for s in range(count):
                y, x = samples[n, s, 0], samples[n, s, 1]
                y0, x0 = int(y), int(x)
                b, a = y - np.float32(y0), x - np.float32(x0)
                total += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                total += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
            out[n, c] = total / np.float32(count)


# %% exercise-6 wrong: neighbouring channels in one thread
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane * EACH + k
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane * EACH + k
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: no test for the last channels
@cuda_kernel
def align_shared(cells, samples, out):
    count, one = samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < 64:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < 64:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: <= for <
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c <= channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c <= channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: the last channel left out, off by one
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels - 1:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels - 1:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: the channels that 8 does not divide are missing
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels // 8 * 8:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels // 8 * 8:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: added up, not divided
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k]


# %% exercise-6 wrong: the sums are not set to 0
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: set to 0 before the loop over the bins only
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for k in range(EACH):
        total[k] = 0
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: x and y exchanged
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            x, y = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: the weights with the wrong sign
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = np.float32(y0) - y, np.float32(x0) - x
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: lane and bin exchanged
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        lane, n = e // out.shape[0], e % out.shape[0]
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: as many threads as channels work, on the same numbers
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES * 2, cuda.gridsize(1)):
        n, lane = e // LANES % out.shape[0], e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: one block of samples only, without a stride
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), min(cuda.grid(1) + 1, out.shape[0] * LANES)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-6 wrong: the sums are kept in out
@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            if lane + k * LANES < channels:
                out[n, lane + k * LANES] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), x - np.float32(x0)
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    out[n, c] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    out[n, c] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = out[n, c] / np.float32(count)


# %% exercise-6 wrong: the package's own function
from tinymrcnn.roi.roi_align import taps as package_taps


@cuda_kernel
def align_shared(cells, samples, out):
    channels, count, one = cells.shape[2], samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for e in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        n, lane = e // LANES, e % LANES
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[n, s, 0], samples[n, s, 1]
            y0, x0 = int(y), int(x)
            b, a = y - np.float32(y0), package_taps(x, cells.shape[1])[3]
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    total[k] += (one - b) * ((one - a) * cells[y0, x0, c] + a * cells[y0, x0 + 1, c])
                    total[k] += b * ((one - a) * cells[y0 + 1, x0, c] + a * cells[y0 + 1, x0 + 1, c])
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[n, c] = total[k] / np.float32(count)


# %% exercise-7 right: one after the other
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    longest = 0
    for count, rate in ((moved, bandwidth), (operations, peak), (instructions, issue)):
        longest = count / rate if count / rate > longest else longest
    return longest


# %% exercise-7 right: NumPy
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return np.max(np.array([moved, operations, instructions]) / [bandwidth, peak, issue])


# %% exercise-7 wrong: the sum
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return moved / bandwidth + operations / peak + instructions / issue


# %% exercise-7 wrong: the smallest
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return min(moved / bandwidth, operations / peak, instructions / issue)


# %% exercise-7 wrong: the roofline
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return max(moved / bandwidth, operations / peak)


# %% exercise-7 wrong: instructions divided by the peak, and operations by the issue rate, exchanged
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return max(moved / bandwidth, operations / issue, instructions / peak)


# %% exercise-7 wrong: by the intensity, which copies do not have
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return max(operations / min(peak, operations / moved * bandwidth), instructions / issue)


# %% exercise-7 wrong: rates over counts, upside down
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return max(bandwidth / max(moved, 1), peak / max(operations, 1), issue / instructions)


# %% exercise-7 wrong: the wrong sign
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return -max(moved / bandwidth, operations / peak, instructions / issue)


# %% exercise-7 wrong: instructions of warps
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return max(moved / bandwidth, operations / peak, instructions / issue / 32)


# %% exercise-7 wrong: microseconds
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    return 1e6 * max(moved / bandwidth, operations / peak, instructions / issue)


# %% exercise-8 right: the barrier at the beginning
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        cuda.syncthreads()
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[7 - t]


# %% exercise-8 right: two places in turn
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array((2, 8), numba.float32)
    t, turn = cuda.threadIdx.x, 0
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[turn, t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[turn, 7 - t]
        turn = 1 - turn


# %% exercise-8 right: without shared memory
@cuda_kernel
def reversed_rows(x, out):
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        out[row, t] = x[row, 7 - t]


# %% exercise-8 wrong: the colleague's
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[7 - t]


# %% exercise-8 wrong: the barrier moved to the end
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        out[row, t] = part[7 - t]
        cuda.syncthreads()


# %% exercise-8 wrong: no barrier
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        out[row, t] = part[7 - t]


# %% exercise-8 wrong: a barrier for half of the threads
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[7 - t]
        if t < 4:
            cuda.syncthreads()


# %% exercise-8 wrong: one cell too far
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[8 - t]
        cuda.syncthreads()


# %% exercise-8 wrong: a copy
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[t]
        cuda.syncthreads()


# %% exercise-8 wrong: the wrong sign
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = -part[7 - t]
        cuda.syncthreads()


# %% exercise-8 wrong: the rows turned, too
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[x.shape[0] - 1 - row, t] = part[7 - t]
        cuda.syncthreads()


# %% exercise-8 wrong: every block turns all rows
@cuda_kernel
def reversed_rows(x, out):
    t = cuda.threadIdx.x
    for row in range(x.shape[0]):
        out[row, t] = x[row, 7 - t]


# %% exercise-8 wrong: one thread alone
@cuda_kernel
def reversed_rows(x, out):
    if cuda.grid(1) == 0:
        for row in range(x.shape[0]):
            for t in range(8):
                out[row, t] = x[row, 7 - t]


# %% exercise-8 wrong: the package's own function
@cuda_kernel
def reversed_rows(x, out):
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[7 - t] + 0 * iou(x, row, row)
        cuda.syncthreads()
