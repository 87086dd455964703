"""COCO data sets: what is read, what is refused and how, and that what was written is read back identical."""

import json
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tinymrcnn.data import (
    CocoDataset,
    DataWarning,
    ShapesDataset,
    flip_horizontally,
    image_ids_of,
    write_coco,
    write_image,
)
from tinymrcnn.data.check import CONVENTIONS, as_integer, as_number, contradictions, guess_alone
from tinymrcnn.data.coco_masks import decode_mask, encode_mask, mask_bounds, unpack_counts

ROOT = Path(__file__).parents[1]
NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"
SIZE = (6, 9)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode

# columns 2..4, rows 1..3 of a 6 x 9 image, in the three forms
RECTANGLE = np.zeros(SIZE, np.uint8)
RECTANGLE[1:4, 2:5] = 1
WIDE = RECTANGLE.copy()
WIDE[1:4, 2:] = 1
POLYGON = [[2, 1, 5, 1, 5, 4, 2, 4]]
WIDE_RUNS = [13] + [3] * 13 + [2]  # of WIDE
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
        ({"size": [6, 9], "counts": [10**30, 54 - 10**30]}, "do not add up"),
        ({"size": [6, 9], "counts": [54, None]}, "neither a string nor a list of integers"),
        ({"size": [6], "counts": [54]}, r"the size \[6\], the image has \[6, 9\]"),
        ({"size": [6, 9], "counts": [53.5, 0.5]}, "neither a string nor a list of integers"),
        ({"size": [6, 9], "counts": "1\ud800"}, "no complete string|surrogates not allowed"),
        ({"counts": RUNS}, r"the size None, the image has \[6, 9\]"),
        ({"size": [6, 9]}, "neither a string nor a list of integers"),
        ({"size": [6, 9], "counts": ""}, "no complete string"),
        ({"size": [6, 9], "counts": "o"}, "no complete string"),
        ({"size": [6, 9], "counts": "é1"}, "no complete string"),
        ({"size": [6, 9], "counts": "oooooooo0"}, "beyond 32 bits"),
        ({"size": [6, 9], "counts": "pf1"}, "no complete string"),  # p is the first character that means nothing
        ([], "neither a list of polygons nor run lengths"),
        (None, "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, "6"]], "no list x1, y1, x2, y2"),
        ([1, 2, 3, 4, 5, 6], "no list x1, y1, x2, y2"),
        ([[]], "no list x1, y1, x2, y2"),
        ([[1, 2], [3, 4], [5, 6]], "no list x1, y1, x2, y2"),
        ([[[1, 2], [3, 4], [5, 6]]], "no list x1, y1, x2, y2"),
        ([[1, [2], 3, 4, 5, 6]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, None]], "no list x1, y1, x2, y2"),
        ([[1, 2, 3, 4, 5, 10**30]], "no list x1, y1, x2, y2"),
        ([{"size": [6, 9], "counts": RUNS}], "no list x1, y1, x2, y2"),
        ("polygon", "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside the image"),
    ],
)
def test_bad_masks(segmentation, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(segmentation, *SIZE)


def test_parts_without_an_area_are_passed_over():
    """pycocotools takes four numbers at the first place for a box, and fails at others."""
    for parts in ([[0, 0, 8, 5], *POLYGON], [*POLYGON, [0, 0, 8, 5]], [*POLYGON, [3, 3], []]):
        np.testing.assert_array_equal(decode_mask(parts, *SIZE), RECTANGLE)


def test_run_lengths_in_other_types():
    for size, last in (([6.0, 9.0], 26.0), (["6", "9"], "26")):
        np.testing.assert_array_equal(decode_mask({"size": size, "counts": [*RUNS[:-1], last]}, *SIZE), RECTANGLE)


def test_bounds_by_hand():
    assert mask_bounds({"size": [6, 9], "counts": RUNS}, *SIZE).tolist() == [2, 1, 5, 4]
    assert mask_bounds({"size": [6, 9], "counts": [13, 3, 38]}, *SIZE).tolist() == [2, 1, 3, 4]
    assert mask_bounds({"size": [6, 9], "counts": [13, 6, 35]}, *SIZE).tolist() == [2, 0, 4, 6]  # around a corner
    assert mask_bounds({"size": [6, 9], "counts": [54]}, *SIZE) is None
    assert mask_bounds({"size": [6, 9], "counts": [20, 0, 34]}, *SIZE) is None
    assert mask_bounds([[2.25, 1, 5, 1, 5, 4], [7, 0, 8, 0, 8, 0.5]], *SIZE).tolist() == [2.25, 0, 8, 4]
    assert mask_bounds([[-3, 1, 5, 1, 5, 4]], *SIZE).tolist() == [0, 1, 5, 4]
    assert mask_bounds([[1, 1, 3, 1, 5, 1]], *SIZE) is None  # on one line
    assert mask_bounds([[1.1, 1.1, 1.4, 1.1, 1.4, 1.4]], *SIZE) is None
    assert mask_bounds([[12, 1, 15, 1, 15, 4, 12, 4]], *SIZE) is None  # beside the image


def test_a_polygon_that_would_fill_the_memory(little_memory):
    zigzag = [[value for _ in range(200) for value in (0, 0, 8000, 8000)]]
    with pytest.raises(ValueError, match="longer than 1,000,000 pixels"):
        decode_mask(zigzag, 9000, 9000)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_against_decoded_masks(seed):
    """Of run lengths exactly; of polygons, whether there is a pixel at all."""
    rng = np.random.default_rng(seed)
    empty = 0
    for _ in range(200):
        height, width = rng.integers(1, 30, 2).tolist()
        low, high = sorted(rng.uniform(-0.4, 1.4, 2))
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5])
        for segmentation in (
            encode_mask(mask),
            (rng.uniform(low, high, (rng.integers(1, 3), 2 * rng.integers(3, 7))) * max(height, width)).tolist(),
        ):
            try:
                bounds, decoded = (read(segmentation, height, width) for read in (mask_bounds, decode_mask))
            except ValueError:  # far outside
                continue
            assert (bounds is None) == (not decoded.any())
            empty += bounds is None
            if isinstance(segmentation, dict) and bounds is not None:
                rows, columns = np.nonzero(decoded)
                assert bounds.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert empty > 20


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
             "segmentation": {"size": [6, 9], "counts": WIDE_RUNS}},
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
    assert target["area"].tolist() == [9.5, 21]  # the second has none: its mask's
    assert target["iscrowd"].tolist() == [0, 1]
    np.testing.assert_array_equal(target["masks"], [RECTANGLE, WIDE])
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


