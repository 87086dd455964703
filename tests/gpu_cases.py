"""What test_gpu.py and gpu/first_run.py compare between CPU and GPU: the operators that have kernels of their own or
are made of products, with what torch calls them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import channels_first, like, to_device, to_numpy
from tinymrcnn.ops import (
    batch_norm,
    conv2d,
    conv_transpose2d,
    group_norm,
    interpolate,
    linear,
    max_pool2d,
    relu,
)
from tinymrcnn.roi import ps_roi_pool, roi_align, roi_crop, roi_pool, roi_warp

REAL = 256, 200, 272, 512  # channels, height and width of a map, number of RoIs: a full-size network's
SMALL = 8, 20, 27, 5
BOUND = 1e-12
# A place among 272 cells is known to 1.5e-5 of a cell, and fused multiplications and additions round it otherwise
OF_PLACES = 2e-5
NMS_SIZES = (1, 1), (63, 1), (64, 1), (65, 1), (300, 2), (1000, 1), (1000, 40)  # boxes, groups


@dataclass(frozen=True)
class Case:
    """ours: a function of Tensors. arrays: its float32 inputs, all of which get gradients. theirs: the same, of torch
    and its tensors, or None where torch has nothing like it.

    No product goes through a ReLU: where its result is 0 but for rounding, its gradient passes on one side only."""

    ours: Callable[..., Tensor]
    arrays: list[np.ndarray]
    theirs: Callable[..., Any] | None = None
    bound: float = 1e-5  # of relative() between CPU and GPU in float32; in float64 BOUND


def cases(channels: int, height: int, width: int, count: int) -> dict[str, Case]:
    """The operators by name, on one map of so many channels and cells, and so many RoIs."""
    rng, f = np.random.default_rng(0), np.float32

    def maps(n, c, h, w):
        return channels_first(rng.standard_normal((n, h, w, c), f))

    def torch_roi(name, *settings):
        def call(torch, x):
            import torchvision

            regions = torch.as_tensor(rois, dtype=x.dtype, device=x.device)
            return getattr(torchvision.ops, name)(x, regions, *settings)

        return call

    def torch_max(bins, scale):
        """A bin of torchvision's for each of 2 x 2 samples, then the largest of them."""

        def call(torch, x):
            import torchvision

            regions = torch.as_tensor(exact, dtype=x.dtype, device=x.device)
            samples = torchvision.ops.roi_align(x, regions, 2 * bins, scale, 1, True)
            return torch.nn.functional.max_pool2d(samples, 2)

        return call

    def torch_crop(bins, scale):
        """grid_sample at the places of affine_grid: of one image, so that all RoIs are rows of one grid."""

        def call(torch, x, regions):
            size = torch.as_tensor([width, height], dtype=x.dtype, device=x.device)
            low, high = regions[:, 1:3] * scale / size, regions[:, 3:] * scale / size
            theta = torch.cat([torch.diag_embed(high - low), (low + high - 1)[:, :, None]], 2)  # from -1 to 1
            grid = torch.nn.functional.affine_grid(theta, [count, 1, bins, bins], align_corners=False)
            rows = grid.reshape(1, count * bins, bins, 2)
            out = torch.nn.functional.grid_sample(x, rows, "bilinear", "border", align_corners=False)
            return out.reshape(channels, count, bins, bins).transpose(0, 1)

        return call

    def ours_roi(operator, *settings, of=None, **keywords):
        places = rois if of is None else of
        return lambda x: operator(x, like(places, x.data).astype(x.dtype), *settings, **keywords)

    corners = rng.uniform(0, 8 * min(height, width), (count, 2))
    rois = np.concatenate([np.zeros((count, 1)), corners, corners + rng.uniform(8, 300, (count, 2))], axis=1).astype(f)
    x, bias, other = (
        maps(1, channels, height, width),
        rng.standard_normal(channels, f),
        rng.standard_normal(channels, f),
    )
    square, point, wide = (maps(channels, channels, k, k) / f(k * channels**0.5) for k in (3, 1, 2))
    small = maps(count, channels, 14, 14)
    weights = rng.standard_normal((64, channels * 196), f) / 100

    # In cells the corners are quarters and a 32nd, and the sides multiples of 7: so the places of samples are exact,
    # and on no cell's centre, and with whole numbers as features the samples are exact too. Else rounding decides which
    # of two samples is the largest, or on which side of a centre one lies, and the gradient jumps with it.
    own = np.random.default_rng(1)  # which leaves the other cases as they are
    corners, sides = 2 * own.integers(0, 4 * min(height, width), (count, 2)) + 0.25, 56 * own.integers(1, 6, (count, 2))
    exact = np.concatenate([np.zeros((count, 1)), corners, corners + sides], axis=1).astype(f)
    whole = channels_first(own.integers(-99, 100, (1, height, width, channels)).astype(f))
    groups = min(32, channels // 2)
    grouped = maps(channels, channels // groups, 3, 3) / f(3 * (channels // groups) ** 0.5)

    def constant(value, t):
        return like(np.full(channels, value, np.dtype(t.dtype)), t.data)

    return {
        "conv 3x3": Case(
            lambda x, w, b: conv2d(x, w, b, padding=1),
            [x, square, bias],
            lambda torch, x, w, b: torch.conv2d(x, w, b, padding=1),
        ),
        "conv 3x3, stride 2": Case(
            lambda x, w: conv2d(x, w, None, 2, 1), [x, square], lambda torch, x, w: torch.conv2d(x, w, None, 2, 1)
        ),
        "conv 1x1": Case(conv2d, [x, point, bias], lambda torch, x, w, b: torch.conv2d(x, w, b)),
        "conv 3x3, groups": Case(
            lambda x, w, b: conv2d(x, w, b, padding=1, groups=groups),
            [x, grouped, bias],
            lambda torch, x, w, b: torch.conv2d(x, w, b, padding=1, groups=groups),
        ),
        "conv_transpose 2x2": Case(
            lambda x, w, b: conv_transpose2d(x, w, b, 2),
            [small, wide, bias],
            lambda torch, x, w, b: torch.conv_transpose2d(x, w, b, 2),
        ),
        "linear": Case(
            linear, [small.reshape(count, -1), weights], lambda torch, x, w: torch.nn.functional.linear(x, w)
        ),
        "relu": Case(relu, [x], lambda torch, x: torch.relu(x)),
        "max_pool 3x3": Case(
            lambda x: max_pool2d(x, 3, 2, 1), [x], lambda torch, x: torch.nn.functional.max_pool2d(x, 3, 2, 1)
        ),
        "interpolate": Case(
            lambda x: interpolate(x, (2 * height, 2 * width)),
            [x],
            lambda torch, x: torch.nn.functional.interpolate(x, (2 * height, 2 * width)),
        ),
        "batch_norm": Case(
            lambda x, w, b: batch_norm(x, constant(0, w), constant(1, w), w, b, True),
            [x, bias, other],
            lambda torch, x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, True),
        ),
        "batch_norm, residual": Case(
            lambda x, w, b, y: batch_norm(x, constant(0, w), constant(1, w), w, b, True, residual=y),
            [x, bias, other, x[..., ::-1, :].copy()],
            lambda torch, x, w, b, y: torch.nn.functional.batch_norm(x, None, None, w, b, True) + y,
        ),
        "group_norm": Case(
            lambda x, w, b: group_norm(x, 4, w, b),
            [x, bias, other],
            lambda torch, x, w, b: torch.nn.functional.group_norm(x, 4, w, b),
        ),
        "roi_align 7x7": Case(
            ours_roi(roi_align, 7, 1 / 8, 2, True), [x], torch_roi("roi_align", 7, 1 / 8, 2, True), OF_PLACES
        ),
        "roi_align 14x14": Case(
            ours_roi(roi_align, 14, 1 / 8, 2), [x], torch_roi("roi_align", 14, 1 / 8, 2), OF_PLACES
        ),
        "roi_align, adaptive": Case(ours_roi(roi_align, 7, 1 / 8), [x], torch_roi("roi_align", 7, 1 / 8), OF_PLACES),
        "roi_align 7x7, max": Case(
            ours_roi(roi_align, 7, 1 / 8, 2, True, "max", of=exact), [whole], torch_max(7, 1 / 8)
        ),
        "roi_align, adaptive, max": Case(ours_roi(roi_align, 7, 1 / 8, reduce="max", of=exact), [whole]),
        "roi_pool 7x7": Case(ours_roi(roi_pool, 7, 1 / 8), [x], torch_roi("roi_pool", 7, 1 / 8)),
        "roi_warp 7x7": Case(ours_roi(roi_warp, 7, 1 / 8, 2), [x], None, OF_PLACES),
        "roi_warp 7x7, max": Case(ours_roi(roi_warp, 7, 1 / 8, 2, "max", of=exact), [whole]),
        "roi_crop 8x8": Case(lambda x, places: roi_crop(x, places, 8, 1 / 8), [x, exact], torch_crop(8, 1 / 8)),
        "ps_roi_pool 2x2": Case(ours_roi(ps_roi_pool, 2, 1 / 8), [x], torch_roi("ps_roi_pool", 2, 1 / 8)),
    }


def result_and_gradients(case: Case, device: str, dtype) -> list:
    """What a case computes on a device: its result, and the gradients of all its inputs."""
    leaves = [Tensor(to_device(array.astype(dtype), device), requires_grad=True) for array in case.arrays]
    out = case.ours(*leaves)
    upstream = np.cos(np.arange(out.size)).reshape(out.shape) + 0.5  # so that a sum of it is not 0 but for rounding
    out.backward(to_device(upstream.astype(dtype), device))
    return [out.data, *(leaf.grad for leaf in leaves)]


def relative(a, b) -> float:
    """The norm of the difference of two arrays on any devices, as a part of the norm of b."""
    a, b = (to_numpy(array).astype(np.float64) for array in (a, b))
    assert a.shape == b.shape and np.isfinite(a).all()
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def boxes_with_ties(count: int, groups: int, dtype) -> tuple[np.ndarray, ...]:
    """(boxes, scores, groups) for batched_nms. Whole numbers: areas are rounded nowhere."""
    rng = np.random.default_rng(count)
    corners = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 30, (count, 2))], axis=1).astype(dtype)
    return boxes, rng.integers(0, 4, count).astype(dtype), rng.integers(0, groups, count)
