"""batch_norm and group_norm against the definitions, central differences and torch."""

import functools
import itertools
import statistics
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import channels_first, like
from tinymrcnn.ops import batch_norm, group_norm

DTYPES = (np.float32, np.float64)
EPS = 1e-5


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def leaf(array):
    return Tensor(array, requires_grad=True)


def running(channels, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=channels), rng.uniform(0.5, 2, channels)


def inputs_of(shape, seed=0):
    return [1.5 + 2 * normal(*shape, seed=seed), normal(shape[1], seed=seed + 1), normal(shape[1], seed=seed + 2)]


def plain_normalised(values, eps=EPS):
    values = values.ravel().tolist()
    mean, var = statistics.fmean(values), statistics.pvariance(values)
    return [(value - mean) / (var + eps) ** 0.5 for value in values]


def plain_batch_norm(x, weight, bias, mean_var=None):
    out = np.zeros_like(x)
    for c in range(x.shape[1]):
        if mean_var is None:
            normalised = np.reshape(plain_normalised(x[:, c]), x[:, c].shape)
        else:
            normalised = (x[:, c] - mean_var[0][c]) / (mean_var[1][c] + EPS) ** 0.5
        out[:, c] = normalised * weight[c] + bias[c]
    return out


def plain_group_norm(x, num_groups, weight, bias):
    out, size = np.zeros_like(x), x.shape[1] // num_groups
    for n in range(len(x)):
        for g in range(num_groups):
            group = x[n, g * size : (g + 1) * size]
            out[n, g * size : (g + 1) * size] = np.reshape(plain_normalised(group), group.shape)
    return out * weight[:, None, None] + bias[:, None, None]


def train(x, weight, bias):
    """batch_norm in training, on fresh running statistics."""
    mean, var = (like(np.ones(x.shape[1], x.dtype), x.data) for _ in range(2))
    return batch_norm(x, mean, var, weight, bias, training=True)


def evaluate(x, weight, bias):
    """batch_norm with given running statistics."""
    mean, var = (like(array.astype(x.dtype), x.data) for array in running(x.shape[1]))
    return batch_norm(x, mean, var, weight, bias)


BATCH = {"a batch": (3, 4, 2, 5), "one image": (1, 4, 3, 5), "one pixel": (5, 4, 1, 1), "one channel": (3, 1, 2, 5)}
GROUP = {
    "two groups": ((2, 6, 3, 4), 2),
    "one group": ((2, 6, 3, 4), 1),
    "a group a channel": ((2, 6, 3, 4), 6),
    "one pixel": ((2, 6, 1, 1), 2),
    "one image": ((1, 4, 5, 2), 2),
}


# Values


