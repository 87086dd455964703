"""`tinymrcnn train --weights`: what a run takes over, what it freezes, and that its resume ends with the same bits."""

import json
import os
import pickle
import signal

import numpy as np
import pytest
from tiny_models import tiny_model

from tinymrcnn.cli import main
from tinymrcnn.commands import train as command
from tinymrcnn.data import ShapesDataset, write_coco
from tinymrcnn.models import TrainConfig, presets
from tinymrcnn.settings import replace
from tinymrcnn.training import read_log, trainer
from tinymrcnn.weights import load_checkpoint, save_checkpoint

TRAIN = ["train", "--device", "cpu", "--steps", "2", "--batch-size", "2"]
PREDICTORS = ("box_predictor", "mask_fcn_logits")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "TEST_IMAGES", 1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def weights():
    model = tiny_model(seed=3, score_threshold=0.4)
    model.categories = ShapesDataset.categories
    save_checkpoint("start.npz", model)
    return ["--weights", "start.npz"]


def weights_of(path):
    return load_checkpoint(path).weights


def changed(run="run/model.npz", start="start.npz"):
    """The entries of the state_dict that differ between two checkpoints."""
    after, before = weights_of(run), weights_of(start)
    assert after.keys() == before.keys()
    return {name for name in after if not np.array_equal(after[name], before[name])}


def test_a_checkpoint_brings_its_config_and_all_its_weights(weights, capsys):
    assert main([*TRAIN, *weights, "--freeze-at", "2", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert "from 'start.npz'" in printed and "of them frozen) on the cpu: 2 steps of 2 images" in printed
    done = load_checkpoint("run/checkpoint.npz")
    assert done.config == tiny_model(score_threshold=0.4).config
    assert done.train_config == TrainConfig(
        steps=2, batch_size=2, lr=command.FINE_TUNING["lr"], warmup_steps=0, checkpoint_every=10, preview_every=10,
        val_every=10,
    )  # fmt: skip
    frozen = [name for name in done.weights if name.startswith("backbone.body.") and name.split(".")[2] in
              ("conv1", "bn1", "layer1")]  # fmt: skip
    assert len(frozen) > 10 and changed() == set(done.weights) - set(frozen)
    source = json.loads(open("run/data.json").read())
    assert source["freeze_at"] == 2 and source["weights"] == os.path.abspath("start.npz")


def test_without_frozen_stages_everything_trains(weights):
    assert main([*TRAIN, *weights, "--set", "lr=1e-3", "--out", "run"]) == 0
    assert changed() == set(weights_of("start.npz"))
    assert load_checkpoint("run/checkpoint.npz").train_config.lr == 1e-3


@pytest.mark.parametrize(
    "names, learned",
    [
        (("square", "\u732b"), {0: 0, 1: 2}),  # a cat, in Chinese, is new
        (("square", "circle", "triangle", "star", "ring"), {0: 0, 1: 2, 2: 1, 3: 3, 4: 4, 5: 5}),
        (("\u732b", "b", "c", "d", "e"), {0: 0}),  # the same number, but nothing else
    ],
)
def test_other_classes_keep_what_the_predictors_know_of_them(weights, capsys, names, learned):
    """learned: {label in the data: label in the file}; their rows are the file's, those of other classes are new."""
    write_coco(ShapesDataset(3, (48, 64), seed=100), "set")
    content = json.loads(open("set/annotations.json").read())
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    for annotation in content["annotations"]:
        annotation["category_id"] = annotation["category_id"] % len(names) + 1
    open("set/annotations.json", "w").write(json.dumps(content))
    data = ["set/images", "set/annotations.json"]
    options = ["--data", *data, "--val", *data, "--set", "lr=1e-30", "--set", "weight_decay=0.0", "--freeze-at", "5"]
    assert main([*TRAIN, *weights, *options, "--out", "run"]) == 0
    printed = capsys.readouterr().out
    known = ", ".join(name for name in names if name in {"square", "circle", "triangle", "star", "ring"})
    assert f"the predictors keep what they learned of {known}." in printed if known else "knows none of" in printed
    assert ("to be trained from the beginning: \u732b" in printed) == ("\u732b" in names)
    after, before = weights_of("run/model.npz"), weights_of("start.npz")
    assert load_checkpoint("run/model.npz").config.num_classes == len(names) + 1
    for name in before:  # the learning rate is as good as 0
        if not any(part in name for part in PREDICTORS):
            assert np.allclose(before[name], after[name], atol=1e-20), name
            continue
        ours, theirs = after[name].reshape(len(names) + 1, -1), before[name].reshape(6, -1)
        for label in range(len(names) + 1):
            kept = label in learned and np.allclose(ours[label], theirs[learned[label]], atol=1e-20)
            assert kept == (label in learned), (name, label)
            fresh = not np.any([np.allclose(ours[label], row, atol=1e-20) for row in theirs])
            assert fresh == (label not in learned), (name, label)


def test_public_weights_of_a_preset(monkeypatch, capsys):
    config = replace(tiny_model(num_classes=91).config, preset="tiny", min_size=64, max_size=100)
    monkeypatch.setitem(presets.PRESETS, "tiny", config)
    with open("public.pkl", "wb") as file:
        pickle.dump({"model": tiny_model(seed=4, num_classes=91).state_dict()}, file, protocol=2)
    options = ["--preset", "tiny", "--weights", "public.pkl", "--freeze-at", "5"]
    assert main(["train", "--device", "cpu", "--steps", "1", *options]) == 0
    printed = capsys.readouterr().out
    assert "By name the file knows none of the model's 5 classes." in printed
    assert "to be trained from the beginning: circle, square, triangle, star, ring." in printed
    done, expected = load_checkpoint("runs/tiny/checkpoint.npz"), tiny_model(seed=4, num_classes=91).state_dict()
    assert done.train_config.batch_size == command.FULL_SIZE["batch_size"]
    assert done.config == replace(config, num_classes=6)
    for name in expected:
        if name.startswith("backbone.body."):
            assert np.array_equal(done.weights[name], expected[name])


def test_resumed_with_frozen_stages_ends_with_the_same_bits(weights, monkeypatch):
    options = [*TRAIN, *weights, "--freeze-at", "3"]
    assert main([*options, "--out", "whole"]) == 0

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return training_step(*args)

    training_step = trainer.training_step
    monkeypatch.setattr(trainer, "training_step", interrupted)
    assert main([*options, "--out", "run"]) == 130
    monkeypatch.setattr(trainer, "training_step", training_step)
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    assert changed("run/model.npz", "whole/model.npz") == set()
    losses = [[line["loss"] for line in read_log(f"{run}/log.jsonl")] for run in ("whole", "run")]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_what_does_not_go_together(weights, capsys):
    os.rename("start.npz", "start.pth")
    save_checkpoint("start.npz", tiny_model())
    for options, message in (
        (
            ["--freeze-at", "2"],
            "--freeze-at keeps the first stages as they are, so it needs --weights or --backbone FILE",
        ),
        ([*weights, "--freeze-at", "6"], "6 stages cannot be frozen: this backbone has 5"),
        ([*weights, "--freeze-at", "-1"], "-1 stages cannot be frozen"),
        (["--weights", "start.pth"], "'start.pth' does not say which model it belongs to: name it with --preset"),
        (["--weights", "gone.npz"], "gone.npz"),
        (["--preset", "shapes_c4", *weights], "not fit the model"),
        (["--resume", "run", *weights, "--freeze-at", "1"], "leave out --weights, --freeze-at"),
    ):
        assert main([*(TRAIN if "--resume" not in options else ["train"]), *options]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert not os.path.exists("runs")
