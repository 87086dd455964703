"""The whole model as an ONNX graph: one image in, its detections out, as model.detect gives them.

The steps are those of two_stage.py and mask_rcnn.py, and lesson 11 goes through them:

    transform -> features -> propose -> box branch, suppression -> mask branch of the best -> the image's own pixels
"""

import json
import math
from typing import Any

import numpy as np

from tinymrcnn.boxes.coder import LARGEST_LOG_SCALE
from tinymrcnn.export.graph import Graph
from tinymrcnn.export.layers import box_branch, coarsest_stride, features, mask_logits, max_pool, rpn_head, stage
from tinymrcnn.export.transform import transform
from tinymrcnn.models.box_branch import BoxSettings
from tinymrcnn.models.mask_branch import MaskSettings
from tinymrcnn.models.mask_rcnn import MaskRCNN
from tinymrcnn.models.pooler import PoolerSettings
from tinymrcnn.models.rpn import RPNSettings
from tinymrcnn.models.two_stage import NUM_ROI_LEVELS, TwoStage

# Shapes below: A anchors of a level, P proposals, R RoIs, K classes, D detections, masks of m x m cells. A size is
# (height, width), (2,) int64

TEXT = """Finds the objects in one image of any size.

image: (3, height, width) float32, RGB, 0 to 1. It is resized, normalised and padded in here.
boxes: (D, 4) float32, x1, y1, x2, y2 in pixels of the image; pixel i covers i to i + 1. The best come first.
scores: (D,) float32. labels: (D,) int64; the metadata "categories" name them.
masks: (D, m, m) float32, the probability that a cell of a grid over the box belongs to the object; it does from 0.5 on.
"""


def export_model(model: TwoStage) -> Any:
    """A MaskRCNN (or Faster R-CNN) as an onnx.ModelProto, which finds what model.detect finds in eval mode: TEXT says
    what goes in and what comes out. Its settings, such as the least score, are constants of the graph.

    Raises RuntimeError where onnx is not installed, ValueError for a model that ONNX's operators cannot express."""
    check(model)
    config, heads = model.config, model.roi_heads
    g = Graph(model)
    images, size, original = transform(g, "image", config.transform)
    limits = g.to(g.Gather(size, [1, 0, 1, 0]), np.float32)
    maps = features(g, images, model, halved=config.transform.size_divisible % coarsest_stride(model) == 0)
    proposals = propose(g, maps, images, limits, model)
    logits, deltas = box_branch(g, roi_features(g, maps, proposals, config.box.pool, model), heads)
    boxes, scores, labels = best_detections(g, logits, deltas, proposals, limits, config.box)
    found = {"boxes": boxes, "scores": scores, "labels": labels}
    shapes = {"boxes": ["D", 4], "scores": ["D"], "labels": ["D"]}
    if config.masks:
        pool = config.box.pool if config.backbone == "c4" else config.mask.pool
        side = 2 * (-(-pool // config.resnet.roi_stage_stride) if config.backbone == "c4" else pool)
        logits = mask_logits(g, roi_features(g, maps, boxes, pool, model), heads, side)
        found["masks"], shapes["masks"] = decode_masks(g, logits, labels, config.mask), ["D", side, side]
    found = rescale(g, found, size, original, config.box.clip_results)
    outputs = [(name, found[name], np.int64 if name == "labels" else np.float32, shapes[name]) for name in found]
    metadata = {"preset": config.preset, "categories": json.dumps(model.categories or [])}
    return g.model([("image", "image", np.float32, [3, "height", "width"])], outputs, TEXT, metadata)


def check(model: TwoStage) -> None:
    """Raise ValueError for a model that cannot be exported."""
    if not isinstance(model, MaskRCNN):
        raise ValueError(
            f"A model of {type(model).__name__} cannot be exported: ONNX has no operators for its RoI features and its "
            "votes for masks. Mask R-CNN and Faster R-CNN can be."
        )
    pooler = model.config.pooler
    if pooler.reduce == "max" and pooler.sampling_ratio < 1 and pooler.roi_op != "roi_pool":
        raise ValueError(
            "RoI features that are the largest of a bin's samples can be exported only where a bin has a fixed number "
            "of them, and pooler.sampling_ratio is 0 here, as many as there are cells."
        )


# Boxes


def decode(g: Graph, deltas: str, boxes: str, weights: tuple[float, ...]) -> str:
    """See BoxCoder.decode: deltas (..., 4) and boxes (..., 4)."""
    corner1, corner2 = g.Split(boxes, outputs=2, axis=-1, num_outputs=2)
    shifts, logs = g.Split(g.Div(deltas, list(weights)), outputs=2, axis=-1, num_outputs=2)
    sizes = g.Sub(corner2, corner1)
    centres = g.Add(g.Mul(shifts, sizes), g.Add(corner1, g.Mul(0.5, sizes)))
    halves = g.Mul(0.5, g.Mul(g.Exp(g.Min(logs, LARGEST_LOG_SCALE)), sizes))
    return g.Concat(g.Sub(centres, halves), g.Add(centres, halves), axis=-1)


def clip(g: Graph, boxes: str, limits: str) -> str:
    """Boxes (..., 4) inside of an image. limits: its width, height, width, height, (4,)."""
    return g.Max(g.Min(boxes, limits), 0.0)


def shorter_sides(g: Graph, boxes: str) -> str:
    """(..., 4) -> (...)."""
    corner1, corner2 = g.Split(boxes, outputs=2, axis=-1, num_outputs=2)
    return g.ReduceMin(g.Sub(corner2, corner1), [-1], keepdims=0)


def iou_threshold(threshold: float) -> np.ndarray:
    """(1,) float32, at most the threshold, so that `>` decides as it does in nms.survivors."""
    rounded = np.float32(threshold)
    return np.array([rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1))])


