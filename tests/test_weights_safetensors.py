"""Files of safetensors, as their specification describes them: the arrays come back, and a damaged file is refused."""

import json
import struct

import numpy as np
import pytest
from tiny_models import tiny_model

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights import CheckpointError, load_weights
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
