"""The stages of MNC on constructed inputs: corrected boxes, their gradients, targets, and what a mask lets through."""

import numpy as np
import pytest
from tiny_models import C4, MNC, MNC_C4, batch_of, scene, tiny_model

from tinymrcnn.autograd import Tensor, gradcheck
from tinymrcnn.boxes import BoxCoder
from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.models.mnc import MaskStage, MNCSettings, Stages, corrected, mask_overlaps, match_rois, next_rois
from tinymrcnn.roi.roi_crop import roi_crop_unchecked

BOXES = np.array([[10, 20, 30, 60], [5.5, 3, 17, 9], [0, 0, 8, 8]])


def rng(seed=0):
    return np.random.default_rng(seed)


# Corrected boxes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corrected_boxes_are_those_of_the_coder(dtype):
    coder, boxes = BoxCoder((10, 10, 5, 5)), BOXES.astype(dtype)
    deltas = rng().normal(0, 3, (3, 4)).astype(dtype)
    deltas[2, 2] = 1e4  # held at the largest enlargement
    found = corrected(boxes, Tensor(deltas), coder)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.data, coder.decode(deltas, boxes)[:, 0], rtol=1e-5 if dtype == np.float32 else 1e-12
    )
    assert corrected(boxes[:0], Tensor(deltas[:0]), coder).shape == (0, 4)


def test_gradients_of_corrected_boxes():
    coder = BoxCoder((10, 10, 5, 5))
    assert gradcheck(
        lambda deltas: corrected(BOXES, deltas, coder), [Tensor(rng().normal(0, 2, (3, 4)), requires_grad=True)]
    )


def stages_of(rois, scores, deltas):
    """Stages that have no masks."""
    scores, deltas = np.array(scores, float), np.array(deltas, float)
    none = Tensor(np.zeros((len(rois), 3, 3)))
    return Stages(Tensor(np.array(rois, float)), none, Tensor(scores), Tensor(0 * scores), Tensor(deltas))


def test_the_next_rois_are_corrected_for_the_best_class():
    rois = [[0, 10, 10, 20, 30], [1, 10, 10, 20, 30], [1, 0, 0, 10, 10]]
    deltas = np.zeros((3, 3, 4))
    deltas[0, 1, 0], deltas[0, 2, 0] = 5, -5  # half a width to the right for class 1, to the left for class 2
    deltas[1, 0, 1], deltas[1, 1, 1] = 30, 5  # a quarter of a height down for class 1; the background has no say
    deltas[2, 2] = [-10, 20, 0, 0]
    stages = stages_of(rois, [[0, 1, 2], [9, 2, 1], [0, 0, 1]], deltas.reshape(3, 12))
    found = next_rois(stages, [(50, 22), (34, 40)], BoxSettings(weights=(10, 10, 5, 5)))
    # clipped to the images: the second at its lower edge, 34, the third at the left one
    np.testing.assert_allclose(found.data, [[0, 5, 10, 15, 30], [1, 10, 20, 20, 34], [1, 0, 20, 0, 30]])


def test_gradients_reach_the_corrections_through_the_corners():
    """From the samples of a map, through the corners at which they are read, to the deltas of the best class."""
    features = Tensor(rng(1).normal(size=(2, 3, 9, 11)))
    rois = np.array([[0, 8.3, 9.1, 40.2, 50.4], [1, 20.7, 5.2, 70.1, 44.9]])
    scores = np.array([[0.0, 3, 1], [0, 1, 2]])

    def samples(deltas):
        none = Tensor(np.zeros((2, 3, 3)))
        stages = Stages(Tensor(rois), none, Tensor(scores), Tensor(scores), deltas)
        return roi_crop_unchecked(features, next_rois(stages, [(72, 88)] * 2, BoxSettings()), 5, 1 / 8)

    deltas = Tensor(rng(2).normal(0, 0.7, (2, 12)), requires_grad=True)
    assert gradcheck(samples, [deltas])
    samples(deltas).sum().backward()
    touched = np.abs(deltas.grad.reshape(2, 3, 4)).sum(axis=2) > 0
    assert touched.tolist() == [[False, True, False], [False, False, True]]


def test_no_rois_have_no_next_ones():
    found = next_rois(stages_of(np.zeros((0, 5)), np.zeros((0, 3)), np.zeros((0, 12))), [(50, 22)], BoxSettings())
    assert found.shape == (0, 5) and found.dtype == np.float64


# Targets


