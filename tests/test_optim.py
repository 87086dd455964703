"""SGD and AdamW step by step: by hand and against torch; their state; clipping."""

import math

import numpy as np
import pytest

from tinymrcnn.nn import SGD, AdamW, Parameter

MAKERS = {
    "plain SGD": lambda parameters: SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "SGD as in the article": lambda parameters: SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4),
    "AdamW": lambda parameters: AdamW(parameters, lr=1e-2),
    "AdamW with all its numbers": lambda parameters: AdamW(
        parameters, lr=3e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1
    ),
}


def some_parameters(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.normal(size=shape).astype(dtype)) for shape in ((4, 3), (5,), (2, 3, 3, 3))]


def some_gradients(parameters, step):
    for i, p in enumerate(parameters):
        p.grad = np.random.default_rng([step, i]).normal(size=p.shape).astype(p.dtype)


# By hand


def test_sgd_by_hand():
    p = Parameter(np.array([1.0, 2.0]))
    optimizer = SGD([p], lr=0.5, momentum=0.5, weight_decay=0.1)
    p.grad = np.array([0.9, -0.2])
    optimizer.step()
    # velocity = gradient + 0.1 p = (1, 0);  p -= 0.5 velocity
    assert np.allclose(p.data, [0.5, 2.0])
    p.grad = np.array([0.0, 0.8])
    optimizer.step()
    # velocity = 0.5 (1, 0) + (0, 0.8) + 0.1 (0.5, 2) = (0.55, 1)
    assert np.allclose(p.data, [0.225, 1.5])


def test_adamw_by_hand():
    p = Parameter(np.array([1.0]))
    optimizer = AdamW([p], lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.2)
    p.grad = np.array([4.0])
    optimizer.step()
    # decayed to 0.98; mean 2 / (1 - 0.5) = 4, square 4 / (1 - 0.75) = 16: a step of lr 4 / 4
    assert np.allclose(p.data, [0.88])
    p.grad = np.array([-2.0])
    optimizer.step()
    # mean (0.5 2 - 0.5 2) = 0
    assert np.allclose(p.data, [0.88 * 0.98])
    p.grad = np.array([1.0])
    optimizer.step()
    # mean 0.5 / (1 - 0.125); square: 4, then 3 + 1 = 4, then 3 + 0.25, / (1 - 0.421875)
    expected = 0.88 * 0.98**2 - 0.1 * (0.5 / 0.875) / math.sqrt(3.25 / (1 - 0.75**3))
    assert np.allclose(p.data, [expected])


def test_the_weight_decay_of_adamw_is_not_scaled_by_the_gradient():
    p = Parameter(np.array([1.0]))
    AdamW([p], lr=0.1, weight_decay=0.5).step()
    assert p.data[0] == 1.0  # no gradient, no step
    p.grad = np.array([0.0])
    AdamW([p], lr=0.1, weight_decay=0.5).step()
    assert np.isclose(p.data[0], 0.95)


def test_there_is_no_nesterov():
    with pytest.raises(TypeError, match="nesterov"):
        SGD(some_parameters(), lr=0.1, nesterov=True)


# Whatever the optimiser


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_parameters_are_changed_in_place_and_keep_their_dtype(name, dtype):
    parameters = some_parameters(dtype)
    before = [p.data.copy() for p in parameters]
    optimizer = MAKERS[name](parameters)
    arrays = [p.data for p in parameters]
    for step in range(3):
        some_gradients(parameters, step)
        optimizer.step()
    for p, array, old in zip(parameters, arrays, before, strict=True):
        assert p.data is array and p.dtype == dtype and not np.array_equal(array, old)
    assert all(a.dtype == dtype for name, a in optimizer.state_dict().items() if name != "steps")


@pytest.mark.parametrize("name", MAKERS)
def test_a_parameter_without_a_gradient_stays_as_it_is(name):
    parameters = some_parameters()
    before = [p.data.copy() for p in parameters]
    optimizer = MAKERS[name](parameters)
    some_gradients(parameters, 0)
    parameters[1].grad = None
    optimizer.step()
    assert np.array_equal(parameters[1].data, before[1])
    assert not np.array_equal(parameters[0].data, before[0])


