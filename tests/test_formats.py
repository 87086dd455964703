"""Data sets in other people's formats: the same objects come out of each, as far as it can hold them; what is wrong is
said; and what was read can be trained on, evaluated, and written as COCO."""

import json
import re
import shutil
from pathlib import Path

import format_writers as writers
import numpy as np
import pytest
from PIL import Image
from tiny_models import TINY, batch_of, losses_and_gradients

from tinymrcnn.data import CityscapesDataset, CocoDataset, DataWarning, read_image
from tinymrcnn.data.coco_masks import encode_ids, encode_mask
from tinymrcnn.data.formats import FORMATS, Source, Split, convert, open_source, open_split
from tinymrcnn.data.formats.brush import decode_brush
from tinymrcnn.data.formats.collect import ellipse, placed, turned_box
from tinymrcnn.data.images import COLOR, read_ids
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models import build_model
from tinymrcnn.nn import SGD

ROOT = Path(__file__).parents[1]
NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"

# How each layout is written, which format it is, what it can hold, and its splits
LAYOUTS = {
    "coco": (writers.write_coco, "coco", {}, ["all"]),
    "roboflow": (writers.write_roboflow, "coco", {}, ["train", "valid"]),
    "split coco": (writers.write_split_coco, "coco", {}, ["train", "val"]),
    "original coco": (writers.write_original_coco, "coco", {}, ["train2017", "val2017"]),
    "yolo": (writers.write_yolo, "yolo", {"holes": False, "parts": False}, ["train", "val"]),
    "labelme": (writers.write_labelme, "labelme", {}, ["all"]),
    "via": (writers.write_via, "via", {"holes": False, "parts": False}, ["all"]),
    "cvat": (writers.write_cvat, "cvat", {}, ["all"]),
    "labelstudio": (writers.write_labelstudio, "labelstudio", {}, ["all"]),
    "ids": (writers.write_ids, "ids", {}, ["all"]),
    "cellpose": (writers.write_cellpose, "ids", {}, ["train", "test"]),
    "instances": (writers.write_instances, "instances", {}, ["all"]),
    "voc": (writers.write_voc, "voc", {}, ["all"]),
    "coloured voc": (writers.write_colored_voc, "voc", {}, ["all"]),
    "cityscapes": (writers.write_cityscapes, "cityscapes", {}, ["train", "val"]),
}  # fmt: skip
ONE_CLASS = ("ids", "instances")


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """(folder, format, the scenes that it holds, names of its splits)."""
    write, name, able, splits = LAYOUTS[request.param]
    scenes = writers.scenes(**able)
    write(tmp_path / "data", scenes)
    return tmp_path / "data", name, scenes, splits


def found_in(dataset, one_class=False) -> dict:
    """{(name of the scene, class, mask as bytes)} of what a data set holds, crowds left out."""
    names = {category["label"]: category["name"] for category in dataset.categories}
    found = set()
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert target["masks"].shape[1:] == image.shape[1:] and target["masks"].dtype == np.uint8
        for label, mask, crowd in zip(target["labels"], target["masks"], target["iscrowd"], strict=True):
            if not crowd:
                found.add((image.shape, "object" if one_class else names[int(label)], mask.tobytes()))
    return found


def expected(scenes, one_class=False) -> set:
    return {((3, *scene.size), "object" if one_class else thing.name, thing.mask(scene.size).tobytes())
            for scene in scenes for thing in scene.things}  # fmt: skip


def test_the_same_objects_come_out_of_every_format(layout):
    folder, name, scenes, splits = layout
    source = open_source(folder)
    assert source.format == name and list(source.splits) == splits
    assert FORMATS[name].TITLE in str(source) and f"{len(scenes)} images" in str(source)
    dataset = open_split(source.training())
    assert len(dataset) == len(scenes)
    assert found_in(dataset, name in ONE_CLASS) == expected(scenes, name in ONE_CLASS)
    counts = [(dataset.read_target(index)["iscrowd"] == 0).sum() for index in range(3)]
    assert min(counts) == 0  # the scene without objects
    if len(splits) > 1:
        assert found_in(open_split(source.held_out()), name in ONE_CLASS) == expected(scenes[1:2], name in ONE_CLASS)
        assert [c["name"] for c in open_split(source.held_out()).categories] == [c["name"] for c in dataset.categories]


