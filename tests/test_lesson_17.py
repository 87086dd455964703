"""The drawn cells of lesson 17: the same pictures every time, right outlines, and the mistakes where the lesson needs
them."""

import json

import cells
import numpy as np
import pytest

from tinymrcnn.cli import main
from tinymrcnn.data.check import DataWarning
from tinymrcnn.data.formats import open_source, open_split
from tinymrcnn.data.held_out import hold_out
from tinymrcnn.data.images import read_image


def shapes_of(folder, number):
    return json.loads((folder / f"cells_{number:02}.json").read_text())["shapes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lesson") / "cells"
    cells.write_cells(path)
    return path


def test_pictures_follow_from_their_number():
    for number in (0, 2):
        picture, outlines = cells.draw_cells(number)
        again, _ = cells.draw_cells(number)
        assert picture.shape == (3, 96, 128) and picture.dtype == np.float32 and (picture == again).all()
        assert 0 <= picture.min() < picture.max() <= 1 and 3 <= len(outlines) <= 8
        assert all(o.shape == (24, 2) and (o >= 0).all() and (o <= [128, 96]).all() for o in outlines)
        # nuclei are brighter than a dark ground, and darker than a pink one
        inside = np.max([cells.inside(outline) for outline in outlines], axis=0)
        difference = picture[0][inside > 0.9].mean() - picture[0][inside < 0.1].mean()
        assert abs(difference) > 0.2 and (difference > 0) == (number % 3 != 2)
    assert not (cells.draw_cells(0)[0] == cells.draw_cells(3)[0]).all()
    assert not (cells.draw_cells(0)[0] == cells.draw_cells(0, seed=1)[0]).all()


def test_how_much_of_a_pixel_lies_inside():
    square = np.array([[10, 20], [14, 20], [14, 23], [10, 23]], float)
    inside = cells.inside(square)
    assert inside.shape == (96, 128)
    assert abs(inside[20:23, 10:14] - 1).max() == 0 and inside.sum() == pytest.approx(12, abs=4)


def test_nuclei_touch_but_do_not_hide_each_other():
    touching = 0
    for number in range(24):
        masks = np.array([cells.inside(outline) >= 0.5 for outline in cells.draw_cells(number)[1]])
        shared = (masks[:, None] & masks).sum((2, 3)) / masks.sum((1, 2))
        np.fill_diagonal(shared, 0)
        assert shared.max() < 0.35
        touching += (shared > 0).any()
    assert touching > 12


def test_the_mistakes_are_where_the_lesson_needs_them(folder):
    assert len(list(folder.iterdir())) == 96
    for number in range(48):
        picture, outlines = cells.draw_cells(number)
        assert abs(read_image(folder / f"cells_{number:02}.png") - picture).max() <= 0.5 / 255 + 1e-6
        shapes = shapes_of(folder, number)
        if number == cells.HALF_DONE:
            assert len(shapes) == (len(outlines) + 1) // 2 < len(outlines) - 2
            continue
        wrong_name = [shape["label"] for shape in shapes if shape["label"] != "nucleus"]
        assert wrong_name == ["nuclues"] * (number == cells.TYPING_ERROR)
        assert [len(s["points"]) for s in shapes].count(2) == (number == cells.TWO_CLICKS)
        whole = [(s["points"], o) for s, o in zip(shapes, outlines, strict=True) if len(s["points"]) > 2]
        if number in cells.MIRRORED:
            whole = [([[128 - x, y] for x, y in points], outline) for points, outline in whole]
        assert all(np.allclose(points, outline, atol=0.01) for points, outline in whole)


def test_what_the_check_finds_and_what_is_held_out(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "What is wrong: 1 case" in said and "cells_11.png" in said and "of three or more points" in said
    assert "nuclues" in said
    with pytest.warns(DataWarning, match="three or more points"):
        dataset = open_split(open_source(str(folder)).training())
    train_part, held = hold_out(dataset)
    names = [dataset.image_of(n)["name"] for n in range(48)]
    assert names == [f"cells_{n:02}.png" for n in range(48)] and len(held) == 10
    assert cells.HALF_DONE in held.indices
    assert {cells.TYPING_ERROR, cells.TWO_CLICKS, *cells.MIRRORED} <= set(train_part.indices)
    # the mirrored outlines are off, also where a picture is nearly symmetric
    for number in cells.MIRRORED:
        truth = [cells.inside(outline) >= 0.5 for outline in cells.draw_cells(number)[1]]
        masks = dataset[number][1]["masks"] > 0
        ious = np.array([[(a & b).sum() / (a | b).sum() for b in truth] for a in masks])
        assert (ious.max(1) > 0.5).mean() < 0.4
