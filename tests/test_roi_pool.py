"""RoIPool against its definition, by hand-worked numbers, and at the places where it rounds; and the checks of
arguments that all RoI operators share."""

import functools
import threading

import numpy as np
import pytest
from roi_reference import AWKWARD_ROIS, GOLDEN, random_rois, roi_pool_reference, round_half_away

from tinymrcnn import threads
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like, to_device, to_numpy
from tinymrcnn.kernels import cpu_kernel
from tinymrcnn.roi import boxes_to_rois, ps_roi_pool, roi_align, roi_crop, roi_pool, roi_pool_unchecked, roi_warp
from tinymrcnn.roi.roi_pool import roi_pool_backward_cpu
from tinymrcnn.roi.roi_pool import round_half_away as scalar_round


def distinct(*shape, seed=0):
    """Values with equal gaps in random order: no ties, and no maximum that a small step would change."""
    size = int(np.prod(shape))
    return np.random.default_rng([seed, *shape]).permutation(np.linspace(-1, 1, size)).reshape(shape)


def pool_and_gradient(features, rois, upstream, bins, scale=1.0):
    leaf = Tensor(features, requires_grad=True)
    out = roi_pool(leaf, rois, bins, scale)
    out.backward(like(upstream, out.data).astype(out.dtype))
    return out.data, leaf.grad


