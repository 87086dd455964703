"""The trained network on one small picture, forward and backward, to be walked through in a debugger: see debugging.md.

NUMBA_DISABLE_JIT=1 python lessons/step_through.py
"""

# ruff: noqa: F401  (the names at which one may want to stop)

import functools
import operator

import tinymrcnn
from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes.masks import paste_kernel
from tinymrcnn.boxes.nms import nms_cpu
from tinymrcnn.data import ShapesDataset
from tinymrcnn.files import SHIPPED_MODEL
from tinymrcnn.models import box_branch, fpn, mask_branch, mask_rcnn, pooler, resnet, rpn, two_stage
from tinymrcnn.roi.roi_align import roi_align_backward_cpu, roi_align_forward_cpu, taps
from tinymrcnn.threads import set_num_threads

model = tinymrcnn.load_model(SHIPPED_MODEL, "cpu")
image, target = ShapesDataset(20, (64, 96), seed=1)[14]  # 64 high, 96 wide; training used seed 0
set_num_threads(1)  # all happens in the one thread that the debugger follows

breakpoint()

found = model.eval()([image])[0]
print("found:", *(f"{label} with {score:.3f}" for label, score in zip(found["labels"], found["scores"], strict=True)))

losses = model.train()([image], [target])
functools.reduce(operator.add, losses.values()).backward()
print("losses:", *(f"{name} {loss.item():.4f}" for name, loss in losses.items()))
