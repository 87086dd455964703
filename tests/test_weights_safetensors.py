"""Files of safetensors, as their specification describes them: the arrays come back, a damaged file is refused, and a
checkpoint of ours can be one."""

import io
import json
import struct

import numpy as np
import pytest
from test_checkpoint import tiny_model as shapes_model
from test_checkpoint import trained
from tiny_models import tiny_model

from tinymrcnn.archives import RefusedError
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import TrainConfig
from tinymrcnn.safetensors import read_metadata, write_safetensors
from tinymrcnn.weights import CheckpointError, load_checkpoint, load_model, load_weights, save_checkpoint
from tinymrcnn.weights.foreign.public_weights import read_file

CODES = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64", "u1": "U8", "b1": "BOOL"}


def written(path, arrays, change=lambda table: None, padding=b""):
    """The arrays as a file; change(table) before it is written."""
    table, memory = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        begin, memory = len(memory), memory + array.tobytes()
        offsets = [begin, len(memory)]
        table[name] = {"dtype": CODES[array.dtype.str[1:]], "shape": list(array.shape), "data_offsets": offsets}
    change(table)
    text = json.dumps(table).encode() + padding
    path.write_bytes(struct.pack("<Q", len(text)) + text + memory)
    return path


ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(2.5), "c": np.zeros((0, 3), np.float16),
    "d": np.array([True, False]), "e": np.array([[-3]]), "f": np.array([255], np.uint8),
}  # fmt: skip


def test_arrays_come_back(tmp_path):
    back = read_file(written(tmp_path / "w.safetensors", ARRAYS, padding=b"   "))
    assert back.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert np.array_equal(back[name], array), name


@pytest.mark.parametrize("length", [0x180, 0x4B50])
def test_a_table_whose_length_begins_as_another_kind_of_file(tmp_path, length):
    """As a pickle does, b"\\x80", and as a zip archive, b"PK"."""
    shorter = written(tmp_path / "w.safetensors", {"a": ARRAYS["a"]}).read_bytes()
    padding = b" " * (length - int.from_bytes(shorter[:8], "little"))
    path = written(tmp_path / "w.safetensors", {"a": ARRAYS["a"]}, padding=padding)
    assert path.read_bytes()[:2] == length.to_bytes(2, "little")
    assert np.array_equal(read_file(path)["a"], ARRAYS["a"])


def test_weights_into_a_model(tmp_path):
    source, model = tiny_model(seed=1, norm="frozen"), tiny_model(seed=2, norm="frozen")
    report = load_weights(model, written(tmp_path / "w.safetensors", source.state_dict()))
    assert report.family == "torchvision"
    for name, array in model.state_dict().items():
        assert np.array_equal(array, source.state_dict()[name]), name


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"shape": [3, 4], "data_offsets": [0, 10**12]}, "a reaches outside of the file"),
        ({"shape": [3, 4], "data_offsets": [-48, 0]}, "a reaches outside of the file"),
        ({"shape": [3, 4], "data_offsets": [48, 0]}, "a reaches outside of the file"),
        ({"shape": [-3, -4]}, "a reaches outside of the file"),
        ({"shape": [1] * 40}, "a reaches outside of the file"),
        ({"shape": [3, 5]}, "the shape of its entry a does not fit"),
        ({"shape": [10**400]}, "the shape of its entry a does not fit"),
        ({"dtype": "F64"}, "the shape of its entry a does not fit"),
        ({"dtype": "BF16"}, "numbers of the type BF16"),
        ({"dtype": 4}, "a has no dtype, shape and data_offsets"),
        ({"shape": [3.0, 4]}, "a has no dtype"),
        ({"shape": [True, 12]}, "a has no dtype"),
        ({"data_offsets": [0]}, "a has no dtype"),
        ({"shape": [0, 10**30], "data_offsets": [0, 0]}, "a is empty, and has a side beyond all bounds"),
        ({"shape": [1], "data_offsets": [0, 4]}, "its arrays overlap, or leave gaps"),
    ],
)
def test_damaged_tables(tmp_path, little_memory, entry, message):
    path = written(tmp_path / "w.safetensors", ARRAYS, lambda table: table["a"].update(entry))
    with pytest.raises(RefusedError, match=f"^It .*{message}.*\\.$"):
        read_file(path)
    with pytest.raises(CheckpointError, match=r"w\.safetensors' is refused"):
        load_weights(tiny_model(), path)


