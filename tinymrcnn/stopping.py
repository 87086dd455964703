"""How a program ends before its time: by Ctrl-C, by the signals of a batch system, a container or a closing terminal,
or by an error in the middle of a run."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt that knows which signal it came from."""

    def __init__(self, text: str = "", signum: int = signal.SIGINT):
        super().__init__(text)
        self.signum = signum


class RunStopped(RuntimeError):
    """Something went wrong between the first step of a run and its end. The text says what, in which step, how much is
    saved, and how to go on."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the host or of the GPU did not suffice. CuPy's own allocator raises a MemoryError; CUDA and
    its libraries have words of their own."""
    words = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


@contextlib.contextmanager
def handling(handler: Callable, signals=tuple(ENDING)) -> Iterator[None]:
    """Have handler(signum, frame) called on these signals while the block lasts.

    An ignored signal stays ignored (as SIGHUP under nohup), except Ctrl-C. Outside the main thread signals cannot be
    caught, and this does nothing."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if number == signal.SIGINT or signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def interrupt(signum: int, frame) -> None:
    """A handler that treats every signal as Ctrl-C is treated."""
    raise Interrupted(signum=signum)


class Stop:
    """The handler of a run. The first `patience` signals are only remembered, so that every step is completed; later
    ones raise Interrupted at once or, while something is written, as soon as it is written.

    signum: the first signal that came, or None."""

    def __init__(self, patience: float = 1):
        self.signum: int | None = None
        self.patience = patience
        self._count, self._writing = 0, False

    def __call__(self, signum: int, frame) -> None:
        self.signum = self.signum or signum
        self._count += 1
        if not self._writing:
            self.raise_if_due()

    def raise_if_due(self) -> None:
        """Raise Interrupted if more than `patience` signals have come."""
        if self._count > self.patience:
            raise Interrupted(signum=self.signum or signal.SIGINT)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Signals wait until the end of the block."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
        self.raise_if_due()

    def no_more(self) -> None:
        """From now on signals change nothing: the run is ending already."""
        self.patience = math.inf