@pytest.mark.parametrize("name", MAKERS)
def test_the_learning_rate_can_be_changed_between_steps(name):
    parameters = some_parameters()
    optimizer = MAKERS[name](parameters)
    optimizer.lr = 0.0
    before = [p.data.copy() for p in parameters]
    some_gradients(parameters, 0)
    optimizer.step()
    assert all(np.array_equal(p.data, old) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_it_finds_a_minimum(name):
    p = Parameter(np.array([3.0, -2.0]))
    optimizer = MAKERS[name]([p])
    for _ in range(800):
        optimizer.zero_grad()
        ((p - np.array([1.0, 1.0])) ** 2).sum().backward()
        optimizer.step()
    assert np.allclose(p.data, [1, 1], atol=0.06)


def test_zero_grad_forgets_all_gradients():
    parameters = some_parameters()
    some_gradients(parameters, 0)
    SGD(parameters, lr=0.1).zero_grad()
    assert all(p.grad is None for p in parameters)


def test_frozen_parameters_are_left_out_and_none_at_all_is_an_error():
    parameters = some_parameters()
    parameters[0].node = None
    assert SGD(parameters, lr=0.1).parameters == parameters[1:]
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        SGD(parameters[:1], lr=0.1)
    with pytest.raises(ValueError, match="no parameter"):
        AdamW(iter([]))


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_on_a_device_needs_no_copy_to_the_host(name, fake_device):
    host, device = some_parameters(), [Parameter(fake_device(p.data.copy())) for p in some_parameters()]
    ours, theirs = MAKERS[name](host), MAKERS[name](device)
    for step in range(3):
        some_gradients(host, step)
        for p, q in zip(host, device, strict=True):
            q.grad = fake_device(p.grad.copy())
        ours.step(), theirs.step()
    assert fake_device.copies == 0
    for p, q in zip(host, device, strict=True):
        assert np.allclose(p.data, q.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_running_averages_lie_in_memory_as_their_parameters_do(name, fake_device):
    weight = np.zeros((4, 3, 3, 5), np.float32).transpose(0, 3, 1, 2)
    for slot in MAKERS[name]([Parameter(weight)]).state.values():
        assert slot[0].transpose(0, 2, 3, 1).flags.c_contiguous


def test_adamw_corrects_the_bias_of_a_parameter_s_own_first_steps():
    """As torch: the first step of a parameter is lr long, however many steps the others have made."""
    early, late = Parameter(np.zeros(1)), Parameter(np.zeros(1))
    optimizer = AdamW([early, late], lr=0.1, weight_decay=0.0)
    for _ in range(500):
        early.grad = np.ones(1)
        optimizer.step()
    assert np.isclose(early.data[0], -50, rtol=1e-4) and late.data[0] == 0
    late.grad = np.full(1, 7.0)
    optimizer.step()
    assert np.isclose(late.data[0], -0.1, rtol=1e-6)
    assert optimizer.steps == [501, 1]


# One array for all parameters


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_and_gradients_lie_side_by_side_in_their_own_memory_order(name):
    values = np.arange(120, dtype=np.float32).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    filters = Parameter(values)
    parameters = [Parameter(np.arange(5, dtype=np.float32)), filters]
    optimizer = MAKERS[name](parameters)
    assert np.array_equal(filters.data, values) and filters.data is not values
    assert filters.data.transpose(0, 2, 3, 1).flags.c_contiguous
    flat = optimizer.flat["data"]
    assert all(np.shares_memory(p.data, flat) for p in parameters) and flat.sum() == 10 + 119 * 60
    assert [p.data.__array_interface__["data"][0] % 64 for p in parameters] == [flat.ctypes.data % 64] * 2
    (filters * filters).sum().backward()
    assert np.shares_memory(filters.grad, optimizer.flat["grad"]) and np.array_equal(filters.grad, 2 * filters.data)
    assert filters.grad.strides == filters.data.strides


@pytest.mark.parametrize("name", MAKERS)
def test_data_and_gradients_that_were_put_in_another_place_are_taken_up(name):
    ours, theirs = some_parameters(), some_parameters()
    one, two = MAKERS[name](ours), MAKERS[name](theirs)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.data = p.data.copy() + 1  # as loading or casting may do
            q.data += 1
            (p * p).sum().backward()
            q.grad = 2 * q.data
        one.step(), two.step()
        assert all(np.shares_memory(p.data, one.flat["data"]) for p in ours)
        one.zero_grad()
    for p, q in zip(ours, theirs, strict=True):
        assert np.array_equal(p.data, q.data)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_add_up_over_backward_passes(name):
    p = Parameter(np.float32([1.0, 2.0]))
    MAKERS[name]([p])
    for times in (1, 2, 3):
        (p * 3).sum().backward()
        assert np.array_equal(p.grad, [3 * times] * 2)


def test_a_parameter_that_is_frozen_later_stays_and_thawed_moves_again():
    p, q = Parameter(np.ones(2, np.float32)), Parameter(np.ones(2, np.float32))
    optimizer = SGD([p, q], lr=1.0)
    node, q.node = q.node, None
    p.grad = np.ones(2, np.float32)
    optimizer.step()
    assert np.array_equal(p.data, [0, 0]) and np.array_equal(q.data, [1, 1])
    q.node = node
    q.grad = np.ones(2, np.float32)
    assert math.isclose(optimizer.clip_grad_norm(1e9), 2.0)
    optimizer.step()
    assert np.array_equal(p.data, [-1, -1]) and np.array_equal(q.data, [0, 0])


def test_parameters_of_several_dtypes_or_devices_are_refused(fake_device):
    single, double = some_parameters(np.float32), some_parameters(np.float64)
    with pytest.raises(TypeError, match="'AdamW' are float32 and float64"):
        AdamW(single[:1] + double[1:])
    with pytest.raises(TypeError, match="mixes a numpy array on 'cpu' with a fake array on 'fake'"):
        AdamW([*single[:1], Parameter(fake_device(single[1].data))])
    optimizer = AdamW(single)
    single[0].data = single[0].data.astype(np.float64)  # as Module.to() does
    some_gradients(single, 0)
    with pytest.raises(TypeError, match="float32 and float64"):
        optimizer.step()


# State


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [np.int64(3), np.array(3)])
def test_a_state_with_one_number_of_steps_for_all_parameters_is_taken(name, steps):
    """As files had it once."""
    through, stopped = some_parameters(), some_parameters()
    one, two = MAKERS[name](through), MAKERS[name](stopped)
    for step in range(5):
        if step == 3:
            state = {**two.state_dict(), "steps": steps}
            two = MAKERS[name](stopped)
            two.load_state_dict(state)
            assert two.steps == [3, 3, 3]
        some_gradients(through, step), some_gradients(stopped, step)
        one.step(), two.step()
    for p, q in zip(through, stopped, strict=True):
        assert np.array_equal(p.data, q.data)


@pytest.mark.parametrize("name", MAKERS)
def test_an_optimiser_that_was_saved_and_loaded_goes_on_bit_for_bit(name):
    through, stopped = some_parameters(), some_parameters()
    one, two = MAKERS[name](through), MAKERS[name](stopped)
    for step in range(6):
        if step == 3:
            state = two.state_dict()
            two = MAKERS[name](stopped)
            two.load_state_dict(state)
        some_gradients(through, step), some_gradients(stopped, step)
        one.step(), two.step()
    for p, q in zip(through, stopped, strict=True):
        assert np.array_equal(p.data, q.data)


def test_the_state_is_a_copy():
    parameters = some_parameters()
    optimizer = AdamW(parameters)
    some_gradients(parameters, 0)
    optimizer.step()
    state = optimizer.state_dict()
    assert state["steps"].tolist() == [1, 1, 1]
    assert {"mean.0", "square.2"} < set(state)
    kept = state["mean.0"].copy()
    some_gradients(parameters, 1)
    optimizer.step()
    assert np.array_equal(state["mean.0"], kept)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("mean.1"), r"mean\.1.*no such entry.*\(5,\)"),
        (lambda state: state.update({"square.0": np.zeros((3, 4))}), r"square\.0.*\(3, 4\).*\(4, 3\)"),
        (lambda state: state.update({"mean.3": np.zeros(2)}), r"mean\.3"),
        (lambda state: state.update({"velocity.0": np.zeros(2)}), r"velocity\.0"),
        (lambda state: state.pop("steps"), "steps"),
        (lambda state: state.update(steps=np.ones(2, np.int64)), r"steps.*\(2,\).*\(3,\)"),
    ],
)
def test_a_state_of_other_parameters_is_refused_whole(change, words):
    parameters = some_parameters()
    source, target = AdamW(parameters), AdamW(some_parameters())
    some_gradients(parameters, 0)
    source.step()
    state = source.state_dict()
    change(state)
    with pytest.raises(ValueError, match=words):
        target.load_state_dict(state)
    assert target.steps == [0, 0, 0]
    assert not any(array.any() for slot in target.state.values() for array in slot)


