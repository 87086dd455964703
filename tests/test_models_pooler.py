"""From which level an RoI is cut, and in which order the results come."""

import numpy as np
import pytest
from tiny_models import batch_of, empty_scene, tiny_model

from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import like
from tinymrcnn.models.pooler import PoolerSettings, assign_levels, cut_rois, pool_rois
from tinymrcnn.roi import roi_align, roi_pool, roi_warp

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
DEFAULT = PoolerSettings()


def box(width, height, x=3.0, y=5.0):
    return [x, y, x + width, y + height]


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [
        (224, 224, 4),  # the canonical size
        (223.9, 223.9, 3),
        (448, 112, 4),  # only the area counts
        (112, 448, 4),
        (112, 112, 3),
        (111.9, 112, 2),
        (448, 448, 5),
        (447.9, 448, 4),
        (56, 56, 2),
        (10, 10, 2),  # smaller than the finest level's
        (1500, 900, 5),  # larger than the coarsest level's
        (5000, 5000, 5),
        (0, 10, 2),
        (0, 0, 2),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_level_of_a_box(width, height, level, dtype):
    levels = assign_levels(np.array([box(width, height)], dtype), SCALES, DEFAULT)
    assert levels.dtype == np.int64
    assert levels.tolist() == [level - 2]  # the finest is P2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_does_not_move_a_box_of_the_canonical_size(dtype):
    # (x + 224) - x is 223.9999 in float32 for some x
    x = np.linspace(0.1, 1800, 2000, dtype=dtype)
    boxes = np.stack([x, x, x + dtype(224), x + dtype(224)], axis=1)
    assert ((boxes[:, 2] - boxes[:, 0]) < 224).any()
    assert (assign_levels(boxes, SCALES, DEFAULT) == 2).all()


def test_other_canonical_sizes_and_levels():
    boxes = np.array([box(31, 31), box(32, 32), box(64, 64), box(128, 128)], np.float32)
    four, three = PoolerSettings(canonical_size=64.0), PoolerSettings(canonical_size=64.0, canonical_level=3)
    assert assign_levels(boxes, SCALES, four).tolist() == [0, 1, 2, 3]
    assert assign_levels(boxes, SCALES, three).tolist() == [0, 0, 1, 2]
    assert assign_levels(boxes, [1 / 8, 1 / 16], four).tolist() == [0, 0, 1, 1]
    assert assign_levels(boxes[:0], SCALES, DEFAULT).shape == (0,)


def constant_maps(images, size, channels=2):
    """Maps of which every cell of level l and image n is 10 l + n; the second channel is its negative."""
    maps = []
    for level in range(4):
        stride = 4 << level
        values = 10.0 * level + np.arange(images, dtype=np.float32).reshape(-1, 1, 1, 1)
        signs = np.array([1, -1], np.float32).reshape(1, -1, 1, 1)
        maps.append(Tensor(np.broadcast_to(values * signs, (images, channels, size[0] // stride, size[1] // stride))))
    return maps


def test_results_come_in_the_order_of_the_boxes():
    maps = constant_maps(3, (512, 640))
    boxes = [
        np.array([box(300, 300), box(20, 30), box(500, 480), box(120, 130)], np.float32),
        np.zeros((0, 4), np.float32),
        np.array([box(60, 50), box(230, 230)], np.float32),
    ]
    pooled = pool_rois(maps, boxes, SCALES, 3, DEFAULT)
    assert pooled.shape == (6, 2, 3, 3) and pooled.dtype == np.float32
    assert pooled.data.transpose(0, 2, 3, 1).flags.c_contiguous
    expected = np.array([20, 0, 30, 10, 2, 22], np.float32)
    np.testing.assert_allclose(pooled.data[:, 0], np.broadcast_to(expected[:, None, None], (6, 3, 3)), rtol=1e-6)
    np.testing.assert_array_equal(pooled.data[:, 1], -pooled.data[:, 0])


@pytest.mark.parametrize("boxes", [[], [box(20, 20)] * 3])
def test_levels_without_rois(boxes):
    boxes = [np.array(boxes, np.float32).reshape(-1, 4)]
    maps = constant_maps(1, (128, 160))
    assert pool_rois(maps, boxes, SCALES, 2, DEFAULT).shape == (len(boxes[0]), 2, 2, 2)


def test_a_single_level_takes_all():
    (feature,) = constant_maps(2, (128, 160))[2:3]
    boxes = [np.array([box(5, 5), box(100, 90)], np.float32), np.array([box(30, 30)], np.float32)]
    pooled = pool_rois([feature], boxes, [1 / 16], 2, DEFAULT)
    np.testing.assert_allclose(pooled.data[:, 0, 0, 0], [20, 20, 21])


ARGUMENTS = {
    "roi_align": lambda f, r, size, scale: roi_align(f, r, size, scale, 2, True),
    "roi_align, not aligned": lambda f, r, size, scale: roi_align(f, r, size, scale, 2, False),
    "roi_align, max": lambda f, r, size, scale: roi_align(f, r, size, scale, 2, True, "max"),
    "roi_pool": roi_pool,
    "roi_warp": lambda f, r, size, scale: roi_warp(f, r, size, scale, 2),
    "roi_warp, max": lambda f, r, size, scale: roi_warp(f, r, size, scale, 2, "max"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operators_by_name(name):
    reduce = "max" if name.endswith("max") else "mean"
    settings = PoolerSettings(name.partition(",")[0], "not" not in name, sampling_ratio=2, reduce=reduce)
    features = Tensor(np.random.default_rng(0).normal(size=(2, 3, 9, 13)).astype(np.float32))
    rois = np.array([[1, 3.2, 4.1, 30.9, 20.3], [0, 10.0, 0.5, 50.0, 33.0]], np.float32)
    result = cut_rois(features, rois, 3, 1 / 4, settings)
    np.testing.assert_array_equal(result.data, ARGUMENTS[name](features, rois, 3, 1 / 4).data)
    others = [ARGUMENTS[other](features, rois, 3, 1 / 4).data for other in ARGUMENTS if other != name]
    assert not any(np.array_equal(result.data, other) for other in others)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", ["roi_align", "roi_pool", "roi_warp"])
def test_gradients_over_all_levels(check_gradients, name):
    boxes = [
        np.array([box(11, 9, 1.3, 2.2), box(60, 40, 2.1, 3.7)], np.float64),
        np.zeros((0, 4)),
        np.array([box(25, 21, 7.7, 8.1), box(5, 4, 30.2, 20.3), box(80, 55, 4.4, 3.3)], np.float64),
    ]
    settings = PoolerSettings(roi_op=name, canonical_size=32.0)

    def make_inputs(rng):
        return [Tensor(rng.normal(size=(3, 2, 64 >> i, 96 >> i)), requires_grad=True) for i in range(2, 6)]

    def pooled(*maps):
        return pool_rois(maps, [like(b, maps[0].data) for b in boxes], SCALES, 2, settings)

    check_gradients(f"pool_rois, {name}", pooled, make_inputs)


def test_rois_are_not_cut_from_the_extra_level():
    model = tiny_model(extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,)), canonical_size=16.0)
    batch = model.transform(*batch_of(empty_scene(0, (256, 320))))
    features = model.features(batch)
    assert len(features) == 5 and features[4].shape == (1, 8, 4, 5)
    boxes = [np.array([box(300, 240)], np.float32)]
    expected = roi_align(features[3], boxes, 3, 1 / 32, 2, True)
    np.testing.assert_array_equal(model.pool(features, boxes, 3).data, expected.data)


@pytest.mark.parametrize("backbone", ["fpn", "c4", "c5"])
def test_scales_where_the_sizes_do_not_divide_evenly(backbone):
    """Maps of 33 x 70 pixels have 9, 5, 3 and 2 rows: not 33 times 1/4 to 1/32, but these are their scales."""
    sizes = {"fpn": ((8,), (16,), (32,), (64,))}.get(backbone, ((16,),))
    model = tiny_model(backbone=backbone, anchor_sizes=sizes, size_divisible=1, canonical_size=16.0).eval()
    batch = model.transform(*batch_of(empty_scene(0, (33, 70))))
    assert batch.images.shape == (1, 3, 33, 70)
    features = model.features(batch)
    stride = {"fpn": 32, "c4": 16, "c5": 32}[backbone]
    boxes = [np.array([[2, 1, 68, 32]], np.float32)]
    expected = roi_align(features[-1], boxes, 3, 1 / stride, 2, True)
    if backbone == "c4":
        expected = model.roi_heads.layer4(expected)
    np.testing.assert_array_equal(model.roi_features(features, boxes, 3).data, expected.data)
    anchors, sizes = model.all_anchors(features, batch)
    per_cell = 3
    last = anchors[sum(sizes[:-1]) :].reshape(*features[-1].shape[2:], per_cell, 4)
    centres = (last[..., :2] + last[..., 2:]) / 2
    np.testing.assert_allclose(centres[1, 1, 0] - centres[0, 0, 0], [stride, stride])
