"""Which library an array belongs to, moving arrays, memory layout; the imitation of a GPU and how strict it is."""

import contextvars
import ctypes
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
from fake_device import FakeArray

from tinymrcnn import backend, kernels
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import (
    BACKENDS,
    array_module,
    backend_of,
    channels_first,
    channels_last,
    elementwise,
    empty,
    empty_like,
    like,
    memory_order,
    resolve_device,
    scatter_add,
    tf32,
    to_device,
    to_numpy,
)
from tinymrcnn.ops.products import matmul
from tinymrcnn.roi import boxes_to_rois
from tinymrcnn.threads import set_num_threads

NHWC = (0, 2, 3, 1)


def feature_map(n=2, c=3, h=4, w=5, dtype=np.float32):
    """(n, c, h, w), channels-last in memory."""
    return np.arange(n * c * h * w, dtype=dtype).reshape(n, h, w, c).transpose(0, 3, 1, 2)


# Devices


@pytest.fixture
def cupy(monkeypatch):
    """Puts an imitation of the module cupy where it would be imported: cupy(zeros=function)."""

    def forget():
        backend.cuda_problem.cache_clear()
        backend._import_cupy.cache_clear()

    def install(**functions):
        module = types.ModuleType("cupy") if functions else None  # None: the import fails
        if functions:
            module.ndarray, module.asnumpy = FakeArray, FakeArray._to_host
            vars(module).update(functions)
        monkeypatch.setitem(sys.modules, "cupy", module)
        monkeypatch.delitem(BACKENDS, "cuda", raising=False)
        forget()

    forget()
    before = BACKENDS.get("cuda")
    yield install
    forget()
    BACKENDS.pop("cuda", None)
    if before is not None:
        BACKENDS["cuda"] = before


def no_driver(size):
    raise OSError("CUDA driver version is insufficient")


def test_a_machine_without_cupy(cupy):
    cupy()
    assert "CuPy cannot be imported" in backend.cuda_problem() and ".[gpu]" in backend.cuda_problem()
    assert resolve_device("auto") == "cpu" == resolve_device("cpu")
    with pytest.raises(RuntimeError, match="'cuda' cannot be used.*CuPy cannot be imported.*--device cpu"):
        resolve_device("cuda")
    with pytest.raises(RuntimeError, match="--device cpu"):
        to_device(np.ones(3), "cuda")


def test_that_cupy_imports_does_not_mean_that_a_gpu_is_there(cupy):
    cupy(zeros=no_driver)
    assert "OSError: CUDA driver version is insufficient" in backend.cuda_problem()
    assert resolve_device("auto") == "cpu"
    with pytest.raises(RuntimeError, match="driver version is insufficient"):
        resolve_device("cuda")


def test_a_gpu_that_works_is_asked_once(cupy):
    asked = []

    def zeros(size):
        asked.append(size)
        return FakeArray(np.zeros(size))

    cupy(zeros=zeros)
    assert backend.cuda_problem() is None
    assert resolve_device("auto") == "cuda" == resolve_device("cuda")
    assert len(asked) == 1  # the question waits for the GPU, so moving an array must not ask it again


def test_an_unknown_device():
    with pytest.raises(ValueError, match="'gpu': use 'cpu', 'cuda' or 'auto'"):
        resolve_device("gpu")


def test_the_library_of_an_array(fake_device):
    assert backend_of(np.ones(3)).device == backend_of(np.float32(1), np.ones(3)).device == "cpu"
    assert array_module(np.ones(3), np.zeros(2, int)) is np
    on_device = to_device(np.ones(3), "fake")
    assert backend_of(on_device, on_device).device == "fake"
    assert array_module(on_device).__name__ == "fake"


def test_two_libraries_in_one_operation(fake_device):
    with pytest.raises(TypeError, match="mixes a numpy array on 'cpu' with a fake array on 'fake'.*to_device"):
        backend_of(np.ones(3), to_device(np.ones(3), "fake"))


@pytest.mark.parametrize("thing", [3.0, [1, 2], None, "array"])
def test_what_is_no_array(thing):
    with pytest.raises(TypeError, match=f"Expected an array, got builtins.{type(thing).__name__}"):
        array_module(np.ones(3), thing)


