"""A fuzzer: what the readers of files and the command line make of input that nobody meant.

    python tests/fuzz.py --examples 2000             all; prints the table, and the smallest input of each fault
    python tests/fuzz.py --only images checkpoint    some of them

Hypothesis draws the examples (of what, fuzz_readers.py and fuzz_commands.py say). Each runs in a child process, since
a kernel that hangs cannot be interrupted, whose address space may grow by 2 GB only and in which an audit hook notices
processes that are started, connections, and objects that pickle looks up. Allowed are results, and ValueError and
OSError (or, of the command line, its exit codes) with a sentence.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_damage
from fuzz_commands import COMMAND_LINES
from fuzz_damage import Lost, Target
from fuzz_formats import FORMAT_READERS
from fuzz_readers import READERS
from hypothesis import HealthCheck, Phase, given, seed, settings

TARGETS = READERS | FORMAT_READERS | COMMAND_LINES
EXTRA_MEMORY = 2 << 30
SECONDS, STARTING_SECONDS = 30, 300  # before an example, or the child's start (kernels are compiled), counts as hanging
POLITE_SECONDS = 2  # after which a command gets a Ctrl-C, as training for 10^9 steps would not end by itself
OUTCOMES = ("clear error", "used", "traceback", "hang", "memory", "code run", "file lost")
FAULTS = OUTCOMES[2:]
RUNS_CODE = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
             "pty.spawn", "pickle.find_class", "socket.connect", "os.startfile"}  # fmt: skip


# The child process


def serve(connection, extra_memory: int) -> None:
    """Answer every (prepare, run, is_command, example) that comes over the connection: with (outcome, detail, the
    example in words), or, where the example is None and the target is to be prepared, with "ready"."""
    folder, output = Path(tempfile.mkdtemp(prefix="fuzz-")), sys.stdout
    contexts: dict = {}
    ran: list[str] = []
    listening = False

    def listen(event: str, arguments) -> None:
        if listening and event in RUNS_CODE and not (event == "pickle.find_class" and _within_numba()):
            ran.append(f"{event} {arguments!a:.60}")

    try:
        warnings.simplefilter("ignore")
        sys.addaudithook(listen)
        with open(os.devnull, "w") as sys.stdout:
            while (message := connection.recv()) is not None:
                prepare, run, is_command, example = message
                if example is None:
                    _limit_memory(None)
                    contexts[prepare] = _prepared(prepare, folder / str(len(contexts)))
                    _limit_memory(extra_memory)
                    connection.send("ready")
                    continue
                ran.clear()
                fuzz_damage.done.clear()
                listening = True
                answer = _outcome(run, is_command, contexts[prepare], example)
                listening = False
                if ran:
                    answer = "code run", ", ".join(ran)
                connection.send((*answer, "; ".join(fuzz_damage.done) or f"{example!a}"))
    finally:
        sys.stdout = output
        os.chdir(tempfile.gettempdir())
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(prepare, folder: Path):
    folder.mkdir()
    os.chdir(folder)
    return prepare(folder)


def _within_numba() -> bool:
    """Numba's own cache of compiled kernels holds pickles."""
    frame = sys._getframe()
    while frame is not None and f"{os.sep}numba{os.sep}" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _limit_memory(extra: int | None) -> None:
    """The address space may grow by so many bytes; None: as far as the machine goes."""
    if sys.platform == "linux":
        import resource

        hard, most = resource.getrlimit(resource.RLIMIT_AS)[1], resource.RLIM_INFINITY
        if extra is not None:
            most = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + extra
        resource.setrlimit(resource.RLIMIT_AS, (hard if extra is None else most, hard))


