"""The files of torch.save, both formats: the tensors come back, and a hostile or damaged file gives a clear error."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from weight_files import MAGIC, Call, Global, Storage, pickled, rebuild, tensors, write_legacy, write_zip

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights.foreign.public_weights import read_file

WRITERS = {"zip": write_zip, "legacy": write_legacy}


@pytest.fixture(params=WRITERS)
def saved(request, tmp_path):
    """A function that writes a value in one of the formats and gives the path."""
    return lambda value, **options: WRITERS[request.param](tmp_path / "w.pth", value, **options)


def refused(path, message):
    with pytest.raises(RefusedError, match=message) as caught:
        read_file(path)
    assert str(caught.value).startswith("It") and str(caught.value).endswith(".")


def state():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 5)).astype(np.float32),
        "bias": rng.normal(size=7),
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "count": np.array(12, np.int64),
        "flags": np.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 3), np.float32),
    }


# What comes back


def test_tensors(saved):
    back = read_file(saved({"model": tensors(state()), "epoch": 3}))
    assert back["epoch"] == 3 and back["model"].keys() == state().keys()
    for name, array in state().items():
        assert back["model"][name].dtype == array.dtype and back["model"][name].shape == array.shape, name
        assert np.array_equal(back["model"][name], array), name


def test_views_of_one_storage(saved):
    numbers = np.arange(24, dtype=np.float32)
    storage = Storage(numbers)
    value = {
        "whole": rebuild(storage, 0, (4, 6), (6, 1)),
        "turned": rebuild(storage, 0, (6, 4), (1, 6)),
        "part": rebuild(storage, 7, (2, 3), (12, 2)),
        "last": rebuild(storage, 23, (), ()),
        "one": rebuild(storage, 5, (1, 3), (10**9, 1)),  # the stride of a single row means nothing
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), rebuild(storage, 1, (2,), (1,)), True, None),
        "old": Call(Global("torch._utils", "_rebuild_tensor"), storage, 2, (2,), (3,)),
    }
    back = read_file(saved(value))
    assert np.array_equal(back["whole"], numbers.reshape(4, 6))
    assert np.array_equal(back["turned"], numbers.reshape(4, 6).T)
    assert np.array_equal(back["part"], [[7, 9, 11], [19, 21, 23]])
    assert back["last"].shape == () and back["last"] == 23
    assert np.array_equal(back["one"], [[5, 6, 7]])
    assert np.array_equal(back["parameter"], [1, 2]) and np.array_equal(back["old"], [2, 5])
    assert np.shares_memory(back["whole"], back["turned"]) and not back["whole"].flags.writeable


def test_any_folder_name_and_no_byte_order(tmp_path):
    path = write_zip(tmp_path / "w.pth", tensors(state()), folder="my model/1", entries={"byteorder": None})
    assert np.array_equal(read_file(path)["bias"], state()["bias"])


def test_a_window_of_another_storage(tmp_path):
    """Files of torch before 0.4 name views of a storage."""
    window = Storage(np.arange(6, dtype=np.float32), window=("view", 2, 3))
    assert np.array_equal(
        read_file(write_legacy(tmp_path / "w.pth", {"a": rebuild(window, 0, (3,), (1,))}))["a"], [2, 3, 4]
    )
    for offset, length in ((4, 3), (-1, 2), (0, 7), (2**70, 1), (3, -1), (0.0, 1)):
        window.window = ("view", offset, length)
        refused(write_legacy(tmp_path / "w.pth", {"a": rebuild(window, 0, (1,), (1,))}), "window that reaches outside")


# Hostile tensors


def test_foreign_objects(saved, tmp_path):
    sprung = tmp_path / "sprung"
    trap = Call(Global(os.mkdir.__module__, "mkdir"), str(sprung))
    refused(saved({"a": trap}), rf"asks for the Python object '{os.mkdir.__module__}\.mkdir'")
    refused(saved({"a": Global("torch.nn.modules.conv", "Conv2d")}), r"'torch\.nn\.modules\.conv\.Conv2d'")
    refused(
        saved({"a": Call(Global("torch.storage", "_load_from_bytes"), b"x")}), r"'torch\.storage\._load_from_bytes'"
    )
    refused(saved({"a": Storage(np.zeros(2, np.complex64))}), r"'torch\.BFloat16Storage'")
    refused(saved({"args": Global("argparse", "Namespace")}), r"'argparse\.Namespace'.*save its state_dict\(\) alone")
    assert not sprung.exists()


@pytest.mark.parametrize(
    "offset, shape, strides, message",
    [
        (0, (3, 4), (4, 2), "reaches outside of its storage of 12 numbers"),
        (1, (3, 4), (4, 1), "reaches outside"),
        (13, (0,), (1,), "reaches outside"),
        (12, (), (), "reaches outside"),
        (2**62, (1,), (1,), "reaches outside"),
        (0, (2,), (2**62,), "reaches outside"),
        (0, (10**12,), (0,), "reaches outside"),  # expanded from one number
        (0, (4, 4), (0, 1), "reaches outside"),
        (0, (10**400, 2), (1, 1), r"shape \(more than 10\^15, 2\).*reaches outside"),
        (0, (0, 10**400), (1, 1), "damaged"),
        pytest.param(10**400, (1,), (1,), r"offset \(more than 10\^15\) that reaches", id="huge offset"),
        (-1, (2,), (1,), "below 0"),
        (0, (-2, -2), (1, 1), "below 0"),
        (3, (2,), (-1,), "below 0"),
        (0, (2.0,), (1,), "below 0"),
        (0, (True,), (1,), "below 0"),
        (0, (2, 2), (1,), "do not belong together"),
        (0, (1,) * 50, (1,) * 50, "do not belong together"),
        (0, [2], [1], "without a storage, a shape or strides"),
        (None, (2,), (1,), "below 0"),
    ],
)
def test_tensors_outside_of_their_storage(saved, little_memory, offset, shape, strides, message):
    refused(saved({"a": rebuild(Storage(np.zeros(12, np.float32)), offset, shape, strides)}), message)


def test_what_is_no_storage(saved):
    refused(saved({"a": rebuild(b"memory", 0, (1,), (1,))}), "without a storage")
    refused(saved({"a": Call(Global("torch._utils", "_rebuild_tensor_v2"))}), "damaged")
    twice = [Storage(np.zeros(4, kind), "0") for kind in (np.float32, np.float64)]
    refused(saved({"a": twice}), "described twice|not those that it lists")
    twice = [Storage(np.zeros(count, np.float32), "0") for count in (4, 2)]
    refused(saved({"a": twice}), "described twice|has only 8 bytes")


@pytest.mark.parametrize("identity", ["x", ("module", 1, 2, 3, 4), ("storage", "f4", "0", "cpu", 1), ("storage",),
                                      ("storage", "f4", "0", "cpu", -1)])  # fmt: skip
def test_other_identities(tmp_path, identity):
    program = b"\x80\x02" + pickle.dumps(identity, 2)[2:-1] + b"Q."
    refused(write_zip(tmp_path / "w.pth", {}, entries={"data.pkl": program}), "no storage|makes no sense")


def test_endless_nesting(saved, little_memory):
    value = []
    for _ in range(100):
        value = [value]
    refused(saved({"a": value}), "nested more than")


# Hostile and damaged archives


def test_bombs(tmp_path, little_memory):
    path = tmp_path / "w.pth"
    write_zip(path, {"a": rebuild(Storage(np.zeros(3, np.float32)), 0, (3,), (1,))}, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed archive")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            for _ in range(100):
                file.write(bytes(10**6))
    assert path.stat().st_size < 200_000
    refused(path, "compressed archive of [0-9,]+ bytes that would unpack to 100,000,000")


def test_other_compressions(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(write_zip(tmp_path / "w.pth", tensors(state()), compression=method), "compressed archive")


def test_entries_that_overlap(tmp_path, little_memory):
    """A thousand entries of the directory that all point at the same megabyte: a gigabyte, were they read."""
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/0", bytes(10**6))
        entry = archive.filelist[0]
        archive.filelist += [entry] * 1000
    refused(path, "would unpack to 1,001,000,000")


def test_offsets_before_the_beginning(tmp_path):
    """Places in the archive that a seek() refuses: the message is about the file, not about the system's call."""
    path = write_zip(tmp_path / "w.pth", tensors(state()))
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    for place, number in ((end + 12, 2**31), (end + 16, 2**32 - 2), (content.index(b"PK\x01\x02") + 42, 2**32 - 2)):
        path.write_bytes(content[:place] + struct.pack("<I", number) + content[place + 4 :])
        refused(path, "damaged")


