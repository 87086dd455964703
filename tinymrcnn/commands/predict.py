"""What `tinymrcnn predict` does: images of any kind in; pictures of what they show, and a COCO results file, out.

Inference as in the article's section 4, step by step in lesson 11; on photographs in lesson 15.
"""

import collections
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinymrcnn.boxes import paste_masks
from tinymrcnn.data import coco_categories, find_images, read_image
from tinymrcnn.data.images import PREDICTED
from tinymrcnn.draw import draw_instances, shrunk, write_picture
from tinymrcnn.evaluation import coco_results
from tinymrcnn.files import replacing
from tinymrcnn.weights import load_model, load_public_model

RESULTS = "detections.json"


def run_predict(args) -> int:
    """Find the objects in the images that the options name. Returns the exit code: 1 where one could not be read.

    What was found until then is written too when Ctrl-C or an error ends the run, and nothing where no image could be
    read. Raises ValueError or OSError for a file of weights that does not fit, or a folder that cannot be written."""
    model = load_predictor(args.weights, args.preset).to(args.device)
    files, problems = find_images(args.images)
    out = Path(args.out)
    records, pictures, skipped = [], set(), len(problems)
    for problem in problems:
        print(f"tinymrcnn: skipped: {problem}", file=sys.stderr)
    bar = tqdm(files, desc="predict", unit="image", dynamic_ncols=True, disable=len(files) < 2)
    try:
        for image_id, name in enumerate(bar, start=1):
            try:
                image = read_image(name)
            except (ValueError, OSError) as error:
                bar.write(f"tinymrcnn: skipped: {error}", file=sys.stderr)
                skipped += 1
                continue
            found, results = detect(model, image, image_id)
            records += [{**result, "file_name": name} for result in results]
            stem = Path(name).stem
            while (picture := out / f"{stem}{PREDICTED}") in pictures:  # two images of one name from different folders
                stem = f"{stem}_{image_id}"
            out.mkdir(parents=True, exist_ok=True)
            pictures.add(picture)
            write_picture(picture, draw_found(model, image, found, args.threshold))
            bar.write(f"{picture}: {_summary(results, args.threshold)}")
    finally:
        if pictures:
            with replacing(out / RESULTS) as file:
                file.write((json.dumps(records) + "\n").encode())
            print(f"{out / RESULTS}: all {len(records)} detections in COCO's format")
    if skipped:
        print(f"tinymrcnn: {skipped} of {len(files) + len(problems)} could not be read, see above.", file=sys.stderr)
    return 1 if skipped else 0


def load_predictor(weights, preset: str | None = None):
    """The model of a file of weights, in eval mode on the CPU, with categories.

    weights: our own checkpoint, which says which model it holds; or a public file, for which `preset` says it, and
    which knows the classes of COCO. Raises ValueError or OSError where they do not fit."""
    if preset is None or Path(weights).suffix == ".npz":
        model = load_model(weights, "cpu")
        if preset not in (None, model.config.preset):
            raise ValueError(f"'{weights}' holds a model of the preset {model.config.preset!r}, not of {preset!r}.")
    else:
        model, report = load_public_model(weights, preset)
        print(report)
    count = model.config.num_classes
    unknown = [{"label": label, "name": f"class {label}", "id": label} for label in range(1, count)]
    model.categories = model.categories or coco_categories(count) or unknown
    return model


def detect(model, image, image_id: int = 1) -> tuple[dict, list[dict]]:
    """The objects in one image (3, H, W): as model.detect finds them, and as COCO's records, which also tell the
    class by its name ("category_name")."""
    (found,) = model.detect([image])
    names = {category["id"]: category["name"] for category in model.categories}
    sizes, whole_pixels = [image.shape[1:]], model.config.paste_whole_pixels
    records = coco_results([found], [image_id], sizes, model.categories, whole_pixels)
    return found, [{**record, "category_name": names[record["category_id"]]} for record in records]


def draw_found(model, image, found: dict, threshold: float = 0.5):
    """The picture of what detect() found in an image, a photograph of more than 2048 pixels shrunk to them."""
    picture = shrunk(image)
    scale = [after / before for before, after in zip(image.shape[:0:-1], picture.shape[:0:-1], strict=True)] * 2
    shown = {**found, "boxes": found["boxes"] * np.array(scale, np.float32)}
    if "masks" in found:
        shown["masks"] = _Pasted(found["masks"], shown["boxes"], picture.shape[1:], model.config.paste_whole_pixels)
    return draw_instances(picture, shown, model.categories, threshold)


class _Pasted:
    """The masks of detections, pasted as they are asked for: a hundred of a photograph would fill the memory."""

    def __init__(self, masks, boxes, size, whole_pixels: bool):
        self.masks, self.boxes, self.how = masks, boxes, (size, whole_pixels)

    def __getitem__(self, n: int):
        return paste_masks(self.masks[n : n + 1], self.boxes[n : n + 1], *self.how)[0]


def _summary(records: list[dict], threshold: float) -> str:
    """How many objects of which classes have a score of the threshold or more."""
    names = [record["category_name"] for record in records if record["score"] >= threshold]
    counts = ", ".join(f"{count} {name}" for name, count in collections.Counter(names).most_common())
    objects = f"{len(names)} object{'' if len(names) == 1 else 's'} with a score of {threshold} or more"
    return f"{objects}: {counts}" if names else objects
