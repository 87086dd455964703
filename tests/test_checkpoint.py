"""The checkpoint file: everything comes back, a crash never harms it, and no other file passes for one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import TrainConfig, build_model
from tinymrcnn.nn import AdamW
from tinymrcnn.weights import CheckpointError, environment, load_checkpoint, load_model, load_weights, save_checkpoint
from tinymrcnn.weights import checkpoint as checkpoint_module

TINY = {"widths": (4, 4, 4, 8), "depths": (1, 1, 1, 1), "stem_width": 4, "fpn_channels": 8, "rpn_channels": 8,
        "box_hidden": 8, "mask_layers": (8,)}  # fmt: skip


def tiny_model(seed=3, **overrides):
    model = build_model("shapes", seed=seed, **{**TINY, **overrides})
    model.categories = ShapesDataset.categories
    return model


def trained(model):
    """An optimiser that has made a step, so that its running averages are not all zero."""
    optimizer = AdamW(model.parameters(), lr=0.01)
    for parameter in optimizer.parameters:
        (Tensor(parameter.data * 2) * parameter).sum().backward()
    optimizer.step()
    return optimizer


@pytest.fixture
def saved(tmp_path):
    """(path, model, optimizer, train_config) of a checkpoint after 17 steps."""
    model, config = tiny_model(), TrainConfig(steps=99, drops=(0.5,), optimizer="adamw")
    optimizer = trained(model)
    save_checkpoint(tmp_path / "c.npz", model, 17, config, optimizer)
    return tmp_path / "c.npz", model, optimizer, config


def rewritten(path, change):
    """The file with its metadata changed in place by change(metadata)."""
    with np.load(path) as file:
        arrays = dict(file)
    metadata = json.loads(arrays["metadata"].item())
    change(metadata)
    np.savez(path, **{**arrays, "metadata": np.array(json.dumps(metadata))})
    return path


# What comes back


def test_everything_comes_back(saved):
    path, model, optimizer, config = saved
    back = load_checkpoint(path)
    assert back.config == model.config and back.train_config == config
    assert (back.categories, back.step, back.seed) == (ShapesDataset.categories, 17, 3)
    for found, expected in ((back.weights, model.state_dict()), (back.optimizer, optimizer.state_dict())):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
    assert any(name.endswith("running_mean") for name in back.weights)
    assert back.environment == {**environment(), "device": "cpu"}
    assert {"blas_kernels", "blas_threads", "numba_threads", "numpy", "numba", "cpu"} <= back.environment.keys()


def test_the_file_holds_no_pickle(saved):
    with np.load(saved[0], allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fiuU" for name in file.files)


def test_a_finished_model_is_smaller_and_detects_the_same(tmp_path, saved):
    path, model, _, _ = saved
    save_checkpoint(tmp_path / "model.npz", model, 17)
    assert (tmp_path / "model.npz").stat().st_size < path.stat().st_size / 2
    assert load_checkpoint(tmp_path / "model.npz").optimizer is None
    back = load_model(tmp_path / "model.npz", device="cpu")
    assert not back.training and back.categories == ShapesDataset.categories and back.seed == 3
    images = [ShapesDataset(1, (64, 96), seed=100)[0][0]]
    for found, expected in zip(back.detect(images), model.eval().detect(images), strict=True):
        for name in expected:
            assert np.array_equal(found[name], expected[name])


def test_load_weights_into_another_model(saved):
    path, model, _, _ = saved
    other = tiny_model(seed=4)
    load_weights(other, path)
    expected = model.state_dict()
    assert all(np.array_equal(array, expected[name]) for name, array in other.state_dict().items())
    with pytest.raises(CheckpointError, match=r"c\.npz.*does not fit(.|\n)*wrong shape backbone"):
        load_weights(tiny_model(widths=(4, 4, 4, 16)), path)


def test_an_older_file_gets_defaults_and_a_newer_one_is_refused(saved):
    path, model, _, _ = saved

    def older(metadata):
        del metadata["config"]["box_nms"], metadata["train_config"]["flip"]

    back = load_checkpoint(rewritten(path, older))
    assert back.config == model.config and back.train_config == saved[3]

    def newer(metadata):
        metadata["config"]["warp_drive"] = 9
        metadata["version"] = "7.0"

    with pytest.raises(CheckpointError, match=r"c\.npz.*written by version 7\.0.*Config has no field warp_drive"):
        load_checkpoint(rewritten(path, newer))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata["config"].update(backbone="transformer"),
        lambda metadata: metadata.pop("categories"),
        lambda metadata: metadata.update(config=3),
    ],
)
def test_metadata_that_make_no_sense_are_refused(saved, change):
    with pytest.raises(CheckpointError, match=r"c\.npz.*cannot be used"):
        load_checkpoint(rewritten(saved[0], change))


# What is no checkpoint


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint '.*none.npz'"):
        load_checkpoint(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)

    def refused(name, message):
        with pytest.raises(CheckpointError, match=rf"'.*{name}'.*{message}"):
            load_checkpoint(tmp_path / name)

    (tmp_path / "empty.npz").touch()
    refused("empty.npz", "is empty")
    (tmp_path / "page.npz").write_text("<!DOCTYPE html><html>Not found</html>")
    refused("page.npz", r"no checkpoint of tinymrcnn \(it begins with b'<!DOCTYPE")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    refused("other.npz", "no checkpoint of tinymrcnn")
    np.savez(tmp_path / "like.npz", metadata=np.array('{"format": "something"}'))
    refused("like.npz", "no checkpoint of tinymrcnn")
    np.save(tmp_path / "array.npy", np.arange(3))
    refused("array.npy", "no checkpoint of tinymrcnn")
    with zipfile.ZipFile(tmp_path / "torch.pth", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02.")
    refused("torch.pth", "no checkpoint of tinymrcnn")


def test_a_pickle_inside_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "trap.npz", metadata=np.array([Trap()], dtype=object))
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.npz", "trap.pkl"):
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_truncated_and_damaged_files(saved):
    path = saved[0]
    whole = path.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"c\.npz' is truncated"):
            load_checkpoint(path)
    for share in (0.3, 0.6):  # a flipped bit in the data
        place = int(len(whole) * share)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"c\.npz' is damaged"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path).step == 17


# Crashes while it is written


def test_a_crash_before_the_file_takes_its_place(saved, monkeypatch):
    path, model, _, _ = saved

    def crash(*args):
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk on fire"):
        save_checkpoint(path, model, 18)
    assert load_checkpoint(path).step == 17
    assert [entry.name for entry in path.parent.iterdir()] == ["c.npz"]


def test_an_interrupt_in_the_middle_of_writing(saved, monkeypatch):
    path, model, _, _ = saved

    def half(file, **arrays):
        file.write(b"PK\x03\x04 and some more")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module.np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, model, 18)
    monkeypatch.undo()
    assert load_checkpoint(path).step == 17
    assert [entry.name for entry in path.parent.iterdir()] == ["c.npz"]


WRITER = """
import itertools, os, signal, sys
from test_checkpoint import tiny_model, trained
from tinymrcnn.models import TrainConfig
from tinymrcnn.weights import save_checkpoint
model = tiny_model()
optimizer = trained(model)
calls = itertools.count(1)
def stop_now_and_then(*_):
    if next(calls) % 4999 == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
for step in range(10**9):
    save_checkpoint(sys.argv[1], model, step, TrainConfig(), optimizer)
    sys.setprofile(stop_now_and_then)  # before and after every call, those of write() too
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop and continue a process")
def test_killed_at_any_moment_it_leaves_a_whole_file(tmp_path):
    """A stopped process leaves the files as a killed one would; the last stop is a kill."""
    path = tmp_path / "c.npz"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=env)
    steps, partial = [], 0
    try:
        for _ in range(60):
            assert os.WIFSTOPPED(os.waitpid(writer.pid, os.WUNTRACED)[1])
            steps.append(load_checkpoint(path).step)
            partial += len(list(tmp_path.iterdir())) > 1
            writer.send_signal(signal.SIGCONT)
    finally:
        writer.kill()
        writer.wait()
    assert load_checkpoint(path).step >= steps[-1] == max(steps) > 0
    assert partial > 0  # some of the stops came in the middle of writing
    save_checkpoint(path, tiny_model(), 5)  # what the kill left behind is in nobody's way
    assert load_checkpoint(path).step == 5 and asdict(load_checkpoint(path).config)["stem_width"] == 4
