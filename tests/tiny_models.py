"""What the tests of the network share: models of a few thousand weights, and pictures with known objects."""

import functools
import operator

import numpy as np

from tinymrcnn.models import build_model

TINY = dict(
    depths=(1, 1, 1, 1),
    widths=(4, 4, 8, 8),
    stem_width=4,
    fpn_channels=8,
    rpn_channels=8,
    box_hidden=8,
    mask_layers=(4,),
    mask_channels=4,
    box_pool=3,
    mask_pool=4,
    anchor_sizes=((8,), (16,), (32,), (64,)),
)
C4 = dict(backbone="c4", anchor_sizes=((8, 16, 32, 64),), box_pool=4)
C5 = dict(backbone="c5", anchor_sizes=((8, 16, 32, 64),))
RESNEXT = dict(block="bottleneck", norm="frozen", groups=2, expansion=2)
BACKBONES = {"fpn": {}, "c4": C4, "c5": C5}
FCIS = dict(
    model="fcis", backbone="c4", anchor_sizes=((8, 16, 32, 64),), strides=(1, 2, 1, 1), box_nms=0.3,
    **{"fcis.channels": 8, "fcis.group": 3, "fcis.pooled": 6},
)  # fmt: skip
MNC = dict(**C5, model="mnc", strides=(1, 2, 1, 1), box_nms=0.3, **{"mnc.hidden": 8, "mnc.size": 7})
MNC_C4 = dict(**C4, model="mnc", **{"mnc.hidden": 8, "mnc.size": 7})
DETECTORS = {**BACKBONES, "fcis": FCIS, "mnc": MNC}


def tiny_model(seed=0, dtype=np.float32, **overrides):
    """A model with random weights that are all large enough to matter, those that start as 0 or 1 too."""
    model = build_model("shapes", seed=seed, **{**TINY, **overrides})
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        spread = 0.3 if name.endswith("bias") or "bn" in name else 0.1
        parameter.data += rng.normal(0, spread, parameter.shape).astype(np.float32)
    for name, buffer in model.named_buffers():
        if name.endswith("var"):
            buffer *= rng.uniform(0.5, 2, buffer.shape).astype(np.float32)
        else:
            buffer += rng.normal(0, 0.1, buffer.shape).astype(np.float32)
    return model.to(dtype=dtype)


def scene(seed, size=(64, 96), boxes=((9, 6, 31, 24), (40, 20, 88, 58)), labels=(2, 5)):
    """(image, target): a noisy picture of `size` (height, width) with an ellipse in each of the boxes."""
    rng = np.random.default_rng([seed, *size])
    height, width = size
    image = rng.random((3, height, width), np.float32) * 0.4
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[...] = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        image += mask * rng.random((3, 1, 1), np.float32) * 0.6
    target = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels[: len(boxes)], np.int64),
        "masks": masks,
        "image_id": seed,
    }
    return image, target


def empty_scene(seed, size=(64, 96)):
    return scene(seed, size, boxes=())


def batch_of(*scenes):
    """(images, targets) of some scenes."""
    images, targets = zip(*scenes, strict=True)
    return list(images), list(targets)


def losses_and_gradients(model, batch, samples=None, step=0):
    """The losses as numbers, and {parameter: gradient} of their sum; both checked to be finite."""
    losses = model.losses(*batch, samples=samples, step=step)
    for parameter in model.parameters():
        parameter.grad = None
    functools.reduce(operator.add, losses.values()).backward()
    values = {name: loss.item() for name, loss in losses.items()}
    assert np.isfinite(list(values.values())).all()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is None or np.isfinite(gradient).all() for gradient in gradients.values())
    return values, gradients
