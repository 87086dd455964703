"""What more cores would do, by counting: the pieces into which the work is cut for them, and how long each takes.

threads.spread() hands pieces to threads. Here one thread takes all the pieces that a number of cores would get, one
after the other, and each is timed; dealt out to the cores in their order, they end when the last core is done. What
lies between the pieces, Python and NumPy on one thread, stays as it is. The forecast knows no limit of the memory,
which all cores share, and no cost of waking a thread: it says what the cuts allow, at most.
"""

import contextlib
import heapq
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from tinymrcnn import threads

CORES = (1, 2, 4, 8, 16, 64)
REPEATS = 3


class _NoThreads:
    """In the place of the threads: no task is ever begun, so the caller does all the work."""

    def put(self, task: object) -> None:
        pass


@contextlib.contextmanager
def one_by_one() -> Iterator[list[tuple[list[float], int]]]:
    """Within this block the caller's thread does the work of all, and the list fills: for every call of spread(), the
    seconds of its pieces, and how many threads would share them."""
    found: list[tuple[list[float], int]] = []
    spread, inside = threads.spread, list[bool]()

    def watched(work: Callable[[int], object], count: int, array: Any, flops: float = float("inf"), bytes: float = 0):
        if inside:  # a part of a piece
            return spread(work, count, array, flops, bytes)
        seconds = [0.0] * count
        found.append((seconds, min(threads.threads_for(flops, bytes), count)))

        def timed(index: int) -> None:
            start = time.thread_time()
            work(index)
            seconds[index] = time.thread_time() - start

        inside.append(True)
        try:
            return spread(timed, count, array, flops, bytes)
        finally:
            inside.pop()

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(threads, "_tasks", lambda helpers: _NoThreads()))
        for module in list(sys.modules.values()):
            if getattr(module, "spread", None) is spread:
                stack.enter_context(patch.object(module, "spread", watched))
        yield found


def longest(seconds: list[float], cores: int) -> float:
    """When the last of the cores is done, if each takes the next piece as soon as it is free."""
    ends = [0.0] * max(1, cores)
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def forecast_seconds(step: Callable[[], object], cores: int) -> tuple[float, float]:
    """(seconds of a step on one core, and on so many), the step cut as for so many."""
    before = threads.get_num_threads()
    threads.set_num_threads(cores)
    try:
        with one_by_one() as found:
            start = time.thread_time()
            step()
            alone = time.thread_time() - start
    finally:
        threads.set_num_threads(before)
    saved = sum(sum(seconds) - longest(seconds, sharing) for seconds, sharing in found)
    return alone, alone - saved


def measure_cores(step: Callable[[], object]) -> dict[str, dict[str, float]]:
    """{cores: the milliseconds of a step, and how many times faster than on one core}, the fastest of some repeats."""
    step()
    fastest = {n: min(forecast_seconds(step, n)[1] for _ in range(REPEATS)) for n in CORES}
    return {str(n): {"ms": 1000 * t, "times": fastest[1] / t} for n, t in fastest.items()}


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """How many times faster each step would be."""
    width = max(map(len, found))
    lines = [f"{'times faster, at most, with cores':{width}}" + "".join(f"{n:>7}" for n in CORES)]
    lines += [f"{name:{width}}" + "".join(f"{row[str(n)]['times']:7.1f}" for n in CORES) for name, row in found.items()]
    return "\n".join(lines)
