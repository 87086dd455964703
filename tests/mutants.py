"""Mutation testing: would the tests notice a bug? Each mutant of mutants.toml is a small change of one file of the
package, put into a copy of the repository, where the tests run that should see it.

    python tests/mutants.py                    all of them, two at a time
    python tests/mutants.py roi loader.flip    those whose names begin so: roi_align.taps, loader.flip_boxes, ...
    python tests/mutants.py --list

A mutant is killed when a test fails, and has survived when none does: then a test is missing. One is stale when its old
text does not stand exactly once in its file. Results are kept in runs/mutants.json, so that the next call goes on, and
runs again only those that have survived, or whose file or tests have changed since. Ends with 1 where a mutant has
survived or is stale.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
PARTS = ("tinymrcnn", "tests", "data", "lessons", "pyproject.toml", "README.md", "LICENSE")
RESULTS = CLONE / "runs" / "mutants.json"
SECONDS = 900  # after which a mutant that hangs counts as killed
WHOLE = "the tests as they are"


@dataclass(frozen=True)
class Mutant:
    name: str  # of the file, and its own: nms.strict
    file: str
    old: str
    new: str
    tests: str  # arguments of pytest, in tests/
    reason: str = ""  # why no test can notice it

    def stale(self) -> str:
        """Why it cannot be made, or nothing."""
        path = CLONE / "tinymrcnn" / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        count = path.read_text(encoding="utf-8").count(self.old)
        return "" if count == 1 else f"its old text stands {count} times in {self.file}"

    def key(self) -> str:
        """Changes when the mutant, its file or its tests change."""
        digest = hashlib.sha256(repr(self).encode())
        tests = [CLONE / "tests" / part for part in self.tests.split() if part.endswith(".py")]
        for path in [CLONE / "tinymrcnn" / self.file, CLONE / "tests" / "conftest.py", *tests]:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def read_mutants() -> list[Mutant]:
    """Those of mutants.toml: a table for every file of the package, in which `tests` says which tests should see its
    mutants, and each mutant is [old text, new text] or [old, new, "tests: ..."] or [old, new, "equivalent: ..."]."""
    mutants = []
    for file, table in tomllib.loads((CLONE / "tests" / "mutants.toml").read_text(encoding="utf-8")).items():
        tests = table.pop("tests")
        for name, (old, new, *rest) in table.items():
            kind, _, text = (rest[0] if rest else f"tests: {tests}").partition(": ")
            chosen = (text, "") if kind == "tests" else (tests, text)
            mutants.append(Mutant(f"{Path(file).stem}.{name}", file, old, new, *chosen))
    return mutants


def copy_of_the_clone(folder: Path) -> Path:
    for part in PARTS:
        if (CLONE / part).is_dir():
            shutil.copytree(CLONE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        else:
            shutil.copy(CLONE / part, folder)
    return folder


def run_tests(folder: Path, tests: str, cache: Path) -> tuple[int, str]:
    """pytest's exit code, and which test failed first."""
    variables = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *(f"tests/{part}" if part.endswith(".py") else part for part in tests.split())],
            cwd=folder, env=variables, capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"nothing ended within {SECONDS} seconds"
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, failed[0] if failed else (done.stdout + done.stderr).strip()[-300:]


def try_mutant(mutant: Mutant, folder: Path, cache: Path) -> dict:
    """{"result": "killed" or "survived" or "broken", "by": ..., "seconds": ...} of a mutant in a copy of the clone."""
    began, path = time.monotonic(), folder / "tinymrcnn" / mutant.file
    whole = path.read_text(encoding="utf-8")
    # compiled kernels are kept by the file that holds them, not by those whose functions they call
    own = Path(tempfile.mkdtemp(dir=folder)) if "kernel" in whole or "@scalar" in whole else cache
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, by = run_tests(folder, mutant.tests, own)
    finally:
        path.write_text(whole, encoding="utf-8")
        if own != cache:
            shutil.rmtree(own)
    result = {0: "survived", 4: "broken", 5: "broken"}.get(code, "killed")  # 4 and 5: pytest found no such test
    return {"result": result, "by": by if result != "survived" else "", "seconds": round(time.monotonic() - began, 1)}


def run_all(mutants: list[Mutant], processes: int, known: dict) -> dict:
    """{mutant's name: its result}; prints and keeps each as it comes."""
    results, todo = {}, []
    for mutant in mutants:
        if mutant.reason:
            results[mutant.name] = {"result": "equivalent", "by": mutant.reason}
        elif problem := mutant.stale():
            results[mutant.name] = {"result": "stale", "by": problem}
        # one that has survived runs again: its tests may call other files than those that are compared
        elif (last := known.get(mutant.name, {})).get("result") == "killed" and last["key"] == mutant.key():
            results[mutant.name] = known[mutant.name]
        else:
            todo.append(mutant)
    print(f"{len(mutants)} mutants: {len(todo)} to run, {len(mutants) - len(todo)} known, equivalent or stale")
    with tempfile.TemporaryDirectory() as scratch:
        copies: queue.Queue = queue.Queue()
        for number in range(processes):
            (folder := Path(scratch) / str(number)).mkdir()
            copies.put((copy_of_the_clone(folder), Path(scratch) / f"cache{number}"))

        def work(mutant: Mutant) -> None:
            folder, cache = copies.get()
            try:
                code, by = whole_runs(folder, cache, mutant.tests)
                found = try_mutant(mutant, folder, cache) if code == 0 else {"result": "broken", "by": f"{WHOLE}: {by}"}
            finally:
                copies.put((folder, cache))
            results[mutant.name] = found | {"key": mutant.key()}
            print(f"{found['result']:<9} {mutant.name:<44} {found['by']}", flush=True)
            if found["result"] != "broken":
                known[mutant.name] = results[mutant.name]
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(known, indent=1), encoding="utf-8")

        whole: dict[str, tuple[int, str]] = {}

        def whole_runs(folder: Path, cache: Path, tests: str) -> tuple[int, str]:
            if tests not in whole:
                whole[tests] = run_tests(folder, tests, cache)
            return whole[tests]

        with concurrent.futures.ThreadPoolExecutor(processes) as pool:
            for future in [pool.submit(work, mutant) for mutant in todo]:
                future.result()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names (default: all)")
    parser.add_argument("--list", action="store_true", help="print them, and those that are stale, and run nothing")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="(default: 2)")
    args = parser.parse_args()
    mutants = [m for m in read_mutants() if not args.names or m.name.startswith(tuple(args.names))]
    if args.list:
        for mutant in mutants:
            print(f"{mutant.name:<44} {mutant.stale() or mutant.reason or mutant.tests}")
        return 0
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results = run_all(mutants, args.processes, known)
    of = {kind: [name for name, found in results.items() if found["result"] == kind] for kind in KINDS}
    for kind in ("survived", "stale", "broken", "equivalent"):
        for name in of[kind]:
            print(f"{kind:<10} {name:<44} {results[name]['by']}")
    tried = len(of["killed"]) + len(of["survived"])
    score = f"{100 * len(of['killed']) / tried:.0f} %" if tried else "none tried"
    print(f"\nScore: {score}. " + ", ".join(f"{len(of[kind])} {kind}" for kind in KINDS))
    return 1 if of["survived"] or of["stale"] or of["broken"] else 0


KINDS = ("killed", "survived", "stale", "broken", "equivalent")

if __name__ == "__main__":
    sys.exit(main())
