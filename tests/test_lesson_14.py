"""Lesson 14 with results of the trained comparison, with a part of them, and with none; and its chosen pairs."""

import contextlib
import dataclasses
import io
import json
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_lessons import FOLDER, cells_of, source

import tinymrcnn
from tinymrcnn import no_grad
from tinymrcnn.boxes import box_iou
from tinymrcnn.data import ShapesDataset
from tinymrcnn.experiments import figure_6, pairs, report
from tinymrcnn.experiments.judging import Found, given_masks, metrics_of
from tinymrcnn.experiments.matches import Matches, save_matches
from tinymrcnn.experiments.plan import Plan, Variant, key, pilots_of, run_of, training_of
from tinymrcnn.experiments.runner import Places
from tinymrcnn.experiments.statistics import paired_bootstrap
from tinymrcnn.experiments.training import new_model
from tinymrcnn.models.voting import cut_at_half, masks_over
from tinymrcnn.weights import save_checkpoint

pytest.importorskip("IPython", reason="the lessons need: pip install -e '.[lessons]'")

LESSON = FOLDER / "14_who_owns_this_pixel.ipynb"
PLAN = figure_6.PLAN
ENVIRONMENT = {"code": "abc", "cpu": "made up", "blas_kernels": "Haswell", "numba_threads": 1}
PICTURES = 40


def write(places, run, given):
    """A made-up run: in each picture an object alone, two of one class that overlap by 0.75, and two of two classes.
    given: the mask IoU of the overlapping ones in their true boxes; of all others it is 0.8."""
    index, same = np.repeat(np.arange(PICTURES), 5), np.tile([0, 0.75, 0.75, 0, 0], PICTURES)
    other = np.tile([0, 0, 0, 0.75, 0.75], PICTURES)
    objects = {
        "object_image": index.astype(np.uint16), "object_label": np.ones(len(index), np.uint8),
        "same": same.astype(np.float32), "other": other.astype(np.float32),
        "given": np.where(same > 0, given, 0.8).astype(np.float32),
        "found": np.where(same > 0, 0.25, 0.7).astype(np.float32),
    }  # fmt: skip
    counts = np.zeros((PICTURES, 6), np.uint8)
    counts[:, 1] = 1
    right = np.random.default_rng(run.training.seed).random((PICTURES, 10)) < 0.5
    matches = Matches(np.arange(PICTURES, dtype=np.uint16), np.ones(PICTURES, np.uint8),
                      np.linspace(1, 0.5, PICTURES, dtype=np.float32), right, right, counts)  # fmt: skip
    folder = places.results / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    save_matches(folder / f"{key(run)}.npz", matches, **objects)
    record = {
        "plan": PLAN.hash, "seed": run.training.seed, "settings": dataclasses.asdict(run),
        "metrics": metrics_of(Found(matches, objects)), "parameters": 1234, "operations": 5e9,
        "seconds": {"training": 1, "test": 1, "detecting in a picture": 0.01}, "device": "cpu",
        "environment": ENVIRONMENT, "commit": "abc", "date": "2026-01-01",
    }  # fmt: skip
    (folder / f"{key(run)}.json").write_text(json.dumps(record))


