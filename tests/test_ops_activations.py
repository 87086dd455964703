"""relu, sigmoid, softmax and log_softmax against the definitions, central differences and torch."""

import math

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.ops import log_softmax, relu, sigmoid, softmax
from tinymrcnn.ops.activations import combine

DTYPES = (np.float32, np.float64)


def normal(*shape, seed=0, scale=3.0):
    return scale * np.random.default_rng([seed, *shape]).normal(size=shape)


def plain_softmax(x, dim):
    out = np.zeros_like(x)
    lines, results = np.moveaxis(x, dim, -1), np.moveaxis(out, dim, -1)  # views
    for index in np.ndindex(lines.shape[:-1]):
        exponentials = [math.exp(value) for value in lines[index]]
        results[index] = [value / math.fsum(exponentials) for value in exponentials]
    return out


CASES = {  # name -> (operator, definition, shape)
    "relu": (relu, lambda x: np.array([max(v, 0.0) for v in x.flat]).reshape(x.shape), (2, 3, 4, 5)),
    "relu of a matrix": (relu, lambda x: np.where(x > 0, x, 0), (3, 4)),
    "sigmoid": (sigmoid, lambda x: np.array([1 / (1 + math.exp(-v)) for v in x.flat]).reshape(x.shape), (2, 3, 4, 5)),
    "sigmoid of a matrix": (sigmoid, lambda x: 1 / (1 + np.exp(-x)), (3, 4)),
    "softmax over classes": (lambda x: softmax(x, 1), lambda x: plain_softmax(x, 1), (4, 5)),
    "softmax over channels": (lambda x: softmax(x, 1), lambda x: plain_softmax(x, 1), (2, 3, 4, 5)),
    "softmax over rows": (lambda x: softmax(x, -2), lambda x: plain_softmax(x, -2), (2, 3, 4)),
    "softmax of one class": (lambda x: softmax(x, 1), np.ones_like, (3, 1)),
    "log_softmax over classes": (lambda x: log_softmax(x, 1), lambda x: np.log(plain_softmax(x, 1)), (4, 5)),
    "log_softmax over channels": (lambda x: log_softmax(x, 1), lambda x: np.log(plain_softmax(x, 1)), (2, 3, 4, 5)),
    "log_softmax over images": (lambda x: log_softmax(x, 0), lambda x: np.log(plain_softmax(x, 0)), (4, 5)),
}
EMPTY = {
    "relu": ((0, 3, 4, 5), relu),
    "sigmoid": ((0, 3, 4, 5), sigmoid),
    "softmax": ((0, 5), lambda x: softmax(x, 1)),
    "softmax of empty maps": ((2, 3, 0, 5), lambda x: softmax(x, 1)),
    "log_softmax": ((0, 5), lambda x: log_softmax(x, 1)),
    "log_softmax of empty maps": ((2, 3, 0, 5), lambda x: log_softmax(x, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    operator, definition, shape = CASES[name]
    x = normal(*shape)
    assert np.allclose(operator(Tensor(x)).data, definition(x), rtol=1e-12, atol=1e-14)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, check_gradients):
    operator, _, shape = CASES[name]
    check_gradients(name.split(" ")[0], operator, lambda rng: [Tensor(rng.normal(size=shape), requires_grad=True)])


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    operator, _, shape = CASES[name]
    check_contract(operator, [normal(*shape)], elementwise=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EMPTY)
def test_empty_inputs(name, dtype, fake_device):
    shape, operator = EMPTY[name]
    x = Tensor(np.zeros(shape, dtype), requires_grad=True)
    out = operator(x)
    out.backward(np.zeros(shape, dtype))
    assert out.shape == x.grad.shape == shape and out.dtype == x.grad.dtype == dtype
    assert operator(Tensor(fake_device(x.data))).shape == shape


def test_relu_by_hand():
    x = Tensor(np.array([-2.0, -0.0, 0.0, 3.0]), requires_grad=True)
    out = relu(x)
    assert np.array_equal(out.data, [0, 0, 0, 3])
    out.backward(np.array([5.0, 6.0, 7.0, 8.0]))
    assert np.array_equal(x.grad, [0, 0, 0, 8])  # the gradient at 0 is 0


def test_softmax_by_hand():
    out = softmax(Tensor(np.log([[1.0, 2.0, 5.0]])), 1)
    assert np.allclose(out.data, [[0.125, 0.25, 0.625]], rtol=1e-15)


def test_softmax_forgets_a_constant_and_sums_to_one():
    x = normal(4, 6)
    assert np.allclose(softmax(Tensor(x), 1).data, softmax(Tensor(x + 100), 1).data, rtol=1e-10)
    assert np.allclose(softmax(Tensor(x), 1).data.sum(1), 1)


# Extreme logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits_of_the_sigmoid(dtype):
    x = Tensor(np.array([-1e4, -100, -50, 0, 50, 100, 1e4], dtype), requires_grad=True)
    out = sigmoid(x)
    assert np.array_equal(out.data[[0, 3, 5, 6]], np.array([0, 0.5, 1, 1], dtype))
    assert math.isclose(out.data[2], math.exp(-50), rel_tol=1e-5)  # not rounded to 0 by way of 1 - 1
    out.backward(np.ones(7, dtype))
    assert np.isfinite(x.grad).all() and x.grad[3] == 0.25


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", [softmax, log_softmax])
def test_extreme_logits_of_the_softmax(operator, dtype):
    logits = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [88, 89, 90], [3e38, -3e38, 0]], dtype)
    x = Tensor(logits[:3], requires_grad=True)
    out = operator(x, 1)
    out.backward(np.array([[1, 2, 3]] * 3, dtype))
    assert np.isfinite(out.data).all() and np.isfinite(x.grad).all()
    third = np.exp(out.data[1]) if operator is log_softmax else out.data[1]
    assert np.allclose(third, 1 / 3)
    assert np.allclose(operator(Tensor(logits[:1]), 1).data, [[1, 0, 0]] if operator is softmax else [[0, -1e4, -2e4]])