def test_moving_arrays(fake_device):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = to_device(array, "fake")
    assert isinstance(there, fake_device) and there.dtype == np.float32 and there.shape == (2, 3)
    assert to_device(there, "fake") is there
    assert to_device(array, "cpu") is array
    array[0, 0] = 99  # a copy, not a window
    assert fake_device.copies == 0
    back = to_device(there, "cpu")
    assert isinstance(back, np.ndarray) and back[0, 0] == 0
    assert fake_device.copies == 1
    assert to_numpy(array) is array
    assert np.array_equal(to_numpy(there), back) and fake_device.copies == 2
    assert isinstance(to_numpy(np.float32(3)), np.ndarray)


def test_like_moves_host_data_beside_an_array(fake_device):
    there = to_device(np.ones(3), "fake")
    assert isinstance(like([1, 2], there), fake_device)
    assert isinstance(like(np.ones(2, np.float32), there), fake_device)
    assert isinstance(like([1, 2], np.ones(3)), np.ndarray)


@pytest.mark.parametrize("shape", [(), (3,), (0, 3, 4, 5), (2, 3, 4, 5), (2, 3, 1, 1)])
def test_moving_keeps_the_memory_order(shape, fake_device):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    if len(shape) == 4:
        array = channels_first(np.ascontiguousarray(array.transpose(NHWC)))
    there = to_device(array, "fake")
    assert there.shape == shape and np.array_equal(to_numpy(there), array)
    if len(shape) == 4:
        assert there.transpose(NHWC).flags.c_contiguous


def test_importing_the_package_imports_neither_numpy_nor_cupy():
    lines = ["import sys, tinymrcnn", "assert 'numpy' not in sys.modules"]
    lines += ["import tinymrcnn.ops", "assert 'cupy' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


# Memory layout


def test_memory_order():
    array = np.zeros((2, 3, 4, 5))
    assert memory_order(array) == (0, 1, 2, 3)
    assert memory_order(feature_map()) == NHWC
    assert memory_order(array[:, ::-1, ::2]) == (0, 1, 2, 3)
    assert memory_order(array.T) == (3, 2, 1, 0)
    assert memory_order(np.zeros(())) == ()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), NHWC, (3, 2, 1, 0)])
def test_empty_has_the_order_that_it_was_asked_for(order):
    array = empty(np, (2, 3, 4, 5), np.float32, order)
    assert array.shape == (2, 3, 4, 5) and array.dtype == np.float32 and memory_order(array) == order


def test_like_arrays_keep_shape_dtype_and_order(fake_device):
    for array in (feature_map(), to_device(feature_map(), "fake")):
        assert memory_order(empty_like(array)) == NHWC
        assert empty_like(array).shape == (2, 3, 4, 5) and empty_like(array).dtype == np.float32
        assert empty_like(array, np.int64).dtype == np.int64
        assert isinstance(empty_like(array), type(array))


def test_elementwise_keeps_the_order_of_the_first_operand_of_full_shape(fake_device):
    ours, c_ordered, column = feature_map(), np.ones((2, 3, 4, 5), np.float32), np.ones((1, 3, 1, 1), np.float32)
    for move in (lambda array: array, lambda array: to_device(array, "fake")):
        x, y, bias = move(ours), move(c_ordered), move(column)
        for operands in ((x, x), (x, y), (x, bias), (bias, x), (x, 2.5), (2.5, x)):
            result = elementwise("add", *operands)
            assert memory_order(result) == NHWC and result.dtype == np.float32
        assert memory_order(elementwise("add", y, x)) == (0, 1, 2, 3)
        assert np.array_equal(to_numpy(elementwise("multiply", x, y)), ours)


def test_elementwise_between_small_and_wide():
    column, row = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)
    assert np.array_equal(elementwise("multiply", column, row), np.tile(row, (3, 1)))
    assert elementwise("exp", np.zeros((), np.float32)).shape == ()
    with pytest.raises(ValueError, match="broadcast"):
        elementwise("add", np.ones(3), np.ones(4))


