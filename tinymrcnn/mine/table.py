"""Which functions of the lessons can stand in the place of the package's: REPLACEABLE, at the end, is the whole list.

Each row names a function as an exercise asks for it, what in the package it replaces, cases on which it must agree with
that, and how it gets there: an exercise's function takes plain arrays, so a few lines here give it the package's
signature or make an operator of it. What an exercise leaves out (another mode, an empty list) the package's own
function still does.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.autograd import Tensor, record
from tinymrcnn.backend import channels_first, channels_last
from tinymrcnn.boxes import BoxCoder, box_iou, nms
from tinymrcnn.boxes.anchors import AnchorGenerator
from tinymrcnn.data.augment import flip_horizontally
from tinymrcnn.models.mask_branch import mask_loss
from tinymrcnn.nn import SGD, Parameter
from tinymrcnn.ops.im2col import Window
from tinymrcnn.ops.losses import smooth_l1_loss
from tinymrcnn.ops.resize import interpolate
from tinymrcnn.roi.roi_align import roi_bins, sample_position
from tinymrcnn.roi.rois import check_size
from tinymrcnn.settings import TrainConfig
from tinymrcnn.threads import one_blas_thread
from tinymrcnn.training.schedule import learning_rate

Cases = list[tuple[tuple, Any]]  # arguments and what must come out


class Replaceable(NamedTuple):
    """A row of the list. exercise: "05.3" is the third of lesson 05; "07" is what its text explains. home: what is
    replaced, without "tinymrcnn.".

    cases(rng): what the function is tried on. build(original, functions): what takes the place of the original;
    functions: {name: function} of all that the learner wrote."""

    exercise: str
    home: str
    cases: Callable[[np.random.Generator], Cases]
    build: Callable[[Any, dict[str, Callable]], Callable]


# 02 Convolution: how many windows there are ------------------------------------------------------------------


def _output_side_cases(rng):
    numbers = (5, 3, 1, 1, 1), (128, 7, 2, 3, 1), (64, 3, 2, 1, 1), (13, 3, 1, 2, 2), (9, 1, 2, 0, 1), (10, 4, 3, 0, 2)
    return [((side, k, *rest), Window((k, k), *rest).out_size((side, side))[0]) for side, k, *rest in numbers]


def _out_size(original, functions):
    def out_size(self, size):
        rest = self.stride, self.padding, self.dilation
        return tuple(int(functions["output_side"](n, k, *rest)) for n, k in zip(size, self.kernel, strict=True))

    return out_size


# 04 FPN: the coarser map, enlarged ---------------------------------------------------------------------------


def _nearest(x, out_h, out_w):
    return interpolate(Tensor(x[None, None]), size=(out_h, out_w)).data[0, 0]


def _nearest_cases(rng):
    sizes = (2, 3, 4, 6), (3, 2, 6, 4), (4, 5, 8, 10), (3, 5, 4, 7)
    arguments = [(rng.normal(size=(h, w)), out_h, out_w) for h, w, out_h, out_w in sizes]
    return [(some, _nearest(*some)) for some in arguments]


def _enlarge_backward(grad):
    n, c, h, w = grad.shape
    x = Tensor(np.zeros((n, c, h // 2, w // 2), grad.dtype), requires_grad=True)
    interpolate(x, size=(h, w)).backward(grad)
    return x.grad


def _enlarge_backward_cases(rng):
    arguments = [rng.normal(size=shape) for shape in ((1, 1, 2, 4), (2, 3, 4, 6), (1, 2, 6, 2))]
    return [((grad,), _enlarge_backward(grad)) for grad in arguments]


def _interpolate(original, functions):
    forward = functions.get("nearest", _nearest)
    backward = functions.get("enlarge_backward", _enlarge_backward)

    def enlarge(x, size=None, scale_factor=None, mode="nearest"):
        n, c, h, w = x.shape
        if mode != "nearest" or size != (2 * h, 2 * w):
            return original(x, size, scale_factor, mode)
        # which cell every cell of the result repeats, asked once for all images and channels
        source = np.asarray(forward(np.arange(float(h * w)).reshape(h, w), *size)).astype(int)
        out = channels_last(x.data).reshape(n, h * w, c)[:, source]
        return record(channels_first(out), (x,), lambda grad, needs: (_map(backward(grad), grad),), "interpolate")

    return enlarge


def _map(array, like):
    """A feature map in the dtype of another one, and channels-last as all maps are."""
    return channels_first(channels_last(np.asarray(array, like.dtype)))


# 05 RPN: anchors, corrections, NMS ---------------------------------------------------------------------------


def _grid_anchors_cases(rng):
    halves = rng.integers(4, 30, (3, 2)) / 2
    cell = np.concatenate([-halves, halves], axis=1).astype(np.float32)
    generator = AnchorGenerator(((1,),))
    generator.cells = (tuple(map(tuple, cell.tolist())),)
    sizes = (2, 3, 8), (3, 2, 16), (4, 1, 4)
    return [((cell, h, w, stride), generator([(h, w)], (0, 0), [stride])[0]) for h, w, stride in sizes]


def _grid_anchors(original, functions):
    def grid_anchors(cell, h, w, stride_y, stride_x):
        if stride_y != stride_x:
            return original(cell, h, w, stride_y, stride_x)
        return np.asarray(functions["grid_anchors"](np.asarray(cell, np.float32), h, w, stride_x), np.float32)

    return grid_anchors


def _boxes(rng, count):
    corners = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(4, 40, (count, 2))], axis=1)


def _encode_cases(rng):
    pairs = [(_boxes(rng, count), _boxes(rng, count)) for count in (1, 2, 5)]
    return [(pair, BoxCoder().encode(*pair)) for pair in pairs]


def _encode(original, functions):
    def encode(self, gt_boxes, boxes):
        if not len(boxes):
            return original(self, gt_boxes, boxes)
        return np.asarray(functions["encode"](gt_boxes, boxes) * np.array(self.weights), boxes.dtype)

    return encode


def _greedy_nms_cases(rng):
    half = np.array([[0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 4, 1]], np.float64)  # IoUs of exactly 1/2, and 1/3
    given = [(half, np.array([0.9, 0.8, 0.7]), 0.5), (half[[0, 0, 0]], np.array([0.4, 0.4, 0.4]), 0.5)]
    given += [(_boxes(rng, count), rng.random(count), threshold) for count, threshold in ((3, 0.1), (12, 0.3), (30, 0))]
    return [((box_iou(boxes, boxes), *rest), nms(boxes, *rest)) for boxes, *rest in given]


def _survivors(original, functions):
    def survivors(boxes, there, starts, iou_threshold):
        keep = np.zeros(len(boxes), bool)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            rows = start + np.flatnonzero(there[start:end])  # the best first
            if len(rows):
                overlaps, scores = box_iou(boxes[rows], boxes[rows]), np.linspace(1, 0, len(rows))
                keep[rows[np.asarray(functions["greedy_nms"](overlaps, scores, iou_threshold), int)]] = True
        return keep

    return survivors


# 07 RoIAlign: where it samples. The rest, a matrix of bilinear weights for each axis, is here ----------------


def _sampling_points_cases(rng):
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


def _roi_align(original, functions):
    def weights(positions, size, bins):
        """(bins, size): what each cell of an axis adds to each bin, the mean over its samples."""
        positions = np.asarray(positions)[:, None]
        tents = np.maximum(0, 1 - np.abs(np.clip(positions, 0, size - 1) - np.arange(size)))
        return np.where((positions >= -1) & (positions <= size), tents, 0).reshape(bins, -1, size).mean(axis=1)

    def roi_align(features, rois, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False, reduce="mean"):
        if not aligned or sampling_ratio < 1 or reduce != "mean" or not len(rois):
            return original(features, rois, output_size, spatial_scale, sampling_ratio, aligned, reduce)
        data, bins = channels_last(features.data), check_size(output_size, "output size")
        n, h, w, c = data.shape
        out, cuts = np.empty((len(rois), *bins, c), data.dtype), []
        for i, (image, *roi) in enumerate(rois.tolist()):
            xs, ys = functions["sampling_points"](tuple(roi), spatial_scale, bins, sampling_ratio)
            rows, columns = weights(ys, h, bins[0]).astype(data.dtype), weights(xs, w, bins[1]).astype(data.dtype)
            with one_blas_thread:  # the products are small
                out[i] = columns @ (rows @ data[int(image)].reshape(h, w * c)).reshape(bins[0], w, c)
            cuts.append((int(image), rows, columns))

        def backward(grad, needs):
            result = np.zeros(data.shape, grad.dtype)
            with one_blas_thread:
                for (image, rows, columns), part in zip(cuts, channels_last(grad), strict=True):
                    result[image] += (rows.T @ (columns.T @ part).reshape(bins[0], w * c)).reshape(h, w, c)
            return (channels_first(result),)

        return record(channels_first(out), (features,), backward, "roi_align")

    return roi_align


# 08 Box branch: corrections of one class to boxes, smooth L1 -------------------------------------------------

LESSON_WEIGHTS = np.array([10.0, 10.0, 5.0, 5.0])


def _boxes_of_class_cases(rng):
    cases = []
    for count, classes in ((1, 1), (4, 3), (6, 6)):
        deltas, boxes = rng.normal(size=(count, 4 * classes)), _boxes(rng, count)
        labels = rng.integers(0, classes, count)
        decoded = BoxCoder(tuple(LESSON_WEIGHTS)).decode(deltas, boxes)
        cases.append(((deltas, boxes, labels), decoded[np.arange(count), labels]))
    return cases


def _decode(original, functions):
    def decode(self, deltas, boxes):
        if not deltas.size:
            return original(self, deltas, boxes)
        classes = deltas.shape[1] // 4
        unweighted = deltas.reshape(-1, classes, 4) / np.array(self.weights)
        unweighted[..., 2:] = np.minimum(unweighted[..., 2:], self.clip)
        deltas = (unweighted * LESSON_WEIGHTS).astype(deltas.dtype).reshape(deltas.shape)
        labels = np.arange(classes)[:, None] + np.zeros(len(boxes), int)
        found = [functions["boxes_of_class"](deltas, boxes, of_all) for of_all in labels]
        return np.stack(found, axis=1).astype(deltas.dtype)

    return decode


def _smooth_l1_cases(rng):
    cases = []
    for shape, beta in (((5,), 1.0), ((3, 4), 1 / 9), ((2, 2, 2), 0.5)):
        d = rng.normal(size=shape)
        d.flat[:3] = beta, -beta, 0  # the borders of the two parts, where both agree
        x = Tensor(d, requires_grad=True)
        values = smooth_l1_loss(x, np.zeros(shape), beta=beta, reduction="none")
        values.backward(np.ones(shape))
        cases.append(((d, beta), (values.data, x.grad)))
    return cases


def _smooth_l1_loss(original, functions):
    def smooth_l1(input, target, *, beta=1.0, reduction="mean"):
        if reduction != "sum" or beta == 0 or not input.data.size:
            return original(input, target, beta=beta, reduction=reduction)
        values, slopes = functions["my_smooth_l1"](input.data - target, beta)
        total = np.asarray(np.sum(values), input.dtype)
        slopes = np.asarray(slopes, input.dtype)
        return record(total, (input,), lambda grad, needs: (slopes * grad,), "smooth_l1_loss")

    return smooth_l1


# 09 Mask branch: the loss and its gradient -------------------------------------------------------------------


def _mask_loss(logits, labels, targets):
    total, count = mask_loss(Tensor(logits), labels, targets=targets)
    return total.item() / count


def _mask_loss_gradient(logits, labels, targets):
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


def _mask_loss_cases(rng):
    return [(some, _mask_loss(*some)) for some in _mask_arguments(rng)]


def _mask_loss_gradient_cases(rng):
    return [(some, _mask_loss_gradient(*some)) for some in _mask_arguments(rng)]


def _whole_mask_loss(original, functions):
    value = functions.get("my_mask_loss", _mask_loss)
    gradient = functions.get("my_mask_loss_gradient", _mask_loss_gradient)

    def loss(logits, labels, *, targets, kind="sigmoid"):
        if kind != "sigmoid" or logits.shape[1] == 1 or not targets.size:
            return original(logits, labels, targets=targets, kind=kind)
        data, count = logits.data, targets.size  # the exercise's loss is the mean, the package's a sum

        def backward(grad, needs):
            return (_map(gradient(data, labels, targets) * (count * grad), data),)

        total = np.asarray(value(data, labels, targets) * count, data.dtype)
        return record(total, (logits,), backward, "mask_loss"), count

    return loss


# 10 Training: the rate, the mirror, the clipping -------------------------------------------------------------


def _rate_cases(rng):
    given = [(step, 50, 5, 1e-3) for step in (0, 3, 4, 5, 20, 49)] + [(0, 20, 1, 0.1), (7, 30, 2, 0.5)]
    configs = [(some, TrainConfig(steps=some[1], warmup_steps=some[2], lr=some[3])) for some in given]
    return [(some, learning_rate(some[0], config)) for some, config in configs]


def _learning_rate(original, functions):
    def rate(step, config):
        if config.schedule != "cosine" or config.warmup_steps == 0:
            return original(step, config)
        return float(functions["rate"](step, config.steps, config.warmup_steps, config.lr))

    return rate


def _mirrored_cases(rng):
    pictures = [(np.zeros((3, 2, width)), _boxes(rng, count)) for width, count in ((100, 1), (128, 4), (77, 3))]
    return [
        ((boxes, image.shape[2]), flip_horizontally(image, {"boxes": boxes})[1]["boxes"]) for image, boxes in pictures
    ]


def _flip_horizontally(original, functions):
    def flip(image, target):
        flipped, mirrored = original(image, target)
        boxes = functions["mirrored"](target["boxes"], image.shape[2])
        return flipped, {**mirrored, "boxes": np.asarray(boxes, target["boxes"].dtype)}

    return flip


def _clipped_cases(rng):
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


def _clip_grad_norm(original, functions):
    def clip_grad_norm(self, max_norm):
        norm = original(self, math.inf)  # measures, and scales nothing
        if max_norm < math.inf:
            for gradient, new in zip(self.grads, functions["clipped"](tuple(self.grads), max_norm), strict=True):
                gradient[...] = new
        return norm

    return clip_grad_norm


# The list ----------------------------------------------------------------------------------------------------

_ENLARGE, _MASKS = "ops.resize.interpolate", "models.mask_branch.mask_loss"

REPLACEABLE = {
    "output_side": Replaceable("02.1", "ops.im2col.Window.out_size", _output_side_cases, _out_size),
    "nearest": Replaceable("04.1", _ENLARGE, _nearest_cases, _interpolate),
    "enlarge_backward": Replaceable("04.2", _ENLARGE, _enlarge_backward_cases, _interpolate),
    "grid_anchors": Replaceable("05.1", "boxes.anchors._grid_anchors", _grid_anchors_cases, _grid_anchors),
    "encode": Replaceable("05.2", "boxes.coder.BoxCoder.encode", _encode_cases, _encode),
    "greedy_nms": Replaceable("05.3", "boxes.nms.survivors", _greedy_nms_cases, _survivors),
    "sampling_points": Replaceable("07", "roi.roi_align.roi_align_unchecked", _sampling_points_cases, _roi_align),
    "boxes_of_class": Replaceable("08", "boxes.coder.BoxCoder.decode", _boxes_of_class_cases, _decode),
    "my_smooth_l1": Replaceable("08", "ops.losses.smooth_l1_loss", _smooth_l1_cases, _smooth_l1_loss),
    "my_mask_loss": Replaceable("09.2", _MASKS, _mask_loss_cases, _whole_mask_loss),
    "my_mask_loss_gradient": Replaceable("09.3", _MASKS, _mask_loss_gradient_cases, _whole_mask_loss),
    "rate": Replaceable("10.2", "training.schedule.learning_rate", _rate_cases, _learning_rate),
    "mirrored": Replaceable("10.3", "data.augment.flip_horizontally", _mirrored_cases, _flip_horizontally),
    "clipped": Replaceable("10.4", "nn.optim._Optimizer.clip_grad_norm", _clipped_cases, _clip_grad_norm),
}
