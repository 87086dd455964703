"""Data-parallel training: several processes, the workers, share every batch, as the article trains on 8 GPUs.

    mpiexec -n 4 tinymrcnn train ...

Every worker holds the whole model and computes the gradient of its share of the batch. A loss is a sum over what it
looks at, divided by a count: both are added over the workers before the division, and so are the gradients. So the step
is that of one process with the whole batch, and every worker takes it for itself: their weights stay equal, bit for
bit. The gradients travel in buckets while the backward pass is still running (Li et al., PyTorch Distributed,
VLDB 2020, section 3.2).

Where images are only looked at, in a validation, `tinymrcnn evaluate` and `tinymrcnn predict`, every worker takes its
share of them, and the first one gets what the others find, in the order of the images.

This is the one file that knows of MPI, through mpi4py, and of NCCL, through CuPy. The first worker alone writes the
files of a run, and prints.
"""

import collections
import contextlib
import importlib
import itertools
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module, like, to_numpy
from tinymrcnn.files import told
from tinymrcnn.models import TrainConfig
from tinymrcnn.models.two_stage import LossSums
from tinymrcnn.nn import BatchNorm2d

# What the usual launchers tell a process of its job: how many processes there are
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
BUCKET = 1 << 20  # numbers of a gradient that travel together, at least
HEARTBEAT, PATIENCE = 2.0, 40.0  # seconds between two signs of life, and without one until a worker counts as lost


class Workers:
    """The workers of a run. communicator: of mpi4py; None for a process alone, for which every method is the identity.

    rank: this worker's number, from 0. size: how many there are. first: whether it is the one that writes."""

    def __init__(self, communicator: Any = None) -> None:
        self.communicator = communicator
        self.rank = communicator.rank if communicator else 0
        self.size = communicator.size if communicator else 1
        self.first = self.rank == 0
        self.nccl: Any = None  # see connect()
        self.order: list[int] = []  # in which the gradients are sent, see _Buckets

    @property
    def share(self) -> slice:
        """Which are this worker's of things that are shared: the images of a batch, say."""
        return slice(self.rank, None, self.size)

    def added(self, numbers: Sequence[float]) -> list[float]:
        """The sum over all workers of each number."""
        if not self.communicator:
            return list(numbers)
        total = np.array(numbers, np.float64)
        self.communicator.Allreduce(_in_place(), total)
        return total.tolist()

    def any(self, number: int | None) -> int:
        """The largest that any worker gives; None counts as 0."""
        return max(self.gathered(number or 0))

    def counted(self, sums: LossSums) -> LossSums:
        """The sums with the counts of all workers: divided by these, the losses of the workers add up to the loss of
        the whole batch, and so do their gradients."""
        counts = self.added([count for _, count in sums.values()])
        return {name: (total, int(count)) for (name, (total, _)), count in zip(sums.items(), counts, strict=True)}

    def told(self, word: Any) -> Any:
        """What the first worker says."""
        return self.communicator.bcast(word) if self.communicator else word

    def gathered(self, word: Any) -> list[Any]:
        """What every worker says, in the order of their ranks."""
        return self.communicator.allgather(word) if self.communicator else [word]

    def meet(self) -> None:
        """Wait, without holding the processor, until every worker has come so far."""
        if self.communicator:
            _wait_until(self.communicator.Ibarrier().Test)

    def in_turn(self, mine: Iterable[Any]) -> Iterator[Any]:
        """On the first worker, what all workers make of their shares, in the order of the whole, as it comes. The
        others send theirs there, and get nothing. An error in one of them is raised there, as a WorkerError."""
        if not self.communicator:
            yield from mine
        elif not self.first:
            self._send_all(mine)
        else:
            waiting = collections.deque([iter(mine), *(self._received(rank) for rank in range(1, self.size))])
            while waiting:
                worker = waiting.popleft()
                for thing in itertools.islice(worker, 1):
                    yield thing
                    waiting.append(worker)

    def _send_all(self, mine: Iterable[Any]) -> None:
        sent: list[Any] = []
        failed = ""
        try:
            for thing in mine:
                sent = [request for request in sent if not request.Test()]
                sent.append(self.communicator.isend((thing,), 0))
        except Exception as error:
            failed = told(error) or type(error).__name__
        sent.append(self.communicator.isend(failed, 0))
        _wait_until(lambda: all(request.Test() for request in sent))

    def _received(self, rank: int) -> Iterator[Any]:
        while True:
            _wait_until(lambda: self.communicator.iprobe(source=rank))
            message = self.communicator.recv(source=rank)
            if not isinstance(message, tuple):  # the end
                if message:
                    raise WorkerError(rank, message)
                return
            yield message[0]

    @contextlib.contextmanager
    def adding(self, optimizer) -> Iterator[None]:
        """Around a backward pass: at its end the optimiser's gradients are those of all workers, added."""
        if not self.communicator:
            yield
            return
        buckets = _Buckets(self, optimizer)
        try:
            yield
        finally:
            buckets.detach()
        buckets.finish()

    def connect(self, model, sync_norm: bool = False) -> None:
        """Before the first step: connect the GPUs that the model is on, where every worker has one of its own.
        sync_norm: whether batch normalisation sees the images of all workers from now on."""
        if not self.communicator:
            return
        gpus = self.gathered(_gpu_of(model))
        if all(gpus) and len(set(gpus)) == self.size:
            distributed = importlib.import_module("cupyx.distributed")
            self.nccl = distributed.init_process_group(self.size, self.rank, use_mpi=True)
        if sync_norm:
            self.statistics = self.communicator.Dup()  # beside the gradients, which are on their way meanwhile
            for layer in _batch_norms(model):
                layer.across = self.summed

    def add_up(self, array: Array, communicator: Any) -> None:
        """Every worker's array becomes the sum of all: between connected GPUs without a visit to the host."""
        if isinstance(array, np.ndarray):
            communicator.Allreduce(_in_place(), array)
        elif self.nccl is not None:
            self.nccl.all_reduce(array, array)  # on the current stream, behind what fills the array
        else:
            total = to_numpy(array)
            communicator.Allreduce(_in_place(), total)
            array[...] = like(total, array)

    def summed(self, array: Array) -> Array:
        """The sum of an array over all workers, a new one."""
        total = array.copy()
        self.add_up(total, self.statistics)
        return total

    def average_statistics(self, model) -> None:
        """The running statistics of batch normalisation become the mean of those of all workers, where each has seen
        its own images only."""
        if self.communicator and (layers := [layer for layer in _batch_norms(model) if layer.across is None]):
            arrays = [array for layer in layers for array in (layer.running_mean, layer.running_var)]
            flat = np.concatenate([to_numpy(array) for array in arrays])
            self.communicator.Allreduce(_in_place(), flat)
            for array, part in zip(
                arrays, np.split(flat / self.size, np.cumsum([a.size for a in arrays])[:-1]), strict=True
            ):
                array[...] = like(part.astype(array.dtype), array)


