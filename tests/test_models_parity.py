"""A small torchvision Mask R-CNN with the same weights: the same losses, gradients and detections.

Both sides sample all anchors and all proposals, so that chance decides nothing."""

import numpy as np
import pytest
from tiny_models import scene
from torchvision_twin import EVERYTHING, as_torch, relative_error, small_model, twin_of

from tinymrcnn.autograd import Tensor
from tinymrcnn.models import build_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.resnet import ResNet
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.nn.init import without_drawing

pytestmark = pytest.mark.parity

LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
CONFIG = dict(
    num_classes=4,
    extra_level=True,
    anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
    anchor_order="ratio",
    anchor_rounded=True,
    nominal_strides=False,
    rpn_samples=EVERYTHING,
    box_samples=EVERYTHING,
    rpn_pre_nms_train=60,
    rpn_pre_nms_test=60,
    rpn_post_nms_train=120,
    rpn_post_nms_test=80,
    aligned=False,
    crop_aligned=False,
    soft_mask_targets=True,
)


def pair(block="basic", norm="batch", min_size=64, max_size=200, **resnext):
    """(our model, torchvision's) with the same weights, in train mode."""
    ours = small_model("shapes", **CONFIG, block=block, norm=norm, min_size=min_size, max_size=max_size, **resnext)
    return ours, twin_of(ours)


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


def close(a, b, tolerance=1e-4):
    return relative_error(a, b) <= tolerance


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize(
    ("block", "norm", "resnext"),
    [
        ("basic", "batch", {}),
        ("bottleneck", "frozen", {}),
        ("bottleneck", "frozen", dict(groups=4, expansion=2)),
    ],
    ids=str,
)
def test_losses_and_gradients(name, block, norm, resnext):
    ours, theirs = pair(block, norm, **resnext)
    images, targets = make_batch(name)
    sums, samples = ours.loss_sums(images, targets)
    found, expected = mean_losses(sums), theirs(*as_torch(images, targets))
    assert samples.counts["positive_anchors"] >= 3 and samples.counts["positive_rois"] >= 3
    for loss in LOSSES:
        assert found[loss].item() == pytest.approx(expected[loss].item(), rel=1e-4), loss
        assert found[loss].item() > 1e-4
    sum(found.values(), start=0.0).backward()
    sum(expected.values()).backward()
    gradients = dict(theirs.named_parameters())
    for path, parameter in ours.named_parameters():
        assert close(parameter.grad, gradients[path].grad), path
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
    our_proposals = ours.propose(ours.run_rpn(ours.features(ours_batch), ours_batch), ours_batch)
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


@pytest.mark.parametrize(
    ("preset", "factory"),
    [("detectron2_resnext101_fpn", "resnext101_32x8d"), ("paper_resnext101_fpn", "resnext101_64x4d")],
)
def test_resnext101(preset, factory):
    """The whole body as torchvision has it for classification: its four maps, and the gradients of all weights."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    theirs = getattr(models, factory)(weights=None).eval()  # so its normalisation is frozen
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                spread = (module.weight, 0.3, 0.7), (module.bias, -0.1, 0.1), (module.running_mean, -0.1, 0.1)
                for tensor, least, most in (*spread, (module.running_var, 0.5, 1.5)):
                    tensor.copy_(torch.from_numpy(rng.uniform(least, most, tensor.shape)))
    with without_drawing():
        ours = ResNet(get_config(preset).resnet)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({name: a for name, a in state.items() if "num_batches" not in name and name[:2] != "fc"})
    image = rng.normal(size=(1, 3, 64, 96)).astype(np.float32)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(torch.from_numpy(image)))))
    expected = [x := getattr(theirs, f"layer{i}")(x) for i in range(1, 5)]
    upstream = [rng.normal(size=tuple(tensor.shape)).astype(np.float32) for tensor in expected]
    torch.autograd.backward(expected, list(map(torch.from_numpy, upstream)))
    found = ours(Tensor(image))
    sum(((level * Tensor(grad)).sum() for level, grad in zip(found, upstream, strict=True)), start=0.0).backward()
    for level, wanted in zip(found, expected, strict=True):
        assert close(level.data, wanted) and np.ptp(level.data) > 0.1
    gradients = dict(theirs.named_parameters())
    for path, parameter in ours.named_parameters():
        assert close(parameter.grad, gradients[path].grad), path


def test_names_and_shapes_of_the_full_size_model():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    ours = build_model("torchvision_resnet50_fpn").state_dict()
    expected = {name: tuple(a.shape) for name, a in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: array.shape for name, array in ours.items()} == expected