def test_archives_without_weights(tmp_path):
    path = tmp_path / "w.pth"
    for names in (["readme.txt"], ["a/data.pkl", "b/data.pkl"], []):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        refused(path, "holds no weights of torch")


def test_storages_that_are_missing_short_or_damaged(tmp_path):
    path, value = tmp_path / "w.pth", {"a": rebuild(Storage(np.arange(300, dtype=np.float32)), 0, (300,), (1,))}
    refused(write_zip(path, value, entries={"data/0": None}), "entry 'archive/data/0' cannot be read")
    refused(write_zip(path, value, entries={"data/0": bytes(1199)}), "a storage of 300 numbers has only 1199 bytes")
    refused(write_zip(path, value, entries={"data/0": b""}), "a storage of 300 numbers has only 0 bytes")
    refused(write_zip(path, value, entries={"byteorder": b"big"}), "big-endian")
    huge = {"a": rebuild(Storage(np.zeros(3, np.float32), count=10**15), 0, (3,), (1,))}
    refused(write_zip(path, huge), "a storage of 1000000000000000 numbers has only 12 bytes")
    content = write_zip(path, value).read_bytes()
    place = content.index(np.arange(300, dtype=np.float32).tobytes()) + 600
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    refused(path, "entry 'archive/data/0' cannot be read")
    path.write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"))
    refused(path, "cannot be read")  # the bit for a password


