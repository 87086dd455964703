"""Settings from the data: each rule by hand, that the settings can be trained with, and what the command prints."""

import json
import math

import numpy as np
import pytest
from test_backbone import SMALL

from tinymrcnn.cli import main
from tinymrcnn.data import CocoDataset, ShapesDataset, write_coco
from tinymrcnn.data.statistics import anchor_fit, anchor_shapes
from tinymrcnn.machine import core_cache, free_memory
from tinymrcnn.models import Config, TrainConfig
from tinymrcnn.settings import field_names, replace
from tinymrcnn.training.choices import (
    BASES,
    MOST_STEPS,
    STRIDES,
    Statistics,
    anchors,
    choose,
    counts,
    image_size,
    statistics,
    training_length,
    variations,
    windows,
)
from tinymrcnn.weights import load_checkpoint


def data_of(length=40.0, objects=(5, 5, 5), size=(256, 320), images=3, ratio=1.0):
    """Images of one size with boxes of one area, `ratio` times as high as wide."""
    box = [7, 5, 7 + length / math.sqrt(ratio), 5 + length * math.sqrt(ratio)]
    return Statistics(
        np.array([box] * sum(objects)).reshape(-1, 4), np.array(objects), np.array([size] * images), images
    )


def values(choices):
    return {choice.name: choice.value for choice in choices}


