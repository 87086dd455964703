"""Non-maximum suppression against the greedy rule written out, and where thresholds, ties and groups decide."""

import numpy as np
import pytest
from roi_reference import GOLDEN

from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.boxes.nms import batched_nms, iou, nms


def nms_reference(boxes, scores, threshold, groups=None):
    groups = np.zeros(len(boxes)) if groups is None else groups
    T, kept = boxes.dtype.type, []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = boxes[i], boxes[j]
            width, height = max(min(ax2, bx2) - max(ax1, bx1), T(0)), max(min(ay2, by2) - max(ay1, by1), T(0))
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
            if groups[i] == groups[j] and union > 0 and float(width * height / union) > threshold:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(rng, count, dtype=np.float32, whole=False):
    corners, sizes = rng.uniform(0, 60, (count, 2)), rng.uniform(1, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    return (np.round(boxes) if whole else boxes).astype(dtype)


def test_by_hand():
    boxes = np.array(
        [
            [0, 0, 10, 10],  # with the next: 80 / 120
            [2, 0, 12, 10],  # with the first and the next: 80 / 120
            [4, 0, 14, 10],  # with the first: 60 / 140
            [20, 20, 25, 40],  # with none
        ],
        np.float32,
    )
    scores = np.array([0.9, 0.8, 0.7, 0.95], np.float32)
    assert nms(boxes, scores, 0.5).tolist() == [3, 0, 2]  # the second is gone when the third's turn comes
    assert nms(boxes, scores, 0.42).tolist() == [3, 0]
    assert nms(boxes, scores, 0.67).tolist() == [3, 0, 1, 2]
    assert nms(boxes, scores, 0.5).dtype == np.int64
    assert iou(boxes.T, 0, 2) == np.float32(60) / np.float32(140)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0, 0.05, 0.3, 0.5, 0.7, 1])
def test_equals_the_greedy_rule(dtype, threshold):
    rng = np.random.default_rng(0)
    for count in (1, 2, 63, 64, 65, 300):
        boxes, scores = random_boxes(rng, count, dtype, whole=count % 2), rng.random(count).astype(dtype)
        expected = nms_reference(boxes, scores, threshold)
        assert nms(boxes, scores, threshold).tolist() == expected
    assert 1 < len(expected) < 300 or threshold == 1


@pytest.mark.parametrize(
    "twentieths, suppressed",  # float32(0.05), (0.1), (0.3) and (0.6) lie above the decimal, the others not
    [(1, True), (2, True), (6, True), (10, False), (12, True), (14, False), (18, False), (20, False)],
)
def test_an_iou_of_exactly_the_threshold(twentieths, suppressed):
    boxes = np.array([[0, 0, 20, 1], [0, 0, twentieths, 1]])
    scores = np.array([0.9, 0.8])
    assert len(nms(boxes.astype(np.float32), scores, twentieths / 20)) == 2 - suppressed
    assert len(nms(boxes.astype(np.float64), scores, twentieths / 20)) == 2  # equal, so not above


def test_of_equal_scores_the_first_box_wins():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10], [0, 1, 10, 11]], np.float32)
    assert nms(boxes, np.full(4, 0.5, np.float32), 0.5).tolist() == [0, 2]
    scores = np.random.default_rng(1).integers(0, 3, 200).astype(np.float32)
    boxes = random_boxes(np.random.default_rng(2), 200)
    assert nms(boxes, scores, 0.4).tolist() == nms_reference(boxes, scores, 0.4)


@pytest.mark.filterwarnings("error")
def test_empty_boxes_suppress_nothing():
    boxes = np.array([[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 9, 3], [0, 0, 9, 9]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert nms(boxes, scores, 0.0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("groups", [[0], [-1, 7], [3, 1, 2, 5, 4, 1000000000000]])
def test_groups_do_not_see_one_another(groups):
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 250), rng.integers(0, 90, 250).astype(np.float32)
    idxs = rng.choice(groups, 250)
    kept = batched_nms(boxes, scores, idxs, 0.4)
    assert kept.dtype == np.int64 and kept.tolist() == nms_reference(boxes, scores, 0.4, idxs)
    alone = [np.flatnonzero(idxs == group)[nms(boxes[idxs == group], scores[idxs == group], 0.4)] for group in groups]
    assert sorted(kept) == sorted(np.concatenate(alone))
    assert kept.tolist() == sorted(kept, key=lambda i: (-scores[i], i))


def test_groups_far_from_the_origin_lose_no_precision():  # as they do when every group is moved to a place of its own
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5001]], np.float32)
    for group in (0, 10_000):
        assert len(batched_nms(boxes, np.array([0.9, 0.8]), np.array([group, group]), 0.5)) == 1
        assert len(batched_nms(boxes, np.array([0.9, 0.8]), np.array([group, group]), 0.5002)) == 2


