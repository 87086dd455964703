"""A training step and an inference run off the host: on a strict imitation of a GPU, and on a GPU where there is one.

Nothing mixes arrays of the host with those of the device, the numbers are those of the CPU, and how often a step
waits for the device is known."""

import contextvars
import functools
import operator

import numpy as np
import pytest
from tiny_models import C4, C5, FCIS, MNC, MNC_C4, RESNEXT, batch_of, empty_scene, scene, tiny_model

from tinymrcnn.backend import BACKENDS
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import TrainConfig, build_model
from tinymrcnn.nn import SGD, AdamW
from tinymrcnn.ops import winograd
from tinymrcnn.threads import set_num_threads
from tinymrcnn.training.trainer import make_optimizer, training_step

MODELS = {
    "fpn": {},
    "fpn, extra level": dict(extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,))),
    "c4": C4,
    "c5": C5,
    "fcis": FCIS,
    "fcis, one pass, no votes": dict(**FCIS, **{"fcis.second_pass": False, "fcis.voting": False}),
    "mnc": MNC,
    "mnc, c4": MNC_C4,
    "mnc, one pass, no votes": dict(**MNC, **{"mnc.second_pass": False, "mnc.voting": False}),
    "bottleneck": dict(block="bottleneck"),
    "resnext": RESNEXT,
    "softmax masks": dict(mask_loss="softmax"),
    "softmax masks among all classes": dict(mask_loss="softmax", softmax_decoding="all"),
    "c5, mlp masks": dict(**C5, mask_head="mlp"),
    "class-agnostic masks": dict(class_agnostic_masks=True),
    "mlp masks": dict(mask_head="mlp"),
    "soft mask targets": dict(soft_mask_targets=True, crop_aligned=False),
    "faster r-cnn": dict(masks=False),
    "roi_pool": dict(roi_op="roi_pool"),
    "roi_warp": dict(roi_op="roi_warp"),
    "largest samples": dict(roi_op="roi_warp", reduce="max"),
    "frozen norm": dict(norm="frozen"),
    "group norm": dict(norm="group"),
    "resized": dict(min_size=80, max_size=100),
}
BATCH = batch_of(scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,)), empty_scene(3))


@pytest.fixture(autouse=True)
def same_convolutions(monkeypatch):
    """Winograd's filtering runs on the CPU only, and rounds differently."""
    monkeypatch.setattr(winograd, "enabled", False)


def train_and_detect(model, device, optimizer_class=AdamW, batch=BATCH, dtype=np.float32):
    """One step of training, then inference: (losses and gradient norm, weights, detections)."""
    images, targets = batch
    model = model.to(device).to(dtype=dtype)
    optimizer = optimizer_class(model.parameters(), lr=1e-3)
    losses = model(images, targets)
    total = functools.reduce(operator.add, losses.values())
    values = [loss.item() for loss in losses.values()]
    total.backward()
    for parameter in model.parameters():
        assert isinstance(parameter.grad, BACKENDS[device].array_type)
        assert parameter.grad.dtype == parameter.dtype == dtype
    values.append(optimizer.clip_grad_norm(1.0))
    optimizer.step()
    return values, model.state_dict(), model.eval()(images)


def ordered(detections):
    """By class and box: by score two that are equal but for rounding can come either way round."""
    order = np.lexsort((*detections["boxes"].round(1).T, detections["labels"]))
    return {name: array[order] for name, array in detections.items()}


