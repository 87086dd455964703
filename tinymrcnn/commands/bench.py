"""`tinymrcnn bench`: measures, next to torch and torchvision where they are installed, and saves the numbers."""

import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
from pathlib import Path

from tinymrcnn import backend
from tinymrcnn.backend import cuda_problem, resolve_device
from tinymrcnn.bench import against as beside
from tinymrcnn.bench import cases, cores, measure, report, workers
from tinymrcnn.bench.coco import evaluation_cases
from tinymrcnn.bench.forecast import forecast, forecast_table
from tinymrcnn.bench.memory import measure_memory
from tinymrcnn.bench.networks import make_side, network_cases, networks, sides_of
from tinymrcnn.bench.profile import draw_profile, profile_table, profile_training
from tinymrcnn.export.graph import import_onnx
from tinymrcnn.files import check_output, printable, replacing
from tinymrcnn.training.parallel import together
from tinymrcnn.weights import environment

COMMAND = "tinymrcnn bench"
RESULTS = Path("data/results")
OPERATORS = {
    "roi": cases.roi_cases,
    "conv": cases.conv_cases,
    "nms": cases.nms_cases,
    "paste": cases.paste_cases,
    "evaluate": evaluation_cases,
}
PROFILED_STEPS = 10


def run_bench(
    group: str = "all",
    *,
    device: str = "auto",
    threads: int | None = None,
    quick: bool = False,
    profile: bool = False,
    tf32: bool = False,
    against: str | None = None,
    out=None,
) -> int:
    """Measure a group of rows, or all, print it line by line, and write the JSON. Returns 0, whatever the numbers.

    group: one of OPERATORS, "model", "train" or "all"; or "workers" or "cores", see their functions. threads: of both
    sides, else the cores. quick: tiny sizes. profile: with "train", operator by operator, and a picture next to the
    JSON. tf32: on a GPU, both sides' products of float32 numbers with TF32, which stays on. against: inference engines,
    "ort,ncnn", to be measured beside ours on other works (see bench/against.py), on the CPU. out: the JSON file.
    Raises RuntimeError where a GPU is asked for and there is none, ValueError for options that do not fit, OSError
    where the file cannot be written or holds something else; before the work starts."""
    if group == "workers":
        return bench_workers(device, quick, out)
    if group == "cores":
        return bench_cores(device, quick, out)
    if profile and group != "train":
        raise ValueError("--profile goes with the training steps: tinymrcnn bench train --profile.")
    if against is not None:
        if profile or tf32 or device == "cuda":
            raise ValueError("--against measures inference on the CPU: leave out --profile, --tf32 and --device cuda.")
        return _run_against(group, against.split(","), threads, quick, out)
    device = resolve_device(device)
    if tf32 and device != "cuda":
        raise ValueError(f"--tf32 is for products on a GPU, and this run is on '{device}': name --device cuda.")
    threads = measure.available_threads() if threads is None else threads
    path = _results_file(group, device + "_tf32" * tf32, profile, quick, out)
    setting = measure.Setting(device, None if profile else measure.import_torch(device, tf32), quick)
    tf32 = device == "cuda" and backend.tf32(tf32)
    with measure.same_threads(threads, setting.torch):
        head = _head(f"{group}{' --profile' * profile}{' --quick' * quick}{' --tf32' * tf32}", setting, threads)
        head["tf32"] = tf32
        _print_head(head)
        if profile:
            profiles = _profile(setting)
            results = {title: [dataclasses.asdict(row) for row in rows] for title, rows in profiles.items()}
            _save(path, {**head, "profiles": results}, draw_profile(profiles))
        else:
            _save(path, {**head, **_compare(group, setting, threads)})
    return 0


def bench_workers(device: str = "auto", quick: bool = False, out=None) -> int:
    """Measure what several workers do, against one, and forecast what more would do; see bench/workers.py. The first
    worker prints, and writes the JSON. Returns 0.

    Raises ValueError where one process was started alone, or for a GPU, and OSError where the file cannot be written or
    holds something else."""
    with together() as team, measure.same_threads(1):
        if team.size == 1:
            raise ValueError("Several workers are started by mpiexec: mpiexec -n 2 tinymrcnn bench workers.")
        if device == "cuda":
            raise ValueError("Workers are measured on the CPU only: leave out --device cuda.")
        path = _results_file("workers", "cpu", False, quick, out) if team.first else None
        setting = measure.Setting("cpu", None, quick)
        head = _head(f"workers{' --quick' * quick}", setting, 1)
        head["command"] = f"{COMMAND} workers{' --quick' * quick}"
        head["machine"]["cores"] = os.cpu_count()  # not those that mpiexec gives to this worker
        _print_head(head)
        found = workers.measure_workers(team, setting)
        if team.first:
            print(workers.table(found))
            print(f"\nWhat more workers would do, see lessons/many_workers.md:\n{forecast_table(found)}")
            _save(path, {**head, **found, "forecast": forecast(found)})
    return 0