def test_no_boxes():
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    for kept in (nms(boxes, scores, 0.5), batched_nms(boxes, scores, np.zeros(0, int), 0.5)):
        assert kept.shape == (0,) and kept.dtype == np.int64


def test_inputs_are_left_alone_and_may_have_gaps():
    rng = np.random.default_rng(4)
    wide = random_boxes(rng, 100)
    scores, idxs = rng.random(100), rng.integers(0, 3, 100)
    before = wide.copy(), scores.copy(), idxs.copy()
    kept = batched_nms(wide[::2], scores[::2], idxs[::2], 0.4)
    assert kept.tolist() == batched_nms(wide[::2].copy(), scores[::2].copy(), idxs[::2].copy(), 0.4).tolist()
    assert all(np.array_equal(a, b) for a, b in zip((wide, scores, idxs), before, strict=True))


def test_wrong_arguments(fake_device):
    boxes, scores = random_boxes(np.random.default_rng(5), 3), np.array([0.1, 0.2, 0.3])
    broken = boxes.copy()
    broken[1, 2] = np.nan
    for wrong, message in [
        ((boxes[:, :3], scores), r"float \(n, 4\) array, not float32 \(3, 3\)"),
        ((boxes[0], scores), r"float \(n, 4\) array"),
        ((boxes.astype(int), scores), r"float \(n, 4\) array, not int64"),
        ((boxes, scores[:2]), r"3 boxes, so the scores must be 3 floats .* not float64 \(2,\)"),
        ((boxes, scores[:, None]), "scores must be 3 floats in one dimension"),
        ((boxes, np.array([1, 2, 3])), "scores must be 3 floats .* not int64"),
        ((broken, scores), "Box 1 or its score is not finite"),
        ((boxes, np.array([0.1, 0.2, np.inf])), "Box 2 or its score is not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            nms(*wrong, 0.5)
    for idxs in (np.zeros(2, int), np.zeros(3)):
        with pytest.raises(ValueError, match="their groups must be 3 integers"):
            batched_nms(boxes, scores, idxs, 0.5)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"threshold must lie in 0\.\.1"):
            nms(boxes, scores, threshold)
    with pytest.raises(TypeError, match="mixes"):
        nms(boxes, to_device(scores, "fake"), 0.5)


def test_off_the_host(fake_device):
    rng = np.random.default_rng(6)
    arrays = random_boxes(rng, 150), rng.random(150), rng.integers(0, 4, 150)
    kept = batched_nms(*(to_device(array, "fake") for array in arrays), 0.4)
    assert isinstance(kept, fake_device) and fake_device.copies == 2  # are all values finite? how large is a group?
    np.testing.assert_array_equal(to_numpy(kept), batched_nms(*arrays, 0.4))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cuda_kernels_agree(dtype):
    rng = np.random.default_rng(7)
    for count, groups in ((1, 1), (200, 3), (5000, 1), (20000, 40)):
        # whole numbers: a GPU's fused multiply-add rounds areas otherwise, which may decide at the threshold
        arrays = random_boxes(rng, count, dtype, whole=True), rng.random(count), rng.integers(0, groups, count)
        kept = batched_nms(*(to_device(array, "cuda") for array in arrays), 0.7)
        np.testing.assert_array_equal(to_numpy(kept), batched_nms(*arrays, 0.7))


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.5, 0.7])
def test_golden_arrays_of_torchvision(threshold):
    golden = np.load(GOLDEN)
    boxes, scores = golden["boxes"], golden["scores"]
    np.testing.assert_array_equal(nms(boxes, scores, threshold), golden[f"nms {threshold}"])
    kept = batched_nms(boxes, scores, golden["groups"], threshold)
    np.testing.assert_array_equal(kept, golden[f"batched_nms {threshold}"])


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(30))
def test_parity_with_torchvision(seed):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng([seed, 8])
    for count in rng.integers(1, 400, 10):
        boxes = random_boxes(rng, count, [np.float32, np.float64][seed % 2], whole=seed % 3)
        scores, idxs = rng.permutation(count).astype(boxes.dtype), rng.integers(0, 5, count)  # no ties
        threshold = float(rng.choice([0.05, 0.1, 0.25, 0.3, 0.5, 0.7]))
        given = torch.from_numpy(boxes), torch.from_numpy(scores)
        expected = torchvision.ops.nms(*given, threshold).numpy()
        np.testing.assert_array_equal(nms(boxes, scores, threshold), expected)
        one_by_one = [
            np.flatnonzero(idxs == group)[torchvision.ops.nms(*(x[idxs == group] for x in given), threshold).numpy()]
            for group in range(5)
        ]
        expected = np.concatenate(one_by_one)
        expected = expected[np.argsort(-scores[expected])]
        np.testing.assert_array_equal(batched_nms(boxes, scores, idxs, threshold), expected)
