"""COCO metrics by pycocotools, and average precision from scratch, equal to them to the last digit."""

import json
import warnings

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from tinymrcnn.boxes import paste_masks
from tinymrcnn.data import ShapesDataset, map_categories
from tinymrcnn.evaluation import average_precision, coco_results, evaluate, evaluate_detections
from tinymrcnn.evaluation.average_precision import box_overlaps, mask_overlaps, match, precision_at_recalls
from tinymrcnn.models import Config
from tinymrcnn.settings import replace

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
SIZE = (150, 230)


class Boxes:
    """A data set of rectangles: every image is a list of (label, x1, y1, x2, y2, iscrowd)."""

    categories = [{"label": k, "name": f"class {k}", "id": 10 * k} for k in (1, 2, 3)]

    def __init__(self, images, size=SIZE, ids=None):
        self.images, self.size, self.ids = images, size, ids or range(len(images))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        rows = np.array(self.images[index], np.float64).reshape(-1, 6)
        boxes = rows[:, 1:5].astype(np.float32)
        masks = np.zeros((len(rows), *self.size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        target = {
            "boxes": boxes,
            "labels": rows[:, 0].astype(np.int64),
            "masks": masks,
            "image_id": self.ids[index],
            "area": masks.sum((1, 2)).astype(np.float32),
            "iscrowd": rows[:, 5].astype(np.int64),
        }
        return np.zeros((3, *self.size), np.float32), target


def detection(rows, masks=True, cells=150):
    """Detections from rows (label, x1, y1, x2, y2, score), each with a full mask, of cells that are finer than
    pixels: a coarse one fades at its rim, and the corners of the box would be lost."""
    rows = np.array(rows, np.float64).reshape(-1, 6)
    found = {
        "boxes": rows[:, 1:5].astype(np.float32),
        "labels": rows[:, 0].astype(np.int64),
        "scores": rows[:, 5].astype(np.float32),
    }
    return {**found, "masks": np.ones((len(rows), cells, cells), np.float32)} if masks else found


def both_ways(dataset, detections):
    """The metrics by pycocotools and from scratch, which must be the same doubles. Returns them."""
    counted = evaluate_detections(detections, dataset)
    targets = [target for _, target in dataset]
    for kind in ("bbox", "segm"):
        pasted = [
            {**found, "masks": paste_masks(found["masks"], found["boxes"], target["masks"].shape[1:]) >= 0.5}
            for found, target in zip(detections, targets, strict=True)
        ]
        scratch = average_precision(targets, pasted, kind)
        assert tuple(scratch) == NAMES
        for name in NAMES:
            assert type(scratch[name]) is float and type(counted[f"{kind}/{name}"]) is float
            assert scratch[name] == counted[f"{kind}/{name}"], (kind, name)
    return counted


# By hand -------------------------------------------------------------------------------------------------


def test_precision_at_recalls_by_hand():
    """Four objects; found: right, wrong, right. Precision 1 up to a recall of 1/4, 2/3 up to 1/2, then 0."""
    precision = precision_at_recalls(np.array([True, False, True]), 4)
    np.testing.assert_allclose(precision[:26], 1)
    np.testing.assert_allclose(precision[26:51], 2 / 3)
    np.testing.assert_array_equal(precision[51:], 0)
    assert precision_at_recalls(np.zeros(0, bool), 3).tolist() == [0] * 101
    assert precision_at_recalls(np.zeros(5, bool), 3).tolist() == [0] * 101


def test_overlaps_by_hand():
    found = np.array([[0, 0, 4, 2], [10, 10, 12, 12]], float)
    objects = np.array([[2, 0, 6, 2], [0, 0, 8, 8]], float)
    crowd = np.array([False, True])
    np.testing.assert_allclose(box_overlaps(found, objects, crowd), [[1 / 3, 1], [0, 0]])
    masks = np.zeros((2, 8, 9), bool)
    masks[0, :2, :4] = masks[1, :2, 2:6] = True
    np.testing.assert_allclose(mask_overlaps(masks[:1], masks, np.array([False, False])), [[1, 1 / 3]])
    np.testing.assert_allclose(mask_overlaps(masks[:1], masks, np.array([True, True])), [[1, 1 / 2]])
    assert mask_overlaps(masks[:0], masks, crowd).shape == (0, 2)


def test_match_by_hand():
    no, yes = np.zeros(2, bool), np.ones(2, bool)
    overlaps = np.array([[0.6, 0.9], [0.55, 0.8], [0.9, 0.4]])
    assert match(overlaps, no, no, 0.5).tolist() == [1, 0, -1]  # the best first; each object once
    assert match(overlaps, np.array([False, True]), no, 0.5).tolist() == [0, 1, -1]  # what counts goes first
    assert match(overlaps, yes, np.array([False, True]), 0.5).tolist() == [1, 1, 0]  # a crowd again and again
    assert match(np.array([[0.7, 0.7]]), no, no, 0.7).tolist() == [1]  # of two equals the later; 0.7 is enough
    assert match(np.zeros((0, 2)), no, no, 0.5).tolist() == []


def test_a_worked_example():
    """Two objects of class 1 and one of class 2; the second is found a little too small (IoU 0.8)."""
    dataset = Boxes([[(1, 10, 10, 30, 30, 0), (1, 50, 10, 70, 30, 0)], [(2, 10, 10, 60, 60, 0)]])
    found = [detection([(1, 10, 10, 30, 30, 0.9), (1, 50, 10, 66, 30, 0.8)]), detection([(2, 10, 10, 60, 60, 0.7)])]
    metrics = both_ways(dataset, found)
    # class 1: both found at thresholds up to 0.8 (7 of 10), beyond one of two, so recalls up to 0.5: 51 of 101
    expected = (1 + (7 * 1 + 3 * 51 / 101) / 10) / 2
    for kind in ("bbox", "segm"):
        assert metrics[f"{kind}/AP"] == pytest.approx(expected)
        assert metrics[f"{kind}/AP50"] == pytest.approx(1) and metrics[f"{kind}/AP75"] == pytest.approx(1)
        assert metrics[f"{kind}/APs"] == pytest.approx((7 + 3 * 51 / 101) / 10)  # 400 pixels each
        assert metrics[f"{kind}/APm"] == pytest.approx(1)  # 2500 pixels
        assert metrics[f"{kind}/APl"] == -1


# From scratch and by pycocotools: the same ---------------------------------------------------------------


def random_boxes(rng, count):
    """Boxes from a few pixels to most of the picture, at whole coordinates: small, medium and large objects."""
    side = rng.choice(
        [rng.integers(3, 32, (count, 2)), rng.integers(32, 96, (count, 2)), rng.integers(96, 149, (count, 2))]
    )
    corner = rng.integers(0, np.maximum(1, np.array([230, 150]) - side))
    return np.concatenate([corner, np.minimum(corner + side, [230, 150])], 1)


def random_case(rng, images=6, crowds=0.15, levels=20):
    """Objects and detections near them; `levels` different scores make ties."""
    truth, found = [], []
    for _ in range(images):
        count = rng.integers(0, 7)
        boxes = random_boxes(rng, count)
        labels, crowd = rng.integers(1, 4, count), rng.random(count) < crowds
        truth.append([(k, *box, c) for k, box, c in zip(labels, boxes, crowd, strict=True)])
        rows = []
        for label, box in zip(labels, boxes, strict=True):
            for _ in range(rng.integers(0, 4)):
                shift = rng.integers(-4, 5, 4) * rng.integers(0, 2, 4)
                x1, y1, x2, y2 = np.clip(box + shift, 0, [230, 150, 230, 150])
                label = label if rng.random() < 0.8 else rng.integers(1, 4)
                rows.append((label, x1, y1, max(x2, x1 + 1), max(y2, y1 + 1), rng.integers(1, levels) / levels))
        for box in random_boxes(rng, rng.integers(0, 4)):
            rows.append((rng.integers(1, 4), *box, rng.integers(1, levels) / levels))
        found.append(detection(rows))
    return Boxes(truth, ids=rng.permutation(1000)[:images].tolist()), found


@pytest.mark.parametrize("seed", range(9))
def test_random_cases_agree(seed):
    rng = np.random.default_rng(seed)
    dataset, found = random_case(rng, levels=[3, 20, 1000][seed % 3], crowds=[0.0, 0.15, 0.6][seed % 3])
    for each in found:  # soft masks, so that box and mask disagree
        each["masks"] = rng.random((len(each["labels"]), 7, 7)).astype(np.float32) + np.float32(0.25)
    metrics = both_ways(dataset, found)
    assert 0 < metrics["bbox/AP"] < 1


def test_shapes_with_perfect_and_with_shifted_findings_agree():
    dataset = ShapesDataset(6, (96, 130), seed=1)
    found = []
    for _, target in dataset:
        boxes = target["boxes"] + np.random.default_rng(0).uniform(-2, 2, target["boxes"].shape).astype(np.float32)
        count = len(boxes)
        found.append(
            {
                "boxes": boxes,
                "labels": target["labels"],
                "scores": np.linspace(1, 0.5, count, dtype=np.float32),
                "masks": np.random.default_rng(1).random((count, 14, 14)).astype(np.float32),
            }
        )
    both_ways(dataset, found)


EQUAL = [(1, 10, 10, 40, 40, 0.5)] * 3
CASES = {
    "nothing there and nothing found": ([[], []], [[], []]),
    "nothing found": ([[(1, 10, 10, 40, 40, 0)], []], [[], []]),
    "nothing there": ([[], []], [EQUAL, []]),
    "found thrice, with one score": ([[(1, 10, 10, 40, 40, 0)]], [EQUAL]),
    "ties across images": (
        [[(1, 10, 10, 40, 40, 0)], [], [(1, 5, 5, 90, 90, 0)]],
        [[(1, 70, 70, 90, 90, 0.5)], EQUAL, [(1, 5, 5, 90, 90, 0.5), (1, 100, 5, 120, 90, 0.5)]],
    ),
    "two objects equally near": (
        [[(1, 10, 10, 40, 40, 0), (1, 10, 10, 40, 40, 0), (1, 10, 12, 40, 42, 0)]],
        [[(1, 10, 11, 40, 41, 0.9), (1, 10, 10, 40, 40, 0.8)]],
    ),
    "only a crowd": ([[(1, 10, 10, 90, 90, 1)]], [EQUAL]),
    "a crowd over an object": (
        [[(1, 0, 0, 100, 100, 1), (1, 10, 10, 40, 40, 0)]],
        [[*EQUAL, (1, 60, 60, 80, 80, 0.9), (1, 80, 80, 130, 130, 0.95)]],
    ),
    "an IoU of exactly 0.5 and 0.75": (
        [[(1, 0, 0, 40, 40, 0), (2, 0, 0, 40, 40, 0)]],
        [[(1, 0, 0, 40, 20, 0.9), (2, 0, 0, 40, 30, 0.9)]],
    ),
    "areas exactly on the limits": (
        [[(1, 0, 0, 32, 32, 0), (2, 0, 0, 96, 96, 0)], [(1, 0, 0, 33, 31, 0), (2, 0, 0, 97, 95, 0)]],
        [[(1, 0, 0, 32, 32, 0.9), (2, 0, 0, 96, 96, 0.9)], [(1, 0, 0, 32, 31, 0.9), (2, 0, 0, 97, 95, 0.9)]],
    ),
    "another size than the object's": (
        [[(1, 10, 10, 42, 42, 0)]],
        [[(1, 10, 10, 43, 43, 0.9), (1, 100, 10, 130, 40, 0.95), (1, 50, 50, 120, 120, 0.97)]],
    ),
    "the wrong class": ([[(1, 10, 10, 40, 40, 0)]], [[(2, 10, 10, 40, 40, 0.9)]]),
    "more than 100 in an image": (
        [[(1, 10, 10, 40, 40, 0), (2, 10, 10, 40, 40, 0)]],
        [[(1, 60 + n % 50, 50, 90 + n % 50, 90, 0.5 + n / 1000) for n in range(120)]
         + [(1, 10, 10, 40, 40, 0.4), (2, 10, 10, 40, 40, 0.3)]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_awkward_cases_agree(case):
    truth, found = CASES[case]
    metrics = both_ways(Boxes(truth), [detection(rows) for rows in found])
    for kind in ("bbox", "segm"):
        if case in ("nothing there and nothing found", "nothing there", "only a crowd"):
            assert {metrics[f"{kind}/{name}"] for name in NAMES} == {-1}
        elif case in ("nothing found", "the wrong class"):
            assert metrics[f"{kind}/AP"] == 0
        elif case == "found thrice, with one score":
            assert metrics[f"{kind}/AP"] == pytest.approx(1)  # the others come after the recall of 1
        elif case == "an IoU of exactly 0.5 and 0.75":
            assert metrics[f"{kind}/AP"] == pytest.approx((1 + 6) / 2 / 10)
        elif case == "more than 100 in an image":
            assert metrics[f"{kind}/AP"] == pytest.approx((0 + 1) / 2)


def test_average_precision_takes_the_two_kinds_only():
    with pytest.raises(ValueError, match="takes 'bbox' or 'segm', not 'keypoints'"):
        average_precision([], [], "keypoints")
    with pytest.raises(ValueError, match="0 targets and 1 detections"):
        average_precision([], [detection([])])
    assert average_precision([], []) == dict.fromkeys(NAMES, -1.0)


def test_at_100_detections_the_numbers_are_pycocotools_own(monkeypatch):
    """Of a set with up to 130 detections and objects of a class: what summarize() says, bit for bit."""
    rng = np.random.default_rng(5)
    truth, found = random_case(rng, images=3)
    crowd = random_boxes(rng, 130)
    truth.images[0] = [*truth.images[0], *((1, *box, 0) for box in crowd)]
    found[0] = detection([(1, *np.maximum(box, [0, 0, 1, 1]), rng.random()) for box in crowd])
    runs = []
    real = COCOeval.accumulate

    def remembered(self, p=None):
        real(self, p)
        runs.append(self)

    monkeypatch.setattr(COCOeval, "accumulate", remembered)
    with pytest.warns(UserWarning, match="at most 100 detections"):
        metrics = both_ways(truth, found)
    for run in list(runs):
        own = COCOeval(run.cocoGt, run.cocoDt, run.params.iouType)  # as it is by itself, with 1, 10 and 100
        own.evaluate()
        own.accumulate()
        own.summarize()
        kind = run.params.iouType
        assert [metrics[f"{kind}/{name}"] for name in NAMES] == own.stats[:6].tolist()
        assert 0 < metrics[f"{kind}/AP"] < 1


def many(count):
    """`count` objects of one class in one image, and perfect detections of them."""
    rows = [(1, 12 * (n % 18), 12 * (n // 18), 12 * (n % 18) + 10, 12 * (n // 18) + 10) for n in range(count)]
    scores = np.linspace(0.99, 0.5, count)
    found = detection([(*row, score) for row, score in zip(rows, scores, strict=True)])
    return Boxes([[(*row, 0) for row in rows]]), [found]


@pytest.mark.parametrize("limit, ap", [(100, 0.663), (150, 1.0), (300, 1.0)])
def test_more_than_100_objects(limit, ap):
    """Of 150 objects no more than 100 are found at 100 detections: 67 of the 101 recalls."""
    dataset, found = many(150)
    targets = [dataset[0][1]]
    pasted = [{**found[0], "masks": targets[0]["masks"]}]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metrics = evaluate_detections(found, dataset, max_detections=limit)
        model = Oracle(found, True)
        model.config = replace(Config(), max_detections=limit)
        assert evaluate(model, dataset, progress=False) == metrics
    for kind in ("bbox", "segm"):
        assert metrics[f"{kind}/AP"] == pytest.approx(ap, abs=5e-4)
        scratch = average_precision(targets, pasted, kind, max_detections=limit)
        assert {f"{kind}/{name}": value for name, value in scratch.items()}.items() <= metrics.items()
    texts = [str(warning.message) for warning in said]
    if limit == 100:
        assert "holds 150 objects of one class, but at most 100 detections of an image and a class" in texts[0]
        assert "holds 150 objects, but at most 100 detections of an image count" in texts[1]
        assert len(texts) == 2 and {warning.filename for warning in said} == {__file__}
    else:
        assert texts == []


def test_a_limit_is_at_least_one(scene):
    with pytest.raises(ValueError, match="max_detections must be 1 at least, not 0"):
        evaluate_detections(scene[1], scene[0], max_detections=0)


# Records of results --------------------------------------------------------------------------------------


def test_coco_results_by_hand():
    found = detection([(2, 1, 2, 5, 4, 0.5), (3, 0, 0, 6, 5, 0.25)], cells=6)
    found["masks"][1, :3] = 0.2
    records = coco_results([detection([]), found], [7, 9], [(30, 40), (5, 6)], Boxes.categories)
    assert json.loads(json.dumps(records)) == records
    first, second = records
    assert (first["image_id"], first["category_id"], first["bbox"], first["score"]) == (9, 20, [1, 2, 4, 2], 0.5)
    assert (second["category_id"], second["bbox"]) == (30, [0, 0, 6, 5])
    assert first["segmentation"]["size"] == [5, 6]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mask, half = (coco_mask.decode(record["segmentation"]) for record in records)
    expected = np.zeros((5, 6))
    expected[2:4, 1:5] = 1
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(half, np.repeat([0, 0, 1, 1, 1], 6).reshape(5, 6))  # the third row is halfway: 0.6


def test_coco_results_without_masks():
    (record,) = coco_results([detection([(1, 1, 2, 5, 4, 0.5)], masks=False)], [3], [(5, 6)], Boxes.categories)
    assert record == {"image_id": 3, "category_id": 10, "bbox": [1, 2, 4, 2], "score": 0.5}


def test_a_label_that_is_no_category():
    with pytest.raises(ValueError, match="image 3 has the label 4, which is no category"):
        coco_results([detection([(4, 1, 2, 5, 4, 0.5)])], [3], [(5, 6)], Boxes.categories)


# A whole evaluation --------------------------------------------------------------------------------------


class Oracle:
    """A model that knows the answers, in the order in which images are asked for."""

    config = Config()

    def __init__(self, detections, training):
        self.answers, self.training, self.batches = iter(detections), training, []

    def eval(self):
        return self.train(False)

    def train(self, mode=True):
        self.training = mode
        return self

    def detect(self, images):
        assert not self.training
        self.batches.append(len(images))
        return [next(self.answers) for _ in images]


@pytest.fixture
def scene():
    truth = [[(1, 10, 10, 40, 40, 0)], [], [(2, 0, 0, 100, 100, 0), (3, 50, 60, 90, 140, 0)]]
    return Boxes(truth), [detection([(*row[:5], 0.9) for row in rows]) for rows in truth]


@pytest.mark.parametrize("training", [True, False])
def test_a_perfect_model(scene, training, capsys):
    dataset, found = scene
    model = Oracle(found, training)
    metrics = evaluate(model, dataset, batch_size=2, progress=False)
    assert model.batches == [2, 1] and model.training is training
    assert list(metrics) == [f"{kind}/{name}" for kind in ("bbox", "segm") for name in NAMES]
    for name, value in metrics.items():
        assert type(value) is float and value == pytest.approx(1), name
    out, err = capsys.readouterr()
    assert out == "" and err == ""


def test_masks_are_pasted_as_the_model_pastes_them():
    dataset = Boxes([[(1, 10, 10, 17, 15, 0)], []])
    found = [detection([(1, 10.4, 10.4, 16.6, 14.6, 0.9)], cells=2), detection([])]
    model = Oracle(found, False)
    model.config = replace(Config(), paste_whole_pixels=True)
    metrics = evaluate(model, dataset, progress=False)
    assert metrics == evaluate_detections(found, dataset, whole_pixels=True)
    assert metrics["segm/AP"] > evaluate_detections(found, dataset)["segm/AP"] + 0.1


def test_progress_is_shown(scene, capsys):
    evaluate(Oracle(scene[1], True), scene[0])
    assert "evaluate" in capsys.readouterr().err


def test_without_masks_there_are_only_box_metrics(scene):
    dataset, found = scene
    for each in found:
        del each["masks"]
    metrics = evaluate(Oracle(found, True), dataset, progress=False)
    assert list(metrics) == [f"bbox/{name}" for name in NAMES] and metrics["bbox/AP"] == pytest.approx(1)


class NoMasks(Boxes):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        del target["masks"]
        return image, target


def test_targets_without_masks_have_box_metrics(scene):
    dataset, found = scene
    expected = evaluate_detections(found, dataset)
    boxes = {name: value for name, value in expected.items() if name.startswith("bbox")}
    alone = NoMasks(dataset.images)
    assert evaluate(Oracle(found, True), alone, progress=False) == boxes  # of a model with masks, too
    for each in found:
        del each["masks"]
    assert evaluate(Oracle(found, True), alone, progress=False) == evaluate_detections(found, alone) == boxes
    assert boxes["bbox/AP"] == pytest.approx(1)


def test_targets_alone_are_read_where_a_data_set_has_them(scene):
    class Targets(Boxes):
        def read_target(self, index):
            return super().__getitem__(index)[1]

        def __getitem__(self, index):
            raise AssertionError("an image was read")

    assert evaluate_detections(scene[1], Targets(scene[0].images))["bbox/AP"] == pytest.approx(1)


def test_without_detections_ap_is_zero(scene):
    dataset, _ = scene
    metrics = evaluate(Oracle([detection([])] * 3, True), dataset, progress=False)
    assert set(metrics.values()) == {0.0} and len(metrics) == 12


def test_the_mode_is_restored_after_an_error(scene):
    model = Oracle(scene[1][:1], True)  # answers too few
    with pytest.raises(RuntimeError):
        evaluate(model, scene[0], progress=False)
    assert model.training is True


def test_the_targets_stay_as_they_are(scene):
    dataset, found = scene
    before = [{key: value.copy() for key, value in each.items()} for each in found]
    first = evaluate_detections(found, dataset)
    assert evaluate_detections(found, dataset) == first
    for each, copy in zip(found, before, strict=True):
        assert each.keys() == copy.keys() and all(np.array_equal(each[key], copy[key]) for key in each)


def named(*names):
    return [{"label": label, "name": name, "id": 7 * label} for label, name in enumerate(names, start=1)]


def test_classes_are_compared_by_name(scene):
    """The model counts the classes 3, 1, 2, and knows one more, of which it finds something that nobody asked for."""
    dataset, found = scene
    expected = evaluate_detections(found, dataset)
    for each in found:
        each["labels"] = np.array([{1: 2, 2: 4, 3: 1}[label] for label in each["labels"].tolist()], np.int64)
    found[1] = detection([(3, 5, 5, 60, 60, 0.99)])
    model = Oracle(found, True)
    model.categories = named("class 3", "class 1", "extra", "class 2")
    assert evaluate(model, dataset, progress=False) == expected
    assert expected["bbox/AP"] == pytest.approx(1)


def test_map_categories_by_hand():
    known = named("cat", "dog", "cow")
    assert map_categories(known, named("cow", "cat")) == {1: 3, 2: 1}
    assert map_categories(known, named("cat", "dog", "cow")) == {1: 1, 2: 2, 3: 3}
    assert map_categories(None, named("cow", "cat")) == map_categories([], named("cow", "cat")) == {1: 1, 2: 2}
    assert map_categories(named("a", "a"), named("a", "a")) == {1: 1, 2: 2}  # in one order, whatever their names


@pytest.mark.parametrize(
    "known, names, message",
    [
        (["cat", "dog"], ["Cat"], r"categories \['cat', 'dog'\], the data set has \['Cat'\].* does not know \['Cat'\]"),
        (["a", "a"], ["a"], "two of them have the same name"),
        (["a", "b"], ["a", "a"], "two of them have the same name"),
        (["a"], ["\x1b[2J\nb"], r"does not know \['\\x1b\[2J\\nb'\]"),
    ],
)
def test_other_categories_are_refused(scene, known, names, message):
    with pytest.raises(ValueError, match=message):
        map_categories(named(*known), named(*names))
    model = Oracle(scene[1], True)
    model.categories = named("nucleus")
    with pytest.raises(ValueError, match=r"The model knows the categories \['nucleus'\]"):
        evaluate(model, scene[0], progress=False)


def test_wrong_numbers_are_refused(scene):
    with pytest.raises(ValueError, match="detections for 2 images, but the data set has 3"):
        evaluate_detections(scene[1][:2], scene[0])
    with pytest.raises(ValueError, match="holds no image"):
        evaluate(Oracle([], True), Boxes([]), progress=False)
