"""What people do on a GPU: commands, runs that move between devices, other streams, too little memory, two equal runs.

Each test runs on the imitation, where its numbers are the CPU's, and on a GPU where there is one (-m cuda)."""

import contextlib
import dataclasses
import functools
import json
import operator

import numpy as np
import pytest
from gpu_cases import BOUND, NMS_SIZES, REAL, SMALL, boxes_with_ties, cases, relative, result_and_gradients
from test_fake_training import BATCH, assert_same, train_and_detect
from test_models_presets import few_channels
from test_training import CONFIG, shapes
from tiny_models import scene, tiny_model

from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.bench.networks import Network, build_ours
from tinymrcnn.boxes import batched_nms
from tinymrcnn.cli import main
from tinymrcnn.commands import train as train_module
from tinymrcnn.data import ShapesDataset
from tinymrcnn.data.images import write_image
from tinymrcnn.evaluation import evaluate
from tinymrcnn.models.presets import get_config
from tinymrcnn.nn import SGD, AdamW
from tinymrcnn.ops import winograd
from tinymrcnn.settings import replace
from tinymrcnn.stopping import RunStopped, out_of_memory
from tinymrcnn.training import make_optimizer, read_log, train, trainer, training_step
from tinymrcnn.weights import load_checkpoint, load_model, save_checkpoint


@pytest.fixture(autouse=True)
def same_convolutions(monkeypatch):
    """Winograd's filtering runs on the CPU only, and rounds differently."""
    monkeypatch.setattr(winograd, "enabled", False)


def imitated(gpu) -> bool:
    return hasattr(gpu.cuda, "imitated")


# The commands

TINY = ["--steps", "2", "--batch-size", "2", "--set", "checkpoint_every=1"]
for _field in ("widths=(4,4,4,8)", "depths=(1,1,1,1)", "stem_width=4", "fpn_channels=8", "rpn_channels=8",
               "box_hidden=8", "mask_layers=(8,)", "rpn_samples=32", "box_samples=16"):  # fmt: skip
    TINY += ["--set", _field]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "TEST_IMAGES", 2)
    return tmp_path


def test_train_and_go_on(gpu, folder, capsys):
    assert main(["train", "--device", "cuda", "--out", "run", *TINY]) == 0
    assert "parameters) on the cuda: 2 steps" in capsys.readouterr().out
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert metrics["device"] == "cuda" and "segm/AP" in metrics["metrics"]
    assert main(["train", "--device", "cpu", "--out", "on_cpu", *TINY]) == 0
    for here, there in zip(*(read_log(folder / run / "log.jsonl") for run in ("run", "on_cpu")), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-3)
    assert main(["train", "--device", "cuda", "--resume", "run"]) == 0  # a finished run is evaluated again


def test_evaluate_and_predict(gpu, folder, capsys):
    """The trained model that comes with the package finds the same objects."""
    found = {}
    for device in ("cuda", "cpu"):
        assert main(["evaluate", "--device", device, "--images", "4", "--batch-size", "3", "--out", device]) == 0
        found[device] = json.loads((folder / device).read_text())
    assert found["cpu"]["segm/AP"] > 0.3
    assert found["cuda"] == pytest.approx(found["cpu"], abs=1e-6 if imitated(gpu) else 0.02)
    write_image("picture.png", ShapesDataset(1, seed=1)[0][0])
    for device in ("cuda", "cpu"):
        assert main(["predict", "picture.png", "--device", device, "--out", f"{device}_pictures"]) == 0
        found[device] = json.loads((folder / f"{device}_pictures/detections.json").read_text())
    for here, there in zip(*(found[device][:3] for device in ("cuda", "cpu")), strict=True):
        assert here["category_name"] == there["category_name"] and here["score"] > 0.5
        assert here["bbox"] == pytest.approx(there["bbox"], abs=0.1)


def test_bench_and_doctor(gpu, folder, capsys):
    assert main(["bench", "roi", "--quick", "--device", "cuda", "--out", "bench.json"]) == 0
    results = json.loads((folder / "bench.json").read_text())
    assert results["device"] == "cuda" and results["machine"]["gpu"] and len(results["rows"]) >= 8
    assert main(["doctor"]) == 0
    assert "RoIAlign runs, and is right" in capsys.readouterr().out


# Whole models


def test_a_step_with_momentum(gpu):
    on_gpu, on_cpu = (train_and_detect(tiny_model(), device, SGD, dtype=np.float64) for device in ("cuda", "cpu"))
    assert_same(on_gpu, on_cpu, 1e-9, 1e-9)


TINY_NETWORK = (few_channels("resnet"), (60, 90))