def stored(folder, monkeypatch, seeds):
    """The results of figure-6 with so many seeds, where FCIS falls by 50 points and the others by 20."""
    monkeypatch.setattr(report, "paired_bootstrap", lambda *arguments: paired_bootstrap(*arguments[:4], resamples=10))
    places = Places(folder, folder / "scratch")
    for variant in PLAN.variants:
        given = 0.3 if variant.name.startswith("FCIS") else 0.6
        for run in pilots_of(PLAN, variant):
            write(places, run, given)
        for seed in range(seeds):
            write(places, run_of(PLAN, variant, seed, PLAN.rates[0]), given)
    result = report.results_of(PLAN, places)
    (folder / "figure-6.json").write_text(json.dumps(result))
    return result


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """shown(): what the lesson prints and shows of the results in tmp_path, without the pictures of figure 6."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(FOLDER)

    def say() -> tuple[str, list]:
        cells = cells_of(LESSON, "code")
        names, printed, displayed = {"__name__": "__main__"}, io.StringIO(), []
        for cell in cells[:2]:
            exec(source(cell), names)
        names |= {"RESULTS": tmp_path, "display": displayed.append}
        with contextlib.redirect_stdout(printed):
            for cell in cells:
                if "results" in cell["metadata"].get("tags", []) and "chosen" not in source(cell):
                    exec(source(cell), names)
        return printed.getvalue(), displayed

    with plt.rc_context():
        yield say


def test_without_results(shown):
    said, displayed = shown()
    assert said.count("Not finished yet: no ") == 2 and displayed == []


def test_before_the_learning_rates_are_chosen(shown, tmp_path, monkeypatch):
    places = Places(tmp_path, tmp_path)
    (tmp_path / "figure-6.json").write_text(json.dumps(report.results_of(PLAN, places)))
    said, displayed = shown()
    assert "Not finished yet: 0 of 40 runs are stored" in said and "no run of the plan" in said
    assert len(displayed) == 1  # the table


def test_with_some_seeds(shown, tmp_path, monkeypatch):
    stored(tmp_path, monkeypatch, seeds=2)
    said, displayed = shown()
    assert "Not finished yet: 10 of 40 runs are stored, and verdicts wait for all of them." in said
    assert "2 pairs so far" in displayed[0].data and len(displayed) == 2


def test_with_all_results(shown, tmp_path, monkeypatch):
    result = stored(tmp_path, monkeypatch, seeds=PLAN.seeds)
    said, displayed = shown()
    assert result["finished"] and "Finished: 40 runs." in said and "Not finished" not in said
    assert "| reproduced |" in displayed[0].data and len(displayed) == 2
    tables = said.split("mean mask IoU, ")[1:]
    assert [table.split(",")[0] for table in tables] == ["given", "given", "found", "found"]
    lines = [{line[:24].strip(): line[24:].split() for line in table.splitlines()[1:] if line} for table in tables]
    assert lines[0][""] == ["0-0.3", "0.3-0.5", "0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-1"]
    nothing = ["nan"] * 3
    assert lines[0]["FCIS"] == ["0.800", *nothing, "0.300", "nan"]
    assert lines[0]["MNC"] == ["0.800", *nothing, "0.600", "nan"]
    assert lines[1]["FCIS"] == ["0.800", *nothing, "0.800", "nan"]  # overlap with another class
    assert lines[2]["FCIS"] == ["0.700", *nothing, "0.250", "nan"]


# The chosen pairs ------------------------------------------------------------------------------------------


def test_pairs_are_chosen_by_their_overlap():
    dataset = ShapesDataset(30, seed=1, crowded=True)
    every = []
    for index in range(30):
        target = dataset[index][1]
        for i, j in combinations(range(len(target["labels"])), 2):
            overlap = box_iou(target["boxes"][[i]], target["boxes"][[j]]).item()
            if target["labels"][i] == target["labels"][j] and overlap >= 0.1:
                every.append(overlap)
    every.sort(reverse=True)
    found = pairs.chosen(pairs.every(dataset), count=4)
    middle = len(every) // 2 - 2
    np.testing.assert_allclose([one.pair.overlap for one in found], every[:4] + every[middle : middle + 4], rtol=1e-6)
    for one in found:
        target = dataset[one.picture][1]
        assert np.ptp(target["labels"][one.rows]) == 0
        np.testing.assert_array_equal(one.pair.boxes, target["boxes"][one.rows])
        np.testing.assert_array_equal(one.pair.masks, target["masks"][one.rows] > 0)


def test_the_masks_of_the_chosen_pairs_are_kept(tmp_path):
    variants = (Variant("one", "shapes_fcis"), Variant("two", "shapes_fcis", test={"fcis.voting": False}))
    plan = Plan("pictures", "", "", variants, (), tests="crowded", test_images=3)
    places = Places(tmp_path / "results", tmp_path / "scratch")
    places.results.mkdir()
    assert pairs.load(places.results / pairs.FILE) is None
    with pytest.raises(FileNotFoundError, match="no result of 'pictures' yet: run `tinymrcnn reproduce"):
        pairs.keep(plan, places)
    (places.results / "pictures.json").write_text(json.dumps({"rates": {"one": 1e-3, "two": 1e-3}}))
    with pytest.raises(FileNotFoundError, match="The trained model of 'one' is not there"):
        pairs.keep(plan, places)
    training = training_of(plan, variants[0], pairs.SEED, 1e-3, plan.steps)
    model = new_model(training, "cpu")
    (places.scratch / "models").mkdir(parents=True)
    save_checkpoint(places.scratch / "models" / f"{key(training)}.npz", model, 1)
    kept = pairs.load(pairs.keep(plan, places))
    dataset = ShapesDataset(3, seed=1, crowded=True)
    every = pairs.every(dataset)
    found = pairs.chosen(every)
    assert list(kept.masks) == ["one"] and kept.masks["one"].shape == (len(found), 2, 128, 128)
    given = [given_masks(model.eval(), *dataset[picture]) for picture in range(3)]
    for masks, one in zip(kept.masks["one"], found, strict=True):
        np.testing.assert_array_equal(masks, given[one.picture][one.rows])
    np.testing.assert_allclose(kept.overlap, [one.pair.overlap for one in every])
    expected = [pairs.alike(given[one.picture][one.rows], one.pair.boxes) for one in every]
    np.testing.assert_allclose(kept.alike["one"], expected, rtol=1e-6)


def test_how_alike_two_masks_are():
    """Their IoU within both boxes, x from 4 to 8 and y from 2 to 6 here."""
    boxes = np.float32([[0, 0, 8, 6], [4, 2, 12, 10]])
    masks = np.zeros((2, 10, 12), bool)
    assert pairs.alike(masks, boxes) == 0
    masks[0, :6, :8] = True
    masks[1, 2:, 6:] = True  # half of what both boxes hold
    assert pairs.alike(masks, boxes) == 0.5
    masks[0, :, 6:] = False
    assert pairs.alike(masks, boxes) == 0  # side by side
    assert pairs.alike(masks[[0, 0]], boxes) == 1
    assert all(pairs.alike(one.pair.masks, one.pair.boxes) == 0 for one in pairs.every(ShapesDataset(5, crowded=True)))


def test_the_steps_of_masks_by_hand():
    masks = np.zeros((2, 3, 3))
    masks[0] = [[0, 0.5, 1], [0, 1, 1], [0, 0, 0]]
    # columns 0-1: 0.5, 1, 0; rows 0-1: 0, 0.5, 0. Columns 1-2: 0.5, 0, 0; rows 1-2: 0, 1, 1
    np.testing.assert_allclose(pairs.steps_of(masks), [[2 / 6, 2.5 / 6], [0, 0]])
    assert pairs.steps_of(np.zeros((0, 4, 4))).shape == (0, 3)


def test_the_edge_index_compares_the_ends_of_the_parts_with_all_other_places():
    steps = np.ones(20)
    assert pairs.edge_index(steps) == 1
    steps[[2, 5, 8, 11, 14, 17]] = 3.0  # between the cells 2 and 3, 5 and 6, ...: 7 parts of 3 cells
    steps[0] = 15.0  # the other 14 places have a mean of 2
    assert pairs.edge_index(steps) == 1.5 and pairs.edge_index(steps, k=3) == pytest.approx(18 / 44)


def test_who_is_crowded():
    """As the trained comparison has it: an object with another of its class, by the IoU of their boxes."""
    dataset = ShapesDataset(6, seed=1, crowded=True)
    free, crowded = [], []
    for index in range(6):
        target = dataset[index][1]
        for i, label in enumerate(target["labels"]):
            others = [j for j in np.flatnonzero(target["labels"] == label) if j != i]
            largest = max([box_iou(target["boxes"][[i]], target["boxes"][[j]]).item() for j in others], default=0)
            free.append(largest < 0.4)
            crowded.append(largest >= 0.6)
    found = pairs.crowding(dataset)
    np.testing.assert_array_equal(found[0], free)
    np.testing.assert_array_equal(found[1], crowded)
    assert any(free) and any(crowded)


@pytest.mark.parametrize("preset", ["shapes_fcis", "shapes_mnc", "shapes"])
def test_the_cells_are_those_of_which_masks_are_made(preset):
    model = tinymrcnn.build_model(preset, seed=0).eval()
    image, target = ShapesDataset(1, seed=1, crowded=True)[0]
    cells = pairs.cells_of(model, image, target)
    with no_grad():
        batch = model.transform([image], [target])
        features, boxes = model.features(batch), batch.gt_boxes[0]
        (masks,) = model.mask_detections(features, [{"boxes": boxes, "labels": target["labels"]}])
        rois = boxes
        if preset == "shapes_fcis":
            (rois,) = model.read(model.score_maps(features), [boxes]).rois
    if preset != "shapes":
        settings = model.config.fcis if preset == "shapes_fcis" else model.config.mnc
        cells = cut_at_half(masks_over(boxes, cells, rois), settings.mask_threshold)
    np.testing.assert_array_equal(masks, cells)
