"""The box coder: corrections worked out by hand, the round trip, and torchvision's."""

import math

import numpy as np
import pytest

from tinymrcnn.boxes import BoxCoder


def random_boxes(rng, count, dtype=np.float32):
    corners = rng.random((count, 2)) * [500, 300]
    return np.concatenate([corners, corners + rng.uniform(1, 200, (count, 2))], axis=1).astype(dtype)


def test_encode_by_hand():
    # given box: centre (20, 30), size 20 x 40; wanted box: centre (25, 40), size 40 x 20
    #   dx = (25 - 20) / 20 = 1/4    dy = (40 - 30) / 40 = 1/4    dw = ln(40 / 20)    dh = ln(20 / 40)
    boxes = np.array([[10, 10, 30, 50]], np.float32)
    gt = np.array([[5, 30, 45, 50]], np.float32)
    deltas = BoxCoder().encode(gt, boxes)
    assert deltas.dtype == np.float32
    np.testing.assert_allclose(deltas, [[0.25, 0.25, math.log(2), -math.log(2)]], rtol=1e-6)
    weighted = BoxCoder((10, 10, 5, 5)).encode(gt, boxes)
    np.testing.assert_allclose(weighted, [[2.5, 2.5, 5 * math.log(2), -5 * math.log(2)]], rtol=1e-6)


def test_decode_by_hand():
    # given box: centre (20, 30), size 20 x 40; two corrections
    #   (1/4, 1/4, ln 2, -ln 2): centre (25, 40), size 40 x 20
    #   (0, -1/2, 0, 0):         centre (20, 10), size 20 x 40
    deltas = np.array([[0.25, 0.25, math.log(2), -math.log(2), 0, -0.5, 0, 0]], np.float32)
    decoded = BoxCoder().decode(deltas, np.array([[10, 10, 30, 50]], np.float32))
    assert decoded.shape == (1, 2, 4) and decoded.dtype == np.float32
    np.testing.assert_allclose(decoded[0], [[5, 30, 45, 50], [10, -10, 30, 30]], rtol=1e-6)


def test_no_correction_is_zero():
    boxes = random_boxes(np.random.default_rng(0), 7)
    assert (BoxCoder((10, 10, 5, 5)).encode(boxes, boxes) == 0).all()
    np.testing.assert_allclose(BoxCoder().decode(np.zeros((7, 4), np.float32), boxes)[:, 0], boxes, rtol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-3), (np.float64, 1e-10)])
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5), (1, 2, 3, 4)])
def test_decode_undoes_encode(dtype, tolerance, weights):
    rng = np.random.default_rng(5)
    gt, boxes = random_boxes(rng, 400, dtype), random_boxes(rng, 400, dtype)
    gt[:, 2:] = np.minimum(gt[:, 2:], gt[:, :2] + 50 * (boxes[:, 2:] - boxes[:, :2]))  # within the clip
    coder = BoxCoder(weights)
    decoded = coder.decode(coder.encode(gt, boxes), boxes)
    assert decoded.dtype == dtype
    np.testing.assert_allclose(decoded[:, 0], gt, rtol=0, atol=tolerance)


def test_growth_is_clipped():
    # dw of 100 would overflow; it becomes ln(1000/16), so 2 pixels become 125. Shrinking has no limit.
    box = np.array([[0, 0, 2, 2]], np.float32)
    deltas = np.array([[0, 0, 100, 100, 0, 0, -200, -200]], np.float32)
    large, small = BoxCoder().decode(deltas, box)[0]
    np.testing.assert_allclose(large, [1 - 62.5, 1 - 62.5, 1 + 62.5, 1 + 62.5], rtol=1e-6)
    np.testing.assert_array_equal(small, [1, 1, 1, 1])
    # with weights (10, 10, 5, 5) the limit counts after the division: 20 / 5 = 4.0 is below ln(62.5) = 4.135, 5.0 above
    wide = BoxCoder((10, 10, 5, 5)).decode(np.array([[0, 0, 20, 25]], np.float32), box)[0, 0]
    assert wide[2] - wide[0] == pytest.approx(2 * math.exp(4), rel=1e-5)
    assert wide[3] - wide[1] == pytest.approx(125, rel=1e-5)


def test_nonfinite_deltas_stay_visible():
    decoded = BoxCoder().decode(np.array([[np.nan, 0, 0, 0, 0, 0, np.inf, 0]], np.float32), np.eye(4, dtype="f4")[2:3])
    assert np.isnan(decoded[0, 0, 0]) and np.isfinite(decoded[0, 1]).all()


def test_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert BoxCoder().encode(none, none).shape == (0, 4)
    decoded = BoxCoder().decode(np.zeros((0, 12), np.float32), none)
    assert decoded.shape == (0, 3, 4) and decoded.dtype == np.float32


def test_what_cannot_be_encoded_is_named():
    good = np.array([[0, 0, 5, 5], [1, 1, 4, 9]], np.float32)
    flat, reversed_, unknown = good.copy(), good.copy(), good.copy()
    flat[1, 2], reversed_[0, 3], unknown[1, 0] = flat[1, 0], -1, np.nan
    for bad, row in ((flat, 1), (reversed_, 0), (unknown, 1)):
        with pytest.raises(ValueError, match=f"Row {row} of gt_boxes .* must be positive"):
            BoxCoder().encode(bad, good)
        with pytest.raises(ValueError, match=f"Row {row} of boxes"):
            BoxCoder().encode(good, bad)
    with pytest.raises(ValueError, match="pairs the rows"):
        BoxCoder().encode(good[:1], good)
    with pytest.raises(ValueError, match="four positive weights"):
        BoxCoder((1, 1, 1))
    for shape in ((2, 6), (3, 4), (2, 2, 4)):
        with pytest.raises(ValueError, match="decode needs deltas"):
            BoxCoder().decode(np.zeros(shape, np.float32), good)


@pytest.mark.parity
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_as_torchvision(weights):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.models.detection._utils").BoxCoder(weights)
    rng = np.random.default_rng(8)
    gt, boxes = random_boxes(rng, 500), random_boxes(rng, 500)
    deltas = rng.normal(0, 3, (500, 4 * 6)).astype(np.float32)
    ours = BoxCoder(weights)
    encoded = theirs.encode_single(torch.from_numpy(gt), torch.from_numpy(boxes)).numpy()
    np.testing.assert_allclose(ours.encode(gt, boxes), encoded, rtol=1e-6, atol=1e-6)
    decoded = theirs.decode(torch.from_numpy(deltas), [torch.from_numpy(boxes)]).numpy()
    np.testing.assert_allclose(ours.decode(deltas, boxes), decoded, rtol=1e-6, atol=1e-3)
