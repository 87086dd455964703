"""`tinymrcnn evaluate`: COCO's metrics of a checkpoint, printed and, where asked for, written as JSON."""

import json

from tinymrcnn.data import CocoDataset, ShapesDataset, map_categories
from tinymrcnn.evaluation import evaluate
from tinymrcnn.files import SHIPPED_MODEL, check_output, replacing
from tinymrcnn.weights import load_model


def evaluate_command(
    checkpoint=SHIPPED_MODEL, *, data: tuple[str, str] | None = None, images: int = 500, batch_size: int = 8,
    device: str = "auto", out=None,
) -> int:  # fmt: skip
    """Print the metrics of a checkpoint, and write them to the file `out`. Returns the exit code, 0.

    data: (image folder, annotation file) of a COCO data set; without it, so many toy shapes (seed 1).
    batch_size: how many images at once.
    Raises ValueError or OSError where the files do not fit each other, or `out` cannot be written or holds something
    else than metrics; before the work starts."""
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}; it must be a whole number from 1 on.")
    if out:
        check_output(out, is_metrics, "metrics")
    model = load_model(checkpoint, device)
    dataset = CocoDataset(data[0], data[1], masks=model.config.masks) if data else ShapesDataset(images, seed=1)
    map_categories(model.categories, dataset.categories)
    metrics = evaluate(model, dataset, batch_size)
    print_metrics(metrics, len(dataset), model.config.box.max_detections)
    if out:
        with replacing(out) as file:
            file.write((json.dumps(metrics, indent=2) + "\n").encode())
    return 0


def is_metrics(content) -> bool:
    """Whether the content of a JSON file is what `evaluate --out` writes."""
    return isinstance(content, dict) and bool(content) and all(
        name.startswith(("bbox/", "segm/")) and isinstance(value, float | int) for name, value in content.items()
    )  # fmt: skip


def print_metrics(metrics: dict[str, float], images: int, max_detections: int = 100) -> None:
    """The table of COCO's metrics, as evaluate() returns them. max_detections: how many of an image count."""
    names = list(dict.fromkeys(name.split("/")[1] for name in metrics))
    print(f"\nCOCO metrics on {images} held-out images (small, medium, large objects: APs, APm, APl)")
    if max_detections != 100:
        print(f"The {max_detections} best detections of an image count, not 100 as in COCO's own tables.")
    print(" " * 6 + "".join(f"{name:>8}" for name in names))
    for kind, title in (("bbox", "boxes"), ("segm", "masks")):
        if f"{kind}/AP" in metrics:
            values = [metrics[f"{kind}/{name}"] for name in names]
            print(f"{title:<6}" + "".join(f"{value:>8.3f}" if value >= 0 else f"{'none':>8}" for value in values))
    print()