def test_channels_last_is_a_view_where_the_memory_is_so_already(fake_device):
    ours = feature_map()
    assert np.shares_memory(channels_last(ours), ours)
    copied = channels_last(np.ascontiguousarray(ours))
    assert copied.flags.c_contiguous and np.array_equal(copied, ours.transpose(NHWC))
    assert channels_last(to_device(np.ascontiguousarray(ours), "fake")).flags.c_contiguous


def test_channels_first_undoes_channels_last():
    ours = feature_map()
    assert np.array_equal(channels_first(channels_last(ours)), ours)
    assert memory_order(channels_first(channels_last(ours))) == NHWC


def test_scatter_add_counts_repeated_indices(fake_device):
    for move in (lambda array: array, lambda array: to_device(array, "fake")):
        target = move(np.zeros((2, 3), np.float32))
        scatter_add(target, (move(np.array([0, 0, 1])), move(np.array([2, 2, 0]))), move(np.ones(3, np.float32)))
        assert np.array_equal(to_numpy(target), [[0, 0, 2], [1, 0, 0]])


def test_nothing_belongs_to_no_library():
    for nothing in (array_module, backend_of, lambda: boxes_to_rois([])):
        with pytest.raises(TypeError, match="No array was given"):
            nothing()


# Kernels


@kernels.cpu_kernel
def add_scaled_cpu(thread, threads, source, target, factor):
    for i in range(thread, target.size, threads):
        target[i] += factor * source[i]


@kernels.cuda_kernel
def add_scaled_cuda(source, target, factor):
    """The imitation runs the one above."""


def test_the_cpu_kernel_runs_on_host_arrays():
    def on_cuda(*args):
        raise AssertionError("no CUDA kernel runs here")

    source, target = np.arange(3.0), np.ones(3)
    kernels.run(add_scaled_cpu, on_cuda, 3, source, target, 2)
    assert np.array_equal(target, [1, 3, 5])
    kernels.run(add_scaled_cpu, on_cuda, 10**9, source, target, 2)  # worth all threads
    assert np.array_equal(target, [1, 5, 9])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_launch_reaches_the_arrays_of_the_device(fake_device, dtype):
    """Through all that it passes: where they are, their shapes, and their strides."""
    source, target = (to_device(array.astype(dtype), "fake") for array in (np.arange(3), np.ones(6)))
    for part in (target[::2], target[::-2]):
        kernels.run(add_scaled_cpu, add_scaled_cuda, 3, source, part, dtype(2))
    assert np.array_equal(to_numpy(target), [1, 5, 3, 3, 5, 1])
    cuda = BACKENDS["cuda"].module.cuda
    with cuda.Stream(non_blocking=True) as stream:
        kernels.run(add_scaled_cpu, add_scaled_cuda, 3, source[:0], target[:0], dtype(2))
        kernels.launch(add_scaled_cuda, 0, source, target, dtype(2))  # nothing to do
    assert cuda.launched == [("add_scaled_cuda", number) for number in (0, 0, stream.ptr)]
    assert fake_device.launches == 3
    with pytest.raises(TypeError, match="mixes"):
        kernels.run(add_scaled_cpu, add_scaled_cuda, 3, np.ones(3), source, 2)


def test_each_computes_every_element_once():
    """Of so many that they would be shared between threads."""

    @kernels.each
    def doubled(i, x, out):
        out[i] += 2 * x[i]

    x, out = np.arange(400_000.0), np.ones(400_000)
    with_threads = contextvars.copy_context()
    with_threads.run(set_num_threads, 3)
    with_threads.run(doubled, x, out)
    np.testing.assert_array_equal(out, 2 * x + 1)


def test_an_array_without_a_host_view_goes_to_the_cuda_kernel(monkeypatch):
    launches = []

    class OnCuda:
        def __getitem__(self, size):
            return lambda *args: launches.append((size, len(args)))

    monkeypatch.setitem(BACKENDS, "cpu", BACKENDS["cpu"]._replace(host_view=None))
    x = np.ones(3)
    kernels.run(None, OnCuda(), 1000, x, x, 2)
    kernels.run(None, OnCuda(), 0, x, x, 2)  # an empty launch would be an error
    assert launches == [(kernels.launch_size(1000), 3)]
    blocks, threads = kernels.launch_size(1000)
    assert kernels.launch_size(10**9)[0] == kernels.MAX_BLOCKS
    assert 1000 <= blocks * threads < 1000 + threads


