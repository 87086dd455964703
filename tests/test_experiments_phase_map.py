"""The phase map: where the bins of an operator look, and what that does to a mask."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from tinymrcnn.boxes import crop_masks, paste_masks
from tinymrcnn.data.shapes import Shape, coverage
from tinymrcnn.experiments import phase_map as phases
from tinymrcnn.experiments.phase_map import BINS, OPERATORS, misplacements, object_at, phase_map, places

BOX = np.array([70, 73, 124, 120], np.float32)
OWN = (np.arange(BINS) + 0.5) / BINS


def own_places(x1, y1, x2, y2):
    return np.stack(np.meshgrid(x1 + OWN * (x2 - x1), y1 + OWN * (y2 - y1)))


def test_roi_align_looks_at_the_bins_own_places():
    for stride in (16, 32):
        found = places("RoIAlign", BOX[None], stride)
        assert found.shape == (1, 2, BINS, BINS) and found.dtype == np.float64
        np.testing.assert_allclose(found[0], own_places(*BOX), atol=1e-9)


def test_roi_warp_looks_at_those_of_the_rounded_box_and_half_a_cell_off():
    """70, 73, 124, 120 at stride 16 are 4, 5, 8, 8 cells, and cell i is taken to be centred at i, not i + 0.5."""
    np.testing.assert_allclose(places("RoIWarp", BOX[None], 16)[0], own_places(64, 80, 128, 128) + 8, atol=1e-9)


def test_roi_pool_looks_at_the_middle_of_whole_cells():
    """By hand: the cells 4 to 8 in x and 5 to 8 in y; bin i of 14 covers floor(i / 14 n) up to ceil((i + 1) / 14 n)."""
    found = places("RoIPool", BOX[None], 16)[0]
    for axis, first, count in ((0, 4, 5), (1, 5, 4)):
        i = np.arange(BINS)
        low, high = first + i * count // BINS, first - (-(i + 1) * count // BINS)
        expected = (low + high) / 2 * 16
        np.testing.assert_allclose(found[axis].T if axis == 0 else found[axis], np.tile(expected[:, None], BINS))


@pytest.mark.parametrize("operator", OPERATORS)
def test_misplacements_repeat_with_the_stride_and_have_no_mean(operator):
    shifts = np.arange(0, 32, 2)
    away = misplacements(operator, BOX, 16, shifts)
    assert away.shape == (16, 16, 2, BINS, BINS)
    np.testing.assert_allclose(away.mean((0, 1)), 0, atol=1e-9)
    np.testing.assert_allclose(away[8:], away[:8], atol=1e-9)
    np.testing.assert_allclose(away[:, 8:], away[:, :8], atol=1e-9)
    assert (np.ptp(away[:, :, 0], axis=0) < 1e-9).all()  # a move in y leaves x as it is
    assert (np.abs(away).max() < 1e-9) == (operator == "RoIAlign")
    assert np.abs(away).max() < 16  # a corner is rounded by half a cell, a bin by another


def test_the_object_at_the_centres_of_pixels_is_its_coverage():
    shape = Shape(4, 40.3, 31.8, 21.0, 0.7)
    (rows, columns), share = coverage(shape, 64, 96)
    x, y = np.meshgrid(np.arange(96) + 0.5, np.arange(64) + 0.5)
    found = object_at(shape, x, y)
    np.testing.assert_allclose(found[rows, columns], share, atol=1e-4)
    assert found.sum() == pytest.approx(share.sum(), rel=1e-4)


@pytest.mark.parametrize("shape", [phases.OBJECT, Shape(1, 90.0, 101.0, 20.0, 0.0)])
def test_roi_align_loses_what_the_grid_loses(shape):
    """At every phase; as much as the mask's own crop, pasted back."""
    found = phase_map("RoIAlign", 16, np.arange(0, 17, 4), shape)
    assert found["least"] == found["mean"] == found["largest"] and found["misplacement"] == 0
    _, share = coverage(shape, phases.SIDE, phases.SIDE)
    mask = (share >= 0.5)[None]
    box = phases.boxes_around(mask)
    pasted = paste_masks(crop_masks(mask, box, BINS), box, mask.shape[1:]) >= 0.5
    assert found["mean"] == pytest.approx((pasted & mask).sum() / (pasted | mask).sum(), abs=0.02)


def test_a_misplacement_of_a_whole_disc_is_that_of_the_mask(monkeypatch):
    """If all bins look 6 pixels to the right, the mask lies 6 pixels to the left."""
    away = np.zeros((1, 1, 2, BINS, BINS))
    away[:, :, 0] = 6
    monkeypatch.setattr(phases, "misplacements", lambda *_: away)
    found = phase_map("RoIPool", 16, np.arange(1), Shape(1, 90.0, 101.0, 20.0, 0.0))
    y, x = np.mgrid[:256, :256] + 0.5
    mask = np.hypot(x - 90, y - 101) <= 20
    moved = (np.hypot(x + 6 - 90, y - 101) <= 20) & (x > 70)  # within the box
    assert found["ious"] == [[pytest.approx((mask & moved).sum() / (mask | moved).sum(), abs=0.03)]]
    assert found["misplacement"] == pytest.approx(18**0.5, abs=0.01)


def test_the_quick_run_has_all_and_survives_json():
    result = phases.run(quick=True)
    assert json.loads(json.dumps(result)) == result
    assert result["shifts"] == list(range(0, 33, 4))
    maps = {(each["operator"], each["stride"]): each for each in result["maps"]}
    assert set(maps) == {(operator, stride) for operator in OPERATORS for stride in (16, 32)}
    for stride in (16, 32):
        pool, warp, align = (maps[operator, stride] for operator in OPERATORS)
        assert pool["mean"] < align["mean"] - 0.1 and warp["mean"] < align["mean"] - 0.1
        assert pool["largest"] - pool["least"] > 0.2 and warp["largest"] - warp["least"] > 0.2
        assert np.mean(pool["ious"]) == pytest.approx(pool["mean"], abs=0.001) and np.shape(pool["ious"]) == (9, 9)
    figure = phases.draw(result)
    assert isinstance(figure, Figure) and len(figure.axes) == 7  # six and the colour bar
