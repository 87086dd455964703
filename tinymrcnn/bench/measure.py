"""How the benchmarks measure: both sides turn by turn in one process, with the same threads and the same inputs.

Turn by turn, because a machine's speed drifts: what slows one side for a while slows the other too, and their
ratio stays. A turn begins with some work that is not measured, so that a reading is that of a program in its course.
Beside them stand two ceilings of the machine, a large matrix product and a large copy, and a row's rate is a fraction
of one of them.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from tinymrcnn.backend import BACKENDS, to_device
from tinymrcnn.kernels import cpu_kernel, numba, run
from tinymrcnn.machine import cpu_info
from tinymrcnn.ops.products import matmul
from tinymrcnn.threads import get_num_threads, set_num_threads

PAUSE = 0.05  # seconds before each turn: the other side's threads can spin this long
AWAKE = 0.05  # seconds of work before each reading: cores that have rested start slowly, and caches are another's
ROW_SECONDS = 8.0  # what the repeats of a row may take together, unless they are very slow ...
REPEATS = 3, 25  # ... or very fast: at least, at most

RATES = {"FLOP": "GFLOP/s", "B": "GB/s"}


@dataclass(frozen=True)
class Setting:
    """Where a benchmark runs. device: "cpu" or "cuda". torch: the module, or None to measure our side alone.
    quick: tiny sizes, which show that everything works and nothing about speed. processor_time: whether the seconds
    are those of this process's threads together, and not the clock's."""

    device: str
    torch: ModuleType | None
    quick: bool = False
    processor_time: bool = False

    def now(self) -> float:
        """The seconds."""
        return time.process_time() if self.processor_time else time.perf_counter()

    def ours(self, array):
        """A NumPy array on the device, in the same memory order."""
        return to_device(array, self.device)

    def theirs(self, array):
        """A NumPy array as a torch tensor on the device, C-contiguous: torch's usual layout."""
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def synchronize(self) -> None:
        """Wait until the GPU has done everything that it was given, by whichever side."""
        if self.device == "cuda":
            BACKENDS["cuda"].module.cuda.Device().synchronize()


@dataclass(frozen=True)
class Timing:
    """Seconds of one side."""

    median: float
    fastest: float
    slowest: float
    repeats: int


def import_torch(device: str, tf32: bool = False) -> ModuleType | None:
    """torch, where it and torchvision are installed and can use the device, computing in float32 as we do: without
    TF32, or with it."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision")):
        return None
    torch = importlib.import_module("torch")
    if device == "cuda" and not torch.cuda.is_available():
        return None
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return torch


def available_threads() -> int:
    """As many threads as Numba may use: the cores, or NUMBA_NUM_THREADS."""
    return numba.config.NUMBA_NUM_THREADS


@contextlib.contextmanager
def same_threads(count: int, torch: ModuleType | None = None):
    """Within this block both sides run on `count` threads (ours: see threads.py). Raises ValueError for a count that
    is not between 1 and available_threads()."""
    if not 1 <= count <= available_threads():
        raise ValueError(
            f"The benchmarks cannot run on {count} threads: Numba has 1 to {available_threads()} here (the cores of "
            "this machine, or what NUMBA_NUM_THREADS says)."
        )
    before = get_num_threads(), torch and torch.get_num_threads()
    set_num_threads(count)
    if torch:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before[0])
        if torch:
            torch.set_num_threads(before[1])


# The clock


def read_clock(work, setting: Setting) -> float:
    """How many seconds work() takes as one of many in a row, the device's share included."""
    setting.synchronize()
    if not setting.quick:
        time.sleep(PAUSE)
        rested = time.perf_counter()
        while time.perf_counter() < rested + AWAKE:
            work()
        setting.synchronize()
    started = setting.now()
    result = work()
    setting.synchronize()
    seconds = setting.now() - started
    del result  # freeing it is no part of the work
    return seconds


def time_sides(sides: Mapping, setting: Setting, seconds: float = ROW_SECONDS) -> dict[str, Timing]:
    """Time functions without arguments, turn by turn: name -> function to name -> Timing.

    Each runs once to warm up (kernels are compiled, caches filled) and once to see how often it can be repeated
    in `seconds`; a quick setting repeats as little as it may."""
    for work in sides.values():
        work()
    round_seconds = sum(read_clock(work, setting) for work in sides.values())
    least, most = REPEATS
    wanted = 0 if setting.quick else math.ceil(seconds / round_seconds)
    readings: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(least, min(most, wanted))):
        for name, work in sides.items():
            readings[name].append(read_clock(work, setting))
    return {name: Timing(statistics.median(r), min(r), max(r), len(r)) for name, r in readings.items()}


# The machine


def machine(device: str) -> dict:
    """What the numbers were measured on."""
    gpu = None
    if device == "cuda":
        gpu = BACKENDS["cuda"].module.cuda.runtime.getDeviceProperties(0)["name"].decode()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu_info()[0], "cores": available_threads(), "gpu": gpu, "load_average_at_start": load}


@cpu_kernel
def _copy_cpu(thread, threads, source, target):
    for i in range(len(source) * thread // threads, len(source) * (thread + 1) // threads):
        target[i] = source[i]


def start_numba() -> None:
    """Run the smallest kernel: Numba sets itself up at the first call."""
    run(_copy_cpu, None, 1, np.ones(1, np.float32), np.ones(1, np.float32))


def ceilings(setting: Setting) -> dict[str, float]:
    """The rates that this machine reaches at best, by either side: {"GFLOP/s": of a large matrix product,
    "GB/s": of a large copy, bytes read plus bytes written}."""
    n, length = (128, 1 << 16) if setting.quick else (4096, 1 << 26)
    rng = np.random.default_rng(0)
    matrix, vector = rng.random((n, n), np.float32), np.ones(length, np.float32)
    a, b, xp = setting.ours(matrix), setting.ours(vector), BACKENDS[setting.device].module
    product, copy = xp.empty_like(a), xp.empty_like(b)
    on_cpu = setting.device == "cpu"
    products = {"ours": lambda: matmul(a, a, product)}
    copies = {"ours": (lambda: run(_copy_cpu, None, length, b, copy)) if on_cpu else (lambda: xp.copyto(copy, b))}
    if setting.torch:
        their_a, their_b = setting.theirs(matrix), setting.theirs(vector)
        their_product, their_copy = setting.torch.empty_like(their_a), setting.torch.empty_like(their_b)
        mm = setting.torch.mm
        products["torch"] = lambda: mm(their_a, their_a, out=their_product)
        copies["torch"] = lambda: their_copy.copy_(their_b)
    fastest = [
        min(timing.fastest for timing in time_sides(sides, setting, seconds=4).values()) for sides in (products, copies)
    ]
    return {"GFLOP/s": 2 * n**3 / fastest[0] / 1e9, "GB/s": 2 * vector.nbytes / fastest[1] / 1e9}
