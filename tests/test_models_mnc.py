"""MNC as a whole: its cascade, that every switch changes what it is for, files and runs."""

import functools
import json
import operator

import numpy as np
import pytest
from PIL import Image
from tiny_models import DETECTORS, MNC_C4, TINY, batch_of, empty_scene, losses_and_gradients, scene, tiny_model
from tiny_models import MNC as TINY_MNC

from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.boxes import box_iou
from tinymrcnn.cli import main
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.coco import write_coco
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models import MNC, TrainConfig, build_model, mnc
from tinymrcnn.models.cost import cost_of
from tinymrcnn.models.presets import get_config
from tinymrcnn.nn import AdamW
from tinymrcnn.training import train
from tinymrcnn.weights import load_checkpoint, load_model, load_weights, save_checkpoint

BATCH = batch_of(scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,)), empty_scene(3))
BRANCHES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_mask_classifier")


def tiny(**overrides):
    return tiny_model(**{**TINY_MNC, **overrides})


# The whole


def test_the_model():
    model = build_model("shapes_mnc")
    assert type(model) is MNC and model.config.strides == [8]
    assert 1.0e6 < sum(parameter.size for parameter in model.parameters()) < 1.3e6
    assert (model.grid, model.config.mnc.size) == (10, 21)
    assert [getattr(model.backbone.body, f"layer{i}")[0].conv2.dilation for i in (1, 2, 3, 4)] == [1, 1, 2, 4]
    other = build_model("shapes_mnc", 3).roi_heads
    assert len(other.seg_cls_score.weight) == len(other.box_predictor.cls_score.weight) == 3
    full = get_config("paper_resnet101_mnc")
    assert (full.backbone, full.strides, full.box.pool, full.mnc.hidden) == ("c4", [16], 14, 256)
    for wrong in (dict(masks=False), dict(backbone="fpn", strides=(1, 2, 2, 2), anchor_sizes=((8,),) * 4)):
        with pytest.raises(ValueError, match="MNC has the backbone 'c4' or 'c5'"):
            build_model("shapes_mnc", **wrong)


@pytest.mark.parametrize("settings", [TINY_MNC, MNC_C4], ids=["c5", "c4"])
def test_what_each_loss_depends_on(settings):
    """Of one pass: the class of the masked features depends on the mask's layers, and the mask on nothing after it. Of
    two passes every loss depends on the corrections of the first, through the corners, and so on all that they need."""
    stage2, paths = {"mask.fc1", "mask.fc2"}, {"box_path", "masked_path"}
    after = {
        "loss_mask": stage2,
        "loss_classifier": stage2 | paths | {"box_predictor.cls_score"},
        "loss_box_reg": stage2 | paths | {"box_predictor.bbox_pred"},
        "loss_mask_classifier": stage2 | paths | {"seg_cls_score"},
    }
    for second_pass in (False, True):
        model = tiny_model(**{**settings, "norm": "frozen", "mnc.second_pass": second_pass})
        samples = model.draw_samples(*BATCH)
        for name, parts in after.items():
            for parameter in model.parameters():
                parameter.grad = None
            model.losses(*BATCH, samples=samples)[name].backward()
            touched = {
                path for path, parameter in model.roi_heads.named_parameters()
                if parameter.grad is not None and parameter.grad.any()
            }  # fmt: skip
            expected = parts | paths | {"box_predictor.bbox_pred"} if second_pass else parts
            assert all(path.startswith(tuple(expected)) for path in touched), name
            assert all(any(path.startswith(part) for path in touched) for part in expected), name
            assert model.backbone.body.conv1.weight.grad.any()


def test_the_losses_of_two_passes_are_added():
    """Both over all sampled RoIs, so that the loss is the sum of the losses of each."""
    model = tiny().eval()
    samples = model.draw_samples(*BATCH)
    batch = model.transform(*BATCH)
    features = model.features(batch)
    once, _ = tiny(**{"mnc.second_pass": False}).eval().loss_sums(*BATCH, samples=samples)
    twice, _ = model.loss_sums(*BATCH, samples=samples)
    first = model.run_stages(features, mnc.Tensor(mnc.boxes_to_rois([s.boxes for s in samples.rois])))
    rois = mnc.next_rois(first, batch.sizes, model.config.box)
    again, order = model.match(rois.data, batch)
    second = model.stage_losses(model.run_stages(features, rois[order]), batch, again)
    number = sum(len(s.labels) for s in samples.rois)
    for name in BRANCHES:
        total, count = twice[name]
        assert total.item() == pytest.approx(2 * (once[name][0].item() + second[name][0].item()), rel=1e-5)
        assert count == once[name][1] + second[name][1]
        if name != "loss_mask":
            assert once[name][1] == second[name][1] == number
    # every RoI is in the second pass once, in its own image, and positive where it lies on an object
    assert sorted(order.tolist()) == list(range(number))
    for image, found in enumerate(again):
        mine = rois.data[rois.data[:, 0] == image, 1:]
        assert sorted(found.boxes.tolist()) == sorted(mine.tolist())
        overlaps = box_iou(batch.gt_boxes[image], found.boxes).max(axis=0, initial=0)
        assert ((overlaps >= 0.5) == (found.labels > 0)).all()