def test_the_statistics_of_a_data_set(tmp_path):
    dataset = ShapesDataset(5, (48, 70), seed=100)
    found = statistics(dataset)
    boxes = np.concatenate([target["boxes"] for _, target in dataset])
    np.testing.assert_array_equal(found.boxes, boxes)
    np.testing.assert_array_equal(found.sides, boxes[:, 2:] - boxes[:, :2])
    assert found.objects.tolist() == [len(target["labels"]) for _, target in dataset]
    assert found.images.tolist() == [[48, 70]] * 5 and found.shorter == 48
    some = statistics(dataset, most=2)
    assert len(some.objects) == 2 and found.total == some.total == 5
    write_coco(dataset, tmp_path / "set")
    content = json.loads((tmp_path / "set" / "annotations.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    (tmp_path / "crowd.json").write_text(json.dumps(content))
    for masks in (True, False):
        again = statistics(CocoDataset(tmp_path / "set" / "images", tmp_path / "crowd.json", masks=masks))
        np.testing.assert_array_equal(again.boxes, found.boxes[1:])
        assert again.objects[0] == found.objects[0] - 1 and again.images.tolist() == found.images.tolist()


@pytest.mark.parametrize(
    ("length", "size", "side"),
    [
        (40, (256, 320), None),  # well seen
        (20, (256, 320), 416),  # 1.6 times as large
        (8, (256, 256), 768),  # not more than three times
        (20, (1500, 1000), 640),  # not more pixels than a laptop can do
        (400, (3000, 4000), 672),
    ],
)
def test_small_objects_are_enlarged_and_large_images_made_smaller(length, size, side):
    choices = values(image_size(data_of(length, size=size)))
    assert choices == ({"transform.min_size": side, "transform.max_size": 2 * side} if side else {})


def test_images_of_many_sizes():
    """One that is much larger than the usual one is made smaller; and boxes grow as their images do."""
    data = data_of(40, size=(256, 320))
    mixed = data._replace(images=np.array([[256, 320], [256, 320], [4000, 3000]]))
    assert values(image_size(mixed)) == {"transform.min_size": 256, "transform.max_size": 512}
    box, scale = np.array([8, 4, 48, 44]), 3000 / 256
    chosen = values(choose(mixed._replace(boxes=np.concatenate([[box] * 10, [scale * box] * 5]))))
    assert chosen["rpn.anchor_sizes"] == anchors(np.array([box] * 15))[0].value


def test_a_fifth_of_the_objects_may_be_small():
    data = data_of(objects=(10,), images=1)
    lengths = np.array([8.0] + [16.0] * 9)
    boxes = np.stack([0 * lengths, 0 * lengths, lengths, lengths], 1)
    assert values(image_size(data._replace(boxes=boxes)))["transform.min_size"] == 512
    boxes[:3, 2:] = 12
    assert values(image_size(data._replace(boxes=boxes)))["transform.min_size"] == 672


def test_enlarged_images_are_trained_on_windows():
    """Of two images of 256 x 256 that become 768 x 768, windows of 512 x 512 are 1.5 times enlarged before that."""
    small = data_of(8, size=(256, 256))
    assert values(windows(small, 768)) == {"transform.train_min_sizes": (512,)}
    chosen = values(choose(small))
    assert chosen["augment.zoom"] == (1.2, 1.875) and chosen["augment.paste"] == 0.5 and chosen["batch_size"] == 2
    assert chosen["rpn.anchor_sizes"] == anchors(3 * small.boxes)[0].value
    assert not windows(small, 512) and not windows(small, None)  # two of them fit
    assert not windows(data_of(100, size=(256, 256)), 768)  # many objects would be cut
    assert "augment.paste" not in values(choose(small, given={"masks": False}))
    given = values(choose(small, given={"transform.min_size": 512}))
    assert given["augment.zoom"] == (0.8, 1.25) and "transform.train_min_sizes" not in given


def test_the_best_grid_of_anchors_is_taken():
    boxes = np.array([[3, 5, 43, 45]] * 5 + [[0, 0, 300, 300]], float)
    (choice,) = anchors(boxes)
    assert choice.name == "rpn.anchor_sizes" and len(choice.value) == len(STRIDES)
    assert {len(sizes) for sizes in choice.value} == {len(choice.value[0])}
    fits = [
        anchor_fit(boxes, anchor_shapes(grid, (0.5, 1.0, 2.0)), STRIDES).mean()
        for grid in (choice.value, *(tuple((base * 2.0**level,) for level in range(4)) for base in BASES))
    ]
    assert fits[0] == max(fits)


def test_counts_follow_the_objects():
    few = values(counts(np.array([1, 2, 3, 6])))
    default = Config()
    assert few["box.samples"] == default.box.samples and few["box.max_detections"] == default.box.max_detections == 100
    assert few["rpn.post_nms_train"] == default.rpn.post_nms_train and few["rpn.pre_nms_test"] == 500
    many = values(counts(np.array([24] * 70 + [40] * 20 + [80] * 9 + [125])))
    assert (many["box.samples"], many["box.max_detections"]) == (128, 200)
    assert (many["rpn.post_nms_test"], many["rpn.pre_nms_train"]) == (500, 1000)
    assert values(counts(np.array([5000])))["box.samples"] == 256


def length_of(count, side, *more, **given):
    return values(training_length(count, np.array([[side, side]] * 3), *more, **given))


def test_batch_and_steps():
    assert length_of(260, 512) == {"batch_size": 2, "steps": 2700}
    assert "20.8 times, in about 13 minutes of 2 cores" in training_length(260, np.array([[512, 512]]))[1].reason
    assert length_of(5000, 128) == {"batch_size": 8, "steps": 3750}
    assert length_of(10**6, 128)["steps"] == MOST_STEPS
    assert length_of(260, 512, batch=4) == {"batch_size": 4, "steps": 1350}
    assert length_of(260, 512, 500_000_000) == {"batch_size": 1, "steps": 5400}
    assert "free memory of 0.5 GB" in training_length(260, np.array([[512, 512]]), 500_000_000)[0].reason
    padded = np.array([[512, 256], [256, 512]])  # to 512 x 512, both
    assert values(training_length(260, padded, 1_200_000_000))["batch_size"] == 2
    assert values(training_length(260, padded))["batch_size"] == 4


def test_small_batches_are_normalised_by_groups_and_averaged():
    chosen = values(choose(data_of(), given={"batch_size": 2}))
    assert (chosen["resnet.norm"], chosen["steps"], chosen["ema"]) == ("group", 2700, 0.99)
    assert not {"resnet.norm", "ema"} & values(choose(data_of(), given={"batch_size": 8})).keys()
    assert values(choose(data_of(), given={"batch_size": 2, "steps": 60}))["ema"] == 0.9
    assert values(choose(data_of(), given={"batch_size": 2, "steps": 1}))["ema"] == 0


def test_turns_are_for_what_has_no_way_up():
    rng = np.random.default_rng(0)
    boxes = np.exp(rng.normal(3, 0.3, (500, 2)))
    assert values(variations(boxes))["augment.turn"]
    assert not values(variations(boxes * [1, 1.3]))["augment.turn"]  # people, say
    assert not values(variations(boxes * [1.3, 1]))["augment.turn"]  # cars


def test_every_choice_is_a_setting():
    for data in (data_of(), data_of(8, (0, 3, 200)), data_of(objects=(0, 0, 0))):
        chosen = values(choose(data, 10**9))
        of_training = {name: value for name, value in chosen.items() if name in field_names(TrainConfig)}
        config = replace(Config(), **{name: value for name, value in chosen.items() if name not in of_training})
        assert replace(TrainConfig(), **of_training).steps > 0 and len(config.rpn.anchor_sizes) == 4
        assert all(choice.reason for choice in choose(data))
    assert values(choose(data_of(objects=(0, 0, 0)))).keys() == {"batch_size", "steps", "resnet.norm", "ema"}


def test_what_is_given_is_followed():
    small = data_of(8)
    free, given = values(choose(small)), values(choose(small, given={"transform.min_size": None}))
    assert given["rpn.anchor_sizes"][0][0] < free["rpn.anchor_sizes"][0][0]  # for objects that stay small
    assert given["batch_size"] > free["batch_size"]
    assert values(choose(small, given={"batch_size": 1}))["steps"] == 5400


def test_the_cache_of_a_core(tmp_path):
    assert core_cache(str(tmp_path)) == 1 << 20  # nobody tells
    for index, level, size in (("0", "1", "48K"), ("2", "2", "512K"), ("3", "3", "32768K")):
        (tmp_path / f"index{index}").mkdir()
        for name, text in (("level", level), ("size", size)):
            (tmp_path / f"index{index}" / name).write_text(text + "\n")
    assert core_cache(str(tmp_path)) == 512 * 1024
    (tmp_path / "index2" / "size").write_text("much\n")
    assert core_cache(str(tmp_path)) == 1 << 20


def test_free_memory(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(str(tmp_path / "meminfo")) == 2048 * 1024
    (tmp_path / "other").write_text("MemTotal: 9 kB\n")
    assert free_memory(str(tmp_path / "other")) is None and free_memory(str(tmp_path / "none")) is None


def test_the_command_says_what_it_chose(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_coco(ShapesDataset(4, (48, 64), seed=100), "set")
    data = ["set/images", "set/annotations.json"]
    small = [w for name, value in SMALL.items() if name != "anchor_sizes" for w in ("--set", f"{name}={value}")]
    argv = ["train", "--device", "cpu", "--data", *data, "--val", *data, "--steps", "1", "--set", "max_detections=7"]
    assert main([*argv, "--set", "depths=(1,1,1,1)", "--set", "augment.blur=0.5", *small, "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert "What the data ask for; --set FIELD=VALUE changes each:" in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith("  ")}
    assert lines["steps"].split() == ["steps", "1", "it", "was", "given"]
    assert lines["box.max_detections"].split()[1:] == ["7", "it", "was", "given"]
    assert "20% of the objects are smaller than" in lines["transform.min_size"]
    done = load_checkpoint("run/checkpoint.npz")
    expected = values(choose(statistics(CocoDataset(*data)), free_memory(), {"steps": 1}))
    assert done.config.transform.min_size == expected["transform.min_size"] > 48
    assert done.config.rpn.anchor_sizes == expected["rpn.anchor_sizes"] and done.config.box.max_detections == 7
    assert done.train_config.augment.blur == 0.5 and done.train_config.augment.zoom == (0.8, 1.25)
    assert (tmp_path / "run" / "augmented.png").stat().st_size > 10_000
    noted = {choice["name"] for choice in json.loads((tmp_path / "run" / "data.json").read_text())["chosen"]}
    assert "transform.min_size" in noted and "box.max_detections" not in noted
