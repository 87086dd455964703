"""Solutions of lesson 16, On a GPU: every part replaces the cell of its exercise."""


# %% exercise-1
@cuda_kernel
def scale(x, factor, out):
    """x, out: (n,). Set out[i] = factor * x[i]; there are at least as many threads as numbers."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = factor * x[i]


# %% exercise-2
@cuda_kernel
def add(x, y, out):
    """x, y, out: (n,). Set out = x + y; there may be fewer threads than numbers, or more."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[i] + y[i]


# %% exercise-3
@numba.extending.register_jitable
def taps_of(position, size):
    """The two cells around a position with their weights: low, weight, high, weight."""
    position = min(max(position, np.float32(0)), np.float32(size - 1))
    low = int(position)
    fraction = position - np.float32(low)
    return low, np.float32(1) - fraction, min(low + 1, size - 1), fraction


@cuda_kernel
def bilinear(cells, points, out):
    """cells: (H, W). points: (n, 2), y and x. out: (n,), the samples."""
    height, width = cells.shape
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        y, x = points[i, 0], points[i, 1]
        if -1 <= y <= height and -1 <= x <= width:
            y0, b0, y1, b1 = taps_of(y, height)
            x0, a0, x1, a1 = taps_of(x, width)
            top = a0 * cells[y0, x0] + a1 * cells[y0, x1]
            bottom = a0 * cells[y1, x0] + a1 * cells[y1, x1]
            out[i] = b0 * top + b1 * bottom
        else:
            out[i] = 0


# %% exercise-4
@cuda_kernel
def pool(cells, rois, out):
    """cells: (H, W, C). rois: (R, 4) integers, first and last cell: x1, y1, x2, y2. out: (R, h, w, C)."""
    height, width = cells.shape[:2]
    bins_h, bins_w, channels = out.shape[1:]
    for element in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = element // channels, element % channels
        row, pw = pixel // bins_w, pixel % bins_w
        r, ph = row // bins_h, row % bins_h
        x1, y1 = rois[r, 0], rois[r, 1]
        rows, columns = rois[r, 3] - y1 + 1, rois[r, 2] - x1 + 1
        y_first, y_end = y1 + ph * rows // bins_h, y1 - (-(ph + 1) * rows // bins_h)
        x_first, x_end = x1 + pw * columns // bins_w, x1 - (-(pw + 1) * columns // bins_w)
        best = np.float32(-math.inf)
        for y in range(max(y_first, 0), min(y_end, height)):
            for x in range(max(x_first, 0), min(x_end, width)):
                best = max(best, cells[y, x, c])
        out[r, ph, pw, c] = best if best > -math.inf else 0


# %% exercise-5
@numba.extending.register_jitable
def cells_around(position, size):
    """The two cells around a position with their weights: low, weight, high, weight."""
    position = min(max(position, np.float32(0)), np.float32(size - 1))
    low = int(position)
    fraction = position - np.float32(low)
    return low, np.float32(1) - fraction, min(low + 1, size - 1), fraction


@cuda_kernel
def bilinear_backward(points, grad, grad_cells):
    """points: (n, 2), y and x. grad: (n,). grad_cells: (H, W), zeros; afterwards the gradient of the cells."""
    height, width = grad_cells.shape
    for i in range(cuda.grid(1), grad.size, cuda.gridsize(1)):
        y, x, g = points[i, 0], points[i, 1], grad[i]
        if -1 <= y <= height and -1 <= x <= width:
            y0, b0, y1, b1 = cells_around(y, height)
            x0, a0, x1, a1 = cells_around(x, width)
            cuda.atomic.add(grad_cells, (y0, x0), b0 * a0 * g)
            cuda.atomic.add(grad_cells, (y0, x1), b0 * a1 * g)
            cuda.atomic.add(grad_cells, (y1, x0), b1 * a0 * g)
            cuda.atomic.add(grad_cells, (y1, x1), b1 * a1 * g)


# %% exercise-6
@cuda_kernel
def align_shared(cells, samples, out):
    """As align_each, with LANES threads a bin. cells: (H, W, C), C at most 64. samples: (B, S, 2). out: (B, C)."""
    channels = cells.shape[2]
    count, one = samples.shape[1], np.float32(1)
    total = cuda.local.array(EACH, numba.float32)
    for element in range(cuda.grid(1), out.shape[0] * LANES, cuda.gridsize(1)):
        b, lane = int(np.uint32(element) // np.uint32(LANES)), int(np.uint32(element) % np.uint32(LANES))
        for k in range(EACH):
            total[k] = 0
        for s in range(count):
            y, x = samples[b, s, 0], samples[b, s, 1]
            y0, x0 = int(y), int(x)
            fy, fx = y - np.float32(y0), x - np.float32(x0)
            w00, w01, w10, w11 = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
            for k in range(EACH):
                c = lane + k * LANES
                if c < channels:
                    top = w00 * cells[y0, x0, c] + w01 * cells[y0, x0 + 1, c]
                    bottom = w10 * cells[y0 + 1, x0, c] + w11 * cells[y0 + 1, x0 + 1, c]
                    total[k] += top + bottom
        for k in range(EACH):
            c = lane + k * LANES
            if c < channels:
                out[b, c] = total[k] / np.float32(count)


# %% exercise-7
def at_least_seconds(moved, operations, instructions, bandwidth, peak, issue):
    """Returns a number."""
    return max(moved / bandwidth, operations / peak, instructions / issue)


# %% exercise-8
# Nothing kept a quick thread from writing its next number into `part` while a slow one had still to read the old one.
@cuda_kernel
def reversed_rows(x, out):
    """x, out: (rows, 8). Every row in the opposite order; a block has 8 threads."""
    part = cuda.shared.array(8, numba.float32)
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        part[t] = x[row, t]
        cuda.syncthreads()
        out[row, t] = part[7 - t]
        cuda.syncthreads()
