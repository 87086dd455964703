"""The corners of the engine's operators: ties, NaN, comparisons, what is refused; and what belongs to a thread."""

import threading

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor, cat, maximum, minimum, no_grad, record, stack, where
from tinymrcnn.autograd.graph import watching
from tinymrcnn.backend import to_device
from tinymrcnn.threads import spread


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


def gradients(fn, *values, upstream=None):
    """The gradients of fn at these values, for an upstream gradient of 1, 2, 3, ... if none is given."""
    leaves = [leaf(value) for value in values]
    out = fn(*leaves)
    out.backward(np.arange(1.0, 1 + out.size).reshape(out.shape) if upstream is None else np.array(upstream))
    return [x.grad.tolist() for x in leaves]


# Ties, NaN and the other corners


def test_equal_maxima_share_the_gradient():
    assert gradients(lambda x: x.max(), [3.0, 1, 3, 3, 2], upstream=6.0) == [[2, 0, 2, 2, 0]]
    assert gradients(lambda x: x.min(), [[1.0, 2], [1, 1]], upstream=3.0) == [[[1, 0], [1, 1]]]
    assert gradients(lambda x: x.amax(1), [[1.0, 5, 5], [7, 0, 7]], upstream=[4.0, 6]) == [[[0, 2, 2], [3, 0, 3]]]
    assert gradients(lambda x: x.amin((0, 2), keepdim=True), [[[1.0, 2]], [[1, 1]]], upstream=[[[9.0]]]) == [
        [[[3, 0]], [[3, 3]]]
    ]


def test_the_maximum_of_equal_numbers_gives_each_half():
    assert gradients(maximum, [1.0, 2, 3], [1.0, 5, 0]) == [[0.5, 0, 3], [0.5, 2, 0]]
    assert gradients(minimum, [1.0, 2, 3], [1.0, 5, 0]) == [[0.5, 2, 0], [0.5, 0, 3]]
    assert gradients(lambda x: maximum(x, 0), [-1.0, 0, 2]) == [[0, 1, 3]]  # 0 meets 0: half of 2


def test_a_nan_is_a_maximum_and_takes_the_gradient():
    x = [1.0, np.nan, 3.0]
    assert np.isnan(leaf(x).max().item()) and np.isnan(leaf(x).amin(0).item())
    assert gradients(lambda x: x.max(), x, upstream=2.0) == [[0, 2, 0]]
    y = leaf([np.nan, 1, 1])
    assert np.isnan(maximum(leaf(x), y).data).tolist() == [True, True, False]
    assert np.isnan(minimum(leaf(x), y).data).tolist() == [True, True, False]


def test_a_maximum_over_nothing():
    for bad in (lambda x: x.max(), lambda x: x.amin(), lambda x: x.amax(0)):
        with pytest.raises(ValueError, match=r"Nothing has no (max|min): the shape is \(0, 3\)"):
            bad(Tensor(np.zeros((0, 3))))


def test_where_takes_each_gradient_to_the_side_that_was_chosen():
    condition = np.array([True, False, True])
    assert gradients(lambda a, b: where(condition, a, b), [1.0, 2, 3], [4.0, 5, 6]) == [[1, 0, 3], [0, 2, 0]]
    assert gradients(lambda a, b: where(condition, a, b), [1.0, 2, 3], 4.0) == [[1, 0, 3], 2]
    tall = np.array([[True], [False]])  # the condition broadcasts too
    assert gradients(lambda a: where(tall, a, 0.0), [1.0, 2, 3]) == [[1, 2, 3]]
    assert where(tall, leaf([1.0, 2]), -1.0).data.tolist() == [[1, 2], [-1, -1]]
    nan = gradients(lambda a: where(a > 0, a, 0.0), [np.nan, 1.0], upstream=[np.inf, 1])
    assert nan == [[0, 1]]  # an infinite gradient times 0 would be NaN


def test_clip_lets_the_gradient_through_between_its_bounds():
    assert gradients(lambda x: x.clip(0, 1), [-1.0, 0, 0.5, 1, 2]) == [[0, 0, 3, 0, 0]]
    assert gradients(lambda x: x.clip(max=1), [-np.inf, 0.9, 1, 2]) == [[1, 2, 0, 0]]
    assert gradients(lambda x: x.clip(min=1), [np.inf, 0.9, 1, 2]) == [[1, 0, 0, 4]]
    assert np.isnan(leaf([np.nan]).clip(0, 1).data).all()
    with pytest.raises(ValueError, match="min or max"):
        leaf([1.0]).clip()


def test_slopes_at_0():
    assert gradients(lambda x: x.abs(), [-2.0, 0, 2]) == [[-1, 0, 3]]
    assert gradients(abs, [-2.0, 0, 2]) == [[-1, 0, 3]]
    with np.errstate(divide="ignore"):
        assert gradients(lambda x: x.sqrt(), [0.0, 4]) == [[np.inf, 0.5]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [0, 0.0])
