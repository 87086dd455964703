"""A run and its folder: how far it is, what is saved of it, how it resumes, and what it reports when it ends early."""

import dataclasses
import json
import logging
import traceback
from pathlib import Path
from typing import Any

from tinymrcnn.backend import to_device
from tinymrcnn.data.categories import listed
from tinymrcnn.files import printable, quoted, replacing, told
from tinymrcnn.models import TrainConfig
from tinymrcnn.nn import SGD, AdamW
from tinymrcnn.settings import flatten
from tinymrcnn.stopping import Stop, out_of_memory
from tinymrcnn.training.averaging import Average, averaged, start_average
from tinymrcnn.training.log import read_log
from tinymrcnn.training.parallel import ALONE, Workers
from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.weights import Checkpoint, environment, load_checkpoint, load_weights, save_checkpoint

CHECKPOINT, MODEL, BEST = "checkpoint.npz", "model.npz", "best.npz"
LOG, VALIDATION = "log.jsonl", "validation.jsonl"
logger = logging.getLogger("tinymrcnn")


@dataclasses.dataclass
class Run:
    """What a run works with, and how far it is: `done` steps are in the model, `saved` of them in the checkpoint.

    average: the moving average of the weights, where one is kept. validations: see validation.py."""

    out: Path
    model: Any
    optimizer: SGD | AdamW
    config: TrainConfig
    held_out: Any
    progress: bool
    done: int = 0
    saved: int = 0
    stop: Stop = dataclasses.field(default_factory=Stop)
    average: Average | None = None
    validations: list[dict] = dataclasses.field(default_factory=list)
    workers: Workers = ALONE  # the first of which alone writes

    def begin(self) -> None:
        """The first checkpoint of a new run."""
        self.average = start_average(self.model) if self.config.ema else None
        self.save()

    def save(self) -> None:
        """Write the checkpoint; signals wait until it is written."""
        if not self.workers.first:
            self.saved = self.done
            return
        with self.stop.writing():
            path = self.out / CHECKPOINT
            save_checkpoint(path, self.model, self.done, self.config, self.optimizer, self.average)
            self.saved = self.done

    def save_model(self, name: str) -> None:
        """Write what the run has learned as a finished model: the weights, or their average where one is kept."""
        if not self.workers.first:
            return
        with averaged(self.model, self.average), self.stop.writing():
            save_checkpoint(self.out / name, self.model, self.done)

    def note_validation(self, line: dict) -> None:
        """Add a line to the validations, and to their file."""
        self.validations.append(line)
        if not self.workers.first:
            return
        with replacing(self.out / VALIDATION) as file:
            file.writelines((json.dumps(each) + "\n").encode() for each in self.validations)

    def last_words(self, error: Exception) -> str:
        """Save what can be saved after an error. Returns what went wrong, where, what is saved, and how to go on."""
        where = f"in step {self.done}" if self.done < self.config.steps else "after the last step"
        expected = isinstance(error, ValueError | OSError | RuntimeError | MemoryError)
        what = told(error) if expected else f"{type(error).__name__}: {told(error)}"
        if out_of_memory(error):
            what += f" {self._how_to_need_less()}"
            traceback.clear_frames(error.__traceback__)  # what the step held is free for the saving
        if self.saved < self.done and not _came_through(error, type(self.optimizer).step):
            try:
                self.save()
            except (OSError, MemoryError) as second:
                what += f" The rest cannot be saved: {told(second)}" * (told(second) not in what)
        return f"Training stopped {where}: {what}\n{self.how_to_go_on()}"

    def _how_to_need_less(self) -> str:
        """What to change where the memory does not suffice."""
        batch, size = self.config.batch_size, self.model.config.transform.min_size
        if self.done == self.config.steps:
            return f"The model is trained: tinymrcnn evaluate {quoted(self.out / 'model.npz')} --batch-size 1"
        start = f", from what this one has learned: --weights {quoted(self.out / CHECKPOINT)}" if self.done else ""
        if batch > 1:
            return f"{batch} images are too many for a step: start a new run with --batch-size {batch // 2}{start}"
        if size:
            return f"One image is too large: start a new run with --set min_size={size * 3 // 4}{start}"
        return "One image is too large: give a new run smaller ones, or --device cpu, whose memory may be larger."

    def how_to_go_on(self) -> str:
        """How much is saved, and the line that resumes the run."""
        kept = " and" if self.saved == self.done else f", the first {self.saved} of them are"
        return (
            f"{self.done} of {self.config.steps} steps are done{kept} saved in '{printable(self.out)}'.\n"
            f"Resume with:  tinymrcnn train --resume {quoted(self.out)}"
        )


