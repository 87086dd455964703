"""RoIAlign: the mean of bilinear samples in each bin of a grid laid over the RoI, with nothing rounded.

Mask R-CNN (He et al. 2017), section 3, "RoIAlign", and figure 3. The RoI and its bins keep their fractions; a
bin is sampled at regularly spaced points, each interpolated from the four cells around it. Lesson 07 explains
it and compares it with roi_pool.py, which has the same sections in the same order.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last, like, to_numpy
from tinymrcnn.kernels import EACH, LANES, cpu_kernel, cuda, cuda_kernel, lanes_of, run, scalar, unravel_bin
from tinymrcnn.roi.roi_pool import roi_pool_unchecked
from tinymrcnn.roi.rois import OutputSize, Reduction, check_arguments, check_size, interleave, output_shape

# The arithmetic, once for every target


@scalar
def roi_bins(low: float, high: float, spatial_scale: float, bins: int, aligned: bool) -> tuple[float, float]:
    """Along one axis, in cells: where the RoI starts and how large its bins are."""
    T = type(low)
    offset = T(0.5) if aligned else T(0)  # cell i is centred at i + 0.5 of the image's continuous coordinates
    start = low * spatial_scale - offset
    end = high * spatial_scale - offset
    return start, (end - start if aligned else max(end - start, T(1))) / T(bins)


@scalar
def samples_per_bin(bin_size: float, sampling_ratio: int) -> int:
    """How many samples a bin takes along one axis: as many as asked for, or else about one a cell."""
    return sampling_ratio if sampling_ratio > 0 else int(math.ceil(bin_size))


@scalar
def sample_position(start: float, bin_size: float, index: int, i: int, samples: int) -> float:
    """Where sample `i` of bin `index` lies: the bin's samples are the midpoints of its equal parts."""
    T = type(start)
    return start + T(index) * bin_size + (T(i) + T(0.5)) * bin_size / T(samples)


@scalar
def taps(position: float, size: int) -> tuple[int, float, int, float]:
    """The two cells around a position with their weights: low, weight, high, weight.

    Beyond the outermost centres the border cell counts; more than one cell off a map of `size` cells there
    is nothing, and low is -1."""
    T = type(position)
    if not (T(-1) <= position <= T(size)):
        return -1, T(0), -1, T(0)
    position = max(position, T(0))
    low = int(position)
    if low >= size - 1:
        return size - 1, T(1), size - 1, T(0)
    fraction = position - T(low)
    return low, T(1) - fraction, low + 1, fraction


# Forward


@cpu_kernel
def roi_align_forward_cpu(thread: int, threads: int, features: Array, rois: Array, spatial_scale: float,
    sampling_ratio: int, aligned: bool, out: Array) -> None:  # fmt: skip
    """features (N, H, W, C) and rois (R, 5) to out (R, h, w, C), C-contiguous, all of one float dtype, which is
    spatial_scale's too; sampling_ratio: int; aligned: bool."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for r in range(thread, len(rois), threads):
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h, aligned)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w, aligned)
        rows, columns = samples_per_bin(bin_h, sampling_ratio), samples_per_bin(bin_w, sampling_ratio)
        share = T(1) / T(max(rows * columns, 1))
        for ph in range(bins_h):
            for pw in range(bins_w):
                total = out[r, ph, pw]
                total[:] = T(0)
                for i in range(rows):
                    y0, b0, y1, b1 = taps(sample_position(top, bin_h, ph, i, rows), height)
                    for j in range(columns):
                        x0, a0, x1, a1 = taps(sample_position(left, bin_w, pw, j, columns), width)
                        if y0 < 0 or x0 < 0:
                            continue
                        w00, w01, w10, w11 = b0 * a0 * share, b0 * a1 * share, b1 * a0 * share, b1 * a1 * share
                        f00, f01 = features[image, y0, x0], features[image, y0, x1]
                        f10, f11 = features[image, y1, x0], features[image, y1, x1]
                        for c in range(channels):
                            total[c] += w00 * f00[c] + w01 * f01[c] + w10 * f10[c] + w11 * f11[c]


@cuda_kernel
def roi_align_forward_cuda(
    features: Array, rois: Array, spatial_scale: float, sampling_ratio: int, aligned: bool, out: Array
) -> None:
    """As roi_align_forward_cpu."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    total = cuda.local.array(EACH, T)
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h, aligned)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w, aligned)
        rows, columns = samples_per_bin(bin_h, sampling_ratio), samples_per_bin(bin_w, sampling_ratio)
        share = T(1) / T(max(rows * columns, 1))
        for k in range(EACH):
            total[k] = T(0)
        for i in range(rows):
            y0, b0, y1, b1 = taps(sample_position(top, bin_h, ph, i, rows), height)
            for j in range(columns):
                x0, a0, x1, a1 = taps(sample_position(left, bin_w, pw, j, columns), width)
                if y0 < 0 or x0 < 0:
                    continue
                w00, w01, w10, w11 = b0 * a0 * share, b0 * a1 * share, b1 * a0 * share, b1 * a1 * share
                for k in range(EACH):
                    c = first + k * LANES
                    if k * LANES >= rest:
                        break
                    f00, f01 = features[image, y0, x0, c], features[image, y0, x1, c]
                    f10, f11 = features[image, y1, x0, c], features[image, y1, x1, c]
                    total[k] = total[k] + w00 * f00 + w01 * f01 + w10 * f10 + w11 * f11
        for k in range(EACH):
            if k * LANES < rest:
                out[r, ph, pw, first + k * LANES] = total[k]


