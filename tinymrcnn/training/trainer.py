"""Training a model: the step, and around it the loop that logs, previews, saves and can be resumed.

The article trains with stochastic gradient descent on the sum of all losses (section 3.1, L = L_cls + L_box +
L_mask and the RPN's two). Every random choice is a function of (seed, step, image), so a run that was
interrupted and resumed ends with the same bits as one that was not. Lesson 10 goes through it.

What a run leaves in its folder:

    checkpoint.npz    model, optimiser and settings; resumes the run         metrics.json    COCO metrics
    model.npz         the finished model                                     curves.png      losses over time, and AP
    best.npz          the model that did best in a validation                predictions.png held-out images
    log.jsonl         one line a step                                        preview.png     held-out images so far
    validation.jsonl  one line a validation                                  augmented.png   one, as training sees it
"""

import contextlib
import datetime
import functools
import json
import logging
import math
import operator
import os
import signal
import time
from pathlib import Path

import numpy as np

from tinymrcnn.backend import array_module, to_numpy
from tinymrcnn.data import batches, map_categories
from tinymrcnn.data.loader import load_image
from tinymrcnn.draw import draw_curves, draw_grid, draw_instances, write_picture
from tinymrcnn.evaluation import evaluate
from tinymrcnn.files import locked, make_folder, printable, quoted, replacing, told
from tinymrcnn.models import TrainConfig
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.nn import SGD, AdamW, BatchNorm2d
from tinymrcnn.settings import AugmentSettings
from tinymrcnn.stopping import Interrupted, RunStopped, handling
from tinymrcnn.threads import one_blas_thread
from tinymrcnn.training import validation
from tinymrcnn.training.averaging import averaged, update_average
from tinymrcnn.training.log import keep_log, open_log, progress_bar, read_log, summary, write_line
from tinymrcnn.training.parallel import ALONE, Workers
from tinymrcnn.training.run import BEST, CHECKPOINT, LOG, MODEL, Run, load_run, resume_run
from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.weights import environment

PREVIEW_IMAGES, GRID_IMAGES, AUGMENTED_IMAGES = 4, 8, 11  # with the image as it is, three rows of four
logger = logging.getLogger("tinymrcnn")


def make_optimizer(model, config: TrainConfig) -> SGD | AdamW:
    """The optimiser of a run, over all parameters that are not frozen."""
    if config.optimizer == "sgd":
        return SGD(model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    return AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)


@one_blas_thread  # once, and not around each of a thousand products
def training_step(
    model, optimizer, step: int, images: list, targets: list, config: TrainConfig, workers: Workers = ALONE
) -> dict:
    """One step of gradient descent on one batch, of which several workers each get a share. Returns its line of the
    log: step, lr, loss (the sum) and each loss, gradient_norm (before clipping), and the numbers of positive anchors
    and RoIs.

    Raises FloatingPointError, naming the loss and the images, where a loss or the gradient is not finite; the
    parameters are as they were then."""
    optimizer.lr = learning_rate(step, config)
    optimizer.zero_grad()

    sums, samples = model.loss_sums(images, targets, step=step)
    losses = mean_losses(workers.counted(sums))
    total = functools.reduce(operator.add, losses.values())
    numbers = array_module(total.data).stack([total.data, *(loss.data for loss in losses.values())])
    numbers = to_numpy(numbers).tolist()  # the host waits for the losses
    values = dict(zip(["loss", *losses], workers.added(numbers), strict=True))
    if all(math.isfinite(value) for value in values.values()):
        with workers.adding(optimizer):
            total.backward()
        values["gradient_norm"] = optimizer.clip_grad_norm(config.clip_norm or math.inf)
    broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(f"{', '.join(broken)} on the images {[target['image_id'] for target in targets]}.")
    optimizer.step()
    counts = dict(zip(samples.counts, map(int, workers.added([*samples.counts.values()])), strict=True))
    return {"step": step, "lr": optimizer.lr, **values, **counts}


def train(
    model, dataset, config: TrainConfig | None = None, out="runs/train", held_out=None, *,
    resume: bool = False, progress: bool = True,
) -> dict:  # fmt: skip
    """Train the model, which may be new or hold weights already, and return the COCO metrics on `held_out`.

    dataset, held_out: see tinymrcnn.data; held_out may have the classes in another order, or some of them only; without
    it there are no previews, validations and metrics. out: the run's folder. resume: go on with the run in that folder,
    given the same model, data sets and config, of which `steps` may differ. progress: whether to show a progress bar.

    Ctrl-C, SIGTERM and SIGHUP end the run after the current step, save, and raise Interrupted, a KeyboardInterrupt,
    whose text says how to resume. Any other error between the steps saves too, where it can, and raises RunStopped, a
    RuntimeError, with the same text; a loss that is not finite raises FloatingPointError, naming the last good
    checkpoint. Before the first step: FileExistsError if `out` holds a run and resume is false, FileNotFoundError if
    resume is true and `out` holds none, RuntimeError where another run is in the folder, ValueError where model,
    config or classes are not those of the run, or held_out is empty or has classes of its own."""
    out = Path(out)
    check_held_out(dataset, held_out)
    if not resume:
        make_folder(out)
    elif not out.is_dir():
        load_run(out)  # raises if there is none
    with locked(out):
        return train_in(out, model, dataset, config or TrainConfig(), held_out, resume=resume, progress=progress)


