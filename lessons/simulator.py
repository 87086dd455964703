"""CUDA kernels in plain Python, on threads that take turns: what they read and write is noted, and races show.

On a GPU thousands of threads run at once, and nobody knows in which order their reads and writes reach the memory.
Here one thread runs at a time, and it can be interrupted before every read, write and atomic addition of an array. So
everything that a launch does is a list of steps, in one of the many orders that a GPU could have taken: one thread
after the other, or an order that is drawn from a seed.

(Numba has a simulator, too, NUMBA_ENABLE_CUDASIM=1. It leaves the order to the operating system and counts nothing.)
"""

import inspect
import itertools
import random
import threading
import types
from collections import Counter, namedtuple
from types import SimpleNamespace

import numba
import numpy as np

MOST_STEPS = 100_000
SECTOR, WARP = 32, 32  # bytes; threads

# One read, write or atomic addition ("read", "write", "add"). phase: how many barriers the thread had passed. offset:
# in bytes, from the array's first element. value: what was read, written or added.
Step = namedtuple("Step", "block thread phase kind array index offset value")


class KernelError(Exception):
    """A thread of a kernel raised an error, or the threads wait for each other for ever."""


class Trace:
    """What the threads of a launch did. steps: in the order in which it happened."""

    def __init__(self):
        self.steps = []

    def count(self, kind, array):
        """How many steps of a kind ("read", "write", "add") there were on an array, by its name in the kernel."""
        return sum(step.kind == kind and step.array == array for step in self.steps)

    def most(self, kind, array):
        """As count, but of the thread that has most of them."""
        of = Counter((s.block, s.thread) for s in self.steps if s.kind == kind and s.array == array)
        return max(of.values(), default=0)

    def sectors(self, kind, array):
        """How many sectors of 32 bytes the warps fetch for their reads, or send for their writes: the k-th of every
        thread of a warp happen at the same moment, if its threads take the same way."""
        taken, number = {}, Counter()
        for step in self.steps:
            if step.kind == kind and step.array == array:
                thread = step.block, step.thread
                moment = step.block, step.thread // WARP, number[thread]
                number[thread] += 1
                taken.setdefault(moment, set()).add(step.offset // SECTOR)
        return sum(map(len, taken.values()))

    def races(self):
        """A sentence for every element of an array on which two threads act, one of them at least to write, with
        nothing that says who comes first: no barrier between them, not both atomic."""
        touched, found = {}, []
        for step in self.steps:
            touched.setdefault((step.array, step.offset), {}).setdefault(step[:4], step)
        for steps in touched.values():
            pair = next((pair for pair in itertools.combinations(steps.values(), 2) if unordered(*pair)), None)
            if pair:
                acts = [f"thread {s.thread} of block {s.block} {VERBS[s.kind]} it" for s in pair]
                index = ", ".join(map(str, pair[0].index))
                found.append(f"{pair[0].array}[{index}]: {acts[0]}, {acts[1]}, and nothing says who comes first")
        return found


VERBS = {"read": "reads", "write": "writes", "add": "adds to"}


def unordered(a, b):
    """Whether two steps on the same element are a race."""
    if (a.block, a.thread) == (b.block, b.thread) or {a.kind, b.kind} in ({"read"}, {"add"}):
        return False
    return a.block != b.block or a.phase == b.phase


def run(kernel, blocks, threads, *args, seed=None, barriers=True):
    """Run a kernel, a plain function or a decorated one, that sees arrays and numbers as on a GPU; returns its Trace.

    seed: of the order in which the threads take turns; None: one after the other, up to the barriers. barriers=False
    takes cuda.syncthreads() away. Raises KernelError that names the thread."""
    function = getattr(kernel, "py_func", kernel)
    launch = _Launch(function, blocks, threads, seed, barriers)
    names = inspect.signature(function).parameters
    if len(names) != len(args):
        raise TypeError(f"{function.__name__}() has {len(names)} parameters and is given {len(args)}")
    arrays = [_Watched(a, n, launch) if isinstance(a, np.ndarray) else a for n, a in zip(names, args, strict=True)]
    launch.run(arrays)
    return launch.trace


class _Stop(BaseException):
    """Ends a thread when another one has failed."""


class _Thread:
    def __init__(self, block, number):
        self.block, self.number, self.phase, self.state = block, number, 0, "ready"
        self.turn, self.worker = threading.Semaphore(0), None


class _Launch:
    """The threads of a launch, and who runs."""

    def __init__(self, function, blocks, threads, seed, barriers):
        self.function, self.barriers, self.trace = function, barriers, Trace()
        self.order = None if seed is None else random.Random(seed)
        self.blocks = [[_Thread(block, number) for number in range(threads)] for block in range(blocks)]
        self.shared = [{} for _ in range(blocks)]  # the shared arrays of each block, by the order of their making
        self.back, self.running, self.error = threading.Semaphore(0), None, None

    def run(self, arrays):
        waiting = [thread for block in self.blocks for thread in block]  # that have not ended
        while waiting:
            ready = [thread for thread in waiting if thread.state == "ready"]
            self.running = ready[0] if self.order is None else self.order.choice(ready)
            self._go_on(arrays)
            self._open_barrier(self.blocks[self.running.block])
            if self.error:
                for thread in waiting:  # none may stay behind
                    if thread.worker and thread.state != "ended":
                        thread.turn.release()
                raise self.error
            if self.running.state == "ended":
                waiting.remove(self.running)

    def _go_on(self, arrays):
        thread = self.running
        if thread.worker is None:
            thread.worker = threading.Thread(target=self._work, args=(thread, arrays), daemon=True)
            thread.worker.start()
        else:
            thread.turn.release()
        self.back.acquire()

    def _work(self, thread, arrays):
        try:
            _with_cuda(self.function, self._cuda(thread))(*arrays)
        except _Stop:
            return
        except Exception as error:
            self.error = self.error or KernelError(_told(error, thread, self.function))
        thread.state = "ended"
        self.back.release()

    def _open_barrier(self, block):
        states = {thread.state for thread in block}
        if states == {"waits"}:
            for thread in block:
                thread.state, thread.phase = "ready", thread.phase + 1
        elif states == {"waits", "ended"}:
            self.error = self.error or KernelError(
                f"in block {block[0].block} some threads wait at cuda.syncthreads() and others have ended; every "
                "thread of a block must come to it, equally often"
            )

    def pause(self):
        """The running thread hands over, and goes on when it is its turn again."""
        thread = self.running
        self.back.release()
        thread.turn.acquire()
        if self.error:
            raise _Stop

    def before_step(self):
        if self.order is not None:
            self.pause()
        if len(self.trace.steps) >= MOST_STEPS:
            raise RuntimeError(f"there were {MOST_STEPS} reads and writes, and no end. Does every loop move on?")

    def note(self, kind, array, index, offset, value):
        thread = self.running
        self.trace.steps.append(Step(thread.block, thread.number, thread.phase, kind, array, index, offset, value))

    def _cuda(self, thread):
        """numba.cuda as this thread sees it."""
        blocks, threads, made = len(self.blocks), len(self.blocks[0]), itertools.count()

        def shared_array(shape, dtype):
            arrays, key = self.shared[thread.block], next(made)
            if key not in arrays:
                arrays[key] = _Watched(_uninitialised(shape, dtype), f"shared {key} of block {thread.block}", self)
            return arrays[key]

        def syncthreads():
            if self.barriers:
                thread.state = "waits"
                self.pause()

        return SimpleNamespace(
            grid=lambda dimensions: thread.block * threads + thread.number,
            gridsize=lambda dimensions: blocks * threads,
            threadIdx=SimpleNamespace(x=thread.number), blockIdx=SimpleNamespace(x=thread.block),
            blockDim=SimpleNamespace(x=threads), gridDim=SimpleNamespace(x=blocks),
            atomic=SimpleNamespace(add=lambda array, index, value: array.add(index, value)),
            local=SimpleNamespace(array=_uninitialised), shared=SimpleNamespace(array=shared_array),
            syncthreads=syncthreads,
        )  # fmt: skip


def _with_cuda(function, cuda):
    """The function, and the others of its module, with another `cuda`."""
    names = {**function.__globals__, "cuda": cuda}
    for name, value in function.__globals__.items():
        value = getattr(value, "py_func", value)
        if isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__:
            names[name] = types.FunctionType(value.__code__, names, name, value.__defaults__, value.__closure__)
    return types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


def _uninitialised(shape, dtype):
    """What lies in memory that nobody has written to is anything; here NaN, or a number that is conspicuous."""
    dtype = numba.np.numpy_support.as_dtype(dtype) if isinstance(dtype, numba.types.Type) else np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).max if dtype.kind in "iu" else True, dtype)


