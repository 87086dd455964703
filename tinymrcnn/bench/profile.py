"""Where the time of a training step goes, operator by operator, forward and backward.

A stopwatch with laps: whenever something ends (an operator records its result, a closure of the backward pass
returns, the optimiser has moved the weights), the time since the last lap is booked on it. No moment is booked
twice or left out, so the rows add up to the step. What runs in Python between two operators is booked on the
second of them, unless it has a row of its own.
"""

import contextlib
import functools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from tinymrcnn.autograd.graph import watching
from tinymrcnn.bench.measure import Setting
from tinymrcnn.bench.networks import Network, build_ours
from tinymrcnn.bench.watch import python_calls, replaced
from tinymrcnn.data import batches
from tinymrcnn.draw import COLORS
from tinymrcnn.models import TrainConfig, mask_rcnn, rpn
from tinymrcnn.training import trainer

FORWARD, BACKWARD, REST = "forward", "backward", "rest"
ENGINE = "engine: order, sums of gradients"
BETWEEN = "between all these"
CALLS = "Python functions called, on one thread"

WARM_UP = 3  # steps
ROWS_SHOWN = 24  # in the picture


class Laps:
    """The stopwatch. seconds, calls: what was booked, by (name, part)."""

    def __init__(self, synchronize=lambda: None):
        self.synchronize = synchronize
        self.inside = 0  # of spans: what runs in one is booked on it as a whole
        self.restart()

    def restart(self) -> None:
        """Forget everything and start from now."""
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.synchronize()
        self.started = self.last = time.perf_counter()

    def lap(self, name: str, part: str) -> None:
        """Book the time since the last lap."""
        self.synchronize()
        now = time.perf_counter()
        self.seconds[name, part] += now - self.last
        self.calls[name, part] += 1
        self.last = now

    @property
    def total(self) -> float:
        """Seconds from the start to the last lap: the sum of all that was booked."""
        return self.last - self.started

    def watch(self, name, data, parents, backward):
        """For watching(): book an operator's forward pass now, and its backward pass when it runs. Convolutions are
        told apart by their kernels."""
        if name == "conv2d":
            name += " {2}x{3}".format(*parents[1].shape)
        if not self.inside:
            self.lap(name, FORWARD)

        @functools.wraps(backward)
        def timed(grad, needs):
            self.lap(ENGINE, REST)
            gradients = backward(grad, needs)
            self.lap(name, BACKWARD)
            return gradients

        return timed

    def span(self, owner, attribute: str, name: str):
        """A block within which a call of owner.attribute is booked as a whole on the row `name`."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            if self.inside == 0:
                self.lap(BETWEEN, REST)
            self.inside += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.inside -= 1
                if self.inside == 0:
                    self.lap(name, REST)

        return replaced(owner, attribute, timed)


@contextlib.contextmanager
def timed_training(laps: Laps, model, optimizer):
    """Within this block training steps of this model are booked on `laps`."""
    spans = (
        (model, "transform", "images to a batch"),
        (model, "all_anchors", "anchors"),
        (model, "sample_anchors", "targets of the RPN"),
        (rpn, "decode_proposals", "proposals and their suppression"),
        (model, "sample", "targets of the RoIs"),
        (mask_rcnn, "mask_targets", "targets of the masks"),
        (optimizer, "clip_grad_norm", "clipping the gradient"),
        (optimizer, "step", "optimiser"),
    )
    with contextlib.ExitStack() as stack:
        for span in spans:
            stack.enter_context(laps.span(*span))
        stack.enter_context(watching(laps.watch))
        yield


@dataclass(frozen=True)
class ProfileRow:
    """Seconds a step. forward, backward: of an operator; rest: of anything else."""

    name: str
    calls: float
    forward: float = 0.0
    backward: float = 0.0
    rest: float = 0.0

    @property
    def seconds(self) -> float:
        return self.forward + self.backward + self.rest


def rows_of(laps: Laps, steps: int) -> list[ProfileRow]:
    """What was booked in `steps` steps, a row for each name: operators first, the slowest first."""
    names = dict.fromkeys(name for name, _ in laps.seconds)
    rows = [
        ProfileRow(
            name,
            max(laps.calls[name, part] for part in (FORWARD, REST)) / steps,
            *(laps.seconds.get((name, part), 0.0) / steps for part in (FORWARD, BACKWARD, REST)),
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (row.rest > 0, -row.seconds))


def profile_training(network: Network, setting: Setting, steps: int) -> list[ProfileRow]:
    """Train for some steps, with the reading ahead of a real run, and say what a step's time is made of. The last row
    has no time: it says how many Python functions a step calls."""
    model = build_ours(network).to(setting.device)
    config = network.train or TrainConfig()
    optimizer = trainer.make_optimizer(model, config)
    laps = Laps(setting.synchronize)
    feed = batches(network.dataset, config.batch_size, 0, WARM_UP + steps, config.seed, config.flip)
    with contextlib.closing(feed), timed_training(laps, model, optimizer):
        for done in range(WARM_UP + steps):
            if done == WARM_UP:
                laps.restart()
            step, images, targets = next(feed)
            laps.lap("waiting for the next batch", REST)
            trainer.training_step(model, optimizer, step, images, targets, config)
            laps.lap(BETWEEN, REST)
    calls = python_calls(lambda: trainer.training_step(model, optimizer, step, images, targets, config))
    return [*rows_of(laps, steps), ProfileRow(CALLS, calls)]


# What it looks like


def profile_table(title: str, rows: list[ProfileRow]) -> str:
    """The rows as text, milliseconds a step, with their sum."""
    total = sum(row.seconds for row in rows)
    width = max(len(row.name) for row in rows) + 2

    def line(name, calls, *cells):
        return f"{name:<{width}}{calls:>8}" + "".join(f"{cell:>12}" for cell in cells)

    def milliseconds(seconds):
        return f"{1000 * seconds:.2f} ms" if seconds else ""

    lines = [title, line("", "calls", "forward", "backward", "together", "share")]
    for row in rows:
        parts = milliseconds(row.forward), milliseconds(row.backward), milliseconds(row.seconds)
        lines.append(line(row.name, f"{row.calls:g}", *parts, f"{100 * row.seconds / total:.1f} %"))
    sums = (milliseconds(sum(getattr(row, part) for row in rows)) for part in (FORWARD, BACKWARD, "seconds"))
    lines.append(line("the whole step", "", *sums, "100.0 %"))
    return "\n".join(lines)


def draw_profile(profiles: dict[str, list[ProfileRow]]) -> Figure:
    """One panel of bars for each profile: a bar a row, its forward, backward and other part one after the other.
    Returns a matplotlib Figure."""
    shown = {title: sorted(rows, key=lambda row: -row.seconds)[:ROWS_SHOWN] for title, rows in profiles.items()}
    heights = [len(rows) + 3 for rows in shown.values()]
    figure = Figure(figsize=(10, 0.28 * sum(heights)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(shown), 1, height_ratios=heights))
    for axes, (title, rows) in zip(panels, shown.items(), strict=True):
        left = np.zeros(len(rows))
        for part, color in ((FORWARD, COLORS[1]), (BACKWARD, COLORS[5]), (REST, "gray")):
            widths = np.array([1000 * getattr(row, part) for row in rows])
            axes.barh(range(len(rows)), widths, left=left, color=color, label=part)
            left += widths
        total = sum(row.seconds for row in profiles[title])
        for y, row in enumerate(rows):
            axes.text(left[y], y, f" {100 * row.seconds / total:.1f} %", va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{title}: {1000 * total:.0f} ms a step", loc="left")
        axes.set_xlabel("milliseconds a step")
        axes.set_xlim(0, 1.1 * left.max())
        axes.margins(y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
    return figure
