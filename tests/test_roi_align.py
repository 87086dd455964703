"""RoIAlign against its definition, by known values, and on ramps, which bilinear samples reproduce exactly."""

import numpy as np
import pytest
from roi_reference import AWKWARD_ROIS, GOLDEN, random_rois, roi_align_max_reference, roi_align_reference

from tinymrcnn import threads
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like, to_device, to_numpy
from tinymrcnn.roi import roi_align, roi_align_unchecked, roi_warp
from tinymrcnn.roi.roi_align import roi_bins, sample_position, samples_per_bin, taps

SETTINGS = pytest.mark.parametrize("aligned", [False, True])
SAMPLING = pytest.mark.parametrize("sampling_ratio", [-1, 1, 2, 3])
REDUCE = pytest.mark.parametrize("reduce", ["mean", "max"])
REFERENCES = {"mean": roi_align_reference, "max": roi_align_max_reference}


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def align_and_gradient(features, rois, upstream, bins, scale=1.0, sampling_ratio=-1, aligned=False, reduce="mean"):
    leaf = Tensor(features, requires_grad=True)
    out = roi_align(leaf, rois, bins, scale, sampling_ratio, aligned, reduce)
    out.backward(like(upstream, out.data).astype(out.dtype))
    return out.data, leaf.grad


def test_known_values():
    # 5 x 5 cells counting up, a box of 2 x 2 cells in 4 x 4 bins: steps of half a cell, from the middle of the first
    features = Tensor(np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5))
    rois = np.array([[0, 1, 1, 3, 3]], np.float32)
    half_steps = np.arange(4) * 0.5 + 5 * 0.5 * np.arange(4)[:, None]
    np.testing.assert_array_equal(roi_align(features, rois, 4).data[0, 0], 7.5 + half_steps)
    np.testing.assert_array_equal(roi_align(features, rois, 4, aligned=True).data[0, 0], 4.5 + half_steps)
    np.testing.assert_array_equal(roi_align(features, rois, 4, sampling_ratio=0).data[0, 0], 7.5 + half_steps)


def test_an_empty_box_is_zero_when_aligned_and_one_cell_otherwise():
    features = np.arange(36.0).reshape(1, 1, 6, 6)
    rois = np.array([[0, 3, 4, 5, 4.0]])
    out, gradient = align_and_gradient(features, rois, np.ones((1, 1, 2, 2)), 2, aligned=True)
    assert not out.any() and not gradient.any()
    # not aligned its height becomes 1: samples at y = 4.25 and 4.75, x = 3.5 and 4.5
    out, gradient = align_and_gradient(features, rois, np.ones((1, 1, 2, 2)), 2)
    np.testing.assert_allclose(out[0, 0], [[29, 30], [32, 33]])
    assert gradient.sum() == 4