@cpu_kernel
def round_all(thread, threads, values, out):
    for i in range(thread, len(values), threads):
        out[i] = scalar_round(values[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_are_rounded_away_from_zero(dtype):
    below, above = np.nextafter(dtype(0.5), dtype(0)), np.nextafter(dtype(0.5), dtype(1))
    values = np.array([0, 0.5, 1.5, 2.5, 7.49, 7.5, below, above, 4194303.5, 1e7], dtype)  # 0.5 + below is 1.0
    values = np.concatenate([values, -values, np.random.default_rng(0).normal(0, 30, 200).astype(dtype)])
    expected = [round_half_away(value) for value in values]
    assert expected[:10] == [0, 1, 2, 3, 7, 8, 0, 1, 4194304, 10**7]
    assert [scalar_round(value) for value in values] == expected
    out = np.zeros(len(values), np.int64)
    round_all(0, 1, values, out)
    assert out.tolist() == expected


def test_by_hand():
    # (0.5, 0.5, 2.5, 2.5) becomes the cells 1 to 3, whose two bins of 1.5 cells share the cell 2.
    ramp = Tensor(np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5), requires_grad=True)
    out = roi_pool(ramp, np.array([[0, 0.5, 0.5, 2.5, 2.5]]), 2)
    np.testing.assert_array_equal(out.data[0, 0], [[12, 13], [17, 18]])
    out.backward(np.array([[[[1, 2], [3, 4]]]], np.float32))
    expected = np.zeros((4, 5))
    expected[2, 2], expected[2, 3], expected[3, 2], expected[3, 3] = 1, 2, 3, 4
    np.testing.assert_array_equal(ramp.grad[0, 0], expected)


def test_the_scale_is_applied_before_rounding():
    ramp = Tensor(np.arange(20.0).reshape(1, 1, 4, 5))
    # at 1/16, 24 -> 1.5 -> 2 and 40 -> 2.5 -> 3; 23 -> 1.4375 -> 1
    np.testing.assert_array_equal(roi_pool(ramp, np.array([[0, 24, 40, 24, 40.0]]), 1, 1 / 16).data, [[[[17]]]])
    np.testing.assert_array_equal(roi_pool(ramp, np.array([[0, 23, 40, 23, 40.0]]), 1, 1 / 16).data, [[[[16]]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [(1, 1), (2, 3), (7, 7), (14, 5)])
def test_equals_the_definition(dtype, bins):
    rng = np.random.default_rng(1)
    for rois, scale in ((AWKWARD_ROIS, 0.5), (random_rois(rng, 30, 2, 7, 10, 1 / 16), 1 / 16)):
        features = distinct(2, 3, 7, 10).astype(dtype)
        rois = rois.astype(dtype)
        upstream = rng.normal(size=(len(rois), 3, *bins)).astype(dtype)
        out, gradient = pool_and_gradient(features, rois, upstream, bins, scale)
        assert out.dtype == gradient.dtype == dtype and out.shape == (len(rois), 3, *bins)
        np.testing.assert_array_equal(out, roi_pool_reference(features, rois, bins, scale))
        expected = roi_pool_reference(features, rois, bins, scale, upstream)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("images, channels", [(1, 1), (3, 16), (1, 17), (5, 52), (1, 257)])
def test_any_number_of_channels(images, channels):  # the backward kernel shares them out among threads
    features = distinct(images, channels, 3, 4)
    rois = random_rois(np.random.default_rng(2), 7, images, 3, 4, 1.0)
    upstream = np.random.default_rng(3).normal(size=(7, channels, 2, 2))
    out, gradient = pool_and_gradient(features, rois, upstream, 2)
    np.testing.assert_array_equal(out, roi_pool_reference(features, rois, (2, 2), 1.0))
    expected = roi_pool_reference(features, rois, (2, 2), 1.0, upstream)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-13)


def test_of_equal_cells_the_first_gets_the_gradient():
    _, gradient = pool_and_gradient(np.ones((1, 1, 4, 5)), np.array([[0, 1, 1, 3, 2.0]]), np.full((1, 1, 1, 1), 5.0), 1)
    assert gradient[0, 0, 1, 1] == 5 and gradient.sum() == 5


def test_a_bin_without_cells_is_zero_and_has_no_gradient():
    rois = np.array([[0, 30, 30, 40, 40], [0, -9, -9, -5, -5.0]])
    out, gradient = pool_and_gradient(distinct(1, 2, 4, 5) - 7, rois, np.ones((2, 2, 3, 3)), 3)
    assert not out.any() and not gradient.any()


def test_a_map_of_one_cell():
    out, gradient = pool_and_gradient(
        np.full((1, 1, 1, 1), -3.0), np.array([[0, 0, 0, 9, 9.0]]), np.ones((1, 1, 2, 2)), 2, 1 / 16
    )
    # round(9 / 16) is 1, so the RoI is 2 cells wide and only its first bin lies on the map
    np.testing.assert_array_equal(out, [[[[-3, 0], [0, 0]]]])
    np.testing.assert_array_equal(gradient, [[[[1]]]])


def test_a_nan_does_not_vanish_and_takes_the_gradient():
    for dtype in (np.float32, np.float64):
        features = np.arange(32, dtype=dtype).reshape(1, 2, 4, 4)
        features[0, 0, 1, 2] = np.nan
        features[0, 1] = np.nan
        out, gradient = pool_and_gradient(features, np.array([[0, 0, 0, 3, 3.0]]), np.array([[[[5]], [[7]]]]), 1)
        assert np.isnan(out).all()
        expected = np.zeros((1, 2, 4, 4))
        expected[0, 0, 1, 2], expected[0, 1, 3, 3] = 5, 7  # of several, the last, as in max_pool2d
        np.testing.assert_array_equal(gradient, expected)


def test_cells_of_minus_infinity_are_cells():
    features, rois = np.full((1, 1, 2, 3), -np.inf), np.array([[0, 0, 0, 2, 1.0]])
    out, gradient = pool_and_gradient(features, rois, np.ones((1, 1, 1, 1)), 1)
    assert out.item() == -np.inf
    np.testing.assert_array_equal(gradient, [[[[1, 0, 0], [0, 0, 0]]]])


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_number_of_threads_changes_no_bit(monkeypatch, count):
    monkeypatch.setattr(threads, "LEAST_SECONDS", 0)  # all of them, for little work too
    features, rois = distinct(2, 70, 7, 10).astype(np.float32), AWKWARD_ROIS.astype(np.float32)
    upstream, before = np.random.default_rng(4).normal(size=(len(rois), 70, 7, 7)), threads.get_num_threads()
    results = []
    try:
        for used in (1, count):
            threads.set_num_threads(used)
            results.append(pool_and_gradient(features, rois, upstream, 7, 0.5))
    finally:
        threads.set_num_threads(before)
    for alone, shared in zip(*results, strict=True):
        np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("share", [0, 1, 2])
def test_a_thread_writes_its_own_channels_only(share):
    rois, argmax = np.array([[0, 0, 0, 2, 2.0]]), np.full((1, 1, 1, 70), 2, np.int32)
    gradient = np.full((1, 9, 70), np.nan)
    roi_pool_backward_cpu(share, 3, np.ones((1, 1, 1, 70)), rois, argmax, gradient)
    own = [slice(0, 16), slice(16, 48), slice(48, 70)][share]  # 5 cache lines of 16: one, two, two
    expected = np.full((1, 9, 70), np.nan)
    expected[:, :, own], expected[:, 2, own] = 0, 1
    np.testing.assert_array_equal(gradient, expected)


def test_contract(check_contract):
    check_contract(lambda x: roi_pool_unchecked(x, like(AWKWARD_ROIS, x.data), (3, 2), 0.5), [distinct(2, 3, 7, 10)])


@pytest.mark.gradcheck
@pytest.mark.parametrize("bins", [(2, 3), (7, 7)])
def test_gradients(check_gradients, bins):
    check_gradients(
        "roi_pool",
        lambda x: roi_pool(x, like(AWKWARD_ROIS, x.data), bins, 0.5),
        lambda rng: [Tensor(rng.permuted(np.linspace(-1, 1, 420)).reshape(2, 3, 7, 10), requires_grad=True)],
    )


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, atol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cuda_kernels_agree(dtype, atol):
    features, rois = distinct(2, 33, 7, 10).astype(dtype), AWKWARD_ROIS.astype(dtype)
    upstream = np.random.default_rng(5).normal(size=(len(rois), 33, 7, 7))
    on_cpu = pool_and_gradient(features, rois, upstream, 7, 0.5)
    on_gpu = pool_and_gradient(to_device(features, "cuda"), to_device(rois, "cuda"), upstream, 7, 0.5)
    np.testing.assert_array_equal(to_numpy(on_gpu[0]), on_cpu[0])
    np.testing.assert_allclose(to_numpy(on_gpu[1]), on_cpu[1], rtol=0, atol=atol)


def test_golden_arrays_of_torchvision():
    golden = np.load(GOLDEN)
    out, gradient = pool_and_gradient(golden["features"], golden["rois"], golden["upstream"], (3, 2), 0.5)
    np.testing.assert_array_equal(out, golden["roi_pool"])
    np.testing.assert_allclose(gradient, golden["roi_pool gradient"], rtol=0, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(20))
def test_parity_with_torchvision(seed):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 6])
    dtype = [np.float32, np.float64][seed % 2]
    (images, channels), (height, width), bins = rng.integers(1, 5, 2), rng.integers(1, 40, 2), rng.integers(1, 15, 2)
    scale = float(rng.choice([1, 0.5, 1 / 16, 0.3]))
    features = distinct(images, channels, height, width, seed=seed).astype(dtype)
    rois = random_rois(rng, 200, images, height, width, scale).astype(dtype)
    rois[::3, 1:] = np.round(rois[::3, 1:] * scale * 2) / 2 / scale  # corners on cells and at .5
    upstream = rng.normal(size=(200, channels, *bins)).astype(dtype)
    out, gradient = pool_and_gradient(features, rois, upstream, tuple(bins), scale)
    leaf = torch.from_numpy(features).requires_grad_()
    expected = torchvision.ops.roi_pool(leaf, torch.from_numpy(rois), tuple(bins.tolist()), scale)
    expected.backward(torch.from_numpy(upstream))
    np.testing.assert_array_equal(out, expected.detach().numpy())
    tolerance = (1e-5 if dtype == np.float32 else 1e-13) * np.abs(leaf.grad.numpy()).max()
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=0, atol=tolerance)


