"""Solutions of lesson 02, convolution: each part replaces the cell with the same tag."""


# %% exercise-1
def output_side(side, kernel, stride, padding, dilation):
    """The number of output pixels along a side of `side` input pixels."""
    reach = dilation * (kernel - 1) + 1  # pixels from the first to the last cell of the filter
    return (side + 2 * padding - reach) // stride + 1


# %% exercise-2
def windows(image, kernel_h, kernel_w):
    """(H, W) -> (out_h * out_w, kernel_h * kernel_w)."""
    out_h, out_w = image.shape[0] - kernel_h + 1, image.shape[1] - kernel_w + 1
    rows = [image[i : i + kernel_h, j : j + kernel_w].ravel() for i in range(out_h) for j in range(out_w)]
    return np.stack(rows)


# %% exercise-3
def filter_and_bias_gradient(windows, grad):
    """(P, K) and (P, O) -> the gradients (O, K) of the filters and (O,) of the bias."""
    return grad.T @ windows, grad.sum(axis=0)


# %% exercise-4
def directional_slope(f, x, direction):
    """(f(x + step direction) - f(x - step direction)) / (2 step)."""
    step = 1e-5
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


# %% exercise-5
def average_pool(x: Tensor) -> Tensor:
    """(H, W) -> (H / 2, W / 2), the mean of every block of 2 x 2."""
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))

    def backward(grad, needs):
        return (np.repeat(np.repeat(grad / 4, 2, axis=0), 2, axis=1),)

    return record(means, (x,), backward, "average")
