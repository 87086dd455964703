"""Work in pieces on all cores: everything is done once, errors come through, and the parts make the whole."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.kernels import numba
from tinymrcnn.threads import column_sums, matmul, slices, spread, workspace

HOST = np.zeros(0)


@pytest.fixture
def threads():
    """threads(n): so many for the rest of the test."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


def test_blas_runs_on_one_thread():
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas" and "numpy" in info["filepath"]]
    assert {info["num_threads"] for info in libraries} <= {1}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("used", [1, 2])
def test_every_piece_is_done_once(threads, count, used):
    threads(min(used, numba.config.NUMBA_NUM_THREADS))
    done = []
    spread(done.append, count, HOST)
    assert sorted(done) == list(range(count))


def test_the_pieces_run_side_by_side():
    if numba.get_num_threads() < 2:
        pytest.skip("This machine has one core.")
    both = threading.Barrier(2, timeout=30)  # opens when two threads wait at it
    spread(lambda index: both.wait(), 2, HOST)


def test_on_a_device_one_after_the_other(fake_device):
    here = []
    spread(lambda index: here.append((index, threading.get_ident())), 5, to_device(np.zeros(3), "fake"))
    assert here == [(index, threading.get_ident()) for index in range(5)]


@pytest.mark.parametrize("wrong", [0, 1, 7])
def test_an_error_comes_through_after_all_have_stopped(wrong):
    running = []

    def work(index):
        running.append(index)
        time.sleep(0.001)
        if index == wrong:
            raise ValueError(f"piece {index}")

    with pytest.raises(ValueError, match=f"piece {wrong}"):
        spread(work, 1000, HOST)
    assert len(running) < 1000  # the rest was left
    stopped = len(running)
    time.sleep(0.02)
    assert len(running) == stopped
    spread(running.append, 3, HOST)  # and it works again
    assert sorted(running[stopped:]) == [0, 1, 2]


def test_the_callers_errstate_holds_in_every_thread():
    def work(index):
        time.sleep(0.001)
        np.float32(1) / np.float32(0)

    with np.errstate(divide="ignore"):
        spread(work, 20, HOST)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        spread(work, 20, HOST)


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (1, 1), (5, 2), (7, 7), (3, 10), (100, 6)])
def test_slices_cover_everything_once(count, parts):
    found = slices(count, parts)
    assert [i for some in found for i in range(count)[some]] == list(range(count))
    assert len(found) == max(1, min(count, parts))
    sizes = [some.stop - some.start for some in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (700, 90, 40), (33, 800, 517), (1, 1, 1), (0, 3, 4), (4, 0, 3), (5, 2, 0)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype).T
    exact = a.astype(np.float64) @ b.astype(np.float64)
    near = dict(rtol=0, atol=(1e-5 if dtype == np.float32 else 1e-13) * max(1, k))
    out = np.full((m, n), 7, dtype)
    assert matmul(a, b, out) is out
    np.testing.assert_allclose(out, exact, **near)
    matmul(a, b, out, accumulate=True)
    np.testing.assert_allclose(out, 2 * exact, **near)
    fresh = matmul(a, b)
    assert fresh.dtype == dtype and np.array_equal(fresh, matmul(a, b))
    np.testing.assert_allclose(fresh, exact, **near)


def test_the_number_of_threads_changes_no_product(threads):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((600, 70)).astype(np.float32), rng.standard_normal((70, 300)).astype(np.float32)
    results = []
    for used in (1, numba.config.NUMBA_NUM_THREADS):
        threads(used)
        results.append(matmul(a, b))
    np.testing.assert_allclose(*results, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1000, 7), (300_000, 5)])
@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_column_sums(fake_device, shape, device):
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sums = to_numpy(column_sums(to_device(rows, device)))
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, rows.astype(np.float64).sum(axis=0), rtol=0, atol=1e-5 * max(1, len(rows)) ** 0.5)


def test_a_workspace_is_used_again_by_its_thread_only():
    first = workspace("test", (3, 4))
    assert first.shape == (3, 4) and first.dtype == np.float32
    assert np.shares_memory(first, workspace("test", (5,), np.float64))
    assert not np.shares_memory(first, workspace("another test", (3, 4)))
    others = []
    other = threading.Thread(target=lambda: others.append(workspace("test", (3, 4))))
    other.start()
    other.join()
    assert not np.shares_memory(first, others[0])


def test_after_a_fork_the_threads_are_there():
    multiprocessing = pytest.importorskip("multiprocessing")
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("This system does not fork.")
    spread(lambda index: None, 4, HOST)  # the parent's threads run
    child = multiprocessing.get_context("fork").Process(target=spread, args=(len_of, 4, HOST))
    child.start()
    child.join(30)
    assert child.exitcode == 0


def len_of(index):
    return len(range(index))