# What is wrong is told at once ---------------------------------------------------------------------------


def put(content, where, value):
    """content with another value (or without it: GONE) at a place."""
    for key in where[:-1]:
        content = content[key]
    if value is GONE:
        del content[where[-1]]
    else:
        content[where[-1]] = value


GONE = object()
LEFT_OUT = [  # (of annotation 1: what, the value, the message)
    ("image_id", 6, "they belong to images that the file does not list; the first is annotation 1: image_id 6"),
    ("image_id", {}, r"they belong to images that the file does not list; the first is annotation 1: image_id \{\}"),
    ("image_id", GONE, "they belong to images that the file does not list; the first is annotation 1: image_id None"),
    ("bbox", [2, 1, 3, 0], r"their boxes have no width or no height; .* = \[2, 1, 3, 0\]"),
    ("bbox", [9 - 1e-9, 1, 3, 3], "outside of their images"),
    ("bbox", [2, 1, 1e-9, 3], "their boxes have no width or no height"),
    ("bbox", [2, 1, -3, 3], r"their boxes have a negative size; .* = \[2, 1, -3, 3\]"),
    ("bbox", [9, 1, 3, 3], r"outside of their images; .*: \[9, 1, 3, 3\], outside the image of width 9 and height 6"),
    ("bbox", [2, -3, 3, 3], "outside of their images"),
    ("segmentation", None, "their masks cannot be read; .*neither a list of polygons nor run lengths: None"),
    ("segmentation", GONE, "their masks cannot be read; .*neither a list of polygons nor run lengths: None"),
    ("segmentation", [], r"their masks cannot be read; .*: \[\]"),
    ("segmentation", [[]], r"their masks cannot be read; .*: \[\[\]\]"),
    ("segmentation", [[1, 2, 3, 4]], r"their masks cannot be read; .*: \[\[1, 2, 3, 4\]\]"),
    ("segmentation", [2, 1, 5, 1, 5, 4], "their masks cannot be read"),
    ("segmentation", {"size": [9, 6], "counts": RUNS}, r"cannot be read; .* size \[9, 6\], the image has \[6, 9\]"),
    ("segmentation", {"size": [6, 9], "counts": [54, 1]}, "cannot be read; .* do not add up"),
    ("segmentation", {"size": [6, 9], "counts": "\x1b[2J"}, r"cannot be read; .*\\x1b\[2J"),
    ("segmentation", {"size": [6, 9], "counts": [54]}, "their masks cover no pixel"),
    ("segmentation", [[12, 1, 15, 1, 15, 4]], r"their masks cover no pixel; .*\[\[12, 1"),
    ("segmentation", [[0.1, 0.2, 0.4, 0.2, 0.4, 0.5]], r"no pixel \(they look like fractions of the image"),
]  # fmt: skip


