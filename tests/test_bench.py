"""The benchmarks: their arithmetic, the clock, what they count, the profile, the memory of a child process, and the
command with its table and JSON. No test asserts how fast anything is."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from tinymrcnn import nn, ops
from tinymrcnn.autograd import Tensor
from tinymrcnn.backend import cuda_problem
from tinymrcnn.bench import against, measure, memory, profile, report
from tinymrcnn.bench.cases import Case, conv_operations, random_boxes
from tinymrcnn.bench.measure import Setting, Timing
from tinymrcnn.bench.networks import build_ours, build_theirs, make_side, network_cases, networks
from tinymrcnn.bench.watch import counting_operations, python_calls, replaced
from tinymrcnn.cli import main
from tinymrcnn.commands import bench as command
from tinymrcnn.threads import get_num_threads

ALONE = Setting("cpu", torch=None, quick=True)
SHAPES = "shapes training step, batch 8, 128x128"
R50 = "R50-FPN inference, 800x1088"


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(measure, "import_torch", lambda device, tf32=False: None)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it: clock.tick(seconds)."""

    class Clock:
        now = 100.0

        def tick(self, seconds):
            self.now += seconds

        def perf_counter(self):
            return self.now

        def sleep(self, seconds):
            self.now += 1000.0  # a pause that was measured would be seen

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(profile, "time", clock)
    return clock


def row_of(name, unit="FLOP", amount=6e9, quick=False, **seconds):
    """The row of a case whose sides took these seconds."""
    timings = {side: Timing(value, value / 2, value * 2, 5) for side, value in seconds.items()}
    case = Case(name, amount, unit, dict.fromkeys(seconds), "a note")
    return report.time_row(case, timings, {"GFLOP/s": 200.0, "GB/s": 20.0}, "cpu", quick)


# The report


def test_a_row_holds_rate_fraction_ratio_and_goal():
    row = row_of("NMS of 2,000 boxes", ours=0.3, torchvision=0.4)
    assert row["rate"] == pytest.approx(20.0) and row["rate_unit"] == "GFLOP/s"
    assert row["of_ceiling"] == pytest.approx(0.1)
    assert row["ratio"] == pytest.approx(0.75)
    assert (row["must"], row["aim"], row["verdict"]) == (1.0, 0.5, "must")
    assert row["sides"]["ours"] == {"median": 0.3, "fastest": 0.15, "slowest": 0.6, "repeats": 5}
    assert row["note"] == "a note" and row["amount"] == 6e9


def test_bytes_are_measured_against_the_copy():
    row = row_of("NMS of 2,000 boxes", unit="B", amount=3e9, ours=0.5)
    assert row["rate"] == pytest.approx(6.0) and row["rate_unit"] == "GB/s"
    assert row["of_ceiling"] == pytest.approx(0.3)


def test_ours_is_compared_with_the_fastest_of_the_others():
    row = row_of("NMS of 2,000 boxes", ours=0.2, torch=0.8, other=0.5)
    assert row["ratio"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    "ratio, goal, expected",
    [
        (0.5, (1.0, 0.5), "aim"),
        (0.51, (1.0, 0.5), "must"),
        (1.0, (1.0, 0.5), "must"),
        (1.01, (1.0, 0.5), "missed"),
        (0.1, None, ""),
        (None, (1.0, 0.5), "not measured"),
        (None, None, "not measured"),
    ],
)
def test_verdict(ratio, goal, expected):
    assert report.verdict(ratio, goal) == expected


def test_what_was_not_measured_is_called_so():
    row = row_of("NMS of 2,000 boxes", ours=0.3)
    assert row["ratio"] is None and row["verdict"] == "not measured"
    (line,) = report.table_lines(row)
    assert line.count("not measured") == 2  # the other side, and the verdict
    row = report.memory_row("x", {"ours": None, "torchvision": None}, "cpu")
    assert row["ratio"] is None and row["verdict"] == "not measured"
    (line,) = report.table_lines(row)
    assert line.count("not measured") == 3


def test_a_quick_run_is_not_judged():
    row = row_of("NMS of 2,000 boxes", quick=True, ours=0.3, torchvision=0.4)
    assert row["must"] is None and row["verdict"] == ""


