"""`tinymrcnn predict`: images and films in; pictures of what they show, tables, and a COCO results file, out.

Inference as in the article's section 4, step by step in lesson 11; on photographs in lesson 15.
"""

import collections
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinymrcnn.boxes import paste_masks
from tinymrcnn.commands.prediction_files import COLUMNS, table_rows, write_ids, write_labelme, write_table, write_yolo
from tinymrcnn.commands.source import checked_paths, open_to_evaluate
from tinymrcnn.commands.terminal import say
from tinymrcnn.data import coco_categories, find_images, read_image
from tinymrcnn.data.coco import image_ids_of
from tinymrcnn.data.films import VIDEOS, is_film, read_film, write_film
from tinymrcnn.data.images import PREDICTED
from tinymrcnn.draw import check_font, draw_instances, shrunk, write_picture
from tinymrcnn.evaluation import coco_results
from tinymrcnn.files import FULL_DISK, SHIPPED_MODEL, check_output, locked, make_folder, printable, replacing, told
from tinymrcnn.models.fuse import fused
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.test_time import TestTime, set_free_settings
from tinymrcnn.settings import parse_setting
from tinymrcnn.stopping import out_of_memory
from tinymrcnn.training.parallel import Workers, together
from tinymrcnn.weights import load_model, load_public_model

RESULTS = "detections.json"
PUBLIC = (".pth", ".pt", ".pkl")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """weights: a checkpoint of ours, or a public file, which needs `preset`; None: the toy model. settings: texts
    "FIELD=VALUE" of what may change after training. threshold: the least score to draw, to count, and of the label
    files. boxes, labels: whether they are drawn. tile, mirrored, soft: see TestTime. label_files: None, "yolo" or
    "labelme". data, format: a data set whose images are taken, too (see open_to_evaluate), and annotations: a COCO
    annotation file; of either, the detections get the ids. font: of the names. out: the folder of all that is
    written."""

    weights: str | None = None
    preset: str | None = None
    device: str = "auto"
    threshold: float = 0.5
    settings: Sequence[str] | None = None
    boxes: bool = True
    labels: bool = True
    tile: int | None = None
    mirrored: bool = False
    soft: bool = False
    label_files: str | None = None
    data: Sequence[str] | None = None
    format: str | None = None
    annotations: str | None = None
    font: str | None = None
    out: str = "predictions"

    @property
    def drawing(self) -> dict:
        return {"font": self.font, "with_boxes": self.boxes, "with_labels": self.labels}

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is {self.threshold}; a score lies between 0 and 1.")
        if self.preset and not self.weights:
            get_config(self.preset)  # raises for a name that does not exist
            raise ValueError(f"--preset {self.preset} needs --weights FILE; `tinymrcnn models` says where to get one.")
        needs_preset(self.weights, self.preset)
        checked_paths("--data", self.data)
        if self.data and self.annotations:
            raise ValueError("--data brings its own annotations: leave out --annotations.")
        if self.font:
            check_font(self.font)


def needs_preset(weights, preset: str | None) -> None:
    """Raise ValueError for public weights without the preset that they belong to."""
    if weights and not preset and Path(weights).is_file() and Path(weights).suffix in PUBLIC:
        raise ValueError(
            f"'{printable(weights)}' does not say which model it belongs to: name it with --preset, such as "
            "torchvision_resnet50_fpn or detectron2_resnet50_fpn."
        )


