"""Modules: names, saving and loading, modes, moving; the layers; the initialisers."""

import math
import threading

import numpy as np
import pytest

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device
from tinymrcnn.models import build_model
from tinymrcnn.nn import (
    SGD,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    FrozenBatchNorm2d,
    GroupNorm,
    Linear,
    MaxPool2d,
    Module,
    Parameter,
    ReLU,
    Sequential,
    init,
    layers,
)
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.weights import load_model, save_checkpoint


class Net(Module):
    """A parameter of its own, a buffer, children, and a child of a child."""

    buffers = ("seen",)

    def __init__(self):
        super().__init__()
        self.scale = Parameter(np.ones((1, 4, 1, 1), np.float32))
        self.body = Sequential(Conv2d(3, 4, 3, padding=1), BatchNorm2d(4), ReLU())
        self.head = Module(up=ConvTranspose2d(4, 2, 2, stride=2), norm=GroupNorm(1, 2))
        self.seen = np.zeros(2, np.int64)
        self.name = "neither a parameter nor a buffer"

    def forward(self, x):
        return self.head.norm(self.head.up(self.body(x) * self.scale))


NAMES = [
    "scale",
    "body.0.weight",
    "body.0.bias",
    "body.1.weight",
    "body.1.bias",
    "head.up.weight",
    "head.up.bias",
    "head.norm.weight",
    "head.norm.bias",
]
BUFFERS = ["seen", "body.1.running_mean", "body.1.running_var"]


def image(*shape, seed=0, dtype=np.float32):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype))


# The tree


def test_parameters_come_in_the_order_of_their_making_under_their_paths():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert [p.shape for p in net.parameters()][:3] == [(1, 4, 1, 1), (4, 3, 3, 3), (4,)]
    assert all(isinstance(p, Parameter) and p.requires_grad for p in net.parameters())
    assert next(net.parameters()) is net.scale
    assert [name for name, _ in net.named_children()] == ["body", "head"]
    assert len(list(net.modules())) == 8


def test_a_group_of_parts_cannot_be_called():
    with pytest.raises(TypeError, match=r"Module only groups its parts.*'up', 'norm'"):
        Net().head(image(1, 4, 3, 5))


def test_sequential_runs_its_layers_in_order():
    layers = [Conv2d(3, 4, 1), ReLU(), Conv2d(4, 2, 1)]
    chain = Sequential(*layers)
    assert len(chain) == 3 and list(chain) == layers and chain[0] is layers[0] and chain[-1] is layers[2]
    x = image(2, 3, 4, 5)
    assert np.array_equal(chain(x).data, layers[2](layers[1](layers[0](x))).data)


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net.train() is net
    assert all(module.training for module in net.modules())
    net.train(False)
    assert not net.body[1].training


def test_freezing_and_thawing():
    net = Net()
    net.body.requires_grad_(False)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == NAMES[1:5]
    net(image(2, 3, 4, 5)).sum().backward()
    assert net.body[0].weight.grad is None and net.scale.grad is not None
    net.requires_grad_()
    assert all(p.requires_grad for p in net.parameters())


# Saving and loading


def test_the_state_dict_has_copies_of_parameters_and_buffers_in_logical_order():
    net = Net()
    state = net.state_dict()
    assert set(state) == set(NAMES) | set(BUFFERS)
    assert all(isinstance(array, np.ndarray) and array.flags.c_contiguous for array in state.values())
    assert state["body.0.weight"].shape == (4, 3, 3, 3)
    assert np.array_equal(state["body.0.weight"], net.body[0].weight.data)
    for array in state.values():
        array[...] = 7
    assert not (net.body[0].weight.data == 7).any() and not (net.seen == 7).any()


