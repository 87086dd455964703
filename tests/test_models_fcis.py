"""FCIS as a whole: its steps, that every switch changes what it is for, files and runs."""

import functools
import json
import operator

import numpy as np
import pytest
from PIL import Image
from tiny_models import FCIS as TINY_FCIS
from tiny_models import TINY, batch_of, empty_scene, losses_and_gradients, scene, tiny_model

from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.cli import main
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.coco import write_coco
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models import FCIS, Samples, TrainConfig, build_model
from tinymrcnn.models.box_branch import RoISamples
from tinymrcnn.models.cost import cost_of
from tinymrcnn.models.fcis import on_pixels, read_rois
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.voting import Candidates, decode_candidates
from tinymrcnn.nn import AdamW
from tinymrcnn.training import train
from tinymrcnn.weights import load_checkpoint, load_model, load_weights, save_checkpoint

BATCH = batch_of(scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,)), empty_scene(3))


def fcis(**overrides):
    return tiny_model(**{**TINY_FCIS, **overrides})


# The whole


def test_the_model():
    model = build_model("shapes_fcis")
    assert type(model) is FCIS and model.config.strides == [8] and model.config.resnet.map_stride(3) == 8
    assert 0.9e6 < sum(parameter.size for parameter in model.parameters()) < 1.3e6
    blocks = [getattr(model.backbone.body, f"layer{i}")[0] for i in (1, 2, 3)] + [model.roi_heads.layer4[0]]
    assert [block.conv1.stride for block in blocks] == [1, 2, 1, 1]
    assert [block.conv2.dilation for block in blocks] == [1, 1, 2, 4]
    assert build_model("shapes_fcis", 3).roi_heads.maps.cls_seg.weight.shape[0] == 2 * 3 * 49
    full = get_config("paper_resnet101_fcis")
    assert full.strides == [16] and full.resnet.map_stride(3) == 16 and full.resnet.dilation(3) == 2
    with pytest.raises(ValueError, match="FCIS has the backbone 'c4'"):
        build_model("shapes_fcis", masks=False)
    with pytest.raises(ValueError, match="FCIS has the backbone 'c4'"):
        build_model("shapes", model="fcis")
    with pytest.raises(ValueError, match="Each level of an FPN halves"):
        build_model("shapes", strides=(1, 2, 1, 1))
    with pytest.raises(ValueError, match="of 8 x 8 parts of an RoI"):
        build_model("shapes_fcis", **{"fcis.group": 8, "fcis.pooled": 7})
    with pytest.raises(ValueError, match="one of 'mask_rcnn', 'fcis', 'mnc'"):
        build_model("shapes", model="yolo")


def test_samples_are_taken_of_rois_on_pixels():
    model = fcis()
    drawn = model.draw_samples(*BATCH)
    for rois in drawn.rois:
        assert len(rois.boxes) and np.array_equal(rois.boxes % 1, 0 * rois.boxes)
    off = Samples(drawn.anchors, [RoISamples(s.boxes + 0.3, s.objects, s.labels) for s in drawn.rois])
    values = [losses_and_gradients(model, BATCH, samples)[0] for samples in (drawn, off)]
    assert values[0] == values[1]  # a little further an RoI lies on the same pixels


def test_rois_are_matched_where_they_are_read():
    """On whole pixels: the first proposal covers half of its object only there, and the second object lies between."""
    model = fcis()
    batch = model.transform(*batch_of(scene(1, boxes=((10, 10, 20, 20), (40.4, 20.4, 60.4, 40.4)))))
    (samples,) = model.sample([np.float32([[10, 10, 20, 14.6], [70, 30, 80, 40]])], batch)
    found = {tuple(box): label for box, label in zip(samples.boxes.tolist(), samples.labels.tolist(), strict=True)}
    assert found == {(10, 10, 20, 15): 2, (10, 10, 20, 20): 2, (40, 20, 60, 40): 5, (70, 30, 80, 40): 0}


