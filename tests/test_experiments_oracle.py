"""The oracle: what it says FCIS can read, and that no better maps exist."""

import itertools
import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from tinymrcnn.autograd import Tensor
from tinymrcnn.data import ShapesDataset
from tinymrcnn.experiments import oracle
from tinymrcnn.experiments.oracle import Pair, best_choice, bounds, count, fitted, forced, mean_iou, pairs_of, reads
from tinymrcnn.models.fcis import FCISSettings, mask_logits, read_rois

BOXES = np.array([[3, 2, 21, 25], [10, 5, 30, 17]], np.float32)


@pytest.fixture(scope="module")
def pairs():
    dataset = ShapesDataset(20, seed=1, crowded=True)
    return [pair for index in range(20) for pair in pairs_of(dataset[index][1])]


# What FCIS reads


@pytest.mark.parametrize("group", [3, 7])
def test_a_pixel_reads_the_part_of_the_bin_at_its_place(group):
    """Of 21 bins as of any number that the parts divide."""
    height, width = 23, 18
    part, cell = reads(BOXES[0], (28, 33), group, 8)
    for y, x in itertools.product(range(28), range(33)):
        if not (2 <= y < 25 and 3 <= x < 21):
            assert part[y, x] == cell[y, x] == -1
            continue
        row, column = ((y - 2) * 21 // height) * group // 21, ((x - 3) * 21 // width) * group // 21
        assert part[y, x] == row * group + column
        assert cell[y, x] == (y // 8) * 5 + x // 8  # 33 pixels are 5 cells


def test_counts_are_those_of_the_masks_and_boxes(pairs):
    for pair in pairs[:5]:
        inside, outside = count(pair.masks, pair.boxes, 7, 8)
        areas = (pair.boxes[:, 2:] - pair.boxes[:, :2]).prod(axis=1)
        assert inside.sum(axis=0).tolist() == pair.masks.sum((1, 2)).tolist()
        assert (inside + outside).sum(axis=0).tolist() == areas.tolist()
        assert ((inside + outside).sum(axis=1) > 0).all()


def test_pairs_are_of_one_class_and_overlap():
    target = {
        "boxes": np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [8, 8, 18, 18]], np.float32),
        "labels": np.array([1, 1, 2, 1]),
        "masks": np.ones((4, 20, 20), np.uint8),
    }
    (pair,) = pairs_of(target)
    assert pair.overlap == pytest.approx(0.8) and pair.boxes.tolist() == target["boxes"][:2].tolist()
    assert pair.masks.dtype == bool


# The best choice


def brute_force(inside, outside):
    """The highest mean IoU of all choices."""
    choices = itertools.product((False, True), repeat=len(inside))
    return max(mean_iou(inside, outside, np.array(choice)) for choice in choices)


@pytest.mark.parametrize("objects", [1, 2])
def test_no_other_choice_is_better(objects):
    rng = np.random.default_rng(objects)
    for _ in range(60):
        groups = rng.integers(1, 9)
        inside, outside = rng.integers(0, 9, (2, groups, objects))
        inside[rng.integers(groups)] += 1  # every object has a pixel
        chosen = best_choice(inside, outside)
        assert chosen.shape == (groups,) and chosen.dtype == bool
        assert mean_iou(inside, outside, chosen) == pytest.approx(brute_force(inside, outside), abs=1e-12)


def upper_bound(inside, outside, step=0.01):
    """A value that no choice's mean IoU exceeds by Lagrange's relaxation.

    A choice with both IoUs at least q has a - q b >= q size for both objects, so for any weights of the two. Where the
    sum over all groups that help is too small for some weights, there is none. A mean of v needs IoUs of at least q
    and 2 v - q - step for one of the q that lie a step apart."""
    size, weights = inside.sum(axis=0), np.linspace(0, 1, 21)
    q = np.arange(0, 1, step)

    def possible(v):
        both = np.stack([q, np.maximum(2 * v - q - step, 0)], axis=1)  # (Q, 2)
        gain = (inside - both[:, None] * outside) / size  # (Q, G, 2)
        return np.all(
            [
                np.maximum(gain @ (w, 1 - w), 0).sum(axis=1) >= both @ (w, 1 - w) - 1e-9
                for w in weights.tolist()
            ],
            axis=0,
        ).any()  # fmt: skip

    return next(v for v in np.arange(1, -step, -step / 4) if possible(v)) + step / 4


def test_the_upper_bound_is_one():
    rng = np.random.default_rng(0)
    for _ in range(10):
        inside, outside = rng.integers(0, 9, (2, 8, 2))
        inside[0] += 1
        assert brute_force(inside, outside) <= upper_bound(inside, outside) < brute_force(inside, outside) + 0.1


def test_large_choices_reach_the_upper_bound_but_for_its_steps(pairs):
    for pair in sorted(pairs, key=lambda pair: pair.overlap)[::-8]:
        counts = count(pair.masks, pair.boxes, 3, 8)
        assert upper_bound(*counts) - mean_iou(*counts, best_choice(*counts)) < 0.01


