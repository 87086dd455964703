"""Anchors: the published numbers, both families, the order of the rows, and torchvision's generator."""

import math

import numpy as np
import pytest

from tinymrcnn.boxes import AnchorGenerator

SIZES = ((32,), (64,), (128,), (256,), (512,))
RATIOS = (0.5, 1.0, 2.0)


def one_cell(generator):
    """The anchors of the single cell of each 1 x 1 map."""
    return generator([(1, 1)] * len(generator.cells), (64, 64), [1] * len(generator.cells))


def test_unrounded_cell_anchors():
    # size 32, ratio h/w 1/2: w = sqrt(1024 / 0.5) = 45.2548, h = 22.6274; halves 22.6274 and 11.3137
    (anchors,) = one_cell(AnchorGenerator(((32,),), RATIOS))
    half = 32 / math.sqrt(2)
    expected = [[-half, -half / 2, half, half / 2], [-16, -16, 16, 16], [-half / 2, -half, half / 2, half]]
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors, expected, rtol=1e-6)
    areas = (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
    np.testing.assert_allclose(areas, 32 * 32, rtol=1e-6)


def test_rounded_cell_anchors():
    # the half extents of torchvision's five levels
    levels = one_cell(AnchorGenerator(SIZES, RATIOS, rounded=True, order="ratio"))
    for (wide, high), size, anchors in zip(
        [(23, 11), (45, 23), (91, 45), (181, 91), (362, 181)], SIZES, levels, strict=True
    ):
        s = size[0] // 2
        np.testing.assert_array_equal(anchors, [[-wide, -high, wide, high], [-s, -s, s, s], [-high, -wide, high, wide]])


def test_halves_round_to_even():
    # size 33: half extent 16.5 rounds to 16; size 35: 17.5 to 18
    (anchors,) = one_cell(AnchorGenerator(((33, 35),), (1.0,), rounded=True))
    np.testing.assert_array_equal(anchors[:, 2], [16, 18])


def test_order_within_a_cell():
    # two sizes, two ratios (1/4: twice as wide as the size and half as high)
    by_size = one_cell(AnchorGenerator(((8, 16),), (0.25, 1.0)))[0]
    by_ratio = one_cell(AnchorGenerator(((8, 16),), (0.25, 1.0), order="ratio"))[0]
    np.testing.assert_array_equal(by_size[:, 2:], [[8, 2], [4, 4], [16, 4], [8, 8]])
    np.testing.assert_array_equal(by_ratio[:, 2:], [[8, 2], [16, 4], [4, 4], [8, 8]])


def test_grid_of_a_wide_map():
    # 2 rows, 3 columns, stride 8, anchors 4 x 4 and 8 x 8: (row, column, anchor), x moving before y
    (anchors,) = AnchorGenerator(((4, 8),), (1.0,))([(2, 3)], (16, 24), [8])
    assert anchors.shape == (2 * 3 * 2, 4) and anchors.dtype == np.float32
    grid = anchors.reshape(2, 3, 2, 4)
    np.testing.assert_array_equal(grid[0, 0], [[-2, -2, 2, 2], [-4, -4, 4, 4]])
    np.testing.assert_array_equal(grid[0, 2], [[14, -2, 18, 2], [12, -4, 20, 4]])
    np.testing.assert_array_equal(grid[1, 0], [[-2, 6, 2, 10], [-4, 4, 4, 12]])
    np.testing.assert_array_equal(anchors[1], [-4, -4, 4, 4])


def test_stride_from_the_image_or_nominal():
    # 800 x 1088 padded: the coarsest of five levels has 13 rows and 17 columns; 800 // 13 = 61, 1088 // 17 = 64
    generator = AnchorGenerator(((512,),), (1.0,), rounded=True, order="ratio")
    (measured,) = generator([(13, 17)], (800, 1088))
    grid = measured.reshape(13, 17, 4)
    assert grid[1, 0, 1] - grid[0, 0, 1] == 61 and grid[0, 1, 0] - grid[0, 0, 0] == 64
    (nominal,) = generator([(13, 17)], (800, 1088), [64])
    grid = nominal.reshape(13, 17, 4)
    assert grid[1, 0, 1] - grid[0, 0, 1] == 64 and grid[0, 1, 0] - grid[0, 0, 0] == 64


def test_levels_and_counts():
    generator = AnchorGenerator(((32, 64), (128,)), ((0.5, 1.0), (1.0, 2.0, 3.0)))
    assert generator.num_anchors_per_cell == [4, 3]
    fine, coarse = generator([(4, 6), (2, 3)], (32, 48))
    assert fine.shape == (4 * 6 * 4, 4) and coarse.shape == (2 * 3 * 3, 4)
    assert generator([(0, 6), (2, 3)], (32, 48))[0].shape == (0, 4)


def test_anchors_are_float32_and_new():
    generator = AnchorGenerator(SIZES, RATIOS)
    grids = [(25, 34), (13, 17), (7, 9), (4, 5), (2, 3)]
    first, second = generator(grids, (200, 272)), generator(grids, (200, 272))
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.float32 and np.array_equal(a, b) and not np.shares_memory(a, b)
    moved = generator(grids, (400, 272))
    assert moved[0].reshape(25, 34, 3, 4)[1, 0, 0, 1] == first[0][0, 1] + 16


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Unknown order"):
        AnchorGenerator(SIZES, order="torchvision")
    with pytest.raises(ValueError, match="5 levels but aspect ratios for 2"):
        AnchorGenerator(SIZES, (RATIOS, RATIOS))
    with pytest.raises(ValueError, match=r"sizes\[0\] must be a tuple"):
        AnchorGenerator((32, 64))
    with pytest.raises(ValueError, match=r"aspect_ratios\[1\] must be a tuple of positive"):
        AnchorGenerator(((32,), (64,)), ((1.0,), (-1.0,)))
    with pytest.raises(ValueError, match="for 5 levels: got grid sizes"):
        AnchorGenerator(SIZES)([(4, 4)], (64, 64))
    with pytest.raises(ValueError, match="strides .4, 8."):
        AnchorGenerator(SIZES)([(4, 4)] * 5, (64, 64), [4, 8])


@pytest.mark.parity
@pytest.mark.parametrize("sizes", [SIZES, ((32, 64, 128, 256, 512),), ((19, 33.5), (70,))])
def test_as_torchvision(sizes):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchvision.models.detection.anchor_utils")
    images = pytest.importorskip("torchvision.models.detection.image_list")
    height, width = 800, 1088
    grids = [(-(-height // 4 // 2**i), -(-width // 4 // 2**i)) for i in range(len(sizes))]
    theirs = module.AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    image_list = images.ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    expected = theirs(image_list, [torch.zeros(1, 1, h, w) for h, w in grids])[0].numpy()
    ours = AnchorGenerator(sizes, RATIOS, rounded=True, order="ratio")
    np.testing.assert_array_equal(np.concatenate(ours(grids, (height, width))), expected)
    assert ours.num_anchors_per_cell == theirs.num_anchors_per_location()
