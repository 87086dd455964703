"""Lesson 13 shows stored results, whatever of them is there: nothing, a part, or all. Here its cells with the tag
`stored`, which train nothing, read made-up runs in place of the real ones."""

import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tinymrcnn.experiments import report
from tinymrcnn.experiments.judging import Found, metrics_of
from tinymrcnn.experiments.matches import Matches, save_matches
from tinymrcnn.experiments.plan import key, pilots_of, run_of
from tinymrcnn.experiments.registry import PLANS
from tinymrcnn.experiments.runner import Places

pytest.importorskip("IPython", reason="the lessons need: pip install -e '.[lessons]'")

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
TABLES = ("table-2a", "table-2b", "table-2c", "table-2d", "table-2e")
IMAGES = 20
# What share of its detections each arm has right: far apart, just a little, or in the other direction
SHARES = {"RoIAlign": 0.9, "RoIPool": 0.3, "softmax": 0.9, "sigmoid": 0.3, "MLP": 0.6, "FCN": 0.6}


def matches(rng, share: float) -> Matches:
    """20 pictures with two objects and two detections each. The right ones are right up to a threshold of their own."""
    right = rng.random((2 * IMAGES, 1)) < share
    upto = rng.integers(1, 11, (2 * IMAGES, 1))
    objects = np.zeros((IMAGES, 6), np.uint8)
    objects[:, 1] = 2
    image = np.repeat(np.arange(IMAGES, dtype=np.uint16), 2)
    ten = right & (np.arange(10) < upto)
    score = rng.random(2 * IMAGES).astype(np.float32)
    return Matches(image, np.ones(2 * IMAGES, np.uint8), score, ten, ten, objects)


def write(folder: Path, plan, seeds: int) -> None:
    """The pilots of a plan, and its runs of the first seeds; those that another table has written stay."""
    environment = {"code": "abc", "cpu": "made up", "blas_kernels": "Haswell", "numba_threads": 1}
    runs = [(run, 0.5) for variant in plan.variants for run in pilots_of(plan, variant)]
    for variant in plan.variants:
        share = SHARES.get(variant.name, 0.7)
        runs += [(run_of(plan, variant, seed, plan.rates[0]), share) for seed in range(seeds)]
    for run, share in runs:
        if (path := folder / f"{key(run)}.json").exists():
            continue
        rng = np.random.default_rng(int(key(run)[:8], 16))
        found = matches(np.random.default_rng(0) if run.training.seed == 100 else rng, share)
        save_matches(path.with_suffix(".npz"), found)
        metrics = metrics_of(Found(found, {}))
        record = {
            "plan": plan.hash, "seed": run.training.seed, "metrics": metrics,
            "device": "cpu", "environment": environment,
        }  # fmt: skip
        path.write_text(json.dumps(record))


@pytest.fixture
def read(tmp_path, monkeypatch, capsys):
    """read(bets): the names that the cells leave, and what they print; they read the runs in the folder read.folder."""
    (tmp_path / "lessons").mkdir()
    monkeypatch.chdir(tmp_path / "lessons")
    monkeypatch.syspath_prepend(LESSONS)
    cells = json.loads((LESSONS / "13_the_article_on_trial.ipynb").read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if "stored" in cell["metadata"].get("tags", [])]
    assert sum("RESAMPLES = 200" in code for code in codes) == 1

    def run(bets):
        names: dict = {}
        with plt.rc_context({"figure.max_open_warning": 0}):
            for code in codes:
                exec(code.replace("RESAMPLES = 200", "RESAMPLES = 20").replace("resamples=100", "resamples=5"), names)
                if "bets = {" in code:
                    assert bets.keys() <= names["bets"].keys()
                    names["bets"].update(bets)
            figures = [plt.figure(number) for number in plt.get_fignums()]
            for figure in figures:
                figure.canvas.draw()
            plt.close("all")
        assert len(figures) == 3
        return names, capsys.readouterr().out

    run.folder = tmp_path / "data" / "results" / "reproduce" / "runs"
    run.folder.mkdir(parents=True)
    return run


def test_nothing_is_finished(read):
    names, said = read({})
    assert said.count("0 of 8 seeds: not finished yet") == 4 + 1 and said.count("0 of 6 seeds: not finished yet") == 6
    assert said.count("not finished yet: 0 of 8 seeds") == 4 + 1
    assert "0 of 10 bets are placed" in said and "no bets" in said and "nothing to score yet" in said
    assert names["curve"] is None and not any("final" in row for row in names["rows"].values())


