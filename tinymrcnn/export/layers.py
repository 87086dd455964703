"""The parts of the network that have weights, as nodes of an ONNX graph: what their forward() computes, in eval mode.

A normalisation by constants only scales and shifts channels, so it moves into the filters and the bias before it.
"""

from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import to_numpy
from tinymrcnn.export.graph import Graph
from tinymrcnn.models.resnet import BasicBlock, Bottleneck, ResNet
from tinymrcnn.models.two_stage import TwoStage
from tinymrcnn.nn import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm, Module

# Shapes below: C channels, maps of H x W cells, R RoIs, K classes, masks of m x m cells. A map is (1, C, H, W)


def scale_and_shift(norm: BatchNorm2d | FrozenBatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalisation by its running statistics comes to: x scale + shift, in float64."""
    names = "weight", "bias", "running_mean", "running_var"
    arrays = (getattr(norm, name) for name in names)
    arrays = (to_numpy(array.data if isinstance(array, Tensor) else array).astype(np.float64) for array in arrays)
    weight, bias, mean, var = arrays
    scale = weight / np.sqrt(var + norm.eps)
    return scale, bias - mean * scale


def conv(g: Graph, x: str, layer: Conv2d, norm: Module | None = None, relu: bool = False) -> str:
    """relu(norm(conv(x))), or without the normalisation or the ReLU; the ReLU that the layer has itself, too."""
    filters = to_numpy(layer.weight.data)
    bias = None if layer.bias is None else layer.bias.data
    if isinstance(norm, (BatchNorm2d, FrozenBatchNorm2d)):  # a convolution before one has no bias
        scale, bias = scale_and_shift(norm)
        filters = filters * scale.reshape(-1, 1, 1, 1)
    x = g.Conv(
        x, g.weight(layer, filters), g.weight(layer, bias, "bias"), kernel_shape=filters.shape[2:],
        strides=[layer.stride] * 2, pads=[layer.padding] * 4, dilations=[layer.dilation] * 2, group=layer.groups,
    )  # fmt: skip
    if isinstance(norm, GroupNorm):
        weights = g.weight(norm, norm.weight.data), g.weight(norm, norm.bias.data, "bias")
        x = g.GroupNormalization(x, *weights, num_groups=norm.num_groups, epsilon=norm.eps)
    return g.Relu(x) if relu or layer.relu else x


def linear(g: Graph, x: str, layer: Any) -> str:
    """(R, in) -> (R, out)."""
    return g.Gemm(x, g.weight(layer, layer.weight.data), g.weight(layer, layer.bias.data, "bias"), transB=1)


# The body


def block(g: Graph, x: str, layer: BasicBlock | Bottleneck) -> str:
    """relu(x + F(x))."""
    out = conv(g, x, layer.conv1, layer.bn1, relu=True)
    out = conv(g, out, layer.conv2, layer.bn2, relu=isinstance(layer, Bottleneck))
    if isinstance(layer, Bottleneck):
        out = conv(g, out, layer.conv3, layer.bn3)
    shortcut = x if layer.downsample is None else conv(g, x, *layer.downsample)
    return g.Relu(g.Add(out, shortcut))


def stage(g: Graph, x: str, blocks: Any) -> str:
    """The blocks of a stage, one after the other."""
    for layer in blocks:
        x = block(g, x, layer)
    return x


def max_pool(g: Graph, x: str, size: int, stride: int, padding: int = 0) -> str:
    return g.MaxPool(x, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[padding] * 4)


def resnet(g: Graph, images: str, body: ResNet) -> list[str]:
    """The map of every stage, finest first."""
    x = conv(g, images, body.conv1, body.bn1, relu=True)
    x = max_pool(g, x, 3, 2, padding=1)
    maps = []
    for i in range(len(body.out_channels)):
        x = stage(g, x, getattr(body, f"layer{i + 1}"))
        maps.append(x)
    return maps


def pyramid(g: Graph, maps: list[str], fpn: Any, halved: bool) -> list[str]:
    """P2 to P5, and P6 if there is one. halved: whether every map has exactly half the cells of the one before."""
    lateral = [conv(g, x, layer[0]) for layer, x in zip(fpn.inner_blocks, maps, strict=True)]
    merged = lateral[-1]
    levels = [conv(g, merged, fpn.layer_blocks[-1][0])]
    for i in reversed(range(len(maps) - 1)):
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        merged = g.Resize(merged, None, [1.0, 1.0, 2.0, 2.0], **nearest)
        if not halved:  # of 2 n - 1 cells the last one is too many
            merged = g.Slice(merged, [0, 0], g.Shape(lateral[i], start=2), [2, 3])
        merged = g.Add(lateral[i], merged)
        levels.insert(0, conv(g, merged, fpn.layer_blocks[i][0]))
    if fpn.extra_level:
        levels.append(max_pool(g, levels[-1], 1, 2))
    return levels


def features(g: Graph, images: str, model: TwoStage, halved: bool) -> list[str]:
    """The maps that the branches read, finest first, as model.features gives them."""
    maps = resnet(g, images, model.backbone.body)
    return pyramid(g, maps, model.backbone.fpn, halved) if model.config.backbone == "fpn" else maps[-1:]


def coarsest_stride(model: TwoStage) -> int:
    """The pixels per cell of the ResNet's last map."""
    return model.config.resnet.map_stride(len(model.backbone.body.out_channels) - 1)


def export_body(model: TwoStage, size: tuple[int, int]) -> Any:
    """The body of a model alone, with its pyramid if it has one, as an onnx.ModelProto: what benchmarks of inference
    engines run.

    size: the (height, width) of the one image. The graph's input "images" is (1, 3, height, width) float32, normalised;
    its outputs "map0", "map1", ... are the maps (1, C, H, W), finest first. Raises RuntimeError where onnx is not
    installed, and ValueError for a size that is no multiple of the coarsest stride of the ResNet."""
    strides, coarsest = model.config.strides, coarsest_stride(model)
    if any(side % coarsest for side in size):
        raise ValueError(
            f"The body is exported for sizes that are multiples of {coarsest} pixels, not for {size[0]}x{size[1]}."
        )
    g = Graph(model)
    maps = features(g, "images", model, halved=True)
    shapes = [[1, model.channels, *(-(-side // stride) for side in size)] for stride in strides]
    outputs = [(f"map{i}", value, np.float32, shape) for i, (value, shape) in enumerate(zip(maps, shapes, strict=True))]
    text = "The feature maps of a normalised image, finest first."
    return g.model([("images", "images", np.float32, [1, 3, *size])], outputs, text, {})


# The heads


def rpn_head(g: Graph, feature: str, head: Any) -> tuple[str, str]:
    """Logits (A,) and deltas (A, 4) of the anchors of a map, in (row, column, anchor) order."""
    hidden = conv(g, feature, head.conv[0][0])
    logits, deltas = (
        g.Transpose(conv(g, hidden, layer), perm=[0, 2, 3, 1]) for layer in (head.cls_logits, head.bbox_pred)
    )
    return g.Reshape(logits, [-1]), g.Reshape(deltas, [-1, 4])


def box_branch(g: Graph, roi_features: str, heads: Module) -> tuple[str, str]:
    """Class logits (R, K) and box corrections (R, 4 K) of RoI features."""
    if hasattr(heads, "box_head"):
        hidden = g.Relu(linear(g, g.Flatten(roi_features), heads.box_head.fc6))
        hidden = g.Relu(linear(g, hidden, heads.box_head.fc7))
    else:
        hidden = g.ReduceMean(roi_features, [2, 3], keepdims=0)
    predictor = heads.box_predictor
    return linear(g, hidden, predictor.cls_score), linear(g, hidden, predictor.bbox_pred)


def mask_logits(g: Graph, roi_features: str, heads: Module, side: int) -> str:
    """(R, C, side / 2, side / 2) -> (R, K, side, side); a single mask where it is of no class."""
    x, predictor = roi_features, heads.mask_predictor
    if hasattr(predictor, "fc1"):  # the fully connected layers of Table 2e
        hidden = g.Relu(linear(g, g.Relu(linear(g, g.Flatten(x), predictor.fc1)), predictor.fc2))
        return g.Reshape(linear(g, hidden, predictor.mask_fc_logits), [0, -1, side, side])
    for layer in getattr(heads, "mask_head", ()):
        x = conv(g, x, layer[0])
    double = predictor.conv5_mask
    weights = g.weight(double, double.weight.data), g.weight(double, double.bias.data, "bias")
    x = g.Relu(g.ConvTranspose(x, *weights, kernel_shape=double.weight.shape[2:], strides=[double.stride] * 2))
    return conv(g, x, predictor.mask_fcn_logits)
