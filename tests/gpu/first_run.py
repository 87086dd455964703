"""Everything that only a GPU can tell, in one script, for the first run on one and for every one after it.

    python tests/gpu/first_run.py                              every stage, one after the other
    python tests/gpu/first_run.py environment kernels          these only
    python tests/gpu/first_run.py --device cpu --quick         a rehearsal, which needs no GPU

Each stage runs in a process of its own and is stopped after --minutes (9), so a crash, a hang or a broken context costs
one stage. It writes STAGE.json into --out (data/results/gpu_DATE_DEVICE) as it goes, so what it measured before it was
stopped is there. "ok" is whether it found no problem, null where it was not run, and "problems" says which.
It needs the extras gpu, test and lessons; torch and torchvision, where they are, are measured beside.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]

PACKAGES = (
    "numpy numba llvmlite numba-cuda cuda-core cuda-bindings cupy-cuda12x cupy-cuda13x torch torchvision pycocotools "
    "threadpoolctl tqdm matplotlib pillow pytest pytest-xdist hypothesis nbclient ipykernel ipywidgets"
).split()
NEEDED = [name for name in PACKAGES if not name.startswith(("cu", "torch", "nb", "ipy"))]
STEPS, STEPS_AT_LEAST, TEST_IMAGES = 1800, 200, 500
LESSONS = "00 or 03 or 10 or 11 or 14 or 15 or 16"  # those that ask for the device that is there


class Notes(dict):
    """What a stage has found so far, in a file that is always up to date. device, quick, seconds: how it is to run."""

    def __init__(self, path: Path, stage: str, device: str, quick: bool, seconds: float):
        super().__init__(stage=stage, date=datetime.date.today().isoformat(), device=device, ok=True, problems=[])
        self.path, self.device, self.quick = path, device, quick
        self.ends = time.monotonic() + seconds
        self.write()

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.write()

    def write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self, indent=1, default=str) + "\n")
        partial.replace(self.path)

    def problem(self, text: str) -> None:
        self["problems"] = [*self["problems"], text]
        self["ok"] = False

    def attempt(self, key: str, function, *arguments):
        """Note what a function returns, or that it failed."""
        try:
            self[key] = function(*arguments)
        except Exception as error:
            self[key] = {"error": "".join(traceback.format_exception(error))[-3000:]}
            self.problem(f"{key}: {type(error).__name__}: {error}"[:500])

    @property
    def left(self) -> float:
        """Seconds until the stage is stopped, less what it needs to end well."""
        return self.ends - time.monotonic() - 10


# The stages ----------------------------------------------------------------------------------------------


def environment(notes: Notes) -> None:
    """Versions, the driver, what the first kernels cost, and what `tinymrcnn doctor` says."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    notes["packages"] = found
    if missing := [name for name in NEEDED if name not in found]:
        notes.problem(f"Not installed: {', '.join(missing)}.")
    notes["python"], notes["cores"] = platform.python_version(), len(os.sched_getaffinity(0))
    notes.attempt("nvidia_smi", said_by, "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv")
    if notes["device"] != "cpu":
        notes.attempt("first_cupy_kernel_seconds", first_kernel)
    from tinymrcnn.commands import doctor

    began = time.perf_counter()
    if failure := doctor._roi_align_problem(notes["device"]):
        notes.problem(failure)
    notes["first_roi_align_seconds"] = time.perf_counter() - began
    notes["doctor"] = said_by(sys.executable, "-m", "tinymrcnn", "doctor")


