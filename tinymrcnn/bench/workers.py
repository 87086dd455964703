"""Several workers against one: images a second, what the workers send each other, and how long that takes.

    mpiexec -n 2 tinymrcnn bench workers

Every worker has one thread. One works alone while the others sleep, then all work together, turn by turn. On a machine
that is busy with other things the processor's time says more than the clock. MPI waits by asking over and over, so that
it holds a worker's waiting for a late one, too; less of it with `mpiexec --mca mpi_yield_when_idle 1`.
"""

import os
import statistics
import time
from typing import Any

import numpy as np

from tinymrcnn.bench.measure import Setting
from tinymrcnn.bench.networks import Network, build_ours, networks
from tinymrcnn.data.loader import load_batch
from tinymrcnn.settings import replace
from tinymrcnn.training.parallel import ALONE, Workers
from tinymrcnn.training.trainer import make_optimizer, training_step

ROUNDS = 5
MESSAGES = [8, 4096, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26]  # bytes; a bucket has 4 MiB at least
SENDINGS, SECONDS = 400, 10.0  # of each message, at most, and for all of them


class Clock:
    """In the place of a communicator: one worker that notes when its gradients are ready."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.buckets: list[tuple[float, int]] = []

    def Allreduce(self, place: Any, array: Any) -> None:
        pass

    def Iallreduce(self, place: Any, array: Any) -> "Clock":
        self.buckets.append((time.process_time(), array.nbytes))
        return self

    def Test(self) -> bool:
        return True

    def Wait(self) -> None:
        pass

    def bcast(self, word: Any) -> Any:
        return word


def measure_workers(team: Workers, setting: Setting) -> dict:
    """What the bench finds, on the first worker: "rows", one for each network, "all_reduce", and "load", how many
    processes wanted to run in the last minute, all others included."""
    rows = [_row(name, network, team, setting) for name, network in networks(setting.quick).items() if network.train]
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"workers": team.size, "load": load, "rows": rows[::-1], "all_reduce": all_reduce_times(team, setting.quick)}


def _row(name: str, network: Network, team: Workers, setting: Setting) -> dict:
    """Seconds of a step, of the clock and of the processor, alone and together; and the time line of one alone."""
    assert network.train is not None
    count = network.train.batch_size
    config = replace(network.train, batch_size=count * team.size)
    model = build_ours(network)
    optimizer = make_optimizer(model, config)
    _, images, targets = load_batch(network.dataset, config.batch_size, 0, 0, flip=False, some=team.share)

    def step(workers: Workers) -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        training_step(model, optimizer, 0, images, targets, config, workers)
        return time.perf_counter() - began[0], time.process_time() - began[1]

    readings: dict[str, list] = {"alone": [], "together": []}
    step(ALONE)  # kernels are compiled, caches filled
    for _ in range(1 if setting.quick else ROUNDS):
        team.meet()
        if team.first:
            readings["alone"].append(step(ALONE))
        team.meet()
        readings["together"].append(step(team))
    line = timeline(model, optimizer, images, targets, config) if team.first else {}
    team.meet()
    found = {}
    for side, size in (("alone", 1), ("together", team.size)):
        clock, processor = np.median(readings[side] or [(0, 0)], axis=0).tolist()
        # of all workers the slowest counts by the clock, and their mean by the processor
        clock, processor = max(team.gathered(clock)), statistics.fmean(team.gathered(processor)[:size])
        found[side] = {
            "seconds": clock,
            "processor_seconds": processor,
            "images_per_second": size * count / clock,
            "images_per_processor_second": count / processor,
        }
    ratio = {
        name: found["together"][name] / found["alone"][name]
        for name in ("images_per_second", "images_per_processor_second")
    }
    ratio["images_per_processor_second"] *= team.size
    return {"name": name, "images": count, **found, "speedup": ratio, **line}


def timeline(model, optimizer, images, targets, config) -> dict:
    """A step of one worker alone, in seconds of the processor: see forecast.Timeline."""
    clock = Clock()
    team = Workers(clock)
    for _ in range(2):  # in the second step the order is known in which they are ready
        clock.buckets = []
        began = time.process_time()
        training_step(model, optimizer, 0, images, targets, config, team)
        end = time.process_time() - began
    buckets = [(round(ready - began, 6), size) for ready, size in clock.buckets]
    return {"buckets": buckets, "backward": buckets[-1][0], "end": round(end, 6)}


def all_reduce_times(team: Workers, quick: bool) -> list[dict]:
    """How long all workers take to add up arrays of MESSAGES bytes: the fastest of many, and the median."""
    found = []
    for size in MESSAGES[:3] if quick else MESSAGES:
        array = np.ones(size // 4, np.float32)
        seconds: list[float] = []
        while len(seconds) < (3 if quick else SENDINGS) and team.told(sum(seconds)) < SECONDS:  # they begin together
            began = time.perf_counter()
            team.add_up(array, team.communicator)
            seconds.append(time.perf_counter() - began)
            array.fill(1)
        found.append({"bytes": size, "fastest": min(seconds), "median": statistics.median(seconds)})
    return found


def table(results: dict) -> str:
    """What was measured, for people."""
    count = results["workers"]
    lines = [f"So many processes wanted to run meanwhile: {results['load']}."] if results["load"] else []
    for row in results["rows"]:
        alone, together, ratio = row["alone"], row["together"], row["speedup"]
        megabytes = sum(size for _, size in row["buckets"]) / 1e6
        lines += [
            f"{row['name']}, {row['images']} images a worker; {megabytes:.1f} MB of gradients "
            f"in {len(row['buckets'])} messages",
            f"  images a second         1: {alone['images_per_second']:8.3f}   {count}: "
            f"{together['images_per_second']:8.3f}   {ratio['images_per_second']:.2f} times",
            f"  by the processor's time 1: {alone['images_per_processor_second']:8.3f}   {count}: "
            f"{together['images_per_processor_second'] * count:8.3f}   "
            f"{ratio['images_per_processor_second']:.2f} times",
        ]
    lines.append(f"To add up arrays of {count} workers:")
    for each in results["all_reduce"]:
        rate = each["bytes"] / each["fastest"] / 1e9
        lines.append(
            f"  {each['bytes']:>10,} bytes: {each['fastest'] * 1e6:>9.0f} us at best ({rate:.2f} GB/s), "
            f"{each['median'] * 1e6:.0f} us as a rule"
        )
    return "\n".join(lines)
