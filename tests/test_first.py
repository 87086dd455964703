"""Begin here: what tinymrcnn is made of, in one minute. Every part has tests of its own beside this file."""

import numpy as np

from tinymrcnn import Tensor, build_model, gradcheck, load_model
from tinymrcnn.boxes import nms
from tinymrcnn.data import ShapesDataset
from tinymrcnn.files import SHIPPED_MODEL
from tinymrcnn.nn import SGD
from tinymrcnn.roi import roi_align


def test_the_chain_rule():
    x, w = Tensor(3.0, requires_grad=True), Tensor(2.0, requires_grad=True)
    y = (x * w + 1) ** 2  # (3 * 2 + 1)^2 = 49
    y.backward()
    assert y.item() == 49
    assert x.grad == 2 * 7 * 2  # dy/dx = 2 (x w + 1) w
    assert w.grad == 2 * 7 * 3  # dy/dw = 2 (x w + 1) x


def test_a_gradient_is_the_slope():
    """gradcheck moves every input a little, and compares the slope with the gradient."""
    rng = np.random.default_rng(0)
    a, b = (Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((2, 3), (3, 4)))
    assert gradcheck(lambda a, b: (a @ b).exp(), [a, b])


def test_roi_align_reads_between_the_pixels():
    """Pixel i, whose centre lies at i + 0.5, holds i: a ramp. The box from x = 1 to 5 is cut into two bins, whose means
    are those of the ramp at their centres, x = 2 and 4. RoIPool could give whole pixels only."""
    ramp = Tensor(np.tile(np.arange(8.0), (6, 1)).reshape(1, 1, 6, 8))
    box = np.array([[0, 1.0, 2.0, 5.0, 4.0]])  # image, x1, y1, x2, y2
    pooled = roi_align(ramp, box, (1, 2), sampling_ratio=2, aligned=True)
    np.testing.assert_allclose(pooled.data, [[[[1.5, 3.5]]]])


def test_nms_keeps_the_best_of_those_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.8, 0.9, 0.5], np.float32)
    assert nms(boxes, scores, iou_threshold=0.5).tolist() == [1, 2]  # box 0 overlaps box 1 by 90 / 110


def test_a_step_of_training_lowers_the_loss():
    images, targets = zip(*(ShapesDataset(2, image_size=64)[i] for i in range(2)), strict=True)
    model = build_model("shapes")

    def total():
        return sum(model(images, targets).values())

    before = total()
    before.backward()
    SGD(model.parameters(), lr=0.01).step()
    assert total().item() < before.item()


def test_the_trained_model_finds_the_shapes():
    image, target = ShapesDataset(1, seed=1)[0]
    found = load_model(SHIPPED_MODEL)([image])[0]
    sure = found["scores"] > 0.7
    assert sorted(found["labels"][sure]) == sorted(target["labels"])
