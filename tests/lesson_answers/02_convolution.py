"""Answers to the exercises of lesson 02 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: in another order
def output_side(side, kernel, stride, padding, dilation):
    return (side + 2 * padding - dilation * (kernel - 1) - 1 + stride) // stride


# %% exercise-1 right: by counting the places
def output_side(side, kernel, stride, padding, dilation):
    last = side + padding - dilation * (kernel - 1)
    return len(range(-padding, last, stride))


# %% exercise-1 right: a float, rounded down
def output_side(side, kernel, stride, padding, dilation):
    return np.floor((side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1)


# %% exercise-1 wrong: zero
def output_side(side, kernel, stride, padding, dilation):
    return 0


# %% exercise-1 wrong: without the dilation
def output_side(side, kernel, stride, padding, dilation):
    return (side + 2 * padding - kernel) // stride + 1


# %% exercise-1 wrong: kernel times dilation
def output_side(side, kernel, stride, padding, dilation):
    return (side + 2 * padding - kernel * dilation) // stride + 1


# %% exercise-1 wrong: off by one
def output_side(side, kernel, stride, padding, dilation):
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride


# %% exercise-1 wrong: the padding once
def output_side(side, kernel, stride, padding, dilation):
    return (side + padding - dilation * (kernel - 1) - 1) // stride + 1


# %% exercise-1 wrong: rounded up
def output_side(side, kernel, stride, padding, dilation):
    return int(np.ceil((side + 2 * padding - dilation * (kernel - 1) - 1) / stride)) + 1


# %% exercise-1 wrong: not rounded
def output_side(side, kernel, stride, padding, dilation):
    return (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1


# %% exercise-1 wrong: the sign of the padding
def output_side(side, kernel, stride, padding, dilation):
    return (side - 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# %% exercise-1 wrong: the side divided by the stride
def output_side(side, kernel, stride, padding, dilation):
    return side // stride


# %% exercise-1 wrong: the package's
def output_side(side, kernel, stride, padding, dilation):
    x, w = Tensor(np.zeros((1, 1, side, 40))), Tensor(np.zeros((1, 1, kernel, 1)))
    return ops.conv2d(x, w, stride=stride, padding=padding, dilation=dilation).shape[2]


# %% exercise-2 right: NumPy's view of windows
def windows(image, kernel_h, kernel_w):
    view = np.lib.stride_tricks.sliding_window_view(image, (kernel_h, kernel_w))
    return view.reshape(-1, kernel_h * kernel_w)


# %% exercise-2 right: by the formula, a list of lists
def windows(image, kernel_h, kernel_w):
    height, width = image.shape
    return [
        [image[i + u, j + v] for u in range(kernel_h) for v in range(kernel_w)]
        for i in range(height - kernel_h + 1)
        for j in range(width - kernel_w + 1)
    ]


# %% exercise-2 right: cell by cell
def windows(image, kernel_h, kernel_w):
    out_h, out_w = image.shape[0] - kernel_h + 1, image.shape[1] - kernel_w + 1
    cells = [image[u : u + out_h, v : v + out_w].ravel() for u in range(kernel_h) for v in range(kernel_w)]
    return np.array(cells).T


# %% exercise-2 wrong: zeros
def windows(image, kernel_h, kernel_w):
    return np.zeros(((image.shape[0] - kernel_h + 1) * (image.shape[1] - kernel_w + 1), kernel_h * kernel_w))


# %% exercise-2 wrong: windows column by column
def windows(image, kernel_h, kernel_w):
    out_h, out_w = image.shape[0] - kernel_h + 1, image.shape[1] - kernel_w + 1
    rows = [image[i : i + kernel_h, j : j + kernel_w].ravel() for j in range(out_w) for i in range(out_h)]
    return np.stack(rows)


# %% exercise-2 wrong: cells column by column
def windows(image, kernel_h, kernel_w):
    out_h, out_w = image.shape[0] - kernel_h + 1, image.shape[1] - kernel_w + 1
    rows = [image[i : i + kernel_h, j : j + kernel_w].T.ravel() for i in range(out_h) for j in range(out_w)]
    return np.stack(rows)


# %% exercise-2 wrong: transposed
def windows(image, kernel_h, kernel_w):
    view = np.lib.stride_tricks.sliding_window_view(image, (kernel_h, kernel_w))
    return view.reshape(-1, kernel_h * kernel_w).T


# %% exercise-2 wrong: off by one, the last row and column of outputs missing
def windows(image, kernel_h, kernel_w):
    out_h, out_w = image.shape[0] - kernel_h, image.shape[1] - kernel_w
    rows = [image[i : i + kernel_h, j : j + kernel_w].ravel() for i in range(out_h) for j in range(out_w)]
    return np.array(rows)


# %% exercise-2 wrong: the filter turned around
def windows(image, kernel_h, kernel_w):
    view = np.lib.stride_tricks.sliding_window_view(image, (kernel_h, kernel_w))
    return view.reshape(-1, kernel_h * kernel_w)[:, ::-1]


# %% exercise-2 wrong: kernel_h and kernel_w exchanged
def windows(image, kernel_h, kernel_w):
    view = np.lib.stride_tricks.sliding_window_view(image, (kernel_w, kernel_h))
    return view.reshape(-1, kernel_h * kernel_w)


# %% exercise-2 wrong: stride of the kernel
def windows(image, kernel_h, kernel_w):
    view = np.lib.stride_tricks.sliding_window_view(image, (kernel_h, kernel_w))
    return view[::kernel_h, ::kernel_w].reshape(-1, kernel_h * kernel_w)


# %% exercise-2 wrong: four axes
def windows(image, kernel_h, kernel_w):
    return np.lib.stride_tricks.sliding_window_view(image, (kernel_h, kernel_w))


# %% exercise-2 wrong: the package's
def windows(image, kernel_h, kernel_w):
    from tinymrcnn.ops import im2col as module

    size = image.shape[0] - kernel_h + 1, image.shape[1] - kernel_w + 1
    result = np.empty((size[0] * size[1], kernel_h * kernel_w))
    module.im2col(image[None, :, :, None], result, 0, size, module.Window((kernel_h, kernel_w)))
    return result


# %% exercise-3 right: einsum, as a list
def filter_and_bias_gradient(windows, grad):
    return [np.einsum("pk,po->ok", windows, grad), np.einsum("po->o", grad)]


# %% exercise-3 right: by loops
def filter_and_bias_gradient(windows, grad):
    weight, bias = np.zeros((grad.shape[1], windows.shape[1])), np.zeros(grad.shape[1])
    for window, upstream in zip(windows, grad, strict=True):
        weight += np.outer(upstream, window)
        bias += upstream
    return weight, bias


# %% exercise-3 wrong: zeros
def filter_and_bias_gradient(windows, grad):
    return np.zeros((grad.shape[1], windows.shape[1])), np.zeros(grad.shape[1])


# %% exercise-3 wrong: the filter's transposed
def filter_and_bias_gradient(windows, grad):
    return windows.T @ grad, grad.sum(0)


# %% exercise-3 wrong: the sums over the filters
def filter_and_bias_gradient(windows, grad):
    return grad.T @ windows, grad.sum(1)


# %% exercise-3 wrong: the mean
def filter_and_bias_gradient(windows, grad):
    return grad.T @ windows / len(grad), grad.mean(0)


# %% exercise-3 wrong: the sign
def filter_and_bias_gradient(windows, grad):
    return -grad.T @ windows, -grad.sum(0)


# %% exercise-3 wrong: off by one, the last window missing
def filter_and_bias_gradient(windows, grad):
    return grad[:-1].T @ windows[:-1], grad[:-1].sum(0)


# %% exercise-3 wrong: the bias missing
def filter_and_bias_gradient(windows, grad):
    return grad.T @ windows


# %% exercise-3 wrong: exchanged
def filter_and_bias_gradient(windows, grad):
    return grad.sum(0), grad.T @ windows


# %% exercise-3 wrong: one bias for all filters
def filter_and_bias_gradient(windows, grad):
    return grad.T @ windows, np.full(grad.shape[1], grad.sum())


# %% exercise-4 right: in two lines
def directional_slope(f, x, direction):
    ahead, behind = f(x + 1e-5 * direction), f(x - 1e-5 * direction)
    return 0.5e5 * (ahead - behind)


# %% exercise-4 right: a smaller step
def directional_slope(f, x, direction):
    step = 1e-6
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


# %% exercise-4 wrong: zero
def directional_slope(f, x, direction):
    return 0.0


# %% exercise-4 wrong: forward
def directional_slope(f, x, direction):
    step = 1e-5
    return (f(x + step * direction) - f(x)) / step


# %% exercise-4 wrong: backward
def directional_slope(f, x, direction):
    step = 1e-5
    return (f(x) - f(x - step * direction)) / step


# %% exercise-4 wrong: divided by one step
def directional_slope(f, x, direction):
    step = 1e-5
    return (f(x + step * direction) - f(x - step * direction)) / step


# %% exercise-4 wrong: the sign
def directional_slope(f, x, direction):
    step = 1e-5
    return (f(x - step * direction) - f(x + step * direction)) / (2 * step)


# %% exercise-4 wrong: the direction left out
def directional_slope(f, x, direction):
    step = 1e-5
    return (f(x + step) - f(x - step)) / (2 * step)


# %% exercise-4 wrong: a direction of length 1
def directional_slope(f, x, direction):
    step, unit = 1e-5, direction / np.linalg.norm(direction)
    return (f(x + step * unit) - f(x - step * unit)) / (2 * step)


# %% exercise-4 wrong: too large a step
def directional_slope(f, x, direction):
    step = 1e-2
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


# %% exercise-4 wrong: too small a step
def directional_slope(f, x, direction):
    step = 1e-12
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


# %% exercise-4 wrong: the slope of every element
def directional_slope(f, x, direction):
    step = 1e-5
    return np.array([(f(x + step * direction) - f(x - step * direction)) / (2 * step)] * x.size)


# %% exercise-5 right: by four slices
def average_pool(x):
    data = x.data
    means = (data[::2, ::2] + data[1::2, ::2] + data[::2, 1::2] + data[1::2, 1::2]) / 4

    def backward(grad, needs):
        out = np.empty_like(data)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[i::2, j::2] = grad / 4
        return (out,)

    return record(means, (x,), backward, "average_pool")


# %% exercise-5 right: with a Kronecker product
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (np.kron(grad, np.full((2, 2), 0.25)),), "average_pool")


# %% exercise-5 wrong: the gradient not divided
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (np.kron(grad, np.ones((2, 2))),), "average_pool")


# %% exercise-5 wrong: the sign
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (-np.kron(grad, np.full((2, 2), 0.25)),), "average_pool")


# %% exercise-5 wrong: repeated in tiles
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (np.tile(grad / 4, (2, 2)),), "average_pool")


# %% exercise-5 wrong: halves for quarters
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (np.kron(grad, np.full((2, 2), 0.5)),), "average_pool")


# %% exercise-5 wrong: the sums
def average_pool(x):
    height, width = x.shape
    sums = x.data.reshape(height // 2, 2, width // 2, 2).sum((1, 3))
    return record(sums, (x,), lambda grad, needs: (np.kron(grad, np.ones((2, 2))),), "average_pool")


# %% exercise-5 wrong: the largest
def average_pool(x):
    height, width = x.shape
    largest = x.data.reshape(height // 2, 2, width // 2, 2).max((1, 3))
    return record(largest, (x,), lambda grad, needs: (np.kron(grad, np.full((2, 2), 0.25)),), "average_pool")


# %% exercise-5 wrong: halves instead of blocks
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(2, height // 2, 2, width // 2).mean((0, 2))
    return record(means, (x,), lambda grad, needs: (np.tile(grad / 4, (2, 2)),), "average_pool")


# %% exercise-5 wrong: zeros
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: (np.zeros(x.shape),), "average_pool")


# %% exercise-5 wrong: no tuple
def average_pool(x):
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return record(means, (x,), lambda grad, needs: np.kron(grad, np.full((2, 2), 0.25)), "average_pool")