class Annotations:
    """The ids that a data set gives to images and to classes, so that detections can be compared with it.

    left_out: how many detections were of classes that it does not have."""

    def __init__(self, path, images: dict, classes: dict):
        """path: of the data set. images: {path of an image, or the end of it: its id}. classes: {name: id}."""
        self.path, self.images, self.classes, self.left_out = path, images, classes, 0

    @classmethod
    def of_file(cls, path) -> "Annotations":
        """Of a COCO annotation file. Raises as image_ids_of does."""
        images = image_ids_of(path)
        try:
            categories = json.loads(Path(path).read_bytes())["categories"]
            return cls(path, images, {category["name"]: category["id"] for category in categories})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"The annotation file '{printable(path)}' has no list 'categories' with their names and ids."
            ) from error

    @classmethod
    def of_dataset(cls, path, dataset) -> "Annotations":
        images = map(dataset.image_of, range(len(dataset)))
        ids = {"/".join(Path(image["file"]).resolve().parts[1:]): image["id"] for image in images}
        return cls(path, ids, {category["name"]: category["id"] for category in dataset.categories})

    def image_id(self, path: str):
        """The id of an image file, which the annotation file may name with some of the folders that it lies in; None
        where it does not have it."""
        parts = Path(path).resolve().parts
        names = ("/".join(parts[start:]) for start in range(1, len(parts)))  # the longest first
        return next((self.images[name] for name in names if name in self.images), None)

    def renumbered(self, records: list[dict]) -> list[dict]:
        """The records with the file's ids of their classes, without those of classes that it does not have."""
        kept = [record for record in records if record["category_name"] in self.classes]
        self.left_out += len(records) - len(kept)
        return [{**record, "category_id": self.classes[record["category_name"]]} for record in kept]


def predict_command(images: Sequence[str], options: PredictOptions | None = None) -> int:
    """Find the objects in images and films: files, folders and patterns. Returns the exit code: 1 where one could not
    be read.

    What was found until then is written too when Ctrl-C or an error ends the run, and nothing where no image could be
    read. Under mpiexec every worker takes its share of the images and writes their files; the first one alone writes
    detections.json, and prints. Raises ValueError or OSError for weights or settings that do not fit, or a folder that
    cannot be written or holds another detections.json than ours, and RuntimeError where another run writes into it;
    before the work starts."""
    with together() as team:
        return _predict_together(team, images, options or PredictOptions())


def _predict_together(team: Workers, images: Sequence[str], options: PredictOptions) -> int:
    if not images and not options.data:
        raise ValueError("Name images, or a data set with --data.")
    model = load_predictor(options.weights or SHIPPED_MODEL, options.preset).to(options.device)
    set_free_settings(model, dict(map(parse_setting, options.settings or ())))
    model = fused(model)  # under the same name, so that the weights before take no memory
    finder = TestTime(model, tile=options.tile, mirrored=options.mirrored, soft=options.soft)
    files, problems = find_images(images)
    known = Annotations.of_file(options.annotations) if options.annotations else None
    if options.data:
        dataset = open_to_evaluate(options.data, False, options.format, options.weights)
        known = Annotations.of_dataset(options.data[-1], dataset)
        files = list(dict.fromkeys([*files, *(str(dataset.image_of(n)["file"]) for n in range(len(dataset)))]))
    for name in [name for name in files if known and known.image_id(name) is None]:
        assert known is not None
        files.remove(name)
        problems.append(f"'{name}' is not among the images of '{known.path}'.")
    for problem in problems:
        say(f"tinymrcnn: skipped: {problem}")
    skipped = len(problems)
    if files:
        out = Path(options.out)
        is_new = not out.exists()
        if team.first:
            check_output(out / RESULTS, is_results, "detections of ours")
        with locked(out) if team.first else contextlib.nullcontext():
            team.told("the folder is there")
            if not out.is_dir():
                raise FileNotFoundError(
                    f"There is no folder '{printable(out)}' on this machine: several machines need one that all see."
                )
            skipped += _predict(team, finder, files, known, options)
        if team.first and is_new and not any(out.iterdir()):  # no image could be read
            out.rmdir()
    if skipped:
        total = len(files) + len(problems)
        print(f"tinymrcnn: {skipped} of {total} could not be read, see above.", file=sys.stderr)
    return 1 if skipped else 0


