"""The cases on which a learner's functions are tried: what the package gives for the same arguments.

Each NAME_cases(rng) is a list of (arguments, what must come out).
"""

from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import BoxCoder, box_iou, nms
from tinymrcnn.boxes.anchors import AnchorGenerator
from tinymrcnn.data.augment import flip_horizontally
from tinymrcnn.models.mask_branch import mask_loss
from tinymrcnn.nn import SGD, Parameter
from tinymrcnn.ops.im2col import Window
from tinymrcnn.ops.losses import smooth_l1_loss
from tinymrcnn.ops.resize import interpolate
from tinymrcnn.roi.roi_align import roi_bins, sample_position
from tinymrcnn.settings import TrainConfig
from tinymrcnn.training.schedule import learning_rate

Cases = list[tuple[tuple, Any]]
LESSON_WEIGHTS = np.array([10.0, 10.0, 5.0, 5.0])  # of lesson 08, where the package's are a setting


# 02 Convolution: how many windows there are ------------------------------------------------------------------


def output_side_cases(rng):
    numbers = (5, 3, 1, 1, 1), (128, 7, 2, 3, 1), (64, 3, 2, 1, 1), (13, 3, 1, 2, 2), (9, 1, 2, 0, 1), (10, 4, 3, 0, 2)
    return [((side, k, *rest), Window((k, k), *rest).out_size((side, side))[0]) for side, k, *rest in numbers]


# 04 FPN: the coarser map, enlarged ---------------------------------------------------------------------------


def enlarged(x, out_h, out_w):
    """A map (h, w), by the nearest neighbour (out_h, out_w)."""
    return interpolate(Tensor(x[None, None]), size=(out_h, out_w)).data[0, 0]


def nearest_cases(rng):
    sizes = (2, 3, 4, 6), (3, 2, 6, 4), (4, 5, 8, 10), (3, 5, 4, 7)
    arguments = [(rng.normal(size=(h, w)), out_h, out_w) for h, w, out_h, out_w in sizes]
    return [(some, enlarged(*some)) for some in arguments]


