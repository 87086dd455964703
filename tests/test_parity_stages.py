"""The preset torchvision_resnet50_fpn with few channels beside torchvision: every stage fed torchvision's own input,
both sides in float32 and in float64; the whole, on images of odd sizes; and 20 steps of training."""

import numpy as np
import pytest
from tiny_models import scene
from torchvision_twin import EVERYTHING, as_torch, calibrate, relative_error, small_model, twin_of

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import box_iou, paste_masks
from tinymrcnn.models.box_branch import decode_detections
from tinymrcnn.models.rpn import decode_proposals
from tinymrcnn.nn import SGD

pytestmark = pytest.mark.parity

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"], scope="module")
def stages(request):
    """(our model, torchvision's, {stage: what torchvision makes of its own previous stage}, dtype)."""
    import torch
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    dtype = request.param
    images = [scene(i, size)[0] for i, size in enumerate([(107, 150), (93, 70), (60, 219)])]
    ours = calibrate(small_model(num_classes=9, min_size=160, max_size=260), images[0]).eval().to(dtype=dtype)
    theirs = twin_of(ours, dtype).eval()
    images = [image.astype(dtype) for image in images]
    s = {"images": images}
    with torch.no_grad():
        s["batch"], _ = theirs.transform([torch.from_numpy(image) for image in images])
        body = theirs.backbone.body
        s["stem"] = body.maxpool(body.relu(body.bn1(body.conv1(s["batch"].tensors))))
        s["C"] = list(body(s["batch"].tensors).values())
        s["P"] = theirs.backbone(s["batch"].tensors)
        levels = list(s["P"].values())
        objectness, deltas = theirs.rpn.head(levels)
        s["anchors"] = theirs.rpn.anchor_generator(s["batch"], levels)
        s["level sizes"] = [o[0].numel() for o in objectness]
        logits, deltas = concat_box_prediction_layers(objectness, deltas)
        s["logits"], s["deltas"] = logits.reshape(3, -1), deltas.reshape(3, -1, 4)
        # cells of the padding are all alike, and torchvision promises no order among equals: told apart by up to 1e-3
        s["ranked"] = s["logits"] + 1e-3 * torch.rand(s["logits"].shape, generator=torch.Generator().manual_seed(0))
        decoded = theirs.rpn.box_coder.decode(deltas, s["anchors"]).view(3, -1, 4)
        s["proposals"], s["scores"] = theirs.rpn.filter_proposals(
            decoded, s["ranked"].to(logits.dtype), s["batch"].image_sizes, s["level sizes"]
        )
        heads, sizes = theirs.roi_heads, s["batch"].image_sizes
        s["box features"] = heads.box_roi_pool(s["P"], s["proposals"], sizes)
        s["class logits"], s["box deltas"] = heads.box_predictor(heads.box_head(s["box features"]))
        found = heads.postprocess_detections(s["class logits"], s["box deltas"], s["proposals"], sizes)
        names = ("boxes", "scores", "labels")
        s["detections"] = [dict(zip(names, row, strict=True)) for row in zip(*found, strict=True)]
        s["mask features"] = heads.mask_roi_pool(s["P"], found[0], sizes)
        s["mask logits"] = heads.mask_predictor(heads.mask_head(s["mask features"]))
        s["results"], _ = heads(s["P"], s["proposals"], sizes)
        final = [dict(result) for result in s["results"]]
        s["pasted"] = theirs.transform.postprocess(final, sizes, [image.shape[1:] for image in images])
    return ours, theirs, s, dtype


@pytest.fixture(autouse=True)
def direct_convolutions(monkeypatch, request):
    """Winograd's transforms round more than 1e-9 where both sides are in float64."""
    monkeypatch.setattr(ops.winograd, "enabled", False)


def tensors(arrays):
    return [Tensor(array.numpy()) for array in arrays]


def near(a, b, dtype, tolerance=None):
    assert np.asarray(a).dtype == dtype
    error = relative_error(a, b)
    assert error <= (tolerance or TOLERANCE[dtype]), error


def test_transform(stages):
    ours, theirs, s, dtype = stages
    batch = ours.transform(s["images"])
    assert batch.sizes == s["batch"].image_sizes == [(160, 224), (212, 160), (71, 260)]
    near(batch.images.data, s["batch"].tensors, dtype)


def test_resnet(stages):
    ours, theirs, s, dtype = stages
    body = ours.backbone.body
    maps = [s["stem"], *s["C"]]
    from_image = body(Tensor(s["batch"].tensors.numpy()))
    for level in range(4):
        layer = getattr(body, f"layer{level + 1}")
        near(layer(Tensor(maps[level].numpy())).data, maps[level + 1], dtype)
        near(from_image[level].data, maps[level + 1], dtype)