def said_by(*command: str) -> list[str]:
    """The lines that a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    except FileNotFoundError:
        return [f"{command[0]} is not installed."]
    return (done.stdout + done.stderr).splitlines()


def first_kernel() -> float:
    began = time.perf_counter()
    cupy_of("cuda").zeros(1).sum().item()
    return time.perf_counter() - began


def cupy_of(device: str):
    """The array library of a device: CuPy for "cuda"."""
    from tinymrcnn.backend import BACKENDS, resolve_device

    return BACKENDS[resolve_device(device)].module


def kernels(notes: Notes) -> None:
    """Every kernel against the CPU, in both precisions, and its time beside torch's."""
    import gpu_cases
    import numpy as np

    from tinymrcnn.backend import to_device, to_numpy
    from tinymrcnn.bench import measure
    from tinymrcnn.boxes import batched_nms
    from tinymrcnn.ops import winograd

    winograd.enabled = False  # the CPU's own way, which rounds differently
    setting = setting_of(notes)
    rows, sizes = {}, gpu_cases.SMALL if notes.quick else gpu_cases.REAL
    notes["sizes"] = dict(zip(("channels", "height", "width", "rois"), sizes, strict=True))
    for name, case in gpu_cases.cases(*sizes).items():
        row = rows[name] = {}
        # float64 at small sizes: at real ones a CPU takes minutes for it
        for dtype, of_dtype in (("float32", case), ("float64", gpu_cases.cases(*gpu_cases.SMALL)[name])):
            expected, found = (
                gpu_cases.result_and_gradients(of_dtype, device, np.dtype(dtype)) for device in ("cpu", setting.device)
            )
            row[dtype] = max(map(gpu_cases.relative, found, expected))
            if not row[dtype] <= (case.bound if dtype == "float32" else gpu_cases.BOUND):
                notes.problem(f"{name} in {dtype} is {row[dtype]:.1e} away from the CPU's.")
        del expected, found
        timings = measure.time_sides(kernel_sides(case, setting), setting, seconds=1)
        row["ms"] = {side: 1e3 * timing.median for side, timing in timings.items()}
        notes["kernels"] = rows
    for dtype in (np.float32, np.float64):
        for count, groups in (*gpu_cases.NMS_SIZES, *([] if notes.quick else [(12_000, 1), (12_000, 91)])):
            arrays = gpu_cases.boxes_with_ties(count, groups, dtype)
            kept = to_numpy(batched_nms(*(to_device(array, setting.device) for array in arrays), 0.5))
            if not np.array_equal(kept, batched_nms(*arrays, 0.5)):
                notes.problem(
                    f"NMS of {count} boxes in {groups} groups keeps others than the CPU's, in {dtype.__name__}."
                )


def setting_of(notes: Notes):
    """How the package's own benchmarks are to measure: torch beside, where it can use the device."""
    from tinymrcnn.backend import resolve_device
    from tinymrcnn.bench import measure

    device = resolve_device(notes["device"])
    return measure.Setting(device, measure.import_torch(device), notes.quick)


def kernel_sides(case, setting) -> dict:
    """Forward and backward of a case, ours and torch's, on float32 inputs that are on the device."""
    import numpy as np

    from tinymrcnn.autograd import Tensor

    leaves = [Tensor(setting.ours(array), requires_grad=True) for array in case.arrays]
    out = case.ours(*leaves)
    upstream = np.ones(out.shape, np.float32)
    ours_up, backward = setting.ours(upstream), out.node.backward
    needs = tuple(parent is not None for parent in out.node.parents)
    sides = {"ours": lambda: case.ours(*leaves), "ours, backward": lambda: backward(ours_up, needs)}
    if setting.torch and case.theirs:
        torch = setting.torch
        tensors = [setting.theirs(array) for array in case.arrays]
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
        tensors = [tensor.requires_grad_() for tensor in tensors]
        result, up = case.theirs(torch, *tensors), setting.theirs(upstream)

        def forward():
            with torch.no_grad():
                return case.theirs(torch, *tensors)

        sides["torch"] = forward
        sides["torch, backward"] = lambda: torch.autograd.grad(result, tensors, up, retain_graph=True)
    return sides


def tests(notes: Notes) -> None:
    """pytest -m cuda."""
    run_pytest(notes, "-m", "cuda", *(["tests/test_nms.py"] if notes.quick else []))


def lessons(notes: Notes) -> None:
    """The lessons with their solutions, on the device that is there."""
    chosen = "test_title" if notes.quick else f"test_the_solutions_are_right and ({LESSONS})"
    marks = "not lessons" if notes.quick else "lessons"
    run_pytest(notes, "-m", marks, "-k", chosen, "-n", "4", "tests/test_lessons.py")


