"""The drawings: where they put what colour, and that they need no display and leave matplotlib alone."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tinymrcnn.autograd import Tensor
from tinymrcnn.draw import (
    check_font,
    class_color,
    describe,
    draw_anchors,
    draw_curves,
    draw_graph,
    draw_grid,
    draw_instances,
    draw_roi_grid,
    plot_boxes,
    plot_cells,
    shrunk,
    write_picture,
)
from tinymrcnn.draw.overlay import _overlap, _place, drawable

CATEGORIES = [{"label": 1, "name": "circle", "id": 7}, {"label": 2, "name": "square", "id": 9}]
GREY = 128 / 255


def scene():
    """A grey image of 40 x 60 with a 10 x 20 block of class 2 at x 30..50, y 12..22."""
    image = np.full((3, 40, 60), GREY, np.float32)
    masks = np.zeros((1, 40, 60), np.uint8)
    masks[0, 12:22, 30:50] = 1
    return image, {"boxes": np.array([[30, 12, 50, 22]], np.float32), "labels": np.array([2]), "masks": masks}


def test_instances_lie_where_they_belong():
    image, target = scene()
    picture = draw_instances(image, target, CATEGORIES, size=160)
    assert picture.shape == (160, 240, 3) and picture.dtype == np.uint8
    color = np.array(class_color(2))
    assert (picture[12 * 4 : 22 * 4, 30 * 4] == color).all()  # the left side of the box and of the mask's outline
    inside = picture[17 * 4, 40 * 4].astype(int)
    np.testing.assert_allclose(inside, 128 + 0.45 * (color - 128), atol=1)
    assert (picture[30 * 4 :, :] == 128).all() and (picture[:, : 29 * 4] == 128).all()
    assert (picture[: 12 * 4, 30 * 4 :] != 128).any()  # the name above the box


def test_masks_are_cut_at_one_half_and_scores_at_the_threshold():
    image, target = scene()
    found = {**target, "scores": np.array([0.6], np.float32), "masks": target["masks"] * np.float32(0.4)}
    plain = draw_instances(image, found, CATEGORIES, score_threshold=0.7)
    assert (plain == 128).all()
    no_mask = draw_instances(image, found, CATEGORIES)
    assert (no_mask[17 * 13, 40 * 13] == 128).all() and (no_mask != 128).any()  # 512 / 40 is nearly 13


def test_the_best_detection_is_drawn_on_top():
    image, target = scene()
    both = {name: np.concatenate([target[name]] * 2) for name in target} | {"labels": np.array([1, 2])}
    for best, scores in ((1, [0.9, 0.8]), (2, [0.8, 0.9])):
        picture = draw_instances(image, {**both, "scores": np.array(scores, np.float32)}, CATEGORIES)
        assert tuple(picture[17 * 13, 30 * 13]) == class_color(best)


def test_nothing_to_draw_boxes_at_the_border_and_unknown_classes():
    image, target = scene()
    empty = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "scores": np.zeros(0, np.float32)}
    assert (draw_instances(image, empty, CATEGORIES) == 128).all()
    edges = {"boxes": np.array([[-5, -5, 3, 3], [55, 35, 70, 50], [20, 20, 20, 20]]), "labels": np.array([1, 2, 300])}
    assert draw_instances(image, edges).shape == (520, 780, 3)


def test_large_images_are_not_enlarged():
    image, target = scene()
    large = np.tile(image, (1, 20, 20))
    assert draw_instances(large, {"boxes": target["boxes"], "labels": target["labels"]}).shape == (800, 1200, 3)


def test_strips_are_not_blown_up():
    nothing = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}
    assert draw_instances(np.zeros((3, 10, 900), np.float32), nothing).shape == (20, 1800, 3)
    assert draw_instances(np.zeros((3, 2, 5000), np.float32), nothing).shape == (2, 5000, 3)


def test_photographs_are_shrunk():
    image = np.random.default_rng(0).random((3, 60, 90), np.float32)
    assert shrunk(image) is image
    small = shrunk(image, 45)
    assert small.shape == (3, 30, 45) and small.dtype == np.float32
    np.testing.assert_allclose(small, image.reshape(3, 30, 2, 45, 2).mean((2, 4)), atol=1e-6)
    assert shrunk(np.zeros((3, 4000, 10), np.float32)).shape == (3, 2048, 5)
    assert shrunk(np.zeros((3, 2, 5000), np.float32)).shape == (3, 1, 2048)


def test_colours_tell_objects_apart_where_classes_cannot():
    image, target = scene()
    side_by_side = {
        "boxes": np.array([[2, 12, 20, 30], [30, 12, 50, 30]], np.float32),
        "labels": np.array([2, 2]),
        "scores": np.array([0.6, 0.9], np.float32),
    }
    many = [{"label": label, "name": str(label), "id": label} for label in range(1, 9)]
    for categories, colors in ((CATEGORIES, (2, 2)), (many, (2, 1)), (CATEGORIES[1:], (2, 1)), ((), (2, 2))):
        picture = draw_instances(image, side_by_side, categories, size=160)
        assert [tuple(picture[28 * 4, x * 4]) for x in (2, 30)] == [class_color(color) for color in colors]
    picture = draw_instances(image, side_by_side, CATEGORIES, size=160, by_instance=True)
    assert [tuple(picture[28 * 4, x * 4]) for x in (2, 30)] == [class_color(2), class_color(1)]


def test_labels_keep_clear_of_each_other():
    """Ten objects in a row whose names are wider than they are: every plate is whole."""
    image = np.full((3, 600, 900), GREY, np.float32)
    left = np.arange(10) * 40.0 + 200
    boxes = np.stack([left, np.full(10, 300.0), left + 60, np.full(10, 420.0)], axis=1).astype(np.float32)
    found = {"boxes": boxes, "labels": np.ones(10, np.int64), "scores": np.linspace(0.99, 0.6, 10, dtype=np.float32)}
    taken = []
    for box in boxes.tolist():
        taken.append(_place(box, 90, 24, (600, 900), taken))
    assert not any(_overlap(a, b) for i, a in enumerate(taken) for b in taken[:i])
    assert taken[0] == (200, 276, 290, 300)  # the first above its box
    assert all(0 <= x1 < x2 <= 900 and 0 <= y1 < y2 <= 600 for x1, y1, x2, y2 in taken)
    names = [{"label": 1, "name": "somebody", "id": 1}, {"label": 2, "name": "else", "id": 2}]
    assert (draw_instances(image, found, names)[200:270, 200:] != 128).any()  # a second row of names above the first
    assert _place([200, 300, 260, 420], 90, 24, (600, 900), [(0, 0, 900, 600)]) is None


def test_the_name_of_an_only_class_goes_without_saying():
    image, target = scene()
    target = {name: target[name] for name in ("boxes", "labels")}
    above = slice(0, 12 * 4 - 1), slice(30 * 4, None)
    widths = []
    for found, categories in (
        (target, CATEGORIES[1:]),
        ({**target, "scores": np.array([0.9], np.float32)}, CATEGORIES[1:]),
        ({**target, "scores": np.array([0.9], np.float32)}, CATEGORIES),
    ):
        widths.append((draw_instances(image, found, categories, size=160)[above] != 128).any((0, 2)).sum())
    assert widths[0] == 0 and 20 < widths[1] < 0.6 * widths[2]


def test_a_label_stays_within_the_picture():
    assert _place([-5, -5, 3, 3], 50, 20, (100, 200), []) == (0, 0, 50, 20)
    assert _place([190, 90, 199, 99], 50, 20, (100, 200), []) == (150, 70, 200, 90)
    assert _place([10, 5, 190, 99], 50, 20, (100, 200), []) == (10, 5, 60, 25)  # no room above: inside
    assert _place([10, 5, 190, 99], 500, 20, (100, 200), []) == (0, 5, 500, 25)


def test_letters_grow_slower_than_photographs_and_shrink_with_objects():
    def plate(shape, height):
        """Height and width of the label over an object of this height."""
        image = np.full((3, *shape), GREY, np.float32)
        box = np.array([[100, 200, 700, 200 + height]], np.float32)
        picture = draw_instances(image, {"boxes": box, "labels": np.array([1])}, size=1)
        rows, columns = np.nonzero((picture[:199] != 128).any(axis=2))
        return rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()

    small, large = plate((520, 1000), 300), plate((1400, 2000), 300)
    assert 1.4 < large[1] / small[1] < 1.9  # 2.7 times the picture
    assert plate((1400, 2000), 20)[1] < 0.6 * large[1]


def test_grid_places_pictures_of_any_size():
    red, green = np.zeros((30, 50, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    grid = draw_grid([[red, green], [green]])
    assert grid.shape == (8 + 40 + 8 + 40 + 8, 8 + 50 + 8 + 20 + 8, 3)
    assert (grid[8:38, 8:58] == (255, 0, 0)).all() and (grid[8:48, 66:86] == (0, 255, 0)).all()
    assert (grid[56:96, 8:28] == (0, 255, 0)).all() and (grid[56:, 66:] == 255).all()
    titled = draw_grid([[red, green]], ["ground truth", "prediction"])
    assert titled.shape[0] == 40 + 40 + 8 and (titled[:40] < 128).any()


def test_curves_show_every_series():
    names = ("loss", "loss_objectness", "loss_mask")
    log = [{"step": s, "lr": 1e-3, **{n: 2.0 / (s + 1) for n in names}, "positive_rois": s} for s in range(40)]
    assert draw_curves(log).shape == (900, 1100, 3)
    assert not np.array_equal(draw_curves(log), draw_curves(log[:20]))
    lines = [{"step": 10 * n, "loss": 1 / n, "bbox/AP": 0.1 * n, "segm/AP": 0.2 * n} for n in (1, 2, 3)]
    assert draw_curves(log, lines).shape == draw_curves(log, lines[:1]).shape == (1200, 1100, 3)
    assert not np.array_equal(draw_curves(log, lines), draw_curves(log, lines[:2]))
    boxes_only = [{"step": 10, "bbox/AP": 0.1}]
    assert draw_curves([], boxes_only).shape == (1200, 1100, 3)
    assert draw_curves([]).shape == draw_curves(log[:1]).shape == (900, 1100, 3)
    with matplotlib.rc_context({"figure.dpi": 84}):  # as a lesson or a user's own settings may have it
        assert draw_curves(log).shape == (900, 1100, 3)


def test_anchors_and_roi_grid_have_their_colours():
    image, _ = scene()
    anchors = {"P2": np.array([[10.0, 10, 30, 30]]), "P3": np.array([[-10.0, 0, 50, 60], [0, 0, 1, 1]])}
    picture = draw_anchors(image, anchors)
    for level in range(2):
        assert (picture == class_color(level + 1)).all(2).any()
    grid = draw_roi_grid(np.eye(5, 7), np.array([1.5, 1.5, 4, 4]), [(1.5, 1.5, 4, 4)], [(2.0, 2.0)])
    assert (grid == class_color(6)).all(2).any() and (grid == class_color(1)).all(2).any()


def test_cells_and_boxes_lie_where_they_belong():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_cells(axes, np.arange(6.0).reshape(2, 3), "a map", unit="pixels", stride=16)
    plot_boxes(axes, np.array([[16.0, 0, 48, 32], [1, 2, 3, 4]]), "RoI", color="black")
    assert axes.get_xlim() == (0, 48) and axes.get_ylim() == (32, 0)  # y runs down
    assert axes.get_xlabel() == "x (pixels)" and axes.get_title() == "a map"
    centres = axes.collections[-1].get_offsets()
    assert centres.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]
    assert axes.lines[0].get_xydata().tolist() == [[16, 0], [48, 0], [48, 32], [16, 32], [16, 0]]
    assert [line.get_label() for line in axes.lines][0] == "RoI" and len(axes.get_legend_handles_labels()[1]) == 1


def test_graph_of_a_long_chain_of_diamonds_and_its_errors():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = x
    for _ in range(40):  # 2^40 ways from end to start
        y = y + (-y).exp()
    assert draw_graph(y).shape[0] > 40 * 90
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        draw_graph(y)
    with pytest.raises(ValueError, match="no graph"):
        draw_graph(Tensor(1.0))


def test_describe():
    assert describe("rois", np.array([[0.5, 2]], np.float32)) == "rois: float32 (1, 2), 0.5 to 2"
    assert describe("x", Tensor(np.array([1, np.nan, np.inf, -3]))) == (
        "x: float64 (4,), 2 of 4 values not finite, -3 to 1"
    )
    assert describe("none", np.zeros((0, 4), np.int64)) == "none: int64 (0, 4), empty"
    assert describe("nan", np.array([np.nan])) == "nan: float64 (1,), 1 of 1 values not finite"
    assert describe("mask", np.array([True, False])) == "mask: bool (2,), 0 to 1"


def test_describe_reads_device_arrays(fake_device):
    from tinymrcnn.backend import to_device

    assert describe("x", to_device(np.arange(6.0).reshape(2, 3), "fake")) == "x: float64 (2, 3), 0 to 5"


def test_pictures_are_saved_exactly(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_picture(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


def test_no_window_toolkit_is_touched():
    code = (
        "import sys, numpy as np; from tinymrcnn.draw import draw_curves; draw_curves([]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Letters


def plate_of(name, font=None):
    """The picture of an object with this name beside one that is named otherwise, and its label only."""
    image, target = scene()
    categories = [{"label": 1, "name": "other", "id": 1}, {"label": 2, "name": name, "id": 2}]
    return draw_instances(image, target, categories, size=160, font=font)


def test_letters_beyond_ascii_are_drawn():
    """Pillow's own font has one empty box for all of them."""
    pictures = [
        plate_of(name)
        for name in ("\u00fc\u00df\u0142", "\u00df\u00fc\u0142", "\u0142\u0142\u00fc", "\u0439\u0436\u0434")
    ]
    for index, picture in enumerate(pictures):
        assert not any(np.array_equal(picture, other) for other in pictures[:index])


def test_a_name_with_a_letter_that_the_font_lacks_appears_by_its_number():
    assert drawable("\u00fc", 3) == "\u00fc" and drawable("\u732b", 3) == "class 3" and drawable(None, 4) == "class 4"
    assert np.array_equal(plate_of("\u732b\u72d7"), plate_of("class 2"))
    assert drawable("two\nlines\x1b", 1) == "two\\nlines\\x1b"


def test_a_font_of_ones_own_draws_every_name(tmp_path):
    serif = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    check_font(serif)
    for name in ("circle", "\u00fcber"):
        assert not np.array_equal(plate_of(name), plate_of(name, serif))
    assert drawable("\u732b", 3, serif) == "class 3"
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="no.ttf' cannot be read as a font"):
        check_font(tmp_path / "no.ttf")