@SETTINGS
@SAMPLING
@pytest.mark.parametrize("bins", [1, (2, 3), 7])
def test_a_ramp_is_exact_at_the_centres_of_the_bins(aligned, sampling_ratio, bins):
    a, b, c, height, width, scale = 0.7, -1.3, 2.0, 12, 15, 0.25
    y, x = np.mgrid[:height, :width]
    ramp = Tensor((a * x + b * y + c)[None, None])
    rng = np.random.default_rng(0)
    low, high = rng.uniform(1, 5, (20, 2)), rng.uniform(6, 11, (20, 2))  # in cells: at least one, well inside
    out = roi_align(ramp, [np.concatenate([low, high], 1) / scale], bins, scale, sampling_ratio, aligned).data[:, 0]
    h, w = bins if isinstance(bins, tuple) else (bins, bins)
    centre_x = low[:, :1] + (np.arange(w) + 0.5) / w * (high - low)[:, :1] - 0.5 * aligned
    centre_y = low[:, 1:] + (np.arange(h) + 0.5) / h * (high - low)[:, 1:] - 0.5 * aligned
    np.testing.assert_allclose(out, a * centre_x[:, None, :] + b * centre_y[:, :, None] + c, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@SETTINGS
@SAMPLING
@REDUCE
def test_equals_the_definition(dtype, aligned, sampling_ratio, reduce):
    rng = np.random.default_rng(1)
    reference = REFERENCES[reduce]
    features = normal(2, 3, 7, 10).astype(dtype)
    for rois, scale, bins in (
        (AWKWARD_ROIS, 0.5, (4, 2)),
        (AWKWARD_ROIS, 0.5, (7, 7)),
        (random_rois(rng, 30, 2, 7, 10, 1 / 16), 1 / 16, (14, 5)),
    ):
        rois = rois.astype(dtype)
        upstream = rng.normal(size=(len(rois), 3, *bins)).astype(dtype)
        settings = scale, sampling_ratio, aligned
        out, gradient = align_and_gradient(features, rois, upstream, bins, *settings, reduce)
        assert out.dtype == gradient.dtype == dtype and out.shape == (len(rois), 3, *bins)
        # the maximum's samples are bins, so that their positions are rounded in another order than the reference's
        rtol = 1e-13 if dtype == np.float64 else 1e-5 if reduce == "mean" else 1e-4
        for result, expected in (
            (out, reference(features, rois, bins, *settings)),
            (gradient, reference(features, rois, bins, *settings, upstream)),
        ):
            np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_the_largest_sample_by_hand():
    # one bin over the cells 1 and 2, sampled at their centres; of the ramp the last sample is the largest
    ramp, roi = np.arange(20.0).reshape(1, 1, 4, 5), np.array([[0, 1, 1, 3, 3.0]])
    one = np.full((1, 1, 1, 1), 3.0)
    out, gradient = align_and_gradient(ramp, roi, one, 1, 1.0, 2, True, "max")
    assert out.item() == 12 and gradient[0, 0, 2, 2] == gradient.sum() == 3
    for as_many_as_cells in (0, -1):
        assert align_and_gradient(ramp, roi, one, 1, 1.0, as_many_as_cells, True, "max")[0].item() == 12
    # not aligned it lies half a cell further: between four cells
    out, gradient = align_and_gradient(ramp, roi, one, 1, 1.0, 2, False, "max")
    assert out.item() == 15
    np.testing.assert_array_equal(gradient[0, 0, 2:, 2:4], [[0.75, 0.75], [0.75, 0.75]])
    assert align_and_gradient(ramp, roi, one, 1, 1.0, 2, True)[0].item() == 9  # the mean


def test_of_equal_samples_the_first_gets_the_gradient():
    upstream = np.full((1, 1, 1, 1), 5.0)
    roi = np.array([[0, 1, 1, 4, 3.0]])
    _, gradient = align_and_gradient(np.ones((1, 1, 4, 5)), roi, upstream, 1, 1.0, -1, True, "max")
    assert gradient[0, 0, 1, 1] == gradient.sum() == 5


def test_samples_outside_are_zero_for_the_maximum_too():
    below_zero = np.full((1, 1, 3, 4), -2.0)
    for x, expected, slope in [(1.5, -2, 1), (-2.5, 0, 0), (-20, 0, 0)]:  # inside; one of two samples outside; both
        roi = np.array([[0, x, 1, x + 2, 2.0]])
        out, gradient = align_and_gradient(below_zero, roi, np.ones((1, 1, 1, 1)), 1, 1.0, 2, True, "max")
        assert (out.item(), gradient.sum()) == (expected, slope), x
    # no samples at all
    out, gradient = align_and_gradient(
        below_zero, np.array([[0, 3, 2, 1, 1.0]]), np.ones((1, 1, 2, 2)), 2, 1.0, -1, True, "max"
    )
    assert not out.any() and not gradient.any()


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (3, 2, 1, 5), (1, 17, 6, 1), (2, 64, 3, 4)])
def test_any_shape(shape):
    rois = random_rois(np.random.default_rng(2), 9, shape[0], *shape[2:], 1.0)
    features, upstream = normal(*shape), normal(9, shape[1], 2, 3)
    out, gradient = align_and_gradient(features, rois, upstream, (2, 3), 1.0, 2)
    np.testing.assert_allclose(out, roi_align_reference(features, rois, (2, 3), 1.0, 2, False), atol=1e-13)
    expected = roi_align_reference(features, rois, (2, 3), 1.0, 2, False, upstream)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_a_map_of_one_cell():
    # one cell spans the samples from -1 to 1; of the samples at -1.5, -0.5, 0.5 and 1.5 the inner two count
    rois = np.array([[0, -2, -2, 2, 2.0]])
    out, gradient = align_and_gradient(np.full((1, 1, 1, 1), 3.0), rois, np.ones((1, 1, 4, 4)), 4, sampling_ratio=1)
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = 3
    np.testing.assert_array_equal(out[0, 0], expected)
    np.testing.assert_array_equal(gradient, [[[[4]]]])


def test_the_border_counts_up_to_one_cell_outside():
    column = Tensor(np.array([5.0, 7.0]).reshape(1, 1, 2, 1))
    for y, expected in [(-1.001, 0), (-1, 5), (-0.5, 5), (0, 5), (0.5, 6), (1, 7), (2, 7), (2.001, 0)]:
        rois = np.array([[0, -0.5, y - 0.5, 0.5, y + 0.5]])
        assert roi_align(column, rois, 1, sampling_ratio=1).data.item() == pytest.approx(expected), y


