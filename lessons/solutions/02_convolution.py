"""Solutions of lesson 02, convolution: each part replaces the cell with the same tag."""


# %% exercise-1
def output_side(side, kernel, stride, padding, dilation):
    """The number of output pixels along a side of `side` input pixels."""
    reach = dilation * (kernel - 1) + 1  # pixels from the first to the last cell of the filter
    return (side + 2 * padding - reach) // stride + 1


# %% exercise-2
def windows(image, kernel_h, kernel_w, stride, dilation):
    """(H, W) -> (out_h * out_w, kernel_h * kernel_w)."""
    reach_h, reach_w = dilation * (kernel_h - 1) + 1, dilation * (kernel_w - 1) + 1
    starts = [
        (i, j)
        for i in range(0, image.shape[0] - reach_h + 1, stride)
        for j in range(0, image.shape[1] - reach_w + 1, stride)
    ]
    return np.stack([image[i : i + reach_h : dilation, j : j + reach_w : dilation].ravel() for i, j in starts])


# %% exercise-3
# The colleague turns the filters around in one direction only: [:, :, ::-1] is a mirror. A blurring filter is the same
# in a mirror and after half a turn, so the test with it sees nothing; a random filter shows the mistake at once.
def image_gradient(grad, weight):
    """(O, out_h, out_w) and (O, C, kernel_h, kernel_w) -> the gradient of the image, (C, H, W)."""
    (_, channels, kernel_h, kernel_w), (_, out_h, out_w) = weight.shape, grad.shape
    padded = np.pad(grad, ((0, 0), (kernel_h - 1, kernel_h - 1), (kernel_w - 1, kernel_w - 1)))
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    pixels = windows_of(padded, kernel_h, kernel_w) @ turned.reshape(channels, -1).T
    return pixels.T.reshape(channels, out_h + kernel_h - 1, out_w + kernel_w - 1)


# %% exercise-4
def average_pool(x: Tensor) -> Tensor:
    """(H, W) -> (H / 2, W / 2), the mean of every block of 2 x 2."""
    height, width = x.shape
    means = x.data.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))

    def backward(grad, needs):
        return (np.repeat(np.repeat(grad / 4, 2, axis=0), 2, axis=1),)

    return record(means, (x,), backward, "average")
