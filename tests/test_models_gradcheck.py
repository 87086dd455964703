"""The gradient of every loss of a whole model, with respect to every weight, against central differences."""

import numpy as np
import pytest
from tiny_models import C4, C5, FCIS, MNC, MNC_C4, RESNEXT, batch_of, empty_scene, scene, tiny_model

from tinymrcnn.autograd import no_grad
from tinymrcnn.models import fpn, mnc

RTOL, FLOOR = 1e-5, 1e-9
STEPS = 1e-5, 2e-6, 4e-7
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
VARIANTS = {
    "fpn": {},
    "softmax masks": dict(mask_loss="softmax"),
    "class-agnostic masks": dict(class_agnostic_masks=True),
    "mlp masks": dict(mask_head="mlp"),
    "c4": C4,
    "c4, bottleneck, stride in 1x1": dict(**C4, block="bottleneck", stride_in_1x1=True, roi_stage_stride=1),
    "c5": C5,
    "fcis": FCIS,
    "fcis, bottleneck": dict(**FCIS, block="bottleneck", norm="frozen"),
    "mnc": MNC,
    "mnc, c4, bottleneck": dict(**MNC_C4, block="bottleneck", norm="frozen"),
    "roi_pool": dict(roi_op="roi_pool"),
    "roi_warp": dict(roi_op="roi_warp"),
    "largest samples": dict(reduce="max"),
    "group norm": dict(norm="group"),
    "frozen norm": dict(norm="frozen"),
    "resnext": RESNEXT,
    "extra level, L1": dict(
        extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,)), rpn_box_beta=0.0, box_beta=0.0
    ),
}


def losses_of(model):
    return LOSSES + ["loss_mask_classifier"] * (model.config.model == "mnc")


def losses_and_gradients(model, images, targets, samples):
    """{loss: {parameter: gradient}}, one backward pass for each loss."""
    gradients = {}
    for name in losses_of(model):
        for parameter in model.parameters():
            parameter.grad = None
        model.losses(images, targets, samples=samples)[name].backward()
        gradients[name] = {
            path: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad
            for path, parameter in model.named_parameters()
        }
    return gradients


def keep_targets(model):
    """In MNC's second pass targets follow the RoIs, while for the gradient they are constants: here they are those of
    the first call, always."""
    match, kept = model.match, []

    def first(rois, batch):
        if not kept:
            kept.append(match(rois, batch))
        return kept[0]

    model.match = first


def difference(model, parameter, index, step, batch, samples):
    """The central difference of all five losses (of MNC six) by one element of a parameter, (5,)."""
    values, before = [], parameter.data[index]
    for moved in (before + step, before - step):
        parameter.data[index] = moved
        with no_grad():
            losses = model.losses(*batch, samples=samples)
        values.append(np.array([losses[name].item() for name in losses_of(model)]))
    parameter.data[index] = before
    return (values[0] - values[1]) / (2 * step)


def check_all_weights(model, images, targets, elements):
    """All losses by one element of every parameter with a large gradient and by elements - 1 random ones."""
    samples = model.draw_samples(images, targets)
    if model.config.model == "mnc":
        keep_targets(model)
    gradients = losses_and_gradients(model, images, targets, samples)
    rng = np.random.default_rng(0)
    for path, parameter in model.named_parameters():
        analytic = np.stack([by_weight[path] for by_weight in gradients.values()])
        at = [np.abs(analytic).sum(axis=0).argmax(), *rng.integers(0, parameter.size, elements - 1)]
        chosen = [np.unravel_index(i, parameter.shape) for i in at]
        found = np.array([analytic[:, *index] for index in chosen])  # (elements, 5)
        allowed = np.maximum(RTOL * np.abs(found).max(axis=0), FLOOR)
        expected = np.zeros_like(found)
        for row, index in enumerate(chosen):
            # Where a ReLU or a maximum switches within the step, only a smaller step tells the slope; a wrong
            # gradient is wrong at any step.
            for step in STEPS:
                expected[row] = difference(model, parameter, index, step, (images, targets), samples)
                if (np.abs(found[row] - expected[row]) <= allowed).all():
                    break
        error, largest = np.abs(found - expected).max(axis=0), np.abs(expected).max(axis=0)
        for i, name in enumerate(gradients):
            assert error[i] <= max(RTOL * largest[i], FLOOR), f"{name} by {path}: {found[:, i]}, not {expected[:, i]}"


def float64_batch(*scenes):
    images, targets = batch_of(*scenes)
    return [image.astype(np.float64) for image in images], targets


TWO_IMAGES = scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,))


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", VARIANTS)
def test_every_loss_by_every_weight(name):
    model = tiny_model(dtype=np.float64, **VARIANTS[name])
    elements = 3 if name == "fpn" else 1
    check_all_weights(model, *float64_batch(*TWO_IMAGES), elements)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", ["fpn", "c4", "fcis", "mnc"])
def test_with_an_image_without_objects(name):
    model = tiny_model(dtype=np.float64, **VARIANTS[name])
    check_all_weights(model, *float64_batch(empty_scene(1), TWO_IMAGES[1]), elements=1)


@pytest.mark.gradcheck
def test_eval_mode_uses_the_running_statistics():
    model = tiny_model(dtype=np.float64).eval()
    before = model.state_dict()
    check_all_weights(model, *float64_batch(*TWO_IMAGES), elements=1)
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


@pytest.mark.gradcheck
def test_a_planted_bug_is_found(monkeypatch):
    resize = fpn.ops.interpolate
    monkeypatch.setattr(fpn.ops, "interpolate", lambda x, size: resize(x.detach(), size=size))
    with pytest.raises(AssertionError, match="by backbone"):
        check_all_weights(tiny_model(dtype=np.float64), *float64_batch(*TWO_IMAGES), elements=1)


@pytest.mark.gradcheck
def test_it_is_found_that_no_gradient_reaches_the_corners(monkeypatch):
    follow = mnc.next_rois
    monkeypatch.setattr(mnc, "next_rois", lambda *arguments: follow(*arguments).detach())
    with pytest.raises(AssertionError, match="loss_classifier by backbone"):
        check_all_weights(tiny_model(dtype=np.float64, **MNC), *float64_batch(*TWO_IMAGES), elements=1)


def test_no_loss_reaches_what_it_does_not_depend_on():
    model = tiny_model(dtype=np.float64)
    batch = float64_batch(*TWO_IMAGES)
    gradients = losses_and_gradients(model, *batch, model.draw_samples(*batch))
    for loss, by_parameter in gradients.items():
        touched = {path for path, gradient in by_parameter.items() if np.abs(gradient).max() > 0}
        heads = {path.rpartition(".")[0] for path in touched if not path.startswith("backbone")}
        assert (
            heads
            == {
                "loss_objectness": {"rpn.head.conv.0.0", "rpn.head.cls_logits"},
                "loss_rpn_box_reg": {"rpn.head.conv.0.0", "rpn.head.bbox_pred"},
                "loss_classifier": {
                    f"roi_heads.{x}" for x in ("box_head.fc6", "box_head.fc7", "box_predictor.cls_score")
                },
                "loss_box_reg": {f"roi_heads.{x}" for x in ("box_head.fc6", "box_head.fc7", "box_predictor.bbox_pred")},
                "loss_mask": {
                    f"roi_heads.{x}"
                    for x in ("mask_head.0.0", "mask_predictor.conv5_mask", "mask_predictor.mask_fcn_logits")
                },
            }[loss]
        )
        assert any(path.startswith("backbone.body.conv1") for path in touched)
