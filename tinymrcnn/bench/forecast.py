"""What more workers than were measured would do: a step's time line, and a ring of messages, on paper.

The assumptions: every worker takes as long for its own images as the one that was measured. A bucket of
gradients sets out when the backward pass has made it and the one before it has arrived, and the backward pass goes on
meanwhile. Gradients are added in a ring (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009): every
worker sends and receives 2 (N - 1) messages of an N-th of the bucket. Losses and counts, a few numbers, go up and down
a tree. Nobody waits for images or for a slower worker. lessons/many_workers.md explains what comes out.
"""

import math
from typing import Any, NamedTuple

SMALL_SUMS = 3  # in a step: counts, losses, numbers of samples
COUNTS = (2, 8, 64)
BUCKET = 1 << 22  # bytes of a message by which a bandwidth is measured
MOST = 4096
PAYS = 0.5  # the least share of the workers' time that has to go into computing


class Link(NamedTuple):
    """The way from one worker to the next. bandwidth: bytes a second. latency: seconds of the shortest message."""

    name: str
    bandwidth: float
    latency: float


# Latencies as Ethernet with TCP has them, and the last as InfiniBand or RoCE have them
LINKS = (Link("1 Gbit/s", 1e9 / 8, 50e-6), Link("10 Gbit/s", 1e10 / 8, 50e-6), Link("100 Gbit/s", 1e11 / 8, 5e-6))
FASTER = "R50-FPN, 2 images in 0.72 s"  # on each of 8 GPUs, as the paper trained it (section 4.4)


class Timeline(NamedTuple):
    """A step of one worker, in seconds from its beginning. buckets: when each was ready, and its bytes. backward: when
    the backward pass had ended. end: when the parameters had moved. images: of the step."""

    images: int
    buckets: list[tuple[float, int]]
    backward: float
    end: float

    def scaled(self, end: float, images: int) -> "Timeline":
        """The same step of a faster worker."""
        factor = end / self.end
        return Timeline(images, [(ready * factor, size) for ready, size in self.buckets], self.backward * factor, end)


def all_reduce_seconds(size: int, workers: int, link: Link) -> float:
    """How long it takes to add up `size` bytes in a ring."""
    return 2 * (workers - 1) * (size / workers / link.bandwidth + link.latency)


def step_seconds(line: Timeline, workers: int, link: Link) -> float:
    """How long a step takes when so many workers share it, each with as many images as the line has."""
    free = 0.0
    for ready, size in line.buckets:
        free = max(free, ready) + all_reduce_seconds(size, workers, link)
    sums = SMALL_SUMS * 2 * math.ceil(math.log2(workers)) * link.latency
    return max(line.backward, free) + sums + line.end - line.backward


def speedup(line: Timeline, workers: int, link: Link) -> float:
    """Images a second of so many workers, against one."""
    return workers * line.end / step_seconds(line, workers, link)


def worthwhile(line: Timeline, link: Link) -> int:
    """The most workers, a power of two, that do at least PAYS of what as many would do without messages."""
    workers = 1
    while workers < MOST and speedup(line, 2 * workers, link) >= PAYS * 2 * workers:
        workers *= 2
    return workers


def timelines(results: dict) -> dict[str, Timeline]:
    """Those of the networks that a bench has measured, and the last one's at the speed of the paper's GPUs."""
    lines = {
        row["name"].replace(" training step", ""): Timeline(
            row["images"], [tuple(bucket) for bucket in row["buckets"]], row["backward"], row["end"]
        )
        for row in results["rows"]
    }
    return lines | {FASTER: [*lines.values()][-1].scaled(0.72, 2)}


def measured(results: dict) -> Link:
    """The link that a ring has when it adds up as fast as the bench has found."""
    times = {each["bytes"]: each["fastest"] for each in results["all_reduce"]}
    hops, bucket = 2 * (results["workers"] - 1), max(size for size in times if size <= BUCKET)
    latency = times[min(times)] / hops
    return Link("memory, as measured", bucket / results["workers"] / (times[bucket] / hops - latency), latency)


def forecast(results: dict) -> list[dict[str, Any]]:
    """A row for every network and link: {"name", "link", "speedup": {"2": ..., ...}, "worthwhile"}."""
    return [
        {
            "name": name,
            "link": link.name,
            "speedup": {str(count): round(speedup(line, count, link), 2) for count in COUNTS},
            "worthwhile": worthwhile(line, link),
        }
        for name, line in timelines(results).items()
        for link in (measured(results), *LINKS)
    ]


def forecast_table(results: dict) -> str:
    """The forecast in Markdown."""
    counts = " | ".join(f"{count} workers" for count in COUNTS)
    lines = [f"| a worker's step | network | {counts} | worth it up to |", "|---" * (3 + len(COUNTS)) + "|"]
    for row in forecast(results):
        times = " | ".join(f"{factor:.{2 if factor < 2 else 1}f}" for factor in row["speedup"].values())
        most = f"{row['worthwhile']}" + " and more" * (row["worthwhile"] == MOST)
        lines.append(f"| {row['name']} | {row['link']} | {times} | {most} |")
    return "\n".join(lines)