# Clipping


@pytest.mark.parametrize(("limit", "clipped"), [(1.0, True), (100.0, False)])
def test_clipping_by_the_joint_norm(limit, clipped):
    parameters = some_parameters()
    some_gradients(parameters, 0)
    parameters[1].grad = None
    before = [None if p.grad is None else p.grad.copy() for p in parameters]
    expected = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in before if g is not None))
    norm = SGD(parameters, 0.1).clip_grad_norm(limit)
    assert type(norm) is float and math.isclose(norm, expected, rel_tol=1e-6)
    scale = limit / expected if clipped else 1
    for p, g in zip(parameters, before, strict=True):
        assert p.grad is None if g is None else np.allclose(p.grad, g * scale, rtol=1e-5) and p.grad.dtype == np.float32


@pytest.mark.parametrize(("factor", "clipped"), [(1 - 1e-5, True), (1 + 1e-5, False)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_limit_of_clipping_is_sharp(size, factor, clipped):
    p = Parameter(np.zeros(2))
    p.grad = np.array([0.6, 0.8]) * size  # the norm is the size
    assert math.isclose(SGD([p], 0.1).clip_grad_norm(size * factor), size)
    assert np.allclose(p.grad, np.array([0.6, 0.8]) * size * (factor if clipped else 1), rtol=1e-12)


def test_a_parameter_that_is_given_twice_is_clipped_once():
    p = Parameter(np.zeros(2))
    p.grad = np.array([3.0, 4.0])
    assert SGD([p, p], 0.1).clip_grad_norm(1.0) == 5.0
    assert np.allclose(p.grad, [0.6, 0.8])


def test_nothing_to_clip():
    assert SGD(some_parameters(), 0.1).clip_grad_norm(1.0) == 0.0


def test_a_gradient_of_an_earlier_step_does_not_count(fake_device):
    for array in (np.float32, lambda values: fake_device(np.float32(values))):
        p, q = Parameter(array([0.0, 0.0])), Parameter(array([0.0]))
        optimizer = SGD([p, q], lr=1.0)
        p.grad, q.grad = array([3.0, 4.0]), array([12.0])
        assert optimizer.clip_grad_norm(100.0) == 13.0
        optimizer.zero_grad()
        p.grad = array([3.0, 4.0])
        assert optimizer.clip_grad_norm(100.0) == 5.0


def test_a_norm_that_is_not_finite_is_reported_and_touches_nothing():
    parameters = some_parameters()
    some_gradients(parameters, 0)
    parameters[1].grad[2] = np.nan
    before = parameters[0].grad.copy()
    assert math.isnan(SGD(parameters, 0.1).clip_grad_norm(1.0))
    assert np.array_equal(parameters[0].grad, before)


def test_clipping_on_a_device_waits_once(fake_device):
    parameters = [Parameter(fake_device(p.data)) for p in some_parameters()]
    for p in parameters:
        p.grad = fake_device(np.ones(p.shape, np.float32))
    assert np.isclose(SGD(parameters, 0.1).clip_grad_norm(1.0), math.sqrt(sum(p.size for p in parameters)))
    assert fake_device.copies == 1


# Against torch


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_step_equals_torch(name, dtype):
    torch = pytest.importorskip("torch")
    ours = some_parameters(dtype)
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours]
    optimizer = MAKERS[name](ours)
    other = {
        "plain SGD": lambda p: torch.optim.SGD(p, lr=0.1),
        "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "SGD as in the article": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-4),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
        "AdamW with all its numbers": lambda p: torch.optim.AdamW(
            p, lr=3e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1
        ),
    }[name](theirs)
    for step in range(20):
        some_gradients(ours, step)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.tensor(p.grad)
        if step < 4:  # one begins later
            ours[1].grad = theirs[1].grad = None
        if step == 10:
            optimizer.lr = 0.005
            other.param_groups[0]["lr"] = 0.005
        optimizer.step(), other.step()
        for p, q in zip(ours, theirs, strict=True):
            rtol = 2e-6 if dtype == "float32" else 1e-13
            assert np.allclose(p.data, q.detach().numpy(), rtol=rtol, atol=rtol), step


@pytest.mark.parity
def test_clipping_equals_torch():
    torch = pytest.importorskip("torch")
    ours = some_parameters()
    some_gradients(ours, 0)
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = torch.tensor(p.grad)
    norm, expected = SGD(ours, 0.1).clip_grad_norm(2.0), torch.nn.utils.clip_grad_norm_(theirs, 2.0)
    assert math.isclose(norm, float(expected), rel_tol=1e-6)
    for p, q in zip(ours, theirs, strict=True):
        assert np.allclose(p.grad, q.grad.numpy(), rtol=1e-5)
