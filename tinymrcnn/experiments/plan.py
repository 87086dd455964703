"""What a plan says before any run: the variants, the seeds, the metric, the direction that the article leads one to
expect, the smallest effect of interest, and when to stop.

A plan is a file of this folder, and its hash changes with every word of it. What it does not say has the defaults of
this file, which must never change. The results name the plan that they were made by, and the runner does not add to
those of another one.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

PILOT_SEED = 100
STOPPING = "All seeds are run, whatever comes out; none is added or left out."
DETECTIONS, PROPOSALS = "of the detections", "of all proposals"
PICTURES = ("ordinary", "crowded", "half of them crowded")


@dataclass(frozen=True)
class Variant:
    """One arm of a comparison: a preset, what is changed in it, and what is changed only after training, at the test.

    article: the article's figures for it, in points, by metric. masks: at the test, of what they are predicted, see
    inference_order.py."""

    name: str
    preset: str
    settings: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    article: dict[str, float] = field(default_factory=dict)
    masks: str = DETECTIONS


@dataclass(frozen=True)
class Comparison:
    """The difference first - second in a metric, which is expected to be above 0. In points: 100 times the metric.

    article: the article's difference, or None where it gives none. smallest: the smallest effect of interest."""

    first: str
    second: str
    metric: str = "segm/AP"
    article: float | None = None
    smallest: float = 1.0
    primary: bool = False

    @property
    def name(self) -> str:
        return f"{self.first} - {self.second}, {self.metric}"


@dataclass(frozen=True)
class Plan:
    """One table or figure of the article.

    seeds: 0, 1, ..., the same for all variants, which then see the same pictures in the same order and draw their
    weights from the same numbers. steps: of 8 pictures. trunk_steps: 0 for training end to end; else the backbone and
    the RPN are trained so long, once for each seed, and `steps` are those of the heads. pictures: what they are trained
    on, of PICTURES. tests: what they are tested on. rates: each variant is trained with these learning rates on
    PILOT_SEED for pilot_steps, and goes on with the one that is best in `chosen_by` on validation pictures. resamples:
    of the bootstrap."""

    name: str
    title: str
    claim: str
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    seeds: int = 6
    steps: int = 400
    trunk_steps: int = 600
    pictures: str = "ordinary"
    tests: str = "ordinary"
    test_images: int = 500
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    pilot_steps: int = 200
    validation_images: int = 200
    chosen_by: str = "segm/AP"
    stopping: str = STOPPING
    resamples: int = 1000

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        for comparison in self.comparisons:
            for name in (comparison.first, comparison.second):
                if name not in names:
                    raise ValueError(
                        f"The plan {self.name!r} compares {name!r}, which is none of its variants: {names}."
                    )

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of all that the plan says; a field that keeps its default says nothing."""
        return _digest(self)[:12]

    @property
    def primary(self) -> bool:
        return any(comparison.primary for comparison in self.comparisons)

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)


@dataclass(frozen=True)
class Training:
    """All that the weights of a trained model depend on, besides the code and the machine."""

    preset: str
    settings: tuple[tuple[str, Any], ...]
    seed: int
    pictures: str
    steps: int
    rate: float
    trunk_steps: int


@dataclass(frozen=True)
class Run:
    """A training and a test of it: all that a result depends on."""

    training: Training
    test: tuple[tuple[str, Any], ...]
    pictures: str
    images: int
    masks: str = DETECTIONS


def key(what: Training | Run) -> str:
    """The name of a training or run: equal ones, of whatever plans, have the same one and are made once."""
    return _digest(what)[:16]


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(_said(what), sort_keys=True).encode()).hexdigest()


def _said(what: Any) -> Any:
    """What a dataclass says. Fields that keep their default are left out: a field that is added one day changes no hash
    of what was written before. So a default that exists must never change; a test holds them."""
    if dataclasses.is_dataclass(what):
        values = {field.name: getattr(what, field.name) for field in dataclasses.fields(what)}
        defaults = {field.name: field.default for field in dataclasses.fields(what)}
        return {name: _said(value) for name, value in values.items() if value != defaults[name]}
    return [_said(each) for each in what] if isinstance(what, (tuple, list)) else what


def training_of(plan: Plan, variant: Variant, seed: int, rate: float, steps: int) -> Training:
    settings = tuple(sorted(variant.settings.items()))
    return Training(variant.preset, settings, seed, plan.pictures, steps, rate, plan.trunk_steps)


def trunk_of(training: Training) -> Training:
    """The backbone and RPN from which heads are trained: the same for all variants of a preset."""
    return dataclasses.replace(
        training, settings=(("masks", False),), steps=training.trunk_steps, rate=1e-3, trunk_steps=-1
    )


def pilots_of(plan: Plan, variant: Variant) -> list[Run]:
    """The runs, one for each learning rate, by which a variant's is chosen."""
    trainings = [training_of(plan, variant, PILOT_SEED, rate, plan.pilot_steps) for rate in plan.rates]
    return [Run(training, (), f"validation, {plan.pictures}", plan.validation_images) for training in trainings]


def run_of(plan: Plan, variant: Variant, seed: int, rate: float) -> Run:
    """The run of one seed with the learning rate that was chosen."""
    training = training_of(plan, variant, seed, rate, plan.steps)
    return Run(training, tuple(sorted(variant.test.items())), plan.tests, plan.test_images, variant.masks)


def quick_plan(plan: Plan) -> Plan:
    """The plan in seconds: it shows that everything runs, and not what comes out."""
    return dataclasses.replace(
        plan, name=f"{plan.name}-quick", seeds=2, steps=2, trunk_steps=min(plan.trunk_steps, 2), test_images=12,
        rates=plan.rates[:1], pilot_steps=1, validation_images=2, resamples=20,
    )  # fmt: skip