def test_legacy_storages_that_are_absurd_missing_or_others(tmp_path, little_memory):
    path, value = tmp_path / "w.pth", {"a": rebuild(Storage(np.arange(300, dtype=np.float32)), 0, (300,), (1,))}
    huge = {"a": rebuild(Storage(np.zeros(3, np.float32), count=10**12), 0, (3,), (1,))}
    refused(write_legacy(path, huge), "more numbers than it has bytes for")
    several = {str(i): rebuild(Storage(np.zeros(3, np.float32), str(i), 150), 0, (3,), (1,)) for i in range(10)}
    refused(write_legacy(path, several), "more numbers than it has bytes for|last storages are missing")
    for keys in ([], ["0", "0"], ["1"], [0], "0"):
        refused(write_legacy(path, value, keys=keys), "not those that it lists")
    refused(write_legacy(path, value, little_endian=False), "big-endian")
    content = write_legacy(path, value).read_bytes()
    path.write_bytes(content[:-1208] + struct.pack("<q", 299) + content[-1200:])
    refused(path, "last storages are missing")


def test_truncated_files(saved):
    path = saved(tensors(state()))
    content = path.read_bytes()
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(RefusedError, match=r"^It.*\.$"):
            read_file(path)


def test_changed_bytes_give_a_value_or_a_clear_error(saved, little_memory):
    path, rng, errors = saved({"model": tensors(state())}), np.random.default_rng(0), 0
    content = path.read_bytes()
    for _ in range(400):
        changed = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(len(changed), size=rng.integers(1, 6))
        changed[places] = rng.integers(256, size=len(places))
        path.write_bytes(changed.tobytes())
        try:
            read_file(path)
        except RefusedError as error:
            errors += 1
            assert str(error).startswith("It") and str(error).endswith(".")
    assert 100 < errors <= 400


def test_the_writer_writes_the_magic_number(tmp_path):
    """So that the tests above do test the legacy format."""
    assert write_legacy(tmp_path / "w", {}).read_bytes().startswith(pickle.dumps(MAGIC, 2))
    assert pickled({"a": 1})[0] == pickle.dumps({"a": 1}, 2)


# torch itself


@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_of_torch(tmp_path, new):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 5, 3)
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    value = {
        "state": layer.state_dict(),
        "optimizer": torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9).state_dict(),
        "views": [base, base[1:, 2], base.permute(2, 0, 1), base[::2, 1:4, 0], base[2, 2, 2], base[:0]],
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "kinds": [torch.arange(5).to(kind) for kind in (torch.float64, torch.float16, torch.int64, torch.int32,
                  torch.int16, torch.int8, torch.uint8, torch.bool)],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "size": base.size(),
    }  # fmt: skip
    torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    back = read_file(tmp_path / "w.pth")

    def compare(found, expected):
        if isinstance(expected, torch.Tensor):
            expected = expected.detach().numpy()
            assert found.dtype == expected.dtype and found.shape == expected.shape
            assert np.array_equal(found, expected)
        elif isinstance(expected, dict):
            assert list(found) == list(expected)
            for name in expected:
                compare(found[name], expected[name])
        elif isinstance(expected, list | tuple):
            assert len(found) == len(expected)
            for pair in zip(found, expected, strict=True):
                compare(*pair)
        else:
            assert found == expected

    compare(back, value)
    torch.save({"a": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    refused(tmp_path / "w.pth", r"'torch\.BFloat16Storage'")
    torch.save(layer, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    refused(tmp_path / "w.pth", r"'torch\.nn\.modules\.container\.Sequential'")
