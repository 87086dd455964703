"""Validation during training, the best model, early stopping, the average of the weights, runs that are prolonged."""

import json
import logging
import signal
from dataclasses import replace

import numpy as np
import pytest
from test_training import CONFIG, TINY, arrays_of, interrupting, same_bits, shapes, tiny_model, without_seconds

from tinymrcnn.data import ShapesDataset
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models import build_model
from tinymrcnn.nn import Module, Parameter
from tinymrcnn.training import learning_rate, read_log, train, trainer, validation
from tinymrcnn.training.averaging import averaged, start_average, update_average
from tinymrcnn.weights import CheckpointError, load_checkpoint, load_model, save_checkpoint

EVERY = replace(CONFIG, val_every=2, preview_every=100)
AVERAGED = replace(EVERY, ema=0.9)


def held_out():
    return shapes(3, seed=101)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is validated after 2, 4 and 6 steps, with averaged weights."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(tiny_model(), shapes(), AVERAGED, folder, held_out(), progress=False)


# Validation


def test_the_losses_are_those_of_training_over_the_whole_set():
    model = tiny_model()
    model.categories = ShapesDataset.categories
    images, targets = zip(*(shapes(6)[index] for index in range(6)), strict=True)
    found = validation.losses_on(model, shapes(6))
    assert model.training
    model.eval()
    expected = {name: loss.item() for name, loss in model.losses(list(images), list(targets)).items()}
    assert found.keys() == {"loss", *expected}
    assert validation.losses_on(model, shapes(6)) == found and not model.training
    # the images are looked at four at a time here, and all at once there
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(sum(expected.values()), rel=1e-4)


def test_classes_are_found_by_name_and_masks_may_be_missing():
    class Other:
        """The same pictures with the classes in the opposite order, and with or without masks."""

        categories = [
            {**category, "label": label}
            for label, category in enumerate(reversed(ShapesDataset.categories), start=1)
        ]  # fmt: skip

        def __init__(self, masks=True):
            self.masks = masks

        def __len__(self):
            return 5

        def __getitem__(self, index):
            image, target = shapes(5)[index]
            target = {**target, "labels": 6 - target["labels"]}
            return image, target if self.masks else {name: target[name] for name in target if name != "masks"}

    model = tiny_model()
    model.categories = ShapesDataset.categories
    assert validation.validate(model, Other()) == validation.validate(model, shapes(5))
    without = validation.validate(model, Other(masks=False))
    assert "loss" not in without and "segm/AP" not in without and validation.score(without) == without["bbox/AP"]


def test_a_few_images_are_spread_over_all():
    some = validation.Some(shapes(10), 4)
    assert [target["image_id"] for _, target in (some[i] for i in range(4))] == [0, 2, 5, 7] and len(some) == 4
    assert len(validation.Some(shapes(3))) == 3 and len(validation.Some(range_of(1000))) == 200


def range_of(count):
    class Numbers:
        categories = ()

        def __len__(self):
            return count

    return Numbers()


def test_a_run_is_validated(whole):
    folder, metrics = whole
    lines = read_log(folder / "validation.jsonl")
    assert [(line["step"], line["images"]) for line in lines] == [(2, 3), (4, 3), (6, 3)]
    last = {name: value for name, value in lines[-1].items() if "/" in name}
    assert metrics == last == json.loads((folder / "metrics.json").read_text())["metrics"]
    assert lines[-1]["loss"] == pytest.approx(sum(lines[-1][name] for name in lines[-1] if name.startswith("loss_")))
    model = load_model(folder / "model.npz", "cpu")
    assert evaluate(model, held_out(), progress=False) == metrics  # the average, not the last step's weights
    best = validation.best_of(lines)
    assert load_checkpoint(folder / "best.npz").step == best["step"]
    found = evaluate(load_model(folder / "best.npz", "cpu"), held_out(), progress=False)
    assert found == {name: value for name, value in best.items() if "/" in name}


def test_validation_changes_nothing(tmp_path):
    for name, config in (("with", EVERY), ("without", replace(EVERY, val_every=0))):
        train(tiny_model(), shapes(), config, tmp_path / name, held_out(), progress=False)
    assert same_bits(arrays_of(tmp_path / "with"), arrays_of(tmp_path / "without"))
    assert not (tmp_path / "without" / "validation.jsonl").exists() and not (tmp_path / "without" / "best.npz").exists()


@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch, step):
    """Before the first validation; and in step 3, after which a validation is due that the interruption leaves out."""
    folder, run = whole[0], tmp_path / "run"
    monkeypatch.setattr(trainer, "training_step", interrupting(step))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), shapes(), AVERAGED, run, held_out(), progress=False)
    monkeypatch.undo()
    train(tiny_model(), shapes(), AVERAGED, run, held_out(), resume=True, progress=False)
    assert same_bits(arrays_of(run), arrays_of(folder))
    assert any(name.startswith("average/") for name in arrays_of(run))
    assert without_seconds(read_log(run / "log.jsonl")) == without_seconds(read_log(folder / "log.jsonl"))
    assert read_log(run / "validation.jsonl") == read_log(folder / "validation.jsonl")
    for name in ("best.npz", "model.npz"):
        assert same_bits(load_checkpoint(run / name).weights, load_checkpoint(folder / name).weights)