def _outcome(run, is_command: bool, context, example) -> tuple[str, str]:
    try:
        with _ctrl_c_after(POLITE_SECONDS if is_command else 0):
            text = run(context, example)
    except Lost as lost:
        return "file lost", str(lost)
    except MemoryError:
        return "memory", _place()
    except (ValueError, OSError) as error:
        text = str(error)
        named = context.name in text or str(context.folder) in text or (isinstance(error, OSError) and error.filename)
        if not named or len(text.split()) < 4:
            return "traceback", f"no sentence that names the file: {type(error).__name__}: {text!a:.100} {_place()}"
        return "clear error", text
    except KeyboardInterrupt:
        return "used", "interrupted"
    except BaseException as error:  # a fuzzer looks for any
        return "traceback", f"{type(error).__name__}: {error!a:.100} {_place()}"
    return ("clear error", text) if text else ("used", "")


def _place() -> str:
    """The last line of ours that an error came through."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if f"{os.sep}tinymrcnn{os.sep}" in frame.filename] or frames[-1:]
    return f"({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""


@contextlib.contextmanager
def _ctrl_c_after(seconds: float):
    if not seconds or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# The parent process


class Worker:
    """The child process, which is started anew when it hangs or dies."""

    def __init__(self, extra_memory: int = EXTRA_MEMORY, seconds: float = SECONDS):
        self.extra_memory, self.seconds = extra_memory, seconds
        self.process: Any = None
        self.prepared: set = set()

    def ask(self, target: Target, example) -> tuple[str, str, str]:
        """(outcome, detail, the example in words)."""
        if self.process is None:
            self._start()
        functions = target.prepare, target.run, target.is_command
        if target.prepare not in self.prepared:
            self.connection.send((*functions, None))
            if self._answer(STARTING_SECONDS) != "ready":
                raise RuntimeError(f"{target.prepare.__name__} failed: an example without damage must work.")
            self.prepared.add(target.prepare)
        self.connection.send((*functions, example))
        return self._answer(self.seconds, f"{example!a}")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child may run no parallel kernels
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.extra_memory), daemon=True)
        self.process.start()
        theirs.close()

    def _answer(self, seconds: float, words: str = ""):
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
            outcome = "hang", f"no answer within {seconds} seconds", words
        except EOFError:
            self.process.join()
            outcome = "traceback", f"the process ended with the exit code {self.process.exitcode}", words
        self._kill()
        return outcome

    def _kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.process = None
        self.prepared.clear()

    def close(self) -> None:
        if self.process is not None:
            self.connection.send(None)
            self.process.join(10)
            self._kill()


@dataclass
class Result:
    """Of one target: how often each outcome came, and of each different fault the smallest example."""

    name: str
    counts: Counter = field(default_factory=Counter)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, outcome: str, detail: str, example: str) -> None:
        self.counts[outcome] += 1
        if outcome in FAULTS:
            kind = f"{outcome}: {re.sub(r'0x[0-9a-f]+', '', detail)}"
            number, smallest = self.faults.get(kind, (0, example))
            self.faults[kind] = number + 1, min(smallest, example, key=len)

    def row(self) -> str:
        numbers = [sum(self.counts.values()), *(self.counts[outcome] for outcome in OUTCOMES)]
        return f"{self.name:<14}" + "".join(f"{number:>12,}" for number in numbers) + f"{self.seconds:>10.0f} s"

    def explanation(self) -> str:
        return "\n".join(
            f"  {self.name}, {number} times: {kind}\n      {example:.400}"
            for kind, (number, example) in sorted(self.faults.items(), key=lambda item: -item[1][0])
        )


def fuzz(name: str, target: Target, examples: int, worker: Worker, number: int = 0) -> Result:
    """Run `examples` examples of a target, drawn from the seed `number`."""
    result, began = Result(name), time.monotonic()

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(target.examples)
    def one(example):
        result.add(*worker.ask(target, example))

    one()
    result.seconds = time.monotonic() - began
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=2000, help="of each target (default: 2000)")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'reader':<14}" + "".join(f"{title:>12}" for title in ("inputs", *OUTCOMES)), flush=True)
    results, worker = [], Worker()
    for name in options.only:
        results.append(fuzz(name, TARGETS[name], options.examples, worker, options.seed))
        print(results[-1].row(), flush=True)
    worker.close()
    print("\n".join(filter(None, (result.explanation() for result in results))))
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())
