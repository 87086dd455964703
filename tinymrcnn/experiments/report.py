"""What came out: of every plan a file with its runs and comparisons, a table and a picture, and one page of all."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tinymrcnn.draw.figures import ROLE_COLORS
from tinymrcnn.experiments.judging import Found, metric
from tinymrcnn.experiments.matches import load_extra, load_matches
from tinymrcnn.experiments.plan import Comparison, Plan, Run, key, pilots_of
from tinymrcnn.experiments.runner import Places, alike, chosen_rate, read_json, runs_of, stored
from tinymrcnn.experiments.statistics import (
    LEVEL,
    MAX_SEEDS,
    holm,
    noise_floor,
    paired_bootstrap,
    seeds_needed,
    sign_flip_p,
    verdict,
)
from tinymrcnn.files import replacing

POINTS = 100  # metrics are shown in points
OVERLAPS = ((0, 0.2), (0.2, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 1.0))
PRIMARY = 3  # comparisons, over which Holm's correction goes
INTRODUCTION = """# The article on trial

Made by `tinymrcnn reproduce report` from the runs that are stored here; the plans, in
[tinymrcnn/experiments](../../../tinymrcnn/experiments), were written before the runs. All on toy shapes, with models of
about a million parameters: the article's numbers, in brackets, are those of COCO, and only directions can be compared.

Differences are in points, over paired seeds: both runs of a pair see the same pictures in the same order. The intervals
(95 %) are those of a bootstrap over seeds and pictures. p is that of an exact sign-flip test, adjusted (Holm) for the
three primary comparisons and unadjusted for all others, which are secondary. "A/A" is the noise floor: how far apart
two halves of the seeds of the second variant lie. A difference is *reproduced*, or *reversed*, where interval and p
exclude 0 and it is as large as the plan's smallest effect of interest; else it is *not resolved*.

