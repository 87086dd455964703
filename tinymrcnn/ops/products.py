"""Matrix products: our own in float32 on the CPU, NumPy's or CuPy's elsewhere.

The second factor is packed: cut into panels of a few columns, in each of which a row lies behind the other. The
micro-kernel then keeps a tile of the result, a few rows by one panel, in the registers of the CPU while it runs along
the depth k, so that a number that is read takes part in many multiplications:

    tile[i, j] = sum over k of rows[i, k] * panel[k, j]

Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), describe the blocks; with the numbers of
a convolution this one kernel is enough of them. Every element is one sum in the order of k, whatever the number of
threads, the pieces or the width of the registers, so its bits are the same on every CPU that fuses a multiplication
and an addition into one instruction, as nearly all do.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils

from tinymrcnn.backend import Array, array_module
from tinymrcnn.kernels import cpu_kernel, numba
from tinymrcnn.ops.activations import combine
from tinymrcnn.threads import FLOPS, LEAST_SECONDS, get_num_threads, slices, spread


def _register() -> int:
    """How many numbers a register holds of the CPU for which Numba compiles."""
    host = "" if numba.config.CPU_NAME else llvmlite.binding.get_host_cpu_features().flatten()
    features = host if numba.config.CPU_FEATURES is None else numba.config.CPU_FEATURES
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


# A tile is 6 rows by two registers: these 12 sums are as many as 16 registers have room for beside the factors, and
# enough to keep a CPU busy that needs four cycles for a multiplication and starts two in each.
ROWS, NARROW = 6, _register()
WIDE = 2 * NARROW
# So many rows meet all panels before the next ones do, so that they and their results stay in the cache.
BLOCK = 16 * ROWS
# A long sum is made of sums of so many products: rounding errors grow with the length of a sum.
PART = 128
LINE = 16  # numbers of a cache line


def _micro_kernel(width: int) -> Any:
    """The function tile(rows, panels, shift, start, out, lowest, m, s, p, i, t, n), for kernels. To 6 rows of out from
    (i, t, n) on it writes, a panel wide,

        max(rows[m : m + 6, s] @ panels[s, p] + shift[n:] + start[i : i + 6, t, n:], lowest);

    where rows ends, its last row is taken again, and its result written again. rows: (M, S, K). panels: (S, P, K,
    width). shift: (N,). start, out: (I, T, N), the last axis contiguous. It is written in the instructions of LLVM,
    because no compiler knows of a loop in Python that its sums should stay in registers."""
    f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(f32, width)

    @numba.extending.intrinsic
    def tile(
        typing: Any, rows: Any, panels: Any, shift: Any, start: Any, out: Any, lowest: Any, m: Any, s: Any, p: Any,
        i: Any, t: Any, n: Any,
    ) -> Any:  # fmt: skip
        def write(context: Any, b: Any, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(kind)(context, b, arg) for kind, arg in zip(signature.args, args[:5])]
            (rows, panels, shift, start, out), (lowest, m, s, p, i, t, n) = arrays, args[5:]
            steps = {array: cgutils.unpack_tuple(b, array.strides) for array in arrays}
            count, _, depth = cgutils.unpack_tuple(b, rows.shape)

            def place(array: Any, kind: Any, *index: Any) -> Any:
                """The pointer to an element of an array, or to the vector that begins there."""
                offsets = [b.mul(position, step) for position, step in zip(index, steps[array], strict=True)]
                base = b.bitcast(array.data, ir.IntType(8).as_pointer())
                return b.bitcast(b.gep(base, [functools.reduce(b.add, offsets)]), kind.as_pointer())

            def all_of(number: Any) -> Any:
                nothing = ir.Constant(vector, ir.Undefined)
                lanes = ir.Constant(ir.VectorType(i32, width), [0] * width)
                return b.shuffle_vector(b.insert_element(nothing, number, i32(0)), nothing, lanes)

            left = b.sub(b.sub(count, i64(1)), m)
            lines = [b.select(b.icmp_signed("<", i64(row), left), i64(row), left) for row in range(ROWS)]
            shifts = b.load(place(shift, vector, n), align=4)
            sums, parts = [], []
            for line in lines:
                value = b.fadd(shifts, b.load(place(start, vector, b.add(i, line), t, n), align=4))
                sums.append(cgutils.alloca_once_value(b, value))
                parts.append(cgutils.alloca_once(b, vector))
            with cgutils.for_range_slice(b, i64(0), depth, i64(PART)) as (first, _):
                for part in parts:
                    b.store(ir.Constant(vector, [0.0] * width), part)
                rest = b.sub(depth, first)
                with cgutils.for_range(b, b.select(b.icmp_signed("<", rest, i64(PART)), rest, i64(PART))) as loop:
                    k = b.add(first, loop.index)
                    factors = b.load(place(panels, vector, s, p, k, i64(0)), align=4)
                    for line, part in zip(lines, parts, strict=True):
                        factor = all_of(b.load(place(rows, f32, b.add(m, line), s, k)))
                        product = b.fmul(factor, factors, ("contract",))
                        b.store(b.fadd(product, b.load(part), ("contract",)), part)
                for part, total in zip(parts, sums, strict=True):
                    b.store(b.fadd(b.load(part), b.load(total)), total)
            for line, total in zip(lines, sums, strict=True):
                value, least = b.load(total), all_of(lowest)
                value = b.select(b.fcmp_ordered("<", value, least), least, value)  # a NaN stays
                b.store(value, place(out, vector, b.add(i, line), t, n), align=4)
            return context.get_dummy_value()

        return numba.void(rows, panels, shift, start, out, numba.float32, *6 * [numba.types.int64]), write

    return tile


_narrow, _wide = _micro_kernel(NARROW), _micro_kernel(WIDE)


@cpu_kernel
def _multiply(rows: Array, panels: Array, shift: Array, start: Array, out: Array, lowest: Any) -> None:
    """out[m, s] = max(rows[m, s] @ the matrix of panels[s] + shift + start[m, s], lowest), where (M, S, K) are rows, and
    (M, S, N) out and start."""
    (count, _, columns), width = out.shape, panels.shape[3]
    edge, zeros = np.empty((ROWS, 1, width), out.dtype), np.zeros(width, out.dtype)
    for s in range(out.shape[1]):
        for first in range(0, count, BLOCK):
            for p in range(panels.shape[1]):
                n = p * width
                for m in range(first, min(first + BLOCK, count), ROWS):
                    if n + width <= columns:
                        if width == WIDE:
                            _wide(rows, panels, shift, start, out, lowest, m, s, p, m, s, n)
                        else:
                            _narrow(rows, panels, shift, start, out, lowest, m, s, p, m, s, n)
                        continue
                    tall = min(ROWS, count - m)
                    for i in range(tall):
                        for j in range(columns - n):
                            edge[i, 0, j] = shift[n + j] + start[m + i, s, n + j]
                    if width == WIDE:
                        _wide(rows, panels, zeros, edge, edge, lowest, m, s, p, 0, 0, 0)
                    else:
                        _narrow(rows, panels, zeros, edge, edge, lowest, m, s, p, 0, 0, 0)
                    for i in range(tall):
                        for j in range(columns - n):
                            out[m + i, s, n + j] = edge[i, 0, j]


@cpu_kernel
def _pack(matrices: Array, panels: Array) -> None:
    """(S, K, N) matrices to (S, P, K, width) panels, the last of which is filled up with zeros."""
    depth, width = panels.shape[2:]
    for s in range(panels.shape[0]):
        for p in range(panels.shape[1]):
            matrix, panel = matrices[s, :, p * width : (p + 1) * width], panels[s, p]
            wide = matrix.shape[1]
            if wide < width:
                panel[:] = 0
            if matrices.strides[2] == matrices.itemsize:  # a row lies in one piece
                for k in range(depth):
                    for j in range(wide):
                        panel[k, j] = matrix[k, j]
                continue
            for first in range(0, depth, LINE):  # a column does: by blocks that fit into the cache
                for j in range(wide):
                    for k in range(first, min(first + LINE, depth)):
                        panel[k, j] = matrix[k, j]


def pack(matrix: Array) -> Array:
    """A second factor of multiply(), (K, N), or (S, K, N): in panels, (S, P, K, width), for our own kernel, which takes
    NumPy's float32; else as it is."""
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or numba.config.DISABLE_JIT:
        return matrix
    matrices = matrix if matrix.ndim == 3 else matrix[None]
    panels = empty_panels(*matrices.shape)
    width, parts = panels.shape[3], slices(panels.shape[1], get_num_threads())

    def work(part: int) -> None:
        some = parts[part]
        _pack(matrices[:, :, some.start * width : some.stop * width], panels[:, some])

    spread(work, len(parts), matrix, 0, 2 * panels.nbytes)
    return panels


