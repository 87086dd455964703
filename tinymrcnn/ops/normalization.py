"""Batch normalisation and group normalisation.

Both subtract a mean and divide by a standard deviation; they differ in what the statistics are taken over:
one channel of the whole batch, or a group of channels of one image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, each, run
from tinymrcnn.ops.activations import combine, relu_grad
from tinymrcnn.threads import PARTS, column_sums


def batch_norm(
    x: Tensor, running_mean: Array, running_var: Array, weight: Tensor, bias: Tensor, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, *, residual: Tensor | None = None, relu: bool = False,
    across: Callable[[Array], Array] | None = None,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias per channel, as torch.nn.functional.batch_norm.

    x: (N, C, H, W). weight, bias: (C,). running_mean, running_var: (C,) arrays. In training the statistics are
    those of the batch, and the running ones are updated in place (with the unbiased variance); else the running
    ones are used. residual: (N, C, H, W), added to the result; relu: max(result, 0), last. Neither takes another pass
    over the memory. across: adds an array up over several processes, each of which calls this with its share of the
    batch; the statistics, and in backward what depends on them, are then those of the whole batch. Returns (N, C, H,
    W), channels-last.

    Raises ValueError when the shapes do not fit, and in training when there is only one value per channel: it has
    no variance."""
    _check_shapes(x, running_mean, running_var, weight, bias)
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"The residual must have the shape of the input, {x.shape}, not {residual.shape}.")
    image = channels_last(x.data)
    xp, number, shape, channels = array_module(image), image.dtype.type, image.shape, image.shape[3]
    rows = image.reshape(-1, channels)
    across = across if training else None
    total = across or (lambda sums: sums)
    count = int(across(np.array([len(rows)], np.float64))[0]) if across else len(rows)
    mean, var, follow = running_mean, running_var, training and count > 0
    if training:
        if count == 1:
            raise ValueError(f"Batch normalisation in training needs more than one value per channel, got {x.shape}.")
        mean = total(column_sums(rows)) / max(1, count)
        var = total(_sums_of_products(rows, mean, rows, mean)) / max(1, count)
    inverse, scale, shift = xp.empty((3, channels), image.dtype)
    numbers = map(number, (eps, momentum * follow, count / max(1, count - 1)))
    _constants(mean, var, weight.data, bias.data, *numbers, running_mean, running_var, inverse, scale, shift)
    other = None if residual is None else channels_last(residual.data).reshape(rows.shape)
    out = combine(rows, scale, shift, other, lowest=0 if relu else -np.inf)
    out = channels_first(out.reshape(shape))
    result, learning = out if relu else None, training or weight.requires_grad or bias.requires_grad
    rows = rows if learning else None
    del image, other

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        grad = channels_last(relu_grad(grad, result) if relu else grad).reshape(-1, channels)
        grad_weight, grad_bias, shift, slope = xp.zeros((4, channels), grad.dtype)
        if learning:
            grad_weight, grad_bias = _sums_of_products(grad, shift, rows, mean), column_sums(grad)
            sums = grad_bias, grad_weight
            if across:
                sums, grad_weight = across(xp.stack(sums)), grad_weight * inverse
            _slopes(mean, inverse, scale, number(max(1, count)), *sums, shift, slope)
        # in training the mean and the variance depend on x too
        grad_x = combine(grad, scale, shift, rows, slope) if follow and needs[0] else grad * scale if needs[0] else None
        maps = [None if g is None else channels_first(g.reshape(shape)) for g in (grad_x, grad)]
        gradients = maps[0], grad_weight, grad_bias, maps[1]
        return tuple(g if need else None for g, need in zip(gradients, needs, strict=False))

    parents = (x, weight, bias) if residual is None else (x, weight, bias, residual)
    return record(out, parents, backward, "batch_norm")


def _check_shapes(x: Tensor, *per_channel: Any) -> None:
    if x.ndim != 4:
        raise ValueError(f"Normalisation takes (N, C, H, W), not {x.shape}.")
    for array in per_channel:
        if array.shape != x.shape[1:2]:
            raise ValueError(f"The input has {x.shape[1]} channels, a weight, bias or statistic is {array.shape}.")


# The constants of every channel, all (C,)


@each
def _constants(
    c: Any, mean: Array, var: Array, weight: Array, bias: Array, eps: Any, momentum: Any, unbias: Any,
    running_mean: Array, running_var: Array, inverse: Array, scale: Array, shift: Array,
) -> None:  # fmt: skip
    """The result is x scale + shift; inverse is 1 / the standard deviation. The running statistics move by momentum."""
    inverse[c] = type(eps)(1) / (var[c] + eps) ** type(eps)(0.5)
    scale[c] = inverse[c] * weight[c]
    shift[c] = bias[c] - mean[c] * scale[c]
    if momentum > 0:
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (var[c] * unbias - running_var[c])


