"""Numba's kernels as plain Python, NUMBA_DISABLE_JIT=1, and the page that walks through the model in a debugger."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}

STEP = """
import json, sys
import numpy as np
sys.path.insert(0, "tests")
from tiny_models import batch_of, losses_and_gradients, scene, tiny_model
from tinymrcnn.boxes.nms import nms_cpu
from tinymrcnn.models import TrainConfig
from tinymrcnn.training.trainer import make_optimizer, training_step

images, targets = batch_of(scene(1, (32, 48), ((4, 3, 20, 14), (20, 10, 44, 29))))
model, config = tiny_model(), TrainConfig(steps=10)
values, gradients = losses_and_gradients(model, (images, targets))
line = training_step(model, make_optimizer(model, config), 0, images, targets, config)
(found,) = model.eval()(images)
print(json.dumps({
    "kernel": type(nms_cpu).__name__,
    "losses": values,
    "gradients": {name: float(np.abs(gradient).sum()) for name, gradient in gradients.items()},
    "norm": line["gradient_norm"],
    "weights": float(sum(np.abs(p.data).sum() for p in model.parameters())),
    "found": {name: array.astype(float).sum() for name, array in found.items()},
}))
"""


def results(environment) -> dict:
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def test_kernels_as_plain_python_compute_the_same():
    """A forward pass, every gradient, an optimiser's step and a detection."""
    plain, compiled = results(PLAIN), results({**PLAIN, "NUMBA_DISABLE_JIT": "0"})
    assert (plain.pop("kernel"), compiled.pop("kernel")) == ("function", "CPUDispatcher")
    assert plain["found"]["boxes"] > 0
    for name, values in compiled.items():
        assert plain[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


def sessions() -> dict[str, list[tuple[str, str]]]:
    """{heading: what is typed at each prompt, and what the page says is printed}."""
    text = (ROOT / "lessons" / "debugging.md").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        lines = "".join(re.findall(r"```pdb\n(.*?)```", part, flags=re.DOTALL))
        typed = re.split(r"^\(Pdb\) ", lines, flags=re.MULTILINE)[1:]
        if typed:
            found[part.splitlines()[0]] = [tuple(entry.split("\n", 1)) for entry in typed]
    return found


def test_the_page_has_two_walks_and_says_what_every_print_prints():
    assert list(sessions()) == ["Detection", "A training step"]
    for entries in sessions().values():
        assert len(entries) > 20
        assert all(bool(printed.strip()) == typed.startswith("p ") for typed, printed in entries)


@pytest.mark.lessons
@pytest.mark.parametrize("heading", ["Detection", "A training step"])
def test_a_walk_goes_as_the_page_says(heading):
    entries = sessions()[heading]
    done = subprocess.run(
        [sys.executable, "lessons/step_through.py"], input="\n".join(typed for typed, _ in entries) + "\n", env=PLAIN,
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    answers = done.stdout.split("(Pdb) ")[1:]
    assert len(answers) >= len(entries), done.stderr
    for (typed, printed), answer in zip(entries, answers, strict=False):
        assert "***" not in answer, (typed, answer)
        assert not printed or answer == printed, typed


def test_the_names_to_stop_at_are_there():
    """Every function that a walk stops at can be named in the program, whose lines up to the stop are run here."""
    program = (ROOT / "lessons" / "step_through.py").read_text().partition("breakpoint()")[0]
    names: dict = {}
    exec(program.partition("model = ")[0], names)
    stops = [
        typed.split()[1].rstrip(",") for entries in sessions().values() for typed, _ in entries if "break" in typed
    ]
    assert len(stops) == 16
    for stop in stops:
        assert callable(eval(stop, names)), stop
