"""The crop with gradients to its corners against its definition, by known values, and on ramps."""

import weakref

import numpy as np
import pytest
from roi_reference import AWKWARD_ROIS, crop_positions, random_rois, roi_crop_reference

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import like, to_device, to_numpy
from tinymrcnn.roi import boxes_to_rois, roi_align, roi_crop, roi_crop_unchecked
from tinymrcnn.roi.roi_crop import roi_crop_slopes_cpu, sample_position, taps
from tinymrcnn.threads import get_num_threads, set_num_threads


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def crop_and_gradients(features, rois, upstream, bins, scale=1.0):
    leaves = Tensor(features, requires_grad=True), Tensor(rois, requires_grad=True)
    out = roi_crop(*leaves, bins, scale)
    out.backward(like(upstream, out.data).astype(out.dtype))
    return out.data, leaves[0].grad, leaves[1].grad


def off_the_kinks(rois, bins, scale, gap=1e-3):
    """The RoIs none of whose samples lies within `gap` of the centre of a cell, where the derivative jumps."""
    bins = np.broadcast_to(bins, 2)
    far = [
        all(
            (np.abs(positions - np.round(positions)) > gap).all()
            for positions in (crop_positions(x1, x2, scale, bins[1]), crop_positions(y1, y2, scale, bins[0]))
        )
        for _, x1, y1, x2, y2 in rois
    ]
    return rois[far]


def smooth_rois(bins, scale=0.5, count=40, seed=1):
    """RoIs of all kinds around a map of 7 x 10 cells, off the kinks."""
    rng = np.random.default_rng(seed)
    shifted = AWKWARD_ROIS + np.concatenate([np.zeros((18, 1)), rng.uniform(-0.3, 0.3, (18, 4))], 1)
    rois = off_the_kinks(np.concatenate([shifted, random_rois(rng, count, 2, 7, 10, scale)]), bins, scale)
    assert len(rois) > count // 2
    return rois


def test_known_values():
    # the RoI (1, 1, 3, 3) covers the cells 1 and 2, centred at 1.5 and 2.5: 2 x 2 bins read them as they are
    ramp = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)
    rois = np.array([[0, 1, 1, 3, 3]], np.float32)
    np.testing.assert_array_equal(roi_crop(Tensor(ramp), rois, 2).data[0, 0], [[6, 7], [11, 12]])
    np.testing.assert_array_equal(roi_crop(Tensor(ramp), rois, 1).data, [[[[9]]]])  # between the four
    np.testing.assert_array_equal(roi_crop(Tensor(ramp), rois * [1, 2, 2, 2, 2], (1, 2), 0.5).data[0, 0], [[8.5, 9.5]])


def test_gradients_of_the_corners_by_hand():
    # one bin at the middle of the RoI, on the ramp 5 y + x: half of each slope goes to either corner
    ramp = np.arange(20.0).reshape(1, 1, 4, 5)
    _, gradient, corners = crop_and_gradients(ramp, np.array([[0, 1, 1, 3.5, 2.5]]), np.full((1, 1, 1, 1), 2.0), 1)
    np.testing.assert_array_equal(corners, [[0, 1, 5, 1, 5]])
    expected = np.zeros((4, 5))  # the sample lies at y = 1.25, x = 1.75
    expected[1:3, 1:3] = 2 * np.outer([0.75, 0.25], [0.25, 0.75])
    np.testing.assert_array_equal(gradient[0, 0], expected)
    # two bins along x, of which only the first gets a gradient: 3/4 of its slope to x1, in pixels of half a cell
    upstream = np.array([[[[1.0, 0.0]]]])
    _, _, corners = crop_and_gradients(ramp, np.array([[0, 2, 2, 7, 5.0]]), upstream, (1, 2), 0.5)
    np.testing.assert_array_equal(corners, [[0, 0.375, 1.25, 0.125, 1.25]])


