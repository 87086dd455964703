"""Peak memory of a network, in a fresh process: what one inference or two training steps take (the optimiser's
state is there from the second on), minus what the process held after its imports and the start of Numba, which
sets itself up at the first call of a kernel as torch does at its import.

    python -m tinymrcnn.bench.memory ROW SIDE DEVICE THREADS QUICK     prints one JSON object
"""

import json
import subprocess
import sys
from pathlib import Path

from tinymrcnn.backend import BACKENDS, resolve_device
from tinymrcnn.bench.measure import Setting, import_torch, same_threads, start_numba
from tinymrcnn.bench.networks import make_side, networks

STATUS = Path("/proc/self/status")


def measure_memory(row: str, side: str, setting: Setting, threads: int) -> dict | None:
    """{"peak": bytes above what the imports hold, "after_imports": bytes}; None where the system does not tell
    (outside of Linux). On a GPU it is the GPU's memory that the side's allocator holds, and after_imports is 0.

    row: a name of networks(). side: "ours" or "torchvision". Raises RuntimeError with the child's error text if
    it failed."""
    if setting.device == "cpu" and not STATUS.exists():
        return None
    arguments = [row, side, setting.device, str(threads), str(int(setting.quick))]
    child = subprocess.run([sys.executable, "-m", __name__, *arguments], capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(
            f"The process that measures the memory of '{row}' ({side}) ended with exit code {child.returncode}:\n"
            + child.stderr.strip()
        )
    return json.loads(child.stdout.splitlines()[-1])


def resident(field: str) -> int:
    """Bytes of this process's memory as Linux counts them: "VmRSS" now, "VmHWM" at most so far. (getrusage would
    also count the parent's.)"""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _measure(row: str, side: str, device: str, threads: int, quick: bool) -> dict:
    resolve_device(device)
    torch = import_torch(device) if side == "torchvision" else None
    if torch:
        import torchvision  # noqa: F401  (before the first reading)
    else:
        start_numba()
    network = networks(quick)[row]
    with same_threads(threads, torch):
        before = resident("VmRSS") if device == "cpu" else 0
        work = make_side(side, network, Setting(device, torch, quick))
        for _ in range(2 if network.train else 1):
            work()
    if device == "cpu":
        peak = resident("VmHWM")
    elif torch:
        peak = torch.cuda.max_memory_reserved()
    else:
        peak = BACKENDS["cuda"].module.get_default_memory_pool().total_bytes()  # it gives nothing back
    return {"peak": peak - before, "after_imports": before}


if __name__ == "__main__":
    row, side, device, threads, quick = sys.argv[1:]
    print(json.dumps(_measure(row, side, device, int(threads), quick == "1")))
