"""`tinymrcnn train`: the model, the settings, the data and the folder of a run, and then the training.

A new run takes them from the options and notes in data.json where its data come from and what it started with; a
resumed one takes them from its folder. Fine-tuning (lesson 15): weights, and with them freeze_at.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinymrcnn.commands.evaluate import print_metrics
from tinymrcnn.commands.predict import needs_preset
from tinymrcnn.commands.source import (
    NOTE,
    TEST_IMAGES,
    checked_paths,
    compare,
    found,
    moved,
    open_data,
    read_source,
    val_of,
)
from tinymrcnn.files import locked, make_folder, printable, quoted, replacing
from tinymrcnn.machine import free_memory
from tinymrcnn.models import Config, TrainConfig, TwoStage, build_model, make_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.settings import field_names, find_field, parse_setting, replace
from tinymrcnn.training.choices import as_table, choose, statistics
from tinymrcnn.training.freezing import freeze_stages
from tinymrcnn.training.parallel import ALONE, Workers, for_workers, together
from tinymrcnn.training.run import CHECKPOINT, load_run
from tinymrcnn.training.trainer import train_in
from tinymrcnn.weights import load_backbone, load_checkpoint, load_weights, read_backbone

KEPT_OPEN = ("resume", "device", "data", "val", "steps")  # the options that --resume allows
QUICK = {"steps": 300, "warmup_steps": 30, "checkpoint_every": 50, "preview_every": 50, "val_every": 100}
QUICK_TEST_IMAGES = 100
FULL_SIZE = {"batch_size": 2}  # as in the paper, on each of its GPUs
FINE_TUNING = {"lr": 1e-4}  # good weights need small steps


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What a run is made from; None: the default. data, val: one path, of which is found out what it is, or two, a
    folder of images and a COCO annotation file; val can also be a share of the data to hold out, ("0.2",), which is
    what happens to data without a split of their own. format: of the data, where it is known. weights: a checkpoint of
    ours, or a public file, which needs `preset`. backbone: a public file of a ResNet as a classifier. settings: texts
    "FIELD=VALUE" for any field of Config or TrainConfig. resume: the folder of a run to go on with, which keeps
    everything else, but `steps` where they are given."""

    preset: str | None = None
    weights: str | None = None
    backbone: str | None = None
    freeze_at: int | None = None
    data: Sequence[str] | None = None
    val: Sequence[str] | None = None
    format: str | None = None
    device: str = "auto"
    quick: bool = False
    steps: int | None = None
    val_every: int | None = None
    patience: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    out: str | None = None
    resume: str | None = None
    settings: Sequence[str] | None = None


class Prepared(typing.NamedTuple):
    """A run that can begin. source: what data.json notes."""

    model: TwoStage
    config: TrainConfig
    dataset: typing.Any
    held_out: typing.Any
    source: dict


def train_command(options: TrainOptions) -> int:
    """Train as the options say, print the metrics, and say what to do with the model. Returns the exit code, 0.

    Under mpiexec every worker calls it, and the first one alone writes and prints. Raises ValueError or OSError for
    options, data or folders that do not fit, and as train() does."""
    needs_preset(options.weights, options.preset)
    with together() as team:
        return _train_together(team, options)


def _train_together(team: Workers, options: TrainOptions) -> int:
    if options.resume:
        _check_resumed(options)
        out = Path(options.resume)
        if not (out / CHECKPOINT).is_file():
            load_run(out)  # raises if there is none
        with locked(out) if team.first else contextlib.nullcontext():
            run = _resumed_run(out, options)
            metrics = _train(out, run, options, team)
    else:
        run = _new_run(options, team)
        with _new_folder(options, run.model.config.preset) if team.first else contextlib.nullcontext() as folder:
            out = team.told(folder)
            metrics = _train(out, run, options, team)
    if not team.first:
        return 0
    print_metrics(metrics, len(run.held_out), run.model.config.box.max_detections)
    print(f"Look at {printable(out / 'predictions.png')} and {printable(out / 'curves.png')}. Use the model:")
    print(f"  tinymrcnn predict IMAGE... --weights {quoted(out / 'model.npz')}")
    return 0