def test_fpn(stages):
    ours, theirs, s, dtype = stages
    levels = ours.backbone.fpn(tensors(s["C"]))
    assert len(levels) == 5
    for level, expected in zip(levels, s["P"].values(), strict=True):
        near(level.data, expected, dtype)


def test_rpn_head(stages):
    ours, theirs, s, dtype = stages
    logits, deltas = ours.rpn.head(tensors(s["P"].values()))
    near(logits.data, s["logits"], dtype)
    near(deltas.data, s["deltas"], dtype)


def test_anchors(stages):
    ours, theirs, s, dtype = stages
    anchors, level_sizes = ours.all_anchors(tensors(s["P"].values()), ours.transform(s["images"]))
    assert level_sizes == s["level sizes"] and anchors.dtype == dtype
    for expected in s["anchors"]:
        np.testing.assert_array_equal(anchors, expected.numpy())


def test_proposals(stages):
    ours, theirs, s, dtype = stages
    c = ours.config
    limits = c.rpn_pre_nms_test, c.rpn_post_nms_test, c.rpn_nms, c.rpn_min_size
    for i, expected in enumerate(s["proposals"]):
        boxes, logits = decode_proposals(
            s["ranked"][i].numpy(), s["deltas"][i].numpy(), s["anchors"][i].numpy(), s["level sizes"],
            s["batch"].image_sizes[i], ours.rpn_coder, *limits,
        )  # fmt: skip
        assert len(boxes) > 100
        near(boxes, expected, dtype)
        near(ops.sigmoid(Tensor(logits)).data, s["scores"][i], dtype)


def test_pooled_features(stages):
    ours, theirs, s, dtype = stages
    batch, levels = ours.transform(s["images"]), tensors(s["P"].values())
    near(ours.pool(levels, batch, [p.numpy() for p in s["proposals"]], 7).data, s["box features"], dtype)
    boxes = [found["boxes"].numpy() for found in s["detections"]]
    near(ours.pool(levels, batch, boxes, 14).data, s["mask features"], dtype)


def test_box_head(stages):
    ours, theirs, s, dtype = stages
    heads = ours.roi_heads
    logits, deltas = heads.box_predictor(heads.box_head(Tensor(s["box features"].numpy())))
    near(logits.data, s["class logits"], dtype)
    near(deltas.data, s["box deltas"], dtype)


def test_final_detections(stages):
    ours, theirs, s, dtype = stages
    c = ours.config
    limits = c.score_threshold, c.box_nms, c.max_detections, c.min_box_size
    start = 0
    for proposals, size, expected in zip(s["proposals"], s["batch"].image_sizes, s["detections"], strict=True):
        rows = slice(start, start := start + len(proposals))
        logits, deltas = s["class logits"][rows].numpy(), s["box deltas"][rows].numpy()
        found = decode_detections(logits, deltas, proposals.numpy(), size, ours.box_coder, *limits)
        assert len(found["labels"]) > 30 and len(np.unique(found["labels"])) > 3
        np.testing.assert_array_equal(found["labels"], expected["labels"].numpy())
        near(found["boxes"], expected["boxes"], dtype)
        near(found["scores"], expected["scores"], dtype)


def test_mask_head(stages):
    ours, theirs, s, dtype = stages
    heads = ours.roi_heads
    logits = heads.mask_predictor(heads.mask_head(Tensor(s["mask features"].numpy())))
    near(logits.data, s["mask logits"], dtype)


def test_pasted_masks(stages):
    ours, theirs, s, dtype = stages
    detections = [{name: tensor.numpy() for name, tensor in result.items()} for result in s["results"]]
    for detection in detections:
        detection["masks"] = detection["masks"][:, 0]
    results = ours.postprocess(detections, ours.transform(s["images"]))
    for result, expected in zip(results, s["pasted"], strict=True):
        # torchvision divides the sizes in float32, so its float64 boxes are good to 1e-7
        near(result["boxes"], expected["boxes"], dtype, max(1e-7, TOLERANCE[dtype]))
        near(result["masks"], expected["masks"][:, 0], dtype)
        assert np.ptp(result["masks"]) > 0.1


# The whole

