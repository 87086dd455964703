"""RoI cropping with gradients to the corners: one bilinear sample in the middle of each bin, and nothing rounded.

MNC (Dai et al. 2016), section 4, "Differentiable RoI warping layers": so the losses of later stages reach the boxes of
earlier ones. Along an axis of the map with `size` cells, bin p of P of an RoI from `low` to `high` is sampled at

    position = (low + (high - low) * (p + 1/2) / P) * spatial_scale - 1/2,    held within 0 .. size - 1,

where cell i is centred at i; the sample is the weighted mean of the two cells around it. So the result is continuous
in the corners, and bends only where a sample crosses the centre of a cell. The authors' layer (caffe-mnc) rounds the
corners to whole cells and has cell i centred at i; it samples a bin at both ends, and in between where it is wider
than a cell, and takes the largest sample; it leaves out samples that lie more than half a cell outside; and its
backward takes widths for one cell more than its forward does. MNC's pooling follows outside: 28 x 28 bins, then
max_pool2d. roi_align.py has the same sections in the same order.
"""

from collections.abc import Sequence
from typing import Any

from tinymrcnn.autograd import Tensor, cat, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last
from tinymrcnn.kernels import EACH, LANES, cpu_kernel, cuda, cuda_kernel, lanes_of, run, scalar, unravel, unravel_bin
from tinymrcnn.roi.rois import OutputSize, check_arguments, output_shape

# The arithmetic, once for every target


@scalar
def sample_position(low: float, high: float, spatial_scale: float, index: int, bins: int) -> float:
    """Along one axis, in cells: the middle of bin `index` of an RoI."""
    T = type(low)
    return (low + (high - low) * ((T(index) + T(0.5)) / T(bins))) * spatial_scale - T(0.5)


@scalar
def taps(position: float, size: int) -> tuple[int, float, int, float]:
    """The two cells around a position with their weights: low, weight, high, weight.

    Beyond the outermost centres both are the border cell, so that the position makes no difference there."""
    T = type(position)
    if not position > T(0):
        return 0, T(1), 0, T(0)
    if position >= T(size - 1):
        return size - 1, T(1), size - 1, T(0)
    low = int(position)
    fraction = position - T(low)
    return low, T(1) - fraction, low + 1, fraction


# Forward


@cpu_kernel
def roi_crop_forward_cpu(
    thread: int, threads: int, features: Array, rois: Array, spatial_scale: float, out: Array
) -> None:
    """features (N, H, W, C) and rois (R, 5) to out (R, h, w, C), C-contiguous, all of one float dtype, which is
    spatial_scale's too."""
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for row in range(thread, len(rois) * bins_h, threads):
        r, ph = row // bins_h, row % bins_h
        image = int(rois[r, 0])
        y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
        for pw in range(bins_w):
            x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
            w00, w01, w10, w11 = b0 * a0, b0 * a1, b1 * a0, b1 * a1
            f00, f01 = features[image, y0, x0], features[image, y0, x1]
            f10, f11 = features[image, y1, x0], features[image, y1, x1]
            sample = out[r, ph, pw]
            for c in range(channels):
                sample[c] = w00 * f00[c] + w01 * f01[c] + w10 * f10[c] + w11 * f11[c]


@cuda_kernel
def roi_crop_forward_cuda(features: Array, rois: Array, spatial_scale: float, out: Array) -> None:
    """As roi_crop_forward_cpu."""
    height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
        x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
        w00, w01, w10, w11 = b0 * a0, b0 * a1, b1 * a0, b1 * a1
        for k in range(EACH):
            c = first + k * LANES
            if k * LANES >= rest:
                break
            f00, f01 = features[image, y0, x0, c], features[image, y0, x1, c]
            f10, f11 = features[image, y1, x0, c], features[image, y1, x1, c]
            out[r, ph, pw, c] = w00 * f00 + w01 * f01 + w10 * f10 + w11 * f11


# Backward to the features: the gradient of a bin goes to the cells of its sample, by their weights


