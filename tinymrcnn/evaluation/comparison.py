"""What was found in a data set, compared with what there is: the metrics, their intervals, and the kinds of errors.

The images come one by one: evaluator.py says what is kept of each, errors.py which kinds of errors there are.
"""

from typing import Any, NamedTuple

import numpy as np

from tinymrcnn.evaluation.errors import Errors, errors_in, join_errors, price_errors
from tinymrcnn.evaluation.evaluator import Objects, Ranking, Rows, curves, image_rows, join_rows, rank
from tinymrcnn.evaluation.run_lengths import spans_of_findings
from tinymrcnn.evaluation.spans import spans_of_masks
from tinymrcnn.threads import spread

SIZES = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 1, "APm": 2, "APl": 3}  # which range of areas, see AREAS
METRICS = tuple(SIZES)
THRESHOLD = {"AP50": 0, "AP75": 5}  # which of the ten; all other metrics are means over all
RESAMPLES, COVERED = 1000, 0.95


class Compared(NamedTuple):
    """What is kept of an image, of each kind ("bbox", "segm")."""

    id: Any
    rows: dict[str, Rows]
    errors: dict[str, Errors]


class Comparison:
    """Add every image; then ask for the metrics.

    categories: the data set's. max_detections: how many of an image and a class count, those with the highest scores.
    whole_pixels: how masks are pasted, the model's Config.paste_whole_pixels. errors: whether errors() is wanted."""

    def __init__(
        self, categories: list[dict], max_detections: int = 100, whole_pixels: bool = False, errors: bool = False
    ):
        self.categories = sorted(categories, key=lambda category: category["id"])  # the order in which COCO adds up
        self.max_detections, self.whole_pixels = max_detections, whole_pixels
        self.kinds: tuple[str, ...] = ("bbox", "segm")
        self._class = {category["label"]: place for place, category in enumerate(self.categories)}
        self._ids: list = []
        self._rows: dict[str, list] = {kind: [] for kind in self.kinds}
        self._errors: dict[str, list] | None = {kind: [] for kind in self.kinds} if errors else None
        self._rankings: dict[str, Ranking] = {}

    def add(self, target: dict, detection: dict) -> None:
        """One image: its target, and the detections in it as model.detect returns them. Without masks in both, only
        boxes are compared, of this image and of all others. Raises ValueError for a label that is no category."""
        self.keep(self.compared(target, detection))

    def keep(self, image: Compared) -> None:
        """One image that compared() has seen, perhaps in another process."""
        self._rankings = {}
        self._ids.append(image.id)
        self.kinds = tuple(kind for kind in self.kinds if kind in image.rows)
        for kind in self.kinds:
            self._rows[kind].append(image.rows[kind])
            if self._errors is not None:
                self._errors[kind].append(image.errors[kind])

    def compared(self, target: dict, detection: dict) -> Compared:
        """What is kept of an image, see add()."""
        image = Compared(target["image_id"], {}, {})
        objects = Objects(
            self._classes(target["labels"], target["image_id"]), _sides(target["boxes"]),
            target["area"].astype(np.float64), target["iscrowd"] == 1, np.zeros(len(target["labels"])),
        )  # fmt: skip
        boxes = _sides(detection["boxes"])
        found = Objects(
            self._classes(detection["labels"], target["image_id"]), boxes, boxes[:, 2] * boxes[:, 3],
            np.zeros(len(boxes), bool), detection["scores"].astype(np.float64),
        )  # fmt: skip
        self._compare(image, "bbox", found, objects)
        if "segm" in self.kinds and "masks" in target and "masks" in detection:
            size = target["masks"].shape[1:]
            spans = spans_of_findings(detection["masks"], detection["boxes"], size, self.whole_pixels)
            found = found._replace(spans=spans, areas=spans.areas().astype(np.float64))
            self._compare(image, "segm", found, objects._replace(spans=spans_of_masks(target["masks"])))
        return image

    def _compare(self, image: Compared, kind: str, found: Objects, objects: Objects) -> None:
        image.rows[kind] = image_rows(found, objects, len(self.categories), self.max_detections)
        if self._errors is not None:
            image.errors[kind] = errors_in(found, objects, len(self.categories), self.max_detections)

    def _classes(self, labels, image_id) -> np.ndarray:
        """The places of labels in self.categories."""
        try:
            return np.array([self._class[label] for label in labels.tolist()], np.int64)
        except KeyError as error:
            ids = {category["label"]: category["id"] for category in self.categories}
            raise ValueError(f"Image {image_id} has the label {error}, which is no category: {ids}.") from None

    def curves(self, kind: str, limits=None, weights=None) -> tuple[np.ndarray, np.ndarray]:
        """Precision (10, 101, K, 4, L) and recall (10, K, 4, L), as pycocotools has them, of the kind "bbox" or "segm",
        for L limits to the detections of an image and a class (None: max_detections). See evaluator.curves.

        Raises ValueError where no image was added."""
        if not self._ids:
            raise ValueError("The data set holds no image, so there is nothing to evaluate.")
        if kind not in self._rankings:
            rows = join_rows(self._rows[kind], self._ids)
            self._rankings[kind] = rank(rows, len(self.categories), len(self._ids))
        return curves(self._rankings[kind], [self.max_detections] if limits is None else limits, weights)

    def metrics(self, weights=None) -> dict[str, float]:
        """{"bbox/AP": ..., "segm/AP": ...}, see METRICS and evaluate(); weights: (M,) int64, how often each image is in
        the data set, in the order of their ids."""
        return {
            f"{kind}/{name}": value
            for kind in self.kinds
            for name, value in metrics_of(self.curves(kind, weights=weights)[0]).items()
        }

    def summary(self, kind: str) -> list[float]:
        """The twelve numbers that pycocotools' summarize() prints, in its order: AP, AP50, AP75, APs, APm, APl, and
        average recall with 1, 10 and max_detections detections, and of small, medium and large objects."""
        precision, recall = self.curves(kind, [1, 10, self.max_detections])
        chosen = [recall[:, :, size, limit] for size, limit in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2))]
        return [*metrics_of(precision).values(), *(mean_of_defined(each) for each in chosen)]

    def intervals(self, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
        """{"bbox/AP": (low, high), ...}: 95 % confidence intervals for what the metrics are on all images of this kind.

        The bootstrap (Efron and Tibshirani 1993, chapter 13): as many images are drawn from the data set, with
        replacement, `resamples` times, and the interval reaches from the 2.5th to the 97.5th percentile of what comes
        out. It says what the choice of images leaves open, not what another training run would change; with few images
        it is too narrow. (-1, -1) for a metric that is -1; resamples without any such object are left out."""
        names = list(self.metrics())
        values = np.empty((resamples, len(names)))

        def resample(index: int) -> None:
            drawn = np.random.default_rng([seed, index]).integers(len(self._ids), size=len(self._ids))
            values[index] = list(self.metrics(np.bincount(drawn, minlength=len(self._ids))).values())

        spread(resample, resamples, values)
        intervals = {}
        for name, column in zip(names, values.T, strict=True):
            defined = column[column > -1]
            low, high = np.quantile(defined, [(1 - COVERED) / 2, (1 + COVERED) / 2]) if len(defined) else (-1, -1)
            intervals[name] = float(low), float(high)
        return intervals

    def errors(self) -> dict[str, dict[str, tuple[int, float]]]:
        """{"bbox": {kind of error: (how many, how much AP50 they cost)}, "segm": ...}, see errors.py. Raises ValueError
        where they were not asked for."""
        if self._errors is None or not self._ids:
            raise ValueError("There are no errors to tell: make a Comparison(..., errors=True) and add images.")
        number = len(self.categories)
        return {kind: price_errors(join_errors(self._errors[kind], self._ids), number) for kind in self.kinds}


def metrics_of(precision: np.ndarray) -> dict[str, float]:
    """METRICS from precision (T, R, K, 4, L) at the last limit: Python floats, -1 where there is nothing to find."""
    metrics = {}
    for name, size in SIZES.items():
        chosen = precision[:, :, :, size, -1]
        if name in THRESHOLD:
            chosen = chosen[THRESHOLD[name]]
        metrics[name] = mean_of_defined(chosen)
    return metrics


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of those that are not -1; -1 where there are none."""
    defined = values[values > -1]
    return defined.mean().item() if len(defined) else -1.0


def _sides(boxes) -> np.ndarray:
    """Boxes (x1, y1, x2, y2) as (x, y, width, height), float64."""
    boxes = np.asarray(boxes).astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
