"""What the CUDA kernels of the RoI operators and of NMS execute, on the PTX machine of lessons/ptx.py: how many
instructions, and with which results.

The threads of one bin run, and the bins have 2 x 2 samples, or the cells of an RoI of 12 x 10.
"""

import importlib
import importlib.util
import sys

import numpy as np
import pytest
from ptx import compiled, parse, run_block

from tinymrcnn.kernels import cuda, cuda_kernel, lanes_of, launch

align, crop, nms, pool, ps_pool = (
    importlib.import_module(f"tinymrcnn.{name}")
    for name in ("roi.roi_align", "roi.roi_crop", "boxes.nms", "roi.roi_pool", "roi.ps_roi_pool")
)
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="The compiler of CUDA kernels is tested on Linux only."),
    pytest.mark.skipif(not importlib.util.find_spec("numba_cuda"), reason="numba-cuda[cu12] is not installed."),
]

SCALE, ROIS = np.float32(0.25), np.array([[1, 3.3, 2.1, 50.4, 40.2]], np.float32)
SETTINGS = SCALE, 2, True
# Kernel: its arguments, the inputs by name; the CPU kernel takes the same. Then how many instructions for an output,
# at most, in the CASES.
CASES = (7, 256), (14, 256), (7, 64)  # bins along each axis, channels
KERNELS = {
    "roi_align_forward": (align, ("features", ROIS, *SETTINGS, "out"), 85, 85, 125),
    "roi_align_backward": (align, ("grad", ROIS, *SETTINGS, "grad_features"), 100, 100, 135),
    "roi_pool_forward": (pool, ("features", ROIS, SCALE, "out", "argmax"), 90, 43, 120),
    "roi_pool_backward": (pool, ("grad", ROIS, "where", "grad_cells"), 24, 24, 35),
    "ps_roi_pool_forward": (ps_pool, ("grouped", ROIS, SCALE, 1, "out"), 95, 61, 152),
    "ps_roi_pool_backward": (ps_pool, ("grad", ROIS, SCALE, 1, "grad_grouped"), 116, 67, 168),
    "roi_crop_forward": (crop, ("features", ROIS, SCALE, "out"), 55, 55, 70),
    "roi_crop_backward": (crop, ("grad", ROIS, SCALE, "grad_features"), 32, 32, 46),
}
PTX = {}  # compiled once


def arrays_of(bins, channels, at):
    """Inputs and results by name; there is a gradient in the bin (r, y, x) `at` only."""
    rng = np.random.default_rng(0)
    features, shape = rng.normal(size=(2, 12, 15, channels)).astype(np.float32), (1, bins, bins, channels)
    grad = np.zeros(shape, np.float32)
    grad[at] = rng.normal(size=channels)
    where = rng.integers(-1, 12 * 15, shape).astype(np.int32)
    results = {"out": np.zeros(shape, np.float32), "argmax": np.zeros(shape, np.int32)}
    results |= {"grad_features": np.zeros_like(features), "grad_cells": np.zeros((2, 180, channels), np.float32)}
    results["grad_grouped"] = np.zeros_like(features[:, None, None])  # of one group
    return dict(features=features, grouped=features[:, None, None], grad=grad, where=where, **results)


def run_bin(name, bins, channels):
    """Run the threads of one bin on the PTX machine, and the CPU kernel. Returns how many instructions an output took,
    and the pairs of results."""
    module, arguments, *_ = KERNELS[name]
    at = (0, bins // 2, bins // 2 + 1)
    ours, theirs = arrays_of(bins, channels, at), arrays_of(bins, channels, at)
    args, cpu_args = ([a.get(x, x) if isinstance(x, str) else x for x in arguments] for a in (ours, theirs))
    if name not in PTX:
        text = compiled(getattr(module, f"{name}_cuda"), *args)
        assert ".local" not in text  # which is used where registers do not suffice, or an index is not known
        PTX[name] = parse(text)
    getattr(module, f"{name}_cpu")(0, 1, *cpu_args)
    lanes = lanes_of(channels)
    first = int(np.ravel_multi_index(at, (1, bins, bins))) * lanes
    counts, _ = run_block(PTX[name], args, bins * bins * lanes, some=range(first, first + lanes))
    places = {"out": at, "argmax": at, "grad_features": ..., "grad_cells": ..., "grad_grouped": ...}
    results = [(ours[x][places[x]], theirs[x][places[x]]) for x in arguments if isinstance(x, str) and x in places]
    return sum(counts) / channels, results


@pytest.mark.parametrize("name", KERNELS)
def test_instructions_for_an_output_and_results(name):
    for (bins, channels), limit in zip(CASES, KERNELS[name][2:], strict=True):
        count, results = run_bin(name, bins, channels)
        assert 0.8 * limit < count <= limit, f"{count:.1f} instructions with {bins} x {bins} bins, {channels} channels"
        for ours, theirs in results:
            assert np.abs(theirs).max() > 0
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("channels", [5, 300])
def test_results_with_other_numbers_of_channels(name, channels):
    for ours, theirs in run_bin(name, 3, channels)[1]:
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_nms_walks_64_boxes_at_a_time():
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 60, (150, 2))
    corners = np.ascontiguousarray(np.hstack([corners, corners + rng.integers(1, 40, (150, 2))]).T, np.float32)
    starts, threshold = np.array([0, 110, 150]), np.float32(0.3)
    first, end = np.repeat(starts[:2], [110, 40]), np.repeat(starts[1:], [110, 40])
    overlaps, removed = np.zeros((150, 2), np.uint64), np.zeros((2, 2), np.uint64)
    keep, expected = np.ones((2, 150), bool)
    args = corners, first, end, threshold, overlaps
    counts, _ = run_block(parse(compiled(nms.overlaps_cuda, *args)), args, overlaps.size)
    pairs = (110 * 109 + 40 * 39) / 2
    assert sum(counts) / pairs < 50
    args = overlaps, starts, removed, keep
    ptx = parse(compiled(nms.walk_cuda, *args))
    (some, barriers), (others, more) = (run_block(ptx, args, 32, block, 2) for block in (0, 1))
    nms.nms_cpu(0, 1, corners, starts, threshold, expected)
    np.testing.assert_array_equal(keep, expected)
    assert 0 < keep.sum() < 150
    assert (barriers, more) == (2, 1)  # so often the threads wait for one another: once for every 64 boxes
    assert (max(some) + max(others)) / 150 < 50