def _gpu_of(model) -> str:
    """Which GPU a model is on, and in which machine; "" on the CPU, and where NCCL is missing."""
    weight = next(iter(model.parameters())).data
    if isinstance(weight, np.ndarray) or not array_module(weight).cuda.nccl.available:
        return ""
    return f"{socket.gethostname()} {weight.device.pci_bus_id}"


def _batch_norms(model) -> list[BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, BatchNorm2d)]


class WorkerError(RuntimeError):
    """What went wrong in the worker of that rank."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(text)
        self.rank = rank


def _wait_until(done: Callable[[], bool]) -> None:
    """Wait without holding the processor, and so that Ctrl-C is heard, which MPI's own waiting is deaf to."""
    pause = 1e-4
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


ALONE = Workers()


def workers() -> Workers:
    """The workers of this job, if mpiexec or its like started several, else ALONE.

    Raises ModuleNotFoundError, saying what to install, where there are several and mpi4py is missing."""
    if max((int(os.environ.get(name, "1")) for name in SIZES), default=1) < 2:
        return ALONE
    # Where a worker of another machine is killed, the others see its connections close, and Open MPI ends them at once.
    # After some seconds mpiexec has heard from that machine, and says which worker it was that was killed.
    os.environ.setdefault("OMPI_MCA_opal_abort_delay", "3")
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Several processes were started together, which needs mpi4py: pip install 'tinymrcnn[mpi]'."
        ) from error
    return Workers(MPI.COMM_WORLD)


@contextlib.contextmanager
def together() -> Iterator[Workers]:
    """The workers of this job, watched, for a command. What the others would print goes nowhere."""
    with contextlib.ExitStack() as stack:
        team = workers()
        stack.enter_context(watched(team))
        if not team.first:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield team


