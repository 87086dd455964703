"""Max pooling over windows, as in the ResNet stem."""

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import array_module, channels_first, channels_last
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, prange, run, scalar


@scalar
def _window_max(x, n, i, j, c, kernel, stride, padding):
    """The largest value under a window and where it lies in it (the first one in row-major order)."""
    best, found = x[n, 0, 0, c], -1
    for u in range(kernel):
        y = i * stride - padding + u
        if 0 <= y < x.shape[1]:
            for v in range(kernel):
                z = j * stride - padding + v
                if 0 <= z < x.shape[2]:
                    value = x[n, y, z, c]
                    # a NaN wins, as it does in torch: it must not vanish
                    if found < 0 or value > best or value != value:
                        best, found = value, u * kernel + v
    return best, found


@scalar
def _gathered_grad(grad, taken, n, y, z, c, kernel, stride, padding):
    """The sum of the gradients of the windows that took pixel (y, z) as their maximum."""
    total = grad.dtype.type(0)
    for u in range(kernel):
        i, rest = divmod(y + padding - u, stride)
        if rest == 0 and 0 <= i < grad.shape[1]:
            for v in range(kernel):
                j, rest = divmod(z + padding - v, stride)
                if rest == 0 and 0 <= j < grad.shape[2] and taken[n, i, j, c] == u * kernel + v:
                    total += grad[n, i, j, c]
    return total


@cpu_kernel
def _forward_cpu(x, out, taken, kernel, stride, padding):
    for line in prange(out.shape[0] * out.shape[1]):
        n, i = divmod(np.int64(line), out.shape[1])
        for j in range(out.shape[2]):
            for c in range(out.shape[3]):
                out[n, i, j, c], taken[n, i, j, c] = _window_max(x, n, i, j, c, kernel, stride, padding)


@cuda_kernel
def _forward_cuda(x, out, taken, kernel, stride, padding):
    for index in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = divmod(index, out.shape[3])
        line, j = divmod(pixel, out.shape[2])
        n, i = divmod(line, out.shape[1])
        out[n, i, j, c], taken[n, i, j, c] = _window_max(x, n, i, j, c, kernel, stride, padding)


@cpu_kernel
def _backward_cpu(grad, taken, out, kernel, stride, padding):
    for line in prange(out.shape[0] * out.shape[1]):
        n, y = divmod(np.int64(line), out.shape[1])
        for z in range(out.shape[2]):
            for c in range(out.shape[3]):
                out[n, y, z, c] = _gathered_grad(grad, taken, n, y, z, c, kernel, stride, padding)


@cuda_kernel
def _backward_cuda(grad, taken, out, kernel, stride, padding):
    for index in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        pixel, c = divmod(index, out.shape[3])
        line, z = divmod(pixel, out.shape[2])
        n, y = divmod(line, out.shape[1])
        out[n, y, z, c] = _gathered_grad(grad, taken, n, y, z, c, kernel, stride, padding)


def max_pool2d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The largest value under each kernel_size x kernel_size window, as torch.nn.functional.max_pool2d.

    x: (N, C, H, W). stride: kernel_size if None. padding: at most half the kernel, counts as minus infinity.
    Returns (N, C, (H + 2 padding - kernel_size) // stride + 1, likewise for W), channels-last.

    The gradient goes to the first maximum in row-major order. Raises ValueError for impossible sizes."""
    stride = kernel_size if stride is None else stride
    if x.ndim != 4:
        raise ValueError(f"max_pool2d takes (N, C, H, W), not {x.shape}.")
    if kernel_size < 1 or stride < 1 or not 0 <= padding <= kernel_size // 2:
        raise ValueError(f"Impossible kernel {kernel_size}, stride {stride} or padding {padding} (at most half of it).")
    if min(x.shape[2:]) + 2 * padding < kernel_size:
        raise ValueError(f"An image of {x.shape[2:]} with padding {padding} is smaller than the window {kernel_size}.")
    image = channels_last(x.data)
    xp, shape = array_module(image), image.shape
    size = tuple((n + 2 * padding - kernel_size) // stride + 1 for n in shape[1:3])
    out = xp.empty((shape[0], *size, shape[3]), image.dtype)
    taken = xp.empty(out.shape, xp.int32)
    run(_forward_cpu, _forward_cuda, out.size, image, out, taken, kernel_size, stride, padding)

    def backward(grad, needs):
        result = xp.empty(shape, grad.dtype)
        arrays = (channels_last(grad), taken, result)
        run(_backward_cpu, _backward_cuda, result.size, *arrays, kernel_size, stride, padding)
        return (channels_first(result),)

    return record(channels_first(out), (x,), backward)