def test_switches_of_training():
    samples = tiny().draw_samples(*BATCH)

    def losses(**overrides):
        return losses_and_gradients(tiny(**overrides), BATCH, samples)[0]

    before, rpn = losses(), {"loss_objectness", "loss_rpn_box_reg"}

    def changed(**overrides):
        after = losses(**overrides)
        assert all(after[name] == before[name] for name in rpn)
        return {name for name in BRANCHES if after[name] != before[name]}

    assert losses(**{"mnc.mask_weight": 6.0})["loss_mask"] == pytest.approx(3 * before["loss_mask"])
    assert changed(**{"mnc.mask_weight": 6.0}) == {"loss_mask"}
    assert changed(**{"mnc.mask_iou": 0.0}) == {"loss_mask_classifier"}
    assert changed(**{"mnc.mask_threshold": 0.9}) >= {"loss_mask"}
    assert changed(**{"mnc.second_pass": False}) == set(BRANCHES)
    assert changed(**{"mnc.voting": False, "mnc.voting_iou": 0.9}) == set()
    for name, value in (("hidden", 6), ("size", 9)):
        assert "loss_mask" in changed(**{f"mnc.{name}": value})


def test_switches_of_inference(monkeypatch):
    """Of one set of weights, whose RoIs and masks are watched on their way into decode_candidates."""
    images, seen = BATCH[0][:1], []
    decode = mnc.decode_candidates

    def detect(**overrides):
        def watched(passes, **settings):
            seen.append(passes)
            return decode(passes, **settings)

        monkeypatch.setattr(mnc, "decode_candidates", watched)
        (result,) = tiny(post_nms_test=20, score_threshold=0.1, **overrides).eval().detect(images)
        return result

    whole, once = detect(), detect(**{"mnc.second_pass": False})
    assert [[len(found.boxes) for found in passes] for passes in seen] == [[20, 20], [20]]
    np.testing.assert_array_equal(seen[0][0].boxes, seen[1][0].boxes)
    np.testing.assert_array_equal(seen[0][0].scores, seen[1][0].scores)
    assert not np.array_equal(seen[0][1].boxes, seen[0][0].boxes)  # corrected
    assert seen[0][0].masks.shape == (20, 7, 7) and seen[0][0].rois is seen[0][0].boxes
    assert len(whole["scores"]) and len(once["scores"])
    plain = detect(**{"mnc.voting": False})
    boxes = [tuple(box) for found in seen[0] for box in found.boxes.tolist()]
    assert {tuple(box) for box in plain["boxes"].tolist()} <= set(boxes)
    assert plain["masks"].shape[1:] == (14, 14)
    assert all(float(side).is_integer() for side in whole["boxes"].ravel())  # drawn around pixels


def test_detections_lie_in_the_image():
    model = tiny().eval()
    for result, image in zip(model(BATCH[0]), BATCH[0], strict=True):
        height, width = image.shape[1:]
        assert len(result["scores"]) and (np.diff(result["scores"]) <= 0).all()
        assert (result["boxes"] >= 0).all() and (result["boxes"] <= [width, height] * 2).all()
        assert result["masks"].shape == (len(result["scores"]), height, width)


def test_a_wrong_model_detects_nothing():
    model = tiny().eval()
    model.roi_heads.box_predictor.bbox_pred.bias.data[...] = np.nan  # the RoIs of the second pass are no boxes
    (result,) = model.detect(BATCH[0][:1])
    assert len(result["scores"]) and np.isfinite(result["boxes"]).all() and np.isfinite(result["masks"]).all()
    model.roi_heads.seg_cls_score.bias.data[...] = np.nan
    (result,) = model.detect(BATCH[0][:1])
    assert result["boxes"].shape == (0, 4) and result["masks"].shape == (0, 14, 14)


