"""PSRoIPool against its definition, by hand-worked numbers, and against torchvision."""

import numpy as np
import pytest
from roi_reference import AWKWARD_ROIS, GOLDEN, ps_roi_pool_reference, random_rois

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like, to_device, to_numpy
from tinymrcnn.roi import ps_roi_pool, ps_roi_pool_unchecked
from tinymrcnn.roi.ps_roi_pool import group_of, roi_bins
from tinymrcnn.threads import get_num_threads, set_num_threads


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def pool_and_gradient(features, rois, upstream, bins, scale=1.0, groups=None):
    leaf = Tensor(features, requires_grad=True)
    out = ps_roi_pool(leaf, rois, bins, scale, groups)
    out.backward(like(upstream, out.data).astype(out.dtype))
    return out.data, leaf.grad


def test_by_hand():
    # The RoI (1, 0, 4, 2) covers the cells 1 to 3 of the rows 0 and 1; its two bins of 1.5 columns share the cell 2.
    ramp = np.arange(20.0).reshape(4, 5)
    features = np.stack([ramp + 100 * channel for channel in range(4)])[None]  # one class, 1 x 2 groups, then another
    out, gradient = pool_and_gradient(features, np.array([[0, 1, 0, 4, 2.0]]), np.ones((1, 2, 1, 2)), (1, 2))
    np.testing.assert_array_equal(out[0, :, 0], [[4, 105], [204, 305]])  # of 1 2 6 7, and of 2 3 7 8
    expected = np.zeros((4, 4, 5))
    expected[::2, :2, 1:3] = expected[1::2, :2, 2:4] = 0.25
    np.testing.assert_array_equal(gradient[0], expected)


def test_every_bin_reads_the_channel_of_its_place():
    constant = np.arange(2 * 2 * 3.0).reshape(1, 12, 1, 1) * np.ones((9, 9))
    out = ps_roi_pool(Tensor(constant), np.array([[0, 0, 0, 6, 4.0]]), (4, 6), group_size=(2, 3)).data
    places = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]])
    np.testing.assert_array_equal(out[0], [places, places + 6])
    assert [group_of(p, 21, 7) for p in (0, 2, 3, 20)] == [0, 0, 1, 6]
    assert [group_of(p, 5, 3) for p in range(5)] == [0, 0, 1, 1, 2]  # floor of 0, 0.6, 1.2, 1.8, 2.4
    assert [group_of(p, 2, 5) for p in range(2)] == [0, 2]


def test_the_last_cell_counts_as_outside():
    assert roi_bins(4.0, 16.0, 0.5, 3) == (2, 2.0)
    assert roi_bins(5.0, 5.0, 0.5, 2) == (3, 0.5)  # half a cell is rounded up, and no width becomes one cell
    assert roi_bins(9.0, 2.0, 0.5, 1) == (5, 1.0)


def test_the_last_row_and_column_of_the_map_are_never_read():
    ones = np.ones((1, 1, 4, 5))
    for roi, expected in [([3, 2, 5, 4], 1), ([4, 0, 5, 4], 0), ([0, 3, 5, 4], 0), ([3, 2, 4, 3], 1)]:
        out, gradient = pool_and_gradient(ones, np.array([[0.0, *roi]]), ones[:, :, :1, :1], 1)
        assert out.item() == gradient.sum() == expected
        assert not gradient[..., -1, :].any() and not gradient[..., -1].any()
    out, gradient = pool_and_gradient(ones[..., :1, :], np.array([[0, 0, 0, 5, 1.0]]), ones[:, :, :1, :1], 1)
    assert out.item() == 0 and not gradient.any()  # a map of one row has only a last one
    larger = np.pad(ones, [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=np.nan)
    assert (ps_roi_pool(Tensor(larger), np.array([[0, 0, 0, 5, 4.0]]), (4, 5), group_size=1).data == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins, groups", [((1, 1), (1, 1)), ((2, 3), (2, 3)), ((6, 3), (2, 3)), ((7, 5), (3, 2))])
def test_equals_the_definition(dtype, bins, groups):
    rng = np.random.default_rng(1)
    features = normal(2, 3 * groups[0] * groups[1], 7, 10).astype(dtype)
    for rois, scale in ((AWKWARD_ROIS, 0.5), (random_rois(rng, 30, 2, 7, 10, 1 / 16), 1 / 16)):
        rois = rois.astype(dtype)
        upstream = rng.normal(size=(len(rois), 3, *bins)).astype(dtype)
        out, gradient = pool_and_gradient(features, rois, upstream, bins, scale, groups)
        assert out.dtype == gradient.dtype == dtype and out.shape == (len(rois), 3, *bins)
        rtol = 1e-5 if dtype == np.float32 else 1e-13
        for result, expected in (
            (out, ps_roi_pool_reference(features, rois, bins, groups, scale)),
            (gradient, ps_roi_pool_reference(features, rois, bins, groups, scale, upstream)),
        ):
            np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (3, 8, 1, 5), (1, 68, 6, 2), (2, 256, 3, 4)])
