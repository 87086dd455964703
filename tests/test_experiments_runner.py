"""The runner: every run once, whatever interrupts it, and nothing mixed that cannot be compared."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import C4, TINY, tiny_model

from tinymrcnn import threads
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.loader import load_batch
from tinymrcnn.evaluation import evaluate_detections
from tinymrcnn.experiments import heads, inference_order, runner
from tinymrcnn.experiments.judging import detections_of, mask_iou, metrics_of, objects_of
from tinymrcnn.experiments.plan import (
    DETECTIONS,
    PROPOSALS,
    Comparison,
    Plan,
    Variant,
    key,
    pilots_of,
    run_of,
    trunk_of,
)
from tinymrcnn.experiments.registry import PLANS
from tinymrcnn.experiments.report import results_of
from tinymrcnn.experiments.runner import Places, alike, chosen_rate, missing, phases, run_plan, runs_of, stored
from tinymrcnn.experiments.training import model_of, new_model, pictures, proposals_on, train
from tinymrcnn.experiments.training import test_pictures as pictures_of_test
from tinymrcnn.models import TrainConfig
from tinymrcnn.training import make_optimizer, training_step

SETTINGS = {"backbone": "c5", "rpn.anchor_sizes": ((16, 32, 64),)} | {
    name: value for name, value in TINY.items() if name != "anchor_sizes"
}
PLAN = Plan(
    name="tiny",
    title="RoIPool against RoIAlign, tiny",
    claim="It runs.",
    variants=(
        Variant("pool", "shapes", {**SETTINGS, "roi_op": "roi_pool"}),
        Variant("align", "shapes", SETTINGS, article={"segm/AP": 30.0}),
    ),
    comparisons=(Comparison("align", "pool", article=7.3, primary=True), Comparison("align", "pool", "bbox/AP50")),
    seeds=2,
    steps=2,
    trunk_steps=0,
    test_images=4,
    rates=(1e-3, 2e-3),
    pilot_steps=1,
    validation_images=2,
    resamples=20,
)
VARIANTS = (Variant("pool", "shapes_c5", {"roi_op": "roi_pool"}), Variant("align", "shapes_c5"))
ON_TRUNK = dataclasses.replace(PLAN, name="tiny-heads", variants=VARIANTS, trunk_steps=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The plan, run whole."""
    folder = tmp_path_factory.mktemp("finished")
    places = Places(folder / "results", folder / "scratch")
    run_plan(PLAN, places, progress=False)
    return places


def files(places):
    return {path.name: path.stat().st_mtime_ns for path in (places.results / "runs").iterdir()}


def test_all_runs_are_there(finished):
    found = files(finished)
    assert len(found) == 4 + 2 * 4  # of 2 variants: 2 pilots each, a .json; and 2 seeds, a .json and a .npz
    for seed in range(2):
        for name, run in runs_of(PLAN, seed, finished).items():
            record = stored(run, finished)
            assert record["seed"] == seed and record["plan"] == PLAN.hash and record["device"] == "cpu"
            assert record["settings"]["training"]["rate"] == chosen_rate(PLAN, PLAN.variant(name), finished)
            assert record["environment"]["numba_threads"] == 1 and record["parameters"] > 1000
            assert record["metrics"].keys() == {f"{k}/AP{t}" for k in ("bbox", "segm") for t in ("", "50", "75")}


def test_what_is_finished_is_not_made_again(finished):
    before = threads.get_num_threads()
    run_plan(PLAN, finished, progress=False)
    assert threads.get_num_threads() == before  # the runs' one thread is theirs alone
    before = files(finished)
    run_plan(PLAN, finished, progress=False)
    assert files(finished) == before


@pytest.mark.parametrize("plan", [PLAN, ON_TRUNK, *PLANS.values()], ids=lambda plan: plan.name)
def test_the_bar_counts_every_step_once(plan, tmp_path, monkeypatch):
    """Whatever runs share: the phases add up to the whole, and so does what they leave to do at first."""
    monkeypatch.setattr(runner, "chosen_rate", lambda *_: plan.rates[0])
    found = list(runner.phases(plan, Places(tmp_path / "results", tmp_path / "scratch")))
    assert sum(phase.steps for phase in found) == runner.all_steps(plan)
    for phase in found:
        assert sum(runner._steps(plan, phase, group) for group in phase.groups) == phase.steps
        assert len(phase.groups) == len({run.training for group in phase.groups for run in group})


