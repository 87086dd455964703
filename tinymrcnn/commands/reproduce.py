"""`tinymrcnn reproduce`: the article's tables and figures, each by one command: on toy shapes, from plans that were
written before the runs."""

import datetime
from pathlib import Path

from tinymrcnn.backend import resolve_device
from tinymrcnn.experiments import at_full_size, pairs, report, timing
from tinymrcnn.experiments.plan import Plan, quick_plan
from tinymrcnn.experiments.registry import FULL_SIZE, MEASURED, PLANS
from tinymrcnn.experiments.runner import Places, run_plan
from tinymrcnn.files import make_folder, printable, replacing
from tinymrcnn.threads import get_num_threads
from tinymrcnn.weights import environment

RESULTS = Path("data/results/reproduce")
SCRATCH = Path("runs/reproduce")
WORDS = ("list", "plan", "all", "report")
NAMES = (*PLANS, *MEASURED, *FULL_SIZE)
PAGE = "report.md"


def reproduce(
    what: str,
    name: str | None = None,
    *,
    quick: bool = False,
    processes: int | None = None,
    device: str = "auto",
    out=None,
) -> int:
    """Do what is asked, print it, and return 0.

    what: one of WORDS or the name of an experiment. name: with "plan", which one. quick: a few steps of each run, which
    show that it works. processes: how many runs at once, of one thread each; None: as many as there are cores, but one
    on a GPU, or where runs are so quick that starting processes takes longer. out: the folder of the results.
    Raises ValueError for names that do not exist, or results of another plan; RuntimeError where a GPU is asked for and
    there is none, or another runner works in the folder."""
    if what not in (*WORDS, *NAMES):
        raise ValueError(f"There is no experiment {what!r}. There are: {', '.join(NAMES)}; and {', '.join(WORDS)}.")
    if name is not None and (what != "plan" or name not in PLANS):
        raise ValueError(f"{name!r} cannot be: `plan` alone takes the name of an experiment: {', '.join(PLANS)}.")
    if processes is not None and processes < 1:
        raise ValueError(f"--processes must be 1 at least, not {processes}.")
    device = resolve_device(device)
    processes = processes or (1 if quick or device == "cuda" else get_num_threads())
    if what == "list":
        return _list()
    if what == "plan":
        return _plan([PLANS[name]] if name else list(PLANS.values()), device)
    if what in FULL_SIZE:
        print(at_full_size.text(what))
        return 0
    places = _places(quick, device, out)
    plans = {key: quick_plan(plan) if quick else plan for key, plan in PLANS.items()}
    if what == "report":
        return _report(list(plans.values()), places)
    for each in NAMES if what == "all" else (what,):
        if each in plans:
            run_plan(plans[each], places, processes)
            result = report.results_of(plans[each], places)
            print(_save(result, report.table(result), report.draw(result), places))
            if plans[each].tests == "crowded" and result["finished"] and not (places.results / pairs.FILE).exists():
                pairs.keep(plans[each], places)  # later the trained models may be gone
        elif each in MEASURED:
            result = {**_head(each, quick, device), **MEASURED[each].run(quick)}
            print(_save(result, MEASURED[each].table(result), MEASURED[each].draw(result), places))
    return _report(list(plans.values()), places) if what == "all" else 0


def _places(quick: bool, device: str, out) -> Places:
    """In a clone the results lie with its data; elsewhere, and where they are quick, with the runs."""
    scratch = SCRATCH / ("quick" if quick else "full")
    kept = scratch / "results" if quick or not RESULTS.parent.is_dir() else RESULTS
    return Places(make_folder(out or kept), make_folder(scratch), device)


def _head(name: str, quick: bool, device: str) -> dict:
    command = f"tinymrcnn reproduce {name}{' --quick' * quick}"
    date = datetime.date.today().isoformat()
    return {"name": name, "command": command, "date": date, "device": device, "environment": environment()}


def _save(result: dict, table: str, figure, places: Places) -> str:
    """Write a result and its picture. Returns what to print."""
    report.save(result, figure, places.results)
    return f"{table}\n'{printable(places.results / result['name'])}.json' and .png hold it."


def _report(plans: list[Plan], places: Places) -> int:
    """Write all results that there are anew, and one page of them."""
    results = report.corrected([report.results_of(plan, places) for plan in plans])
    found = [(result, report.table(result), report.draw(result)) for result in results if result["runs"]]
    for result, table, figure in found:
        _save(result, table, figure, places)
    tables = [(result["name"], table) for result, table, _ in found]
    for name, module in MEASURED.items():
        if measured := report.read(name, places):
            tables.append((name, f"### {name}: {module.TITLE}\n\n{module.table(measured)}"))
    path = places.results / PAGE
    with replacing(path) as file:
        file.write(report.page(tables).encode())
    print(f"'{printable(path)}' shows {len(tables)} of {len(plans) + len(MEASURED)} experiments.")
    return 0


def _list() -> int:
    width = max(map(len, NAMES))
    titles = {name: plan.title for name, plan in PLANS.items()} | {name: each.TITLE for name, each in MEASURED.items()}
    for name in NAMES:
        title = titles.get(name) or f"{at_full_size.EXPERIMENTS[name][0].title}, not run here: says what to run"
        print(f"{name:{width}}  {title}")
    return 0


def _plan(plans: list[Plan], device: str) -> int:
    """What will be run, before it is run, and how long that takes on one core."""
    hours: dict[str, float] = {}
    for plan in plans:
        hours[plan.name] = timing.core_seconds(plan, device) / 3600
        print(f"{plan.name}: {plan.title} (plan {plan.hash}, {hours[plan.name]:.1f} core-hours)")
        print(f"  {plan.claim}")
        how = (
            f"{plan.trunk_steps} steps of a trunk for each seed, then {plan.steps} of heads" if plan.trunk_steps else ""
        )
        print(
            f"  {len(plan.variants)} variants x {plan.seeds} seeds, {how or f'{plan.steps} steps end to end'}. "
            f"Pictures: {plan.pictures}; {plan.test_images} {plan.tests} ones for the test. Learning rate: the best of "
            f"{', '.join(f'{rate:g}' for rate in plan.rates)} after {plan.pilot_steps} steps."
        )
        for comparison in plan.comparisons:
            rank = "primary" if comparison.primary else "secondary"
            article = "" if comparison.article is None else f"; the article: {comparison.article:+.1f}"
            print(
                f"  {comparison.name}: expected above 0, of interest from {comparison.smallest:g} points on "
                f"({rank}{article})"
            )
        print(f"  {plan.stopping}\n")
    primary = sum(hours[plan.name] for plan in plans if plan.primary)
    print(
        f"Primary comparisons: {primary:.1f} core-hours; all of these: {sum(hours.values()):.1f} at most, since runs "
        "that tables share are made once."
    )
    return 0
