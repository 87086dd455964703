"""The files that torch.save writes, read without torch and without trusting them.

Both formats are a pickle next to raw memory. The pickle builds containers of tensors; a tensor is a storage (a flat
piece of that memory), an offset, a shape and strides.

    zip     since torch 1.6: the entries NAME/data.pkl and NAME/data/KEY for every storage, not compressed
    legacy  before: four pickles (a magic number, the protocol, the machine, the object), the pickled list of the
            storages' keys, then the storages one after the other, each behind its length
"""

import io
import math
import typing

import numpy as np

from tinymrcnn.archives import RefusedError, open_zip, read_entry
from tinymrcnn.weights.foreign.pickled_arrays import ARRAYS, MAX_DIMENSIONS, show
from tinymrcnn.weights.foreign.pickles import read_pickle

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.HalfStorage": "<f2", "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2", "torch.CharStorage": "<i1", "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "|b1",
}  # fmt: skip
# what a file of weights may ask for
TENSORS = {
    **ARRAYS,
    **{name: np.dtype(code) for name, code in STORAGES.items()},
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": lambda *arguments: _tensor(*arguments),
    "torch._utils._rebuild_tensor_v2": lambda *arguments: _tensor(*arguments[:4]),  # then gradient, hooks, metadata
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


class Storage:
    """A flat piece of memory; `array` is a 1-D array."""

    def __init__(self, array: np.ndarray):
        self.array = array


def _tensor(storage, offset, shape, strides) -> np.ndarray:
    """A view of the storage. Offset and strides count elements."""
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise RefusedError("It is damaged: it holds a tensor without a storage, a shape or strides.")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise RefusedError("It is damaged: it holds a tensor whose shape and strides do not belong together.")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise RefusedError("It is damaged: it holds a tensor with an offset, a shape or strides below 0.")
    array, count = storage.array, math.prod(shape)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if count else 0
    if max(end, offset, count) > len(array):
        raise RefusedError(
            f"It holds a tensor of shape {show(shape)}, strides {show(strides)} and offset {show([offset])} that "
            f"reaches outside of its storage of {len(array)} numbers."
        )
    if count == 0:
        return np.zeros(shape, array.dtype)
    strides = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:end], shape, strides, writeable=False)


def _describe_storage(identity) -> tuple[np.dtype, str, int, typing.Any]:
    """dtype, key, count of numbers and, in the legacy format, the window of another storage that it is."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise RefusedError("It is damaged: it refers to something outside of its pickle that is no storage.")
    _, dtype, key, _, count, *window = identity
    if not isinstance(dtype, np.dtype) or type(key) is not str or type(count) is not int or count < 0:
        raise RefusedError("It is damaged: it describes a storage that makes no sense.")
    return dtype, key, count, window[0] if window else None


def _check_byte_order(order) -> None:
    if order != "little":
        raise RefusedError("It was written on a big-endian machine, which is not supported.")


# The zip format


def read_torch_zip(path):
    """What torch.save wrote into a zip archive: containers of read-only arrays. Raises RefusedError."""
    with open_zip(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise RefusedError("It is a zip archive, but holds no weights of torch: there must be one entry data.pkl.")
        folder = names[0].removesuffix("data.pkl")
        storages: dict[str, Storage] = {}

        def storage(identity) -> Storage:
            dtype, key, count, _ = _describe_storage(identity)
            if key not in storages:
                data = read_entry(archive, f"{folder}data/{key}")
                if len(data) < count * dtype.itemsize:
                    raise RefusedError(f"It is damaged: a storage of {count} numbers has only {len(data)} bytes.")
                storages[key] = Storage(np.frombuffer(data, dtype, count))
            if storages[key].array.dtype != dtype:
                raise RefusedError("It is damaged: a storage is described twice, and differently.")
            return storages[key]

        if folder + "byteorder" in archive.namelist():
            _check_byte_order(read_entry(archive, folder + "byteorder").decode("latin1").strip())
        program = read_entry(archive, folder + "data.pkl")
        return read_pickle(io.BytesIO(program), len(program), TENSORS, storage)


# The legacy format


def read_torch_legacy(file, size: int):
    """What torch.save wrote before torch 1.6: containers of read-only arrays. `file` stands behind the magic number,
    size is that of the whole file. Raises RefusedError."""

    def left() -> int:
        return size - file.tell()

    read_pickle(file, left(), {})  # the version of the protocol
    machine = read_pickle(file, left(), {})
    if type(machine) is dict:
        _check_byte_order("little" if machine.get("little_endian", True) is True else "big")
    storages: dict[str, Storage] = {}
    claimed = 0

    def storage(identity) -> Storage:
        """A storage that the memory behind the pickles will fill; its length is checked before it is made."""
        nonlocal claimed
        dtype, key, count, window = _describe_storage(identity)
        if key not in storages:
            claimed += count * dtype.itemsize
            if claimed > size:
                raise RefusedError("It is truncated, or damaged: it describes more numbers than it has bytes for.")
            storages[key] = Storage(np.empty(count, dtype))
        whole = storages[key].array
        if whole.dtype != dtype or len(whole) != count:
            raise RefusedError("It is damaged: a storage is described twice, and differently.")
        if window is None:
            return storages[key]
        _, offset, length = window
        if not (type(offset) is type(length) is int and 0 <= offset <= offset + length <= count):
            raise RefusedError("It is damaged: a storage is a window that reaches outside of another storage.")
        return Storage(whole[offset : offset + length])

    value = read_pickle(file, left(), TENSORS, storage)
    keys = read_pickle(file, left(), {})
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise RefusedError("It is damaged: its storages are not those that it lists.")
    for key in keys:
        array = storages[key].array
        if file.read(8) != len(array).to_bytes(8, "little") or file.readinto(array.view(np.uint8)) != array.nbytes:
            raise RefusedError("It is truncated, or damaged: its last storages are missing.")
    return value
