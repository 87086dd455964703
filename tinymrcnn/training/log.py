"""What a run reports while it runs: its log, one line of JSON a step, and its progress bar."""

import errno
import json
import os
import sys
from io import FileIO
from pathlib import Path

from tqdm import tqdm

from tinymrcnn.files import replacing

SHORT_NAMES = {
    "loss_objectness": "object",
    "loss_rpn_box_reg": "rpn-box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "loss_mask_classifier": "mask class",
}


def read_log(path) -> list[dict]:
    """The lines of a log.jsonl, up to the first that a crash left incomplete."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def keep_log(path: Path, steps: int) -> None:
    """Cut the log to the steps before `steps`: those after it will be done again."""
    lines = read_log(path) if path.exists() else []
    with replacing(path) as file:
        file.writelines((json.dumps(line) + "\n").encode() for line in lines if line["step"] < steps)


def open_log(path: Path) -> FileIO:
    """The log, to add lines to."""
    return open(path, "ab", buffering=0)


def write_line(log: FileIO, line: dict) -> None:
    """Add a line. Raises OSError, naming the file, where the disk is full."""
    text = (json.dumps(line) + "\n").encode()
    try:
        whole = log.write(text) == len(text)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(log.name)) from error
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.name))


def progress_bar(done: int, steps: int, shown: bool) -> tqdm:
    """The bar of a run; it draws nothing if `shown` is false or there is no stream to draw it on."""
    terminal = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(
        total=steps,
        initial=done,
        desc="first step; kernels that are new are compiled, once",
        disable=not shown or sys.stderr is None,
        dynamic_ncols=True,
        mininterval=0.5 if terminal else 30,  # a file needs no animation
        bar_format="{n}/{total} {bar:8} {elapsed}<{remaining}  {desc}",
    )


def summary(line: dict) -> str:
    """A line of the log in a few words."""
    losses = " ".join(f"{short} {line[name]:.2f}" for name, short in SHORT_NAMES.items() if name in line)
    return f"{losses} | positive: {line['positive_anchors']} anchors, {line['positive_rois']} RoIs"