@pytest.mark.parametrize("name", DETECTORS)
def test_masks_of_given_boxes(name):
    """All models have this method: of boxes and labels that someone else has found, say the true ones, the masks."""
    model = tiny_model(**DETECTORS[name]).eval()
    batch = model.transform(*BATCH)
    features = model.features(batch)
    truth = [{"boxes": target["boxes"], "labels": target["labels"]} for target in batch.targets]
    masks = model.mask_detections(features, truth)
    assert [len(part) for part in masks] == [2, 1, 0]
    assert all(type(part) is np.ndarray and part.dtype == np.float32 for part in masks)
    size = masks[0].shape[1]
    assert all(part.shape[1:] == (size, size) for part in masks) and size > 1
    assert all((part >= 0).all() and (part <= 1).all() for part in masks) and np.ptp(masks[0]) > 0
    alone = model.mask_detections(
        features, [{**truth[0], "boxes": truth[0]["boxes"][::-1], "labels": truth[0]["labels"][::-1]}, *truth[1:]]
    )
    np.testing.assert_allclose(alone[0][::-1], masks[0], atol=1e-6)  # each is that of its box
    other = model.mask_detections(features, [{**each, "labels": each["labels"] * 0 + 3} for each in truth])
    assert np.array_equal(other[0], masks[0]) == (name == "mnc")  # which knows no classes


def test_masks_of_given_boxes_are_those_of_the_candidates(monkeypatch):
    """Stage 2 on the proposals and on given boxes is the same: without votes their masks are those of detections."""
    model = tiny(**{"mnc.second_pass": False, "mnc.voting": False}, score_threshold=0.05).eval()
    found, batch = model._detect(BATCH[0])
    again = model.mask_detections(model.features(batch), found)
    for detections, masks in zip(found, again, strict=True):
        assert len(masks)
        np.testing.assert_allclose(detections["masks"], masks, atol=1e-5)


@pytest.mark.parametrize("settings", [TINY_MNC, MNC_C4, {**TINY_MNC, "mnc.second_pass": False}])
def test_the_counted_cost_is_that_of_a_run(settings):
    model = tiny_model(**settings, post_nms_test=10).eval()
    image = scene(1)[0]
    batch = model.transform([image])
    assert len(model.propose(model.run_rpn(model.features(batch), batch), batch)[0]) == 10  # as many as it allows
    cost = cost_of(model.config, (64, 96))
    with counting_operations() as count:
        model.detect([image])
    assert cost.operations == count() and (cost.mask_operations, cost.mask_parameters) == (0, 0)
    assert cost.parameters == sum(parameter.size for parameter in model.parameters())


# Files and runs

SMALL = {**{name: TINY[name] for name in ("depths", "widths", "stem_width", "rpn_channels", "box_hidden")},
         **{"box.pool": 3, "mnc.hidden": 8, "mnc.size": 7, "box.samples": 16}}  # fmt: skip
RUN = TrainConfig(steps=4, batch_size=2, warmup_steps=1, checkpoint_every=2, preview_every=4, seed=5)


def test_a_checkpoint_keeps_the_model(tmp_path):
    model = build_model("shapes_mnc", seed=3, **SMALL)
    save_checkpoint(tmp_path / "a.npz", model)
    back = load_model(tmp_path / "a.npz", device="cpu")
    assert type(back) is MNC and back.config == model.config
    expected = model.eval().detect(BATCH[0][:1])[0]
    for name, array in back.detect(BATCH[0][:1])[0].items():
        np.testing.assert_array_equal(array, expected[name])
    other = build_model("shapes_mnc", seed=4, **SMALL)
    load_weights(other, tmp_path / "a.npz")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_classes_are_carried_over_by_name(tmp_path):
    """The classes of the box and of the masked features, and the corrections of the box for every class."""
    model = build_model("shapes_mnc", num_classes=3, seed=3, **SMALL)
    model.categories = [{"label": 1, "name": "cup", "id": 1}, {"label": 2, "name": "jug", "id": 2}]
    save_checkpoint(tmp_path / "a.npz", model)
    other = build_model("shapes_mnc", num_classes=4, seed=4, **SMALL)
    other.categories = [{"label": i, "name": name, "id": i} for i, name in ((1, "jug"), (2, "pan"), (3, "cup"))]
    before = other.state_dict()
    report = load_weights(other, tmp_path / "a.npz")
    assert report.classes == (3, 4) and report.carried == ("jug", "cup") and report.new == ("pan",)
    theirs, after = model.state_dict(), other.state_dict()
    for name, rows in (("seg_cls_score", 1), ("box_predictor.cls_score", 1), ("box_predictor.bbox_pred", 4)):
        path = f"roi_heads.{name}.weight"
        there, here = (state[path].reshape(-1, rows, state[path].shape[1]) for state in (theirs, after))
        np.testing.assert_array_equal(here[[0, 1, 3]], there[[0, 2, 1]])
        np.testing.assert_array_equal(here[2], before[path].reshape(here.shape)[2])
    np.testing.assert_array_equal(after["roi_heads.mask.fc2.weight"], theirs["roi_heads.mask.fc2.weight"])