def test_loading_gives_the_same_network():
    source, target = Net().initialize(1), Net().initialize(2)
    source(image(2, 3, 4, 5))  # moves the running statistics
    source.seen[:] = [3, 4]
    x = image(1, 3, 6, 5, seed=1)
    assert not np.array_equal(source.eval()(x).data, target.eval()(x).data)
    weight = target.body[0].weight.data
    target.load_state_dict(source.state_dict())
    assert np.array_equal(source(x).data, target(x).data)
    assert target.seen.tolist() == [3, 4]
    assert target.body[0].weight.data is weight  # an optimiser that holds it goes on


def test_loading_keeps_the_dtype_and_the_memory_order_of_the_network():
    net = Net()
    net.load_state_dict({name: array.astype(np.float64) for name, array in net.state_dict().items()})
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float32)} and net.seen.dtype == np.int64
    assert net.body[0].weight.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_every_misfit_is_named_and_nothing_is_loaded():
    net = Net()
    state = {name: array + 1 for name, array in net.state_dict().items()}
    before = net.state_dict()
    del state["body.0.bias"], state["seen"]
    state["body.0.weight"] = np.zeros((5, 3, 3, 3), np.float32)
    state["tail.weight"] = np.zeros(9)
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    lines = str(caught.value).splitlines()
    assert "do not fit this model" in lines[0] and len(lines) == 5
    assert any("missing" in line and "body.0.bias (4,)" in line for line in lines)
    assert any("missing" in line and "seen (2,)" in line for line in lines)
    assert any("unexpected" in line and "tail.weight (9,)" in line for line in lines)
    assert any("body.0.weight: (5, 3, 3, 3) in the file, (4, 3, 3, 3) in the model" in line for line in lines)
    assert all(np.array_equal(array, before[name]) for name, array in net.state_dict().items())


# Tied weights


def tied():
    """One layer under two names, and one of its parameters under a third."""
    net = Module(a=Linear(3, 3), b=Linear(3, 3))
    net.b, net.weight = net.a, net.a.weight
    return net


def test_a_tied_parameter_comes_once_in_the_list_and_under_all_its_names_in_the_state():
    net = tied()
    assert [name for name, _ in net.named_parameters()] == ["weight", "a.bias"]
    assert len(list(net.parameters())) == 2
    state = net.state_dict()
    assert set(state) == {"weight", "a.weight", "a.bias", "b.weight", "b.bias"}
    assert np.array_equal(state["a.weight"], state["b.weight"])
    net.load_state_dict({name: array + 1 for name, array in state.items()})
    assert np.array_equal(net.a.weight.data, state["a.weight"] + 1)


def test_a_tied_parameter_moves_once():
    net = tied()
    before = net.a.weight.data.copy()
    net.weight.grad = np.ones((3, 3), np.float32)
    SGD(net.parameters(), lr=1.0).step()
    assert np.allclose(before - net.b.weight.data, 1)
    SGD([net.a.weight, net.b.weight], lr=1.0).step()  # given twice by hand
    assert np.allclose(before - net.b.weight.data, 2)


def test_a_tied_parameter_stays_tied_when_it_is_moved():
    net = tied().to(dtype=np.float64)
    assert net.a.weight is net.b.weight is net.weight and net.weight.dtype == np.float64
    net.requires_grad_(False)
    assert not net.b.weight.requires_grad


# Moving


def test_to_another_dtype():
    net = Net().to(dtype=np.float64)
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}
    assert net.body[1].running_mean.dtype == np.float64
    assert net.seen.dtype == np.int64  # only floating-point arrays change
    out = net(image(2, 3, 4, 5, dtype=np.float64))
    out.sum().backward()
    assert out.dtype == np.float64 and net.scale.grad.dtype == np.float64
    assert net.body[0].weight.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_to_another_device(fake_device):
    net = Net().initialize(3)
    x = image(2, 3, 4, 5)
    expected = net(x).data
    net.initialize(3).to("fake")
    assert all(isinstance(p.data, fake_device) for p in net.parameters())
    assert all(isinstance(buffer, fake_device) for _, buffer in net.named_buffers())
    assert net.body[0].weight.data.transpose(0, 2, 3, 1).flags.c_contiguous
    fake_device.copies = 0
    out = net(Tensor(to_device(x.data, "fake")))
    out.sum().backward()
    assert fake_device.copies == 0
    assert all(isinstance(p.grad, fake_device) for p in net.parameters())
    assert np.allclose(out.numpy(), expected, atol=1e-5)
    state = net.state_dict()
    assert all(isinstance(array, np.ndarray) for array in state.values())
    net.load_state_dict({name: array + 1 for name, array in state.items()})
    assert np.allclose(net.state_dict()["scale"], state["scale"] + 1)
    assert isinstance(net.scale.data, fake_device)
    assert isinstance(net.to("cpu").scale.data, np.ndarray)


