"""Whole networks: R50-FPN, and the `shapes` model, each next to torchvision's Mask R-CNN with the same layers.

So that both sides do the same work they have the same weights (our random ones: the parameter names agree), the
same image in its own size, and a learning rate so small that no step changes what the next one has to do. Both
then make the same proposals; how many RoIs reach the heads is counted on both sides and reported. The random R50
is made to behave like a trained one in two ways: the residual branches are damped, so that the activations stay
finite, and at inference every RoI has a good score for one class, so that 100 detections remain.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinymrcnn.bench.cases import Case
from tinymrcnn.bench.measure import Setting
from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.loader import load_batch
from tinymrcnn.models import Config, MaskRCNN, TrainConfig, build_model
from tinymrcnn.models.fuse import fused
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.resnet import Bottleneck
from tinymrcnn.settings import replace
from tinymrcnn.training.trainer import make_optimizer, training_step

TINY_RATE = 1e-9

# The toy model as torchvision counts: anchors rounded, strides from the maps' sizes, no half pixel, soft mask targets
AS_TORCHVISION = dict(
    anchor_rounded=True, nominal_strides=False, aligned=False, crop_aligned=False, soft_mask_targets=True,
    paste_whole_pixels=True,
)  # fmt: skip
QUICK = dict(
    depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), stem_width=8, fpn_channels=16, rpn_channels=16, box_hidden=16,
    rpn_pre_nms_train=60, rpn_pre_nms_test=60, rpn_post_nms_train=40, rpn_post_nms_test=40, box_samples=16,
    mask_layers=(16,), mask_channels=16,
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """One row. size: of the images (h, w). train: how to train it, None for inference."""

    config: Config
    size: tuple[int, int]
    train: TrainConfig | None

    @property
    def dataset(self) -> ShapesDataset:
        return ShapesDataset(64, self.size, seed=0)

    def batch(self):
        """(images, targets) of the first batch."""
        batch_size = self.train.batch_size if self.train else 1
        return load_batch(self.dataset, batch_size, 0, 0, flip=False)[1:]


def networks(quick: bool = False) -> dict[str, Network]:
    """The rows by name."""
    shrunk = QUICK if quick else {}
    r50 = replace(get_config("torchvision_resnet50_fpn"), min_size=None, max_size=None, **shrunk)
    shapes = replace(get_config("shapes"), **{**AS_TORCHVISION, **shrunk})
    sgd = TrainConfig(optimizer="sgd", batch_size=1, lr=TINY_RATE)
    adamw = TrainConfig(optimizer="adamw", batch_size=2 if quick else 8, lr=TINY_RATE)
    large, small = ((96, 128), (64, 64)) if quick else ((800, 1088), (128, 128))
    return {
        "R50-FPN inference, 800x1088": Network(r50, large, None),
        "R50-FPN training step, one image 800x1088": Network(r50, large, sgd),
        "shapes training step, batch 8, 128x128": Network(shapes, small, adamw),
    }


def sides_of(setting: Setting) -> tuple[str, ...]:
    """The sides that can be measured."""
    return ("ours", "torchvision") if setting.torch else ("ours",)


def network_cases(setting: Setting, training: bool) -> Iterator[tuple[str, Callable[[], Case]]]:
    """The networks' rows: names, and functions that build them (they are large, so one at a time)."""
    for name, network in networks(setting.quick).items():
        if (network.train is not None) == training:
            yield name, functools.partial(_case, name, network, setting)


def _case(name: str, network: Network, setting: Setting) -> Case:
    sides = {side: make_side(side, network, setting) for side in sides_of(setting)}
    with counting_operations() as count:
        counts = {"ours": sides["ours"]()}
    counts |= {side: work() for side, work in sides.items() if side != "ours"}
    note = "; ".join(
        f"{side}: " + ", ".join(f"{number} {what}" for what, number in found.items()) for side, found in counts.items()
    )
    return Case(name, count(), "FLOP", sides, note)


def make_side(side: str, network: Network, setting: Setting) -> Callable[[], dict]:
    """One side of a row as a function without arguments that runs one inference or one training step, and returns
    how many RoIs and detections it dealt with."""
    return (_our_side if side == "ours" else _their_side)(network, setting)


# Ours


def build_ours(network: Network) -> MaskRCNN:
    """Our model, with random weights, on the CPU; of R50 the stem and the first stage are frozen."""
    model = build_model(network.config).train(network.train is not None)
    body = model.backbone.body
    if network.config.resnet.norm == "frozen":
        body.conv1.requires_grad_(False)
        body.layer1.requires_grad_(False)
    for module in body.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill(0.2)
    if network.train is None:  # every RoI belongs to class 1 with a probability of about a half
        model.roi_heads.box_predictor.cls_score.bias.data[1] = math.log(network.config.num_classes - 1)
    return model


def _our_side(network: Network, setting: Setting):
    prepared = fused if network.train is None else lambda model: model  # as the commands predict
    model = prepared(build_ours(network).to(setting.device))  # with no name for the model before, which is gone then
    images, targets = network.batch()
    counts = count_rois(model)
    if network.train is None:
        return lambda: {"detections": len(model(images)[0]["scores"]), **counts}
    optimizer = make_optimizer(model, network.train)

    def step():
        training_step(model, optimizer, 0, images, targets, network.train)
        return dict(counts)

    return step


