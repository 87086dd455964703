"""detectron2's presets, at full size with random weights, beside mayaku, which computes the same networks.

detectron2's last release, of 2021, has wheels up to Python 3.9. mayaku installs today: it reads detectron2's
configurations and files of weights, and builds Faster and Mask R-CNN with an FPN. Both sides load the same file, so
what they make of the names, of the order of the classes and of the colours is compared too. The version of mayaku is
pinned: its own model is another one by now, and it keeps these for people who come from detectron2."""

import functools
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from test_weights_public import detectron2_state
from tiny_models import batch_of, scene
from torchvision_twin import calibrate, relative_error, spread
from weight_files import write_detectron2

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.models import build_model
from tinymrcnn.models.pooler import pool_rois
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.settings import replace
from tinymrcnn.weights import load_weights

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(importlib.util.find_spec("mayaku") is None, reason="mayaku is not installed"),
]

# What detectron2's configurations say of the three backbones, beyond its defaults
RESNEXT = dict(DEPTH=101, STRIDE_IN_1X1=False, NUM_GROUPS=32, WIDTH_PER_GROUP=8)
BACKBONES = {
    "detectron2_resnet50_fpn": (dict(DEPTH=50, STRIDE_IN_1X1=True), [1.0, 1.0, 1.0]),
    "detectron2_resnet101_fpn": (dict(DEPTH=101, STRIDE_IN_1X1=True), [1.0, 1.0, 1.0]),
    "detectron2_resnext101_fpn": (RESNEXT, [57.375, 57.12, 58.395]),
}
ALL_ANCHORS, ALL_ROIS = 65536, 8192  # as many samples: then chance decides nothing
PROPOSALS = 300  # fewer than detectron2's 1000, to save time
SAMPLING_RATIO = 2  # not detectron2's 0, of which test_the_sampling_ratio_of_mayaku speaks
LEVELS = ("p2", "p3", "p4", "p5", "p6")
LOSSES = {
    "loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_loc", "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg", "loss_mask": "loss_mask",
}  # fmt: skip


def detectron2_config(preset, masks):
    """A configuration of detectron2 as nested dictionaries."""
    resnet, pixel_std = BACKBONES[preset]
    return {
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "MASK_ON": masks,
            "PIXEL_MEAN": [103.53, 116.28, 123.675],
            "PIXEL_STD": pixel_std,
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
            "RESNETS": {**resnet, "NORM": "FrozenBN"},
            "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
            "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
            "RPN": {
                "IN_FEATURES": list(LEVELS),
                "PRE_NMS_TOPK_TRAIN": 2000, "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": PROPOSALS, "POST_NMS_TOPK_TEST": PROPOSALS,
                "BATCH_SIZE_PER_IMAGE": ALL_ANCHORS,
            },
            "ROI_HEADS": {
                "NAME": "StandardROIHeads", "IN_FEATURES": list(LEVELS[:4]), "NUM_CLASSES": 80,
                "BATCH_SIZE_PER_IMAGE": ALL_ROIS,
            },
            "ROI_BOX_HEAD": {"NUM_FC": 2, "POOLER_RESOLUTION": 7, "POOLER_SAMPLING_RATIO": SAMPLING_RATIO},
            "ROI_MASK_HEAD": {"NUM_CONV": 4, "POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": SAMPLING_RATIO},
        },
        "INPUT": {"FORMAT": "BGR"},
    }  # fmt: skip


def lively(name, shape, rng):
    """spread(), with small residual branches, so that a hundred layers do not explode."""
    return spread(name, shape, rng) * (0.25 if name.endswith("bn3.weight") else 1)


@functools.lru_cache(maxsize=1)
def random_weights(preset):
    """{detectron2's name: array} of a Mask R-CNN that finds something in the images."""
    model = build_model(preset, min_size=None, max_size=None)
    rng = np.random.default_rng(0)
    state = {name: lively(name, a.shape, rng).astype(np.float32) for name, a in model.state_dict().items()}
    if model.config.transform.pixel_std == (1, 1, 1):  # its numbers are some 58 times larger
        state["backbone.body.conv1.weight"] /= 58
    model.load_state_dict(state)
    return detectron2_state(calibrate(model.eval(), scenes()[0][0]).state_dict(), "fpn")


def scenes():
    """(images, targets): two of different sizes, one of which is padded."""
    images, targets = batch_of(
        scene(1, (160, 208), ((20, 12, 120, 90), (90, 40, 190, 150)), (3, 60)),
        scene(2, (147, 190), ((30, 20, 110, 120), (100, 10, 180, 60)), (17, 80)),
    )
    return [np.rint(np.clip(image, 0, 1) * 255) / np.float32(255) for image in images], targets  # as files hold them


