"""A small torchvision Mask R-CNN with the same weights: the same losses, gradients and detections.

Both sides sample all anchors and all proposals, so that chance decides nothing."""

import numpy as np
import pytest
from tiny_models import RESNET50_FPN, scene

from tinymrcnn.models import build_model

pytestmark = pytest.mark.parity

NUM_CLASSES, EVERYTHING = 4, 10**6
WIDTHS, DEPTHS, FPN, HIDDEN, MASK, POOL = (8, 8, 16, 16), (1, 2, 1, 1), 12, 20, (10, 10), 7
SIZES = ((8,), (16,), (32,), (64,), (128,))
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
CONFIG = dict(
    num_classes=NUM_CLASSES,
    depths=DEPTHS,
    widths=WIDTHS,
    stem_width=8,
    fpn_channels=FPN,
    extra_level=True,
    anchor_sizes=SIZES,
    anchor_order="ratio",
    anchor_rounded=True,
    nominal_strides=False,
    rpn_channels=FPN,
    rpn_samples=EVERYTHING,
    box_samples=EVERYTHING,
    rpn_pre_nms_train=60,
    rpn_pre_nms_test=60,
    rpn_post_nms_train=120,
    rpn_post_nms_test=80,
    aligned=False,
    box_hidden=HIDDEN,
    mask_layers=MASK,
    mask_channels=8,
    crop_aligned=False,
    soft_mask_targets=True,
    score_threshold=0.05,
)


def torchvision_model(block, norm, min_size, max_size):
    """torchvision's classes with the sizes of CONFIG."""
    import torch
    from torch import nn
    from torchvision.models import resnet
    from torchvision.models.detection import MaskRCNN, faster_rcnn, mask_rcnn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    norm_layer = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}[norm]
    kind = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[block]
    body = resnet.ResNet(kind, [1, 1, 1, 1], norm_layer=norm_layer)
    body.conv1, body.bn1, body.inplanes = nn.Conv2d(3, 8, 7, 2, 3, bias=False), norm_layer(8), 8
    for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        if block == "bottleneck":
            body.base_width = 64  # torchvision scales the inner width by base_width / 64
        setattr(body, f"layer{i + 1}", body._make_layer(kind, width, depth, stride=1 if i == 0 else 2))
    channels = [width * kind.expansion for width in WIDTHS]
    backbone = BackboneWithFPN(
        body, {f"layer{i + 1}": str(i) for i in range(4)}, channels, FPN, extra_blocks=LastLevelMaxPool()
    )
    model = MaskRCNN(
        backbone,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5),
        rpn_head=RPNHead(FPN, 3),
        rpn_pre_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_train=120,
        rpn_post_nms_top_n_test=80,
        rpn_batch_size_per_image=EVERYTHING,
        box_head=faster_rcnn.TwoMLPHead(FPN * POOL**2, HIDDEN),
        box_predictor=faster_rcnn.FastRCNNPredictor(HIDDEN, NUM_CLASSES),
        box_batch_size_per_image=EVERYTHING,
        mask_head=mask_rcnn.MaskRCNNHeads(FPN, MASK, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(MASK[-1], 8, NUM_CLASSES),
    )
    return model.to(torch.float32)


def spread(name, shape, rng):
    """Weights for which every part of the network has something to say."""
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2, shape)
    if name.endswith(("bias", "running_mean")):
        return rng.normal(0, 0.1, shape)
    if len(shape) == 1:
        return rng.uniform(0.7, 1.3, shape)
    fan_in = np.prod(shape[1:]) if "conv5_mask" not in name else shape[0]
    # torchvision sorts proposals by the sigmoid, which must not saturate: of ties, the order is anyone's
    small = {"rpn.head.bbox_pred.weight": 0.2, "rpn.head.cls_logits.weight": 0.2, "backbone.fpn.inner": 0.5}
    scale = next((value for start, value in small.items() if name.startswith(start)), 1.4)
    return rng.normal(0, scale / np.sqrt(fan_in), shape)


