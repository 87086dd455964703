"""PSRoIPool: the mean feature in each bin of a grid laid over the rounded RoI, where every place of the grid reads
channels of its own.

R-FCN (Dai et al. 2016), section 2, "Position-sensitive score maps & position-sensitive RoI pooling"; FCIS (Li et al.
2017), section 2, makes masks of such maps. They are rounded as torchvision's ps_roi_pool rounds: the corners to whole
cells of the feature map, as in RoIPool, but the last cell counts as outside. The authors' own kernels round the corners
in the image instead, x1 to round(x1) * scale and x2 to (round(x2) + 1) * scale, and keep the fractions of cells until
the bins are rounded outwards. roi_pool.py has the same sections in the same order.
"""

from collections.abc import Sequence
from typing import Any

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import Array, array_module, channels_first, channels_last
from tinymrcnn.kernels import EACH, LANES, cpu_kernel, cuda, cuda_kernel, lanes_of, run, scalar, unravel_bin
from tinymrcnn.roi.roi_pool import bin_cells, round_half_away
from tinymrcnn.roi.rois import OutputSize, check_arguments, check_size, output_shape

# The arithmetic, once for every target


@scalar
def roi_bins(low: float, high: float, spatial_scale: float, bins: int) -> tuple[int, float]:
    """Along one axis, in cells: where the RoI starts and how large its bins are."""
    T = type(low)
    start = round_half_away(low * spatial_scale)
    end = round_half_away(high * spatial_scale)
    return start, T(max(end - start, 1)) / T(bins)  # the last cell counts as outside


@scalar
def group_of(index: int, bins: int, groups: int) -> int:
    """Along one axis: the group of channels that bin `index` reads, the one at the same place of the RoI."""
    return index * groups // bins


@scalar
def cells_of(first: int, end: int, split: int) -> tuple[int, int]:
    """The cells [first, end) that hold the parts [first, end), of which a cell has `split`."""
    return first // split, -(-end // split)


@scalar
def parts_of(cell: int, first: int, end: int, split: int) -> int:
    """How many of a cell's parts are among [first, end)."""
    return max(min((cell + 1) * split, end) - max(cell * split, first), 0)


# Forward


@cpu_kernel
def ps_roi_pool_forward_cpu(
    thread: int, threads: int, features: Array, rois: Array, spatial_scale: float, split: int, out: Array
) -> None:
    """features (N, group rows, group columns, H, W, C) and rois (R, 5) to out (R, h, w, C), C-contiguous, all of one
    float dtype, which is spatial_scale's too; split: int, so many parts of a cell along each axis are told apart."""
    T = type(spatial_scale)
    group_rows, group_columns, height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    for row in range(thread, len(rois) * bins_h, threads):
        r, ph = row // bins_h, row % bins_h
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height * split - 1)
        for pw in range(bins_w):
            x_first, x_end = bin_cells(left, bin_w, pw, width * split - 1)
            area = T(max((y_end - y_first) * (x_end - x_first), 1))
            cells = features[image, group_of(ph, bins_h, group_rows), group_of(pw, bins_w, group_columns)]
            mean = out[r, ph, pw]
            mean[:] = T(0)
            for y in range(*cells_of(y_first, y_end, split)):
                rows = parts_of(y, y_first, y_end, split)
                for x in range(*cells_of(x_first, x_end, split)):
                    here, weight = cells[y, x], T(rows * parts_of(x, x_first, x_end, split))
                    for c in range(channels):
                        mean[c] += weight * here[c]
            for c in range(channels):
                mean[c] /= area


