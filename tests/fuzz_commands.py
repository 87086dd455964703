"""The command line that the fuzzer (fuzz.py) is set on: any options, and runs that are resumed from damaged files."""

import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from fuzz_damage import ARRAY_EDITS, BYTE_EDITS, JSON_EDITS, Context, Lost, Target, spoil_bytes, spoil_json
from fuzz_readers import small_data_set, write_spoilt_checkpoint
from hypothesis import strategies as st
from tiny_models import tiny_model
from weight_files import tensors, write_legacy

from tinymrcnn.cli import main
from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import Config, TrainConfig, list_presets
from tinymrcnn.settings import field_names
from tinymrcnn.weights import save_checkpoint


def told(argv) -> str | None:
    """Run a command. Returns its error, or None where it worked or was interrupted."""
    errors, before = io.StringIO(), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = io.StringIO(), errors
    try:
        code = main(argv)
    except SystemExit as exit:
        code = exit.code
    finally:
        sys.stdout, sys.stderr = before
    text = errors.getvalue()
    if code in (None, 0, 130):
        return None
    told = [line for line in text.splitlines() if "error: " in line or "skipped" in line]  # a table may follow
    last = (told or text.splitlines() or [""])[-1]
    if "memory does not suffice" in text:
        raise MemoryError(last)
    sentence = told and len(last.split()) >= 5
    # a Ctrl-C that comes within a destructor is printed as "Exception ignored in"
    unexpected = "Traceback" in text and "Exception ignored in" not in text
    if code not in (1, 2) or unexpected or "Something unexpected" in text or not sentence:
        raise AssertionError(f"exit code {code}, and what is told is {last!a:.200}")
    return text


def fresh(context: Context) -> Path:
    """The working folder with nothing but the base files."""
    os.chdir(context.folder)
    shutil.rmtree("work", ignore_errors=True)
    shutil.copytree("base", "work", symlinks=True)
    os.chdir("work")
    return Path.cwd()


def prepare_commands(folder: Path) -> Context:
    base = folder / "base"
    small_data_set(base / "set")
    model = tiny_model(seed=1, num_classes=3, rpn_samples=16, box_samples=8, rpn_pre_nms_train=50, rpn_pre_nms_test=50)
    model.categories = ShapesDataset.categories[:2]
    os.chdir(base)
    save_checkpoint("tiny.npz", model)
    write_legacy(Path("w.pth"), tensors(model.state_dict()))
    Path("note.txt").write_text("Mine.")
    data = ["set/images", "set/annotations.json"]
    steps = ["--steps", "2", "--batch-size", "1", "--set", "checkpoint_every=1", "--device", "cpu"]
    argv = ["train", "--weights", "tiny.npz", "--data", *data, "--val", *data, *steps, "--out", "run"]
    assert told(argv) is None
    context = Context(folder, "")
    write_spoilt_checkpoint(Path("run/checkpoint.npz"), one_step_less(dict(np.load("run/checkpoint.npz"))), [], [])
    source = json.loads(Path("run/data.json").read_text().replace(str(base), "."))  # the copies use their own
    Path("run/data.json").write_text(json.dumps(source))
    context.base, context.more = dict(np.load("run/checkpoint.npz")), source
    fresh(context)
    assert told(["train", "--resume", "run", "--device", "cpu"]) is None
    assert told(["predict", "set/images", "--weights", "tiny.npz"]) is None
    assert told(["evaluate", "tiny.npz", "--data", *data]) is None
    return context


def one_step_less(arrays: dict) -> dict:
    metadata = json.loads(arrays["metadata"].item())
    metadata["step"] -= 1
    return {**arrays, "metadata": np.array(json.dumps(metadata))}


def run_resume(context: Context, example) -> str | None:
    edits, array_edits, source_edits, log_edits = example
    fresh(context)
    write_spoilt_checkpoint(Path("run/checkpoint.npz"), context.base, edits, array_edits)
    Path("run/data.json").write_text(json.dumps(spoil_json(context.more, source_edits)))
    Path("run/log.jsonl").write_bytes(spoil_bytes(Path("run/log.jsonl").read_bytes(), log_edits))
    return told(["train", "--resume", "run", "--device", "cpu"])