@pytest.mark.parametrize("field, value, message", LEFT_OUT)
def test_objects_that_cannot_be_used_are_left_out_with_a_warning(folder, content, field, value, message):
    put(content, ("annotations", 0, field), value)
    with pytest.warns(DataWarning, match=f"1 of 2 annotations are left out because .*{message}") as caught:
        dataset = opened(folder, content)
    assert [warning.category for warning in caught] == [DataWarning] and caught[0].filename == __file__
    assert [target["labels"].tolist() for _, target in dataset] == [[1], []]


def test_all_that_is_wrong_is_told_together(folder, content):
    template = {**content["annotations"].pop(), "bbox": [2, 1, 3, 3]}
    for number, segmentation in enumerate([POLYGON, POLYGON, [[1, 2, 3, 4]], POLYGON, [], POLYGON, POLYGON], start=2):
        content["annotations"].append({**template, "id": number, "iscrowd": 0, "segmentation": segmentation})
    content["annotations"][1]["bbox"] = [50, 50, 3, 3]
    with pytest.warns(DataWarning) as caught:
        dataset = opened(folder, content)
    (lines,) = (str(warning.message).split("\n  ") for warning in caught)
    assert [line.rpartition("because ")[2].partition(":")[0] for line in lines[:2]] == [
        "their boxes lie outside of their images; the first is annotation 2 of image 'sub/a.png'",
        "their masks cannot be read; the first is annotation 4 of image 'sub/a.png'",
    ]
    assert [line.partition(" because")[0].rpartition(": ")[2] for line in lines[:2]] == [
        "1 of 8 annotations are left out", "2 of 8 annotations are left out"
    ]  # fmt: skip
    assert len(dataset[0][1]["labels"]) == 5
    content["annotations"][4]["category_id"] = content["annotations"][6]["category_id"] = "dog"
    content["annotations"][7]["area"] = -1
    with pytest.raises(ValueError) as refused:
        opened(folder, content)
    lines = str(refused.value).split("\n  ")
    assert lines[0].endswith(
        "cannot be used: annotation 5 of image 'sub/a.png' has the unknown category id 'dog' (and 1 more like it)."
    )
    assert lines[1] == "annotation 8 of image 'sub/a.png' needs an area that is a number of pixels, not -1."
    assert len(lines) == 4 and "1 of 8 annotations" in lines[2] and "2 of 8 annotations" in lines[3]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("segmentation", [], "3 of 4 annotations cannot be used because their masks .* read it with masks=False"),
        (
            "segmentation",
            [[0.1, 0.2, 0.4, 0.2, 0.4, 0.5]],
            "cannot be used because .* look like fractions of the image",
        ),
        ("bbox", [2, 1, 0, 0], "3 of 4 annotations cannot be used because their boxes have no width"),
    ],
)
def test_where_most_of_a_file_cannot_be_used_it_is_refused(folder, content, field, value, message):
    first = content["annotations"].pop(0)
    content["annotations"] += [{**first, field: value, "id": number} for number in (3, 4)]
    with pytest.warns(DataWarning, match="2 of 3 annotations are left out"):  # two objects are not yet a file
        opened(folder, content)
    content["annotations"] += [{**first, field: value, "id": 5}]
    with pytest.raises(ValueError, match=message):
        opened(folder, content)


def test_annotations_of_other_images_are_passed_over_however_many_they_are(folder, content):
    first = content["annotations"][0]
    content["annotations"] += [{**first, "image_id": 77, "id": number} for number in range(3, 20)]
    with pytest.warns(DataWarning, match="17 of 19 annotations are left out"):
        assert len(opened(folder, content)[0][1]["labels"]) == 2
    del content["annotations"][:2]
    with pytest.raises(ValueError, match="17 of 17 annotations cannot be used because they belong to images that"):
        opened(folder, content)