def bench_cores(device: str = "auto", quick: bool = False, out=None) -> int:
    """Forecast by counting what more cores would do; see bench/cores.py. Prints it, and writes the JSON. Returns 0.

    Raises ValueError for a GPU, and OSError where the file cannot be written or holds something else."""
    if device == "cuda":
        raise ValueError("Cores are counted on the CPU only: leave out --device cuda.")
    path = _results_file("cores", "cpu", False, quick, out)
    setting = measure.Setting("cpu", None, quick)
    with measure.same_threads(1):
        head = _head(f"cores{' --quick' * quick}", setting, 1)
        _print_head(head)
        rows = networks(quick).items()
        found = {name: cores.measure_cores(make_side("ours", network, setting)) for name, network in rows}
    print(cores.table(found))
    _save(path, {**head, "rows": found})
    return 0


def _head(what: str, setting: measure.Setting, threads: int) -> dict:
    """What every result begins with."""
    versions = environment()
    for name in ("torch", "torchvision"):
        versions[name] = importlib.metadata.version(name) if setting.torch else None
    return {
        "command": f"{COMMAND} {what} --device {setting.device} --threads {threads}",
        "date": datetime.date.today().isoformat(),
        "device": setting.device,
        "machine": measure.machine(setting.device),
        "threads": threads,
        "quick": setting.quick,
        "versions": versions,
    }