def for_workers(config: TrainConfig, size: int) -> dict[str, Any]:
    """What changes of a run's settings when `size` workers each take as many images as one process would: the batch;
    the number of steps, so that every image is seen as often; and the learning rate, times `size` for SGD (Goyal et
    al., Accurate, Large Minibatch SGD, 2017: the article's rate is that of 16 images), times its root for AdamW
    (Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022)."""
    rate = size if config.optimizer == "sgd" else math.sqrt(size)
    return {"batch_size": config.batch_size * size, "steps": -(-config.steps // size), "lr": config.lr * rate}


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE


class _Buckets:
    """The gradients of an optimiser, neighbours together in buckets, on their way through the workers.

    A bucket sets out when the backward pass has made all its gradients. All workers send them in the same order, which
    MPI asks for, even where one of them has no gradient for a layer: 0 then. In the first step this is the order of the
    layers, the last one first, from then on that in which they were ready on the first worker: the gradients of an
    FPN's finest map, whose neighbours are ready long before, come last of all."""

    def __init__(self, team: Workers, optimizer) -> None:
        self.team, self.optimizer = team, optimizer
        self.flat: Array = optimizer.flat["grad"]
        self.requests: list[Any] = []
        self.ready: list[int] = []  # buckets, as they come
        starts = optimizer.starts
        ends: list[tuple[int, int]] = []  # of each bucket the first parameter, and the one behind the last
        for i in reversed(range(len(starts) - 1)):
            if not ends or starts[ends[-1][1]] - starts[ends[-1][0]] >= BUCKET:
                ends.append((i, i + 1))
            ends[-1] = i, ends[-1][1]
        self.buckets = ends
        self.order = team.order if len(team.order) == len(ends) else [*range(len(ends))]
        self.waiting = [end - first for first, end in ends]  # for so many gradients
        if isinstance(self.flat, np.ndarray):
            for bucket, (first, end) in enumerate(ends):
                for parameter in optimizer.parameters[first:end]:
                    if parameter.node is not None:  # it is not frozen by now
                        parameter.node.ready = self._arrival(bucket)

    def _arrival(self, bucket: int) -> Callable[[], None]:
        def arrive() -> None:
            self.waiting[bucket] -= 1
            if self.waiting[bucket] == 0:
                self.ready.append(bucket)
            while (sent := len(self.requests)) < len(self.order) and self.waiting[self.order[sent]] <= 0:
                self._send()
            if self.requests:
                self.requests[-1].Test()  # MPI moves its messages while it is called

        return arrive

    def _send(self) -> None:
        """The next bucket sets out."""
        first, end = self.buckets[self.order[len(self.requests)]]
        some = self.flat[self.optimizer.starts[first] : self.optimizer.starts[end]]
        self.requests.append(self.team.communicator.Iallreduce(_in_place(), some))

    def detach(self) -> None:
        for parameter in self.optimizer.parameters:
            if parameter.node is not None:
                parameter.node.ready = None

    def finish(self) -> None:
        """Send what is left, and wait for all. Every parameter has a gradient then: another worker may have one."""
        for parameter, grad in zip(self.optimizer.parameters, self.optimizer.grads, strict=True):
            if parameter.grad is None:
                grad.fill(0)
                parameter.grad = grad
        if not isinstance(self.flat, np.ndarray):
            self.team.add_up(self.flat, self.team.communicator)
            return
        while len(self.requests) < len(self.buckets):
            self._send()
        for request in self.requests:
            request.Wait()
        if len(self.team.order) != len(self.order):
            self.team.order = self.team.told(list(dict.fromkeys([*self.ready, *self.order])))


# When a worker is lost ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def watched(team: Workers) -> Iterator[None]:
    """While the block lasts, every worker gives signs of life. When one of them is silent for PATIENCE seconds, or when
    the block ends with an error here, all of them end, with a sentence that names the worker.

    A worker whose process ends is noticed by mpiexec itself, which ends the others and says which it was."""
    if not team.communicator:
        yield
        return
    watch = _Watch(team.communicator.Dup())
    try:
        yield
    except KeyboardInterrupt:  # the workers have agreed to stop
        watch.over.set()
        raise
    except BaseException as error:
        end_all(team, error)
    watch.end()


def end_all(team: Workers, error: BaseException) -> None:
    """Say what went wrong in this worker, and end the others, which would wait for it for ever."""
    if not team.first:
        time.sleep(1)  # what went wrong in all of them is said by the first
    rank = getattr(error, "rank", team.rank)
    print(f"\ntinymrcnn: worker {rank} of {team.size} ends the run: {error}", file=sys.__stderr__, flush=True)
    team.communicator.Abort(1)


class _Watch(threading.Thread):
    """Sends a sign of life to every other worker, and looks for theirs."""

    def __init__(self, communicator: Any) -> None:
        super().__init__(daemon=True, name="watch")
        self.communicator, self.over = communicator, threading.Event()
        self.names = communicator.allgather(
            f"worker {communicator.rank} ({socket.gethostname()}, process {os.getpid()})"
        )
        self.start()

    def run(self) -> None:
        seen = dict.fromkeys((r for r in range(len(self.names)) if r != self.communicator.rank), time.monotonic())
        sent: list[Any] = []
        while not self.over.wait(HEARTBEAT):
            sent = [request for request in sent if not request.Test()]
            sent += [self.communicator.isend(None, rank) for rank in seen]
            for rank in seen:
                while self.communicator.iprobe(source=rank):
                    self.communicator.recv(source=rank)
                    seen[rank] = time.monotonic()
            if lost := [self.names[rank] for rank, last in seen.items() if time.monotonic() - last > PATIENCE]:
                print(
                    f"\ntinymrcnn: {' and '.join(lost)} gave no sign of life for {PATIENCE:.0f} seconds: the run ends. "
                    "What its last checkpoint holds is saved; go on with --resume.",
                    file=sys.__stderr__, flush=True,
                )  # fmt: skip
                self.communicator.Abort(1)

    def end(self) -> None:
        """Wait until every worker has come so far: then nobody looks for signs of life any more."""
        _wait_until(self.communicator.Ibarrier().Test)  # the signs of life go on
        self.over.set()
        self.join()