@pytest.mark.parametrize("crowd", [True, False])
def test_a_data_set_without_objects_is_odd(folder, content, crowd):
    content["annotations"] = content["annotations"][1:] if crowd else []
    with pytest.warns(DataWarning, match="There is no object that a model could learn"):
        assert len(opened(folder, content)[0][1]["labels"]) == crowd


CHANGES = [  # (where, what, the message)
    (("annotations", 1, "category_id"), 8, "annotation 2 of image 'sub/a.png' has the unknown category id 8"),
    (("annotations", 1, "category_id"), [7], r"has the unknown category id \[7\]"),
    (("annotations", 1, "id"), 1, "two annotation entries have the id 1"),
    (("annotations", 1, "id"), "x", "annotation number 2 has no non-negative integer 'id' but 'x'"),
    (("annotations", 1, "id"), -1, "annotation number 2 has no non-negative integer 'id' but -1"),
    (("annotations", 1), 3, "annotation number 2 is no JSON object but 3"),
    (("annotations", 0, "bbox"), [2, 1, 3], r"needs a 'bbox' of four finite numbers .* not \[2, 1, 3\]"),
    (("annotations", 0, "bbox"), {"x": 2}, r"needs a 'bbox' of four finite numbers .* not \{'x': 2\}"),
    (("annotations", 0, "bbox"), [2, 1, 3, float("inf")], "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "bbox"), [2, 1, 3, "wide"], "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "bbox"), [2, 1, 3, True], "needs a 'bbox' of four finite numbers"),
    (("annotations", 0, "iscrowd"), 2, "needs an iscrowd of 0 or 1, not 2"),
    (("annotations", 0, "area"), -1, "needs an area that is a number of pixels, not -1"),
    (("annotations", 0, "area"), "large", "needs an area that is a number of pixels, not 'large'"),
    (("images", 0, "width"), -9, r"image 12 \('sub/a.png'\) has no positive integer 'width' and 'height' but -9 and 6"),
    (("images", 0, "height"), 6.5, "no positive integer .* but 9 and 6.5"),
    (("images", 0, "file_name"), None, "image 12 has no 'file_name' but None"),
    (("images", 0, "file_name"), 12, "image 12 has no 'file_name' but 12"),
    (("images", 1, "id"), 12, "two image entries have the id 12"),
    (("images", 1, "id"), "12", "two image entries have the id '12'"),
    (("images", 1, "id"), 1.5, "image number 2 has no non-negative integer 'id' but 1.5"),
    (("images", 1, "id"), GONE, "image number 2 has no non-negative integer 'id' but None"),
    (("images", 0, "width"), 10**12, r"image 12 \('sub/a.png'\) has no positive integer .* but 1000000000000 and 6"),
    (("images", 0, "width"), 8, "a.png' has height 6 and width 9, but the annotation file says 6 and 8"),
    (("images",), [], "its list 'images' is empty"),
    (("categories", 1, "id"), 90, "two category entries have the id 90"),
    (("categories",), {}, "it is no COCO data set"),
    (("categories",), [], "its list 'categories' is empty"),
]  # fmt: skip


@pytest.mark.parametrize("where, value, message", CHANGES)
def test_what_is_wrong_is_named(folder, content, where, value, message):
    put(content, where, value)
    with pytest.raises(ValueError, match=f"annotations.json' cannot be used: .*{message}"):
        opened(folder, content)


def test_sizes_are_compared_with_the_images(folder, content):
    content["images"][1] |= {"height": 8, "width": 4}
    with pytest.raises(ValueError, match="b.png' has height 4 and width 8, but the .* says 8 and 4, .* by a quarter"):
        opened(folder, content)
    content["images"][0]["height"] = 60
    with pytest.raises(ValueError, match=r"a.png' has height 6 and width 9, .* says 60 and 9 \(and 1 more like it\)"):
        opened(folder, content)


def test_damaged_images_are_found_when_the_file_is_opened(folder, content):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "sub" / "a.png").write_text("<html>")
    with pytest.raises(ValueError, match=r"image 12 is damaged: The file .*a.png' .*\(and 1 more like it\)"):
        opened(folder, content)


def test_an_image_that_changes_later_is_noticed(folder, content):
    dataset = opened(folder, content)
    write_image(folder / "b.png", np.zeros((3, 5, 8), np.float32))
    with pytest.raises(
        ValueError, match="b.png' has height 5 and width 8; when the data set was opened, it had 4 and 8"
    ):
        dataset[1]


