"""The checkpoint file: everything comes back, a crash never harms it, and no other file passes for one."""

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.data import ShapesDataset
from tinymrcnn.files import SHIPPED_MODEL
from tinymrcnn.models import Config, TrainConfig, build_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.nn import AdamW, Linear
from tinymrcnn.nn.allowance import at_most
from tinymrcnn.ops import winograd
from tinymrcnn.settings import AugmentSettings, find_field, replace
from tinymrcnn.weights import (
    CheckpointError,
    environment,
    load_checkpoint,
    load_model,
    load_weights,
    migrations,
    save_checkpoint,
)
from tinymrcnn.weights import checkpoint as checkpoint_module
from tinymrcnn.weights.environment import code_hash

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


def changed_arrays(path, change):
    """The file with each of its arrays replaced by change(name, array)."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{name: change(name, array) for name, array in arrays.items()})
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
    assert {"blas_kernels", "blas_threads", "numba_threads", "numba", "cpu"} <= back.environment.keys()
    assert (back.environment["python"], back.environment["numpy"]) == (platform.python_version(), np.__version__)


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


def test_masks_by_an_mlp_come_back(tmp_path):
    model = tiny_model(mask_head="mlp", mask_pool=4, mask_channels=8, reduce="max").eval()
    save_checkpoint(tmp_path / "c.npz", model)
    back = load_model(tmp_path / "c.npz", device="cpu")
    assert (back.config.mask.head, back.config.pooler.reduce) == ("mlp", "max")
    images = [ShapesDataset(1, (64, 96), seed=100)[0][0]]
    for found, expected in zip(back.detect(images), model.detect(images), strict=True):
        assert found["masks"].shape[1:] == (8, 8)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_load_weights_into_another_model(saved):
    path, model, _, _ = saved
    other = tiny_model(seed=4)
    load_weights(other, path)
    expected = model.state_dict()
    assert all(np.array_equal(array, expected[name]) for name, array in other.state_dict().items())
    with pytest.raises(CheckpointError, match=r"c\.npz.*does not fit(.|\n)*wrong shape backbone"):
        load_weights(tiny_model(widths=(4, 4, 4, 16)), path)


def test_what_the_file_says_of_the_device(tmp_path, fake_device):
    save_checkpoint(tmp_path / "c.npz", tiny_model().to("fake"))
    assert load_checkpoint(tmp_path / "c.npz").environment["device"] == "fake"


@pytest.mark.parametrize("precision", [np.float16, np.float64])
def test_other_precisions_are_rounded_to_float32(saved, precision):
    path, model, _, _ = saved
    changed_arrays(path, lambda name, array: array.astype(precision) if name.startswith("weights/") else array)
    for name, array in load_model(path, "cpu").state_dict().items():
        expected = model.state_dict()[name].astype(precision).astype(np.float32)
        assert array.dtype == np.float32 and np.array_equal(array, expected), name


# Versions


def test_the_shipped_model_is_of_format_1():
    """It was written before a number was, and before some of the fields were."""
    with np.load(SHIPPED_MODEL) as file:
        metadata = json.loads(file["metadata"].item())
    assert "format_version" not in metadata and "norm_eps" not in metadata["config"]
    back = load_checkpoint(SHIPPED_MODEL)
    assert back.config == get_config("shapes") and back.step == 2200


@pytest.mark.parametrize("loss, decoding", [("sigmoid", "background"), ("softmax", "all")])
def test_a_file_of_format_3_keeps_its_numbers(tmp_path, loss, decoding):
    """It lacks what came with format 4. Where that matters, it gets what the code did when it was written."""
    model = tiny_model(mask_loss=loss, softmax_decoding=decoding)
    save_checkpoint(tmp_path / "c.npz", model)

    def to_format_3(metadata):
        metadata["format_version"] = 3
        config = metadata["config"]
        assert [config["resnet"].pop(name) for name in ("groups", "expansion")] == [1, 4]
        assert [config["mask"].pop("head"), config["pooler"].pop("reduce")] == ["fcn", "mean"]
        del config["mask"]["softmax_decoding"], config["mnc"]

    assert load_checkpoint(rewritten(tmp_path / "c.npz", to_format_3)).config == model.config


def test_a_run_of_format_4_goes_on_as_it_was(saved):
    """It lacks what came with format 5, all of which was not there: no default of today takes its place."""
    path, _, _, config = saved
    assert config.val_every > 0

    def to_format_4(metadata):
        metadata["format_version"] = 4
        for name in ("augment", "val_every", "patience", "ema", "sync_norm"):
            del metadata["train_config"][name]

    back = load_checkpoint(rewritten(path, to_format_4)).train_config
    assert back == replace(config, augment=AugmentSettings(), val_every=0, patience=0, ema=0.0)


def test_a_run_of_format_5_keeps_its_workers_apart(saved):
    """Each of them normalised its own images, and goes on to."""
    path, _, _, config = saved

    def to_format_5(metadata):
        metadata["format_version"] = 5
        del metadata["train_config"]["augment"]["paste"]
        assert metadata["train_config"].pop("sync_norm") is False

    assert load_checkpoint(rewritten(path, to_format_5)).train_config == config


def test_a_run_of_format_6_pastes_nothing(saved):
    path, _, _, config = saved

    def to_format_6(metadata):
        metadata["format_version"] = 6
        assert metadata["train_config"]["augment"].pop("paste") == 0

    assert load_checkpoint(rewritten(path, to_format_6)).train_config == config


def test_a_field_that_is_missing_or_unknown_is_refused(saved):
    path = saved[0]
    whole = path.read_bytes()
    for change, message in (
        (lambda m: m["config"]["box"].pop("nms"), "BoxSettings lacks the field 'nms'"),
        (lambda m: m["train_config"].pop("flip"), "TrainConfig lacks the field 'flip'"),
        (
            lambda m: m["config"]["resnet"].pop("norm_eps"),
            "ResNetSettings lacks the field 'norm_eps'",
        ),
        (lambda m: m["config"].update(warp_drive=9, masks=False), "Config has no field 'warp_drive'"),
    ):
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match=rf"c\.npz.*written by version .*{message}"):
            load_checkpoint(rewritten(path, change))


@pytest.mark.parametrize(
    "number, message",
    [(8, "has the number 8, and this version knows formats up to"), (0, "format_version is 0"),
     (1.0, "format_version is 1.0"), ("2", "format_version is '2'"), (None, "format_version is None")],
)  # fmt: skip
def test_other_numbers_of_the_format_are_refused(saved, number, message):
    with pytest.raises(CheckpointError, match=rf"c\.npz.*{message}"):
        load_checkpoint(rewritten(saved[0], lambda metadata: metadata.update(format_version=number)))


def test_migrations_are_done_one_after_the_other(monkeypatch):
    """From format 1 in three steps; each sees what the one before it made."""
    monkeypatch.setattr(migrations, "FORMAT_VERSION", 4)
    steps = {1: lambda m: {**m, "a": 1}, 2: lambda m: {**m, "b": m["a"] + 1}, 3: lambda m: {**m, "c": m["b"] + 1}}
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    assert migrations.migrate({}) == {"a": 1, "b": 2, "c": 3, "format_version": 4}
    assert migrations.migrate({"format_version": 3, "b": 7}) == {"b": 7, "c": 8, "format_version": 4}
    assert migrations.migrate({"format_version": 4}) == {"format_version": 4}


def test_every_format_has_its_migration():
    assert set(migrations.MIGRATIONS) == set(range(1, migrations.FORMAT_VERSION))


def test_the_environment_knows_the_code(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "sub" / "b.py").write_text("y = 2\n")
    first = code_hash(tmp_path)
    assert len(first) == 12 and environment()["code"] == code_hash() != first
    hashes = {first}
    for change in (lambda: (tmp_path / "sub" / "b.py").write_text("y = 3\n"),
                   lambda: (tmp_path / "a.py").rename(tmp_path / "c.py"),
                   lambda: (tmp_path / "sub" / "b.py").rename(tmp_path / "b.py")):  # fmt: skip
        change()
        code_hash.cache_clear()
        hashes.add(code_hash(tmp_path))
    assert len(hashes) == 4
    (tmp_path / "note.txt").write_text("no code")
    (tmp_path / "c.py").write_bytes(b"x = 1\r\n")  # as Windows has it
    code_hash.cache_clear()
    assert code_hash(tmp_path) in hashes
    monkeypatch.setattr(winograd, "enabled", not winograd.enabled)
    assert environment()["winograd"] is winograd.enabled


# What contradicts itself


def configured(**settings):
    """A change of the metadata: other settings of the model."""

    def change(metadata):
        for name, value in settings.items():
            stage, _, field = find_field(Config, name).rpartition(".")
            (metadata["config"][stage] if stage else metadata["config"])[field] = value

    return change


def no_names(**settings):
    """A change of the metadata: other settings, and no categories that would contradict them."""
    return lambda metadata: (configured(**settings)(metadata), metadata.update(categories=[]))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_classes": 10**7},
        {"num_classes": 5},
        {"box_hidden": 10**9},
        {"box_pool": 10**6},
        {"widths": [4, 4, 4, 10**8]},
        {"stem_width": 10**12},
        {"depths": [1, 1, 10**9, 1]},
        {"depths": [1, 1, 2, 1]},
        {"fpn_channels": 10**10},
        {"mask_layers": [10**10]},
        {"mask_layers": [8] * 3000},
        {"rpn_channels": 9},
        {"masks": False},
        {"norm": "group"},
        {"aspect_ratios": [1.0]},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_arrays(saved, little_memory, settings):
    with pytest.raises(
        CheckpointError, match=r"c\.npz' cannot be used.*(belong together|more weights than|it must be)"
    ):
        load_checkpoint(rewritten(saved[0], no_names(**settings)))


def test_a_limited_number_of_layers_and_of_their_weights():
    for layers, numbers, fitting in ((2, 1000, 2), (9, 2 * 20 + 19, 2), (0, 1000, 0)):
        made = []
        with at_most(layers, numbers), pytest.raises(ValueError, match="more weights than are at hand"):
            for _ in range(10):
                made.append(Linear(4, 4))  # 16 weights and 4 of the bias
        assert len(made) == fitting
    assert Linear(4, 4).weight.size == 16


def test_no_limit_is_left_behind(saved):
    load_model(saved[0], "cpu")
    assert build_model("shapes", **{**TINY, "box_hidden": 64}).config.box.hidden == 64


@pytest.mark.parametrize(
    "change",
    [
        configured(backbone="transformer"),
        configured(depths="abc"),
        configured(widths=None),
        configured(widths=[4, 8]),
        configured(size_divisible=0),
        configured(sampling_ratio=2000.0),
        configured(max_detections=-1),
        configured(mask_layers={"a": 1}),
        configured(num_classes="6"),
        configured(fpn_channels=float("nan")),
        lambda metadata: metadata["train_config"].update(steps="many"),
        lambda metadata: metadata["train_config"].update(optimizer=[]),
        lambda metadata: metadata.update(train_config=3),
        lambda metadata: metadata.update(config=3),
        lambda metadata: metadata.pop("config"),
        lambda metadata: metadata.pop("categories"),
        lambda metadata: metadata.update(categories="abc"),
        lambda metadata: metadata.update(categories=None),
        lambda metadata: metadata["categories"].pop(),
        lambda metadata: metadata["categories"].reverse(),
        lambda metadata: metadata["categories"][1].update(label=True),
        lambda metadata: metadata["categories"][1].update(name=2),
        lambda metadata: metadata["categories"][1].update(id="2"),
        lambda metadata: metadata["categories"][1].pop("id"),
        lambda metadata: metadata.update(categories=["circle", "square", "triangle", "star", "ring"]),
        lambda metadata: metadata.update(step=-1),
        lambda metadata: metadata.update(step=1.5),
        lambda metadata: metadata.update(step=float("inf")),
        lambda metadata: metadata.update(seed="0"),
        lambda metadata: metadata.update(seed=-3),
        lambda metadata: metadata.update(environment=5),
    ],
)
def test_metadata_that_make_no_sense_are_refused(saved, change):
    with pytest.raises(CheckpointError, match=r"c\.npz.*cannot be used"):
        load_checkpoint(rewritten(saved[0], change))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, "complex64", "int32", "U4", "?", "S3"])
@pytest.mark.parametrize(
    "name", ["weights/backbone.body.layer1.0.conv1.weight", "weights/backbone.body.bn1.running_var"]
)
def test_weights_that_are_no_finite_floats(saved, name, wrong):
    def change(entry, array):
        if entry != name:
            return array
        if isinstance(wrong, str):
            return array.astype(wrong)
        return np.where(array == array.max(), np.float32(wrong), array)

    with pytest.raises(CheckpointError, match=rf"c\.npz.*{name[8:]} \(.*not finite floats"):
        load_checkpoint(changed_arrays(saved[0], change))


def test_float64_weights_beyond_float32(saved):
    def change(entry, array):
        return array.astype(np.float64) * 1e300 if entry.endswith("fc6.weight") else array

    with pytest.raises(CheckpointError, match=r"fc6\.weight \(float64\)"):
        load_model(changed_arrays(saved[0], change), "cpu")


@pytest.mark.parametrize("wrong", [np.nan, "complex64", "U4"])
def test_an_optimiser_of_something_else_than_numbers(saved, wrong):
    def change(entry, array):
        if entry != "optimizer/mean.3":
            return array
        return array.astype(wrong) if isinstance(wrong, str) else array * np.float32(wrong)

    with pytest.raises(CheckpointError, match=r"c\.npz.*optimizer/mean\.3 holds something else"):
        load_checkpoint(changed_arrays(saved[0], change))


def test_categories_that_are_not_the_model_s_are_not_saved(tmp_path):
    model = tiny_model(num_classes=3)
    with pytest.raises(ValueError, match="names 5 categories, but the model has 3 classes"):
        save_checkpoint(tmp_path / "c.npz", model)
    assert not list(tmp_path.iterdir())


def test_what_a_file_says_is_printed_without_its_control_characters(saved):
    def change(metadata):
        metadata["version"] = "1\x1b[2J"
        metadata["config"]["\x1b]0;title\x07"] = 1

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(rewritten(saved[0], change))
    assert str(caught.value).isprintable()


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
    assert load_checkpoint(path).step == 5 and load_checkpoint(path).config.resnet.stem_width == 4
