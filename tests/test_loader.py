"""Training batches: their order, the flip, reading ahead in one thread, and that a resume changes nothing."""

import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinymrcnn.data import ShapesDataset, batches, flip_horizontally, loader
from tinymrcnn.data.loader import batch_indices
from tinymrcnn.settings import AugmentSettings


class Numbered:
    """A data set whose images say which one they are; it notes who read what."""

    categories = []

    def __init__(self, length, failing=None):
        self.length, self.failing, self.reads, self.threads = length, failing, [], set()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(index)
        self.threads.add(threading.current_thread().name)
        if index == self.failing:
            self.break_down()
        image = np.full((3, 4, 6), index, np.float32)
        image[:, :, 0] = -1  # the left column
        boxes, masks = np.array([[0, 1, 2, 3]], np.float32), np.zeros((1, 4, 6), np.uint8)
        return image, {"boxes": boxes, "masks": masks, "labels": np.array([1]), "image_id": index + 100}

    def break_down(self):
        raise OSError("image 3 cannot be read")


def reader_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def ids(targets):
    return [target["image_id"] for target in targets]


def identical(a, b):
    assert a[0] == b[0] and len(a[1]) == len(b[1])
    for image, other in zip(a[1], b[1], strict=True):
        np.testing.assert_array_equal(image, other)
    for target, other in zip(a[2], b[2], strict=True):
        assert target.keys() == other.keys()
        for key in target:
            np.testing.assert_array_equal(target[key], other[key])


# The order -----------------------------------------------------------------------------------------------