# Boxes and masks -----------------------------------------------------------------------------------------

SHAPES = ShapesDataset(8, (64, 96), seed=3)


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_coco(SHAPES, folder)
    return folder


def rewritten(folder, tmp_path, change):
    """The toy set, with change(annotation, width, height) made to each of its annotations."""
    content = json.loads((folder / "annotations.json").read_text())
    for annotation in content["annotations"]:
        change(annotation, 96, 64)
    (tmp_path / "changed.json").write_text(json.dumps(content))
    return len(content["annotations"])


WAYS = {
    r"corners \[x1, y1, x2, y2\]": lambda x, y, w, h: [x, y, x + w, y + h],
    r"centres and sizes \[x, y, width, height\]": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "boxes with x and y exchanged": lambda x, y, w, h: [y, x, h, w],
    "corners with x and y exchanged": lambda x, y, w, h: [y, x, y + h, x + w],
    "boxes, in fractions of the image": lambda x, y, w, h: [x / 96, y / 64, w / 96, h / 64],
    "corners .*, in fractions of the image": lambda x, y, w, h: [x / 96, y / 64, (x + w) / 96, (y + h) / 64],
    "centres .*, in fractions of the image": lambda x, y, w, h: [(x + w / 2) / 96, (y + h / 2) / 64, w / 96, h / 64],
}


@pytest.mark.parametrize("way", WAYS)
def test_boxes_of_another_convention_are_recognised(shapes_folder, tmp_path, way):
    def change(annotation, *_):
        annotation["bbox"] = WAYS[way](*annotation["bbox"])

    rewritten(shapes_folder, tmp_path, change)
    with pytest.raises(ValueError, match=f"boxes contradict their masks; the first is .* They look like {way}"):
        CocoDataset(shapes_folder / "images", tmp_path / "changed.json")


@pytest.mark.parametrize("way", [r"corners \[x1, y1, x2, y2\]", "boxes, in fractions of the image"])
def test_boxes_alone_of_another_convention_are_recognised(shapes_folder, tmp_path, way):
    def change(annotation, *_):
        annotation["bbox"] = WAYS[way](*annotation["bbox"])
        annotation["bbox"][0] += 40 * ("corners" in way)  # far to the right, so that it shows
        annotation["bbox"][2] += 40 * ("corners" in way)
        annotation["bbox"][2] = min(annotation["bbox"][2], 96)
        del annotation["segmentation"]

    rewritten(shapes_folder, tmp_path, change)
    expected = rf"boxes look like {way}, where .* the first box is that of annotation \d of image '000000.png': \[\d"
    with pytest.raises(ValueError, match=expected):
        CocoDataset(shapes_folder / "images", tmp_path / "changed.json", masks=False)


def test_contradictions_by_hand():
    """An IoU of 0.7, or no side off by more than two pixels, in an image of 100 x 100 that cuts the box."""
    bounds = np.array([[10, 10, 20, 20]] * 6, float)
    boxes = [[10, 10, 10, 7], [10, 10, 10, 6.9], [8, 8, 14, 14], [7.9, 8, 14, 14], [10, 10, 10, 10], [60, 60, 0.5, 0.5]]
    wrong = contradictions(np.array(boxes, float), bounds, np.full((6, 2), 100))
    assert wrong.tolist() == [False, True, False, True, False, True]
    tiny, beside = np.array([[50, 50, 0.4, 0.4]]), np.array([[60, 60, 60.4, 60.4]])
    assert contradictions(tiny, beside, np.array([[100, 100]])).tolist() == [True]
    cut = np.array([[90, 90, 50, 50]], float), np.array([[90, 90, 100, 100]], float)
    assert contradictions(*cut, np.array([[100, 100]])).tolist() == [False]
    assert contradictions(*cut, np.array([[200, 200]])).tolist() == [True]


def test_conventions_by_hand():
    """The corners that 10, 20, 4, 6 would mean."""
    assert [corners(10, 20, 4, 6) for corners in CONVENTIONS.values()] == [
        (10, 20, 4, 6), (8, 17, 12, 23), (20, 10, 26, 14), (20, 10, 6, 4), (10, 20, 16, 24)
    ]  # fmt: skip


