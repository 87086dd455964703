"""Our own evaluator beside pycocotools: the same bits in precision, recall and the twelve numbers, for whatever comes;
spans, the bootstrap, and what is kept in memory."""

import contextlib
import io
import tracemalloc
import warnings

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinymrcnn.bench.coco import as_coco, count_by_pycocotools, count_by_us, make_images
from tinymrcnn.boxes import paste_masks
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.coco_masks import encode_mask
from tinymrcnn.evaluation import Comparison, average_precision, coco, evaluate, evaluate_detections
from tinymrcnn.evaluation.evaluator import match
from tinymrcnn.evaluation.run_lengths import spans_of_findings
from tinymrcnn.evaluation.spans import Spans, shared_pixels, spans_of_masks, spans_of_strings

CATEGORIES = [
    {"label": 1, "name": "a", "id": 7},
    {"label": 2, "name": "b", "id": 3},
    {"label": 3, "name": "c", "id": 9},
]


# pycocotools by itself -----------------------------------------------------------------------------------


def by_pycocotools(pairs, kind, limits):
    """(precision, recall, the twelve numbers) of (target, detection) pairs, by its own road from end to end."""
    ids = {category["label"]: category["id"] for category in CATEGORIES}
    dataset = {
        "images": [
            {"id": t["image_id"], "height": t["masks"].shape[1], "width": t["masks"].shape[2]} for t, _ in pairs
        ],
        "categories": CATEGORIES,
        "annotations": [],
    }
    results = []
    for target, found in pairs:
        for n, label in enumerate(target["labels"].tolist()):
            x1, y1, x2, y2 = target["boxes"][n].tolist()
            dataset["annotations"].append({
                "id": len(dataset["annotations"]) + 1, "image_id": target["image_id"], "category_id": ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": encode_mask(target["masks"][n]),
                "area": target["area"][n].item(), "iscrowd": target["iscrowd"][n].item(),
            })  # fmt: skip
        pasted = paste_masks(found["masks"], found["boxes"], target["masks"].shape[1:]) >= 0.5
        for n, label in enumerate(found["labels"].tolist()):
            x1, y1, x2, y2 = found["boxes"][n].tolist()
            results.append({
                "image_id": target["image_id"], "category_id": ids[label], "score": found["scores"][n].item(),
                "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": encode_mask(pasted[n]),
            })  # fmt: skip
            del results[-1]["segmentation" if kind == "bbox" else "bbox"]  # loadRes takes the area from a bbox first
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:
            found = COCO()
            found.dataset = {**dataset, "annotations": []}
            found.createIndex()
        run = COCOeval(truth, found, kind)
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        if limits == (1, 10, 100):  # what summarize() knows
            run.summarize()
    return run.eval["precision"], run.eval["recall"], list(run.stats)


def check_equal(pairs, max_detections=100):
    """Everything is the same doubles. Returns our Comparison."""
    ours = Comparison(CATEGORIES, max_detections)
    for pair in pairs:
        ours.add(*pair)
    limits = (1, 10, 100) if max_detections == 100 else (1, max_detections)
    for kind in ("bbox", "segm"):
        precision, recall, stats = by_pycocotools(pairs, kind, limits)
        own_precision, own_recall = ours.curves(kind, limits)
        assert own_precision.shape == precision.shape and own_recall.shape == recall.shape
        assert own_precision.dtype == own_recall.dtype == np.float64
        assert own_precision.tobytes() == precision.tobytes(), kind
        assert own_recall.tobytes() == recall.tobytes(), kind
        if stats:
            assert ours.summary(kind) == stats, kind
    return ours