def test_the_slope_of_x_to_the_power_of_0_is_0_everywhere(exponent, dtype):
    x = leaf([0, 2, -3, np.inf, np.nan], dtype)
    with np.errstate(all="raise"):
        out = x**exponent
        out.backward(np.array([1, np.inf, 1, 1, 1], dtype))
    assert out.data.tolist() == [1] * 5 and x.grad.tolist() == [0] * 5 and x.grad.dtype == dtype
    assert gradients(lambda x: x**1, [0.0, 2]) == [[1, 2]]
    assert gradients(lambda x: x**2, [0.0, 3]) == [[0, 12]]


# Comparisons


def test_comparisons_are_plain_arrays_of_bool():
    x, y = leaf([1.0, 2, 3]), leaf([3.0, 2, 1])
    for answer, expected in (
        (x == y, [False, True, False]),
        (x != y, [True, False, True]),
        (x < y, [True, False, False]),
        (x <= y, [True, True, False]),
        (x > y, [False, False, True]),
        (x >= 2, [False, True, True]),
        (2 > x, [True, False, False]),
        (np.array([1.0, 1, 1]) == x, [True, False, False]),
        (np.array([2.0, 2, 2]) < x, [False, False, True]),
        (x == np.array([1, 0, 3]), [True, False, True]),  # the dtype of the other does not matter
        (x == np.array([[1.0], [2.0]]), [[True, False, False], [False, True, False]]),
    ):
        assert type(answer) is np.ndarray and answer.dtype == bool and answer.tolist() == expected
    assert x[x > 1].data.tolist() == [2, 3]


def test_what_is_no_operand_is_unequal():
    x = leaf([1.0])
    assert (x == None) is False and (x != "one") is True  # noqa: E711
    with pytest.raises(TypeError, match="not supported"):
        x < "one"  # noqa: B015


def test_tensors_are_hashed_by_identity():
    x, y = leaf([1.0, 2]), leaf([1.0, 2])
    assert len({x, y, x}) == 2 and x in [y, x][1:]


def test_only_one_number_is_true_or_false():
    assert Tensor(2.0) and not Tensor([0.0])
    with pytest.raises(ValueError, match="more than one element"):
        bool(leaf([1.0, 2]))


def test_comparisons_on_a_device_stay_there(fake_device):
    x = Tensor(to_device(np.array([1.0, 2]), "fake"), requires_grad=True)
    assert isinstance(x > 1.5, fake_device) and isinstance(x == x, fake_device)
    where(x > 1.5, x, 0.0).sum().backward()
    assert fake_device.copies == 0
    with pytest.raises(TypeError, match="mixes"):
        x < np.ones(2)  # noqa: B015


# What is refused, in a sentence


@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        (lambda x: cat([Tensor(np.zeros(0)), x], 1), ValueError, r"cat along 1.*(0,).*|out of bounds"),
        (lambda x: cat([x, Tensor(np.zeros(0))], 1), ValueError, r"cat along 1 got Tensors of the shapes"),
        (lambda x: cat(x), TypeError, "cat takes a list or tuple of Tensors"),
        (lambda x: stack(x), TypeError, "stack takes a list or tuple of Tensors"),
        (lambda x: stack([]), ValueError, "at least one"),
        (lambda x: stack([x, x[:1]]), ValueError, "the shapes"),
        (lambda x: x.permute(0), ValueError, r"every axis once.*\(2, 3\)"),
        (lambda x: x.permute(0, 0), ValueError, "repeated axis"),
        (lambda x: x.transpose(0, 2), ValueError, "out of bounds"),
        (lambda x: x.flatten(2), ValueError, "out of bounds"),
        (lambda x: x.unsqueeze(4), ValueError, "out of bounds"),
    ],
)
def test_shapes_that_do_not_fit(fn, error, words):
    with pytest.raises(error, match=words):
        fn(Tensor(np.zeros((2, 3))))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + 0.5,
        lambda x: 0.5 * x,
        lambda x: x / 2,
        lambda x: 2 / x,
        lambda x: x**0.5,
        lambda x: x**-1,
        lambda x: x.exp(),
        lambda x: x.log(),
        lambda x: x.sqrt(),
        lambda x: x.tanh(),
        lambda x: x.mean(),
        lambda x: maximum(x, 0.5),
    ],
)
def test_integers_that_would_become_floats(fn):
    with pytest.raises(TypeError, match=r"'\w+' takes .*int(32|64).*another dtype"):
        fn(Tensor(np.array([1, 2], np.int32)))


