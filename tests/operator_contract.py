"""What every operator of tinymrcnn.ops promises, whatever it computes: one check for all of them."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device, to_numpy


def c_ordered(array):
    return np.asarray(array, order="C")


def channels_last(array):
    """The axes of a (N, C, H, W) array as feature maps have them in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if array.ndim == 4 else array


def with_gaps(array):
    """Every axis reversed in memory, and with gaps."""
    if array.ndim == 0:
        return array
    *rest, last = array.shape
    wide = np.zeros((2 * last, *rest[::-1]), array.dtype).transpose()
    wide[..., ::2] = array
    return wide[..., ::2]


def is_channels_last(array) -> bool:
    return array.ndim != 4 or array.transpose(0, 2, 3, 1).flags.c_contiguous


def run(fn, arrays, upstream, wanted=None, device="cpu"):
    """fn on leaves made of `arrays`, forward and backward: (output array, gradients of the leaves).

    wanted: which leaves require a gradient, all if None."""
    wanted = wanted or [True] * len(arrays)
    leaves = [Tensor(to_device(array, device), requires_grad=w) for array, w in zip(arrays, wanted, strict=True)]
    upstream = to_device(upstream, device)
    node = fn(*leaves).node
    needs = tuple(parent is not None for parent in node.parents)
    for part, need in zip(node.backward(upstream, needs), needs, strict=True):
        assert (part is not None) == need, f"{node.name} computes a gradient that no one needs, or leaves one out."
    out = fn(*leaves)
    out.backward(upstream)
    return out.data, [leaf.grad for leaf in leaves]


def close(a, b, rtol):
    a, b = np.asarray(to_numpy(a), np.float64), np.asarray(to_numpy(b), np.float64)
    return a.shape == b.shape and np.abs(a - b).max(initial=0) <= rtol * max(np.abs(b).max(initial=0), 1e-3)


@pytest.fixture
def check_contract(fake_device):
    """check_contract(fn, arrays): fn, a call of one operator on Tensors made of these float64 arrays,

    - keeps float32 and float64 in its result and in every gradient, and gives the same numbers in both;
    - takes inputs and upstream gradients in any memory order and returns feature maps channels-last (an elementwise
      operator, in the memory order of its input);
    - computes the gradients that are wanted, and no others;
    - changes neither its inputs nor the upstream gradient;
    - runs on a device without a copy to the host, where it gives the same numbers."""

    def check(fn, arrays, elementwise=False):
        arrays = [np.asarray(array, np.float64) for array in arrays]
        before = [array.copy() for array in arrays]
        upstream = np.asarray(np.random.default_rng(9).normal(size=fn(*map(Tensor, arrays)).shape))
        kept = upstream.copy()
        expected, gradients = run(fn, arrays, upstream)
        assert all(np.array_equal(a, b) for a, b in zip(arrays + [upstream], before + [kept], strict=True))

        for dtype, rtol in ((np.float64, 1e-12), (np.float32, 2e-4)):
            for layout in (c_ordered, channels_last, with_gaps):
                for device in ("cpu", "fake"):
                    given = [layout(array.astype(dtype)) for array in arrays]
                    out, got = run(fn, given, layout(upstream.astype(dtype)), device=device)
                    for result, wanted in [(out, expected), *zip(got, gradients, strict=True)]:
                        assert result.dtype == dtype
                        assert close(result, wanted, rtol), (dtype.__name__, layout.__name__, device)
                        if layout is channels_last or not elementwise:
                            assert is_channels_last(result), (layout.__name__, device)

        for i in range(len(arrays)):
            wanted = [j == i for j in range(len(arrays))]
            _, got = run(fn, arrays, upstream, wanted)
            assert all((g is not None) == w for g, w in zip(got, wanted, strict=True))
            assert close(got[i], gradients[i], 1e-12)

        fake_device.copies = 0
        run(fn, [array.astype(np.float32) for array in arrays], upstream.astype(np.float32), device="fake")
        assert fake_device.copies == 0, "the operator waits for the device"

    return check