def as_instances(target):
    """A target as mayaku has it, which counts classes from 0."""
    import torch
    from mayaku.structures.boxes import Boxes
    from mayaku.structures.instances import Instances
    from mayaku.structures.masks import BitMasks

    instances = Instances(image_size=target["masks"].shape[1:])
    instances.gt_boxes = Boxes(torch.from_numpy(target["boxes"]))
    instances.gt_classes = torch.from_numpy(target["labels"] - 1)
    instances.gt_masks = BitMasks(torch.from_numpy(target["masks"].astype(bool)))
    return instances


@pytest.fixture(scope="module", autouse=True)
def direct_convolutions():
    """Winograd's transforms round more than the differences that are looked for here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.winograd, "enabled", False)
        yield


@pytest.fixture(scope="module", params=[(p, masks) for p in BACKBONES for masks in (True, False)], ids=str)
def both(request, tmp_path_factory):
    """The two models in eval mode, and what mayaku makes of two images, stage by stage."""
    import torch
    import yaml
    from mayaku.cli._factory import load_detector
    from mayaku.d2 import convert_d2

    preset, masks = request.param
    images, targets = scenes()
    folder = tmp_path_factory.mktemp("detectron2")
    arrays = {name: array for name, array in random_weights(preset).items() if masks or ".mask_head." not in name}
    weights = write_detectron2(folder / "w.pkl", arrays)
    (folder / "config.yaml").write_text(yaml.safe_dump(detectron2_config(preset, masks)))
    ours = build_model(
        preset, masks=masks, min_size=None, max_size=None, train_min_sizes=(), sampling_ratio=SAMPLING_RATIO,
        rpn_samples=ALL_ANCHORS, box_samples=ALL_ROIS, rpn_post_nms_train=PROPOSALS, rpn_post_nms_test=PROPOSALS,
    )  # fmt: skip
    report = load_weights(ours.eval(), weights)
    assert report.family == "detectron2" and len(report.loaded) == len(ours.state_dict()) and report.notes == ()
    convert_d2(weights, d2_config=folder / "config.yaml", output=folder / "w.pth")
    theirs = load_detector(folder / "w.pth")[1].eval()
    for file in folder.iterdir():
        file.unlink()
    inputs = [{"image": torch.from_numpy(image) * 255} for image in images]
    with torch.no_grad():
        batch = theirs._preprocess_image(inputs)
        features = theirs.backbone(batch.tensor)
        proposals, _ = theirs.rpn(batch.image_sizes, features)
        heads = theirs.roi_heads
        pooled = heads.box_pooler([features[name] for name in LEVELS[:4]], [p.proposal_boxes for p in proposals])
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        detections, _ = heads(features, proposals)
    return SimpleNamespace(
        ours=ours,
        theirs=theirs,
        images=images,
        targets=targets,
        inputs=[{**x, "instances": as_instances(target)} for x, target in zip(inputs, targets, strict=True)],
        sizes=batch.image_sizes,
        input=batch.tensor.numpy(),
        features={name: feature.numpy() for name, feature in features.items()},
        proposals=[p.proposal_boxes.tensor.numpy() for p in proposals],
        pooled=pooled.numpy(),
        logits=logits.numpy(),
        deltas=deltas.numpy(),
        detections=[found.get_fields() for found in detections],
    )


@pytest.fixture
def features(both):
    return [Tensor(both.features[name]) for name in LEVELS]


def near(a, b, tolerance):
    error = relative_error(a, b)
    assert error <= tolerance, error


@no_grad()
def test_the_images_and_the_maps(both):
    batch = both.ours.transform(both.images)
    assert batch.sizes == both.sizes == [(160, 208), (147, 190)]
    near(batch.images.data[:, ::-1], both.input, 1e-6)
    for level, name in zip(both.ours.features(batch), LEVELS, strict=True):
        near(level.data, both.features[name], 1e-4)


def count_near(boxes, others):
    """How many of the boxes lie within 0.01 pixels of one of the others."""
    return int((np.abs(boxes[:, None] - others).max(axis=2).min(axis=1) < 0.01).sum())


@no_grad()
def test_proposals(both, features):
    batch = both.ours.transform(both.images)
    for found, expected in zip(
        both.ours.propose(both.ours.run_rpn(features, batch), batch), both.proposals, strict=True
    ):
        assert len(found) == len(expected) == PROPOSALS
        assert count_near(expected, found) >= len(expected) - 3  # of which a threshold may decide


@no_grad()
def test_the_box_branch(both, features):
    near(both.ours.pool(features, both.proposals, 7).data, both.pooled, 1e-4)
    logits, deltas = both.ours.box_branch(Tensor(both.pooled))
    near(np.roll(logits.data, -1, axis=1), both.logits, 1e-5)  # detectron2's background is the last class
    near(deltas.data[:, 4:], both.deltas, 1e-5)


def assert_same_detections(found, expected, masks):
    """The same objects, but for those of which a threshold may decide."""
    expected = {name: value.tensor if name == "pred_boxes" else value for name, value in expected.items()}
    boxes, scores, classes = (expected[name].numpy() for name in ("pred_boxes", "scores", "pred_classes"))
    apart = np.abs(boxes[:, None] - found["boxes"]).max(axis=2)
    apart[classes[:, None] + 1 != found["labels"]] = np.inf
    pairs = [(n, m) for n, m in enumerate(apart.argmin(axis=1)) if apart[n, m] < 0.05]
    assert len(scores) > 20 and len(np.unique(classes)) > 5 and abs(len(scores) - len(found["scores"])) <= 2
    assert len(pairs) >= len(scores) - 3
    theirs, ours = map(list, zip(*pairs, strict=True))
    near(found["scores"][ours], scores[theirs], 1e-4)
    assert ("masks" in found) == ("pred_masks" in expected) == masks
    if masks:
        near(found["masks"][ours], expected["pred_masks"].numpy()[theirs, 0], 1e-3)
        assert np.ptp(found["masks"]) > 0.9


@no_grad()
def test_detections(both, features):
    """From mayaku's maps and proposals, and from the images."""
    batch = both.ours.transform(both.images)
    for source in (both.ours.branch_detections(features, batch, both.proposals), both.ours.detect(both.images)):
        for found, expected in zip(source, both.detections, strict=True):
            assert_same_detections(found, expected, both.ours.config.masks)


