"""What the plans say, and which runs follow from it."""

import dataclasses
import json
from pathlib import Path

import pytest

from tinymrcnn.experiments.heads import STORED
from tinymrcnn.experiments.judging import CROWDED, FREE, KINDS, THRESHOLDS, Found, metrics_of
from tinymrcnn.experiments.matches import load_extra, load_matches
from tinymrcnn.experiments.plan import (
    PILOT_SEED,
    Comparison,
    Plan,
    Run,
    Training,
    Variant,
    key,
    pilots_of,
    quick_plan,
    run_of,
    training_of,
    trunk_of,
)  # fmt: skip
from tinymrcnn.experiments.registry import PLANS
from tinymrcnn.models.presets import get_config
from tinymrcnn.settings import replace

METRICS = [f"{kind}/{name}" for kind in KINDS for name in THRESHOLDS]


def small(**changed):
    arms = (Variant("a", "shapes"), Variant("b", "shapes", {"pooler.roi_op": "roi_pool"}))
    return dataclasses.replace(Plan("small", "A title", "A claim", arms, (Comparison("a", "b"),)), **changed)


def test_the_hash_changes_with_whatever_a_plan_says():
    plan = small()
    assert plan.hash == small().hash and len(plan.hash) == 12
    changed = [
        small(seeds=7),
        small(claim="Another claim"),
        small(rates=(1e-3,)),
        small(variants=(Variant("a", "shapes"), Variant("b", "shapes"))),
        small(comparisons=(Comparison("b", "a"),)),
        small(comparisons=(Comparison("a", "b", smallest=2.0),)),
        small(comparisons=(Comparison("a", "b", primary=True),)),
    ]
    assert len({plan.hash, *(other.hash for other in changed)}) == 1 + len(changed)


def test_a_field_that_is_not_used_changes_no_hash():
    """So a field that is added to Plan one day leaves the hashes of finished plans as they are."""

    @dataclasses.dataclass(frozen=True)
    class Longer(Plan):
        added: int = 3

    plan = small()
    longer = Longer(**{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)})
    assert longer.hash == plan.hash and dataclasses.replace(longer, added=4).hash != plan.hash