def _came_through(error: BaseException, function) -> bool:
    """Whether an error was raised within a function. An error within the optimiser's step leaves some
    parameters moved and some not; these must not be saved."""
    return any(frame.f_code is function.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


# Resuming ------------------------------------------------------------------------------------------------


def load_run(out) -> Checkpoint:
    """The checkpoint from which the run in a folder resumes. Raises as load_checkpoint does, and ValueError where
    it holds no optimiser."""
    checkpoint = load_checkpoint(Path(out) / CHECKPOINT)
    if checkpoint.train_config is None or checkpoint.optimizer is None:
        raise ValueError(f"'{Path(out) / CHECKPOINT}' is a finished model without an optimiser: no run can resume it.")
    return checkpoint


MAY_CHANGE = {"steps": None}  # when a run is resumed


def resume_run(run: Run) -> None:
    """Put model, optimiser and everything else of the run into the state of its checkpoint.

    The run may get more steps than it had. Raises ValueError where it gets fewer than are done, or anything else
    differs."""
    checkpoint, model, out = load_run(run.out), run.model, printable(run.out)
    for name, then, now in (
        ("Config", checkpoint.config, model.config),
        ("TrainConfig", checkpoint.train_config or TrainConfig(), run.config),
    ):
        if changed := _differences(flatten(then) | MAY_CHANGE, flatten(now) | MAY_CHANGE):
            raise ValueError(f"The run in '{out}' cannot be resumed with another {name}: {changed}.")
    names_then, names_now = ([category["name"] for category in c] for c in (checkpoint.categories, model.categories))
    if names_then != names_now:
        raise ValueError(
            f"The run in '{out}' learned the classes {listed(names_then)}, in this order; the data set now has "
            f"{listed(names_now)}: its labels would mean something else. Restore the data set, or start a new run with "
            f"--weights {quoted(run.out / CHECKPOINT)}."
        )
    load_weights(model, run.out / CHECKPOINT)
    run.optimizer.load_state_dict(checkpoint.optimizer or {})
    run.done = run.saved = checkpoint.step
    if checkpoint.average is not None:
        run.average = {name: to_device(array, model.device) for name, array in checkpoint.average.items()}
    if (path := run.out / VALIDATION).exists():
        run.validations = [line for line in read_log(path) if line["step"] <= run.done]
    assert checkpoint.train_config is not None  # load_run has checked this
    _tell_resumed(run, checkpoint.train_config)
    if changed := _differences(checkpoint.environment, {**environment(), "device": model.device}):
        logger.warning(
            "The run was saved in another environment (%s). It goes on, but will not end with the same bits as if it "
            "had not been interrupted.",
            changed,
        )


def _tell_resumed(run: Run, before: TrainConfig) -> None:
    """Say where the run goes on, and what it means that it has other steps than before."""
    out, done, steps = printable(run.out), run.done, run.config.steps
    if steps < done:
        raise ValueError(f"The run in '{out}' has done {done} steps already; it cannot end after {steps}.")
    if steps == before.steps:
        logger.info("Resuming '%s' after %d of %d steps.", out, done, steps)
        return
    logger.info(
        "Resuming '%s' after %d steps, now with %d in all; until now %d were planned. The learning rate follows the "
        "schedule of a run of %d steps from here on: the last step had %.2g, the next has %.2g.",
        out, done, steps, before.steps, steps,
        learning_rate(max(0, done - 1), before), learning_rate(min(done, steps - 1), run.config),
    )  # fmt: skip


def _differences(then: dict, now: dict) -> str:
    names = [name for name in now if then.get(name) != now[name]]
    return ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in names)