# Proposals


def anchors(g: Graph, feature: str, images: str, level: int, model: TwoStage) -> str:
    """(A, 4) in (row, column, anchor) order: see anchors._grid_anchors."""
    grid = g.Shape(feature, start=2)
    strides = [model.config.strides[level]] * 2
    if not model.config.rpn.nominal_strides:
        strides = g.Div(g.Shape(images, start=2), grid)
    steps = g.to(g.Add(strides, [0, 0]), np.float32)
    rows, columns = (
        g.Mul(g.arange(g.Slice(grid, [axis], [axis + 1]), np.float32), g.Slice(steps, [axis], [axis + 1]))
        for axis in (0, 1)
    )
    shifts = g.Add(
        g.Mul(g.Unsqueeze(columns, [0, 2, 3]), [1.0, 0.0, 1.0, 0.0]),
        g.Mul(g.Unsqueeze(rows, [1, 2, 3]), [0.0, 1.0, 0.0, 1.0]),
    )
    return g.Reshape(g.Add(shifts, np.array(model.anchor_generator.cells[level], np.float32)), [-1, 4])


def propose(g: Graph, maps: list[str], images: str, limits: str, model: TwoStage) -> str:
    """(P, 4): see rpn.decode_proposals."""
    settings, found = model.config.rpn, []
    for level, feature in enumerate(maps):
        logits, deltas = rpn_head(g, feature, model.rpn.head)
        logits, best = g.TopK(logits, g.Min(g.Shape(logits), [settings.pre_nms_test]), outputs=2)
        boxes = g.Gather(anchors(g, feature, images, level, model), best)
        boxes = clip(g, decode(g, g.Gather(deltas, best), boxes, (1.0, 1.0, 1.0, 1.0)), limits)
        found.append(survivors(g, boxes, logits, settings))
    boxes, logits = (g.Concat(*parts, axis=0) for parts in zip(*found, strict=True))
    _, best = g.TopK(logits, g.Min(g.Shape(logits), [settings.post_nms_test]), outputs=2)
    return g.Gather(boxes, best)


