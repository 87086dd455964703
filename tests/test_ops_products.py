"""Our own matrix product: the right numbers, the same bits however it is cut, and packed factors that are kept."""

import gc
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest

from tinymrcnn.ops import micro_kernel, products
from tinymrcnn.ops.products import MANY, kept, multiply, pack
from tinymrcnn.threads import get_num_threads, set_num_threads

ROOT = Path(__file__).resolve().parent.parent
WIDTH = micro_kernel.WIDTH


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact(rows, matrix, shift=0, start=0, relu=False):
    result = rows.astype(float) @ matrix.astype(float) + shift + start
    return np.maximum(result, 0) if relu else result


SHAPES = [
    (1, 1, 1), (6, 8, WIDTH), (7, 127, WIDTH + 1), (5, 128, 3), (13, 129, 2 * WIDTH), (97, 300, 75), (200, 1, 40),
    (0, 5, 4), (4, 5, 0), (3, 0, 5),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiply(shape, dtype):
    m, k, n = shape
    rows, matrix = normal(m, k).astype(dtype), normal(k, n, seed=1).astype(dtype)
    shift, start = normal(n, seed=2).astype(dtype), normal(m, n, seed=3).astype(dtype)
    factor, out = pack(matrix), np.full((m, n), np.nan, dtype)
    bound = (1e-6 if dtype == np.float32 else 1e-14) * (1 + k**0.5 * 4)
    multiply(rows, factor, out)
    assert np.allclose(out, exact(rows, matrix), rtol=0, atol=bound)
    multiply(rows, factor, out, shift, start, relu=True)
    assert np.allclose(out, exact(rows, matrix, shift, start, relu=True), rtol=0, atol=bound)
    assert out.min(initial=0) == 0
    multiply(rows, factor, start, start=start)
    assert np.allclose(start, exact(rows, matrix, 0, normal(m, n, seed=3)), rtol=0, atol=bound)


def test_several_matrices_at_once():
    rows, matrices = normal(9, 4, 20), normal(4, 20, 50, seed=1)
    out = np.empty((9, 4, 50), np.float32)
    multiply(rows, pack(matrices), out)
    assert np.allclose(out, np.einsum("msk,skn->msn", rows.astype(float), matrices), atol=1e-5)


def test_rows_of_any_strides():
    square, matrix, out = normal(40, 40), normal(40, 33, seed=1), np.empty((20, 33), np.float32)
    for rows in (square.T[:20], square[::2], square[::-1][:20]):
        multiply(rows, pack(matrix), out)
        assert np.allclose(out, exact(rows, matrix), atol=1e-5)


def test_the_sums_of_long_rows_are_exact_to_a_millionth():
    rows, matrix, out = normal(6, 20000), normal(20000, WIDTH, seed=1), np.empty((6, WIDTH), np.float32)
    multiply(rows, pack(matrix), out)
    expected = exact(rows, matrix)
    assert np.abs(out - expected).max() < 1e-6 * np.abs(expected).max()


def test_however_it_is_cut_the_bits_are_the_same():
    rows, matrix = normal(100, 200), normal(200, 3 * WIDTH + 5, seed=1)
    whole, parts = np.empty((2, 100, 3 * WIDTH + 5), np.float32)
    multiply(rows, pack(matrix), whole)
    for first in range(0, 100, 9):
        multiply(rows[first : first + 9], pack(matrix), parts[first : first + 9])
    assert np.array_equal(whole, parts)
    one_column = np.empty((100, 1), np.float32)
    multiply(rows, pack(matrix[:, -1:]), one_column)
    assert np.array_equal(whole[:, -1:], one_column)


def test_what_is_not_finite_stays():
    rows, out = np.ones((8, 2), np.float32), np.empty((8, 3), np.float32)
    rows[2, 0], rows[3, 1] = np.nan, np.inf
    multiply(rows, pack(np.ones((2, 3), np.float32)), out, relu=True)
    assert np.isnan(out[2]).all() and np.isposinf(out[3]).all() and (np.delete(out, [2, 3], 0) == 2).all()


def test_panels():
    """Every panel holds WIDTH columns, row after row, the last one filled up with the last column, in which nothing is
    that the product would not have anyway."""
    for matrix in (normal(7, WIDTH + 2), normal(WIDTH + 2, 70).T, normal(3, 140, 2 * WIDTH + 4)[0, ::2, ::2]):
        panels = pack(matrix)
        assert panels.shape == (1, 2, len(matrix), WIDTH) and panels.flags.c_contiguous
        assert np.array_equal(panels[0, 0], matrix[:, :WIDTH])
        assert np.array_equal(panels[0, 1, :, :2], matrix[:, WIDTH:])
        assert (panels[0, 1, :, 2:] == matrix[:, -1:]).all()
    assert pack(matrix.astype(np.float64)).shape == matrix.shape  # another library's product takes it as it is


@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 0, 3), (0, 2, 3), (0, 0), (0, 5), (5, 0)])
def test_panels_of_nothing(shape):
    count, depth, columns = (1, *shape)[-3:]
    assert pack(normal(*shape)).shape == (count, -(-columns // WIDTH), depth, WIDTH)


def test_panels_of_several_matrices():
    filters = normal(WIDTH + 5, 6, 10)  # (N, S, K), as filters lie in memory
    for matrices in (filters.transpose(1, 2, 0), np.ascontiguousarray(filters.transpose(1, 2, 0))):
        panels = pack(matrices)
        assert panels.shape == (6, 2, 10, WIDTH)
        for own, matrix in zip(panels, matrices, strict=True):
            assert np.array_equal(own, pack(matrix)[0])


def test_the_blocks_of_the_depth_change_no_bit(monkeypatch):
    rows, matrix, shift, start = normal(13, 700), normal(700, 40), normal(40), normal(13, 40)
    results = []
    for depth in (10_000, 256, 128):
        monkeypatch.setattr(products, "DEPTH", depth)
        out = np.empty((13, 40), np.float32)
        multiply(rows, pack(matrix), out, shift, start, relu=True)
        results.append(out)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
    exact = rows.astype(np.float64) @ matrix + shift + start
    assert (results[0] == 0).any() and np.allclose(results[0], exact.clip(0), atol=1e-3)


def test_a_constant_is_packed_once():
    made = []

    def make(array):
        made.append(array.sum())
        return array * 2

    array = normal(3, 4)
    kept(make, array, 1), kept(make, array, 1)
    assert len(made) == 2  # it may have changed
    array.flags.writeable = False
    assert kept(make, array, 1) is kept(make, array, MANY) and len(made) == 3
    before = len(products._kept)
    del array
    gc.collect()
    assert len(products._kept) == before - 1


@pytest.mark.parametrize(("name", "numbers"), [("+avx512f,+avx", 16), ("+avx,+avx2", 8), ("+neon", 4), ("", 4)])
def test_the_size_of_a_register(monkeypatch, name, numbers):
    monkeypatch.setattr(numba.config, "CPU_FEATURES", name)
    assert micro_kernel.register_size() == numbers


def test_for_a_cpu_without_fused_instructions_too():
    code = (
        "import numpy as np; from tinymrcnn.ops.products import multiply, pack, WIDTH\n"
        "a, b = np.random.default_rng(0).standard_normal((2, 30, 30)).astype(np.float32); out = np.empty_like(a)\n"
        "multiply(a, pack(b), out); print(WIDTH, abs(out - a.astype(float) @ b).max() < 1e-5)"
    )
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "PYTHONPATH": str(products.__file__).split("tinymrcnn/ops")[0],
    }
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert done.stdout.split() == ["8", "True"], done.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the names of the instructions are x86's")
def test_one_instruction_multiplies_and_adds():
    """Without it every product would take twice as long."""
    host = "" if numba.config.CPU_NAME else llvmlite.binding.get_host_cpu_features().flatten()
    if "+fma" not in (numba.config.CPU_FEATURES or host):
        pytest.skip("the CPU for which Numba compiles has no such instruction")
    kernel = numba.njit(products._multiply)
    given = [numba.types.Array(numba.float32, ndim, "A") for ndim in (3, 4, 1, 3, 3)]
    kernel.compile((*given, numba.float32))
    (assembly,) = kernel.inspect_asm().values()
    inner = assembly.count("vfmadd")
    assert inner >= micro_kernel.ROWS * 2 and assembly.count("vmulps") == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    before = get_num_threads()
    a, b = normal(700, 300), normal(300, 900, seed=1)
    expected = np.empty((700, 900), np.float32)
    multiply(a, pack(b), expected)
    try:
        set_num_threads(threads)
        for x, y, z in ((a, b, expected), (a[:100], b, expected[:100])):
            assert np.array_equal(products.matmul(x, y), z)
    finally:
        set_num_threads(before)