@pytest.mark.parametrize("name", BATCH)
def test_batch_norm_in_training(name):
    arrays = inputs_of(BATCH[name])
    assert np.allclose(train(*map(Tensor, arrays)).data, plain_batch_norm(*arrays), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", BATCH)
def test_batch_norm_in_evaluation(name):
    arrays = inputs_of(BATCH[name])
    expected = plain_batch_norm(*arrays, running(BATCH[name][1]))
    assert np.allclose(evaluate(*map(Tensor, arrays)).data, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", GROUP)
def test_group_norm(name):
    shape, groups = GROUP[name]
    arrays = inputs_of(shape)
    x, weight, bias = map(Tensor, arrays)
    expected = plain_group_norm(arrays[0], groups, *arrays[1:])
    assert np.allclose(group_norm(x, groups, weight, bias).data, expected, rtol=1e-11, atol=1e-12)


def test_running_statistics_move_towards_those_of_the_batch():
    x = np.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 1, 1, 2)  # mean 3, unbiased variance 14 / 3
    mean, var = np.array([1.0]), np.array([2.0])
    one, zero = Tensor(np.ones(1)), Tensor(np.zeros(1))
    batch_norm(Tensor(x), mean, var, one, zero, training=True, momentum=0.25)
    assert np.allclose(mean, 0.75 * 1 + 0.25 * 3) and np.allclose(var, 0.75 * 2 + 0.25 * 14 / 3)
    batch_norm(Tensor(x), mean, var, one, zero, training=False)
    assert np.allclose(mean, 1.5)  # evaluation leaves them alone


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics_keep_their_dtype(dtype):
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    x = Tensor(normal(2, 3, 4, 5).astype(dtype))
    batch_norm(x, mean, var, Tensor(np.ones(3, dtype)), Tensor(np.zeros(3, dtype)), training=True)
    assert mean.dtype == var.dtype == dtype and not np.array_equal(mean, np.zeros(3))


def test_eps_is_added_to_the_variance():
    x = Tensor(np.array([-1.0, 1.0]).reshape(2, 1, 1, 1))
    one, zero = Tensor(np.ones(1)), Tensor(np.zeros(1))
    out = batch_norm(x, np.zeros(1), np.ones(1), one, zero, training=True, eps=3.0)
    assert np.allclose(out.data.ravel(), [-0.5, 0.5])
    assert np.allclose(group_norm(x.reshape(1, 1, 1, 2), 1, one, zero, eps=3.0).data.ravel(), [-0.5, 0.5])


def test_a_constant_channel_has_no_variance_but_a_result():
    arrays = inputs_of((3, 2, 2, 5))
    arrays[0][:, 1] = 7.0
    for fn in (train, lambda x, w, b: group_norm(x, 2, w, b)):
        leaves = [leaf(array) for array in arrays]
        out = fn(*leaves)
        out.backward(normal(*out.shape, seed=9))
        assert np.allclose(out.data[:, 1], arrays[2][1])
        assert all(np.isfinite(x.grad).all() for x in leaves)


@pytest.mark.parametrize("fn", [train, lambda x, w, b: group_norm(x, 2, w, b)])
def test_a_large_mean_costs_float32_little(fn):
    arrays = inputs_of((4, 4, 6, 7))
    arrays[0] += 100
    single, double = ([leaf(array.astype(dtype)) for array in arrays] for dtype in DTYPES)
    upstream = normal(4, 4, 6, 7, seed=9)
    for leaves in (single, double):
        out = fn(*leaves)
        out.backward(upstream.astype(out.dtype))
    assert np.allclose(fn(*single).data, fn(*double).data, rtol=0, atol=1e-4)
    for a, b in zip(single, double, strict=True):
        assert np.abs(a.grad - b.grad).max() <= 1e-3 * np.abs(b.grad).max()


def test_group_norm_keeps_its_input_and_no_other_map():
    x = leaf(channels_first(normal(2, 3, 5, 4)))
    out = group_norm(x, 2, leaf(np.ones(4)), leaf(np.zeros(4)))
    held = [cell.cell_contents for cell in out.node.backward.__closure__]
    (kept,) = [array for array in held if isinstance(array, np.ndarray) and array.size >= x.size]
    assert np.shares_memory(kept, x.data)


# Gradients


@pytest.mark.gradcheck
@pytest.mark.parametrize("fn", [train, evaluate])
@pytest.mark.parametrize("name", BATCH)
def test_gradients_of_batch_norm(name, fn, check_gradients):
    check_gradients(
        f"batch_norm, {'training' if fn is train else 'evaluation'}",
        fn,
        lambda rng: [leaf(array) for array in inputs_of(BATCH[name], int(rng.integers(99)))],
    )


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", GROUP)
def test_gradients_of_group_norm(name, check_gradients):
    shape, groups = GROUP[name]
    check_gradients(
        "group_norm",
        lambda x, weight, bias: group_norm(x, groups, weight, bias),
        lambda rng: [leaf(array) for array in inputs_of(shape, int(rng.integers(99)))],
    )


# With what follows in a residual block


def block_end(fn, relu):
    """fn with a fourth input that is added to its result, and perhaps a ReLU."""
    mean, var = running(4)

    def whole(x, weight, bias, residual):
        statistics = (like(array.astype(x.dtype), x.data) for array in (mean, var))
        return batch_norm(x, *statistics, weight, bias, fn is train, residual=residual, relu=relu)

    return whole


def block_inputs(seed=0):
    return [*inputs_of((3, 4, 2, 5), seed), normal(3, 4, 2, 5, seed=seed + 7)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fn", [train, evaluate])
def test_a_residual_and_a_relu_give_the_bits_of_three_passes(fn, dtype):
    *arrays, residual = (array.astype(dtype) for array in block_inputs())
    arrays[0][0, 1, 1, 2] = np.nan if fn is evaluate else 0
    alone, shortcut = block_end(fn, False)(*map(Tensor, (*arrays, 0 * residual))).data, Tensor(residual)
    assert np.array_equal(alone, fn(*map(Tensor, arrays)).data, equal_nan=True)
    for relu in (False, True):
        out = block_end(fn, relu)(*map(Tensor, arrays), shortcut).data
        expected = np.maximum(alone + residual, 0) if relu else alone + residual
        assert out.dtype == dtype and np.array_equal(out, expected, equal_nan=True)


@pytest.mark.gradcheck
@pytest.mark.parametrize("fn", [train, evaluate])
def test_gradients_with_a_residual_and_a_relu(fn, check_gradients):
    check_gradients(
        f"batch_norm, residual and relu, {'training' if fn is train else 'evaluation'}",
        block_end(fn, True),
        lambda rng: [leaf(array) for array in block_inputs(int(rng.integers(99)))],
    )


@pytest.mark.parametrize("fn", [train, evaluate])
def test_contract_with_a_residual_and_a_relu(fn, check_contract):
    check_contract(block_end(fn, True), block_inputs())


def test_with_constants_the_input_is_not_kept():
    x, mean_var = leaf(normal(2, 4, 3, 5)), running(4)
    activation = x + 1
    seen = weakref.ref(activation.data)
    out = batch_norm(activation, *mean_var, Tensor(np.ones(4)), Tensor(np.zeros(4)), relu=True)
    del activation
    assert seen() is None
    out.sum().backward()
    assert np.allclose(x.grad, (out.data > 0) / np.sqrt(mean_var[1] + EPS)[:, None, None])


def test_a_residual_of_another_shape_is_refused():
    x, weight, bias = map(Tensor, inputs_of((2, 4, 3, 5)))
    with pytest.raises(ValueError, match=r"shape of the input, \(2, 4, 3, 5\), not \(1, 4, 3, 5\)"):
        batch_norm(x, *running(4), weight, bias, residual=x[:1])


# The contract


@pytest.mark.parametrize("fn", [train, evaluate])
@pytest.mark.parametrize("shape", [*BATCH.values(), (0, 4, 2, 5)])
def test_contract_of_batch_norm(shape, fn, check_contract):
    check_contract(fn, inputs_of(shape))


@pytest.mark.parametrize(("shape", "groups"), [*GROUP.values(), ((0, 4, 2, 5), 2), ((2, 4, 0, 5), 2)])
def test_contract_of_group_norm(shape, groups, check_contract):
    check_contract(lambda x, weight, bias: group_norm(x, groups, weight, bias), inputs_of(shape))


def test_in_evaluation_the_gradient_knows_nothing_of_the_input():
    """Constants only: an input that is not finite leaves the gradient alone."""
    x, weight, bias = (leaf(array) for array in inputs_of((2, 4, 3, 5)))
    x.data[0, 1, 2, 3] = np.inf
    upstream = np.random.default_rng(1).normal(size=x.shape)
    evaluate(x, weight, bias).backward(upstream)
    expected = upstream * (weight.data / np.sqrt(running(4)[1] + 1e-5))[:, None, None]
    assert np.allclose(x.grad, expected, rtol=1e-12)


def test_an_empty_batch_leaves_the_running_statistics_alone():
    mean, var = running(4)
    before = mean.copy(), var.copy()
    x, weight, bias = (leaf(array) for array in inputs_of((0, 4, 2, 5)))
    batch_norm(x, mean, var, weight, bias, training=True).sum().backward()
    assert np.array_equal(mean, before[0]) and np.array_equal(var, before[1])
    assert np.array_equal(weight.grad, np.zeros(4)) and np.array_equal(bias.grad, np.zeros(4))


# What is refused


def test_one_value_per_channel_has_no_variance():
    with pytest.raises(ValueError, match=r"more than one value per channel.*\(1, 4, 1, 1\)"):
        train(*map(Tensor, inputs_of((1, 4, 1, 1))))


def test_groups_must_divide_the_channels():
    x, weight, bias = map(Tensor, inputs_of((2, 6, 3, 4)))
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        group_norm(x, 4, weight, bias)


@pytest.mark.parametrize("fn", [train, evaluate, lambda x, w, b: group_norm(x, 1, w, b)])
@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 3), (3,), (3,)], r"\(2, 3\)"),
        ([(2, 3, 4, 5), (1,), (3,)], r"3 channels.*\(1,\)"),  # would be broadcast silently
        ([(2, 3, 4, 5), (3,), (4,)], r"3 channels.*\(4,\)"),
    ],
)
def test_parameters_must_fit_the_channels(fn, shapes, words):
    with pytest.raises(ValueError, match=words):
        fn(*(Tensor(normal(*shape)) for shape in shapes))