class Driver:
    """What a launch needs of CuPy, and what the driver would be told.

    launches: (kernel, stream, blocks, threads, bytes of the arguments) of each. compiled: what was compiled."""

    def __init__(self, monkeypatch):
        self.stream, self.launches, self.compiled = 0, [], []
        gpu = types.SimpleNamespace(
            driver=self,
            runtime=types.SimpleNamespace(getDevice=lambda: 0, setDevice=lambda number: None),
            get_current_stream=lambda: types.SimpleNamespace(ptr=self.stream),
            Device=lambda number: types.SimpleNamespace(compute_capability="90"),
            Module=lambda: types.SimpleNamespace(
                load=lambda code: None, get_function=lambda name: types.SimpleNamespace(ptr=name)
            ),
        )
        module = types.SimpleNamespace(cuda=gpu, ndarray=OnGPU)
        monkeypatch.setitem(BACKENDS, "cuda", BACKENDS["cpu"]._replace(device="cuda", array_type=OnGPU, module=module))
        monkeypatch.setattr(kernels, "machine_code", lambda *what: self.compiled.append(what))
        kernels._loaded.cache_clear()

    def launchKernel(self, kernel, *rest):
        (blocks, _, _, threads, _, _, _, stream, without, options) = rest
        first, values, second, size, end = (ctypes.c_size_t * 5).from_address(options)
        assert (first, second, end, without) == (1, 2, 0, 0)
        values = ctypes.string_at(values, ctypes.c_size_t.from_address(size).value)
        self.launches.append((kernel, stream, blocks, threads, values))


class OnGPU:
    """An array as CuPy describes it."""

    def __init__(self, host):
        self.data = types.SimpleNamespace(ptr=host.ctypes.data)
        for name in ("dtype", "ndim", "flags", "size", "itemsize", "shape", "strides"):
            setattr(self, name, getattr(host, name))


def test_a_kernel_is_launched_with_its_arguments_on_cupys_current_stream(monkeypatch):
    def some_kernel(*args):
        """Its code is of no interest here."""

    driver, kernel = Driver(monkeypatch), kernels.cuda_kernel(some_kernel)
    x = np.zeros((2, 3), np.float32)
    driver.stream = 7
    for host in (x, x.T):
        array = OnGPU(host)
        kernels.launch(kernel, 1000, True, array, np.float32(0.5), 3, np.float64(2))
        name, stream, blocks, threads, passed = driver.launches.pop()
        assert (name, stream, (blocks, threads)) == ("some_kernel", 7, kernels.launch_size(1000))
        # each number at a multiple of its size: two pointers that Numba leaves empty, elements, their bytes, where
        expected = struct.pack("@?9qfqd", True, 0, 0, 6, 4, host.ctypes.data, *host.shape, *host.strides, 0.5, 3, 2)
        assert passed == expected
    assert [str(signature) for _, signature, _ in driver.compiled] == [
        f"(bool, Array(float32, 2, '{order}', False, aligned=True), float32, int64, float64) -> none" for order in "CA"
    ]
    kernels.launch(kernel, 10, True, array, np.float32(0.5), 3, np.float64(2))
    assert len(driver.compiled) == 2 and len(driver.launches) == 1
    kernels.launch(kernel, 0, True, array, np.float32(0.5), 3, np.float64(2))
    assert len(driver.launches) == 1


