"""Work in pieces on all cores: everything is done once, errors come through, and the parts make the whole."""

import multiprocessing
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.boxes import batched_nms, paste_masks
from tinymrcnn.ops import max_pool2d
from tinymrcnn.ops.im2col import Window, col2im
from tinymrcnn.ops.products import matmul
from tinymrcnn.threads import (
    column_sums,
    get_num_threads,
    one_blas_thread,
    set_num_threads,
    shares,
    slices,
    spread,
    threads_for,
    workspace,
)

HOST = np.zeros(0)


@pytest.fixture
def threads():
    """threads(n): so many for the rest of the test."""
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


def blas_threads() -> set[int]:
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas" and "numpy" in info["filepath"]]
    return {info["num_threads"] for info in libraries}


@pytest.fixture
def two_blas_threads():
    """BLAS has two threads, as a user may want them."""
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("threadpoolctl cannot set the threads of this BLAS.")
        yield


def test_blas_has_one_thread_while_ours_work_and_the_users_number_afterwards(two_blas_threads):
    seen = []
    spread(lambda index: seen.append(blas_threads()), 4, HOST)
    spread(lambda index: seen.append(blas_threads()), 1, HOST, 1)  # with little to compute, too
    assert seen == [{1}] * 5 and blas_threads() == {2}
    with pytest.raises(ZeroDivisionError):
        spread(lambda index: 1 // 0, 4, HOST)
    assert blas_threads() == {2}


def test_the_last_python_thread_to_leave_gives_blas_its_threads_back(two_blas_threads):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread:
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    with one_blas_thread:
        assert blas_threads() == {1}
    assert blas_threads() == {1}
    leave.set()
    thread.join()
    assert blas_threads() == {2}


def test_a_forked_child_is_not_held_by_what_the_parents_threads_do(two_blas_threads):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread, one_blas_thread._lock:  # the worst moment
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    try:
        assert in_a_forked_child(blas_threads_around_work) == [{1}, {2}]
    finally:
        leave.set()
        thread.join()


def blas_threads_around_work():
    seen = []
    spread(lambda index: seen.append(blas_threads()), 1, HOST)
    return [*seen, blas_threads()]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("used", [1, 2])
def test_every_piece_is_done_once(threads, count, used):
    threads(used)
    done = []
    spread(done.append, count, HOST)
    assert sorted(done) == list(range(count))


def test_work_of_one_piece_leaves_the_threads_to_what_it_calls(threads):
    threads(2)
    seen = []
    spread(lambda index: seen.append(threads_for()), 1, HOST)
    assert seen == [2]
    spread(lambda index: seen.append(threads_for()), 8, HOST)
    assert seen[1:] == [1] * 8


def test_the_pieces_run_side_by_side():
    if get_num_threads() < 2:
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
    ("count", "most", "used"), [(0, 5, 2), (1, 5, 4), (20, 4, 2), (25, 15, 2), (7, 0, 3), (64, 9, 1)]
)
def test_every_thread_gets_equally_many_shares(count, most, used):
    found = shares(count, most, used)
    assert [i for some in found for i in range(count)[some]] == list(range(count))
    sizes = [some.stop - some.start for some in found]
    assert max(sizes) <= max(1, most) and max(sizes) - min(sizes) <= 1
    assert len(found) % used == 0 or len(found) == max(1, count)


def test_when_it_returns_all_pieces_have_ended(threads):
    """Also where a helper begins so late that it finds no more work."""
    threads(4)
    inside = []

    def work(index):
        inside.append(index)
        time.sleep(2e-4 * (index % 3))
        inside.remove(index)

    for count in 60 * [2, 3, 5]:
        spread(work, count, HOST)
        assert inside == []


def test_nobody_keeps_what_was_worked_on(threads):
    threads(3)

    class Big:
        """Like an array, but one can wait for its end."""

    held = Big()
    there = weakref.ref(held)
    spread(lambda index, held=held: time.sleep(1e-3), 6, HOST)
    del held
    until = time.monotonic() + 30
    while there() is not None and time.monotonic() < until:
        time.sleep(1e-3)  # a helper that had not begun drops it when it wakes
    assert there() is None


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
    for used in (1, 4):
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
    spread(lambda index: None, 4, HOST)  # the parent's threads run
    assert in_a_forked_child(count_pieces) == 4