def test_beyond_the_border_the_border_cell_counts_and_the_corners_feel_nothing():
    column = np.array([5.0, 7.0]).reshape(1, 1, 2, 1)
    for y, value, slope in [(-9, 5, 0), (0.4, 5, 0), (0.75, 5.5, 2), (1.25, 6.5, 2), (1.6, 7, 0), (9, 7, 0)]:
        rois = np.array([[0, -0.5, y - 0.5, 0.5, y + 0.5]])
        out, gradient, corners = crop_and_gradients(column, rois, np.ones((1, 1, 1, 1)), 1)
        assert out.item() == pytest.approx(value) and gradient.sum() == pytest.approx(1), y
        np.testing.assert_allclose(corners, [[0, 0, slope / 2, 0, slope / 2]], err_msg=str(y))


@pytest.mark.parametrize("bins", [1, (2, 3), 7])
def test_inside_the_map_it_is_roi_align_with_one_sample(bins):
    rng = np.random.default_rng(3)
    low, high = rng.uniform(2, 8, (20, 2)), rng.uniform(9, 12, (20, 2))
    rois = np.concatenate([np.zeros((20, 1)), low, high], 1)
    features = Tensor(normal(1, 3, 7, 8))
    aligned = roi_align(features, rois, bins, 0.5, 1, True).data
    np.testing.assert_allclose(roi_crop(features, rois, bins, 0.5).data, aligned, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [(1, 1), (2, 3), (14, 5)])
def test_equals_the_definition(dtype, bins):
    rois, features = smooth_rois(bins).astype(dtype), normal(2, 3, 7, 10).astype(dtype)
    upstream = normal(len(rois), 3, *bins).astype(dtype)
    results = crop_and_gradients(features, rois, upstream, bins, 0.5)
    expected = roi_crop_reference(features, rois, bins, 0.5), *roi_crop_reference(features, rois, bins, 0.5, upstream)
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == dtype and result.shape == value.shape
        rtol = 1e-5 if dtype == np.float32 else 1e-13
        np.testing.assert_allclose(result, value, rtol=0, atol=rtol * np.abs(value).max())
    awkward = AWKWARD_ROIS.astype(dtype)  # the values have no jumps where the samples lie on cells
    expected = roi_crop_reference(features, awkward, bins, 0.5)
    np.testing.assert_allclose(roi_crop(Tensor(features), awkward, bins, 0.5).data, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 1, 5), (1, 17, 6, 1), (2, 64, 3, 4)])
def test_any_shape(shape):
    rois = off_the_kinks(random_rois(np.random.default_rng(2), 12, shape[0], *shape[2:], 1.0), (2, 3), 1.0)
    features, upstream = normal(*shape), normal(len(rois), shape[1], 2, 3)
    results = crop_and_gradients(features, rois, upstream, (2, 3))
    expected = roi_crop_reference(features, rois, (2, 3), 1), *roi_crop_reference(features, rois, (2, 3), 1, upstream)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, atol=1e-12)


def test_the_arithmetic_in_plain_python():
    assert [sample_position(4.0, 16.0, 0.25, p, 2) for p in range(2)] == [1.25, 2.75]
    assert sample_position(16.0, 4.0, 0.25, 0, 2) == 2.75  # reversed: from the other side
    assert taps(2.75, 5) == (2, 0.25, 3, 0.75)
    assert taps(-0.5, 5) == taps(0.0, 5) == (0, 1.0, 0, 0.0)
    assert taps(4.0, 5) == taps(1e30, 5) == (4, 1.0, 4, 0.0)
    assert taps(0.0, 1) == (0, 1.0, 0, 0.0)


