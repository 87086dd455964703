"""The preset torchvision_resnet50_fpn with few channels beside torchvision: every stage fed torchvision's own input,
both sides in float32 and in float64, or where torchvision is not installed what it gave once (model_golden.npz); the
whole, on images of odd sizes and on photographs; and 20 steps of training."""

from pathlib import Path

import numpy as np
import pytest
from make_model_golden import GOLDEN, golden_images, golden_model
from matplotlib.cbook import get_sample_data
from tiny_models import scene
from torchvision_twin import EVERYTHING, SMALL, as_torch, calibrate, relative_error, run_stages, small_model, twin_of

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import box_iou, paste_masks
from tinymrcnn.data.images import read_image
from tinymrcnn.models.box_branch import decode_detections
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.rpn import Anchors, decode_proposals
from tinymrcnn.nn import SGD
from tinymrcnn.settings import value_of

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}
SOURCES = {
    "golden": np.float32,
    "float32": np.float32,
    "float64": np.float64,
}


@pytest.fixture(
    params=[name if name == "golden" else pytest.param(name, marks=pytest.mark.parity) for name in SOURCES],
    scope="module",
)
def stages(request):
    """(our model, images, torchvision's stages, dtype)."""
    dtype = SOURCES[request.param]
    if request.param == "golden":
        with np.load(GOLDEN) as file:
            arrays = dict(file)
        model = golden_model()
        weights = {name.removeprefix("weights/"): arrays[name] for name in arrays if name.startswith("weights/")}
        model.load_state_dict({**model.state_dict(), **weights})
        return model.eval(), golden_images(), arrays, dtype
    images = [scene(i, size)[0] for i, size in enumerate([(107, 150), (93, 70), (60, 219)])]
    ours = calibrate(small_model(num_classes=9, min_size=160, max_size=260), images[0]).eval().to(dtype=dtype)
    images = [image.astype(dtype) for image in images]
    return ours, images, run_stages(twin_of(ours, dtype).eval(), images), dtype


@pytest.fixture(autouse=True)
def direct_convolutions(monkeypatch):
    """Winograd's transforms round more than 1e-9 where both sides are in float64."""
    monkeypatch.setattr(ops.winograd, "enabled", False)


def levels_of(s, name, first, last):
    return [Tensor(s[f"{name}{i}"]) for i in range(first, last + 1)]


def near(a, b, dtype, tolerance=None):
    assert np.asarray(a).dtype == dtype
    error = relative_error(a, b)
    assert error <= (tolerance or TOLERANCE[dtype]), error


def test_transform(stages):
    ours, images, s, dtype = stages
    batch = ours.transform(images)
    assert batch.sizes == [tuple(size) for size in s["sizes"].tolist()]
    near(batch.images.data, s["images"], dtype)


def test_resnet(stages):
    ours, images, s, dtype = stages
    body = ours.backbone.body
    from_image = body(Tensor(s["images"]))
    for level in range(1, 5):
        layer = getattr(body, f"layer{level}")
        near(layer(Tensor(s[f"C{level}"])).data, s[f"C{level + 1}"], dtype)
        near(from_image[level - 1].data, s[f"C{level + 1}"], dtype)


def test_fpn(stages):
    ours, images, s, dtype = stages
    found = ours.backbone.fpn(levels_of(s, "C", 2, 5))
    assert len(found) == 5
    for i, level in enumerate(found, start=2):
        near(level.data, s[f"P{i}"], dtype)


def test_rpn_head(stages):
    ours, images, s, dtype = stages
    logits, deltas = ours.rpn.head(levels_of(s, "P", 2, 6))
    near(logits.data, s["logits"], dtype)
    near(deltas.data, s["deltas"], dtype)


def test_anchors(stages):
    ours, images, s, dtype = stages
    anchors, level_sizes = ours.all_anchors(levels_of(s, "P", 2, 6), ours.transform(images))
    assert level_sizes == s["level sizes"].tolist() and anchors.dtype == dtype
    np.testing.assert_array_equal(anchors, s["anchors"])


def test_proposals(stages):
    ours, images, s, dtype = stages
    anchors = Anchors(s["anchors"], s["level sizes"].tolist())
    rules = dict(anchors=anchors, settings=ours.config.rpn, training=False)
    for i, size in enumerate(s["sizes"].tolist()):
        one = slice(i, i + 1)
        ((boxes, logits),) = decode_proposals(s["ranked"][one], s["deltas"][one], image_sizes=[size], **rules)
        assert len(boxes) > 10
        near(boxes, s[f"proposals {i}"], dtype)
        near(ops.sigmoid(Tensor(logits)).data, s[f"proposal scores {i}"], dtype)


def test_pooled_features(stages):
    ours, images, s, dtype = stages
    levels = levels_of(s, "P", 2, 6)
    for name, boxes, size in (("box", "proposals", 7), ("mask", "boxes", 14)):
        rois = [s[f"{boxes} {i}"] for i in range(len(images))]
        near(ours.pool(levels, rois, size).data, s[f"{name} features"], dtype)


