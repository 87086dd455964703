"""What is said of finished runs, and the command that says it."""

import dataclasses
import json

import numpy as np
import pytest

from tinymrcnn.commands import reproduce as command
from tinymrcnn.experiments import figure_4, report
from tinymrcnn.experiments.judging import Found, metrics_of
from tinymrcnn.experiments.matches import Matches, save_matches
from tinymrcnn.experiments.plan import Comparison, Plan, Variant, key, pilots_of, run_of
from tinymrcnn.experiments.runner import Places

PLAN = Plan(
    name="made-up",
    title="One against the other",
    claim="One is better.",
    variants=(Variant("one", "shapes", article={"segm/AP": 33.0}), Variant("other", "shapes_c5")),
    comparisons=(Comparison("one", "other", article=2.5, primary=True), Comparison("other", "one", "bbox/AP")),
    seeds=8,
    test_images=40,
    rates=(1e-3, 2e-3),
    resamples=60,
)
ENVIRONMENT = {"code": "abc", "cpu": "made up", "blas_kernels": "Haswell", "numba_threads": 1}


def made_up(rng, share: float) -> Matches:
    """40 pictures with one object and one detection each, of which about a share is right."""
    right = rng.random((40, 1)) < share
    objects = np.zeros((40, 6), np.uint8)
    objects[:, 1] = 1
    index, label = np.arange(40, dtype=np.uint16), np.ones(40, np.uint8)
    score = rng.random(40).astype(np.float32)
    return Matches(index, label, score, np.tile(right, 10), np.tile(right, 10), objects)


def write(places, run, matches, changed=None):
    folder = places.results / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    save_matches(folder / f"{key(run)}.npz", matches)
    metrics = metrics_of(Found(matches, {}))
    record = {
        "plan": PLAN.hash, "seed": run.training.seed, "settings": dataclasses.asdict(run), "metrics": metrics,
        "parameters": 1234, "operations": 5e9, "seconds": {"training": 1, "test": 1, "detecting in a picture": 0.01},
        "device": "cpu", "environment": {**ENVIRONMENT, **(changed or {})}, "commit": "abc", "date": "2026-01-01",
    }  # fmt: skip
    (folder / f"{key(run)}.json").write_text(json.dumps(record))


@pytest.fixture
def places(tmp_path):
    """All runs of the plan; "one" is right about 80 % of its detections, "other" about 40 %."""
    places, rng = Places(tmp_path / "results", tmp_path / "scratch"), np.random.default_rng(0)
    for variant, share in zip(PLAN.variants, (0.8, 0.4), strict=True):
        for run in pilots_of(PLAN, variant):
            write(places, run, made_up(rng, 0.9 if run.training.rate == 2e-3 else 0.1))
        for seed in range(PLAN.seeds):
            write(places, run_of(PLAN, variant, seed, 2e-3), made_up(rng, share))
    return places


def test_a_finished_plan(places):
    result = report.results_of(PLAN, places)
    assert result["plan"] == PLAN.hash and result["finished"] and result["rates"] == {"one": 2e-3, "other": 2e-3}
    assert len(result["runs"]) == 16 and {run["variant"] for run in result["runs"]} == {"one", "other"}
    assert all(isinstance(run["seed"], int) and (places.results / run["matches"]).exists() for run in result["runs"])
    first, second = result["comparisons"]
    assert first["verdict"] == "reproduced" and second["verdict"] == "reversed"
    assert first["wins"] == 8 and first["losses"] == 0 and second["losses"] == 8
    assert first["p"] == pytest.approx(2 / 256) and first["p_adjusted"] == pytest.approx(6 / 256)
    assert second["p_adjusted"] is None
    values = [
        [100 * run["metrics"]["segm/AP"] for run in result["runs"] if run["variant"] == name]
        for name in ("one", "other")
    ]
    np.testing.assert_allclose(first["differences"], np.subtract(*values), atol=1e-9)
    mean, (low, high) = np.mean(first["differences"]), first["interval"]
    assert low < mean < high and first["difference"] == pytest.approx(mean)
    json.dumps(result)


def test_without_all_seeds_there_is_no_verdict(places):
    (places.results / "runs" / f"{key(run_of(PLAN, PLAN.variants[1], 3, 2e-3))}.json").unlink()
    result = report.results_of(PLAN, places)
    assert not result["finished"] and len(result["runs"]) == 15
    assert [row["pairs"] for row in result["comparisons"]] == [7, 7]
    assert [row["verdict"] for row in result["comparisons"]] == [None, None]
    assert "7 pairs so far" in report.table(result) and "Not finished" in report.table(result)