def test_reversed_rois():
    features = Tensor(normal(1, 2, 7, 10))
    forwards, backwards = np.array([[0, 2, 1, 8, 5.0]]), np.array([[0, 8, 5, 2, 1.0]])
    mirrored = roi_align(features, forwards, 3, sampling_ratio=2, aligned=True).data[..., ::-1, ::-1]
    out = roi_align(features, backwards, 3, sampling_ratio=2, aligned=True).data
    np.testing.assert_allclose(out, mirrored, rtol=0, atol=1e-13)  # read from the other side
    assert not roi_align(features, backwards, 3, aligned=True).data.any()  # no samples
    one_cell = roi_align(features, np.array([[0, 8, 5, 9, 6.0]]), 3, sampling_ratio=2).data
    np.testing.assert_array_equal(roi_align(features, backwards, 3, sampling_ratio=2).data, one_cell)


def test_the_arithmetic_in_plain_python():
    assert roi_bins(4.0, 16.0, 0.25, 2, False) == (1.0, 1.5)
    assert roi_bins(4.0, 16.0, 0.25, 2, True) == (0.5, 1.5)
    assert samples_per_bin(1.5, -1) == 2 and samples_per_bin(1.5, 3) == 3
    assert [sample_position(1.0, 1.5, 1, i, 2) for i in range(2)] == [2.875, 3.625]
    assert taps(2.75, 5) == (2, 0.25, 3, 0.75)
    assert taps(-0.5, 5) == (0, 1.0, 1, 0.0) and taps(4.5, 5) == (4, 1.0, 4, 0.0)
    assert taps(-1.25, 5)[0] == taps(5.25, 5)[0] == taps(float("nan"), 5)[0] == -1


def test_a_sample_outside_ignores_what_is_inside():
    features = np.full((1, 1, 3, 4), np.inf)
    out = roi_align(Tensor(features), np.array([[0, 20, 20, 24, 24.0]]), 2)
    assert not out.data.any()


@pytest.mark.parametrize("count", [2, 3, 8])
@REDUCE
def test_the_number_of_threads_changes_no_bit(monkeypatch, count, reduce):
    monkeypatch.setattr(threads, "LEAST_SECONDS", 0)  # all of them, for little work too
    features, rois = normal(2, 5, 7, 10).astype(np.float32), AWKWARD_ROIS.astype(np.float32)
    upstream, before = normal(len(rois), 5, 7, 7), threads.get_num_threads()
    results = []
    try:
        for used in (1, count):
            threads.set_num_threads(used)
            results.append(align_and_gradient(features, rois, upstream, 7, 0.5, reduce=reduce))
    finally:
        threads.set_num_threads(before)
    for alone, shared in zip(*results, strict=True):
        np.testing.assert_array_equal(alone, shared)


@SETTINGS
@REDUCE
def test_contract(check_contract, aligned, reduce):
    def align(x):
        return roi_align_unchecked(x, like(AWKWARD_ROIS, x.data), (4, 2), 0.5, 2, aligned, reduce)

    check_contract(align, [normal(2, 3, 7, 10)])


@pytest.mark.parametrize("operator", [roi_align, roi_warp])
def test_the_maximum_with_as_many_samples_as_cells_off_the_host(operator, fake_device):
    features, upstream = normal(2, 3, 7, 10), normal(len(AWKWARD_ROIS), 3, 4, 2)
    results = []
    for device in ("cpu", "fake"):
        leaf = Tensor(to_device(features, device), requires_grad=True)
        out = operator(leaf, to_device(AWKWARD_ROIS, device), (4, 2), 0.5, reduce="max")
        out.backward(to_device(upstream, device))
        results.append([to_numpy(out.data), to_numpy(leaf.grad)])
        assert type(out.data) is type(leaf.data) and out.data.transpose(0, 2, 3, 1).flags.c_contiguous
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert results[0][0].any() and operator(Tensor(features), np.zeros((0, 5)), 2, reduce="max").shape == (0, 3, 2, 2)


@pytest.mark.parametrize("operator", [roi_align, roi_warp])
def test_another_reduction(operator):
    rois = np.array([[0, 1, 1, 3, 3.0]])
    with pytest.raises(ValueError, match="reduced by 'mean' or 'max', not by 'sum'"):
        operator(Tensor(np.zeros((1, 1, 4, 5))), rois, 2, reduce="sum")