def test_converted_it_is_the_same(layout, tmp_path):
    """As COCO, in a folder that is recognised again; nothing is merged, and images are copied as they are."""
    folder, name, scenes, splits = layout
    source = open_source(folder)
    lines = convert(source, tmp_path / "out")
    files = ["annotations.json"] if splits == ["all"] else [f"{split}.json" for split in splits]
    assert [line.partition(":")[0] for line in lines] == files
    again = open_source(tmp_path / "out")
    assert again.format == "coco" and list(again.splits) == splits
    for split in splits:
        before, after = open_split(source.splits[split]), open_split(again.splits[split])
        assert [c["name"] for c in before.categories] == [c["name"] for c in after.categories]
        for index in range(len(before)):
            (image, target), (other, written) = before[index], after[index]
            np.testing.assert_array_equal(image, other)
            for key in ("boxes", "labels", "masks", "area", "iscrowd"):
                np.testing.assert_array_equal(target[key], written[key])
                assert target[key].dtype == written[key].dtype
    direct = CocoDataset(tmp_path / "out" / "images", tmp_path / "out" / files[0])  # as `data shapes` writes it
    assert len(direct) == len(scenes)
    with pytest.raises(FileExistsError, match="exists already"):
        convert(source, tmp_path / "out")


def test_what_is_read_can_be_learned(layout):
    """A few steps of training, and an evaluation."""
    source = open_source(layout[0])
    dataset, held_out = open_split(source.training()), open_split(source.held_out() or source.training())
    model = build_model("shapes", len(dataset.categories) + 1, **TINY)
    model.categories = dataset.categories
    optimizer = SGD(model.parameters(), lr=0.01)
    for step in range(2):
        losses_and_gradients(model, batch_of(dataset[0], dataset[1]), step=step)  # finite
        optimizer.step()
    metrics = evaluate(model, held_out, progress=False)
    assert 0 <= metrics["segm/AP"] <= 1


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="the nuclei are not here")
def test_real_nuclei_in_two_layouts():
    """The same images as published, one mask a nucleus, and as COCO."""
    raw, coco = open_source(NUCLEI / "raw"), open_source(NUCLEI)
    assert (raw.format, coco.format, list(coco.splits)) == ("instances", "coco", ["train", "val"])
    single = open_split(raw.training())
    both = [open_split(split) for split in coco.splits.values()]
    known = {d.image_of(n)["name"].removesuffix(".png"): (d, n) for d in both for n in range(len(d))}
    for index in range(len(single)):
        dataset, number = known[single.image_of(index)["name"].split("/")[0]]
        masks = [set(map(bytes, each.read_target(n)["masks"])) for each, n in ((single, index), (dataset, number))]
        assert masks[0] == masks[1]


# What each format has of its own -------------------------------------------------------------------------


def test_a_label_image_is_encoded_as_its_masks_are():
    ids = np.random.default_rng(0).integers(0, 4, (7, 5)) * 70000
    found = encode_ids(ids)
    assert list(found) == [70000, 140000, 210000]
    for number, each in found.items():
        mask = ids == number
        assert each["segmentation"] == encode_mask(mask) and each["area"] == mask.sum() and each["iscrowd"] == 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = columns[0], rows[0]
        assert each["bbox"] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]
    assert encode_ids(np.zeros((3, 4), int)) == {} and list(encode_ids(np.ones((3, 4), bool))) == [True]


