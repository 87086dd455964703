"""The runner: makes the runs of a plan that are not there yet, each once, and keeps what they found.

Where everything goes:

    RESULTS/NAME.json             the plan's runs and its comparisons (report.py)
    RESULTS/runs/KEY.json, .npz   one run: its metrics, and, but for pilots, the matches that they are computed from
    SCRATCH/models, proposals     what later runs need again; it can be removed when all is done
"""

import contextlib
import dataclasses
import datetime
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tinymrcnn.experiments.judging import judge, metrics_of
from tinymrcnn.experiments.matches import save_matches
from tinymrcnn.experiments.plan import PILOT_SEED, Plan, Run, Training, Variant, key, pilots_of, run_of, trunk_of
from tinymrcnn.experiments.training import (
    model_of,
    one_thread,
    parameters_of,
    proposals_on,
    test_pictures,
    timed,
    training_proposals,
)  # fmt: skip
from tinymrcnn.files import locked, make_folder, printable, replacing
from tinymrcnn.models.cost import cost_of
from tinymrcnn.weights import environment

SAME = ("code", "cpu", "blas_kernels", "numba_threads")  # what both runs of a pair must have in common


@dataclass(frozen=True)
class Places:
    """results: the folder of what is kept. scratch: the folder of what can be made again. device: "cpu" or "cuda"."""

    results: Path
    scratch: Path
    device: str = "cpu"


def stored(run: Run, places: Places) -> dict | None:
    """What is kept of a run that is finished; else None."""
    return read_json(places.results / "runs" / f"{key(run)}.json")


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of results holds; None where there is none. Raises ValueError, naming it, where it is damaged."""
    try:
        return dict(json.loads(path.read_bytes())) if path.exists() else None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"'{printable(path)}' is damaged: remove it, and it is made again. {error}") from error


def here(places: Places) -> dict[str, Any]:
    """The machine and the code, as every run notes them."""
    return {"device": places.device, "environment": environment()}


def alike(a: dict, b: dict) -> bool:
    """Whether two runs may be compared: made by the same code on one kind of machine."""
    return a["device"] == b["device"] and all(a["environment"][name] == b["environment"][name] for name in SAME)


def make(run: Run, plan_hash: str, places: Places) -> None:
    """Train, test, and keep what came out."""
    model, training_seconds = timed(model_of, run.training, places.scratch, places.device)
    found, test_seconds = timed(judge, run, places.scratch, places.device)
    name = key(run)
    folder = make_folder(places.results / "runs")
    if run.training.seed != PILOT_SEED:  # no interval is ever computed of a pilot
        save_matches(folder / f"{name}.npz", found.matches, **found.objects)
    record = {
        "plan": plan_hash,
        "seed": run.training.seed,
        "settings": dataclasses.asdict(run),
        "metrics": metrics_of(found),
        "parameters": parameters_of(model),
        "operations": cost_of(model.config, test_pictures(run.pictures, 1).image_size).operations,
        "seconds": {"training": training_seconds, "test": test_seconds, "detecting in a picture": found.seconds},
        **here(places),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    with replacing(folder / f"{name}.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def make_trunk(run: Run, plan_hash: str, places: Places) -> None:
    """What the runs of one trunk share: the trunk and its proposals."""
    training_proposals(run.training, places.scratch, places.device)
    proposals_on(run.training, test_pictures(run.pictures, run.images), run.pictures, places.scratch, places.device)


def commit() -> str | None:
    """The commit of the code, with "-dirty" where something is changed; None outside of a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# What is to be done ----------------------------------------------------------------------------------------


def chosen_rate(plan: Plan, variant: Variant, places: Places) -> float:
    """The learning rate with which a variant did best on the validation pictures, the smaller one of two equals."""
    scores = []
    for run in pilots_of(plan, variant):
        record = stored(run, places)
        if record is None:
            raise LookupError(f"The learning rate of {variant.name!r} in {plan.name!r} is not chosen yet.")
        scores.append(record["metrics"][plan.chosen_by])
    return plan.rates[scores.index(max(scores))]


def runs_of(plan: Plan, seed: int, places: Places) -> dict[str, Run]:
    """The run of every variant for a seed, once the learning rates are chosen."""
    return {variant.name: run_of(plan, variant, seed, chosen_rate(plan, variant, places)) for variant in plan.variants}


def missing(runs: Iterable[Run], places: Places) -> list[Run]:
    """Of runs that will be compared with each other, those that are to be made: if one is missing, also the others that
    were made by other code or on another kind of machine."""
    records = {run: stored(run, places) for run in runs}
    if all(records.values()):
        return []
    now = here(places)
    return [run for run, record in records.items() if record is None or not alike(record, now)]