def run_pytest(notes: Notes, *arguments: str) -> None:
    """Run tests as long as there is time; note how many passed, which failed, and the end of what was said."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--tb=short",
        "--durations=15",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    notes["command"] = " ".join(["pytest", *arguments])
    log = notes.path.with_suffix(".log")
    with open(log, "w") as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=file, timeout=max(5, notes.left), cwd=ROOT).returncode
        except subprocess.TimeoutExpired:
            code = "no time left"
    lines = log.read_text(errors="replace").splitlines()
    log.unlink()
    for verdict in ("PASSED", "SKIPPED", "FAILED", "ERROR"):
        names = {word for line in lines if verdict in line for word in line.split() if word.startswith("tests/")}
        notes[verdict.lower()] = sorted(names) if verdict in ("FAILED", "ERROR") else len(names)
    notes["exit_code"], notes["said"] = code, lines[-150:]
    if code != 0:
        notes.problem(f"pytest ended with {code}; {len(notes['failed']) + len(notes['error'])} failed.")


def train(notes: Notes) -> None:
    """The toy set from scratch to its AP: as many of 1,800 steps as there is time for."""
    from tinymrcnn.bench import networks

    setting = setting_of(notes)
    (name,) = (name for name in networks.networks(notes.quick) if name.startswith("shapes"))
    step = networks.make_side("ours", networks.networks(notes.quick)[name], setting)
    notes["first_steps_seconds"] = first = [timed(step, setting) for _ in range(8)]
    del step
    each = statistics.median(first[3:])
    # half of the time is for the evaluation of 500 pictures, twice, and for pictures and checkpoints
    notes["steps"] = steps = 2 if notes.quick else max(STEPS_AT_LEAST, min(STEPS, int(notes.left / 2 / each)))
    images = "2" if notes.quick else str(TEST_IMAGES)
    small = ["--quick", "--batch-size", "1"] if notes.quick else []
    for field, value in networks.QUICK.items() if notes.quick else ():
        small += ["--set", f"{field}={value}"]
    run = notes.path.parent / "shapes_run"
    device = ["--device", setting.device]
    began = time.perf_counter()
    with fewer_test_images(notes.quick):
        command("train", "--steps", str(steps), "--out", str(run), *device, *small)
    notes["train_command_seconds"] = time.perf_counter() - began
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = sorted(line["seconds"] for line in log)
    notes["step_ms"] = {
        "median": 1e3 * statistics.median(seconds),
        "slowest": 1e3 * seconds[-1],
        "first": 1e3 * log[0]["seconds"],
    }
    notes["loss"] = [line["loss"] for line in log[:: max(1, len(log) // 20)]]
    notes["metrics"] = json.loads((run / "metrics.json").read_text())
    began = time.perf_counter()
    command("evaluate", str(run / "model.npz"), "--images", images, "--out", str(run / "evaluated.json"), *device)
    notes["evaluate_command_seconds"] = time.perf_counter() - began
    notes["evaluated"] = evaluated = json.loads((run / "evaluated.json").read_text())
    if not notes.quick and abs(evaluated["segm/AP"] - notes["metrics"]["metrics"]["segm/AP"]) > 0.005:
        notes.problem("evaluate finds another AP than train did.")
    if steps == STEPS and evaluated["segm/AP"] < 0.6:
        notes.problem(f"The mask AP is {evaluated['segm/AP']:.3f}; on a CPU it is 0.67.")
    (run / "predictions.png").replace(notes.path.parent / "predictions.png")
    for file in sorted(run.glob("*")):
        file.unlink()
    run.rmdir()


@contextlib.contextmanager
def fewer_test_images(few: bool):
    """--quick evaluates on 100 pictures; a rehearsal on two."""
    from tinymrcnn.commands import train as module

    before = module.QUICK_TEST_IMAGES
    module.QUICK_TEST_IMAGES = 2 if few else before
    try:
        yield
    finally:
        module.QUICK_TEST_IMAGES = before


def command(*arguments: str) -> None:
    """Run a command of ours. Raises RuntimeError where it fails."""
    from tinymrcnn.cli import main

    if code := main(list(arguments)):
        raise RuntimeError(f"tinymrcnn {' '.join(arguments)} ended with {code}.")


def timed(work, setting) -> float:
    setting.synchronize()
    began = time.perf_counter()
    work()
    setting.synchronize()
    return time.perf_counter() - began


def bench(notes: Notes) -> None:
    """`tinymrcnn bench`, group by group, and two rows more: inference without pasting, and with TF32."""
    setting, rows = setting_of(notes), {}
    for name in ("roi", "nms", "train", "model", "conv", "paste", "conv --tf32", "train --tf32", "model --tf32"):
        group, *more = name.split()
        if group in ("train", "model") and imitated(setting) or more and setting.device == "cpu":
            continue  # those measure memory in processes of their own
        path = notes.path.parent / f"bench_{group}.json"
        options = ["bench", group, *more, "--device", setting.device, "--out", str(path), *(["--quick"] * notes.quick)]
        try:
            command(*options)
            rows[name] = json.loads(path.read_text())["rows"]
        except Exception as error:
            notes.problem(f"bench {name}: {type(error).__name__}: {error}"[:500])
        path.unlink(missing_ok=True)
        notes["rows"] = rows
    notes.attempt("without_pasting", inference_without_pasting, setting, False)
    if setting.device != "cpu":
        notes.attempt("without_pasting_tf32", inference_without_pasting, setting, True)


def imitated(setting) -> bool:
    return hasattr(getattr(cupy_of(setting.device), "cuda", None), "imitated")


def inference_without_pasting(setting, with_tf32: bool) -> dict:
    """R50-FPN on one image, up to the masks of 28x28 on the host: milliseconds of each side. with_tf32: whether the
    products are computed with TF32, which `bench --tf32` leaves switched on."""
    from tinymrcnn.backend import tf32
    from tinymrcnn.bench import measure, networks

    measure.import_torch(setting.device, with_tf32)
    used = setting.device != "cpu" and tf32(with_tf32)
    name = next(iter(networks.networks(setting.quick)))
    network = networks.networks(setting.quick)[name]
    model, (images, _) = networks.build_ours(network).to(setting.device), network.batch()
    sides = {"ours": lambda: model.detect(images)}
    if setting.torch:
        torch = setting.torch
        theirs = networks.build_theirs(network.config, network.size)
        state = {key: torch.from_numpy(array) for key, array in networks.build_ours(network).state_dict().items()}
        theirs.load_state_dict(state, strict=False)
        theirs.to(setting.device).eval()
        theirs.transform.postprocess = lambda found, *sizes: found  # where torchvision pastes

        def infer():
            with torch.inference_mode():
                (found,) = theirs([setting.theirs(image) for image in images])
                return {key: tensor.cpu() for key, tensor in found.items()}

        sides["torchvision"] = infer
    timings = measure.time_sides(sides, setting)
    return {"name": name, "tf32": used, "ms": {side: 1e3 * timing.median for side, timing in timings.items()}}


def memory(notes: Notes) -> None:
    """What the networks hold on the device after 1, 2, 5 and 10 calls, ours and torchvision's; it should not grow."""
    from tinymrcnn.bench import networks

    setting, rows = setting_of(notes), {}
    pool = getattr(cupy_of(setting.device), "get_default_memory_pool", lambda: None)()
    for name, network in networks.networks(notes.quick).items():
        for side in networks.sides_of(setting):
            row = rows[f"{name}, {side}"] = {}
            work = networks.make_side(side, network, setting)
            for call in range(1, 3 if notes.quick else 11):
                work()
                if call in (1, 2, 5, 10):
                    setting.synchronize()
                    row[f"after {call}"] = held(side, setting, pool)
            del work
            if pool:
                pool.free_all_blocks()
            if setting.torch and setting.device == "cuda":
                setting.torch.cuda.empty_cache()
                setting.torch.cuda.reset_peak_memory_stats()
            notes["held_bytes"] = rows
            held_bytes = list(row.values())
            if not notes.quick and held_bytes[-1] > 1.1 * held_bytes[1] > 0:
                notes.problem(f"{name}, {side}: the memory grows from {held_bytes[1]} to {held_bytes[-1]} bytes.")


