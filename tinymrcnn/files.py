"""Files that appear whole or not at all, folders that one run has to itself, and text of files made printable."""

import contextlib
import errno
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PACKAGE = Path(__file__).resolve().parent
SHIPPED_MODEL = PACKAGE / "assets" / "shapes.npz"  # the trained toy model that comes with the package

# What the system says of a full disk, which is no fault of the input
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))

LOCK, PARTIAL = ".lock", ".tinymrcnn-partial"
logger = logging.getLogger("tinymrcnn")


def source_files(package: Path = PACKAGE) -> list[Path]:
    """The .py files of a package, sorted, without the copies that JupyterLab leaves in .ipynb_checkpoints."""
    return sorted(path for path in package.rglob("*.py") if ".ipynb_checkpoints" not in path.parts)


def printable(text: object) -> str:
    """A text out of a file as it may be shown in one line of a terminal: line breaks, control characters (which would
    move the cursor or change colours) and lone surrogates appear as escapes, such as \\n and \\x1b."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def told(error: BaseException) -> str:
    """An error's text for a person; for errors of the system, the file and the reason. Its line breaks are kept."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"'{printable(error.filename)}': {error.strerror}."
    text = "\n".join(printable(line) for line in str(error).split("\n"))
    if isinstance(error, MemoryError):
        return f"The memory does not suffice. {text}".rstrip()
    return text


@contextlib.contextmanager
def replacing(path):
    """A new binary file that replaces `path` when the block has ended without an error, not before.

    Until then it has a name of its own, so that two processes do not write into one file; it is removed if the block
    fails. Raises OSError, naming `path`, where it cannot be written."""
    path, outer = Path(path), sys.exception()
    partial = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may be gone
            partial.unlink(missing_ok=True)
        first = _first_cause(error, outer)
        if isinstance(first, OSError) and first.filename in (None, str(partial)):
            raise type(first)(first.errno, first.strerror or str(first), str(path)) from error
        if first is not error:
            raise first from error
        raise


def _first_cause(error: BaseException, outer: BaseException | None) -> BaseException:
    """The original error of a full disk or Ctrl-C: numpy.savez, when it is interrupted, cannot close its archive and
    raises a ValueError instead. outer: the error that was being handled before."""
    cause: BaseException | None = error
    while cause is not None and cause is not outer:
        if isinstance(cause, (OSError, KeyboardInterrupt)):
            return cause
        cause = cause.__context__
    return error


def check_output(path, is_ours: Callable[[object], bool], what: str) -> None:
    """Make the folder of an output file, and raise OSError where the file cannot be written there or would replace
    something else. Call it before the work whose result the file holds.

    is_ours: whether the content of a JSON file, parsed, is what this command writes. what: its name, as "metrics"."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"'{printable(path)}' is a folder; name a file for the {what}.")
    if path.exists():
        try:
            ours = path.is_file() and is_ours(json.loads(path.read_bytes()))
        except (ValueError, RecursionError):
            ours = False
        if not ours:
            raise FileExistsError(f"'{printable(path)}' exists and holds no {what}: name another file, or remove it.")
    make_folder(path.parent)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def make_folder(folder) -> Path:
    """Make a folder, and those above it, where it does not exist. Raises OSError, with a sentence, where that fails."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"'{printable(folder)}' cannot be a folder: it, or a part of its path, is a file."
        ) from error
    return folder


@contextlib.contextmanager
def locked(folder):
    """Keep every other run out of a folder while the block lasts. The system releases the lock when a process
    ends, in whatever way; half-written files of a killed process are removed.

    Raises RuntimeError, naming the process that has the folder, where another run is in it."""
    path = Path(folder) / LOCK
    file = _take_lock(path)
    try:
        for partial in Path(folder).glob(f".*{PARTIAL}"):
            partial.unlink(missing_ok=True)
        yield
    finally:
        if os.name != "nt":
            path.unlink(missing_ok=True)  # before the lock is released: nobody else can hold it
        file.close()


def _take_lock(path: Path) -> BinaryIO:
    while True:
        try:
            file = open(path, "a+b")  # it stays open as long as the lock is held
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path.parent)) from error
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = printable(file.read(200).decode(errors="replace")) or "another process"
            file.close()
            raise RuntimeError(
                f"'{printable(path.parent)}' is in use by another run: {owner}. Wait until it ends, or name another "
                "folder."
            ) from None
        except OSError as error:
            logger.warning("'%s' cannot be locked (%s): let no second run write into it.", path.parent, error)
        # the previous holder can have removed the file in between
        if os.name == "nt" or (path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino):
            break
        file.close()
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
    file.flush()
    return file


def _lock(file: BinaryIO) -> None:
    """Raises BlockingIOError or PermissionError where another process has the lock."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # beyond the text, which others read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def quoted(path, windows: bool = os.name == "nt") -> str:
    """A path as it is typed into the shell of the system."""
    return subprocess.list2cmdline([str(path)]) if windows else shlex.quote(str(path))