def _train(out: Path, run: Prepared, options: TrainOptions, team: Workers) -> dict:
    """Train in a locked folder. Returns the metrics."""
    model, config = run.model, run.config
    if team.first:
        with replacing(out / NOTE) as file:
            file.write((json.dumps(run.source) + "\n").encode())
    parameters = sum(parameter.size for parameter in model.parameters())
    frozen = parameters - sum(parameter.size for parameter in model.parameters() if parameter.requires_grad)
    size = f"{parameters:,} parameters" + (f", {frozen:,} of them frozen" if frozen else "")
    shows = f"; '{printable(out / 'preview.png')}' shows what it has learned so far"
    print(
        f"Training '{model.config.preset}' ({size}) on the {model.device}: {config.steps} steps "
        f"of {config.batch_size} images out of {len(run.dataset)}, seed {config.seed}.\n"
        f"Everything goes to '{printable(out)}'{shows * (config.preview_every <= config.steps)}."
    )
    if options.quick:
        print(f"Quick: a first impression after {config.steps} steps, evaluated on {len(run.held_out)} images only.")
    resume = options.resume is not None
    if team.size > 1:
        print(f"{team.size} workers share every batch: {-(-config.batch_size // team.size)} images each, at most.")
    return train_in(out, model, run.dataset, config, run.held_out, resume=resume, progress=True, workers=team)


def _new_run(options: TrainOptions, team: Workers = ALONE) -> Prepared:
    if not options.data and (options.val or options.format):
        raise ValueError(f"{'--val' if options.val else '--format'} belongs to --data: name the images to train on.")
    if options.freeze_at and not (options.weights or options.backbone):
        raise ValueError(
            "--freeze-at keeps the first stages as they are, so it needs --weights or --backbone FILE to start from."
        )
    if options.weights and options.backbone:
        raise ValueError("--weights holds a whole model, its backbone too: leave out --backbone.")
    if options.weights and not options.preset:
        start = load_checkpoint(options.weights).config
    else:
        start = get_config(options.preset or "shapes")
    backbone = read_backbone(options.backbone) if options.backbone else None
    if backbone:
        start = replace(start, **backbone.settings)
    model_fields, train_fields = _given(options, start)
    source: dict[str, typing.Any] = {
        "data": options.data and [str(Path(path).resolve()) for path in checked_paths("--data", options.data) or ()],
        "val": val_of(options.val),
        "format": options.format,
        "test_images": QUICK_TEST_IMAGES if options.quick else TEST_IMAGES,
        "weights": options.weights and str(Path(options.weights).resolve()),
        "backbone": options.backbone and str(Path(options.backbone).resolve()),
        "freeze_at": options.freeze_at or 0,
    }
    dataset, held_out = open_data(source, model_fields.get("masks", start.masks))
    source["found"] = {name: found(source[name], opened) for name, opened in (("data", dataset), ("val", held_out))}
    if options.data and not options.weights and start.preset == "shapes":
        given = (backbone.settings if backbone else {}) | model_fields | train_fields
        chosen = choose(statistics(dataset), free_memory(), given)
        print(as_table(chosen, given))
        source["chosen"] = [choice._asdict() for choice in chosen if choice.name not in given]
        of_training = field_names(TrainConfig)
        model_fields = {c.name: c.value for c in chosen if c.name not in of_training} | model_fields
        train_fields = {c.name: c.value for c in chosen if c.name in of_training} | train_fields
    if team.size > 1 and "batch_size" not in (named := _named(options)):
        more = for_workers(replace(TrainConfig(), **train_fields), team.size)
        if options.quick:  # the rest of QUICK belongs to its steps
            more |= in_proportion(train_fields["steps"] if "steps" in named else more["steps"])
        train_fields |= {name: value for name, value in more.items() if name not in named}
    config = _train_config(train_fields)
    model = build_model(start, len(dataset.categories) + 1, config.seed, **model_fields)
    model.categories = dataset.categories  # by these names the predictors' rows of the weights are found
    if options.weights:
        print(load_weights(model, options.weights))
    if backbone:
        print(load_backbone(model, backbone))
    freeze_stages(model, source["freeze_at"])
    model.to(options.device)
    return Prepared(model, config, dataset, held_out, source)