def assert_same(found, expected, rtol, norm_rtol):
    np.testing.assert_allclose(found[0][:-1], expected[0][:-1], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found[0][-1], expected[0][-1], rtol=norm_rtol, err_msg="norm of the gradient")
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        np.testing.assert_allclose(found[1][name], array, rtol=rtol, atol=rtol, err_msg=name)
    for result, wanted in zip(found[2], expected[2], strict=True):
        assert result.keys() == wanted.keys()
        assert len(wanted["scores"]) > 0
        result, wanted = ordered(result), ordered(wanted)
        for name, array in wanted.items():
            assert type(result[name]) is np.ndarray and result[name].dtype == array.dtype
            if name == "masks" and array.dtype == np.float32:
                # FCIS rounds an RoI to cells, and both rivals cut out what the boxes of the first stage say: where a
                # corner lies in the middle but for rounding, a mask is that of another cell
                same = [np.allclose(a, b, rtol, 100 * rtol) for a, b in zip(result[name], array, strict=True)]
                assert np.mean(same) > 0.97
                continue
            np.testing.assert_allclose(result[name], array, rtol=rtol, atol=100 * rtol)


# In float64 both sides agree to the last digits, whichever kernels they use: errors are found here. In float32 their
# rounding differs with the kernels of BLAS. Losses, statistics and detections are continuous and move as little. The
# gradient is not: among a million inputs of ReLUs one is 0 but for rounding, lets its gradient pass on one side and
# stops it on the other, and the norm jumps (by 3e-5 in the shapes model with AVX2's kernels). AdamW would turn the
# rounding of a gradient which is almost 0 into a whole step.
PRECISIONS = {"float64": (np.float64, AdamW, 1e-9, 1e-9), "float32": (np.float32, SGD, 3e-6, 1e-3)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_on_the_fake_device(fake_device, name, precision):
    dtype, optimizer_class, rtol, norm_rtol = PRECISIONS[precision]
    found, expected = (
        train_and_detect(tiny_model(**MODELS[name]), device, optimizer_class, dtype=dtype) for device in ("fake", "cpu")
    )
    assert_same(found, expected, rtol, norm_rtol)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_shapes_model_with_momentum(fake_device, precision):
    dtype, _, rtol, norm_rtol = PRECISIONS[precision]
    batch = batch_of(scene(1), scene(2))
    found, expected = (train_and_detect(build_model("shapes"), device, SGD, batch, dtype) for device in ("fake", "cpu"))
    assert_same(found, expected, rtol, norm_rtol)


@pytest.mark.cuda
@pytest.mark.parametrize("name", MODELS)
def test_on_the_gpu(name):
    values, weights, _ = train_and_detect(tiny_model(**MODELS[name]), "cpu")
    on_gpu = train_and_detect(tiny_model(**MODELS[name]), "cuda")
    np.testing.assert_allclose(on_gpu[0], values, rtol=1e-3)
    for path, array in weights.items():
        if "running" in path:
            np.testing.assert_allclose(on_gpu[1][path], array, rtol=1e-3, atol=1e-4, err_msg=path)
    # a detector is no continuous function of its weights, so the same weights are compared
    model = tiny_model(**MODELS[name]).eval()
    images = BATCH[0]
    expected = model(images)
    for result, wanted in zip(model.to("cuda")(images), expected, strict=True):
        for array in result.values():
            assert type(array) is np.ndarray
        best = min(10, len(wanted["scores"]))
        np.testing.assert_allclose(result["scores"][:best], wanted["scores"][:best], atol=1e-3)


@pytest.mark.parametrize("images", [1, 3])
def test_how_often_a_training_step_waits_for_the_device(fake_device, images):
    model = tiny_model().to("fake")
    batch = BATCH[0][:images], BATCH[1][:images]
    fake_device.reset()
    losses = model(*batch)
    # whether the RPN's outputs are finite; the proposals; which anchors are positive; the anchors' matches
    waiting = ["TwoStage.propose", "decode_proposals", "Matcher.__call__", "TwoStage.sample_anchors"]
    assert fake_device.waiting == waiting
    fake_device.reset()
    functools.reduce(operator.add, losses.values()).backward()
    assert fake_device.waits == 0


@pytest.mark.parametrize("images", [1, 3])
def test_how_often_inference_waits_for_the_device(fake_device, images):
    model = tiny_model().to("fake").eval()
    fake_device.reset()
    model.detect(BATCH[0][:images])
    waiting = ["decode_proposals", "MaskRCNN.box_detections", "MaskRCNN.mask_detections"]
    assert fake_device.waiting == waiting and fake_device.copies == 3


def test_what_an_inference_launches(fake_device):
    """R50-FPN with few channels. On a GPU it takes some 440 launches: a sort or a concatenation takes several there."""
    narrow = dict(
        widths=(8,) * 4, stem_width=8, fpn_channels=16, rpn_channels=16, box_hidden=16, mask_layers=(16,) * 4,
        mask_channels=16, min_size=None, max_size=None, rpn_pre_nms_test=60, rpn_post_nms_test=40,
    )  # fmt: skip
    model = build_model("torchvision_resnet50_fpn", **narrow).eval().to("fake")
    model.roi_heads.box_predictor.cls_score.bias.data[1] = 4  # so that there are detections
    for _ in range(2):  # the first time constants are made that stay on the device
        fake_device.reset()
        (found,) = model([scene(1, (96, 128))[0]])
    assert len(found["scores"]) > 10
    assert 200 < fake_device.launches <= 418 and fake_device.uploads <= 31
    waiting = ["decode_proposals", "MaskRCNN.box_detections", "MaskRCNN.mask_detections"]
    assert fake_device.waiting == waiting


def test_what_a_training_step_costs_a_gpu(fake_device):
    """Kernels take little time beside what the host needs to start them: a step of the `shapes` model with 8 images.
    On a GPU it is some 1,000 launches and 80 memory fills: it needs several for a sort, and none for a plain copy."""
    images, targets = map(list, zip(*(ShapesDataset(8, seed=0)[i] for i in range(8)), strict=True))
    model, config = build_model("shapes").to("fake"), TrainConfig()
    optimizer = make_optimizer(model, config)
    counts = []
    for step, threads in enumerate((1, 1, 16)):  # the first time constants are made that stay on the device
        fake_device.reset()
        context = contextvars.copy_context()
        context.run(set_num_threads, threads)
        context.run(training_step, model, optimizer, step, images, targets, config)
        counts.append(fake_device.launches)
    # however many threads the host has; a level without RoIs may launch a few less
    assert counts[2] == pytest.approx(counts[1], abs=10)
    print(fake_device.launches, "launches,", fake_device.uploads, "uploads, and waits in", fake_device.waiting)
    assert fake_device.waiting == [
        "TwoStage.propose",  # whether the RPN's outputs are finite
        "decode_proposals",  # the proposals, from which RoIs are drawn
        "Matcher.__call__",  # which anchors are positive, right before the next
        "TwoStage.sample_anchors",  # the anchors' matches, from which anchors are drawn
        "training_step",  # the losses
        "_Optimizer.clip_grad_norm",  # the norm of the gradient
    ]
    assert 800 < fake_device.launches <= 1120 and 40 < fake_device.uploads <= 110


def test_what_the_optimiser_launches(fake_device):
    model = tiny_model().to("fake")
    optimizer = AdamW(model.parameters(), lr=1e-3)
    functools.reduce(operator.add, model(*BATCH).values()).backward()
    fake_device.reset()
    assert optimizer.clip_grad_norm(1e-3) > 1e-3
    assert (fake_device.launches, fake_device.waits) == (4, 1)  # squares, their sum from 0 on, and the scaling
    fake_device.reset()
    optimizer.step()
    assert (fake_device.launches, fake_device.waits, fake_device.uploads) == (1, 0, 0)


def test_arrays_of_the_device_are_no_images(fake_device):
    model = tiny_model().to("fake")
    image = fake_device(scene(0)[0])
    with pytest.raises(ValueError, match="Image 0 must be a NumPy array"):
        model([image], [scene(0)[1]])


def test_a_checkpoint_moves_between_devices(fake_device):
    model = tiny_model(seed=1)
    expected = model.state_dict()
    moved = tiny_model(seed=2).to("fake")
    moved.load_state_dict(expected)
    for name, array in moved.state_dict().items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, expected[name])
    assert moved.device == "fake" and moved.to("cpu").device == "cpu"