@pytest.mark.gradcheck
@SETTINGS
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@REDUCE
def test_gradients(check_gradients, aligned, sampling_ratio, reduce):
    check_gradients(
        f"roi_align, aligned={aligned}, reduce={reduce}",
        lambda x: roi_align(x, like(AWKWARD_ROIS, x.data), (3, 2), 0.5, sampling_ratio, aligned, reduce),
        lambda rng: [Tensor(rng.normal(size=(2, 3, 7, 10)), requires_grad=True)],
    )


@pytest.mark.cuda
@SETTINGS
@REDUCE
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cuda_kernels_agree(dtype, rtol, aligned, reduce):
    features, rois = normal(2, 33, 7, 10).astype(dtype), AWKWARD_ROIS.astype(dtype)
    upstream = normal(len(rois), 33, 4, 8)
    for sampling_ratio in (-1, 2):
        settings = (4, 8), 0.5, sampling_ratio, aligned, reduce
        on_cpu = align_and_gradient(features, rois, upstream, *settings)
        on_gpu = align_and_gradient(to_device(features, "cuda"), to_device(rois, "cuda"), upstream, *settings)
        for a, b in zip(on_gpu, on_cpu, strict=True):
            np.testing.assert_allclose(to_numpy(a), b, rtol=0, atol=rtol * np.abs(b).max())


@SETTINGS
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_golden_arrays_of_torchvision(aligned, sampling_ratio):
    golden = np.load(GOLDEN)
    rows = golden["ordered"] if aligned else slice(None)
    out, gradient = align_and_gradient(
        golden["features"], golden["rois"][rows], golden["upstream"][rows], (3, 2), 0.5, sampling_ratio, aligned
    )
    name = f"roi_align {aligned} {sampling_ratio}"
    np.testing.assert_allclose(out, golden[name], rtol=0, atol=1e-6)
    np.testing.assert_allclose(gradient, golden[name + " gradient"], rtol=0, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(20))
def test_parity_with_torchvision(seed):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 6])
    dtype, aligned = [np.float32, np.float64][seed % 2], bool(seed // 2 % 2)
    (images, channels), (height, width), bins = rng.integers(1, 5, 2), rng.integers(1, 40, 2), rng.integers(1, 15, 2)
    scale, sampling_ratio = float(rng.choice([1, 0.5, 1 / 16, 0.3])), int(rng.integers(-1, 4))
    features = normal(images, channels, height, width, seed=seed).astype(dtype)
    rois = random_rois(rng, 200, images, height, width, scale).astype(dtype)
    rois[::3, 1:] = np.round(rois[::3, 1:] * scale * 2) / 2 / scale  # corners on cells and at .5
    if aligned and sampling_ratio < 1:  # torchvision fails on reversed RoIs there
        rois[:, 1:] = np.concatenate([np.minimum(rois[:, 1:3], rois[:, 3:]), np.maximum(rois[:, 1:3], rois[:, 3:])], 1)
    upstream = rng.normal(size=(200, channels, *bins)).astype(dtype)
    settings = scale, sampling_ratio, aligned
    out, gradient = align_and_gradient(features, rois, upstream, tuple(bins), *settings)
    leaf = torch.from_numpy(features).requires_grad_()
    expected = torchvision.ops.roi_align(leaf, torch.from_numpy(rois), tuple(bins.tolist()), *settings)
    expected.backward(torch.from_numpy(upstream))
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    for a, b in ((out, expected.detach().numpy()), (gradient, leaf.grad.numpy())):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(8))
def test_the_maximum_is_one_of_torchvisions_samples(seed):
    """torchvision has no maximum: its samples, each in a bin of its own, and torch's max_pool2d over them."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 7])
    aligned, (height, width), ratio, bins = bool(seed % 2), rng.integers(2, 30, 2), int(rng.integers(1, 4)), (5, 3)
    features = normal(2, 3, height, width, seed=seed)
    rois = random_rois(rng, 100, 2, height, width, 0.3)
    upstream = rng.normal(size=(100, 3, *bins))
    out, gradient = align_and_gradient(features, rois, upstream, bins, 0.3, ratio, aligned, "max")
    leaf = torch.from_numpy(features).requires_grad_()
    samples = torchvision.ops.roi_align(leaf, torch.from_numpy(rois), (5 * ratio, 3 * ratio), 0.3, 1, aligned)
    expected = torch.nn.functional.max_pool2d(samples, ratio)
    expected.backward(torch.from_numpy(upstream))
    for a, b in ((out, expected.detach().numpy()), (gradient, leaf.grad.numpy())):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