Training is from weights at random, on batches of 8 pictures. Where a table says "on a stored trunk", the backbone and
the RPN were trained first, once for each seed, and the variants' heads, which may change the backbone too, start from
there on its proposals; the article's ablations, too, use an RPN that was trained separately. Each variant's learning
rate is the best of three on one pilot seed and on validation pictures; where it is marked as an end of the three, a
rate beyond might have been better still. (The first pilots tried rates half as large. The largest was best, so the
three were doubled, before any of the runs below.) GFLOP are those of a test picture in convolutions and products of
matrices, with masks of the detections only: the reading of RoIs and score maps, non-maximum suppression and mask
voting are in the times only.
"""


class Result:
    """A finished run as the statistics read it: its record, and its metrics in points."""

    def __init__(self, record: dict[str, Any], path: Path):
        self.record, self.found = record, Found(load_matches(path), load_extra(path))
        self.images = len(self.found.matches.objects)
        self._metrics: dict[str, Callable] = {}

    def value(self, name: str, weights: np.ndarray | None = None) -> float:
        if name not in self._metrics:
            self._metrics[name] = metric(self.found, name)
        return POINTS * self._metrics[name](np.ones(self.images, np.int64) if weights is None else weights)


def load(run: Run, places: Places) -> Result | None:
    """A run out of the results; None where it is not finished."""
    record = stored(run, places)
    return Result(record, places.results / "runs" / f"{key(run)}.npz") if record else None


def results_of(plan: Plan, places: Places) -> dict[str, Any]:
    """All that is known of a plan so far, as its JSON file holds it."""
    pilots = {variant.name: [stored(run, places) for run in pilots_of(plan, variant)] for variant in plan.variants}
    head = {
        "name": plan.name,
        "plan": plan.hash,
        "finished": False,
        "declared": dataclasses.asdict(plan),
        "pilots": {
            name: [
                {"rate": rate, "metrics": record["metrics"], "file": f"runs/{key(run)}.json"}
                for rate, run, record in zip(plan.rates, pilots_of(plan, plan.variant(name)), records, strict=True)
                if record
            ]
            for name, records in pilots.items()
        },
    }
    if not all(record for records in pilots.values() for record in records):
        return {**head, "runs": [], "comparisons": []}
    rates = {variant.name: chosen_rate(plan, variant, places) for variant in plan.variants}
    seeds = [runs_of(plan, seed, places) for seed in range(plan.seeds)]
    found = [{name: load(run, places) for name, run in runs.items()} for runs in seeds]
    rows = [
        {"variant": name, **result.record, "matches": f"runs/{key(runs[name])}.npz"}
        for runs, results in zip(seeds, found, strict=True)
        for name, result in results.items()
        if result
    ]
    comparisons = [compare(plan, comparison, found) for comparison in plan.comparisons]
    overlaps = overlaps_of(plan, found)
    finished = all(comparison["pairs"] == plan.seeds for comparison in comparisons)
    more = {"overlaps": overlaps} if overlaps else {}
    return {**head, "finished": finished, "rates": rates, "runs": rows, "comparisons": comparisons, **more}


def compare(plan: Plan, comparison: Comparison, found: list[dict[str, Result | None]]) -> dict[str, Any]:
    """A comparison over the seeds of which both runs are there, in points. The verdict is None until all are.

    The p of a primary comparison is multiplied by their number; once all of them are there, see corrected."""
    arms = [(results[comparison.first], results[comparison.second]) for results in found]
    pairs = [(a, b) for a, b in arms if a and b and alike(a.record, b.record)]
    row: dict[str, Any] = {**dataclasses.asdict(comparison), "name": comparison.name, "pairs": len(pairs)}
    if len(pairs) < 2:
        return {**row, "verdict": None}
    first, second = ([pair[arm] for pair in pairs] for arm in (0, 1))
    values = [[result.value(comparison.metric) for result in arm] for arm in (first, second)]
    differences = (np.array(values[0]) - values[1]).tolist()
    interval = paired_bootstrap(
        lambda result, weights: result.value(comparison.metric, weights), first, second, first[0].images, plan.resamples
    )
    p = sign_flip_p(differences)
    row |= {
        "values": {comparison.first: values[0], comparison.second: values[1]},
        "differences": differences,
        "difference": float(np.mean(differences)),
        "interval": list(interval),
        "p": p,
        "wins": sum(difference > 0 for difference in differences),
        "losses": sum(difference < 0 for difference in differences),
        "noise_floor": noise_floor(values[1]),
    }
    return decided(row, min(1.0, PRIMARY * p) if comparison.primary else p, len(pairs) == plan.seeds)


def decided(row: dict[str, Any], p: float, finished: bool) -> dict[str, Any]:
    """The row of a comparison with its verdict, by a p that may be adjusted."""
    said = verdict(row["difference"], tuple(row["interval"]), p, 1, row["smallest"]) if finished else None
    row = {**row, "p_adjusted": p if row["primary"] else None, "verdict": said}
    open_still = said == "not resolved" and not too_small(row)
    return {**row, "seeds_needed": seeds_needed(row["differences"]) if open_still else None}


def too_small(row: dict[str, Any]) -> bool:
    """Whether interval and p show that there is an effect. If a comparison is not resolved nevertheless, the effect is
    smaller than the smallest of interest, and more seeds would not make it larger."""
    p = row["p"] if row["p_adjusted"] is None else row["p_adjusted"]
    low, high = row["interval"]
    return bool((low > 0 or high < 0) and p < LEVEL)


def corrected(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results with Holm's correction over the primary comparisons, if all of these are finished."""
    rows = [row for result in results for row in result["comparisons"] if row["primary"]]
    if len(rows) < PRIMARY or not all(row["verdict"] for row in rows):
        return results
    adjusted = holm({row["name"]: row["p"] for row in rows})

    def again(row: dict[str, Any]) -> dict[str, Any]:
        return decided(row, adjusted[row["name"]], True) if row["primary"] else row

    return [{**result, "comparisons": [again(row) for row in result["comparisons"]]} for result in results]


