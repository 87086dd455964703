"""What is kept of a run: the same average precision as evaluate's, also of a test set drawn with replacement."""

import itertools

import numpy as np
import pytest
from test_evaluation import CASES, Boxes, detection, many, random_case

from tinymrcnn import load_model
from tinymrcnn.data import ShapesDataset
from tinymrcnn.evaluation import evaluate, evaluate_detections
from tinymrcnn.experiments.matches import (
    Matches,
    average_precision,
    load_extra,
    load_matches,
    match_detections,
    mean_precision,
    rank,
    save_matches,
)
from tinymrcnn.files import SHIPPED_MODEL

THRESHOLDS = {"AP": slice(None), "AP50": 0, "AP75": 5}


class Pictures:
    """A data set of given targets."""

    def __init__(self, targets, categories):
        self.targets, self.categories = targets, categories

    def __len__(self):
        return len(self.targets)

    def read_target(self, index):
        return self.targets[index]


def same_numbers(detections, dataset, **settings):
    """The matches, and that their numbers are those of evaluate_detections, to the last bit."""
    matches = match_detections(detections, dataset, **settings)
    counted = evaluate_detections(detections, dataset, **settings)
    for (kind, ours), (name, which) in itertools.product({"bbox": "box", "segm": "mask"}.items(), THRESHOLDS.items()):
        assert average_precision(matches, ours, which) == counted[f"{kind}/{name}"], (kind, name)
    return matches


def duplicated(detections, dataset, weights):
    """A data set in which picture i is really there weights[i] times, under new ids, and the detections in it."""
    chosen = np.repeat(np.arange(len(dataset)), weights).tolist()
    targets = [dataset[index][1] for index in chosen]
    renamed = [{**target, "image_id": number} for number, target in enumerate(targets)]
    return [detections[index] for index in chosen], Pictures(renamed, dataset.categories)


def draw_weights(rng, count):
    """A test set of `count` pictures, drawn with replacement."""
    return np.bincount(rng.integers(count, size=count), minlength=count)


@pytest.fixture(scope="module", params=[False, True], ids=["ordinary", "crowded"])
def shapes(request):
    """20 pictures of shapes, and what the shipped model finds in them."""
    model, dataset = load_model(SHIPPED_MODEL), ShapesDataset(20, seed=1, crowded=request.param)
    model.eval()
    return model, dataset, model.detect([image for image, _ in dataset])


# The same numbers ----------------------------------------------------------------------------------------


def test_the_shipped_model(shapes):
    model, dataset, detections = shapes
    matches = same_numbers(detections, dataset)
    assert 0.2 < average_precision(matches) < 0.9
    assert average_precision(matches) == evaluate(model, dataset, progress=False)["segm/AP"]
    count = sum(len(each["labels"]) for each in detections)
    for array, (dtype, shape) in zip(
        matches,
        [
            (np.uint16, (count,)),
            (np.uint8, (count,)),
            (np.float32, (count,)),
            (bool, (count, 10)),
            (bool, (count, 10)),
            (np.uint8, (20, 6)),
        ],
        strict=True,
    ):
        assert array.dtype == dtype and array.shape == shape
    np.testing.assert_array_equal(matches.score, np.concatenate([each["scores"] for each in detections]))
    np.testing.assert_array_equal(matches.image, np.repeat(np.arange(20), [len(each["labels"]) for each in detections]))
    for index, (_, target) in enumerate(dataset):
        np.testing.assert_array_equal(matches.objects[index], np.bincount(target["labels"], minlength=6))


@pytest.mark.parametrize("seed", range(4))
def test_random_cases(seed):
    """Ids in any order, ties within and between pictures, boxes and masks that disagree, pictures with nothing."""
    rng = np.random.default_rng(seed)
    dataset, found = random_case(rng, images=8, levels=[3, 20][seed % 2], crowds=0.0)
    for each in found:
        each["masks"] = rng.random((len(each["labels"]), 7, 7)).astype(np.float32) + np.float32(0.25)
    matches = same_numbers(found, dataset, whole_pixels=seed > 1)
    assert 0 < average_precision(matches, "box") < 1


@pytest.mark.parametrize("case", [name for name in CASES if "crowd" not in name])
def test_awkward_cases(case):
    truth, found = CASES[case]
    same_numbers([detection(rows) for rows in found], Boxes(truth))


@pytest.mark.filterwarnings("ignore:An image holds 150")
def test_only_the_best_of_a_class_count():
    dataset, found = many(150)
    assert len(same_numbers(found, dataset).image) == 100
    assert len(same_numbers(found, dataset, max_detections=150).image) == 150


def test_the_best_of_a_class_in_any_order():
    """Of class 1 the second row counts, with its own label, score and matches."""
    dataset = Boxes([[(1, 10, 10, 30, 30, 0), (2, 50, 10, 70, 30, 0)]])
    rows = [(1, 40, 40, 60, 60, 0.3), (1, 10, 10, 30, 30, 0.9), (2, 50, 10, 70, 30, 0.5), (2, 0, 0, 9, 9, 0.25)]
    matches = match_detections([detection(rows)], dataset, max_detections=1)
    assert matches.label.tolist() == [1, 2] and matches.score.tolist() == [np.float32(0.9), 0.5]
    assert matches.box_right.all() and matches.mask_right.all() and matches.box_right.shape == (2, 10)


