"""Damaged files and senseless commands end in a result or in a sentence: a few dozens of each here, and with
`pytest -m fuzz` 2,000 (half an hour or more; `python tests/fuzz.py` prints the table of them)."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from fuzz import TARGETS, Worker, fuzz
from fuzz_damage import Context, Lost, Target
from hypothesis import strategies as st

FEW = {"annotations": 60, "images": 60, "checkpoint": 50, "public": 50, "formats": 60, "resume": 5, "command": 8}


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("name", TARGETS)
def test_some_examples(worker, name):
    result = fuzz(name, TARGETS[name], FEW[name], worker)
    assert not result.faults, result.explanation()
    assert sum(result.counts.values()) >= FEW[name] // 2
    if FEW[name] >= 40:
        assert result.counts["clear error"] > 0 < result.counts["used"]  # neither harmless nor hopeless


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_many_examples(worker, name):
    result = fuzz(name, TARGETS[name], 2000, worker, number=1)
    assert not result.faults, result.explanation()


# The fuzzer itself


def prepare_planted(folder):
    return Context(folder, "spoilt")


def run_planted(context, fault):
    """A reader with one of each fault."""
    match fault:
        case "fine":
            return
        case "clear":
            raise ValueError("The file 'spoilt' is not what it should be.")
        case "nameless":
            raise ValueError("What it holds makes no sense at all.")
        case "bare":
            raise OSError(22, "Invalid argument")
        case "type":
            raise TypeError("'spoilt' is no file at all")
        case "memory":
            np.ones(1 << 30)  # 8 GB
        case "hang":
            time.sleep(60)
        case "crash":
            os._exit(3)
        case "process":
            subprocess.run(["no such program"])  # the attempt is enough
        case "lost":
            raise Lost("note.txt was changed")


def test_every_fault_is_noticed(worker, monkeypatch):
    monkeypatch.setattr(worker, "seconds", 5)
    expected = {
        "fine": "used", "clear": "clear error", "nameless": "traceback", "bare": "traceback", "type": "traceback",
        "hang": "hang", "crash": "traceback", "process": "code run", "lost": "file lost",
    }  # fmt: skip
    if sys.platform == "linux":
        expected["memory"] = "memory"
    for fault, outcome in expected.items():
        assert worker.ask(Target(prepare_planted, run_planted, st.none()), fault)[0] == outcome, fault
    del expected["hang"], expected["crash"]  # each starts a new process
    result = fuzz("planted", Target(prepare_planted, run_planted, st.sampled_from(sorted(expected))), 30, worker)
    found = {example for _, example in result.faults.values()}
    assert found == {repr(fault) for fault in expected if fault not in ("fine", "clear")}
    assert result.counts["used"] > 0 < result.counts["clear error"] and "'bare'" in result.explanation()
