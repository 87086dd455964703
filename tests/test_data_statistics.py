"""The numbers of a data set, and the settings that follow from them, against counting and against real anchors."""

import numpy as np
import pytest
from format_writers import SCENES, write_coco

from tinymrcnn.boxes import AnchorGenerator, box_iou
from tinymrcnn.data import statistics
from tinymrcnn.data.formats import open_source, open_split
from tinymrcnn.data.statistics import Objects

OWN = ((16,), (32,), (64,), (128,))
STRIDES, RATIOS = [4, 8, 16, 32], (0.5, 1.0, 2.0)


def boxes_of(rng, count, sides, size=256):
    sides = rng.uniform(*sides, (count, 2))
    corners = rng.uniform(0, size - sides)
    return np.concatenate([corners, corners + sides], 1)


def objects_of(counts, sides=(10, 40), seed=0) -> Objects:
    """So many objects in each of the images."""
    boxes = boxes_of(np.random.default_rng(seed), sum(counts), sides)
    images = np.repeat(np.arange(len(counts)), counts)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Objects(np.full((len(counts), 2), 256), images, np.ones(len(boxes), np.int64), boxes, areas)


def test_gathered_by_hand(tmp_path):
    write_coco(tmp_path, SCENES)
    dataset = open_split(open_source(tmp_path).training())
    objects = statistics.gather(dataset)
    assert objects.image_sizes.tolist() == [[40, 50], [36, 64], [40, 50]]
    assert objects.images.tolist() == [0, 0, 0, 0, 1, 1] and objects.labels.tolist() == [2, 2, 3, 1, 3, 2]
    assert objects.boxes[:3].tolist() == [[3, 4, 13, 20], [13, 4, 22, 18], [25, 3, 44, 19]]
    assert objects.areas.tolist() == [160, 126, 256, 268, 500, 209]
    assert [array.dtype for array in objects] == [np.int64, np.int64, np.int64, np.float64, np.float64]
    assert statistics.per_image(objects).tolist() == [4, 2, 0]
    assert statistics.per_class(objects, 3).tolist() == [[1, 1], [3, 2], [2, 2]]
    np.testing.assert_allclose(statistics.side_lengths(objects.boxes[:2]), [160**0.5, 126**0.5])
    assert statistics.quantiles(np.arange(101)) == [5, 25, 50, 75, 95]


def test_crowds_are_left_out_and_boxes_are_cut():
    class Dataset:
        categories = [{"id": 9, "label": 1, "name": "a"}]

        def __len__(self):
            return 1

        def image_of(self, index):
            return {"size": (30, 50)}

        def objects_of(self, index):
            common = {"category_id": 9, "area": None}
            return [{**common, "bbox": [-5, 20, 25, 30], "iscrowd": 0}, {**common, "bbox": [0, 0, 9, 9], "iscrowd": 1}]

    objects = statistics.gather(Dataset())
    assert objects.boxes.tolist() == [[0, 20, 20, 30]] and objects.areas.tolist() == [200]


def test_of_nothing():
    nothing = objects_of([0, 0])
    assert (
        statistics.per_image(nothing).tolist() == [0, 0] and statistics.per_class(nothing, 2).tolist() == [[0, 0]] * 2
    )
    assert statistics.anchor_fit(nothing.boxes, statistics.anchor_shapes([(16,)], RATIOS), [4]).shape == (0,)
    assert statistics.quantiles(np.empty(0)) == [0] * 5


@pytest.mark.parametrize("sides", [(3, 30), (20, 200)])
def test_the_fit_of_anchors_is_that_of_real_anchors(sides):
    """All anchors of a grid that reaches beyond the image, and the IoU with each of them."""
    sizes = ((12, 17), (32, 45), (64, 90), (128, 181))
    boxes = boxes_of(np.random.default_rng(0), 300, sides)
    ratios = (0.4, 1.0, 1.5)
    generator = AnchorGenerator(sizes, ratios)
    levels = generator([(256 // stride + 1, 256 // stride + 1) for stride in STRIDES], (256, 256), STRIDES)
    best = box_iou(boxes.astype(np.float32), np.concatenate(levels)).max(1)
    fit = statistics.anchor_fit(boxes, statistics.anchor_shapes(sizes, ratios), STRIDES)
    assert fit.dtype == np.float64
    np.testing.assert_allclose(fit, best, atol=1e-5)
