"""The gradient checker itself: it accepts what is right, and planted bugs do not get past it."""

import re

import numpy as np
import pytest

from tinymrcnn import gradcheck
from tinymrcnn.autograd import GradcheckError, NondifferentiableError, Tensor, record
from tinymrcnn.autograd.gradcheck import worst_relative_error

pytestmark = pytest.mark.gradcheck


def leaf(*shape, seed=0, scale=1.0, dtype=np.float64):
    return Tensor((scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype), requires_grad=True)


def operator(forward, *derivatives):
    """An operator of plain array functions: forward(*arrays), and for each input derivative(grad, *arrays)."""

    def call(*tensors):
        arrays = [tensor.data for tensor in tensors]

        def backward(grad, needs):
            return tuple(derivative(grad, *arrays) for derivative in derivatives)

        return record(np.asarray(forward(*arrays)), tensors, backward, "tested")

    return call


def plain_softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def softmax_gradient(grad, x):
    p = plain_softmax(x)
    return p * (grad - (grad * p).sum(1, keepdims=True))


softmax = operator(plain_softmax, softmax_gradient)
square = operator(lambda x: x**2, lambda g, x: 2 * x * g)
product = operator(lambda x, y: x * y, lambda g, x, y: g * y, lambda g, x, y: g * x)


def with_one_element_wrong(grad, x):
    result = 2 * x * grad
    result[(0,) * x.ndim] += 1e-3 * np.abs(result).max()
    return result


# What is right is accepted


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (1, 7), (2, 3, 4), (5,), ()])
def test_a_right_gradient_is_accepted(shape, full):
    assert gradcheck(square, [leaf(*shape)], full=full) is True
    assert gradcheck(product, [leaf(*shape), leaf(*shape, seed=1)], full=full) is True


def test_the_error_that_is_returned_is_small_but_measured():
    assert 0 < worst_relative_error(softmax, [leaf(3, 5)]) < 1e-8


def test_several_outputs_and_inputs_that_need_no_gradient():
    def both(x, constant, factor):
        return x * constant * factor, (x * x).sum()

    assert gradcheck(both, [leaf(2, 3), Tensor(np.ones((2, 3))), 5])


def test_the_inputs_are_left_as_they_were():
    x = leaf(2, 3)
    before = x.data.copy()
    gradcheck(square, [x])
    assert np.array_equal(x.data, before) and x.grad is None


@pytest.mark.parametrize("full", [False, True])
def test_a_gradient_that_is_zero_everywhere(full):
    assert gradcheck(lambda x: softmax(x).sum(), [leaf(4, 5)], full=full)  # zero but for rounding
    assert gradcheck(lambda x: x * 0, [leaf(4, 5)], full=full)
    assert gradcheck(lambda x: Tensor(np.ones(3)), [leaf(4, 5)], full=full)  # does not depend on x at all


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e-6, 1e6, 1e12])
def test_huge_and_tiny_gradients(scale):
    assert gradcheck(lambda x: softmax(x) * scale, [leaf(4, 5)])
    assert gradcheck(lambda x: x**2 * scale, [leaf(4, 5)], full=True)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge_inputs(scale):
    assert gradcheck(square, [leaf(3, 4, scale=scale)])


def test_empty_inputs_and_outputs():
    assert gradcheck(square, [leaf(0, 4)])
    assert gradcheck(product, [leaf(0, 4), leaf(0, 4)])
    assert gradcheck(lambda x: x[:0], [leaf(3, 4)])
    assert gradcheck(lambda x: x.sum(), [leaf(0, 4)])


def test_a_kink_that_is_far_away_does_no_harm():
    relu = operator(lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0))
    assert gradcheck(relu, [Tensor(np.array([[-1.0, 0.5, 2.0], [-0.1, 0.1, 3.0]]), requires_grad=True)])


# Planted bugs are not