def _predict(team: Workers, model, files: list[str], known: Annotations | None, options: PredictOptions) -> int:
    """Detect, draw and write. Returns how many images and films could not be read, on the first worker."""
    out, skipped = Path(options.out), 0
    earlier = {path.name for path in out.glob(f"*{PREDICTED}.*")} if (out / RESULTS).exists() else set()
    records: list[dict] = []
    written: set[str] = set()
    share = list(zip(files, _free_names(files), strict=True))[team.share]
    bar = tqdm(total=len(files), desc="predict", unit="image", dynamic_ncols=True, disable=len(files) < 2)
    try:
        with bar:
            for name, stem, found, said in team.in_turn(_outcomes(model, share, known, options)):
                bar.update()
                if found is None:
                    say(f"tinymrcnn: skipped: {said}")
                    skipped += 1
                    continue
                results, path = found
                written |= {path.name, f"{stem}{PREDICTED}.csv"}
                results = known.renumbered(results) if known else results
                records += [{**result, "file_name": name} for result in results]
                say(f"{path}: {said}", error=False)
    finally:
        if written:
            with replacing(out / RESULTS) as file:
                file.write((json.dumps(records) + "\n").encode())
            if known and known.left_out:
                say(f"tinymrcnn: warning: {known.left_out} detections are of classes that '{known.path}' lacks.")
            print(f"{printable(out / RESULTS)}: all {len(records)} detections in COCO's format")
            if left := len([name for name in earlier - written if not name.endswith(".csv")]):
                say(f"tinymrcnn: warning: {left} pictures in '{out}' are of earlier runs: {RESULTS} tells of this one.")
    return skipped


def _outcomes(model, share: list[tuple[str, str]], known: Annotations | None, options: PredictOptions) -> Iterator:
    """Of every image and film, given with the name of its files: both, the records and the picture's path, or None
    where it could not be read, and what to say."""
    for name, stem in share:
        try:
            if is_film(name):
                results, path, said = _predict_film(model, name, stem, options)
            else:
                image_id = known.image_id(name) if known else None
                results, path, said = _predict_image(model, name, stem, image_id, options)
        except Exception as error:  # an error in one image does not stop the others
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise
            yield name, stem, None, f"{_reason(name, error)}{_advice(model, error)}"
        else:
            yield name, stem, (results, path), said


def _predict_image(model, name: str, stem: str, image_id, options: PredictOptions) -> tuple[list[dict], Path, str]:
    """Detect in an image, and write the picture, the table, the picture of numbers, and the label file. Returns the
    records, the picture's path, and what to say."""
    out, image = Path(options.out), read_image(name)
    found, results = detect(model, image, image_id)
    shown, size = [record for record in results if record["score"] >= options.threshold], image.shape[1:]
    picture = draw_found(model, image, found, options.threshold, **options.drawing)
    path = out / f"{stem}{PREDICTED}.png"
    write_picture(path, picture)
    write_table(out / f"{stem}{PREDICTED}.csv", table_rows(shown))
    if model.config.masks:
        write_ids(out / f"{stem}{PREDICTED}_ids.png", shown, size)
    if options.label_files == "yolo":
        write_yolo(make_folder(out / "labels"), stem, shown, size, [c["name"] for c in model.categories])
    elif options.label_files == "labelme":
        write_labelme(make_folder(out / "labels"), stem, shown, size, name)
    return results, path, _summary(results, options.threshold)


def _predict_film(model, name: str, stem: str, options: PredictOptions) -> tuple[list[dict], Path, str]:
    """Detect in a film frame by frame, and write the film with what was found, and its table. Returns the records,
    which name their frame from 0, the film's path, and what to say."""
    out, records, rows = Path(options.out), [], []
    frames, rate = read_film(name)

    def drawn():
        for frame, image in enumerate(tqdm(frames, desc=printable(Path(name).name), unit="frame", leave=False)):
            found, results = detect(model, image)
            shown = [record for record in results if record["score"] >= options.threshold]
            rows.extend([frame, *row] for row in table_rows(shown))
            records.extend({**record, "frame": frame} for record in results)
            yield draw_found(model, image, found, options.threshold, **options.drawing)
        counted.append(frame + 1)

    counted: list[int] = []
    suffix = Path(name).suffix.lower()
    path = out / f"{stem}{PREDICTED}{suffix if suffix in VIDEOS else '.gif'}"
    write_film(path, drawn(), rate)
    write_table(out / f"{stem}{PREDICTED}.csv", rows, ("frame", *COLUMNS))
    return records, path, f"{counted[0]} frames, {len(rows)} objects with a score of {options.threshold} or more"


def _reason(name: str, error: Exception) -> str:
    """Why an image was skipped, with its name."""
    text = told(error) or type(error).__name__
    return text if printable(name) in text else f"'{printable(name)}': {text}"