def test_truncated_files_and_other_contents(tmp_path):
    path = written(tmp_path / "w.safetensors", ARRAYS)
    content = path.read_bytes()
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(RefusedError):
            read_file(path)
    for text in (b"{]", b"[" * 100_000, b'{"a": 3}', b'{"a": []}', b"{\xff}"):
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(RefusedError):
            read_file(path)


def test_many_names_for_one_array_take_no_memory(tmp_path, little_memory):
    """A table of 2,000 names for the same 4 MB: 8 GB if each were copied."""
    entry = {"dtype": "F32", "shape": [1_000_000], "data_offsets": [0, 4_000_000]}
    text = json.dumps({f"a{n}": entry for n in range(2000)}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4_000_000))
    with pytest.raises(RefusedError, match="its arrays overlap"):
        read_file(tmp_path / "w.safetensors")


# Writing


def parsed(content):
    """(table, {name: array}) of a file, by the letter of the specification."""
    (length,) = struct.unpack("<Q", content[:8])
    table, memory = json.loads(content[8 : 8 + length]), content[8 + length :]
    types = {code: kind for kind, code in CODES.items()} | {"I32": "i4", "I16": "i2", "I8": "i1"}
    arrays = {}
    for name, entry in table.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert begin % np.dtype(types[entry["dtype"]]).itemsize == 0
            arrays[name] = np.frombuffer(memory[begin:end], "<" + types[entry["dtype"]]).reshape(entry["shape"])
    assert (8 + length) % 8 == 0 and sum(array.nbytes for array in arrays.values()) == len(memory)
    return table, arrays


MORE = ARRAYS | {
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "channels last": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2),
    "big-endian": np.array([1, -2, 300], ">i4"),
    "short": np.array([-300], np.int16), "small": np.array([[-1, 2]], np.int8), "näme \n": np.array(1.5, np.float32),
}  # fmt: skip


def test_what_is_written_comes_back(tmp_path):
    with open(tmp_path / "w.safetensors", "wb") as file:
        write_safetensors(file, MORE, {"format": "pt", "note": "é"})
    content = (tmp_path / "w.safetensors").read_bytes()
    table, arrays = parsed(content)
    assert table["__metadata__"] == read_metadata(io.BytesIO(content)) == {"format": "pt", "note": "é"}
    for found in (arrays, read_file(tmp_path / "w.safetensors")):
        assert found.keys() == MORE.keys()
        for name, array in MORE.items():
            assert found[name].shape == array.shape and found[name].dtype == array.dtype.newbyteorder("<"), name
            assert np.array_equal(found[name], array), name
    file = io.BytesIO()
    write_safetensors(file, {}, {})
    assert parsed(file.getvalue()) == ({"__metadata__": {}}, {})


@pytest.mark.parametrize(
    "name, array", [("a", np.zeros(2, complex)), ("a", np.array([None])), ("__metadata__", np.zeros(2, np.float32))]
)
def test_what_cannot_be_written(name, array):
    file = io.BytesIO()
    with pytest.raises(ValueError, match=f"The array '{name}' .* cannot be in a file of safetensors"):
        write_safetensors(file, {"b": np.zeros(3), name: array}, {})
    assert file.getvalue() == b""


# A checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    """(path, model, optimizer, train_config) of a checkpoint after 17 steps."""
    model, config = shapes_model(), TrainConfig(steps=99, drops=(0.5,), optimizer="adamw")
    optimizer = trained(model)
    save_checkpoint(tmp_path / "c.safetensors", model, 17, config, optimizer)
    return tmp_path / "c.safetensors", model, optimizer, config


