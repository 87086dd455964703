"""What `tinymrcnn train` does with its options: the model, the settings, the data and the folder of a run.

A new run takes them from the options and notes in data.json where its data come from and what it started with; a
resumed one takes them from its folder. Fine-tuning (lesson 15): --weights, and with it --freeze-at.
"""

import ast
import dataclasses
import json
import types
import typing
from pathlib import Path

from tinymrcnn.data import CocoDataset, ShapesDataset
from tinymrcnn.models import Config, MaskRCNN, TrainConfig, build_model
from tinymrcnn.models.config import replace
from tinymrcnn.models.presets import get_config
from tinymrcnn.training.freezing import freeze_stages
from tinymrcnn.training.trainer import CHECKPOINT, load_run, train
from tinymrcnn.weights import load_checkpoint, load_weights

TRAIN_IMAGES, TEST_IMAGES = 20_000, 500  # shapes with the seeds 0 and 1; 1,800 steps of 8 see most of them once
QUICK = {"steps": 300, "warmup_steps": 30, "checkpoint_every": 50, "preview_every": 50}
QUICK_TEST_IMAGES = 100
FULL_SIZE = {"batch_size": 2}  # as in the paper, on each of its GPUs
FINE_TUNING = {"lr": 1e-4}  # good weights need small steps


def run_training(args) -> tuple[Path, dict, int]:
    """Train as the options say. Returns the run's folder, the metrics, and on how many images they were taken.

    Raises ValueError or OSError for options, data or folders that do not fit, and as train() does."""
    model, config, dataset, held_out, out = _resumed_run(args) if args.resume else _new_run(args)
    model.to(args.device)
    parameters = sum(parameter.size for parameter in model.parameters())
    frozen = parameters - sum(parameter.size for parameter in model.parameters() if parameter.requires_grad)
    size = f"{parameters:,} parameters" + (f", {frozen:,} of them frozen" if frozen else "")
    shows = f"; '{out / 'preview.png'}' shows what it has learned so far" * (config.preview_every <= config.steps)
    print(
        f"Training '{model.config.preset}' ({size}) on the {model.device}: {config.steps} steps "
        f"of {config.batch_size} images out of {len(dataset)}, seed {config.seed}.\nEverything goes to '{out}'{shows}."
    )
    if args.quick:
        print(f"Quick: a first impression after {config.steps} steps, evaluated on {len(held_out)} images only.")
    return out, train(model, dataset, config, out, held_out, resume=bool(args.resume)), len(held_out)


def _new_run(args):
    if bool(args.data) != bool(args.val):
        raise ValueError("--data and --val go together: images to train on, and others to evaluate on.")
    if args.freeze_at and not args.weights:
        raise ValueError("--freeze-at keeps the first stages as they are, so it needs --weights FILE to start from.")
    source = {
        "data": args.data and [str(Path(path).resolve()) for path in args.data],
        "val": args.val and [str(Path(path).resolve()) for path in args.val],
        "test_images": QUICK_TEST_IMAGES if args.quick else TEST_IMAGES,
        "weights": args.weights and str(Path(args.weights).resolve()),
        "freeze_at": args.freeze_at or 0,
    }
    if args.weights and not args.preset:
        start = load_checkpoint(args.weights).config
    else:
        start = get_config(args.preset or "shapes")
    model_fields, config = _settings(args, start)
    dataset, held_out = _datasets(source)
    model = build_model(start, len(dataset.categories) + 1, config.seed, **model_fields)
    model.categories = dataset.categories  # the classes of the file are found by their names
    if args.weights:
        print(load_weights(model, args.weights))
    freeze_stages(model, source["freeze_at"])
    out = Path(args.out) if args.out else _free_folder(Path("runs") / start.preset)
    if (out / CHECKPOINT).exists():
        raise FileExistsError(f"'{out}' holds a run already: resume it with --resume {out}, or name another --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / "data.json").write_text(json.dumps(source) + "\n", encoding="utf-8")
    return model, config, dataset, held_out, out


def _resumed_run(args):
    names = ("preset", "weights", "freeze_at", "data", "val", "quick", "steps", "batch_size", "seed", "out", "set")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]:
        raise ValueError(f"A resumed run keeps its settings; leave out {', '.join(given)}, or start a new run.")
    out = Path(args.resume)
    checkpoint = load_run(out)
    try:
        source = json.loads((out / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{out / 'data.json'}' should tell which data the run uses: {error}") from error
    model = MaskRCNN(checkpoint.config, checkpoint.seed)
    freeze_stages(model, source.get("freeze_at", 0))
    return model, checkpoint.train_config, *_datasets(source), out


def _datasets(source: dict):
    """The data set to train on and the one to evaluate on."""
    if source["data"]:
        return CocoDataset(*source["data"]), CocoDataset(*source["val"])
    return ShapesDataset(TRAIN_IMAGES, seed=0), ShapesDataset(source["test_images"], seed=1)


def _free_folder(folder: Path) -> Path:
    """The folder itself, or with -2, -3, ... the first that does not exist."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


# Settings ------------------------------------------------------------------------------------------------


def _settings(args, start: Config) -> tuple[dict, TrainConfig]:
    """The fields of Config to replace, and the TrainConfig, from what is trained (start: its Config before the
    replacement), --quick, the options and --set, in this order."""
    train_fields = FULL_SIZE if start.min_size else {}
    train_fields = train_fields | (FINE_TUNING if args.weights else {}) | (QUICK if args.quick else {})
    options = {"steps": args.steps, "batch_size": args.batch_size, "seed": args.seed}
    train_fields |= {name: value for name, value in options.items() if value is not None}
    model_fields = {}
    of_model = {field.name: field.type for field in dataclasses.fields(Config)}
    del of_model["preset"], of_model["num_classes"]  # --preset and the data say these
    of_training = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    for pair in args.set or []:
        name, equals, text = pair.partition("=")
        if not equals or name not in of_model | of_training:
            raise ValueError(
                f"--set {pair!r} is not FIELD=VALUE with a known field. The model has {', '.join(of_model)}; "
                f"training has {', '.join(of_training)}."
            )
        value = parse_value(name, text, (of_model | of_training)[name])
        (model_fields if name in of_model else train_fields)[name] = value
    return model_fields, replace(TrainConfig(), **train_fields)


def parse_value(name: str, text: str, kind):
    """The value of a field from its text, written as in Python. kind: the field's type, as the dataclass
    declares it. Raises ValueError where the value has another."""
    words = {"true": True, "false": False, "none": None}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    value = tuple(value) if isinstance(value, list) else value
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (typing.get_origin(kind) or kind,)
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds:
        raise ValueError(f"--set {name}={text} does not fit: {name} takes {' or '.join(k.__name__ for k in kinds)}.")
    return value
