"""RoIPool: the largest feature in each bin of a grid laid over the rounded RoI.

Fast R-CNN (Girshick 2015), section 2.1. The RoI is rounded to whole cells of the feature map, then its bins
are rounded outwards to whole cells, so that neighbouring bins may share cells. These are the two
quantisations that misalign masks (Mask R-CNN, section 3). Lesson 06 explains it; lesson 07 compares it with
roi_align.py, which has the same sections in the same order.
"""

import math

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import array_module, backend_of, channels_first, channels_last
from tinymrcnn.kernels import cpu_kernel, cuda, cuda_kernel, numba, prange, run, scalar
from tinymrcnn.roi.rois import check_arguments, output_shape, unravel

# The arithmetic, once for every target


@scalar
def round_half_away(value):
    """The nearest integer, halves away from zero (Python and NumPy round them to the even neighbour)."""
    T = type(value)
    whole = int(value)
    return whole + int(T(2) * (value - T(whole)))


@scalar
def roi_bins(low, high, spatial_scale, bins):
    """Along one axis, in cells: where the RoI starts and how large its bins are."""
    T = type(low)
    start = round_half_away(low * spatial_scale)
    end = round_half_away(high * spatial_scale)
    return start, T(max(end - start + 1, 1)) / T(bins)  # the last cell counts as inside


@scalar
def bin_cells(start, bin_size, index, size):
    """The cells [first, end) that bin `index` covers on a map of `size` cells."""
    T = type(bin_size)
    first = start + int(math.floor(T(index) * bin_size))
    end = start + int(math.ceil(T(index + 1) * bin_size))
    return min(max(first, 0), size), min(max(end, 0), size)


@scalar
def lowest(cells, T):
    """Where the maximum over a bin starts from; a bin without cells stays at 0."""
    return T(-math.inf) if cells > 0 else T(0)


# Forward


@cpu_kernel
def roi_pool_forward_cpu(features, rois, spatial_scale, out, argmax):
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for row in prange(len(rois) * bins_h):
        r, ph = row // bins_h, row % bins_h
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height)
        for pw in range(bins_w):
            x_first, x_end = bin_cells(left, bin_w, pw, width)
            best, where = out[r, ph, pw], argmax[r, ph, pw]
            best[:] = lowest((y_end - y_first) * (x_end - x_first), T)
            where[:] = -1
            for y in range(y_first, y_end):
                for x in range(x_first, x_end):
                    here, cell = features[image, y, x], np.int32(y * width + x)
                    for c in range(channels):
                        higher = here[c] > best[c]
                        best[c] = here[c] if higher else best[c]
                        where[c] = cell if higher else where[c]


@cuda_kernel
def roi_pool_forward_cuda(features, rois, spatial_scale, out, argmax):
    T = type(spatial_scale)
    height, width = features.shape[1:3]
    bins_h, bins_w, channels = out.shape[1:]
    for element in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        r, ph, pw, c = unravel(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height)
        x_first, x_end = bin_cells(left, bin_w, pw, width)
        best, where = lowest((y_end - y_first) * (x_end - x_first), T), -1
        for y in range(y_first, y_end):
            for x in range(x_first, x_end):
                if features[image, y, x, c] > best:
                    best, where = features[image, y, x, c], y * width + x
        out[r, ph, pw, c] = best
        argmax[r, ph, pw, c] = where


# Backward: the gradient of a bin goes to the cell that won it


def roi_pool_backward_cpu(grad, rois, argmax, grad_features):
    # A thread owns some channels of one image, whole cache lines and as many as there are for each thread, so that no
    # two ever add to the same element.
    images, _, channels = grad_features.shape
    width = max(16, images * channels // numba.get_num_threads() // 16 * 16)
    _backward_by_channels(grad, rois, argmax, grad_features, width)


@cpu_kernel
def _backward_by_channels(grad, rois, argmax, grad_features, width):
    images, _, channels = grad_features.shape
    bins_h, bins_w = grad.shape[1:3]
    shares = -(-channels // width)
    for unit in prange(images * shares):
        image, first = unit // shares, unit % shares * width
        end = min(first + width, channels)
        cells = grad_features[image, :, first:end]
        cells[:] = 0
        for r in range(len(rois)):
            if int(rois[r, 0]) != image:
                continue
            for ph in range(bins_h):
                for pw in range(bins_w):
                    where, g = argmax[r, ph, pw, first:end], grad[r, ph, pw, first:end]
                    for c in range(end - first):
                        if where[c] >= 0:
                            cells[where[c], c] += g[c]


@cuda_kernel
def roi_pool_backward_cuda(grad, rois, argmax, grad_features):
    bins_h, bins_w, channels = grad.shape[1:]
    for element in range(cuda.grid(1), grad.size, cuda.gridsize(1)):
        r, ph, pw, c = unravel(element, bins_h, bins_w, channels)
        image, cell = int(rois[r, 0]), argmax[r, ph, pw, c]
        if cell >= 0:
            cuda.atomic.add(grad_features, (image, cell, c), grad[r, ph, pw, c])


# The operator


def roi_pool(features: Tensor, rois, output_size, spatial_scale: float = 1.0) -> Tensor:
    """Max-pool every RoI into a grid of h x w bins.

    features: (N, C, H, W) Tensor, float32 or float64. rois: (R, 5) array (batch index, x1, y1, x2, y2), or a
    list with one (R_i, 4) array per image, in image coordinates. output_size: h = w, or (h, w).
    spatial_scale: cells of the feature map per unit of the RoIs (1/16 at stride 16).

    Returns a Tensor (R, C, h, w). A bin that lies outside the map is 0; of equal cells the first in row-major
    order gets the gradient; RoIs get none.

    Raises TypeError when the features are no float Tensor or lie on another device than the RoIs, ValueError,
    naming the row, for a RoI with a batch index out of range, a value that is not finite or beyond 1e7, or
    for another wrong shape, dtype or size.
    """
    rois = check_arguments(features, rois, output_size, spatial_scale)
    return roi_pool_unchecked(features, rois, output_size, spatial_scale)


def roi_pool_unchecked(features: Tensor, rois, output_size, spatial_scale: float = 1.0) -> Tensor:
    """roi_pool for RoIs that are known to be an (R, 5) array of finite numbers on the features' device."""
    data, xp = channels_last(features.data), array_module(features.data)
    rois = xp.ascontiguousarray(rois, data.dtype)
    scale = data.dtype.type(spatial_scale)
    out = xp.empty(output_shape(features, rois, output_size), data.dtype)
    argmax = xp.empty(out.shape, np.int32)  # y * W + x of the winning cell, -1 for none
    run(roi_pool_forward_cpu, roi_pool_forward_cuda, out.size, data, rois, scale, out, argmax)
    images, height, width, channels = data.shape

    def backward(grad, needs):
        on_gpu = backend_of(grad).host_view is None  # the CPU kernel clears the memory itself, on all threads
        grad_features = (xp.zeros if on_gpu else xp.empty)((images, height * width, channels), grad.dtype)
        grad = channels_last(grad)
        run(roi_pool_backward_cpu, roi_pool_backward_cuda, grad.size, grad, rois, argmax, grad_features)
        return (channels_first(grad_features.reshape(images, height, width, channels)),)

    return record(channels_first(out), (features,), backward, "roi_pool")
