"""The command line: what the commands write, print and return, and that no user error shows a traceback."""

import ctypes
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinymrcnn import cli, kernels, machine, roi
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import cuda_problem
from tinymrcnn.cli import main
from tinymrcnn.commands import doctor, source
from tinymrcnn.commands import train as command
from tinymrcnn.commands.source import read_source
from tinymrcnn.commands.train import TrainOptions, in_proportion, train_command
from tinymrcnn.data import CocoDataset, ShapesDataset, write_coco
from tinymrcnn.data.coco import decode_mask
from tinymrcnn.models import Config, TrainConfig, build_model
from tinymrcnn.settings import field_names, flatten, parse_setting, replace, value_of
from tinymrcnn.training import read_log, trainer
from tinymrcnn.weights import load_checkpoint, save_checkpoint

TINY = {"widths": (4, 4, 4, 8), "depths": (1, 1, 1, 1), "stem_width": 4, "fpn_channels": 8, "rpn_channels": 8,
        "box_hidden": 8, "mask_layers": (8,), "rpn_samples": 32, "box_samples": 16}  # fmt: skip
TRAIN = ["train", "--device", "cpu", "--steps", "2", "--batch-size", "1"]
for _name, _value in TINY.items():
    TRAIN += ["--set", f"{_name}={_value}"]