@cuda_kernel
def add_up(x, out):
    total = x[0] - x[0]
    for i in range(x.size):
        total += x[i]
    cuda.syncthreads()
    out[cuda.threadIdx.x] = total


def test_the_machine():
    x, out = np.array([1.5, -2, 4], np.float32), np.zeros(2, np.float32)
    ptx = parse(compiled(add_up, x, out))
    counts, barriers = run_block(ptx, (x, out), 2)
    assert out.tolist() == [3.5, 3.5] and barriers == 1
    longer, _ = run_block(ptx, (np.ones(103, np.float32), out), 2)
    assert out.tolist() == [103, 103]
    assert longer[0] - counts[0] > 2 * 100  # a load and an addition each
    with pytest.raises(IndexError, match="No array lies at"):
        run_block(ptx, (x, out), 3)


def test_a_launch_that_32_bits_cannot_count_is_refused():
    with pytest.raises(ValueError, match="fewer than 2\\^32 numbers at a time, not 4294967296"):
        launch(add_up, 2**32)


@pytest.mark.parametrize("channels, limits", [(256, (32, 91)), (64, (44, 145)), (5, (187, 890))])
def test_instructions_for_an_element_of_a_convolutions_windows(channels, limits):
    """A 3x3 convolution: the windows of one output pixel, and one pixel of their sum, which gathers nine numbers."""
    im2col, height, width = importlib.import_module("tinymrcnn.ops.im2col"), 6, 7
    rng, place, numbers = np.random.default_rng(0), height * width // 2 + 3, (height, width, 3, 3, 1, 1, 1)
    x = rng.normal(size=(2, height, width, channels)).astype(np.float32)
    columns, same = np.zeros((2, x.size // channels, 9 * channels), np.float32)
    lanes = lanes_of(channels)
    im2col._im2col_cpu(0, 1, x, same, 0, *numbers)
    code = parse(compiled(im2col._im2col_cuda, x, columns, 0, *numbers))
    threads = range(place * 9 * lanes, (place + 1) * 9 * lanes)
    counts, _ = run_block(code, [x, columns, 0, *numbers], x.size // channels * 9 * lanes, some=threads)
    assert 0.8 * limits[0] < sum(counts) / (9 * channels) <= limits[0]
    np.testing.assert_array_equal(columns[place], same[place])
    assert np.abs(same[place]).max() > 0

    pixels, same = np.zeros_like(x), np.zeros_like(x)
    columns = rng.normal(size=columns.shape).astype(np.float32)
    im2col._col2im_cpu(0, 1, columns, same, *numbers)
    code = parse(compiled(im2col._col2im_cuda, columns, pixels, *numbers))
    threads = range(place * lanes, (place + 1) * lanes)
    counts, _ = run_block(code, [columns, pixels, *numbers], x.size // channels * lanes, some=threads)
    assert 0.8 * limits[1] < sum(counts) / channels <= limits[1]
    np.testing.assert_allclose(
        pixels.reshape(-1, channels)[place], same.reshape(-1, channels)[place], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("stride, padding, dilation", [(1, 2, 3), (2, 1, 1), (3, 0, 2), (5, 4, 1)])
def test_every_pixel_gathers_its_windows(stride, padding, dilation):
    """Those of all threads, at borders and in gaps, of 20 channels: some threads have two, some one."""
    im2col, shape, lanes = importlib.import_module("tinymrcnn.ops.im2col"), (2, 5, 7, 20), lanes_of(20)
    window = im2col.Window((2, 3), stride, padding, dilation)
    size = window.out_size(shape[1:3])
    numbers = *size, *window.kernel, stride, padding, dilation
    columns = np.random.default_rng(0).normal(size=(2 * size[0] * size[1], 6 * 20)).astype(np.float32)
    pixels, expected = np.ones((2, *shape), np.float32)
    im2col._col2im_cpu(0, 1, columns, expected, *numbers)
    run_block(parse(compiled(im2col._col2im_cuda, columns, pixels, *numbers)), [columns, pixels, *numbers], 70 * lanes)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - 1).max() > 1
