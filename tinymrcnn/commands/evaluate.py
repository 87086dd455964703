"""`tinymrcnn evaluate`: COCO's metrics of a checkpoint, their intervals, and the kinds of errors, printed and, where
asked for, written as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymrcnn.commands.source import checked_paths, open_to_evaluate
from tinymrcnn.data import ShapesDataset, map_categories
from tinymrcnn.draw import draw_errors, write_picture
from tinymrcnn.evaluation import compare, evaluate
from tinymrcnn.evaluation.comparison import RESAMPLES
from tinymrcnn.evaluation.errors import ERRORS
from tinymrcnn.files import SHIPPED_MODEL, check_output, printable, replacing
from tinymrcnn.models.fuse import fused
from tinymrcnn.models.test_time import TestTime, set_free_settings
from tinymrcnn.settings import parse_setting
from tinymrcnn.training.parallel import Workers, together
from tinymrcnn.weights import load_model

TITLES = {"bbox": "boxes", "segm": "masks"}


@dataclass(frozen=True)
class EvaluateOptions:
    """data: one path, of which is found out what it is unless `format` says it, or two, a folder of images and a COCO
    annotation file; None: so many toy `images` (seed 1). batch_size: how many images at once. settings: texts
    "FIELD=VALUE" of what may change after training. tile, mirrored, soft: see TestTime. interval: with intervals by the
    bootstrap over images. errors: with their kinds, and a picture of them next to `out`. reference: let pycocotools
    count. out: a JSON file."""

    data: Sequence[str] | None = None
    format: str | None = None
    images: int = 500
    batch_size: int = 8
    device: str = "auto"
    settings: Sequence[str] | None = None
    tile: int | None = None
    mirrored: bool = False
    soft: bool = False
    interval: bool = False
    errors: bool = False
    reference: bool = False
    out: str | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; it must be a whole number from 1 on.")
        checked_paths("--data", self.data)
        if self.reference and (self.interval or self.errors):
            raise ValueError("--reference counts the metrics alone: leave out --interval and --errors.")


def evaluate_command(checkpoint=SHIPPED_MODEL, options: EvaluateOptions | None = None) -> int:
    """Print the metrics of a checkpoint, and write them to the file `out`. Returns the exit code, 0.

    Under mpiexec every worker looks at its share of the images, and the first one alone writes and prints. Raises
    ValueError or OSError where the files do not fit each other, or `out` cannot be written or holds something else than
    metrics; before the work starts."""
    with together() as team:
        return _evaluate_together(team, checkpoint, options or EvaluateOptions())


def _evaluate_together(team: Workers, checkpoint, options: EvaluateOptions) -> int:
    picture = _check_out(options.out, options.errors) if options.out and team.first else None
    model = load_model(checkpoint, options.device)
    dataset: Any = ShapesDataset(options.images, seed=1)
    if options.data:
        dataset = open_to_evaluate(options.data, model.config.masks, options.format, checkpoint)
    map_categories(model.categories, dataset.categories)
    set_free_settings(model, dict(map(parse_setting, options.settings or ())))
    model = fused(model)  # under the same name, so that the weights before take no memory
    finder = TestTime(model, tile=options.tile, mirrored=options.mirrored, soft=options.soft)
    intervals: dict[str, tuple[float, float]] = {}
    kinds: dict[str, dict[str, tuple[int, float]]] = {}
    if options.interval or options.errors:
        comparison = compare(finder, dataset, options.batch_size, errors=options.errors, workers=team)
        if not team.first:
            return 0
        metrics = comparison.metrics()
        intervals = comparison.intervals() if options.interval else {}
        kinds = comparison.errors() if options.errors else {}
    else:
        metrics = evaluate(finder, dataset, options.batch_size, reference=options.reference, workers=team)
        if not team.first:
            return 0
    print_metrics(metrics, len(dataset), model.config.box.max_detections, intervals)
    if kinds:
        print_errors(kinds)
    if options.out:
        for name, (low, high) in intervals.items():
            metrics |= {f"{name}/low": low, f"{name}/high": high}
        for kind, rows in kinds.items():
            for name, (count, cost) in rows.items():
                metrics |= {f"{kind}/errors/{name}": cost, f"{kind}/errors/{name}/count": count}
        with replacing(options.out) as file:
            file.write((json.dumps(metrics, indent=2) + "\n").encode())
    if picture:
        write_picture(picture, draw_errors({TITLES[kind]: rows for kind, rows in kinds.items()}))
        print(printable(picture))
    return 0


def _check_out(out, errors: bool) -> Path | None:
    """The picture's file, if there is to be one. Raises OSError or ValueError where something is in the way."""
    if errors and Path(out).suffix == ".png":
        raise ValueError("--out names the JSON file; the picture gets the same name with .png at its end.")
    check_output(out, is_metrics, "metrics")
    picture = Path(out).with_suffix(".png")
    if errors and picture.exists() and not Path(out).exists():
        raise FileExistsError(f"'{printable(picture)}' exists already, and would be replaced: name another --out.")
    return picture if errors else None


def is_metrics(content) -> bool:
    """Whether the content of a JSON file is what `evaluate --out` writes."""
    return isinstance(content, dict) and bool(content) and all(
        name.startswith(("bbox/", "segm/")) and isinstance(value, float | int) for name, value in content.items()
    )  # fmt: skip


def print_metrics(
    metrics: dict[str, float], images: int, max_detections: int = 100,
    intervals: dict[str, tuple[float, float]] | None = None,
) -> None:  # fmt: skip
    """The table of COCO's metrics, as evaluate() returns them. max_detections: how many of an image count.
    intervals: as Comparison.intervals() returns them."""
    names = list(dict.fromkeys(name.split("/")[1] for name in metrics))
    print(f"\nCOCO metrics on {images} held-out images (small, medium, large objects: APs, APm, APl)")
    if max_detections != 100:
        print(f"The {max_detections} best detections of an image count, not 100 as in COCO's own tables.")
    if intervals:
        print(f"Below each number its 95 % confidence interval (bootstrap over the images, {RESAMPLES:,} resamples).")
    print(" " * 6 + "".join(f"{name:>8}" for name in names))

    def line(title: str, values: list[float]) -> None:
        print(f"{title:<6}" + "".join(f"{value:>8.3f}" if value >= 0 else f"{'none':>8}" for value in values))

    for kind, title in TITLES.items():
        if f"{kind}/AP" in metrics:
            line(title, [metrics[f"{kind}/{name}"] for name in names])
            if intervals:
                ends = [intervals[f"{kind}/{name}"] for name in names]
                line("  from", [low for low, _ in ends])
                line("  to", [high for _, high in ends])
    print()


def print_errors(errors: dict[str, dict[str, tuple[int, float]]]) -> None:
    """The table of the kinds of errors, as Comparison.errors() returns them."""
    print("What each kind of error costs: how many there are, and what AP50 would gain without them")
    print(" " * 14 + "".join(f"{TITLES[kind]:>16}" for kind in errors))
    for name, meaning in ERRORS.items():
        line = f"{name:<14}"
        for count, cost in (errors[kind][name] for kind in errors):
            line += f"{count:>8,}{f'{cost:.3f}' if cost >= 0 else 'none':>8}"
        print(f"{line}  {meaning}")
    print()