def test_label_images_of_any_kind(tmp_path):
    values = np.array([[0, 1, 255], [300, 0, 65535]])
    for kind, suffix in ((np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")):
        Image.fromarray(values.astype(kind)).save(tmp_path / f"ids.{suffix}")
        np.testing.assert_array_equal(read_ids(tmp_path / f"ids.{suffix}"), values)
    Image.fromarray(values > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "bits.png"), values > 0)
    colors = np.zeros((2, 2, 4), np.uint8)
    colors[0] = [(0, 0, 255, 255), (0, 0, 0, 255)]
    colors[1] = [(1, 2, 3, 255), (1, 2, 3, 0)]
    Image.fromarray(colors).save(tmp_path / "colors.png")
    assert read_ids(tmp_path / "colors.png").tolist() == [[COLOR + 255, 0], [COLOR + 0x010203, 0]]
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "half.tif")
    with pytest.raises(ValueError, match="half.tif' cannot be read as an image: its values are no whole numbers"):
        read_ids(tmp_path / "half.tif")
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "ids.jpg")
    with pytest.raises(ValueError, match="JPEG changes the values of pixels; save masks as PNG or TIFF"):
        read_ids(tmp_path / "ids.jpg")


def test_ellipses_boxes_and_crops():
    points = np.reshape(ellipse(5, 7, 4, 2, np.pi / 2), (-1, 2))  # a quarter turn: 4 along y
    assert abs(points - [5, 7]).max(0).round(2).tolist() == [2, 4]
    x, y = max(np.reshape(ellipse(0, 0, 4, 1, np.pi / 6), (-1, 2)).tolist(), key=lambda point: point[0])
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(30, abs=5)  # y is down: clockwise, as the tools mean it
    x, y = np.reshape(ellipse(0, 0, 4, 1, np.pi / 6), (-1, 2)).T
    along, across = np.cos(np.pi / 6) * x + np.sin(np.pi / 6) * y, np.cos(np.pi / 6) * y - np.sin(np.pi / 6) * x
    np.testing.assert_allclose((along / 4) ** 2 + across**2, 1, atol=3e-3)
    assert turned_box(1, 2, 4, 6, 0, (9, 9)) == [1, 2, 4, 6]
    np.testing.assert_allclose(turned_box(1, 2, 4, 6, np.pi / 2, (1, 2)), [-5, 2, 6, 4], atol=1e-12)
    np.testing.assert_allclose(turned_box(0, 0, 2, 2, np.pi / 4, (1, 1)), [1 - 2**0.5, 1 - 2**0.5, 8**0.5, 8**0.5])
    crop = np.arange(1, 7).reshape(2, 3)
    assert placed(crop, 1, 0, 3, 5).tolist() == [[0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0] * 5]
    assert placed(crop, -1, -1, 2, 2).tolist() == [[5, 6], [0, 0]]
    assert placed(crop, 9, 9, 2, 2).tolist() == [[0, 0], [0, 0]]


def test_the_brush_of_label_studio():
    rng = np.random.default_rng(0)
    for mask in (rng.random((9, 14)) < 0.5, np.zeros((40, 30), bool), rng.random((300, 200)).cumsum(1) > 60):
        packed = writers.brush(mask)
        np.testing.assert_array_equal(decode_brush(packed, *mask.shape), mask)
        for damaged, message in ((packed[:8], "end too early"), ([], "end too early"), (packed[1:], "are of")):
            with pytest.raises(ValueError, match=message):
                decode_brush(damaged, *mask.shape)


