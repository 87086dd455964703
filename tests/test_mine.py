"""Functions of a learner in the place of the package's: the right ones compute the same network, every wrong one is
refused, and afterwards everything is as before."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from operator_contract import is_channels_last
from tiny_models import batch_of, losses_and_gradients, scene, tiny_model

from tinymrcnn import cli, mine
from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import nms
from tinymrcnn.mine import REPLACEABLE, in_place
from tinymrcnn.mine.replacing import _is_right

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
ANSWERS = Path(__file__).resolve().parent / "lesson_answers"
SOLVED = LESSONS / "solutions" / "mine.py"
SCENES = scene(1), scene(2, (57, 80), ((30, 10, 60, 50),), (1,))


def answers():
    """(function, "right" or "wrong", which, code) of the lists of answers to the exercises, and of mine_answers.py.

    Left out: answers that call the package, or the lesson, since these do replace a function well."""
    for name, row in REPLACEABLE.items():
        lesson, _, exercise = row.exercise.partition(".")
        path = next(ANSWERS.glob(f"{lesson}_*.py")) if exercise else ANSWERS.parent / "mine_answers.py"
        parts = re.split(r"^# %% (\S+) (right|wrong): (.*)$", path.read_text(), flags=re.MULTILINE)[1:]
        for of, kind, which, code in zip(*(parts[i::4] for i in range(4)), strict=True):
            if of == (f"exercise-{exercise}" if exercise else name) and not re.search("package|lesson's own", which):
                yield name, kind, which, code


CASES = list(answers())


def test_the_list_is_that_of_the_file():
    """The shipped file has every function, empty, in the order of the list; the solved one has them all."""
    names = {"__name__": "mine"}
    exec((LESSONS / "mine.py").read_text(), names)
    functions = [name for name, value in names.items() if callable(value)]
    assert functions == list(REPLACEABLE) == list(mine.read(SOLVED))
    assert {name for name, *_ in CASES} == set(REPLACEABLE)
    for name in functions:
        assert not _is_right(name, names[name], "mine.py")


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:3]))
def test_an_answer(case):
    name, kind, _, code = case
    names = {"np": np, "math": math, "Tensor": Tensor}
    exec(code, names)
    if kind == "right":
        assert _is_right(name, names[name], "mine.py")
    else:
        with pytest.raises(ValueError, match=f"^{name} of 'mine.py' .lesson ..+ is not right yet. Case . of "):
            _is_right(name, names[name], "mine.py")


@pytest.fixture
def one(tmp_path):
    """A file with some of the solved functions: one("encode", ...)."""

    def write(*names):
        parts = re.split(r"(?=^def )", SOLVED.read_text(), flags=re.MULTILINE)
        chosen = [part for part in parts[1:] if re.match(r"def (\w+)", part).group(1) in names]
        path = tmp_path / "some.py"
        path.write_text("import math\nimport numpy as np\n\n\n" + "".join(chosen))
        return path

    return write


def found_by(model, *images):
    return [found for image in images for found in model.eval()([image])]


@pytest.mark.parametrize("names", [[name] for name in REPLACEABLE] + [list(REPLACEABLE)], ids=lambda n: "+".join(n[:2]))
def test_the_network_computes_the_same(one, names):
    def compute():
        model = tiny_model()
        values, gradients = losses_and_gradients(model, batch_of(*SCENES))
        return values, gradients, found_by(model, *batch_of(*SCENES)[0])

    expected = compute()
    with in_place(one(*names)):
        result = compute()
    assert result[0] == pytest.approx(expected[0], rel=1e-5)
    for name, gradient in expected[1].items():
        assert result[1][name].dtype == np.float32 and is_channels_last(result[1][name])
        assert np.abs(result[1][name] - gradient).max() <= 1e-4 * np.abs(gradient).max(), name
    for ours, theirs in zip(result[2], expected[2], strict=True):
        assert len(theirs["boxes"]) and ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            assert np.allclose(ours[name], array, rtol=1e-4, atol=1e-4), name


def test_they_are_called_and_then_everything_is_as_before(one, monkeypatch):
    before = {
        (module, name): value
        for module, content in sys.modules.items() if module.startswith("tinymrcnn.")
        for name, value in vars(content).items() if callable(value)
    }  # fmt: skip
    path = one("greedy_nms", "encode")
    monkeypatch.setattr(math, "calls", calls := [], raising=False)
    path.write_text(path.read_text().replace("    left, kept", "    math.calls.append(threshold)\n    left, kept"))
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9]])
    from tinymrcnn.boxes.nms import batched_nms
    from tinymrcnn.models import rpn

    theirs = rpn.survivors
    with in_place(path):
        assert rpn.survivors is not theirs
        calls.clear()  # of the check
        assert nms(boxes, np.array([0.5, 0.9]), 0.5).tolist() == [1]
        assert batched_nms(boxes, np.array([0.5, 0.9]), np.array([0, 1]), 0.5).tolist() == [1, 0]
        assert calls == [0.5, 0.5, 0.5]
    after = {
        (module, name): value
        for module, content in sys.modules.items() if module.startswith("tinymrcnn.")
        for name, value in vars(content).items() if callable(value) and (module, name) in before
    }  # fmt: skip
    assert after == before


def test_after_an_error_everything_is_as_before(one):
    from tinymrcnn.models import rpn

    theirs = rpn.survivors
    with pytest.raises(ZeroDivisionError), in_place(one("greedy_nms")):
        assert rpn.survivors is not theirs
        raise ZeroDivisionError
    assert rpn.survivors is theirs


@pytest.mark.parametrize(
    "code, message",
    [
        ("def f(:", "cannot be run: SyntaxError, .* in line 1"),
        ("x = 1\nraise KeyError('y')", "cannot be run: KeyError, 'y', in line 2"),
        ("x = 1", "holds none of the functions"),
        ("def rate(step, steps, warmup, peak): return None", "all of them are still empty"),
        ("def rate(step): return 1", r"Case 1 of 8, rate\(step=0, ...=50, ...=5, ...=0.001\), raises TypeError"),
        ("def rate(step, steps, warmup, peak):\n  return peak / 0", "raises ZeroDivisionError, .*, in line 2"),
        ("def rate(step, steps, warmup, peak):\n  return 'no'", "should give 0.0002 and gives 'no'"),
        ("def encode(gt, boxes): return gt[0, :2] * 0", r"should give \[\[.*\]\] and gives \[0., 0.\]"),
        ("one = np.ones\ndef encode(gt, boxes): return one(99)", r"should give the shape \(1, 4\) and gives \(99,\)"),
        ("def my_smooth_l1(d, beta): return d", "should give 2 arrays and gives"),
        ("def mirrored(boxes, width): return boxes * float('nan')", r"at index \(0, 0\) and gives nan"),
    ],
)  # fmt: skip
def test_messages(tmp_path, code, message):
    path = tmp_path / "mine.py"
    path.write_text(f"import numpy as np; {code}" if "np." in code else code)
    with pytest.raises(ValueError, match=message), in_place(path):
        pass


def test_the_table_says_whose_each_function_is(one, tmp_path):
    path = one("rate")
    path.write_text(path.read_text() + "\ndef mirrored(boxes, width): ...\n")
    with in_place(path) as table:
        rows = {line.split()[0]: line for line in table.splitlines()[2:]}
    assert table.startswith("1 of 14 functions are yours")
    assert rows.keys() == REPLACEABLE.keys()
    assert rows["rate"].endswith("yours, right in 8 cases")
    assert rows["mirrored"].endswith("the package's: still empty")
    assert rows["clipped"].endswith("the package's: not in the file")


def test_training_and_predicting_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = "rpn.channels=8 fpn.channels=8 widths=(4,4,8,8) mask.layers=(4,) mask.channels=4 box.hidden=8".split()
    settings = [word for pair in tiny for word in ("--set", pair)]
    few = ["--steps", "2", "--batch-size", "1", "--val-every", "0", "--quick", *settings]
    monkeypatch.setattr("tinymrcnn.commands.train.QUICK_TEST_IMAGES", 2)
    assert cli.main(["train", "--mine", str(SOLVED), "--out", "run", *few]) == 0
    assert "14 of 14 functions are yours" in capsys.readouterr().out
    assert cli.main(["evaluate", "run/model.npz", "--images", "2"]) == 0  # the model needs nothing of the file
    assert cli.main(["evaluate", "run/model.npz", "--images", "2", "--mine", str(SOLVED)]) == 0
    assert "14 of 14" in capsys.readouterr().out
    assert cli.main(["train", "--mine", str(SOLVED), "--device", "cuda"]) == 2
    assert cli.main(["train", "--mine", "nothing.py"]) == 2
    said = capsys.readouterr().err
    assert "leave out --device cuda" in said and "There is no file 'nothing.py'" in said
