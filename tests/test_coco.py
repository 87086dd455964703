"""COCO data sets: what is read, what is refused and how, and that what was written is read back identical."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tinymrcnn.data import CocoDataset, ShapesDataset, write_coco, write_image
from tinymrcnn.data.coco import decode_mask, encode_mask, unpack_counts

ROOT = Path(__file__).parents[1]
NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"
SIZE = (6, 9)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode

# columns 2..4, rows 1..3 of a 6 x 9 image, in the three forms
RECTANGLE = np.zeros(SIZE, np.uint8)
RECTANGLE[1:4, 2:5] = 1
POLYGON = [[2, 1, 5, 1, 5, 4, 2, 4]]
RUNS = [13, 3, 3, 3, 3, 3, 26]  # down the columns: 2 columns and a pixel, three times 3 pixels, the rest


def assert_same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    assert a[0].dtype == b[0].dtype and a[1].keys() == b[1].keys()
    for key in a[1]:
        np.testing.assert_array_equal(a[1][key], b[1][key])
        assert np.asarray(a[1][key]).dtype == np.asarray(b[1][key]).dtype


# Masks ---------------------------------------------------------------------------------------------------


def test_the_three_forms_of_a_mask():
    packed = coco_mask.frPyObjects({"size": list(SIZE), "counts": RUNS}, *SIZE)["counts"].decode()
    for segmentation in (POLYGON, {"size": list(SIZE), "counts": RUNS}, {"size": list(SIZE), "counts": packed}):
        mask = decode_mask(segmentation, *SIZE)
        assert mask.dtype == np.uint8 and mask.shape == SIZE
        np.testing.assert_array_equal(mask, RECTANGLE)
    assert encode_mask(RECTANGLE) == {"size": [6, 9], "counts": packed}
    assert encode_mask(RECTANGLE.astype(bool)) == encode_mask(RECTANGLE)
    assert unpack_counts(packed).tolist() == RUNS


def test_several_polygons_are_one_mask():
    mask = decode_mask([[0, 0, 2, 0, 2, 2, 0, 2], *POLYGON], *SIZE)
    expected = RECTANGLE.copy()
    expected[:2, :2] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("density", [0, 0.001, 0.1, 0.5, 0.9, 1])
def test_run_lengths_against_pycocotools(density):
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (5, 3), (64, 97), (700, 1100)]:
        mask = (rng.random((height, width)) < density).astype(np.uint8)
        encoded = encode_mask(mask)
        np.testing.assert_array_equal(decode_mask(encoded, height, width), mask)
        np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
        runs = unpack_counts(encoded["counts"]).tolist()
        np.testing.assert_array_equal(decode_mask({"size": [height, width], "counts": runs}, height, width), mask)
        assert (
            coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"].decode()
            == encoded["counts"]
        )


def test_damaged_run_lengths_never_reach_the_decoder():
    """pycocotools reads beyond the end of some damaged strings; here they raise."""
    rng = np.random.default_rng(0)
    good = encode_mask(rng.random((20, 30)) < 0.3)["counts"]
    for _ in range(2000):
        letters = list(good[: rng.integers(len(good) + 1)])
        for _ in range(rng.integers(3)):
            if letters:
                letters[rng.integers(len(letters))] = chr(rng.integers(1, 256))
        damaged = "".join(letters)
        try:
            mask = decode_mask({"size": [20, 30], "counts": damaged}, 20, 30)
        except ValueError:
            continue
        assert mask.shape == (20, 30)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [9, 6], "counts": RUNS}, r"the size \[9, 6\], the image has \[6, 9\]"),
        ({"size": [6, 9], "counts": RUNS[:-1]}, "do not add up to the 6 x 9 pixels"),
        ({"size": [6, 9], "counts": [60, -6]}, "do not add up"),
        ({"size": [6, 9], "counts": [10**30, 1]}, "neither a string nor a list of integers"),
        ({"size": [6, 9], "counts": [54.0]}, "neither a string nor a list of integers"),
        ({"size": [6, 9]}, "neither a string nor a list of integers"),
        ({"size": [6, 9], "counts": ""}, "no complete string"),
        ({"size": [6, 9], "counts": "o"}, "no complete string"),
        ({"size": [6, 9], "counts": "é1"}, "no complete string"),
        ({"size": [6, 9], "counts": "oooooooo0"}, "beyond 32 bits"),
        ([], "neither a list of polygons nor run lengths"),
        (None, "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, "6"]], "no list x1, y1, x2, y2"),
        ([1, 2, 3, 4, 5, 6], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside the image"),
    ],
)
def test_bad_masks(segmentation, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(segmentation, *SIZE)


# Reading -------------------------------------------------------------------------------------------------


@pytest.fixture
def content():
    """Two images, the second without annotations; categories with ids 7 and 90, listed out of order."""
    return {
        "images": [
            {"id": 12, "file_name": "sub/a.png", "height": 6, "width": 9},
            {"id": 5, "file_name": "b.png", "height": 4, "width": 8},
        ],
        "annotations": [
            {"id": 1, "image_id": 12, "category_id": 90, "bbox": [2, 1, 3, 3], "area": 9.5, "iscrowd": 0,
             "segmentation": POLYGON},
            {"id": 2, "image_id": 12, "category_id": 7, "bbox": [1.5, 0.25, 20, 3], "iscrowd": 1,
             "segmentation": {"size": [6, 9], "counts": RUNS}},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("sub/a.png", SIZE), ("b.png", (4, 8))):
        write_image(tmp_path / name, rng.integers(0, 256, (3, *size)).astype(np.float32) / 255)
    return tmp_path


def opened(folder, content):
    (folder / "annotations.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoDataset(folder, folder / "annotations.json")


def test_images_and_targets(folder, content):
    dataset = opened(folder, content)
    assert len(dataset) == 2 and len(list(dataset)) == 2
    assert dataset.categories == [{"label": 1, "name": "train", "id": 7}, {"label": 2, "name": "toothbrush", "id": 90}]
    image, target = dataset[0]
    assert image.shape == (3, *SIZE) and image.dtype == np.float32
    assert target["image_id"] == 12
    assert target["labels"].tolist() == [2, 1]
    assert target["boxes"].tolist() == [[2, 1, 5, 4], [1.5, 0.25, 9, 3.25]]  # the second is clipped
    assert target["area"].tolist() == [9.5, 9]  # the second has none: its mask's
    assert target["iscrowd"].tolist() == [0, 1]
    np.testing.assert_array_equal(target["masks"], [RECTANGLE, RECTANGLE])
    dtypes = {key: value.dtype for key, value in target.items() if key != "image_id"}
    assert dtypes == {
        "boxes": np.float32, "labels": np.int64, "masks": np.uint8, "area": np.float32, "iscrowd": np.int64
    }  # fmt: skip


def test_an_image_without_annotations(folder, content):
    image, target = opened(folder, content)[-1]
    assert image.shape == (3, 4, 8) and target["image_id"] == 5
    shapes = {key: value.shape for key, value in target.items() if key != "image_id"}
    assert shapes == {"boxes": (0, 4), "labels": (0,), "masks": (0, 4, 8), "area": (0,), "iscrowd": (0,)}
    assert target["labels"].dtype == np.int64 and target["boxes"].dtype == np.float32
    with pytest.raises(IndexError):
        opened(folder, content)[2]


def test_boxes_without_size_are_left_out_with_a_warning(folder, content):
    content["annotations"][0]["bbox"] = [2, 1, 3, 0]
    with pytest.warns(UserWarning, match="1 annotations .* left out .* the first has the id 1") as caught:
        dataset = opened(folder, content)
    assert caught[0].filename == __file__
    assert dataset[0][1]["labels"].tolist() == [1]


CHANGES = [  # (where, what, the message)
    (("annotations", 1, "category_id"), 8, "annotation 2 of image 'sub/a.png' has the unknown category id 8"),
    (("annotations", 1, "category_id"), [7], r"has the unknown category id \[7\]"),
    (("annotations", 1, "image_id"), 6, "annotation 2 belongs to the unknown image id 6"),
    (("annotations", 1, "image_id"), {}, "annotation 2 belongs to the unknown image id"),
    (("annotations", 1, "id"), 1, "two annotation entries have the id 1"),
    (("annotations", 1, "id"), "x", "annotation number 2 has no non-negative integer 'id'"),
    (("annotations", 1), 3, "annotation number 2 has no non-negative integer 'id'"),
    (("annotations", 0, "bbox"), [2, 1, -3, 3], "annotation 1 of image 'sub/a.png' has a box of negative size"),
    (("annotations", 0, "bbox"), [2, 1, 3], "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "bbox"), None, "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "bbox"), [2, 1, 3, float("inf")], "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "bbox"), [9, 1, 3, 3], "outside the image of width 9 and height 6"),
    (("annotations", 0, "bbox"), [2, -3, 3, 3], "outside the image of width 9 and height 6"),
    (("annotations", 0, "segmentation"), None, "has no 'segmentation'"),
    (("annotations", 0, "iscrowd"), 2, "has iscrowd 2"),
    (("annotations", 0, "area"), -1, "has the area -1"),
    (("annotations", 0, "area"), "9", "has the area '9'"),
    (("images", 0, "width"), -9, r"image 12 \('sub/a.png'\) has no positive integer 'width' and 'height'"),
    (("images", 0, "height"), 6.5, "no positive integer"),
    (("images", 0, "file_name"), None, "image 12 has no 'file_name'"),
    (("images", 1, "id"), 12, "two image entries have the id 12"),
    (("categories", 1, "id"), 90, "two category entries have the id 90"),
    (("categories",), {}, "it is no COCO data set"),
]


@pytest.mark.parametrize("where, value, message", CHANGES)
def test_what_is_wrong_is_named(folder, content, where, value, message):
    place = content
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ValueError, match=f"annotations.json' cannot be used: .*{message}"):
        opened(folder, content)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"images": ' + "[" * 100_000])
def test_broken_json(folder, text):
    with pytest.raises(ValueError, match="The annotation file '.*annotations.json' cannot be used"):
        opened(folder, text)


def test_missing_files(folder, content):
    with pytest.raises(FileNotFoundError, match="no annotation file '.*none.json'"):
        CocoDataset(folder, folder / "none.json")
    opened(folder, content)
    with pytest.raises(FileNotFoundError, match="no image folder '.*nowhere'"):
        CocoDataset(folder / "nowhere", folder / "annotations.json")
    (folder / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 2 images of .*annotations.json.*the first is 'b.png'"):
        opened(folder, content)


def test_bad_masks_and_sizes_are_named_when_the_image_is_read(folder, content):
    content["annotations"][1]["segmentation"]["counts"] = [54, 1]
    dataset = opened(folder, content)
    with pytest.raises(ValueError, match="Annotation 2 of image '.*sub/a.png' cannot be used: .*do not add up"):
        dataset[0]
    content["images"][1]["height"], content["images"][1]["width"] = 8, 4
    with pytest.raises(ValueError, match="b.png' has height 4 and width 8, but '.*annotations.json' says 8 and 4"):
        opened(folder, content)[1]


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="the nuclei images are not beside the project")
def test_real_data():
    dataset = CocoDataset(NUCLEI / "val", NUCLEI / "val.json")
    annotations = json.loads((NUCLEI / "val.json").read_text())["annotations"]
    assert (len(dataset), dataset.categories) == (48, [{"label": 1, "name": "nucleus", "id": 1}])
    for index in range(0, 48, 4):
        image, target = dataset[index]
        assert image.shape[1:] == target["masks"].shape[1:]
        mine = [a for a in annotations if a["image_id"] == target["image_id"]]
        np.testing.assert_array_equal(target["masks"], [coco_mask.decode(a["segmentation"]) for a in mine])
        np.testing.assert_array_equal(target["area"], target["masks"].sum((1, 2)))
    assert len(annotations) == 1574


# Writing -------------------------------------------------------------------------------------------------


def test_written_and_read_back_identical(tmp_path):
    dataset = ShapesDataset(30, (32, 44), seed=4)
    assert any(len(target["labels"]) == 0 for _, target in dataset) and any(len(t["labels"]) > 2 for _, t in dataset)
    write_coco(dataset, tmp_path / "deep" / "set")
    back = CocoDataset(tmp_path / "deep" / "set" / "images", tmp_path / "deep" / "set" / "annotations.json")
    assert len(back) == 30 and back.categories == dataset.categories
    for a, b in zip(dataset, back, strict=True):
        assert_same(a, b)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]


def test_any_data_set_survives_a_copy(folder, content, tmp_path_factory):
    """Fractional boxes, crowds, ids of categories and images, areas that are not the mask's."""
    dataset = opened(folder, content)
    copy = tmp_path_factory.mktemp("copy")
    write_coco(dataset, copy)  # an empty folder may be there
    back = CocoDataset(copy / "images", copy / "annotations.json")
    assert back.categories == dataset.categories
    for a, b in zip(dataset, back, strict=True):
        assert_same(a, b)