# Backward: the gradient of a bin goes to the cells of its samples, by their weights


@cpu_kernel
def roi_align_backward_cpu(thread: int, threads: int, grad: Array, rois: Array, spatial_scale: float,
    sampling_ratio: int, aligned: bool, grad_features: Array) -> None:  # fmt: skip
    """Add the gradient grad (R, h, w, C) of forward's result to grad_features (N, H, W, C), zeros at first; the rest as
    in forward."""
    # Thread t owns the rows of cells t, t + threads, t + 2 threads, ...: no two ever add to the same cell.
    T = type(spatial_scale)
    height, width, channels = grad_features.shape[1:]
    bins_h, bins_w = grad.shape[1:3]
    for r in range(len(rois)):
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h, aligned)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w, aligned)
        rows, columns = samples_per_bin(bin_h, sampling_ratio), samples_per_bin(bin_w, sampling_ratio)
        share = T(1) / T(max(rows * columns, 1))
        for ph in range(bins_h):
            for i in range(rows):
                y0, b0, y1, b1 = taps(sample_position(top, bin_h, ph, i, rows), height)
                for y, b in ((y0, b0), (y1, b1)):
                    if y < 0 or y % threads != thread:
                        continue
                    for pw in range(bins_w):
                        for j in range(columns):
                            x0, a0, x1, a1 = taps(sample_position(left, bin_w, pw, j, columns), width)
                            if x0 < 0:
                                continue
                            for x, weight in ((x0, b * a0 * share), (x1, b * a1 * share)):
                                for c in range(channels):
                                    grad_features[image, y, x, c] += weight * grad[r, ph, pw, c]


@cuda_kernel
def roi_align_backward_cuda(
    grad: Array, rois: Array, spatial_scale: float, sampling_ratio: int, aligned: bool, grad_features: Array
) -> None:
    """As roi_align_backward_cpu."""
    T = type(spatial_scale)
    height, width = grad_features.shape[1:3]
    bins_h, bins_w, channels = grad.shape[1:]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h, aligned)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w, aligned)
        rows, columns = samples_per_bin(bin_h, sampling_ratio), samples_per_bin(bin_w, sampling_ratio)
        share = T(1) / T(max(rows * columns, 1))
        for i in range(rows):
            y0, b0, y1, b1 = taps(sample_position(top, bin_h, ph, i, rows), height)
            for j in range(columns):
                x0, a0, x1, a1 = taps(sample_position(left, bin_w, pw, j, columns), width)
                if y0 < 0 or x0 < 0:
                    continue
                for k in range(EACH):
                    c = first + k * LANES
                    if k * LANES >= rest:
                        break
                    g = grad[r, ph, pw, c]
                    cuda.atomic.add(grad_features, (image, y0, x0, c), b0 * a0 * share * g)
                    cuda.atomic.add(grad_features, (image, y0, x1, c), b0 * a1 * share * g)
                    cuda.atomic.add(grad_features, (image, y1, x0, c), b1 * a0 * share * g)
                    cuda.atomic.add(grad_features, (image, y1, x1, c), b1 * a1 * share * g)


# The operator


