"""Matrix products: our own in float32 on the CPU, NumPy's or CuPy's elsewhere.

The second factor is packed: cut into panels of a few columns, in each of which every row follows the one before. A tile
of the result, a few rows by one panel, stays in the registers of the CPU (ops/micro_kernel.py) while one runs along the
depth k, so that a number that is read takes part in many multiplications. Goto & van de Geijn, Anatomy of
High-Performance Matrix Multiplication (2008), explain such blocks. That beats a library in a convolution, since the
filters are packed once for all pieces of an image, and bias, residual and ReLU cost no pass over the memory.

Every element is one sum in an order that does not depend on the number of threads, the pieces or the width of the
registers: CPUs that multiply and add in one instruction, as nearly all do, get the same bits.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module
from tinymrcnn.kernels import numba
from tinymrcnn.ops.activations import combine
from tinymrcnn.ops.micro_kernel import ROWS, WIDTH, compiled, fill, micro_kernel
from tinymrcnn.threads import BYTES, FLOPS, LEAST_SECONDS, PIECE, get_num_threads, slices, spread

# So many rows meet all panels before the next ones do, so that they and their results stay in the cache; in a panel of
# this depth, a multiple of the micro-kernel's PART, which keeps the rounding, so that it stays there until all these
# rows have met it
BLOCK, DEPTH = 16 * ROWS, 2048

_tile = micro_kernel()


def _multiply(matrices: Array, factors: Array, shift: Array, starts: Array, outs: Array, lowest: Any) -> None:
    """outs[:, s] = max(matrices[:, s] @ the matrix of factors[s] + shift + starts[:, s], lowest) for every s."""
    count, _, columns = outs.shape
    edge, zeros = np.empty((ROWS, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    for s in range(outs.shape[1]):
        rows, panels, start, out = matrices[:, s], factors[s], starts[:, s], outs[:, s]
        for block in range(0, count, BLOCK):
            for p in range(panels.shape[0]):
                n = p * WIDTH
                wide = min(WIDTH, columns - n)
                for m in range(block, min(block + BLOCK, count), ROWS):
                    if wide == WIDTH:
                        _tile(rows, panels, shift, start, out, lowest, m, p, m, n)
                        continue
                    tall = min(ROWS, count - m)  # the last panel is wider than what is left of out
                    for i in range(tall):
                        for j in range(wide):
                            edge[i, j] = shift[n + j] + start[m + i, n + j]
                    _tile(rows, panels, zeros, edge, edge, lowest, m, p, 0, 0)
                    for i in range(tall):
                        for j in range(wide):
                            out[m + i, n + j] = edge[i, j]


def multiply(
    rows: Array, factor: Array, out: Array, shift: Array | None = None, start: Array | None = None, relu: bool = False
) -> None:
    """out = rows @ matrix + shift + start, and at least 0 if relu, where factor is pack(matrix).

    rows: (M, K). shift: (N,). start: (M, N), may be out. out: (M, N), with contiguous rows. With S matrices,
    where they are our own: rows (M, S, K), start and out (M, S, N)."""
    if factor.ndim == 4:
        if out.ndim == 2:
            rows, out, start = rows[:, None], out[:, None], None if start is None else start[:, None]
        shift = _zeros(out.shape[2:]) if shift is None else shift
        start = _zeros(out.shape) if start is None else start
        kernel = compiled(_multiply, 3, 4, 1, 3, 3, numba.float32)
        while rows.shape[2] > DEPTH:
            kernel(rows[..., :DEPTH], factor[:, :, :DEPTH], shift, start, out, np.float32(-np.inf))
            rows, factor, shift, start = rows[..., DEPTH:], factor[:, :, DEPTH:], _zeros(shift.shape), out
        kernel(rows, factor, shift, start, out, np.float32(0 if relu else -np.inf))
    elif start is out:
        out += rows @ factor
    else:
        array_module(rows, factor).matmul(rows, factor, out=out)
        finish(out, shift, start, relu)


@functools.lru_cache(maxsize=256)
def _zeros(shape: tuple[int, ...]) -> Array:
    """Zeros to read, which take the memory of one row."""
    return np.broadcast_to(np.zeros(shape[-1], np.float32), shape)


def finish(rows: Array, shift: Array | None = None, start: Array | None = None, relu: bool = False) -> None:
    """Add a shift (N,) and the start (M, N), where there are such, to rows (M, N), and let them through a ReLU if so
    said, in place."""
    if shift is not None or start is not None or relu:
        shift = array_module(rows).zeros(rows.shape[1], rows.dtype) if shift is None else shift
        combine(rows, None, shift, start, lowest=0 if relu else -np.inf, out=rows)


# The second factor


def is_ours(array: Array) -> bool:
    """Whether our own kernel multiplies such arrays: NumPy's of float32, where Numba compiles."""
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and not numba.config.DISABLE_JIT