@cpu_kernel
def roi_crop_backward_cpu(
    thread: int, threads: int, grad: Array, rois: Array, spatial_scale: float, grad_features: Array
) -> None:
    """Add the gradient grad (R, h, w, C) of forward's result to grad_features (N, H, W, C), zeros at first; the rest as
    in forward."""
    # Thread t owns the rows of cells t, t + threads, t + 2 threads, ...: no two ever add to the same cell.
    height, width, channels = grad_features.shape[1:]
    bins_h, bins_w = grad.shape[1:3]
    for r in range(len(rois)):
        image = int(rois[r, 0])
        for ph in range(bins_h):
            y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
            for y, b in ((y0, b0), (y1, b1)):
                if y % threads != thread:
                    continue
                for pw in range(bins_w):
                    x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
                    w0, w1 = b * a0, b * a1
                    for c in range(channels):
                        grad_features[image, y, x0, c] += w0 * grad[r, ph, pw, c]
                    for c in range(channels):
                        grad_features[image, y, x1, c] += w1 * grad[r, ph, pw, c]


@cuda_kernel
def roi_crop_backward_cuda(grad: Array, rois: Array, spatial_scale: float, grad_features: Array) -> None:
    """As roi_crop_backward_cpu."""
    height, width = grad_features.shape[1:3]
    bins_h, bins_w, channels = grad.shape[1:]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
        x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
        for k in range(EACH):
            c = first + k * LANES
            if k * LANES >= rest:
                break
            g = grad[r, ph, pw, c]
            cuda.atomic.add(grad_features, (image, y0, x0, c), b0 * a0 * g)
            cuda.atomic.add(grad_features, (image, y0, x1, c), b0 * a1 * g)
            cuda.atomic.add(grad_features, (image, y1, x0, c), b1 * a0 * g)
            cuda.atomic.add(grad_features, (image, y1, x1, c), b1 * a1 * g)


# Backward to the corners: how the loss changes as a sample moves, and how the samples move with the corners