def test_a_logit_of_minus_infinity_is_a_probability_of_zero():
    x = Tensor(np.array([[0.0, -np.inf, 0.0]]), requires_grad=True)
    out = softmax(x, 1)
    assert np.array_equal(out.data, [[0.5, 0, 0.5]])
    out.backward(np.array([[1.0, 2.0, 3.0]]))
    assert np.array_equal(x.grad, [[-0.5, 0, 0.5]])


@pytest.mark.parametrize("operator", [relu, sigmoid])
def test_nan_stays_nan(operator):
    """A mistake upstream must show, not vanish."""
    assert np.isnan(operator(Tensor(np.array([np.nan, 1.0]))).data[0])


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_relu_where_something_is_not_finite(fake_device, dtype, device):
    """As torch: a NaN lets its gradient through, and what a ReLU holds back is 0, even if it is infinite."""
    x = Tensor(to_device(np.array([np.nan, 1, -1, -np.inf, np.inf, 0], dtype), device), requires_grad=True)
    upstream = np.array([5, np.inf, np.inf, np.nan, np.nan, -np.inf], dtype)
    out = relu(x)
    out.backward(to_device(upstream, device))
    assert np.array_equal(out.numpy(), np.array([np.nan, 1, 0, 0, np.inf, 0], dtype), equal_nan=True)
    assert np.array_equal(to_numpy(x.grad), np.array([5, np.inf, 0, 0, np.nan, 0], dtype), equal_nan=True)


# Against torch


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name, dtype):
    torch = pytest.importorskip("torch")
    operator, _, shape = CASES[name]
    theirs = {
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "softmax": lambda x: torch.softmax(x, -2 if "rows" in name else 1),
        "log_softmax": lambda x: torch.log_softmax(x, 0 if "images" in name else 1),
    }[name.split(" ")[0]]
    array, upstream = normal(*shape).astype(dtype), normal(*shape, seed=1).astype(dtype)
    x, y = Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    out, expected = operator(x), theirs(y)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert np.allclose(out.data, expected.detach().numpy(), rtol=rtol, atol=rtol)
    assert np.allclose(x.grad, y.grad.numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", range(8))
def test_combine_in_place_and_into_a_new_array(fake_device, given, dtype, device):
    """x scale + shift + y factor, at least `lowest`, with and without each of scale, y and factor."""
    arrays = [normal(5, 3), normal(3), normal(3, seed=1), normal(5, 3, seed=1), normal(3, seed=2)]
    x, scale, shift, y, factor = (array.astype(dtype) for array in arrays)
    scale, y = scale if given & 1 else None, y if given & 2 else None
    factor = factor if given & 4 and y is not None else None
    expected = x * (1 if scale is None else scale) + shift
    expected += 0 if y is None else y * (1 if factor is None else factor)
    x, scale, shift, y, factor = (a if a is None else to_device(a, device) for a in (x, scale, shift, y, factor))
    before = to_numpy(x).copy()
    out = combine(x, scale, shift, y, factor, lowest=-1)
    assert out is not x and np.array_equal(to_numpy(x), before)
    assert to_numpy(out).dtype == dtype and np.allclose(to_numpy(out), np.maximum(expected, -1), rtol=1e-6)
    assert combine(x, scale, shift, y, factor, lowest=-1, out=x) is x
    assert np.array_equal(to_numpy(x), to_numpy(out))
