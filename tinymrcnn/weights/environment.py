"""What a run depends on besides its settings, down to the last bit; every checkpoint records it."""

import functools
import hashlib
import platform
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from tinymrcnn import __version__, kernels, threads
from tinymrcnn.files import PACKAGE, source_files
from tinymrcnn.machine import cpu_info
from tinymrcnn.ops import winograd


@functools.cache
def code_hash(package: Path = PACKAGE) -> str:
    """Twelve hexadecimal digits that change whenever a source file of the package changes: the version does not change
    between two releases."""
    digest = hashlib.sha256()
    for path in source_files(package):
        content = path.read_bytes().replace(b"\r\n", b"\n")  # as Git writes them on Windows
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def environment() -> dict:
    """Versions, a hash of the package's own code, the CPU for which the kernels are compiled, BLAS's kernels (its "core
    type"), the threads of BLAS and of our own, and whether Winograd's convolutions are on."""
    with threads.one_blas_thread:  # as our products run
        libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    libraries.sort(key=lambda info: "numpy" not in info["filepath"])  # another package may bring its own
    blas = libraries[0] if libraries else {}
    return {
        "tinymrcnn": __version__,
        "code": code_hash(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": kernels.numba.__version__,
        "cpu": cpu_info()[0],
        "blas": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')}".strip(),
        "blas_kernels": blas.get("architecture", "unknown"),
        "blas_threads": blas.get("num_threads", 0),
        "numba_threads": threads.get_num_threads(),
        "winograd": winograd.enabled,
    }
