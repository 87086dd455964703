"""`tinymrcnn predict`: images of any kind in; pictures of what they show, and a COCO results file, out.

Inference as in the article's section 4, step by step in lesson 11; on photographs in lesson 15.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinymrcnn.boxes import paste_masks
from tinymrcnn.commands.terminal import say
from tinymrcnn.data import coco_categories, find_images, read_image
from tinymrcnn.data.coco import image_ids_of
from tinymrcnn.data.images import PREDICTED
from tinymrcnn.draw import check_font, draw_instances, shrunk, write_picture
from tinymrcnn.evaluation import coco_results
from tinymrcnn.files import SHIPPED_MODEL, check_output, locked, printable, replacing, told
from tinymrcnn.models.presets import get_config
from tinymrcnn.stopping import out_of_memory
from tinymrcnn.weights import load_model, load_public_model

RESULTS = "detections.json"
PUBLIC = (".pth", ".pt", ".pkl")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """weights: a checkpoint of ours, or a public file, which needs `preset`; None: the toy model. threshold: the least
    score to draw. annotations: a COCO annotation file, whose ids of the images the detections get. font: of the names.
    out: the folder of the pictures and of detections.json."""

    weights: str | None = None
    preset: str | None = None
    device: str = "auto"
    threshold: float = 0.5
    annotations: str | None = None
    font: str | None = None
    out: str = "predictions"

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is {self.threshold}; a score lies between 0 and 1.")
        if self.preset and not self.weights:
            get_config(self.preset)  # raises for a name that does not exist
            raise ValueError(f"--preset {self.preset} needs --weights FILE; `tinymrcnn models` says where to get one.")
        needs_preset(self.weights, self.preset)
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
    """The ids that an annotation file gives to images and to classes, so that detections can be compared with it.

    left_out: how many detections were of classes that it does not have. Raises as image_ids_of does."""

    def __init__(self, path):
        self.path, self.left_out = path, 0
        self.images = image_ids_of(path)
        try:
            categories = json.loads(Path(path).read_bytes())["categories"]
            self.classes = {category["name"]: category["id"] for category in categories}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"The annotation file '{printable(path)}' has no list 'categories' with their names and ids."
            ) from error

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
    """Find the objects in images: files, folders and patterns. Returns the exit code: 1 where one could not be read.

    What was found until then is written too when Ctrl-C or an error ends the run, and nothing where no image could be
    read. Raises ValueError or OSError for weights that do not fit, or a folder that cannot be written or holds another
    detections.json than ours, and RuntimeError where another run writes into it; before the work starts."""
    options = options or PredictOptions()
    model = load_predictor(options.weights or SHIPPED_MODEL, options.preset).to(options.device)
    files, problems = find_images(images)
    known = Annotations(options.annotations) if options.annotations else None
    for name in [name for name in files if known and known.image_id(name) is None]:
        files.remove(name)
        problems.append(f"'{name}' is not among the images of '{options.annotations}'.")
    for problem in problems:
        say(f"tinymrcnn: skipped: {problem}")
    skipped = len(problems)
    if files:
        out = Path(options.out)
        is_new = not out.exists()
        check_output(out / RESULTS, is_results, "detections of ours")
        with locked(out):
            skipped += _predict(model, files, known, options)
        if is_new and not any(out.iterdir()):  # no image could be read
            out.rmdir()
    if skipped:
        total = len(files) + len(problems)
        print(f"tinymrcnn: {skipped} of {total} could not be read, see above.", file=sys.stderr)
    return 1 if skipped else 0


def _predict(model, files: list[str], known: Annotations | None, options: PredictOptions) -> int:
    """Detect, draw and write. Returns how many images could not be read."""
    out, skipped = Path(options.out), 0
    earlier = {path.name for path in out.glob(f"*{PREDICTED}")} if (out / RESULTS).exists() else set()
    records: list[dict] = []
    pictures: set[str] = set()
    try:
        for number, name in enumerate(
            tqdm(files, desc="predict", unit="image", dynamic_ncols=True, disable=len(files) < 2), start=1
        ):
            try:
                image = read_image(name)
                found, results = detect(model, image, known.image_id(name) if known else None)
                picture = draw_found(model, image, found, options.threshold, options.font)
            except Exception as error:  # an error in one image does not stop the others
                say(f"tinymrcnn: skipped: {_reason(name, error)}{_advice(model, error)}")
                skipped += 1
                continue
            records += [{**result, "file_name": name} for result in (known.renumbered(results) if known else results)]
            path = out / _picture_name(name, number, pictures)
            write_picture(path, picture)
            pictures.add(path.name)
            say(f"{path}: {_summary(results, options.threshold)}", error=False)
    finally:
        if pictures:
            with replacing(out / RESULTS) as file:
                file.write((json.dumps(records) + "\n").encode())
            if known and known.left_out:
                say(f"tinymrcnn: warning: {known.left_out} detections are of classes that '{known.path}' lacks.")
            print(f"{printable(out / RESULTS)}: all {len(records)} detections in COCO's format")
            if left := len(earlier - pictures):
                say(f"tinymrcnn: warning: {left} pictures in '{out}' are of earlier runs: {RESULTS} tells of this one.")
    return skipped


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


def _picture_name(name: str, number: int, taken: set[str]) -> str:
    """What the picture of an image is called; two images of one name may come from different folders."""
    stem = Path(name).stem
    while f"{stem}{PREDICTED}" in taken:
        stem = f"{stem}_{number}"
    return f"{stem}{PREDICTED}"


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


def draw_found(model, image, found: dict, threshold: float = 0.5, font=None):
    """The picture of what detect() found in an image, a photograph of more than 2048 pixels shrunk to them.
    font: see draw_instances."""
    picture = shrunk(image)
    scale = [after / before for before, after in zip(image.shape[:0:-1], picture.shape[:0:-1], strict=True)] * 2
    shown = {**found, "boxes": found["boxes"] * np.array(scale, np.float32)}
    if "masks" in found:
        shown["masks"] = _Pasted(
            found["masks"], shown["boxes"], picture.shape[1:], model.config.mask.paste_whole_pixels
        )
    return draw_instances(picture, shown, model.categories, threshold, font=font)


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
