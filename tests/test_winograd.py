"""Winograd's convolutions against the definition in float64, and where they are used."""

import itertools

import numpy as np
import pytest
from operator_contract import is_channels_last

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.data import ShapesDataset
from tinymrcnn.files import SHIPPED_MODEL
from tinymrcnn.ops import conv2d, winograd
from tinymrcnn.ops.convolution import correlate, correlate_input_grad, correlate_weight_grad
from tinymrcnn.ops.im2col import Window
from tinymrcnn.weights import load_model

CHECKPOINT = SHIPPED_MODEL

RTOL = 5e-5  # of the largest value


def plain_correlate(image, filters, padding):
    """The definition, tap by tap: (N, H, W, C) and (O, C, 3, 3) to (N, out_h, out_w, O), in float64."""
    padded = np.pad(image.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    return sum(
        padded[:, u : u + height, v : v + width] @ filters[:, :, u, v].T.astype(np.float64)
        for u, v in itertools.product(range(3), range(3))
    )


def plain_weight_grad(grad, image, padding):
    padded = np.pad(image.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = grad.shape[1:3]
    taps = [
        np.einsum("nhwo,nhwc->oc", grad.astype(np.float64), padded[:, u : u + height, v : v + width])
        for u, v in itertools.product(range(3), range(3))
    ]
    return np.stack(taps, axis=-1).reshape(grad.shape[3], image.shape[3], 3, 3)


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def filters_of(out, channels):
    """Filters in memory as the layers keep them."""
    return np.ascontiguousarray(normal(out, channels, 3, 3).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def assert_close(a, b):
    assert a.dtype == np.float32 and a.shape == b.shape
    assert np.abs(a - b).max(initial=0) <= RTOL * np.abs(b).max(initial=1e-30)


SIZES = [(4, 4), (8, 12), (5, 7), (6, 9), (7, 5), (1, 1), (1, 6), (9, 1), (2, 3), (3, 2), (13, 30), (32, 18)]
CASES = [
    *((1, h, w, 2, 3, 1) for h, w in SIZES),
    *((2, h, w, 3, 2, padding) for h, w in SIZES for padding in (0, 2) if min(h, w) + 2 * padding >= 3),
    *((3, 5, 6, channels, filters, 1) for channels, filters in ((1, 1), (1, 5), (7, 1), (16, 16), (17, 33), (64, 20))),
    (4, 14, 14, 64, 64, 1),
    (2, 24, 40, 32, 48, 1),
    (0, 5, 6, 3, 4, 1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case)))
def test_against_the_definition(case):
    n, h, w, channels, out_channels, padding = case
    image, filters = normal(n, h, w, channels), filters_of(out_channels, channels)
    expected = plain_correlate(image, filters, padding)
    out = winograd.correlate(image, filters, padding)
    assert_close(out, expected)
    assert out.flags.c_contiguous
    grad = normal(*expected.shape)
    gradient = winograd.correlate_weight_grad(grad, image, padding)
    assert_close(gradient, plain_weight_grad(grad, image, padding))
    assert is_channels_last(gradient)


@pytest.mark.parametrize("case", [(2, 9, 14, 3, 5, 1), (3, 7, 10, 4, 2, 0), (1, 30, 41, 6, 6, 2)])
@pytest.mark.parametrize("tiles", [1, 7, 5000])
def test_piece_by_piece(monkeypatch, case, tiles):
    """The result does not depend on how many rows of tiles are done at a time."""
    for limit in ("TILES", "PIECE", "GRAD_TILES"):
        monkeypatch.setattr(winograd, limit, tiles)
    test_against_the_definition(case)


def test_results_do_not_share_memory():
    """The work space is used again, results are not."""
    image, filters = normal(2, 9, 14, 16), filters_of(16, 16)
    first = winograd.correlate(image, filters, 1)
    kept = first.copy()
    gradient = winograd.correlate_weight_grad(first, image, 1)
    kept_gradient = gradient.copy()
    winograd.correlate(normal(2, 30, 30, 20), filters_of(18, 20), 1)
    winograd.correlate_weight_grad(normal(1, 9, 14, 16), normal(1, 9, 14, 16), 1)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(gradient, kept_gradient)


def test_inputs_are_not_changed():
    arrays = normal(2, 9, 14, 16), filters_of(18, 16), normal(2, 9, 14, 18)
    kept = [array.copy() for array in arrays]
    winograd.correlate(arrays[0], arrays[1], 1)
    winograd.correlate_weight_grad(arrays[2], arrays[0], 1)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_large_values_and_constants():
    """The error is relative to the largest value, and images far from 0 lose no more."""
    image, filters = normal(1, 12, 20, 16) + 100, filters_of(16, 16)
    assert_close(winograd.correlate(image, filters, 1), plain_correlate(image, filters, 1))
    assert_close(winograd.correlate(image * 1e6, filters, 1), plain_correlate(image * 1e6, filters, 1))
    np.testing.assert_array_equal(winograd.correlate(np.zeros_like(image), filters, 1), 0)


def test_what_is_not_finite_shows():
    image = normal(1, 12, 20, 16)
    image[0, 5, 7, 3] = np.nan
    out = winograd.correlate(image, filters_of(16, 16), 1)
    assert np.isnan(out[0, 4:7, 6:9]).all()


# Where it is used


@pytest.fixture
def used(monkeypatch):
    """The names of winograd's functions that were called."""
    calls = []

    def watch(name, function):
        def watched(*args):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(winograd, name, watched)

    watch("correlate", winograd.correlate)
    watch("correlate_weight_grad", winograd.correlate_weight_grad)
    return calls


def convolve(x, weight, dtype=np.float32, **keywords):
    """conv2d forward and backward: (output, gradients of image, filters and bias)."""
    bias = normal(len(weight)).astype(dtype)
    leaves = [Tensor(array.astype(dtype), requires_grad=True) for array in (x, weight, bias)]
    out = conv2d(*leaves, **keywords)
    out.backward(normal(*out.shape).astype(dtype))
    return out.data, *(leaf.grad for leaf in leaves)


def test_conv2d_uses_it_forward_and_backward(used):
    x, weight = normal(2, 16, 12, 18), normal(20, 16, 3, 3)
    found = convolve(x, weight, padding=1)
    assert used == ["correlate", "correlate", "correlate_weight_grad"]
    assert all(is_channels_last(array) for array in found)
    expected = convolve(x, weight, np.float64, padding=1)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(20, 31), (18, 17), (33, 16)])