@cuda_kernel
def ps_roi_pool_forward_cuda(features: Array, rois: Array, spatial_scale: float, split: int, out: Array) -> None:
    """As ps_roi_pool_forward_cpu."""
    T = type(spatial_scale)
    group_rows, group_columns, height, width, channels = features.shape[1:]
    bins_h, bins_w = out.shape[1:3]
    total = cuda.local.array(EACH, T)
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height * split - 1)
        x_first, x_end = bin_cells(left, bin_w, pw, width * split - 1)
        area = T(max((y_end - y_first) * (x_end - x_first), 1))
        row, column = group_of(ph, bins_h, group_rows), group_of(pw, bins_w, group_columns)
        for k in range(EACH):
            total[k] = T(0)
        for y in range(*cells_of(y_first, y_end, split)):
            rows = parts_of(y, y_first, y_end, split)
            for x in range(*cells_of(x_first, x_end, split)):
                weight = T(rows * parts_of(x, x_first, x_end, split))
                for k in range(EACH):
                    if k * LANES >= rest:
                        break
                    total[k] += weight * features[image, row, column, y, x, first + k * LANES]
        for k in range(EACH):
            if k * LANES < rest:
                out[r, ph, pw, first + k * LANES] = total[k] / area


# Backward: the gradient of a bin goes to its cells, in equal parts


@cpu_kernel
def ps_roi_pool_backward_cpu(
    thread: int, threads: int, grad: Array, rois: Array, spatial_scale: float, split: int, grad_features: Array
) -> None:
    """Add the gradient grad (R, h, w, C) of forward's result to grad_features (N, group rows, group columns, H, W, C),
    zeros at first; the rest as in forward."""
    # Thread t owns the rows of cells t, t + threads, t + 2 threads, ...: no two ever add to the same cell.
    T = type(spatial_scale)
    group_rows, group_columns, height, width, channels = grad_features.shape[1:]
    bins_h, bins_w = grad.shape[1:3]
    for r in range(len(rois)):
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        for ph in range(bins_h):
            y_first, y_end = bin_cells(top, bin_h, ph, height * split - 1)
            for pw in range(bins_w):
                x_first, x_end = bin_cells(left, bin_w, pw, width * split - 1)
                area = T(max((y_end - y_first) * (x_end - x_first), 1))
                cells = grad_features[image, group_of(ph, bins_h, group_rows), group_of(pw, bins_w, group_columns)]
                g = grad[r, ph, pw]
                for y in range(*cells_of(y_first, y_end, split)):
                    if y % threads != thread:
                        continue
                    rows = parts_of(y, y_first, y_end, split)
                    for x in range(*cells_of(x_first, x_end, split)):
                        here, weight = cells[y, x], T(rows * parts_of(x, x_first, x_end, split))
                        for c in range(channels):
                            here[c] += weight * g[c] / area


@cuda_kernel
def ps_roi_pool_backward_cuda(grad: Array, rois: Array, spatial_scale: float, split: int, grad_features: Array) -> None:
    """As ps_roi_pool_backward_cpu."""
    T = type(spatial_scale)
    group_rows, group_columns, height, width = grad_features.shape[1:5]
    bins_h, bins_w, channels = grad.shape[1:]
    for element in range(cuda.grid(1), len(rois) * bins_h * bins_w * lanes_of(channels), cuda.gridsize(1)):
        r, ph, pw, first, rest = unravel_bin(element, bins_h, bins_w, channels)
        image = int(rois[r, 0])
        top, bin_h = roi_bins(rois[r, 2], rois[r, 4], spatial_scale, bins_h)
        left, bin_w = roi_bins(rois[r, 1], rois[r, 3], spatial_scale, bins_w)
        y_first, y_end = bin_cells(top, bin_h, ph, height * split - 1)
        x_first, x_end = bin_cells(left, bin_w, pw, width * split - 1)
        area = T(max((y_end - y_first) * (x_end - x_first), 1))
        row, column = group_of(ph, bins_h, group_rows), group_of(pw, bins_w, group_columns)
        for y in range(*cells_of(y_first, y_end, split)):
            rows = parts_of(y, y_first, y_end, split)
            for x in range(*cells_of(x_first, x_end, split)):
                weight = T(rows * parts_of(x, x_first, x_end, split))
                for k in range(EACH):
                    c = first + k * LANES
                    if k * LANES >= rest:
                        break
                    cuda.atomic.add(grad_features, (image, row, column, y, x, c), weight * grad[r, ph, pw, c] / area)