def test_box_head(stages):
    ours, images, s, dtype = stages
    logits, deltas = ours.roi_heads.box_predictor(ours.roi_heads.box_head(Tensor(s["box features"])))
    near(logits.data, s["class logits"], dtype)
    near(deltas.data, s["box deltas"], dtype)


def test_final_detections(stages):
    ours, images, s, dtype = stages
    start = 0
    for i, size in enumerate(s["sizes"].tolist()):
        rows = slice(start, start := start + len(s[f"proposals {i}"]))
        one_image = dict(rois=s[f"proposals {i}"], image_size=size, settings=ours.config.box)
        found = decode_detections(s["class logits"][rows], s["box deltas"][rows], **one_image)
        assert len(found["labels"]) > 5 and len(np.unique(found["labels"])) > 1
        np.testing.assert_array_equal(found["labels"], s[f"labels {i}"])
        near(found["boxes"], s[f"boxes {i}"], dtype)
        near(found["scores"], s[f"scores {i}"], dtype)


def test_mask_head(stages):
    ours, images, s, dtype = stages
    logits = ours.roi_heads.mask_predictor(ours.roi_heads.mask_head(Tensor(s["mask features"])))
    near(logits.data, s["mask logits"], dtype)


def test_pasted_masks(stages):
    ours, images, s, dtype = stages
    names = ("boxes", "scores", "labels", "masks")
    detections = [{name: s[f"{name} {i}"] for name in names} for i in range(len(images))]
    for detection in detections:
        detection["masks"] = detection["masks"][:, 0]
    for i, result in enumerate(ours.postprocess(detections, ours.transform(images))):
        # torchvision divides the sizes in float32, so its float64 boxes are good to 1e-7
        near(result["boxes"], s[f"final boxes {i}"], dtype, max(1e-7, TOLERANCE[dtype]))
        near(result["masks"], s[f"pasted {i}"][:, 0], dtype)
        assert np.ptp(result["masks"]) > 0.1


# The whole

PHOTOGRAPHS = sorted((Path(__file__).resolve().parents[2] / "shared" / "data" / "photos").glob("*.jpg"))
PHOTOGRAPHS += [get_sample_data("grace_hopper.jpg", asfileobj=False)]
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


@pytest.fixture(scope="module")
def wide():
    """Both models with as many channels as Winograd's way needs."""
    widths = dict(widths=(16, 16, 16, 16), fpn_channels=16, rpn_channels=16, mask_layers=(16, 16))
    ours = calibrate(small_model(num_classes=9, **widths), scene(0, (427, 640), boxes=())[0]).eval()
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
        abs(score - config.box.score_threshold) < 1e-5,
        (abs(overlaps - config.box.nms) < 1e-5).any(),
        len(other["scores"]) == config.box.max_detections and abs(score - last) < 1e-5,
    )
    assert any(at_threshold), (n, float(score), float(last), overlaps.max(initial=0))


@pytest.mark.parity
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_end_to_end(whole, size):
    ours, theirs = whole
    image = scene(sum(size), size, boxes=())[0]
    (found,), (grids,), (expected,) = both_find(ours, theirs, [image])
    assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)
    assert len(expected["scores"]) > 10


@pytest.mark.parity
def test_end_to_end_on_a_batch_of_different_sizes(whole):
    ours, theirs = whole
    images = [scene(n, size, boxes=())[0] for n, size in enumerate([(334, 400), (60, 400), (640, 427)])]
    for found, grids, expected in zip(*both_find(ours, theirs, images), strict=True):
        assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)


@pytest.mark.parity
@pytest.mark.parametrize("size", ODD_SIZES[:6], ids=str)
def test_end_to_end_with_winograd(wide, size, monkeypatch):
    """The same detections although the features are rounded more."""
    used = []
    transform = ops.winograd.correlate
    monkeypatch.setattr(ops.winograd, "enabled", True)
    monkeypatch.setattr(ops.winograd, "correlate", lambda *args: used.append(1) or transform(*args))
    ours, theirs = wide
    image = scene(sum(size), size, boxes=())[0]
    (found,), (grids,), (expected,) = both_find(ours, theirs, [image])
    assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)
    assert len(used) > 5


@pytest.mark.parity
@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: Path(path).stem)
def test_end_to_end_on_photographs(photograph):
    """With all layers and channels."""
    image = read_image(photograph)
    widths = {name: value_of(get_config("torchvision_resnet50_fpn"), name) for name in SMALL}
    ours = calibrate(small_model(**widths), image).eval()
    (found,), (grids,), (expected,) = both_find(ours, twin_of(ours).eval(), [image])
    assert check_same(found, grids, expected, ours.config) >= min(95, len(expected["scores"]) - 1)
    assert len(expected["scores"]) > 10 and len(np.unique(expected["scores"])) > 10


# Training


@pytest.mark.parity
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