def test_without_masks():
    """Where one picture has no masks, boxes alone are matched."""
    dataset, found = random_case(np.random.default_rng(0), images=4, crowds=0.0)
    del found[2]["masks"]
    matches = match_detections(found, dataset)
    assert matches.mask_right.shape == (len(matches.image), 0)
    assert average_precision(matches, "box") == evaluate_detections(found, dataset)["bbox/AP"]
    with pytest.raises(ValueError, match="no masks in these matches"):
        average_precision(matches)


def test_what_is_right_by_hand():
    """Two objects found, one with an IoU of 0.8, and again; the wrong class; thresholds in any selection."""
    dataset = Boxes([[(1, 10, 10, 30, 30, 0), (1, 50, 10, 70, 30, 0)], []])
    rows = [(1, 50, 10, 66, 30, 0.8), (1, 10, 10, 30, 30, 0.9), (1, 10, 10, 30, 30, 0.7), (2, 10, 10, 30, 30, 0.6)]
    matches = match_detections([detection(rows), detection([])], dataset)
    expected = np.array([[True] * 7 + [False] * 3, [True] * 10, [False] * 10, [False] * 10])
    np.testing.assert_array_equal(matches.box_right, expected)
    np.testing.assert_array_equal(matches.mask_right, expected)
    assert matches.label.tolist() == [1, 1, 1, 2] and matches.objects.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0]]
    half = 51 / 101  # one object of two: recalls up to 0.5
    assert average_precision(matches) == pytest.approx((7 + 3 * half) / 10)
    assert average_precision(matches, "box", [0, 9]) == pytest.approx((1 + half) / 2)
    assert average_precision(matches, "box", -1) == pytest.approx(half)


def test_what_is_refused():
    dataset, found = Boxes([[(1, 10, 10, 30, 30, 1)]]), [detection([])]
    with pytest.raises(ValueError, match="Image 0 of the data set holds a crowd"):
        match_detections(found, dataset)
    with pytest.raises(ValueError, match="for 2 images, and the data set has 1"):
        match_detections(found * 2, dataset)
    with pytest.raises(ValueError, match="for 0 images"):
        match_detections([], Boxes([]))
    with pytest.raises(ValueError, match="more than 255 objects"):
        match_detections(found, Boxes([[(1, 0, 0, 10, 10, 0)] * 256], size=(12, 12)))
    with pytest.raises(ValueError, match="65,536 images of 3 classes are too many"):
        match_detections(found * 65_536, Boxes([[]] * 65_536))
    with pytest.raises(ValueError, match="label 4, which is no category"):
        match_detections([detection([(4, 10, 10, 30, 30, 0.5)])], Boxes([[]]))
    matches = match_detections(found, Boxes([[(1, 10, 10, 30, 30, 0)]]))
    with pytest.raises(ValueError, match="not 'segm'"):
        average_precision(matches, "segm")
    with pytest.raises(ValueError, match=r"Each of the 1 pictures needs a weight; they have the shape \(2,\)"):
        average_precision(matches, weights=[1, 1])


# Weights -------------------------------------------------------------------------------------------------


def test_weights_are_pictures_that_are_there_again(shapes):
    _, dataset, detections = shapes
    matches, rng = match_detections(detections, dataset), np.random.default_rng(0)
    for _ in range(3):
        weights = draw_weights(rng, len(dataset))
        assert weights.max() > 1 and weights.min() == 0
        counted = evaluate_detections(*duplicated(detections, dataset, weights))
        for kind, ours in {"bbox": "box", "segm": "mask"}.items():
            for name, which in THRESHOLDS.items():
                value = average_precision(matches, ours, which, weights)
                assert value == pytest.approx(counted[f"{kind}/{name}"], abs=1e-12)
                assert mean_precision(rank(matches, ours, which), weights) == value
    ones = np.ones(len(dataset), int)
    assert average_precision(matches, weights=ones) == average_precision(matches)
    assert average_precision(matches, weights=ones * 0) == -1


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_random_cases(seed):
    """Classes that vanish with their pictures, and such of which nothing is found any more."""
    rng = np.random.default_rng(seed)
    dataset, found = random_case(rng, images=5, levels=100_000, crowds=0.0)  # no ties, where copies could change places
    matches = match_detections(found, dataset)
    for _ in range(4):
        weights = draw_weights(rng, 5) * rng.integers(0, 3)
        if weights.any():
            counted = evaluate_detections(*duplicated(found, dataset, weights))
            assert average_precision(matches, "box", weights=weights) == pytest.approx(counted["bbox/AP"], abs=1e-12)
            assert average_precision(matches, "mask", 0, weights) == pytest.approx(counted["segm/AP50"], abs=1e-12)