class Failing(ShapesDataset):
    def __getitem__(self, index):
        if index == 2:
            raise RuntimeError("the disk is gone")
        return super().__getitem__(index)


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="the disk is gone"):
        write_coco(Failing(4, 40), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    write_coco(ShapesDataset(1, 40), tmp_path / "set")
    before = (tmp_path / "set" / "annotations.json").read_bytes()
    with pytest.raises(FileExistsError, match="set' exists already"):
        write_coco(ShapesDataset(2, 40), tmp_path / "set")
    assert (tmp_path / "set" / "annotations.json").read_bytes() == before


def test_two_images_of_one_id_are_refused(tmp_path):
    class Twins(ShapesDataset):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image, {**target, "image_id": 0}

    with pytest.raises(ValueError, match="Two images of the data set have the image_id 0"):
        write_coco(Twins(2, 40), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_the_sample_in_the_repository():
    """data/shapes_sample is what ShapesDataset(16, seed=2) draws: up to rounding, which may differ by machine."""
    folder = ROOT / "data" / "shapes_sample"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = CocoDataset(folder / "images", folder / "annotations.json")
    drawn = ShapesDataset(16, seed=2)
    assert len(sample) == 16 and sample.categories == drawn.categories
    for (image, target), (other_image, other) in zip(sample, drawn, strict=True):
        assert np.abs(image - other_image).max() < 1.5 / 255 and np.abs(image - other_image).mean() < 0.01 / 255
        assert target["image_id"] == other["image_id"] and target["labels"].tolist() == other["labels"].tolist()
        assert (target["masks"] != other["masks"]).sum() <= 4
        assert np.abs(target["boxes"] - other["boxes"]).max() <= 1
