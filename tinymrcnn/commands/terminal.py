"""The process around a command: where its lines go, on any terminal, with any pipe and home folder.

Everything that is set here ends with the command, and nothing is set where the package is only imported.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from tinymrcnn.files import printable
from tinymrcnn.stopping import ENDING, handling, interrupt


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Lines that cannot be encoded are escaped, a reader who went away and a closed stream are no errors, warnings and
    the log are lines of one sentence, and SIGTERM and SIGHUP do what Ctrl-C does."""
    log, handler = logging.getLogger("tinymrcnn"), _Lines()
    level, propagate = log.level, log.propagate
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, _Stream, "only_prints", False)
        for name in ("stdout", "stderr"):
            stack.enter_context(_stream(name))
        stack.enter_context(handling(interrupt, [number for number in ENDING if number != signal.SIGINT]))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, *_, **__: say(f"tinymrcnn: warning: {message}")
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate


def say(line: str, error: bool = True) -> None:
    """Print one line to stderr, or else to stdout, beside a progress bar where one is shown."""
    file = sys.stderr if error else sys.stdout
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(printable(line), file=file)
    else:
        print(printable(line), file=file)


class _Lines(logging.Handler):
    """The package's log: what it does goes to stdout, warnings to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        say(
            f"tinymrcnn: {record.levelname.lower()}: {record.getMessage()}" if warning else record.getMessage(), warning
        )


# Streams -------------------------------------------------------------------------------------------------


GONE = (errno.EPIPE, errno.EINVAL, errno.EIO)  # a pipe's reader; the same on Windows; a terminal that was closed


class ReaderGone(Exception):
    """Nobody reads what a command prints, and it does nothing else."""


class _Stream:
    """A stream that drops its text when its reader has gone away; a full disk is reported once."""

    only_prints = False  # of the command that runs

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        self._guarded(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._guarded(self._stream.flush)

    def _guarded(self, call, *args) -> None:
        try:
            call(*args)
        except OSError as error:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            if error.errno not in GONE:
                raise
            if _Stream.only_prints:
                raise ReaderGone from None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def only_prints() -> None:
    """Called by a command that only prints: it ends when its reader goes away (`| head -1`)."""
    _Stream.only_prints = True


@contextlib.contextmanager
def _stream(name: str) -> Iterator[None]:
    before = getattr(sys, name)
    # services start programs with closed streams; whatever is opened next would get their numbers
    stream = before if before is not None else open(os.devnull, "w", encoding="utf-8")
    errors = getattr(stream, "errors", None)
    changed = hasattr(stream, "reconfigure") and errors not in (None, "backslashreplace")
    if changed:
        stream.reconfigure(errors="backslashreplace")
    wrapped = _Stream(stream)
    setattr(sys, name, wrapped)
    try:
        yield
    finally:
        with contextlib.suppress(ReaderGone, OSError):
            wrapped.flush()
        setattr(sys, name, before)
        if changed:
            with contextlib.suppress(OSError):
                stream.reconfigure(errors=errors)
        if before is None:
            stream.close()


# Drawing -------------------------------------------------------------------------------------------------


def prepare_drawing(environ=os.environ) -> None:
    """Make sure that matplotlib loads in any environment: a notebook's drawing backend that cannot be imported here,
    no home, or one that cannot be written. Says what is done instead. For commands that draw, before they import it."""
    if "matplotlib" in sys.modules:
        return
    name = environ.get("MPLBACKEND")
    if name and not _backend_exists(name):
        say(
            f"tinymrcnn: note: MPLBACKEND={name} names no drawing backend that can be imported here; pictures are "
            "drawn with agg, which needs none."
        )
        environ["MPLBACKEND"] = "agg"
    if not environ.get("MPLCONFIGDIR") and not _config_folders_are_usable(environ):
        folder = _own_temporary_folder()
        say(f"tinymrcnn: note: there is no home folder to write to; matplotlib keeps its fonts in '{folder}'.")
        environ["MPLCONFIGDIR"] = str(folder)


def _backend_exists(name: str) -> bool:
    try:
        if name.startswith("module://"):
            return importlib.util.find_spec(name.removeprefix("module://")) is not None
        spec = importlib.util.find_spec("matplotlib")
    except (ImportError, ValueError, AttributeError):
        return False
    places = [Path(place) / "backends" for place in (spec and spec.submodule_search_locations) or ()]
    return any((place / f"backend_{name.lower()}.py").is_file() for place in places)


def _config_folders_are_usable(environ) -> bool:
    """Whether matplotlib's folders of settings and of fonts, where it looks for them, can be written."""
    try:
        home = Path.home()
    except RuntimeError:
        return False
    if sys.platform.startswith(("linux", "freebsd")):
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        folders = [settings, Path(environ.get("XDG_CACHE_HOME") or home / ".cache")]
    else:
        folders = [home / ".matplotlib"]
    return all(_can_be_written(folder / "matplotlib") for folder in folders)


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _own_temporary_folder() -> Path:
    """A folder in the system's temporary one that only this user can write, the same one every time."""
    if hasattr(os, "getuid"):
        folder = Path(tempfile.gettempdir()) / f"tinymrcnn-matplotlib-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid():
                return folder
    return Path(tempfile.mkdtemp(prefix="tinymrcnn-matplotlib-"))
