"""The engine: every promise that the Tensor, its graph and its basic operators make."""

import contextlib
import gc
import operator
import sys
import weakref

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor, cat, maximum, minimum, no_grad, record, stack, where
from tinymrcnn.autograd.graph import Node
from tinymrcnn.backend import memory_order, to_device

DTYPES = (np.float32, np.float64)
CHANNELS_LAST = (0, 2, 3, 1)
OPERATIONS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "matmul": operator.matmul,
    "maximum": maximum,
    "minimum": minimum,
}


def leaf(*shape, dtype=np.float64, seed=0, low=0.5, high=2.0):
    return Tensor(np.random.default_rng(seed).uniform(low, high, shape).astype(dtype), requires_grad=True)


def feature_map(n=2, c=3, h=4, w=5, dtype=np.float32, seed=0):
    """A leaf of shape (n, c, h, w), channels-last in memory."""
    data = np.random.default_rng(seed).uniform(0.5, 2, (n, h, w, c)).astype(dtype)
    return Tensor(data.transpose(0, 3, 1, 2), requires_grad=True)


def spy(log, name="spy"):
    """An operator that copies its input and notes when it runs backward and what was asked of it."""

    def operator(*tensors):
        def backward(grad, needs):
            log.append((name, needs))
            return tuple(grad if need else None for need in needs)

        return record(sum(t.data for t in tensors), tensors, backward, name)

    return operator


