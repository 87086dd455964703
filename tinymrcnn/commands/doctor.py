"""`tinymrcnn doctor`: what this machine offers, and what to do where something is slow or does not work.

Every check yields lines (verdict, text): ok; note, for what works but could do better; problem, for what does
not work and should. Nothing heavy is imported before a check needs it, because the command line
asks choose_blas_kernels() here before NumPy is loaded.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

from tinymrcnn import __version__
from tinymrcnn.machine import AVX512, cpu_info, keep_freed_memory

PACKAGES = ("numpy", "numba", "matplotlib", "pillow", "pycocotools", "threadpoolctl", "tqdm")
ARCHITECTURE = (
    "import numpy, threadpoolctl;"
    "print(*{i.get('architecture') for i in threadpoolctl.threadpool_info() if i['user_api'] == 'blas'})"
)
WINDOWS = "import matplotlib.pyplot as p; p.switch_backend(p.matplotlib.rcParams['backend'])"


def ok(text: str) -> tuple[str, str]:
    return "ok", text


def note(text: str) -> tuple[str, str]:
    return "note", text


def problem(text: str) -> tuple[str, str]:
    return "problem", text


def run_doctor() -> int:
    """Print all lines. Returns 0, or 1 where there is a problem."""
    verdicts = set()
    for check in (_system, _packages, _drawing, _blas, _numba, _cuda_compiler, _gpu):
        for verdict, text in check():
            print(f"{verdict:<8} {text}", flush=True)
            verdicts.add(verdict)
        if check is _packages and "problem" in verdicts:
            break  # the checks below import what is missing
    if "problem" in verdicts:
        print("\nSomething does not work: see the lines marked 'problem'.")
        return 1
    print("\nEverything that tinymrcnn needs works here.")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _system():
    yield ok(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    name, flags = cpu_info()
    yield ok(f"CPU: {name}, {_cores()} cores{', AVX-512' if AVX512 <= flags else ''}")
    if keep_freed_memory():
        yield ok("Memory: what arrays free is kept for the next ones; in notebooks from the first work on all cores on")
    else:
        yield note("Memory: every step takes fresh memory from the system; keeping what is freed needs glibc (Linux).")


def _packages():
    versions = {"tinymrcnn": __version__, **{name: _version(name) for name in PACKAGES}}
    yield ok("Packages: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    if missing := [name for name, version in versions.items() if version is None]:
        yield problem(f"Missing: {', '.join(missing)}. Run 'pip install -e .' in the clone.")


def _drawing():
    backend = os.environ.get("MPLBACKEND", "")
    if backend.lower() in ("", "agg"):  # what tinymrcnn draws with
        return
    if subprocess.run([sys.executable, "-c", WINDOWS], capture_output=True).returncode:
        yield note(
            f"MPLBACKEND={backend} is a backend that matplotlib cannot load here (a notebook hands its own on). "
            "tinymrcnn draws without it; unset it for what else you run from this shell."
        )


def _blas():
    from tinymrcnn.weights import environment

    found = environment()
    kernels = found["blas_kernels"]
    if kernels == "unknown":
        yield note("BLAS: threadpoolctl does not know NumPy's, so neither its kernels are known nor its threads held.")
        return
    yield ok(f"BLAS: {found['blas']} with {kernels} kernels, called from our own threads; yours keeps its own number")
    if AVX512 <= cpu_info()[1]:
        bare = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        chosen = subprocess.run([sys.executable, "-c", ARCHITECTURE], env=bare, capture_output=True, text=True)
        other = chosen.stdout.strip()
        if chosen.returncode == 0 and kernels == "SkylakeX" != other:
            yield note(
                f"Left to itself, OpenBLAS takes {other} kernels here, about half as fast. The command line sets "
                "OPENBLAS_CORETYPE=SKYLAKEX; for notebooks and scripts, export it before you start them."
            )
        elif chosen.returncode == 0 and kernels != other:
            yield note(
                f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE')} takes {kernels} instead of {other} "
                "kernels. Unset it, unless you meant it so."
            )


def _numba():
    from tinymrcnn.boxes.nms import nms_cpu
    from tinymrcnn.kernels import cache_place
    from tinymrcnn.threads import get_num_threads

    if failure := _roi_align_problem("cpu"):
        yield problem(f"Numba: {failure}")
        return
    threads = get_num_threads()
    yield ok(f"Numba: RoIAlign runs, on {threads} of our own threads where there is enough to do, and is right")
    if threads != _cores():
        yield note(f"Work is shared by {threads} threads on {_cores()} cores. Unset NUMBA_NUM_THREADS, or set it so.")
    if place := cache_place(nms_cpu):
        yield ok(f"Numba keeps compiled kernels in '{place}'")
    else:
        yield note(
            "Numba can keep compiled kernels nowhere, so every process compiles them anew, which takes a minute. "
            "Set NUMBA_CACHE_DIR to a folder that can be written."
        )


def _cuda_compiler():
    """Compiling to PTX needs no GPU: done wherever numba-cuda is installed."""
    if not (version := _version("numba-cuda")):
        return
    from tinymrcnn.boxes.nms import walk_cuda
    from tinymrcnn.kernels import compile_to_ptx

    try:
        compile_to_ptx(walk_cuda, "void(uint64[:, ::1], int64[::1], uint64[:, ::1], boolean[::1])")
    except Exception as error:  # whatever is wrong with the compiler, the doctor reports it
        yield problem(
            f"Numba CUDA {version} compiles no kernel: {type(error).__name__}: {error}. Reinstall it: in the clone, "
            "pip install -e '.[gpu]' (CUDA 12), or '.[gpu-cuda13]'; never both."
        )
    else:
        yield ok(f"Numba CUDA {version} compiles kernels")


def _gpu():
    from tinymrcnn.backend import cuda_problem, tf32

    names = _gpu_names()
    failure = cuda_problem()
    if not names and failure:
        yield ok(f"GPU: nvidia-smi lists none, so everything runs on the CPU. {failure}")
        return
    yield ok(f"GPU: {', '.join(names) or 'visible to CuPy (nvidia-smi is not installed)'}")
    if failure:
        yield problem(
            f"CuPy: {failure} In the clone: pip install -e '.[gpu]' (CUDA 12), or '.[gpu-cuda13]'; never both."
        )
        return
    yield ok(f"CuPy {_version('cupy-cuda12x') or _version('cupy-cuda13x') or ''} computes")
    if tf32():
        yield ok("TF32: on (CUPY_TF32). Products of float32 are computed on 10 of the 23 bits of their fractions")
    else:
        yield ok("TF32: off. CUPY_TF32=1 makes products of float32 faster, on 10 of the 23 bits of their fractions")
    if failure := _roi_align_problem("cuda"):
        yield problem(
            f"Numba CUDA: {failure} numba-cuda {_version('numba-cuda') or 'is not installed'}; "
            "reinstall it with the extra 'gpu' or 'gpu-cuda13', whichever fits CuPy."
        )
    else:
        yield ok(f"Numba CUDA {_version('numba-cuda')}: RoIAlign runs, and is right")


def _gpu_names() -> list[str]:
    """The GPUs that the driver lists."""
    if not (tool := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _roi_align_problem(device: str) -> str | None:
    """Run one kernel on a device: RoIAlign of a linear ramp, which is exact at the centres of the bins."""
    import numpy as np

    from tinymrcnn.autograd import Tensor
    from tinymrcnn.backend import to_device
    from tinymrcnn.roi import roi_align

    y, x = np.mgrid[0:6, 0:8] + 0.5
    features = (2 * x + 3 * y).astype(np.float32)[None, None]
    rois = np.array([[0, 1, 1, 7, 5]], np.float32)
    try:
        result = roi_align(Tensor(to_device(features, device)), to_device(rois, device), (2, 3), 1.0, 2, True).numpy()
    except Exception as error:  # whatever is wrong with a compiler or a driver, the doctor reports it
        return f"RoIAlign cannot run on '{device}': {type(error).__name__}: {error}"
    expected = 2 * np.array([[2, 4, 6]]) + 3 * np.array([[2], [4]])
    if not np.allclose(result[0, 0], expected, atol=1e-4):
        return f"RoIAlign on '{device}' computes {result[0, 0].tolist()} instead of {expected.tolist()}."
    return None