def _told(error, thread, function):
    place, frame = "", error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == function.__code__.co_filename:
            place = f", line {frame.tb_lineno}"
        frame = frame.tb_next
    told = f"thread {thread.number} of block {thread.block} raised {type(error).__name__}: {error}{place}"
    return told + (" (on a GPU nothing stops it)" if isinstance(error, IndexError) else "")


class _Watched:
    """An array of which every read and write is a step of the running thread."""

    def __init__(self, array, name, launch, first=(), start=None):
        self._array, self._name, self._launch, self._first = array, name, launch, first
        self._start = _address(array) if start is None else start
        self.shape, self.size, self.ndim, self.dtype = array.shape, array.size, array.ndim, array.dtype

    def __len__(self):
        return len(self._array)

    def _note(self, kind, index, value):
        index = tuple(int(i) for i in (index if isinstance(index, tuple) else (index,)))
        index = tuple(i + n if i < 0 else i for i, n in zip(index, self.shape, strict=True))
        offset = _address(self._array) - self._start + sum(map(int.__mul__, index, self._array.strides))
        self._launch.note(kind, self._name, self._first + index, offset, value)

    def __getitem__(self, index):
        if isinstance(index, tuple) and len(index) == self.ndim or self.ndim == 1 and not isinstance(index, slice):
            self._launch.before_step()
            value = self._array[index]
            self._note("read", index, value)
            return value
        whole = isinstance(index, tuple) and all(np.ndim(i) == 0 and not isinstance(i, slice) for i in index)
        first = tuple(map(int, index)) if whole else (int(index),) if np.ndim(index) == 0 else ()
        return _Watched(self._array[index], self._name, self._launch, self._first + first, self._start)

    def __setitem__(self, index, value):
        self._launch.before_step()
        self._array[index] = value
        self._note("write", index, value)

    def add(self, index, value):
        """cuda.atomic.add: returns what was there before."""
        self._launch.before_step()
        before = self._array[index]
        self._array[index] += value
        self._note("add", index, value)
        return before


def _address(array):
    return array.__array_interface__["data"][0]