def test_guesses_about_boxes_alone_by_hand():
    """Of boxes [x, y, width, height] in images of 40 x 60: which reach out of them by more than two pixels, and lie
    inside as corners."""
    sizes = np.array([[40, 60]])
    for box, looks in (
        ([30, 10, 32, 20], False),  # to 62: no more than two
        ([30, 10, 33, 20], True),
        ([10, 20, 20, 22], False),
        ([10, 20, 20, 23], True),
        ([40, 10, 40, 20], False),  # corners without a width
        ([10, 30, 20, 30], False),
        ([10, 20, 63, 23], False),  # corners outside
        ([10, 20, 62, 42], True),
        ([30, 10, 50, 43], False),
    ):
        assert guess_alone(np.array([box], float), sizes) == ("corners [x1, y1, x2, y2]", 1) or not looks, box
        assert guess_alone(np.array([box], float), sizes)[1] == looks, box
    fractions = "boxes, in fractions of the image"
    assert guess_alone(np.array([[0.5, 0.5, 1, 1], [0.5, 0.5, 1.1, 1]]), sizes.repeat(2, 0)) == (fractions, 1)
    assert guess_alone(np.array([[0.5, 0.5, 0.5, 0.5]]), np.array([[1, 60]]))[1] == 0  # in an image of one row


def test_annotations_without_ids_are_counted_from_one(folder, content):
    del content["annotations"][0]["id"], content["annotations"][1]["id"]
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(ValueError, match="annotation 1 of image 'sub/a.png' has the unknown"):
        opened(folder, content)
    content["annotations"][1]["id"] = 5  # the next is free
    with pytest.raises(ValueError, match="annotation 6 of image 'sub/a.png' has the unknown"):
        opened(folder, content)


def test_some_boxes_that_contradict_their_masks_are_told(folder, content):
    content["annotations"][0]["bbox"] = [2, 1, 7, 5]  # around three pixels square; differs by 4
    with pytest.warns(DataWarning, match=r"1 of 2 boxes contradict .* annotation 1 of image 'sub/a.png': its box"):
        dataset = opened(folder, content)
    assert dataset[0][1]["boxes"][0].tolist() == [2, 1, 9, 6]
    content["annotations"][0]["bbox"] = [2, 1, 4.9, 4.9]  # by no more than two pixels: drawn by hand
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(folder, content)


def test_without_a_box_there_is_the_mask_s(shapes_folder, tmp_path):
    def change(annotation, *_):
        annotation["bbox"] = [None, []][annotation["id"] % 2]

    rewritten(shapes_folder, tmp_path, change)
    for masks in (True, False):
        dataset = CocoDataset(shapes_folder / "images", tmp_path / "changed.json", masks=masks)
        for (_, target), (_, expected) in zip(dataset, SHAPES, strict=True):
            np.testing.assert_array_equal(target["boxes"], expected["boxes"])


# Values in other types -----------------------------------------------------------------------------------


def as_text(value):
    return str(value) if isinstance(value, (int, float)) else value


def test_integers_and_numbers_by_hand():
    for value, number in ((7, 7), (7.0, 7), ("7", 7), ("007", 7), (" 7 ", 7), ("7.0", 7), ("-3", -3), (2**70, 2**70)):
        assert as_integer(value) == number and type(as_integer(value)) is int
    assert as_integer(2.0**53 - 1) == 2**53 - 1
    for none in (None, 1.5, 2.0**53, float("nan"), float("inf"), "", "7.5", "7a", "1e3", "٧", [7], {}):
        assert as_integer(none) is None, none
    for value, number in ((3, 3.0), (2.5, 2.5), ("2.5", 2.5), ("1e3", 1000.0), (2**53 - 1, 2.0**53 - 1)):
        assert as_number(value) == number and type(as_number(value)) is float
    for none in (None, True, "x", "nan", float("inf"), 2**53, 10**400, "1" * 40, [2.5]):
        assert as_number(none) is None, none


def test_an_area_is_kept_as_it_is_written(folder, content):
    content["annotations"][0]["area"], content["annotations"][1]["area"] = 0, 0.25
    assert opened(folder, content)[0][1]["area"].tolist() == [0, 0.25]