def test_integers_stay_integers():
    x = Tensor(np.array([1, -2], np.int32))
    for out, expected in (
        (x + 1, [2, -1]),
        (x * x, [1, 4]),
        (x**2, [1, 4]),
        (x.abs(), [1, 2]),
        (maximum(x, 0), [1, 0]),
    ):
        assert out.dtype == np.int32 and out.data.tolist() == expected
    assert (Tensor(np.array([True, False])) == True).tolist() == [True, False]  # noqa: E712


def test_a_single_number_has_an_axis_0_as_in_pytorch():
    x = leaf(3.0)
    for fn in (
        lambda x: x.sum(0),
        lambda x: x.mean(-1),
        lambda x: x.transpose(0, 0),
        lambda x: x.amax(0, keepdim=True),
        lambda x: x.permute(),
        lambda x: x.squeeze(0),
    ):
        x.grad = None
        out = fn(x)
        assert out.shape == () and out.item() == 3
        out.backward()
        assert x.grad == 1
    assert x.flatten().shape == (1,) and x.unsqueeze(0).shape == (1,)
    with pytest.raises(ValueError, match="out of bounds"):
        x.sum(1)


def test_an_index_with_a_slice_between_orders_the_axes_as_numpy_does():
    array = np.arange(24.0).reshape(2, 3, 4)
    x = leaf(array)
    out = x[0, :, [0, 1]]
    assert out.shape == (2, 3) and np.array_equal(out.data, array[0, :, [0, 1]])
    out.backward(np.ones((2, 3)))
    assert np.array_equal(x.grad[0, :, :2], np.ones((3, 2))) and x.grad.sum() == 6


def test_an_operator_may_have_any_name():
    x = leaf([1.0])
    y = record(x.data * 1, (x,), lambda grad, needs: (grad,), "leaf")
    assert not y.is_leaf and y.node.name == "leaf"
    y.backward()
    assert not y.is_leaf and x.is_leaf and x.grad.tolist() == [1]
    with pytest.raises(RuntimeError, match="'leaf' a second time"):
        y.backward()


# What belongs to a thread


def test_no_grad_in_one_thread_does_not_stop_the_recording_in_another():
    inside, done = threading.Event(), threading.Event()
    seen = {}

    def evaluate():
        with no_grad():
            inside.set()
            done.wait(10)
            seen["evaluation"] = (x * 2).requires_grad

    x = leaf([1.0, 2])
    thread = threading.Thread(target=evaluate)
    thread.start()
    inside.wait(10)
    seen["training"] = (x * 2).requires_grad
    with no_grad():
        done.set()
        thread.join()
        seen["here"] = (x * 2).requires_grad
    assert seen == {"training": True, "evaluation": False, "here": False}
    assert (x * 2).requires_grad