def test_memory_row():
    sides = {
        "ours": {"peak": 3_000_000_000, "after_imports": 1},
        "torchvision": {"peak": 4 * 10**9, "after_imports": 2},
    }
    row = report.memory_row(SHAPES, sides, "cpu")
    assert row["name"] == SHAPES + ", peak memory" and row["measure"] == "bytes"
    assert row["ratio"] == pytest.approx(0.75)
    assert (row["must"], row["aim"], row["verdict"]) == (0.6, 0.5, "missed")
    (line,) = report.table_lines(row)
    assert "3.000 GB" in line and "4.000 GB" in line and "0.750" in line


def test_the_lines_of_a_row():
    first, second = report.table_lines(row_of("NMS of 2,000 boxes", ours=0.0123, torch=1.5, other=0.5))
    assert "12.3 ms ±75%" in first and "1.500 s ±75%" in first and first.endswith("aim")
    assert "500 ms" in second and second.endswith("(other)")
    assert "0.025" in first and "244 %" in first


def test_every_row_has_its_goal_and_every_goal_its_row():
    names = [case.name for cases in command.OPERATORS.values() for case in cases(ALONE)]
    networks = [name for training in (False, True) for name, _ in network_cases(ALONE, training)]
    names += networks + [name + report.MEMORY for name in networks] + [*against.CONVOLUTIONS, *against.BODIES]
    assert sorted(names) == sorted(report.GOALS["cpu"])
    assert set(report.GOALS["cuda"]) <= set(names)
    assert all(0 < aim < must for goals in report.GOALS.values() for must, aim in goals.values())


# What is counted


def test_operations_of_a_convolution():
    # every output of 7 x 11 pixels and 3 channels takes 2 * 5 * 9 multiplications and additions
    assert conv_operations((3, 5, 3, 3), (7, 11)) == 7 * 11 * 3 * 2 * 45 == 20_790


def test_amounts_of_the_cases():
    amounts = {case.name: (case.amount, case.unit) for cases in command.OPERATORS.values() for case in cases(ALONE)}
    features, pooled = 8 * 20 * 27, 8 * 8 * 49
    assert amounts["RoIAlign 7x7 forward"] == (4 * (features + pooled), "B")
    assert amounts["RoIPool 7x7 backward"] == (4 * (features + 2 * pooled), "B")  # with the argmax
    assert amounts["3x3 convolution, 256 channels, 100x136, forward"] == (2 * 16 * 16 * 9 * 130, "FLOP")
    both = "1x1 convolution, 64 to 512 channels, 100x136, forward + backward"
    assert amounts[both] == (3 * 2 * 4 * 32 * 130, "FLOP")
    assert amounts["pasting 100 masks into 800x1088"] == (4 * (5 * 28 * 28 + 5 * 60 * 80), "B")


def operations(work):
    with counting_operations() as count:
        work()
        return count()


@pytest.mark.parametrize(
    "trained, passes", [((False, False), 1), ((False, True), 2), ((True, False), 2), ((True, True), 3)]
)
def test_counted_operations(trained, passes):
    def tensors(*shapes):
        return [Tensor(np.ones(shape, np.float32), flag) for shape, flag in zip(shapes, trained, strict=True)]

    def backward(out):
        if any(trained):
            out.sum().backward()

    image, weight = (2, 5, 6, 8), (3, 5, 3, 3)
    out = 2 * 3 * 3 * 4  # 2 images, 3 channels, stride 2
    assert operations(lambda: backward(ops.conv2d(*tensors(image, weight), stride=2, padding=1))) == passes * out * 90
    assert operations(lambda: backward(ops.linear(*tensors((7, 5), (3, 5))))) == passes * 7 * 3 * 10
    image, weight = (2, 5, 6, 8), (5, 3, 2, 2)
    transposed = 2 * 5 * 6 * 8 * 2 * 12  # every element of the input meets one filter of 3 x 2 x 2
    assert operations(lambda: backward(ops.conv_transpose2d(*tensors(image, weight), stride=2))) == passes * transposed


def test_operations_of_an_inference_are_those_of_its_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert operations(lambda: model(Tensor(np.ones((1, 3, 5, 7), np.float32)))) == 35 * (2 * 4 * 27 + 2 * 2 * 4)