def test_an_interrupted_run_ends_where_a_whole_one_does(tmp_path):
    dataset, held_out = ShapesDataset(8, (32, 48), seed=100), ShapesDataset(2, (32, 48), seed=101)

    class Stops(ShapesDataset):
        def __getitem__(self, index):
            if len(asked) == 6:
                raise KeyboardInterrupt
            asked.append(index)
            return super().__getitem__(index)

    def started():
        return build_model("shapes_mnc", seed=5, **SMALL)

    metrics = train(started(), dataset, RUN, tmp_path / "whole", held_out)
    assert {"bbox/AP", "segm/AP"} <= metrics.keys()
    asked = []
    with pytest.raises(KeyboardInterrupt):
        train(started(), Stops(8, (32, 48), seed=100), RUN, tmp_path / "cut", held_out)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.npz").step == 2
    again = train(started(), dataset, RUN, tmp_path / "cut", held_out, resume=True)
    assert again == metrics
    weights = [load_checkpoint(tmp_path / name / "model.npz").weights for name in ("whole", "cut")]
    assert all(np.array_equal(array, weights[1][name]) for name, array in weights[0].items())


def test_one_batch_is_learned():
    """Sixty steps on two pictures with three objects: classes and masks become certain."""
    model = build_model("shapes_mnc", seed=0, **{**SMALL, "widths": (8, 16, 16, 16), "mnc.hidden": 32})
    batch = batch_of(scene(1), scene(2))
    optimizer = AdamW(model.parameters(), lr=5e-3)
    first = {name: loss.item() for name, loss in model(*batch).items()}
    for step in range(60):
        for parameter in model.parameters():
            parameter.grad = None
        losses = model(*batch, step=step)
        functools.reduce(operator.add, losses.values()).backward()
        optimizer.step()
    assert losses["loss_classifier"].item() < 0.3 * first["loss_classifier"]
    assert losses["loss_mask_classifier"].item() < 0.3 * first["loss_mask_classifier"]
    assert losses["loss_mask"].item() < 0.5 * first["loss_mask"]


def test_evaluation_of_a_tiny_one():
    metrics = evaluate(tiny().eval(), ShapesDataset(3, (32, 48), seed=1), progress=False)
    assert set(metrics) >= {"bbox/AP", "segm/AP"} and all(-1 <= value <= 1 for value in metrics.values())


def test_the_command_line_trains_evaluates_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_coco(ShapesDataset(2, (32, 48), seed=100), tmp_path / "set")
    data = ["set/images", "set/annotations.json"]
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}".replace(" ", ""))]
    run = ["train", "--device", "cpu", "--preset", "shapes_mnc", "--steps", "2", "--batch-size", "1"]
    assert main([*run, *settings, "--data", *data, "--val", *data, "--out", "run"]) == 0
    assert load_checkpoint("run/model.npz").config.model == "mnc"
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    model = ["run/model.npz", "--device", "cpu"]
    assert main(["evaluate", *model, "--data", *data, "--out", "metrics.json"]) == 0
    assert "segm/AP" in json.loads((tmp_path / "metrics.json").read_text())
    tune = ["train", "--device", "cpu", "--weights", "run/model.npz", "--freeze-at", "2", "--steps", "1"]
    assert main([*tune, "--data", *data, "--val", *data, "--out", "tuned"]) == 0
    tuned, start = (load_checkpoint(f"{name}/model.npz").weights for name in ("tuned", "run"))
    name = "backbone.body.layer1.0.conv1.weight"
    np.testing.assert_array_equal(tuned[name], start[name])
    assert not np.array_equal(tuned["roi_heads.mask.fc1.weight"], start["roi_heads.mask.fc1.weight"])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save("photo.png")
    assert main(["predict", "photo.png", "--checkpoint", *model, "--threshold", "0.01"]) == 0
    assert "photo_predicted.png" in capsys.readouterr().out
