"""Any number of Python threads may call any public function at once, and get the bits that one thread gets.

In processes of their own: what goes wrong here aborts the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
import sys, threading, multiprocessing
import numpy as np
import tinymrcnn
from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import crop_masks, nms, paste_masks
from tinymrcnn.nn import Conv2d
from tinymrcnn.roi import roi_align, roi_pool, roi_warp
from tinymrcnn.threads import set_num_threads

rng = np.random.default_rng(0)
boxes = np.sort(rng.random((1500, 2, 2)).astype(np.float32) * 200, axis=1).reshape(-1, 4)
scores = rng.random(1500).astype(np.float32)
rois = np.c_[np.arange(200) % 2, boxes[:200] / 4].astype(np.float32)
maps = rng.standard_normal((2, 32, 60, 64)).astype(np.float32)
filters, wide = (rng.standard_normal((32, 32, k, k)).astype(np.float32) for k in (3, 5))
rows, matrix = rng.standard_normal((300, 500)).astype(np.float32), rng.standard_normal((400, 500)).astype(np.float32)
masks = rng.random((20, 28, 28)).astype(np.float32)

def with_gradients(function, *arrays):
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    out = function(*leaves)
    out.backward(np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape))
    return [out.data, *(leaf.grad for leaf in leaves)]

calls = {
    "nms": lambda: [nms(boxes, scores, 0.5)],
    "paste_masks": lambda: [paste_masks(masks, boxes[:20], (300, 260))],
    "crop_masks": lambda: [crop_masks(masks, boxes[:20] / 8, 14)],
    "roi_align": lambda: with_gradients(lambda x: roi_align(x, rois, 7, 0.25, 2, True), maps),
    "roi_warp": lambda: with_gradients(lambda x: roi_warp(x, rois, 7, 0.25), maps),
    "roi_pool": lambda: with_gradients(lambda x: roi_pool(x, rois, (5, 7), 0.25), maps),
    "relu": lambda: with_gradients(ops.relu, maps),
    "max_pool2d": lambda: with_gradients(lambda x: ops.max_pool2d(x, 3, 2, 1), maps),
    "winograd": lambda: with_gradients(lambda x, w: ops.conv2d(x, w, None, 1, 1), maps, filters),
    "conv2d": lambda: with_gradients(lambda x, w: ops.conv2d(x, w, None, 2, 2), maps, wide),
    "linear": lambda: with_gradients(ops.linear, rows, matrix),
    "interpolate": lambda: with_gradients(lambda x: ops.interpolate(x, scale_factor=2, mode="bilinear"), maps),
    "matmul": lambda: with_gradients(lambda a, b: a @ b.T, rows, matrix),
}

def together(count, functions, rounds=6):
    # every thread calls every function, each from another one on; returns what differs from one thread's results
    names, found, wrong, start = list(functions), [], [], threading.Barrier(count)
    def work(k):
        set_num_threads(4)
        start.wait()
        for i in range(rounds * len(names)):
            name = names[(i + k) % len(names)]
            try:
                found.append((name, functions[name]()))
            except BaseException as error:
                wrong.append(f"{name}: {error!r}")
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    expected = {name: function() for name, function in functions.items()}
    wrong += [
        name for name, arrays in found
        if not all(np.array_equal(a, b) for a, b in zip(arrays, expected[name], strict=True))
    ]
    return sorted(set(wrong))

set_num_threads(4)
"""
MODEL = """
from tinymrcnn.data import ShapesDataset
model = tinymrcnn.load_model("tinymrcnn/assets/shapes.npz")
image = ShapesDataset(1, (96, 128), seed=1)[0][0]
calls = {"detect": lambda: [np.asarray(value) for value in model.detect([image])[0].values()]}
print(together(2, calls, 4), together(4, calls, 2))
"""
FORKS = """
def in_child(queue):
    queue.put(together(2, {name: calls[name] for name in ("nms", "roi_align", "conv2d", "linear")}, 1))

def fork_while_others_work():
    context = multiprocessing.get_context("fork")
    busy = threading.Thread(target=lambda: [calls["conv2d"]() for _ in range(30)])
    calls["conv2d"]()
    busy.start()
    for _ in range(5):
        queue = context.SimpleQueue()
        child = context.Process(target=in_child, args=(queue,))
        child.start()
        child.join(60)
        print(child.exitcode, queue.get() if child.exitcode == 0 else "hangs")
        if child.exitcode is None:
            child.kill()
    busy.join()

fork_while_others_work()
"""
READ_AHEAD = """
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import TrainConfig

class Mine(ShapesDataset):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        masks = np.ones((len(target["boxes"]), 28, 28), np.float32)
        pasted.append(paste_masks(masks, target["boxes"], image.shape[1:]))
        crop_masks(target["masks"], target["boxes"], 28)
        return image, target

def weights(dataset):
    model = tinymrcnn.build_model("shapes", seed=0)
    tinymrcnn.train(model, dataset, TrainConfig(steps=6, batch_size=2), "{out}/" + type(dataset).__name__)
    return model.state_dict()

pasted = []
plain, mine = weights(ShapesDataset(12, 64, seed=2)), weights(Mine(12, 64, seed=2))
print(len(pasted) >= 12, all(np.array_equal(plain[name], mine[name]) for name in plain))
"""


def python(code, **variables):
    """What a fresh process prints."""
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_operators_in_two_and_four_python_threads():
    code = CALLS + "print(together(2, calls, 3), together(4, calls, 2))"
    assert python(code, OPENBLAS_NUM_THREADS="2") == "[] []\n"


def test_a_whole_model_in_two_and_four_python_threads():
    assert python(CALLS + MODEL) == "[] []\n"


def test_the_first_calls_of_a_process_with_a_cold_cache(tmp_path):
    code = CALLS + "print(together(4, {name: calls[name] for name in ('nms', 'roi_pool')}, 1))"  # every thread compiles
    for _ in ("cold", "warm"):
        assert python(code, NUMBA_CACHE_DIR=str(tmp_path)) == "[]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_forked_children_of_a_busy_process_compute_and_do_not_hang():
    assert python(CALLS + FORKS) == "0 []\n" * 5


def test_a_data_set_that_calls_kernels_is_read_ahead_while_a_model_trains(tmp_path):
    assert python(CALLS + READ_AHEAD.replace("{out}", str(tmp_path))).endswith("True True\n")
