"""The forecast for more cores: pieces are counted, timed and dealt out, and the work itself is done as ever."""

import time

import numpy as np
import pytest

from tinymrcnn import threads
from tinymrcnn.bench import cores
from tinymrcnn.commands.bench import run_bench
from tinymrcnn.ops import products
from tinymrcnn.threads import get_num_threads, set_num_threads


@pytest.mark.parametrize(
    ("seconds", "count", "end"),
    [([1, 1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([1, 1, 1], 2, 2), ([2, 2, 2], 8, 2), ([], 4, 0), ([1, 2], 0, 3)],
)
def test_when_the_last_core_is_done(seconds, count, end):
    assert cores.longest(seconds, count) == end


def test_one_thread_does_the_pieces_of_all():
    before, spread = get_num_threads(), threads.spread
    a = np.random.default_rng(0).random((800, 400), np.float32)
    expected = products.matmul(a, a.T.copy())
    try:
        set_num_threads(7)
        with cores.one_by_one() as found:
            assert np.array_equal(products.matmul(a, a.T.copy()), expected)
    finally:
        set_num_threads(before)
    (pieces, sharing) = found[-1]
    assert len(pieces) == 14 and sharing == 7 and min(pieces) > 0
    assert products.spread is spread and threads.spread is spread


def test_what_is_not_cut_stays_as_it_is(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])

    def work(index):
        clock[0] += 1

    def step():
        clock[0] += 2  # on one core, whatever there is
        products.spread(work, 8, np.empty(0))

    assert cores.forecast_seconds(step, 1) == (10, 10)
    assert cores.forecast_seconds(step, 4) == (10, 4)
    assert cores.forecast_seconds(step, 64) == (10, 3)
    monkeypatch.setattr(cores, "CORES", (1, 4))
    assert cores.measure_cores(step) == {"1": {"ms": 10000, "times": 1}, "4": {"ms": 4000, "times": 2.5}}


def test_the_command(capsys, tmp_path):
    assert run_bench("cores", device="cpu", quick=True, out=tmp_path / "cores.json") == 0
    assert "times faster" in capsys.readouterr().out and (tmp_path / "cores.json").exists()
    with pytest.raises(ValueError, match="leave out --device cuda"):
        run_bench("cores", device="cuda")