def _print_head(head: dict) -> None:
    machine, versions = head["machine"], head["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    torch = f"torch {versions['torch']}, torchvision {versions['torchvision']}"
    print(
        f"{head['command']}\n{head['date']}, {where}, threads: {head['threads']}, {versions['blas']} with "
        f"{versions['blas_kernels']} kernels, numpy {versions['numpy']}, numba {versions['numba']}"
        + (f", {torch}" if versions["torch"] else "")
    )
    if head["quick"]:
        print("Quick: tiny sizes, whatever the rows are called: this shows that everything runs, not how fast.")


def _compare(group: str, setting: measure.Setting, threads: int) -> dict:
    """Measure the rows of a group, or of all, and print them as they come."""
    if setting.torch is None:
        print(
            "Ours is measured alone: torch and torchvision are not both installed (pip install -e '.[parity]'), or "
            f"cannot use the device '{setting.device}'."
        )
    found = measure.ceilings(setting)
    print("The best that this machine does: " + ", ".join(f"{rate:.1f} {unit}" for unit, rate in found.items()))
    print(
        "± is half the way from the fastest repeat to the slowest; ratio is ours / theirs, and the last column says "
        "which of its two goals it reaches.\nOperations are counted as a convolution's definition has them, so that "
        f"Winograd's way can exceed the best rate.\n\n{report.table_head()}"
    )
    rows = []

    def add(row):
        rows.append(row)
        print("\n".join(report.table_lines(row)), flush=True)

    def timed(case):
        timings = measure.time_sides(case.sides, setting)
        add(report.time_row(case, timings, found, setting.device, setting.quick))

    for name, operator_cases in OPERATORS.items():
        if group in (name, "all"):
            for case in operator_cases(setting):
                timed(case)
    for name, training in (("model", False), ("train", True)):
        if group in (name, "all"):
            for row, build in network_cases(setting, training):
                timed(build())
                peaks = {side: measure_memory(row, side, setting, threads) for side in sides_of(setting)}
                add(report.memory_row(row, peaks, setting.device, setting.quick))
    notes = [f"  {row['name']}: {row['note']}" for row in rows if row.get("note")]
    if notes:
        print("\n" + "\n".join(notes))
    missing = _not_measured(setting)
    print("\n" + "\n".join(missing))
    return {"ceilings": found, "rows": rows, "not_measured": missing}


def _run_against(group: str, engines: list[str], threads: int | None, quick: bool, out) -> int:
    """Measure the works of bench/against.py, all, or those of the group "conv" or "model"."""
    if unknown := [name for name in engines if name not in beside.ENGINES]:
        raise ValueError(f"--against knows {', '.join(beside.ENGINES)}; {unknown[0]!r} is none of them.")
    if group not in ("all", *beside.WORKS):
        raise ValueError(f"--against measures {' and '.join(beside.WORKS)}, or both: leave out {group!r}.")
    versions = beside.installed(engines)
    if not versions:
        raise RuntimeError(f"Not installed: {', '.join(engines)}. In a clone: pip install -e '.[bench]'.")
    import_onnx()
    threads = measure.available_threads() if threads is None else threads
    path = _results_file("against" + f"_{group}" * (group != "all"), "cpu", False, quick, out)
    setting = measure.Setting("cpu", None, quick, processor_time=threads == 1)
    torch = importlib.import_module("torch") if "torch" in versions else None
    with measure.same_threads(threads, torch):
        head = _head(f"{group} --against {','.join(engines)}{' --quick' * quick}", setting, threads)
        head |= {"engines": versions, "clock": "processor time" if setting.processor_time else "wall clock"}
        _print_head(head)
        print(f"Beside ours: {', '.join(f'{name} {version}' for name, version in versions.items())}; {head['clock']}.")
        if missing := [name for name in engines if name not in versions]:
            print(f"Not installed, and left out: {', '.join(missing)} (pip install -e '.[bench]').")
        ceilings, rows = measure.ceilings(setting), []
        print("\n" + beside.table_head(list(versions)))
        for works in (works for name, works in beside.WORKS.items() if group in (name, "all")):
            for work in works(quick):
                case = beside.case_of(work, list(versions), threads)
                timings = measure.time_sides(case.sides, setting)
                rows.append(report.time_row(case, timings, ceilings, "cpu", quick))
                rows[-1]["ratios"] = beside.ratios(rows[-1])
                print(beside.ratio_line(rows[-1], list(versions)), flush=True)
        _save(path, {**head, "ceilings": ceilings, "rows": rows, "not_measured": missing})
    return 0


def _not_measured(setting: measure.Setting) -> list[str]:
    other = {"cpu": "cuda", "cuda": "cpu"}[setting.device]
    if other == "cuda" and (problem := cuda_problem()):
        return [f"GPU: not measured. {problem}"]
    return [f"{other}: not measured in this run (--device {other})."]


def _profile(setting: measure.Setting) -> dict:
    """The profile of every training step: title -> rows."""
    profiles = {}
    for name, network in networks(setting.quick).items():
        if network.train:
            steps = 1 if setting.quick else PROFILED_STEPS
            profiles[name] = profile_training(network, setting, steps)
            print("\n" + profile_table(f"{name} (mean of {steps})", profiles[name]), flush=True)
    return profiles


# Where the results go ------------------------------------------------------------------------------------


def _results_file(group: str, device: str, profile: bool, quick: bool, out) -> Path | None:
    """Where the JSON goes: to `out`, or else to data/results where the current folder has that, as a clone does, or
    else to the current folder; None for a quick run without `out`. Raises OSError where it cannot go there."""
    if out is None and quick:
        return None
    part = "" if profile or group == "all" else f"_{group}"  # a part leaves the whole as it is
    folder = RESULTS if RESULTS.is_dir() else Path()
    path = Path(out) if out else folder / f"{'profile' if profile else 'bench'}_{device}{part}.json"
    check_output(path, is_bench, "results of a benchmark")
    if profile and not path.exists() and path.with_suffix(".png").exists():
        raise FileExistsError(
            f"'{path.with_suffix('.png')}' exists already, and would be replaced: name another --out."
        )
    return path


def is_bench(content) -> bool:
    """Whether the content of a JSON file is what `bench` writes."""
    return isinstance(content, dict) and str(content.get("command")).startswith(COMMAND)


def _save(path: Path | None, results: dict, figure=None) -> None:
    """Write the JSON, and a figure next to it."""
    if path is None:
        print("\nNothing is saved: a quick run needs --out for that.")
        return
    with replacing(path) as file:
        file.write((json.dumps(results, indent=2) + "\n").encode())
    print(f"\n{printable(path)}")
    if figure is not None:
        with replacing(path.with_suffix(".png")) as file:
            figure.savefig(file, format="png", dpi=120)
        print(printable(path.with_suffix(".png")))