AVX512_CPU = machine.AVX512 <= doctor.cpu_info()[1]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "TEST_IMAGES", 2)
    monkeypatch.setattr(command, "QUICK_TEST_IMAGES", 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model whose detections all score above 0.05."""
    model = build_model("shapes", seed=1, **TINY, score_threshold=0.1)
    model.categories = ShapesDataset.categories
    path = tmp_path_factory.mktemp("model") / "model.npz"
    save_checkpoint(path, model)
    return str(path)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """(images, annotations) of a data set of two classes."""
    folder = tmp_path_factory.mktemp("coco") / "set"
    write_coco(ShapesDataset(4, (48, 64), seed=100), folder)
    return str(folder / "images"), str(folder / "annotations.json")


def error_of(capsys, argv, code=2):
    """What a failing command prints: its last line tells what is wrong, without a traceback."""
    assert main(argv) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.splitlines()[-1].startswith("tinymrcnn: ")
    return text


# train


def test_train_writes_a_run_and_names_it(capsys):
    assert main(TRAIN) == 0
    printed = capsys.readouterr().out
    assert "Training 'shapes'" in printed and "2 steps of 1 images out of 20000, seed 0" in printed
    assert "COCO metrics on 2 held-out images" in printed and "masks" in printed
    assert "--weights runs/shapes/model.npz" in printed
    saved = load_checkpoint("runs/shapes/model.npz")
    assert saved.config.resnet.widths == (4, 4, 4, 8) and saved.categories == ShapesDataset.categories
    assert [line["step"] for line in read_log("runs/shapes/log.jsonl")] == [0, 1]
    assert main([*TRAIN, "--quick"]) == 0
    assert "Quick: a first impression after 2 steps, evaluated on 1 images" in capsys.readouterr().out
    assert load_checkpoint("runs/shapes-2/checkpoint.npz").train_config.warmup_steps == command.QUICK["warmup_steps"]


def test_ctrl_c_says_how_to_resume_and_resume_goes_on(capsys, monkeypatch):
    def interrupted(model, optimizer, step, *args):
        signal.raise_signal(signal.SIGINT)
        return training_step(model, optimizer, step, *args)

    training_step = trainer.training_step
    monkeypatch.setattr(trainer, "training_step", interrupted)
    assert main([*TRAIN, "--out", "run", "--seed", "4"]) == 130
    assert "tinymrcnn train --resume run" in capsys.readouterr().err
    monkeypatch.setattr(trainer, "training_step", training_step)
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    assert "after 1 of 2 steps" in capsys.readouterr().out
    done = load_checkpoint("run/checkpoint.npz")
    assert (done.step, done.seed, done.train_config.seed) == (2, 4, 4)
    assert "keeps its settings; leave out --quick, or start" in error_of(
        capsys, ["train", "--resume", "run", "--steps", "3", "--quick"]
    )
    assert "has done 2 steps already" in error_of(capsys, ["train", "--resume", "run", "--steps", "1"])
    assert main(["train", "--device", "cpu", "--resume", "run", "--steps", "3"]) == 0
    assert "after 2 steps, now with 3 in all" in capsys.readouterr().out
    assert load_checkpoint("run/model.npz").step == 3
    os.remove("run/data.json")
    assert "data.json" in error_of(capsys, ["train", "--resume", "run"])
    assert "There is no checkpoint" in error_of(capsys, ["train", "--resume", "nowhere"])
    assert "holds a run already" in error_of(capsys, [*TRAIN, "--out", "run"])


@pytest.mark.parametrize("given", [["--seed", "0"], ["--freeze-at", "0"], ["--set", "lr=1e-3"], ["--out", "x"]])
def test_a_resumed_run_keeps_its_settings(capsys, given):
    """A 0 is a setting as well."""
    assert f"leave out {given[0]}, or start" in error_of(capsys, ["train", "--resume", "run", *given])


def test_what_follows_the_number_of_steps():
    """The defaults are those of 1,800 steps; a shorter run warms up, saves and previews in proportion."""
    assert (in_proportion(1800), in_proportion(2200)) == ({"val_every": 200}, {"val_every": 245})
    every = ("checkpoint_every", "preview_every", "val_every")
    assert in_proportion(500) == {"warmup_steps": 50, **dict.fromkeys(every, 56)}
    assert in_proportion(2) == {"warmup_steps": 0, **dict.fromkeys(every, 10)}
    assert in_proportion(1799) == {"warmup_steps": 100, **dict.fromkeys(every, 200)}
    options = TrainOptions(steps=50, val_every=3, settings=["preview_every=7", "augment.turn=true"])
    config = command._train_config(command._given(options, Config())[1])
    assert (config.warmup_steps, config.checkpoint_every, config.preview_every, config.val_every) == (5, 10, 7, 3)
    assert config.augment.turn and not config.augment.blur


def test_two_runs_without_a_name_get_two_folders():
    """Both looked for a free name before either made its folder."""
    os.makedirs("runs/shapes")
    with (
        command._new_folder(TrainOptions(), "shapes") as first,
        command._new_folder(TrainOptions(), "shapes") as second,
    ):
        assert [str(first), str(second)] == ["runs/shapes-2", "runs/shapes-3"]


def test_train_can_be_called_from_python(capsys):
    settings = [f"{name}={value}" for name, value in TINY.items()]
    assert train_command(TrainOptions(device="cpu", steps=1, batch_size=1, settings=settings, out="a run")) == 0
    assert "--weights 'a run/model.npz'" in capsys.readouterr().out


@pytest.fixture
def interrupted_run(coco, monkeypatch):
    """The folder "run", after one of two steps on a copy of the data set in the folder "first"."""

    def interrupted(*args):
        signal.raise_signal(signal.SIGTERM)
        return training_step(*args)

    shutil.copytree(os.path.dirname(coco[0]), "first")
    training_step = trainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "training_step", interrupted)
        data = ["first/images", "first/annotations.json"]
        assert main([*TRAIN, "--data", *data, "--val", *coco, "--out", "run"]) == 143


def test_data_that_moved_are_named_when_a_run_goes_on(interrupted_run, capsys):
    os.rename("first", "second")
    assert "first/annotations.json" in error_of(capsys, ["train", "--resume", "run"])
    second = ["second/images", "second/annotations.json"]
    assert main(["train", "--device", "cpu", "--resume", "run", "--data", *second]) == 0
    assert json.loads(open("run/data.json").read())["data"] == [os.path.abspath(path) for path in second]
    assert "has changed" not in capsys.readouterr().out


def test_data_that_changed_are_noticed_when_a_run_goes_on(interrupted_run, capsys):
    content = json.loads(open("first/annotations.json").read())
    renamed = [{**category, "name": category["name"].upper()} for category in content["categories"]]
    others = [
        annotation for annotation in content["annotations"] if annotation["image_id"] != content["images"][0]["id"]
    ]
    for change, message in (
        ({"images": content["images"][1:], "annotations": others}, "its images were 4 and are 3"),
        ({"categories": renamed}, "its classes were ['circle'"),
    ):
        open("first/annotations.json", "w").write(json.dumps({**content, **change}))
        error = error_of(capsys, ["train", "--resume", "run", "--val", "first/images", "first/annotations.json"])
        assert "is not the data set that the run began with" in error and message in error
    open("first/annotations.json", "w").write(json.dumps({**content, "info": {"year": 2026}}))
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    assert "first/annotations.json' has changed since the run began" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"data": "x", "val": null}', '{"data": ["a", "b", "c"], "val": ["b"], "test_images": 1}',
     '{"data": ["a"], "val": 1.5, "test_images": 1}', '{"data": null, "val": ["b"], "test_images": 1}',
     '{"data": ["a"], "val": null, "test_images": 1, "format": 3}',
     '{"data": null, "val": null, "test_images": "many"}',
     '{"data": null, "val": null, "test_images": 1, "freeze_at": null}',
     '{"data": null, "val": null, "test_images": 1, "found": {"data": 3, "val": null}}',
     '{"data": null, "val": null, "test_images": 1, "found": {"val": null, "data": '
     '{"images": 1, "classes": 299, "annotations": "a"}}}'],
)  # fmt: skip
def test_a_damaged_note_of_the_data(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match="data.json' should tell which data the run uses"):
        read_source(tmp_path / "data.json")


def test_a_note_of_an_earlier_version(tmp_path):
    """It says neither what was found nor, before fine-tuning came, what is frozen."""
    (tmp_path / "data.json").write_text('{"data": null, "val": null, "test_images": 7}')
    assert read_source(tmp_path / "data.json") == {
        "data": None, "val": None, "test_images": 7, "freeze_at": 0, "found": {"data": None, "val": None},
    }  # fmt: skip


def test_a_run_on_shapes_has_no_place_of_data(capsys, coco):
    assert main([*TRAIN, "--out", "run"]) == 0
    error = error_of(capsys, ["train", "--resume", "run", "--data", *coco])
    assert "The run trains on toy shapes: leave out --data" in error


def test_held_out_images_that_do_not_fit_are_told_before_anything_is_made(capsys, coco):
    content = json.loads(open(coco[1]).read())
    renamed = [{**category, "name": category["name"].upper()} for category in content["categories"]]
    for change, message in (
        ({"images": [], "annotations": []}, "its list 'images' is empty"),
        ({"categories": renamed}, "does not know ['CIRCLE'"),
    ):
        open("val.json", "w").write(json.dumps({**content, **change}))
        error = error_of(capsys, [*TRAIN, "--data", *coco, "--val", coco[0], "val.json"])
        assert message in error and not os.path.exists("runs")


def test_without_masks_boxes_are_enough(coco, monkeypatch):
    """What the data sets are asked for, by the model that is to be trained."""
    asked = []

    def opened(image_dir, annotation_file, masks=True):
        asked.append(masks)
        return CocoDataset(image_dir, annotation_file)

    monkeypatch.setattr(source, "CocoDataset", opened)
    command._new_run(TrainOptions(data=coco, val=coco, settings=["masks=false"]))
    command._new_run(TrainOptions(data=coco, val=coco))
    assert asked == [False, False, True, True]


def test_train_on_a_data_set_of_ones_own(coco):
    assert main([*TRAIN, "--preset", "shapes", "--data", *coco, "--val", *coco, "--out", "own"]) == 0
    saved = load_checkpoint("own/model.npz")
    assert saved.config.num_classes == 6 and [c["name"] for c in saved.categories] == [
        c["name"] for c in CocoDataset(*coco).categories
    ]
    assert json.loads(open("own/metrics.json").read())["images"] == 4


def test_a_loss_that_is_not_finite_exits_with_1(capsys):
    with np.errstate(all="ignore"):
        text = error_of(capsys, [*TRAIN, "--out", "run", "--set", "lr=1e6", "--set", "warmup_steps=0"], code=1)
    assert "Training stopped in step 1" in text and "run/checkpoint.npz" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--set", "learning_rate=1"],
            "Config has no field 'learning_rate'.*Training has: steps.*warmup_steps",
        ),
        (["--set", "lr"], "--set 'lr' is not FIELD=VALUE"),
        (["--set", "lr=fast"], "lr is 'fast'; it must be a number from 0"),
        (["--set", "roi_op=roi_magic"], "roi_op is 'roi_magic'; it must be one of"),
        (["--set", "num_classes=3"], "num_classes=3"),
        (["--steps", "0"], "steps is 0; it must be a whole number from 1"),
        (["--set", "lr=-1e-3"], "lr is -0.001; it must be a number from 0"),
        (["--set", "clip_norm=-1"], "clip_norm is -1.0; it must be a number from 0"),
        (["--preset", "shape"], "There is no preset 'shape'"),
        (["--val", "a", "b"], "--val belongs to --data"),
        (["--format", "coco"], "--format belongs to --data"),
        (["--data", "a", "b", "c"], "--data takes one path, or a folder of images and an annotation file, but 3"),
        (["--data", "a", "--val", "7"], "--val 7 is no share of the images between 0 and 1"),
        (["--data", "a"], "There is no file or folder '.*/a'"),
        (["--data", "a", "b", "--val", "a", "b"], "There is no annotation file 'b'|no annotation file '.*/b'"),
    ],
)
def test_bad_options_of_train(capsys, options, message):
    assert re.search(message, error_of(capsys, ["train", "--device", "cpu", *options]))
    assert not os.path.exists("runs")


@pytest.mark.skipif(not cuda_problem(), reason="a GPU works here")
def test_no_gpu_is_an_error_of_one_sentence(capsys, checkpoint):
    text = error_of(capsys, ["evaluate", checkpoint, "--device", "cuda"])
    assert "'cuda' cannot be used" in text and "--device cpu" in text
    assert "'cuda' cannot be used" in error_of(capsys, ["train", "--device", "cuda"])
    assert not os.path.exists("runs")


def test_values_of_fields():
    for text, value in (
        ("5e-4", 5e-4), ("1", 1), ("false", False), ("True", True), ("none", None), ("96", 96),
        ("roi_pool", "roi_pool"), ("[8,8]", [8, 8]), ("((8,),(16,))", ((8,), (16,))), ("nan", "nan"), ("a=b", "a=b"),
    ):  # fmt: skip
        name, parsed = parse_setting(f"lr={text}")
        assert (name, parsed) == ("lr", value) and type(parsed) is type(value)


def test_every_field_of_the_configs_can_be_set_from_its_text():
    for name, value in {**flatten(Config()), **flatten(TrainConfig())}.items():
        kind = Config if name in field_names(Config) else TrainConfig
        assert value_of(replace(kind(), **{name: parse_setting(f"{name}={value}")[1]}), name) == value
    assert not {*field_names(Config)} & {*field_names(TrainConfig)}


# evaluate


def test_evaluate_shapes_and_coco(capsys, checkpoint, coco):
    assert main(["evaluate", checkpoint, "--device", "cpu", "--images", "2", "--out", "new/metrics.json"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads(open("new/metrics.json").read())
    assert "on 2 held-out images" in printed and f"{metrics['segm/AP']:.3f}" in printed
    assert metrics["bbox/APl"] == -1 and "none" in printed
    assert main(["evaluate", checkpoint, "--device", "cpu", "--data", *coco]) == 0
    assert "on 4 held-out images" in capsys.readouterr().out


def test_evaluate_refuses_what_does_not_fit(capsys, checkpoint, tmp_path):
    assert "There is no checkpoint" in error_of(capsys, ["evaluate", "none.npz"])
    (tmp_path / "page.npz").write_text("<html>")
    assert "page.npz' is no checkpoint" in error_of(capsys, ["evaluate", "page.npz"])
    assert "num_images" in error_of(capsys, ["evaluate", checkpoint, "--device", "cpu", "--images", "0"])


def test_evaluate_replaces_only_metrics(capsys, checkpoint, tmp_path):
    """Said before the work starts."""
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "metrics.json").write_text('{"bbox/AP": 0.5}')
    for out, message in (
        ("picture.png", "'picture.png' exists and holds no metrics"),
        ("other.json", "'other.json' exists and holds no metrics"),
        (".", "'.' is a folder; name a file for the metrics"),
        ("picture.png/metrics.json", "'picture.png' cannot be a folder"),
    ):
        printed = error_of(capsys, ["evaluate", checkpoint, "--device", "cpu", "--images", "2", "--out", out])
        assert message in printed and "evaluate:" not in printed
    assert (tmp_path / "picture.png").read_bytes() == b"\x89PNG"
    assert main(["evaluate", checkpoint, "--device", "cpu", "--images", "2", "--out", "metrics.json"]) == 0
    assert "segm/AP" in json.loads((tmp_path / "metrics.json").read_text())


def test_evaluate_with_intervals_and_errors(capsys, checkpoint, tmp_path):
    asked = ["evaluate", checkpoint, "--device", "cpu", "--images", "3"]
    assert main([*asked, "--interval", "--errors", "--out", "metrics.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["bbox/AP/low"] <= metrics["bbox/AP"] <= metrics["bbox/AP/high"]
    assert [line.split()[0] for line in lines if line.startswith(("boxes", "masks", "  "))][1:7] == [
        "boxes", "from", "to", "masks", "from", "to",
    ]  # fmt: skip
    assert "95 % confidence interval (bootstrap over the images, 1,000 resamples)" in " ".join(lines)
    (row,) = (line for line in lines if line.startswith("localisation"))
    count, cost = metrics["segm/errors/localisation/count"], metrics["segm/errors/localisation"]
    assert row.split()[3:5] == [str(count), f"{cost:.3f}"] and row.endswith(
        "near an object of its class, IoU 0.1 to 0.5"
    )
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    # once more, over what it has written; and by pycocotools, without the rest
    assert main([*asked, "--errors", "--out", "metrics.json"]) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert "bbox/AP/low" not in again and again.items() <= metrics.items()
    capsys.readouterr()
    assert main([*asked, "--reference", "--out", "reference.json"]) == 0
    reference = json.loads((tmp_path / "reference.json").read_text())
    assert (
        len(reference) == 12
        and reference.items() <= metrics.items()
        and "classification" not in capsys.readouterr().out
    )


def test_evaluate_options_that_do_not_go_together(capsys, checkpoint, tmp_path):
    asked = ["evaluate", checkpoint, "--device", "cpu", "--images", "2"]
    assert "--reference counts the metrics alone" in error_of(capsys, [*asked, "--reference", "--interval"])
    assert "--out names the JSON file" in error_of(capsys, [*asked, "--errors", "--out", "errors.png"])
    (tmp_path / "holiday.png").write_bytes(b"\x89PNG")
    assert "'holiday.png' exists already" in error_of(capsys, [*asked, "--errors", "--out", "holiday.json"])
    assert (tmp_path / "holiday.png").read_bytes() == b"\x89PNG" and not (tmp_path / "holiday.json").exists()


# predict


def test_predict_writes_pictures_and_results(capsys, checkpoint, tmp_path):
    (tmp_path / "other").mkdir()
    for folder, size in ((tmp_path, (40, 60)), (tmp_path / "other", (48, 64))):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--threshold", "0.15", "--out", "."]
    assert main(["predict", "photo.png", "other/photo.png", *options]) == 0
    assert (tmp_path / "photo.png").read_bytes() == before
    assert Image.open("photo_predicted.png").size == (13 * 60, 13 * 40)
    assert Image.open("photo_2_predicted.png").size == (11 * 64, 11 * 48)
    records = json.loads((tmp_path / "detections.json").read_text())
    assert {r["file_name"] for r in records} == {"photo.png", "other/photo.png"}
    assert not any("image_id" in record for record in records)  # none is invented
    for record in records:
        height, width = (40, 60) if record["file_name"] == "photo.png" else (48, 64)
        assert decode_mask(record["segmentation"], height, width).shape == (height, width)
        assert record["category_id"] in range(1, 6) and 0 < record["score"] < 1 and len(record["bbox"]) == 4
    drawn = sum(record["score"] >= 0.15 and record["file_name"] == "photo.png" for record in records)
    assert f"photo_predicted.png: {drawn} object" in capsys.readouterr().out


def test_predict_skips_and_reports_what_it_cannot_read(capsys, checkpoint, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "good.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "folder.png").mkdir()
    images = ["broken.png", "good.jpg", "missing.png", "folder.png"]
    assert main(["predict", *images, "--checkpoint", checkpoint, "--device", "cpu"]) == 1
    text = capsys.readouterr().err
    assert all(f"'{name}'" in text for name in ("broken.png", "missing.png", "folder.png")) and "good" not in text
    assert os.path.exists("predictions/good_predicted.png")
    assert {r["file_name"] for r in json.loads(open("predictions/detections.json").read())} <= {"good.jpg"}


def test_predict_without_masks_and_without_detections(tmp_path):
    model = build_model("shapes", seed=1, **TINY, masks=False, score_threshold=0.99)
    model.categories = ShapesDataset.categories
    save_checkpoint("boxes.npz", model)
    Image.new("RGB", (50, 40)).save("grey.png")
    assert main(["predict", "grey.png", "--checkpoint", "boxes.npz", "--device", "cpu"]) == 0
    assert json.loads(open("predictions/detections.json").read()) == []


# data and doctor


def test_data_shapes_can_be_read_back(capsys):
    assert main(["data", "shapes", "--out", "set", "--num", "3", "--size", "48", "64", "--seed", "5", "--crowded"]) == 0
    assert "Wrote 3 images to 'set/images'" in capsys.readouterr().out
    found = CocoDataset("set/images", "set/annotations.json")
    for index, expected in enumerate(ShapesDataset(3, (48, 64), 5, crowded=True)[i] for i in range(3)):
        assert np.array_equal(found[index][0], expected[0])
        assert np.array_equal(found[index][1]["masks"], expected[1]["masks"])
    assert main(["data", "shapes", "--out", "half", "--num", "2", "--size", "48", "--crowded", "0.5"]) == 0
    found = CocoDataset("half/images", "half/annotations.json")
    for index, crowded in enumerate((False, True)):
        assert np.array_equal(found[index][0], ShapesDataset(2, 48, crowded=crowded)[index][0])
    assert "crowded must be" in error_of(capsys, ["data", "shapes", "--out", "new", "--crowded", "2"])
    assert "exists already" in error_of(capsys, ["data", "shapes", "--out", "set"])
    assert "image_size" in error_of(capsys, ["data", "shapes", "--out", "new", "--size", "1", "2", "3"])


def test_doctor_has_a_verdict_on_every_line(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "note"}
    for word in ("Python", "CPU", "numpy", "BLAS", "RoIAlign", "GPU"):
        assert any(word in line for line in lines), word


def test_doctor_says_where_a_notebooks_backend_cannot_be_loaded():
    for backend, noted in (("module://no_such_package.backend", True), ("nonsense", True), ("svg", False)):
        printed = fresh(DOCTOR_DRAWING, MPLBACKEND=backend)
        assert (f"MPLBACKEND={backend} is a backend that matplotlib cannot load here" in printed) == noted


DOCTOR_DRAWING = """
from tinymrcnn.commands import doctor
for _, text in doctor._drawing():
    print(text)
"""


def test_doctor_says_where_kernels_are_kept(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "cache_place", lambda kernel: "/some/where")
    assert main(["doctor"]) == 0
    assert "ok       Numba keeps compiled kernels in '/some/where'" in capsys.readouterr().out
    monkeypatch.setattr(kernels, "cache_place", lambda kernel: None)
    assert main(["doctor"]) == 0
    assert "note     Numba can keep compiled kernels nowhere" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("numba_cuda"), reason="numba-cuda[cu12] is not installed.")
def test_doctor_compiles_for_cuda_without_a_gpu(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    assert "compiles kernels" in capsys.readouterr().out

    def compile_to_ptx(kernel, signature):
        raise AttributeError("module 'numpy' has no attribute 'row_stack'")

    monkeypatch.setattr(kernels, "compile_to_ptx", compile_to_ptx)
    assert main(["doctor"]) == 1
    assert "compiles no kernel: AttributeError: module 'numpy' has no attribute" in capsys.readouterr().out


def test_doctor_says_whether_freed_memory_is_kept(capsys, monkeypatch):
    for kept, expected in ((True, "ok       Memory: what arrays free is kept"), (False, "note     Memory: every step")):
        monkeypatch.setattr(doctor, "keep_freed_memory", lambda kept=kept: kept)
        assert main(["doctor"]) == 0
        assert expected in capsys.readouterr().out


def test_doctor_reports_problems(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "problem  Missing: no-such-package." in printed and "BLAS" not in printed
    monkeypatch.undo()
    monkeypatch.setattr(roi, "roi_align", lambda *args: Tensor(np.zeros((1, 1, 2, 3))))
    assert main(["doctor"]) == 1
    assert "problem  Numba: RoIAlign on 'cpu' computes" in capsys.readouterr().out


def test_doctor_on_machines_with_a_gpu(capsys, monkeypatch):
    """Drivers, CuPy and kernels that work or fail are played by functions."""
    from tinymrcnn import backend

    monkeypatch.setattr(doctor, "_gpu_names", lambda: ["NVIDIA H200"])
    for cupy, kernel, tf32, code, expected in (
        ("CuPy cannot be imported.", None, None, 1, "problem  CuPy: CuPy cannot be imported. In the clone: pip"),
        (None, "RoIAlign cannot run on 'cuda'.", False, 1, "problem  Numba CUDA: RoIAlign cannot run on 'cuda'."),
        (None, None, False, 0, "RoIAlign runs, and is right"),
        (None, None, False, 0, "ok       TF32: off. CUPY_TF32=1 makes"),
        (None, None, True, 0, "ok       TF32: on (CUPY_TF32)."),
    ):
        monkeypatch.setattr(backend, "cuda_problem", lambda cupy=cupy: cupy)
        monkeypatch.setattr(backend, "tf32", lambda tf32=tf32: tf32)
        monkeypatch.setattr(
            doctor, "_roi_align_problem", lambda device, kernel=kernel: kernel if device == "cuda" else None
        )
        assert main(["doctor"]) == code
        printed = capsys.readouterr().out
        assert "ok       GPU: NVIDIA H200" in printed and expected in printed


# The process around it


def fresh(code, **variables):
    """Run code in a fresh process with these environment variables (None removes one); what it prints."""
    env = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout


CHOICE = """
import os, sys
import tinymrcnn.cli as c
{}
print(os.environ.get("OPENBLAS_CORETYPE"), "numpy" in sys.modules)
"""
HELP = """
import sys
before = set(sys.modules)
from tinymrcnn.cli import main
try:
    main(["train", "--help"])
finally:
    print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
"""


def test_help_is_quick_and_loads_nothing_heavy():
    printed = fresh(HELP)
    assert "--resume" in printed and "examples:" in printed and printed.endswith("['tinymrcnn']\n")


@pytest.mark.skipif(not AVX512_CPU, reason="this CPU has no AVX-512, or no /proc/cpuinfo tells")
def test_blas_kernels_are_chosen_before_numpy_loads():
    assert fresh(CHOICE.format("c.choose_blas_kernels()"), OPENBLAS_CORETYPE=None) == "SKYLAKEX False\n"
    assert fresh(CHOICE.format("c.choose_blas_kernels()"), OPENBLAS_CORETYPE="Haswell") == "Haswell False\n"
    late = CHOICE.format("import numpy; c.choose_blas_kernels()")
    assert fresh(late, OPENBLAS_CORETYPE=None) == "None True\n"
    printed = fresh("from tinymrcnn.cli import main; main(['doctor'])", OPENBLAS_CORETYPE=None)
    assert "with SkylakeX kernels" in printed or "openblas" not in printed


def test_other_cpus_and_systems_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")  # as in a process that has not imported it
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512dq\n")
    assert doctor.cpu_info(tmp_path / "cpuinfo") == ("Some CPU", {"fpu", "avx2", "avx512f", "avx512dq"})
    for flags, chosen in (({"avx2"}, {}), (machine.AVX512 | {"avx2"}, {"OPENBLAS_CORETYPE": "SKYLAKEX"})):
        monkeypatch.setattr(machine, "cpu_info", lambda flags=flags: ("", flags))
        environ = {}
        machine.choose_blas_kernels(environ)
        assert environ == chosen
    monkeypatch.undo()
    assert doctor.cpu_info(tmp_path / "none")[1] == set()


def test_the_installed_command_and_traceback(checkpoint):
    for module in ("tinymrcnn.cli", "tinymrcnn"):
        version = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
        assert version.stdout.startswith("tinymrcnn 0.")
    with pytest.raises(SystemExit) as usage:
        main(["reproduce"])
    assert usage.value.code == 2
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "evaluate", "none.npz"])
    assert cli.SHIPPED_MODEL.parts[-3:] == ("tinymrcnn", "assets", "shapes.npz")


TOLD = """
import ctypes
from tinymrcnn import machine
class Libc:
    mallopt = staticmethod(lambda *told: print(*told, ctypes.CDLL(None).mallopt(*told)))
machine.ctypes = type("", (), {"CDLL": lambda name: Libc})
machine.keep_freed_memory()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only glibc's malloc is told to keep its memory.")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="This C library has no mallopt.")
def test_freed_memory_is_kept_for_the_next_step():
    """glibc trims nothing below 2 GB, maps no array below 1 GB on its own, has one heap, and says 1: it takes all."""
    assert fresh(TOLD) == "-1 2147483647 1\n-3 1073741824 1\n-8 1 1\n"
