"""`tinymrcnn predict`: which images it finds, which model a file of weights holds, what it draws and writes."""

import json
import os
import pickle
import signal

import numpy as np
import pytest
from PIL import Image
from tiny_models import scene, tiny_model

from tinymrcnn.cli import main
from tinymrcnn.commands import predict as prediction
from tinymrcnn.commands.predict import detect, draw_found, load_predictor
from tinymrcnn.data import COCO_NAMES, ShapesDataset, coco_categories, find_images, read_image
from tinymrcnn.data.coco import decode_mask
from tinymrcnn.draw import draw_instances, shrunk
from tinymrcnn.models import presets
from tinymrcnn.settings import replace
from tinymrcnn.weights import CheckpointError, save_checkpoint


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def public(monkeypatch):
    """public(**fields): the path of a file of weights as the public ones are, without Config and categories, for the
    preset "tiny", which has torchvision's 91 classes and keeps every detection."""
    of_preset = {"num_classes": 91, "score_threshold": 0.0}
    config = replace(tiny_model().config, preset="tiny", **of_preset)
    monkeypatch.setitem(presets.PRESETS, "tiny", config)

    def write(**fields):
        with open("weights.pkl", "wb") as file:
            pickle.dump({"model": tiny_model(seed=3, **{**of_preset, **fields}).state_dict()}, file, protocol=2)
        return "weights.pkl"

    return write


def photograph(path, size=(40, 60), seed=0):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


def test_names_of_coco():
    assert len(COCO_NAMES) == 80 and (min(COCO_NAMES), max(COCO_NAMES)) == (1, 90)
    assert list(COCO_NAMES) == sorted(COCO_NAMES) and len(set(COCO_NAMES.values())) == 80
    for i, name in ((1, "person"), (13, "stop sign"), (44, "bottle"), (62, "chair"), (84, "book"), (90, "toothbrush")):
        assert COCO_NAMES[i] == name
    torchvision, detectron2 = coco_categories(91), coco_categories(81)
    assert all(c["label"] == c["id"] and COCO_NAMES.get(c["id"], c["name"]) == c["name"] for c in torchvision)
    assert [c["label"] for c in torchvision] == list(range(1, 91)) and torchvision[11]["name"] == "(unused 12)"
    assert [c["label"] for c in detectron2] == list(range(1, 81))
    assert detectron2[11] == {"label": 12, "name": "stop sign", "id": 13}
    assert detectron2[79] == {"label": 80, "name": "toothbrush", "id": 90}
    assert coco_categories(6) is None


