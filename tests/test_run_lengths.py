"""Found masks straight to run lengths: those of the pasted masks to the last pixel, without an image."""

import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tinymrcnn.boxes import paste_masks
from tinymrcnn.data.coco_masks import encode_mask, pack_runs, runs_of, unpack_counts
from tinymrcnn.evaluation import run_lengths
from tinymrcnn.evaluation.run_lengths import encode_findings, spans_of_findings


def counts_of(masks, boxes, size, dtype=np.float32):
    found = encode_findings(np.array(masks, dtype), np.array(boxes, dtype), size)
    assert all(each["size"] == list(size) for each in found)
    return [unpack_counts(each["counts"]).tolist() for each in found]


def test_by_hand():
    ones = np.ones((1, 4, 4))
    # 3 high, 5 wide; the box ends in the middle of the pixel row 2, whose centre lies on its border: half of it, 0.5
    assert counts_of(ones, [[1, 0, 3, 2.5]], (3, 5)) == [[3, 6, 6]]
    assert counts_of(ones, [[1, 1, 3, 3]], (4, 5)) == [[5, 2, 2, 2, 9]]
    assert counts_of(ones, [[-9, -9, 9, 9]], (3, 5)) == [[0, 15]]  # a run goes on from column to column
    assert counts_of(ones, [[3, -9, 9, 9]], (3, 5)) == [[9, 6]]
    assert counts_of(ones, [[9, 9, 12, 12]], (3, 5)) == [[15]]
    assert counts_of(ones, [[3, 1, 3, 2]], (3, 5)) == [[15]]
    assert counts_of(ones * 0.49, [[0, 0, 3, 2]], (3, 5)) == [[15]]
    assert counts_of(ones * np.nan, [[0, 0, 3, 2]], (3, 5)) == [[15]]
    half = np.array([[[1, 1, 0, 0]]])
    assert counts_of(half, [[0, 0, 4, 3]], (3, 4)) == [[0, 6, 6]]
    # the second mask begins where the first one ends: it is no part of it
    assert counts_of(np.ones((2, 4, 4)), [[0, 0, 2, 3], [2, 0, 5, 3]], (3, 5)) == [[0, 6, 9], [6, 9]]


def some_boxes(rng, count, size):
    """Of all kinds: within, across the borders, far outside, tiny, whole pixels, all of the image, turned around."""
    h, w = size
    centres, sides = rng.uniform(-0.3, 1.3, (count, 2)) * (w, h), np.exp(rng.uniform(-3, 5, (count, 2)))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    kinds = rng.integers(0, 8, count)
    boxes[kinds == 0] = boxes[kinds == 0].round()
    boxes[kinds == 1] = (0, 0, w, h)
    boxes[kinds == 2] = (-w, -h, 2 * w, 3 * h)
    boxes[kinds == 3] = boxes[kinds == 3][:, [2, 1, 0, 3]]
    boxes[kinds == 4] += (5 * w, 0, 5 * w, 0)
    return boxes


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_pasted_and_encoded(whole_pixels, dtype):
    rng = np.random.default_rng(0)
    touched = 0
    for _ in range(150):
        count, size = rng.integers(0, 7), tuple(rng.integers(1, 90, 2).tolist())
        cells = (count, *rng.integers(1, 30, 2))
        masks = rng.random(cells) if rng.random() < 0.6 else rng.choice([0, 0.5, 1], cells, p=(0.2, 0.4, 0.4))
        masks, boxes = masks.astype(dtype), some_boxes(rng, count, size).astype(dtype)
        pasted = paste_masks(masks, boxes, size, whole_pixels=whole_pixels) >= 0.5
        found = encode_findings(masks, boxes, size, whole_pixels)
        assert found == [encode_mask(mask) for mask in pasted]
        for each, mask in zip(found, pasted, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(each), mask)
        spans = spans_of_findings(masks, boxes, size, whole_pixels)
        assert spans.areas().tolist() == pasted.sum((1, 2)).tolist()
        touched += (pasted.any((1, 2)) & ~pasted.all((1, 2))).sum()
    assert touched > 100


def test_run_lengths_of_starts_and_ends():
    none = np.empty(0, np.int64)
    assert runs_of(none, none, 12).tolist() == [12]
    assert runs_of(np.array([0, 7]), np.array([2, 12]), 12).tolist() == [0, 2, 5, 5]
    assert runs_of(np.array([3]), np.array([4]), 12).tolist() == [3, 1, 8]
    mask = np.zeros((3, 4), np.uint8)
    mask[0, 1] = 1
    assert pack_runs(np.array([3, 1, 8]), 3, 4) == encode_mask(mask)


def test_no_image_is_made(monkeypatch):
    """The kernel as plain Python, so that what it allocates is counted: less than a quarter of a byte for a pixel."""
    monkeypatch.setattr(run_lengths, "_sampled", run_lengths._sampled.py_func)
    size, rng = (900, 1100), np.random.default_rng(0)
    masks = rng.random((3, 28, 28), np.float32)
    boxes = np.array([[10, 20, 40, 45], [1080, 880, 1130, 930], [500, 300, 515, 340]], np.float32)
    peaks, found = [], []
    for encode in (
        lambda: encode_findings(masks, boxes, size),
        lambda: [encode_mask(mask) for mask in paste_masks(masks, boxes, size) >= 0.5],
    ):
        tracemalloc.start()
        found.append(encode())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[0] == found[1]
    # of the pasted way only the three images of bools are counted: the others come straight from the system
    assert peaks[0] < size[0] * size[1] / 4 and peaks[1] > 3 * size[0] * size[1]
