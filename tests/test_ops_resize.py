"""interpolate against the definition pixel by pixel, central differences and torch."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.ops import interpolate


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def plain_interpolate(x, size, mode):
    n, c, h, w = x.shape
    out = np.zeros((n, c, *size))
    for i, j in np.ndindex(*size):
        if mode == "nearest":
            out[:, :, i, j] = x[:, :, i * h // size[0], j * w // size[1]]
            continue
        # the centre of the output pixel in the input, whose pixel k has its centre at k + 0.5
        y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
        z = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
        top, left = int(y), int(z)
        bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
        v, u = y - top, z - left
        upper = (1 - u) * x[:, :, top, left] + u * x[:, :, top, right]
        lower = (1 - u) * x[:, :, bottom, left] + u * x[:, :, bottom, right]
        out[:, :, i, j] = (1 - v) * upper + v * lower
    return out


CASES = {  # name -> (shape, keywords, output size)
    "twice": ((2, 3, 3, 5), dict(scale_factor=2), (6, 10)),  # the FPN's top-down path
    "to a given size": ((2, 3, 3, 5), dict(size=(5, 9)), (5, 9)),
    "to a square": ((2, 3, 3, 5), dict(size=4), (4, 4)),
    "half": ((2, 3, 6, 8), dict(scale_factor=0.5), (3, 4)),
    "smaller": ((1, 2, 7, 9), dict(size=(3, 2)), (3, 2)),
    "one up, one down": ((1, 2, 3, 9), dict(size=(8, 4)), (8, 4)),
    "the same": ((1, 2, 3, 4), dict(size=(3, 4)), (3, 4)),
    "three times": ((1, 2, 2, 3), dict(scale_factor=3.0), (6, 9)),
    "from one pixel": ((2, 3, 1, 1), dict(size=(3, 4)), (3, 4)),
    "to one pixel": ((2, 3, 4, 5), dict(size=(1, 1)), (1, 1)),
    "an empty batch": ((0, 3, 3, 5), dict(scale_factor=2), (6, 10)),
}
MODES = ("nearest", "bilinear")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_values(name, mode):
    shape, keywords, size = CASES[name]
    x = normal(*shape)
    out = interpolate(Tensor(x), mode=mode, **keywords)
    assert out.shape == (*shape[:2], *size)
    assert np.allclose(out.data, plain_interpolate(x, size, mode), rtol=1e-12, atol=1e-13)


@pytest.mark.gradcheck
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, mode, check_gradients):
    shape, keywords, _ = CASES[name]

    def inputs(rng):
        return [Tensor(rng.normal(size=shape), requires_grad=True)]

    check_gradients(f"interpolate, {mode}", lambda x: interpolate(x, mode=mode, **keywords), inputs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_contract(name, mode, check_contract):
    shape, keywords, _ = CASES[name]
    check_contract(lambda x: interpolate(x, mode=mode, **keywords), [normal(*shape)])


def test_nearest_is_the_default_and_repeats_pixels():
    out = interpolate(Tensor(np.array([[[[1.0, 2.0, 3.0]]]])), scale_factor=2)
    assert np.array_equal(out.data, [[[[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3]]]])


def test_bilinear_by_hand():
    out = interpolate(Tensor(np.array([[[[0.0, 4.0]]]])), size=(1, 4), mode="bilinear")
    assert np.array_equal(out.data, [[[[0, 1, 3, 4]]]])  # centres at -0.25, 0.25, 0.75, 1.25


def test_bilinear_keeps_a_linear_ramp_inside():
    rows, columns = np.mgrid[:6, :8]
    ramp = (2.0 * (rows + 0.5) + 3.0 * (columns + 0.5) + 1)[None, None]
    rows, columns = np.mgrid[:12, :16]
    expected = 2.0 * (rows + 0.5) / 2 + 3.0 * (columns + 0.5) / 2 + 1
    out = interpolate(Tensor(ramp), scale_factor=2, mode="bilinear").data[0, 0]
    assert np.allclose(out[1:-1, 1:-1], expected[1:-1, 1:-1])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "either size or scale_factor"),
        (dict(size=(2, 2), scale_factor=2), "either size or scale_factor"),
        (dict(size=(2, 2), mode="cubic"), "'cubic'.*bilinear.*nearest"),
        (dict(size=(0, 2)), r"\(0, 2\)"),
        (dict(scale_factor=0.1), r"\(0, 0\)"),
    ],
)
def test_refuses(keywords, words):
    with pytest.raises(ValueError, match=words):
        interpolate(Tensor(np.ones((1, 2, 3, 4))), **keywords)


def test_refuses_what_is_no_batch_of_maps():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        interpolate(Tensor(np.ones((3, 4))), scale_factor=2)
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        interpolate(Tensor(np.ones((1, 2, 0, 4))), size=(2, 2))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name, mode, dtype):
    shape, keywords, _ = CASES[name]
    same_as_torch(normal(*shape).astype(dtype), keywords, mode)


@pytest.mark.parity
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale_factor", [1.5, 0.4, 2.7])
def test_a_scale_that_gives_no_whole_size_equals_torch(scale_factor, mode):
    same_as_torch(normal(1, 2, 5, 7), dict(scale_factor=scale_factor), mode)


@pytest.mark.parity
@pytest.mark.parametrize("mode", MODES)
def test_many_sizes_equal_torch(mode):
    for h in range(1, 20):
        for out in range(1, 40):
            same_as_torch(normal(1, 1, h, 3).astype(np.float32), dict(size=(out, 5)), mode)


def same_as_torch(data, keywords, mode):
    torch = pytest.importorskip("torch")
    x, y = Tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
    out, expected = interpolate(x, mode=mode, **keywords), torch.nn.functional.interpolate(y, mode=mode, **keywords)
    upstream = normal(*out.shape, seed=1).astype(data.dtype)
    assert out.shape == tuple(expected.shape)
    out.backward(upstream)
    expected.backward(torch.tensor(upstream))
    rtol = 1e-5 if data.dtype == np.float32 else 1e-12
    assert np.abs(out.data - expected.detach().numpy()).max(initial=0) <= rtol * np.abs(data).max(initial=0)
    assert np.abs(x.grad - y.grad.numpy()).max(initial=0) <= rtol * np.abs(y.grad.numpy()).max(initial=0), keywords