def test_every_epoch_visits_every_image_once_and_batches_straddle_epochs():
    dataset = Numbered(10)
    run = list(batches(dataset, 4, 0, 10, seed=0))
    assert [step for step, _, _ in run] == list(range(10))
    assert all(len(images) == len(targets) == 4 for _, images, targets in run)
    visited = [i for _, _, targets in run for i in ids(targets)]
    epochs = [visited[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(100, 110)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # each in its own order


def test_a_batch_larger_than_the_data_set():
    ((step, images, targets),) = batches(Numbered(3), 8, 0, 1, seed=0)
    assert len(images) == 8 and sorted(ids(targets)[:6]) == [100, 100, 101, 101, 102, 102]


def test_the_order_depends_on_the_seed():
    orders = {tuple(batch_indices(50, 50, 0, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert batch_indices(50, 8, 3, 0) == batch_indices(50, 8, 3, 0)
    assert all(type(index) is int for index in batch_indices(50, 8, 3, 0))


def test_a_resume_gives_the_same_batches_whatever_is_read_ahead(monkeypatch):
    def run(start):
        return list(batches(ShapesDataset(7, (40, 56)), 3, start, 9, seed=5))

    whole = run(0)
    for start, depth in ((4, 1), (8, 7), (0, 100)):
        monkeypatch.setattr(loader, "PREFETCH", depth)
        resumed = run(start)
        assert len(resumed) == 9 - start
        for a, b in zip(whole[start:], resumed, strict=True):
            identical(a, b)
    assert list(batches(ShapesDataset(7, 40), 3, 9, 9, seed=5)) == []


# The flip ------------------------------------------------------------------------------------------------


def test_flip_by_hand():
    image = np.arange(3 * 2 * 5, dtype=np.float32).reshape(3, 2, 5)
    mask = np.array([[[1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]], np.uint8)
    target = {"boxes": np.array([[0, 0, 2, 2]], np.float32), "masks": mask, "labels": np.array([4]), "image_id": 9}
    flipped, other = flip_horizontally(image, target)
    assert flipped[0].tolist() == [[4, 3, 2, 1, 0], [9, 8, 7, 6, 5]]
    assert other["boxes"].tolist() == [[3, 0, 5, 2]] and other["boxes"].dtype == np.float32
    assert other["masks"].tolist() == [[[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]] and other["masks"].dtype == np.uint8
    assert other["labels"] is target["labels"] and other["image_id"] == 9
    assert target["boxes"].tolist() == [[0, 0, 2, 2]] and image[0, 0, 0] == 0  # the inputs are as before
    assert flipped.flags.c_contiguous and other["masks"].flags.c_contiguous
    again = flip_horizontally(flipped, other)
    np.testing.assert_array_equal(again[0], image)
    np.testing.assert_array_equal(again[1]["boxes"], target["boxes"])


def test_flip_keeps_boxes_around_masks_and_works_without_objects():
    dataset = ShapesDataset(20, (48, 70))
    for image, target in dataset:
        flipped, other = flip_horizontally(image, target)
        for mask, box in zip(other["masks"], other["boxes"], strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    empty = {"boxes": np.zeros((0, 4), np.float32), "masks": np.zeros((0, 48, 70), np.uint8)}
    assert flip_horizontally(image, empty)[1]["masks"].shape == (0, 48, 70)


def test_targets_without_masks_are_flipped_and_batched():
    class NoMasks(Numbered):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            del target["masks"]
            return image, target

    seen = set()
    for _, images, targets in batches(NoMasks(10), 4, 0, 10, seed=0):
        for image, target in zip(images, targets, strict=True):
            assert "masks" not in target
            seen.add((bool(image[0, 0, -1] == -1), *target["boxes"][0].tolist()))
    assert seen == {(False, 0, 1, 2, 3), (True, 4, 1, 6, 3)}


def test_half_of_the_images_are_flipped_each_time_anew():
    run = list(batches(Numbered(20), 4, 0, 200, seed=0))
    flips = {}
    for _, images, targets in run:
        for image, target in zip(images, targets, strict=True):
            flipped = image[0, 0, -1] == -1
            assert flipped == (target["boxes"][0, 0] == 4)
            flips.setdefault(target["image_id"], []).append(bool(flipped))
    share = np.mean([flip for seen in flips.values() for flip in seen])
    assert 0.44 < share < 0.56
    assert all(0 < sum(seen) < len(seen) for seen in flips.values())
    for _, images, _ in batches(Numbered(20), 4, 0, 20, seed=0, flip=False):
        assert all(image[0, 0, 0] == -1 for image in images)


def test_the_flip_and_the_augmentation_know_nothing_of_each_other():
    class Grey(Numbered):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            image[:] = 0.5
            image[:, :, 0] = 0.25
            return image, target

    more, dataset = AugmentSettings(brightness=0.5), Grey(4)
    brighter = {True: [], False: []}
    for step in range(40):
        image, target = loader.load_image(dataset, 1, step, seed=3, more=more)
        upright, _ = loader.load_image(dataset, 1, step, seed=3, flip=False, more=more)
        plain, _ = loader.load_image(dataset, 1, step, seed=3)
        flipped = bool(plain[0, 0, 0] == 0.5)
        assert target["boxes"][0, 0] == (4 if flipped else 0)
        np.testing.assert_array_equal(image, upright[:, :, ::-1] if flipped else upright)  # the same brightness
        brighter[flipped].append(bool(image[0, 0, 2] > 0.5))
    for seen in brighter.values():
        assert 5 <= len(seen) and 0.2 < np.mean(seen) < 0.8


# The thread ----------------------------------------------------------------------------------------------


def test_one_background_thread_reads_ahead_and_no_further_than_the_end():
    dataset = Numbered(100)
    run = batches(dataset, 5, 0, 6, seed=0)
    assert dataset.reads == []  # nothing happens before the first batch is asked for
    next(run)
    deadline = time.monotonic() + 10
    while len(dataset.reads) < 5 * loader.PREFETCH and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(dataset.reads) == 5 * loader.PREFETCH
    list(run)
    assert len(dataset.reads) == 30
    assert len(dataset.threads) == 1 and dataset.threads != {threading.current_thread().name}
    assert not reader_threads()


def test_errors_are_raised_with_their_own_traceback():
    run = batches(Numbered(10, failing=3), 2, 0, 50, seed=0)
    seen = []
    with pytest.raises(OSError, match="image 3 cannot be read") as caught:
        for _, _, targets in run:
            seen += ids(targets)
    assert 103 not in seen
    assert "break_down" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert not reader_threads()


def test_closing_the_iterator_stops_the_thread():
    dataset = Numbered(10)
    run = batches(dataset, 2, 0, 10**9, seed=0)
    next(run)
    assert reader_threads()
    run.close()
    assert not reader_threads()
    for _ in batches(dataset, 2, 0, 10**9, seed=0):
        break  # the abandoned iterator is collected, and its thread with it
    assert not reader_threads()


def test_what_waits_to_be_read_is_left_when_the_iterator_is_closed(monkeypatch):
    closed = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(wait=False, **options)
            closed.set()
            super().shutdown()

    class Slow(Numbered):
        def __getitem__(self, index):
            if len(self.reads) >= 2:  # the second batch
                assert closed.wait(30)
            return super().__getitem__(index)

    monkeypatch.setattr(loader, "ThreadPoolExecutor", Pool)
    dataset = Slow(20)
    run = batches(dataset, 2, 0, 10, seed=0)
    next(run)
    run.close()
    assert len(dataset.reads) in (2, 4)  # of the second batch nothing, or all where it had begun


@pytest.mark.parametrize(
    "arguments", [(0, 0, 5), (2, -1, 5), (2, 6, 5)], ids=["no batch", "negative step", "end before start"]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="needs batch_size >= 1 and 0 <= start_step <= num_steps"):
        batches(Numbered(4), *arguments, seed=0)


def test_an_empty_data_set():
    with pytest.raises(ValueError, match="holds no image"):
        batches(Numbered(0), 2, 0, 5, seed=0)
