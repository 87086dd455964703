"""Runs that end too early, in whatever way: what is saved then, what is said, and that they go on with the same bits.

And what is refused before the first step: a second run in the folder, and classes that do not fit."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from test_training import CONFIG, Watched, arrays_of, same_bits, shapes, tiny_model

from tinymrcnn.data import ShapesDataset
from tinymrcnn.stopping import Interrupted, RunStopped
from tinymrcnn.training import read_log, train, trainer, training_step
from tinymrcnn.training import run as run_module
from tinymrcnn.weights import load_checkpoint, save_checkpoint

CONFIG = replace(CONFIG, preview_every=100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint's arrays of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_model(), shapes(), CONFIG, folder, progress=False)
    return arrays_of(folder)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run_until(folder, error=RunStopped, dataset=None, **options):
    """What a run says that ends with an error."""
    with pytest.raises(error) as raised:
        train(tiny_model(), dataset or shapes(), CONFIG, folder, progress=False, **options)
    assert str(folder) in str(raised.value) and "tinymrcnn train --resume" in str(raised.value)
    return raised.value


def goes_on_with_the_same_bits(folder, whole):
    train(tiny_model(), shapes(), CONFIG, folder, resume=True, progress=False)
    return same_bits(arrays_of(folder), whole)


def at_step(number, act):
    """training_step, with something that happens before one step."""

    def stepped(model, optimizer, step, images, *rest):
        if step == number:
            act(model, images, rest[0])
        return training_step(model, optimizer, step, images, *rest)

    return stepped


# Signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_end_a_run_as_ctrl_c_does(tmp_path, monkeypatch, whole, name):
    if not hasattr(signal, name):
        name = "SIGINT"
    number = getattr(signal, name)
    given = signal.signal(number, signal.default_int_handler)  # under nohup, SIGHUP is ignored
    monkeypatch.setattr(trainer, "training_step", at_step(2, lambda *_: signal.raise_signal(number)))
    try:
        ended = run_until(tmp_path / "run", Interrupted)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, given)
    assert ended.signum == number and "3 of 6 steps are done and saved" in str(ended)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.npz").step == 3
    monkeypatch.undo()
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path, monkeypatch):
    """nohup has SIGHUP ignored, so that the run outlives the terminal."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        monkeypatch.setattr(trainer, "training_step", at_step(2, lambda *_: signal.raise_signal(signal.SIGTERM)))
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run", progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert load_checkpoint(tmp_path / "run" / "model.npz").step == 6


def test_a_second_ctrl_c_within_a_save_waits_for_it(tmp_path, monkeypatch, whole):
    def saving(path, model, step, *rest):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        save_checkpoint(path, model, step, *rest)

    monkeypatch.setattr(run_module, "save_checkpoint", saving)
    assert "2 of 6 steps are done and saved" in str(run_until(tmp_path / "run", Interrupted))
    monkeypatch.undo()
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


# Errors between two steps


@pytest.mark.parametrize("error", [ValueError("The image 'x.png' is broken."), MemoryError(), KeyError("x.png")])
def test_what_is_wrong_with_the_data_ends_a_run_with_all_its_steps_saved(tmp_path, whole, error):
    def watch(count):
        if count == 7:  # an image of step 3, away from any regular checkpoint
            raise error

    said = str(run_until(tmp_path / "run", dataset=Watched(shapes(), watch)))
    assert "Training stopped in step 3: " in said and "3 of 6 steps are done and saved" in said
    assert {ValueError: "'x.png' is broken", MemoryError: "memory does not suffice", KeyError: "KeyError: 'x.png'"}[
        type(error)
    ] in said
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_an_error_within_a_step_changes_nothing(tmp_path, monkeypatch, whole):
    """The forward pass has moved the running statistics of batch normalisation already."""

    def fail(model, images, targets):
        model(images, targets)
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(trainer, "training_step", at_step(3, fail))
    said = str(run_until(tmp_path / "run"))
    assert "in step 3: The memory does not suffice. Unable to allocate 9 GiB" in said
    assert "3 of 6 steps are done and saved" in said
    monkeypatch.undo()
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_parameters_that_moved_by_half_are_not_saved(tmp_path, monkeypatch, whole):
    def fail(model, images, targets):
        monkeypatch.setattr(trainer.AdamW, "step", lambda self: [][0])

    monkeypatch.setattr(trainer, "training_step", at_step(3, fail))
    said = str(run_until(tmp_path / "run"))
    assert "in step 3: IndexError" in said and "3 of 6 steps are done, the first 2 of them are saved" in said
    monkeypatch.undo()
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, whole):
    def full(path, model, step, *rest):
        if step > 2:
            raise OSError(28, "No space left on device", str(path))
        save_checkpoint(path, model, step, *rest)

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    said = str(run_until(tmp_path / "run"))
    assert f"stopped in step 4: '{tmp_path / 'run' / 'checkpoint.npz'}': No space left on device." in said
    assert "4 of 6 steps are done, the first 2 of them are saved" in said
    monkeypatch.undo()
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_a_folder_that_vanishes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "training_step", at_step(2, lambda *_: shutil.rmtree(tmp_path / "run")))
    said = str(run_until(tmp_path / "run"))
    assert f"'{tmp_path / 'run' / 'checkpoint.npz'}': No such file or directory." in said


