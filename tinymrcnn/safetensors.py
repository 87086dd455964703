"""Files in the format of safetensors: a table in JSON, then raw memory. There is nothing in them that could be run.

8 bytes         the length of the table, little-endian
the table       {name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {name: text}}
the memory      of all arrays without gaps, C-ordered, little-endian; the offsets count from its beginning
"""

import json
import math

import numpy as np

from tinymrcnn.archives import RefusedError

MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_DIMENSIONS = 16  # axes of an array
MAX_SIDE = 2**15  # of an array without elements: NumPy multiplies the others
METADATA = "__metadata__"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1",
          "BOOL": "|b1"}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes with this start (at least 9 bytes) can be of this format, which has no magic."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, MAX_HEADER)


# Reading


def read_safetensors(file, size: int) -> dict[str, np.ndarray]:
    """{name: read-only array} of a binary file of `size` bytes. Raises RefusedError."""
    table = _table(file)
    memory = file.read(max(0, size - file.tell()))
    arrays = {name: _array(name, entry, memory) for name, entry in table.items() if name != METADATA}
    if sum(array.nbytes for array in arrays.values()) != len(memory):  # else copies of them could fill the memory
        raise RefusedError("It is damaged: its arrays overlap, or leave gaps.")
    return arrays


def read_metadata(file) -> dict[str, str]:
    """The texts that a binary file holds beside its arrays; none where it has none. Raises RefusedError."""
    metadata = _table(file).get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise RefusedError("It is damaged: its metadata are no table of texts.")
    return metadata


def _table(file) -> dict:
    length = int.from_bytes(file.read(8), "little")
    try:
        table = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"It is truncated or damaged: its table of contents cannot be read ({error}).") from error
    return table


def _array(name: str, entry, memory: bytes) -> np.ndarray:
    what = f"its entry {ascii(name)[1:-1][:80]}"
    fields = [entry.get(field) for field in ("dtype", "shape", "data_offsets")] if isinstance(entry, dict) else []
    match fields:
        case [str() as code, list() as shape, [begin, end]] if all(type(n) is int for n in (*shape, begin, end)):
            if code not in DTYPES:
                raise RefusedError(f"It holds numbers of the type {ascii(code)[1:-1][:20]}, which is not supported.")
            dtype = np.dtype(DTYPES[code])
            if not 0 <= begin <= end <= len(memory) or len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
                raise RefusedError(f"It is truncated or damaged: {what} reaches outside of the file.")
            if math.prod(shape) * dtype.itemsize != end - begin:
                raise RefusedError(f"It is damaged: the shape of {what} does not fit its length.")
            if begin == end and max(shape, default=0) > MAX_SIDE:
                raise RefusedError(f"It is damaged: {what} is empty, and has a side beyond all bounds.")
            array = np.frombuffer(memory, dtype, math.prod(shape), begin) if begin < end else np.empty(0, dtype)
            return array.reshape(shape)
    raise RefusedError(f"It is damaged: {what} has no dtype, shape and data_offsets.")


# Writing


def write_safetensors(file, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays of any memory order, and texts beside them, into a binary file.

    Raises ValueError, before anything is written, for a type of numbers that the format does not have, and for an array
    with the name "__metadata__"."""
    table: dict[str, dict] = {METADATA: metadata}
    begin = 0
    # the widest numbers first, so that all of them are aligned
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, array in ordered:
        if array.dtype.newbyteorder("<").str not in CODES or name in table:
            raise ValueError(f"The array '{name}' ({array.dtype}) cannot be in a file of safetensors.")
        end = begin + array.nbytes
        code = CODES[array.dtype.newbyteorder("<").str]
        table[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
