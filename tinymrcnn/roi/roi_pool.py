"""RoIPool: the largest feature in each bin of a grid laid over the rounded RoI.

Fast R-CNN (Girshick 2015), section 2.1. The RoI is rounded to whole cells of the feature map, then its bins
are rounded outwards to whole cells, so that neighbouring bins may share cells. These are the two
quantisations that misalign masks (Mask R-CNN, section 3). Lesson 06 explains it; lesson 07 compares it with
roi_align.py, which has the same sections in the same order.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, backend_of, channels_first, channels_last
from tinymrcnn.kernels import EACH, LANES, cpu_kernel, cuda, cuda_kernel, lanes_of, run, scalar, unravel_bin
from tinymrcnn.ops.pooling import takes_over
from tinymrcnn.roi.rois import OutputSize, check_arguments, output_shape

# The arithmetic, once for every target


@scalar
def round_half_away(value: float) -> int:
    """The nearest integer, halves away from zero (Python and NumPy round them to the even neighbour)."""
    T = type(value)
    whole = int(value)
    return whole + int(T(2) * (value - T(whole)))


@scalar
def roi_bins(low: float, high: float, spatial_scale: float, bins: int) -> tuple[int, float]:
    """Along one axis, in cells: where the RoI starts and how large its bins are."""
    T = type(low)
    start = round_half_away(low * spatial_scale)
    end = round_half_away(high * spatial_scale)
    return start, T(max(end - start + 1, 1)) / T(bins)  # the last cell counts as inside


@scalar
def bin_cells(start: int, bin_size: float, index: int, size: int) -> tuple[int, int]:
    """The cells [first, end) that bin `index` covers on a map of `size` cells."""
    T = type(bin_size)
    first = start + int(math.floor(T(index) * bin_size))
    end = start + int(math.ceil(T(index + 1) * bin_size))
    return min(max(first, 0), size), min(max(end, 0), size)


# Forward


@cpu_kernel
def roi_pool_forward_cpu(thread: int, threads: int, features: Array, rois: Array, spatial_scale: float, out: Array,
    argmax: Array) -> None:  # fmt: skip
    """features (N, H, W, C) and rois (R, 5) to out (R, h, w, C), C-contiguous, all of one float dtype, which is
    spatial_scale's too; and argmax (R, h, w, C) int32, y * W + x of the cell that won, -1 where a bin has none."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for r in range(thread, len(rois), threads):
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        for ph in range(bins_h):
            y_first, y_end = bin_cells(top, bin_h, ph, height)
            for pw in range(bins_w):
                x_first, x_end = bin_cells(left, bin_w, pw, width)
                best, where = out[r, ph, pw], argmax[r, ph, pw]
                best[:] = T(0)  # of a bin without cells
                where[:] = -1
                for y in range(y_first, y_end):
                    for x in range(x_first, x_end):
                        here, cell = features[image, y, x], np.int32(y * width + x)
                        for c in range(channels):
                            higher = takes_over(here[c], best[c], where[c])
                            best[c] = here[c] if higher else best[c]
                            where[c] = cell if higher else where[c]