def test_the_imitation_counts_what_costs_time(fake_device):
    def cost(work):
        fake_device.reset()
        work()
        return fake_device.launches, fake_device.waits, fake_device.copies, fake_device.uploads

    x = to_device(np.arange(6, dtype=np.float32).reshape(2, 3), "fake")
    xp, mask = array_module(x), x > 2
    assert cost(lambda: x + 1) == cost(lambda: x.sum(axis=0)) == cost(lambda: xp.exp(x, out=x)) == (1, 0, 0, 0)
    assert cost(lambda: x[None, :, 1].T.reshape(-1)) == cost(lambda: xp.empty(3)) == (0, 0, 0, 0)  # views, only memory
    assert cost(lambda: x.__setitem__(0, 1)) == cost(lambda: x.__iadd__(1)) == cost(lambda: x.fill(2)) == (1, 0, 0, 0)
    assert cost(lambda: x[mask]) == cost(lambda: xp.flatnonzero(mask)) == (1, 1, 0, 0)
    assert cost(lambda: float(x[0, 0])) == cost(lambda: to_numpy(x)) == (0, 1, 1, 0)
    assert cost(lambda: to_device(np.zeros((2, 3, 4, 5)).transpose(0, 2, 1, 3), "fake")) == (0, 0, 0, 1)
    assert cost(lambda: x.__setitem__(mask, 1)) == cost(lambda: x.fill(x[0, 0])) == (1, 1, 0, 0)
    row, kernel = x[0], (add_scaled_cpu, add_scaled_cuda)
    assert cost(lambda: kernels.run(*kernel, 3, row, row, 2)) == (1, 0, 0, 0)
    assert cost(lambda: kernels.run(*kernel, 3, np.ones(3), np.ones(3), 2)) == (0, 0, 0, 0)
    assert cost(lambda: xp.bincount(xp.asarray(np.ones(3, int)))) == (1, 2, 0, 1)
    assert cost(lambda: xp.where(mask, x, 0)) == (1, 0, 0, 0) and cost(lambda: xp.where(mask))[1] == 1


# The imitation of CuPy: each of these would be a mistake on a GPU


@pytest.fixture
def x(fake_device):
    return to_device(np.arange(6, dtype=np.float32).reshape(2, 3), "fake")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x, xp: np.asarray(x),
        lambda x, xp: np.array([x, x]),
        lambda x, xp: np.exp(x),
        lambda x, xp: np.add(x, x),
        lambda x, xp: np.sum(x),
        lambda x, xp: np.concatenate([x, x]),
        lambda x, xp: np.zeros_like(x),
        lambda x, xp: x + np.ones((2, 3), np.float32),
        lambda x, xp: np.ones((2, 3), np.float32) * x,
        lambda x, xp: x.__iadd__(np.ones((2, 3), np.float32)),
        lambda x, xp: x > np.ones((2, 3)),
        lambda x, xp: x @ np.ones((3, 2), np.float32),
        lambda x, xp: xp.maximum(x, np.ones((2, 3))),
        lambda x, xp: xp.concatenate([x, np.ones((2, 3))]),
        lambda x, xp: xp.where(x > 0, x, np.zeros((2, 3))),
        lambda x, xp: xp.add(x, x, out=np.zeros((2, 3), np.float32)),
        lambda x, xp: x[np.array([0, 1])],
        lambda x, xp: x[:, np.array([True, False, True])],
        lambda x, xp: x[[0, 1]],
        lambda x, xp: x.__setitem__(0, np.ones(3)),
        lambda x, xp: x.__setitem__(np.array([0]), 1),
        lambda x, xp: x.sum(axis=0).dot(np.ones(3)),
        lambda x, xp: range(x[0, 0]),
        lambda x, xp: x.__setitem__(0, [1, 2, 3]),
        lambda x, xp: x + [1, 2, 3],
        lambda x, xp: xp.maximum(x, [1, 2, 3]),
        lambda x, xp: xp.where(x > 0, x, [1, 2, 3]),
        lambda x, xp: xp.stack([x[0], [1, 2, 3]]),
        lambda x, xp: xp.add(x, x, where=x > 0),
        lambda x, xp: x.max(initial=0),
        lambda x, xp: x.sum(where=x > 0),
        lambda x, xp: xp.clip(x, min=0),
        lambda x, xp: xp.full((2, 3), 1, like=x),
        lambda x, xp: xp.add.at(xp.zeros(3, np.int8), xp.zeros(2, int), 1),  # CuPy has no atomic add of int8
        lambda x, xp: xp.negative(xp.zeros(2, "m8[s]")),
        lambda x, xp: x.astype("m8[s]") + x.astype("m8[s]"),
        lambda x, xp: hash(x),
    ],
)
def test_mistakes_that_raise_a_type_error(mistake, x, fake_device):
    with pytest.raises(TypeError):
        mistake(x, array_module(x))
    assert fake_device.copies == 0