def test_a_part_is_finished(read):
    write(read.folder, PLANS["table-2d"], 3)
    write(read.folder, PLANS["table-2e"], 1)
    names, said = read({"2d  RoIAlign - RoIPool": (1, 90)})
    assert said.count("3 of 8 seeds: not finished yet") == 2 + 1 and "1 of 6 seeds: not finished yet" in said
    row = names["rows"]["2d  RoIAlign - RoIPool"]
    assert row["said"] == "not finished yet: 3 of 8 seeds" and "final" not in row
    assert row["interval"][0] < row["d"].mean() < row["interval"][1] and row["p"] == 0.25
    assert "interval" not in names["rows"]["2e  FCN - MLP"] and len(names["rows"]["2e  FCN - MLP"]["d"]) == 1
    assert names["curve"].shape == (3, 10) and names["bands"].shape == (10, 2)
    np.testing.assert_allclose(names["curve"].mean(1), row["d"])  # AP is the mean over the thresholds
    assert "8 runs, computed anew: 16 of 16 equal to what was stored" in said
    assert "1 of 10 bets are placed" in said and said.count("nothing to score yet") == 3


def test_all_is_finished(read):
    for table in TABLES:
        write(read.folder, PLANS[table], PLANS[table].seeds)
    bets = {"2d  RoIAlign - RoIPool": (90, 1), "2b  sigmoid - softmax": [1, 3], "2e  FCN - MLP": (-60, 60)}
    names, said = read(bets)
    rows = names["rows"]
    assert rows["2d  RoIAlign - RoIPool"]["said"] == rows["2d  the same, box AP"]["said"] == "reproduced"
    assert rows["2b  sigmoid - softmax"]["said"] == "reversed" and rows["2e  FCN - MLP"]["said"] == "not resolved"
    assert "not finished" not in said
    # the same differences, p and verdicts as in the report
    places = Places(read.folder.parent, read.folder)
    for name, (table, first, second, metric) in names["MEANT"].items():
        plan, comparison = names["declared"](name)
        assert (comparison.first, comparison.second, comparison.metric) == (first, second, metric)
        if table in ("table-2d", "table-2b"):
            seeds = [report.runs_of(plan, seed, places) for seed in range(plan.seeds)]
            found = [{arm: report.load(run, places) for arm, run in runs.items()} for runs in seeds]
            expected = report.compare(dataclasses.replace(plan, resamples=60), comparison, found)
            np.testing.assert_allclose(rows[name]["d"], expected["differences"])
            assert rows[name]["p"] == expected["p"] and rows[name]["said"] == expected["verdict"]
    # (1, 90) holds its result; (1, 3) misses a negative one, sign and all
    difference = rows["2b  sigmoid - softmax"]["final"]
    score = (89 + 120 + 2 + 10 * (1 - difference)) / 3
    assert difference < 0 and "2 of 3 results in the range (8 of 10 is honest)" in said
    assert f"mean score {score:.1f}" in said and "who knows nothing" in said
    assert said.count("8 of 8 seeds, finished") == 4 + 1


def test_known_mistakes_are_named_and_hints_come_in_steps(monkeypatch, capsys):
    monkeypatch.chdir(LESSONS)
    monkeypatch.syspath_prepend(LESSONS)
    cells = json.loads((LESSONS / "13_the_article_on_trial.ipynb").read_text())["cells"]
    code = {tag: "".join(c["source"]) for c in cells for tag in c["metadata"].get("tags", [])}
    names: dict = {}
    with plt.rc_context():
        exec("".join(next(c for c in cells if c["cell_type"] == "code")["source"]), names)
    names["checking"]._tries.clear()

    def said(number, answer):
        exec(code[f"exercise-{number}"], names)
        names.update(answer)
        exec(code[f"check-{number}"], names)
        return capsys.readouterr().out

    broken = next("".join(c["source"]) for c in cells if "".join(c["source"]).startswith("def trusting_interval"))
    exec(broken, names)
    first = said(4, {"repaired_interval": names["trusting_interval"]})
    assert "It looks as if pictures are still drawn anew for each seed. Hint 1 of 3" in first
    assert "Hint 2 of 3" in said(4, {"repaired_interval": lambda a, b, seed: np.zeros(2)})
    assert "the power is missing" in said(
        2, {"pictures_needed": lambda error, pictures, effect: int(np.ceil(pictures * (1.96 * error / effect) ** 2))}
    )
    assert "differ in 2 things (pooler.reduce, preset)" in said(5, {
        "my_plan": names["Plan"](
            "mine", "two things", "A claim.",
            (names["Variant"]("a", "shapes", {"pooler.reduce": "max"}), names["Variant"]("b", "shapes_c4")),
            (names["Comparison"]("a", "b"),),
        )
    })  # fmt: skip