# What all RoI operators share

one_group = functools.partial(ps_roi_pool, group_size=1)  # takes any number of channels
OPERATORS = pytest.mark.parametrize("operator", [roi_pool, roi_align, roi_warp, one_group, roi_crop])


@OPERATORS
def test_several_python_threads_at_once(operator):
    features, rois = distinct(2, 40, 7, 10).astype(np.float32), np.tile(AWKWARD_ROIS, (20, 1)).astype(np.float32)
    upstream = distinct(len(rois), 40, 7, 7).astype(np.float32)
    results = []

    def work():
        for _ in range(5):
            leaf = Tensor(features, requires_grad=True)
            out = operator(leaf, rois, 7, 0.5)
            out.backward(upstream)
            results.append((out.data, leaf.grad))

    work()
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 15
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@OPERATORS
@pytest.mark.parametrize("rois", [np.zeros((0, 5), np.float32), [np.zeros((0, 4))] * 2])
def test_no_rois(operator, rois):
    leaf = Tensor(np.ones((2, 3, 4, 5), np.float32), requires_grad=True)
    out = operator(leaf, rois, (2, 3))
    assert out.shape == (0, 3, 2, 3) and out.dtype == np.float32
    out.backward(np.zeros((0, 3, 2, 3), np.float32))
    np.testing.assert_array_equal(leaf.grad, np.zeros((2, 3, 4, 5)))