@pytest.mark.parametrize("preset", ["torchvision_resnet50_fpn", "paper_resnet50_c4"])
def test_full_size_presets(gpu, preset):
    """With random weights, damped as in the benchmarks, so that the numbers are those of a trained network. A detector
    is no continuous function of its weights: its maps are compared, and the losses on the same samples."""
    overrides, size = TINY_NETWORK if imitated(gpu) else ({"num_classes": 6}, (480, 640))
    overrides = {**overrides, "train_min_sizes": ()}
    config = replace(get_config(preset), **overrides)
    images, targets = [scene(1, size)[0]], [scene(1, size)[1]]
    found, samples = {}, None
    for device in ("cpu", "cuda"):
        model = build_ours(Network(config, size, None)).to(device).eval()
        batch = model.transform(images)
        maps = model.features(batch)
        outputs = model.run_rpn(maps, batch)
        samples = samples or model.draw_samples(images, targets)
        rois = [dataclasses.replace(s, boxes=to_device(to_numpy(s.boxes), device)) for s in samples.rois]
        losses = model.losses(images, targets, samples=dataclasses.replace(samples, rois=rois))
        found[device] = [*(m.data for m in maps), outputs.logits.data, outputs.deltas.data], losses, model(images)
    for here, there in zip(found["cuda"][0], found["cpu"][0], strict=True):
        assert relative(here, there) < 1e-4
    for name, loss in found["cpu"][1].items():
        assert found["cuda"][1][name].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-6), name
    (here,), (there,) = found["cuda"][2], found["cpu"][2]
    assert len(there["scores"]) > 0 and len(here["scores"]) == pytest.approx(len(there["scores"]), rel=0.1)
    np.testing.assert_allclose(here["scores"][:5], there["scores"][:5], atol=1e-3)


def test_two_runs_with_one_seed(gpu):
    """On the CPU they end with the same bits; on a GPU atomic additions come in any order. How far the runs part is
    printed (-s)."""

    def weights():
        model = tiny_model().to("cuda")
        model.categories = ShapesDataset.categories
        optimizer = make_optimizer(model, CONFIG)
        for step in range(5):
            line = training_step(model, optimizer, step, *BATCH, CONFIG)
        return line["loss"], model.state_dict()

    (loss, first), (again, second) = weights(), weights()
    apart = max(relative(second[name], array) for name, array in first.items() if array.any())
    print(f"Two runs of five steps: losses {loss} and {again}, weights apart by at most {apart:.1e} of their norm.")
    assert apart <= (0 if imitated(gpu) else 1e-2) and again == pytest.approx(loss, rel=1e-2)


def test_another_stream(gpu):
    """CuPy's operations and our kernels follow one another on the stream that is the current one."""
    expected = train_and_detect(tiny_model(), "cpu", SGD, dtype=np.float64)
    with gpu.cuda.Stream(non_blocking=True) as stream:
        found = train_and_detect(tiny_model(), "cuda", SGD, dtype=np.float64)
        stream.synchronize()
    assert_same(found, expected, 1e-9, 1e-9)
    if imitated(gpu):
        assert {number for _, number in gpu.cuda.launched} == {stream.ptr}


# Operators at the sizes of a full-size network


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", cases(*SMALL))
def test_operators_at_real_sizes(gpu, name, dtype):
    """256 channels of 200x272 cells and 512 RoIs; on the imitation, and in float64, fewer."""
    case = cases(*(REAL if dtype == np.float32 and not imitated(gpu) else SMALL))[name]
    expected, found = (result_and_gradients(case, device, dtype) for device in ("cpu", "cuda"))
    assert all(array.dtype == dtype for array in found)
    assert max(map(relative, found, expected)) < (case.bound if dtype == np.float32 else BOUND)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nms_with_ties(gpu, dtype):
    """Of equal scores the smaller index is the better one: within a block of 64 boxes, across blocks and groups."""
    for count, groups in NMS_SIZES:
        arrays = boxes_with_ties(count, groups, dtype)
        kept = batched_nms(*(to_device(array, "cuda") for array in arrays), 0.5)
        np.testing.assert_array_equal(to_numpy(kept), batched_nms(*arrays, 0.5))
        assert len(kept) < count or count == 1


# Runs that move


def stopped_at(monkeypatch, step):
    def stepped(model, optimizer, number, *rest):
        if number == step:
            raise ValueError("that is enough")
        return training_step(model, optimizer, number, *rest)

    monkeypatch.setattr(trainer, "training_step", stepped)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_moves_between_devices(gpu, tmp_path, monkeypatch, optimizer):
    """Two steps on the GPU, two on the CPU, two on the GPU: weights, running averages and batches go along."""
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr=1e-3)

    def run(folder, device, until=None, resume=True):
        stopped_at(monkeypatch, until)
        model = tiny_model(seed=3).to(device)
        with pytest.raises(RunStopped) if until else contextlib.nullcontext():
            train(model, shapes(), config, tmp_path / folder, resume=resume, progress=False)
        return load_checkpoint(tmp_path / folder / "checkpoint.npz")

    expected = run("alone", "cpu", resume=False)
    for device, until in (("cuda", 2), ("cpu", 4)):
        saved = run("moving", device, until, resume=until > 2)
        assert saved.environment["device"] == device and saved.step == until
    moved = run("moving", "cuda")
    assert moved.step == 6 and np.array_equal(moved.optimizer["steps"], expected.optimizer["steps"])
    rtol = 1e-3 if imitated(gpu) else 2e-2
    for name, array in expected.weights.items():
        assert relative(moved.weights[name], array) < rtol or not array.any(), name
    losses = [[line["loss"] for line in read_log(tmp_path / run / "log.jsonl")] for run in ("alone", "moving")]
    assert losses[1] == pytest.approx(losses[0], rel=rtol)


