"""The numbers to reach, and the table and the JSON that say whether they are."""

import dataclasses
from collections.abc import Iterator

from tinymrcnn.bench.cases import Case
from tinymrcnn.bench.measure import RATES, Timing

MEMORY = ", peak memory"

# Our time (or memory) divided by torch's or torchvision's: what it must be, and what it should be, at most.
GOALS = {
    "cpu": {
        "RoIAlign 7x7 forward": (0.12, 0.07),
        "RoIAlign 7x7 backward": (0.12, 0.05),
        "RoIAlign 14x14 forward": (0.12, 0.07),
        "RoIAlign 14x14 backward": (0.12, 0.05),
        "RoIPool 7x7 forward": (0.5, 0.2),
        "RoIPool 7x7 backward": (0.25, 0.1),
        "RoIPool 14x14 forward": (0.5, 0.2),
        "RoIPool 14x14 backward": (0.2, 0.1),
        "NMS of 2,000 boxes": (1.0, 0.5),
        "NMS of 12,000 boxes": (1.0, 0.5),
        "3x3 convolution, 256 channels, 100x136, forward": (0.7, 0.4),
        "3x3 convolution, 256 channels, 200x272, forward": (0.7, 0.4),
        "3x3 convolution, 256 channels, 100x136, forward + backward": (1.0, 0.6),
        "3x3 convolution, 256 channels, 200x272, forward + backward": (1.0, 0.6),
        "1x1 convolution, 64 to 512 channels, 100x136, forward + backward": (1.0, 0.9),
        "1x1 convolution, 512 to 256 channels, 100x136, forward + backward": (1.0, 0.9),
        "pasting 100 masks into 800x1088": (0.4, 0.2),
        "run lengths of 100 masks in 800x1088": (0.2, 0.1),
        # beside the best of the engines of `bench --against`
        "R50-FPN body, 800x1088": (1.0, 0.85),
        "R50-FPN body, 320x416": (1.1, 0.95),
        "3x3 convolution, 256 channels, 100x136": (1.0, 0.9),
        "3x3 convolution, 64 channels, 200x272": (1.0, 0.9),
        "3x3 convolution, 128 channels, 200x272, stride 2": (1.0, 0.8),
        "1x1 convolution, 512 to 256 channels, 100x136": (1.0, 0.9),
        "COCO metrics of boxes, 1,000 images": (0.05, 0.02),
        "COCO metrics of masks, 1,000 images": (0.125, 0.05),
        "R50-FPN inference, 800x1088": (0.5, 0.4),
        "R50-FPN training step, one image 800x1088": (0.65, 0.5),
        "shapes training step, batch 8, 128x128": (0.6, 0.45),
        "R50-FPN inference, 800x1088" + MEMORY: (0.5, 0.4),
        "R50-FPN training step, one image 800x1088" + MEMORY: (0.75, 0.6),
        "shapes training step, batch 8, 128x128" + MEMORY: (0.6, 0.5),
    },
    "cuda": {
        "RoIAlign 7x7 forward": (1.0, 0.8),
        "RoIAlign 7x7 backward": (1.0, 0.8),
        "RoIAlign 14x14 forward": (1.0, 0.8),
        "RoIAlign 14x14 backward": (1.0, 0.8),
        "shapes training step, batch 8, 128x128": (2.0, 1.2),
        "R50-FPN inference, 800x1088": (3.0, 1.5),
    },
}


def verdict(ratio: float | None, goal: tuple[float, float] | None) -> str:
    """ "aim", "must" or "missed": which of the two numbers is reached; "not measured" without a ratio, "" without a
    goal."""
    if ratio is None:
        return "not measured"
    if goal is None:
        return ""
    must, aim = goal
    return "aim" if ratio <= aim else "must" if ratio <= must else "missed"


def ratio_to_others(values: dict[str, float]) -> float | None:
    """Our value divided by the best other one; None where there is no other."""
    others = [value for side, value in values.items() if side != "ours"]
    return values["ours"] / min(others) if others else None


def _row(name: str, measure: str, values: dict, sides: dict, device: str, quick: bool) -> dict:
    goal = None if quick else GOALS[device].get(name)
    ratio = ratio_to_others(values) if values else None
    must, aim = goal or (None, None)
    return {"name": name, "measure": measure, "sides": sides, "ratio": ratio, "must": must, "aim": aim,
            "verdict": verdict(ratio, goal)}  # fmt: skip


def time_row(case: Case, timings: dict[str, Timing], ceilings: dict, device: str, quick: bool = False) -> dict:
    """The row of a case as JSON has it: seconds of every side, our rate, and the fraction of the ceiling that it is."""
    medians = {side: timing.median for side, timing in timings.items()}
    sides = {side: dataclasses.asdict(timing) for side, timing in timings.items()}
    unit = RATES[case.unit]
    rate = case.amount / medians["ours"] / 1e9
    return {
        **_row(case.name, "seconds", medians, sides, device, quick),
        "amount": case.amount,
        "amount_unit": case.unit,
        "rate": rate,
        "rate_unit": unit,
        "of_ceiling": rate / ceilings[unit],
        "note": case.note,
    }


def memory_row(name: str, sides: dict[str, dict | None], device: str, quick: bool = False) -> dict:
    """The row of a network's memory: bytes of every side; None where a side was not measured."""
    peaks = {side: found["peak"] for side, found in sides.items() if found}
    return _row(name + MEMORY, "bytes", peaks, sides, device, quick)


# Text


def table_head() -> str:
    return _line("", "ours", "the other side", "rate", "of best", "ratio", "must", "aim", "")


def table_lines(row: dict) -> Iterator[str]:
    """The lines of a row: one, and one more for every further side."""
    others = [side for side in row["sides"] if side != "ours"]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
    goal = [f"{row[name]:g}" if row[name] is not None else "" for name in ("must", "aim")]
    rate = ("", "")
    if row["measure"] == "seconds":
        rate = f"{row['rate']:.1f} {row['rate_unit']}", f"{100 * row['of_ceiling']:.0f} %"
    other = _amount(row, others[0]) if others else "not measured"
    yield _line(row["name"], _amount(row, "ours"), other, *rate, ratio, *goal, row["verdict"])
    for side in others[1:]:
        yield _line("", "", f"{_amount(row, side)}", "", "", "", "", "", f"({side})")


def _line(*cells: str) -> str:
    name, ours, theirs, rate, share, ratio, must, aim, end = cells
    line = f"{name:<66}{ours:>15}{theirs:>16}{rate:>15}{share:>8}{ratio:>8}{must:>6}{aim:>6}  {end}"
    return line.rstrip()


def _amount(row: dict, side: str) -> str:
    found = row["sides"][side]
    if found is None:
        return "not measured"
    if row["measure"] == "bytes":
        return f"{found['peak'] / 1e9:.3f} GB"
    seconds = found["median"]
    spread = (found["slowest"] - found["fastest"]) / seconds
    value = f"{seconds:.3f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    return f"{value} ±{50 * spread:.0f}%"