@pytest.mark.parametrize("change", [float, as_text, lambda value: f"{value:06d}"], ids=["floats", "texts", "zeros"])
def test_values_may_be_written_in_other_types(folder, content, change):
    expected = list(opened(folder, content))
    for part, fields in (
        ("images", ("id", "width", "height")),
        ("annotations", ("id", "image_id", "category_id", "iscrowd")),
        ("categories", ("id",)),
    ):
        for entry in content[part]:
            entry.update({field: change(entry[field]) for field in fields})
    content["annotations"][0]["bbox"] = [as_text(value) for value in content["annotations"][0]["bbox"]]
    content["annotations"][0]["area"] = "9.5"
    dataset = opened(folder, content)
    assert [category["id"] for category in dataset.categories] == [7, 90]
    for a, b in zip(expected, dataset, strict=True):
        assert_same(a, b)


def test_absent_and_null_are_the_same(folder, content):
    content["annotations"][0] |= {"iscrowd": 0, "area": 9}
    expected = list(opened(folder, content))
    content["annotations"][0] |= {"iscrowd": None, "area": None}
    for image in content["images"]:
        image["width"] = None
        del image["height"]
    for annotation in content["annotations"]:
        del annotation["id"]
    for a, b in zip(expected, opened(folder, content), strict=True):
        assert_same(a, b)


def test_ids_that_are_texts_are_numbered_in_their_order(folder, content):
    for image in content["images"]:
        image["id"] = image["file_name"]
    for annotation, name in zip(content["annotations"], ("uuid-2", "uuid-1"), strict=True):
        annotation |= {"image_id": "sub/a.png", "id": name}
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = "t"
    content["categories"][1]["id"] = content["annotations"][1]["category_id"] = "b"
    dataset = opened(folder, content)
    assert [target["image_id"] for _, target in dataset] == [1, 2]
    assert dataset.categories == [{"label": 1, "name": "toothbrush", "id": 1}, {"label": 2, "name": "train", "id": 2}]
    assert dataset[0][1]["labels"].tolist() == [1, 2]
    content["annotations"][0]["image_id"] = "c.png"
    with pytest.warns(DataWarning, match="1 of 2 .* image_id 'c.png'"):
        opened(folder, content)


def test_two_texts_that_are_the_same_id_are_refused(folder, content):
    for image in content["images"]:
        image["id"] = "photo"
    with pytest.raises(ValueError, match="two image entries have the id 'photo'"):
        opened(folder, content)


def test_ids_by_file_name(folder, content):
    content["images"][0]["id"] = "7"
    (folder / "annotations.json").write_text(json.dumps(content))
    assert image_ids_of(folder / "annotations.json") == {"sub/a.png": "7", "b.png": 5}  # as they are written
    for wrong in ([], {"images": 3}, {"images": [3]}, {"images": [{"file_name": "a"}]}):
        (folder / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="wrong.json' has no list 'images' with their ids"):
            image_ids_of(folder / "wrong.json")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        image_ids_of(folder / "none.json")


# Files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"images": ' + "[" * 100_000, "path: ../x"])
def test_broken_json(folder, text):
    with pytest.raises(ValueError, match="The annotation file '.*annotations.json' cannot be used: it is no"):
        opened(folder, text)


def test_missing_files(folder, content):
    with pytest.raises(FileNotFoundError, match="no annotation file '.*none.json'"):
        CocoDataset(folder, folder / "none.json")
    with pytest.raises(FileNotFoundError, match="sub' is a folder; a JSON file"):
        CocoDataset(folder, folder / "sub")
    opened(folder, content)
    with pytest.raises(FileNotFoundError, match="no image folder '.*nowhere'"):
        CocoDataset(folder / "nowhere", folder / "annotations.json")
    (folder / "b.png").unlink()
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(
        FileNotFoundError, match="1 of the 2 images of .*annotations.json.*the first is 'b.png'"
    ) as told:
        opened(folder, content)
    assert "unknown category id 8" in str(told.value)


@pytest.mark.parametrize(
    "name",
    ["sub\\a.png", "x\\sub\\a.png", "images/sub/a.png", "/home/me/sub/a.png", "../set/sub/a.png", "C:\\b\\sub/a.png"],
)
def test_file_names_in_other_people_s_forms(folder, content, name):
    expected = opened(folder, content)[0]
    content["images"][0]["file_name"] = name
    assert_same(opened(folder, content)[0], expected)


def test_a_base_name_and_composed_letters(folder, content):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        name = unicodedata.normalize(form, "ü.png")
        write_image(folder / name, np.zeros((3, 4, 8), np.float32))
        content["images"][1]["file_name"] = "deep/" + unicodedata.normalize(other, "ü.png")
        assert opened(folder, content)[1][0].shape == (3, 4, 8)
        (folder / name).unlink()
    content["images"][1] = {"id": 5, "coco_url": "http://images.cocodataset.org/val2017/b.png"}  # LVIS
    assert opened(folder, content)[1][0].shape == (3, 4, 8)


