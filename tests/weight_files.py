"""What torch.save and detectron2 write, made without torch: an independent writer for the tests of the readers."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}


class Global:
    """A Python object, by name only."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """The result of calling a Global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, array, key="0", count=None, window=()):
        self.array, self.key, self.window = np.ravel(array), key, window
        self.count = len(self.array) if count is None else count


def rebuild(storage, offset, shape, strides):
    """A tensor as torch describes it: offset and strides in numbers."""
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, hooks)


def tensor(array, key):
    array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return rebuild(Storage(array, key), 0, array.shape, strides)


def tensors(state):
    return {name: tensor(array, str(i)) for i, (name, array) in enumerate(state.items())}


class _Pickler(pickle._Pickler):
    """Python's own, which writes Globals without looking for them."""

    def __init__(self, file, legacy):
        super().__init__(file, 2)
        self.legacy, self.storages = legacy, {}

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        kind = Global("torch", STORAGES.get(value.array.dtype.str[1:], "BFloat16") + "Storage")
        return ("storage", kind, value.key, "cpu", value.count, *((value.window or None,) if self.legacy else ()))


def pickled(value, legacy=False):
    """(bytes, {key: Storage}) of a value that holds tensors."""
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def write_zip(path, value, folder="archive", entries=None, compression=zipfile.ZIP_STORED):
    """torch.save(value, path) since torch 1.6. entries: {name: bytes} to replace, None to leave out."""
    program, storages = pickled(value)
    contents = {"data.pkl": program, "byteorder": b"little"}
    contents |= {f"data/{key}": storage.array.tobytes() for key, storage in storages.items()}
    contents |= {"version": b"3\n", **(entries or {})}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(f"{folder}/{name}", content)
    return path


def write_legacy(path, value, keys=None, little_endian=True):
    """torch.save(value, path) before torch 1.6. keys: those that the file lists, instead of its storages'."""
    program, storages = pickled(value, legacy=True)
    machine = {"protocol_version": PROTOCOL, "little_endian": little_endian, "type_sizes": {"int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, machine)]
    parts += [program, pickle.dumps(sorted(storages) if keys is None else keys, 2)]
    for key in sorted(storages):
        parts.append(struct.pack("<q", len(storages[key].array)) + storages[key].array.tobytes())
    path.write_bytes(b"".join(parts))
    return path


def write_detectron2(path, state, protocol=4):
    """A file of detectron2's model zoo."""
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}, protocol))
    return path
