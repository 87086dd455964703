"""Kill or stop workers of real training runs, and see what is left.

    python tests/lost_workers.py --workers 3 --times 20

Every trial starts a run under mpiexec, sends a signal to one worker at a random moment behind the first checkpoint,
waits for the run to end, and goes on with --resume and another number of workers. It holds that the run ends within a
minute and names the worker, that no step that was saved is lost, and that the log of the resumed run holds every step
once. test_parallel.py makes a few trials.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinymrcnn.weights import load_checkpoint

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
# Open MPI refuses to run as root, and more processes than cores, unless it is told
ALLOWED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
EVERY, STEPS = 5, 100_000  # steps from one checkpoint to the next; more than any trial takes
SMALL = [
    "resnet.depths=(1,1,1,1)", "resnet.widths=(8,8,8,16)", "resnet.stem_width=8", "fpn.channels=8", "rpn.channels=8",
    "box.hidden=16", "mask.layers=(8,)", "mask.channels=8", f"checkpoint_every={EVERY}", f"preview_every={STEPS}",
]  # fmt: skip
LIMIT = 60  # seconds


def training(workers: int, *arguments, mpi=()) -> list[str]:
    return [MPIEXEC, *mpi, "-n", str(workers), sys.executable, "-m", "tinymrcnn", "train", *map(str, arguments)]


def new_run(out: Path, data: Path) -> list:
    settings = [word for pair in SMALL for word in ("--set", pair)]
    return ["--preset", "shapes", "--data", data, "--batch-size", 4, "--steps", STEPS, "--val-every", 0, "--device",
            "cpu", *settings, "--out", out]  # fmt: skip


def pid_of(out: Path, rank: int) -> int:
    """The process of the run in that folder which has this rank."""
    for process in Path("/proc").iterdir():
        try:
            of_run = os.fsencode(out) in (process / "cmdline").read_bytes().split(b"\0")
            if of_run and f"OMPI_COMM_WORLD_RANK={rank}".encode() in (process / "environ").read_bytes().split(b"\0"):
                return int(process.name)
        except OSError:  # it is no process, or has ended
            continue
    raise ProcessLookupError(f"There is no worker {rank} of '{out}'.")


def steps_of(out: Path) -> list[int]:
    lines = (out / "log.jsonl").read_text().splitlines() if (out / "log.jsonl").exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def trial(folder: Path, workers: int, rank: int, number: int, signum: int, mpi=()) -> dict:
    """Lose a worker of a run, and resume the run. Returns what was seen; see the top."""
    chance = random.Random(f"{workers} {rank} {number} {signum}")
    out, data = folder / "run", folder / "data"
    environment = os.environ | ALLOWED | ONE_THREAD
    if not data.exists():
        made = [sys.executable, "-m", "tinymrcnn", "data", "shapes", "--out", data, "--num", "16", "--size", "64", "96"]
        subprocess.run(list(map(str, made)), check=True, capture_output=True)
    with open(folder / "said.txt", "w+") as said:
        run = subprocess.Popen(
            training(workers, *new_run(out, data), mpi=mpi), env=environment, stdout=said, stderr=said
        )
        until = EVERY + chance.randrange(20)
        while len(steps_of(out)) < until:
            if run.poll() is not None:
                raise RuntimeError(f"The run ended too early: {(folder / 'said.txt').read_text()}")
            time.sleep(0.02)
        time.sleep(chance.random() / 5)
        saved = load_checkpoint(out / "checkpoint.npz").step
        began = time.monotonic()
        os.kill(pid_of(out, rank), signum)
        run.wait(10 * LIMIT)
        seconds = time.monotonic() - began
    text = (folder / "said.txt").read_text()
    # mpiexec counts ranks; what is stopped is named by the others
    named = f"process rank {rank} with PID" in text if signum == signal.SIGKILL else f"worker {rank} (" in text
    kept = load_checkpoint(out / "checkpoint.npz").step
    others = chance.choice([count for count in range(1, workers + 2) if count != workers])
    more = ["--resume", out, "--steps", kept + 7, "--device", "cpu"]
    how = training(others, *more, mpi=mpi) if others > 1 else training(1, *more)[3:]
    resumed = subprocess.run(how, env=environment, capture_output=True, text=True, timeout=10 * LIMIT)
    seen = {
        "hosts": 2 if "PRTE_MCA_prte_default_hostfile" in environment else 1,  # see two_hosts.py
        "workers": workers,
        "rank": rank,
        "signal": signal.Signals(signum).name,
        "seconds": round(seconds, 1),
        "named": named,
        "saved": saved,
        "kept": kept,
        "resumed_by": others,
        "resumed": resumed.returncode == 0 and steps_of(out) == list(range(kept + 7)),
    }
    seen["right"] = seconds <= LIMIT and run.returncode != 0 and named and kept >= saved and seen["resumed"]
    if not seen["right"]:
        seen["said"] = text[-2000:] + resumed.stderr[-2000:]
    shutil.rmtree(out)
    return seen


def summary(trials: list[dict]) -> str:
    """A table, in Markdown."""
    lines = ["| what | where | trials | the run ended within | named | resumed | saved steps lost |", "|---" * 7 + "|"]
    kinds = dict.fromkeys((each["signal"], each["workers"], each["hosts"]) for each in trials)
    for name, workers, hosts in kinds:
        some = [each for each in trials if (each["signal"], each["workers"], each["hosts"]) == (name, workers, hosts)]
        what = "killed (`kill -9`)" if name == "SIGKILL" else "stopped (`kill -STOP`)"
        where = f"one of {workers} workers" + f" on {hosts} hosts" * (hosts > 1)
        named, resumed, lost = (
            sum(map(bool, column))
            for column in zip(*((e["named"], e["resumed"], e["kept"] < e["saved"]) for e in some), strict=True)
        )
        slowest = max(each["seconds"] for each in some)
        lines.append(f"| {what} | {where} | {len(some)} | {slowest} s | {named} | {resumed} | {lost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--times", type=int, default=20, help="for each worker")
    parser.add_argument("--signal", default="KILL", choices=("KILL", "STOP"))
    parser.add_argument("--mpi", default="", help="more words for mpiexec")
    parser.add_argument("--out", help="a JSON file, to which the trials are added")
    options = parser.parse_args()
    signum, seen = signal.Signals[f"SIG{options.signal}"], []
    earlier = json.loads(Path(options.out).read_text())["trials"] if options.out and Path(options.out).exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.times):
            for rank in range(options.workers):
                seen.append(trial(Path(folder), options.workers, rank, number, signum, options.mpi.split()))
                print(json.dumps(seen[-1]), flush=True)
                if options.out:
                    found = {"date": datetime.date.today().isoformat(), "trials": earlier + seen}
                    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    print(summary(seen))


if __name__ == "__main__":
    main()
