"""Lesson 16's simulator of CUDA kernels: what it runs, counts and finds; and the checks of kernels that stand on it."""

import numpy as np
import ptx
import pytest
import simulator
from checking import _tries
from checking_kernels import Case, examine_kernel
from simulator import KernelError, run

from tinymrcnn.kernels import cuda, cuda_kernel, numba

# Kernels


@cuda_kernel
def doubled(x, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = 2 * x[i]


def careless(x, out):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[0] += x[i]


def careful(x, out):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        cuda.atomic.add(out, 0, x[i])


@cuda_kernel
def reversed_in_blocks(x, out):
    mine = cuda.local.array(1, numba.float32)
    part = cuda.shared.array(4, numba.float32)
    mine[0] = x[cuda.grid(1)]
    part[cuda.threadIdx.x] = mine[0]
    cuda.syncthreads()
    out[cuda.grid(1)] = part[cuda.blockDim.x - 1 - cuda.threadIdx.x]


def test_the_grid():
    x, out = np.arange(11, dtype=np.float32), np.zeros(11, np.float32)
    trace = run(doubled, 2, 3, x, out)
    np.testing.assert_array_equal(out, 2 * x)
    writes = {(s.block, s.thread): [] for s in trace.steps}
    for s in trace.steps:
        if s.kind == "write":
            writes[s.block, s.thread].append(s.index[0])
    assert writes[0, 1] == [1, 7] and writes[1, 1] == [4, 10] and writes[1, 2] == [5]
    assert trace.count("read", "x") == trace.count("write", "out") == 11 and trace.count("read", "out") == 0
    assert trace.most("write", "out") == 2
    assert [s.value for s in trace.steps if s.kind == "write"][:2] == [0, 12]  # thread 0's, one after the other


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_what_is_right_in_every_order(seed):
    x = np.ones(12, np.float32)
    out = np.zeros(1, np.float32)
    trace = run(careful, 1, 4, x, out, seed=seed)
    assert out[0] == 12 and trace.count("add", "out") == 12 and trace.races() == []
    out = np.zeros(8, np.float32)
    trace = run(reversed_in_blocks, 2, 4, np.arange(8, dtype=np.float32), out, seed=seed)
    assert out.tolist() == [3, 2, 1, 0, 7, 6, 5, 4] and trace.races() == []


def test_the_order_comes_from_the_seed():
    def order(seed):
        return [(s.thread, s.kind) for s in run(careful, 1, 4, np.ones(8), np.zeros(1), seed=seed).steps]

    assert order(3) == order(3) != order(4)
    assert order(None) == [(t, kind) for t in range(4) for _ in range(2) for kind in ("read", "add")]


def test_a_lost_update_and_a_race():
    results = {}
    for seed in (None, 0, 1, 2):
        out = np.zeros(1)
        trace = run(careless, 1, 4, np.ones(16), out, seed=seed)
        results[seed] = out[0]
        (race,) = trace.races()  # in whatever order they ran
        assert race.startswith("out[0]: thread") and race.endswith("and nothing says who comes first")
    assert results[None] == 16 and all(results[seed] < 16 for seed in (0, 1, 2))


def test_without_the_barrier():
    out = np.zeros(8, np.float32)
    trace = run(reversed_in_blocks, 2, 4, np.arange(8, dtype=np.float32), out, seed=0, barriers=False)
    assert len(trace.races()) == 8 and np.isnan(out).any()  # what nobody has written yet is NaN


def test_races_between_blocks_and_what_is_none():
    def one_writes(x, out):
        if cuda.grid(1) == 0:
            out[1, 2] = 5
        cuda.syncthreads()
        if cuda.threadIdx.x == 1:
            x[cuda.blockIdx.x] = out[1][2]

    (race,) = run(one_writes, 2, 2, np.zeros(2), np.zeros((2, 3))).races()
    assert race.startswith("out[1, 2]: thread 0 of block 0 writes it, thread 1 of block 1 reads it")
    assert run(one_writes, 1, 2, np.zeros(2), np.zeros((2, 3))).races() == []


def test_sectors():
    def gather(places, x, out):
        out[cuda.grid(1)] = x[places[cuda.grid(1)]]

    t = np.arange(32)
    for places, sectors in ((t, 4), (2 * t, 8), (8 * t, 32), (0 * t, 1), (t + 4, 5)):
        trace = run(gather, 1, 32, places, np.zeros(256, np.float32), np.zeros(32, np.float32))
        assert trace.sectors("read", "x") == sectors
        assert trace.sectors("write", "out") == 4
        assert trace.sectors("read", "places") == 8  # of 8 bytes each


def test_errors_name_the_thread():
    def too_far(x, out):
        out[cuda.grid(1)] = x[0]

    with pytest.raises(KernelError, match=r"thread 2 of block 1 raised IndexError: .* size 6, line \d+ \(on a GPU"):
        run(too_far, 2, 4, np.zeros(1), np.zeros(6))

    def some_wait(x, out):
        if cuda.grid(1) < 2:
            cuda.syncthreads()

    for seed in (None, 0):
        with pytest.raises(KernelError, match=r"in block 0 some threads wait at cuda.syncthreads\(\) and others"):
            run(some_wait, 1, 4, np.zeros(1), np.zeros(1), seed=seed)
    with pytest.raises(TypeError, match="too_far\\(\\) has 2 parameters and is given 1"):
        run(too_far, 1, 1, np.zeros(1))


def test_a_loop_without_end(monkeypatch):
    monkeypatch.setattr(simulator, "MOST_STEPS", 100)

    def for_ever(x, out):
        while x[0] == 0:
            pass

    with pytest.raises(KernelError, match="there were 100 reads and writes, and no end"):
        run(for_ever, 1, 2, np.zeros(1), np.zeros(1))


def helper(x):
    return x[cuda.grid(1)]


def test_functions_that_the_kernel_calls_see_the_same_cuda():
    def through_a_helper(x, out):
        out[cuda.grid(1)] = helper(x)

    out = np.zeros(3)
    run(through_a_helper, 1, 3, np.arange(3.0), out)
    assert out.tolist() == [0, 1, 2]


# The checks


def case(n, blocks, threads):
    x = np.arange(1, n + 1, dtype=np.float32)
    limits = {("count", "read", "x"): n, ("most", "write", "out"): -(-n // (blocks * threads))}
    return Case(blocks, threads, (x, np.zeros(n, np.float32)), {"out": 2 * x}, limits)


@pytest.fixture
def verdict(capsys):
    """verdict(kernel): the one line that the check prints about a kernel that should double."""

    def say(kernel, **options):
        _tries.clear()
        examine_kernel(1, kernel, case(5, 1, 8), case(20, 2, 4), hints=("Think.",), **options)
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        return out.strip()

    return say


def test_verdicts(verdict):
    def nothing(x, out):
        pass

    def tripled(x, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = 3 * x[i]

    def in_one_thread(x, out):
        if cuda.grid(1) == 0:
            for i in range(out.size):
                out[i] = 2 * x[i]

    def by_adding(x, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = x[i] + x[i]

    def spoils(x, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = 2 * x[i]
            x[i] = 0

    assert verdict(doubled).startswith("Exercise 1: right. (for each number: reads of x 1, writes of out 1")
    assert "still empty" in verdict(nothing)
    said = verdict(tripled, mistakes={"it is tripled.": tripled})
    assert (
        "2 of 2 launches leave wrong numbers, the first is that of 1 block of 8 threads. It looks as if it is" in said
    )
    assert said.endswith("it is tripled. Hint 1 of 1: Think.")
    assert "one thread alone writes to `out` 5 times; if all shared the work, 1 would do." in verdict(in_one_thread)
    assert "read from `x` 10 times; 5 would do." in verdict(by_adding)
    assert "2 of 2 launches leave wrong numbers" in verdict(spoils)


@pytest.mark.skipif(ptx.problem() is not None, reason="There is no compiler of CUDA kernels here.")
def test_verdicts_of_the_compiler(verdict):
    def not_compiled(x, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = float(str(2 * x[i]))

    assert "PTX instructions" in verdict(doubled)
    assert "but each takes" in verdict(doubled, instructions=10)
    assert "plain Python runs it, but not as PTX (" in verdict(not_compiled)


@pytest.mark.skipif(ptx.problem() is not None, reason="There is no compiler of CUDA kernels here.")
def test_shared_and_local_memory_on_the_ptx_machine():
    @cuda_kernel
    def by_places(x, places, out):
        mine = cuda.local.array(4, numba.float32)  # in memory, since the index is not known
        part = cuda.shared.array(4, numba.float32)
        for k in range(x.size):
            mine[places[k]] = x[k]
        part[cuda.threadIdx.x] = mine[cuda.threadIdx.x]
        cuda.syncthreads()
        out[cuda.threadIdx.x] = part[3 - cuda.threadIdx.x]

    x, places = np.array([1.5, 2.5, 3.5, 4.5], np.float32), np.array([2, 0, 3, 1])
    ours, expected = np.zeros((2, 4), np.float32)
    text = ptx.compiled(by_places, x, places, ours)
    assert ".local" in text and ".shared" in text
    counts, barriers = ptx.run_block(ptx.parse(text), (x, places, ours), 4)
    simulator.run(by_places, 1, 4, x, places, expected)
    assert ours.tolist() == expected.tolist() == [3.5, 1.5, 4.5, 2.5] and barriers == 1 and len(counts) == 4
    if made := ptx.assembled(text):
        assert made.shared == 16 and 8 <= made.registers <= 255 and made.spilled == 0
        assert made.instructions % 8 == 0 and made.instructions > 20
