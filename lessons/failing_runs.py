"""Short trainings on toy shapes, one healthy and the others with one fault each, for the gallery of lesson 10.

    python lessons/failing_runs.py

runs all of them (on two CPU cores in about twenty minutes) and stores their curves in
data/results/failing_runs.json. The pictures are square, so that boxes whose x and y are exchanged stay inside and
nothing refuses them.
"""

import datetime
import json
import math
from pathlib import Path

import numpy as np

import tinymrcnn
from tinymrcnn import no_grad
from tinymrcnn.backend import resolve_device
from tinymrcnn.data import ShapesDataset, batches
from tinymrcnn.evaluation import average_precision
from tinymrcnn.files import replacing
from tinymrcnn.models import TrainConfig, build_model
from tinymrcnn.models.two_stage import mean_losses
from tinymrcnn.training import freeze_stages, make_optimizer, training_step

HERE = Path(__file__).resolve().parent
STORED = HERE.parent / "data" / "results" / "failing_runs.json"
TRAINED = HERE.parent / "data" / "checkpoints" / "shapes.npz"
SIZE, STEPS, LOOK = (96, 96), 240, 40  # pixels; steps of a run; steps from one look at held-out pictures to the next
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]

# What is wrong in each run: its settings, and what happens to its targets or its model. None of them raises an error.
FAULTS = {
    "nothing": {},
    "the rate is too high": {"lr": 0.03},
    "the rate is too low": {"lr": 1e-5},
    "no warm-up": {"lr": 5e-3, "warmup_steps": 0},
    "the gradients are never cleared": {},
    "the whole backbone is frozen": {},
    "eight pictures, again and again": {"flip": False},
    "boxes as y1, x1, y2, x2": {},
    "labels shifted by one": {},
    "pixels from 0 to 255": {},
}
FINE_TUNED = ("labels shifted by one", "pixels from 0 to 255")  # these begin with the trained weights, at a tenth of lr


def spoiled(name, target):
    """The target as the run with this fault sees it."""
    if name == "boxes as y1, x1, y2, x2":
        return {**target, "boxes": target["boxes"][:, [1, 0, 3, 2]].copy()}
    if name == "labels shifted by one":
        return {**target, "labels": target["labels"] % 5 + 1}
    return target


def model_of(name, seed):
    """The model with which a run begins."""
    if name in FINE_TUNED:
        model = tinymrcnn.load_model(TRAINED).train()
    else:
        model = build_model("shapes", seed=seed)
    if name == "the whole backbone is frozen":
        freeze_stages(model, 5)
    if name == "pixels from 0 to 255":
        model.config = tinymrcnn.settings.replace(model.config, pixel_scale=255.0)
    return model.to(resolve_device("auto"))


def held_out_losses(model, pictures):
    """The five losses on pictures that are not trained on, with their right targets, as the model is in eval mode."""
    images, targets = map(list, zip(*pictures, strict=True))
    model.eval()
    with no_grad():
        losses = mean_losses(model.loss_sums(images, targets)[0])
    model.train()
    return [losses[name].item() for name in LOSSES]


def short_run(name="nothing", seed=0, steps=STEPS):
    """The first `steps` of a run of STEPS batches of four pictures with one of the FAULTS. Returns lists of numbers:

    "training" (steps, 5), the LOSSES of each batch; "gradient" (steps,), the gradient's length before clipping;
    "at" (L,), the steps before which held-out pictures were looked at, and "held_out" (L, 5), their losses; and one
    number, "AP50" of the boxes on 24 held-out pictures at the end."""
    fine = name in FINE_TUNED
    usual = {"lr": 1e-4 if fine else 1e-3, "warmup_steps": 30}
    config = TrainConfig(steps=STEPS, batch_size=4, seed=seed, **(usual | FAULTS[name]))
    train_set = ShapesDataset(8 if name.startswith("eight") else 4000, SIZE, seed=0)
    pictures = list(ShapesDataset(24, SIZE, seed=1))
    model = model_of(name, seed)
    optimizer = make_optimizer(model, config)
    if name == "the gradients are never cleared":
        optimizer.zero_grad = lambda: None
    run = {"training": [], "gradient": [], "at": [], "held_out": []}
    for step, images, targets in batches(train_set, config.batch_size, 0, steps, config.seed, config.flip):
        if step % LOOK == 0:
            run["at"].append(step)
            run["held_out"].append(held_out_losses(model, pictures[:12]))
        line = training_step(model, optimizer, step, images, [spoiled(name, t) for t in targets], config)
        run["training"].append([line[loss] for loss in LOSSES])
        run["gradient"].append(line["gradient_norm"])
    run["at"].append(steps)
    run["held_out"].append(held_out_losses(model, pictures[:12]))
    images, targets = map(list, zip(*pictures, strict=True))
    run["AP50"] = average_precision(targets, model.eval()(images))["AP50"]
    return run


def significant(value, digits=4):
    """The numbers of a nested list, in a few digits, so that the file stays small."""
    if isinstance(value, list):
        return [significant(part, digits) for part in value]
    return value if isinstance(value, int) or not math.isfinite(value) else float(f"{value:.{digits - 1}e}")


def main():
    runs = {}
    for name in FAULTS:
        runs[name] = {key: significant(value) for key, value in short_run(name).items()}
        print(
            f"{name:32} loss {np.sum(runs[name]['training'][-20:]) / 20:6.3f}  AP50 {runs[name]['AP50']:.3f}",
            flush=True,
        )
    for seed in (1, 2):
        runs[f"nothing, seed {seed}"] = {key: significant(value) for key, value in short_run(seed=seed).items()}
    made = {
        "command": "python lessons/failing_runs.py",
        "device": resolve_device("auto"),
        "date": datetime.date.today().isoformat(),
        "seed": 0,
        "losses": LOSSES,
        "runs": runs,
    }
    with replacing(STORED) as file:
        file.write(json.dumps(made).encode())


if __name__ == "__main__":
    main()