def roi_align(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0,
    sampling_ratio: int = -1, aligned: bool = False, reduce: Reduction = "mean") -> Tensor:  # fmt: skip
    """Average bilinear samples of every RoI in a grid of h x w bins, or take the largest.

    features: (N, C, H, W) Tensor, float32 or float64. rois: (R, 5) array (batch index, x1, y1, x2, y2), or a
    list with one (R_i, 4) array per image, in image coordinates. output_size: h = w, or (h, w).
    spatial_scale: cells of the feature map per unit of the RoIs (1/16 at stride 16). sampling_ratio: samples a
    bin along each axis; 0 or -1 takes about one a cell. aligned: True shifts by half a cell, so that cell i is
    centred at i + 0.5; False puts its centre at i, as in the first implementations, and makes RoIs at least
    one cell wide and high. reduce: "mean" of a bin's samples, or "max" (Mask R-CNN, table 2c), which holds all samples
    in memory.

    Returns a Tensor (R, C, h, w). Samples more than one cell outside the map count as 0; of equal largest samples the
    first in row-major order gets the gradient; RoIs get none.

    Raises TypeError when the features are no float Tensor or lie on another device than the RoIs, ValueError,
    naming the row, for a RoI with a batch index out of range or a value that is not finite or too large (see
    rois.py), or for another wrong shape, dtype, size or number.
    """
    rois = check_arguments(features, rois, output_size, spatial_scale, sampling_ratio, reduce)
    return roi_align_unchecked(features, rois, output_size, spatial_scale, sampling_ratio, aligned, reduce)


def roi_align_unchecked(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0,
    sampling_ratio: int = -1, aligned: bool = False, reduce: Reduction = "mean") -> Tensor:  # fmt: skip
    """roi_align for RoIs that are known to be an (R, 5) array of finite numbers on the features' device."""
    if reduce == "max" and len(rois) > 0:
        return _largest_samples(features, rois, output_size, spatial_scale, sampling_ratio, aligned)
    data, xp = channels_last(features.data), array_module(features.data)
    rois = xp.ascontiguousarray(rois, data.dtype)
    settings = data.dtype.type(spatial_scale), int(sampling_ratio), bool(aligned)
    out = align_arrays(data, rois, output_size, *settings)
    shape = data.shape

    def backward(grad: Array, needs: Sequence[bool]) -> tuple[Any, ...]:
        grad_features = xp.zeros(shape, grad.dtype)
        grad = channels_last(grad)
        run(roi_align_backward_cpu, roi_align_backward_cuda, grad.size, grad, rois, *settings, grad_features)
        return (channels_first(grad_features),)

    return record(channels_first(out), (features,), backward, "roi_align")


def _largest_samples(features: Tensor, rois: Array, output_size: OutputSize, spatial_scale: float, sampling_ratio: int,
    aligned: bool) -> Tensor:  # fmt: skip
    """The largest sample of every bin: RoIAlign with a bin for each sample, then RoIPool over those of a bin; for all
    RoIs at once that have as many samples in a bin, which the host counts where they differ."""
    height, width = check_size(output_size, "output size")
    counts = np.full((len(rois), 2), sampling_ratio)
    if sampling_ratio < 1:
        scale = features.dtype.type(spatial_scale)
        for count, (_, x1, y1, x2, y2) in zip(counts, to_numpy(rois.astype(features.dtype)), strict=True):
            count[0] = samples_per_bin(roi_bins(y1, y2, scale, height, aligned)[1], sampling_ratio)
            count[1] = samples_per_bin(roi_bins(x1, x2, scale, width, aligned)[1], sampling_ratio)
    parts, places = [], []
    for rows, columns in np.unique(counts, axis=0).tolist():
        places.append(like(np.flatnonzero((counts == (rows, columns)).all(axis=1)), rois))
        some = rois[places[-1]]
        ratio = 1 if min(rows, columns) > 0 else sampling_ratio  # a reversed RoI has no samples here, and there
        rows, columns = max(rows, 1), max(columns, 1)
        samples = roi_align_unchecked(features, some, (height * rows, width * columns), spatial_scale, ratio, aligned)
        whole = [np.array([r, 0, 0, width * columns - 1, height * rows - 1], features.dtype) for r in range(len(some))]
        parts.append(roi_pool_unchecked(samples, like(whole, rois), (height, width)))
    return interleave(parts, places)


def align_arrays(features: Array, rois: Array, output_size: OutputSize, spatial_scale: float = 1.0,
    sampling_ratio: int = -1, aligned: bool = False) -> Array:  # fmt: skip
    """The forward pass of roi_align_unchecked on plain arrays: features (N, H, W, C) and RoIs (R, 5), C-contiguous and
    of one dtype, to (R, h, w, C)."""
    settings = features.dtype.type(spatial_scale), int(sampling_ratio), bool(aligned)
    out = array_module(features).empty(output_shape(features, rois, output_size), features.dtype)
    run(roi_align_forward_cpu, roi_align_forward_cuda, out.size, features, rois, *settings, out)
    return out