def test_a_file_that_two_names_could_mean_is_neither_s(folder, content):
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "left/b.png", "right/b.png"
    with pytest.raises(FileNotFoundError, match="2 of the 2 images"):
        opened(folder, content)


@pytest.mark.parametrize("absolute", [True, False])
def test_nothing_outside_of_the_folder_is_opened(folder, content, tmp_path_factory, absolute):
    other = tmp_path_factory.mktemp("other")
    write_image(other / "secret.png", np.zeros((3, 4, 8), np.float32))
    content["images"][1]["file_name"] = f"{other}/secret.png" if absolute else f"../{other.name}/secret.png"
    assert (folder / content["images"][1]["file_name"]).is_file()
    with pytest.raises(FileNotFoundError, match="1 of the 2 images .* the first is '.*secret.png'"):
        opened(folder, content)
    content["images"][1]["file_name"] = str(folder / "b.png")  # an absolute path that stays inside
    assert len(opened(folder, content)) == 2


def test_what_may_be_meant_by_a_missing_file(folder, content):
    content["images"][1]["file_name"] = "B.jpeg"
    with pytest.raises(FileNotFoundError, match=r"the first is 'B.jpeg'. There is 'b.png'."):
        opened(folder, content)
    content["images"] = [{"id": i, "file_name": f"{i}\x1b.png", "height": 4, "width": 8} for i in range(5, 15)]
    for i in range(5, 14):
        write_image(folder / "sub" / f"{i}\x1b.png", np.zeros((3, 4, 8), np.float32))
    with pytest.raises(FileNotFoundError, match=r"10 of the 10 .* '5\\x1b.png'. The folder '.*sub' has 9 of them"):
        opened(folder, content)


# Boxes alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segmentation", [GONE, [], None, [[1, 2, 3, 4]], {"size": [9, 6], "counts": [1]}])
def test_boxes_alone(folder, content, segmentation, tmp_path_factory):
    whole = opened(folder, content)
    del content["annotations"][0]["area"]
    for number in (0, 1):
        put(content, ("annotations", number, "segmentation"), segmentation)
    opened_with_masks = CocoDataset(folder, folder / "annotations.json")  # the file before the change
    assert "masks" in opened_with_masks[0][1]
    (folder / "boxes.json").write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = CocoDataset(folder, folder / "boxes.json", masks=False)
    assert repr(dataset).endswith("boxes.json', masks=False)")
    (image, target), (expected_image, expected) = dataset[0], whole[0]
    np.testing.assert_array_equal(image, expected_image)
    assert set(target) == set(expected) - {"masks"}
    assert target["boxes"].tolist() == expected["boxes"].tolist() and target["labels"].tolist() == [2, 1]
    assert target["area"].tolist() == [9, 7.5 * 3]  # of the boxes, the second of which is cut at the border
    flipped = flip_horizontally(image, target)[1]
    assert flipped["boxes"].tolist() == [[4, 1, 7, 4], [0, 0.25, 7.5, 3.25]] and "masks" not in flipped
    copy = tmp_path_factory.mktemp("copy")
    write_coco(dataset, copy)
    written = json.loads((copy / "annotations.json").read_text())
    assert not any("segmentation" in annotation for annotation in written["annotations"])
    for a, b in zip(dataset, CocoDataset(copy / "images", copy / "annotations.json", masks=False), strict=True):
        assert_same(a, b)


def test_without_a_box_and_without_a_mask_there_is_no_object(folder, content):
    content["annotations"][0] |= {"bbox": None, "segmentation": []}
    (folder / "boxes.json").write_text(json.dumps(content))
    with pytest.warns(DataWarning, match="1 of 2 annotations are left out because they have no box, and no mask"):
        assert CocoDataset(folder, folder / "boxes.json", masks=False)[0][1]["labels"].tolist() == [1]


def test_a_target_alone_reads_no_image(folder, content, monkeypatch):
    dataset = opened(folder, content)
    expected = dataset[0][1]
    monkeypatch.setattr("tinymrcnn.data.coco.read_image", None)
    assert_same((expected["boxes"], dataset.read_target(0)), (expected["boxes"], expected))


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
