"""The training loop: what it logs and draws, and that no interruption changes where it ends."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.loader import batch_indices
from tinymrcnn.models import Samples, TrainConfig, build_model
from tinymrcnn.nn import SGD, AdamW, Module, Parameter
from tinymrcnn.training import learning_rate, make_optimizer, read_log, train, trainer, training_step
from tinymrcnn.training import run as run_module
from tinymrcnn.weights import load_checkpoint, load_model, load_weights, save_checkpoint

TINY = {"widths": (4, 4, 4, 8), "depths": (1, 1, 1, 1), "stem_width": 4, "fpn_channels": 8, "rpn_channels": 8,
        "box_hidden": 8, "mask_layers": (8,), "rpn_samples": 32, "box_samples": 16}  # fmt: skip
CONFIG = TrainConfig(steps=6, batch_size=2, warmup_steps=2, checkpoint_every=2, preview_every=3, seed=5)
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]


def tiny_model(**overrides):
    return build_model("shapes", **{"seed": CONFIG.seed, **TINY, **overrides})


def shapes(num_images=12, seed=100):
    return ShapesDataset(num_images, (32, 48), seed=seed)


class Watched:
    """A data set that calls `watch(number)` whenever its images have been asked for `number` times."""

    categories = ShapesDataset.categories

    def __init__(self, dataset, watch):
        self.dataset, self.watch, self.count = dataset, watch, 0

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.count += 1
        self.watch(self.count)
        return self.dataset[index]


def interrupting(step):
    """training_step, with Ctrl-C pressed in the middle of `step`."""

    def stepped(model, optimizer, number, *args):
        if number == step:
            signal.raise_signal(signal.SIGINT)
        return training_step(model, optimizer, number, *args)

    return stepped


def arrays_of(folder):
    with np.load(folder / "checkpoint.npz") as file:
        return {name: file[name] for name in file.files if name != "metadata"}


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def without_seconds(log):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of CONFIG that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metrics = train(tiny_model(), shapes(), CONFIG, folder, shapes(3, seed=101))
    return folder, metrics


# What a run leaves behind


def test_the_log_has_one_line_a_step(whole):
    lines = read_log(whole[0] / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(6))
    for line in lines:
        assert line["lr"] == learning_rate(line["step"], CONFIG)
        assert line["loss"] == pytest.approx(sum(line[name] for name in LOSSES), rel=1e-5)
        assert line["gradient_norm"] > 0 and line["seconds"] > 0
        assert isinstance(line["positive_anchors"], int) and isinstance(line["positive_rois"], int)
    assert lines[0]["loss_mask"] == pytest.approx(math.log(2), abs=0.1)
    assert lines[0]["loss_objectness"] == pytest.approx(math.log(2), abs=0.1)


def test_metrics_pictures_and_models(whole):
    folder, metrics = whole
    assert {"bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"} <= metrics.keys()
    report = json.loads((folder / "metrics.json").read_text())
    assert report["metrics"] == metrics and (report["images"], report["steps"], report["seed"]) == (3, 6, 5)
    assert report["device"] == "cpu" and report["environment"]["numpy"] == np.__version__
    for name in ("curves.png", "preview.png", "predictions.png"):
        assert min(Image.open(folder / name).size) > 300
    finished, last = load_checkpoint(folder / "model.npz"), load_checkpoint(folder / "checkpoint.npz")
    assert (finished.step, last.step, finished.optimizer, last.train_config) == (6, 6, None, CONFIG)
    assert same_bits(finished.weights, last.weights)
    assert load_model(folder / "model.npz", "cpu").categories == ShapesDataset.categories


def test_without_held_out_images_there_are_no_metrics(tmp_path):
    assert train(tiny_model(), shapes(), replace(CONFIG, steps=2), tmp_path / "run") == {}
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {
        "checkpoint.npz", "model.npz", "log.jsonl", "curves.png",
    }  # fmt: skip


def test_previews_change_nothing(whole, tmp_path):
    config = replace(CONFIG, preview_every=1)
    train(tiny_model(), shapes(), config, tmp_path / "run", shapes(2, seed=101))
    assert same_bits(arrays_of(tmp_path / "run"), arrays_of(whole[0]))


def test_it_learns():
    """Two images, over and over: the losses fall."""
    config = TrainConfig(steps=40, batch_size=2, warmup_steps=5, lr=3e-3, flip=False)
    model, dataset = tiny_model(norm="group", widths=(8, 8, 8, 8)), shapes(2)
    model.categories, model.seed = dataset.categories, 0
    images, targets = zip(*(dataset[index] for index in range(2)), strict=True)
    optimizer = make_optimizer(model, config)
    lines = [training_step(model, optimizer, step, images, targets, config) for step in range(config.steps)]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    for name in ("loss_objectness", "loss_classifier"):
        assert lines[-1][name] < lines[0][name]


def test_the_optimiser_follows_the_config():
    model = tiny_model()
    sgd = make_optimizer(model, replace(CONFIG, optimizer="sgd", momentum=0.5, weight_decay=0.25))
    assert isinstance(sgd, SGD) and (sgd.momentum, sgd.weight_decay) == (0.5, 0.25)
    adamw = make_optimizer(model, replace(CONFIG, weight_decay=0.125))
    assert isinstance(adamw, AdamW) and adamw.weight_decay == 0.125
    assert len(adamw.parameters) == len(list(model.parameters()))


# Interruptions


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_ctrl_c_and_resume_end_with_the_same_bits(whole, tmp_path, monkeypatch, optimizer):
    """Interrupted in step 2, away from any regular checkpoint, and again in the step after the resume."""
    config, expected = replace(CONFIG, optimizer=optimizer), whole[0]
    if optimizer == "sgd":
        expected = tmp_path / "whole"
        train(tiny_model(), shapes(), config, expected, shapes(3, seed=101))
    before = signal.getsignal(signal.SIGINT)
    run = tmp_path / "run"
    for step in (2, 3):
        monkeypatch.setattr(trainer, "training_step", interrupting(step))
        with pytest.raises(KeyboardInterrupt, match=rf"{step + 1} of 6 steps are done(.|\n)*train --resume .*run"):
            train(tiny_model(), shapes(), config, run, shapes(3, seed=101), resume=step > 2)
        assert load_checkpoint(run / "checkpoint.npz").step == step + 1
        assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    metrics = train(tiny_model(), shapes(), config, run, shapes(3, seed=101), resume=True)
    assert same_bits(arrays_of(run), arrays_of(expected))
    assert without_seconds(read_log(run / "log.jsonl")) == without_seconds(read_log(expected / "log.jsonl"))
    assert metrics == json.loads((expected / "metrics.json").read_text())["metrics"]


KILLED = """
import os, sys
from pathlib import Path
import test_training as t
def watch(count):
    if count == 11:  # an image of the sixth batch: prefetched while an earlier step runs
        os.kill(os.getpid(), 9)