@pytest.mark.parametrize(
    "name",
    "errstate insert block random nditer ndenumerate nanpercentile vecdot histogram_bin_edges no_such_function".split(),
)
def test_functions_that_cupy_lacks(name, x):
    with pytest.raises(AttributeError):
        getattr(array_module(x), name)


@pytest.mark.parametrize("name", ["tofile", "__array_interface__", "base", "ctypes", "tobytes"])
def test_attributes_that_the_device_does_not_offer(name, x):
    with pytest.raises(AttributeError):
        getattr(x, name)


def test_numbers_of_repeats_are_looked_at(x, fake_device):
    xp = array_module(x)
    assert x.repeat(2).shape == (12,) and xp.repeat(x, 2, axis=0).shape == (4, 3) and fake_device.waits == 0
    assert xp.repeat(x, xp.array([1, 2]), axis=0).shape == (3, 3) and fake_device.waits == 2


@pytest.mark.parametrize("kind", ["quicksort", "mergesort", "heapsort"])
def test_ways_of_sorting_that_cupy_lacks(x, kind):
    for sort in (array_module(x).argsort, lambda x, kind: x.argsort(kind=kind)):
        with pytest.raises(ValueError, match="sorts stably"):
            sort(x, kind=kind)


def test_memory_that_nobody_has_written(x, fake_device):
    xp = array_module(x)
    assert np.isnan(to_numpy(xp.empty((2, 3), np.float32))).all() and np.isnan(to_numpy(xp.empty_like(x))).all()
    fake_device.largest = 100
    assert (x + x).nbytes == 24
    with pytest.raises(MemoryError, match=r"Out of memory allocating 120 bytes \(allocated so far: "):
        xp.zeros((5, 3))


def test_copies_to_the_host_are_counted(x, fake_device):
    one = x.sum()
    for count, look in enumerate([float, int, bool, lambda a: a.item(), lambda a: a.tolist(), to_numpy], start=1):
        look(one)
        assert fake_device.copies == count
    x.shape, len(x), x.dtype, repr(x), np.shape(x), np.ndim(x)
    assert fake_device.copies == 6


def test_results_come_c_ordered_and_views_stay_views(fake_device):
    x = to_device(feature_map() / 100, "fake")
    xp = array_module(x)
    assert memory_order(x) == NHWC
    for result in (x + 1, -x, x > 0, xp.exp(x), xp.add(x, x), x.copy(), xp.where(x > 0, x, 0), x.clip(0, 1)):
        assert memory_order(result) == (0, 1, 2, 3) and result.flags.c_contiguous
    for result in (x.astype(np.float64), xp.zeros_like(x), xp.full_like(x, 2), xp.array(x)):
        assert memory_order(result) == NHWC
    out = empty_like(x)
    assert xp.add(x, x, out=out) is out and memory_order(out) == NHWC
    view = x.transpose(NHWC)[0]
    view[...] = 7
    assert to_numpy(x[0]).min() == 7 and to_numpy(x[1]).max() != 7


def test_reductions_give_arrays_without_dimensions(x):
    xp = array_module(x)
    for result in (x.sum(), x.max(), xp.sum(x), xp.argmax(x), x.mean(), x[0, 1], (x > 0).any(), xp.array_equal(x, x)):
        assert isinstance(result, FakeArray) and result.shape == ()