def survivors(g: Graph, boxes: str, logits: str, settings: RPNSettings) -> tuple[str, str]:
    """Those boxes (N, 4) of a level, and their logits (N,), best first, that are large enough and that NMS leaves.

    NonMaxSuppression gets ranks in the place of the logits: the last is 1, so that none is too low for any runtime, and
    no two are equal."""
    large = g.where(g.GreaterOrEqual(shorter_sides(g, boxes), float(settings.min_proposal_size)))
    boxes, logits = g.Gather(boxes, large), g.Gather(logits, large)
    ranks = g.Sub(g.to(g.Shape(logits), np.float32), g.arange(g.Shape(logits), np.float32))
    kept = g.NonMaxSuppression(
        g.Unsqueeze(boxes, [0]), g.Unsqueeze(ranks, [0, 1]), [settings.post_nms_test], iou_threshold(settings.nms)
    )
    rows = g.Gather(kept, 2, axis=1)
    return g.Gather(boxes, rows), g.Gather(logits, rows)


# RoI features


def roi_features(g: Graph, maps: list[str], boxes: str, size: int, model: TwoStage) -> str:
    """(R, C, size, size): see MaskRCNN.roi_features and pooler.pool_rois."""
    maps, settings = maps[:NUM_ROI_LEVELS], model.config.pooler
    scales = [1 / stride for stride in model.config.strides[: len(maps)]]
    if model.config.backbone == "c4":
        return stage(g, cut(g, maps[0], boxes, size, scales[0], settings), model.roi_heads.layer4)
    if len(maps) == 1:
        return cut(g, maps[0], boxes, size, scales[0], settings)
    levels = assign_levels(g, boxes, scales, settings)
    rows = [g.where(g.Equal(levels, float(level))) for level in range(len(maps))]
    parts = [
        cut(g, feature, g.Gather(boxes, of_level), size, scale, settings)
        for feature, of_level, scale in zip(maps, rows, scales, strict=True)
    ]
    order = g.Concat(*rows, axis=0)
    places = g.ScatterElements(order, order, g.arange(g.Shape(order), np.int64))  # of every box in that order
    return g.Gather(g.Concat(*parts, axis=0), places)


def assign_levels(g: Graph, boxes: str, scales: list[float], settings: PoolerSettings) -> str:
    """(R,) float32, whole numbers: see pooler.assign_levels."""
    corner1, corner2 = g.Split(boxes, outputs=2, axis=-1, num_outputs=2)
    area = g.Max(g.ReduceProd(g.Sub(corner2, corner1), [1], keepdims=0), 1e-12)
    inside, outside = settings.level_epsilon
    logarithm = g.Log(g.Add(g.Div(g.Sqrt(area), float(settings.canonical_size)), float(inside)))
    level = g.Add(float(settings.canonical_level), g.Div(logarithm, math.log(2)))
    finest = float(round(-math.log2(scales[0])))
    return g.Clip(g.Sub(g.Floor(g.Add(level, float(outside))), finest), 0.0, len(scales) - 1.0)


def cut(g: Graph, feature: str, boxes: str, size: int, scale: float, settings: PoolerSettings) -> str:
    """(R, C, size, size): see pooler.cut_rois. With the largest of a bin's samples (ONNX's own "max" is of something
    else) every sample is a bin at first."""
    count, aligned = g.size(boxes, 0), settings.aligned
    if settings.roi_op == "roi_pool":
        rois = g.Concat(g.Expand(0.0, g.Concat(count, [1], axis=0)), boxes, axis=1)
        return g.MaxRoiPool(feature, rois, pooled_shape=[size, size], spatial_scale=scale)
    if settings.roi_op == "roi_warp":  # round_half_away of roi_pool.py: no box has negative corners
        corners = g.Mul(boxes, scale)
        whole = g.Floor(corners)
        boxes, scale, aligned = g.Add(whole, g.Floor(g.Mul(2.0, g.Sub(corners, whole)))), 1.0, False
    samples = settings.sampling_ratio
    bins = size * samples if settings.reduce == "max" else size
    pooled = g.RoiAlign(
        feature, boxes, g.Expand(0, count), output_height=bins, output_width=bins, spatial_scale=scale,
        sampling_ratio=1 if settings.reduce == "max" else samples,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )  # fmt: skip
    return max_pool(g, pooled, samples, samples) if settings.reduce == "max" else pooled