ODD_SIZES = [  # (height, width)
    (334, 400), (400, 334), (667, 1077), (1077, 1025), (480, 640), (640, 480), (427, 640), (375, 500), (500, 333),
    (60, 400), (400, 60), (33, 47), (1, 90), (799, 801), (800, 1088), (1333, 800), (1399, 50), (225, 225),
    (1201, 903), (612, 1000),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """Both models, at full size but for their channels: the shorter side 800, the longer one at most 1333."""
    ours = calibrate(small_model(num_classes=9), scene(0, (427, 640), boxes=())[0]).eval()
    return ours, twin_of(ours).eval()


def both_find(ours, theirs, images):
    import torch

    with torch.inference_mode():
        expected = theirs([torch.from_numpy(image) for image in images])
    expected = [{name: tensor.numpy() for name, tensor in result.items()} for result in expected]
    grids = [result["masks"] for result in ours.detect(images)]
    return ours(images), grids, [{**result, "masks": result["masks"][:, 0]} for result in expected]


def check_same(found, grids, expected, config):
    """The same detections in the same order; or it is shown that a threshold lies between. Returns how many agree."""
    taken, order = set(), []
    for n in range(len(found["scores"])):
        same = [
            k
            for k in range(len(expected["scores"]))
            if k not in taken
            and found["labels"][n] == expected["labels"][k]
            and np.abs(found["boxes"][n] - expected["boxes"][k]).max() < 0.01
            and abs(found["scores"][n] - expected["scores"][k]) < 1e-4
        ]
        if same:
            taken.add(same[0])
            order.append((n, same[0]))
        else:
            explain(found, n, expected, config)
    for k in set(range(len(expected["scores"]))) - taken:
        explain(expected, k, found, config)
    for (n, k), (m, j) in zip(order, order[1:], strict=False):
        if k > j:  # another order: only of scores that are equal but for rounding
            assert abs(found["scores"][n] - found["scores"][m]) < 1e-5, (k, j)
    for n, k in order:
        a, b = found["masks"][n] >= 0.5, expected["masks"][k] >= 0.5
        if (a & b).sum() <= 0.999 * (a | b).sum():
            # boxes that agree but for rounding may lie on two sides of a whole pixel, at which pasting begins
            a = paste_masks(grids[n : n + 1], expected["boxes"][k : k + 1], a.shape, whole_pixels=True)[0]
            wrong = (a >= 0.5) != b
            assert np.abs(a[wrong] - 0.5).max(initial=0) < 1e-4, (n, wrong.sum(), b.sum())
    return len(order)


def explain(one, n, other, config):
    """A detection that only one side has is at a threshold: of the score, of the suppression, or at the last place."""
    score, box = one["scores"][n], one["boxes"][n : n + 1]
    last = min(one["scores"][-1], other["scores"][-1])
    overlaps = box_iou(box, other["boxes"][other["labels"] == one["labels"][n]])
    at_threshold = (
        abs(score - config.score_threshold) < 1e-5,
        (abs(overlaps - config.box_nms) < 1e-5).any(),
        len(other["scores"]) == config.max_detections and abs(score - last) < 1e-5,
    )
    assert any(at_threshold), (n, float(score), float(last), overlaps.max(initial=0))


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_end_to_end(whole, size):
    ours, theirs = whole
    image = scene(sum(size), size, boxes=())[0]
    (found,), (grids,), (expected,) = both_find(ours, theirs, [image])
    assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)
    assert len(expected["scores"]) > 10


def test_end_to_end_on_a_batch_of_different_sizes(whole):
    ours, theirs = whole
    images = [scene(n, size, boxes=())[0] for n, size in enumerate([(334, 400), (60, 400), (640, 427)])]
    for found, grids, expected in zip(*both_find(ours, theirs, images), strict=True):
        assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)


# Training


def test_twenty_steps_in_float64():
    import torch

    settings = dict(
        num_classes=5, min_size=64, max_size=200, rpn_samples=EVERYTHING, box_samples=EVERYTHING, norm_eps=0.0,
        anchor_sizes=((8,), (16,), (32,), (64,), (128,)), rpn_pre_nms_train=60, rpn_post_nms_train=120,
    )  # fmt: skip
    ours = small_model(**settings).to(dtype=np.float64)
    theirs = twin_of(ours, np.float64)
    images, targets = zip(
        scene(1, (64, 96), ((9, 6, 31, 24), (40, 20, 78, 48)), (2, 3)),
        scene(2, (64, 96), ((20, 10, 60, 50),), (4,)),
        strict=True,
    )
    images = [image.astype(np.float64) for image in images]
    targets = [{**target, "boxes": target["boxes"].astype(np.float64)} for target in targets]
    recipe = dict(lr=0.002, momentum=0.9, weight_decay=1e-4)
    our_optimizer = SGD(ours.parameters(), **recipe)
    their_optimizer = torch.optim.SGD(theirs.parameters(), **recipe)
    history = []
    for step in range(20):
        found, expected = ours(images, targets), theirs(*as_torch(images, targets))
        for name, loss in found.items():
            wanted = expected[name].item()
            # torchvision's objectness labels are float32
            limit = 1e-6 * abs(wanted) if name == "loss_objectness" else 1e-9
            assert abs(loss.item() - wanted) <= limit, (step, name, loss.item(), wanted)
        for losses, optimizer in ((found, our_optimizer), (expected, their_optimizer)):
            optimizer.zero_grad()
            sum(losses.values(), start=0.0).backward()
            optimizer.step()
        history.append(sum(loss.item() for loss in found.values()))
    assert history[-1] < 0.5 * history[0], history
    parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative_error(parameter.data, parameters[name]) < 1e-9, name