def _advice(model, error: Exception) -> str:
    """What to do where the memory does not suffice for an image."""
    if not out_of_memory(error):
        return ""
    smaller = "" if model.config.transform.min_size else "make it smaller, or "  # else it is resized anyway
    on_cpu = ", or --device cpu" if model.device != "cpu" else ""
    return f" It is looked at alone: {smaller}use a machine with more memory{on_cpu}."


def _free_names(files: list[str]) -> list[str]:
    """What the files of every image are called; two images of one name may come from different folders."""
    stems: dict[str, None] = {}
    for number, name in enumerate(files, start=1):
        stem = Path(name).stem
        while stem in stems:
            stem = f"{stem}_{number}"
        stems[stem] = None
    return list(stems)


def is_results(content) -> bool:
    """Whether the content of a JSON file is what `predict` writes."""
    return isinstance(content, list) and all(
        isinstance(record, dict) and {"category_name", "score", "bbox", "file_name"} <= record.keys()
        for record in content
    )


def load_predictor(weights, preset: str | None = None):
    """The model of a file of weights, in eval mode on the CPU, with categories.

    weights: our own checkpoint, which says which model it holds; or a public file, for which `preset` says it, and
    which knows the classes of COCO. Raises ValueError or OSError where they do not fit."""
    model: Any
    if preset is None or Path(weights).suffix == ".npz":
        model = load_model(weights, "cpu")
        if preset not in (None, model.config.preset):
            raise ValueError(
                f"'{printable(weights)}' holds a model of the preset {model.config.preset!r}, not of {preset!r}."
            )
    else:
        model, report = load_public_model(weights, preset)
        print(report)
    count = model.config.num_classes
    unknown = [{"label": label, "name": f"class {label}", "id": label} for label in range(1, count)]
    model.categories = model.categories or coco_categories(count) or unknown
    return model


def detect(model, image, image_id: int | None = None) -> tuple[dict, list[dict]]:
    """The objects in one image (3, H, W): as model.detect finds them, and as COCO's records, which also tell the
    class by its name ("category_name"). Without an image_id the records have none."""
    (found,) = model.detect([image])
    names = {category["id"]: category["name"] for category in model.categories}
    sizes, whole_pixels = [image.shape[1:]], model.config.mask.paste_whole_pixels
    records = coco_results([found], [0 if image_id is None else image_id], sizes, model.categories, whole_pixels)
    for record in records:
        record["category_name"] = names[record["category_id"]]
        if image_id is None:
            del record["image_id"]
    return found, records


def draw_found(model, image, found: dict, threshold: float = 0.5, **how):
    """The picture of what detect() found in an image, a photograph of more than 2048 pixels shrunk to them.
    how: font, with_boxes, with_labels; see draw_instances."""
    picture = shrunk(image)
    scale = [after / before for before, after in zip(image.shape[:0:-1], picture.shape[:0:-1], strict=True)] * 2
    shown = {**found, "boxes": found["boxes"] * np.array(scale, np.float32)}
    if "masks" in found:
        shown["masks"] = _Pasted(
            found["masks"], shown["boxes"], picture.shape[1:], model.config.mask.paste_whole_pixels
        )
    return draw_instances(picture, shown, model.categories, threshold, **how)


class _Pasted:
    """The masks of detections, pasted as they are asked for: a hundred of a photograph would fill the memory."""

    def __init__(self, masks, boxes, size, whole_pixels: bool):
        self.masks, self.boxes, self.size, self.whole_pixels = masks, boxes, size, whole_pixels

    def __getitem__(self, n: int):
        some = slice(n, n + 1)
        return paste_masks(self.masks[some], self.boxes[some], self.size, whole_pixels=self.whole_pixels)[0]


def _summary(records: list[dict], threshold: float) -> str:
    """How many objects of which classes have a score of the threshold or more."""
    names = [record["category_name"] for record in records if record["score"] >= threshold]
    counts = ", ".join(f"{count} {printable(name)}" for name, count in collections.Counter(names).most_common())
    objects = f"{len(names)} object{'' if len(names) == 1 else 's'} with a score of {threshold} or more"
    return f"{objects}: {counts}" if names else objects