t.train(t.tiny_model(), t.Watched(t.shapes(), watch), t.CONFIG, sys.argv[1], t.shapes(3, seed=101))
"""
RESUMED = """
import sys
import test_training as t
t.train(t.tiny_model(), t.shapes(), t.CONFIG, sys.argv[1], t.shapes(3, seed=101), resume=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_and_resumed_in_fresh_processes(whole, tmp_path):
    run = tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    killed = subprocess.run([sys.executable, "-c", KILLED, run], env=env, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    step = load_checkpoint(run / "checkpoint.npz").step
    assert step < 6
    with open(run / "log.jsonl", "a") as log:  # as if it had died a little later, in the middle of a line
        log.write(json.dumps({"step": step, "loss": 0.0}) + "\n" + '{"step": 5, "lo')
    resumed = subprocess.run([sys.executable, "-c", RESUMED, run], env=env, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "another environment" not in resumed.stderr
    assert same_bits(arrays_of(run), arrays_of(whole[0]))
    assert without_seconds(read_log(run / "log.jsonl")) == without_seconds(read_log(whole[0] / "log.jsonl"))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path, monkeypatch):
    def twice(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(trainer, "training_step", twice)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoint.npz").step == 0


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Python ignores Ctrl-C where it was started in the background: the tests of it need the usual answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_during_the_evaluation_says_how_to_resume(tmp_path, monkeypatch):
    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    config, run = replace(CONFIG, steps=1), tmp_path / "a run"
    with pytest.raises(KeyboardInterrupt, match=r"1 of 1 steps are done(.|\n)*train --resume '.*a run'$"):
        train(tiny_model(), shapes(), config, run, shapes(1, seed=101))
    monkeypatch.undo()
    assert "bbox/AP" in train(tiny_model(), shapes(), config, run, shapes(1, seed=101), resume=True)


def test_in_another_thread_it_trains_without_handling_signals(tmp_path):
    config = replace(CONFIG, steps=1)
    worker = threading.Thread(target=train, args=(tiny_model(), shapes(), config, tmp_path / "run"))
    worker.start()
    worker.join()
    assert load_checkpoint(tmp_path / "run" / "model.npz").step == 1


def test_another_environment_is_told(whole, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "training_step", interrupting(2))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run")
    monkeypatch.undo()
    here = run_module.environment()
    monkeypatch.setattr(run_module, "environment", lambda: {**here, "blas_threads": 64})
    train(tiny_model(), shapes(), CONFIG, tmp_path / "run", resume=True)
    assert f"blas_threads was {here['blas_threads']} and is 64" in caplog.text


def test_a_run_is_not_overwritten_nor_resumed_as_another(whole, tmp_path):
    folder = whole[0]
    with pytest.raises(FileExistsError, match="whole' holds a run already"):
        train(tiny_model(), shapes(), CONFIG, folder)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "new", resume=True)
    with pytest.raises(ValueError, match="another TrainConfig: batch_size was 2 and is 3"):
        train(tiny_model(), shapes(), replace(CONFIG, batch_size=3), folder, resume=True)
    with pytest.raises(ValueError, match="has done 6 steps already; it cannot end after 5"):
        train(tiny_model(), shapes(), replace(CONFIG, steps=5), folder, resume=True)
    with pytest.raises(ValueError, match="another Config: box.nms was 0.5 and is 0.4"):
        train(tiny_model(box_nms=0.4), shapes(), CONFIG, folder, resume=True)
    os.makedirs(tmp_path / "finished")
    os.link(folder / "model.npz", tmp_path / "finished" / "checkpoint.npz")
    with pytest.raises(ValueError, match="without an optimiser"):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "finished", resume=True)


# Numbers that are not finite


@pytest.mark.parametrize(
    ("poisoned", "named"),
    [
        ("roi_heads.mask_predictor", "loss_mask is nan"),
        ("roi_heads.box_predictor.cls_score", "loss_classifier is nan"),
        ("backbone.body.conv1", "RPN's outputs are not finite"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, poisoned, named):
    def poisoning(model, optimizer, step, *args):
        if step == 3:
            name, parameter = next((n, p) for n, p in model.named_parameters() if n.startswith(poisoned))
            parameter.data[:] = np.nan
        return training_step(model, optimizer, step, *args)

    monkeypatch.setattr(trainer, "training_step", poisoning)
    with pytest.raises(FloatingPointError) as failure:
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run")
    message = str(failure.value)
    assert named in message and "in step 3:" in message and "after 2 steps" in message
    assert str(batch_indices(12, 2, 3, CONFIG.seed)) in message
    assert str(tmp_path / "run" / "checkpoint.npz") in message
    good = load_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert good.step == 2 and all(np.isfinite(array).all() for array in good.weights.values())
    assert [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl")] == [0, 1, 2]


class Root(Module):
    """A loss that is finite where its gradient is not: the square root of 0."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(np.zeros(1, np.float32))

    def loss_sums(self, images, targets, *, step):
        return {"loss": ((self.weight**0.5).sum(), 1)}, Samples([], [])


def test_a_gradient_that_is_not_finite_changes_no_weight():
    model = Root()
    optimizer = make_optimizer(model, CONFIG)
    expected = pytest.raises(FloatingPointError, match=r"gradient_norm is inf on .*\[7\]")
    with np.errstate(divide="ignore", invalid="ignore"), expected:
        training_step(model, optimizer, 0, [], [{"image_id": 7}], CONFIG)
    assert model.weight.data.tolist() == [0.0]


def test_gradients_are_clipped_unless_the_norm_is_zero():
    class Steep(Root):
        def loss_sums(self, images, targets, *, step):
            return {"loss": ((self.weight * 300).sum(), 1)}, Samples([], [])

    plain = TrainConfig(optimizer="sgd", lr=1.0, warmup_steps=0, momentum=0.0, weight_decay=0.0)
    moved = {}
    for clip_norm in (3.0, 0.0):
        model, config = Steep(), replace(plain, clip_norm=clip_norm)
        line = training_step(model, make_optimizer(model, config), 0, [], [], config)
        assert line["gradient_norm"] == pytest.approx(300)
        moved[clip_norm] = model.weight.data.item()
    assert moved == pytest.approx({3.0: -3.0, 0.0: -300.0})


def test_a_step_and_a_checkpoint_on_a_device(fake_device, tmp_path):
    """On the strict imitation of a GPU: nothing mixes host and device, and the numbers are the CPU's."""
    images, targets = zip(*(shapes()[index] for index in range(2)), strict=True)
    states, lines = {}, {}
    for device in ("cpu", "fake"):
        model = tiny_model().to(device)
        model.categories = ShapesDataset.categories
        optimizer = make_optimizer(model, CONFIG)
        lines[device] = [training_step(model, optimizer, step, images, targets, CONFIG) for step in range(2)]
        save_checkpoint(tmp_path / device, model, 2, CONFIG, optimizer)
        states[device] = load_checkpoint(tmp_path / device)
    assert states["fake"].environment["device"] == "fake"
    assert states["fake"].optimizer.keys() == states["cpu"].optimizer.keys()
    for cpu, fake in zip(lines["cpu"], lines["fake"], strict=True):
        assert fake == pytest.approx(cpu, rel=1e-4)
    other = tiny_model(seed=9).to("fake")
    load_weights(other, tmp_path / "fake")
    assert same_bits(other.state_dict(), states["fake"].weights)
