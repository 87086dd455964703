"""Convolution, transposed convolution and the fully connected layer, each as matrix products.

A convolution is one product: the windows of the image as the rows of a matrix (im2col), times the filters
as the columns of another. With channels-last memory a 1x1 convolution needs no im2col at all, and a filter
bank stored channels-last is that second matrix without a copy. Lesson 02 explains it.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last, elementwise
from tinymrcnn.ops import taps, winograd
from tinymrcnn.ops.activations import relu_grad
from tinymrcnn.ops.im2col import Window, check_whole_numbers, col2im, im2col
from tinymrcnn.ops.products import finish, is_ours, kept, matmul, multiply, pack
from tinymrcnn.threads import PIECE, column_sums, get_num_threads, shares, slices, spread, workspace

# The matrix of windows is built in pieces: enough rows for a fast product, or as many numbers as a core's cache holds.
# The gradient of the filters is a sum over the pieces; they are the same on all machines, and so is its rounding. (On a
# GPU a piece takes a small part of its memory.)
ROWS, GRAD_PIECE, GPU_PIECE = 512, 1 << 20, 1 << 26


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, dilation: int = 1,
    *, residual: Tensor | None = None, relu: bool = False, groups: int = 1, scale: Array = None, inplace: bool = False,
) -> Tensor:  # fmt: skip
    """The cross-correlation that deep learning calls convolution, as torch.nn.functional.conv2d.

    x: (N, C, H, W). weight: (O, C / groups, kernel_h, kernel_w). bias: (O,). stride, padding, dilation: int.
    residual: of the result's shape, added to it; inplace: nobody needs it afterwards, so that the result may take its
    memory. relu: max(result, 0), at the very end. Neither needs another pass over the memory. groups: the channels and
    the filters are cut into so many equal parts, and a part of the filters sees only its part of the channels. scale:
    an array (O,) by which the filters are multiplied.
    Returns (N, O, out_h, out_w), channels-last, out_h = (H + 2 padding - dilation (kernel_h - 1) - 1) // stride + 1.

    Raises ValueError when the shapes do not fit, TypeError for a stride, padding, dilation or number of groups that is
    no whole number."""
    check_whole_numbers(stride=stride, padding=padding, dilation=dilation, groups=groups)
    window = Window(weight.data.shape[2:], stride, padding, dilation)
    _check_convolution(x, weight, bias, residual, window, groups)
    image, size = channels_last(x.data), (*x.shape[:1], *x.shape[2:], weight.shape[1])
    parts = list(zip(slices(x.shape[1], groups), slices(len(weight), groups), strict=True))  # of channels, of filters

    def scaled(array: Array) -> Array:
        return array if scale is None else elementwise("multiply", array, scale.reshape(-1, 1, 1, 1))

    weights, filters = weight.data, scaled(weight.data)  # backward scales them once more, so that nobody keeps them
    shift = (lambda part: None) if bias is None else bias.data.__getitem__
    other = (lambda part: None) if residual is None else partial(_cut, channels_last(residual.data))
    bank = filters.__getitem__ if groups > 1 else lambda part: filters  # the array itself, for what is kept of it
    outs = (correlate(_cut(image, c), bank(o), window, shift(o), relu, other(o), inplace) for c, o in parts)
    out = channels_first(_joined(outs))
    image, result = image if weight.requires_grad else None, out if relu else None

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        nonlocal result
        grad, result = channels_last(relu_grad(grad, result) if relu else grad), None
        filters = scaled(weights)
        needs, rest = needs[:operands], [channels_first(grad) if need else None for need in needs[operands:]]
        images = (correlate_input_grad(_cut(grad, o), filters[o], size, window) for _, o in parts)
        slopes = (correlate_weight_grad(_cut(grad, o), _cut(image, c), window) for c, o in parts)
        return (
            channels_first(_joined(images)) if needs[0] else None,
            scaled(channels_first(_joined(map(channels_last, slopes), 0))) if needs[1] else None,
            *(column_sums(grad.reshape(-1, grad.shape[3])) if need else None for need in needs[2:]),
            *rest,
        )

    parents = (x, weight) if bias is None else (x, weight, bias)
    operands = len(parents)
    return record(out, parents if residual is None else (*parents, residual), backward, "conv2d")


def _cut(array: Array, channels: slice) -> Array:
    """Some channels of an (N, H, W, C) array, C-contiguous; the array itself if they are all."""
    return array_module(array).ascontiguousarray(array[..., channels])


def _joined(arrays: Iterable[Array], axis: int = 3) -> Array:
    """The arrays of all groups, one after the other along an axis."""
    first, *others = arrays
    return array_module(first).concatenate([first, *others], axis) if others else first


def _check_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, window: Window, groups: int
) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"conv2d takes (N, C, H, W) and (O, C, kh, kw), not {x.shape} and {weight.shape}.")
    if groups < 1 or len(weight) % groups:
        raise ValueError(f"{len(weight)} filters cannot be cut into {groups} groups.")
    if x.shape[1] != groups * weight.shape[1]:
        raise ValueError(f"The input has {x.shape[1]} channels, but the filters of shape {weight.shape} take others.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"A bias of shape {bias.shape} does not fit {weight.shape[0]} filters.")
    _, stride, padding, dilation = window
    if stride < 1 or padding < 0 or dilation < 1 or max(window[1:]) >= 2**31:  # CUDA kernels count in 32 bits
        raise ValueError(f"Impossible stride {stride}, padding {padding} or dilation {dilation}.")
    shape = len(x.data), len(weight.data), *window.out_size((x.shape[2], x.shape[3]))
    if min(shape[2:]) < 1:
        raise ValueError(f"A padded image of {x.shape[2:]} + 2 * {padding} is smaller than the kernel {weight.shape}.")
    if residual is not None and residual.shape != shape:
        raise ValueError(f"A residual of shape {residual.shape} cannot be added to a result of shape {shape}.")


def _as_matrix(filters: Array) -> Array:
    """(O, C, kh, kw) filters as the (O, kh * kw * C) matrix that fits im2col's rows (a view if channels-last)."""
    return filters.transpose(0, 2, 3, 1).reshape(filters.shape[0], -1)