@cuda_kernel
def roi_pool_forward_cuda(features: Array, rois: Array, spatial_scale: float, out: Array, argmax: Array) -> None:
    """As roi_pool_forward_cpu."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    best, where = cuda.local.array(EACH, T), cuda.local.array(EACH, np.int32)
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height)
        x_first, x_end = bin_cells(left, bin_w, pw, width)
        for k in range(EACH):
            best[k], where[k] = T(0), -1
        for y in range(y_first, y_end):
            for x in range(x_first, x_end):
                for k in range(EACH):
                    c = first + k * LANES
                    if k * LANES >= rest:
                        break
                    if takes_over(features[image, y, x, c], best[k], where[k]):
                        best[k], where[k] = features[image, y, x, c], y * width + x
        for k in range(EACH):
            if k * LANES < rest:
                out[r, ph, pw, first + k * LANES], argmax[r, ph, pw, first + k * LANES] = best[k], where[k]


# Backward: the gradient of a bin goes to the cell that won it


@cpu_kernel
def roi_pool_backward_cpu(thread: int, threads: int, grad: Array, rois: Array, argmax: Array,
    grad_features: Array) -> None:  # fmt: skip
    """Fill grad_features (N, H * W, C), uninitialised at first, from grad (R, h, w, C), the gradient of forward's
    result; the rest as in forward."""
    # A thread owns some channels, whole cache lines of 16, so that no two ever add to the same element.
    channels, (bins_h, bins_w) = grad.shape[3], grad.shape[1:3]
    lines = -(-channels // 16)
    first, end = lines * thread // threads * 16, min(lines * (thread + 1) // threads * 16, channels)
    grad_features[:, :, first:end] = 0
    for r in range(len(rois)):
        cells = grad_features[int(rois[r, 0]), :, first:end]
        for ph in range(bins_h):
            for pw in range(bins_w):
                where, g = argmax[r, ph, pw, first:end], grad[r, ph, pw, first:end]
                for c in range(end - first):
                    if where[c] >= 0:
                        cells[where[c], c] += g[c]


@cuda_kernel
def roi_pool_backward_cuda(grad: Array, rois: Array, argmax: Array, grad_features: Array) -> None:
    """As roi_pool_backward_cpu, but grad_features is zeros at first."""
    bins_h, bins_w, channels = grad.shape[1:]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        for k in range(EACH):
            c = first + k * LANES
            if k * LANES < rest and argmax[r, ph, pw, c] >= 0:
                cuda.atomic.add(grad_features, (image, argmax[r, ph, pw, c], c), grad[r, ph, pw, c])


# The operator


def roi_pool(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0) -> Tensor:
    """Max-pool every RoI into a grid of h x w bins.

    features: (N, C, H, W) Tensor, float32 or float64. rois: (R, 5) array (batch index, x1, y1, x2, y2), or a
    list with one (R_i, 4) array per image, in image coordinates. output_size: h = w, or (h, w).
    spatial_scale: cells of the feature map per unit of the RoIs (1/16 at stride 16).

    Returns a Tensor (R, C, h, w). A bin that lies outside the map is 0; of equal cells the first in row-major
    order gets the gradient, and a NaN is larger than any number; RoIs get none.

    Raises TypeError when the features are no float Tensor or lie on another device than the RoIs, ValueError,
    naming the row, for a RoI with a batch index out of range or a value that is not finite or too large (see
    rois.py), or for another wrong shape, dtype, size or number.
    """
    rois = check_arguments(features, rois, output_size, spatial_scale)
    return roi_pool_unchecked(features, rois, output_size, spatial_scale)


def roi_pool_unchecked(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0) -> Tensor:
    """roi_pool for RoIs that are known to be an (R, 5) array of finite numbers on the features' device."""
    data, xp = channels_last(features.data), array_module(features.data)
    rois = xp.ascontiguousarray(rois, data.dtype)
    scale = data.dtype.type(spatial_scale)
    out = xp.empty(output_shape(data, rois, output_size), data.dtype)
    argmax = xp.empty(out.shape, np.int32)  # y * W + x of the winning cell, -1 for none
    run(roi_pool_forward_cpu, roi_pool_forward_cuda, out.size, data, rois, scale, out, argmax)
    images, height, width, channels = data.shape

    def backward(grad: Array, needs: Sequence[bool]) -> tuple[Any, ...]:
        on_gpu = backend_of(grad).host_view is None  # the CPU kernel clears the memory itself, on all threads
        grad_features = (xp.zeros if on_gpu else xp.empty)((images, height * width, channels), grad.dtype)
        grad = channels_last(grad)
        run(roi_pool_backward_cpu, roi_pool_backward_cuda, grad.size, grad, rois, argmax, grad_features)
        return (channels_first(grad_features.reshape(images, height, width, channels)),)

    return record(channels_first(out), (features,), backward, "roi_pool")
