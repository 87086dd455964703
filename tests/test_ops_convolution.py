"""conv2d, conv_transpose2d and linear against loops over every output, central differences and torch."""

import functools
import itertools
import weakref

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import channels_first, channels_last, to_device, to_numpy
from tinymrcnn.ops import conv2d, conv_transpose2d, convolution, linear, relu, taps, winograd
from tinymrcnn.ops.im2col import Window


def leaf(array):
    return Tensor(np.asarray(array, np.float64), requires_grad=True)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


# References: the definitions, one output after the other


def plain_conv2d(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    if groups > 1:  # as convolutions of their own, side by side
        parts = [np.split(x, groups, 1), *(np.split(array, groups) for array in (weight, bias))]
        return np.concatenate([plain_conv2d(*part, stride, padding, dilation) for part in zip(*parts, strict=True)], 1)
    n, c, h, w = x.shape
    out_channels, _, kh, kw = weight.shape
    out_h = (h + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    out_w = (w + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, out_channels, out_h, out_w))
    for i, j, u, v in itertools.product(range(out_h), range(out_w), range(kh), range(kw)):
        y, z = i * stride + u * dilation - padding, j * stride + v * dilation - padding
        if 0 <= y < h and 0 <= z < w:
            out[:, :, i, j] += x[:, :, y, z] @ weight[:, :, u, v].T
    return out + bias[:, None, None]


def plain_conv_transpose2d(x, weight, bias, stride=1):
    n, c, h, w = x.shape
    _, out_channels, kh, kw = weight.shape
    out = np.zeros((n, out_channels, (h - 1) * stride + kh, (w - 1) * stride + kw))
    for i, j, u, v in itertools.product(range(h), range(w), range(kh), range(kw)):
        out[:, :, i * stride + u, j * stride + v] += x[:, :, i, j] @ weight[:, :, u, v]
    return out + bias[:, None, None]


CONVOLUTIONS = {  # name -> (image, filters, keywords)
    "3x3": ((2, 3, 6, 7), (4, 3, 3, 3), dict(padding=1)),
    "3x3 without padding": ((2, 3, 6, 7), (4, 3, 3, 3), {}),
    "3x3, stride 2": ((2, 3, 7, 10), (4, 3, 3, 3), dict(stride=2, padding=1)),
    "3x3, stride 2, a row left over": ((1, 2, 8, 9), (3, 2, 3, 3), dict(stride=2)),
    "3x3, stride 3": ((1, 2, 8, 9), (3, 2, 3, 3), dict(stride=3, padding=1)),
    "3x3, dilation 2": ((2, 3, 7, 8), (4, 3, 3, 3), dict(padding=2, dilation=2)),
    "3x3, dilation 2, stride 2": ((1, 2, 9, 8), (3, 2, 3, 3), dict(stride=2, padding=1, dilation=2)),
    "3x3, much padding": ((1, 2, 3, 4), (3, 2, 3, 3), dict(padding=4)),
    "1x1": ((2, 5, 4, 6), (3, 5, 1, 1), {}),
    "1x1, stride 2": ((2, 5, 5, 6), (3, 5, 1, 1), dict(stride=2)),
    "1x1, padded": ((1, 5, 3, 4), (3, 5, 1, 1), dict(padding=1)),
    "1x1, padded, stride 2": ((1, 5, 3, 4), (3, 5, 1, 1), dict(padding=1, stride=2)),
    "7x7, stride 2": ((1, 3, 9, 12), (2, 3, 7, 7), dict(stride=2, padding=3)),
    "2x2": ((1, 3, 4, 5), (2, 3, 2, 2), {}),
    "2x2, stride 3": ((1, 3, 5, 8), (2, 3, 2, 2), dict(stride=3)),
    "2x3": ((2, 3, 5, 6), (4, 3, 2, 3), dict(padding=1)),
    "3x1": ((2, 3, 5, 6), (4, 3, 3, 1), {}),
    "1x3, dilation 2": ((2, 3, 5, 6), (4, 3, 1, 3), dict(padding=2, dilation=2)),
    "as large as the image": ((2, 3, 4, 5), (4, 3, 4, 5), {}),
    "one pixel": ((2, 3, 1, 1), (4, 3, 3, 3), dict(padding=1)),
    "one channel": ((2, 1, 4, 5), (1, 1, 3, 3), dict(padding=1)),
    "2 groups": ((2, 6, 6, 7), (4, 3, 3, 3), dict(padding=1, groups=2)),
    "3 groups, stride 2": ((2, 6, 7, 10), (3, 2, 3, 3), dict(stride=2, padding=1, groups=3)),
    "3 groups, dilation 2": ((1, 3, 7, 8), (6, 1, 3, 2), dict(padding=1, dilation=2, groups=3)),
    "a group for every channel": ((2, 4, 5, 6), (4, 1, 3, 3), dict(padding=1, groups=4)),
    "1x1, 2 groups": ((2, 6, 4, 5), (4, 3, 1, 1), dict(groups=2)),
    "1x1, 2 groups, stride 2": ((2, 6, 4, 5), (4, 3, 1, 1), dict(groups=2, stride=2)),
    "an empty batch, 2 groups": ((0, 6, 6, 7), (4, 3, 3, 3), dict(padding=1, groups=2)),
    "an empty batch": ((0, 3, 6, 7), (4, 3, 3, 3), dict(padding=1)),
    "an empty batch, 1x1": ((0, 3, 6, 7), (4, 3, 1, 1), {}),
}
TRANSPOSED = {
    "2x2, stride 2": ((2, 3, 4, 5), (3, 4, 2, 2), 2),  # the mask branch's
    "2x2": ((2, 3, 4, 5), (3, 4, 2, 2), 1),
    "3x3": ((1, 3, 4, 5), (3, 2, 3, 3), 1),
    "3x3, stride 2": ((1, 3, 4, 3), (3, 2, 3, 3), 2),
    "2x3, stride 2": ((2, 3, 4, 3), (3, 2, 2, 3), 2),
    "2x2, stride 3": ((1, 3, 3, 4), (3, 2, 2, 2), 3),
    "1x1": ((1, 3, 3, 4), (3, 2, 1, 1), 1),
    "1x1, stride 2": ((1, 3, 3, 4), (3, 2, 1, 1), 2),
    "one pixel": ((2, 3, 1, 1), (3, 2, 2, 2), 2),
    "an empty batch": ((0, 3, 4, 5), (3, 4, 2, 2), 2),
}
LINEAR = {"a batch": ((5, 3), (4, 3)), "one row": ((1, 3), (4, 3)), "an empty batch": ((0, 3), (4, 3))}


def conv_inputs(name, seed=0):
    image, filters, keywords = CONVOLUTIONS[name]
    return [normal(*image, seed=seed), normal(*filters, seed=seed), normal(filters[0], seed=seed)], dict(keywords)


def transposed_inputs(name, seed=0):
    image, filters, stride = TRANSPOSED[name]
    return [normal(*image, seed=seed), normal(*filters, seed=seed), normal(filters[1], seed=seed)], stride


def linear_inputs(name, seed=0):
    x, weight = LINEAR[name]
    return [normal(*x, seed=seed), normal(*weight, seed=seed), normal(weight[0], seed=seed)]


# Values


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv2d_equals_the_definition(name):
    arrays, keywords = conv_inputs(name)
    expected = plain_conv2d(*arrays, **keywords)
    out = conv2d(*map(Tensor, arrays), **keywords)
    assert out.shape == expected.shape
    assert np.allclose(out.data, expected, rtol=1e-12, atol=1e-12)
    without = conv2d(Tensor(arrays[0]), Tensor(arrays[1]), **keywords)
    assert np.allclose(without.data, expected - arrays[2][:, None, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_definition_to_read(name):
    (image, filters, _), keywords = conv_inputs(name)
    if "groups" in keywords:  # it is of one group
        image, filters = image[:, : filters.shape[1]], filters[: len(filters) // keywords.pop("groups")]
    out = convolution.definition(image.transpose(0, 2, 3, 1), filters, Window(filters.shape[2:], **keywords))
    assert np.allclose(out.transpose(0, 3, 1, 2), plain_conv2d(image, filters, 0 * filters[:, 0, 0, 0], **keywords))


@pytest.mark.parametrize(
    ("image", "filters", "keywords"),
    [
        ((1, 256, 25, 34), (128, 256, 1, 1), {}),
        ((1, 64, 50, 68), (256, 64, 1, 1), dict(stride=2)),
        ((1, 128, 26, 34), (96, 128, 3, 3), dict(stride=2, padding=1)),
        ((2, 64, 20, 33), (64, 64, 3, 3), dict(padding=1)),
        ((1, 3, 96, 131), (64, 3, 7, 7), dict(stride=2, padding=3)),
    ],
    ids=str,
)
def test_products_in_float32_are_good_to_a_millionth(image, filters, keywords, monkeypatch):
    """Of the largest value, in the result and in all three gradients, without Winograd."""
    monkeypatch.setattr(winograd, "enabled", False)
    arrays = [normal(*image), normal(*filters), normal(filters[0])]
    both = []
    for dtype in (np.float32, np.float64):
        leaves = [Tensor(array.astype(np.float32).astype(dtype), requires_grad=True) for array in arrays]
        out = conv2d(*leaves, **keywords)
        out.backward(normal(*out.shape, seed=5).astype(np.float32).astype(dtype))
        both.append([out.data, *(x.grad for x in leaves)])
    for single, double in zip(*both, strict=True):
        assert np.abs(single - double).max() <= 1e-6 * np.abs(double).max()


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d_equals_the_definition(name):
    arrays, stride = transposed_inputs(name)
    expected = plain_conv_transpose2d(*arrays, stride)
    out = conv_transpose2d(*map(Tensor, arrays), stride=stride)
    assert out.shape == expected.shape
    assert np.allclose(out.data, expected, rtol=1e-12, atol=1e-12)
    without = conv_transpose2d(Tensor(arrays[0]), Tensor(arrays[1]), stride=stride)
    assert np.allclose(without.data, expected - arrays[2][:, None, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d_in_float32(name):
    arrays, stride = transposed_inputs(name)
    expected = plain_conv_transpose2d(*arrays, stride)
    out = conv_transpose2d(*(Tensor(array.astype(np.float32)) for array in arrays), stride=stride)
    assert out.dtype == np.float32 and channels_last(out.data).flags.c_contiguous
    assert np.allclose(out.data, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_of_an_image_without_columns(dtype):
    out = conv_transpose2d(Tensor(np.zeros((1, 3, 2, 0), dtype)), Tensor(np.zeros((3, 4, 2, 2), dtype)), stride=2)
    assert out.shape == (1, 4, 4, 0) and out.dtype == dtype


@pytest.mark.parametrize(("image", "filters"), [((3, 40, 9, 13), (40, 33, 2, 2)), ((1, 7, 30, 5), (7, 20, 3, 3))])
def test_blocks_in_pieces_on_any_number_of_threads(image, filters, monkeypatch):
    """Where the stride is the filters' size: the same bits however the lines are cut."""
    arrays = [normal(*shape).astype(np.float32) for shape in (image, filters, filters[1:2])]
    expected = plain_conv_transpose2d(*(array.astype(np.float64) for array in arrays), filters[2])
    results = []
    for threads, piece in itertools.product((1, 2, 5), (1, 1 << 12, 1 << 30)):
        monkeypatch.setattr(convolution, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(convolution, "PIECE", piece)
        results.append(conv_transpose2d(*map(Tensor, arrays), stride=filters[2]).data)
        assert np.array_equal(results[-1], results[0])
        negative = conv_transpose2d(Tensor(-arrays[0]), Tensor(arrays[1]), stride=filters[2], relu=True).data
        assert np.allclose(negative, np.maximum(arrays[2][:, None, None] - expected, 0), atol=1e-4)
    assert np.allclose(results[0], expected, atol=1e-4)


def test_with_a_relu_behind(check_contract, check_gradients):
    arrays, keywords = conv_inputs("2x3")
    check_fused(functools.partial(conv2d, **keywords), arrays, check_contract, check_gradients)
    check_fused(functools.partial(conv2d, stride=2), [normal(2, 3, 6, 8), normal(4, 3, 1, 1)], check_contract)
    check_fused(
        functools.partial(conv2d, groups=2), [normal(2, 6, 6, 8), normal(4, 3, 3, 3), normal(4)], check_contract
    )
    check_fused(functools.partial(conv2d, padding=1), [normal(1, 16, 16, 20), normal(16, 16, 3, 3), normal(16)])
    arrays, stride = transposed_inputs("2x2, stride 2")
    check_fused(functools.partial(conv_transpose2d, stride=stride), arrays, check_contract, check_gradients)
    check_fused(functools.partial(conv_transpose2d, stride=stride), arrays[:2], check_contract)


def check_fused(operator, arrays, check_contract=None, check_gradients=None):
    """operator(..., relu=True) is relu(operator(...)), in every dtype, forward and backward."""
    for dtype in (np.float64, np.float32):
        both = []
        for fused in (True, False):
            leaves = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
            out = operator(*leaves, relu=True) if fused else relu(operator(*leaves))
            out.backward(normal(*out.shape, seed=5).astype(dtype))
            both.append([out.data] + [leaf.grad for leaf in leaves])
        assert (both[0][0] == 0).any() and (both[0][0] > 0).any()
        for ours, expected in zip(*both, strict=True):
            assert ours.dtype == dtype and np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max()
    fused = functools.partial(operator, relu=True)
    if check_contract:
        check_contract(fused, arrays)
    if check_gradients:
        shapes = [array.shape for array in arrays]
        check_gradients(
            "with relu", fused, lambda rng: [Tensor(rng.normal(size=s), requires_grad=True) for s in shapes]
        )


RESIDUALS = {  # name -> (image, filters, keywords)
    **{name: CONVOLUTIONS[name] for name in ("3x3, stride 2", "1x1", "1x1, padded, stride 2", "2 groups", "one pixel")},
    "Winograd's": ((2, 16, 17, 19), (18, 16, 3, 3), dict(padding=1)),
}


@pytest.mark.parametrize("fused_relu", [True, False])
@pytest.mark.parametrize("name", RESIDUALS)
def test_a_residual_is_added_before_the_relu(name, fused_relu, check_contract, check_gradients):
    image, filters, keywords = RESIDUALS[name]
    arrays = [normal(*image), normal(*filters), normal(filters[0])]
    residual = normal(*plain_conv2d(*arrays, **keywords).shape, seed=3)
    expected = plain_conv2d(*arrays, **keywords) + residual
    expected = np.maximum(expected, 0) if fused_relu else expected

    def operator(x, weight, bias, residual):
        return conv2d(x, weight, bias, **keywords, residual=residual, relu=fused_relu)

    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 3e-5)):
        out = operator(*(Tensor(array.astype(dtype)) for array in (*arrays, residual))).data
        assert out.dtype == dtype and np.abs(out - expected).max() <= tolerance * np.abs(expected).max()
    without_bias = conv2d(Tensor(arrays[0]), Tensor(arrays[1]), **keywords, residual=Tensor(residual)).data
    plain = plain_conv2d(arrays[0], arrays[1], np.zeros(filters[0]), **keywords)
    assert np.allclose(without_bias, plain + residual, rtol=1e-12, atol=1e-12)
    if name != "Winograd's":
        shapes = [array.shape for array in (*arrays, residual)]
        check_contract(operator, [*arrays, residual])
        check_gradients(name, operator, lambda rng: [Tensor(rng.normal(size=shape), True) for shape in shapes])


def test_the_gradient_of_a_residual_alone():
    """Frozen filters: nothing but the residual asks for a gradient."""
    x, weight, residual = Tensor(normal(1, 2, 5, 6)), Tensor(normal(3, 2, 1, 1)), leaf(normal(1, 3, 5, 6, seed=1))
    out = conv2d(x, weight, residual=residual, relu=True)
    upstream = normal(*out.shape, seed=2)
    out.backward(upstream)
    assert np.array_equal(residual.grad, np.where(out.data > 0, upstream, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (1, 2)])
def test_in_place_of_the_residual(kernel, groups, dtype):
    """The same result and gradients; one array less where a 1x1 convolution of ours adds to it."""
    rule, shapes = dict(padding=kernel // 2, groups=groups), [(2, 12, 13, 8), (6, kernel, kernel, 8 // groups)]
    x, w, r = (channels_first(normal(*shape)) for shape in (*shapes, (2, 12, 13, 6)))
    upstream, bias = normal(*r.shape).astype(dtype), normal(6)
    results = []
    for inplace in (False, True):
        leaves = x, w, b, r = [Tensor(a.astype(dtype), requires_grad=True) for a in (x, w, bias, r)]
        residual = r * 1.0  # its backward pass needs no value of the result
        before = residual.data
        out = conv2d(x, w, b, residual=residual, inplace=inplace, relu=True, **rule)
        if kernel == 1:
            assert np.shares_memory(out.data, before) == (inplace and groups == 1 and dtype == np.float32)
        out.backward(upstream)
        results.append([out.data, *(own.grad for own in leaves)])
        x, w, r = x.data, w.data, r.data
    for own, other in zip(*results, strict=True):
        assert np.array_equal(own, other)


def test_in_place_of_no_residual():
    x, w = (Tensor(normal(*shape).astype(np.float32)) for shape in ((2, 8, 5, 6), (3, 8, 1, 1)))
    assert np.array_equal(conv2d(x, w, inplace=True).data, conv2d(x, w).data)


def test_a_residual_of_another_shape_is_refused():
    x, weight = Tensor(normal(1, 2, 5, 6)), Tensor(normal(3, 2, 3, 3))
    with pytest.raises(ValueError, match=r"residual of shape \(1, 3, 5, 6\).*shape \(1, 3, 3, 4\)"):
        conv2d(x, weight, residual=Tensor(normal(1, 3, 5, 6)))


def test_a_convolution_by_hand():
    x = Tensor(np.arange(12.0).reshape(1, 1, 3, 4))
    weight = Tensor(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    out = conv2d(x, weight, Tensor(np.array([100.0])))
    # 0*1 + 1*2 + 4*3 + 5*4 = 34; one step to the right adds 1 + 2 + 3 + 4
    assert np.array_equal(out.data, [[[[134, 144, 154], [174, 184, 194]]]])


def test_a_transposed_convolution_by_hand():
    x = Tensor(np.array([[[[1.0, 2.0]]]]))
    weight = Tensor(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert np.array_equal(conv_transpose2d(x, weight, stride=2).data, [[[[1, 2, 2, 4], [3, 4, 6, 8]]]])
    assert np.array_equal(conv_transpose2d(x, weight).data, [[[[1, 4, 4], [3, 10, 8]]]])


def test_groups_see_only_their_channels():
    x = Tensor(np.arange(4.0).reshape(1, 4, 1, 1), requires_grad=True)
    weight = leaf(np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1))
    out = conv2d(x, weight, groups=2)
    assert out.data.ravel().tolist() == [10, 3200]  # 0 * 1 + 1 * 10, and 2 * 100 + 3 * 1000
    out.backward(np.array([1.0, 2.0]).reshape(1, 2, 1, 1))
    assert x.grad.ravel().tolist() == [1, 10, 200, 2000]
    assert weight.grad.ravel().tolist() == [0, 1, 4, 6]


def test_it_is_a_correlation_and_the_filter_is_not_turned_around():
    impulse = np.zeros((1, 1, 5, 5))
    impulse[0, 0, 2, 2] = 1
    weight = np.arange(9.0).reshape(1, 1, 3, 3)
    out = conv2d(Tensor(impulse), Tensor(weight), padding=1).data
    assert np.array_equal(out[0, 0, 1:4, 1:4], weight[0, 0, ::-1, ::-1])


def test_the_transposed_convolution_is_the_transpose():
    """<conv(x), y> = <x, conv_transpose(y)> for the same filters."""
    x, y, weight = normal(2, 3, 9, 7), normal(2, 4, 4, 3), normal(4, 3, 3, 3)
    forward = conv2d(Tensor(x), Tensor(weight), stride=2).data
    back = conv_transpose2d(Tensor(y), Tensor(weight), stride=2).data
    assert forward.shape == y.shape and back.shape == x.shape
    assert np.isclose((forward * y).sum(), (x * back).sum())


@pytest.mark.parametrize("piece", [1, 100])
def test_the_size_of_the_pieces_changes_nothing(piece, monkeypatch):
    arrays, keywords = conv_inputs("3x3, stride 2")
    upstream = normal(*conv2d(*map(Tensor, arrays), **keywords).shape)
    arrays = [*arrays, normal(*upstream.shape, seed=3)]
    results = []
    for size in (1 << 30, piece):
        monkeypatch.setattr(convolution, "PIECE", size)
        monkeypatch.setattr(convolution, "GRAD_PIECE", size)
        monkeypatch.setattr(convolution, "ROWS", min(size, convolution.ROWS))
        leaves = [leaf(array) for array in arrays]
        out = conv2d(*leaves[:3], residual=leaves[3], **keywords)
        out.backward(upstream)
        results.append([out.data, *(own.grad for own in leaves)])
    for whole, other in zip(*results, strict=True):
        assert np.allclose(whole, other, rtol=1e-12)


# Without im2col: (image (N, H, W, C), filters, window), of lines long enough for it
WITHOUT_IM2COL = [
    ((2, 9, 31, 3), (16, 3, 7, 7), Window((7, 7), 2, 3)),  # the stem's
    ((1, 10, 24, 20), (40, 20, 3, 5), Window((3, 5), 1, 2)),
    ((1, 13, 42, 20), (33, 20, 3, 3), Window((3, 3), 2, 3, 2)),
    ((1, 2, 15, 8), (6, 8, 5, 2), Window((5, 2), 1, 2)),  # the windows are taller than the image
    ((2, 3, 23, 16), (8, 16, 2, 1), Window((2, 1), 2, 6)),  # windows that see only the border
    ((2, 12, 24, 40), (24, 40, 2, 2), Window((2, 2), 2)),
    ((0, 12, 24, 40), (24, 40, 2, 2), Window((2, 2), 2)),
]


@pytest.mark.parametrize("piece", [1 << 18, 1, 3000])
@pytest.mark.parametrize(("shape", "filters", "window"), WITHOUT_IM2COL, ids=str)
def test_without_im2col(shape, filters, window, piece, monkeypatch):
    monkeypatch.setattr(taps, "PIECE", piece)
    image, filters, bias = (normal(*s).astype(np.float32) for s in (shape, filters, filters[:1]))
    assert taps.fits(image, window)
    wanted = convolution.definition(*(array.astype(np.float64) for array in (image, filters)), window)
    residual = normal(*wanted.shape).astype(np.float32)
    for extra, relu_too in itertools.product((None, residual), (False, True)):
        exact = wanted + bias + (0 if extra is None else extra)
        given = bias, relu_too, extra
        assert np.allclose(
            taps.correlate(image, filters, window, *given), exact.clip(0 if relu_too else None), atol=3e-5
        )
    assert np.allclose(taps.correlate(image, filters, window, None, False, None), wanted, atol=3e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_equals_the_definition(name):
    x, weight, bias = linear_inputs(name)
    expected = np.array([[sum(row * w) + b for w, b in zip(weight, bias, strict=True)] for row in x]).reshape(-1, 4)
    assert np.allclose(linear(Tensor(x), Tensor(weight), Tensor(bias)).data, expected)
    assert np.allclose(linear(Tensor(x), Tensor(weight)).data, expected - bias)


@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_linear_packs_the_smaller_factor(rows):
    """Few rows or many: the same numbers, to the bit, row after row in memory."""
    x, weight, bias = (normal(*shape).astype(np.float32) for shape in ((40, 70), (20, 70), (20,)))
    all_rows = linear(Tensor(x), Tensor(weight), Tensor(bias)).data
    some = linear(Tensor(x[:rows]), Tensor(weight), Tensor(bias)).data
    assert some.flags.c_contiguous and np.array_equal(some, all_rows[:rows])
    assert np.allclose(all_rows, x.astype(float) @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "filters", "window"),
    [
        ((1, 10, 24, 40), (24, 40, 3, 3), Window((3, 3), 2, 1)),  # without im2col
        ((1, 10, 13, 40), (24, 40, 3, 3), Window((3, 3), 2, 1)),  # with it
        ((1, 20, 13, 40), (24, 40, 1, 1), Window((1, 1))),
        ((1, 40, 20, 16), (16, 16, 3, 3), Window((3, 3), 1, 1)),  # Winograd's way
    ],
    ids=str,
)
def test_small_maps_have_work_for_every_thread(shape, filters, window, monkeypatch):
    counts = []
    for module in (convolution, taps, winograd):
        monkeypatch.setattr(
            module, "spread", lambda work, count, *_: counts.append(count) or [*map(work, range(count))]
        )
        monkeypatch.setattr(module, "get_num_threads", lambda: 2)
    image, weight = normal(*shape).astype(np.float32), normal(*filters).astype(np.float32)
    out = convolution.correlate(image, weight, window)
    assert counts[-1] % 2 == 0 and counts[-1] > 0
    assert np.allclose(out, convolution.definition(image.astype(float), weight.astype(float), window), atol=1e-3)


# Winograd's way, which float32 takes for large 3x3 convolutions

WINOGRAD = {  # name -> (image, filters, padding)
    "whole tiles": ((1, 16, 18, 22), (16, 16, 3, 3), 0),
    "cut tiles": ((2, 17, 13, 15), (18, 17, 3, 3), 1),
    "cut to a pixel": ((3, 16, 15, 11), (33, 16, 3, 3), 0),
    "padding 2": ((1, 20, 17, 18), (16, 20, 3, 3), 2),
    "flat": ((1, 16, 1, 300), (16, 16, 3, 3), 1),
    "narrow": ((3, 16, 90, 3), (16, 16, 3, 3), 1),
}


@pytest.mark.parametrize("piece", [1 << 20, 1])
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd_equals_the_plain_product(name, piece, monkeypatch):
    for limit in ("TILES", "PIECE", "GRAD_TILES"):
        monkeypatch.setattr(winograd, limit, piece)
    image, filters, padding = WINOGRAD[name]
    arrays = [normal(*image), normal(*filters), normal(filters[0])]
    results = []
    for dtype in (np.float32, np.float64):  # float64 always takes the plain product
        leaves = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
        fits = winograd.fits(leaves[0].data.transpose(0, 2, 3, 1), filters[0], Window((3, 3), padding=padding))
        assert fits == (dtype == np.float32)
        out = conv2d(*leaves, padding=padding)
        out.backward(normal(*out.shape, seed=5).astype(dtype))
        results.append([out.data, *(x.grad for x in leaves)])
    for single, double in zip(*results, strict=True):
        assert single.dtype == np.float32 and single.shape == double.shape
        assert np.abs(single - double).max() <= 3e-5 * np.abs(double).max()
        assert single.ndim != 4 or single.transpose(0, 2, 3, 1).flags.c_contiguous


def test_winograd_is_left_alone_where_it_does_not_fit():
    image = np.zeros((1, 20, 20, 16), np.float32)
    assert winograd.fits(image, 16, Window((3, 3), padding=1))
    assert not winograd.fits(image.astype(np.float64), 16, Window((3, 3), padding=1))
    for filters, window in (
        (16, Window((3, 3), 2, 1)),
        (16, Window((3, 3), 1, 2, 2)),
        (16, Window((3, 3), 1, 3)),
        (16, Window((1, 3))),
        (4, Window((3, 3), 1, 1)),
    ):
        assert not winograd.fits(image, filters, window)


# Gradients


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_of_conv2d(name, check_gradients):
    keywords = CONVOLUTIONS[name][2]

    def fn(x, weight, bias):
        return conv2d(x, weight, bias, **keywords)

    check_gradients("conv2d", fn, lambda rng: [leaf(a) for a in conv_inputs(name, int(rng.integers(99)))[0]])


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", TRANSPOSED)
def test_gradients_of_conv_transpose2d(name, check_gradients):
    stride = TRANSPOSED[name][2]

    def fn(x, weight, bias):
        return conv_transpose2d(x, weight, bias, stride)

    inputs = lambda rng: [leaf(a) for a in transposed_inputs(name, int(rng.integers(99)))[0]]  # noqa: E731
    check_gradients("conv_transpose2d", fn, inputs)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", LINEAR)
def test_gradients_of_linear(name, check_gradients):
    check_gradients("linear", linear, lambda rng: [leaf(a) for a in linear_inputs(name, int(rng.integers(99)))])


@pytest.mark.gradcheck
@pytest.mark.parametrize("operator", [conv2d, conv_transpose2d, linear])
def test_gradients_without_a_bias(operator, check_gradients):
    shapes = [(2, 3), (4, 3)] if operator is linear else [(1, 3, 4, 5), (3, 3, 2, 2)]
    check_gradients(operator.__name__, operator, lambda rng: [leaf(rng.normal(size=shape)) for shape in shapes])


def test_filters_of_an_empty_batch_have_a_gradient_of_zero():
    for name in ("an empty batch", "an empty batch, 1x1"):
        arrays, keywords = conv_inputs(name)
        leaves = [leaf(array) for array in arrays]
        conv2d(*leaves, **keywords).sum().backward()
        assert leaves[0].grad.shape == (0, 3, 6, 7)
        assert np.array_equal(leaves[1].grad, np.zeros(leaves[1].shape))
        assert np.array_equal(leaves[2].grad, np.zeros(4))


@pytest.mark.parametrize("operator", [conv2d, conv_transpose2d, linear])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_input_is_kept_only_for_the_gradient_of_the_filters(operator, frozen):
    shapes = [(2, 3), (3, 3)] if operator is linear else [(1, 3, 4, 5), (3, 3, 2, 2)]
    x, weight = leaf(normal(*shapes[0])), Tensor(normal(*shapes[1]), requires_grad=not frozen)
    activation = x + 1
    if operator is not linear:  # lying in memory as feature maps do, so that no copy of it is made
        activation.data = np.ascontiguousarray(activation.data.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    memory = activation.data if activation.data.base is None else activation.data.base
    seen = weakref.ref(memory)
    out = operator(activation, weight)
    del activation, memory
    assert (seen() is None) == frozen
    out.sum().backward()
    assert x.grad is not None and seen() is None


# The contract


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_contract_of_conv2d(name, check_contract):
    arrays, keywords = conv_inputs(name)
    check_contract(lambda x, weight, bias: conv2d(x, weight, bias, **keywords), arrays)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_contract_of_conv_transpose2d(name, check_contract):
    arrays, stride = transposed_inputs(name)
    check_contract(lambda x, weight, bias: conv_transpose2d(x, weight, bias, stride), arrays)


@pytest.mark.parametrize("name", LINEAR)
def test_contract_of_linear(name, check_contract):
    check_contract(linear, linear_inputs(name))


# What is not finite


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize(
    ("operator", "shapes", "dtype"),
    [
        (functools.partial(conv2d, padding=1), [(1, 3, 6, 7), (4, 3, 3, 3), (4,)], np.float64),
        (conv2d, [(1, 3, 6, 7), (4, 3, 1, 1), (4,)], np.float64),
        (conv2d, [(1, 3, 6, 7), (4, 3, 1, 1)], np.float32),
        (functools.partial(conv2d, padding=1), [(1, 16, 17, 18), (16, 16, 3, 3), (16,)], np.float32),  # Winograd's size
        (functools.partial(conv_transpose2d, stride=2), [(1, 3, 6, 7), (3, 4, 2, 2), (4,)], np.float64),
        (conv_transpose2d, [(1, 3, 6, 7), (3, 4, 2, 2)], np.float32),
    ],
)
def test_a_nan_stays_in_the_fused_relu_and_lets_its_gradient_through(fake_device, operator, shapes, dtype, device):
    arrays = [normal(*shape).astype(dtype) for shape in shapes]
    arrays[0][0, 1, 2, 3] = np.nan
    both = []
    for fused in (True, False):
        leaves = [Tensor(to_device(array, device), requires_grad=True) for array in arrays]
        out = operator(*leaves, relu=True) if fused else relu(operator(*leaves))
        upstream = normal(*out.shape, seed=5).astype(dtype)
        out.backward(to_device(upstream, device))
        both.append([to_numpy(array) for array in (out.data, *(leaf.grad for leaf in leaves))])
    for ours, expected in zip(*both, strict=True):
        assert np.allclose(ours, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert np.isnan(both[0][0]).any() and not np.isnan(both[0][0]).all()
    assert not np.isnan(both[0][1]).any()  # the image's gradient does not read the image ...
    reached = to_numpy(both[0][1])[0, :, 2, 3]
    assert reached.all()  # ... but where the NaN is a gradient comes through
    assert np.isnan(both[0][2]).any()


# Pieces


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_the_gradients_of_a_1x1_convolution_of_many_pixels(wanted, dtype):
    """2,214 pixels: several pieces and a last one that is not full."""
    arrays = [normal(2, 5, 41, 27).astype(dtype), normal(7, 5, 1, 1).astype(dtype), normal(7).astype(dtype)]
    leaves = [Tensor(array, requires_grad=i in wanted) for i, array in enumerate(arrays)]
    upstream = normal(2, 7, 41, 27, seed=3).astype(dtype)
    conv2d(*leaves).backward(upstream)
    x, weight, grad = (array.astype(np.float64) for array in (*arrays[:2], upstream))
    expected = (
        np.einsum("nohw,oc->nchw", grad, weight[:, :, 0, 0]),
        np.einsum("nohw,nchw->oc", grad, x)[:, :, None, None],
        np.einsum("nohw->o", grad),
    )
    for i, (tensor, gradient) in enumerate(zip(leaves, expected, strict=True)):
        if i not in wanted:
            assert tensor.grad is None
        else:
            assert tensor.grad.dtype == dtype
            rtol = 1e-12 if dtype == np.float64 else 1e-5
            assert np.abs(tensor.grad - gradient).max() <= rtol * np.abs(gradient).max()


def test_on_a_device_the_threads_of_the_host_cut_nothing(fake_device, monkeypatch):
    monkeypatch.setattr(convolution, "get_num_threads", lambda: 64)
    image = np.zeros((1, 40, 50, 4))
    arguments = (40, 50), Window((3, 3), padding=1), 8
    assert convolution._windows(image, *arguments)[0] > 1
    assert convolution._windows(to_device(image, "fake"), *arguments)[0] == 1


# What is refused


@pytest.mark.parametrize(
    ("shapes", "keywords", "words"),
    [
        ([(3, 6, 7), (4, 3, 3, 3)], {}, r"\(3, 6, 7\)"),
        ([(1, 2, 6, 7), (4, 3, 3, 3)], {}, "2 channels"),
        ([(1, 3, 6, 7), (4, 3, 3, 3), (3,)], {}, r"bias of shape \(3,\)"),
        ([(1, 3, 2, 7), (4, 3, 3, 3)], {}, "smaller than the kernel"),
        ([(1, 3, 6, 7), (4, 3, 3, 3)], dict(stride=0), "stride 0"),
        ([(1, 3, 6, 7), (4, 3, 3, 3)], dict(stride=2**31), "stride 2147483648"),
        ([(1, 3, 6, 7), (4, 3, 3, 3)], dict(padding=-1), "padding -1"),
        ([(1, 3, 6, 7), (4, 3, 3, 3)], dict(dilation=0), "dilation 0"),
        ([(1, 3, 6, 7), (4, 3, 3, 3)], dict(groups=0), "4 filters cannot be cut into 0 groups"),
        ([(1, 6, 6, 7), (4, 2, 3, 3)], dict(groups=3), "4 filters cannot be cut into 3 groups"),
        ([(1, 6, 6, 7), (4, 6, 3, 3)], dict(groups=2), "6 channels"),
        ([(1, 7, 6, 7), (4, 3, 3, 3)], dict(groups=2), "7 channels"),
    ],
)
def test_conv2d_refuses(shapes, keywords, words):
    with pytest.raises(ValueError, match=words):
        conv2d(*(Tensor(np.ones(shape)) for shape in shapes), **keywords)


@pytest.mark.parametrize(
    ("shapes", "keywords", "words"),
    [
        ([(1, 2, 6, 7), (3, 4, 2, 2)], {}, r"\(1, 2, 6, 7\)"),
        ([(2, 6, 7), (2, 4, 2, 2)], {}, r"\(2, 6, 7\)"),
        ([(1, 3, 6, 7), (3, 4, 2, 2), (3,)], {}, r"bias of shape \(3,\)"),
        ([(1, 3, 6, 7), (3, 4, 2, 2)], dict(stride=0), "stride 0"),
        ([(1, 3, 1, 1), (3, 4, 2, 2)], dict(stride=2**31), "stride 2147483648"),
    ],
)
def test_conv_transpose2d_refuses(shapes, keywords, words):
    with pytest.raises(ValueError, match=words):
        conv_transpose2d(*(Tensor(np.ones(shape)) for shape in shapes), **keywords)


@pytest.mark.parametrize("call", ["conv2d(x, w, None, 1, 1, 1, 1)", "conv_transpose2d(x, v, None, 2, 1)"])
def test_a_valid_call_of_torch_means_the_same_or_is_refused(call):
    """There the last argument is groups or padding; it must not become a ReLU."""
    names = dict(conv2d=conv2d, conv_transpose2d=conv_transpose2d)
    tensors = dict(x=Tensor(normal(1, 2, 4, 4)), w=Tensor(normal(3, 2, 3, 3)), v=Tensor(normal(2, 3, 2, 2)))
    with pytest.raises(TypeError, match="positional arguments"):
        eval(call, names | tensors)


@pytest.mark.parametrize(
    "keywords", [dict(stride=(1, 2)), dict(padding="same"), dict(dilation=1.0), dict(padding=[1, 1])]
)
def test_sizes_that_are_no_whole_numbers(keywords):
    (name,) = keywords
    with pytest.raises(TypeError, match=f"{name} is a whole number, the same in both directions"):
        conv2d(Tensor(normal(1, 2, 4, 4)), Tensor(normal(3, 2, 3, 3)), **keywords)
    if name == "stride":
        with pytest.raises(TypeError, match="stride is a whole number"):
            conv_transpose2d(Tensor(normal(1, 2, 4, 4)), Tensor(normal(2, 3, 2, 2)), **keywords)


@pytest.mark.parametrize("shapes", [[(2, 3), (4, 2)], [(2, 3, 1), (4, 3)], [(2, 3), (4, 3), (3,)]])
def test_linear_refuses(shapes):
    with pytest.raises(ValueError, match="fit|takes"):
        linear(*(Tensor(np.ones(shape)) for shape in shapes))


@pytest.mark.parametrize("operator", [conv2d, conv_transpose2d, linear])
def test_operands_of_different_dtypes_are_refused(operator):
    shapes = [(2, 3), (4, 3)] if operator is linear else [(1, 3, 4, 5), (3, 3, 2, 2)]
    x, weight = Tensor(np.ones(shapes[0], np.float32)), Tensor(np.ones(shapes[1], np.float64))
    with pytest.raises(TypeError, match="float32.*float64"):
        operator(x, weight)


# Against torch


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv2d_equals_torch(name, dtype):
    arrays, keywords = conv_inputs(name)
    same_as_torch("conv2d", conv2d, arrays, dtype, keywords)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d_equals_torch(name, dtype):
    arrays, stride = transposed_inputs(name)
    same_as_torch("conv_transpose2d", conv_transpose2d, arrays, dtype, dict(stride=stride))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_equals_torch(name, dtype):
    same_as_torch("linear", linear, linear_inputs(name), dtype, {})


@pytest.mark.parity
def test_a_convolution_of_real_size_equals_torch():
    arrays = [normal(2, 64, 40, 56), 0.05 * normal(64, 64, 3, 3), normal(64)]
    same_as_torch("conv2d", conv2d, arrays, "float64", dict(padding=1))
    same_as_torch("conv2d", conv2d, arrays, "float32", dict(padding=1), rtol=3e-5)  # Winograd
    grouped = [arrays[0], arrays[1][:, :16], arrays[2]]
    same_as_torch("conv2d", conv2d, grouped, "float64", dict(padding=1, groups=4))
    same_as_torch("conv2d", conv2d, grouped, "float32", dict(padding=1, groups=4), rtol=3e-5)


def same_as_torch(name, operator, arrays, dtype, keywords, rtol=1e-5):
    torch = pytest.importorskip("torch")
    ours = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    out, expected = operator(*ours, **keywords), getattr(torch.nn.functional, name)(*theirs, **keywords)
    upstream = normal(*out.shape, seed=5).astype(dtype)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    rtol = rtol if dtype == "float32" else 1e-12
    pairs = [(out.data, expected.detach()), *((a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))]
    for a, b in pairs:
        b = b.numpy()
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.abs(a - b).max(initial=0) <= rtol * np.abs(b).max(initial=0)