def test_a_checkpoint_comes_back_whole(checkpoint, tmp_path):
    path, model, optimizer, config = checkpoint
    save_checkpoint(tmp_path / "c.npz", model, 17, config, optimizer)
    back, other = load_checkpoint(path), load_checkpoint(tmp_path / "c.npz")
    assert (back.config, back.train_config, back.categories) == (model.config, config, ShapesDataset.categories)
    assert (back.step, back.seed, back.environment) == (17, 3, other.environment)
    for found, expected in ((back.weights, model.state_dict()), (back.optimizer, optimizer.state_dict())):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
    table, arrays = parsed(path.read_bytes())
    assert {name for name in arrays if not name.startswith("optimizer/")} == model.state_dict().keys()
    assert json.loads(table["__metadata__"]["tinymrcnn"])["step"] == 17


def test_a_finished_model_detects_the_same(checkpoint, tmp_path):
    path, model, _, _ = checkpoint
    save_checkpoint(tmp_path / "model.safetensors", model)
    assert load_checkpoint(tmp_path / "model.safetensors").optimizer is None
    back = load_model(tmp_path / "model.safetensors", device="cpu")
    assert not back.training and back.categories == ShapesDataset.categories and back.seed == 3
    images = [ShapesDataset(1, (64, 96), seed=100)[0][0]]
    (found,), (expected,) = back.detect(images), model.eval().detect(images)
    assert all(np.array_equal(found[name], expected[name]) for name in expected) and len(found["boxes"])
    # and once more through the other kind of file
    save_checkpoint(tmp_path / "again.npz", back)
    for name, array in load_checkpoint(tmp_path / "again.npz").weights.items():
        assert np.array_equal(array, model.state_dict()[name]), name


def test_its_classes_are_carried_by_name(checkpoint):
    path, model, _, _ = checkpoint
    other = shapes_model(seed=8)
    names = [category["name"] for category in ShapesDataset.categories]
    other.categories = [{"label": n, "name": name, "id": n} for n, name in enumerate(reversed(names), start=1)]
    report = load_weights(other, path)
    assert report.family == "tinymrcnn" and report.carried == tuple(reversed(names)) and not report.notes
    bias = "roi_heads.box_predictor.cls_score.bias"
    assert np.array_equal(other.state_dict()[bias][1:], model.state_dict()[bias][:0:-1])


def test_damaged_checkpoints(checkpoint, tmp_path):
    path = checkpoint[0]
    whole = path.read_bytes()
    for length in (9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"c\.safetensors' "):
            load_checkpoint(path)
    for text in ("{", "[]", '{"format": "something"}'):
        with open(path, "wb") as file:
            write_safetensors(file, {}, {"tinymrcnn": text})
        with pytest.raises(CheckpointError, match=r"c\.safetensors' .*(damaged|no checkpoint)"):
            load_checkpoint(path)
    bare = written(tmp_path / "bare.safetensors", checkpoint[1].state_dict())
    with pytest.raises(CheckpointError, match="does not tell the model's settings. Name the --preset"):
        load_model(bare)
    written(bare, ARRAYS, lambda table: table["__metadata__"].update(tinymrcnn=3))
    with pytest.raises(CheckpointError, match="its metadata are no table of texts"):
        load_model(bare)


def test_settings_that_do_not_fit_the_arrays(checkpoint):
    path, model, _, _ = checkpoint
    text = parsed(path.read_bytes())[0]["__metadata__"]["tinymrcnn"]
    weights = {name: array for name, array in model.state_dict().items() if not name.endswith("cls_logits.bias")}
    with open(path, "wb") as file:
        write_safetensors(file, weights, {"tinymrcnn": text})
    with pytest.raises(CheckpointError, match=r"do not belong together.\n(.*\n)*.*cls_logits.bias"):
        load_model(path)


def test_the_package_of_safetensors_reads_and_writes_the_same(checkpoint, tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    path, model, _, _ = checkpoint
    found = package.load_file(path)
    for name, array in model.state_dict().items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
    native = {
        name: array for name, array in MORE.items() if name != "big-endian"
    }  # of which it writes the bytes as they are
    package.save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in native.items()}, tmp_path / "w")
    back = read_file(tmp_path / "w")
    for name, array in native.items():
        assert back[name].shape == array.shape and np.array_equal(back[name], array), name
