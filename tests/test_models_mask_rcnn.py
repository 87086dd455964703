"""The whole network: presets, the steps between images and results, and the names of the weights."""

import functools
import operator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import BACKBONES, TINY, batch_of, empty_scene, scene, tiny_model

from tinymrcnn.boxes import box_iou, paste_masks
from tinymrcnn.models import build_model
from tinymrcnn.models.rpn import rpn_loss
from tinymrcnn.nn import AdamW
from tinymrcnn.nn.init import without_drawing

LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
TV_KEYS = Path(__file__).parents[2] / "shared/reference/state_dicts/torchvision_maskrcnn_r50fpn_keys.txt"


def train_step(model, optimizer, batch, step=0):
    losses = model(*batch, step=step)
    total = functools.reduce(operator.add, losses.values())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.item()


def check_detections(results, images, m=None):
    """Everything that results promise, whatever was detected. m: the size of masks that are not pasted."""
    assert len(results) == len(images)
    for result, image in zip(results, images, strict=True):
        height, width = image.shape[1:]
        count = len(result["scores"])
        assert list(result) == ["boxes", "scores", "labels", "masks"]
        assert all(type(array) is np.ndarray for array in result.values())
        assert result["boxes"].shape == (count, 4) and result["boxes"].dtype == np.float32
        assert result["scores"].shape == (count,) and result["scores"].dtype == np.float32
        assert result["labels"].shape == (count,) and result["labels"].dtype == np.int64
        assert result["masks"].shape == (count, *((m, m) if m else (height, width)))
        assert result["masks"].dtype == np.float32
        assert (np.diff(result["scores"]) <= 0).all()
        assert ((result["labels"] >= 1) & (result["labels"] < 6)).all()
        assert (result["boxes"] >= 0).all() and (result["boxes"] <= np.float32([width, height] * 2) * 1.00001).all()
        assert (result["masks"] >= 0).all() and (result["masks"] <= 1).all()


# Presets

TOYS = ("shapes", "shapes_c4", "shapes_c5")


@pytest.mark.parametrize("preset", TOYS)
def test_every_preset_trains_and_detects(preset):
    model = build_model(preset)
    batch = batch_of(scene(0), empty_scene(1, (57, 90)))
    before = model.state_dict()
    losses = model(*batch)
    counts = model.draw_samples(*batch).counts
    assert sorted(losses) == sorted(LOSSES)
    assert all(loss.shape == () and loss.dtype == np.float32 and np.isfinite(loss.item()) for loss in losses.values())
    assert counts["positive_anchors"] >= 1 and counts["positive_rois"] >= 2
    train_step(model, AdamW(model.parameters()), batch)
    moved = [name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])]
    assert set(moved) == set(before)
    check_detections(model.eval()(batch[0]), batch[0])
    assert model.config.preset == preset


def test_presets_have_about_a_million_parameters_each():
    sizes = {name: sum(p.size for p in build_model(name).parameters()) for name in TOYS}
    assert 0.8e6 < sizes["shapes"] < 1.3e6
    for name in ("shapes_c4", "shapes_c5"):
        assert sizes[name] == pytest.approx(sizes["shapes"], rel=0.25), sizes


# The names of the weights


def test_names_of_the_tiny_model():
    names = [name for name, _ in tiny_model().named_parameters()]
    kinds = "weight", "bias"
    assert [name for name in names if not name.startswith("backbone.body")] == [
        *(f"backbone.fpn.inner_blocks.{i}.0.{kind}" for i in range(4) for kind in kinds),
        *(f"backbone.fpn.layer_blocks.{i}.0.{kind}" for i in range(4) for kind in kinds),
        *(f"rpn.head.{layer}.{kind}" for layer in ("conv.0.0", "cls_logits", "bbox_pred") for kind in kinds),
        *(
            f"roi_heads.{layer}.{kind}"
            for layer in (
                "box_head.fc6", "box_head.fc7", "box_predictor.cls_score", "box_predictor.bbox_pred",
                "mask_head.0.0", "mask_predictor.conv5_mask", "mask_predictor.mask_fcn_logits",
            )
            for kind in kinds
        ),
    ]  # fmt: skip


@pytest.mark.skipif(not TV_KEYS.exists(), reason=f"{TV_KEYS} is not there")
def test_names_and_shapes_of_the_full_size_model_are_torchvision_s():
    lines = [line.split("\t") for line in TV_KEYS.read_text().splitlines() if not line.startswith("#")]
    expected = {name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape, *_ in lines}
    with without_drawing():
        model = build_model("torchvision_resnet50_fpn")
    found = {name: array.shape for name, array in model.state_dict().items()}
    assert found == expected and len(found) == 307
    assert sum(p.size for p in model.parameters()) == 44_401_393