def test_two_halves_of_one_box():
    """All pixels are shared, so that one of the two can be right, or both half wrong; alone both are right."""
    masks = np.zeros((2, 20, 24), bool)
    masks[0, 4:16, 6:12] = masks[1, 4:16, 12:18] = True
    same = Pair(masks, np.array([[6, 4, 18, 16]] * 2, np.float32), 1.0)
    assert forced(same, 3) == 1 and bounds(same, 3, 1) == (1, 0.5)
    apart = Pair(masks, np.array([[6, 4, 12, 16], [12, 4, 18, 16]], np.float32), 0.0)
    assert bounds(apart, 3, 1) == (1, 1)
    beside = Pair(masks, np.array([[6, 4, 18, 16], [12, 4, 24, 16]], np.float32), 0.33)
    assert forced(beside, 2) == 0 and bounds(beside, 2, 1) == (1, 1)  # the right parts of one, the left of the other


def test_coarser_maps_and_fewer_parts_are_worse(pairs):
    for pair in pairs[:8]:
        found = {(k, s): bounds(pair, k, s) for k in (3, 7) for s in (1, 4, 8)}
        assert all(both <= alone + 1e-12 for alone, both in found.values())
        assert all(found[k, 1] >= found[k, 4] >= found[k, 8] for k in (3, 7))
        assert found[3, 1][0] == found[7, 1][0] == 1


# The model's own reading


@pytest.mark.parametrize("group, stride", [(3, 4), (7, 8)])
def test_the_matrix_reads_as_the_model_does(group, stride):
    settings = FCISSettings(group=group)
    height, width = 28, 33
    rows, columns = -(-height // stride) + 2, -(-width // stride) + 2
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, 2 * group**2, rows, columns))
    boxes = BOXES.astype(np.float64) + 0.3
    reading = read_rois((Tensor(maps), Tensor(maps[:, : group**2])), [boxes], stride, settings)
    expected = mask_logits(reading.scores, np.arange(2), np.zeros(2, int)).data
    matrix = oracle.reading_matrix(boxes, (height, width), settings, stride)
    # the matrix has the columns that are read, in the order of (part, cell)
    difference = (maps[0, group**2 :] - maps[0, : group**2]).ravel()
    used = np.zeros(difference.shape, bool)
    for number in range(len(used)):
        one = np.zeros_like(maps)
        one.reshape(-1)[len(used) + number] = 1
        used[number] = read_rois((Tensor(one), Tensor(one[:, : group**2])), [boxes], stride, settings).scores.data.any()
    assert matrix.shape == (2 * 21**2, used.sum()) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix @ difference[used], expected.ravel(), atol=1e-12)


def test_the_lowest_loss_of_what_can_be_said_by_hand():
    """Bins that all read one number: its logit is that of their share; numbers of their own go as far as they may."""
    targets = np.array([1.0, 0, 0, 0])
    assert oracle.lowest_loss(np.ones((4, 1)), targets)[0] == pytest.approx(np.log(1 / 3), abs=0.1)
    logits = oracle.lowest_loss(np.eye(4), targets)
    assert logits[0] > 3 and (logits[1:] < -3).all()


def test_the_lowest_loss_has_no_slope():
    rng = np.random.default_rng(3)
    matrix, targets = rng.random((80, 12)), (rng.random(80) < 0.4).astype(float)
    maps = oracle.lowest_loss(matrix, targets)

    def loss(maps):
        p = 1 / (1 + np.exp(-matrix @ maps))
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum() + oracle.RIDGE / 2 * (maps**2).sum()

    assert loss(maps) < loss(0 * maps) - 1
    for _ in range(50):
        assert loss(maps) < loss(maps + rng.normal(size=12)) + 0.02


def test_fitted_maps_serve_objects_that_share_nothing_equally(pairs):
    masks = np.zeros((2, 64, 72), bool)
    masks[0, 5:25, 6:30], masks[1, 30:60, 40:70] = True, True
    apart = Pair(masks, np.array([[6, 5, 30, 25], [40, 30, 70, 60]], np.float32), 0.0)
    alone, both = fitted(apart)
    assert both == pytest.approx(alone, abs=0.01) and alone > 0.95  # boxes are full, so one sign is enough
    close = max(pairs, key=lambda pair: pair.overlap)
    alone, both = fitted(close)
    assert both < alone - 0.05 and alone > bounds(close, 7, 8)[0]


# The table and the figure


def test_the_quick_run_has_all_and_survives_json():
    result = oracle.run(quick=True)
    assert json.loads(json.dumps(result)) == result
    assert result["rows"]
    for row in result["rows"]:
        assert row["pairs"] > 0 and 0.7 < row["round_trip"] <= 1
        assert [(maps["group"], maps["stride"]) for maps in row["maps"]] == [
            (3, 1),
            (3, 4),
            (3, 8),
            (7, 1),
            (7, 4),
            (7, 8),
        ]
        for maps in (*row["maps"], row["fitted"]):
            assert 0.3 < maps["both"] <= maps["alone"] + 0.01 <= 1.01
    figure = oracle.draw(result)
    assert isinstance(figure, Figure) and len(figure.axes) == 3
    assert [len(panel.lines) for panel in figure.axes] == [5, 5, 7]


def test_the_table_of_one_pair_is_that_of_the_pair(monkeypatch, pairs):
    (pair, *_) = pairs
    monkeypatch.setattr(oracle, "pairs_of", lambda target: [pair])
    (row,) = oracle.oracle(1)
    low, high = row["overlap"]
    assert row["pairs"] == 1 and low <= pair.overlap < high
    assert (row["maps"][5]["alone"], row["maps"][5]["both"]) == bounds(pair, 7, 8)
    assert (row["fitted"]["alone"], row["fitted"]["both"]) == fitted(pair)
    assert row["maps"][0]["forced"] == forced(pair, 3) and row["round_trip"] == oracle.round_trip(pair)