@pytest.mark.parametrize("kind", [AdamW, functools.partial(SGD, momentum=0.9)])
def test_the_state_of_an_optimiser_moves(gpu, kind):
    def stepped(model, optimizer, images, targets):
        optimizer.zero_grad()
        functools.reduce(operator.add, model(images, targets).values()).backward()
        optimizer.step()

    state, weights = None, tiny_model(dtype=np.float64).state_dict()
    expected = []
    for devices in (("cpu", "cpu", "cpu"), ("cuda", "cpu", "cuda")):
        state, here = None, weights
        for device in devices:
            model = tiny_model(seed=5, dtype=np.float64).to(device)
            model.load_state_dict(here)
            optimizer = kind(model.parameters(), 1e-3)
            if state:
                optimizer.load_state_dict(state)
            stepped(model, optimizer, *BATCH)
            state, here = optimizer.state_dict(), model.state_dict()
        expected.append({**here, **state})
    for name, array in expected[0].items():
        np.testing.assert_allclose(expected[1][name], array, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_model_saved_on_the_gpu_is_loaded_anywhere(gpu, tmp_path):
    model = tiny_model(seed=1)
    save_checkpoint(tmp_path / "m.npz", model.to("cuda"))
    for device in ("cpu", "cuda"):
        loaded = load_model(tmp_path / "m.npz", device)
        assert loaded.device == device
        for name, array in loaded.state_dict().items():
            np.testing.assert_array_equal(array, model.state_dict()[name])


# Too little memory


@pytest.fixture
def little_memory_on(gpu):
    """little_memory_on(): from now on the GPU has next to none."""
    pool = gpu.get_default_memory_pool()

    def limit():
        if imitated(gpu):
            gpu.ndarray.largest = 64
        else:
            pool.free_all_blocks()
            pool.set_limit(size=pool.used_bytes() + 1024)

    yield limit
    if imitated(gpu):
        gpu.ndarray.reset()
    else:
        pool.set_limit(size=0)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), True),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("Out of order"), False),
    ],
)
def test_errors_that_tell_of_too_little_memory(error, is_one):
    assert out_of_memory(error) is is_one


class Limited:
    """A data set, at whose image number `at` the memory ends."""

    categories = ShapesDataset.categories

    def __init__(self, limit, at):
        self.dataset, self.limit, self.left = shapes(), limit, at

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            self.limit()
        return self.dataset[index]


def test_training_says_which_batch_to_try(gpu, little_memory_on, tmp_path):
    with pytest.raises(RunStopped) as raised:
        train(tiny_model().to("cuda"), Limited(little_memory_on, 9), CONFIG, tmp_path / "run", progress=False)
    said = str(raised.value)
    assert "The memory does not suffice. Out of memory allocating" in said
    assert "2 images are too many for a step: start a new run with --batch-size 1, from what" in said
    assert "--weights" in said and "tinymrcnn train --resume" in said
    done = load_checkpoint(tmp_path / "run" / "checkpoint.npz").step
    assert done >= 1 and f"{done} of 6 steps are done and saved" in said


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [({"min_size": 80, "max_size": 100}, "start a new run with --set min_size=60"), ({}, "or --device cpu")],
)
def test_training_on_one_image_says_what_to_try(gpu, little_memory_on, tmp_path, overrides, advice):
    config = dataclasses.replace(CONFIG, batch_size=1)
    model = tiny_model(**overrides).to("cuda")
    with pytest.raises(RunStopped, match=f"One image is too large: .*{advice}"):
        train(model, Limited(little_memory_on, 1), config, tmp_path / "run", progress=False)


def test_evaluation_says_which_batch_to_try(gpu, little_memory_on):
    model = tiny_model().to("cuda")
    with pytest.raises(MemoryError, match="Out of memory.* 8 images at once are too many: try --batch-size 4"):
        evaluate(model, Limited(little_memory_on, 5), progress=False)


def test_evaluation_after_training_says_which_command_to_try(gpu, little_memory_on, tmp_path):
    held_out = Limited(little_memory_on, 9)  # behind the pictures of its first eight
    with pytest.raises(RunStopped, match=r"after the last step: .*tinymrcnn evaluate .*model.npz'? --batch-size 1"):
        train(tiny_model().to("cuda"), shapes(), CONFIG, tmp_path / "run", held_out, progress=False)


def test_prediction_says_what_to_try(gpu, little_memory_on, folder, capsys, monkeypatch):
    write_image("picture.png", shapes()[0][0])
    from tinymrcnn.commands import predict

    def reading(name, read=predict.read_image):
        little_memory_on()
        return read(name)

    monkeypatch.setattr(predict, "read_image", reading)
    assert main(["predict", "picture.png", "--device", "cuda"]) == 1
    said = capsys.readouterr().err
    assert "skipped: 'picture.png': The memory does not suffice. Out of memory allocating" in said
    assert "make it smaller, or use a machine with more memory, or --device cpu." in said
