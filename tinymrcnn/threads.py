"""Work in pieces on all cores, safe from any number of Python threads.

NumPy's matrix products and Numba's kernels release Python's lock (the GIL), so plain threads run them in parallel. Each
thread takes a piece of a convolution through all its steps (gather, multiply, scatter) in the cache of its own core.
Meanwhile BLAS is limited to one thread (one_blas_thread): BLAS's own threads would wait for each other after every
product, and spin while they wait, on cores that other threads need.
"""

import collections
import contextlib
import contextvars
import functools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from threadpoolctl import ThreadpoolController

from tinymrcnn.backend import Array
from tinymrcnn.machine import core_cache, keep_freed_memory

# Roughly what a core does in a second, and from how many seconds of work on it pays to wake another thread
FLOPS, BYTES = 1e11, 1e10
LEAST_SECONDS = 4e-4

# So many float32 numbers, or somewhat more, are read or written in a piece of forward work: a core's cache holds them
PIECE = max(1 << 16, core_cache() // 4)

# A sum over many rows is made of this many sums. The number of threads does not change it, so that the rounding is
# always the same
PARTS = 64

_num_threads: contextvars.ContextVar[int | None] = contextvars.ContextVar("num_threads", default=None)
_within: contextvars.ContextVar[bool] = contextvars.ContextVar("within", default=False)  # inside spread's work


@contextlib.contextmanager
def holding(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    """Within this block this Python thread sees `value` in the variable."""
    before = variable.get()
    variable.set(value)
    try:
        yield
    finally:
        variable.set(before)


def get_num_threads() -> int:
    """The number of threads on which the work of this Python thread runs: the number of cores, unless NUMBA_NUM_THREADS
    or set_num_threads() gives another."""
    return _num_threads.get() or int(numba.config.NUMBA_NUM_THREADS)


def set_num_threads(count: int) -> None:
    """Have the work of this Python thread run on `count` threads. Raises ValueError for less than one."""
    if count < 1:
        raise ValueError(f"Work needs at least one thread, not {count!r}.")
    _num_threads.set(int(count))


def threads_for(flops: float = math.inf, bytes: float = 0) -> int:
    """How many threads should share work on NumPy arrays with so many operations and so many bytes moved: one if the
    work is small, or is itself a piece of such work."""
    return 1 if _within.get() or flops / FLOPS + bytes / BYTES < LEAST_SECONDS else get_num_threads()


# BLAS's own threads


class _OneBlasThread(contextlib.ContextDecorator):
    """A context that limits BLAS to one thread, in the whole process, until the last Python thread has left it. All our
    products are computed in it, so that their bits do not depend on what the other Python threads do."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[tuple[Any, int]] = []

    @functools.cached_property
    def _libraries(self) -> list[Any]:
        return list(ThreadpoolController().select(user_api="blas").lib_controllers)

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [(blas, n) for blas in self._libraries if (n := blas.get_num_threads() or 1) > 1]
                self._set([(blas, 1) for blas, _ in self._before])
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore()

    def _restore(self) -> None:
        self._set(self._before)
        self._before = []

    @staticmethod
    def _set(wanted: list[tuple[Any, int]]) -> None:
        for library, threads in wanted:
            # in threadpoolctl 3.8 only the thread that first set OpenBLAS's number can set it, until it gives that up
            give_up = getattr(library, "clear_controlling_thread", lambda force: None)
            give_up(force=True)
            library.set_num_threads(threads)
            give_up(force=True)

    def after_fork(self) -> None:
        """The threads that were inside do not exist in the child process, so they cannot release what they held."""
        self._restore()
        self._lock, self._inside = threading.Lock(), 0


one_blas_thread, _NOTHING = _OneBlasThread(), contextlib.nullcontext()


# Our threads


@functools.cache
def _tasks(helpers: int) -> queue.SimpleQueue[tuple[list[None], Callable[[], object], queue.SimpleQueue[None]]]:
    """Where so many threads wait for tasks. (Those of concurrent.futures take some microseconds more for each.) A task
    is a function, a list that grows when it has begun, and a queue that grows when it has ended."""
    keep_freed_memory()  # the command line does it earlier; this is for notebooks and scripts
    tasks: Any = queue.SimpleQueue()

    def help() -> None:
        while True:
            begun, task, ended = tasks.get()
            begun.append(None)
            task()
            del task  # and with it the arrays of its work, so that the caller, who goes on now, can free them
            ended.put(None)

    for number in range(helpers):
        threading.Thread(target=help, name=f"tinymrcnn-{number}", daemon=True).start()
    return tasks


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_tasks.cache_clear)
    os.register_at_fork(after_in_child=one_blas_thread.after_fork)


def spread(work: Callable[[int], object], count: int, array: Array, flops: float = math.inf, bytes: float = 0) -> None:
    """Call work(0), ..., work(count - 1), in any order: on all threads if `array` is a NumPy array, else one by one,
    because a GPU runs them one by one anyway. Raises the first error of work. Within shared work it has one thread.

    flops, bytes: the operations of all matrix products together (unless 0, BLAS is limited to one thread meanwhile),
    and the bytes moved. If both are small, this thread does all the work."""
    wanted = min(threads_for(flops, bytes), count) - 1
    with one_blas_thread if flops else _NOTHING:
        if wanted < 1 or not isinstance(array, np.ndarray):
            for index in range(count):
                work(index)
            return
        indices = iter(range(count))  # of all threads: each takes the next one
        begun, ended, errors = list[None](), queue.SimpleQueue[None](), list[BaseException]()

        def take() -> None:
            try:
                with holding(_within, True):
                    for index in indices:
                        work(index)
            except BaseException as error:
                collections.deque(indices, maxlen=0)  # the other threads get no more work
                errors.append(error)

        with contextlib.suppress(RuntimeError):  # a Python that is ending starts no threads: this one works
            for _ in range(wanted):  # in the caller's context, which holds numpy.errstate
                _tasks(wanted).put((begun, functools.partial(contextvars.copy_context().run, take), ended))
        take()
        for _ in begun:  # a helper that begins later, after another caller's work, finds no index
            ended.get()
    if errors:
        raise errors[0]


def slices(count: int, parts: int | None = None) -> list[slice]:
    """range(count) cut into `parts` even pieces (two for every thread), or into fewer if count is smaller."""
    parts = max(1, min(2 * get_num_threads() if parts is None else parts, count))
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def shares(count: int, most: int, threads: int) -> list[slice]:
    """range(count) cut into even pieces of at most `most`, and into equally many for every thread."""
    return slices(count, threads * -(-count // (threads * max(1, most))))


def column_sums(rows: Array) -> Array:
    """The sum of every column of a matrix, on the CPU by BLAS: it adds in blocks, faster and more exactly than row by
    row."""
    if not isinstance(rows, np.ndarray):
        return rows.sum(axis=0)
    parts = slices(len(rows), 1 + rows.nbytes // (1 << 20))
    sums = np.empty((len(parts), rows.shape[1]), rows.dtype)

    def add(part: int) -> None:
        some = rows[parts[part]]
        np.matmul(np.ones(len(some), rows.dtype), some, out=sums[part])

    spread(add, len(parts), rows, 2 * rows.size, rows.nbytes)
    return sums.sum(axis=0)


_own = threading.local()


def workspace(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised NumPy array. A thread gets the same memory again for the same name, because new memory costs
    more than most of the work that is done in it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffers = _own.__dict__
    if name not in buffers or buffers[name].size < size:
        buffers[name] = np.empty(size, np.uint8)
    return np.ndarray(shape, dtype, buffers[name])