def test_boxes_per_image_as_tensors_get_their_gradients():
    features, rois = normal(2, 3, 7, 10), smooth_rois(3)
    rois = rois[np.argsort(rois[:, 0], kind="stable")]
    upstream = normal(len(rois), 3, 3, 3)
    out, gradient, corners = crop_and_gradients(features, rois, upstream, 3, 0.5)
    boxes = [Tensor(rois[rois[:, 0] == image, 1:], requires_grad=True) for image in range(2)]
    leaf = Tensor(features, requires_grad=True)
    of_boxes = roi_crop(leaf, boxes, 3, 0.5)
    of_boxes.backward(upstream)
    np.testing.assert_array_equal(of_boxes.data, out)
    np.testing.assert_array_equal(leaf.grad, gradient)
    np.testing.assert_array_equal(np.concatenate([part.grad for part in boxes]), corners[:, 1:])
    # an array among them gets none
    mixed = roi_crop(leaf, [boxes[0], boxes[1].data.astype(np.float32).astype(np.float64)], 3, 0.5)
    np.testing.assert_allclose(mixed.data, out, rtol=0, atol=1e-5)


def test_without_tensors_the_rois_are_data():
    leaf = Tensor(normal(2, 3, 7, 10), requires_grad=True)
    rois = AWKWARD_ROIS.astype(np.float32)
    assert roi_crop(leaf, rois, 2, 0.5).node.parents[1] is None
    assert not roi_crop(Tensor(leaf.data), rois, 2, 0.5).requires_grad
    whole = [np.array([[1, 1, 4, 3]]), np.zeros((0, 4))]  # integers are converted
    np.testing.assert_array_equal(
        roi_crop(leaf, whole, 2).data, roi_crop(leaf, boxes_to_rois([whole[0].astype(np.float64), whole[1]]), 2).data
    )


def test_rois_of_another_dtype():
    features = Tensor(np.zeros((1, 2, 4, 5), np.float32))
    with pytest.raises(TypeError, match="The RoIs are float64 and the features float32"):
        roi_crop(features, Tensor(np.array([[0, 1, 1, 3, 3.0]]), requires_grad=True), 2)
    with pytest.raises(TypeError, match="The RoIs are float64 and the features float32"):
        roi_crop(features, [Tensor(np.array([[1, 1, 3, 3.0]]))], 2)
    with pytest.raises(ValueError, match="RoI 0 has a batch index outside 0..0"):
        roi_crop(features, Tensor(np.array([[1, 1, 1, 3, 3.0]], np.float32)), 2)


def test_no_rois_get_no_gradient():
    out, gradient, corners = crop_and_gradients(np.ones((2, 3, 4, 5)), np.zeros((0, 5)), np.zeros((0, 3, 2, 3)), (2, 3))
    assert out.shape == (0, 3, 2, 3) and corners.shape == (0, 5)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3, 4, 5)))


def test_a_constant_map_moves_no_corner():
    _, _, corners = crop_and_gradients(
        np.ones((2, 3, 7, 10)), smooth_rois(7), normal(len(smooth_rois(7)), 3, 7, 7), 7, 0.5
    )
    np.testing.assert_allclose(corners, 0, atol=1e-12)


def test_results_do_not_depend_on_the_number_of_threads():
    features, rois = normal(2, 40, 7, 10).astype(np.float32), np.tile(AWKWARD_ROIS, (8, 1)).astype(np.float32)
    upstream = normal(len(rois), 40, 7, 7)
    threads = get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            set_num_threads(count)
            results.append(crop_and_gradients(features, rois, upstream, 7, 0.5))
    finally:
        set_num_threads(threads)
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_threads_fill_all_slopes():
    """In memory that holds anything: slopes left over of an earlier call would hide a row that no thread fills."""
    features, grad, results = normal(2, 7, 10, 3), normal(len(AWKWARD_ROIS), 3, 2, 3), []
    for count in (1, 2, 5):
        slopes = np.full((len(AWKWARD_ROIS), 3, 2, 2), np.nan)
        for thread in range(count):
            roi_crop_slopes_cpu(thread, count, grad, features, AWKWARD_ROIS, 0.5, slopes)
        results.append(slopes)
    assert np.isfinite(results[0]).all() and results[0].any()
    for slopes in results[1:]:
        np.testing.assert_array_equal(slopes, results[0])