def enlarged_backward(grad):
    """The gradient of (N, C, h, w) from that of the map of twice the size."""
    n, c, h, w = grad.shape
    x = Tensor(np.zeros((n, c, h // 2, w // 2), grad.dtype), requires_grad=True)
    interpolate(x, size=(h, w)).backward(grad)
    return x.grad


def enlarge_backward_cases(rng):
    arguments = [rng.normal(size=shape) for shape in ((1, 1, 2, 4), (2, 3, 4, 6), (1, 2, 6, 2))]
    return [((grad,), enlarged_backward(grad)) for grad in arguments]


# 05 RPN: anchors, corrections, NMS ---------------------------------------------------------------------------


def grid_anchors_cases(rng):
    halves = rng.integers(4, 30, (3, 2)) / 2
    cell = np.concatenate([-halves, halves], axis=1).astype(np.float32)
    generator = AnchorGenerator(((1,),))
    generator.cells = (tuple(map(tuple, cell.tolist())),)
    sizes = (2, 3, 8), (3, 2, 16), (4, 1, 4)
    return [((cell, h, w, stride), generator([(h, w)], (0, 0), [stride])[0]) for h, w, stride in sizes]


def _boxes(rng, count):
    corners = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(4, 40, (count, 2))], axis=1)


def encode_cases(rng):
    pairs = [(_boxes(rng, count), _boxes(rng, count)) for count in (1, 2, 5)]
    return [(pair, BoxCoder().encode(*pair)) for pair in pairs]


def greedy_nms_cases(rng):
    half = np.array([[0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 4, 1]], np.float64)  # IoUs of exactly 1/2, and 1/3
    given = [(half, np.array([0.9, 0.8, 0.7]), 0.5), (half[[0, 0, 0]], np.array([0.4, 0.4, 0.4]), 0.5)]
    given += [(_boxes(rng, count), rng.random(count), threshold) for count, threshold in ((3, 0.1), (12, 0.3), (30, 0))]
    return [((box_iou(boxes, boxes), *rest), nms(boxes, *rest)) for boxes, *rest in given]


# 07 RoIAlign: where it samples -------------------------------------------------------------------------------


def sampling_points_cases(rng):
    def along(low, high, scale, bins, ratio):
        start, size = roi_bins(low, high, scale, bins, True)
        return np.array([sample_position(start, size, i // ratio, i % ratio, ratio) for i in range(bins * ratio)])

    rois = [
        ((4.0, 8.0, 20.0, 40.0), 0.25, (2, 3), 2),
        (_boxes(rng, 1)[0], 1 / 16, (3, 3), 3),
        ((0.0, 0.0, 5.0, 7.0), 0.5, (2, 1), 1),
    ]
    return [
        ((roi, scale, bins, ratio), tuple(along(roi[i], roi[i + 2], scale, bins[1 - i], ratio) for i in (0, 1)))
        for roi, scale, bins, ratio in rois
    ]


# 08 Box branch: corrections of one class to boxes, smooth L1 -------------------------------------------------


def boxes_of_class_cases(rng):
    cases = []
    for count, classes in ((1, 1), (4, 3), (6, 6)):
        deltas, boxes = rng.normal(size=(count, 4 * classes)), _boxes(rng, count)
        labels = rng.integers(0, classes, count)
        decoded = BoxCoder(tuple(LESSON_WEIGHTS)).decode(deltas, boxes)
        cases.append(((deltas, boxes, labels), decoded[np.arange(count), labels]))
    return cases


def smooth_l1_cases(rng):
    cases = []
    for shape, beta in (((5,), 1.0), ((3, 4), 1 / 9), ((2, 2, 2), 0.5)):
        d = rng.normal(size=shape)
        d.flat[:3] = beta, -beta, 0  # the borders of the two parts, where both agree
        x = Tensor(d, requires_grad=True)
        values = smooth_l1_loss(x, np.zeros(shape), beta=beta, reduction="none")
        values.backward(np.ones(shape))
        cases.append(((d, beta), (values.data, x.grad)))
    return cases


# 09 Mask branch: the loss and its gradient -------------------------------------------------------------------


def mean_mask_loss(logits, labels, targets):
    """The mask branch's loss, a mean over all pixels, of logits (P, K, m, m)."""
    total, count = mask_loss(Tensor(logits), labels, targets=targets)
    return total.item() / count


def mean_mask_loss_gradient(logits, labels, targets):
    """Its gradient by the logits."""
    x = Tensor(logits, requires_grad=True)
    total, count = mask_loss(x, labels, targets=targets)
    (total * (1 / count)).backward()
    return x.grad


def _mask_arguments(rng):
    sizes = (1, 2, 2), (3, 4, 2), (2, 3, 4)
    drawn = [
        (rng.normal(0, 3, (p, k, m, m)), rng.integers(1, k, p), rng.integers(0, 2, (p, m, m))) for p, k, m in sizes
    ]
    drawn[-1][0][0, :, 0] = 200  # a naive logarithm breaks there
    return [(logits, labels, targets.astype(np.float64)) for logits, labels, targets in drawn]


def mask_loss_cases(rng):
    return [(some, mean_mask_loss(*some)) for some in _mask_arguments(rng)]


def mask_loss_gradient_cases(rng):
    return [(some, mean_mask_loss_gradient(*some)) for some in _mask_arguments(rng)]


# 10 Training: the rate, the mirror, the clipping -------------------------------------------------------------


def rate_cases(rng):
    given = [(step, 50, 5, 1e-3) for step in (0, 3, 4, 5, 20, 49)] + [(0, 20, 1, 0.1), (7, 30, 2, 0.5)]
    configs = [(some, TrainConfig(steps=some[1], warmup_steps=some[2], lr=some[3])) for some in given]
    return [(some, learning_rate(some[0], config)) for some, config in configs]


def mirrored_cases(rng):
    pictures = [(np.zeros((3, 2, width)), _boxes(rng, count)) for width, count in ((100, 1), (128, 4), (77, 3))]
    return [
        ((boxes, image.shape[2]), flip_horizontally(image, {"boxes": boxes})[1]["boxes"]) for image, boxes in pictures
    ]


def clipped_cases(rng):
    cases = []
    sizes = ((3,), (2, 2))
    for shapes, spread, limit in ((sizes, 1, 1.0), (sizes, 1, 100.0), (((2, 3), (1,), (5,)), 3, 0.5), (sizes, 0, 1.0)):
        gradients = tuple(rng.normal(0, spread, shape) for shape in shapes)
        parameters = [Parameter(np.zeros(shape)) for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        SGD(parameters, 1.0).clip_grad_norm(limit)
        cases.append(((gradients, limit), tuple(parameter.grad.copy() for parameter in parameters)))
    return cases
