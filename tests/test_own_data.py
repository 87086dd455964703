"""Own data on the command line: one path in train, evaluate and predict; what is held out; `tinymrcnn data`."""

import json
import os
import re
import shutil
from pathlib import Path

import format_writers as writers
import numpy as np
import pytest
from PIL import Image
from tiny_models import TINY, tiny_model

from tinymrcnn.cli import main
from tinymrcnn.commands.source import open_data, open_to_evaluate
from tinymrcnn.commands.train import TrainOptions, _new_run
from tinymrcnn.data import CocoDataset, ShapesDataset, write_coco
from tinymrcnn.data.formats import open_source, open_split
from tinymrcnn.data.held_out import Subset, hold_out, shared_images
from tinymrcnn.models import build_model
from tinymrcnn.weights import save_checkpoint

SETTINGS = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}".replace(" ", ""))]
TRAIN = ["train", "--device", "cpu", "--steps", "2", "--batch-size", "1", *SETTINGS]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A folder of ten images in COCO's form, one class."""
    folder = tmp_path_factory.mktemp("ten") / "set"
    write_coco(ShapesDataset(10, (48, 64), seed=100), folder)
    return folder


def error_of(capsys, argv, code=2):
    assert main(argv) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text and "tinymrcnn: error: " in text
    return text


# What is held out ----------------------------------------------------------------------------------------


def test_a_fifth_is_held_out_by_name(ten):
    dataset = CocoDataset(ten / "images", ten / "annotations.json")
    train, held_out = hold_out(dataset)
    assert (len(train), len(held_out)) == (8, 2) and sorted([*train.indices, *held_out.indices]) == list(range(10))
    assert hold_out(dataset)[1].indices == held_out.indices != hold_out(dataset, seed=1)[1].indices
    shuffled = Subset(dataset, [7, 3, 5, 0, 1, 2, 9, 8, 6, 4])
    names = [{each.image_of(n)["name"] for n in range(2)} for each in (held_out, hold_out(shuffled)[1])]
    assert names[0] == names[1]
    fewer = Subset(dataset, [n for n in range(10) if n != train.indices[0]])  # an image less: nobody changes sides
    assert {hold_out(fewer)[1].image_of(n)["name"] for n in range(2)} == names[0]
    assert len(hold_out(dataset, 0.5)[1]) == 5 and len(hold_out(dataset, 0.001)[1]) == 1
    image, target = held_out[1]
    np.testing.assert_array_equal(image, dataset[held_out.indices[1]][0])
    assert held_out.read_target(1)["image_id"] == target["image_id"] == held_out.image_of(1)["id"]
    assert held_out.categories == dataset.categories and len(held_out.objects_of(0)) > 0
    for share in (0, 1, -0.5, 7):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            hold_out(dataset, share)
    with pytest.raises(ValueError, match="none can be held out"):
        hold_out(Subset(dataset, [3]))


