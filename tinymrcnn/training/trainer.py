"""Training a model: the step, and around it the loop that logs, previews, saves and can be resumed.

The article trains with stochastic gradient descent on the sum of all losses (section 3.1, L = L_cls + L_box +
L_mask and the RPN's two). Every random choice is a function of (seed, step, image), so a run that was
interrupted and resumed ends with the same bits as one that was not. Lesson 10 goes through it.

What a run leaves in its folder:

    checkpoint.npz    model, optimiser and settings; resumes the run         metrics.json    COCO metrics
    model.npz         the finished model                                     curves.png      losses over time
    log.jsonl         one line a step                                        predictions.png held-out images
    preview.png       held-out images so far
"""

import contextlib
import datetime
import functools
import json
import math
import operator
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from tqdm import tqdm

from tinymrcnn.data import batches
from tinymrcnn.draw import draw_curves, draw_grid, draw_instances, write_picture
from tinymrcnn.evaluation import evaluate
from tinymrcnn.files import replacing
from tinymrcnn.models import TrainConfig
from tinymrcnn.models.settings import flatten
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.nn import SGD, AdamW, clip_grad_norm
from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.weights import Checkpoint, environment, load_checkpoint, load_weights, save_checkpoint

CHECKPOINT, MODEL, LOG = "checkpoint.npz", "model.npz", "log.jsonl"
PREVIEW_IMAGES, GRID_IMAGES = 4, 8
SHORT_NAMES = {
    "loss_objectness": "object",
    "loss_rpn_box_reg": "rpn-box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}


def make_optimizer(model, config: TrainConfig):
    """The optimiser of a run, over all parameters that are not frozen."""
    if config.optimizer == "sgd":
        return SGD(model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    return AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)


def training_step(model, optimizer, step: int, images: list, targets: list, config: TrainConfig) -> dict:
    """One step of gradient descent on one batch. Returns its line of the log: step, lr, loss (the sum) and each
    loss, gradient_norm (before clipping), and the numbers of positive anchors and RoIs.

    Raises FloatingPointError, naming the loss and the images, where a loss or the gradient is not finite; the
    parameters are as they were then."""
    optimizer.lr = learning_rate(step, config)
    optimizer.zero_grad()

    sums, samples = model.loss_sums(images, targets, step=step)
    losses = mean_losses(sums)
    total = functools.reduce(operator.add, losses.values())
    values = {"loss": total.item(), **{name: loss.item() for name, loss in losses.items()}}
    if all(math.isfinite(value) for value in values.values()):
        total.backward()
        values["gradient_norm"] = clip_grad_norm(optimizer.parameters, config.clip_norm or math.inf)
    broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(f"{', '.join(broken)} on the images {[target['image_id'] for target in targets]}.")
    optimizer.step()
    return {"step": step, "lr": optimizer.lr, **values, **samples.counts}


def train(model, dataset, config: TrainConfig | None = None, out="runs/train", held_out=None, resume=False) -> dict:
    """Train the model, which may be new or hold weights already, and return the COCO metrics on `held_out`.

    dataset, held_out: see tinymrcnn.data; without held_out there are no previews and no metrics. out: the
    run's folder. resume: go on with the run in that folder, given the same model, data sets and config.

    Ctrl-C ends the run after the current step, saves, and raises KeyboardInterrupt, whose text says how to
    resume. Raises FileExistsError where `out` holds a run and resume is not asked for, FileNotFoundError where
    it is and there is none, ValueError where model or config are not those of the run, FloatingPointError,
    naming the last good checkpoint, where a loss is not finite."""
    config, out = config or TrainConfig(), Path(out)
    model.categories, model.seed = dataset.categories, config.seed
    optimizer = make_optimizer(model, config)
    if resume:
        start = _resume(model, optimizer, config, out)
    elif (out / CHECKPOINT).exists():
        raise FileExistsError(f"'{out}' holds a run already: resume it, or choose another folder.")
    else:
        start = 0
        out.mkdir(parents=True, exist_ok=True)
        save_checkpoint(out / CHECKPOINT, model, start, config, optimizer)
    _keep_log(out / LOG, start)
    try:
        _loop(model, optimizer, dataset, config, out, held_out, start)
        return _finish(model, config, out, held_out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted. {load_run(out).step} of {config.steps} steps are done and saved in '{out}'.\n"
            f"Resume with:  tinymrcnn train --resume {shlex.quote(str(out))}"
        ) from None
    except FloatingPointError as error:
        raise FloatingPointError(
            f"Training stopped in step {model.step}: {error} The last good checkpoint is '{out / CHECKPOINT}', after "
            f"{load_run(out).step} steps. A lower learning rate or a longer warm-up may help."
        ) from error


def _loop(model, optimizer, dataset, config: TrainConfig, out: Path, held_out, start: int) -> None:
    """The steps from `start` on, with log, checkpoints and previews."""
    model.train()
    feed = batches(dataset, config.batch_size, start, config.steps, config.seed, config.flip)
    with contextlib.closing(feed), _ctrl_c() as pressed, _bar(start, config.steps) as bar, _log(out / LOG) as log:
        began = time.perf_counter()
        for step, images, targets in feed:
            line = training_step(model, optimizer, step, images, targets, config)
            line["seconds"] = round(time.perf_counter() - began, 4)
            log.write(json.dumps(line) + "\n")
            bar.set_description_str(_summary(line), refresh=False)
            bar.update()
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps or pressed.is_set():
                save_checkpoint(out / CHECKPOINT, model, done, config, optimizer)
            if pressed.is_set():
                raise KeyboardInterrupt
            if held_out is not None and done % config.preview_every == 0:
                write_picture(out / "preview.png", _predictions(model, held_out, PREVIEW_IMAGES))
            began = time.perf_counter()


def _finish(model, config: TrainConfig, out: Path, held_out) -> dict:
    """Save the finished model, draw, and evaluate. Returns the metrics."""
    save_checkpoint(out / MODEL, model, config.steps)
    log = read_log(out / LOG)
    write_picture(out / "curves.png", draw_curves(log))
    if held_out is None:
        return {}
    write_picture(out / "predictions.png", _predictions(model, held_out, GRID_IMAGES))
    metrics = evaluate(model, held_out)
    report = {
        "metrics": metrics,
        "images": len(held_out),
        "steps": config.steps,
        "seed": config.seed,
        "training_seconds": round(sum(line["seconds"] for line in log), 1),
        "device": model.device,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }
    with replacing(out / "metrics.json") as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    return metrics


def _predictions(model, held_out, count: int):
    """The first held-out images, ground truth and prediction side by side, two pairs a row."""
    pairs = []
    model.eval()
    for index in range(min(count, len(held_out))):
        image, target = held_out[index]
        (found,) = model([image])
        pairs.append([draw_instances(image, shown, held_out.categories, size=320) for shown in (target, found)])
    model.train()
    rows = [sum(pairs[start : start + 2], []) for start in range(0, len(pairs), 2)]
    return draw_grid(rows, ["ground truth", "prediction"] * (len(rows[0]) // 2))


# Resuming ------------------------------------------------------------------------------------------------


def load_run(out) -> Checkpoint:
    """The checkpoint from which the run in a folder resumes. Raises as load_checkpoint does, and ValueError where
    it holds no optimiser."""
    checkpoint = load_checkpoint(Path(out) / CHECKPOINT)
    if checkpoint.train_config is None or checkpoint.optimizer is None:
        raise ValueError(f"'{Path(out) / CHECKPOINT}' is a finished model without an optimiser: no run can resume it.")
    return checkpoint


def _resume(model, optimizer, config: TrainConfig, out: Path) -> int:
    """Put model and optimiser into the state of the run's checkpoint. Returns the number of steps done."""
    checkpoint = load_run(out)
    for name, then, now in (
        ("Config", checkpoint.config, model.config),
        ("TrainConfig", checkpoint.train_config, config),
    ):
        if changed := _differences(flatten(then), flatten(now)):
            raise ValueError(f"The run in '{out}' cannot be resumed with another {name}: {changed}.")
    load_weights(model, out / CHECKPOINT)
    optimizer.load_state_dict(checkpoint.optimizer)
    print(f"Resuming '{out}' after {checkpoint.step} of {config.steps} steps.")
    if changed := _differences(checkpoint.environment, {**environment(), "device": model.device}):
        print(
            f"Note: the run was saved in another environment ({changed}). It goes on, but will not end with the "
            "same bits as if it had not been interrupted."
        )
    return checkpoint.step


def _differences(then: dict, now: dict) -> str:
    names = [name for name in now if then.get(name) != now[name]]
    return ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in names)


@contextlib.contextmanager
def _ctrl_c():
    """An Event that is set when Ctrl-C is pressed, so that a step is never torn; pressed again, it interrupts
    at once. In another thread than the main one signals cannot be caught, and the Event is never set."""
    pressed = threading.Event()

    def remember(signum, frame):
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# Log and progress ----------------------------------------------------------------------------------------


def read_log(path) -> list[dict]:
    """The lines of a log.jsonl, up to the first that a crash left incomplete."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _keep_log(path: Path, steps: int) -> None:
    """Cut the log to the steps before `steps`: those after it will be done again."""
    lines = read_log(path) if path.exists() else []
    with replacing(path) as file:
        file.writelines((json.dumps(line) + "\n").encode() for line in lines if line["step"] < steps)


def _log(path: Path):
    return open(path, "a", buffering=1, encoding="utf-8")  # every line is written when it ends


def _bar(done: int, steps: int) -> tqdm:
    return tqdm(
        total=steps,
        initial=done,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() or "ipykernel" in sys.modules else 30,  # a file needs no animation
        bar_format="{n}/{total} {bar:8} {elapsed}<{remaining}  {desc}",
    )


def _summary(line: dict) -> str:
    losses = " ".join(f"{short} {line[name]:.2f}" for name, short in SHORT_NAMES.items() if name in line)
    return f"{losses} | positive: {line['positive_anchors']} anchors, {line['positive_rois']} RoIs"
