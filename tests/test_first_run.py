"""The script for a first run on a GPU: without one it says so, and on the imitation it does all that it would do."""

import importlib.util
import json
import sys
from pathlib import Path

import gpu_cases
import pytest

from tinymrcnn.backend import cuda_problem
from tinymrcnn.ops import winograd

SCRIPT = Path(__file__).parent / "gpu" / "first_run.py"
TAKES_LONG = ("tests", "lessons")  # each runs pytest


@pytest.fixture(autouse=True)
def stays_as_it_was(monkeypatch):
    """A stage switches Winograd's way off for good."""
    monkeypatch.setattr(winograd, "enabled", winograd.enabled)


@pytest.fixture(scope="module")
def script():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("first_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def results(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.skipif(not cuda_problem(), reason="a GPU works here")
def test_without_a_gpu_every_stage_says_so(script, tmp_path, capsys):
    stages = [stage for stage in script.STAGES if stage != "environment"]
    assert script.main([*stages, "--here", "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert set(found) == set(stages)
    for result in found.values():
        assert result["ok"] is None and result["not_run"] == f"no GPU: not run. {cuda_problem()}"
    assert capsys.readouterr().out.count("no GPU: not run.") == len(stages)


def test_the_stages_on_the_imitation(script, gpu, tmp_path, monkeypatch):
    """All that runs in this process, at tiny sizes."""
    if not hasattr(gpu.cuda, "imitated"):
        pytest.skip("On a GPU the script itself is run.")
    monkeypatch.setattr(script, "said_by", lambda *command: [" ".join(command)])  # other processes have no imitation
    stages = [stage for stage in script.STAGES if stage not in TAKES_LONG]
    code = script.main([*stages, "--here", "--quick", "--device", "cuda", "--out", str(tmp_path)])
    found = results(tmp_path)
    problems = {name: result["problems"] for name, result in found.items() if name != "environment"}
    assert set(found) == set(stages) and not any(problems.values()), problems
    assert code == (0 if found["environment"]["ok"] else 1)  # where something is not installed
    assert all(result["device"] == "cuda" and result["gpu"] == "an imitation" for result in found.values())
    assert {"python", "packages", "first_cupy_kernel_seconds", "doctor"} <= set(found["environment"])

    rows = found["kernels"]["kernels"]
    assert set(rows) == set(gpu_cases.cases(*gpu_cases.SMALL))
    for row in rows.values():
        assert 0 <= row["float32"] < 1e-5 and 0 <= row["float64"] < 1e-12 and row["ms"]["ours"] > 0
    assert {"roi", "nms", "conv", "paste", "conv --tf32"} == set(found["bench"]["rows"])
    for row, tf32 in (("without_pasting", False), ("without_pasting_tf32", True)):  # after rows with TF32
        assert found["bench"][row]["ms"]["ours"] > 0 and found["bench"][row]["tf32"] is tf32
    networks = found["profile"]["networks"]
    assert len(networks) == 3 and all(network["our_launches"] > 20 for network in networks.values())
    assert found["profile"]["host_microseconds"]["a kernel of ours"]["host"] > 0
    assert len(found["memory"]["held_bytes"]) == 3
    train = found["train"]
    assert train["steps"] == 2 and set(train["evaluated"]) == set(train["metrics"]["metrics"])
    assert (tmp_path / "predictions.png").exists() and not (tmp_path / "shapes_run").exists()


def test_a_stage_that_fails_says_so_and_the_next_goes_on(script, tmp_path, monkeypatch, capsys):
    def kernels(notes):
        """Fails."""
        notes["before"] = 3
        raise ZeroDivisionError("a planted fault")

    monkeypatch.setitem(script.STAGES, "kernels", kernels)
    assert script.main(["kernels", "memory", "--here", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 1
    found = results(tmp_path)
    assert found["kernels"]["ok"] is False and found["kernels"]["before"] == 3
    assert found["kernels"]["problems"] == ["ZeroDivisionError: a planted fault"]
    assert "planted fault" in found["kernels"]["error"] and found["memory"]["ok"] is True
    assert "ZeroDivisionError: a planted fault" in capsys.readouterr().out


def test_a_kernel_that_is_wrong_is_a_problem(script, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_cases, "relative", lambda a, b: 2e-5)
    monkeypatch.setattr(gpu_cases, "cases", lambda *sizes, make=gpu_cases.cases: {"relu": make(*sizes)["relu"]})
    monkeypatch.setattr(gpu_cases, "NMS_SIZES", ())
    assert script.main(["kernels", "--here", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 1
    problems = results(tmp_path)["kernels"]["problems"]
    assert problems == [f"relu in {dtype} is 2.0e-05 away from the CPU's." for dtype in ("float32", "float64")]


def test_a_stage_that_takes_too_long_is_ended(script, tmp_path):
    assert script.main(["kernels", "--quick", "--device", "cpu", "--minutes", "0.002", "--out", str(tmp_path)]) == 1
    assert results(tmp_path)["kernels"]["problems"] == ["The process ended with no time left."]


def test_a_stage_in_a_process_of_its_own(script, tmp_path):
    arguments = ["tests", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert script.main(arguments) == 0
    found = results(tmp_path)["tests"]
    assert found["exit_code"] == 0 and found["passed"] + found["skipped"] >= 2 and found["failed"] == []
    assert found["command"] == "pytest -m cuda tests/test_nms.py"
