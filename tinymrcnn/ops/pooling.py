"""Pooling over windows: the maximum, as in the ResNet stem, and the mean."""

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, run, scalar, unravel
from tinymrcnn.ops.im2col import Window, check_whole_numbers, col2im, im2col, window_at


@scalar
def takes_over(value: float, best: float, found: int) -> bool:
    """Whether a value becomes the maximum so far: the first does, and a NaN, which must not vanish."""
    return found < 0 or value > best or value != value


# On the CPU a thread walks windows and channels are the inner loop; the backward pass gives a thread some channels of
# a band of rows, so that no two threads add to the same cell. On a GPU every thread makes one element of the result.


@cpu_kernel
def _forward_cpu(
    thread: int, threads: int, x: Array, out: Array, taken: Array, kernel: int, stride: int, padding: int
) -> None:
    """x: (N, H, W, C). out: (N, out_h, out_w, C), the maxima. taken: int32 of the same shape: the place of each
    maximum in its window, counted row by row."""
    for line in range(thread, out.shape[0] * out.shape[1], threads):
        n, i = divmod(np.int64(line), out.shape[1])
        for j in range(out.shape[2]):
            best, found = out[n, i, j], taken[n, i, j]
            found[:] = -1
            for u in range(max(0, padding - i * stride), min(kernel, x.shape[1] + padding - i * stride)):
                for v in range(max(0, padding - j * stride), min(kernel, x.shape[2] + padding - j * stride)):
                    values = x[n, i * stride - padding + u, j * stride - padding + v]
                    for c in range(len(values)):
                        if takes_over(values[c], best[c], found[c]):
                            best[c], found[c] = values[c], u * kernel + v


@cuda_kernel
def _forward_cuda(x: Array, out: Array, taken: Array, kernel: int, stride: int, padding: int) -> None:
    """The same; a thread makes one maximum."""
    for index in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, i, j, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
        best, found = x[n, 0, 0, c], -1
        for u in range(max(0, padding - i * stride), min(kernel, x.shape[1] + padding - i * stride)):
            for v in range(max(0, padding - j * stride), min(kernel, x.shape[2] + padding - j * stride)):
                value = x[n, i * stride - padding + u, j * stride - padding + v, c]
                if takes_over(value, best, found):
                    best, found = value, u * kernel + v
        out[n, i, j, c], taken[n, i, j, c] = best, found


BAND = 64  # rows of the map that a thread takes


@cpu_kernel
def _backward_cpu(
    thread: int, threads: int, grad: Array, taken: Array, out: Array, kernel: int, stride: int, padding: int
) -> None:
    """grad, taken: (N, out_h, out_w, C). out: (N, H, W, C): every gradient at the place that was taken."""
    _, height, _, channels = out.shape
    shares, bands = -(-channels // 16), -(-height // BAND)  # 16 channels are a cache line
    for unit in range(thread, out.shape[0] * shares * bands, threads):
        rest, band = divmod(np.int64(unit), bands)
        n, share = divmod(rest, shares)
        first, end = BAND * band, min(BAND * band + BAND, height)
        out[n, first:end, :, 16 * share : 16 * share + 16] = 0
        for i in range(max(0, (first + padding - kernel) // stride), min(grad.shape[1], (end + padding) // stride + 1)):
            for j in range(grad.shape[2]):
                for c in range(16 * share, min(16 * share + 16, channels)):
                    u, v = divmod(taken[n, i, j, c], kernel)
                    y = i * stride - padding + u
                    if first <= y < end:  # a window can reach into the next band
                        out[n, y, j * stride - padding + v, c] += grad[n, i, j, c]


@cuda_kernel
def _backward_cuda(grad: Array, taken: Array, out: Array, kernel: int, stride: int, padding: int) -> None:
    """The same; a thread gathers the gradient of one pixel."""
    for index in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, y, z, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
        total = grad.dtype.type(0)
        for u in range(kernel):
            i = window_at(y + padding - u, stride, grad.shape[1])
            if i >= 0:
                for v in range(kernel):
                    j = window_at(z + padding - v, stride, grad.shape[2])
                    if j >= 0 and taken[n, i, j, c] == u * kernel + v:
                        total += grad[n, i, j, c]
        out[n, y, z, c] = total


def max_pool2d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The largest value under each kernel_size x kernel_size window, as torch.nn.functional.max_pool2d.

    x: (N, C, H, W). stride: kernel_size if None. padding: at most half the kernel, counts as minus infinity.
    Returns (N, C, (H + 2 padding - kernel_size) // stride + 1, likewise for W), channels-last.

    The gradient goes to the first maximum in row-major order. Raises ValueError for impossible sizes."""
    stride, size = _check_pooling("max_pool2d", x, kernel_size, stride, padding)
    image = channels_last(x.data)
    xp, shape = array_module(image), image.shape
    out = xp.empty((shape[0], *size, shape[3]), image.dtype)
    taken = xp.empty(out.shape, xp.int32)
    run(_forward_cpu, _forward_cuda, out.size, image, out, taken, kernel_size, stride, padding)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        result = xp.empty(shape, grad.dtype)
        arrays = (channels_last(grad), taken, result)
        run(_backward_cpu, _backward_cuda, result.size, *arrays, kernel_size, stride, padding)
        return (channels_first(result),)

    return record(channels_first(out), (x,), backward, "max_pool2d")


def avg_pool2d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The mean under each kernel_size x kernel_size window, as torch.nn.functional.avg_pool2d. The
    padding counts as zeros.

    Arguments, result and errors as those of max_pool2d."""
    stride, (height, width) = _check_pooling("avg_pool2d", x, kernel_size, stride, padding)
    image, window, places = channels_last(x.data), Window((kernel_size, kernel_size), stride, padding), kernel_size**2
    xp, shape, channels = array_module(image), image.shape, image.shape[3]
    columns = xp.empty((len(image) * height * width, places * channels), image.dtype)
    im2col(image, columns, 0, (height, width), window)
    out = columns.reshape(len(image), height, width, places, channels).sum(axis=3) * (1 / places)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        shares, result = channels_last(grad).reshape(-1, channels) * (1 / places), xp.zeros(shape, grad.dtype)
        col2im(xp.tile(shares, (1, places)), result, (height, width), window)
        return (channels_first(result),)

    return record(channels_first(out), (x,), backward, "avg_pool2d")


def _check_pooling(
    name: str, x: Tensor, kernel_size: int, stride: int | None, padding: int
) -> tuple[int, tuple[int, int]]:
    """The stride, and the (height, width) of the result."""
    check_whole_numbers(kernel_size=kernel_size, stride=stride, padding=padding)
    stride = kernel_size if stride is None else stride
    if x.ndim != 4:
        raise ValueError(f"{name} takes (N, C, H, W), not {x.shape}.")
    if kernel_size < 1 or not 1 <= stride < 2**31 or not 0 <= padding <= kernel_size // 2:
        raise ValueError(f"Impossible kernel {kernel_size}, stride {stride} or padding {padding} (at most half of it).")
    if min(x.shape[2:]) + 2 * padding < kernel_size:
        raise ValueError(f"An image of {x.shape[2:]} with padding {padding} is smaller than the window {kernel_size}.")
    return stride, Window((kernel_size, kernel_size), stride, padding).out_size((x.shape[2], x.shape[3]))
