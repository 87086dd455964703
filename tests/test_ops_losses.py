"""cross_entropy, binary_cross_entropy_with_logits and smooth_l1_loss: definitions, central differences, torch."""

import math

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like
from tinymrcnn.ops import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

DTYPES = (np.float32, np.float64)
REDUCTIONS = ("mean", "sum", "none")


def normal(*shape, seed=0, scale=2.0):
    return scale * np.random.default_rng([seed, *shape]).normal(size=shape)


def classes(shape, count, seed=1):
    return np.random.default_rng(seed).integers(0, count, shape)


def probabilities(*shape, seed=1):
    """Targets of the binary cross-entropy: some 0, some 1, some between."""
    return np.clip(np.random.default_rng(seed).uniform(-0.5, 1.5, shape), 0, 1)


# Definitions, one element after the other


def plain_cross_entropy(x, target):
    out = np.zeros(target.shape)
    for index in np.ndindex(target.shape):
        logits = x[index[0], :, *index[1:]]
        out[index] = math.log(math.fsum(math.exp(value) for value in logits)) - logits[target[index]]
    return out


def plain_binary_cross_entropy(x, target):
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        p = 1 / (1 + math.exp(-x[index]))
        out[index] = -target[index] * math.log(p) - (1 - target[index]) * math.log(1 - p)
    return out


def plain_smooth_l1(x, target, beta):
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        d = abs(x[index] - target[index])
        out[index] = d**2 / (2 * beta) if d < beta else d - beta / 2
    return out


def on(x, target):
    """A target beside the Tensor x: on its device, and of its dtype if it is of floats."""
    return like(target.astype(x.dtype) if target.dtype.kind == "f" else target, x.data)