def test_where_the_last_stage_strides_its_maps_are_read_so_much_coarser():
    model = fcis(strides=(1, 2, 1, 2)).eval()
    assert model.config.strides == [8]
    maps = model.score_maps(model.features(model.transform(BATCH[0][:1])))
    assert maps[0].shape[2:] == (4 + 2, 6 + 2)  # of 64 x 96 pixels, with the rim
    rois = [np.float32([[16, 16, 80, 48]])]
    reading, expected = model.read(maps, rois), read_rois(maps, rois, 16, model.config.fcis)
    np.testing.assert_array_equal(reading.scores.data, expected.scores.data)


def test_no_loss_reaches_what_it_does_not_depend_on():
    model = fcis(norm="frozen")
    samples = model.draw_samples(*BATCH)
    for name, heads in (
        ("loss_classifier", {"conv_new", "cls_seg"}), ("loss_mask", {"conv_new", "cls_seg"}),
        ("loss_box_reg", {"conv_new", "bbox"}), ("loss_objectness", set()),
    ):  # fmt: skip
        for parameter in model.parameters():
            parameter.grad = None
        model.losses(*BATCH, samples=samples)[name].backward()
        maps = model.roi_heads.maps
        touched = {head for head in ("conv_new", "cls_seg", "bbox") if getattr(maps, head).weight.grad is not None}
        assert {head for head in touched if getattr(maps, head).weight.grad.any()} == heads, name
        assert (model.roi_heads.layer4[0].conv1.weight.grad is not None) == bool(heads)
        assert model.backbone.body.conv1.weight.grad.any()


def test_the_loss_counts_all_sampled_rois():
    model = fcis()
    samples = model.draw_samples(*BATCH)
    sums, _ = model.loss_sums(*BATCH, samples=samples)
    rois = sum(len(s.labels) for s in samples.rois)
    assert [sums[name][1] for name in ("loss_classifier", "loss_box_reg", "loss_mask")] == [rois] * 3
    assert rois > sum(len(s.objects) for s in samples.rois) > 0