BUGS = {  # name -> (operator, shapes of its inputs)
    # sum(softmax) is constant: a checker whose upstream gradient is all ones finds nothing wrong with this
    "zeroed softmax": (operator(plain_softmax, lambda g, x: np.zeros_like(x)), [(3, 5)]),
    "zeroed square": (operator(lambda x: x**2, lambda g, x: np.zeros_like(x)), [(3, 5)]),
    "forgotten upstream gradient": (operator(lambda x: x**2, lambda g, x: 2 * x), [(3, 5)]),
    "transposed": (operator(lambda x: x**2, lambda g, x: (2 * x * g).T.copy()), [(4, 4)]),
    "transposed product": (
        operator(lambda x, y: x @ y, lambda g, x, y: (g @ y.T).T.copy(), lambda g, x, y: x.T @ g),
        [(4, 4), (4, 4)],
    ),
    "scaled by 1.001": (operator(lambda x: x**2, lambda g, x: 2.002 * x * g), [(3, 5)]),
    "scaled by 1.00001": (operator(lambda x: x**2, lambda g, x: 2.00002 * x * g), [(3, 5)]),
    "wrong sign": (operator(lambda x: x**2, lambda g, x: -2 * x * g), [(3, 5)]),
    "one wrong element": (operator(lambda x: x**2, with_one_element_wrong), [(3, 5)]),
    "one wrong element of many": (operator(lambda x: x**2, with_one_element_wrong), [(50, 100)]),
    "reversed": (operator(lambda x: x**2, lambda g, x: (2 * x * g)[::-1].copy()), [(4, 3)]),
    "a shift by one": (operator(lambda x: x**2, lambda g, x: np.roll(2 * x * g, 1, axis=1)), [(3, 5)]),
    "the inputs exchanged": (operator(lambda x, y: x * y, lambda g, x, y: g * x, lambda g, x, y: g * y), [(3, 5)] * 2),
    "the second input wrong": (
        operator(lambda x, y: x / y, lambda g, x, y: g / y, lambda g, x, y: g * x / y**2),
        [(3, 5)] * 2,
    ),
    "a missing gradient": (operator(lambda x: x**2, lambda g, x: None), [(3, 5)]),
    "a missing sum over copies": (
        operator(lambda x: np.broadcast_to(x, (4, 3)) + 0, lambda g, x: g[:1].copy()),
        [(1, 3)],
    ),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_rejected(name, full):
    fn, shapes = BUGS[name]
    with pytest.raises(GradcheckError) as caught:
        gradcheck(fn, [leaf(*shape, seed=i) for i, shape in enumerate(shapes)], full=full)
    assert not isinstance(caught.value, NondifferentiableError)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e-6, 1e6, 1e12])
def test_a_bug_is_rejected_at_every_scale(scale):
    zeroed = operator(lambda x: scale * x**2, lambda g, x: 0 * x)
    scaled = operator(lambda x: scale * x**2, lambda g, x: 2.002 * scale * x * g)
    for fn in (zeroed, scaled):
        with pytest.raises(GradcheckError):
            gradcheck(fn, [leaf(3, 5)])


def test_a_sum_of_ones_would_not_have_found_the_zeroed_softmax():
    zeroed, _ = BUGS["zeroed softmax"]
    assert gradcheck(lambda x: zeroed(x).sum(), [leaf(3, 5)])


def test_the_wrong_dtype_of_a_gradient():
    single = operator(lambda x: x**2, lambda g, x: (2 * x * g).astype(np.float32))
    with pytest.raises(GradcheckError, match="dtype float32.*float64"):
        gradcheck(single, [leaf(3, 5)])


def test_the_wrong_dtype_of_an_output():
    single = operator(lambda x: (x**2).astype(np.float32), lambda g, x: 2 * x * g)
    with pytest.raises(TypeError, match="made float32 out of float64"):
        gradcheck(single, [leaf(3, 5)])
    with pytest.raises(GradcheckError, match="output is float32"):
        gradcheck(lambda x: (x * x, Tensor(np.ones(2, np.float32))), [leaf(3, 5)])


