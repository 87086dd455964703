"""A small torchvision Mask R-CNN with the same weights: the same losses, gradients and detections.

Both sides sample all anchors and all proposals, so that chance decides nothing."""

import numpy as np
import pytest
from tiny_models import scene
from torchvision_twin import EVERYTHING, as_torch, relative_error, small_model, twin_of

from tinymrcnn.models import build_model
from tinymrcnn.models.two_stage import mean_losses

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


def pair(block="basic", norm="batch", min_size=64, max_size=200):
    """(our model, torchvision's) with the same weights, in train mode."""
    ours = small_model("shapes", **CONFIG, block=block, norm=norm, min_size=min_size, max_size=max_size)
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
@pytest.mark.parametrize(("block", "norm"), [("basic", "batch"), ("bottleneck", "frozen")])
def test_losses_and_gradients(name, block, norm):
    ours, theirs = pair(block, norm)
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


def test_names_and_shapes_of_the_full_size_model():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    ours = build_model("torchvision_resnet50_fpn").state_dict()
    expected = {name: tuple(a.shape) for name, a in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: array.shape for name, array in ours.items()} == expected