# Detections


def best_detections(
    g: Graph, logits: str, deltas: str, rois: str, limits: str, settings: BoxSettings
) -> tuple[str, str, str]:
    """Boxes (D, 4), scores (D,) and labels (D,), best first: see box_branch.best_detections.

    To NonMaxSuppression every class is an image of its own, since each has boxes of its own."""
    scores = g.Slice(g.Softmax(logits, axis=1), [1], [2**31], [1])  # (R, K - 1), as the boxes, without the background
    boxes = decode(g, g.Reshape(deltas, [0, -1, 4]), g.Unsqueeze(rois, [1]), settings.weights)
    boxes = clip(g, g.Slice(boxes, [1], [2**31], [1]), limits)
    scores = g.Where(g.GreaterOrEqual(shorter_sides(g, boxes), float(settings.min_box_size)), scores, -1.0)
    kept = g.NonMaxSuppression(
        g.Transpose(boxes, perm=[1, 0, 2]), g.Unsqueeze(g.Transpose(scores, perm=[1, 0]), [1]),
        [settings.max_detections], iou_threshold(settings.nms), [float(settings.score_threshold)],
    )  # fmt: skip
    kept = g.Gather(kept, [2, 0], axis=1)  # RoI and class
    ranked = g.ScatterND(g.Expand(-1.0, g.Shape(scores)), kept, g.GatherND(scores, kept))
    ranked = g.Reshape(ranked, [-1])  # of equal scores, that of the best RoI comes first
    scores, best = g.TopK(ranked, g.Min(g.Shape(ranked), [settings.max_detections]), outputs=2)
    kept = g.where(g.Greater(scores, -1.0))
    scores, best = g.Gather(scores, kept), g.Gather(best, kept)
    labels = g.Add(g.Mod(best, g.size(boxes, 1)), 1)
    return g.Gather(g.Reshape(boxes, [-1, 4]), best), scores, labels


def decode_masks(g: Graph, logits: str, labels: str, settings: MaskSettings) -> str:
    """(D, K, m, m) -> (D, m, m): see mask_branch.decode_masks."""
    if settings.class_agnostic_masks:
        return g.Sigmoid(g.Squeeze(logits, [1]))
    competing = settings.loss == "softmax"
    if competing and settings.softmax_decoding == "all":
        return g.GatherND(g.Softmax(logits, axis=1), g.Unsqueeze(labels, [1]), batch_dims=1)
    own = g.GatherND(logits, g.Unsqueeze(labels, [1]), batch_dims=1)
    return g.Sigmoid(g.Sub(own, g.Gather(logits, 0, axis=1)) if competing else own)


def rescale(g: Graph, found: dict[str, str], size: str, original: str, clipped: bool) -> dict[str, str]:
    """The detections with boxes in the image as it came in: see TwoStage.rescale."""
    scale = g.to(g.Div(g.to(original, np.float64), g.to(size, np.float64)), np.float32)
    found = {**found, "boxes": g.Mul(found["boxes"], g.Gather(scale, [1, 0, 1, 0]))}
    if not clipped:
        return found
    found["boxes"] = clip(g, found["boxes"], g.to(g.Gather(original, [1, 0, 1, 0]), np.float32))
    kept = g.where(g.Greater(shorter_sides(g, found["boxes"]), 0.0))
    return {name: g.Gather(value, kept) for name, value in found.items()}
