"""The machine: what its CPU can do, and what is set up before NumPy is loaded. Imports nothing heavy."""

import ctypes
import os
import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

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
    the same few hundred megabytes, and fresh pages cost about a tenth of its time. Does nothing on other systems.
    Returns whether it did.

    It changes the whole process, so no import does it: threads.py does, when it first starts its threads."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        return False
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: larger arrays still come from the system
    return True


def free_memory(meminfo: str = "/proc/meminfo") -> int | None:
    """The bytes that a program can take without swapping, as Linux tells them; None elsewhere."""
    try:
        lines = Path(meminfo).read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