def test_files_folders_and_patterns():
    for path in ("b.png", "set/2.jpg", "set/1.PNG", "set/deep/3.png", "odd[1].png"):
        photograph(path)
    for path in (
        "set/notes.txt",
        "set/.hidden.png",
        "set/1_predicted.png",
        "set/1_predicted_ids.png",
        "empty/notes.txt",
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    assert find_images(["set"]) == (["set/1.PNG", "set/2.jpg"], [])
    assert find_images(["b.png", "set", "b.png", "set/2.jpg"]) == (["b.png", "set/1.PNG", "set/2.jpg"], [])
    assert find_images(["set/*.jpg"]) == (["set/2.jpg"], [])
    assert find_images(["**/*.png"])[0] == [
        "b.png",
        "odd[1].png",
        "set/1_predicted.png",
        "set/1_predicted_ids.png",
        "set/deep/3.png",
    ]
    assert find_images(["odd[1].png"]) == (["odd[1].png"], [])  # a file's name is no pattern
    assert find_images(["gone.png"]) == (["gone.png"], [])  # reading it says what is wrong
    files, (folder, pattern) = find_images(["empty", "*.tif"])
    assert files == [] and "no image in the folder 'empty'" in folder and "fits the pattern '*.tif'" in pattern


def test_a_public_file_brings_the_names_of_coco(public, capsys):
    photograph("photo.jpg")
    assert main(["predict", "photo.jpg", "--preset", "tiny", "--weights", public(), "--threshold", "0.02"]) == 0
    printed = capsys.readouterr().out
    records = json.loads(open("predictions/detections.json").read())
    assert "Loaded" in printed and len(records) > 0
    for record in records:
        name = COCO_NAMES.get(record["category_id"], f"(unused {record['category_id']})")
        assert record["category_name"] == name and record["file_name"] == "photo.jpg"
    shown = [record["category_name"] for record in records if record["score"] >= 0.02]
    assert f"photo_predicted.png: {len(shown)} object" in printed
    assert not shown or f" {shown[0]}" in printed


def test_a_public_file_of_other_classes_or_without_masks(public, capsys):
    model = load_predictor(public(num_classes=4), "tiny")
    assert not model.training and model.config.num_classes == 4
    assert [c["name"] for c in model.categories] == ["class 1", "class 2", "class 3"]
    expected = tiny_model(seed=3, num_classes=4).state_dict()
    assert all(np.array_equal(array, expected[name]) for name, array in model.state_dict().items())
    assert len(load_predictor(public(num_classes=81), "tiny").categories) == 80
    boxes_only = load_predictor(public(masks=False), "tiny")
    found, records = detect(boxes_only, scene(1)[0])
    assert not boxes_only.config.masks and "masks" not in found and records
    assert not any("segmentation" in record for record in records)


def test_weights_and_presets_that_do_not_belong_together(public, capsys):
    photograph("photo.png")
    save_checkpoint("own.npz", tiny_model())
    os.rename(public(), "w.pkl")
    for options, message in (
        (["--weights", "w.pkl"], "'w.pkl' does not say which model it belongs to: name it with --preset"),
        (["--preset", "tiny"], "--preset tiny needs --weights FILE"),
        (["--preset", "tiny", "--weights", "own.npz"], "holds a model of the preset 'shapes', not of 'tiny'"),
        (["--preset", "tinny", "--weights", "w.pkl"], "There is no preset 'tinny'"),
        (["--preset", "tinny"], "There is no preset 'tinny'"),
        (["--preset", "tiny", "--weights", "gone.pkl"], "There is no file of weights 'gone.pkl'"),
        (["--weights", "gone.pkl"], "There is no checkpoint 'gone.pkl'"),
        (["--threshold", "2"], "--threshold is 2.0; a score lies between 0 and 1"),
        (["--weights", "."], "'.' is a folder, no checkpoint. The model of a run is 'model.npz'"),
    ):
        assert main(["predict", "photo.png", "--device", "cpu", *options]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert not os.path.exists("predictions")
    with pytest.raises(CheckpointError, match="not fit the model"):
        load_predictor(public(fpn_channels=4), "tiny")
    assert load_predictor("own.npz", "shapes").config == load_predictor("own.npz").config


def test_what_is_found_and_drawn_is_what_the_model_finds(monkeypatch):
    model = tiny_model(seed=2, score_threshold=0.0, num_classes=4).eval()
    model.categories = ShapesDataset.categories[:3]
    image = scene(4, (72, 50))[0]
    found, records = detect(model, image, image_id=9)
    (expected,) = model([image])
    assert len(records) == len(expected["masks"]) > 0 and all(record["image_id"] == 9 for record in records)
    for n, record in enumerate(records):
        assert np.array_equal(decode_mask(record["segmentation"], 72, 50), expected["masks"][n] >= 0.5)
    picture = draw_found(model, image, found, 0.1)
    assert np.array_equal(picture, draw_instances(image, expected, model.categories, 0.1))
    assert not np.array_equal(picture, draw_instances(image, expected, model.categories, 1.0))
    # in a photograph that is drawn at half its size, boxes and masks shrink along
    large = image.repeat(2, axis=1).repeat(2, axis=2)
    monkeypatch.setattr(prediction, "shrunk", lambda photograph: shrunk(photograph, 72))
    same = draw_found(model, large, {**found, "boxes": found["boxes"] * 2}, 0.1)
    assert same.shape == picture.shape and (abs(same.astype(int) - picture) <= 1).all()


def own_model(**overrides):
    model = tiny_model(**{"score_threshold": 0.0, **overrides})
    model.categories = ShapesDataset.categories
    save_checkpoint("own.npz", model)
    return ["--weights", "own.npz", "--device", "cpu", "--out", "found"]


def test_a_folder_with_files_that_cannot_be_read(capsys):
    for name in ("c.jpg", "a.png"):
        photograph(f"set/{name}")
    open("set/b.png", "w").write("<html>")
    assert main(["predict", "set", "nothing*.png", *own_model()]) == 1
    printed = capsys.readouterr()
    assert "skipped: The file 'set/b.png' cannot be read as an image" in printed.err
    assert "skipped: No file fits the pattern 'nothing*.png'." in printed.err
    assert "2 of 4 could not be read" in printed.err and "predict" in printed.err  # the progress bar
    of_each = ("_predicted.csv", "_predicted.png", "_predicted_ids.png")
    assert sorted(os.listdir("found")) == [f"{name}{end}" for name in "ac" for end in of_each] + ["detections.json"]
    files = {record["file_name"] for record in json.loads(open("found/detections.json").read())}
    assert files == {"set/a.png", "set/c.jpg"}
    before = open("found/detections.json").read()
    assert main(["predict", "gone.png", *own_model()]) == 1
    assert open("found/detections.json").read() == before  # where nothing was read nothing is written
    assert main(["predict", "gone.png", *own_model(), "--out", "new"]) == 1 and not os.path.exists("new")


def test_pictures_of_one_name_stay_apart():
    for seed, name in enumerate(("a/x.png", "b/x.png", "x_2.png", "c/x.jpg")):
        photograph(name, seed=seed)
    assert main(["predict", "a", "b", "x_2.png", "c/x.jpg", *own_model()]) == 0
    assert sorted(name for name in os.listdir("found") if name.endswith("_predicted.png")) == [
        "x_2_3_predicted.png", "x_2_predicted.png", "x_4_predicted.png", "x_predicted.png",
    ]  # fmt: skip


def test_ctrl_c_keeps_what_was_found(monkeypatch):
    seen = []

    def interrupted(model, image, image_id):
        seen.append(image_id)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        return detect(model, image, image_id)

    monkeypatch.setattr(prediction, "detect", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        photograph("set/1.png")
        photograph("set/2.png")
        assert main(["predict", "set", *own_model()]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert {r["file_name"] for r in json.loads(open("found/detections.json").read())} == {"set/1.png"}


def test_a_turned_photograph_is_drawn_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save("phone.jpg", exif=exif)
    assert main(["predict", "phone.jpg", *own_model()]) == 0
    assert read_image("phone.jpg").shape == (3, 60, 40)
    assert Image.open("found/phone_predicted.png").size == (13 * 40, 13 * 60)
    records = json.loads(open("found/detections.json").read())
    assert records and all(record["segmentation"]["size"] == [60, 40] for record in records)


# The results file


def annotations(path, files, names):
    """An annotation file with these images, ids 101, 102, ..., and these classes, ids 11, 12, ..."""
    content = {
        "images": [{"id": 101 + n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(files)],
        "annotations": [],
        "categories": [{"id": 11 + n, "name": name} for n, name in enumerate(names)],
    }
    with open(path, "w") as file:
        json.dump(content, file)
    return ["--annotations", path]


def records_of(folder="found"):
    return json.loads(open(f"{folder}/detections.json").read())


def test_detections_have_the_ids_of_the_annotation_file_or_none(capsys):
    for name in ("set/b.png", "set/a.png", "set/other.png"):
        photograph(name)
    names = [category["name"] for category in ShapesDataset.categories]
    options = annotations("own.json", ["b.png", "set/a.png"], names[::-1])
    assert main(["predict", "set", *own_model(), *options]) == 1
    assert "'set/other.png' is not among the images of 'own.json'" in capsys.readouterr().err
    records = records_of()
    assert {(r["image_id"], r["file_name"]) for r in records} == {(101, "set/b.png"), (102, "set/a.png")}
    assert {(r["category_id"], r["category_name"]) for r in records} <= set(enumerate(names[::-1], start=11))
    assert main(["predict", "set", *own_model()]) == 0
    assert not any("image_id" in record for record in records_of())
    options = annotations("own.json", ["b.png", "a.png", "other.png"], ["egg"])
    assert main(["predict", "set", *own_model(), *options]) == 0
    assert records_of() == [] and "detections are of classes that 'own.json' lacks" in capsys.readouterr().err
    assert "There is no annotation file 'gone.json'" in error_of_predict(capsys, ["--annotations", "gone.json"])
    open("list.json", "w").write('{"images": []}')
    assert "has no list 'categories'" in error_of_predict(capsys, ["--annotations", "list.json"])


def error_of_predict(capsys, options, code=2):
    assert main(["predict", "set", *own_model(), *options]) == code
    return capsys.readouterr().err


def test_detections_of_somebody_else_are_not_replaced(capsys):
    photograph("set/a.png")
    os.makedirs("found")
    for content in ('[{"image_id": 1}]', "not JSON", '{"a": 1}'):
        open("found/detections.json", "w").write(content)
        assert "detections.json' exists and holds no detections of ours" in error_of_predict(capsys, [])
        assert open("found/detections.json").read() == content and os.listdir("found") == ["detections.json"]


def test_pictures_of_earlier_runs_are_told(capsys):
    photograph("set/a.png")
    photograph("set/b.png")
    assert main(["predict", "set", *own_model()]) == 0
    assert "earlier runs" not in capsys.readouterr().err
    assert main(["predict", "set/b.png", *own_model()]) == 0
    assert "1 pictures in 'found' are of earlier runs: detections.json tells of this one" in capsys.readouterr().err
    assert {record["file_name"] for record in records_of()} == {"set/b.png"}


def test_two_runs_into_one_folder_at_once(monkeypatch, capsys):
    photograph("set/a.png")

    def meeting(*args):
        assert main(["predict", "set", *options]) == 2
        return detect(*args)

    options = own_model()
    monkeypatch.setattr(prediction, "detect", meeting)
    assert main(["predict", "set", *options]) == 0
    assert "'found' is in use by another run: process" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), NotImplementedError("format")])
def test_one_image_never_ends_the_run(monkeypatch, capsys, error):
    def reading(name):
        if name == "set/b.png":
            raise error
        return read_image(name)

    monkeypatch.setattr(prediction, "read_image", reading)
    for name in "abc":
        photograph(f"set/{name}.png")
    assert main(["predict", "set", *own_model()]) == 1
    assert "skipped: 'set/b.png': " in capsys.readouterr().err
    assert {record["file_name"] for record in records_of()} == {"set/a.png", "set/c.png"}


def test_a_font_that_is_none(capsys):
    photograph("set/a.png")
    assert "There is no font file 'gone.ttf'" in error_of_predict(capsys, ["--font", "gone.ttf"])
    assert "'set/a.png' cannot be read as a font" in error_of_predict(capsys, ["--font", "set/a.png"])
    assert not os.path.exists("found")