def test_a_new_thread_records():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((leaf([1.0]) * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_the_helpers_of_spread_take_over_no_grad():
    x, seen = leaf([1.0]), []
    with no_grad():
        spread(lambda index: seen.append((x * 2).requires_grad), 8, x.data)
    assert seen == [False] * 8


def test_a_generator_that_leaves_no_grad_elsewhere_does_no_harm():
    @no_grad()
    def double(x):
        return x * 2

    def results():
        with no_grad():
            yield 1

    steps = results()
    next(steps)
    assert not (leaf([1.0]) * 2).requires_grad
    steps.close()
    assert (leaf([1.0]) * 2).requires_grad and not double(leaf([1.0])).requires_grad


def test_watching_sees_every_operator_of_its_thread_with_its_name():
    seen, others = [], []

    def watch(name, data, parents, backward):
        seen.append((name, data.shape, len(parents)))
        return lambda grad, needs: tuple(part * 10 for part in backward(grad, needs) if part is not None)

    x = leaf(np.ones((2, 3)))
    with pytest.raises(ZeroDivisionError), watching(watch):
        thread = threading.Thread(target=lambda: others.append(x * 2))
        thread.start()
        thread.join()
        x.exp().sum().backward()
        raise ZeroDivisionError
    assert seen == [("exp", (2, 3), 1), ("sum", (), 1)] and len(others) == 1
    assert np.allclose(x.grad, 100 * np.e)  # twice through the wrapped closures
    x.exp()
    assert len(seen) == 2


# The contract of tests/operator_contract.py


@pytest.mark.parametrize(
    ("fn", "shapes", "elementwise"),
    [
        (lambda a: a.abs().sqrt(), [(2, 3, 4, 5)], True),
        (lambda a: a.tanh(), [(2, 3, 4, 5)], True),
        (lambda a: a.abs(), [(2, 3, 4, 5)], True),
        (lambda a: a.clip(-0.5, 0.5), [(2, 3, 4, 5)], True),
        (maximum, [(2, 3, 4, 5), (2, 3, 4, 5)], True),
        (minimum, [(2, 3, 4, 5), (4, 1)], True),
        (lambda a, b: where(a > 0.1, a, b), [(2, 3, 4, 5), (2, 3, 4, 5)], True),
        (lambda a: a.amax(1), [(2, 3, 4, 5)], True),
        (lambda a: a.amin((2, 3), keepdim=True), [(2, 3, 4, 5)], True),
        (lambda a: a.max(), [(2, 3, 4)], True),
        (lambda a, b: stack([a, b], 1), [(2, 3), (2, 3)], True),
        (lambda a, b: a @ b, [(2, 3, 4), (4, 5)], True),
        (lambda a, b: a @ b, [(3, 4), (2, 4, 5)], True),
    ],
)
def test_contract(fn, shapes, elementwise, check_contract):
    rng = np.random.default_rng(0)
    check_contract(fn, [rng.normal(size=shape) for shape in shapes], elementwise=elementwise)


# Against torch

TIES = np.array([[1.0, 3, 3, -2], [0, 0, -0.0, 0], [2, -1, 2, 2]])
WITH_NAN = np.array([[1.0, np.nan, 3, 3], [0, 0, -1, 1], [np.nan, np.nan, 5, 5]])
OTHER = np.array([[1.0, 2, 3, -2], [0, -1, 0, 1], [-2, np.nan, 5, 0]])
SAME_AS_TORCH = {  # name -> (ours, theirs, inputs)
    "max": (lambda x: x.max(), lambda torch, x: x.max(), [TIES]),
    "min": (lambda x: x.min(), lambda torch, x: x.min(), [TIES]),
    "max, NaN": (lambda x: x.max(), lambda torch, x: x.max(), [WITH_NAN]),
    "amax": (lambda x: x.amax(1), lambda torch, x: x.amax(1), [TIES]),
    "amin": (lambda x: x.amin((0, 1), keepdim=True), lambda torch, x: x.amin((0, 1), keepdim=True), [TIES]),
    "maximum": (maximum, lambda torch, x, y: torch.maximum(x, y), [TIES, OTHER]),
    "minimum": (minimum, lambda torch, x, y: torch.minimum(x, y), [WITH_NAN, OTHER]),
    "where": (
        lambda x, y: where(x > y, x, y),
        lambda torch, x, y: torch.where(x > y, x, y),
        [WITH_NAN, OTHER[:, :1]],
    ),
    "clip": (lambda x: x.clip(0, 2), lambda torch, x: x.clip(0, 2), [WITH_NAN]),
    "abs": (lambda x: x.abs(), lambda torch, x: x.abs(), [TIES]),
    "tanh": (lambda x: x.tanh(), lambda torch, x: x.tanh(), [TIES]),
    "sqrt": (lambda x: x.abs().sqrt(), lambda torch, x: x.abs().sqrt(), [TIES[::2]]),
    "pow 0": (lambda x: x**0, lambda torch, x: x**0, [WITH_NAN]),
    "stack": (lambda x, y: stack([x, y], -1), lambda torch, x, y: torch.stack([x, y], -1), [TIES, OTHER]),
    "matmul": (lambda x, y: x @ y, lambda torch, x, y: x @ y, [TIES.reshape(3, 1, 2, 2), TIES[:2].reshape(4, 2, 1)]),
    "matmul of vectors": (lambda x, y: x @ y, lambda torch, x, y: x @ y, [TIES[0], TIES[2]]),
    "matmul by a vector": (lambda x, y: x @ y, lambda torch, x, y: x @ y, [TIES, TIES[2]]),
    "matmul of a vector": (lambda x, y: x @ y, lambda torch, x, y: x @ y, [TIES[0], TIES.reshape(1, 4, 3)]),
    "squeeze": (lambda x: x.squeeze(0), lambda torch, x: x.squeeze(0), [TIES[None]]),
    "unsqueeze": (lambda x: x.unsqueeze(-1), lambda torch, x: x.unsqueeze(-1), [TIES]),
}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_equals_torch(name, dtype):
    torch = pytest.importorskip("torch")
    ours, theirs, arrays = SAME_AS_TORCH[name]
    leaves = [leaf(array, dtype) for array in arrays]
    others = [torch.tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    out, expected = ours(*leaves), theirs(torch, *others)
    assert out.shape == tuple(expected.shape) and out.dtype == dtype
    upstream = np.random.default_rng(0).normal(size=out.shape).astype(dtype)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    pairs = [(out.data, expected.detach()), *((a.grad, b.grad) for a, b in zip(leaves, others, strict=True))]
    for a, b in pairs:
        assert np.allclose(a, b.numpy(), rtol=1e-5 if dtype == "float32" else 1e-12, equal_nan=True)