def pair(block="basic", norm="batch", min_size=64, max_size=200, seed=0):
    """(our model, torchvision's) with the same weights, in train mode."""
    import torch

    ours = build_model("shapes", **CONFIG, block=block, norm=norm, min_size=min_size, max_size=max_size)
    theirs = torchvision_model(block, norm, min_size, max_size)
    rng = np.random.default_rng(seed)
    state = {name: spread(name, a.shape, rng).astype(np.float32) for name, a in ours.state_dict().items()}
    ours.load_state_dict(state)
    missing, unexpected = theirs.load_state_dict({k: torch.from_numpy(a) for k, a in state.items()}, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    return ours.train(), theirs.train()


SCENES = {
    "as they are": ((64, 96), (64, 128)),
    "of two sizes": ((64, 96), (64, 75)),
    "resized": ((50, 83), (121, 70)),
}


def make_batch(name):
    first, second = SCENES[name]
    images, targets = zip(
        scene(1, first, ((9, 6, 31, 24), (40, 20, 78, 48)), (2, 3)),
        scene(2, second, ((20, 10, 60, 50),), (1,)),
        strict=True,
    )
    return list(images), list(targets)


def as_torch(images, targets):
    import torch

    wanted = ("boxes", "labels", "masks")
    return (
        [torch.from_numpy(image) for image in images],
        [{name: torch.from_numpy(target[name]) for name in wanted} for target in targets],
    )


def close(a, b, tolerance=1e-4):
    """Relative to the largest value."""
    a, b = np.asarray(a, np.float64), np.asarray(b.detach().numpy(), np.float64)
    return a.shape == b.shape and np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize(("block", "norm"), [("basic", "batch"), ("bottleneck", "frozen")])
def test_losses_and_gradients(name, block, norm):
    ours, theirs = pair(block, norm)
    images, targets = make_batch(name)
    found, expected = ours(images, targets), theirs(*as_torch(images, targets))
    assert ours.counts["positive_anchors"] >= 3 and ours.counts["positive_rois"] >= 3
    for loss in LOSSES:
        assert found[loss].item() == pytest.approx(expected[loss].item(), rel=1e-4), loss
        assert found[loss].item() > 1e-4
    sum(found.values(), start=0.0).backward()
    sum(expected.values()).backward()
    gradients = dict(theirs.named_parameters())
    for path, parameter in ours.named_parameters():
        assert close(parameter.grad, gradients[path].grad, 1e-3), path
    if norm == "batch":
        buffers = dict(theirs.named_buffers())
        for path, buffer in ours.named_buffers():
            assert close(buffer, buffers[path]), path


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_detections(name, norm):
    import torch

    ours, theirs = (model.eval() for model in pair(norm=norm))
    images, _ = make_batch(name)
    found = ours.detect(images)
    with torch.no_grad():
        batch, _ = theirs.transform([torch.from_numpy(image) for image in images])
        features = theirs.backbone(batch.tensors)
        proposals, _ = theirs.rpn(batch, features)
        expected, _ = theirs.roi_heads(features, proposals, batch.image_sizes)
    ours_batch = ours.transform(images)
    assert ours_batch.sizes == batch.image_sizes
    assert close(ours_batch.images.data, batch.tensors)
    for level, feature in zip(ours.features(ours_batch), features.values(), strict=True):
        assert close(level.data, feature)
    our_proposals, _ = ours.propose(ours.features(ours_batch), ours_batch)
    for a, b in zip(our_proposals, proposals, strict=True):
        assert len(a) == len(b) == 80
        # in any order: scores that differ in the last bit only may change places
        distances = np.abs(a[:, None] - b.numpy()).max(axis=2)
        assert max(distances.min(axis=0).max(), distances.min(axis=1).max()) < 1e-2
    for result, wanted, (h, w), image in zip(found, expected, batch.image_sizes, images, strict=True):
        assert len(wanted["scores"]) > 5
        np.testing.assert_array_equal(result["labels"], wanted["labels"].numpy())
        assert close(result["scores"], wanted["scores"])
        scale = [image.shape[2] / w, image.shape[1] / h] * 2
        assert close(result["boxes"], wanted["boxes"] * torch.tensor(scale))
        assert close(result["masks"], wanted["masks"][:, 0])
        assert np.ptp(result["masks"]) > 0.1


def test_images_without_objects():
    ours, theirs = pair()
    images, targets = make_batch("as they are")
    targets[0] = {name: array[:0] for name, array in targets[0].items() if name != "image_id"}
    found, expected = ours(images, targets), theirs(*as_torch(images, targets))
    for loss in LOSSES:
        assert found[loss].item() == pytest.approx(expected[loss].item(), rel=1e-4), loss


def test_names_and_shapes_of_the_full_size_model():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    ours = build_model("shapes", num_classes=91, **RESNET50_FPN).state_dict()
    expected = {name: tuple(a.shape) for name, a in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: array.shape for name, array in ours.items()} == expected
