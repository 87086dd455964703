"""Work in pieces on all cores.

NumPy's matrix products and Numba's kernels let go of Python's lock, so plain threads run them side by side. Each
thread carries a piece of a convolution from its first step to its last (gather, multiply, scatter) in the cache of its
own core. BLAS is held to one thread: its own ones would wait for each other after every product, and spin in between,
on cores that others need.

As many threads run as Numba may use: the cores, or what NUMBA_NUM_THREADS or numba.set_num_threads() say.
"""

import contextvars
import functools
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import threadpool_limits

from tinymrcnn.backend import array_module
from tinymrcnn.kernels import numba

threadpool_limits(1, user_api="blas")

# What a core does in a second, roughly, and how much work is worth the waking of another thread
FLOPS, BYTES = 1e11, 1e10
LEAST_SECONDS = 4e-4

# A pass over the memory, or a sum, is cut into so many parts: not into as many as there are threads, so that their
# number changes no rounding
PARTS = 4


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="tinymrcnn")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def spread(work, count: int, array, flops: float = math.inf, bytes: float = 0) -> None:
    """Call work(0), ..., work(count - 1), in any order: on all threads where `array` is NumPy's, else one by one, as a
    GPU takes them anyway. work must call neither spread nor a parallel kernel. Its first error is raised here.

    flops, bytes: how much all of them compute and move; where it is little this thread does it alone."""
    indices = iter(range(count))

    def take() -> None:
        try:
            for index in indices:
                work(index)
        except BaseException:
            for _ in indices:  # the others need not go on
                pass
            raise

    alone = not isinstance(array, np.ndarray) or flops / FLOPS + bytes / BYTES < LEAST_SECONDS
    threads = 1 if alone else min(numba.get_num_threads(), count)
    # in the caller's context: numpy.errstate lives there
    others = [_pool(threads - 1).submit(contextvars.copy_context().run, take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        wait(others)
    for other in others:
        other.result()


def slices(count: int, parts: int = PARTS) -> list[slice]:
    """range(count) cut into `parts` even pieces; into fewer where there are not so many."""
    parts = max(1, min(parts, count))
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def matmul(a, b, out=None, accumulate: bool = False):
    """a @ b, (M, K) by (K, N), in parts on all threads; added to `out` if accumulate. Returns out, (M, N)."""
    xp = array_module(a, b)
    (m, k), n = a.shape, b.shape[1]
    if out is None:
        out = xp.empty((m, n), a.dtype)

    # the longer side of the result is cut
    cuts = slices(max(m, n), 2 * numba.get_num_threads() if 2 * m * n * k > FLOPS * LEAST_SECONDS else 1)

    def product(part: int) -> None:
        some = cuts[part]
        rows, columns, target = (a[some], b, out[some]) if m >= n else (a, b[:, some], out[:, some])
        if accumulate:
            target += rows @ columns
        else:
            xp.matmul(rows, columns, out=target)

    spread(product, len(cuts), out)
    return out


def column_sums(rows):
    """The sum of every column of a matrix, by BLAS: it adds in blocks, faster and more exactly than row by row."""
    xp, parts = array_module(rows), slices(len(rows), 1 + rows.nbytes // (1 << 20))
    sums = xp.empty((len(parts), rows.shape[1]), rows.dtype)

    def add(part: int) -> None:
        some = rows[parts[part]]
        xp.matmul(xp.ones(len(some), rows.dtype), some, out=sums[part])

    spread(add, len(parts), rows, 0, rows.nbytes)
    return sums.sum(axis=0)


_own = threading.local()


def workspace(name: str, shape, dtype=np.float32):
    """An uninitialised NumPy array that the same thread gets again under the same name, while it lasts: fresh memory
    costs more than most of what is done in it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffers = _own.__dict__
    if name not in buffers or buffers[name].size < size:
        buffers[name] = np.empty(size, np.uint8)
    return buffers[name][:size].view(dtype).reshape(shape)