@contextlib.contextmanager
def _new_folder(options: TrainOptions, preset: str) -> Iterator[Path]:
    """The folder of a new run, locked: the one that is named, or the first of runs/PRESET, -2, -3, ... that is new."""
    if options.out:
        out = make_folder(options.out)
    else:
        make_folder("runs")
        for number in itertools.count(1):
            out = Path("runs", preset if number == 1 else f"{preset}-{number}")
            with contextlib.suppress(FileExistsError):
                out.mkdir()  # if two runs start together, only one gets it
                break
    with locked(out):
        if (out / CHECKPOINT).exists():
            raise FileExistsError(
                f"'{printable(out)}' holds a run already: resume it with --resume {quoted(out)}, or name another --out."
            )
        yield out


def _check_resumed(options: TrainOptions) -> None:
    """Raise ValueError for options that a resumed run does not allow."""
    given = [field.name for field in dataclasses.fields(options) if field.name not in KEPT_OPEN and
             getattr(options, field.name) is not None and getattr(options, field.name) is not False]  # fmt: skip
    if given:
        names = ", ".join("--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"A resumed run keeps its settings; leave out {names}, or start a new run.")


def _resumed_run(out: Path, options: TrainOptions) -> Prepared:
    checkpoint = load_run(out)
    source = moved(read_source(out / NOTE), {"data": options.data, "val": options.val})
    dataset, held_out = open_data(source, checkpoint.config.masks)
    for name, opened in (("data", dataset), ("val", held_out)):
        compare(source, name, opened)
    model = make_model(checkpoint.config, seed=None)
    freeze_stages(model, source["freeze_at"])
    assert checkpoint.train_config is not None  # load_run has checked this
    steps = checkpoint.train_config.steps if options.steps is None else options.steps
    config = replace(checkpoint.train_config, steps=steps)
    model.to(options.device)
    return Prepared(model, config, dataset, held_out, source)


# Settings ------------------------------------------------------------------------------------------------


def _given(options: TrainOptions, start: Config) -> tuple[dict, dict]:
    """The fields of Config to replace, and those of TrainConfig, from what is trained (start: its Config before the
    replacement), --quick, the options and --set, in this order. Raises ValueError where one cannot be set so."""
    train_fields: dict[str, typing.Any] = FULL_SIZE if start.transform.min_size else {}
    train_fields = (
        train_fields | (FINE_TUNING if options.weights or options.backbone else {}) | (QUICK if options.quick else {})
    )
    names = ("steps", "val_every", "patience", "batch_size", "seed")
    train_fields |= {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    model_fields: dict[str, typing.Any] = {}
    for pair in options.settings or []:
        name, value = parse_setting(pair)
        if name in field_names(TrainConfig):
            train_fields[name] = value
        elif (full := _full_name(name)) in ("preset", "num_classes"):
            raise ValueError(f"--set {pair!r} cannot be: --preset and the data say this.")
        else:
            model_fields[full] = value
    replace(start, **model_fields)  # raises before the data are opened
    replace(TrainConfig(), **train_fields)
    return model_fields, train_fields


def _named(options: TrainOptions) -> set[str]:
    """The fields of TrainConfig that the options set themselves."""
    names = {name for name in ("steps", "val_every", "batch_size") if getattr(options, name) is not None}
    return names | {parse_setting(pair)[0] for pair in options.settings or []}


def _train_config(fields: dict[str, typing.Any]) -> TrainConfig:
    """The TrainConfig with these fields, and those that follow the number of steps."""
    config = replace(TrainConfig(), **fields)
    followers = {name: value for name, value in in_proportion(config.steps).items() if name not in fields}
    return replace(config, **followers)


def _full_name(name: str) -> str:
    try:
        return find_field(Config, name)
    except ValueError as error:
        raise ValueError(f"--set {name}: {error} Training has: {', '.join(field_names(TrainConfig))}.") from None


def in_proportion(steps: int) -> dict[str, int]:
    """What follows the number of steps: validations, and where it is smaller than the default one, warm-up, checkpoints
    and previews too."""
    default, every = TrainConfig(), max(10, math.ceil(steps / 9))
    if steps >= default.steps:
        return {"val_every": every}
    return {
        "warmup_steps": min(default.warmup_steps, steps // 10),
        "checkpoint_every": min(default.checkpoint_every, every),
        "preview_every": min(default.preview_every, every),
        "val_every": every,
    }
