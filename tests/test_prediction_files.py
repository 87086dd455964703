"""What `tinymrcnn predict` writes to count with and to correct by hand: tables, id pictures, labels; and films."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image
from test_prediction import own_model, photograph, records_of

from tinymrcnn.cli import main
from tinymrcnn.commands.prediction_files import polygons, table_rows, write_ids, write_labelme, write_yolo
from tinymrcnn.data.coco import decode_mask, encode_mask
from tinymrcnn.data.films import is_film, read_film, write_film
from tinymrcnn.data.images import find_images, read_image


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def record(mask, score=0.9, name="cell"):
    ys, xs = np.nonzero(mask)
    box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
    return {"bbox": [float(v) for v in box], "score": score, "category_name": name, "segmentation": encode_mask(mask)}


def masks_of(size=(24, 37)):
    """A rectangle, one that overlaps it, and two parts, one with a hole."""
    masks = np.zeros((3, *size), np.uint8)
    masks[0, 2:10, 3:20] = masks[1, 6:14, 15:30] = masks[2, 16:23, 0:9] = 1
    masks[2, 18:20, 3:5] = 0
    masks[2, 20:23, 30:37] = 1
    return masks


def test_the_table_and_the_numbered_picture():
    masks = masks_of()
    records = [record(mask, score, name) for mask, score, name in zip(masks, (0.9, 0.8, 0.7), "aba", strict=True)]
    rows = table_rows(records)
    assert [row[:2] for row in rows] == [[1, "a"], [2, "b"], [3, "a"]]
    assert rows[0][2:] == ["0.9", "136", "11.5", "6", "3", "2", "20", "10"]  # 8 rows of 17
    ys, xs = np.nonzero(masks[2])
    assert [float(v) for v in rows[2][3:6]] == pytest.approx([masks[2].sum(), xs.mean() + 0.5, ys.mean() + 0.5])
    write_ids("ids.png", records, (24, 37))
    ids = np.asarray(Image.open("ids.png"))
    assert ids.dtype == np.uint16 and ids.shape == (24, 37)
    assert (ids == np.where(masks[0], 1, np.where(masks[1], 2, masks[2] * 3))).all()
    box = {"bbox": [1.0, 2.0, 4.0, 6.0], "score": 0.5, "category_name": "x"}
    assert table_rows([box])[0][2:] == ["0.5", "24", "3", "5", "1", "2", "5", "8"] and table_rows([]) == []
    nothing = {**box, "segmentation": encode_mask(np.zeros((9, 9), np.uint8))}
    assert table_rows([nothing])[0][3] == "0"


def test_outlines_drawn_again_give_the_mask():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :130]
    for _ in range(20):
        (cy, cx), (a, b) = rng.uniform(20, 70, 2), rng.uniform(5, 40, 2)
        mask = (((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1).astype(np.uint8)  # cut by the edge too
        (outline,) = polygons(mask)
        again = decode_mask([outline.ravel().tolist()], 90, 130)
        assert (again & mask).sum() / (again | mask).sum() > 0.96
        assert outline.min() >= 0 and (outline.max(axis=0) <= (130, 90)).all()
    parts = polygons(masks_of()[2])
    assert len(parts) == 2 and parts[0].max(axis=0).tolist() == [9, 23]  # the largest first, the hole filled
    assert polygons(np.zeros((4, 5), np.uint8)) == []


def test_label_files():
    os.makedirs("labels")
    size, masks = (24, 37), masks_of()
    records = [record(masks[0], name="b"), record(masks[2], name="a")]
    write_yolo("labels", "x", records, size, ["a", "b"])
    assert open("labels/classes.txt").read() == "a\nb\n"
    lines = [line.split() for line in open("labels/x.txt")]
    assert [line[0] for line in lines] == ["1", "0"]
    points = np.array(lines[0][1:], float).reshape(-1, 2) * (37, 24)
    assert points.min(axis=0) == pytest.approx([3, 2], abs=1e-4)
    assert points.max(axis=0) == pytest.approx([20, 10], abs=1e-4)
    write_labelme("labels", "x", records, size, "set/x.png")
    content = json.loads(open("labels/x.json").read())
    assert content["imagePath"] == "../set/x.png" and (content["imageHeight"], content["imageWidth"]) == size
    assert [(s["label"], s["group_id"]) for s in content["shapes"]] == [("b", 1), ("a", 2), ("a", 2)]
    box = {"bbox": [1.0, 2.0, 4.0, 6.0], "score": 0.5, "category_name": "a"}
    write_yolo("labels", "y", [box], (10, 20), ["a"])
    assert open("labels/y.txt").read().split() == [
        "0", "0.050000", "0.200000", "0.250000", "0.200000", "0.250000", "0.800000", "0.050000", "0.800000",
    ]  # fmt: skip


def test_predict_writes_them(capsys):
    photograph("set/a.png")
    photograph("set/b.jpg", seed=1)
    assert main(["predict", "set", *own_model(), "--threshold", "0.2", "--label-files", "labelme"]) == 0
    shown = [r for r in records_of() if r["file_name"] == "set/a.png" and r["score"] >= 0.2]
    with open("found/a_predicted.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(shown) > 0 and [row["id"] for row in rows] == [str(n + 1) for n in range(len(rows))]
    assert [row["class"] for row in rows] == [r["category_name"] for r in shown]
    ids = np.asarray(Image.open("found/a_predicted_ids.png"))
    assert ids.shape == (40, 60) and ids.max() <= len(shown)
    first = decode_mask(shown[0]["segmentation"], 40, 60)
    assert int(rows[0]["area"]) == first.sum() and (ids[first > 0] == 1).all()
    labels = json.loads(open("found/labels/a.json").read())
    assert {shape["label"] for shape in labels["shapes"]} <= {row["class"] for row in rows}
    assert (read_image(os.path.join("found/labels", labels["imagePath"])) == read_image("set/a.png")).all()
    assert find_images(["found"])[0] == []  # a later run does not take what this one wrote for photographs


def test_boxes_and_labels_are_left_off(capsys):
    photograph("a.png")
    pictures = []
    for options in ([], ["--no-labels"], ["--no-labels", "--no-boxes"]):
        assert main(["predict", "a.png", *own_model(), "--threshold", "0.3", *options]) == 0
        pictures.append(read_image("found/a_predicted.png"))
    assert not (pictures[0] == pictures[1]).all() and not (pictures[1] == pictures[2]).all()


def test_settings_tiles_and_mirrored_looks(capsys):
    photograph("a.png", size=(90, 120))
    options = own_model()
    assert main(["predict", "a.png", *options]) == 0
    plain = records_of()
    assert main(["predict", "a.png", *options, "--set", "max_detections=4"]) == 0 and records_of() == plain[:4]
    assert main(["predict", "a.png", *options, "--tile", "48"]) == 0 and records_of() != plain
    assert main(["predict", "a.png", *options, "--flip"]) == 0 and records_of() != plain
    assert main(["predict", "a.png", *options, "--soft-nms"]) == 0
    assert records_of() != plain and records_of()[0] == plain[0]
    capsys.readouterr()
    for bad, message in (
        (["--set", "box.hidden=3"], "box.hidden is part of what was trained"), (["--set", "x"], "is not FIELD=VALUE"),
        (["--tile", "4"], "Tiles are squares of 32 pixels at least"),
    ):  # fmt: skip
        assert main(["predict", "a.png", *options, *bad]) == 2 and message in capsys.readouterr().err


# Films


def animation(path, frames=3, size=(40, 60)):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=200, lossless=True)
    return [np.asarray(picture) for picture in pictures]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_animations_are_read_frame_by_frame(suffix):
    expected = animation(f"film{suffix}")
    assert is_film(f"film{suffix}")
    frames, rate = read_film(f"film{suffix}")
    frames = list(frames)
    assert len(frames) == 3 and rate == pytest.approx(5)
    for frame, picture in zip(frames, expected, strict=True):
        assert frame.shape == (3, 40, 60) and frame.dtype == np.float32
        off = abs(frame.transpose(1, 2, 0) * 255 - picture)
        assert off.mean() < 20 if suffix == ".gif" else off.max() < 1e-3  # a GIF has 256 colours
    photograph("still.png")
    assert not is_film("still.png") and not is_film("gone.gif") and not is_film("a.txt") and is_film("a.mp4")


def test_a_film_of_what_is_found(capsys):
    animation("film.gif")
    photograph("a.png")
    assert main(["predict", "film.gif", "a.png", *own_model(), "--threshold", "0.2"]) == 0
    assert "found/film_predicted.gif: 3 frames, " in capsys.readouterr().out
    with Image.open("found/film_predicted.gif") as image:
        assert image.n_frames == 3 and image.info["duration"] == 200
    records = [r for r in records_of() if r["file_name"] == "film.gif"]
    assert {r["frame"] for r in records} == {0, 1, 2}
    assert not any("frame" in r for r in records_of() if r["file_name"] == "a.png")
    with open("found/film_predicted.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(r["score"] >= 0.2 for r in records) and {row["frame"] for row in rows} <= {"0", "1", "2"}
    assert main(["predict", "a.png", *own_model()]) == 0
    assert "1 pictures in 'found' are of earlier runs" in capsys.readouterr().err


def test_films_that_cannot_be_read(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    open("film.mp4", "wb").write(b"no video")
    assert main(["predict", "film.mp4", "gone.mp4", *own_model()]) == 1
    printed = capsys.readouterr().err
    assert "'film.mp4' is a video: to read and write those, pip install imageio-ffmpeg." in printed
    assert "There is no file 'gone.mp4'." in printed and not os.path.exists("found")
    animation("film.gif", frames=4)
    data = open("film.gif", "rb").read()
    open("cut.gif", "wb").write(data[: len(data) // 2])
    assert main(["predict", "cut.gif", *own_model()]) in (0, 1)  # Pillow may find a whole frame in it
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="There is no frame to write to 'x.gif'"):
        write_film("x.gif", [], 5)
    assert not os.path.exists("x.gif")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio-ffmpeg leaves pipes open
def test_videos(capsys):
    pytest.importorskip("imageio_ffmpeg", reason="videos need: pip install imageio-ffmpeg")
    y, x = np.mgrid[:65, :91]
    pictures = [np.stack([x + 20 * n, y, 0 * x], -1).clip(0, 255).astype(np.uint8) for n in range(6)]
    write_film("film.mp4", pictures, 10)
    frames, rate = read_film("film.mp4")
    frames = list(frames)
    assert len(frames) == 6 and rate == 10 and frames[0].shape == (3, 64, 90)
    for frame, picture in zip(frames, pictures, strict=True):
        assert abs(frame.transpose(1, 2, 0) * 255 - picture[:64, :90]).mean() < 12
    assert main(["predict", "film.mp4", *own_model()]) == 0
    assert sum(1 for _ in read_film("found/film_predicted.mp4")[0]) == 6
    open("bad.mp4", "wb").write(b"no video at all")
    assert main(["predict", "bad.mp4", *own_model()]) == 1
    assert "'bad.mp4' cannot be read as a film" in capsys.readouterr().err
