"""The machine: what its CPU can do, what is set up before NumPy is loaded, and where compiled kernels are kept. Imports
nothing heavy."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path

from tinymrcnn.files import make_folder, replacing, source_files

log = logging.getLogger("tinymrcnn")
AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}  # what OpenBLAS's SkylakeX kernels need


def cpu_info(cpuinfo: str = "/proc/cpuinfo") -> tuple[str, set[str]]:
    """(model name, flags) of the CPU as Linux tells them; (the platform's name, no flags) elsewhere."""
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name") or platform.processor() or platform.machine(), set(fields.get("flags", "").split())


def choose_blas_kernels(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenBLAS use its AVX-512 kernels if the CPU can run them; by itself it can pick AVX2 ones, half as fast.

    Works only before NumPy is first imported in the process. It does nothing afterwards, or if the user has chosen
    kernels, or on another CPU or system."""
    if "numpy" not in sys.modules and "OPENBLAS_CORETYPE" not in environ and AVX512 <= cpu_info()[1]:
        environ["OPENBLAS_CORETYPE"] = "SKYLAKEX"


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what NumPy frees instead of handing it back to the system: every step frees and takes
    the same few hundred megabytes, and fresh pages cost about a tenth of its time. All threads share what is kept. Does
    nothing on other systems. Returns whether it did.

    It changes the whole process, so no import does it: threads.py does, when it first starts its threads."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        return False
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: larger arrays still come from the system
    libc.mallopt(-8, 1)  # M_ARENA_MAX: what one thread freed, another can take
    return True


def give_back_memory() -> None:
    """Have glibc's malloc hand back to the system what is free, between what is used, too: after work that will not
    come again. Does nothing on other systems."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


# The memory that is free, and the caches


def core_cache(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> int:
    """The bytes of a core's second-level cache, as Linux tells them; 1 MiB elsewhere."""
    try:
        for cache in Path(folder).glob("index*"):
            level, size = ((cache / name).read_text(encoding="ascii").strip() for name in ("level", "size"))
            if level == "2":
                return int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        pass  # another system, or a virtual machine that tells nothing
    return 1 << 20


def free_memory(meminfo: str = "/proc/meminfo") -> int | None:
    """The bytes that a program can take without swapping, as Linux tells them; None elsewhere."""
    try:
        lines = Path(meminfo).read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


# Where compiled kernels are kept


@functools.cache
def temporary_cache() -> str:
    """A folder for compiled kernels in the system's temporary folder, or "" if none can be used; logs this once."""
    own = os.getuid() if hasattr(os, "getuid") else None  # None on Windows: temporary folders are per user
    try:
        folder = Path(tempfile.gettempdir()) / f"tinymrcnn-kernels-{own}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if own is not None and (found.st_uid != own or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077):
            raise PermissionError(f"'{folder}' is not this user's alone")  # its files are executed
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        log.warning("Compiled kernels can be kept nowhere (%s): every process compiles them anew.", error)
        return ""
    log.warning("Neither the package's folder nor the home can be written: compiled kernels are kept in '%s'.", folder)
    return str(folder)


def kept(folder: str | None, name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """What make() returns, from a file in this folder where an earlier process has left it there.

    key: what the bytes depend on, besides the source of this package, all of it: a kernel calls functions of other
    files. Nothing is kept where the folder is None or cannot be written."""
    if folder is None:
        return make()
    digest = hashlib.sha256(key.encode())
    for source in source_files():
        digest.update(source.read_bytes())
    file = Path(folder) / f"{digest.hexdigest()[:20]}-{name}"
    with contextlib.suppress(OSError):
        return file.read_bytes()
    made = make()
    with contextlib.suppress(OSError), replacing(make_folder(folder) / file.name) as out:
        out.write(made)
    return made