def test_random_boxes_lie_in_the_image():
    boxes = random_boxes(np.random.default_rng(0), 500, (60, 90), 4, 40)
    assert boxes.shape == (500, 4) and boxes.dtype == np.float32
    assert (boxes >= 0).all() and (boxes <= (90, 60, 90, 60)).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


# The clock


def test_the_sides_take_turns(clock):
    calls = []

    def side(name, seconds):
        def work():
            calls.append(name)
            clock.tick(next(seconds))

        return work

    times = {"ours": itertools.cycle([1.0, 4.0, 2.0]), "torch": itertools.repeat(8.0)}
    found = measure.time_sides({name: side(name, seconds) for name, seconds in times.items()}, Setting("cpu", None), 1)
    # to warm up, and then, each time after the same work, to see how long it takes, and three repeats
    assert calls == ["ours", "torch"] + ["ours", "ours", "torch", "torch"] * 4
    assert found == {"ours": Timing(2.0, 1.0, 4.0, 3), "torch": Timing(8.0, 8.0, 8.0, 3)}


def test_fast_sides_are_repeated_more_often(clock):
    found = measure.time_sides({"ours": lambda: clock.tick(0.125)}, Setting("cpu", None), seconds=1)
    assert found["ours"].repeats == 8
    found = measure.time_sides({"ours": lambda: clock.tick(1e-4)}, Setting("cpu", None), seconds=1)
    assert found["ours"].repeats == measure.REPEATS[1]
    assert measure.time_sides({"ours": lambda: clock.tick(1e-4)}, ALONE)["ours"].repeats == measure.REPEATS[0]


def test_all_run_on_the_same_threads_and_get_their_own_back():
    before = get_num_threads()
    with pytest.raises(ZeroDivisionError), measure.same_threads(1):
        assert get_num_threads() == 1
        raise ZeroDivisionError
    assert get_num_threads() == before


@pytest.mark.parametrize("count", [0, -1, 10_000])
def test_an_impossible_number_of_threads(count):
    with pytest.raises(ValueError, match=f"cannot run on {count} threads"), measure.same_threads(count):
        pass


def test_ceilings():
    found = measure.ceilings(ALONE)
    assert set(found) == {"GFLOP/s", "GB/s"} and all(0 < rate < 1e6 for rate in found.values())


# Watching the engine


def test_replaced_gives_back_what_was_there():
    class Thing:
        def call(self):
            return "class"

    thing = Thing()
    with replaced(thing, "call", lambda: "other"):
        assert thing.call() == "other"
    assert thing.call() == "class" and vars(thing) == {}
    thing.call = lambda: "own"
    with pytest.raises(ZeroDivisionError), replaced(thing, "call", lambda: "other"):
        raise ZeroDivisionError
    assert thing.call() == "own"


# The profile


def test_every_moment_is_booked_once(clock):
    laps = profile.Laps()
    clock.tick(1)
    laps.lap("waiting", profile.REST)

    class Owner:
        def outer(self):
            clock.tick(4)
            self.inner()
            laps.watch("relu", None, (), Owner.inner)  # an operator in a span is a part of it
            return "result"

        def inner(self):
            clock.tick(8)

    owner = Owner()
    with laps.span(owner, "outer", "outer"), laps.span(owner, "inner", "inner"):
        clock.tick(2)
        assert owner.outer() == "result"
        clock.tick(16)
        owner.inner()
    clock.tick(32)
    laps.lap("waiting", profile.REST)
    booked = {name: seconds for (name, _), seconds in laps.seconds.items()}
    assert booked == {"waiting": 33, profile.BETWEEN: 18, "outer": 12, "inner": 8}
    assert laps.total == sum(booked.values()) == 71
    assert laps.calls["waiting", profile.REST] == 2
    laps.restart()
    assert laps.total == 0 and not laps.seconds


