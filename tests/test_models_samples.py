"""What decides which anchors and RoIs a training step looks at: the seed, the step and the image, and nothing else."""

import numpy as np
import pytest
from tiny_models import DETECTORS, batch_of, empty_scene, losses_and_gradients, scene, tiny_model


@pytest.mark.parametrize("name", DETECTORS)
def test_the_same_step_gives_the_same_bits(name):
    batch = batch_of(scene(5), scene(6, (50, 70), ((3, 3, 30, 30),)))
    runs = [losses_and_gradients(tiny_model(**DETECTORS[name]), batch) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    for path, gradient in runs[0][1].items():
        np.testing.assert_array_equal(gradient, runs[1][1][path], err_msg=path)


FEW = dict(norm="frozen", rpn_samples=16, box_samples=8)  # with batch statistics images would depend on each other


def drawn(model, batch, step=0):
    """{image_id: all that was drawn for that image}."""
    samples = model.draw_samples(*batch, step=step)
    return {
        target["image_id"]: (a.positives, a.negatives, a.objects, r.boxes, r.objects, r.labels)
        for target, a, r in zip(batch[1], samples.anchors, samples.rois, strict=True)
    }


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_samples_do_not_depend_on_the_order_or_the_size_of_the_batch():
    scenes = scene(5), scene(6, boxes=((3, 3, 30, 30),)), empty_scene(7)
    model = tiny_model(**FEW)
    forward, backward = drawn(model, batch_of(*scenes)), drawn(model, batch_of(*scenes[::-1]))
    alone = drawn(model, batch_of(scenes[1]))
    assert forward.keys() == backward.keys() == {5, 6, 7}
    for image_id in forward:
        # the features of an image may differ in the last bit with its place in the batch, and its proposals with them
        for a, b in zip(forward[image_id], backward[image_id], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    for a, b in zip(forward[6], alone[6], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("change", ["seed", "step", "image_id"])
def test_samples_depend_on(change):
    model = tiny_model(**FEW)
    batch = batch_of(scene(5))
    before = drawn(model, batch)[5]
    assert same(before, drawn(model, batch)[5])
    if change == "image_id":
        batch[1][0]["image_id"] = 9
    if change == "seed":
        model.seed = 9
    after = drawn(model, batch, step=9 if change == "step" else 0)[batch[1][0]["image_id"]]
    assert not same(before[:2], after[:2]) and not same(before[3:4], after[3:4])


@pytest.mark.parametrize("name", DETECTORS)
def test_frozen_samples_repeat_the_step(name):
    model = tiny_model(**FEW, **DETECTORS[name])
    batch = batch_of(scene(5), scene(6, (50, 70), ((3, 3, 30, 30),)))
    samples = model.draw_samples(*batch, step=3)
    free, _ = losses_and_gradients(model, batch, step=3)
    frozen, _ = losses_and_gradients(model, batch, samples, step=4)
    other, _ = losses_and_gradients(model, batch, step=4)
    assert frozen == free and other != free