def test_runs_of_two_machines_are_no_pair(places):
    write(places, run_of(PLAN, PLAN.variants[1], 3, 2e-3), made_up(np.random.default_rng(1), 0.4), {"cpu": "another"})
    assert [row["pairs"] for row in report.results_of(PLAN, places)["comparisons"]] == [7, 7]


def test_before_the_learning_rates_are_chosen_there_is_nothing(places):
    (places.results / "runs" / f"{key(pilots_of(PLAN, PLAN.variants[0])[0])}.json").unlink()
    result = report.results_of(PLAN, places)
    assert result["runs"] == result["comparisons"] == [] and len(result["pilots"]["other"]) == 2
    report.table(result), report.draw(result)


def test_holm_waits_for_all_primary_comparisons(places):
    result = report.results_of(PLAN, places)
    assert report.corrected([result, result]) == [result, result]
    weak = {**result["comparisons"][0], "name": "weak", "p": 0.03, "interval": [1, 5], "difference": 3.0}
    third = {**weak, "name": "third", "p": 0.04}
    others = [{**result, "comparisons": [row]} for row in (weak, third)]
    adjusted = [row["comparisons"][0] for row in report.corrected([result, *others])]
    assert [row["p_adjusted"] for row in adjusted] == pytest.approx([6 / 256, 0.06, 0.06])
    assert [row["verdict"] for row in adjusted] == ["reproduced", "not resolved", "not resolved"]
    assert report.corrected([result, *others])[0]["comparisons"][1] == result["comparisons"][1]


def test_the_table(places):
    lines = report.table(report.results_of(PLAN, places)).splitlines()
    assert lines[0] == "### made-up: One against the other" and lines[2] == "One is better."
    assert lines[4] == "Trained: 400 steps of the heads, on a stored trunk of 600 steps; pictures: ordinary. " + (
        "Tested on 40 pictures: ordinary."
    )
    assert lines[6].startswith(
        "| variant | seeds | learning rate | parameters | GFLOP | ms a picture | mask AP | box AP |"
    )
    assert lines[8].startswith("| one | 8 | 0.002, an end | 1,234 | 5.00 | 10 | ") and " (33) |" in lines[8]
    row = lines[-2].split(" | ")
    assert row[0] == "| one - other, mask AP" and row[3] == "+2.5" and row[4] == "8, 0"
    assert row[5] == "0.008, adjusted 0.023" and row[-1] == "reproduced |"


def test_what_a_verdict_that_is_not_resolved_says(places):
    """Too few seeds are one thing, an effect that is too small another, which more seeds would not change."""
    row = report.results_of(PLAN, places)["comparisons"][1]
    unsure = {**row, "interval": [-1.0, 2.0], "difference": 0.5, "differences": [1.0, 0.0] * 4}
    small = {**row, "interval": [0.2, 0.8], "difference": 0.5, "smallest": 0.6}
    said = [report.decided({**each, "p": p}, p, True) for each, p in ((unsure, 0.2), (small, 0.01), (small, 0.06))]
    assert [each["verdict"] for each in said] == ["not resolved"] * 3
    # 8 seeds with a mean of 0.5 and a standard deviation of sqrt(2 / 7): 2.8016^2 * (8 / 7) + 1.92
    assert said[0]["seeds_needed"] == 11 and said[1]["seeds_needed"] is None and said[2]["seeds_needed"] is not None
    assert report._compared(said[0])[-1] == "not resolved (11 seeds would)"
    assert report._compared(said[1])[-1] == "not resolved (an effect below 0.6, the smallest of interest)"
    never = report.decided({**unsure, "differences": [1.0, -1.0] * 4}, 1.0, True)
    assert report._compared(never)[-1] == "not resolved (more than 1,000 seeds would)"


def test_the_picture_shows_every_pair(places):
    figure = report.draw(report.results_of(PLAN, places))
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [8, 8]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [2.5]
    assert [label.get_text().splitlines()[-1] for label in axes.get_yticklabels()] == ["reproduced", "reversed"]


