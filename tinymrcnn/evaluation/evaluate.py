"""COCO's metrics of a model, or of detections that exist already.

AP is the average precision over classes and over IoU thresholds 0.5, 0.55, ..., 0.95; AP50 and AP75 are at
one threshold; APs, APm and APl are over objects of up to 32^2 pixels, up to 96^2, and beyond (section 4 of
the article). average_precision.py computes the same from scratch, and lesson 12 explains it.

Our own evaluator counts (evaluator.py), if it gives the numbers of pycocotools, the reference, for a small case that
both count first; else, and where it is asked for, pycocotools counts (coco.py).

Of every image and class, the max_detections with the highest scores count. COCO's own numbers are those of 100; where
the images hold more objects than that, no more than 100 of them can be found.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

from tinymrcnn.data import map_categories
from tinymrcnn.evaluation.coco import Reference, is_our_own_equal
from tinymrcnn.evaluation.comparison import Comparison
from tinymrcnn.stopping import out_of_memory


def evaluate(
    model, dataset, batch_size: int = 8, progress: bool = True, reference: bool = False, workers=None
) -> dict[str, float]:
    """Detect in every image of the data set, and compare with its targets.

    Returns {"bbox/AP": ..., "bbox/AP50": ..., "segm/AP": ...}, see METRICS; -1 where the data set has no
    object of that size, and no "segm" where the model predicts no masks or the targets have none. As many detections
    of an image count as the model may find, its config.max_detections (100, as in COCO, unless set); a warning says
    where an image has more objects. The model is in eval mode meanwhile; its mode is restored afterwards.
    Images are compared one at a time, and some 40 bytes are kept of each detection. progress: whether to show a
    progress bar. reference: whether pycocotools counts, which keeps everything. workers: a training.parallel.Workers,
    each of which takes its share of the batches; the first gets the metrics of all images, the others get {}.
    Classes are compared by name: the data set may have them in another order, or some of the model's only, and then
    what the model finds of the others does not count (see map_categories, which raises ValueError for other classes).
    Raises ValueError for an empty data set, and where two images have one id, and MemoryError, which names the batch
    size to try, where batch_size images at once are too many."""
    judge = _judge(*_settings(model, dataset), reference)
    _compare_all(model, dataset, judge, batch_size, progress, workers)
    return judge.metrics() if workers is None or workers.first else {}


def compare(
    model, dataset, batch_size: int = 8, progress: bool = True, errors: bool = False, workers=None
) -> Comparison:
    """As evaluate(), for more than the metrics: what it returns has intervals() and, if they are wanted, errors().
    All of it is counted by our own evaluator. On workers but the first it is empty."""
    is_our_own_equal()  # which warns where it is not
    judge = Comparison(*_settings(model, dataset), errors=errors)
    _compare_all(model, dataset, judge, batch_size, progress, workers)
    return judge


def evaluate_detections(
    detections: list[dict], dataset, whole_pixels: bool = False, max_detections: int = 100, reference: bool = False
) -> dict[str, float]:
    """The metrics (see evaluate) of detections that exist already, one dict an image in the order of the data
    set, as model.detect returns them. whole_pixels: see coco_results. max_detections: how many of an image and a class
    count, those with the highest scores. reference: whether pycocotools counts. A data set with a method
    read_target(index) is asked for targets alone, not for images. Raises ValueError where their numbers differ, where
    two images have one id, or max_detections is below 1."""
    if len(detections) != len(dataset):
        raise ValueError(f"There are detections for {len(detections)} images, but the data set has {len(dataset)}.")
    if max_detections < 1:
        raise ValueError(f"max_detections must be 1 at least, not {max_detections}.")
    target_of = getattr(dataset, "read_target", lambda index: dataset[index][1])
    pairs = ((target_of(index), detection) for index, detection in enumerate(detections))
    judge = _judge(dataset.categories, max_detections, whole_pixels, reference)
    for target, detection in _counted(pairs, max_detections, of_class=True):
        judge.add(target, detection)
    return judge.metrics()


def _settings(model, dataset) -> tuple[list[dict], int, bool]:
    """The first arguments of a judge."""
    return dataset.categories, model.config.box.max_detections, model.config.mask.paste_whole_pixels


def _judge(categories, max_detections: int, whole_pixels: bool, reference: bool) -> Comparison | Reference:
    kind = Reference if reference or not is_our_own_equal() else Comparison
    return kind(categories, max_detections, whole_pixels)


def _compare_all(model, dataset, judge, batch_size: int, progress: bool, workers) -> None:
    """Add every image of the data set to the judge; with several workers, to that of the first."""
    labels = map_categories(getattr(model, "categories", None), dataset.categories)
    starts = range(0, len(dataset), batch_size)
    in_turn: Callable[[Iterator], Iterator] = iter
    if workers is not None:
        starts, in_turn, progress = starts[workers.share], workers.in_turn, progress and workers.first
    training = model.training
    model.eval()
    try:
        batches = in_turn(_compared(model, dataset, judge, starts, batch_size, labels))
        for _, image in _counted(_shown(batches, len(dataset), progress), judge.max_detections, of_class=False):
            judge.keep(image)
    finally:
        model.train(training)


def _compared(model, dataset, judge, starts: range, batch_size: int, labels: dict[int, int]) -> Iterator[list]:
    """Of every image of the batches that start there, the small parts of its target, and what the judge keeps of it."""
    back = {of_model: of_dataset for of_dataset, of_model in labels.items()}
    for start in starts:
        batch = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        try:
            detections = model.detect([image for image, _ in batch])
        except Exception as error:
            if len(batch) > 1 and out_of_memory(error):
                fewer = f"{batch_size} images at once are too many: try --batch-size {batch_size // 2}."
                raise MemoryError(f"{error} {fewer}") from error
            raise
        pairs = zip((target for _, target in batch), detections, strict=True)
        yield [
            (
                {key: target[key] for key in ("image_id", "labels", "iscrowd")},
                judge.compared(target, _renamed(detection, back)),
            )
            for target, detection in pairs
        ]


def _shown(batches: Iterable[list], count: int, progress: bool) -> Iterator[tuple]:
    """What the batches hold, with a progress bar."""
    with tqdm(total=count, desc="evaluate", unit="image", disable=not progress) as bar:
        for batch in batches:
            yield from batch
            bar.update(len(batch))


def _renamed(detection: dict, back: dict[int, int]) -> dict:
    """The detections of the data set's classes only, under its labels. back: {the model's label: the data set's}."""
    kept = np.array([label in back for label in detection["labels"].tolist()], bool)
    shown = {key: values[kept] for key, values in detection.items()}
    shown["labels"] = np.array([back[label] for label in shown["labels"].tolist()], np.int64)
    return shown


def _counted(pairs: Iterable[tuple], max_detections: int, of_class: bool) -> Iterator[tuple]:
    """The pairs as they are; after them a warning, where an image has more objects (of one class) than can be found.
    Raises ValueError where two images have one id."""
    most, ids = 0, set()
    for target, other in pairs:
        if target["image_id"] in ids:
            raise ValueError(f"Two images of the data set have the image_id {target['image_id']}: each needs its own.")
        ids.add(target["image_id"])
        labels = target["labels"][target["iscrowd"] == 0]
        most = max(most, np.bincount(labels, minlength=1).max().item() if of_class else len(labels))
        yield target, other
    if most > max_detections:
        objects, limit = ("objects of one class", " and a class") if of_class else ("objects", "")
        warnings.warn(
            f"An image holds {most} {objects}, but at most {max_detections} detections of an image{limit} count "
            "(max_detections), so AP cannot reach 1.",
            stacklevel=3 if of_class else 4,  # the line that called evaluate_detections() or evaluate()
        )
