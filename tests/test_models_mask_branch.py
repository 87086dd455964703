"""The mask branch: head, targets, the three kinds of loss and the masks, worked by hand."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device
from tinymrcnn.models.mask_branch import (
    MaskHead,
    MaskMLP,
    MaskPredictor,
    MaskSettings,
    decode_masks,
    mask_loss,
    mask_targets,
)

DEFAULT = MaskSettings()


def f32(values):
    return np.array(values, np.float32)


def ints(*values):
    return np.array(values, np.int64)


# Head


def test_the_head_keeps_the_grid_and_the_predictor_doubles_it():
    head, predictor = MaskHead(3, MaskSettings(layers=(5, 4))), MaskPredictor(4, 2, MaskSettings(channels=6))
    x = Tensor(np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype(np.float32))
    hidden = head(x)
    assert hidden.shape == (2, 4, 7, 7) and (hidden.data >= 0).all() and (hidden.data == 0).any()
    assert predictor(hidden).shape == (2, 2, 14, 14)
    assert [name for name, _ in head.named_parameters()] == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"]
    none = Tensor(np.zeros((0, 3, 7, 7), np.float32))
    assert predictor(head(none)).shape == (0, 2, 14, 14)
    assert MaskHead(3, MaskSettings(layers=()))(x) is x


def test_the_predictor():
    predictor = MaskPredictor(1, 2, MaskSettings(channels=1))
    predictor.conv5_mask.weight.data[...] = f32([[1, 2], [3, -4]])
    predictor.mask_fcn_logits.weight.data[...] = f32([1, 10]).reshape(2, 1, 1, 1)
    predictor.mask_fcn_logits.bias.data[...] = [0, 0.5]
    out = predictor(Tensor(f32([[[[1, 2]]]])))
    doubled = f32([[1, 2, 2, 4], [3, 0, 6, 0]])  # ReLU between the two
    np.testing.assert_array_equal(out.data, [[doubled, 10 * doubled + 0.5]])


def test_the_mlp_is_three_matrix_products():
    mlp = MaskMLP(3, 2, MaskSettings(head="mlp", pool=4, channels=5))
    names = [f"{layer}.{kind}" for layer in ("fc1", "fc2", "mask_fc_logits") for kind in ("weight", "bias")]
    assert [name for name, _ in mlp.named_parameters()] == names
    rng = np.random.default_rng(2)
    for parameter in mlp.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    x = rng.normal(size=(7, 3, 4, 4)).astype(np.float32)
    out = mlp(Tensor(x))
    assert out.shape == (7, 2, 8, 8) and out.dtype == np.float32
    w1, b1, w2, b2, w3, b3 = (parameter.data.astype(float) for parameter in mlp.parameters())
    expected = np.empty((7, 2, 8, 8))
    for r, k, i, j in np.ndindex(expected.shape):
        hidden = np.maximum(w1 @ [x[r, c, y, z] for c in range(3) for y in range(4) for z in range(4)] + b1, 0)
        hidden = np.maximum(w2 @ hidden + b2, 0)
        row = (k * 8 + i) * 8 + j  # class by class, and of each the cells row by row
        expected[r, k, i, j] = w3[row] @ hidden + b3[row]
    np.testing.assert_allclose(out.data, expected, rtol=1e-4, atol=1e-4)
    assert mlp(Tensor(x[:0])).shape == (0, 2, 8, 8)


def test_the_mlp_starts_with_no_opinion():
    mlp = MaskMLP(8, 6, MaskSettings(head="mlp", channels=32))
    mlp.initialize(0)
    out = mlp(Tensor(np.random.default_rng(0).normal(size=(2, 8, 14, 14)).astype(np.float32)))
    assert out.shape == (2, 6, 28, 28) and 0 < np.abs(out.data).max() < 0.05


# Targets


def test_targets_are_the_object_s_mask_in_the_box():
    masks = np.zeros((2, 8, 12), np.uint8)
    masks[0, 2:6, 3:5] = 1
    masks[1, :, 6:] = 1
    boxes = f32([[1, 2, 5, 6], [4, 0, 8, 8], [3, 2, 5, 6]])
    targets = mask_targets(masks, boxes, objects=ints(0, 1, 0), size=4, settings=DEFAULT)
    assert targets.shape == (3, 4, 4) and targets.dtype == np.float32
    np.testing.assert_array_equal(targets[0], [[0, 0, 1, 1]] * 4)
    np.testing.assert_array_equal(targets[1], [[0, 0, 1, 1]] * 4)
    np.testing.assert_array_equal(targets[2], np.ones((4, 4)))


def test_targets_have_rows_and_columns():
    masks = np.zeros((1, 6, 10), np.uint8)
    masks[0, 0:2, 4:10] = 1
    targets = mask_targets(
        masks, f32([[2, 0, 10, 4]]), objects=ints(0), size=4, settings=DEFAULT
    )  # cells 2 wide and 1 high
    np.testing.assert_array_equal(targets[0], [[0, 1, 1, 1]] * 2 + [[0] * 4] * 2)


def test_soft_and_binary_targets():
    masks = np.zeros((1, 4, 8), np.uint8)
    masks[0, :, :3] = 1
    boxes = f32([[0, 0, 8, 4]])  # cells of 2 x 1: the second one is half covered
    soft = mask_targets(masks, boxes, objects=ints(0), size=4, settings=MaskSettings(soft_mask_targets=True))
    np.testing.assert_allclose(soft[0], [[1, 0.5, 0, 0]] * 4)
    np.testing.assert_array_equal(
        mask_targets(masks, boxes, objects=ints(0), size=4, settings=DEFAULT)[0], [[1, 1, 0, 0]] * 4
    )  # from 0.5 on
    assert set(
        np.unique(mask_targets(masks, boxes + f32([0.2, 0, 0.3, 0]), objects=ints(0), size=4, settings=DEFAULT))
    ) == {0, 1}


def test_targets_half_a_pixel_off():
    masks = np.zeros((1, 4, 8), np.uint8)
    masks[0, :, :4] = 1
    boxes = f32([[0, 0, 8, 4]])
    exact, off = (
        mask_targets(
            masks, boxes, objects=ints(0), size=8, settings=MaskSettings(crop_aligned=aligned, soft_mask_targets=True)
        )
        for aligned in (True, False)
    )
    np.testing.assert_allclose(exact[0, 1], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(off[0, 1], [1, 1, 1, 0.5, 0, 0, 0, 0])


def test_targets_of_nothing():
    masks = np.ones((2, 4, 8), np.uint8)
    assert mask_targets(masks, np.zeros((0, 4), np.float32), objects=ints(), size=4, settings=DEFAULT).shape == (
        0,
        4,
        4,
    )
    assert mask_targets(masks[:0], np.zeros((0, 4), np.float32), objects=ints(), size=4, settings=DEFAULT).shape == (
        0,
        4,
        4,
    )


# Loss


def bce(logit, target):
    return np.log1p(np.exp(logit)) - target * logit


LOGITS = f32(np.random.default_rng(5).normal(size=(2, 3, 2, 2)))
TARGETS = f32([[[0, 1], [1, 0.25]], [[1, 1], [0, 0.5]]])
LABELS = ints(2, 1)


def test_sigmoid_loss_is_that_of_the_own_class():
    logits = Tensor(LOGITS, requires_grad=True)
    loss, count = mask_loss(logits, LABELS, targets=TARGETS)
    assert count == 8
    expected = bce(LOGITS[0, 2], TARGETS[0]).sum() + bce(LOGITS[1, 1], TARGETS[1]).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    expected = np.zeros_like(LOGITS)
    expected[0, 2] = 1 / (1 + np.exp(-LOGITS[0, 2])) - TARGETS[0]
    expected[1, 1] = 1 / (1 + np.exp(-LOGITS[1, 1])) - TARGETS[1]
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_class_agnostic_loss():
    loss, count = mask_loss(Tensor(LOGITS[:, :1]), LABELS, targets=TARGETS)
    assert count == 8
    assert loss.item() == pytest.approx(bce(LOGITS[:, 0], TARGETS).sum(), rel=1e-6)


def test_softmax_loss_lets_the_classes_compete():
    """Inside the mask the object's class is right, outside of it class 0."""
    logits = Tensor(LOGITS, requires_grad=True)
    loss, count = mask_loss(logits, LABELS, targets=TARGETS, kind="softmax")
    assert count == 8
    classes = np.array([[[0, 2], [2, 0]], [[1, 1], [0, 1]]])
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    one_hot = np.moveaxis(np.eye(3)[classes], -1, 1)
    assert loss.item() == pytest.approx(-(np.log(shares) * one_hot).sum(), rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(logits.grad, shares - one_hot, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_loss_over_nothing(kind):
    logits = Tensor(np.zeros((0, 3, 2, 2), np.float32), requires_grad=True)
    loss, count = mask_loss(logits, ints(), targets=np.zeros((0, 2, 2), np.float32), kind=kind)
    assert (loss.item(), count) == (0, 0)
    loss.backward()
    assert logits.grad.shape == (0, 3, 2, 2)


@pytest.mark.gradcheck
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_gradients(check_gradients, device, kind):
    targets = to_device(np.random.default_rng(0).random((4, 3, 3)).round(), device)

    def loss(logits):
        return mask_loss(logits, ints(1, 3, 2, 3), targets=targets, kind=kind)[0]

    check_gradients(f"mask_loss, {kind}", loss, lambda rng: [Tensor(rng.normal(size=(4, 4, 3, 3)), requires_grad=True)])


# Inference


def test_probabilities_of_the_own_class():
    masks = decode_masks(Tensor(LOGITS), LABELS, settings=DEFAULT)
    assert masks.shape == (2, 2, 2) and masks.dtype == np.float32
    np.testing.assert_allclose(masks[0], 1 / (1 + np.exp(-LOGITS[0, 2])), rtol=1e-5)
    np.testing.assert_allclose(masks[1], 1 / (1 + np.exp(-LOGITS[1, 1])), rtol=1e-5)
    agnostic = decode_masks(Tensor(LOGITS[:, :1]), LABELS, settings=DEFAULT)
    np.testing.assert_allclose(agnostic, 1 / (1 + np.exp(-LOGITS[:, 0])), rtol=1e-5)


SOFTMAX, ALL = MaskSettings(loss="softmax"), MaskSettings(loss="softmax", softmax_decoding="all")


def test_the_softmax_between_the_class_and_the_background():
    masks = decode_masks(Tensor(LOGITS), LABELS, settings=SOFTMAX)
    assert masks.shape == (2, 2, 2) and masks.dtype == np.float32
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    own = np.stack([shares[0, 2], shares[1, 1]])
    np.testing.assert_allclose(masks, own / (own + shares[:, 0]), rtol=1e-5)
    np.testing.assert_array_equal(masks >= 0.5, own >= shares[:, 0])
    rival = LOGITS + f32([0, 7, 0]).reshape(1, 3, 1, 1)  # another class for RoI 0, whose mask does not change
    np.testing.assert_array_equal(decode_masks(Tensor(rival), LABELS, settings=SOFTMAX)[0], masks[0])


def test_the_softmax_among_all_classes():
    masks = decode_masks(Tensor(LOGITS), LABELS, settings=ALL)
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(masks, [shares[0, 2], shares[1, 1]], rtol=1e-5)


def test_a_cell_that_two_classes_share():
    """Background 0.04, and 0.48 for either of two classes: object, but of no class with a majority."""
    logits = Tensor(np.log(f32([0.04, 0.48, 0.48])).reshape(1, 3, 1, 1))
    assert decode_masks(logits, ints(1), settings=SOFTMAX).item() == pytest.approx(0.48 / 0.52)
    assert decode_masks(logits, ints(1), settings=ALL).item() == pytest.approx(0.48)


@pytest.mark.parametrize("settings", [DEFAULT, SOFTMAX, ALL])
def test_logits_of_any_size(settings):
    logits = f32([[1e4, -1e4, 0], [0, -1e4, 1e4], [-1e4, 1e4, 0]]).reshape(3, 3, 1, 1)
    found = decode_masks(Tensor(logits), ints(1, 1, 1), settings=settings)
    np.testing.assert_array_equal(found.ravel(), [0, 0, 1])


@pytest.mark.parametrize("settings", [DEFAULT, SOFTMAX, ALL])
def test_no_masks(settings):
    masks = decode_masks(Tensor(np.zeros((0, 3, 2, 2), np.float32)), ints(), settings=settings)
    assert masks.shape == (0, 2, 2) and masks.dtype == np.float32