def check_held_out(dataset, held_out) -> None:
    """Raise ValueError where a model of the data set's classes cannot be evaluated on the held-out images."""
    if held_out is None:
        return
    if len(held_out) == 0:
        raise ValueError("The held-out data set holds no image, so there is nothing to evaluate on.")
    try:
        map_categories(dataset.categories, held_out.categories)
    except ValueError as error:
        raise ValueError(f"The held-out images do not fit the training images. {error}") from error


def train_in(
    out: Path, model, dataset, config: TrainConfig, held_out, *, resume: bool, progress: bool, workers: Workers = ALONE
) -> dict:
    """What train() does, in a folder that the caller has locked; several workers call it together."""
    if config.batch_size < workers.size:
        raise ValueError(f"A batch of {config.batch_size} images is too small for {workers.size} workers.")
    model.categories, model.seed = dataset.categories, config.seed
    run = Run(out, model, make_optimizer(model, config), config, held_out, progress and workers.first, workers=workers)
    workers.connect(model, config.sync_norm)
    if resume:
        resume_run(run)
    elif workers.first and (out / CHECKPOINT).exists():
        raise FileExistsError(
            f"'{printable(out)}' holds a run already: resume it with --resume {quoted(out)}, or name another folder."
        )
    else:
        run.begin()
        if run.workers.first and config.augment != AugmentSettings():
            write_picture(out / "augmented.png", _augmented(dataset, config))
    if run.workers.first:
        keep_log(out / LOG, run.done)
    with handling(run.stop):
        try:
            _loop(run, dataset)
            return _finish(run)
        except KeyboardInterrupt:
            run.stop.no_more()
            signum = run.stop.signum or signal.SIGINT
            raise Interrupted(f"Interrupted. {run.how_to_go_on()}", signum) from None
        except FloatingPointError as error:
            raise FloatingPointError(
                f"Training stopped in step {run.done}: {error} The last good checkpoint is "
                f"'{printable(out / CHECKPOINT)}', after {run.saved} steps. A lower learning rate "
                "or a longer warm-up may help."
            ) from error
        except Exception as error:
            run.stop.no_more()
            raise RunStopped(run.last_words(error)) from error


def _loop(run: Run, dataset) -> None:
    """The steps that are not done yet, with log, checkpoints and previews."""
    model, optimizer, config, out, stop = run.model, run.optimizer, run.config, run.out, run.stop
    if _validate_if_due(run):
        return
    model.train()
    team = run.workers
    feed = batches(dataset, config.batch_size, run.done, config.steps, config.seed, config.flip, config.augment,
                   team.share)  # fmt: skip
    bar = progress_bar(run.done, config.steps, run.progress)
    with contextlib.closing(feed), bar, open_log(out / LOG if team.first else Path(os.devnull)) as log:
        began = time.perf_counter()
        for step, images, targets in feed:
            with _statistics_kept_on_error(model):
                line = training_step(model, optimizer, step, images, targets, config, team)
                team.average_statistics(model)
            if run.average is not None:
                update_average(run.average, model, config.ema, step)
            run.done = step + 1
            line["seconds"] = round(time.perf_counter() - began, 4)
            write_line(log, line)
            bar.set_description_str(summary(line), refresh=False)
            bar.update()
            stop.signum = team.any(stop.signum) or None
            if run.done % config.checkpoint_every == 0 or run.done == config.steps or stop.signum:
                run.save()
            if stop.signum:
                raise Interrupted
            if run.held_out is not None and team.first and run.done % config.preview_every == 0:
                _preview(run)
            if _validate_if_due(run):
                break
            began = time.perf_counter()


@contextlib.contextmanager
def _statistics_kept_on_error(model):
    """A failed step leaves the running statistics of batch normalisation unchanged, like the parameters, so that a run
    that is saved then goes on with the same bits."""
    layers = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
    before = [(layer.running_mean.copy(), layer.running_var.copy()) for layer in layers]
    try:
        yield
    except Exception:
        for layer, (mean, var) in zip(layers, before, strict=True):
            layer.running_mean[...], layer.running_var[...] = mean, var
        raise