# The operator


def ps_roi_pool(
    features: Tensor,
    rois: Array | list[Array],
    output_size: OutputSize,
    spatial_scale: float = 1.0,
    group_size: OutputSize | None = None,
) -> Tensor:
    """Average every RoI in a grid of h x w bins, where a bin reads the group of channels at its place.

    features: (N, C * group * group, H, W) Tensor, float32 or float64; channel (c * group + row) * group + column is
    read in the part `row`, `column` of the RoI, when it is cut into group x group parts. rois: (R, 5) array (batch
    index, x1, y1, x2, y2), or a list with one (R_i, 4) array per image, in image coordinates. output_size: h = w, or
    (h, w). spatial_scale: cells of the feature map per unit of the RoIs (1/16 at stride 16). group_size: group, or
    (rows, columns); None means output_size, so that every bin has its own channels. With h bins and fewer groups, bin
    p reads group floor(p * group / h).

    Returns a Tensor (R, C, h, w), as torchvision.ops.ps_roi_pool. A bin without cells is 0. As there, the last row and
    the last column of the map are never read, while the authors' kernels read them: who needs them gives a map with one
    more row and column, whatever they hold. The gradient is that of this mean; torchvision's goes to the last row and
    column all the same. RoIs get none.

    Raises TypeError when the features are no float Tensor or lie on another device than the RoIs, ValueError when the
    channels cannot be divided among the groups, naming the row, for a RoI with a batch index out of range or a value
    that is not finite or too large (see rois.py), or for another wrong shape, dtype, size or number.
    """
    rois = check_arguments(features, rois, output_size, spatial_scale)
    rows, columns = check_size(output_size if group_size is None else group_size, "group size")
    if features.shape[1] % (rows * columns):
        raise ValueError(f"{features.shape[1]} channels cannot be divided among {rows} x {columns} groups.")
    return ps_roi_pool_unchecked(features, rois, output_size, spatial_scale, group_size)


def ps_roi_pool_unchecked(
    features: Tensor,
    rois: Array,
    output_size: OutputSize,
    spatial_scale: float = 1.0,
    group_size: OutputSize | None = None,
    split: int = 1,
) -> Tensor:
    """ps_roi_pool for RoIs that are known to be an (R, 5) array of finite numbers on the features' device.

    split: as if every cell of the map were split x split equal cells, of which spatial_scale then tells: so RoIs and
    bins are rounded to parts of a cell."""
    data, xp = features.data, array_module(features.data)
    rois = xp.ascontiguousarray(rois, data.dtype)
    scale = data.dtype.type(spatial_scale)
    group = output_size if group_size is None else group_size
    rows, columns = group if isinstance(group, (tuple, list)) else (group, group)
    images, all_channels, height, width = data.shape
    channels = all_channels // (rows * columns)
    # One copy of the map, in which the channels of a group are neighbours: a bin reads those, and no others
    grouped = data.reshape(images, channels, rows, columns, height, width)
    grouped = xp.ascontiguousarray(grouped.transpose(0, 2, 3, 4, 5, 1))
    out = xp.empty(output_shape(grouped[:, 0, 0], rois, output_size), data.dtype)
    run(ps_roi_pool_forward_cpu, ps_roi_pool_forward_cuda, out.size, grouped, rois, scale, split, out)
    shape = grouped.shape

    def backward(grad: Array, needs: Sequence[bool]) -> tuple[Any, ...]:
        grad_grouped = xp.zeros(shape, grad.dtype)
        grad = channels_last(grad)
        run(ps_roi_pool_backward_cpu, ps_roi_pool_backward_cuda, grad.size, grad, rois, scale, split, grad_grouped)
        grad_features = xp.ascontiguousarray(grad_grouped.transpose(0, 3, 4, 5, 1, 2))
        return (channels_first(grad_features.reshape(images, height, width, all_channels)),)

    return record(channels_first(out), (features,), backward, "ps_roi_pool")