def held(side: str, setting, pool) -> int:
    from tinymrcnn.bench.memory import resident

    if setting.device == "cpu":
        return resident("VmRSS")
    return pool.total_bytes() if side == "ours" else setting.torch.cuda.memory_reserved()


def profile(notes: Notes) -> None:
    """What launches, copies and waits cost the host here, and how many of them the networks need.

    Of the networks: the time, how much of it the host needs, our launches, and every kernel and wait that CUDA's own
    profiler saw."""
    from tinymrcnn.bench import networks

    setting = setting_of(notes)
    if setting.device != "cpu":
        notes.attempt("host_microseconds", costs, setting)
    rows = {}
    for name, network in networks.networks(notes.quick).items():
        work = networks.make_side("ours", network, setting)
        for _ in range(1 if notes.quick else 3):
            work()
        row = rows[name] = {"ms": [1e3 * timed(work, setting) for _ in range(2 if notes.quick else 10)]}
        began = time.perf_counter()
        work()
        row["host_ms"] = 1e3 * (time.perf_counter() - began)
        setting.synchronize()
        if setting.device != "cpu":
            row["our_launches"] = launches_in(work, setting)
        notes["networks"] = rows
        notes.attempt(f"trace of {name}", trace, work, setting)
        del work


def costs(setting) -> dict:
    """Microseconds until the host can go on, and until the device has done it, of what a step does often."""
    import numpy as np

    from tinymrcnn.boxes.nms import overlaps_cuda
    from tinymrcnn.kernels import launch

    xp = cupy_of(setting.device)
    corners, starts, bits = xp.ones((4, 64), np.float32), xp.zeros(64, np.int64), xp.zeros((64, 1), np.uint64)
    ends = starts + 64
    a, b, big = (xp.ones(size, np.float32) for size in ((1000,), (64, 64), (1, 256, 200, 272)))
    mask, found = a > 2, {}
    works = {
        "a kernel of ours": lambda: launch(overlaps_cuda, 64, corners, starts, ends, np.float32(0.5), bits),
        "an addition": lambda: xp.add(a, a, out=a),
        "a product 64x64": lambda: b @ b,
        "an addition of 56 MB": lambda: xp.add(big, big, out=big),
        "a copy to the device": lambda: xp.asarray(np.zeros(1000, np.float32)),
        "a[mask], which waits": lambda: a[mask],
        "float(a[0]), which waits": lambda: float(a[0]),
    }
    for name, work in works.items():
        for _ in range(5):
            work()
        setting.synchronize()
        count = 3 if setting.quick else 200
        began = time.perf_counter()
        for _ in range(count):
            work()
        issued = time.perf_counter()
        setting.synchronize()
        done = time.perf_counter()
        found[name] = {"host": 1e6 * (issued - began) / count, "done": 1e6 * (done - began) / count}
    return found