@OPERATORS
def test_boxes_per_image(operator):
    rng = np.random.default_rng(7)
    features = Tensor(rng.normal(size=(3, 2, 7, 10)).astype(np.float32))
    boxes = [random_rois(rng, count, 1, 7, 10, 1.0)[:, 1:] for count in (3, 0, 2)]
    rois = boxes_to_rois(boxes)
    np.testing.assert_array_equal(rois[:, 0], [0, 0, 0, 2, 2])
    np.testing.assert_array_equal(rois[:, 1:], np.concatenate(boxes))
    np.testing.assert_array_equal(operator(features, boxes, 3).data, operator(features, rois, 3).data)
    whole = [np.array([[1, 1, 4, 3]]), np.zeros((0, 4)), np.array([[0.5, 2, 4, 3]])]  # the first of integers
    expected = operator(features, np.array([[0, 1, 1, 4, 3], [2, 0.5, 2, 4, 3]]), 3)
    np.testing.assert_array_equal(operator(features, whole, 3).data, expected.data)


@OPERATORS
def test_no_images(operator):
    for rois in ([], np.zeros((0, 5))):
        assert operator(Tensor(np.zeros((0, 3, 4, 5), np.float32)), rois, 2).shape == (0, 3, 2, 2)


@OPERATORS
def test_rois_are_left_alone(operator):
    rois = AWKWARD_ROIS.copy()
    operator(Tensor(np.ones((2, 1, 7, 10))), rois, 2, 0.5)
    np.testing.assert_array_equal(rois, AWKWARD_ROIS)


@OPERATORS
def test_public_functions_off_the_host(operator, fake_device):
    features = distinct(2, 3, 7, 10)
    expected = operator(Tensor(features), AWKWARD_ROIS, 2, 0.5).data
    out = operator(Tensor(to_device(features, "fake")), to_device(AWKWARD_ROIS, "fake"), 2, 0.5).data
    assert isinstance(out, fake_device)
    np.testing.assert_array_equal(to_numpy(out), expected)


GOOD = np.array([[0, 1, 1, 3, 3], [1, 0, 0, 2, 2], [1, 1, 1, 2, 2.0]])