def random_pair(rng, image_id):
    """One image with its target and detections: crowds, equal scores, areas that contradict the boxes, boxes of no size
    and beyond the image, any number of objects and detections; every size of COCO's."""
    height, width = rng.integers(20, 110), rng.integers(20, 130)
    count = int(rng.choice([0, 1, 3, 8]))
    corners = rng.uniform(0, 0.8, (count, 2)) * (width, height)
    sides = rng.uniform(0.05, 1, (count, 2)) * ((width, height) - corners)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    if rng.random() < 0.5:
        boxes = boxes.round()  # equal overlaps, and boxes of no size
    masks = np.zeros((count, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int), strict=True):
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.7, 1])
    area = masks.sum((1, 2)) * rng.choice([1, 1, 1, 40], count)
    target = {
        "boxes": boxes.astype(np.float32), "labels": rng.integers(1, 4, count), "masks": masks, "image_id": image_id,
        "area": area.astype(np.float32), "iscrowd": (rng.random(count) < rng.choice([0, 0.3])).astype(np.int64),
    }  # fmt: skip
    found = int(rng.choice([0, 2, 10, 30]))
    near = rng.integers(0, count, found // 2) if count else np.empty(0, int)
    moved = boxes[near] + rng.choice([0, 0, 1, 3]) * rng.standard_normal((len(near), 4)).round(1)
    far = rng.uniform(-10, 130, (found - len(near), 4))
    far[:, 2:] = far[:, :2] + np.abs(far[:, 2:])
    far[::4, 2] = far[::4, 0]
    labels = np.concatenate([target["labels"][near], rng.integers(1, 4, len(far))])
    moved[:, 2:] = np.maximum(moved[:, :2], moved[:, 2:])
    return target, {
        "boxes": np.concatenate([moved, far]).astype(np.float32),
        "labels": np.where(rng.random(found) < 0.15, 2, labels),
        "scores": (rng.integers(1, rng.choice([4, 1000]), found) / 1000).astype(np.float32),
        "masks": rng.random((found, *rng.integers(1, 9, 2)), np.float32) + np.float32(rng.choice([0.2, 0.45])),
    }


def random_case(seed):
    rng = np.random.default_rng(seed)
    return [random_pair(rng, image_id) for image_id in rng.permutation(50)[: rng.integers(1, 7)].tolist()]


@pytest.mark.parametrize("seed", range(50))
def test_random_cases_are_equal(seed):
    check_equal(random_case(seed), max_detections=[100, 3][seed % 10 == 0])


@pytest.mark.exhaustive
@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_cases_are_equal(hundred):
    for seed in range(1000 + 100 * hundred, 1100 + 100 * hundred):
        check_equal(random_case(seed), max_detections=[100, 3][seed % 10 == 0])


def test_the_random_cases_have_what_they_should():
    """Each of what is awkward occurs, and the cases are neither all right nor all wrong."""
    pairs = [pair for seed in range(50) for pair in random_case(seed)]
    assert any(target["iscrowd"].any() for target, _ in pairs)
    assert any(len(target["labels"]) == 0 for target, _ in pairs) and any(len(f["labels"]) == 0 for _, f in pairs)
    assert any(len(found["scores"]) > len(np.unique(found["scores"])) for _, found in pairs)
    assert any((found["boxes"][:, 2] == found["boxes"][:, 0]).any() for _, found in pairs)
    areas = np.concatenate([target["area"] for target, _ in pairs])
    assert (areas < 32**2).any() and (areas > 96**2).any() and ((areas > 32**2) & (areas < 96**2)).any()
    metrics = [check_equal(random_case(seed)).metrics() for seed in range(6)]
    assert any(0.05 < each["bbox/AP"] < 0.95 for each in metrics) and any(
        0 < each["segm/AP"] < 0.95 for each in metrics
    )


def soft_masks(rng, masks, boxes, cells=14):
    """What a model might find of the objects: their masks within the boxes, blurred and disturbed."""
    found = np.empty((len(masks), cells, cells), np.float32)
    for out, mask, (x1, y1, x2, y2) in zip(found, masks, boxes, strict=True):
        rows = np.linspace(y1, y2, cells, endpoint=False).astype(int).clip(0, mask.shape[0] - 1)
        columns = np.linspace(x1, x2, cells, endpoint=False).astype(int).clip(0, mask.shape[1] - 1)
        out[:] = mask[rows][:, columns]
    return (found + rng.normal(0, 0.25, found.shape)).clip(0, 1).astype(np.float32)


def found_in(rng, target, times):
    """`times` detections of every object, the boxes moved a little."""
    index = np.repeat(np.arange(len(target["labels"])), times)
    boxes = target["boxes"][index] + rng.normal(0, 1.5, (len(index), 4)).astype(np.float32)
    return {
        "boxes": boxes,
        "labels": target["labels"][index],
        "scores": rng.random(len(index)).astype(np.float16).astype(np.float32),
        "masks": soft_masks(rng, target["masks"][index], boxes),
    }


def test_shapes_are_equal():
    rng, dataset = np.random.default_rng(0), ShapesDataset(12, (96, 130), seed=1)
    pairs = [(target, found_in(rng, target, 3)) for _, target in dataset]
    for target, found in pairs:  # five classes there, three here
        target["labels"], found["labels"] = (each["labels"] % 3 + 1 for each in (target, found))
    metrics = check_equal(pairs).metrics()
    assert 0.2 < metrics["segm/AP"] < 0.9 and metrics["segm/APs"] > 0


def test_nuclei_are_equal():
    """One class, 60 to 80 small ellipses in an image, and more detections than count."""
    rng, pairs = np.random.default_rng(1), []
    for image_id in range(2):
        count, (height, width) = rng.integers(60, 80), (110, 150)
        centres, radii = rng.uniform(0, 1, (count, 2)) * (width, height), rng.uniform(3, 9, (count, 2))
        y, x = np.mgrid[:height, :width] + 0.5
        inside = ((np.stack([x, y], 2) - centres[:, None, None]) / radii[:, None, None]) ** 2
        masks = (inside.sum(-1) < 1).astype(np.uint8)
        target = {
            "boxes": np.concatenate([centres - radii, centres + radii], 1).astype(np.float32), "image_id": image_id,
            "labels": np.ones(count, np.int64), "masks": masks, "area": masks.sum((1, 2)).astype(np.float32),
            "iscrowd": np.zeros(count, np.int64),
        }  # fmt: skip
        pairs.append((target, found_in(rng, target, 2)))
    metrics = check_equal(pairs).metrics()
    assert 0.1 < metrics["segm/AP"] < 0.9 and metrics["segm/APm"] == -1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_what_the_benchmark_compares_is_equal(kind):
    images = make_images(25)
    expected = count_by_pycocotools(*as_coco(images, kind), kind)
    for own, theirs in zip(count_by_us(images, kind), expected, strict=True):
        assert own.tobytes() == theirs.tobytes()
    assert 0 < expected[0].max() <= 1 and expected[0].min() == -1


# Which one counts ----------------------------------------------------------------------------------------


def test_on_this_machine_our_own_is_equal():
    coco.is_our_own_equal.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coco.is_our_own_equal() is True


class Answers(list):
    """A data set of targets, without images."""

    categories = CATEGORIES

    def __getitem__(self, index):
        return np.zeros((3, 8, 9), np.float32), super().__getitem__(index)


def test_the_reference_is_a_switch_away(monkeypatch):
    pairs = random_case(5)
    targets, found = Answers(target for target, _ in pairs), [found for _, found in pairs]
    runs, add = [], coco.Reference.add
    monkeypatch.setattr(coco.Reference, "add", lambda self, *pair: runs.append(pair) or add(self, *pair))
    own = evaluate_detections(found, targets)
    assert runs == []
    assert evaluate_detections(found, targets, reference=True) == own and len(runs) == len(pairs)
    assert {name.split("/")[0] for name in own} == {"bbox", "segm"} and 0 <= own["bbox/AP"] <= 1


def test_where_they_differ_pycocotools_counts(monkeypatch):
    """As if another pycocotools took the first of two equals, say."""
    monkeypatch.setattr(coco.Comparison, "curves", lambda *_, **__: (np.zeros(1), np.zeros(1)))
    coco.is_our_own_equal.cache_clear()
    pairs = random_case(5)
    targets, found = Answers(target for target, _ in pairs), [found for _, found in pairs]
    with pytest.warns(UserWarning, match="does not give the same numbers as pycocotools"):
        metrics = evaluate_detections(found, targets)
    assert metrics == evaluate_detections(found, targets, reference=True)
    coco.is_our_own_equal.cache_clear()


@pytest.mark.parametrize("reference", [False, True])
def test_two_images_with_one_id(reference):
    pairs = [random_pair(np.random.default_rng(0), 4)] * 2
    with pytest.raises(ValueError, match="Two images of the data set have the image_id 4"):
        evaluate_detections([f for _, f in pairs], Answers(t for t, _ in pairs), reference=reference)


def test_a_label_that_is_no_category():
    target, found = random_pair(np.random.default_rng(3), 12)
    found["labels"][0] = 5
    with pytest.raises(ValueError, match="Image 12 has the label 5, which is no category: {2: 3, 1: 7, 3: 9}"):
        Comparison(CATEGORIES).add(target, found)


def test_without_images_there_is_nothing_to_say():
    with pytest.raises(ValueError, match="holds no image"):
        Comparison(CATEGORIES).metrics()


def test_where_one_image_has_no_masks_only_boxes_are_compared():
    pairs = [random_pair(np.random.default_rng(7), image_id) for image_id in range(4)]
    ours, boxes = Comparison(CATEGORIES), Comparison(CATEGORIES)
    for index, (target, found) in enumerate(pairs):
        bare = {name: value for name, value in found.items() if name != "masks"}
        ours.add(target, bare if index == 1 else found)
        boxes.add(target, bare)
    assert ours.metrics() == boxes.metrics()
    assert set(ours.metrics()) == {f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}


# Matching by hand ----------------------------------------------------------------------------------------


def test_match_by_hand():
    """Three detections; the second object is large, the third a crowd."""
    overlaps = np.array([[0.6, 0.9, 0.0], [0.55, 0.8, 0.0], [0.0, 0.0, 0.97]])
    areas, crowd = np.array([100.0, 20_000.0, 50.0]), np.array([False, False, True])
    right, ignored, chosen = match(overlaps, np.array([100.0, 100.0, 100.0]), areas, crowd)
    assert chosen.tolist() == [1, 0, 2]
    every = 2**10 - 1
    # of all sizes: the first at 0.5 to 0.9, the second at 0.5 and 0.55, what is in the crowd is ignored
    assert right[:, 0].tolist() == [2**9 - 1, 0b11, 0] and ignored[:, 0].tolist() == [0, 0, every]
    # of small ones: the first finds the small object up to 0.6, then the large one, which is ignored
    assert right[:, 1].tolist() == [0b111, 0, 0]
    assert ignored[:, 1].tolist() == [2**9 - 8, 0b111, every]
    # of large ones the detections themselves are too small to be wrong
    assert right[:, 3].tolist() == [2**9 - 1, 0, 0] and ignored[:, 3].tolist() == [2**9, every, every]
    assert right.dtype == ignored.dtype == np.uint16


# Spans ---------------------------------------------------------------------------------------------------


def unpacked(spans, size):
    """The masks (N, H, W) of spans, bool."""
    masks = np.zeros((len(spans.first) - 1, size[0] * size[1]), bool)
    for mask, first, last in zip(masks, spans.first[:-1], spans.first[1:], strict=True):
        for start, end in zip(spans.start[first:last], spans.end[first:last], strict=True):
            assert start < end and not mask[start:end].any()
            mask[start:end] = True
    return masks.reshape(-1, size[1], size[0]).transpose(0, 2, 1)


def test_spans_by_hand():
    mask = np.array([[[0, 1, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]], np.uint8)
    spans = spans_of_masks(mask)
    assert (spans.start.tolist(), spans.end.tolist(), spans.first.tolist()) == ([1, 4, 0], [3, 5, 6], [0, 2, 2, 3])
    assert spans.areas().tolist() == [3, 0, 6]
    every = np.ones((3, 3), bool)
    assert shared_pixels(*spans, *spans, every).tolist() == [[3, 0, 3], [0, 0, 0], [3, 0, 6]]
    assert shared_pixels(*spans, *spans, ~every).tolist() == np.zeros((3, 3)).tolist()
    empty = spans_of_masks(np.zeros((0, 4, 5)))
    assert empty.first.tolist() == [0] and empty.areas().shape == (0,)


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spans_of_masks_of_findings_and_of_strings(whole_pixels, dtype):
    rng = np.random.default_rng(0)
    for _ in range(40):
        count, size = rng.integers(0, 6), rng.integers(1, 60, 2)
        cells = (count, *rng.integers(1, 15, 2))
        masks = (rng.random(cells) if rng.random() < 0.7 else rng.choice([0, 0.5, 1], cells)).astype(dtype)
        boxes = rng.uniform(-20, 70, (count, 4)).astype(dtype)
        pasted = paste_masks(masks, boxes, size, whole_pixels=whole_pixels) >= 0.5
        spans = spans_of_findings(masks, boxes, size, whole_pixels)
        np.testing.assert_array_equal(unpacked(spans, size), pasted)
        np.testing.assert_array_equal(spans.areas(), pasted.sum((1, 2)))
        again = spans_of_masks(pasted)
        np.testing.assert_array_equal(unpacked(again, size), pasted)
        packed = spans_of_strings([encode_mask(mask)["counts"] for mask in pasted])
        np.testing.assert_array_equal(unpacked(packed, size), pasted)
        pixels = pasted.reshape(count, size[0] * size[1]).astype(np.int64)
        wanted = rng.random((count, count)) < 0.7
        np.testing.assert_array_equal(shared_pixels(*spans, *again, wanted), pixels @ pixels.T * wanted)


def test_long_and_negative_run_lengths():
    """Numbers of up to seven digits, and runs that are shorter than the run two before."""
    counts = [5, 2_000_000, 3, 7, 1, 900_000_000, 12, 1]
    size = [1, sum(counts)]
    packed = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    ends = np.cumsum(counts)
    spans = spans_of_strings([packed, "", packed])
    assert spans.start.tolist() == ends[0::2].tolist() * 2 and spans.end.tolist() == ends[1::2].tolist() * 2
    assert spans.first.tolist() == [0, 4, 4, 8]


def test_findings_are_checked_as_paste_masks_checks_them():
    masks, boxes = np.ones((1, 4, 4), np.float32), np.array([[1, 1, np.nan, 4]], np.float32)
    with pytest.raises(ValueError, match="finite"):
        spans_of_findings(masks, boxes, (8, 9))
    with pytest.raises(ValueError, match="Every box needs its own mask"):
        spans_of_findings(masks, np.zeros((2, 4), np.float32), (8, 9))
    assert isinstance(spans_of_findings(masks, np.zeros((1, 4), np.float32), (8, 9)), Spans)


# Weights and intervals -----------------------------------------------------------------------------------


def compared(pairs, **options):
    ours = Comparison(CATEGORIES, **options)
    for pair in pairs:
        ours.add(*pair)
    return ours


def distinct(pairs):
    """The pairs with scores that are all different, so that copies of a detection come together in any order."""
    rng = np.random.default_rng(0)
    scores = rng.permutation(sum(len(found["scores"]) for _, found in pairs)) / 1024
    for _, found in pairs:
        found["scores"], scores = scores[: len(found["scores"])].astype(np.float32), scores[len(found["scores"]) :]
    return sorted(pairs, key=lambda pair: pair[0]["image_id"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_weights_are_copies_of_images(seed):
    rng = np.random.default_rng(seed)
    pairs = distinct([random_pair(rng, image_id) for image_id in (3, 8, 5, 1)])
    weights = np.array([2, 0, 3, 1])
    copies = [pair for pair, times in zip(pairs, weights.tolist(), strict=True) for _ in range(times)]
    copies = [(target | {"image_id": n}, found) for n, (target, found) in enumerate(copies)]
    assert compared(pairs).metrics(weights) == compared(copies).metrics()
    targets = [target for target, _ in copies]
    for kind in ("bbox", "segm"):
        pasted = [
            found | {"masks": paste_masks(found["masks"], found["boxes"], target["masks"].shape[1:]) >= 0.5}
            for target, found in copies
        ]
        ids = {category["label"]: category["id"] for category in CATEGORIES}  # COCO adds up in the order of the ids
        order = {label: place for place, label in enumerate(sorted(ids, key=ids.get), start=1)}
        renamed = [
            [each | {"labels": np.array([order[label] for label in each["labels"].tolist()], int)} for each in some]
            for some in (targets, pasted)
        ]
        metrics = compared(pairs).metrics(weights)
        for name, value in average_precision(*renamed, kind).items():
            assert metrics[f"{kind}/{name}"] == value


def test_intervals():
    rng, dataset = np.random.default_rng(0), ShapesDataset(40, (64, 90), seed=1)
    pairs = [(target, found_in(rng, target, 2)) for _, target in dataset]
    for each in (each for pair in pairs for each in pair):
        each["labels"] = each["labels"] % 3 + 1
    ours = compared(pairs)
    metrics, intervals = ours.metrics(), ours.intervals(200)
    assert intervals.keys() == metrics.keys() and intervals == compared(pairs[::-1]).intervals(200)
    assert intervals != ours.intervals(200, seed=1)
    for name, (low, high) in intervals.items():
        if metrics[name] == -1:
            assert (low, high) == (-1, -1) and name.endswith(("APm", "APl"))
        else:
            assert low < metrics[name] < high and 0.02 < high - low < 0.4
    # the resamples one by one, by hand
    drawn = [np.random.default_rng([0, n]).integers(40, size=40) for n in range(200)]
    values = [ours.metrics(np.bincount(images, minlength=40))["segm/AP"] for images in drawn]
    assert intervals["segm/AP"] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
    # and four times as many images make them half as wide
    fewer = compared(pairs[:10]).intervals(200)
    ratio = [(fewer[name][1] - fewer[name][0]) / (high - low) for name, (low, high) in intervals.items() if low > -1]
    assert 1.4 < np.mean(ratio) < 2.8


def test_the_interval_of_one_image_is_its_value():
    ours = compared([random_pair(np.random.default_rng(4), 2)])
    assert ours.intervals(5) == {name: (value, value) for name, value in ours.metrics().items()}


# Memory --------------------------------------------------------------------------------------------------


def test_images_are_forgotten():
    """What 60 more images leave is their rows, not their masks, of which each holds a megabyte."""
    rng = np.random.default_rng(0)

    def image(image_id):
        corners = rng.uniform(0, 150, (20, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + 60], axis=1)
        masks = np.zeros((20, 210, 250), np.uint8)
        masks[:, 50:90, 40:90] = 1
        target = {"boxes": boxes, "labels": np.ones(20, int), "masks": masks, "image_id": image_id,
                  "area": np.full(20, 3600, np.float32), "iscrowd": np.zeros(20, int)}  # fmt: skip
        return target, {"boxes": boxes, "labels": np.ones(20, int), "scores": rng.random(20, np.float32),
                        "masks": rng.random((20, 14, 14), np.float32)}  # fmt: skip

    ours = Comparison(CATEGORIES)
    for image_id in range(5):
        ours.add(*image(image_id))
    tracemalloc.start()
    try:
        for image_id in range(5, 65):
            ours.add(*image(image_id))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 60 * 6_000  # 40 rows and their arrays' heads, for boxes and for masks
    assert evaluate.__doc__ and ours.metrics()["bbox/AP"] > 0.9
