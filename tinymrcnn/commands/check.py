"""`tinymrcnn data check`: what is wrong with a data set, case by case, what it holds, and the settings it asks for."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinymrcnn.commands.source import checked_paths, parts_of
from tinymrcnn.commands.terminal import say
from tinymrcnn.data import statistics
from tinymrcnn.data.check import DataWarning, Report
from tinymrcnn.data.coco import CocoDataset
from tinymrcnn.data.formats import Split, open_split
from tinymrcnn.data.held_out import shared_images
from tinymrcnn.data.images import read_image
from tinymrcnn.draw.contact_sheet import contact_sheet, spread
from tinymrcnn.draw.figures import write_picture
from tinymrcnn.files import make_folder, printable, quoted, told
from tinymrcnn.machine import free_memory
from tinymrcnn.models.config import Config
from tinymrcnn.models.presets import get_config
from tinymrcnn.training.choices import as_table, choose
from tinymrcnn.training.choices import statistics as sizes_of

MOST_ROWS = 50  # of the table; the rest is counted
MOST_CLASSES = 30
WIDEST = 60  # letters of a file's name


def check_data(source: Sequence[str], *, format: str | None = None, preset: str = "shapes", out=None) -> int:
    """Print everything that is wrong with a data set, its numbers, and the settings that it asks for; write a contact
    sheet to the file `out`. Returns the exit code: 1 where something is wrong.

    source: one path, of which is found out what it is unless `format` says it, or two, a folder of images and a COCO
    annotation file. Raises ValueError or OSError for what is no data set, and for an `out` that cannot be
    written."""
    config = get_config(preset)
    if out:
        _check_picture(Path(out))
    checked_paths("data check", source)
    wrong, masks = 0, True
    opened: dict[str, CocoDataset] = {}
    numbers: dict[str, statistics.Objects] = {}
    for name, split in parts_of(source, format).items():
        cases, dataset = _examine(split)
        wrong, masks = wrong + len(cases), masks and split.has_masks()
        title = "" if name == "all" else f" in '{printable(name)}'"
        _print_cases(cases, title)
        if dataset is not None:
            opened[name] = dataset
            numbers[name] = statistics.gather(dataset)
            _print_numbers(numbers[name], dataset.categories, title)
    wrong += _print_shared(opened)
    if opened:
        first = next((name for name in opened if name.lower().startswith("train")), next(iter(opened)))
        resized = _resized(numbers[first], config)
        _print_fit(resized, config)
        if preset == "shapes":
            _print_settings(opened[first], source, masks)
        if out:
            write_picture(out, contact_sheet(opened[first], spread(len(opened[first]))))
            print(f"\n'{printable(out)}' shows some of the images with their objects.")
    return 1 if wrong else 0


def _check_picture(path: Path) -> None:
    """Raise OSError or ValueError where the contact sheet cannot be written, or would replace something else."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"The contact sheet '{printable(path)}' is a picture: name it .png or .jpg.")
    if path.exists() and not (path.is_file() and "contact_sheet" in path.name):
        raise FileExistsError(f"'{printable(path)}' exists and is no contact sheet by its name: name another file.")
    make_folder(path.parent)


# What is wrong -------------------------------------------------------------------------------------------


def _examine(split: Split) -> tuple[list[tuple], CocoDataset | None]:
    """Every case of something wrong, as in Report, and the data set, None where it cannot be used."""
    report, dataset = Report(), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # which the report has, too
        try:
            dataset = open_split(split, split.has_masks(), report)
        except (ValueError, OSError) as error:
            if not report.cases:
                raise
            say(f"tinymrcnn: It cannot be used as it is: {told(error).splitlines()[0]}")
    cases = report.cases + [("", None, text) for text in report.odd if text.startswith("There is no object")]
    if dataset is None:
        return cases, None
    damaged = []
    for index in tqdm(range(len(dataset)), desc="read", unit="image", dynamic_ncols=True, leave=False):
        image = dataset.image_of(index)
        try:
            read_image(image["file"])
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always", DataWarning)
                dataset.objects_of(index)
            cases += [(image["name"], image["id"], str(warning.message)) for warning in noted]
        except (ValueError, OSError) as error:
            damaged.append((image["name"], image["id"], told(error)))
    return cases + damaged, None if damaged else dataset


def _print_cases(cases: list[tuple], title: str) -> None:
    if not cases:
        print(f"\nNothing is wrong{title}.")
        return
    print(f"\nWhat is wrong{title}: {len(cases)} case{'s' * (len(cases) > 1)}")
    rows = [(_short(printable(file)), "" if number is None else str(number), printable(text))
            for file, number, text in cases[:MOST_ROWS]]  # fmt: skip
    widths = [max(len(row[column]) for row in [("image", "id", ""), *rows]) for column in (0, 1)]
    for file, number, text in [("image", "id", "what"), *rows]:
        print(f"  {file:<{widths[0]}}  {number:>{widths[1]}}  {text}")
    if len(cases) > MOST_ROWS:
        print(f"  ... and {len(cases) - MOST_ROWS} more")