def test_losses_and_gradients(both):
    from mayaku.d2 import _remap

    ours, theirs = both.ours, both.theirs
    ours.train()
    theirs.train()
    expected = theirs(both.inputs)
    sums, samples = ours.loss_sums(both.images, both.targets)
    assert samples.counts["positive_rois"] > 4 and samples.counts["positive_anchors"] > 4
    found = mean_losses(sums)
    assert {LOSSES[name] for name in found} == expected.keys()
    for name, loss in found.items():
        assert loss.item() == pytest.approx(expected[LOSSES[name]].item(), rel=1e-4), name
        assert loss.item() > 1e-5
    sum(found.values(), start=0.0).backward()
    sum(expected.values()).backward()
    gradients = _remap(detectron2_state({name: p.grad for name, p in ours.named_parameters()}, "fpn"))
    gradients["backbone.bottom_up.stem.0.weight"] = gradients["backbone.bottom_up.stem.0.weight"][:, ::-1]  # RGB
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        # all elements together: where rounding turns a ReLU, one alone can differ by half a percent of the largest
        error = np.linalg.norm(gradient - wanted[name].numpy()) / np.linalg.norm(wanted[name].numpy())
        assert error < 1e-2, (name, error)
    ours.eval()
    theirs.eval()


@no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_the_sampling_ratio_of_mayaku(training):
    """detectron2's 0 means as many samples as a bin has cells. mayaku takes it for 2 without a word, in both of its
    ways to pool; were that to change, the tests above could compare with detectron2's own number."""
    import torch
    from mayaku.models.poolers import ROIPooler
    from mayaku.structures.boxes import Boxes

    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, 4, 160 // stride, 208 // stride)).astype(np.float32) for stride in (4, 8, 16, 32)]
    boxes = np.float32([[10, 20, 150, 140], [3, 4, 60, 31], [0, 0, 200, 30]])
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    theirs = ROIPooler(7, scales, sampling_ratio=0).train(training)
    expected = theirs(list(map(torch.from_numpy, maps)), [Boxes(torch.from_numpy(boxes))])
    settings = get_config("detectron2_resnet50_fpn").pooler
    assert settings.sampling_ratio == 0
    with_2, with_0 = (
        pool_rois(list(map(Tensor, maps)), [boxes], scales, 7, replace(settings, sampling_ratio=ratio)).data
        for ratio in (2, 0)
    )
    near(with_2, expected, 1e-5)
    assert relative_error(with_0, expected) > 0.05


def test_mayaku_has_no_c4():
    """Why detectron2_resnet50_c4 is not among the presets above."""
    from mayaku.d2 import D2ConversionError, config_from_d2

    config = detectron2_config("detectron2_resnet50_fpn", True)
    config["MODEL"]["BACKBONE"]["NAME"] = "build_resnet_backbone"
    with pytest.raises(D2ConversionError, match="BACKBONE.NAME"):
        config_from_d2(config)