def changed(row, column, value):
    rois = GOOD.copy()
    rois[row, column] = value
    return rois


@OPERATORS
@pytest.mark.parametrize(
    "rois, message",
    [
        (changed(1, 3, np.nan), "RoI 1 holds a value that is not finite"),
        (changed(2, 0, np.nan), "RoI 2 holds a value that is not finite"),
        (changed(0, 4, np.inf), "RoI 0 holds a value that is not finite"),
        (changed(1, 0, 2), r"RoI 1 has a batch index outside 0\.\.1"),
        (changed(1, 0, -1), r"RoI 1 has a batch index outside 0\.\.1"),
        (changed(2, 0, 0.5), "RoI 2 has a batch index that is not an integer"),
        (changed(2, 1, -1.1e7), r"RoI 2 has a coordinate beyond 1e\+07"),
        (GOOD[:, 1:], r"shape \(R, 5\).*not \(3, 4\)"),
        (GOOD[0], r"shape \(R, 5\).*not \(5,\)"),
        (GOOD.astype(complex), "real numbers, not complex128"),
        (GOOD > 0, "real numbers, not bool"),
        ([GOOD[:, 1:]], "1 arrays of boxes for 2 images"),
        ([GOOD[:, 1:], GOOD], r"boxes of image 1 must have the shape \(R, 4\), not \(3, 5\)"),
        ([GOOD[:, 1:], changed(0, 1, np.nan)[:1, 1:]], "RoI 3 holds a value that is not finite"),
    ],
)
def test_wrong_rois(operator, rois, message):
    with pytest.raises(ValueError, match=message):
        operator(Tensor(np.zeros((2, 1, 4, 5))), rois, 2)


@OPERATORS
def test_wrong_arguments(operator, fake_device):
    features = Tensor(np.zeros((2, 1, 4, 5)))
    with pytest.raises(TypeError, match="must be a Tensor, not ndarray"):
        operator(features.data, GOOD, 2)
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        operator(Tensor(np.zeros((2, 1, 4, 5), np.int64)), GOOD, 2)
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\).*not \(4, 5\)"):
        operator(Tensor(np.zeros((4, 5))), GOOD, 2)
    with pytest.raises(ValueError, match=r"H and W above 0, not \(2, 1, 0, 5\)"):
        operator(Tensor(np.zeros((2, 1, 0, 5))), GOOD, 2)
    for size in (0, (2, 0), (1, 2, 3), 2.5, (2, 1.5), 1001, (10**9, 2)):
        with pytest.raises(ValueError, match="output size"):
            operator(features, GOOD, size)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="spatial scale must be positive"):
            operator(features, GOOD, 2, scale)
    with pytest.raises(TypeError, match="mixes a numpy array on 'cpu' with a fake array on 'fake'"):
        operator(features, to_device(GOOD, "fake"), 2)
    with pytest.raises(TypeError, match="Expected an array, got builtins.list"):
        operator(features, [[1, 1, 3, 3], [0, 0, 2, 2]], 2)
    if operator in (roi_align, roi_warp):
        for ratio in (1.5, 101, 10**12):
            with pytest.raises(ValueError, match=f"sampling ratio must be an integer, at most 100.*not {ratio}"):
                operator(features, GOOD, 2, 1.0, ratio)
        with pytest.raises(ValueError, match="RoI 1 has a side of more than 1e.05 cells"):
            operator(features, changed(1, 3, 1.1e5), 2, 1.0, 0)
        assert operator(features, changed(1, 3, 1.1e5), 2, 1.0, 1).shape == (3, 1, 2, 2)
    at_most = changed(1, 3, 1e7)
    assert operator(features, at_most, 2, 1e-3).shape[2:] == (2, 2)
    with pytest.raises(ValueError, match=r"RoI 1 has a coordinate beyond 1e\+07"):
        operator(features, at_most, 2, 1.1)  # in cells