def _pack_weight(weight: Array) -> Array:
    return pack(_as_matrix(weight).T)


def definition(image: Array, filters: Array, window: Window) -> Array:
    """What correlate computes, pixel by pixel, (N, H, W, C) and (O, C, kh, kw) to (N, out_h, out_w, O): for reading,
    and a reference for the tests."""
    xp, (kernel, stride, padding, dilation) = array_module(image, filters), window
    height, width = window.out_size(image.shape[1:3])
    image = xp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    out = xp.empty((len(image), height, width, len(filters)), image.dtype)
    for i in range(height):
        for j in range(width):
            y, x = (stride * at + dilation * xp.arange(size) for at, size in zip((i, j), kernel, strict=True))
            pixels = image[:, y[:, None], x]  # (N, kernel_h, kernel_w, C)
            out[:, i, j] = xp.tensordot(pixels, filters, axes=((1, 2, 3), (2, 3, 1)))
    return out


def _windows(
    image: Array, size: tuple[int, int], window: Window, channels: int, together: bool = False
) -> tuple[int, Callable[[int], tuple[slice, Array]]]:
    """The matrix of windows in pieces: their number, and a function that makes the piece of an index and returns (slice
    of the matrix's rows, those rows). size, channels: of the output, a piece of which should fit into the cache, too.
    together: all threads make one piece; else each thread makes its own."""
    xp, on_cpu = array_module(image), isinstance(image, np.ndarray)
    (out_h, out_w), per_row = size, window.kernel[0] * window.kernel[1] * image.shape[3]
    lines = len(image) * out_h
    numbers = GPU_PIECE if not on_cpu else GRAD_PIECE if together else PIECE
    step = max(1, max(ROWS, numbers // max(1, per_row, channels)) // max(1, out_w))
    fixed = [slice(first, min(first + step, lines)) for first in range(0, lines, step)]
    pieces = shares(lines, step, get_num_threads()) if on_cpu and not together else fixed

    def make(index: int) -> tuple[slice, Array]:
        first, rows = pieces[index].start, slice(pieces[index].start * out_w, pieces[index].stop * out_w)
        if window.is_pointwise:
            return rows, image.reshape(-1, per_row)[rows]  # the windows are the pixels
        shape = (rows.stop - rows.start, per_row)
        columns = workspace("columns", shape, image.dtype) if on_cpu else xp.empty(shape, image.dtype)
        im2col(image, columns, first, size, window)
        return rows, columns

    return len(pieces), make


def correlate(
    image: Array, filters: Array, window: Window, bias: Array | None = None, relu: bool = False,
    residual: Array | None = None, inplace: bool = False,
) -> Array:  # fmt: skip
    """definition(), fast, plus bias (O,) and residual, and through a ReLU if so said: (N, H, W, C) and (O, C, kh, kw)
    to (N, out_h, out_w, O), C-contiguous; if inplace, perhaps in the memory of the residual."""
    xp = array_module(image, filters)
    if winograd.fits(image, len(filters), window):
        return winograd.correlate(image, filters, window.padding, bias, relu, residual)
    if taps.fits(image, window):
        return taps.correlate(image, filters, window, bias, relu, residual)
    size = window.out_size(image.shape[1:3])
    out: Array = residual if inplace and is_ours(residual) and is_ours(image) else None
    out = xp.empty((len(image), *size, len(filters)), image.dtype) if out is None else out
    flat = out.reshape(-1, len(filters))
    factor = kept(_pack_weight, filters, len(flat))
    pieces, windows = _windows(image, size, window, len(filters))

    def work(index: int) -> None:
        rows, columns = windows(index)
        start = None if residual is None else residual.reshape(flat.shape)[rows]
        multiply(columns, factor, flat[rows], bias, start, relu)

    spread(work, pieces, image, 2 * out.size * filters[0].size, out.nbytes)
    return out


def correlate_input_grad(grad: Array, filters: Array, shape: tuple[int, ...], window: Window) -> Array:
    """The gradient of the image, of `shape` (N, H, W, C), from that of the output, (N, out_h, out_w, O)."""
    xp, (kernel, stride, padding, dilation) = array_module(grad, filters), window
    reach = dilation * (kernel[0] - 1) - padding
    if stride == 1 and kernel[0] == kernel[1] and reach >= 0:
        # every pixel gathers from the windows that covered it: a correlation with the filters turned around
        turned = filters[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        return correlate(grad, turned, Window(kernel, 1, reach, dilation))
    image = xp.zeros(shape, grad.dtype)
    matrix, (n, out_h, out_w, out) = _as_matrix(filters), grad.shape
    step = max(1, (GRAD_PIECE if xp is np else GPU_PIECE) // max(1, out_h * out_w * matrix.shape[1]))
    for first in range(0, n, step):
        some = slice(first, first + step)
        columns = matmul(grad[some].reshape(-1, out), matrix)
        col2im(columns, image[some], (out_h, out_w), window)
    return image


def correlate_weight_grad(grad: Array, image: Array, window: Window) -> Array:
    """The gradient of the filters, (O, C, kh, kw) channels-last: the output's gradient times the windows."""
    xp, out, channels = array_module(grad, image), grad.shape[3], image.shape[3]
    if winograd.fits(image, out, window):
        return winograd.correlate_weight_grad(grad, image, window.padding)
    flat = grad.reshape(-1, out)
    pieces, windows = _windows(image, grad.shape[1:3], window, out, together=True)
    total: Array = None if pieces else xp.zeros((out, window.kernel[0] * window.kernel[1] * channels), image.dtype)
    for index in range(pieces):
        rows, columns = windows(index)
        total = matmul(flat[rows].T, columns, total, accumulate=index > 0)
    return channels_first(total.reshape(out, *window.kernel, channels))


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, *, relu: bool = False
) -> Tensor:
    """The transpose of conv2d's linear map ("deconvolution"), as torch.nn.functional.conv_transpose2d.

    x: (N, C, H, W). weight: (C, O, kernel_h, kernel_w). bias: (O,). relu: max(result, 0).
    Returns (N, O, (H - 1) stride + kernel_h, (W - 1) stride + kernel_w), channels-last.

    Its forward is conv2d's input gradient and the other way round. Raises as conv2d does."""
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[0]:
        raise ValueError(f"conv_transpose2d takes (N, C, H, W) and (C, O, kh, kw), not {x.shape} and {weight.shape}.")
    if bias is not None and bias.shape != weight.shape[1:2]:
        raise ValueError(f"A bias of shape {bias.shape} does not fit {weight.shape[1]} output channels.")
    check_whole_numbers(stride=stride)
    if not 1 <= stride < 2**31:
        raise ValueError(f"Impossible stride {stride}.")
    image, filters = channels_last(x.data), weight.data
    (n, h, w, _), (_, channels, *kernel) = image.shape, filters.shape
    window = Window((kernel[0], kernel[1]), stride)
    shape = n, (h - 1) * stride + kernel[0], (w - 1) * stride + kernel[1], channels
    shift = None if bias is None else bias.data
    if window.kernel == (stride, stride) and is_ours(image):
        pixels = _blocks(image, filters, shape, shift, relu)
    else:
        pixels = correlate_input_grad(image, filters, shape, window)
        finish(pixels.reshape(-1, channels), shift, relu=relu)
    out = channels_first(pixels)
    image, result = image if weight.requires_grad else None, out if relu else None

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        nonlocal result
        grad, result = channels_last(relu_grad(grad, result) if relu else grad), None
        return (
            channels_first(correlate(grad, filters, window)) if needs[0] else None,
            correlate_weight_grad(image, grad, window) if needs[1] else None,
            *(column_sums(grad.reshape(-1, grad.shape[3])) if need else None for need in needs[2:]),
        )

    return record(out, (x, weight) if bias is None else (x, weight, bias), backward, "conv_transpose2d")


def _blocks(image: Array, filters: Array, shape: tuple[int, ...], bias: Array | None, relu: bool) -> Array:
    """The transposed convolution whose stride is the size of its filters, so that every pixel becomes a block of its
    own, of `shape` (N, H kernel, W kernel, O), plus bias (O,), and through a ReLU if so said."""
    (n, height, width, channels), kernel = image.shape, filters.shape[2]
    lines, out = image.reshape(n * height, width, channels), np.empty(shape, image.dtype)
    blocks = out.reshape(len(lines), kernel, width, kernel * shape[3]).swapaxes(1, 2)
    factor, shift = pack(_as_matrix(filters)), None if bias is None else np.tile(bias, kernel**2)
    cuts = shares(len(lines), PIECE // max(1, width * kernel * blocks.shape[3]), get_num_threads())

    def work(index: int) -> None:
        columns = workspace("columns", blocks[cuts[index]].shape)
        rows = lines[cuts[index]].reshape(-1, channels)
        multiply(rows, factor, columns.reshape(len(rows), kernel * blocks.shape[3]), shift, relu=relu)
        blocks[cuts[index]] = columns

    spread(work, len(cuts), image, 2 * out.size * channels, out.nbytes)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as torch.nn.functional.linear. x: (N, in). weight: (out, in). bias: (out,).

    Raises ValueError when the shapes do not fit."""
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"linear takes (N, in) and (out, in), not {x.shape} and {weight.shape}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"A bias of shape {bias.shape} does not fit {weight.shape[0]} outputs.")
    xp, rows, matrix = array_module(x.data, weight.data), x.data, weight.data
    few = xp is np and len(rows) < len(matrix)  # then they are what is packed
    out = xp.ascontiguousarray(matmul(matrix, rows.T).T) if few else matmul(rows, matrix.T)
    if bias is not None:
        out += bias.data
    rows = rows if weight.requires_grad else None

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return (
            matmul(grad, matrix) if needs[0] else None,
            matmul(grad.T, rows) if needs[1] else None,
            *(grad.sum(axis=0) if need else None for need in needs[2:]),
        )

    return record(out, (x, weight) if bias is None else (x, weight, bias), backward, "linear")
