"""The CUDA kernels on a machine without a GPU. test_kernels.py runs this file in processes of their own:

    NUMBA_ENABLE_CUDASIM=1 python tests/cuda_without_gpu.py simulate    # against the CPU kernels, in Numba's simulator
    python tests/cuda_without_gpu.py compile                            # to PTX, counting the float64 instructions

Both make the same calls, through the public functions: the CPU's arrays are given to the CUDA kernels. They print
JSON, {dtype: {kernel: the largest error relative to the CPU kernels, or the number of float64 instructions}}.
"""

import importlib
import json
import re
import struct
import sys

import numpy as np
from roi_reference import AWKWARD_ROIS

from tinymrcnn import kernels
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import BACKENDS
from tinymrcnn.nn import AdamW, Parameter
from tinymrcnn.ops import batch_norm, conv2d, max_pool2d, relu
from tinymrcnn.roi import ps_roi_pool_unchecked, roi_align, roi_crop, roi_pool, roi_warp

nms = importlib.import_module("tinymrcnn.boxes.nms")  # `nms` in tinymrcnn.boxes is the function
CPU = BACKENDS["cpu"]
RUNS_CUDA_KERNELS = CPU._replace(host_view=None)


def calls(dtype):
    """Every kernel, in calls that return lists of arrays."""
    rng = np.random.default_rng(0)
    features, rois = rng.normal(size=(2, 2, 7, 10)).astype(dtype), AWKWARD_ROIS.astype(dtype)
    upstream = rng.normal(size=(len(rois), 2, 3, 2)).astype(dtype)

    def forward_and_backward(operator, *settings):
        leaf = Tensor(features, requires_grad=True)
        out = operator(leaf, rois, (3, 2), 0.5, *settings)
        out.backward(upstream)
        return [out.data, leaf.grad]

    yield lambda: forward_and_backward(roi_pool)
    yield lambda: forward_and_backward(roi_warp, 2)
    yield lambda: forward_and_backward(roi_align, 2, True, "max")
    for aligned in (False, True):
        for sampling_ratio in (-1, 2):
            yield lambda a=aligned, s=sampling_ratio: forward_and_backward(roi_align, s, a)

    def operator_and_gradients(operator, *arrays):
        leaves = [Tensor(array, requires_grad=True) for array in arrays]
        out = operator(*leaves)
        out.backward(np.cos(np.arange(out.size)).reshape(out.shape).astype(dtype))
        return [out.data, *(leaf.grad for leaf in leaves)]

    def position_sensitive(x, group_size, split):
        return ps_roi_pool_unchecked(x, rois, (3, 2), 0.5 * split, group_size, split)

    def crop(x, corners):
        return roi_crop(x, corners, (3, 2), 0.5)

    places = rng.normal(size=(2, 12, 7, 10)).astype(dtype)
    yield lambda: operator_and_gradients(lambda x: position_sensitive(x, None, 1), places)
    yield lambda: operator_and_gradients(lambda x: position_sensitive(x, (1, 2), 3), places)
    yield lambda: operator_and_gradients(crop, features, rois)

    image, filters = rng.normal(size=(2, 3, 6, 7)).astype(dtype), rng.normal(size=(2, 3, 3, 2)).astype(dtype)

    yield lambda: operator_and_gradients(lambda x, w: conv2d(x, w, None, 2, 2, 2), image, filters)
    shift = filters[:, 0, 0, 0].copy()
    yield lambda: operator_and_gradients(lambda x, w, b: conv2d(x, w, b, relu=True), image, filters, shift)
    yield lambda: operator_and_gradients(lambda x: max_pool2d(x, 3, 2, 1), image)

    yield lambda: operator_and_gradients(relu, image)
    channels = [np.ones(3, dtype), np.zeros(3, dtype)]
    for training in (False, True):
        for residual in (False, True):

            def norm(x, w, b, y, t=training, r=residual):
                return batch_norm(x, channels[0] / 2, channels[1] + 2, w, b, t, residual=y if r else None, relu=r)

            yield lambda f=norm: operator_and_gradients(f, image, *channels, image[::-1])[:4]

    def three_steps():
        p = Parameter(image.copy())
        optimizer = AdamW([p], lr=0.1)
        for p.grad in (image[::-1], filters[:, :, :1, :1] + image, image * 2):
            optimizer.step()
        return [p.data, *optimizer.state["square"]]

    yield three_steps

    corners = rng.integers(0, 20, (110, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 20, (110, 2))], axis=1).astype(dtype)
    groups = np.repeat([0, 1, 5], [75, 34, 1])  # of more than 64 boxes, fewer, one
    scores = rng.random(110).astype(dtype)
    yield lambda: [nms.batched_nms(boxes, scores, groups, 0.3)]


def watch_launches(handle):
    """handle(kernel, elements, *args) instead of kernels.launch."""
    for module in (kernels, nms):
        module.launch = handle


def simulate(dtype):
    errors, seen, launch = {}, set(), kernels.launch

    def launch_and_note(kernel, elements, *args):
        seen.add(kernel.fn.__name__)
        launch(kernel, elements, *args)

    for call in calls(dtype):
        BACKENDS["cpu"] = CPU
        expected = call()
        BACKENDS["cpu"] = RUNS_CUDA_KERNELS
        seen.clear()
        watch_launches(launch_and_note)
        result = call()
        watch_launches(launch)
        for a, b in zip(result, expected, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            for name in seen:
                errors[name] = max(errors.get(name, 0), float(abs(a - b).max() / abs(b).max()))
    return errors


def layout(arg):
    if isinstance(arg, np.ndarray):
        return arg.dtype.char, arg.ndim, arg.flags.c_contiguous
    return type(arg), None, None


def compile_to_ptx(dtype):
    from types import SimpleNamespace

    import numba.cuda.dispatcher

    capability = (8, 0)
    # functions called by kernels ask the driver what to compile for
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    counts = {}

    def compile_instead(kernel, elements, *args):
        if kernel.py_func.__name__ in counts:
            return
        signature, codes = kernels.parameters(*map(layout, args))
        assert str(signature) == str(numba.types.void(*map(numba.typeof, args)))
        ptx = kernels.compile_to_ptx(kernel, signature, capability)
        # the parameters that the code takes are those that a launch passes, one by one
        (entry,) = re.findall(r"[.]entry \w+\((.*?)\)", ptx, re.DOTALL)
        sizes = [int(bits) // 8 for bits in re.findall(r"^\s*[.]param [.][a-z]+(\d+) ", entry, re.MULTILINE)]
        assert sizes == [struct.calcsize(code) for code in codes[1:]], kernel.py_func.__name__
        counts[kernel.py_func.__name__] = ptx.count(".f64")

    BACKENDS["cpu"] = RUNS_CUDA_KERNELS
    watch_launches(compile_instead)
    for call in calls(dtype):
        call()
    return counts


if __name__ == "__main__":
    work = {"simulate": simulate, "compile": compile_to_ptx}[sys.argv[1]]
    print(json.dumps({dtype.__name__: work(dtype) for dtype in (np.float32, np.float64)}))
