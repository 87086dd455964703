"""`tinymrcnn reproduce`: the article's tables and figures on toy shapes, each by one command, from plans that were
written before the runs."""

from pathlib import Path

from tinymrcnn.backend import resolve_device
from tinymrcnn.experiments import report, timing
from tinymrcnn.experiments.plan import Plan, quick_plan
from tinymrcnn.experiments.registry import PLANS
from tinymrcnn.experiments.runner import Places, run_plan
from tinymrcnn.files import make_folder, printable

RESULTS = Path("data/results/reproduce")
SCRATCH = Path("runs/reproduce")
WORDS = ("list", "plan", "all", "report")


def reproduce(
    what: str, name: str | None = None, *, quick: bool = False, processes: int = 1, device: str = "auto", out=None
) -> int:
    """Do what is asked, print it, and return 0.

    what: one of WORDS or the name of an experiment. name: with "plan", which one. quick: a few steps of each run, which
    show that it works. processes: how many runs at once, of one thread each. out: the folder of the results.
    Raises ValueError for names that do not exist, or results of another plan; RuntimeError where a GPU is asked for and
    there is none, or another runner works in the folder."""
    if what not in (*WORDS, *PLANS):
        raise ValueError(f"There is no experiment {what!r}. There are: {', '.join(PLANS)}; and {', '.join(WORDS)}.")
    if name is not None and (what != "plan" or name not in PLANS):
        raise ValueError(f"{name!r} cannot be: `plan` alone takes the name of an experiment: {', '.join(PLANS)}.")
    device = resolve_device(device)
    if what == "list":
        return _list()
    if what == "plan":
        return _plan([PLANS[name]] if name else list(PLANS.values()), device)
    places = _places(quick, device, out)
    plans = list(PLANS.values()) if what in ("all", "report") else [PLANS[what]]
    for plan in [quick_plan(plan) for plan in plans] if quick else plans:
        if what != "report":
            run_plan(plan, places, processes)
        _save(plan, places)
    return 0


def _places(quick: bool, device: str, out) -> Places:
    """In a clone the results lie with its data; elsewhere, and where they are quick, with the runs."""
    kept = RESULTS if RESULTS.parent.is_dir() and not quick else SCRATCH / "results"
    scratch = SCRATCH / ("quick" if quick else "work")
    return Places(make_folder(out or (scratch / "results" if quick else kept)), make_folder(scratch), device)


def _list() -> int:
    width = max(map(len, PLANS))
    for plan in PLANS.values():
        print(f"{plan.name:{width}}  {plan.title}")
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
    print(f"Primary comparisons: {primary:.1f} core-hours; all of these: {sum(hours.values()):.1f}.")
    return 0


def _save(plan: Plan, places: Places) -> None:
    result = report.results_of(plan, places)
    path = places.results / f"{plan.name}.json"
    report.save(result, path)
    print(report.table(result))
    print(f"'{printable(path)}' holds it.")
