"""The gallery of failing runs in lesson 10: what is stored is what the script makes."""

import json

import failing_runs
import numpy as np
import pytest

STORED = json.loads(failing_runs.STORED.read_text())
TARGET = {"boxes": np.array([[1, 2, 30, 44]], np.float32), "labels": np.array([5]), "image_id": 7}


def test_every_run_is_stored_whole():
    assert list(STORED["runs"]) == [*failing_runs.FAULTS, "nothing, seed 1", "nothing, seed 2"]
    assert STORED["losses"] == failing_runs.LOSSES
    looks = list(range(0, failing_runs.STEPS + 1, failing_runs.LOOK))
    for run in STORED["runs"].values():
        assert np.shape(run["training"]) == (failing_runs.STEPS, 5)
        assert np.shape(run["gradient"]) == (failing_runs.STEPS,)
        assert run["at"] == looks and np.shape(run["held_out"]) == (len(looks), 5)
        assert 0 <= run["AP50"] <= 1


@pytest.mark.parametrize("name", ["nothing", "pixels from 0 to 255"])
def test_the_first_step_is_the_stored_one(name):
    run, stored = failing_runs.short_run(name, steps=1), STORED["runs"][name]
    np.testing.assert_allclose(run["held_out"][0], stored["held_out"][0], rtol=2e-3)
    np.testing.assert_allclose(run["training"][0], stored["training"][0], rtol=2e-3)
    np.testing.assert_allclose(run["gradient"][0], stored["gradient"][0], rtol=2e-2)


def test_what_is_spoiled():
    swapped = failing_runs.spoiled("boxes as y1, x1, y2, x2", TARGET)
    assert swapped["boxes"].tolist() == [[2, 1, 44, 30]] and TARGET["boxes"].tolist() == [[1, 2, 30, 44]]
    assert failing_runs.spoiled("labels shifted by one", TARGET)["labels"].tolist() == [1]
    assert failing_runs.spoiled("no warm-up", TARGET) is TARGET


def test_numbers_are_stored_in_four_digits():
    assert failing_runs.significant([1.23456, [0.000123456, 7]]) == [1.235, [0.0001235, 7]]