def test_operators_are_booked_forward_and_backward(clock):
    laps = profile.Laps()
    shape = (4, 3, 5, 7)
    parents = (Tensor(np.zeros((1, 3, 9, 9), np.float32)), Tensor(np.zeros(shape, np.float32)))

    def backward(grad, needs):
        clock.tick(5)
        return grad

    clock.tick(3)
    timed = laps.watch("conv2d", None, parents, backward)
    clock.tick(2)
    assert timed("gradient", ()) == "gradient"
    assert dict(laps.seconds) == {
        ("conv2d 5x7", "forward"): 3, ("conv2d 5x7", "backward"): 5, (profile.ENGINE, "rest"): 2,
    }  # fmt: skip


def test_the_rows_of_a_profile_add_up_to_the_step(monkeypatch):
    totals = []

    def rows_of(laps, steps):
        totals.append(laps.total / steps)
        return profile_rows(laps, steps)

    profile_rows = profile.rows_of
    monkeypatch.setattr(profile, "rows_of", rows_of)
    monkeypatch.setattr(profile, "WARM_UP", 1)
    rows = profile.profile_training(networks(quick=True)[SHAPES], ALONE, steps=2)
    assert sum(row.seconds for row in rows) == pytest.approx(totals[0], rel=1e-9)
    found = {row.name: row for row in rows}
    for name in ("conv2d 3x3", "conv2d 1x1", "conv_transpose2d", "linear", "batch_norm", "relu", "cross_entropy"):
        assert found[name].forward > 0 and found[name].backward > 0 and found[name].rest == 0
    for name in (
        "images to a batch", "anchors", "proposals and their suppression", "targets of the RPN", "targets of the RoIs",
        "targets of the masks", "clipping the gradient", "optimiser", "waiting for the next batch", profile.ENGINE,
        profile.BETWEEN,
    ):  # fmt: skip
        assert found[name].rest > 0 and found[name].forward == found[name].backward == 0
    assert found["conv2d 7x7"].calls == found["optimiser"].calls == 1  # a step
    assert found[profile.CALLS].calls > 5000 and found[profile.CALLS].seconds == 0