def test_the_same_image_in_both_parts_is_found(ten, tmp_path):
    shutil.copytree(ten, tmp_path / "copy")
    first, second = (CocoDataset(folder / "images", folder / "annotations.json") for folder in (ten, tmp_path / "copy"))
    assert len(shared_images(first, first)) == len(shared_images(first, second)) == 10
    one, other = hold_out(first)
    assert shared_images(one, other) == []
    for file in (tmp_path / "copy" / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    assert shared_images(first, CocoDataset(tmp_path / "copy" / "images", ten / "annotations.json")) == []


def opened(data, val=None, format=None):
    return open_data({"data": list(map(str, data)), "val": val, "format": format})


def test_which_images_are_evaluated_on(ten, tmp_path, caplog):
    caplog.set_level("INFO", "tinymrcnn")
    pair = [ten / "images", ten / "annotations.json"]
    assert [len(part) for part in opened([ten])] == [len(part) for part in opened(pair)] == [8, 2]
    assert "recognised as COCO (10 images)" in caplog.text and "2 of the 10 images are held out" in caplog.text
    assert [len(part) for part in opened([ten], 0.4)] == [6, 4]
    caplog.clear()
    assert [len(part) for part in opened([ten], [str(ten)])] == [10, 10]
    assert "10 of the 10 images to evaluate on are among those to train on" in caplog.text
    writers.write_split_coco(tmp_path / "split", writers.SCENES)
    assert [len(part) for part in opened([tmp_path / "split"])] == [3, 1]
    assert [len(part) for part in opened([tmp_path / "split"], 0.5)] == [1, 2]
    writers.write_coco(tmp_path / "own", writers.SCENES[1:2])
    assert [len(part) for part in opened([tmp_path / "split"], [str(tmp_path / "own")])] == [3, 1]
    assert len(open_to_evaluate([str(tmp_path / "split")])) == 1  # its val
    assert len(open_to_evaluate(list(map(str, pair)))) == 10


def test_splits_that_are_two_of_a_kind(tmp_path):
    for name in ("train2014", "train2017"):
        writers.images_into(tmp_path / name, writers.SCENES)
        writers.write(tmp_path / f"{name}.json", writers.coco_content(writers.SCENES))
    with pytest.raises(ValueError, match="has the splits train2014, train2017: which of them"):
        opened([tmp_path])


# The commands --------------------------------------------------------------------------------------------


def test_train_evaluate_and_predict_with_one_path(ten, capsys):
    assert main([*TRAIN, "--data", str(ten), "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert f"'{ten}' was recognised as COCO (10 images)" in printed and "2 steps of 1 images out of 8" in printed
    note = json.loads(open("run/data.json").read())
    assert (note["data"], note["val"], note["format"], note["found"]["val"]) == ([str(ten)], None, None, None)
    assert note["found"]["data"]["images"] == 8
    metrics = json.loads(open("run/metrics.json").read())["metrics"]
    assert main(["evaluate", "run/model.npz", "--device", "cpu", "--data", str(ten), "--out", "again.json"]) == 0
    assert "the 2 images that its run held out are used" in capsys.readouterr().out
    again = json.loads(open("again.json").read())
    assert again and all(metrics[name] == value for name, value in again.items())
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    shutil.copytree(ten, "moved")
    assert main(["train", "--device", "cpu", "--resume", "run", "--data", "moved"]) == 0
    assert json.loads(open("run/data.json").read())["data"] == [os.path.abspath("moved")]
    assert "has changed" not in capsys.readouterr().out
    content = json.loads(open("moved/annotations.json").read())
    writers.write(Path("moved/annotations.json"), {**content, "annotations": content["annotations"][1:]})
    assert main(["train", "--device", "cpu", "--resume", "run"]) == 0
    assert "moved' has changed since the run began" in capsys.readouterr().out
    content["annotations"][0]["category_id"] = 77
    writers.write(Path("moved/annotations.json"), content)
    assert "The annotation file 'moved/annotations.json' cannot be used: annotation 1 of image" in error_of(
        capsys, ["evaluate", "--device", "cpu", "--data", "moved"]
    )
    arguments = ["predict", "--device", "cpu", "--weights", "run/model.npz", "--threshold", "0.9"]
    assert main([*arguments, "--data", str(ten)]) == 0
    known = {image["file_name"]: image["id"] for image in json.loads((ten / "annotations.json").read_text())["images"]}
    records = json.loads(open("predictions/detections.json").read())
    assert records and all(record["image_id"] == known[Path(record["file_name"]).name] for record in records)
    assert "leave out --annotations" in error_of(
        capsys, [*arguments, "--data", str(ten), "--annotations", str(ten / "annotations.json")]
    )
    assert "Name images, or a data set with --data" in error_of(capsys, arguments)
    assert "but 3 were given" in error_of(capsys, [*arguments, "--data", "a", "b", "c"])


@pytest.mark.parametrize("place", ["beside", "labels"])
def test_corrected_predictions_are_trained_on(place, ten, capsys):
    """What `predict --label-files yolo` wrote, an object taken out by hand, put beside the images or into labels/."""
    model = tiny_model(score_threshold=0.0)
    model.categories = ShapesDataset.categories
    save_checkpoint("model.npz", model)
    shutil.copytree(ten / "images", "set/images")
    arguments = ["--weights", "model.npz", "--device", "cpu", "--threshold", "0.2", "--label-files", "yolo"]
    assert main(["predict", "set/images", *arguments, "--set", "max_detections=4"]) == 0
    for file in Path("predictions/labels").iterdir():
        target = Path("set", "images" if place == "beside" else "labels", file.name)
        target.parent.mkdir(exist_ok=True)
        lines = file.read_text().splitlines(keepends=True)
        target.write_text("".join(lines if file.name == "classes.txt" else lines[1:]))
    capsys.readouterr()
    assert main([*TRAIN, "--data", "set", "--out", "run"]) == 0
    assert "set' was recognised as YOLO segmentation (10 images)" in capsys.readouterr().out
    dataset = open_split(open_source("set").training())
    assert [category["name"] for category in dataset.categories] == [c["name"] for c in ShapesDataset.categories]
    records = [each for each in json.loads(open("predictions/detections.json").read()) if each["score"] >= 0.2]
    for index in range(10):
        name, target = dataset.image_of(index)["name"], dataset.read_target(index)
        kept = [each for each in records if Path(each["file_name"]).name == Path(name).name][1:]
        names = [dataset.categories[label - 1]["name"] for label in target["labels"]]
        assert names == [each["category_name"] for each in kept]
    assert json.loads(open("run/metrics.json").read())["metrics"]["segm/AP"] >= 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", ["yolo", "ids", "labelme", "via", "cvat", "labelstudio", "instances", "voc",
                                    "cityscapes", "cellpose", "roboflow"])  # fmt: skip
def test_train_on_every_format(layout, capsys):
    """Twenty steps, then an evaluation, by the commands; and the same of what was converted."""
    can = {"holes": False, "parts": False} if layout in ("yolo", "via") else {}
    getattr(writers, f"write_{layout}")(Path("data"), writers.scenes(**can))
    assert main(["data", "convert", "data", "coco"]) == 0
    for name in ("data", "coco"):
        assert (
            main([*TRAIN[:3], "--steps", "20", "--batch-size", "2", *SETTINGS, "--data", name, "--out", f"r{name}"])
            == 0
        )
        assert main(["evaluate", f"r{name}/model.npz", "--device", "cpu", "--data", name]) == 0
    read = [json.loads(open(f"r{name}/metrics.json").read()) for name in ("data", "coco")]
    assert read[0]["images"] == read[1]["images"]


def test_a_model_that_has_seen_all_of_the_images(ten, capsys):
    model = build_model("shapes", **TINY)
    model.categories = ShapesDataset.categories
    os.makedirs("run")
    save_checkpoint("run/model.npz", model)
    note = {"data": [str(ten)], "val": [str(ten)], "test_images": 1}
    writers.write(Path("run/data.json"), note)
    assert len(open_to_evaluate([str(ten)], checkpoint="run/model.npz")) == 10
    assert main(["evaluate", "run/model.npz", "--device", "cpu", "--data", str(ten)]) == 0
    assert "The model was trained on these images" in capsys.readouterr().err
    writers.write(Path("run/data.json"), "[]")
    assert len(open_to_evaluate([str(ten)], checkpoint="run/model.npz")) == 10


def test_a_run_notes_the_format_and_the_share(ten):
    run = _new_run(TrainOptions(data=[str(ten)], val=["0.3"], format="coco"))
    assert (run.source["val"], run.source["format"], len(run.held_out)) == (0.3, "coco", 3)
    os.makedirs("0.3")  # a folder of this name comes first
    with pytest.raises(ValueError, match="'.*0.3' was not recognised"):
        _new_run(TrainOptions(data=[str(ten)], val=["0.3"]))


def test_other_formats_than_the_named_one(ten, capsys):
    text = error_of(capsys, ["train", "--data", str(ten), "--format", "yolo"])
    assert "There is nothing to read" in text and "data.yaml with 'train' and 'names'" in text
    assert "There is no format 'pascal'; there are" in error_of(
        capsys, ["evaluate", "--data", str(ten), "--format", "pascal"]
    )


# tinymrcnn data ------------------------------------------------------------------------------------------


def test_convert_prints_what_it_wrote(capsys):
    writers.write_cellpose(Path("cells"), writers.SCENES)
    assert main(["data", "convert", "cells", "a folder"]) == 0
    printed = capsys.readouterr().out
    assert "recognised as label images, one for each image (train: 3 images, test: 1 images)" in printed
    assert "Wrote a folder/train.json: 3 images, 6 objects." in printed
    assert "tinymrcnn train --data 'a folder'" in printed
    assert "exists already" in error_of(capsys, ["data", "convert", "cells", "a folder"])


def test_check_prints_the_numbers(ten, capsys):
    assert main(["data", "check", str(ten)]) == 0
    printed = capsys.readouterr().out
    objects = [CocoDataset(ten / "images", ten / "annotations.json").read_target(n)["labels"] for n in range(10)]
    total = sum(map(len, objects))
    assert "Nothing is wrong." in printed and f"10 images, {total} objects; 0 images show none." in printed
    circles, images = sum((each == 1).sum() for each in objects), sum((each == 1).any() for each in objects)
    assert re.search(rf"circle +{circles} +{images} +{circles / total:.1%}", printed)
    assert re.search(r"width of images( +64){6}", printed) and re.search(r"height of images( +48){6}", printed)
    assert "0 images have more than the 100 objects" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  tinymrcnn train")]
    assert line.startswith(f"  tinymrcnn train --data {ten}")
    sheet = Image.open("contact_sheet.png")
    assert sheet.format == "PNG" and sheet.width > 4 * 300
    open("other.png", "wb").write(b"mine")
    assert "other.png' exists and is no contact sheet" in error_of(
        capsys, ["data", "check", str(ten), "--out", "other.png"]
    )
    assert "is a picture: name it .png" in error_of(capsys, ["data", "check", str(ten), "--out", "sheet.txt"])
    assert "There is no preset 'none'" in error_of(capsys, ["data", "check", str(ten), "--preset", "none"])


def test_the_line_of_check_can_be_run(capsys):
    """On images that are full of small objects."""
    things = tuple(writers.Thing("dot", ((x, y, x + 5, y + 4),)) for x in range(2, 90, 9) for y in range(2, 110, 9))
    for number in range(4):
        scene = writers.Scene(f"{number}", (116, 92), things)
        writers.save(Path("dots/images") / f"{number}.png", scene.pixels())
        writers.save(Path("dots/masks") / f"{number}.png", writers.label_image(scene).astype(np.uint8))
    assert main(["data", "check", "dots"]) == 0
    printed = capsys.readouterr().out
    assert "4 images have more than the 100 objects that are detected at most." in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  tinymrcnn train")]
    assert "box.max_detections=150" in line and "box.samples=256" in line and "anchor_sizes=((16" in line
    assert "steps=1080" in line
    arguments = [part.strip("'") for part in line.replace("steps=1080", "steps=2").split()[1:]]
    assert main([*arguments, *TRAIN[1:7], *[part for part in SETTINGS], *arguments[3:], "--out", "run"]) == 0


def test_check_lists_every_case(ten, capsys):
    shutil.copytree(ten, "set")
    content = json.loads(open("set/annotations.json").read())
    first, second, third = content["annotations"][:3]
    first["bbox"] = [500, 500, 3, 3]
    second["segmentation"] = [[1, 2, 3, 4]]
    third["bbox"] = [third["bbox"][0] - 20, third["bbox"][1] + 20, 3, 3]
    content["annotations"].append({**third, "id": 999, "image_id": 77})
    writers.write(Path("set/annotations.json"), content)
    assert main(["data", "check", "set/images", "set/annotations.json"]) == 1
    printed = capsys.readouterr().out
    assert "What is wrong: 4 cases" in printed
    name = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation, text in (
        (first, "left out: its box lies outside of its image"), (second, "left out: its mask cannot be read"),
        (third, r"its box \[33.0, 20.0, 3.0, 3.0\] contradicts its mask"),
    ):  # fmt: skip
        assert re.search(rf"  {name[annotation['image_id']]} +{annotation['id']}  .*{text}", printed), text
    assert re.search(r"  +999  left out: it belongs to an image that the file does not list: image_id 77", printed)
    assert f"{len(content['annotations']) - 3} objects" in printed  # the rest is counted


def test_check_of_what_cannot_be_used(ten, capsys):
    shutil.copytree(ten, "set")
    content = json.loads(open("set/annotations.json").read())
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 77
    writers.write(Path("set/annotations.json"), content)
    os.remove(f"set/images/{content['images'][0]['file_name']}")
    assert main(["data", "check", "set"]) == 1
    captured = capsys.readouterr()
    assert "What is wrong: 3 cases" in captured.out and "the file is missing" in captured.out
    assert captured.out.count("has the unknown category id 77") == 2 and "cannot be used as it is" in captured.err
    assert not os.path.exists("contact_sheet.png")
    assert "was not recognised" in error_of(capsys, ["data", "check", "set/images"])


def test_check_of_damaged_pixels_and_shared_images(capsys):
    writers.write_split_coco(Path("set"), writers.SCENES)
    assert main(["data", "check", "set"]) == 1
    assert "1 images of 'val' are in 'train', too; the first is " in capsys.readouterr().out
    path = Path("set/val/b 2.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    assert main(["data", "check", "set"]) == 1
    printed = capsys.readouterr().out
    assert "What is wrong in 'val': 1 case\n" in printed and "b 2.png' cannot be read as an image" in printed


def test_check_of_boxes_alone(capsys):
    writers.images_into(Path("set/images"), writers.SCENES)
    for scene in writers.SCENES:
        writers.write(Path("set/labels") / f"{scene.name}.txt", "0 0.5 0.5 0.25 0.5\n")
    assert main(["data", "check", "set"]) == 0
    printed = capsys.readouterr().out
    assert "No object has a mask, so boxes are learned alone" in printed and " --set masks=False" in printed


def test_show_draws_images_with_their_objects(ten, capsys):
    assert main(["data", "show", str(ten), "--images", "000103.png", "*105*", "--out", "shown"]) == 2
    capsys.readouterr()
    assert main(["data", "show", str(ten), "--images", "000003.png", "*5.png", "--out", "shown"]) == 0
    assert sorted(os.listdir("shown")) == ["000003_objects.png", "000005_objects.png"]
    assert "Drew 2 images into 'shown'." in capsys.readouterr().out
    drawn = np.asarray(Image.open("shown/000003_objects.png")).astype(int)
    image, target = open_split(open_source(ten).training())[3]
    factor = drawn.shape[0] // 48
    mask = np.kron(target["masks"].any(0), np.ones((factor, factor), bool))
    plain = np.kron(image, np.ones((1, factor, factor))).transpose(1, 2, 0) * 255
    assert (abs(drawn - plain).max(2) > 20)[mask].mean() > 0.7  # tinted
    assert main(["data", "show", str(ten / "images"), str(ten / "annotations.json"), "--out", "all"]) == 0
    assert len(os.listdir("all")) == 10
    assert "No image is called none" in error_of(capsys, ["data", "show", str(ten), "--images", "none"])