def save(result: dict[str, Any], figure: Figure, folder: Path) -> None:
    """Write a result as NAME.json, and its picture as NAME.png."""
    name, indent = result["name"], 1 if "runs" in result else None
    with replacing(folder / f"{name}.json") as file:
        file.write((json.dumps(result, indent=indent) + "\n").encode())
    with replacing(folder / f"{name}.png") as file:
        figure.savefig(file, dpi=100, format="png")


def overlaps_of(plan: Plan, found: list[dict[str, Result | None]]) -> list[dict[str, Any]]:
    """Of every variant, how good masks are by the overlap of an object's box with that of another one of its class, or
    of another class: the mean IoU, over all objects of all seeds, and how many objects of one seed there are."""
    rows = []
    for variant in plan.variants:
        results = [each[variant.name] for each in found]
        tables = [result.found.objects for result in results if result and result.found.objects]
        for which, rival in (("same", "other"), ("other", "same")) if tables else ():
            columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
            row: dict[str, Any] = {"variant": variant.name, "which": which, "bins": OVERLAPS, "given": [], "found": []}
            for low, high in OVERLAPS:
                # an object belongs to the class with which it overlaps more
                mine = (columns[which] >= low) & (columns[which] < high) & (columns[which] >= columns[rival])
                for name in ("given", "found"):
                    mean = float(columns[name][mine].mean()) if mine.any() else None
                    row[name].append([mean, int(mine.sum()) // len(tables)])
            rows.append(row)
    return rows


# Tables ----------------------------------------------------------------------------------------------------

NAMES = {"segm/AP": "mask AP", "segm/AP50": "mask AP50", "segm/AP75": "mask AP75", "bbox/AP": "box AP"}
NAMES |= {"bbox/AP50": "box AP50", "bbox/AP75": "box AP75", "fall": "fall of the mask IoU"}


def table(result: dict[str, Any]) -> str:
    """A result as Markdown: what the variants reach, and what comes out of the comparisons."""
    declared = result["declared"]
    lines = [f"### {result['name']}: {declared['title']}", "", declared["claim"], "", _trained(declared), ""]
    if not result["finished"]:
        lines += ["Not finished: verdicts wait for all seeds.", ""]
    metrics = list(dict.fromkeys(comparison["metric"] for comparison in declared["comparisons"]))
    titles = ["variant", "seeds", "learning rate", "parameters", "GFLOP", "ms a picture", *map(NAMES.get, metrics)]
    lines += [_row(titles), _row(["---"] * len(titles))]
    for variant in declared["variants"]:
        runs = [run for run in result["runs"] if run["variant"] == variant["name"]]
        cells = [_reached([run["metrics"][name] for run in runs], variant["article"].get(name)) for name in metrics]
        lines.append(_row([variant["name"], *_size(runs, declared["rates"]), *cells]))
    titles = ["difference, in points", "here", "95 % interval", "the article", "seeds won, lost", "p", "A/A", "verdict"]
    lines += ["", _row(titles), _row(["---"] * len(titles))]
    for row in result["comparisons"]:
        lines.append(_row([_title(row), *_compared(row)]))
    if result.get("overlaps"):
        lines += ["", *_overlaps(result["overlaps"])]
    return "\n".join(lines) + "\n"


def _overlaps(rows: list[dict[str, Any]]) -> list[str]:
    """A table for figure-6: masks in true boxes, and of the detections, by the overlap of the boxes."""
    titles = ["variant", "mask IoU", "overlap with one of"]
    titles += [f"{low:g} to {high:g}" for low, high in rows[0]["bins"]]
    lines = [_row(titles), _row(["---"] * len(titles))]
    for row in rows:
        for measure, name in (("given", "in the true box"), ("found", "of the detection")):
            cells = ["" if mean is None else f"{POINTS * mean:.1f} ({count})" for mean, count in row[measure]]
            lines.append(_row([row["variant"], name, f"{row['which']} class", *cells]))
    return lines


def _row(cells: Iterable[str | None]) -> str:
    return f"| {' | '.join(cell or '' for cell in cells)} |"


def _trained(declared: dict[str, Any]) -> str:
    """How the variants were trained and tested."""
    trunk = declared["trunk_steps"]
    what = f"of the heads, on a stored trunk of {trunk:,} steps" if trunk else "end to end"
    return (
        f"Trained: {declared['steps']:,} steps {what}; pictures: {declared['pictures']}. "
        f"Tested on {declared['test_images']} pictures: {declared['tests']}."
    )


def _size(runs: list[dict[str, Any]], rates: list[float]) -> list[str]:
    """Seeds, learning rate (of those that were tried), parameters, operations and time of a variant."""
    if not runs:
        return ["0", "", "", "", ""]
    time = np.median([run["seconds"]["detecting in a picture"] for run in runs])
    rate, operations = runs[0]["settings"]["training"]["rate"], runs[0]["operations"] / 1e9
    tried = f"{rate:g}, an end" if len(rates) > 1 and rate in (min(rates), max(rates)) else f"{rate:g}"
    return [str(len(runs)), tried, f"{runs[0]['parameters']:,}", f"{operations:.2f}", f"{1000 * time:.0f}"]


def _reached(values: list[float], article: float | None) -> str:
    """Mean and standard deviation over the seeds, and the article's figure in brackets."""
    own = f"{POINTS * np.mean(values):.1f} ± {POINTS * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{own} ({article:g})" if article is not None else own


def _title(row: dict[str, Any]) -> str:
    return f"{row['first']} - {row['second']}, {NAMES[row['metric']]}"


def _compared(row: dict[str, Any]) -> list[str]:
    article = "" if row["article"] is None else f"{row['article']:+.1f}"
    if row["pairs"] < 2:
        return ["", "", article, "", "", "", f"{row['pairs']} pairs so far"]
    p = f"{row['p']:.3f}" if row["p_adjusted"] is None else f"{row['p']:.3f}, adjusted {row['p_adjusted']:.3f}"
    low, high = row["interval"]
    return [
        f"{row['difference']:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        article,
        f"{row['wins']}, {row['losses']}",
        p,
        f"{row['noise_floor']:.1f}",
        _decided(row),
    ]


def _decided(row: dict[str, Any]) -> str:
    """The verdict, and where nothing is resolved what that would take."""
    if row["verdict"] is None:
        return f"{row['pairs']} pairs so far"
    if row["verdict"] != "not resolved":
        return str(row["verdict"])
    if too_small(row):
        return f"not resolved (an effect below {row['smallest']:g}, the smallest of interest)"
    return f"not resolved ({row['seeds_needed'] or f'more than {MAX_SEEDS:,}'} seeds would)"


def page(tables: list[tuple[str, str]]) -> str:
    """One page of all results. tables: (name, Markdown) of each."""
    parts = [INTRODUCTION, *(f"{table}\n![{name}]({name}.png)\n" for name, table in tables)]
    return "\n".join(parts)


def read(name: str, places: Places) -> dict[str, Any] | None:
    """A result that is stored; None where there is none."""
    return read_json(places.results / f"{name}.json")


# Pictures --------------------------------------------------------------------------------------------------


def draw(result: dict[str, Any]) -> Figure:
    """The comparisons of a result as a forest plot: a dot for each pair of seeds, their mean with its interval, and the
    article's difference as a diamond."""
    rows = result["comparisons"]
    figure = Figure(figsize=(9, 1.4 + 0.55 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        if row["pairs"] >= 2:
            dots = row["differences"]
            axes.plot(dots, [at + 0.18] * len(dots), ".", color="#999999", label="a pair of seeds" * (at == 0))
            low, high = row["interval"]
            axes.plot([low, high], [at, at], "-", color=ROLE_COLORS["prediction"], linewidth=2)
            axes.plot(
                row["difference"], at, "o", color=ROLE_COLORS["prediction"],
                label="their mean, and its 95 % interval" * (at == 0),
            )  # fmt: skip
        if row["article"] is not None:
            axes.plot(
                row["article"], at, "D", markerfacecolor="none", color=ROLE_COLORS["points"],
                label="the article, on COCO" * (at == 0),
            )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    titles = [f"{_title(row)}\n{row['verdict'] or 'not finished'}" for row in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlabel("difference, in points")
    axes.set_title(result["declared"]["title"], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