def test_moving_forgets_gradients_but_not_what_is_frozen():
    net = Net()
    net.head.requires_grad_(False)
    net(image(2, 3, 4, 5)).sum().backward()
    net.to(dtype=np.float64)
    assert net.scale.grad is None and net.scale.requires_grad
    assert not net.head.up.weight.requires_grad


def test_an_unknown_device():
    with pytest.raises(ValueError, match="'tpu'"):
        Net().to("tpu")


# The layers are the functions of tinymrcnn.ops


def test_each_layer_is_its_function():
    x, rows = image(2, 4, 6, 7), image(5, 3)
    conv, up, linear, norm = Conv2d(4, 3, 3, 2, 1, 2), ConvTranspose2d(4, 3, 2, 2), Linear(3, 6), GroupNorm(2, 4)
    for module in (conv, up, linear):
        module.initialize(1)
        module.bias.data[:] = np.arange(len(module.bias))
    assert np.array_equal(conv(x).data, ops.conv2d(x, conv.weight, conv.bias, 2, 1, 2).data)
    assert np.array_equal(up(x).data, ops.conv_transpose2d(x, up.weight, up.bias, 2).data)
    assert np.array_equal(linear(rows).data, ops.linear(rows, linear.weight, linear.bias).data)
    assert np.array_equal(norm(x).data, ops.group_norm(x, 2, norm.weight, norm.bias).data)
    assert np.array_equal(ReLU()(x).data, ops.relu(x).data)
    assert np.array_equal(MaxPool2d(3, 2, 1)(x).data, ops.max_pool2d(x, 3, 2, 1).data)
    assert up.weight.shape == (4, 3, 2, 2) and linear.weight.shape == (6, 3)


@pytest.mark.parametrize("channels, groups", [((6, 4), 0), ((6, 4), 4), ((6, 4), 3), ((6, 4), -2)])
def test_groups_that_do_not_divide_the_channels(channels, groups):
    with pytest.raises(ValueError, match=f"{groups} groups do not divide 6 channels in and 4 out"):
        Conv2d(*channels, 3, groups=groups)


def test_a_convolution_in_groups():
    layer = Conv2d(6, 4, 3, padding=1, groups=2, relu=True).initialize(1)
    assert layer.weight.shape == (4, 3, 3, 3)
    x = image(2, 6, 5, 7)
    expected = ops.conv2d(x, layer.weight, layer.bias, padding=1, relu=True, groups=2).data
    assert np.array_equal(layer(x).data, expected)
    halves = [ops.conv2d(x[:, 3 * i : 3 * i + 3], layer.weight[2 * i : 2 * i + 2], padding=1) for i in range(2)]
    assert np.allclose(expected, np.maximum(np.concatenate([half.data for half in halves], 1), 0), rtol=1e-6, atol=1e-6)


def test_a_layer_without_a_bias():
    conv = Conv2d(3, 4, 3, bias=False)
    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    assert list(conv.state_dict()) == ["weight"]
    assert conv(image(1, 3, 4, 5)).shape == (1, 4, 2, 3)