@cpu_kernel
def roi_crop_slopes_cpu(
    thread: int, threads: int, grad: Array, features: Array, rois: Array, spatial_scale: float, slopes: Array
) -> None:
    """Fill slopes (R, h, w, 2): the derivative of the loss for the sample's y and x in cells, summed over the channels;
    grad (R, h, w, C) and the rest as in forward."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = grad.shape[1:3]
    for row in range(thread, len(rois) * bins_h, threads):
        r, ph = row // bins_h, row % bins_h
        image = int(rois[r, 0])
        y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
        for pw in range(bins_w):
            x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
            f00, f01 = features[image, y0, x0], features[image, y0, x1]
            f10, f11 = features[image, y1, x0], features[image, y1, x1]
            g, along_y, along_x = grad[r, ph, pw], T(0), T(0)
            for c in range(channels):
                along_y += g[c] * (a0 * (f10[c] - f00[c]) + a1 * (f11[c] - f01[c]))
                along_x += g[c] * (b0 * (f01[c] - f00[c]) + b1 * (f11[c] - f10[c]))
            slopes[r, ph, pw, 0], slopes[r, ph, pw, 1] = along_y, along_x


@cuda_kernel
def roi_crop_slopes_cuda(grad: Array, features: Array, rois: Array, spatial_scale: float, slopes: Array) -> None:
    """As roi_crop_slopes_cpu; one thread takes all channels of a bin, so that their order is always the same."""
    T = type(spatial_scale)
    height, width, channels = features.shape[1:]
    bins_h, bins_w = grad.shape[1:3]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w, cuda.gridsize(1)):
        r, ph, pw, _ = unravel(element, bins_h, bins_w, 1)
        image = int(rois[r, 0])
        y0, b0, y1, b1 = taps(sample_position(rois[r, 2], rois[r, 4], spatial_scale, ph, bins_h), height)
        x0, a0, x1, a1 = taps(sample_position(rois[r, 1], rois[r, 3], spatial_scale, pw, bins_w), width)
        along_y, along_x = T(0), T(0)
        for c in range(channels):
            g = grad[r, ph, pw, c]
            f00, f01 = features[image, y0, x0, c], features[image, y0, x1, c]
            f10, f11 = features[image, y1, x0, c], features[image, y1, x1, c]
            along_y += g * (a0 * (f10 - f00) + a1 * (f11 - f01))
            along_x += g * (b0 * (f01 - f00) + b1 * (f11 - f10))
        slopes[r, ph, pw, 0], slopes[r, ph, pw, 1] = along_y, along_x


def corner_gradients(slopes: Array, spatial_scale: float) -> Array:
    """The gradient (R, 5) of the RoIs from the slopes (R, h, w, 2) of their samples; 0 for the batch index.

    The sample of bin p moves by (1 - share) * spatial_scale with the low corner and by share * spatial_scale with the
    high one, where share = (p + 1/2) / P."""
    xp = array_module(slopes)
    gradients = xp.zeros((len(slopes), 5), slopes.dtype)
    for axis, bins in enumerate(slopes.shape[1:3]):  # y, then x
        share = (xp.arange(bins, dtype=slopes.dtype) + 0.5) / bins
        of_bins = slopes[..., axis].sum(axis=2 - axis) * spatial_scale
        gradients[:, 2 - axis] = (of_bins * (1 - share)).sum(axis=1)
        gradients[:, 4 - axis] = (of_bins * share).sum(axis=1)
    return gradients


# The operator


def roi_crop(
    features: Tensor,
    rois: Tensor | Array | list[Tensor] | list[Array],
    output_size: OutputSize,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Sample every RoI bilinearly in the middles of h x w bins, with gradients to its corners.

    features: (N, C, H, W) Tensor, float32 or float64. rois: (R, 5) (batch index, x1, y1, x2, y2), or a list with one
    (R_i, 4) per image, in image coordinates, x1 = 0 at the left edge of the first pixel: Tensors of the features'
    dtype, whose corners get gradients, or arrays, which get none. output_size: h = w, or (h, w). spatial_scale: cells
    of the feature map per unit of the RoIs (1/16 at stride 16).

    Returns a Tensor (R, C, h, w). Samples beyond the outermost centres of cells are the border cell, and do not move
    the corners; where a sample lies on the centre of a cell the gradient is that of the cells after it. Reversed RoIs
    are read from the other side.

    Raises TypeError when the features are no float Tensor, RoIs that are Tensors have another dtype, or either lies on
    another device, ValueError, naming the row, for a RoI with a batch index out of range or a value that is not finite
    or too large (see rois.py), or for another wrong shape, dtype, size or number.
    """
    per_image = isinstance(rois, (list, tuple))
    parts: list[Any] = list(rois) if isinstance(rois, (list, tuple)) else [rois]
    arrays = [part.data if isinstance(part, Tensor) else part for part in parts]
    checked = check_arguments(features, arrays if per_image else arrays[0], output_size, spatial_scale)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    for tensor in tensors:
        if tensor.dtype != features.dtype:
            raise TypeError(f"The RoIs are {tensor.dtype} and the features {features.dtype}: convert one of them.")
    whole = tensors[0] if tensors else Tensor(checked)
    if per_image and tensors:
        corners = [part if isinstance(part, Tensor) else Tensor(part.astype(features.dtype)) for part in parts]
        whole = cat([Tensor(checked[:, :1]), cat(corners)], 1)
    return roi_crop_unchecked(features, whole, output_size, spatial_scale)


def roi_crop_unchecked(features: Tensor, rois: Tensor, output_size: OutputSize, spatial_scale: float = 1.0) -> Tensor:
    """roi_crop for RoIs that are known to be an (R, 5) Tensor of finite numbers, of the features' dtype and on their
    device."""
    data, xp = channels_last(features.data), array_module(features.data)
    corners = xp.ascontiguousarray(rois.data)
    scale = data.dtype.type(spatial_scale)
    out = xp.empty(output_shape(data, corners, output_size), data.dtype)
    run(roi_crop_forward_cpu, roi_crop_forward_cuda, out.size, data, corners, scale, out)
    shape = data.shape
    if not rois.requires_grad:
        data = None  # kept only for the gradient of the corners

    def backward(grad: Array, needs: Sequence[bool]) -> tuple[Any, ...]:
        grad, grad_features, grad_rois = channels_last(grad), None, None
        if needs[0]:
            grad_features = xp.zeros(shape, grad.dtype)
            run(roi_crop_backward_cpu, roi_crop_backward_cuda, grad.size, grad, corners, scale, grad_features)
            grad_features = channels_first(grad_features)
        if needs[1]:
            slopes = xp.empty((*grad.shape[:3], 2), grad.dtype)
            run(roi_crop_slopes_cpu, roi_crop_slopes_cuda, grad.size, grad, data, corners, scale, slopes)
            grad_rois = corner_gradients(slopes, spatial_scale)
        return grad_features, grad_rois

    return record(channels_first(out), (features, rois), backward, "roi_crop")