CASES = {  # name -> (loss(x, target, reduction), definition(x, target), shape of x, target)
    "cross_entropy": (cross_entropy, plain_cross_entropy, (6, 4), classes(6, 4)),
    "cross_entropy, one row": (cross_entropy, plain_cross_entropy, (1, 4), classes(1, 4)),
    "cross_entropy, one class": (cross_entropy, plain_cross_entropy, (3, 1), classes(3, 1)),
    "cross_entropy of maps": (cross_entropy, plain_cross_entropy, (2, 4, 3, 5), classes((2, 3, 5), 4)),
    "cross_entropy of lines": (cross_entropy, plain_cross_entropy, (2, 4, 3), classes((2, 3), 4)),
    "binary_cross_entropy_with_logits": (
        binary_cross_entropy_with_logits,
        plain_binary_cross_entropy,
        (6, 4),
        probabilities(6, 4),
    ),
    "binary_cross_entropy_with_logits of maps": (
        binary_cross_entropy_with_logits,
        plain_binary_cross_entropy,
        (2, 4, 3, 5),
        probabilities(2, 4, 3, 5),
    ),
}
for beta in (1.0, 1 / 9, 0, 5.0):
    CASES[f"smooth_l1_loss, beta {beta:.2g}"] = (
        lambda x, target, reduction="mean", beta=beta: smooth_l1_loss(x, target, beta=beta, reduction=reduction),
        lambda x, target, beta=beta: plain_smooth_l1(x, target, beta),
        (7, 4),
        normal(7, 4, seed=1),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_values(name, reduction):
    loss, definition, shape, target = CASES[name]
    x = normal(*shape)
    expected = definition(x, target)
    expected = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](expected)
    out = loss(Tensor(x), target, reduction=reduction)
    assert out.shape == expected.shape and np.allclose(out.data, expected, rtol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_is_the_default(name):
    loss, definition, shape, target = CASES[name]
    x = normal(*shape)
    assert np.isclose(loss(Tensor(x), target).item(), definition(x, target).mean(), rtol=1e-11)


@pytest.mark.gradcheck
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, reduction, check_gradients):
    loss, _, shape, target = CASES[name]
    check_gradients(
        name.split(",")[0].split(" ")[0],
        lambda x: loss(x, on(x, target), reduction=reduction),
        lambda rng: [Tensor(rng.normal(size=shape), requires_grad=True)],
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_contract(name, reduction, check_contract):
    loss, _, shape, target = CASES[name]
    check_contract(lambda x: loss(x, on(x, target), reduction=reduction), [normal(*shape)], elementwise=True)


# By hand


def test_cross_entropy_by_hand():
    x = Tensor(np.log([[1.0, 2.0, 1.0], [1.0, 1.0, 8.0]]), requires_grad=True)
    out = cross_entropy(x, np.array([1, 0]), reduction="sum")
    assert np.isclose(out.item(), math.log(2) + math.log(10))
    out.backward()
    assert np.allclose(x.grad, [[0.25, -0.5, 0.25], [-0.9, 0.1, 0.8]])


def test_binary_cross_entropy_by_hand():
    x = Tensor(np.array([0.0, math.log(3)]), requires_grad=True)
    out = binary_cross_entropy_with_logits(x, np.array([1.0, 0.0]))
    assert np.isclose(out.item(), (math.log(2) + math.log(4)) / 2)
    out.backward()
    assert np.allclose(x.grad, [-0.25, 0.375])


def test_smooth_l1_by_hand():
    x = Tensor(np.array([0.5, -3.0, 2.0]), requires_grad=True)
    out = smooth_l1_loss(x, np.zeros(3), beta=2.0, reduction="none")
    assert np.array_equal(out.data, [0.0625, 2.0, 1.0])
    out.backward(np.ones(3))
    assert np.array_equal(x.grad, [0.25, -1, 1])


def test_smooth_l1_with_beta_0_is_the_absolute_difference():
    x = Tensor(np.array([0.5, -3.0, 0.0]), requires_grad=True)
    out = smooth_l1_loss(x, np.zeros(3), beta=0, reduction="sum")
    assert out.item() == 3.5
    out.backward()
    assert np.array_equal(x.grad, [1, -1, 0])


# Nothing to say

EMPTY = {
    "cross_entropy": (cross_entropy, (0, 4), np.zeros(0, np.int64)),
    "cross_entropy of maps": (cross_entropy, (0, 4, 3, 5), np.zeros((0, 3, 5), np.int64)),
    "cross_entropy of empty maps": (cross_entropy, (2, 4, 0, 5), np.zeros((2, 0, 5), np.int64)),
    "binary_cross_entropy_with_logits": (binary_cross_entropy_with_logits, (0, 4), np.zeros((0, 4))),
    "smooth_l1_loss": (smooth_l1_loss, (0, 4), np.zeros((0, 4))),
    "smooth_l1_loss, beta 0": (
        lambda x, t, reduction: smooth_l1_loss(x, t, beta=0, reduction=reduction),
        (0, 4),
        np.zeros((0, 4)),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", EMPTY)
def test_a_mean_over_nothing_is_zero_with_zero_gradient(name, reduction, dtype, fake_device):
    loss, shape, target = EMPTY[name]
    for make in (np.asarray, fake_device):
        x = Tensor(make(np.zeros(shape, dtype)), requires_grad=True)
        out = loss(x, on(x, target), reduction=reduction)
        assert out.dtype == dtype
        if reduction == "none":
            assert out.size == 0
            out = out.sum()
        assert out.shape == () and out.item() == 0
        out.backward()
        assert x.grad.shape == shape and x.grad.dtype == dtype


# Extreme logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits_of_the_cross_entropy(dtype):
    x = Tensor(np.array([[1e4, -1e4], [-1e4, 1e4], [1e30, 0]], dtype), requires_grad=True)
    out = cross_entropy(x, np.array([0, 0, 0]), reduction="none")
    assert np.array_equal(out.data, np.array([0, 2e4, 0], dtype))
    out.backward(np.ones(3, dtype))
    assert np.array_equal(x.grad, [[0, 0], [-1, 1], [0, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits_of_the_binary_cross_entropy(dtype):
    x = Tensor(np.array([1e4, 1e4, -1e4, -1e4, -60], dtype), requires_grad=True)
    out = binary_cross_entropy_with_logits(x, np.array([1, 0, 1, 0, 0], dtype), reduction="none")
    assert np.array_equal(out.data[:4], np.array([0, 1e4, 1e4, 0], dtype))
    assert math.isclose(out.data[4], math.exp(-60), rel_tol=1e-5)  # not rounded to 0
    out.backward(np.ones(5, dtype))
    assert np.array_equal(x.grad[:4], [0, 1, -1, 0])


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy_with_logits, smooth_l1_loss])
def test_nan_stays_nan(loss):
    x = Tensor(np.array([[np.nan, 1.0]]))
    target = np.array([1]) if loss is cross_entropy else np.zeros((1, 2))
    assert math.isnan(loss(x, target).item())


# What is refused


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy_with_logits, smooth_l1_loss])
def test_an_unknown_reduction(loss):
    target = np.zeros(2, np.int64) if loss is cross_entropy else np.zeros((2, 3))
    with pytest.raises(ValueError, match="'average'.*'mean', 'sum' or 'none'"):
        loss(Tensor(np.zeros((2, 3))), target, reduction="average")


@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, smooth_l1_loss])
@pytest.mark.parametrize("target", [np.zeros(3), np.zeros((2, 1)), np.zeros((3, 2))])
def test_a_target_of_another_shape_is_never_broadcast(loss, target):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\("):
        loss(Tensor(np.zeros((2, 3))), target)


@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, smooth_l1_loss])
@pytest.mark.parametrize("dtype", [np.float64, np.uint8, bool])
def test_a_target_of_another_dtype(loss, dtype):
    with pytest.raises(TypeError, match=f"float32.*{np.dtype(dtype).name}"):
        loss(Tensor(np.zeros((2, 3), np.float32)), np.zeros((2, 3), dtype))