def _validate_if_due(run: Run) -> bool:
    """Validate after every config.val_every steps, and keep the best model. Returns whether the run ends early."""
    every = run.config.val_every
    if run.held_out is None or not every or not run.done or run.done % every:
        return False
    if not run.validations or run.validations[-1]["step"] != run.done:
        line = run.workers.told(_validated(run))
        if all(validation.score(line) > validation.score(before) for before in run.validations):
            run.save_model(BEST)
        run.note_validation(line)
        if run.workers.first:
            logger.info(validation.in_words(run.validations))
    over = validation.is_over(run.validations, run.config.patience) and run.done < run.config.steps
    if over and run.workers.first:
        logger.info("The run ends after %d of %d steps: %d validations brought no better AP.", run.done,
                    run.config.steps, run.config.patience)  # fmt: skip
    return over


def _validated(run: Run) -> dict:
    """The line of a validation now."""
    some, size = validation.Some(run.held_out), run.config.batch_size
    with averaged(run.model, run.average):
        found = validation.validate(run.model, some, size, run.workers)
    return {"step": run.done, "images": len(some), **found}


def _preview(run: Run) -> None:
    """Draw the held-out images so far. A file that a viewer has locked is no reason to end a run."""
    with averaged(run.model, run.average):
        picture = _predictions(run.model, run.held_out, PREVIEW_IMAGES)
    try:
        write_picture(run.out / "preview.png", picture)
    except OSError as error:
        logger.warning("The preview after %d steps could not be written: %s", run.done, told(error))


def _augmented(dataset, config: TrainConfig):
    """The first image that has objects (of a few), as it is and as it is seen in so many steps."""
    index = next((i for i in range(min(10, len(dataset))) if len(dataset[i][1]["labels"])), 0)
    pairs = [dataset[index]]
    for step in range(AUGMENTED_IMAGES):
        pairs.append(load_image(dataset, index, step, config.seed, config.flip, config.augment))
    pictures = [draw_instances(image, target, dataset.categories, size=240) for image, target in pairs]
    return draw_grid([pictures[start : start + 4] for start in range(0, len(pictures), 4)])


def _finish(run: Run) -> dict:
    """Save the finished model, draw, and evaluate. Returns the metrics."""
    model, out, held_out = run.model, run.out, run.held_out
    run.stop.patience = 0  # no step can be cut short any more
    run.stop.raise_if_due()
    run.save_model(MODEL)
    if run.workers.first:
        write_picture(out / "curves.png", draw_curves(read_log(out / LOG), run.validations))
    if held_out is None:
        return {}
    with averaged(model, run.average):
        if run.workers.first:
            write_picture(out / "predictions.png", _predictions(model, held_out, GRID_IMAGES))
        batch_size = min(run.config.batch_size, validation.BATCH)
        metrics = _last_metrics(run) or evaluate(model, held_out, batch_size, run.progress, workers=run.workers)
    if not run.workers.first:
        return {}
    if run.validations and (best := validation.best_of(run.validations))["step"] != run.done:
        logger.info("The best validation was that after %d steps, AP %.3f: that model is in '%s'.",
                    best["step"], validation.score(best), printable(out / BEST))  # fmt: skip
    report = {
        "metrics": metrics,
        "images": len(held_out),
        "steps": run.done,
        "seed": run.config.seed,
        "training_seconds": round(sum(line["seconds"] for line in read_log(out / LOG)), 1),
        "device": model.device,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }
    with replacing(out / "metrics.json") as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    return metrics


def _last_metrics(run: Run) -> dict[str, float] | None:
    """The metrics of a validation after the last step, if that was on all held-out images."""
    last = run.validations[-1] if run.validations else {"step": 0}
    if last["step"] != run.done or last["images"] != len(run.held_out):
        return None
    return {name: value for name, value in last.items() if "/" in name}


def _predictions(model, held_out, count: int):
    """The first held-out images, ground truth and prediction side by side, two pairs a row; the classes of both under
    the model's labels and names."""
    labels = map_categories(model.categories, held_out.categories)
    pairs = []
    model.eval()
    try:
        for index in range(min(count, len(held_out))):
            image, target = held_out[index]
            truth = {**target, "labels": np.array([labels[label] for label in target["labels"].tolist()], np.int64)}
            (found,) = model([image])
            pairs.append([draw_instances(image, shown, model.categories, size=320) for shown in (truth, found)])
    finally:
        model.train()
    rows = [sum(pairs[start : start + 2], []) for start in range(0, len(pairs), 2)]
    return draw_grid(rows, ["ground truth", "prediction"] * (len(rows[0]) // 2))