def test_all_rois_are_matched_and_the_positives_come_first():
    target = {"boxes": np.float32([[0, 0, 10, 10], [20, 20, 40, 30]]), "labels": np.array([4, 2])}
    boxes = np.float32([[50, 50, 60, 60], [20, 20, 40, 31], [0, 0, 10, 4.9], [1, 0, 10, 10], [20, 20, 30, 30]])
    samples, order = match_rois(boxes, target, BoxSettings())
    assert order.tolist() == [1, 3, 4, 0, 2] and samples.objects.tolist() == [1, 0, 1]  # an IoU of 0.5 is enough
    assert samples.labels.tolist() == [2, 4, 2, 0, 0] and samples.labels.dtype == np.int64
    np.testing.assert_array_equal(samples.boxes, boxes[order])
    nothing = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}
    samples, order = match_rois(boxes, nothing, BoxSettings())
    assert order.tolist() == [0, 1, 2, 3, 4] and samples.labels.tolist() == [0] * 5 and len(samples.objects) == 0
    samples, order = match_rois(boxes[:0], target, BoxSettings())
    assert len(order) == len(samples.labels) == 0


def test_overlaps_of_masks_with_their_objects():
    """RoIs of 4 x 8 pixels in 2 x 2 cells of 8 pixels each."""
    rois = np.float64([[0, 0, 4, 8]] * 4)
    masks = np.float64([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    crops = np.float64([[[1, 0.5], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 1], [1, 1]]])
    # 12 of 16; 8 of 8, of an object with 24 pixels outside of the RoI; none of 32; all
    found = mask_overlaps(masks, crops, rois, np.float64([12, 32, 32, 32]))
    np.testing.assert_allclose(found, [12 / 16, 8 / 32, 0, 1])
    assert mask_overlaps(masks[2:3], crops[2:3], rois[:1], np.zeros(1)).tolist() == [0]
    assert mask_overlaps(masks[:0], crops[:0], rois[:0], np.zeros(0)).shape == (0,)


def test_overlaps_against_masks_in_the_image():
    """Where an RoI's cells are pixels, counted pixel by pixel."""
    image = rng().random((12, 15)) < 0.5
    x1, y1, x2, y2 = 3, 2, 11, 10
    mask = rng(1).random((8, 8)) < 0.6
    pasted = np.zeros_like(image)
    pasted[y1:y2, x1:x2] = mask
    expected = (pasted & image).sum() / (pasted | image).sum()
    crop = image[y1:y2, x1:x2].astype(float)
    found = mask_overlaps(mask[None] * 1.0, crop[None], np.float64([[x1, y1, x2, y2]]), np.float64([image.sum()]))
    np.testing.assert_allclose(found, [expected])


# The stages


def test_the_mask_stage_by_hand():
    stage = MaskStage(2, 3, MNCSettings(hidden=4, size=5))
    stage.initialize(0)
    x = rng().normal(size=(2, 2, 3, 3)).astype(np.float32)
    hidden = np.maximum(x.reshape(2, 18) @ stage.fc1.weight.data.T + stage.fc1.bias.data, 0)
    expected = (hidden @ stage.fc2.weight.data.T).reshape(2, 5, 5)
    np.testing.assert_allclose(stage(Tensor(x)).data, expected, atol=1e-6)
    assert stage(Tensor(x[:0])).shape == (0, 5, 5)


@pytest.mark.parametrize("settings", [MNC, MNC_C4], ids=["c5", "c4"])
def test_warping_takes_the_largest_of_four_samples(settings):
    model = tiny_model(**settings)
    grid, stride = model.grid, model.config.strides[0]
    assert grid == {"c4": C4["box_pool"], "c5": 6}[model.config.backbone]
    features = Tensor(rng().normal(size=(2, 4, 8, 9)).astype(np.float32))
    rois = np.float32([[0, 3, 5, 60, 40], [1, 20, 10, 70, 61]])
    samples = roi_crop_unchecked(features, Tensor(rois), 2 * grid, 1 / stride).data
    expected = samples.reshape(2, 4, grid, 2, grid, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(model.warp([features], Tensor(rois)).data, expected)


def run(model, mask_bias, seed=0):
    """The stages on random features, all logits of the masks being mask_bias."""
    model.roi_heads.mask.fc2.weight.data[...] = 0
    model.roi_heads.mask.fc2.bias.data[...] = mask_bias
    features = [Tensor(rng(seed).normal(size=(1, model.channels, 8, 9)).astype(np.float32))]
    return model.run_stages(features, Tensor(np.float32([[0, 3, 5, 60, 40]])))


@pytest.mark.parametrize("settings", [MNC, MNC_C4], ids=["c5", "c4"])
def test_the_mask_decides_what_the_classifier_sees(settings):
    """Where the mask is 0, nothing of the RoI goes down the masked path; where it is 1, all does."""
    model = tiny_model(**settings).eval()
    weight = model.roi_heads.seg_cls_score.weight.data
    weight[:, : weight.shape[1] // 2] = 0  # of the unmasked path
    closed, other = run(model, -100.0), run(model, -100.0, seed=1)
    np.testing.assert_array_equal(closed.mask_classes.data, other.mask_classes.data)
    opened, another = run(model, 100.0), run(model, 100.0, seed=1)
    assert not np.allclose(opened.mask_classes.data, another.mask_classes.data)
    half = run(model, 0.0)  # every mask 0.5
    assert not np.allclose(half.mask_classes.data, opened.mask_classes.data)


@pytest.mark.parametrize("settings", [MNC, MNC_C4], ids=["c5", "c4"])
def test_the_mask_is_stretched_over_the_features(settings, monkeypatch):
    """Bilinearly: the weight of a mask's cell falls to 0 over the distance to its neighbour."""
    model, seen = tiny_model(**settings).eval(), []
    run_path = type(model).run_path
    monkeypatch.setattr(type(model), "run_path", lambda *call: seen.append(call[2].data) or run_path(*call))
    features = [Tensor(rng().normal(size=(1, model.channels, 8, 9)).astype(np.float32))]
    masks = model.run_stages(features, Tensor(np.float32([[0, 3, 5, 60, 40]]))).masks.data[0]
    places = ((np.arange(model.grid) + 0.5) * 7 / model.grid - 0.5).clip(0, 6)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(7)))
    box, masked = seen
    np.testing.assert_allclose(masked, box * (weights @ (1 / (1 + np.exp(-masks))) @ weights.T), atol=1e-6)


def losses_of(model, mask, logit):
    """(sum, count) by name of one pass on one RoI, the box of an object of class 3, (8, 4, 64, 60), whose mask (64, 96)
    is given. All logits of the RoI's mask are `logit`, and both classifiers say class 3."""
    images, targets = batch_of(scene(1, boxes=((8, 4, 64, 60),), labels=(3,)))
    targets[0]["masks"][0] = mask
    batch = model.transform([image.astype(np.float64) for image in images], targets)
    samples, _ = match_rois(batch.targets[0]["boxes"], batch.targets[0], model.config.box)
    logits = np.zeros((1, 6))
    logits[0, 3] = 5.0
    stages = Stages(
        Tensor(np.array([[0, 8, 4, 64, 60.0]])), Tensor(np.full((1, 7, 7), logit)), Tensor(logits), Tensor(logits),
        Tensor(np.zeros((1, 24))),
    )  # fmt: skip
    return model.stage_losses(stages, batch, [samples])


# a mask shows what its probability of 0.4 or more covers: sigmoid(-0.3) is 0.43, and sigmoid(-0.5) is 0.38
@pytest.mark.parametrize(("shown", "classes"), [(100.0, True), (-100.0, False), (-0.3, True), (-0.5, False)])
def test_a_mask_that_misses_its_object_is_background(shown, classes):
    """One positive RoI, the box of an object that fills it: a full mask shows it, and an empty one does not."""
    model = tiny_model(**MNC, dtype=np.float64).eval()
    mask = np.zeros((64, 96))
    mask[4:60, 8:64] = 1
    sums = losses_of(model, mask, shown)
    likely = np.exp(5) / (np.exp(5) + 5)
    expected = -np.log(likely if classes else 1 / (np.exp(5) + 5))
    assert sums["loss_mask_classifier"][0].item() == pytest.approx(expected) and sums["loss_mask_classifier"][1] == 1
    assert sums["loss_classifier"][0].item() == pytest.approx(-np.log(likely))  # the box is that of class 3 anyway
    # of the cells' targets, all 1, a full mask has no loss, and an empty one 100 a cell, times mask_weight
    total, count = sums["loss_mask"]
    assert count == 49 and total.item() / count == pytest.approx(2 * np.logaddexp(0, -shown), abs=1e-6)


@pytest.mark.parametrize(("width", "classes"), [(28, True), (27, False)])
def test_a_mask_shows_its_object_from_an_iou_of_half_on(width, classes):
    """A full mask over an RoI 56 pixels wide, of which the object fills so many: 28 / 56 is enough. The mask's cells
    are 8 x 8 pixels, so that nothing is rounded."""
    mask = np.zeros((64, 96))
    mask[4:60, 8 : 8 + width] = 1
    total, _ = losses_of(tiny_model(**MNC, dtype=np.float64).eval(), mask, 100.0)["loss_mask_classifier"]
    assert total.item() == pytest.approx(np.log(np.exp(5) + 5) - (5 if classes else 0))