def test_what_works_on_the_device(x):
    """A tour of NumPy's functions, to be sure that strictness does not forbid what CuPy allows."""
    xp, host = array_module(x), to_numpy(x)
    tour = {
        "arithmetic": (lambda xp, x: 2 - x * x / 3 + x**2 // 2 % 5),
        "comparison": (lambda xp, x: ((x >= 1) & (x < 4)) | ~(x != 2) ^ (x == 3)),
        "a matrix product": (lambda xp, x: x @ x.T),
        "stacking": (lambda xp, x: xp.stack([x, x], axis=1)),
        "joining": (lambda xp, x: xp.concatenate([x, x[:1]])),
        "choosing": (lambda xp, x: xp.where(x > 2, x, 0.5)),
        "a mask": (lambda xp, x: x[x > 2]),
        "indices": (lambda xp, x: x[:, xp.asarray([2, 0])]),
        "a new axis": (lambda xp, x: x[None, ..., None]),
        "sorting": (lambda xp, x: xp.argsort(-x, axis=1, kind="stable")),
        "cumulation": (lambda xp, x: xp.cumsum(x, axis=1)),
        "making": (lambda xp, x: xp.arange(3, dtype=xp.float32) + xp.full((2, 1), 2, x.dtype) + xp.zeros_like(x)),
        "a linear algebra": (lambda xp, x: xp.linalg.norm(x, axis=1)),
        "einsum": (lambda xp, x: xp.einsum("ij,kj->ik", x, x)),
        "padding": (lambda xp, x: xp.pad(x, ((0, 0), (1, 1)))),
        "taking along": (lambda xp, x: xp.take_along_axis(x, xp.argmax(x, axis=1)[:, None], axis=1)),
        "counting": (lambda xp, x: xp.bincount(x.astype(int).ravel(), minlength=8)),
        "windows": (lambda xp, x: xp.lib.stride_tricks.sliding_window_view(x, (1, 2))),
        "moving axes": (lambda xp, x: xp.moveaxis(x, 0, 1)),
        "a cast": (lambda xp, x: x.astype(xp.int64)),
    }
    for name, compute in tour.items():
        there, here = compute(xp, x), compute(np, host)
        assert isinstance(there, FakeArray), name
        assert there.dtype == here.dtype and np.array_equal(to_numpy(there), here), name
    assert [a.shape for a in xp.split(x, 3, axis=1)] == [(2, 1)] * 3
    assert [a.tolist() for a in xp.nonzero(x > 4)] == [[1], [2]]
    rows = list(x)
    assert len(rows) == 2 and isinstance(rows[0], FakeArray)
    x += x
    x[0] = x[1]
    x[:, 0] = 5
    assert np.array_equal(to_numpy(x), [[5, 8, 10], [5, 8, 10]])


def test_the_fake_device_leaves_nothing_behind():
    assert set(BACKENDS) <= {"cpu", "cuda"}
    with pytest.raises(TypeError, match="Expected an array"):
        Tensor(FakeArray(np.ones(3)))


def test_tf32_is_a_switch_of_cupys(monkeypatch):
    kinds = {"float32": 1}
    products = types.SimpleNamespace(
        COMPUTE_TYPE_TF32=7,
        COMPUTE_TYPE_DEFAULT=1,
        set_compute_type=lambda dtype, kind: kinds.update({np.dtype(dtype).name: kind}),
        get_compute_type=lambda dtype: kinds[np.dtype(dtype).name],
    )
    monkeypatch.setattr(backend, "_import_cupy", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy._core._routines_linalg", products)
    assert not tf32() and kinds == {"float32": 1}  # a question changes nothing
    assert tf32(True) and tf32() and kinds == {"float32": 7}
    assert not tf32(False) and not tf32() and kinds == {"float32": 1}


def test_the_cupy_that_is_installed_has_the_switch():
    """It can be imported without a GPU, but not asked."""
    products = pytest.importorskip("cupy._core._routines_linalg")
    kinds = products.COMPUTE_TYPE_TF32, products.COMPUTE_TYPE_DEFAULT
    assert all(isinstance(kind, int) for kind in kinds) and kinds[0] != kinds[1]
    assert callable(products.set_compute_type) and callable(products.get_compute_type)


@pytest.mark.cuda
def test_tf32_rounds_the_factors_of_products():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
    exact, before, errors = a.astype(np.float64) @ b, tf32(), []
    try:
        for allowed in (False, True):
            tf32(allowed)
            errors.append(abs(to_numpy(matmul(to_device(a, "cuda"), to_device(b, "cuda"))) - exact).max())
    finally:
        tf32(before)
    assert errors[0] < 1e-4 < 1e-3 < errors[1] < 0.1  # TF32 needs a GPU of 2020 (sm_80) or later


@pytest.mark.cuda
def test_the_real_device():
    x = to_device(feature_map(), "cuda")
    assert backend_of(x).device == "cuda" and memory_order(x) == NHWC
    assert memory_order(elementwise("add", x, x)) == NHWC
    assert np.array_equal(to_numpy(elementwise("add", x, 1)), feature_map() + 1)
    with pytest.raises(TypeError, match="numpy.*cupy"):
        backend_of(np.ones(3), x)