def launches_in(work, setting) -> int:
    """How many kernels of our own a call launches."""
    driver, count = cupy_of(setting.device).cuda.driver, 0
    launch = driver.launchKernel

    def counting(*arguments):
        nonlocal count
        count += 1
        return launch(*arguments)

    driver.launchKernel = counting
    try:
        work()
    finally:
        driver.launchKernel = launch
    return count


def trace(work, setting):
    """Kernels, copies and waits of one call, as torch's profiler (CUPTI) sees those of the whole process."""
    if setting.torch is None or setting.device == "cpu":
        return "not measured: this needs torch with a GPU"
    from collections import Counter, defaultdict

    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    with recording(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        setting.torch.zeros(1, device="cuda")
        work()
        setting.synchronize()
    on_device, calls = defaultdict(lambda: [0, 0.0]), Counter()
    for event in record.profiler.kineto_results.events():
        if "CUDA" in str(event.device_type()):
            entry = on_device[event.name()[:100]]
            entry[0] += 1
            entry[1] += event.duration_ns() / 1e6
        elif event.name().startswith("cu"):
            calls[event.name()] += 1
    slowest = sorted(on_device.items(), key=lambda item: -item[1][1])
    return {
        "operations_on_the_device": sum(number for number, _ in on_device.values()),
        "device_ms": sum(total for _, total in on_device.values()),
        "slowest": [[name, number, round(total, 4)] for name, (number, total) in slowest[:30]],
        "calls_of_cuda": dict(calls.most_common(25)),
    }


STAGES = {stage.__name__: stage for stage in (environment, kernels, tests, train, bench, profile, memory, lessons)}


# The frame -----------------------------------------------------------------------------------------------


def run_stage(stage: str, out: str, device: str, quick: bool, seconds: float) -> Notes:
    """Run one stage in this process. device: "auto" does not run what needs a GPU where there is none."""
    from tinymrcnn.backend import cuda_problem

    problem = cuda_problem()
    used = {"auto": "cpu" if problem else "cuda"}.get(device, device)
    notes = Notes(Path(out) / f"{stage}.json", stage, used, quick, seconds)
    began = time.perf_counter()
    if device != "cpu" and problem and stage != "environment":
        notes["ok"], notes["not_run"] = None, f"no GPU: not run. {problem}"
        return notes
    try:
        if used == "cuda":
            name = cupy_of("cuda").cuda.runtime.getDeviceProperties(0)["name"]
            notes["gpu"] = name.decode() if isinstance(name, bytes) else name
        elif problem:
            notes["no_gpu"] = problem
        STAGES[stage](notes)
    except Exception as error:
        notes["error"] = traceback.format_exc()[-4000:]
        notes.problem(f"{type(error).__name__}: {error}"[:500])
    notes["seconds"] = round(time.perf_counter() - began, 1)
    return notes


def in_a_process(stage: str, out: str, device: str, quick: bool, seconds: float) -> dict:
    """run_stage() in a process of its own, which is ended after so many seconds, with all that it started."""
    path = Path(out) / f"{stage}.json"
    path.unlink(missing_ok=True)
    call = f"import first_run; first_run.run_stage{(stage, out, device, quick, seconds)!r}"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {call}"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, cwd=ROOT)
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        code = "no time left"
    found = json.loads(path.read_text()) if path.exists() else {"stage": stage, "problems": []}
    if "seconds" not in found and "not_run" not in found:  # it did not come to its end
        found |= {"ok": False, "problems": [*found["problems"], f"The process ended with {code}."]}
        path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def default_folder() -> Path:
    """data/results/gpu_DATE_DEVICE of this clone."""
    listed = said_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")[:1]
    name = "".join(letter if letter.isalnum() else "_" for letter in (listed or ["none"])[0].lower())
    return ROOT / "data" / "results" / f"gpu_{datetime.date.today().isoformat()}_{name[:40]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--out", help="the folder of the JSON files (default: data/results/gpu_DATE_DEVICE)")
    parser.add_argument("--minutes", type=float, default=9, help="for each stage, at most (default: 9)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="cpu: a rehearsal")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, no more")
    parser.add_argument("--here", action="store_true", help="in this process, with no limit of time")
    args = parser.parse_args(argv)
    if unknown := [stage for stage in args.stages if stage not in STAGES]:
        parser.error(f"there is no stage {unknown[0]!r}")
    out = Path(args.out).resolve() if args.out else default_folder()
    out.mkdir(parents=True, exist_ok=True)
    if Path("/usr/local/cuda").is_dir():
        os.environ.setdefault("CUDA_HOME", "/usr/local/cuda")  # where numba-cuda finds its compiler
    os.environ.setdefault("MPLBACKEND", "Agg")
    verdicts, seconds = [], 60 * args.minutes
    for stage in args.stages or STAGES:
        print(f"\n== {stage}: {STAGES[stage].__doc__.partition(chr(10))[0]}", flush=True)
        run = run_stage if args.here else in_a_process
        found = run(stage, str(out), args.device, args.quick, seconds)
        verdicts.append(found["ok"])
        print(found.get("not_run") or "\n".join(found["problems"]) or f"ok, {found['seconds']} s", flush=True)
    print(f"\nThe results are in {out}.")
    return int(False in verdicts)


if __name__ == "__main__":
    sys.exit(main())