def pack(matrix: Array) -> Array:
    """A second factor of multiply(), (K, N) or (S, K, N): in panels, (S, P, K, WIDTH), where it is_ours(), else
    as it is."""
    if not is_ours(matrix):
        return matrix
    count, (depth, columns) = len(matrix) if matrix.ndim == 3 else 1, matrix.shape[-2:]
    panels = np.empty((count, -(-columns // WIDTH), depth, WIDTH), np.float32)
    lines, moved = matrix.reshape(count * depth, columns).T, 2 * panels.nbytes
    cuts, kernel = slices(panels.shape[1]), compiled(fill, 2, 4, numba.int64, numba.int64)
    if moved < BYTES * LEAST_SECONDS:  # as a rule
        kernel(lines, panels, 0, panels.shape[1])
        return panels
    spread(lambda i: kernel(lines, panels, cuts[i].start, cuts[i].stop), len(cuts), panels, 0, moved)
    return panels


# With so many pixels, making a form of the filters anew takes some percent of the time of their product (more
# where Winograd's algorithm has large filters); kept, the forms of all filters would take twice the memory of a network
MANY = 800

_kept: dict[tuple[Any, ...], Array] = {}


def kept(make: Callable[..., Array], array: Array, uses: int, *more: Any) -> Array:
    """make(array, *more), a form of filters that meet so many pixels. If they are few and nobody can write to
    the array, as in a fused model, it is made only once and kept as long as the array."""
    key = id(array), make, *more
    if not isinstance(array, np.ndarray) or array.flags.writeable or (uses >= MANY and key not in _kept):
        return make(array, *more)
    if key not in _kept:
        _kept[key] = make(array, *more)
        weakref.finalize(array, _kept.pop, key, None)
    return _kept[key]


def matmul(a: Array, b: Array, out: Array | None = None, *, accumulate: bool = False) -> Array:
    """a @ b, (M, K) by (K, N), on the CPU in parts on all threads; if accumulate, added to `out`. Returns (M, N)."""
    xp = array_module(a, b)
    (m, k), n = a.shape, b.shape[1]
    out = xp.empty((m, n), a.dtype) if out is None else out
    # a transposed `a` is for BLAS: our kernel reads along its rows
    form, width = (pack, WIDTH) if a.strides[1] == a.itemsize else (lambda columns: columns, 1)

    # the longer side of the result is cut; a GPU spreads one product over its cores itself
    pieces = 2 * get_num_threads() if xp is np and 2 * m * n * k > FLOPS * LEAST_SECONDS else 1
    pieces = max(pieces, k * n // PIECE) if m < n and is_ours(b) and form is pack else pieces
    cuts = slices(m if m >= n else -(-n // width), pieces)
    factor = form(b) if m >= n else None

    def product(part: int) -> None:
        some = cuts[part]
        if m < n:  # every piece packs its own columns: they are in the cache then
            some = slice(some.start * width, some.stop * width)
        rows, columns, target = (a[some], factor, out[some]) if m >= n else (a, form(b[:, some]), out[:, some])
        multiply(rows, columns, target, start=target if accumulate else None)

    spread(product, len(cuts), out)
    return out