def test_an_error_after_the_last_step_loses_nothing(tmp_path, whole):
    def watch(count):
        raise ValueError("The image 'held-out.png' is broken.")

    held_out = Watched(shapes(2, seed=101), watch)
    said = str(run_until(tmp_path / "run", held_out=held_out))
    assert "Training stopped after the last step: The image 'held-out.png' is broken." in said
    assert "6 of 6 steps are done and saved" in said
    assert goes_on_with_the_same_bits(tmp_path / "run", whole)


def test_a_preview_that_a_viewer_has_locked_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    def locked(path, picture):
        if path.name == "preview.png":
            raise PermissionError(13, "Permission denied", str(path))
        written.append(path.name)

    written = []
    monkeypatch.setattr(trainer, "write_picture", locked)
    config = replace(CONFIG, steps=2, preview_every=1)
    assert train(tiny_model(), shapes(), config, tmp_path / "run", shapes(1, seed=101), progress=False)
    assert written == ["curves.png", "predictions.png"] and "preview.png': Permission denied" in caplog.text


def test_a_run_can_be_quiet(tmp_path, capsys):
    config = replace(CONFIG, steps=1)
    train(tiny_model(), shapes(), config, tmp_path / "run", shapes(1, seed=101), progress=False)
    assert capsys.readouterr() == ("", "")


# What is refused before the first step


def test_a_second_run_in_the_folder_is_refused_at_once(tmp_path, whole):
    def watch(count):
        if count == 5:
            for resume in (False, True):
                with pytest.raises(RuntimeError, match="in use by another run: process"):
                    train(tiny_model(), shapes(), CONFIG, tmp_path / "run", resume=resume)
            met.append(count)

    met = []
    train(tiny_model(), Watched(shapes(), watch), CONFIG, tmp_path / "run", progress=False)
    assert met and len(read_log(tmp_path / "run" / "log.jsonl")) == 6 and same_bits(arrays_of(tmp_path / "run"), whole)


class Relabelled:
    """A data set whose classes have other labels and names: names[i] is that of the label i + 1."""

    def __init__(self, dataset, names):
        self.dataset = dataset
        labels = {category["name"]: category["label"] for category in dataset.categories}
        self.back = {labels.get(name): label for label, name in enumerate(names, start=1)}
        self.categories = [{"label": n, "name": name, "id": 10 * n} for n, name in enumerate(names, start=1)]

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, target = self.dataset[index]
        return image, {**target, "labels": np.array([self.back[int(label)] for label in target["labels"]], np.int64)}


NAMES = [category["name"] for category in ShapesDataset.categories]


def test_held_out_classes_in_another_order_are_the_same_classes(tmp_path):
    config, held_out = replace(CONFIG, steps=2), shapes(2, seed=101)
    results = []
    for number, held in enumerate((held_out, Relabelled(held_out, NAMES[::-1]))):
        metrics = train(tiny_model(), shapes(), config, tmp_path / str(number), held, progress=False)
        results.append((metrics, (tmp_path / str(number) / "predictions.png").read_bytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [([*NAMES[:4], "hexagon"], "do not fit the training images. .*hexagon"), ([*NAMES, "hexagon"], "hexagon")],
)
def test_other_held_out_classes_are_refused_before_the_first_step(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run", Relabelled(shapes(2), names))
    with pytest.raises(ValueError, match="held-out data set holds no image"):
        train(tiny_model(), shapes(), CONFIG, tmp_path / "run", Empty())
    assert not (tmp_path / "run").exists()


class Empty(Watched):
    def __init__(self):
        super().__init__([], None)


def test_a_run_is_not_resumed_with_other_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "training_step", at_step(1, lambda *_: signal.raise_signal(signal.SIGINT)))
    run_until(tmp_path / "run", Interrupted)
    swapped = Relabelled(shapes(), [NAMES[1], NAMES[0], *NAMES[2:]])
    with pytest.raises(ValueError) as refused:
        train(tiny_model(), swapped, CONFIG, tmp_path / "run", resume=True)
    for names in (NAMES, [category["name"] for category in swapped.categories]):
        assert ", ".join(f"'{name}'" for name in names) in str(refused.value)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.npz").step == 2
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == 1