def test_defaults_never_change():
    """They are not part of the hash, but of what the plans say."""
    defaults = {
        kind.__name__: {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
        for kind in (Variant, Comparison, Plan, Training, Run)
    }
    assert defaults == {
        "Variant": {"masks": "of the detections"},
        "Comparison": {"metric": "segm/AP", "article": None, "smallest": 1.0, "primary": False},
        "Plan": {
            "seeds": 6, "steps": 400, "trunk_steps": 600, "pictures": "ordinary", "tests": "ordinary",
            "test_images": 500, "rates": (1e-3, 2e-3, 4e-3), "pilot_steps": 200, "validation_images": 200,
            "chosen_by": "segm/AP", "resamples": 1000,
            "stopping": "All seeds are run, whatever comes out; none is added or left out.",
        },
        "Training": {},
        "Run": {"masks": "of the detections"},
    }  # fmt: skip
    assert PILOT_SEED == 100 and (FREE, CROWDED) == (0.4, 0.6) and STORED == 100


def test_a_comparison_of_what_is_no_variant_is_refused():
    with pytest.raises(ValueError, match="compares 'c', which is none of its variants: \\['a', 'b'\\]"):
        small(comparisons=(Comparison("a", "c"),))


def test_variants_of_a_seed_share_everything_but_their_settings():
    plan = small()
    first, second = (run_of(plan, variant, 3, 1e-3) for variant in plan.variants)
    assert key(first) != key(second) and trunk_of(first.training) == trunk_of(second.training)
    assert dataclasses.replace(first.training, settings=second.training.settings) == second.training
    assert trunk_of(first.training).steps == plan.trunk_steps and trunk_of(first.training).seed == 3
    assert key(run_of(plan, plan.variants[0], 4, 1e-3)) != key(first)


def test_learning_rates_are_chosen_by_runs_of_their_own():
    """On another seed, other pictures, and without what is switched at the test only."""
    plan = small(variants=(Variant("a", "shapes_fcis", test={"fcis.voting": False}), small().variants[1]))
    pilots = pilots_of(plan, plan.variants[0])
    assert [run.training.rate for run in pilots] == list(plan.rates)
    assert {run.training.seed for run in pilots} == {100} and not set(range(plan.seeds)) & {100}
    assert {(run.test, run.pictures, run.images) for run in pilots} == {((), "validation, ordinary", 200)}
    assert run_of(plan, plan.variants[0], 0, 1e-3).test == (("fcis.voting", False),)


# The plans that are there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_can_be_run(name):
    plan = PLANS[name]
    assert plan.name == name and plan.seeds >= (8 if plan.primary else 6)
    assert plan.chosen_by in METRICS
    for variant in plan.variants:
        config = replace(get_config(variant.preset), **variant.settings)
        replace(config, **variant.test)
        assert variant.article.keys() <= set(METRICS)
    for comparison in plan.comparisons:
        assert comparison.metric in METRICS or (comparison.metric == "fall" and plan.tests == "crowded")
        assert comparison.smallest > 0
        first, second = (
            plan.variant(each).article.get(comparison.metric) for each in (comparison.first, comparison.second)
        )
        if first and second:  # the article's difference is that of its two figures
            assert comparison.article == pytest.approx(first - second, abs=0.051)


def test_the_primary_comparisons_are_those_three():
    found = [(plan.name, each.metric) for plan in PLANS.values() for each in plan.comparisons if each.primary]
    assert found == [("table-2d", "segm/AP"), ("table-2b", "segm/AP"), ("figure-6", "fall")]
    assert [plan.primary for plan in PLANS.values()] == [True] * 3 + [False] * (len(PLANS) - 3)  # they run first


def trainings(name, rate=1e-3):
    plan = PLANS[name]
    steps = {variant.name: training_of(plan, variant, 0, rate, plan.steps) for variant in plan.variants}
    return {variant: key(training) for variant, training in steps.items()}


def test_what_two_plans_need_is_made_once():
    b, c, one, six = (trainings(name) for name in ("table-2b", "table-2c", "table-1", "figure-6"))
    assert b["sigmoid"] == c["RoIAlign, mean"]
    assert b["softmax"] == b["softmax, decoded among all classes"] != b["sigmoid"]
    assert one.items() <= six.items() and six["FCIS"] == six["FCIS without voting"]
    a, order, three = (trainings(name) for name in ("table-2a", "inference-order", "table-3"))
    assert order["FPN, the 100 best"] == order["FPN, all proposals"] == a["FPN"] == three["Mask R-CNN"]
    pilots = [key(run) for run in pilots_of(PLANS["table-2b"], PLANS["table-2b"].variant("sigmoid"))]
    assert pilots == [key(run) for run in pilots_of(PLANS["table-2c"], PLANS["table-2c"].variant("RoIAlign, mean"))]


def test_a_quick_plan_is_another_one():
    plan = PLANS["table-2d"]
    assert quick_plan(plan).name != plan.name and quick_plan(plan).hash != plan.hash


def test_stored_results_are_those_of_their_plan():
    """The plan of that name still says the same, and every number follows from the matches."""
    folder = Path(__file__).resolve().parents[1] / "data" / "results" / "reproduce"
    stored = {name: folder / f"{name}.json" for name in PLANS if (folder / f"{name}.json").exists()}
    assert "table-2d" in stored
    for name, path in stored.items():
        result = json.loads(path.read_text(encoding="utf-8"))
        assert result["plan"] == PLANS[name].hash, name
        for run in result["runs"]:
            matches, extra = load_matches(folder / run["matches"]), load_extra(folder / run["matches"])
            assert metrics_of(Found(matches, extra)) == pytest.approx(run["metrics"], abs=1e-12)