PATHS = st.sampled_from([
    "set/images", "set/annotations.json", "tiny.npz", "run", "note.txt", "w.pth", "absent", "absent/too", "", "out",
    "/dev/null", "set/images/000000.png", "run/model.npz", "run/log.jsonl", "*.png", "set/*", "[", "out\x1b[2J",
    "\udcff", "x" * 300, ".", "..",
])  # fmt: skip
COUNTS = st.sampled_from(["0", "1", "2", "-1", "5", "1000000000", "9" * 25, "1.5", "nan", "abc", ""])
NAMES = {*field_names(Config), *field_names(TrainConfig), "rpn", "nms", "roi_op", "mask_loss", "no_such", ""}
FIELDS = st.sampled_from(sorted(NAMES))
SETTINGS = st.sampled_from([
    "0", "1", "-1", "2", "0.5", "1e9", "10**9", "1000000000", "nan", "inf", "None", "true", "()", "(1,)", "(0,0,0,0)",
    "(1,1,1,1)", "('a','b','c','d')", "((8,),(16,),(32,),(64,))", "rgb", "abc", "", "[", "(((", "{}",
    "__import__('os').getpid()",
])  # fmt: skip
PRESETS = st.sampled_from([*list_presets()[-3:], "shapes", "no_such", ""])
DEVICES = st.sampled_from(["cpu", "cpu", "cpu", "auto", "cuda", "tpu"])


def option(name: str, *values) -> st.SearchStrategy:
    return st.tuples(st.just(name), *values).map(list)


def some(*options) -> st.SearchStrategy:
    return st.lists(st.one_of(*options), max_size=3).map(lambda chosen: sum(chosen, []))


DATA = [["--data", "set/images", "set/annotations.json", "--val", "set/images", "set/annotations.json"], []]
START = [["--weights", "tiny.npz"], ["--weights", "tiny.npz"], ["--set", "widths=(4,4,8,8)"]]
SETS = st.tuples(FIELDS, SETTINGS).map(lambda pair: ["--set", "=".join(pair)])
DEVICE = option("--device", DEVICES)
COMMANDS = st.one_of(
    st.tuples(
        st.just(["train", "--steps", "1", "--batch-size", "1"]), st.sampled_from(START), st.sampled_from(DATA),
        some(SETS, SETS, option("--data", PATHS, PATHS), option("--val", PATHS, PATHS), option("--weights", PATHS),
             option("--preset", PRESETS), option("--out", PATHS), option("--resume", PATHS), option("--steps", COUNTS),
             option("--batch-size", COUNTS), option("--seed", COUNTS), option("--freeze-at", COUNTS),
             option("--quick"), DEVICE),
    ),
    st.tuples(
        st.just(["evaluate", "--images", "1"]), st.lists(PATHS, max_size=1), st.sampled_from([DATA[0][:3], []]),
        some(option("--data", PATHS, PATHS), option("--images", COUNTS), option("--out", PATHS), DEVICE),
    ),
    st.tuples(
        st.just(["predict"]), st.lists(PATHS, max_size=2), st.sampled_from([START[0], []]),
        some(option("--weights", PATHS), option("--preset", PRESETS), option("--threshold", COUNTS),
             option("--out", PATHS), DEVICE),
    ),
    st.tuples(
        st.just(["data", "shapes", "--num", "1"]), some(option("--out", PATHS)),
        some(option("--num", COUNTS), option("--size", COUNTS), option("--size", COUNTS, COUNTS),
             option("--seed", COUNTS), option("--crowded"), option("--crowded", COUNTS)),
    ),
    st.tuples(
        st.just(["reproduce"]), st.sampled_from([["list"], ["report"], ["coco"], ["no_such"]]),
        st.lists(PATHS, max_size=1),
        some(st.just(["--quick"]), option("--processes", COUNTS), option("--out", PATHS), DEVICE),
    ),
    st.tuples(st.sampled_from([["models"], ["no_such"], ["--version"], []]), some(SETS)),
).map(lambda parts: sum(parts, []))  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_command(context: Context, argv) -> str | None:
    before = contents(fresh(context))
    try:
        return told(argv)
    finally:
        after = contents(context.folder / "work")
        ours = () if "--resume" not in argv else ("run/",)
        changed = [name for name in before if after.get(name) != before[name] and not name.startswith(ours)]
        if changed:
            raise Lost(f"{changed[0]} was changed")


RESUMED = st.tuples(JSON_EDITS, st.just([]) | ARRAY_EDITS, st.just([]) | JSON_EDITS, st.just([]) | BYTE_EDITS)
COMMAND_LINES = {
    "resume": Target(prepare_commands, run_resume, RESUMED, True),
    "command": Target(prepare_commands, run_command, COMMANDS, True),
}
