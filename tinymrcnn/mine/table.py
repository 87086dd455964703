"""Which functions of the lessons can stand in the place of the package's: REPLACEABLE, at the end, is the whole list.

Each row names a function as an exercise asks for it, what in the package it replaces, the cases (cases.py) on which it
must agree with that, and how it gets there: an exercise's function takes plain arrays, so a few lines here give it the
package's signature or make an operator of it. What an exercise leaves out (another mode, an empty list) the package's
own function still does.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.autograd import record
from tinymrcnn.backend import channels_first, channels_last
from tinymrcnn.boxes import box_iou
from tinymrcnn.mine import cases
from tinymrcnn.mine.cases import Cases
from tinymrcnn.roi.rois import check_size
from tinymrcnn.threads import one_blas_thread


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


def _out_size(original, functions):
    def out_size(self, size):
        rest = self.stride, self.padding, self.dilation
        return tuple(int(functions["output_side"](n, k, *rest)) for n, k in zip(size, self.kernel, strict=True))

    return out_size


# 04 FPN: the coarser map, enlarged ---------------------------------------------------------------------------


def _interpolate(original, functions):
    forward = functions.get("nearest", cases.enlarged)
    backward = functions.get("enlarge_backward", cases.enlarged_backward)

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


def _grid_anchors(original, functions):
    def grid_anchors(cell, h, w, stride_y, stride_x):
        if stride_y != stride_x:
            return original(cell, h, w, stride_y, stride_x)
        return np.asarray(functions["grid_anchors"](np.asarray(cell, np.float32), h, w, stride_x), np.float32)

    return grid_anchors


def _encode(original, functions):
    def encode(self, gt_boxes, boxes):
        if not len(boxes):
            return original(self, gt_boxes, boxes)
        return np.asarray(functions["encode"](gt_boxes, boxes) * np.array(self.weights), boxes.dtype)

    return encode


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


def _decode(original, functions):
    def decode(self, deltas, boxes):
        if not deltas.size:
            return original(self, deltas, boxes)
        classes = deltas.shape[1] // 4
        unweighted = deltas.reshape(-1, classes, 4) / np.array(self.weights)
        unweighted[..., 2:] = np.minimum(unweighted[..., 2:], self.clip)
        deltas = (unweighted * cases.LESSON_WEIGHTS).astype(deltas.dtype).reshape(deltas.shape)
        labels = np.arange(classes)[:, None] + np.zeros(len(boxes), int)
        found = [functions["boxes_of_class"](deltas, boxes, of_all) for of_all in labels]
        return np.stack(found, axis=1).astype(deltas.dtype)

    return decode


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


def _whole_mask_loss(original, functions):
    value = functions.get("my_mask_loss", cases.mean_mask_loss)
    gradient = functions.get("my_mask_loss_gradient", cases.mean_mask_loss_gradient)

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


def _learning_rate(original, functions):
    def rate(step, config):
        if config.schedule != "cosine" or config.warmup_steps == 0:
            return original(step, config)
        return float(functions["rate"](step, config.steps, config.warmup_steps, config.lr))

    return rate


def _flip_horizontally(original, functions):
    def flip(image, target):
        flipped, mirrored = original(image, target)
        boxes = functions["mirrored"](target["boxes"], image.shape[2])
        return flipped, {**mirrored, "boxes": np.asarray(boxes, target["boxes"].dtype)}

    return flip


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
    "output_side": Replaceable("02.1", "ops.im2col.Window.out_size", cases.output_side_cases, _out_size),
    "nearest": Replaceable("04.1", _ENLARGE, cases.nearest_cases, _interpolate),
    "enlarge_backward": Replaceable("04.2", _ENLARGE, cases.enlarge_backward_cases, _interpolate),
    "grid_anchors": Replaceable("05.1", "boxes.anchors._grid_anchors", cases.grid_anchors_cases, _grid_anchors),
    "encode": Replaceable("05.2", "boxes.coder.BoxCoder.encode", cases.encode_cases, _encode),
    "greedy_nms": Replaceable("05.3", "boxes.nms.survivors", cases.greedy_nms_cases, _survivors),
    "sampling_points": Replaceable("07", "roi.roi_align.roi_align_unchecked", cases.sampling_points_cases, _roi_align),
    "boxes_of_class": Replaceable("08", "boxes.coder.BoxCoder.decode", cases.boxes_of_class_cases, _decode),
    "my_smooth_l1": Replaceable("08", "ops.losses.smooth_l1_loss", cases.smooth_l1_cases, _smooth_l1_loss),
    "my_mask_loss": Replaceable("09.2", _MASKS, cases.mask_loss_cases, _whole_mask_loss),
    "my_mask_loss_gradient": Replaceable("09.3", _MASKS, cases.mask_loss_gradient_cases, _whole_mask_loss),
    "rate": Replaceable("10.2", "training.schedule.learning_rate", cases.rate_cases, _learning_rate),
    "mirrored": Replaceable("10.3", "data.augment.flip_horizontally", cases.mirrored_cases, _flip_horizontally),
    "clipped": Replaceable("10.4", "nn.optim._Optimizer.clip_grad_norm", cases.clipped_cases, _clip_grad_norm),
}