class Phase(NamedTuple):
    """Work of one kind, on groups of runs that need nothing of each other. steps: of training, what is finished already
    included."""

    work: Callable[[Run, str, Places], None]
    groups: list[list[Run]]
    steps: int


def phases(plan: Plan, places: Places) -> Iterator[Phase]:
    """What is to be done. A phase needs what those before it have made, so it is known only when they are over."""
    pilots = [pilots_of(plan, variant) for variant in plan.variants]
    left = [run for runs in pilots for run in missing(runs, places)]
    yield from _phases(plan, list(dict.fromkeys(sum(pilots, []))), list(dict.fromkeys(left)))
    seeds = [list(runs_of(plan, seed, places).values()) for seed in range(plan.seeds)]
    yield from _phases(plan, sum(seeds, []), [run for runs in seeds for run in missing(runs, places)])


def _phases(plan: Plan, runs: list[Run], left: list[Run]) -> Iterator[Phase]:
    """The trunks of runs, if they have any, and the runs; of both what is left to do."""
    if plan.trunk_steps:
        trunks = {trunk_of(run.training): [run] for run in left}
        count = len({trunk_of(run.training) for run in runs})
        yield Phase(make_trunk, list(trunks.values()), count * plan.trunk_steps)
    groups: dict[Training, list[Run]] = {}  # runs of one training go together: no two processes make it at once
    for run in left:
        groups.setdefault(run.training, []).append(run)
    yield Phase(make, list(groups.values()), sum(run.training.steps for run in runs))


def run_plan(plan: Plan, places: Places, processes: int = 1, progress: bool = True) -> None:
    """Make all runs of a plan that are missing, on so many processes of one thread each.

    It can be interrupted at any time: a run that is finished is kept, and the others begin anew. Raises ValueError
    where the results are those of another plan, RuntimeError where another runner has the folder."""
    check_plan(plan, places)
    with locked(make_folder(places.scratch)), one_thread(), _pool(processes) as pool:
        with tqdm(total=all_steps(plan), unit="step", desc=plan.name, disable=not progress, mininterval=1) as bar:
            for phase in phases(plan, places):
                finished = phase.steps - sum(_steps(plan, phase, group) for group in phase.groups)
                bar.initial = getattr(bar, "initial", 0) + finished  # it took no time now
                bar.update(finished)
                for group in pool([(phase.work, group, plan.hash, places) for group in phase.groups]):
                    bar.update(_steps(plan, phase, group))


def _steps(plan: Plan, phase: Phase, group: list[Run]) -> int:
    return plan.trunk_steps if phase.work is make_trunk else sum(run.training.steps for run in group)


def all_steps(plan: Plan) -> int:
    """The training steps of a whole plan."""
    pilots = {run for variant in plan.variants for run in pilots_of(plan, variant)}
    of_trunks = len({variant.preset for variant in plan.variants}) * (plan.seeds + 1) * plan.trunk_steps
    return of_trunks + len(pilots) * plan.pilot_steps + plan.seeds * len(plan.variants) * plan.steps


def check_plan(plan: Plan, places: Places) -> None:
    """Raise ValueError where the results in the folder are those of another plan of this name. Where there are none
    yet, their file is begun, so that a plan is kept from its first run on."""
    path = places.results / f"{plan.name}.json"
    before = read_json(path)
    if before is None:
        begun = {"name": plan.name, "plan": plan.hash, "finished": False, "declared": dataclasses.asdict(plan)}
        make_folder(places.results)
        with replacing(path) as file:
            file.write((json.dumps({**begun, "pilots": {}, "runs": [], "comparisons": []}, indent=1) + "\n").encode())
    elif before.get("plan") != plan.hash:
        raise ValueError(
            f"'{printable(path)}' holds results of another plan ({before.get('plan')}) than the one that is there now "
            f"({plan.hash}). Restore that plan, or remove the file and begin anew."
        )


# Processes -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[Callable[[list[tuple]], Iterator[list[Run]]]]:
    """A function that makes calls, (work, group of runs, plan's hash, places), and yields each group that is made."""
    if processes == 1:
        yield lambda calls: (_call(*call) for call in calls)
        return
    # a child begins afresh: a forked one would have locks and threads of the parent, but not what they belong to
    with ProcessPoolExecutor(processes, get_context("spawn")) as executor:

        def spread(calls: list[tuple]) -> Iterator[list[Run]]:
            waiting = [executor.submit(_call, *call) for call in calls]
            for future in as_completed(waiting):
                yield future.result()

        try:
            yield spread
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _call(work: Callable, group: list[Run], plan_hash: str, places: Places) -> list[Run]:
    with one_thread():
        for run in group:
            work(run, plan_hash, places)
    return group