def test_both_ways_agree(monkeypatch, used, padding, size):
    x, weight = normal(2, 17, *size), normal(19, 17, 3, 3)
    found = convolve(x, weight, padding=padding)
    assert len(used) == 3
    monkeypatch.setattr(winograd, "enabled", False)
    plain = convolve(x, weight, padding=padding)
    assert len(used) == 3
    assert not np.array_equal(found[0], plain[0])  # they are two ways
    exact = convolve(x, weight, np.float64, padding=padding)
    for a, b, c in zip(found, plain, exact, strict=True):
        assert is_channels_last(a) and is_channels_last(b)
        assert_close(a, c)
        assert np.abs(b - c).max() <= 2e-6 * np.abs(c).max()


def test_never_in_float64(used):
    x, weight = normal(2, 32, 20, 30), normal(32, 32, 3, 3)
    convolve(x, weight, np.float64, padding=1)
    assert used == []
    assert not winograd.fits(normal(2, 20, 30, 32).astype(np.float64), 32, Window((3, 3), padding=1))


def test_never_off_the_host(fake_device, used):
    image, filters = normal(2, 20, 30, 32), filters_of(32, 32)
    out = correlate(to_device(image, "fake"), to_device(filters, "fake"), Window((3, 3), padding=1))
    assert used == []
    assert_close(to_numpy(out), plain_correlate(image, filters, 1))


