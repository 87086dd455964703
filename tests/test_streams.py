"""On a GPU everything runs on CuPy's current stream, and what makes the maps and the RPN's outputs fits into a graph.

tests/test_backend.py checks without a GPU on which stream a kernel of ours is launched."""

import functools
import operator

import numpy as np
import pytest
from tiny_models import batch_of, scene, tiny_model

from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import like, to_numpy
from tinymrcnn.roi.roi_align import roi_align_unchecked

NORMS = ["batch", "frozen", "group"]


def steps(norm):
    """Of one model: losses, gradients of two parameters, detections."""
    model, (images, targets) = tiny_model(norm=norm).to("cuda"), batch_of(scene(1), scene(2))
    losses = model(images, targets)
    functools.reduce(operator.add, losses.values()).backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    found = model.eval()(images)
    return [to_numpy(array) for array in (*(loss.data for loss in losses.values()), learned[0], learned[-1])], found


@pytest.mark.cuda
@pytest.mark.parametrize("norm", NORMS)
def test_a_stream_that_waits_for_no_other(norm):
    """A kernel on another stream would compute before its inputs are there."""
    cupy = pytest.importorskip("cupy")
    expected, detections = steps(norm)
    for _ in range(3):
        with cupy.cuda.Stream(non_blocking=True):
            arrays, found = steps(norm)
        for array, wanted in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=1e-4 * abs(wanted).max())
        for result, wanted in zip(found, detections, strict=True):
            best = min(10, len(wanted["scores"]))
            np.testing.assert_allclose(result["scores"][:best], wanted["scores"][:best], atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("norm", NORMS)
def test_a_graph_of_the_network(norm):
    """Captured once with one image, and launched with another in its place."""
    cupy = pytest.importorskip("cupy")
    model = tiny_model(norm=norm).eval().to("cuda")
    with no_grad(), cupy.cuda.Stream(non_blocking=True) as stream:
        batch, other = (model.transform([scene(i)[0]]) for i in (1, 2))
        rois = like(np.array([[0, 4, 8, 40, 30], [0, 10, 2, 60, 44]], np.float32), batch.images.data)

        def network(images):
            batch.images = images
            features = model.features(batch)
            return [*model.rpn.head(features), roi_align_unchecked(features[0], rois, 7, 0.25)]

        images = batch.images
        expected = [[to_numpy(out.data) for out in network(each.images)] for each in (batch, other)]
        network(images)  # in a capture nothing can be compiled, and no memory taken from the driver
        stream.begin_capture()
        outputs = network(images)
        graph = stream.end_capture()
        for of_image, wanted in zip((batch, other), expected, strict=True):
            images.data[...] = of_image.images.data
            graph.launch(stream)
            for out, array in zip(outputs, wanted, strict=True):
                np.testing.assert_allclose(to_numpy(out.data), array, rtol=1e-4, atol=1e-4 * abs(array).max())
    assert abs(expected[0][0] - expected[1][0]).max() > 1e-3