def test_any_shape(shape):
    rois = random_rois(np.random.default_rng(2), 9, shape[0], *shape[2:], 1.0)
    features, upstream = normal(*shape), normal(9, shape[1] // 4, 4, 6)
    out, gradient = pool_and_gradient(features, rois, upstream, (4, 6), 1.0, 2)
    np.testing.assert_allclose(out, ps_roi_pool_reference(features, rois, (4, 6), (2, 2), 1.0), atol=1e-13)
    expected = ps_roi_pool_reference(features, rois, (4, 6), (2, 2), 1.0, upstream)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_a_bin_without_cells_is_zero_and_has_no_gradient():
    rois = np.array([[0, 30, 30, 40, 40], [0, -9, -9, -5, -5.0]])
    out, gradient = pool_and_gradient(normal(1, 9, 4, 5) - 7, rois, np.ones((2, 1, 3, 3)), 3)
    assert not out.any() and not gradient.any()


@pytest.mark.parametrize("channels, size", [(12, (2, 5)), (0, (3, 3))])
def test_groups_that_do_not_fit(channels, size):
    features, rois = Tensor(np.zeros((1, channels, 4, 5))), np.array([[0, 1, 1, 3, 3.0]])
    if channels:
        with pytest.raises(ValueError, match="12 channels cannot be divided among 2 x 5 groups"):
            ps_roi_pool(features, rois, size)
        for groups in (0, -1, 1.5, 1001, (2, 0), (1, 2, 2)):
            with pytest.raises(ValueError, match="group size must be an integer from 1 to 1000 or two"):
                ps_roi_pool(features, rois, size, group_size=groups)
    else:
        assert ps_roi_pool(features, rois, size).shape == (1, 0, 3, 3)


def test_results_do_not_depend_on_the_number_of_threads():
    features, rois = normal(2, 180, 7, 10).astype(np.float32), np.tile(AWKWARD_ROIS, (8, 1)).astype(np.float32)
    upstream = normal(len(rois), 20, 12, 12)
    threads = get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            set_num_threads(count)
            results.append(pool_and_gradient(features, rois, upstream, 12, 0.5, 3))
    finally:
        set_num_threads(threads)
    for result in results[1:]:
        np.testing.assert_array_equal(result[0], results[0][0])
        np.testing.assert_array_equal(result[1], results[0][1])


@pytest.mark.parametrize("split", [1, 2, 3])
def test_split_cells_are_those_of_an_enlarged_map(split):
    features, upstream = normal(2, 12, 7, 10), normal(len(AWKWARD_ROIS), 2, 4, 6)
    large = features.repeat(split, axis=2).repeat(split, axis=3)
    settings = (4, 6), 0.5 * split, (2, 3)
    expected, gradient = pool_and_gradient(large, AWKWARD_ROIS, upstream, *settings)
    leaf = Tensor(features, requires_grad=True)
    out = ps_roi_pool_unchecked(leaf, AWKWARD_ROIS, *settings, split)
    out.backward(upstream)
    np.testing.assert_allclose(out.data, expected, rtol=1e-13, atol=1e-14)
    parts = gradient.reshape(2, 12, 7, split, 10, split).sum((3, 5))
    np.testing.assert_allclose(leaf.grad, parts, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("split", [1, 3])
def test_contract(check_contract, split):
    def pool(x):
        return ps_roi_pool_unchecked(x, like(AWKWARD_ROIS, x.data), (4, 3), 0.5, (2, 3), split)

    check_contract(pool, [normal(2, 12, 7, 10)])


@pytest.mark.gradcheck
@pytest.mark.parametrize("bins, groups", [((2, 3), None), ((7, 5), (3, 2))])
def test_gradients(check_gradients, bins, groups):
    check_gradients(
        "ps_roi_pool",
        lambda x: ps_roi_pool(x, like(AWKWARD_ROIS, x.data), bins, 0.5, groups),
        lambda rng: [Tensor(rng.normal(size=(2, 12, 7, 10)), requires_grad=True)],
    )


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cuda_kernels_agree(dtype, rtol):
    features, rois = normal(2, 66, 7, 10).astype(dtype), AWKWARD_ROIS.astype(dtype)
    upstream = normal(len(rois), 11, 8, 9)
    settings = (8, 9), 0.5, (2, 3)
    on_cpu = pool_and_gradient(features, rois, upstream, *settings)
    on_gpu = pool_and_gradient(to_device(features, "cuda"), to_device(rois, "cuda"), upstream, *settings)
    for a, b in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(to_numpy(a), b, rtol=0, atol=rtol * np.abs(b).max())


def test_golden_arrays_of_torchvision():
    golden = np.load(GOLDEN)
    upstream = golden["upstream"][:, :2]
    out, gradient = pool_and_gradient(golden["grouped features"], golden["rois"], upstream, (3, 2), 0.5)
    np.testing.assert_array_equal(out, golden["ps_roi_pool"])
    # the last row and column are never read: torchvision's gradient is that of a map without them
    np.testing.assert_allclose(gradient[..., :-1, :-1], golden["ps_roi_pool gradient"], rtol=0, atol=1e-6)
    assert not gradient[..., -1, :].any() and not gradient[..., -1].any()


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(20))
def test_parity_with_torchvision(seed):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 6])
    dtype = [np.float32, np.float64][seed % 2]
    (images, channels), (height, width), bins = rng.integers(1, 5, 2), rng.integers(2, 40, 2), rng.integers(1, 8, 2)
    scale, bins = float(rng.choice([1, 0.5, 1 / 16, 0.3])), tuple(bins.tolist())
    features = normal(images, channels * bins[0] * bins[1], height, width, seed=seed).astype(dtype)
    rois = random_rois(rng, 200, images, height, width, scale).astype(dtype)
    rois[::3, 1:] = np.round(rois[::3, 1:] * scale * 2) / 2 / scale  # corners on cells and at .5
    upstream = rng.normal(size=(200, channels, *bins)).astype(dtype)
    out, gradient = pool_and_gradient(features, rois, upstream, bins, scale)
    expected = torchvision.ops.ps_roi_pool(torch.from_numpy(features), torch.from_numpy(rois), bins, scale)
    np.testing.assert_array_equal(out, expected.numpy())

    # torchvision's gradient spreads to the last row and column too, which its forward does not read. On a map without
    # them it is the derivative of the forward on the whole map.
    leaf = torch.from_numpy(features[..., :-1, :-1].copy()).requires_grad_()
    torchvision.ops.ps_roi_pool(leaf, torch.from_numpy(rois), bins, scale).backward(torch.from_numpy(upstream))
    assert not gradient[..., -1, :].any() and not gradient[..., -1].any()
    tolerance = (1e-5 if dtype == np.float32 else 1e-13) * np.abs(leaf.grad.numpy()).max()
    np.testing.assert_allclose(gradient[..., :-1, :-1], leaf.grad.numpy(), rtol=0, atol=tolerance)