def count_rois(model) -> dict[str, int]:
    """A dict that holds, after every call of the model (either side's), how many RoIs its heads got."""
    counts = {}
    for what, head in (("RoIs", model.roi_heads.box_head), ("mask RoIs", model.roi_heads.mask_head)):

        def counting(x, what=what, forward=head.forward):
            counts[what] = len(x)
            return forward(x)

        head.forward = counting
    return counts


# Theirs


def _their_side(network: Network, setting: Setting):
    torch: Any = setting.torch
    ours = build_ours(network)
    model = build_theirs(network.config, network.size)
    state = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"torchvision's model has other parameters: {missing} are missing, {unexpected} are ours.")
    trained = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    model.to(setting.device).train(network.train is not None)
    images, targets = network.batch()
    del ours, state
    counts = count_rois(model)

    def inputs():  # from the host, as ours
        moved = [{name: setting.theirs(target[name]) for name in ("boxes", "labels", "masks")} for target in targets]
        return [setting.theirs(image) for image in images], moved

    def infer():
        with torch.inference_mode():
            (found,) = model(inputs()[0])
            found = {name: tensor.cpu() for name, tensor in found.items()}
        return {"detections": len(found["scores"]), **counts}

    if network.train is None:
        return infer
    config, parameters = network.train, [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)

    def step():
        optimizer.zero_grad()
        losses = model(*inputs())
        total = sum(losses.values())
        for loss in (total, *losses.values()):  # our step logs them, too
            loss.item()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm).item()
        optimizer.step()
        return dict(counts)

    return step


def build_theirs(config: Config, size=None):
    """torchvision's MaskRCNN with the layers of a Config with an FPN, from torchvision's own blocks, with its random
    weights. size: of the images (h, w), which it leaves as they are; without it images are resized as in the Config."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import MultiScaleRoIAlign

    c, width = config, config.fpn.channels
    min_size, max_size = (c.transform.min_size, c.transform.max_size) if size is None else (min(size), max(size))
    ratios = (c.rpn.aspect_ratios,) * len(c.rpn.anchor_sizes)
    maps = ["0", "1", "2", "3"]
    return MaskRCNN(
        _their_backbone(c),
        min_size=min_size,
        max_size=max_size,
        _skip_resize=size is not None,  # in training; at inference it resamples to the same size
        image_mean=c.transform.pixel_mean,
        image_std=c.transform.pixel_std,
        rpn_anchor_generator=AnchorGenerator(c.rpn.anchor_sizes, ratios),
        rpn_head=RPNHead(width, len(c.rpn.aspect_ratios)),
        rpn_pre_nms_top_n_train=c.rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=c.rpn.pre_nms_test,
        rpn_post_nms_top_n_train=c.rpn.post_nms_train,
        rpn_post_nms_top_n_test=c.rpn.post_nms_test,
        rpn_nms_thresh=c.rpn.nms,
        rpn_batch_size_per_image=c.rpn.samples,
        box_roi_pool=MultiScaleRoIAlign(maps, c.box.pool, c.pooler.sampling_ratio),
        box_head=TwoMLPHead(width * c.box.pool**2, c.box.hidden),
        box_predictor=FastRCNNPredictor(c.box.hidden, c.num_classes),
        box_score_thresh=c.box.score_threshold,
        box_nms_thresh=c.box.nms,
        box_detections_per_img=c.box.max_detections,
        box_batch_size_per_image=c.box.samples,
        box_positive_fraction=c.box.positive_fraction,
        mask_roi_pool=MultiScaleRoIAlign(maps, c.mask.pool, c.pooler.sampling_ratio),
        mask_head=MaskRCNNHeads(width, c.mask.layers, 1),
        mask_predictor=MaskRCNNPredictor(c.mask.layers[-1], c.mask.channels, c.num_classes),
    )


def _their_backbone(c: Config):
    """torchvision's residual blocks and pyramid, with the widths and depths of a Config."""
    from torch import nn
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import BasicBlock, Bottleneck
    from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[c.resnet.block]
    norm = functools.partial(
        {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}[c.resnet.norm], eps=c.resnet.norm_eps
    )
    channels, widths, layers = c.resnet.stem_width, [], OrderedDict()
    layers["conv1"] = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    layers["bn1"], layers["relu"], layers["maxpool"] = norm(channels), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    for i, (depth, width, out) in enumerate(zip(c.resnet.depths, c.resnet.widths, c.resnet.out_channels, strict=True)):
        planes, blocks = (
            out // block.expansion,
            [],
        )  # torchvision widens a bottleneck's inside instead of its output less
        inside = dict(groups=c.resnet.groups, base_width=64 * width / planes / c.resnet.groups)
        for j in range(depth):
            stride, shortcut = (2 if i > 0 and j == 0 else 1), None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))
            blocks.append(block(channels, planes, stride, shortcut, **inside, norm_layer=norm))
            channels = out
        layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
        widths.append(channels)
    body = IntermediateLayerGetter(nn.Sequential(layers), {f"layer{i + 1}": str(i) for i in range(4)})
    fpn = FeaturePyramidNetwork(widths, c.fpn.channels, LastLevelMaxPool() if c.fpn.extra_level else None)
    backbone = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    backbone.out_channels = c.fpn.channels
    return backbone
