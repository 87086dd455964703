"""The bench of several workers, and its forecast: on paper, against a ring that is walked step by step."""

import json
from pathlib import Path

import numpy as np
import pytest
from lost_workers import summary

from tinymrcnn.bench import forecast, workers
from tinymrcnn.bench.forecast import Link, Timeline, all_reduce_seconds, speedup, step_seconds, worthwhile
from tinymrcnn.bench.networks import build_ours, networks
from tinymrcnn.commands.bench import bench_workers
from tinymrcnn.settings import replace
from tinymrcnn.training import make_optimizer, parallel

LINK = Link("one", 100.0, 0.5)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_ring_adds_up_and_takes_as_long_as_is_said(workers):
    """Every worker sends a part to the next one, first adding (N - 1 times), then passing the sums on (N - 1 times)."""
    rng = np.random.default_rng(workers)
    arrays = rng.integers(0, 9, (workers, workers, 6)).astype(float)  # worker, part, numbers
    expected, seconds = arrays.sum(0), 0.0
    for step in range(2 * (workers - 1)):
        before = arrays.copy()
        for worker in range(workers):
            part, after = (worker - step) % workers, (worker + 1) % workers
            arrays[after, part] = before[worker, part] + (step < workers - 1) * before[after, part]
        seconds += LINK.latency + arrays[0, 0].nbytes / LINK.bandwidth
    assert (arrays == expected).all()
    assert all_reduce_seconds(arrays[0].nbytes, workers, LINK) == pytest.approx(seconds)


def test_messages_travel_while_the_backward_pass_goes_on():
    """Two buckets, ready after 3 s and 10 s of a step whose backward pass takes 10 s, and all of it 11 s."""
    line = Timeline(4, [(3.0, 400), (10.0, 100)], 10.0, 11.0)
    sums = 3 * 2 * 1 * 0.5
    first, second = 2 * (200 / 100 + 0.5), 2 * (50 / 100 + 0.5)
    assert (first, second) == (5.0, 2.0)  # the first has arrived before the second is ready
    assert step_seconds(line, 2, LINK) == pytest.approx(10 + 2 + sums + 1)
    late = Timeline(4, [(3.0, 1200), (10.0, 100)], 10.0, 11.0)  # 13 s: the second waits
    assert step_seconds(late, 2, LINK) == pytest.approx(3 + 13 + 2 + sums + 1)
    assert step_seconds(line, 1, LINK) == 11.0 and speedup(line, 1, LINK) == 1
    assert speedup(line, 2, LINK) == pytest.approx(2 * 11 / 16)
    assert line.scaled(5.5, 2) == Timeline(2, [(1.5, 400), (5.0, 100)], 5.0, 5.5)


def test_the_link_that_was_measured_gives_the_times_that_were_measured():
    times = {8: 3e-6, 4096: 5e-6, 1 << 22: 1e-3, 1 << 24: 1.0}
    rows = [{"bytes": size, "fastest": seconds, "median": 1.0} for size, seconds in times.items()]
    link = forecast.measured({"workers": 3, "all_reduce": rows})
    assert all_reduce_seconds(1 << 22, 3, link) == pytest.approx(1e-3)
    assert all_reduce_seconds(0, 3, link) == pytest.approx(3e-6)


def test_up_to_where_more_workers_are_worth_it():
    line = Timeline(1, [(1.0, 0)], 1.0, 1.0)
    # without bytes only latencies count: 2 (N - 1) + 6 ceil(log2(N)) of them may take a second, as long as the step
    assert worthwhile(line, Link("", 1.0, 1 / 40)) == 8 and worthwhile(line, Link("", 1.0, 1 / 31)) == 4
    assert worthwhile(line, Link("", 1.0, 1.0)) == 1 and worthwhile(line, Link("", 1.0, 0.0)) == forecast.MOST


def test_the_time_line_of_a_step(monkeypatch):
    """All gradients are in the buckets, in the order in which they are ready."""
    monkeypatch.setattr(parallel, "_in_place", lambda: None)
    monkeypatch.setattr(parallel, "BUCKET", 500)
    network = networks(quick=True)["shapes training step, batch 8, 128x128"]
    model, config = build_ours(network), replace(network.train, batch_size=2)
    optimizer = make_optimizer(model, config)
    line = workers.timeline(model, optimizer, *network.batch(), config)
    times, sizes = zip(*line["buckets"], strict=True)
    assert len(sizes) > 10 and sum(sizes) == optimizer.flat["grad"].nbytes
    assert len(set(times)) == len(times)  # they do not wait for each other
    assert 0 < times[0] <= times[-1] == line["backward"] < line["end"] and list(times) == sorted(times)


def test_one_process_alone_is_told_how_to_start():
    with pytest.raises(ValueError, match="mpiexec -n 2 tinymrcnn bench workers"):
        bench_workers()


def test_the_page_shows_the_numbers_that_are_stored():
    root = Path(__file__).resolve().parents[1]
    results = json.loads((root / "data/results/bench_cpu_workers.json").read_bytes())
    assert [*map(json.dumps, forecast.forecast(results))] == [*map(json.dumps, results["forecast"])]
    page = (root / "lessons/many_workers.md").read_text(encoding="utf-8")
    trials = json.loads((root / "data/results/lost_workers_cpu.json").read_bytes())["trials"]
    assert all(trial["right"] for trial in trials)
    for text in (workers.table(results), forecast.forecast_table(results), summary(trials)):
        assert text in page, f"The numbers were measured anew; put into the page:\n{text}"