def test_batch_norm_uses_the_batch_in_training_and_its_memory_in_evaluation():
    norm, x = BatchNorm2d(3, momentum=1.0), image(4, 3, 5, 6)
    trained = norm(x).data
    assert np.allclose(trained.mean((0, 2, 3)), 0, atol=1e-6) and np.allclose(trained.var((0, 2, 3)), 1, atol=1e-4)
    assert np.allclose(norm.running_mean, x.data.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(norm.running_var, x.data.var((0, 2, 3), ddof=1), rtol=1e-5)
    norm.eval()
    memory = norm.running_mean.copy()
    shifted = norm(x + 1.0).data
    assert np.allclose(shifted - norm(x).data, 1 / np.sqrt(norm.running_var + 1e-5)[:, None, None], atol=1e-5)
    assert np.array_equal(norm.running_mean, memory)


def test_frozen_batch_norm_is_a_constant_scale_and_shift():
    norm = FrozenBatchNorm2d(2)
    assert list(norm.parameters()) == []
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    state = dict(weight=[2.0, 3.0], bias=[10.0, 20.0], running_mean=[1.0, -1.0], running_var=[4.0, 9.0])
    norm.load_state_dict({name: np.array(values, np.float32) for name, values in state.items()})
    x = Tensor(np.ones((1, 2, 3, 4), np.float32), requires_grad=True)
    out = norm(x)
    assert np.allclose(out.data[0, :, 0, 0], [10, 22], atol=1e-4) and out.dtype == np.float32
    out.sum().backward()
    assert np.allclose(x.grad[0, :, 0, 0], [1, 1], atol=1e-4)
    before = norm.state_dict()
    norm.train()(x)
    assert all(np.array_equal(array, before[name]) for name, array in norm.state_dict().items())


@pytest.mark.parametrize("make", [BatchNorm2d, FrozenBatchNorm2d, lambda n, eps: GroupNorm(n, n, eps)])
@pytest.mark.parametrize("training", [True, False])
def test_each_norm_divides_by_the_root_of_the_variance_and_its_own_eps(make, training):
    norm = make(2, eps=3.0).train(training)
    x = Tensor(np.array([-1.0, 1, -1, 1, -1, 1, -1, 1], np.float32).reshape(1, 2, 1, 4))  # mean 0, variance 1
    assert np.allclose(norm(x).data, x.data / 2, rtol=1e-6)  # sqrt(1 + 3)
    norm.eps = 8.0
    assert np.allclose(norm(x).data, x.data / 3, rtol=2e-2)  # sqrt(1 + 8); the running variance has moved a little


# Initialisers


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = Net().initialize(5), Net().initialize(5), Net().initialize(6)
    for name, array in first.state_dict().items():
        assert np.array_equal(array, again.state_dict()[name])
    assert not np.array_equal(first.body[0].weight.data, other.body[0].weight.data)


def test_two_layers_made_one_after_the_other_differ():
    for make in (lambda: Linear(8, 8), lambda: Conv2d(3, 4, 3), lambda: ConvTranspose2d(4, 2, 2)):
        one, two = make(), make()
        assert one.weight.data.any() and not np.array_equal(one.weight.data, two.weight.data)
        assert not one.bias.data.any()


def test_without_drawing_nothing_is_drawn_and_nothing_else_is_different(monkeypatch):
    with without_drawing():
        net = Net().initialize(5)
        assert not net.body[0].weight.data.any() and not net.head.up.weight.data.any()
        assert (net.body[1].weight.data == 1).all()  # that is no random number
    assert np.array_equal(net.initialize(5).body[0].weight.data, Net().initialize(5).body[0].weight.data)
    assert Linear(2, 2).weight.data.any()
    with pytest.raises(ZeroDivisionError), without_drawing():
        raise ZeroDivisionError
    assert Linear(2, 2).weight.data.any()


def test_without_drawing_belongs_to_a_thread():
    made = []
    with without_drawing():
        thread = threading.Thread(target=lambda: made.append(Linear(2, 2)))
        thread.start()
        thread.join()
    assert made[0].weight.data.any()


def test_a_loaded_model_draws_no_random_number(tmp_path, monkeypatch):
    """Those of R50-FPN take seconds."""
    path = tmp_path / "model.npz"
    model = build_model("shapes", seed=3)
    save_checkpoint(path, model)
    monkeypatch.setattr(layers._Weighted, "reset_parameters", lambda self, rng: pytest.fail("a weight is drawn"))
    loaded = load_model(path, "cpu")
    for name, array in model.state_dict().items():
        assert np.array_equal(array, loaded.state_dict()[name])


def test_the_arguments_that_pytorch_has_elsewhere_are_given_by_keyword():
    for call in (
        lambda: Conv2d(3, 4, 3, 1, 1, 1, False),  # there: groups
        lambda: ConvTranspose2d(4, 2, 2, 2, True),  # there: padding
        lambda: Linear(3, 4, False),  # there: bias
        lambda: SGD([Parameter(np.zeros(1, np.float32))], 0.1, 0.9, 1e-4),  # there: dampening
    ):
        with pytest.raises(TypeError, match="positional arguments"):
            call()


def test_a_layer_draws_from_a_stream_of_its_own():
    small = Sequential(Conv2d(3, 4, 3), Conv2d(4, 4, 3)).initialize(5)
    large = Sequential(Conv2d(9, 4, 3), Conv2d(4, 4, 3)).initialize(5)
    assert np.array_equal(small[1].weight.data, large[1].weight.data)
    assert not np.array_equal(small[0].weight.data[:, :3, :3, :3], small[1].weight.data[:, :3])


def test_initialize_undoes_training():
    net = Net().initialize(5)
    before = net.state_dict()
    net(image(2, 3, 4, 5)).sum().backward()
    for p in net.parameters():
        p.data += 1
    net.initialize(5)
    after = net.state_dict()
    assert all(np.array_equal(after[name], before[name]) for name in before if name != "seen" and name != "scale")


def test_the_size_of_the_drawn_weights():
    rng = np.random.default_rng(0)
    shape = (64, 32, 3, 3)
    assert init.fans(shape) == (32 * 9, 64 * 9) and init.fans((5, 7)) == (7, 5)
    assert math.isclose(init.kaiming_normal(rng, shape).std(), math.sqrt(2 / (64 * 9)), rel_tol=0.02)
    uniform = init.xavier_uniform(rng, (64, 300))
    assert math.isclose(uniform.std(), math.sqrt(1 / 300), rel_tol=0.02)
    assert math.isclose(np.abs(uniform).max(), math.sqrt(3 / 300), rel_tol=0.01)
    assert math.isclose(init.normal(0.01)(rng, (300, 64)).std(), 0.01, rel_tol=0.02)


def test_biases_start_at_zero_and_norms_as_the_identity():
    net = Net().initialize(0)
    assert not net.body[0].bias.data.any() and not net.body[1].bias.data.any() and not net.head.up.bias.data.any()
    assert (net.body[1].weight.data == 1).all() and (net.body[1].running_var == 1).all()
    assert np.abs(net.body[0].weight.data).max() > 0


# Against torch


@pytest.mark.parity
def test_the_same_weights_give_the_same_numbers_in_torch():
    torch = pytest.importorskip("torch")
    ours = Sequential(
        Conv2d(3, 8, 3, 2, 1), BatchNorm2d(8), ReLU(), MaxPool2d(3, 2, 1), ConvTranspose2d(8, 4, 2, 2), GroupNorm(2, 4)
    )
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2),
        nn.GroupNorm(2, 4),
    )  # fmt: skip
    state = {name: array.numpy() for name, array in theirs.state_dict().items() if "num_batches" not in name}
    assert list(ours.state_dict()) != [] and set(ours.state_dict()) == set(state)
    ours.load_state_dict(state)
    x = image(2, 3, 13, 18)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        out, expected = ours(x), theirs(torch.tensor(x.data))
        assert np.allclose(out.data, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    out.sum().backward(), expected.sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert np.allclose(p.grad, q.grad.numpy(), rtol=1e-3, atol=1e-3)
    for name, array in ours.state_dict().items():
        assert np.allclose(array, theirs.state_dict()[name].numpy(), rtol=1e-4, atol=1e-6)