def count_pieces():
    done = []
    spread(done.append, 4, HOST)
    return len(done)


def in_a_forked_child(function):
    """What function() returns there."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("This system does not fork.")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(function()))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    return queue.get()


def test_a_piece_of_work_spreads_nothing_further(threads):
    threads(4)
    here = []

    def work(index):
        spread(lambda inner: here.append((threading.get_ident(), index, inner)), 3, HOST)

    spread(work, 5, HOST)
    assert sorted(at[1:] for at in here) == [(index, inner) for index in range(5) for inner in range(3)]
    for index in range(5):
        assert len({at[0] for at in here if at[1] == index}) == 1


def test_python_threads_that_spread_at_once_wait_for_nobody(threads):
    busy, release, released = threading.Barrier(3, timeout=30), threading.Event(), []

    def long_work(index):
        busy.wait()
        released.append(release.wait(10))

    def occupy():
        set_num_threads(2)
        spread(long_work, 2, HOST)  # on its own thread and the only other one

    threads(2)
    other = threading.Thread(target=occupy)
    other.start()
    busy.wait()
    done = []
    spread(done.append, 5, HOST)  # this thread does all of it
    assert done == list(range(5)) and other.is_alive()
    release.set()
    other.join()
    assert released == [True, True]


def test_a_python_thread_that_outlives_the_main_one_works_alone():
    script = """
import threading, time
import numpy as np
from tinymrcnn.threads import set_num_threads, spread

def outlive():
    threading.main_thread().join()
    set_num_threads(4)
    done = []
    spread(done.append, 3, np.zeros(0))
    print(sorted(done))

threading.Thread(target=outlive).start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")


def test_the_number_of_threads_belongs_to_the_python_thread(threads):
    threads(3)
    others = []
    other = threading.Thread(target=lambda: (set_num_threads(2), others.append(get_num_threads())))
    other.start()
    other.join()
    assert others == [2] and get_num_threads() == 3
    with pytest.raises(ValueError, match="at least one thread, not 0"):
        set_num_threads(0)


@pytest.mark.parametrize("shape", [(4000, 30, 20), (20, 30, 4000)])
def test_on_a_device_a_product_is_one_product(fake_device, monkeypatch, shape):
    m, k, n = shape
    a, b = (to_device(np.ones(size, np.float32), "fake") for size in ((m, k), (k, n)))
    calls = []
    monkeypatch.setattr("tinymrcnn.threads.LEAST_SECONDS", 0)
    monkeypatch.setattr("tinymrcnn.ops.products.spread", lambda work, count, *_: calls.append(count) or work(0))
    assert (to_numpy(matmul(a, b)) == k).all()
    assert calls == [1]
    rows = to_device(np.ones((1 << 20, 3), np.float32), "fake")
    fake_device.reset()
    assert (to_numpy(column_sums(rows)) == 1 << 20).all()
    assert fake_device.launches == 1


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_number_of_threads_changes_no_bit_of_a_kernels_result(threads, monkeypatch, count):
    monkeypatch.setattr("tinymrcnn.threads.LEAST_SECONDS", 0)  # all of them, for little work too
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((60, 2, 2)) * 20, axis=1).reshape(-1, 4)
    scores, groups, masks = rng.random(60), rng.integers(0, 7, 60), rng.random((60, 3, 5))
    image, columns = rng.random((2, 20, 9, 7)), rng.random((2 * 4 * 3, 9 * 20))

    def results():
        leaf = Tensor(image, requires_grad=True)
        pooled = max_pool2d(leaf, 3, 2, 1)
        pooled.backward(np.cos(np.arange(pooled.size)).reshape(pooled.shape))
        summed = np.zeros((2, 9, 7, 20))
        col2im(columns, summed, (4, 3), Window((3, 3), 2))
        kept = batched_nms(boxes, scores, groups, 0.3)
        return [kept, paste_masks(masks, boxes, (20, 25)), pooled.data, leaf.grad, summed]

    found = []
    for used in (1, count):
        threads(used)
        found.append(results())
    for alone, shared in zip(*found, strict=True):
        np.testing.assert_array_equal(alone, shared)
