"""`tinymrcnn bench --against`: the engines run our graph, are compared with ours, and are left out where they are not
installed."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.bench import against
from tinymrcnn.cli import main
from tinymrcnn.ops import conv2d, interpolate, max_pool2d, relu

pytest.importorskip("onnx", reason="onnx is not installed (pip install -e '.[bench]').")
ENGINES = [
    pytest.param(name, marks=[
        pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"{package}: pip install -e '.[bench]'"),
        *([] if name == "ort" else [pytest.mark.parity]),
    ])
    for name, package in against.PACKAGES.items()
]  # fmt: skip


def works(kind):
    return list(against.WORKS[kind](quick=True))


def bench(*options):
    return main(["bench", "--device", "cpu", "--threads", "1", "--quick", *options])


# The works and their graph


def test_the_works_are_what_their_names_say():
    work = next(iter(against.convolutions(quick=False)))
    assert work.name == "3x3 convolution, 256 channels, 100x136"
    assert work.image.shape == (1, 256, 100, 136) and work.ours()[0].shape == (1, 256, 100, 136)
    strided = works("conv")[2]
    assert strided.name.endswith("stride 2") and strided.ours()[0].shape[2:] == (5, 7)
    assert [array.shape[2:] for array in works("model")[0].ours()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_the_steps_are_the_graph():
    """Computed one after the other by our operators, they give what our layers give."""
    for work in (*works("conv"), works("model")[0]):
        maps = {"images": Tensor(work.image)}
        for step in against.steps(work.model):
            inputs, options = [maps[name] for name in step.inputs], step.options
            if step.kind == "Conv":
                weights = map(Tensor, step.constants)
                out = conv2d(*inputs, *weights, options["strides"][0], options["pads"][0])
            elif step.kind == "MaxPool":
                out = max_pool2d(*inputs, options["kernel_shape"][0], options["strides"][0], options["pads"][0])
            else:
                out = sum(inputs[1:], inputs[0]) if step.kind == "Add" else interpolate(*inputs, scale_factor=2)
            maps[step.output] = relu(out) if step.relu else out
        for name, expected in zip(against.outputs_of(work.model), work.ours(), strict=True):
            assert abs(maps[name].data - expected).max() < 1e-5 * abs(expected).max()


def test_the_files_for_ncnn(tmp_path):
    """Every map has one reader, and is written before it is read."""
    for work in (works("conv")[2], works("model")[0]):
        names = against.write_ncnn(work.model, tmp_path)
        magic, counts, *lines = (tmp_path / "net.param").read_text().splitlines()
        written, weights, relus = [], 0, 0
        for line in lines:
            kind, _, inputs, outputs, *rest = line.split()
            read, rest = rest[: int(inputs)], rest[int(inputs) :]
            for name in read:
                written.remove(name)
            written += rest[: int(outputs)]
            parameters = dict(part.split("=") for part in rest[int(outputs) :])
            relus += kind == "ReLU" or parameters.get("9") == "1"
            weights += int(parameters["6"]) + int(parameters["0"]) + 1 if kind == "Convolution" else 0
        assert magic == "7767517" and sorted(written) == sorted(names)
        assert counts.split()[0] == str(len(lines)) and relus == sum(step.relu for step in against.steps(work.model))
        assert (tmp_path / "net.bin").stat().st_size == 4 * weights


# The engines


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_computes_the_same(engine):
    for work in (*works("conv"), *works("model")):
        case = against.case_of(work, [engine], threads=1)
        assert list(case.sides) == ["ours", engine] and case.amount > 1e4
        assert float(case.note.split()[-1]) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_computes_something_else_is_not_timed(engine):
    work = works("conv")[0]
    other = dataclasses.replace(work, run=lambda x: [result * 1.001 for result in work.run(x)])
    with pytest.raises(RuntimeError, match=f"{engine} differs from ours by 1.0e-03 of the largest value"):
        against.case_of(other, [engine], threads=1)
    smaller = dataclasses.replace(work, run=lambda x: [result[:, :1] for result in work.run(x)])
    with pytest.raises(RuntimeError, match=f"{engine} computes maps of other sizes"):
        against.case_of(smaller, [engine], threads=1)


def test_nan_is_no_equal_result(monkeypatch):
    work = works("model")[0]
    maps = [array.copy() for array in work.ours()]
    maps[2][0, 0, 1, 1] = np.nan
    monkeypatch.setitem(against.ENGINES, "ort", lambda work, threads: lambda: maps)
    with pytest.raises(RuntimeError, match="ort differs from ours by nan"):
        against.case_of(work, ["ort"], threads=1)


# The command


def imitation(monkeypatch, **slower):
    """In the place of the engines some that compute what we do, as if they were installed."""
    for name in slower:
        monkeypatch.setitem(against.ENGINES, name, lambda work, threads: work.ours)
    monkeypatch.setattr(against, "installed", lambda engines: {name: "1.0" for name in engines if name in slower})


def test_the_table_and_the_json(monkeypatch, tmp_path, capsys):
    imitation(monkeypatch, ort=1, ncnn=2)
    out = tmp_path / "bench.json"
    assert bench("conv", "--against", "ort,ncnn,openvino", "--out", str(out)) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "Not installed, and left out: openvino (pip install -e '.[bench]')." in printed
    assert found["command"].startswith("tinymrcnn bench conv --against ort,ncnn,openvino --quick")
    assert found["engines"] == {"ort": "1.0", "ncnn": "1.0"} and found["clock"] == "processor time"
    assert len(found["rows"]) == 4 and found["not_measured"] == ["openvino"]
    for row in found["rows"]:
        medians = {side: timing["median"] for side, timing in row["sides"].items()}
        ratios = {side: medians["ours"] / medians[side] for side in ("ort", "ncnn")}
        assert row["ratios"] == pytest.approx(ratios) and row["ratio"] == max(ratios.values())
        best = max(ratios, key=ratios.get)
        (line,) = [line for line in printed.splitlines() if line.startswith(row["name"] + " ")]
        assert line.endswith(f"{best}, {ratios[best]:.2f}") and f"({ratios['ort']:.2f})" in line


def test_none_is_installed(monkeypatch, capsys):
    imitation(monkeypatch)
    assert bench("--against", "ort,ncnn") == 2
    assert "Not installed: ort, ncnn. In a clone: pip install -e '.[bench]'." in capsys.readouterr().err


def test_what_is_installed(monkeypatch):
    monkeypatch.setattr(against, "PACKAGES", {"ort": "no_such_package", "ncnn": "numpy"})
    assert against.installed(["ncnn", "ort"]) == {"ncnn": np.__version__}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--against", "ort,tvm"], "--against knows torch, ort, openvino, ncnn; 'tvm' is none of them."),
        (["roi", "--against", "ort"], "--against measures conv and model, or both: leave out 'roi'."),
        (["--against", "ort", "--tf32"], "inference on the CPU: leave out"),
        (["train", "--profile", "--against", "ort"], "inference on the CPU: leave out"),
    ],
)
def test_options_that_do_not_fit(capsys, options, message):
    assert bench(*options) == 2
    assert message in capsys.readouterr().err
