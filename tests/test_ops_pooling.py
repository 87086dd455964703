"""max_pool2d and avg_pool2d against a loop over their windows, central differences and torch."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.ops import avg_pool2d, max_pool2d


def shuffled_linspace(*shape, seed=0):
    """Distinct values with equal gaps in random order: no ties, and no maximum that a small step would change."""
    size = int(np.prod(shape))
    return np.random.default_rng([seed, *shape]).permutation(np.linspace(-1, 1, size)).reshape(shape)


def plain_max_pool2d(x, kernel_size, stride=None, padding=0):
    """The maxima, and where in x each was first found."""
    stride = stride or kernel_size
    n, c, h, w = x.shape
    out_h, out_w = (h + 2 * padding - kernel_size) // stride + 1, (w + 2 * padding - kernel_size) // stride + 1
    out, where = np.zeros((n, c, out_h, out_w)), np.zeros((n, c, out_h, out_w, 2), int)
    for image, channel, i, j in np.ndindex(out.shape):
        best = -np.inf
        for y in range(i * stride - padding, i * stride - padding + kernel_size):
            for z in range(j * stride - padding, j * stride - padding + kernel_size):
                if 0 <= y < h and 0 <= z < w and x[image, channel, y, z] > best:
                    best = x[image, channel, y, z]
                    where[image, channel, i, j] = y, z
        out[image, channel, i, j] = best
    return out, where


CASES = {  # name -> (shape, keywords)
    "2x2": ((2, 3, 4, 6), dict(kernel_size=2)),
    "2x2, a row left over": ((2, 3, 5, 7), dict(kernel_size=2)),
    "3x3, stride 2, padding 1": ((2, 3, 7, 10), dict(kernel_size=3, stride=2, padding=1)),  # the stem's
    "3x3, stride 1": ((1, 3, 5, 4), dict(kernel_size=3, stride=1)),
    "3x3, stride 1, padding 1": ((1, 3, 5, 4), dict(kernel_size=3, stride=1, padding=1)),
    "3x3, stride 4": ((1, 2, 8, 9), dict(kernel_size=3, stride=4)),
    "2x2, stride 1, padding 1": ((1, 2, 3, 4), dict(kernel_size=2, stride=1, padding=1)),
    "1x1, stride 2": ((2, 3, 5, 6), dict(kernel_size=1, stride=2)),  # the FPN's coarsest level
    "5x5, padding 2": ((1, 2, 7, 6), dict(kernel_size=5, stride=2, padding=2)),
    "as large as the image": ((2, 3, 4, 4), dict(kernel_size=4)),
    "one pixel": ((2, 3, 1, 1), dict(kernel_size=3, stride=2, padding=1)),
    "many channels": ((2, 37, 5, 4), dict(kernel_size=3, stride=2, padding=1)),
    "an empty batch": ((0, 3, 4, 6), dict(kernel_size=2)),
}


BANDS = {  # the gradient's rows are cut into bands of 64, and windows lie across the cuts
    "3x3, stride 2, padding 1": ((1, 2, 131, 3), dict(kernel_size=3, stride=2, padding=1)),
    "5x5, stride 1, padding 2": ((1, 18, 130, 5), dict(kernel_size=5, stride=1, padding=2)),
    "2x2": ((2, 1, 128, 2), dict(kernel_size=2)),
    "1x1, stride 5": ((1, 1, 129, 6), dict(kernel_size=1, stride=5)),
}


@pytest.mark.parametrize(
    ("shape", "keywords"), [*CASES.values(), *BANDS.values()], ids=[*CASES, *(f"{n}, high" for n in BANDS)]
)
def test_values_and_gradients_equal_the_definition(shape, keywords):
    data = shuffled_linspace(*shape)
    x = Tensor(data, requires_grad=True)
    out = max_pool2d(x, **keywords)
    expected, where = plain_max_pool2d(data, **keywords)
    assert out.shape == expected.shape and np.array_equal(out.data, expected)
    upstream = np.random.default_rng(1).normal(size=out.shape)
    out.backward(upstream)
    gradient = np.zeros(shape)
    for n, c, i, j in np.ndindex(out.shape):
        gradient[n, c, *where[n, c, i, j]] += upstream[n, c, i, j]
    assert np.allclose(x.grad, gradient, rtol=1e-14)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, check_gradients):
    shape, keywords = CASES[name]

    def inputs(rng):
        return [Tensor(shuffled_linspace(*shape, seed=int(rng.integers(99))), requires_grad=True)]

    check_gradients("max_pool2d", lambda x: max_pool2d(x, **keywords), inputs)


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    shape, keywords = CASES[name]
    check_contract(lambda x: max_pool2d(x, **keywords), [shuffled_linspace(*shape)])


def test_by_hand():
    x = Tensor(np.array([[[[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]]]]), requires_grad=True)
    out = max_pool2d(x, 2, stride=1)
    assert np.array_equal(out.data, [[[[5, 9]]]])
    out.backward(np.array([[[[10.0, 20.0]]]]))
    assert np.array_equal(x.grad, [[[[0, 10, 0], [0, 0, 20]]]])


def test_padding_counts_as_minus_infinity():
    x = Tensor(np.full((1, 1, 3, 4), -7.0))
    assert np.array_equal(max_pool2d(x, 3, stride=2, padding=1).data, np.full((1, 1, 2, 2), -7.0))


@pytest.mark.parametrize("value", [0.0, -np.inf])
def test_of_equal_values_the_first_takes_the_gradient(value):
    x = Tensor(np.full((1, 1, 4, 4), value), requires_grad=True)
    out = max_pool2d(x, 2)
    out.backward(np.ones((1, 1, 2, 2)))
    expected = np.zeros((1, 1, 4, 4))
    expected[..., ::2, ::2] = 1
    assert np.array_equal(out.data, np.full((1, 1, 2, 2), value)) and np.array_equal(x.grad, expected)


def test_nan_wins():
    data = shuffled_linspace(1, 1, 4, 4)
    data[0, 0, 1, 1] = np.nan
    out = max_pool2d(Tensor(data), 2)
    assert np.isnan(out.data[0, 0, 0, 0]) and np.isnan(out.data).sum() == 1


@pytest.mark.parametrize(
    ("shape", "keywords", "words"),
    [
        ((3, 4, 5), dict(kernel_size=2), r"\(3, 4, 5\)"),
        ((1, 3, 4, 5), dict(kernel_size=0), "kernel 0"),
        ((1, 3, 4, 5), dict(kernel_size=2, stride=0), "stride 0"),
        ((1, 3, 4, 5), dict(kernel_size=2, stride=2**31), "stride 2147483648"),
        ((1, 3, 4, 5), dict(kernel_size=3, padding=2), "padding 2"),
        ((1, 3, 4, 5), dict(kernel_size=3, padding=-1), "padding -1"),
        ((1, 3, 2, 5), dict(kernel_size=3), "smaller than the window"),
        ((1, 3, 0, 5), dict(kernel_size=3, padding=1), "smaller than the window"),
    ],
)
def test_refuses(shape, keywords, words):
    for pool in (max_pool2d, avg_pool2d):
        with pytest.raises(ValueError, match=words):
            pool(Tensor(np.ones(shape)), **keywords)


# The mean


def plain_avg_pool2d(x, kernel_size, stride=None, padding=0):
    """The means, padded zeros counted, and the matrix that makes them of x: (size of the result, size of x)."""
    stride = stride or kernel_size
    n, c, h, w = x.shape
    out_h, out_w = (h + 2 * padding - kernel_size) // stride + 1, (w + 2 * padding - kernel_size) // stride + 1
    matrix, places = np.zeros((n, c, out_h, out_w, *x.shape)), range(kernel_size)
    for image, channel, i, j in np.ndindex(n, c, out_h, out_w):
        for u, v in ((u, v) for u in places for v in places):
            y, z = i * stride - padding + u, j * stride - padding + v
            if 0 <= y < h and 0 <= z < w:
                matrix[image, channel, i, j, image, channel, y, z] = 1 / kernel_size**2
    return matrix


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_the_mean_equal_the_definition(name):
    shape, keywords = CASES[name]
    if "many" in name:
        shape = (1, 7, 5, 4)
    data = np.random.default_rng(2).normal(size=shape)
    x = Tensor(data, requires_grad=True)
    out = avg_pool2d(x, **keywords)
    matrix = plain_avg_pool2d(data, **keywords)
    assert out.shape == matrix.shape[:4]
    assert np.allclose(out.data, np.tensordot(matrix, data, 4), rtol=1e-12, atol=1e-14)
    upstream = np.random.default_rng(1).normal(size=out.shape)
    out.backward(upstream)
    assert np.allclose(x.grad, np.tensordot(upstream, matrix, 4), rtol=1e-12, atol=1e-14)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_mean(name, check_gradients):
    shape, keywords = CASES[name]
    check_gradients(
        "avg_pool2d", lambda x: avg_pool2d(x, **keywords), lambda rng: [Tensor(rng.normal(size=shape), True)]
    )


@pytest.mark.parametrize("name", CASES)
def test_contract_of_the_mean(name, check_contract):
    shape, keywords = CASES[name]
    check_contract(lambda x: avg_pool2d(x, **keywords), [shuffled_linspace(*shape)])


def test_the_mean_by_hand():
    x = Tensor(np.array([[[[1.0, 5.0, 2.0], [4.0, 2.0, 8.0]]]]), requires_grad=True)
    out = avg_pool2d(x, 2, 1)
    assert np.array_equal(out.data, [[[[3, 4.25]]]])
    out.backward(np.array([[[[8.0, 4.0]]]]))
    assert np.array_equal(x.grad, [[[[2, 3, 1], [2, 3, 1]]]])
    assert np.array_equal(avg_pool2d(x, 2, 2, 1).data, [[[[0.25, 1.75], [1, 2.5]]]])  # the zeros of the padding count


@pytest.mark.parametrize("pool", [avg_pool2d, max_pool2d])
@pytest.mark.parametrize(
    "keywords", [dict(kernel_size=(2, 2)), dict(kernel_size=2, stride=(1, 1)), dict(kernel_size=2.0)]
)
def test_sizes_that_are_no_whole_numbers(pool, keywords):
    with pytest.raises(TypeError, match="whole number, the same in both directions"):
        pool(Tensor(np.zeros((1, 3, 4, 5))), **keywords)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name, dtype):
    torch = pytest.importorskip("torch")
    shape, keywords = CASES[name]
    data = np.random.default_rng(2).integers(0, 4, shape).astype(dtype)  # with many ties
    x, y = Tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
    out, expected = max_pool2d(x, **keywords), torch.nn.functional.max_pool2d(y, **keywords)
    upstream = np.random.default_rng(3).normal(size=out.shape).astype(dtype)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    assert out.dtype == dtype and np.array_equal(out.data, expected.detach().numpy())
    assert np.allclose(x.grad, y.grad.numpy(), rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_the_mean_equals_torch(name):
    torch = pytest.importorskip("torch")
    shape, keywords = CASES[name]
    data = shuffled_linspace(*shape)
    x, y = Tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
    out, expected = avg_pool2d(x, **keywords), torch.nn.functional.avg_pool2d(y, **keywords)
    upstream = np.random.default_rng(1).normal(size=out.shape)
    out.backward(upstream), expected.backward(torch.tensor(upstream))
    assert np.allclose(out.data, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert np.allclose(x.grad, y.grad.numpy(), rtol=1e-12, atol=1e-14)