# Early stopping


def lines_of(*scores):
    return [{"step": n, "segm/AP": score, "bbox/AP": 1.0} for n, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("scores", "over"),
    [((), False), ((0.1,), False), ((0.3, 0.2), False), ((0.3, 0.2, 0.3), True), ((0.3, 0.2, 0.31, 0.3), False)],
)
def test_when_a_run_is_over(scores, over):
    assert validation.is_over(lines_of(*scores), patience=2) is over
    assert validation.is_over(lines_of(*scores), patience=0) is False


def test_a_run_ends_early_and_resumes_to_its_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(validation, "evaluate", lambda *_, progress, workers: {"bbox/AP": 0.5})
    config, run = replace(EVERY, steps=40, val_every=2, patience=2), tmp_path / "run"
    model = build_model("shapes", masks=False, **{name: value for name, value in TINY.items() if "mask" not in name})
    with caplog.at_level(logging.INFO, "tinymrcnn"):
        train(model, shapes(), config, run, held_out(), progress=False)
    assert "ends after 6 of 40 steps: 2 validations brought no better AP" in caplog.text
    assert f"after 2 steps, AP 0.500: that model is in '{run / 'best.npz'}'" in caplog.text
    assert load_checkpoint(run / "model.npz").step == 6 == json.loads((run / "metrics.json").read_text())["steps"]
    assert load_checkpoint(run / "best.npz").step == 2
    assert load_checkpoint(run / "checkpoint.npz").step == 6
    again = build_model("shapes", masks=False, **{name: value for name, value in TINY.items() if "mask" not in name})
    train(again, shapes(), config, run, held_out(), resume=True, progress=False)
    assert len(read_log(run / "log.jsonl")) == 6


# More steps


def test_a_finished_run_is_prolonged(whole, tmp_path, caplog):
    run, config = tmp_path / "run", replace(EVERY, steps=4)
    train(tiny_model(), shapes(), config, run, held_out(), progress=False)
    longer = replace(config, steps=7)
    with caplog.at_level(logging.INFO, "tinymrcnn"):
        train(tiny_model(), shapes(), longer, run, held_out(), resume=True, progress=False)
    last, following = (learning_rate(step, c) for step, c in ((3, config), (4, longer)))
    assert "after 4 steps, now with 7 in all; until now 4 were planned" in caplog.text
    assert f"the last step had {last:.2g}, the next has {following:.2g}." in caplog.text
    log = read_log(run / "log.jsonl")
    assert [line["step"] for line in log] == list(range(7))
    assert [line["lr"] for line in log[4:]] == [learning_rate(step, longer) for step in (4, 5, 6)]
    assert load_checkpoint(run / "model.npz").step == 7
    assert load_checkpoint(run / "checkpoint.npz").train_config == longer


# The average


class Two(Module):
    buffers = ("count",)

    def __init__(self):
        super().__init__()
        self.weight, self.count = Parameter(np.zeros(2, np.float32)), np.zeros(1, np.float32)


def test_the_average_by_hand():
    model = Two()
    average, expected = start_average(model), 0.0
    for step in range(30):
        model.weight.data[:], model.count[:] = step, 10 * step
        update_average(average, model, 0.6, step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    np.testing.assert_allclose(average["weight"], [expected] * 2, rtol=1e-5)
    np.testing.assert_allclose(average["count"], [10 * expected], rtol=1e-5)
    assert average["weight"].dtype == np.float32


def test_within_the_block_the_model_has_the_average():
    model = Two()
    average = start_average(model)
    model.weight.data[:] = 3
    with averaged(model, average):
        assert model.weight.data.tolist() == [0, 0]
    assert model.weight.data.tolist() == [3, 3] and average["weight"].tolist() == [0, 0]
    with averaged(model, None):
        assert model.weight.data.tolist() == [3, 3]
    with pytest.raises(RuntimeError), averaged(model, average):
        raise RuntimeError
    assert model.weight.data.tolist() == [3, 3]


def test_a_file_whose_average_does_not_fit_is_refused(tmp_path):
    model, path = tiny_model(), tmp_path / "c.npz"
    average = start_average(model)
    name = next(iter(average))
    for change, message in (
        (lambda: average.pop(name), "do not belong together"),
        (lambda: average.update({name: np.full_like(start_average(model)[name], np.nan)}), "not finite"),
        (average.clear, "do not agree on whether the weights are averaged"),
    ):
        change()
        save_checkpoint(path, model, 2, AVERAGED, trainer.make_optimizer(model, AVERAGED), average)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