def test_it_goes_on_after_an_interruption(tmp_path, monkeypatch, finished):
    """And comes to the same results as one that was never interrupted."""
    places, made = Places(tmp_path / "results", tmp_path / "scratch"), []
    judge = runner.judge

    def interrupted(run, *others):
        made.append(key(run))
        if len(made) == 6:
            raise KeyboardInterrupt
        return judge(run, *others)

    monkeypatch.setattr(runner, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(PLAN, places, progress=False)
    assert len(files(places)) == 4 + 2  # those of four pilots and a run
    run_plan(PLAN, places, progress=False)
    assert len(made) == 8 + 1 and len(set(made)) == 8  # the one that was interrupted, twice
    assert files(places).keys() == files(finished).keys()
    for seed in range(2):
        for run in runs_of(PLAN, seed, places).values():
            assert stored(run, places)["metrics"] == stored(run, finished)["metrics"]


def test_another_plan_is_not_mixed_in(finished):
    (finished.results / "tiny.json").write_text(json.dumps(results_of(PLAN, finished)))
    run_plan(PLAN, finished, progress=False)
    with pytest.raises(ValueError, match=f"results of another plan \\({PLAN.hash}\\)"):
        run_plan(dataclasses.replace(PLAN, claim="Something else"), finished, progress=False)


def test_a_seed_is_made_on_one_machine_by_one_code(tmp_path, finished, monkeypatch):
    """If a run of a seed is missing, those of the seed that another machine has made are made again; complete seeds
    stay."""
    places = Places(tmp_path / "results", tmp_path / "scratch")
    (tmp_path / "results").mkdir()
    runs = [list(runs_of(PLAN, seed, finished).values()) for seed in range(2)]
    for path in (finished.results / "runs").iterdir():
        (places.results / "runs").mkdir(exist_ok=True)
        (places.results / "runs" / path.name).write_bytes(path.read_bytes())
    now = stored(runs[0][0], places)
    monkeypatch.setattr(runner, "here", lambda places: {"device": "cpu", "environment": now["environment"]})
    lost = places.results / "runs" / f"{key(runs[1][0])}.json"
    lost.unlink()
    assert missing(runs[0], places) == [] and missing(runs[1], places) == [runs[1][0]]
    other = {**now["environment"], "cpu": "another one"}
    monkeypatch.setattr(runner, "here", lambda places: {"device": "cpu", "environment": other})
    assert missing(runs[0], places) == [] and missing(runs[1], places) == runs[1]
    # the pilots of a variant, too, are compared with each other
    pilots = [pilots_of(PLAN, variant) for variant in PLAN.variants]
    (places.results / "runs" / f"{key(pilots[1][0])}.json").unlink()
    assert [run for group in next(iter(phases(PLAN, places))).groups for run in group] == pilots[1]
    assert (
        alike(now, now) and not alike(now, {**now, "environment": other}) and not alike(now, {**now, "device": "cuda"})
    )


def test_what_is_damaged_is_named(tmp_path):
    """Results, and what lies in the scratch folder."""
    places = Places(tmp_path / "results", tmp_path / "scratch")
    (places.results / "runs").mkdir(parents=True)
    run = run_of(PLAN, PLAN.variants[0], 0, 1e-3)
    (places.results / "runs" / f"{key(run)}.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=f"{key(run)}.json' is damaged: remove it, and it is made again"):
        stored(run, places)
    (places.results / "tiny.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="tiny.json' is damaged"):
        run_plan(PLAN, places, progress=False)
    heads_run = run_of(ON_TRUNK, ON_TRUNK.variants[0], 0, 1e-3)
    (places.scratch / "proposals").mkdir(parents=True)
    (places.scratch / "proposals" / f"{key(trunk_of(heads_run.training))}-ordinary-3.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="-ordinary-3.npz' is damaged"):
        proposals_on(heads_run.training, pictures_of_test("ordinary", 3), "ordinary", places.scratch, "cpu")


def test_a_plan_is_kept_from_its_first_run_on(tmp_path, monkeypatch):
    """An interrupted plan that then says something else does not go on with the runs of before."""
    places = Places(tmp_path / "results", tmp_path / "scratch")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(PLAN, places, progress=False)
    assert json.loads((places.results / "tiny.json").read_text())["plan"] == PLAN.hash
    with pytest.raises(ValueError, match="results of another plan"):
        run_plan(dataclasses.replace(PLAN, seeds=3), places, progress=False)


def test_two_runners_do_not_share_a_folder(finished):
    with runner.locked(finished.scratch), pytest.raises(RuntimeError, match="is in use by another run"):
        run_plan(PLAN, finished, progress=False)


def test_a_run_is_what_tinymrcnn_train_does(finished):
    """The loop of a run against the plain one."""
    run = run_of(PLAN, PLAN.variants[1], 1, 2e-3)
    model, expected = (new_model(run.training, "cpu") for _ in range(2))
    train(model, run.training, finished.scratch, "cpu")
    config = TrainConfig(steps=2, lr=2e-3, warmup_steps=0, seed=1)
    optimizer, dataset = make_optimizer(expected.train(), config), ShapesDataset(20_000, seed=0)
    for step in range(2):
        _, images, targets = load_batch(dataset, 8, step, 1)
        training_step(expected, optimizer, step, images, targets, config)
    for name, value in expected.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], value, err_msg=name)


@pytest.mark.exhaustive
def test_two_processes_make_what_one_makes(tmp_path, finished):
    places = Places(tmp_path / "results", tmp_path / "scratch")
    run_plan(PLAN, places, processes=2, progress=False)
    for seed in range(2):
        for run in runs_of(PLAN, seed, places).values():
            assert stored(run, places)["metrics"] == stored(run, finished)["metrics"]


# Heads on a stored trunk ----------------------------------------------------------------------------------


def test_heads_begin_with_the_stored_trunk(tmp_path):
    runs = [run_of(ON_TRUNK, variant, 0, 1e-3) for variant in ON_TRUNK.variants]
    assert trunk_of(runs[0].training) == trunk_of(runs[1].training)
    trunk = model_of(trunk_of(runs[0].training), tmp_path, "cpu")
    untrained = new_model(trunk_of(runs[0].training), "cpu")
    moved = [
        name for name, value in trunk.state_dict().items() if not np.array_equal(value, untrained.state_dict()[name])
    ]
    assert moved and all(name.startswith(("backbone.", "rpn.")) for name in moved)  # its heads have learned nothing
    model = new_model(runs[1].training, "cpu")
    heads.take_over(model, trunk)
    for name, value in model.state_dict().items():
        if name.startswith(("backbone.", "rpn.")):
            np.testing.assert_array_equal(value, trunk.state_dict()[name])


def test_variants_see_the_same_proposals(tmp_path, monkeypatch):
    """Each training draws its RoIs from the stored proposals of the trunk, which is asked once."""
    seen = []
    sample = heads.TwoStage.sample
    monkeypatch.setattr(heads.TwoStage, "sample", lambda *args: seen.append(args[1]) or sample(*args))
    asked = []
    propose = heads.propose
    monkeypatch.setattr(heads, "propose", lambda *args: asked.append(1) or propose(*args))
    for variant in ON_TRUNK.variants:
        model_of(run_of(ON_TRUNK, variant, 0, 1e-3).training, tmp_path, "cpu")
    assert len(asked) == 2 and len(seen) == 4  # of 2 steps, and of 2 variants
    for first, second in zip(seen[:2], seen[2:], strict=True):
        assert len(first) == len(second) == 8
        for a, b in zip(first, second, strict=True):
            assert 0 < len(a) <= heads.STORED
            np.testing.assert_array_equal(a, b)


def test_stored_proposals_are_the_trunks(tmp_path):
    run = run_of(ON_TRUNK, ON_TRUNK.variants[0], 0, 1e-3)
    dataset = pictures_of_test(run.pictures, 3)
    found = [proposals_on(run.training, dataset, run.pictures, tmp_path, "cpu") for _ in range(2)]
    trunk = model_of(trunk_of(run.training), tmp_path, "cpu")
    for index in range(3):
        expected = heads.propose(trunk, [dataset[index][0]])[0]
        assert found[0][index].dtype == np.float32
        np.testing.assert_array_equal(found[0][index], expected)
        np.testing.assert_array_equal(found[1][index], expected)


@pytest.mark.parametrize("settings", [{}, C4], ids=["fpn", "c4"])
def test_heads_detect_as_the_model_does(settings):
    """On the model's own proposals."""
    model = tiny_model(**settings).eval()
    image = ShapesDataset(1, (64, 96), seed=3)[0][0]
    batch = model.transform([image])
    proposals = model.propose(model.run_rpn(model.features(batch), batch), batch)
    expected, found = model.detect([image])[0], heads.detect(model, [image], proposals)[0]
    assert len(expected["boxes"]) > 0 and expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


# The test -------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_evaluate(finished):
    run = runs_of(PLAN, 0, finished)["align"]
    model, dataset = model_of(run.training, finished.scratch, "cpu"), pictures_of_test(run.pictures, run.images)
    expected = evaluate_detections(detections_of(model, dataset, DETECTIONS, None), dataset)
    for name, value in stored(run, finished)["metrics"].items():
        assert value == pytest.approx(expected[name], abs=1e-12)


def test_kinds_of_pictures():
    kinds = {kind: pictures(kind, 6, 1) for kind in ("ordinary", "crowded", "half of them crowded")}
    assert [bool(dataset.crowded) for dataset in kinds.values()] == [False, True, True]
    assert kinds["half of them crowded"].crowded == 0.5
    assert pictures_of_test("ordinary", 5).seed == 1 and pictures_of_test("validation, ordinary", 5).seed == 2
    assert pictures_of_test("validation, half of them crowded", 5).crowded == 0.5


def test_masks_overlap():
    a = np.zeros((2, 4, 5), bool)
    a[0, :2], a[1, 1:3] = True, True
    expected = [[1, 5 / 15, 0], [5 / 15, 1, 0]]
    np.testing.assert_allclose(mask_iou(a, np.concatenate([a, np.zeros((1, 4, 5), bool)])), expected)


def test_a_row_for_every_object():
    """Of a model that finds exactly the truth, both IoUs are 1; of overlaps the largest counts."""
    dataset = ShapesDataset(3, (64, 96), seed=1, crowded=True)

    class Oracle:
        class_of_device = "cpu"

        def transform(self, images, targets):
            self.masks = targets[0]["masks"]
            return type("Batch", (), {"gt_boxes": [targets[0]["boxes"]]})

        def features(self, batch):
            return batch

        def mask_detections(self, features, detections):
            return [cut(self.masks, detections[0]["boxes"])]

    def cut(masks, boxes):
        from tinymrcnn.boxes import crop_masks

        return crop_masks(masks.astype(np.float32), boxes, 112)

    detections = []
    for index in range(3):
        target = dataset[index][1]
        detections.append(
            {**target, "scores": np.ones(len(target["labels"])), "masks": cut(target["masks"], target["boxes"])}
        )
    rows = objects_of(Oracle(), dataset, detections)
    assert len(rows["object_image"]) == sum(len(dataset[index][1]["labels"]) for index in range(3))
    assert (rows["given"] > 0.97).all() and (rows["found"] > 0.97).all()
    from tinymrcnn.boxes import box_iou

    for row in range(len(rows["object_image"])):
        target = dataset[int(rows["object_image"][row])][1]
        number = row - int(np.searchsorted(rows["object_image"], rows["object_image"][row]))
        others = np.delete(np.arange(len(target["labels"])), number)
        overlaps = box_iou(target["boxes"], target["boxes"])[number, others]
        alike = target["labels"][others] == target["labels"][number]
        assert rows["object_label"][row] == target["labels"][number]
        assert rows["same"][row] == pytest.approx(overlaps[alike].max(initial=0), abs=1e-6)
        assert rows["other"][row] == pytest.approx(overlaps[~alike].max(initial=0), abs=1e-6)


def test_the_fall_weighs_pictures():
    from tinymrcnn.experiments.judging import Found, metric
    from tinymrcnn.experiments.matches import Matches

    columns = {"object_image": [0, 0, 1, 1], "same": [0.0, 0.7, 0.3, 0.9], "given": [0.9, 0.5, 0.8, 0.7]}
    objects = {name: np.array(values) for name, values in columns.items()}
    empty = Matches(*(np.zeros((0, 10)) for _ in range(5)), np.zeros((2, 6), np.uint8))
    fall = metric(Found(empty, objects), "fall")
    assert fall(np.array([1, 1])) == pytest.approx(0.85 - 0.6)
    assert fall(np.array([2, 0])) == pytest.approx(0.9 - 0.5)
    assert fall(np.array([1, 2])) == pytest.approx((0.9 + 1.6) / 3 - (0.5 + 1.4) / 3)


# The order of inference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, C4], ids=["fpn", "c4"])
def test_masks_of_all_proposals(settings):
    """The boxes are the same; the masks are those that the model predicts in the proposals themselves."""
    model = tiny_model(**settings).eval()
    dataset = ShapesDataset(2, (64, 96), seed=3)
    before = detections_of(model, dataset, DETECTIONS, None)
    after = detections_of(model, dataset, PROPOSALS, None)
    for one, other in zip(before, after, strict=True):
        for name in ("boxes", "labels", "scores"):
            np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-4)
        assert len(one["boxes"]) and one["masks"].shape == other["masks"].shape
        assert np.abs(one["masks"] - other["masks"]).max() > 1e-4
    assert metrics_of(type("Found", (), {"matches": _matches(after, dataset), "objects": {}})())["bbox/AP"] >= 0


def _matches(detections, dataset):
    from tinymrcnn.experiments.matches import match_detections

    return match_detections(detections, dataset)


def test_a_mask_moves_from_its_roi_to_its_box():
    """Where both are the same box nothing changes; half a box to the right shows the right half, and
    from the first cell on nothing beside it."""
    mask = np.zeros((1, 4, 4), np.float32)
    mask[0, :, 2:] = 1
    roi = np.array([[10, 20, 50, 40]], np.float32)
    np.testing.assert_allclose(inference_order.moved(mask, roi, roi), mask)
    right = roi + np.array([20, 0, 20, 0], np.float32)
    np.testing.assert_allclose(inference_order.moved(mask, roi, right)[0], [[1, 1, 1, 0]] * 4)
