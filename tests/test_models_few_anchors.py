"""The RPN's outputs at a few anchors: the numbers and the gradients of all outputs, where only a few are asked for."""

import numpy as np
import pytest
from tiny_models import C4, batch_of, scene, tiny_model

from tinymrcnn.autograd import Tensor
from tinymrcnn.models.few_anchors import FewAnchors, windows_around
from tinymrcnn.models.rpn import Anchors, RPNHead, rpn_loss

NONE = Anchors(np.zeros((0, 4)), [])


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def head_and_maps(*sizes, count=3):
    head = RPNHead(5, 7, count)
    for parameter in head.parameters():
        parameter.data = normal(*parameter.shape)
    return head, [Tensor(normal(2, 5, *size), requires_grad=True) for size in sizes]


def test_windows_by_hand():
    image = np.arange(1.0, 25.0).reshape(2, 1, 3, 4)
    windows = windows_around(Tensor(image), np.array([0, 1]), np.array([0, 1]), np.array([3, 1])).data
    assert windows[0, 0].tolist() == [[0, 0, 0], [3, 4, 0], [7, 8, 0]]
    assert windows[1, 0].tolist() == [[13, 14, 15], [17, 18, 19], [21, 22, 23]]


@pytest.mark.parametrize("sizes", [[(4, 6), (2, 3), (1, 2)], [(5, 3)], [(3, 4), (1, 1)]], ids=str)
@pytest.mark.parametrize("count", [0, 1, 40])
def test_as_the_outputs_of_all_anchors(sizes, count):
    """In an order of their own, with anchors that share a cell, at the borders and on every level."""
    head, maps = head_and_maps(*sizes)
    logits, deltas = head(maps)
    index = np.random.default_rng(1).permutation(logits.size)[: min(count, logits.size)]
    few = FewAnchors(NONE, head, maps).at(index)
    leaves, results = [*maps, *head.parameters()], []
    for outputs in (few, (logits.reshape(-1)[index], deltas.reshape(-1, 4)[index])):
        upstream = [normal(*output.shape) for output in outputs]
        ((outputs[0] * upstream[0]).sum() + (outputs[1] * upstream[1]).sum()).backward()
        results.append([*(output.data for output in outputs), *(leaf.grad for leaf in leaves)])
        for leaf in leaves:
            leaf.grad = None
    assert results[0][0].shape == (len(index),) and results[0][1].shape == (len(index), 4)
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_in_float32():
    head, maps = head_and_maps((4, 6), (2, 3))
    for tensor in (*maps, *head.parameters()):
        tensor.data = tensor.data.astype(np.float32)
    logits, deltas = FewAnchors(NONE, head, maps).at(np.arange(5))
    assert logits.dtype == deltas.dtype == np.float32
    np.testing.assert_allclose(logits.data, head(maps)[0].data.reshape(-1)[:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, C4], ids=["fpn", "c4"])
def test_the_loss_is_that_of_all_outputs(fields):
    images, targets = batch_of(
        scene(1, (32, 48), ((4, 3, 20, 14), (20, 10, 44, 29))), scene(2, (48, 32), ((2, 5, 21, 30),))
    )
    model = tiny_model(**fields)
    batch = model.transform(images, targets)
    samples = model.draw_samples(images, targets).anchors
    gradients = []
    for few in (False, True):
        for parameter in model.parameters():
            parameter.grad = None
        maps = model.features(batch)
        outputs = model.run_rpn(maps, batch)
        outputs = FewAnchors(outputs.anchors, model.rpn.head, maps) if few else outputs
        losses = rpn_loss(outputs, batch.gt_boxes, samples=samples, settings=model.config.rpn)
        (losses["loss_objectness"][0] + losses["loss_rpn_box_reg"][0]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-4, atol=2e-5 * scale, err_msg=name)