def test_a_class_goes_with_its_pictures():
    """Class 1 is found in picture 0 and missed in picture 1, which alone holds class 2, that is found."""
    dataset = Boxes([[(1, 10, 10, 30, 30, 0)], [(1, 10, 10, 30, 30, 0), (2, 50, 50, 90, 90, 0)]])
    found = [detection([(1, 10, 10, 30, 30, 0.9)]), detection([(2, 50, 50, 90, 90, 0.9)])]
    matches = match_detections(found, dataset)
    assert average_precision(matches, weights=[2, 0]) == pytest.approx(1)
    assert average_precision(matches, weights=[0, 2]) == pytest.approx(1 / 2)
    assert average_precision(matches, weights=[2, 1]) == pytest.approx((67 / 101 + 1) / 2)  # two of three are found


# Files ---------------------------------------------------------------------------------------------------


def ranks(scores):
    """What is kept of scores: how many different ones lie below each."""
    return np.array([len({other for other in scores if other < score}) for score in scores], np.float32)


def test_of_equal_scores_the_order_of_detections_is_kept(tmp_path):
    scores = np.float32([0.5, 0.9, 0.5, 0.7, 0.9, 0.5])
    right = np.array([[1], [0], [0], [1], [1], [0]], bool).repeat(10, axis=1)
    found = Matches(np.arange(6, dtype=np.uint16), np.ones(6, np.uint8), scores, right, right, np.uint8([[0, 1]] * 6))
    save_matches(tmp_path / "run.npz", found)
    again = load_matches(tmp_path / "run.npz")
    assert again.score.tolist() == [0, 2, 0, 1, 2, 0]
    assert average_precision(again) == average_precision(found)


def test_files_bring_everything_back(shapes, tmp_path):
    _, dataset, detections = shapes
    matches, path = match_detections(detections, dataset), tmp_path / "run.npz"
    pairs = np.random.default_rng(0).random((7, 3))
    save_matches(path, matches, pairs=pairs, names=np.array(["a", "bc"]))
    again, extra = load_matches(path), load_extra(path)
    for name, array in matches._replace(score=ranks(matches.score))._asdict().items():
        loaded = getattr(again, name)
        assert loaded.dtype == array.dtype and loaded.shape == array.shape
        np.testing.assert_array_equal(loaded, array)
    assert extra.keys() == {"pairs", "names"} and extra["names"].tolist() == ["a", "bc"]
    np.testing.assert_array_equal(extra["pairs"], pairs)
    assert average_precision(again) == average_precision(matches)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("count, columns", [(0, 10), (0, 0), (5, 0), (8, 10), (9, 10)])
def test_files_of_any_shape(count, columns, tmp_path):
    rng = np.random.default_rng(0)
    matches = Matches(
        np.arange(count, dtype=np.uint16),
        np.ones(count, np.uint8),
        rng.random(count, np.float32),
        rng.random((count, 10)) < 0.5,
        rng.random((count, columns)) < 0.5,
        rng.integers(0, 3, (count + 1, 4), np.uint8),
    )
    save_matches(tmp_path / "run.npz", matches)
    expected = matches._replace(score=ranks(matches.score))
    for array, loaded in zip(expected, load_matches(tmp_path / "run.npz"), strict=True):
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array, strict=True)


def test_a_file_is_small(tmp_path):
    """As many detections as the shipped model makes of 500 pictures take less than 40 kB, even at random scores."""
    rng, count = np.random.default_rng(0), 7500
    right = np.sort(rng.random(count))[:, None] > np.linspace(0.3, 1, 10)
    matches = Matches(
        np.repeat(np.arange(500, dtype=np.uint16), 15),
        rng.integers(1, 6, count, np.uint8),
        rng.random(count, np.float32),
        right[rng.permutation(count)],
        right[rng.permutation(count)],
        rng.integers(0, 3, (500, 6), np.uint8),
    )
    save_matches(tmp_path / "run.npz", matches)
    assert 20_000 < (tmp_path / "run.npz").stat().st_size < 40_000


def test_files_are_written_whole_or_not_at_all(shapes, tmp_path, monkeypatch):
    _, dataset, detections = shapes
    matches, path = match_detections(detections, dataset), tmp_path / "run.npz"
    path.write_bytes(b"what was there")
    for wrong in ({"score": np.zeros(3)}, {"things": np.array([None])}):
        with pytest.raises(ValueError, match="cannot go along"):
            save_matches(path, matches, **wrong)

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device: .*run.npz"):
        patch.setattr(np, "savez_compressed", full_disk)
        save_matches(path, matches)
    assert path.read_bytes() == b"what was there" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="nowhere"):
        save_matches(tmp_path / "nowhere" / "run.npz", matches)


def test_other_files_are_refused(shapes, tmp_path):
    _, dataset, detections = shapes
    save_matches(tmp_path / "run.npz", match_detections(detections, dataset))
    whole = (tmp_path / "run.npz").read_bytes()
    middle = whole.index(b"score.npy") + 200  # among the scores
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", score=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", **dict.fromkeys(Matches._fields, np.array([None])))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    for name in ("array.npy", "other.npz", "pickle.npz", "empty.npz", "cut.npz", "flipped.npz"):
        for read in (load_matches, load_extra):
            with pytest.raises(ValueError, match=f"{name}' is no file of matches"):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_matches(tmp_path / "absent.npz")