def test_contract(check_contract):
    check_contract(lambda x, rois: roi_crop_unchecked(x, rois, (3, 2), 0.5), [normal(2, 3, 7, 10), smooth_rois((3, 2))])


@pytest.mark.gradcheck
@pytest.mark.parametrize("bins", [(3, 2), (7, 7)])
def test_gradients(check_gradients, bins):
    def crop(x, corners, image):
        rois = [corners[to_numpy(image) == i] for i in range(2)]
        return roi_crop(x, rois, bins, 0.5)

    def inputs(rng):
        rois = smooth_rois(bins, seed=int(rng.integers(1000)))
        rois = rois[np.argsort(rois[:, 0], kind="stable")]
        features = Tensor(rng.normal(size=(2, 3, 7, 10)), requires_grad=True)
        return [features, Tensor(rois[:, 1:], requires_grad=True), rois[:, 0]]

    check_gradients("roi_crop", crop, inputs)


def test_gradients_without_a_graph_are_not_prepared():
    with no_grad():
        out = roi_crop(Tensor(normal(2, 3, 7, 10), requires_grad=True), Tensor(AWKWARD_ROIS), 2, 0.5)
    assert out.node is None


@pytest.mark.parametrize("moving", [False, True])
def test_the_map_is_kept_only_for_the_gradient_of_the_corners(moving):
    x, rois = Tensor(normal(2, 3, 7, 10), requires_grad=True), Tensor(AWKWARD_ROIS, requires_grad=moving)
    activation = x + 1
    # lying in memory as feature maps do, so that no copy of it is made
    memory = np.ascontiguousarray(activation.data.transpose(0, 2, 3, 1))
    activation.data, seen = memory.transpose(0, 3, 1, 2), weakref.ref(memory)
    out = roi_crop_unchecked(activation, rois, 2, 0.5)
    del activation, memory
    assert (seen() is not None) == moving
    out.sum().backward()
    assert x.grad is not None and (rois.grad is not None) == moving


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cuda_kernels_agree(dtype, rtol):
    features, rois = normal(2, 33, 7, 10).astype(dtype), smooth_rois((4, 8)).astype(dtype)
    upstream = normal(len(rois), 33, 4, 8)
    on_cpu = crop_and_gradients(features, rois, upstream, (4, 8), 0.5)
    on_gpu = crop_and_gradients(to_device(features, "cuda"), to_device(rois, "cuda"), upstream, (4, 8), 0.5)
    for a, b in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(to_numpy(a), b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(10))
def test_parity_with_grid_sample(seed):
    """torch.nn.functional.grid_sample with padding_mode="border" on the grid of affine_grid: both half-pixel."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng([seed, 6])
    (height, width), bins, channels = rng.integers(2, 20, 2), rng.integers(1, 9, 2), int(rng.integers(1, 5))
    size = np.array([width, height])
    features = normal(2, channels, height, width, seed=seed)
    rois = off_the_kinks(random_rois(rng, 60, 2, height, width, 0.25), bins, 0.25)
    upstream = rng.normal(size=(len(rois), channels, *bins))
    results = crop_and_gradients(features, rois, upstream, tuple(bins), 0.25)
    x, corners = torch.from_numpy(features).requires_grad_(), torch.from_numpy(rois).requires_grad_()
    low, high = corners[:, 1:3] * 0.25 / torch.from_numpy(size), corners[:, 3:] * 0.25 / torch.from_numpy(size)
    theta = torch.zeros(len(rois), 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 1, 1] = (high - low).T  # the RoI in coordinates from -1 to 1
    theta[:, :, 2] = low + high - 1
    grid = torch.nn.functional.affine_grid(theta, [len(rois), channels, *bins.tolist()], align_corners=False)
    images = x[corners[:, 0].detach().long()]
    out = torch.nn.functional.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    out.backward(torch.from_numpy(upstream))
    for a, b in zip(results, (out.detach(), x.grad, corners.grad), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-11 * max(1, np.abs(b.numpy()).max()))