@each
def _slopes(
    c: Any, mean: Array, inverse: Array, scale: Array, count: Any, grad_bias: Array, grad_weight: Array, shift: Array,
    slope: Array,
) -> None:  # fmt: skip
    """The gradient of x is grad scale + shift + x slope. grad_weight is still to be divided by the deviation."""
    grad_weight[c] *= inverse[c]
    slope[c] = -scale[c] * inverse[c] * grad_weight[c] / count
    shift[c] = -mean[c] * slope[c] - scale[c] * grad_bias[c] / count


BLOCK = 64  # for precision, this many rows are summed before their sum is added to the total


def _sums_of_products(x: Array, x_centre: Array, y: Array, y_centre: Array) -> Array:
    """The sum over every column of (x - x_centre) (y - y_centre)."""
    xp, on_cpu = array_module(x), isinstance(x, np.ndarray)
    sums = xp.zeros((PARTS if on_cpu else -(-len(x) // BLOCK), x.shape[1]), x.dtype)
    run(_sums_of_products_cpu, _sums_of_products_cuda, x.size if on_cpu else sums.size, x, x_centre, y, y_centre, sums)
    return sums.sum(axis=0)


@cpu_kernel
def _sums_of_products_cpu(
    thread: int, threads: int, x: Array, x_centre: Array, y: Array, y_centre: Array, sums: Array
) -> None:
    """sums: (PARTS, C), zeros at first."""
    parts, (count, channels) = len(sums), x.shape
    for part in range(thread, parts, threads):
        end = count * (part + 1) // parts
        for first in range(count * part // parts, end, BLOCK):
            block = np.zeros(channels, x.dtype)
            for i in range(first, min(first + BLOCK, end)):
                for c in range(channels):
                    block[c] += (x[i, c] - x_centre[c]) * (y[i, c] - y_centre[c])
            for c in range(channels):
                sums[part, c] += block[c]


@cuda_kernel
def _sums_of_products_cuda(x: Array, x_centre: Array, y: Array, y_centre: Array, sums: Array) -> None:
    """A thread sums a block of one column. sums: (blocks, C)."""
    for element in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        block, c = divmod(element, sums.shape[1])
        total = x.dtype.type(0)
        for i in range(block * BLOCK, min((block + 1) * BLOCK, x.shape[0])):
            total += (x[i, c] - x_centre[c]) * (y[i, c] - y_centre[c])
        sums[block, c] = total


def group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each group of channels of each image, as torch.nn.functional.group_norm.

    x: (N, C, H, W). weight, bias: (C,). Returns (N, C, H, W), channels-last.

    Raises ValueError when the shapes do not fit or num_groups does not divide C."""
    _check_shapes(x, weight, bias)
    n, c, h, w = x.shape
    if c % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {c} channels.")
    images = channels_last(x.data).reshape(n, h * w, c)
    xp, number = array_module(images), images.dtype.type
    out, constants = xp.empty_like(images), xp.empty((n, 4, c), images.dtype)

    def mean_of_group(sums: Array) -> Array:
        """From the sums over a map, (C,), the mean over the channel's group, (C,)."""
        return sums.reshape(num_groups, -1).mean(axis=1).repeat(c // num_groups) / max(1, h * w)

    for rows, result, (mean, inverse, scale, shift) in zip(images, out, constants, strict=True):
        mean[...] = mean_of_group(column_sums(rows))
        moments = mean, mean_of_group(_sums_of_products(rows, mean, rows, mean))
        _constants(*moments, weight.data, bias.data, number(eps), 0, 1, *moments, inverse, scale, shift)
        combine(rows, scale, shift, out=result)

    def backward(grad: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        grad = channels_last(grad).reshape(images.shape)
        grad_x, (grad_weight, grad_bias) = xp.empty_like(grad), xp.zeros((2, c), grad.dtype)
        for rows, g, result, (mean, inverse, scale, _) in zip(images, grad, grad_x, constants, strict=True):
            shift, slope = xp.zeros((2, c), grad.dtype)
            products, sums = _sums_of_products(g, shift, rows, mean), column_sums(g)
            grad_weight += products * inverse
            grad_bias += sums
            # as in a batch, but of what a channel adds to its group the mean counts
            means = [mean_of_group(weight.data * of_channel) for of_channel in (sums, products)]
            _slopes(mean, inverse, inverse, number(1), *means, shift, slope)
            combine(g, scale, shift, rows, slope, out=result)
        gradients = channels_first(grad_x.reshape(n, h, w, c)), grad_weight, grad_bias
        return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))

    return record(channels_first(out.reshape(n, h, w, c)), (x, weight, bias), backward, "group_norm")