def test_switches_of_training():
    samples = fcis().draw_samples(*BATCH)

    def losses(**overrides):
        return losses_and_gradients(fcis(**overrides), BATCH, samples)[0]

    before, others = losses(), {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    doubled = losses(**{"fcis.mask_weight": 20.0})
    assert doubled["loss_mask"] == pytest.approx(2 * before["loss_mask"])
    targets = losses(**{"fcis.mask_threshold": 0.9})
    assert targets["loss_mask"] != before["loss_mask"]
    for changed in (doubled, targets, losses(**{"fcis.second_pass": False, "fcis.voting": False})):
        assert all(changed[name] == before[name] for name in others)
    for name, value in (("group", 2), ("pooled", 9), ("channels", 6)):
        assert losses(**{f"fcis.{name}": value}) != before


def test_switches_of_inference(monkeypatch):
    """Of one set of weights, whose RoIs and masks are watched on their way into decode_candidates."""
    images, seen = BATCH[0][:1], []

    def detect(**overrides):
        def watched(passes, **settings):
            seen.append(Candidates(*map(np.concatenate, zip(*passes, strict=True))))
            return decode_candidates(passes, **settings)

        monkeypatch.setattr("tinymrcnn.models.fcis.decode_candidates", watched)
        (result,) = fcis(post_nms_test=20, score_threshold=0.1, **overrides).eval().detect(images)
        return result

    whole, once = detect(), detect(**{"fcis.second_pass": False})
    assert [len(found.boxes) for found in seen] == [40, 20]
    np.testing.assert_array_equal(seen[0].boxes[:20], seen[1].boxes)
    assert not np.array_equal(seen[0].boxes[20:], seen[1].boxes)  # refined, and read anew:
    np.testing.assert_array_equal(seen[0].rois, on_pixels(seen[0].boxes))
    assert not np.array_equal(seen[0].scores[20:], seen[1].scores)
    assert len(whole["scores"]) and len(once["scores"])
    plain = detect(**{"fcis.voting": False})
    np.testing.assert_array_equal(seen[2].boxes, seen[0].boxes)  # the same RoIs, but
    assert {tuple(box) for box in plain["boxes"].tolist()} <= {tuple(box) for box in seen[0].boxes.tolist()}
    assert whole["boxes"].tolist() != plain["boxes"].tolist()
    assert all(float(side).is_integer() for side in whole["boxes"].ravel())  # drawn around pixels
    alone = detect(**{"fcis.voting_iou": 1.0})
    assert alone["masks"].shape != whole["masks"].shape or not np.array_equal(alone["masks"], whole["masks"])
    assert detect(**{"fcis.pooled": 9, "fcis.voting": False})["masks"].shape[1:] == (18, 18)


def test_detections_lie_in_the_image_and_masks_in_their_boxes():
    model = fcis().eval()
    images = BATCH[0]
    for result, image in zip(model(images), images, strict=True):
        height, width = image.shape[1:]
        assert len(result["scores"]) and (np.diff(result["scores"]) <= 0).all()
        assert (result["boxes"] >= 0).all() and (result["boxes"] <= [width, height] * 2).all()
        assert result["masks"].shape == (len(result["scores"]), height, width)
        for mask, (x1, y1, x2, y2) in zip(result["masks"] >= 0.5, result["boxes"].astype(int), strict=True):
            inside = np.zeros_like(mask)
            inside[y1:y2, x1:x2] = True
            assert mask.any() and not (mask & ~inside).any()


def test_masks_of_given_boxes_are_those_of_the_candidates():
    """With one class, whose mask every candidate has: without votes the maps say the same of given boxes, which lie
    between pixels while their masks are read on pixels."""
    model = fcis(num_classes=2, score_threshold=0.05, **{"fcis.second_pass": False, "fcis.voting": False}).eval()
    found, batch = model._detect(BATCH[0])
    again = model.mask_detections(model.features(batch), found)
    for detections, masks in zip(found, again, strict=True):
        assert len(masks) and (detections["boxes"] % 1).any()
        np.testing.assert_allclose(detections["masks"], masks, atol=1e-5)


def test_no_proposals_of_a_wrong_model_are_refined_beyond_all_bounds():
    model = fcis().eval()
    model.roi_heads.maps.bbox.bias.data[...] = np.nan
    (result,) = model.detect(BATCH[0][:1])
    assert len(result["scores"]) and np.isfinite(result["boxes"]).all()
    model.roi_heads.maps.cls_seg.bias.data[...] = np.nan
    (result,) = model.detect(BATCH[0][:1])
    assert result["boxes"].shape == (0, 4) and result["masks"].shape == (0, 12, 12)


def test_the_counted_cost_is_that_of_a_run():
    model = fcis().eval()
    cost = cost_of(model.config, (64, 96))
    with counting_operations() as count:
        model.detect([scene(1)[0]])
    assert cost.operations == count() and (cost.mask_operations, cost.mask_parameters) == (0, 0)
    assert cost.parameters == sum(parameter.size for parameter in model.parameters())


def test_the_models_command_has_no_faster_half_of_the_rivals(capsys):
    assert main(["models"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("shapes")}
    for name, millions in (("shapes_fcis", 1.10), ("shapes_mnc", 1.22)):
        row = rows[name]
        assert row[2] == row[4] == "-" and float(row[1]) == pytest.approx(millions, abs=0.01)
    assert rows["shapes"][2] != "-"


# Files and runs

SMALL = {**{name: TINY[name] for name in ("depths", "widths", "stem_width", "rpn_channels")},
         **{"fcis.channels": 8, "fcis.group": 3, "fcis.pooled": 6}}  # fmt: skip
RUN = TrainConfig(steps=4, batch_size=2, warmup_steps=1, checkpoint_every=2, preview_every=4, seed=5)


def test_a_checkpoint_keeps_the_model(tmp_path):
    model = build_model("shapes_fcis", seed=3, **SMALL)
    save_checkpoint(tmp_path / "a.npz", model)
    back = load_model(tmp_path / "a.npz", device="cpu")
    assert type(back) is FCIS and back.config == model.config
    expected = model.eval().detect(BATCH[0][:1])[0]
    for name, array in back.detect(BATCH[0][:1])[0].items():
        np.testing.assert_array_equal(array, expected[name])
    other = build_model("shapes_fcis", seed=4, **SMALL)
    load_weights(other, tmp_path / "a.npz")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_classes_are_carried_over_by_name(tmp_path):
    """The maps of a class are 2 x 3 x 3 rows of the last convolution."""
    model = build_model("shapes_fcis", num_classes=3, seed=3, **SMALL)
    model.categories = [{"label": 1, "name": "cup", "id": 1}, {"label": 2, "name": "jug", "id": 2}]
    save_checkpoint(tmp_path / "a.npz", model)
    other = build_model("shapes_fcis", num_classes=4, seed=4, **SMALL)
    other.categories = [{"label": i, "name": name, "id": i} for i, name in ((1, "jug"), (2, "pan"), (3, "cup"))]
    before = other.roi_heads.maps.cls_seg.weight.data.copy()
    report = load_weights(other, tmp_path / "a.npz")
    assert report.classes == (3, 4) and report.carried == ("jug", "cup") and report.new == ("pan",)
    theirs = model.roi_heads.maps.cls_seg.weight.data.reshape(3, 18, 8)
    after = other.roi_heads.maps.cls_seg.weight.data.reshape(4, 18, 8)
    np.testing.assert_array_equal(after[[0, 1, 3]], theirs[[0, 2, 1]])
    np.testing.assert_array_equal(after[2], before.reshape(4, 18, 8)[2])
    np.testing.assert_array_equal(other.roi_heads.maps.bbox.weight.data, model.roi_heads.maps.bbox.weight.data)


def test_an_interrupted_run_ends_where_a_whole_one_does(tmp_path):
    dataset, held_out = ShapesDataset(8, (32, 48), seed=100), ShapesDataset(2, (32, 48), seed=101)

    class Stops(ShapesDataset):
        def __getitem__(self, index):
            if len(asked) == 6:
                raise KeyboardInterrupt
            asked.append(index)
            return super().__getitem__(index)

    def started():
        return build_model("shapes_fcis", seed=5, **SMALL)

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
    """Forty steps on two pictures with three objects: class and mask become certain."""
    model = build_model("shapes_fcis", seed=0, **{**SMALL, "widths": (8, 16, 16, 32)})
    batch = batch_of(scene(1), scene(2))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    first = {name: loss.item() for name, loss in model(*batch).items()}
    for step in range(40):
        for parameter in model.parameters():
            parameter.grad = None
        losses = model(*batch, step=step)
        functools.reduce(operator.add, losses.values()).backward()
        optimizer.step()
    assert losses["loss_classifier"].item() < 0.3 * first["loss_classifier"]
    assert losses["loss_mask"].item() < 0.5 * first["loss_mask"]


def test_evaluation_of_a_tiny_one():
    metrics = evaluate(fcis().eval(), ShapesDataset(3, (32, 48), seed=1), progress=False)
    assert set(metrics) >= {"bbox/AP", "segm/AP"} and all(-1 <= value <= 1 for value in metrics.values())


def test_the_command_line_trains_evaluates_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_coco(ShapesDataset(2, (32, 48), seed=100), tmp_path / "set")
    data = ["set/images", "set/annotations.json"]
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}".replace(" ", ""))]
    run = ["train", "--device", "cpu", "--preset", "shapes_fcis", "--steps", "2", "--batch-size", "1"]
    assert main([*run, *settings, "--data", *data, "--val", *data, "--out", "run"]) == 0
    assert load_checkpoint("run/model.npz").config.model == "fcis"
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    model = ["run/model.npz", "--device", "cpu"]
    assert main(["evaluate", *model, "--data", *data, "--out", "metrics.json"]) == 0
    assert "segm/AP" in json.loads((tmp_path / "metrics.json").read_text())
    tune = ["train", "--device", "cpu", "--weights", "run/model.npz", "--steps", "1", "--out", "tuned"]
    assert main([*tune, "--data", *data, "--val", *data]) == 0
    assert type(load_model("tuned/model.npz", device="cpu")) is FCIS
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save("photo.png")
    assert main(["predict", "photo.png", "--checkpoint", *model, "--threshold", "0.01"]) == 0
    assert "photo_predicted.png" in capsys.readouterr().out
