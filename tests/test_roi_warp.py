"""RoIWarp: RoIAlign on rounded corners, and nothing else."""

import numpy as np
import pytest
from roi_reference import AWKWARD_ROIS, roi_align_max_reference, roi_align_reference, round_half_away

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like, to_device, to_numpy
from tinymrcnn.roi import roi_align, roi_warp, roi_warp_unchecked


def rounded(rois, scale):
    """The RoIs in whole cells of the feature map."""
    cells = rois.copy()
    cells[:, 1:] = np.vectorize(round_half_away)(rois[:, 1:] * rois.dtype.type(scale))
    return cells


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("scale", [0.5, 0.25])
@pytest.mark.parametrize("reduce, reference", [("mean", roi_align_reference), ("max", roi_align_max_reference)])
def test_equals_the_definition(dtype, sampling_ratio, scale, reduce, reference):
    rng = np.random.default_rng(0)
    features, rois = rng.normal(size=(2, 3, 7, 10)).astype(dtype), AWKWARD_ROIS.astype(dtype)
    upstream = rng.normal(size=(len(rois), 3, 3, 2)).astype(dtype)
    leaf = Tensor(features, requires_grad=True)
    out = roi_warp(leaf, rois, (3, 2), scale, sampling_ratio, reduce)
    out.backward(upstream)
    assert out.dtype == leaf.grad.dtype == dtype and out.shape == (len(rois), 3, 3, 2)
    settings = rounded(rois, scale), (3, 2), 1.0, sampling_ratio, False
    rtol = 1e-13 if dtype == np.float64 else 1e-5 if reduce == "mean" else 1e-4  # see test_roi_align.py
    for result, expected in (
        (out.data, reference(features, *settings)),
        (leaf.grad, reference(features, *settings, upstream)),
    ):
        np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_halves_are_rounded_away_from_zero():
    ramp = Tensor(np.arange(10.0).reshape(1, 1, 1, 10))
    nearly = np.nextafter(0.5, 0)
    for x1, x2, low, high in [(0.5, 4.5, 1, 5), (2.5, 5.5, 3, 6), (nearly, 3.4, 0, 3), (-0.5, 2.5, -1, 3)]:
        warped = roi_warp(ramp, np.array([[0, x1, 0, x2, 1]]), (1, 2)).data
        aligned = roi_align(ramp, np.array([[0, low, 0, high, 1.0]]), (1, 2)).data
        np.testing.assert_array_equal(warped, aligned)


def test_it_is_not_roi_align():
    ramp = Tensor(np.arange(70.0).reshape(1, 1, 7, 10))
    rois = np.array([[0, 1.4, 1.4, 5.4, 5.4]])
    assert roi_align(ramp, rois, 1).data.item() == pytest.approx(3.4 + 34)
    assert roi_warp(ramp, rois, 1).data.item() == pytest.approx(3 + 30)


def test_contract(check_contract):
    features = np.random.default_rng(1).normal(size=(2, 3, 7, 10))
    check_contract(lambda x: roi_warp_unchecked(x, like(AWKWARD_ROIS, x.data), (3, 2), 0.5, 2), [features])


@pytest.mark.gradcheck
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_gradients(check_gradients, reduce):
    check_gradients(
        f"roi_warp, reduce={reduce}",
        lambda x: roi_warp(x, like(AWKWARD_ROIS, x.data), (3, 2), 0.5, reduce=reduce),
        lambda rng: [Tensor(rng.normal(size=(2, 3, 7, 10)), requires_grad=True)],
    )


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cuda_kernels_agree(dtype, rtol):
    features = np.random.default_rng(2).normal(size=(2, 33, 7, 10)).astype(dtype)
    on_cpu = roi_warp(Tensor(features), AWKWARD_ROIS, (4, 8), 0.5, 2).data
    on_gpu = roi_warp(Tensor(to_device(features, "cuda")), to_device(AWKWARD_ROIS, "cuda"), (4, 8), 0.5, 2).data
    np.testing.assert_allclose(to_numpy(on_gpu), on_cpu, rtol=0, atol=rtol * np.abs(on_cpu).max())


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(5))
def test_parity_with_torchvision_on_rounded_rois(seed):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 3])
    features = rng.normal(size=(2, 3, 20, 31)).astype(np.float32)
    corners = np.round(rng.uniform(-20, 130, (400, 4)) * 2) / 2
    rois = np.concatenate([rng.integers(0, 2, (400, 1)), corners], axis=1).astype(np.float32)
    out = roi_warp(Tensor(features), rois, 5, 0.25).data
    expected = torchvision.ops.roi_align(torch.from_numpy(features), torch.from_numpy(rounded(rois, 0.25)), 5)
    np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=1e-5)