def kept(make: Callable[[Array], Array], array: Array) -> Array:
    """make(array), made only once, and kept as long as the array, if nobody can write to it (fused models)."""
    if not isinstance(array, np.ndarray) or array.flags.writeable:
        return make(array)
    key = id(array), make
    if key not in _kept:
        _kept[key] = make(array)
        weakref.finalize(array, _kept.pop, key, None)
    return _kept[key]


_kept: dict[tuple[int, Callable[[Array], Array]], Array] = {}


def empty_panels(count: int, depth: int, columns: int) -> Array:
    """Panels for so many matrices (depth, columns), uninitialised."""
    width = WIDE if columns > NARROW else NARROW
    return np.empty((count, -(-columns // width), depth, width), np.float32)


def multiply(
    rows: Array, factor: Array, out: Array, shift: Array | None = None, start: Array | None = None, relu: bool = False
) -> None:
    """out = rows @ matrix + shift + start, and at least 0 if relu, where factor is pack(matrix).

    rows: (M, K). shift: (N,). start: (M, N), may be out. out: (M, N), C-contiguous rows. With S matrices: rows (M, S, K),
    start and out (M, S, N)."""
    if factor.ndim == 4:
        shift = np.zeros(out.shape[-1], np.float32) if shift is None else shift
        start = np.broadcast_to(np.zeros_like(shift), out.shape) if start is None else start
        views = [array[:, None] if array.ndim == 2 else array for array in (rows, start, out)]
        _multiply(views[0], factor, shift, *views[1:], np.float32(0 if relu else -np.inf))
        return
    if factor.ndim == 3:
        rows, out = rows.transpose(1, 0, 2), out.transpose(1, 0, 2)
    xp = array_module(rows, factor)
    if start is out:
        out += rows @ factor
        start = None
    else:
        xp.matmul(rows, factor, out=out)
    if shift is not None or start is not None or relu:
        finish(out, shift, relu, start)


def finish(rows: Array, shift: Array | None, relu: bool, start: Array | None = None) -> None:
    """Add a shift (N,) and the start (M, N), where there are such, to rows (M, N), and let them through a ReLU if so
    said, in place."""
    shift = array_module(rows).zeros(rows.shape[1], rows.dtype) if shift is None else shift
    combine(rows, None, shift, start, lowest=0 if relu else -np.inf, out=rows)


def matmul(
    a: Array, b: Array, out: Array | None = None, *, accumulate: bool = False, factor: Array | None = None
) -> Array:
    """a @ b, (M, K) by (K, N), on the CPU in parts on all threads; if accumulate, added to `out`. factor: pack(b), if it
    is at hand. Returns (M, N)."""
    xp = array_module(a, b)
    (m, k), n = a.shape, b.shape[1]
    out = xp.empty((m, n), a.dtype) if out is None else out
    factor = pack(b) if factor is None else factor
    width = factor.shape[3] if factor.ndim == 4 else 1  # the second axis of either counts columns, or panels of so many

    # the longer side of the result is cut; a GPU spreads one product over its cores itself
    pieces = 2 * get_num_threads() if xp is np and 2 * m * n * k > FLOPS * LEAST_SECONDS else 1
    cuts = slices(m if m >= n else -(-n // width), pieces)

    def product(part: int) -> None:
        some = cuts[part]
        if m >= n:
            rows, columns, target = a[some], factor, out[some]
        else:
            rows, columns, target = a, factor[:, some], out[:, some.start * width : some.stop * width]
        multiply(rows, columns, target, start=target if accumulate else None)

    spread(product, len(cuts), out)
    return out
