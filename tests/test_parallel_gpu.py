"""Workers on GPUs, on a strict imitation of one: gradients and statistics are added where they are.

Between real GPUs this was never run. The other worker is a twin, which gives the same as the one that is looked at.
"""

import sys
import types

import fake_device as imitation
import numpy as np
import pytest
from tiny_models import batch_of, scene, tiny_model

from tinymrcnn.models import TrainConfig
from tinymrcnn.nn import BatchNorm2d
from tinymrcnn.training import make_optimizer, parallel, training_step

BATCH = batch_of(scene(1), scene(2))


class Twin:
    """An MPI communicator of two workers that always give the same, but for their GPUs."""

    rank, size, arrays = 0, 2, 0

    def __init__(self, other_gpu="b"):
        self.other_gpu = other_gpu

    def Dup(self):
        return self

    def allgather(self, gpu):
        return [gpu, gpu and self.other_gpu]

    def Allreduce(self, place, array):
        assert isinstance(array, np.ndarray)
        self.arrays += array.size > 20  # losses, counts and numbers of samples are fewer
        array *= 2


class NCCL:
    """cupyx.distributed, and the communicator that it gives."""

    def __init__(self):
        self.calls = []

    def init_process_group(self, n_devices, rank, *, backend="nccl", host=None, port=None, use_mpi=False):
        assert (n_devices, rank, use_mpi) == (2, 0, True)
        return self

    def all_reduce(self, in_array, out_array, op="sum", stream=None):
        for array in (in_array, out_array):
            assert type(array) is imitation.FakeArray and array.flags.c_contiguous
        out_array._host[...] = 2 * in_array._host
        self.calls.append(in_array.size)


@pytest.fixture
def nccl(fake_device, monkeypatch):
    found = NCCL()
    monkeypatch.setitem(sys.modules, "cupyx.distributed", found)
    monkeypatch.setattr(imitation.MODULE.cuda, "nccl", types.SimpleNamespace(available=True), raising=False)
    monkeypatch.setattr(fake_device, "device", types.SimpleNamespace(pci_bus_id="0000:01:00.0"), raising=False)
    monkeypatch.setattr(parallel, "_in_place", lambda: None)
    return found


def step(team, device="fake", sync_norm=False):
    """(line of the log, weights, running statistics, how often the host waited for the device) of one step."""
    model = tiny_model(norm="batch").to(device).to(dtype=np.float64).train()
    config = TrainConfig(batch_size=2, lr=1e-3)
    optimizer = make_optimizer(model, config)
    team.connect(model, sync_norm)
    before = imitation.FakeArray.waits
    line = training_step(model, optimizer, 0, *BATCH, config, team)
    waits = imitation.FakeArray.waits - before
    return line, *([v for n, v in model.state_dict().items() if ("running" in n) == which] for which in (0, 1)), waits


@pytest.mark.parametrize("sync_norm", [False, True])
def test_gradients_are_added_on_the_gpus(nccl, sync_norm):
    """With the same images twice the step is that of one worker, bit for bit: it is all divided by twice as much. The
    host waits no oftener."""
    communicator = Twin()
    line, weights, statistics, waits = step(parallel.Workers(communicator), sync_norm=sync_norm)
    expected = step(parallel.ALONE)
    assert {name: line[name] for name in line if "loss" in name or "norm" in name} == {
        name: value for name, value in expected[0].items() if "loss" in name or "norm" in name
    }
    assert all(np.array_equal(*pair) for pair in zip(weights, expected[1], strict=True))
    norms = [module for module in tiny_model(norm="batch").modules() if isinstance(module, BatchNorm2d)]
    assert len(nccl.calls) == 1 + 3 * len(norms) * sync_norm  # two sums forward, two together backward
    assert max(nccl.calls) > 10_000 and communicator.arrays == 0 and waits == expected[3]
    if not sync_norm:
        assert all(np.array_equal(*pair) for pair in zip(statistics, expected[2], strict=True))


@pytest.mark.parametrize("why", ["two workers have one GPU", "no NCCL"])
def test_else_they_are_added_on_the_host(nccl, why, monkeypatch):
    communicator = Twin()
    if why == "no NCCL":
        monkeypatch.setattr(imitation.MODULE.cuda.nccl, "available", False)
    else:
        communicator.allgather = lambda gpu: [gpu, gpu]
    _, weights, _, _ = step(parallel.Workers(communicator))
    assert nccl.calls == [] and communicator.arrays == 1
    assert all(np.array_equal(*pair) for pair in zip(weights, step(parallel.ALONE)[1], strict=True))


def test_on_the_cpu_nothing_is_connected(nccl):
    team = parallel.Workers(Twin())
    team.connect(tiny_model(), False)
    assert team.nccl is None