def test_masks_by_overlap():
    """Two seeds of one variant; each object in the column of its overlap, with the class that it overlaps more."""
    columns = {"same": [0.1, 0.65, 0.3, 0.0], "other": [0.0, 0.2, 0.45, 0.0]}
    first = {**columns, "given": [0.9, 0.6, 0.7, 1.0], "found": [0.8, 0.0, 0.5, 1.0]}
    second = {**columns, "given": [0.7, 0.4, 0.5, 0.8], "found": [0.6, 0.2, 0.5, 1.0]}
    found = [
        type("Result", (), {"found": type("Found", (), {"objects": {k: np.array(v) for k, v in table.items()}})})
        for table in (first, second)
    ]
    plan = dataclasses.replace(PLAN, variants=PLAN.variants[:1], comparisons=())
    same, other = report.overlaps_of(plan, [{"one": result} for result in found])
    assert same["which"] == "same" and [count for _, count in same["given"]] == [2, 0, 0, 0, 1, 0, 0]
    assert same["given"][0][0] == pytest.approx((0.9 + 1.0 + 0.7 + 0.8) / 4) and same["given"][4][0] == pytest.approx(
        0.5
    )
    assert same["found"][4][0] == pytest.approx(0.1) and same["given"][1][0] is None
    assert [count for _, count in other["given"]] == [1, 0, 1, 0, 0, 0, 0]
    lines = report._overlaps([same, other])
    assert lines[0].startswith("| variant | mask IoU | overlap with one of | 0 to 0.2 | 0.2 to 0.4 | ")
    assert lines[2] == "| one | in the true box | same class | 85.0 (2) |  |  |  | 50.0 (1) |  |  |"


# The command ----------------------------------------------------------------------------------------------


def test_list_and_full_size(capsys):
    assert command.reproduce("list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(command.NAMES) and {"table-2a", "table-3", "figure-4", "figure-6", "coco"} <= set(names)
    assert command.reproduce("coco") == 0
    assert "Not run here" in capsys.readouterr().out


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="There is no experiment 'table-9'. There are: table-2d, "):
        command.reproduce("table-9")
    with pytest.raises(ValueError, match="`plan` alone takes the name"):
        command.reproduce("all", "table-2d")
    with pytest.raises(ValueError, match="--processes must be 1 at least"):
        command.reproduce("table-2d", processes=0)


def test_the_page_and_the_files(tmp_path, monkeypatch, capsys, places):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "PLANS", {"made-up": PLAN})
    assert command.reproduce("figure-4", quick=True, out=places.results) == 0
    assert command.reproduce("report", out=places.results) == 0
    assert "shows 2 of" in capsys.readouterr().out
    page = (places.results / "report.md").read_text()
    assert "### made-up: One against the other" in page and "![made-up](made-up.png)" in page
    assert "### figure-4: " in page and "![figure-4](figure-4.png)" in page
    assert json.loads((places.results / "made-up.json").read_text())["comparisons"][0]["verdict"] == "reproduced"
    for name in ("made-up", "figure-4"):
        assert (places.results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_figure_4_counts_what_the_layers_say():
    """The MLP of shapes by hand: 64 channels of 7 x 7 to 128 to 128, to 6 classes and 24 coordinates."""
    row = figure_4.measure("shapes", seconds=1e-3)
    sizes = [(64 * 49, 128), (128, 128), (128, 6), (128, 24)]
    assert row["box parameters"] == sum((a + 1) * b for a, b in sizes)
    assert row["box Mmul-add"] == pytest.approx(sum(a * b for a, b in sizes) / 1e6)
    # four 3x3 convolutions on 14 x 14 cells, a transposed one, and a 1x1 on 28 x 28
    expected = 196 * (4 * 9 * 64 * 64 + 4 * 64 * 64) + 784 * 64 * 6
    assert row["mask Mmul-add"] == pytest.approx(expected / 1e6)


def test_pictures_are_kept_once(tmp_path, monkeypatch):
    """Where they are there, nobody asks for the trained models, which may be gone."""
    calls = []
    monkeypatch.setattr(command, "run_plan", lambda *arguments: None)
    monkeypatch.setattr(command.report, "results_of", lambda *arguments: {"finished": True})
    monkeypatch.setattr(command, "_save", lambda *arguments: "")
    for name in ("table", "draw"):
        monkeypatch.setattr(command.report, name, lambda result: None)
    monkeypatch.setattr(command.pairs, "keep", lambda plan, places: calls.append(plan.name))
    for name in ("table-2d", "figure-6", "figure-6"):
        command.reproduce(name, device="cpu", out=tmp_path)
        if calls:
            (tmp_path / command.pairs.FILE).touch()
    assert calls == ["figure-6"]