def test_other_shapes_of_the_tools(tmp_path):
    """Circles and ellipses become polygons; rectangles are boxes without masks, whichever tool drew them."""
    writers.save(tmp_path / "a.png", np.zeros((60, 80, 3), np.uint8))
    disc = np.hypot(*(np.indices((60, 80)) + 0.5 - np.array([30, 40])[:, None, None])) < 10
    shapes = [{"label": "disc", "points": [[40, 30], [40, 40]], "shape_type": "circle"},
              {"label": "box", "points": [[50, 40], [20, 10]], "shape_type": "rectangle"}]  # fmt: skip
    circle = {"name": "circle", "cx": 40, "cy": 30, "r": 10}
    regions = [{"shape_attributes": circle, "region_attributes": {"a": "disc"}},
               {"shape_attributes": {"name": "rect", "x": 20, "y": 10, "width": 30, "height": 30},
                "region_attributes": {"type": {"box": True, "no": False}}}]  # fmt: skip
    common = {"original_width": 80, "original_height": 60, "to_name": "i", "from_name": "x"}
    results = [
        {**common, "id": "1", "type": "ellipselabels",
         "value": {"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 100 / 6, "rotation": 0, "ellipselabels": ["disc"]}},
        {**common, "id": "2", "type": "rectangle",
         "value": {"x": 25, "y": 100 / 6, "width": 37.5, "height": 50, "rotation": 0}},
        {**common, "id": "2", "type": "labels",
         "value": {"x": 25, "y": 100 / 6, "width": 37.5, "height": 50, "rotation": 0, "labels": ["box"]}},
        {"id": "3", "type": "choices", "to_name": "i", "from_name": "z", "value": {"choices": ["good"]}},
    ]  # fmt: skip
    xml = ('<annotations><image id="0" name="sub/a.png" width="80" height="60">'
           '<ellipse label="disc" cx="40" cy="30" rx="10" ry="10"/><points label="disc" points="1,2"/>'
           '<box label="box" xtl="20" ytl="10" xbr="50" ybr="40"/></image></annotations>')  # fmt: skip
    contents = {
        "labelme": ("a.json", {"shapes": shapes, "imagePath": "..\\far\\a.png", "imageHeight": 60, "imageWidth": 80}),
        "via": ("via.json", {"a.png1": {"filename": "a.png", "regions": dict(enumerate(regions))}}),
        "labelstudio": ("ls.json", [{"data": {"i": "s3://bucket/a.png"}, "annotations": [{"result": results}]}]),
        "cvat": ("cvat.xml", xml),
    }
    for name, (file, content) in contents.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path, folder, ignore=lambda _, names: set(names) - {"a.png"})
        writers.write(folder / file, content)
        source = open_source(folder)
        assert source.format == name
        with pytest.warns(DataWarning, match="1 of 2 annotations are left out because their masks cannot be read"):
            dataset = open_split(source.training())
        (mask,) = dataset.read_target(0)["masks"]
        assert abs(mask.sum() - disc.sum()) <= 12 and (mask != disc).sum() <= 24
        boxes = open_split(source.training(), masks=False).read_target(0)
        assert boxes["boxes"][1].tolist() == pytest.approx([20, 10, 50, 40], abs=1e-4)
        assert sorted(category["name"] for category in dataset.categories) == ["box", "disc"]


def test_cityscapes_by_its_own_name(tmp_path):
    writers.write_cityscapes(tmp_path, writers.SCENES)
    dataset = CityscapesDataset(tmp_path, "train")
    assert [category["name"] for category in dataset.categories] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    target = dataset[0][1]
    assert target["iscrowd"].tolist() == [1, 0, 0, 0, 0]  # the cars that are not told apart come first: 26
    assert target["boxes"][0].tolist() == [0, 0, 5, 1] and target["labels"][0] == 3
    assert len(CityscapesDataset(tmp_path, "val")) == 1
    with pytest.raises(FileNotFoundError, match="There is no image in .*leftImg8bit/test"):
        CityscapesDataset(tmp_path, "test")
    next((tmp_path / "gtFine" / "val").rglob("*instanceIds.png")).unlink()
    with pytest.raises(FileNotFoundError, match="instanceIds.png' for the image"):
        CityscapesDataset(tmp_path, "val")


def test_voc_lists_are_splits(tmp_path):
    writers.write_voc(tmp_path, writers.SCENES)
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    writers.write(lists / "train.txt", "a\n")
    writers.write(lists / "val.txt", "c\n")
    writers.write(lists / "trainval.txt", "a\nc\n")
    assert {name: len(split.content["images"]) for name, split in open_source(tmp_path).splits.items()} == {
        "train": 1, "val": 1
    }  # fmt: skip
    writers.write(lists / "val.txt", "nothing\n")
    with pytest.raises(ValueError, match="the image of 'nothing' or a mask is missing"):
        open_source(tmp_path)


def test_yolo_in_the_folders_of_other_tools(tmp_path):
    scenes = writers.scenes(holes=False, parts=False)
    names = writers.names_of(scenes)
    for layout in ("no yaml", "roboflow", "beside", "list", "in images", "in a split", "labels among images"):
        root = tmp_path / "images" / layout
        images, labels = {
            "no yaml": ("images/train", "labels/train"), "roboflow": ("train/images", "train/labels"),
            "beside": (".", "."), "list": ("images", "labels"), "in images": ("images", "images"),
            "in a split": ("images/train", "images/train"), "labels among images": (".", "labels"),
        }[layout]  # fmt: skip
        writers.images_into(root / images, scenes)
        for scene in scenes:
            writers.write(root / labels / f"{scene.name}.txt", writers.yolo_lines(scene, names))
        if layout == "roboflow":
            writers.write(root / "data.yaml", f"train: ../train/images\nnc: 2\nnames: {names}\n")
        if layout == "beside" or layout.startswith(("in ", "labels")):  # the names lie where the labels do
            writers.write(root / labels / "classes.txt", "\n".join(names))
        if layout == "list":
            writers.write(root / "train.txt", "".join(f"./images/{scene.name}.png\n" for scene in scenes))
            writers.write(root / "own.yaml", f"train: train.txt\nnames: {{0: {names[0]}, 1: {names[1]}}}\n")
        source = open_source(root / "own.yaml" if layout == "list" else root)
        assert source.format == "yolo" and len(source.splits) == 1
        found = found_in(open_split(source.training()), one_class=True)
        assert found == expected(scenes, one_class=True)
        assert [c["name"] for c in open_split(source.training()).categories] == (
            ["class 0", "class 1"] if layout == "no yaml" else names
        )


def test_yolo_with_two_label_files_for_an_image(tmp_path):
    """In labels/ and beside the image: the same, or another kind of text, or two answers, of which none is guessed."""
    scenes = writers.scenes(holes=False, parts=False)
    names = writers.names_of(scenes)
    writers.images_into(tmp_path / "images", scenes)
    for scene in scenes:
        for folder in ("images", "labels"):
            writers.write(tmp_path / folder / f"{scene.name}.txt", writers.yolo_lines(scene, names))
    beside, apart = tmp_path / "images" / "a.txt", tmp_path / "labels" / "a.txt"
    lines = apart.read_text()
    for same in (lines, "\ufeff" + lines.replace("\n", "\r\n"), "A car, and another one beside it.\n"):
        beside.write_text(same, encoding="utf-8")
        dataset = open_split(open_source(tmp_path).training())
        assert found_in(dataset, one_class=True) == expected(scenes, one_class=True)
    for other in ("", lines.partition("\n")[2], lines.replace("0.", "0.1", 1)):
        beside.write_text(other)
        with pytest.raises(ValueError) as error:
            open_source(tmp_path)
        assert f"1 images have two label files that differ; those of the first are '{apart}' and '{beside}'. " in str(
            error.value
        )
    apart.unlink()
    assert len(open_source(tmp_path).training().content["annotations"]) == lines.count("\n") + 2  # and those of "b 2"


def test_yolo_leaves_out_what_predict_has_drawn(tmp_path):
    scenes = writers.scenes(holes=False, parts=False)[:2]
    writers.images_into(tmp_path, scenes)
    for scene in scenes:
        writers.write(tmp_path / "labels" / f"{scene.name}.txt", writers.yolo_lines(scene, writers.names_of(scenes)))
        for end in ("_predicted", "_predicted_ids"):
            writers.save(tmp_path / f"{scene.name}{end}.png", scene.pixels())
    images = open_source(tmp_path).training().content["images"]
    assert [image["file_name"] for image in images] == ["a.png", "b 2.png"]


def test_images_are_found_where_they_lie(tmp_path):
    """Annotations in a folder of their own, images beside it, two of one name in two folders."""
    scene = writers.SCENES[1]
    for folder in ("one", "two"):
        writers.save(tmp_path / "photos" / folder / "x.png", scene.pixels())
    content = {folder: {"filename": f"{folder}/x.png", "regions": [
        {"shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]},
         "region_attributes": {}}]} for folder in ("one", "two")}  # fmt: skip
    writers.write(tmp_path / "labels" / "via.json", content)
    dataset = open_split(open_source(tmp_path / "labels").training())
    assert [dataset.image_of(n)["file"] for n in (0, 1)] == [tmp_path / "photos" / f / "x.png" for f in ("one", "two")]
    lines = convert(open_source(tmp_path / "labels" / "via.json"), tmp_path / "out")
    assert lines == ["annotations.json: 2 images, 2 objects"]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_splits_share_their_classes(tmp_path):
    """A class that is in one split only has the same number in both."""
    for part, things in (("train", (writers.PLAIN, writers.PARTED)), ("valid", (writers.HOLED,))):
        writers.write_labelme(tmp_path / part, [writers.SCENES[0]._replace(things=things)])
    source = open_source(tmp_path)
    assert source.format == "labelme" and list(source.splits) == ["train", "valid"]
    for split in source.splits.values():
        assert [each["name"] for each in open_split(split).categories] == ["bus", "car", "person"]
    assert open_split(source.held_out()).read_target(0)["labels"].tolist() == [3]


def test_which_split_is_for_what(tmp_path):
    split, other, third = (Split(tmp_path, {"images": []}, tmp_path / name) for name in "abc")
    source = Source(tmp_path, "coco", {"test": split, "Train": other, "valid": third})
    assert source.training() is other and source.held_out() is third
    assert Source(tmp_path, "coco", {"test": split, "train": other}).held_out() is split
    single = Source(tmp_path, "coco", {"val": third})
    assert single.training() is third and single.held_out() is None


# What is wrong -------------------------------------------------------------------------------------------


def test_what_is_not_recognised_is_described(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        open_source(tmp_path / "nowhere")
    writers.images_into(tmp_path / "pictures", writers.SCENES)
    writers.write(tmp_path / "labels.csv", "a,b")
    writers.write(tmp_path / "labels.json", {"tiles": [], "version": 3})
    with pytest.raises(ValueError) as error:
        open_source(tmp_path)
    text = str(error.value)
    assert "It holds 1 .csv, 1 .json; 3 .png in pictures/. 'labels.json' is an object with 'tiles', 'version'." in text
    assert all(re.search(rf"^  {name} +{re.escape(module.NEEDS)}$", text, re.M) for name, module in FORMATS.items())
    with pytest.raises(
        ValueError, match="'.*labels.json' was not recognised as a data set. 'labels.json' is an object"
    ):
        open_source(tmp_path / "labels.json")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="was not recognised as a data set. Unpack it, and name the folder."):
        open_source(tmp_path / "data.zip")
    with pytest.raises(ValueError, match="There is no format 'pascal'; there are cityscapes, voc"):
        open_source(tmp_path, "pascal")
    for name in FORMATS:
        with pytest.raises((ValueError, OSError), match="What is needed|There is no|empty"):
            open_split(open_source(tmp_path, name).training())


def damage(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("layout, file, change, message", [
    ("labelme", "a.json", lambda c: c["shapes"][0].pop("points"), "a.json' cannot be read as LabelMe: it has no 'po"),
    ("labelme", "a.json", lambda c: c.update(shapes=3), "a.json' cannot be read as LabelMe"),
    ("labelme", "a.json", lambda c: c["shapes"][0].update(shape_type="star"), "a shape of the unknown kind 'star'"),
    ("labelme", "a.json", lambda c: c["shapes"][2].update(mask="!"), "a.json' cannot be read as LabelMe"),
    ("via", "project.json", lambda c: c["_via_img_metadata"]["a.png123"].pop("regions"), "it has no 'regions'"),
    ("via", "project.json",
     lambda c: c["_via_img_metadata"]["a.png123"]["regions"][0]["shape_attributes"].pop("all_points_y"), "no 'all_p"),
    ("labelstudio", "project-1.json", lambda c: c[0]["annotations"][1]["result"][2]["value"].update(rle=[1, 2]),
     "run lengths end too early"),
    ("labelstudio", "project-1.json", lambda c: c[0].update(data={}), "project-1.json' cannot be read as Label Studio"),
    ("coco", "annotations.json", lambda c: c.update(categories={}), "it is no JSON object with lists 'images'"),
])  # fmt: skip
def test_damaged_json(tmp_path, layout, file, change, message):
    write, name, able, _ = LAYOUTS[layout]
    write(tmp_path, writers.scenes(**able))
    damage(tmp_path / file, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_source(tmp_path)


@pytest.mark.parametrize("layout, pattern, content, message", [
    ("cvat", "annotations.xml", lambda text: text.replace("</annotations>", ""), "cannot be read as CVAT"),
    ("cvat", "annotations.xml", lambda text: text.replace('width="50"', ""), "it has no 'width'"),
    ("cvat", "annotations.xml", lambda text: text.replace('rle="', 'rle="3, '), "do not add up to its 16 x 19 pixels"),
    ("cvat", "annotations.xml", lambda text: text.replace("<image", "<track/><image", 1), "tracks of a video"),
    ("yolo", "labels/train/a.txt", lambda text: "7" + text[1:], "a.txt' has the class 7; the names are of [0, 1]"),
    ("yolo", "labels/train/a.txt", lambda text: "car" + text, "a.txt' cannot be read as YOLO"),
    ("yolo", "data.yaml", lambda text: text.replace("images/train", "elsewhere"), "There is no '"),
    ("yolo", "data.yaml", lambda text: text.replace("names:\n", "names: 3\nother:\n"), "yaml' cannot be read as YOLO"),
])  # fmt: skip
def test_damaged_text(tmp_path, layout, pattern, content, message):
    write, name, able, _ = LAYOUTS[layout]
    write(tmp_path, writers.scenes(**able))
    file = tmp_path / pattern
    file.write_text(content(file.read_text()))
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        open_source(tmp_path)


def test_odd_lines_of_yolo_are_left_out_and_counted(tmp_path):
    scene = writers.SCENES[1]
    lines = writers.yolo_lines(scene, ["car", "person"])
    writers.images_into(tmp_path / "images", [scene])
    writers.write(tmp_path / "labels" / f"{scene.name}.txt", lines + "0 0.1 0.1 0.2 0.1 0.2\n1 0.5 0.5 0.2 0.2\n")
    with pytest.warns(DataWarning, match="2 of 4 annotations are left out because their masks cannot be read"):
        dataset = open_split(open_source(tmp_path).training())
    assert found_in(dataset, one_class=True) == expected([scene], one_class=True)


def test_masks_that_do_not_fit_are_told_when_the_data_are_opened(tmp_path):
    writers.write_ids(tmp_path, writers.SCENES)
    writers.save(tmp_path / "PedMasks" / "a_mask.png", np.zeros((50, 40), np.uint8))
    (tmp_path / "PedMasks" / "c_mask.png").write_bytes(b"no image")
    with pytest.raises(ValueError) as error:
        open_split(open_source(tmp_path).training())
    assert "a_mask.png' has the size (50, 40), its image has (40, 50)" in str(error.value)
    assert "c_mask.png' cannot be read as an image" in str(error.value)


def test_a_mask_that_changes_after_the_data_are_opened(tmp_path):
    writers.write_ids(tmp_path, writers.SCENES)
    dataset = open_split(open_source(tmp_path).training())
    writers.save(tmp_path / "PedMasks" / "a_mask.png", np.zeros((50, 40), np.uint8))
    with pytest.raises(ValueError, match=r"a_mask.png' has the size \(50, 40\), its image has \(40, 50\)"):
        dataset[0]


def test_a_group_of_two_classes_is_two_objects(tmp_path):
    """In LabelMe and CVAT a number may join a person and a car."""
    scene = writers.Scene("a", (40, 50), (writers.PARTED, writers.PLAIN))
    writers.write_labelme(tmp_path, [scene])
    damage(tmp_path / "a.json", lambda content: content["shapes"][2].update(group_id=0))
    assert found_in(open_split(open_source(tmp_path).training())) == expected([scene])


def test_an_empty_mask_is_left_out_with_a_warning(tmp_path):
    writers.write_instances(tmp_path, writers.SCENES)
    writers.save(tmp_path / "a" / "masks" / "9.png", np.zeros((40, 50), np.uint8))
    dataset = open_split(open_source(tmp_path).training())
    with pytest.warns(DataWarning, match="9.png' is left out, because it is empty"):
        assert len(dataset.read_target(0)["labels"]) == 4
    writers.save(tmp_path / "a" / "images" / "second.png", np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(ValueError, match="should hold one image, but holds 2"):
        open_source(tmp_path, "instances")


def test_black_and_white_masks_are_told(tmp_path):
    for scene in writers.SCENES:
        writers.save(tmp_path / "images" / f"{scene.name}.png", scene.pixels())
        writers.save(tmp_path / "masks" / f"{scene.name}.png", (writers.label_image(scene) > 0).astype(np.uint8) * 255)
    with pytest.warns(DataWarning, match="have one value: whatever an image shows is taken as a single object"):
        dataset = open_split(open_source(tmp_path).training())
    assert [len(dataset.read_target(index)["labels"]) for index in range(3)] == [1, 1, 0]


def test_images_that_labelme_has_not_seen_are_counted(tmp_path):
    writers.write_labelme(tmp_path, writers.SCENES)
    writers.save(tmp_path / "later.png", writers.SCENES[0].pixels())
    with pytest.warns(DataWarning, match="1 images in '.*' have no JSON file beside them and are not used"):
        assert len(open_source(tmp_path).training().content["images"]) == 3


def test_classes_of_voc_that_nobody_named(tmp_path):
    writers.write_voc(tmp_path, writers.SCENES)
    writers.write(tmp_path / "VOCdevkit" / "VOC2012" / "class_names.txt", "_background_\nbike\n")
    dataset = open_split(open_source(tmp_path).training())
    assert [category["name"] for category in dataset.categories] == ["bike"]
    with pytest.raises(ValueError, match="SegmentationClass/a.png' has the value 7 in object 1, which is no class"):
        dataset.read_target(0)


def test_a_failed_conversion_leaves_nothing(tmp_path):
    writers.write_ids(tmp_path / "data", writers.SCENES)
    source = open_source(tmp_path / "data")
    (tmp_path / "data" / "PedMasks" / "c_mask.png").unlink()
    with pytest.raises(ValueError, match="There is no image file '.*c_mask.png'"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_boxes_alone_are_converted_too(tmp_path):
    writers.images_into(tmp_path / "data" / "images", writers.SCENES[1:2])
    writers.write(tmp_path / "data" / "labels" / "b 2.txt", "0 0.5 0.5 0.25 0.5\n")
    assert convert(open_source(tmp_path / "data"), tmp_path / "out") == ["annotations.json: 1 images, 1 objects"]
    (annotation,) = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert annotation["bbox"] == [24, 9, 16, 18] and annotation["area"] == 288 and "segmentation" not in annotation
    image = read_image(tmp_path / "out" / "images" / "b 2.png")
    np.testing.assert_array_equal((image * 255).round(), writers.SCENES[1].pixels().transpose(2, 0, 1))


def test_every_reader_is_short():
    folder = ROOT / "tinymrcnn" / "data" / "formats"
    shared = {"__init__", "collect", "files", "source", "convert"}
    for path in folder.glob("*.py"):
        if path.stem not in shared:
            assert len(path.read_text().splitlines()) <= 80, path.name