@contextlib.contextmanager
def no_garbage_collector():
    """Within it only reference counts free memory, so that a cycle would keep its members alive."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Making Tensors


def test_numbers_and_lists_become_float32_and_arrays_keep_their_dtype():
    assert Tensor(1.5).dtype == Tensor(2).dtype == Tensor([1, 2.5]).dtype == np.float32
    for dtype in (np.float32, np.float64, np.int64, np.uint8, bool):
        assert Tensor(np.zeros((2, 3), dtype)).dtype == dtype
        assert Tensor(np.zeros((), dtype)[()]).dtype == dtype  # a NumPy scalar
        assert isinstance(Tensor(np.zeros((), dtype)[()]).data, np.ndarray)


def test_only_floats_can_require_gradients():
    with pytest.raises(TypeError, match="int64"):
        Tensor(np.arange(3), requires_grad=True)


def test_something_that_is_no_array_is_refused():
    with pytest.raises(TypeError, match="builtins.str"):
        Tensor("three")


def test_what_a_tensor_says_about_itself():
    x = leaf(2, 3)
    y = x * 2
    assert (x.shape, x.ndim, x.size, len(x)) == ((2, 3), 2, 6, 2)
    assert x.is_leaf and x.requires_grad and x.grad is None
    assert y.requires_grad and not y.is_leaf and "from=mul" in repr(y)
    assert Tensor(3.0).item() == 3.0
    assert x.numpy() is x.data
    assert x.detach().data is x.data and not x.detach().requires_grad
    assert [row.shape for row in x] == [(3,), (3,)]


# The order of the backward pass


def test_a_diamond_runs_every_node_once_and_sums_its_branches():
    log = []
    x = leaf(3)
    top = spy(log, "top")(x)
    left, right = spy(log, "left")(top * 2), spy(log, "right")(top * 3)
    spy(log, "bottom")(left, right).backward(np.ones(3))
    assert [name for name, _ in log][0] == "bottom" and [name for name, _ in log][-1] == "top"
    assert len(log) == 4
    assert np.array_equal(x.grad, [5, 5, 5])


def test_diamonds_upon_diamonds_take_linear_time():
    x = Tensor(np.ones(2), requires_grad=True)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y * 0.5 + y * 0.5
    y.sum().backward()
    assert np.array_equal(x.grad, [1, 1])


def test_a_skip_connection_of_unequal_lengths_waits_for_the_longer_way():
    x = leaf(4)
    short = x * 3
    long = ((short + 1) * 2).exp()
    (short + long).sum().backward()
    assert np.allclose(x.grad, 3 + 6 * np.exp((x.data * 3 + 1) * 2))


def test_a_chain_of_ten_thousand_nodes():
    assert sys.getrecursionlimit() < 10_000
    x = Tensor(np.float64(1), requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y + 1
    y.backward()
    assert y.item() == 10_001 and x.grad == 1


def test_a_long_chain_is_freed_without_a_backward():
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y + 1
    node = y.node
    del y, node
    assert x.grad is None


def test_a_leaf_used_several_times_gets_the_sum():
    x = leaf(3)
    (x * x + x - x / 2 + x * 3).sum().backward()
    assert np.allclose(x.grad, 2 * x.data + 1 - 0.5 + 3)


def test_the_same_operand_twice():
    x = leaf(3)
    (x * x * x).sum().backward()
    assert np.allclose(x.grad, 3 * x.data**2)


def test_graphs_without_dimensions():
    x = Tensor(np.float64(3), requires_grad=True)
    y = x * 2
    (y * y / x - y**3 + 1 / y).backward()
    assert x.grad == pytest.approx(4 - 24 * 9 - 1 / 18)
    assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()


# Accumulation and release


def test_gradients_accumulate_over_backwards_until_they_are_cleared():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    assert np.array_equal(x.grad, [5, 5, 5])
    assert isinstance(x.grad, np.ndarray)
    x.grad = None
    (x * 4).sum().backward()
    assert np.array_equal(x.grad, [4, 4, 4])


def test_accumulated_scalars_stay_arrays():
    x = Tensor(np.float32(3), requires_grad=True)
    (x * 2).backward()
    (x * 2).backward()
    assert x.grad == 4 and isinstance(x.grad, np.ndarray) and x.grad.dtype == np.float32


def test_inner_nodes_keep_no_gradient():
    x = leaf(3)
    y = x * 2
    y.sum().backward()
    assert y.grad is None and x.grad is not None
    with pytest.raises(RuntimeError, match="leaf"):
        y.grad = np.zeros(3)


def test_a_second_backward_names_the_released_operator():
    x = leaf(3)
    z = (x.exp() * 2).sum()
    z.backward()
    with pytest.raises(RuntimeError, match=r"'sum' a second time.*released.*Compute the result again"):
        z.backward()
    assert np.allclose(x.grad, 2 * np.exp(x.data))


def test_a_graph_that_shares_a_released_part_is_refused_before_anything_happens():
    log = []
    x, w = leaf(3), leaf(3, seed=1)
    shared = x.exp()
    first = (shared * 2).sum()
    second = spy(log)(w * 3).sum() + (shared * 5).sum()
    first.backward()
    after_first = x.grad.copy()
    with pytest.raises(RuntimeError, match="'exp'"):
        second.backward()
    assert log == [] and w.grad is None
    assert np.array_equal(x.grad, after_first)


def test_leaves_survive_the_release():
    x = leaf(3)
    for _ in range(3):
        (x * 2).sum().backward()
    assert np.array_equal(x.grad, [6, 6, 6])


def test_the_part_of_a_graph_that_no_gradient_reaches_is_skipped():
    log = []
    x, w = leaf(3), leaf(3, seed=1)

    def backward(grad, needs):
        return grad, None  # says nothing about its second input

    record(x.data, (x, spy(log)(w)), backward, "half").sum().backward()
    assert log == [] and w.grad is None and np.array_equal(x.grad, [1, 1, 1])


# Aliasing


def test_two_leaves_never_share_a_gradient_array():
    a, b = leaf(3), leaf(3, seed=1)
    (a + b).sum().backward()
    a.grad *= 7
    assert np.array_equal(b.grad, [1, 1, 1])
    assert not np.shares_memory(a.grad, b.grad)


def test_a_gradient_shares_no_memory_with_the_upstream_gradient():
    x = leaf(3)
    upstream = np.ones(3)
    x.backward(upstream)
    y = leaf(3)
    (y + 0).backward(upstream)
    upstream[:] = 9
    assert np.array_equal(x.grad, [1, 1, 1]) and np.array_equal(y.grad, [1, 1, 1])


def test_a_gradient_handed_out_is_not_changed_by_a_later_backward():
    x = leaf(3)
    (x * 2).sum().backward()
    kept = x.grad
    (x * 2).sum().backward()
    assert np.array_equal(kept, [2, 2, 2]) and np.array_equal(x.grad, [4, 4, 4])


def test_an_operation_never_changes_its_inputs():
    x, y = leaf(3), leaf(3, seed=1)
    before = x.data.copy(), y.data.copy()
    (x + y * x - x / y).exp().log().sum().backward()
    assert np.array_equal(x.data, before[0]) and np.array_equal(y.data, before[1])


# What backward() refuses


def test_backward_without_a_graph():
    with pytest.raises(RuntimeError, match="without a graph"):
        Tensor(1.0).backward()


def test_a_gradient_is_needed_unless_the_result_is_one_number():
    x = leaf(2, 3)
    with pytest.raises(RuntimeError, match=r"single number.*\(2, 3\)"):
        (x * 2).backward()
    (x * 2).sum((0, 1), keepdim=True).backward()  # one number of shape (1, 1)
    assert np.array_equal(x.grad, np.full((2, 3), 2))


@pytest.mark.parametrize(
    ("upstream", "error", "words"),
    [
        (np.ones((3, 2)), ValueError, r"\(3, 2\).*\(2, 3\)"),
        (np.ones((2, 3), np.float32), TypeError, "float32.*float64"),
        (Tensor(np.ones((2, 3))), TypeError, "second derivatives are not supported"),
    ],
)
def test_wrong_upstream_gradients(upstream, error, words):
    x = leaf(2, 3)
    with pytest.raises(error, match=words):
        (x * 2).backward(upstream)
    assert x.grad is None


def test_a_gradient_is_no_tensor_so_that_second_derivatives_are_impossible():
    x = leaf(3)
    (x * x).sum().backward()
    assert isinstance(x.grad, np.ndarray)
    assert not Tensor(x.grad).requires_grad


# Memory


def test_an_activation_that_no_backward_needs_is_freed_at_once():
    x = leaf(1000)
    with no_garbage_collector():
        activation = x + 1  # add needs no data at all
        seen = weakref.ref(activation.data)
        y = activation * 2  # nor does a product with a constant
        assert seen() is not None
        del activation
        assert seen() is None
        y.sum().backward()
    assert np.array_equal(x.grad, np.full(1000, 2))


def test_an_activation_that_a_backward_needs_lives_until_that_backward_has_run():
    x = leaf(1000)
    with no_garbage_collector():
        activation = x * 3
        seen = weakref.ref(activation.data)
        y = activation * activation
        del activation
        assert seen() is not None
        loss = y.sum()
        loss.backward()
        assert seen() is None  # the loss itself still lives
    assert np.allclose(x.grad, 18 * x.data)


def test_each_closure_is_released_as_soon_as_it_has_run():
    alive = []
    x = leaf(10)

    def backward(grad, needs):  # of the operator before exp, so that it runs after exp's
        alive.append(seen() is not None)
        return (grad,)

    activation = record(x.data + 0, (x,), backward, "copy").exp()  # the closure of exp captures its result
    seen = weakref.ref(activation.data)
    loss = activation.sum()
    del activation
    with no_garbage_collector():
        assert seen() is not None
        loss.backward()
    assert alive == [False]


def test_a_gradient_between_nodes_is_freed_on_the_way():
    x = leaf(1000)
    refs = []

    def remember(tensor):
        def backward(grad, needs):
            refs.append(weakref.ref(grad))
            return (grad * 2,)

        return record(tensor.data, (tensor,), backward, "watch")

    y = x
    for _ in range(5):
        y = remember(y)
    with no_garbage_collector():
        y.backward(np.ones(1000))
        assert [ref() for ref in refs] == [None] * 5
    assert np.array_equal(x.grad, np.full(1000, 32))


@pytest.mark.parametrize("backward", [True, False])
def test_there_are_no_reference_cycles(backward):
    with no_garbage_collector():
        x, w = leaf(50, 40), leaf(40, 30, seed=1)
        y = x @ w
        z = cat([(y[3:9].exp() + 1).log(), (y * y / 2 - y).reshape(100, 15)[:6].sum(1, keepdim=True) + y[:6]])
        loss = (z.mean(0) ** 2).sum()
        if backward:
            loss.backward()
        seen = [weakref.ref(array) for array in (x.data, w.data, y.data, z.data)]
        nodes = [weakref.ref(closure) for closure in (y.node.backward, z.node.backward) if closure is not None]
        del x, w, y, z, loss
        assert [ref() for ref in seen + nodes] == [None] * len(seen + nodes)


def test_a_node_refers_to_nodes_only():
    x, w = leaf(4, 3), leaf(3, 2, seed=1)
    out = ((x @ w).exp() + 1).sum()
    stack, nodes = [out.node], set()
    while stack:
        node = stack.pop()
        nodes.add(node)
        stack.extend(parent for parent in node.parents if parent is not None)
    assert {node.name for node in nodes} == {"sum", "add", "exp", "matmul", "leaf"}
    for node in nodes:
        assert all(parent is None or isinstance(parent, Node) for parent in node.parents)
        assert node.grad is None
        for cell in (node.backward.__closure__ or ()) if node.backward else ():
            assert not isinstance(cell.cell_contents, Tensor)


# no_grad


def test_no_grad_records_nothing_and_restores_the_state():
    x = leaf(3)
    with no_grad():
        assert not (x * 2).requires_grad
        with no_grad():
            pass
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError):
        with no_grad():
            raise ZeroDivisionError
    assert (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    @no_grad()
    def double(x):
        return x * 2

    x = leaf(3)
    assert not double(x).requires_grad and not double(x).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(RuntimeError, match=r"no_grad\(\)"):
        double(x).sum().backward()


def test_no_grad_keeps_no_activation():
    x = leaf(1000)
    with no_garbage_collector(), no_grad():
        activation = x * 3
        seen = weakref.ref(activation.data)
        y = activation * activation
        del activation
        assert seen() is None
    assert np.allclose(y.data, 9 * x.data**2)


# Gradients that no one needs


def test_a_backward_is_told_which_gradients_are_wanted():
    log = []
    x, frozen = leaf(3), Tensor(np.ones(3))
    spy(log)(x, frozen, x * 2, frozen * 2).sum().backward()
    assert log == [("spy", (True, False, True, False))]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("frozen", [0, 1])
def test_binary_operators_compute_no_unwanted_gradient(operation, frozen):
    operands = [leaf(3, 3), leaf(3, 3, seed=1)]
    operands[frozen] = operands[frozen].detach()
    out = OPERATIONS[operation](*operands)
    parts = out.node.backward(np.ones((3, 3)), (frozen != 0, frozen != 1))
    assert parts[frozen] is None and parts[1 - frozen].shape == (3, 3)


def test_cat_computes_no_unwanted_gradient():
    out = cat([leaf(2, 3), Tensor(np.ones((1, 3))), leaf(4, 3)])
    parts = out.node.backward(np.ones((7, 3)), (True, False, True))
    assert parts[1] is None and parts[0].shape == (2, 3) and parts[2].shape == (4, 3)


def test_a_result_of_constants_has_no_graph():
    assert not (Tensor(np.ones(3)) * 2 + Tensor(np.ones(3))).requires_grad


def test_a_factor_whose_gradient_no_one_wants_is_not_kept():
    x, constant = leaf(1000), Tensor(np.ones(1000))
    with no_garbage_collector():
        activation = x + 1
        seen = weakref.ref(activation.data)
        y = activation * constant  # the gradient of `activation` needs the constant, and no one needs activation
        del activation
        assert seen() is None
        y.sum().backward()


# Dtypes

SMOOTH = {  # name -> (function, shapes of its inputs, the same in plain NumPy)
    "add": (lambda a, b: a + b, [(3, 4), (3, 4)], np.add),
    "add a number": (lambda a: a + 2.5, [(3, 4)], lambda a: a + 2.5),
    "add to a number": (lambda a: 2 + a, [(3, 4)], lambda a: 2 + a),
    "sub": (lambda a, b: a - b, [(3, 4), (4,)], np.subtract),
    "sub from a number": (lambda a: 2.5 - a, [(3, 4)], lambda a: 2.5 - a),
    "mul": (lambda a, b: a * b, [(3, 4), (3, 1)], np.multiply),
    "mul by a number": (lambda a: 0.3 * a, [(3, 4)], lambda a: 0.3 * a),
    "div": (lambda a, b: a / b, [(2, 3, 4), (3, 4)], np.divide),
    "div by a number": (lambda a: a / 3, [(3, 4)], lambda a: a / 3),
    "div of a number": (lambda a: 2 / a, [(3, 4)], lambda a: 2 / a),
    "neg": (lambda a: -a, [(3, 4)], np.negative),
    "pow": (lambda a: a**3, [(3, 4)], lambda a: a * a * a),
    "pow, a root": (lambda a: a**0.5, [(3, 4)], np.sqrt),
    "exp": (lambda a: a.exp(), [(3, 4)], np.exp),
    "log": (lambda a: a.log(), [(3, 4)], np.log),
    "sqrt": (lambda a: a.sqrt(), [(3, 4)], lambda a: a**0.5),
    "tanh": (lambda a: a.tanh(), [(3, 4)], lambda a: (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a))),
    "abs": (lambda a: (a - 1.2).abs(), [(3, 4)], lambda a: np.where(a < 1.2, 1.2 - a, a - 1.2)),
    "clip": (
        lambda a: a.clip(0.9, 1.6),
        [(3, 4)],
        lambda a: np.array([[sorted((0.9, v, 1.6))[1] for v in r] for r in a]),
    ),
    "clip below": (lambda a: a.clip(min=1), [(3, 4)], lambda a: np.where(a < 1, 1, a)),
    "clip above": (lambda a: a.clip(max=1), [(3, 4)], lambda a: np.where(a > 1, 1, a)),
    "maximum": (maximum, [(3, 4), (3, 4)], lambda a, b: np.where(a > b, a, b)),
    "maximum, broadcast": (maximum, [(3, 4), (3, 1)], lambda a, b: np.where(a > b, a, b)),
    "maximum with a number": (lambda a: maximum(1.1, a), [(3, 4)], lambda a: np.where(a > 1.1, a, 1.1)),
    "minimum": (minimum, [(2, 3, 4), (4,)], lambda a, b: np.where(a < b, a, b)),
    "where": (
        lambda a, b: where(a > b, a * 2, b),
        [(3, 4), (4,)],
        lambda a, b: np.array([[2 * v if v > w else w for v, w in zip(r, b, strict=True)] for r in a]),
    ),
    "where, a number": (lambda a: where(a > 1, a, 0.0), [(3, 4)], lambda a: a * (a > 1)),
    "matmul": (lambda a, b: a @ b, [(3, 4), (4, 5)], lambda a, b: np.einsum("ij,jk->ik", a, b)),
    "matmul, batched": (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 5)], lambda a, b: np.einsum("bij,bjk->bik", a, b)),
    "matmul, broadcast": (
        lambda a, b: a @ b,
        [(2, 1, 3, 4), (5, 4, 2)],
        lambda a, b: np.einsum("bcij,cjk->bcik", np.broadcast_to(a, (2, 5, 3, 4)), b),
    ),
    "matmul, one filter": (lambda a, b: a @ b, [(2, 3, 4), (4, 5)], lambda a, b: np.einsum("bij,jk->bik", a, b)),
    "matmul, vectors": (lambda a, b: a @ b, [(4,), (4,)], lambda a, b: np.array(sum((a * b).tolist()))),
    "matmul, a column": (lambda a, b: a @ b, [(2, 3, 4), (4,)], lambda a, b: np.einsum("bij,j->bi", a, b)),
    "matmul, a row": (lambda a, b: a @ b, [(4,), (2, 4, 3)], lambda a, b: np.einsum("i,bij->bj", a, b)),
    "max": (lambda a: a.max(), [(3, 4)], lambda a: np.array(sorted(a.ravel().tolist())[-1])),
    "min": (lambda a: a.min(), [(3, 4)], lambda a: np.array(sorted(a.ravel().tolist())[0])),
    "amax over one dim": (lambda a: a.amax(1), [(3, 4, 2)], lambda a: np.sort(a, 1)[:, -1]),
    "amax over two dims": (
        lambda a: a.amax((0, -1)),
        [(3, 4, 2)],
        lambda a: np.sort(a.transpose(1, 0, 2).reshape(4, 6))[:, -1],
    ),
    "amin, keepdim": (lambda a: a.amin(-2, keepdim=True), [(3, 4, 2)], lambda a: np.sort(a, 1)[:, :1]),
    "sum": (lambda a: a.sum(), [(3, 4)], lambda a: np.array(sum(a.ravel().tolist()))),
    "sum over one dim": (lambda a: a.sum(1), [(3, 4, 2)], lambda a: np.einsum("ijk->ik", a)),
    "sum over two dims": (lambda a: a.sum((0, -1)), [(3, 4, 2)], lambda a: np.einsum("ijk->j", a)),
    "sum, keepdim": (lambda a: a.sum(-2, keepdim=True), [(3, 4, 2)], lambda a: np.einsum("ijk->ik", a)[:, None]),
    "mean": (lambda a: a.mean(), [(3, 4)], lambda a: np.array(sum(a.ravel().tolist()) / 12)),
    "mean over dims": (lambda a: a.mean((0, 2)), [(3, 4, 2)], lambda a: np.einsum("ijk->j", a) / 6),
    "reshape": (lambda a: a.reshape(2, -1), [(3, 4)], lambda a: np.array(a.ravel().tolist()).reshape(2, 6)),
    "flatten": (lambda a: a.flatten(1), [(3, 4, 2)], lambda a: np.array([row.ravel() for row in a])),
    "permute": (lambda a: a.permute(2, 0, 1), [(3, 4, 2)], lambda a: np.einsum("ijk->kij", a)),
    "transpose": (lambda a: a.transpose(0, -1), [(3, 4, 2)], lambda a: np.einsum("ijk->kji", a)),
    "T": (lambda a: a.T, [(3, 4)], lambda a: np.einsum("ij->ji", a)),
    "getitem, a slice": (lambda a: a[1:, ::2], [(3, 4)], lambda a: np.array([[r[0], r[2]] for r in a[1:]])),
    "getitem, a number": (lambda a: a[1], [(3, 4)], lambda a: np.array(a.tolist()[1])),
    "getitem, one element": (lambda a: a[1, 2], [(3, 4)], lambda a: np.array(a.tolist()[1][2])),
    "getitem, new axis": (lambda a: a[:, None], [(3, 4)], lambda a: a.reshape(3, 1, 4)),
    "getitem, repeats": (lambda a: a[[0, 2, 0]], [(3, 4)], lambda a: np.stack([a[0], a[2], a[0]])),
    "getitem, pairs": (lambda a: a[[0, 2, 0], [1, 1, 1]], [(3, 4)], lambda a: np.array([a[0, 1], a[2, 1], a[0, 1]])),
    "getitem, a mask": (
        lambda a: a[np.array([True, False, True])],
        [(3, 4)],
        lambda a: np.stack([a[0], a[2]]),
    ),
    "cat": (
        lambda a, b: cat([a, b], 1),
        [(3, 4), (3, 2)],
        lambda a, b: np.array([[*x, *y] for x, y in zip(a, b, strict=True)]),
    ),
    "stack": (lambda a, b: stack([a, b]), [(3, 4), (3, 4)], lambda a, b: np.array([a.tolist(), b.tolist()])),
    "stack along the last dim": (
        lambda a, b: stack((a, b), -1),
        [(3, 4), (3, 4)],
        lambda a, b: np.array([[[v, w] for v, w in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]),
    ),
    "unsqueeze": (lambda a: a.unsqueeze(-2), [(3, 4)], lambda a: np.array([[row] for row in a])),
    "squeeze": (lambda a: a.squeeze(), [(3, 1, 4, 1)], lambda a: np.einsum("ijkl->ik", a)),
    "squeeze one dim": (lambda a: a.squeeze(1), [(3, 1, 4, 1)], lambda a: np.einsum("ijkl->ikl", a)),
    "squeeze of a longer dim": (lambda a: a.squeeze(0), [(3, 4)], lambda a: a),
    "cat of itself": (lambda a: cat([a, a]), [(3, 4)], lambda a: np.array([*a, *a])),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMOOTH)
def test_forward_equals_numpy_and_every_dtype_is_kept(name, dtype):
    fn, shapes, plain = SMOOTH[name]
    inputs = [leaf(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    out = fn(*inputs)
    expected = plain(*(x.data for x in inputs))
    assert out.dtype == dtype
    assert out.shape == expected.shape
    assert np.allclose(out.data, expected, rtol=1e-6)
    out.backward(np.ones(out.shape, dtype))
    for x in inputs:
        assert x.grad.dtype == dtype and x.grad.shape == x.shape
    out = fn(*inputs)
    out.sum().backward()  # a second time, accumulated
    assert all(x.grad.dtype == dtype for x in inputs)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients(name, check_gradients):
    fn, shapes, _ = SMOOTH[name]
    check_gradients(
        name.split(",")[0].split(" ")[0],
        fn,
        lambda rng: [Tensor(rng.uniform(0.5, 2, shape), requires_grad=True) for shape in shapes],
    )


EMPTY = ["add", "mul by a number", "div of a number", "neg", "exp", "sum", "sum over one dim", "mean", "permute", "cat"]
EMPTY += [
    "sqrt",
    "tanh",
    "abs",
    "clip",
    "maximum",
    "where, a number",
    "amax over one dim",
    "amin, keepdim",
    "stack",
    "squeeze",
]


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_arrays(name, dtype):
    fn, shapes, _ = SMOOTH[name]
    inputs = [leaf(0, *shape[1:], dtype=dtype) for shape in shapes]
    out = fn(*inputs)
    assert out.dtype == dtype
    out.backward(np.ones(out.shape, dtype))
    for x in inputs:
        assert x.grad.shape == x.shape and x.grad.dtype == dtype


def test_a_mean_over_nothing_is_zero():
    x = leaf(0, 3)
    assert x.mean().item() == 0.0
    assert np.array_equal(x.mean(0).data, np.zeros(3))
    x.mean().backward()
    assert x.grad.shape == (0, 3)


def test_indexing_with_nothing():
    x = leaf(3, 4)
    for index in (np.zeros(0, np.int64), [], slice(0, 0), np.zeros(3, bool)):
        out = x[index]
        assert out.shape == (0, 4)
        out.sum().backward()
    assert np.array_equal(x.grad, np.zeros((3, 4)))


@pytest.mark.parametrize("other", [np.float64(2), np.ones(3), np.arange(3), np.ones(3, bool), np.float16(1)])
@pytest.mark.parametrize("operation", ["__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__truediv__"])
def test_an_operand_of_another_dtype_is_refused(operation, other):
    x = leaf(3, dtype=np.float32)
    with pytest.raises(TypeError, match="float32"):
        getattr(x, operation)(other)


def test_an_operator_that_changes_the_dtype_is_refused():
    def upcast(x):
        def backward(grad, needs):
            return (grad,)

        return record(x.data.astype(np.float64), (x,), backward, "upcast")

    with pytest.raises(TypeError, match="'upcast' made float64 out of float32"):
        upcast(leaf(3, dtype=np.float32))
    with no_grad(), pytest.raises(TypeError, match="upcast"):
        upcast(leaf(3, dtype=np.float32))


@pytest.mark.parametrize("exponent", [np.float64(2), np.float32(2), np.ones(3), "2"])
def test_an_exponent_is_a_python_number(exponent):
    with pytest.raises(TypeError, match="Python number"):
        leaf(3, dtype=np.float32) ** exponent


def test_scalars_of_the_same_dtype_and_python_numbers_are_welcome():
    x = leaf(3, dtype=np.float32)
    for other in (np.float32(2), 2, 2.0, True):
        assert (x * other).dtype == (other * x).dtype == np.float32


def test_an_array_on_the_left_of_a_tensor():
    x = leaf(2, 3)
    array = np.random.default_rng(1).normal(size=(2, 3))
    for out, expected in (
        (array + x, array + x.data),
        (array - x, array - x.data),
        (array * x, array * x.data),
        (array / x, array / x.data),
        (array @ x.T, array @ x.data.T),
    ):
        assert isinstance(out, Tensor) and np.allclose(out.data, expected)


# Broadcasting


@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4,)),
        ((3, 4), (3, 1)),
        ((3, 1), (1, 4)),
        ((), (2, 3)),
        ((2, 3), ()),
        ((1, 1), (2, 3)),
        ((4,), (2, 3, 4)),
    ],
)
def test_the_gradient_of_a_broadcast_operand_is_summed_over_its_copies(operation, left, right):
    a, b = leaf(*left), leaf(*right, seed=1)
    out = OPERATIONS[operation](a, b)
    upstream = np.random.default_rng(2).normal(size=out.shape)
    out.backward(upstream)
    wide_a, wide_b = np.broadcast_arrays(a.data, b.data)
    slopes = {
        "add": (np.ones_like(wide_a), np.ones_like(wide_a)),
        "sub": (np.ones_like(wide_a), -np.ones_like(wide_a)),
        "mul": (wide_b, wide_a),
        "div": (1 / wide_b, -wide_a / wide_b**2),
    }[operation]
    for x, slope in zip((a, b), slopes, strict=True):
        expected = np.zeros(x.shape)
        for index in np.ndindex(out.shape):  # every element of the result adds to the operand that it came from
            short = index[len(index) - x.ndim :]
            at = tuple(0 if n == 1 else i for i, n in zip(short, x.shape, strict=True))
            expected[at] += (upstream * slope)[index]
        assert x.grad.shape == x.shape and np.allclose(x.grad, expected)


def test_broadcasting_against_an_empty_operand():
    a, b = leaf(0, 3), leaf(1, 3)
    (a * b).sum().backward()
    assert a.grad.shape == (0, 3) and np.array_equal(b.grad, np.zeros((1, 3)))


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match="shape"):
        leaf(3) + leaf(4)


# Shapes


def test_reshape_and_flatten_go_in_logical_order_whatever_the_memory():
    x = feature_map()
    flat = x.flatten(1)
    assert flat.shape == (2, 60)
    assert np.array_equal(flat.data, np.ascontiguousarray(x.data).reshape(2, 60))
    upstream = np.arange(120, dtype=np.float32).reshape(2, 60)
    flat.backward(upstream)
    assert np.array_equal(x.grad, upstream.reshape(2, 3, 4, 5))


@pytest.mark.parametrize("bad", [lambda x: x.sum(2), lambda x: x.mean((0, 3)), lambda x: x.permute(0, 2)])
def test_an_axis_that_does_not_exist(bad):
    with pytest.raises(np.exceptions.AxisError, match="out of bounds"):
        bad(leaf(2, 3))


def test_a_matrix_product_of_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 3\)"):
        leaf(2, 3) @ leaf(2, 3)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\)"):
        leaf(2, 3) @ leaf(2)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(\)"):
        leaf(2, 3) @ leaf()


def test_cat_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\), \(1, 3\)"):
        cat([leaf(2, 3), leaf(1, 3)], dim=1)  # a silent broadcast would fill the second row
    with pytest.raises(ValueError, match="at least one"):
        cat([])
    with pytest.raises(TypeError, match="float32.*float64"):
        cat([leaf(2, 3, dtype=np.float32), leaf(2, 3)])


def test_cat_along_the_last_dim_with_an_empty_part():
    parts = [leaf(2, 0), leaf(2, 3), leaf(2, 1, seed=1)]
    out = cat(parts, -1)
    assert np.array_equal(out.data, np.hstack([part.data for part in parts]))
    out.backward(np.arange(8.0).reshape(2, 4))
    assert np.array_equal(parts[1].grad, [[0, 1, 2], [4, 5, 6]])
    assert np.array_equal(parts[2].grad, [[3], [7]])


# Memory layout


@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b: a + b,
        lambda a, b: a - 1,
        lambda a, b: 1 - a,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: -a,
        lambda a, b: a**2,
        lambda a, b: a.exp(),
        lambda a, b: a.log(),
        lambda a, b: a.sqrt(),
        lambda a, b: a.tanh(),
        lambda a, b: (a - 1).abs(),
        lambda a, b: a.clip(0.8, 1.5),
        lambda a, b: maximum(a, b),
        lambda a, b: minimum(a, Tensor(np.ascontiguousarray(b.data))),
        lambda a, b: where(a > b, a, b),
        lambda a, b: where(np.ascontiguousarray(a > 1), 0.0, b) + a,
        lambda a, b: a * a.amax((2, 3), keepdim=True),
        lambda a, b: stack([a, b]).squeeze()[0],
        lambda a, b: a * Tensor(np.ascontiguousarray(b.data)),  # with a C-ordered operand
        lambda a, b: a * b.mean((0, 2, 3), keepdim=True),
        lambda a, b: cat([a, b], 1),
        lambda a, b: a[:, :, 1:, ::2],
    ],
)
def test_elementwise_operators_keep_channels_last(fn):
    x, y = feature_map(), feature_map(seed=1)
    out = fn(x, y)
    assert memory_order(out.data) == CHANNELS_LAST
    log = []

    def watch(tensor):
        def backward(grad, needs):
            log.append(memory_order(grad))
            return (grad,)

        return record(tensor.data, (tensor,), backward, "watch")

    out = fn(watch(x), watch(y))
    upstream = np.ones(tuple(out.shape[axis] for axis in CHANNELS_LAST), np.float32).transpose(0, 3, 1, 2)
    out.backward(upstream)
    assert log and set(log) == {CHANNELS_LAST}


def test_a_gradient_accumulated_from_several_uses_keeps_channels_last():
    log = []
    x = feature_map()

    def watch(tensor):
        def backward(grad, needs):
            log.append(memory_order(grad))
            return (grad,)

        return record(tensor.data, (tensor,), backward, "watch")

    y = watch(x)
    (y * 2 + y * y).sum().backward()
    assert log == [CHANNELS_LAST]
    assert memory_order(x.grad) == CHANNELS_LAST
    (x * 2).sum().backward()
    assert memory_order(x.grad) == CHANNELS_LAST


# Other libraries


def test_arrays_of_two_libraries_do_not_mix(fake_device):
    on_host, on_device = leaf(3), Tensor(to_device(np.ones(3), "fake"), requires_grad=True)
    for mixed in (
        lambda: on_host + on_device,
        lambda: on_device * on_host,
        lambda: on_device + np.ones(3),
        lambda: np.ones(3) - on_device,
        lambda: cat([on_host, on_device]),
    ):
        with pytest.raises(TypeError, match=r"mixes a (numpy|fake) array .* with a (numpy|fake) array .*to_device"):
            mixed()
    assert fake_device.copies == 0


def test_an_upstream_gradient_of_another_library(fake_device):
    x = Tensor(to_device(np.ones(3), "fake"), requires_grad=True)
    with pytest.raises(TypeError, match="numpy.*fake|fake.*numpy"):
        (x * 2).backward(np.ones(3))


@pytest.mark.parametrize("name", SMOOTH)
def test_every_operator_runs_on_a_device_without_a_copy_to_the_host(name, fake_device):
    fn, shapes, _ = SMOOTH[name]
    on_host = [leaf(*shape, seed=i, dtype=np.float32) for i, shape in enumerate(shapes)]
    on_device = [Tensor(to_device(x.data, "fake"), requires_grad=True) for x in on_host]
    expected, out = fn(*on_host), fn(*on_device)
    upstream = np.random.default_rng(5).normal(size=out.shape).astype(np.float32)
    expected.backward(upstream)
    out.backward(to_device(upstream, "fake"))
    assert fake_device.copies == 0
    assert out.dtype == np.float32 and np.allclose(out.numpy(), expected.data)
    for a, b in zip(on_device, on_host, strict=True):
        assert isinstance(a.grad, fake_device) and a.grad.dtype == np.float32
        assert np.allclose(Tensor(a.grad).numpy(), b.grad)
