"""`tinymrcnn gradcheck`: is the gradient of the whole network the derivative of its losses?

A small model in float64, with the layers and settings of `shapes`, on two pictures and samples that stay the same. For
each loss and each part of the network a central difference along a random direction in every parameter is compared with
what backward() says about the same direction. Lesson 02 explains why that finds nearly every mistake.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymrcnn.autograd import GradcheckError, NondifferentiableError, Tensor
from tinymrcnn.autograd.gradcheck import worst_relative_error
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import build_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.two_stage import TwoStage
from tinymrcnn.nn import Module
from tinymrcnn.settings import parse_setting, replace

SMALL = {
    "resnet.depths": (1, 1, 1, 1),
    "resnet.widths": (4, 4, 8, 8),
    "resnet.stem_width": 4,
    "fpn.channels": 8,
    "rpn.channels": 8,
    "rpn.anchor_sizes": ((8,), (16,), (32,), (64,)),
    "box.hidden": 8,
    "box.pool": 3,
    "mask.layers": (4,),
    "mask.channels": 4,
    "mask.pool": 4,
}
IMAGE_SIZE = 64, 96
ALLOWED = 1e-5  # relative error: the network is deep, and a single operator reaches 1e-8
ATTEMPTS = 5  # directions, where a ReLU or a maximum switches within the step of the difference

Weight = tuple[Module, str]  # a parameter: the layer that has it, and its name there
Weights = dict[str, Weight]  # by their paths


def check_gradients(settings: Sequence[str] | None = None) -> int:
    """Print a table: every loss, part of the network, worst relative error, verdict. Returns the exit code: 1 where
    one gradient is wrong. settings: texts "FIELD=VALUE" for fields of Config.

    Raises ValueError for settings that do not exist, or of which no model can be made."""
    model = small_model(dict(map(parse_setting, settings or ())))
    pairs = [ShapesDataset(2, IMAGE_SIZE, seed=0)[i] for i in range(2)]
    images, targets = [image.astype(np.float64) for image, _ in pairs], [target for _, target in pairs]
    samples = model.draw_samples(images, targets)
    names, parts = list(model.losses(images, targets, samples=samples)), parts_of(model)
    print(f"Samples that the losses look at: {samples.counts}. Allowed is a relative error of {ALLOWED:.0e}.\n")
    print(f"{'loss':<22}{'parameters of':<28}{'worst relative error':>20}   verdict")
    wrong = 0
    for name in names:

        def loss(name: str = name) -> Tensor:
            return model.losses(images, targets, samples=samples)[name]

        reached = depends(model, loss)
        for part, weights in parts.items():
            error, problem = check(loss, weights)
            if problem:
                wrong += 1
                bad = [path for path, weight in weights.items() if check(loss, {path: weight})[1]]
                verdict = f"WRONG for {', '.join(bad) or 'all together'}: {problem}"
            else:
                verdict = "right" if reached & weights.keys() else "right, it is 0"
            print(f"{name:<22}{part:<28}{error:>20.1e}   {verdict}", flush=True)
    count = len(names) * len(parts)
    print(f"\n{count - wrong} of {count} gradients are right." if wrong else f"\nAll {count} gradients are right.")
    return 1 if wrong else 0


def small_model(overrides: dict[str, Any]) -> TwoStage:
    """A `shapes` model of a few thousand weights in float64, all of them large enough to matter."""
    config = replace(get_config("shapes"), **SMALL)
    model = build_model(config, **overrides)
    if model.config.model == "mnc":
        raise ValueError(
            "The second pass of MNC chooses its targets anew with every change of a weight, and no difference can tell "
            "that from a gradient: check mask_rcnn or fcis."
        )
    rng = np.random.default_rng(0)
    for path, parameter in model.named_parameters():
        spread = 0.3 if path.endswith("bias") or "bn" in path else 0.1
        parameter.data += rng.normal(0, spread, parameter.shape).astype(np.float32)
    return model.to(dtype=np.float64)


def parts_of(model: TwoStage) -> dict[str, Weights]:
    """The parameters of each part of the network: "backbone.body", "rpn.head", "roi_heads.box_predictor", ..."""
    parts: dict[str, Weights] = {}
    layers = dict(model.named_modules())
    for path, _ in model.named_parameters():
        layer, _, name = path.rpartition(".")
        parts.setdefault(".".join(path.split(".")[:2]), {})[path] = (layers[layer], name)
    return parts


def depends(model: TwoStage, loss: Callable[[], Tensor]) -> set[str]:
    """The paths of the parameters that get a gradient from a loss that is not 0."""
    for parameter in model.parameters():
        parameter.grad = None
    loss().backward()
    return {path for path, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}


def check(loss: Callable[[], Tensor], weights: Weights) -> tuple[float, str | None]:
    """The worst relative error of the gradient of a loss by some weights, and what is wrong with it, or None."""
    problem = ""
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng(attempt)
        start = {path: getattr(layer, name) for path, (layer, name) in weights.items()}
        directions = {path: rng.uniform(0.5, 1.5, p.shape) * rng.choice([-1, 1], p.shape) for path, p in start.items()}

        def moved(steps: Tensor, start: Any = start, directions: Any = directions) -> Tensor:
            """The loss after a step in each weight, steps[i] times its direction: gradcheck differentiates it at 0."""
            for i, (path, (layer, name)) in enumerate(weights.items()):
                setattr(layer, name, start[path].detach() + steps[i] * directions[path])
            try:
                return loss()
            finally:
                for path, (layer, name) in weights.items():
                    setattr(layer, name, start[path])

        try:
            steps = Tensor(np.zeros(len(weights)), requires_grad=True)
            return worst_relative_error(moved, [steps], rtol=ALLOWED, full=True), None
        except NondifferentiableError as error:
            problem = f"{error} ({ATTEMPTS} directions were tried.)"
        except GradcheckError as error:
            return np.nan, str(error)
    return np.nan, problem