@pytest.mark.parametrize(
    ("image", "filters", "stride", "padding", "dilation", "expected"),
    [
        ((1, 16, 16, 16), (16, 16, 3, 3), 1, 1, 1, True),
        ((1, 16, 16, 16), (16, 16, 3, 3), 2, 1, 1, False),
        ((1, 16, 16, 16), (16, 16, 3, 3), 1, 2, 2, False),
        ((1, 16, 16, 16), (16, 16, 3, 3), 1, 3, 1, False),
        ((1, 16, 16, 16), (16, 16, 1, 1), 1, 0, 1, False),
        ((1, 16, 16, 16), (16, 16, 7, 7), 1, 1, 1, False),
        ((1, 16, 16, 15), (16, 15, 3, 3), 1, 1, 1, False),
        ((1, 16, 16, 16), (15, 16, 3, 3), 1, 1, 1, False),
        ((1, 15, 17, 16), (16, 16, 3, 3), 1, 1, 1, False),
        ((2, 15, 17, 16), (16, 16, 3, 3), 1, 1, 1, True),
        ((0, 16, 16, 16), (16, 16, 3, 3), 1, 1, 1, False),
    ],
)
def test_where_it_fits(monkeypatch, image, filters, stride, padding, dilation, expected):
    image, window = np.zeros(image, np.float32), Window(filters[2:], stride, padding, dilation)
    assert winograd.fits(image, filters[0], window) is expected
    monkeypatch.setattr(winograd, "enabled", False)
    assert not winograd.fits(image, filters[0], window)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_input_s_gradient_is_the_transpose_of_the_convolution(padding):
    """<correlate(x), g> = <x, correlate_input_grad(g)>, and the same for the filters."""
    image, filters = normal(2, 20, 22, 16), filters_of(18, 16)
    window = Window((3, 3), padding=padding)
    out = correlate(image, filters, window)
    grad = normal(*out.shape)
    forward = (out.astype(np.float64) * grad).sum()
    scale = np.linalg.norm(out) * np.linalg.norm(grad)
    of_image = correlate_input_grad(grad, filters, image.shape, window)
    of_filters = correlate_weight_grad(grad, image, window)
    assert abs((image.astype(np.float64) * of_image).sum() - forward) < 1e-5 * scale
    assert abs((filters.astype(np.float64) * of_filters).sum() - forward) < 1e-5 * scale
    assert of_image.flags.c_contiguous and is_channels_last(of_filters)


@pytest.mark.gradcheck
def test_gradients(check_gradients, used):
    """What the differences in float64 confirm is the plain way; the tests above tie the other one to it."""

    def make_inputs(rng):
        shapes = (1, 16, 9, 11), (16, 16, 3, 3), (16,)
        return [Tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]

    check_gradients("conv2d, of winograd's size", lambda x, w, b: conv2d(x, w, b, padding=1), make_inputs)
    assert used == []


def test_the_trained_model_sees_the_same_with_and_without(monkeypatch):
    """The rounding of the transforms changes no detection."""
    model = load_model(CHECKPOINT)
    images = [ShapesDataset(12, seed=1)[i][0] for i in range(12)]
    fast = model(images)
    monkeypatch.setattr(winograd, "enabled", False)
    for one, other in zip(fast, model(images), strict=True):
        sure = one["scores"] > 0.06  # below, the threshold of 0.05 may decide otherwise
        assert sure.sum() == (other["scores"] > 0.06).sum() > 0
        for name, tolerance in (("labels", 0), ("boxes", 0.01), ("scores", 1e-3)):
            np.testing.assert_allclose(one[name][sure], other[name][: sure.sum()], rtol=0, atol=tolerance)
        masks = one["masks"][sure] >= 0.5, other["masks"][: sure.sum()] >= 0.5
        assert (masks[0] & masks[1]).sum() > 0.999 * (masks[0] | masks[1]).sum()