def test_the_calls_of_python_functions_are_counted():
    def inner(index):
        return index + 1

    def outer():
        return list(map(inner, range(5))), max(range(3))

    threads = get_num_threads()
    assert python_calls(outer) == 6  # what is written in C does not count
    with pytest.raises(ZeroDivisionError):
        python_calls(lambda: 1 // 0)
    assert sys.getprofile() is None and get_num_threads() == threads


def test_the_table_and_the_picture_of_a_profile():
    rows = [
        profile.ProfileRow("conv2d 3x3", 2, forward=0.030, backward=0.050),
        profile.ProfileRow("optimiser", 1, rest=0.020),
    ]
    table = profile.profile_table("a title", rows).splitlines()
    assert table[0] == "a title"
    assert table[2].split() == "conv2d 3x3 2 30.00 ms 50.00 ms 80.00 ms 80.0 %".split()
    assert table[3].split() == "optimiser 1 20.00 ms 20.0 %".split()
    assert table[4].split() == "the whole step 30.00 ms 50.00 ms 100.00 ms 100.0 %".split()
    figure = profile.draw_profile({"one": rows, "two": rows[:1]})
    bars = [sum(bar.get_width() for bar in axes.patches) for axes in figure.axes]
    assert bars == pytest.approx([100.0, 80.0])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one: 100 ms a step", "two: 80 ms a step"]


# Networks


def test_our_networks_do_the_work_that_they_are_measured_for():
    found = networks()
    assert [network.size for network in found.values()] == [(800, 1088), (800, 1088), (128, 128)]
    assert [network.train and network.train.batch_size for network in found.values()] == [None, 1, 8]
    assert all(not network.config.pooler.aligned for network in found.values())
    r50 = networks()[R50].config.resnet
    assert (r50.depths, r50.widths, r50.block, r50.norm) == ((3, 4, 6, 3), (64, 128, 256, 512), "bottleneck", "frozen")
    model = build_ours(networks(quick=True)["R50-FPN training step, one image 800x1088"])
    frozen = {name.split(".")[2] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.parametrize("name", networks())
def test_a_side_runs_and_leaves_the_weights_as_they_are(name):
    network = networks(quick=True)[name]
    run = make_side("ours", network, ALONE)
    first = run()
    assert run() == first  # the same work again
    assert 0 < first["RoIs"] <= network.config.rpn.post_nms_test
    if network.train is None:
        assert first["mask RoIs"] == first["detections"] > 0


# Memory


def test_resident_memory_grows_with_what_is_held(monkeypatch, tmp_path):
    """The two fields of /proc/self/status are read, in kB."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    memory.STATUS.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\n")
    assert (memory.resident("VmRSS"), memory.resident("VmHWM")) == (2000 * 1024, 3000 * 1024)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="only Linux tells a process's memory in /proc")
def test_memory_of_a_child_process():
    found = memory.measure_memory(SHAPES, "ours", ALONE, threads=1)
    assert set(found) == {"peak", "after_imports"}
    assert 1e6 < found["peak"] < 1e9 and 1e7 < found["after_imports"] < 2e9
    with pytest.raises(RuntimeError, match="memory of 'no such row'.*\n(.*\n)*.*KeyError"):
        memory.measure_memory("no such row", "ours", ALONE, threads=1)


def test_memory_is_not_measured_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.measure_memory(SHAPES, "ours", ALONE, threads=1) is None


# The command


def test_bench_prints_a_table_and_writes_json(without_torch, tmp_path, capsys):
    out = tmp_path / "results" / "bench.json"
    assert main(["bench", "nms", "--quick", "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Ours is measured alone" in printed and "not measured" in printed and "tiny sizes" in printed
    found = json.loads(out.read_text())
    assert found["command"] == "tinymrcnn bench nms --quick --device cpu --threads 1"
    assert {"date", "device", "machine", "threads", "quick", "versions", "ceilings", "rows", "not_measured"} < set(
        found
    )
    assert found["threads"] == found["versions"]["blas_threads"] == found["versions"]["numba_threads"] == 1
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"]
    assert found["versions"]["blas_kernels"] and found["versions"]["torch"] is None
    assert [row["name"] for row in found["rows"]] == ["NMS of 2,000 boxes", "NMS of 12,000 boxes"]
    for row in found["rows"]:
        seconds = row["sides"]["ours"]
        assert 0 < seconds["fastest"] <= seconds["median"] <= seconds["slowest"] and seconds["repeats"] >= 3
        assert row["rate"] == pytest.approx(row["amount"] / seconds["median"] / 1e9)
        assert row["of_ceiling"] == pytest.approx(row["rate"] / found["ceilings"][row["rate_unit"]])
        assert row["name"] in printed and row["ratio"] is None and row["verdict"] == "not measured"


def test_the_evaluator_beside_pycocotools(without_torch, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", "evaluate", "--quick", "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    names = [f"COCO metrics of {what}, 1,000 images" for what in ("boxes", "masks")]
    assert [row["name"] for row in rows] == names and report.GOALS["cpu"].keys() >= set(names)
    for row in rows:
        medians = {side: seconds["median"] for side, seconds in row["sides"].items()}
        assert list(medians) == ["ours", "pycocotools"] and row["amount"] > 1000
        assert row["ratio"] == pytest.approx(medians["ours"] / medians["pycocotools"])


def test_profile_writes_table_json_and_picture(without_torch, tmp_path, capsys):
    out = tmp_path / "profile.json"
    assert main(["bench", "train", "--profile", "--quick", "--device", "cpu", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert list(found["profiles"]) == ["R50-FPN training step, one image 800x1088", SHAPES]
    for title, rows in found["profiles"].items():
        assert title in printed and rows[0].keys() == {"name", "calls", "forward", "backward", "rest"}
        assert all(row["name"] in printed for row in rows)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_where_results_are_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")

    (tmp_path / "results").mkdir()
    figure = profile.draw_profile({"t": [profile.ProfileRow("x", 1, rest=1.0)]})
    for group, device, profiled, drawn in (
        ("all", "cpu", False, None), ("roi", "cuda", False, None), ("train", "cpu", True, figure),
    ):  # fmt: skip
        path = command._results_file(group, device, profiled, False, None)
        command._save(path, {"a": group}, drawn)
    command._save(command._results_file("all", "cpu", False, True, None), {"a": 4})
    assert "Nothing is saved" in capsys.readouterr().out
    kept = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert kept == ["bench_cpu.json", "bench_cuda_roi.json", "profile_cpu.json", "profile_cpu.png"]
    assert json.loads((tmp_path / "results" / "profile_cpu.json").read_text()) == {"a": "train"}
    monkeypatch.setattr(command, "RESULTS", tmp_path / "none")
    monkeypatch.chdir(tmp_path)  # as an installed package is used, outside of a clone
    assert str(command._results_file("all", "cpu", False, False, None)) == "bench_cpu.json"


@pytest.mark.parametrize(
    "options, message",
    [
        (["roi", "--profile"], "--profile goes with the training steps"),
        (["nms", "--threads", "0"], "cannot run on 0 threads"),
        (["conv", "--tf32"], "--tf32 is for products on a GPU, and this run is on 'cpu'"),
    ],
)
def test_options_that_do_not_fit(without_torch, capsys, options, message):
    assert main(["bench", *options, "--quick", "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(cuda_problem() is None, reason="a GPU is here")
def test_without_a_gpu_a_sentence_says_so(capsys):
    assert main(["bench", "--quick", "--device", "cuda"]) == 2
    assert "The device 'cuda' cannot be used." in capsys.readouterr().err


def test_torch_is_imported_only_to_compare():
    code = "import sys, tinymrcnn.commands.bench; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Beside torchvision


@pytest.mark.parity
@pytest.mark.parametrize("group", ["roi", "conv", "nms", "paste"])
def test_operators_beside_torch(group, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", group, "--quick", "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["versions"]["torch"] and found["versions"]["torchvision"]
    for row in found["rows"]:
        medians = {side: seconds["median"] for side, seconds in row["sides"].items()}
        assert list(medians)[0] == "ours" and len(medians) == (3 if group == "conv" else 2)
        assert row["ratio"] == pytest.approx(medians.pop("ours") / min(medians.values()))


@pytest.mark.parity
def test_both_sides_of_an_operator_compute_the_same():
    torch = pytest.importorskip("torch")
    setting = Setting("cpu", torch, quick=True)
    for group, rtol in (("roi", 1e-5), ("conv", 1e-4), ("nms", 0)):
        for case in command.OPERATORS[group](setting):
            ours, *others = (work() for work in case.sides.values())
            for theirs in others:
                parts = [(ours, theirs)] if not isinstance(theirs, tuple) else zip(ours, theirs, strict=True)
                for a, b in parts:
                    a, b = np.asarray(getattr(a, "data", a)), b.detach().numpy()
                    assert a.shape == b.shape
                    assert abs(a - b).max() <= rtol * abs(b).max(), case.name


@pytest.mark.parity
@pytest.mark.parametrize("name", networks())
def test_networks_beside_torchvision(name, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    setting = Setting("cpu", torch, quick=True)
    network = networks(quick=True)[name]
    with measure.same_threads(1, torch):
        assert torch.get_num_threads() == 1
        (build,) = [build for row, build in network_cases(setting, network.train is not None) if row == name]
        case = build()
        assert list(case.sides) == ["ours", "torchvision"] and case.amount > 1e6
        ours, theirs = (side.partition(": ")[2] for side in case.note.split("; "))
        assert ours == theirs and "RoIs" in ours  # as many reach the heads on both sides
        peak = memory.measure_memory(name, "torchvision", setting, threads=1)["peak"]
        assert 1e6 < peak < 1e9


@pytest.mark.parity
def test_the_two_networks_find_the_same(monkeypatch):
    torch = pytest.importorskip("torch")
    network = networks(quick=True)[R50]
    images, _ = network.batch()
    ours, theirs = build_ours(network), build_theirs(network.config, network.size).eval()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()}, strict=True)
    monkeypatch.setattr(ops.winograd, "enabled", False)
    (found,) = ours(images)
    with torch.inference_mode():
        (expected,) = theirs([torch.from_numpy(image) for image in images])
    assert len(found["boxes"]) > 10
    for name in ("boxes", "scores"):
        assert np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
    assert (found["labels"] == expected["labels"].numpy()).all()


@pytest.mark.parity
def test_r50_is_torchvisions_own():
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchvision").models.detection
    config = networks()[R50].config
    with torch.device("meta"):
        theirs = build_theirs(config, (800, 1088))
        backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None)
        original = detection.MaskRCNN(backbone, 91)
    shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in (theirs, original)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 300