@pytest.mark.parametrize(
    ("shape", "target"),
    [((2, 3), (3,)), ((2, 3), (2, 3)), ((2, 3, 4, 5), (2, 5, 4)), ((2, 3, 4, 5), (2,)), ((3,), ())],
)
def test_class_targets_of_another_shape(shape, target):
    with pytest.raises(ValueError, match="do not fit"):
        cross_entropy(Tensor(np.zeros(shape)), np.zeros(target, np.int64))


@pytest.mark.parametrize("bad", [-1, 3, 100])
def test_a_class_out_of_range(bad):
    with pytest.raises(IndexError, match=f"{bad}.*3 classes"):
        cross_entropy(Tensor(np.zeros((2, 3))), np.array([0, bad]))


def test_classes_are_integers():
    with pytest.raises(TypeError, match="float64"):
        cross_entropy(Tensor(np.zeros((2, 3))), np.array([0.0, 1.0]))


def test_a_negative_beta():
    with pytest.raises(ValueError, match="beta"):
        smooth_l1_loss(Tensor(np.zeros(3)), np.zeros(3), beta=-1.0)


# Against torch


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name, reduction, dtype):
    torch = pytest.importorskip("torch")
    loss, _, shape, target = CASES[name]
    theirs = getattr(torch.nn.functional, name.split(",")[0].split(" ")[0])
    keywords = {"beta": {"1": 1.0, "0.11": 1 / 9, "0": 0.0, "5": 5.0}[name.split()[-1]]} if "beta" in name else {}
    x, y = (make(normal(*shape).astype(dtype), requires_grad=True) for make in (Tensor, torch.tensor))
    out = loss(x, on(x, target), reduction=reduction)
    expected = theirs(y, torch.tensor(on(x, target)), reduction=reduction, **keywords)
    upstream = np.asarray(normal(*out.shape, seed=4), dtype)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert out.dtype == dtype and np.allclose(out.data, expected.detach().numpy(), rtol=rtol, atol=rtol)
    assert np.allclose(x.grad, y.grad.numpy(), rtol=rtol, atol=rtol)
