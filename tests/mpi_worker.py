"""Started by mpiexec from test_parallel.py: what several workers compute, against one with the whole batch."""

import os
import signal
import sys
import time

import numpy as np

from tinymrcnn.data import ShapesDataset
from tinymrcnn.models import TrainConfig, build_model
from tinymrcnn.training import make_optimizer, parallel, training_step, validation

IMAGES = 4
TEAM = parallel.workers()
SMALL = {
    "resnet.depths": (1, 1, 1, 1),
    "resnet.widths": (8, 8, 8, 16),
    "resnet.stem_width": 8,
    "resnet.norm": "group",
    "fpn.channels": 8,
    "rpn.channels": 8,
    "box.hidden": 16,
    "mask.layers": (8,),
    "mask.channels": 8,
}


# C4 has batch normalisation on RoIs too
C4 = {"resnet.norm": "batch", "backbone": "c4", "rpn.anchor_sizes": ((16, 32, 64),)}


def small_model(dtype, **changed):
    return build_model("shapes", seed=0, **SMALL | changed).to(dtype=dtype).train()


def step_of(team, dtype, config, changed):
    """(line of the log, gradient, weights, running statistics) after one step of this worker on its share."""
    model = small_model(dtype, **changed)
    team.connect(model, config.sync_norm)
    optimizer = make_optimizer(model, config)
    pairs = [ShapesDataset(IMAGES, (64, 96), seed=1)[i] for i in range(IMAGES)][team.share]
    images, targets = [image.astype(dtype) for image, _ in pairs], [target for _, target in pairs]
    line = training_step(model, optimizer, 0, images, targets, config, team)
    assert sorted(team.order) == [*range(len(team.order))] and (team is parallel.ALONE or len(team.order) > 10)
    team.average_statistics(model)
    statistics = [value.ravel() for name, value in model.state_dict().items() if "running" in name]
    return line, optimizer.flat["grad"].copy(), optimizer.flat["data"].copy(), np.concatenate([[0], *statistics])


def compare(dtype, tolerance, sync_norm=False, **changed):
    team, config = TEAM, TrainConfig(batch_size=IMAGES, clip_norm=0, lr=1e-3, sync_norm=sync_norm)
    assert team.size > 1
    parallel.BUCKET = 500  # so that there are many
    found, expected = step_of(team, dtype, config, changed), step_of(parallel.ALONE, dtype, config, changed)
    for name, value in expected[0].items():
        assert abs(found[0][name] - value) <= tolerance * max(1, abs(value)), (name, found[0][name], value)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * max(1, np.abs(theirs).max())
    for own in found[2:]:
        assert len(set(team.communicator.allgather(own.tobytes()))) == 1  # bit for bit
    print(f"worker {team.rank} of {team.size}: the same")


def validate():
    """A model's validation by all workers, and by the first alone: the same to the last bit."""
    team, model = parallel.workers(), small_model(np.float32)
    model.categories = ShapesDataset.categories
    held_out = ShapesDataset(11, (64, 96), seed=2)
    found = validation.validate(model, held_out, 4, team)
    assert model.training
    if team.first:
        expected = validation.validate(model, held_out, 4)
        assert found == expected and len(found) == 18, (found, expected)
        print("the same")


def fail(how):
    """One worker ends in some way; the others wait for it."""
    team = parallel.workers()
    parallel.HEARTBEAT, parallel.PATIENCE = 0.2, 3.0
    with parallel.watched(team):
        if team.rank == 1 and how == "error":
            raise ValueError("the picture cannot be read")
        if team.rank == 1 and how == "silence":
            print(f"silent: {os.getpid()}", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        if team.rank == 1 and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "slow":  # but alive
            time.sleep(2 * parallel.PATIENCE * (team.rank == 1))
        print(team.added([team.rank]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(np.float64, 1e-10)  # the gradients in the order of the layers
        compare(np.float32, 1e-4)  # and as they are ready
    elif sys.argv[1] == "normalise":
        for changed in ({"resnet.norm": "batch"}, C4):
            compare(np.float64, 1e-10, sync_norm=True, **changed)
            compare(np.float32, 1e-4, sync_norm=True, **changed)
    elif sys.argv[1] == "validate":
        validate()
    else:
        fail(sys.argv[1])
