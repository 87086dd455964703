"""Files in the format of safetensors: a table in JSON, then raw memory. There is nothing in them that could be run.

8 bytes         the length of the table, little-endian
the table       {name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}}, perhaps "__metadata__"
the memory      of all arrays, C-ordered, little-endian; the offsets count from its beginning
"""

import json
import math

import numpy as np

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights.foreign.pickled_arrays import MAX_DIMENSIONS

MAX_HEADER = 100_000_000  # bytes, the format's own limit
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
          "BOOL": "?"}  # fmt: skip


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes with this start (at least 9 bytes) can be of this format, which has no magic."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, MAX_HEADER)


def read_safetensors(file, size: int) -> dict[str, np.ndarray]:
    """{name: read-only array} of a binary file. Raises RefusedError."""
    length = int.from_bytes(file.read(8), "little")
    try:
        table = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"It is truncated or damaged: its table of contents cannot be read ({error}).") from error
    memory = file.read(size - 8 - length)
    return {name: _array(name, entry, memory) for name, entry in table.items() if name != "__metadata__"}


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
            return np.frombuffer(memory[begin:end], dtype).reshape(shape)
    raise RefusedError(f"It is damaged: {what} has no dtype, shape and data_offsets.")