@pytest.mark.parametrize("shape", [(5, 3), (15,), (1, 3, 5)])
def test_the_wrong_shape_of_a_gradient(shape):
    reshaped = operator(lambda x: x**2, lambda g, x: (2 * x * g).reshape(shape))
    with pytest.raises(GradcheckError, match=re.escape(str(shape))):
        gradcheck(reshaped, [leaf(3, 5)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite(bad):
    broken = operator(lambda x: x**2, lambda g, x: np.where(x == x.max(), bad, 2 * x * g))
    with pytest.raises(GradcheckError, match="not finite"):
        gradcheck(broken, [leaf(3, 5)])


@pytest.mark.parametrize("full", [False, True])
def test_a_forward_that_is_not_finite_beside_the_point(full):
    edge = np.array([0.5, 0.0])  # the square root has no central difference at 0
    root = operator(lambda x: np.sqrt(x), lambda g, x: g * 0.5 / np.sqrt(np.maximum(x, 1e-3)))
    with np.errstate(invalid="ignore"), pytest.raises(GradcheckError):
        gradcheck(root, [Tensor(edge, requires_grad=True)], full=full)


# Memory layout


def test_a_backward_that_reads_past_the_gaps_of_a_strided_input():
    def contiguous_only(grad, x):
        steps = np.cumprod([1, *x.shape[:0:-1]])[::-1] * x.itemsize
        return 2 * grad * np.lib.stride_tricks.as_strided(x, x.shape, steps)

    with pytest.raises(GradcheckError, match="not contiguous"):
        gradcheck(operator(lambda x: x**2, contiguous_only), [leaf(3, 5)])


def test_a_backward_that_takes_the_order_of_the_memory_for_that_of_the_axes():
    in_memory_order = operator(lambda x: x**2, lambda g, x: 2 * g * x.ravel(order="K").reshape(x.shape))
    with pytest.raises(GradcheckError, match="not contiguous"):
        gradcheck(in_memory_order, [leaf(3, 5)])


def test_strided_inputs_are_handled():
    wide = np.random.default_rng(0).normal(size=(6, 10))
    for view in (wide[::2, ::-1], wide.T, wide[1:4, 2:7]):
        assert gradcheck(square, [Tensor(view, requires_grad=True)])


# Kinks


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["relu", "absolute"])
def test_a_kink_is_told_apart_from_a_bug(name, full):
    fn = {
        "relu": operator(lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0)),
        "absolute": operator(np.abs, lambda g, x: g * np.sign(x)),
    }[name]
    x = leaf(3, 4)
    x.data[1, 2] = 0
    if name == "absolute":
        x.data[1, 2] = 3e-7  # not on the kink, but within the step
    with pytest.raises(NondifferentiableError, match=r"input 0 at index \(1, 2\).*kink"):
        gradcheck(fn, [x], full=full)


def test_a_bug_beside_a_kink_is_found_once_the_kink_is_avoided():
    relu_doubled = operator(lambda x: np.maximum(x, 0), lambda g, x: 2 * g * (x > 0))
    with pytest.raises(GradcheckError) as caught:
        gradcheck(relu_doubled, [Tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)])
    assert not isinstance(caught.value, NondifferentiableError)


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_the_fixture_draws_again_at_a_kink(check_gradients):
    drawn = []
    relu = operator(lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0))

    def inputs(rng):
        x = rng.normal(size=4)
        x[0] = 0 if len(drawn) < 2 else 1
        drawn.append(x)
        return [Tensor(x, requires_grad=True)]

    assert check_gradients("relu", relu, inputs) < 1e-6
    assert len(drawn) == 3
    with pytest.raises(NondifferentiableError):
        check_gradients("relu", relu, lambda rng: [Tensor(np.zeros(4), requires_grad=True)])


# The message


@pytest.mark.parametrize("full", [False, True])
def test_the_message_names_input_index_and_both_values(full):
    def wrong_at_1_2(grad, x, y):
        result = grad * x
        result[1, 2] = 100
        return result

    fn = operator(lambda x, y: x * y, lambda g, x, y: g * y, wrong_at_1_2)
    with pytest.raises(GradcheckError) as caught:
        gradcheck(fn, [leaf(3, 4), leaf(3, 4, seed=1)], full=full)
    message = str(caught.value)
    found = re.search(r"input 1 at index \(1, 2\) is (\S+) by backward\(\) and (\S+) by central differences", message)
    assert found, message
    assert float(found[1]) == 100
    upstream_times_x = abs(float(found[2]))
    assert 0.5 <= upstream_times_x / abs(leaf(3, 4).data[1, 2]) <= 1.5  # the upstream gradient lies there


# Its arguments


def test_float32_inputs_are_refused():
    with pytest.raises(TypeError, match="input 1 is float32"):
        gradcheck(product, [leaf(3), leaf(3, dtype=np.float32)])


def test_an_input_must_require_a_gradient():
    with pytest.raises(ValueError, match="requires_grad=True"):
        gradcheck(square, [Tensor(np.ones(3))])