# Against torch


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BATCH)
def test_batch_norm_equals_torch(name, training, dtype):
    torch = pytest.importorskip("torch")
    ours, theirs = running(BATCH[name][1]), running(BATCH[name][1])
    ours = [array.astype(dtype) for array in ours]
    theirs = [torch.tensor(array.astype(dtype)) for array in theirs]
    same_as_torch(
        lambda x, w, b: batch_norm(x, *ours, w, b, training, momentum=0.3),
        lambda x, w, b: torch.nn.functional.batch_norm(x, *theirs, w, b, training, momentum=0.3),
        inputs_of(BATCH[name]),
        dtype,
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.allclose(a, b.numpy(), rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUP)
def test_group_norm_equals_torch(name, dtype):
    torch = pytest.importorskip("torch")
    shape, groups = GROUP[name]
    same_as_torch(
        lambda x, w, b: group_norm(x, groups, w, b),
        lambda x, w, b: torch.nn.functional.group_norm(x, groups, w, b),
        inputs_of(shape),
        dtype,
    )


def same_as_torch(operator, theirs, arrays, dtype):
    torch = pytest.importorskip("torch")
    ours = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    others = [torch.tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    out, expected = operator(*ours), theirs(*others)
    upstream = normal(*out.shape, seed=5).astype(dtype)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    rtol = 3e-5 if dtype == np.float32 else 1e-11
    for a, b in [(out.data, expected.detach()), *((a.grad, b.grad) for a, b in zip(ours, others, strict=True))]:
        assert a.dtype == dtype and np.abs(a - b.numpy()).max() <= rtol * max(1, np.abs(b.numpy()).max())


# A batch that several processes share


class Meeting:
    """Adds arrays up over threads, each of which calls it equally often."""

    def __init__(self, size):
        self.barrier, self.given = threading.Barrier(size, timeout=20), []

    def __call__(self, array):
        self.given.append(array)
        self.barrier.wait()
        total = sum(self.given[1:], self.given[0])
        if self.barrier.wait() == 0:
            self.given.clear()
        self.barrier.wait()
        return total


@pytest.mark.parametrize("cuts", [(3,), (1, 3), (0, 4)])
@pytest.mark.parametrize("relu", [False, True])
def test_shares_of_a_batch_are_normalised_as_the_whole(cuts, relu):
    """Results, running statistics, the input's gradients; and those of weight and bias, added. A share may be empty."""
    (x, weight, bias), residual, upstream = inputs_of((5, 3, 2, 4)), normal(5, 3, 2, 4, seed=8), normal(5, 3, 2, 4)

    def step(some, across=None):
        leaves = [leaf(x[some]), leaf(weight), leaf(bias), leaf(residual[some])]
        averages = running(3)
        out = batch_norm(*leaves[:1], *averages, *leaves[1:3], True, residual=leaves[3], relu=relu, across=across)
        out.backward(upstream[some])
        return out.data, averages, [each.grad for each in leaves]

    meeting, parts = Meeting(len(cuts) + 1), [slice(*ends) for ends in itertools.pairwise((0, *cuts, 5))]
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(lambda some: step(some, meeting), parts))
    out, averages, gradients = step(slice(None))
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-13)
    close(np.concatenate([each[0] for each in found]), out)
    for each in found:
        close(each[1], averages)
    for index in (0, 3):
        close(np.concatenate([each[2][index] for each in found]), gradients[index])
    for index in (1, 2):
        close(sum(each[2][index] for each in found), gradients[index])


def test_in_evaluation_nothing_is_shared():
    x, weight, bias = map(leaf, inputs_of((2, 3, 2, 4)))
    expected = batch_norm(x, *running(3), weight, bias).data
    assert np.array_equal(batch_norm(x, *running(3), weight, bias, across=Meeting(2)).data, expected)
