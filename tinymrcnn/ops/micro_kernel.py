"""The micro-kernel of ops/products.py: a few rows times a panel, with all sums in the registers of the CPU.

    tile(rows, panels, shift, start, out, lowest, m, p, i, n)  is, for six rows and T columns:

    out[i : i + 6, n : n + T] =
        max(rows[m : m + 6] @ panels[p] + shift[n : n + T] + start[i : i + 6, n : n + T], lowest)

No compiler knows of such a loop in Python that its sums should stay in registers. So it is written in the instructions
of LLVM, which Numba hands to LLVM for the CPU at hand, whatever that is.
"""

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils

from tinymrcnn.kernels import cpu_kernel, numba


def register_size() -> int:
    """How many float32 numbers a register holds of the CPU for which Numba compiles."""
    host = "" if numba.config.CPU_NAME else llvmlite.binding.get_host_cpu_features().flatten()
    features = host if numba.config.CPU_FEATURES is None else numba.config.CPU_FEATURES
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


# A tile is 6 rows by two registers: these 12 sums, with what they are made of, fill 16 registers, and they are enough
# for a CPU that takes four cycles for a multiplication and addition and starts two of them in each.
ROWS, WIDTH = 6, 2 * register_size()
PART = 128  # a long sum is made of sums of so many products, because rounding errors grow with the length of a sum


def micro_kernel() -> Any:
    """The function above. Only kernels can call it.

    rows: (M, K); where it ends, its last row is taken again, and its result written again. panels: (P, K, WIDTH).
    shift: (N,). start, out: (I, N), with contiguous rows. All float32; lowest too. m, p, i, n: int."""
    f32, i8, i32, i64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(f32, WIDTH)
    nothing, first_lanes = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, WIDTH), [0] * WIDTH)

    def write(context: Any, b: Any, signature: Any, args: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, b, arg) for kind, arg in zip(signature.args[:5], args, strict=False)
        ]
        (rows, panels, shift, start, out), (lowest, m, p, i, n) = arrays, args[5:]
        steps = {array: cgutils.unpack_tuple(b, array.strides) for array in arrays}
        count, depth = cgutils.unpack_tuple(b, rows.shape)

        def place(array: Any, kind: Any, *index: Any) -> Any:
            """The pointer to an element of an array, or to the vector that begins there."""
            offsets = [b.mul(position, step) for position, step in zip(index, steps[array], strict=True)]
            base = b.bitcast(array.data, i8.as_pointer())
            return b.bitcast(b.gep(base, [functools.reduce(b.add, offsets)]), kind.as_pointer())

        def all_of(number: Any) -> Any:
            """A vector of this number."""
            return b.shuffle_vector(b.insert_element(nothing, number, i32(0)), nothing, first_lanes)

        def smaller(x: Any, y: Any) -> Any:
            return b.select(b.icmp_signed("<", x, y), x, y)

        lines = [smaller(i64(row), b.sub(b.sub(count, i64(1)), m)) for row in range(ROWS)]
        shifts = b.load(place(shift, vector, n), align=4)
        begins = [b.load(place(start, vector, b.add(i, line), n), align=4) for line in lines]
        sums = [cgutils.alloca_once_value(b, b.fadd(shifts, begin)) for begin in begins]
        parts = [cgutils.alloca_once(b, vector) for _ in lines]
        with cgutils.for_range_slice(b, i64(0), depth, i64(PART)) as (first, _):
            for part in parts:
                b.store(ir.Constant(vector, [0.0] * WIDTH), part)
            numbers = [place(rows, i8, b.add(m, line), first) for line in lines]
            panel = place(panels, vector, p, first, i64(0))
            with cgutils.for_range(b, smaller(b.sub(depth, first), i64(PART))) as loop:
                factors, offset = b.load(b.gep(panel, [loop.index]), align=4), b.mul(loop.index, steps[rows][1])
                for number, part in zip(numbers, parts, strict=True):
                    factor = all_of(b.load(b.bitcast(b.gep(number, [offset]), f32.as_pointer())))
                    # "contract": one instruction multiplies and adds, and rounds once, where the CPU has such a one
                    product = b.fmul(factor, factors, flags=("contract",))
                    b.store(b.fadd(product, b.load(part), flags=("contract",)), part)
            for part, total in zip(parts, sums, strict=True):
                b.store(b.fadd(b.load(part), b.load(total)), total)
        for line, total in zip(lines, sums, strict=True):
            value, least = b.load(total), all_of(lowest)
            value = b.select(b.fcmp_ordered("<", value, least), least, value)  # a NaN stays
            b.store(value, place(out, vector, b.add(i, line), n), align=4)
        return context.get_dummy_value()

    def tile(
        context: Any, rows: Any, panels: Any, shift: Any, start: Any, out: Any, lowest: Any,
        m: Any, p: Any, i: Any, n: Any,
    ) -> Any:  # fmt: skip
        return numba.void(rows, panels, shift, start, out, numba.float32, *4 * [numba.types.int64]), write

    return numba.extending.intrinsic(tile)


def fill(columns: Any, panels: Any, first: int, end: int) -> None:
    """Write panels first to end - 1 of S matrices, (S, P, K, WIDTH).

    columns: (N, S K), in row n the columns n of all matrices, one after the other; where the last panel is wider, the
    last column is written again. A register's worth of columns is read at once, each along its length, in which it
    lies in memory as a rule."""
    last, depth = len(columns) - 1, panels.shape[2]
    for s in range(len(panels)):
        for p in range(first, end):
            for block in range(0, depth, 64):
                for j in range(0, WIDTH, 8):
                    for k in range(block, min(block + 64, depth)):
                        for i in range(j, j + 8):
                            panels[s, p, k, i] = columns[min(WIDTH * p + i, last), s * depth + k]


@functools.cache
def compiled(kernel: Callable[..., None], *types: Any) -> Any:
    """A kernel for float32 arrays of so many dimensions (int) and numbers of these types, the last array of which it
    writes. It is compiled once for arrays of all layouts, since these kernels count in strides anyway."""
    dimensions = [kind for kind in types if isinstance(kind, int)]
    arrays = [numba.types.Array(numba.float32, ndim, "A", readonly=True) for ndim in dimensions[:-1]]
    result: Any = cpu_kernel(kernel)
    written = numba.types.Array(numba.float32, dimensions[-1], "A")
    result.compile((*arrays, written, *types[len(dimensions) :]))
    result.disable_compile()
    return result