# The steps


@pytest.mark.parametrize("name", BACKBONES)
def test_the_steps_make_the_losses(name):
    model = tiny_model(norm="frozen", **BACKBONES[name])
    images, targets = batch_of(scene(0), scene(1, (50, 70), ((3, 3, 30, 30),)))
    whole = model(images, targets)
    batch = model.transform(images, targets)
    features = model.features(batch)
    strides = {"fpn": (4, 8, 16, 32), "c4": (16,), "c5": (32,)}[name]
    assert [f.shape[2:] for f in features] == [(64 // s, 96 // s) for s in strides]
    outputs = model.run_rpn(features, batch)
    anchor_samples = model.sample_anchors(outputs.anchors, batch)
    losses = rpn_loss(outputs, batch.gt_boxes, samples=anchor_samples, settings=model.config.rpn)
    proposals = model.propose(outputs, batch)
    assert all(p.shape[1] == 4 and 0 < len(p) <= model.config.rpn.post_nms_train for p in proposals)
    samples = model.sample(proposals, batch)
    roi_features = model.roi_features(features, [s.boxes for s in samples], model.config.box.pool)
    assert len(roi_features) == sum(len(s.labels) for s in samples)
    losses |= model.box_losses(roi_features, batch, samples)
    assert list(losses) == LOSSES[:4]
    losses |= model.mask_losses(model.mask_branch(features, [s.positives for s in samples]), batch, samples)
    assert list(losses) == list(whole) == LOSSES
    for loss, (total, count) in losses.items():
        assert whole[loss].item() == pytest.approx(total.item() / count, rel=1e-6)
    positives = sum(len(s.objects) for s in samples)
    anchors = sum(len(s.positives) + len(s.negatives) for s in model.draw_samples(images, targets).anchors)
    assert [losses[loss][1] for loss in LOSSES] == [
        anchors, anchors, len(roi_features), len(roi_features), positives * (8 * 8 if name != "c4" else 4 * 4),
    ]  # fmt: skip
    sums, drawn = model.loss_sums(images, targets)
    assert drawn.counts == {
        "positive_anchors": sum(len(s.positives) for s in anchor_samples),
        "positive_rois": positives,
    }
    assert {name: (total.item(), count) for name, (total, count) in sums.items()} == {
        name: (pytest.approx(total.item(), rel=1e-6), count) for name, (total, count) in losses.items()
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_the_steps_make_the_detections(name):
    model = tiny_model(**BACKBONES[name]).eval()
    images = [scene(0)[0], scene(1, (50, 70), ((3, 3, 30, 30),))[0]]
    whole = model(images)
    check_detections(whole, images)
    batch = model.transform(images)
    features = model.features(batch)
    proposals = model.propose(model.run_rpn(features, batch), batch)
    roi_features = model.roi_features(features, proposals, model.config.box.pool)
    detections = model.box_detections(roi_features, batch, proposals)
    masks = model.mask_detections(features, detections)
    detections = [{**d, "masks": m} for d, m in zip(detections, masks, strict=True)]
    for result, wanted in zip(model.postprocess(detections, batch), whole, strict=True):
        for key in wanted:
            np.testing.assert_array_equal(result[key], wanted[key])


def test_proposals_are_no_part_of_the_graph_and_lie_inside_the_images():
    model = tiny_model()
    batch = model.transform(*batch_of(scene(0), scene(1, (50, 70), ((3, 3, 30, 30),))))
    proposals = model.propose(model.run_rpn(model.features(batch), batch), batch)
    for boxes, (height, width) in zip(proposals, batch.sizes, strict=True):
        assert type(boxes) is np.ndarray
        assert (boxes >= 0).all() and (boxes <= [width, height] * 2).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= model.config.rpn.min_proposal_size).all()


def test_detect_gives_what_forward_pastes():
    model = tiny_model(min_size=80).eval()
    images = [scene(0)[0], scene(1, (50, 70), ((3, 3, 30, 30),))[0]]
    small, pasted = model.detect(images), model(images)
    check_detections(small, images, m=8)
    for a, b, image in zip(small, pasted, images, strict=True):
        for key in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(a[key], b[key])
        np.testing.assert_array_equal(paste_masks(a["masks"], a["boxes"], image.shape[1:]), b["masks"])


def test_boxes_come_back_in_the_pixels_of_the_original():
    """An image twice as large, halved by the model, has the same detections at twice the place."""
    image = scene(0)[0]
    large = image.repeat(2, 1).repeat(2, 2)
    model = tiny_model(min_size=64, max_size=96).eval()
    (small,), (twice,) = model.detect([image]), model.detect([large])
    np.testing.assert_allclose(twice["boxes"], 2 * small["boxes"], rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(twice["scores"], small["scores"], rtol=1e-3)


def test_the_two_axes_come_back_by_scales_of_their_own():
    model = tiny_model(min_size=20, max_size=None)
    batch = model.transform([scene(0, (33, 85), ())[0]])
    assert batch.sizes == [(20, 51)]  # 33 / 20 is not 85 / 51
    detection = {"boxes": np.float32([[0, 0, 51, 20], [3, 10, 6, 20]]), "masks": np.ones((2, 4, 4), np.float32)}
    (result,) = model.postprocess([detection], batch)
    np.testing.assert_allclose(result["boxes"], [[0, 0, 85, 33], [5, 16.5, 10, 33]], rtol=1e-6)
    rows, columns = np.nonzero(result["masks"][1] >= 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 32, 5, 9)  # a centre on the edge is 0.5


def test_a_batch_gives_what_its_images_give_alone():
    model = tiny_model().eval()
    images = [scene(i, boxes=((5 + i, 5, 40, 30),))[0] for i in range(3)]
    for together, image in zip(model.detect(images), images, strict=True):
        (alone,) = model.detect([image])
        assert len(alone["scores"]) > 0
        best = 20  # further down, scores that differ in the last bit may change places
        np.testing.assert_allclose(together["scores"][:best], alone["scores"][:best], rtol=1e-4)
        np.testing.assert_allclose(together["boxes"][:best], alone["boxes"][:best], rtol=1e-4, atol=1e-3)


def test_losses_can_be_asked_for_in_eval_mode():
    model = tiny_model().eval()
    batch = batch_of(scene(0), scene(1))
    before = model.state_dict()
    losses = model.losses(*batch)
    assert list(losses) == LOSSES and all(loss.item() > 0 for loss in losses.values())
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    assert losses["loss_mask"].item() != model.train().losses(*batch)["loss_mask"].item()


def test_train_mode_needs_targets():
    with pytest.raises(ValueError, match=r"needs targets; call model.eval\(\)"):
        tiny_model()([scene(0)[0]])


def test_mistakes_are_named_by_the_model_too():
    image, target = scene(0)
    with pytest.raises(ValueError, match="Image 0 .*label 0 is 9"):
        tiny_model()([image], [{**target, "labels": np.array([9, 1])}])
    with pytest.raises(ValueError, match="Image 0 .*masks must be an array"):
        tiny_model()([image], [{key: value for key, value in target.items() if key != "masks"}])
    with pytest.raises(ValueError, match="list of at least one image"):
        tiny_model().eval()([])


def test_images_of_any_float_type():
    image = scene(0)[0]
    model = tiny_model().eval()
    for dtype in (np.float64, np.float16):
        (result,) = model([image.astype(dtype)])
        assert result["boxes"].dtype == result["masks"].dtype == np.float32
    (result,) = tiny_model(dtype=np.float64).eval()([image])
    assert result["boxes"].dtype == result["scores"].dtype == result["masks"].dtype == np.float64


def test_no_graph_is_recorded_for_detections():
    model = tiny_model().eval()
    model([scene(0)[0]])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parts_do_not_move():
    model = tiny_model()
    model.backbone.body.requires_grad_(False)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = model.state_dict()
    train_step(model, optimizer, batch_of(scene(0)))
    for name, array in model.state_dict().items():
        if name.startswith("backbone.body") and "running" not in name:
            np.testing.assert_array_equal(array, before[name])
    assert not np.array_equal(model.rpn.head.cls_logits.weight.data, before["rpn.head.cls_logits.weight"])


@pytest.mark.parametrize("name", ["fpn", "c4", "c5"])
def test_the_model_learns_a_picture_by_heart(name):
    overrides = dict(**BACKBONES[name], widths=(8, 16, 16, 32), stem_width=8, norm="group", box_samples=32)
    model = build_model("shapes", **{**TINY, "mask_layers": (16,), "mask_channels": 16, "box_hidden": 32, **overrides})
    batch = batch_of(scene(0, labels=(2, 5)))
    optimizer = AdamW(model.parameters(), lr=4e-3)
    losses = [train_step(model, optimizer, batch, step) for step in range(60)]
    assert np.mean(losses[-5:]) < 0.35 * losses[0], losses
    (result,) = model.eval()(batch[0])
    target = batch[1][0]
    iou = box_iou(target["boxes"], result["boxes"])
    for row, label, mask in zip(iou, target["labels"], target["masks"], strict=True):
        best = np.where(result["labels"] == label, row, 0).argmax()
        assert row[best] > 0.5 and result["labels"][best] == label
        found = result["masks"][best] >= 0.5
        assert (found & (mask > 0)).sum() > 0.5 * (found | (mask > 0)).sum()