def _short(name: str) -> str:
    return name if len(name) <= WIDEST else f"...{name[3 - WIDEST :]}"


def _print_shared(opened: dict) -> int:
    """Images that two splits have in common. Returns how many."""
    total, names = 0, list(opened)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if shared := shared_images(opened[first], opened[second]):
                total += len(shared)
                print(f"\n{len(shared)} images of '{printable(second)}' are in '{printable(first)}', too; the first is "
                      f"'{printable(shared[0])}'.")  # fmt: skip
    return total


# What it holds -------------------------------------------------------------------------------------------


def _print_numbers(objects: statistics.Objects, categories: list[dict], title: str) -> None:
    counts = statistics.per_image(objects)
    sides, areas = statistics.side_lengths(objects.boxes), objects.areas
    print(f"\n{len(counts)} images, {len(sides)} objects{title}; {int((counts == 0).sum())} images show none.")
    table = statistics.per_class(objects, len(categories))
    width = max(len(printable(category["name"])) for category in categories[:MOST_CLASSES])
    print(f"  {'class':<{width}} {'objects':>9} {'images':>8} {'share':>7}")
    for category, (number, images) in zip(categories[:MOST_CLASSES], table, strict=False):
        share = number / max(1, len(sides))
        print(f"  {printable(category['name']):<{width}} {number:>9} {images:>8} {share:>7.1%}")
    if len(categories) > MOST_CLASSES:
        print(f"  ... and {len(categories) - MOST_CLASSES} classes more")
    small, medium = (areas <= statistics.SMALL).sum(), (areas <= statistics.MEDIUM).sum()
    shares = np.array([small, medium - small, len(areas) - medium]) / max(1, len(areas))
    heads = "".join(f"{f'{quantile:.0%}':>9}" for quantile in statistics.QUANTILES)
    print(f"\n  {'quantiles':<24}{heads}{'most':>9}")
    heights, widths = objects.image_sizes.T
    for text, values in (
        ("objects in an image", counts), ("size of objects, pixels", sides),
        ("height of images", heights), ("width of images", widths),
    ):  # fmt: skip
        line = "".join(f"{value:>9.0f}" for value in [*statistics.quantiles(values), values.max(initial=0)])
        print(f"  {text:<24}{line}")
    print(f"  COCO calls {shares[0]:.0%} of the objects small, {shares[1]:.0%} medium, {shares[2]:.0%} large.")


def _print_fit(objects: statistics.Objects, config: Config) -> None:
    """How the preset's anchors and limits suit the data."""
    shapes = statistics.anchor_shapes(config.rpn.anchor_sizes, config.rpn.aspect_ratios)
    fit = statistics.anchor_fit(objects.boxes, shapes, config.strides)
    counts, most = statistics.per_image(objects), config.box.max_detections
    print(f"\nWith the preset '{config.preset}':")
    if len(fit):
        print(
            f"  {np.mean(fit < statistics.NO_FIT):.1%} of the objects fit no anchor (IoU below {statistics.NO_FIT}), "
            f"{np.mean(fit >= statistics.GOOD_FIT):.1%} fit one well ({statistics.GOOD_FIT} or more)."
        )
    print(f"  {int((counts > most).sum())} images have more than the {most} objects that are detected at most.")
    positives = config.box.samples * config.box.positive_fraction
    print(f"  {np.mean(counts > positives):.0%} of the images have more objects than the {positives:.0f} RoIs an image "
          "that learn objects.")  # fmt: skip


def _print_settings(dataset, source: Sequence[str], masks: bool) -> None:
    """What `train --data` chooses for these data, and as a line that can be changed."""
    given: dict[str, object] = {} if masks else {"masks": False}
    chosen = choose(sizes_of(dataset), free_memory(), given)
    if not masks:
        print("\nNo object has a mask, so boxes are learned alone: --set masks=false.")
    print(f"\n{as_table(chosen, given)}")
    settings = {**given, **{choice.name: choice.value for choice in chosen}}
    texts = [quoted(f"{name}={value}".replace(" ", "")) for name, value in settings.items()]
    print("As one line, to change and to copy:")
    print(f"  tinymrcnn train --data {' '.join(map(quoted, source))} --set {' --set '.join(texts)}")


def _resized(objects: statistics.Objects, config: Config) -> statistics.Objects:
    """The objects as the model sees them, in images of its size."""
    transform = config.transform
    if not transform.min_size:
        return objects
    sides = objects.image_sizes.astype(np.float64)
    scale = transform.min_size / sides.min(1, initial=np.inf)
    if transform.max_size:
        scale = np.minimum(scale, transform.max_size / sides.max(1, initial=1))
    of_object = scale[objects.images]
    return objects._replace(boxes=objects.boxes * of_object[:, None], areas=objects.areas * of_object**2)
