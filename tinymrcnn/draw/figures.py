"""The drawings that several places share: instances (overlay.py), grids of pictures, training curves, anchors, the
bins of a RoI, the autograd graph.

Every draw_* function returns a picture, an array (H, W, 3) uint8, which write_picture saves and a notebook
shows with PIL.Image.fromarray. Nothing here opens a window or changes matplotlib's settings. Every lesson
draws with it, or takes its colours from it.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinymrcnn.autograd import Tensor
from tinymrcnn.autograd.graph import outputs_first
from tinymrcnn.backend import to_numpy
from tinymrcnn.data.images import write_image
from tinymrcnn.draw.overlay import COLORS

# What has the same colour in every figure; lines differ in style or marker too, for print in grey
ROLE_COLORS = {
    "truth": "#009e73",
    "prediction": "#0072b2",
    "proposal": "#cc79a7",
    "roi": "#e69f00",
    "bins": "#56b4e9",
    "points": "#d55e00",
    "positive": "#0072b2",
    "negative": "#d55e00",
    "ignored": "#999999",
    "RoIPool": "#d55e00",
    "RoIWarp": "#cc79a7",
    "RoIAlign": "#0072b2",
}


def describe(name: str, array) -> str:
    """One line about an array or a Tensor on any device: its shape, dtype and range."""
    array = to_numpy(array.data if isinstance(array, Tensor) else array)
    line = f"{name}: {array.dtype} {tuple(array.shape)}"
    if array.size == 0:
        return f"{line}, empty"
    if array.dtype.kind not in "fiub":
        return line
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if finite.size < array.size:
        line += f", {array.size - finite.size} of {array.size} values not finite"
    return f"{line}, {finite.min():.6g} to {finite.max():.6g}" if finite.size else line


def write_picture(path, picture) -> None:
    """Save a picture (H, W, 3) uint8 as PNG or JPEG, whole or not at all (see data.images.write_image)."""
    write_image(path, picture.transpose(2, 0, 1).astype(np.float32) / 255)


# Figures -------------------------------------------------------------------------------------------------


def draw_grid(rows, titles=()):
    """Pictures (H, W, 3) uint8 side by side on white, row below row, a title above each column.

    rows: a list of rows, each a list of pictures of any size. titles: one text a column."""
    gap = 8
    columns = max(len(row) for row in rows)
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    font = ImageFont.load_default(24)
    head = 40 if titles else gap
    canvas = Image.new("RGB", (sum(widths) + gap * (columns + 1), head + sum(heights) + gap * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    x = gap
    for c in range(columns):
        if c < len(titles):
            draw.text((x + widths[c] / 2, head / 2), titles[c], font=font, fill="black", anchor="mm")
        y = head
        for row, height in zip(rows, heights, strict=True):
            if c < len(row):
                canvas.paste(Image.fromarray(row[c]), (x, y))
            y += height + gap
        x += widths[c] + gap
    return np.asarray(canvas)


def _figure(size: tuple[float, float]):
    """An empty matplotlib figure of so many inches. The parts of matplotlib that draw are loaded with the first one:
    they take longer to load than NumPy, and a training run begins without a figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _pixels(figure):
    """A matplotlib figure as a picture, 100 pixels an inch whatever the user's matplotlib is set to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def draw_curves(log: list[dict], validations=()):
    """The course of a training run: its losses, the learning rate, the positive samples, and AP on held-out images.

    log: the lines of log.jsonl, dicts with step, lr, loss, the losses (loss_*) and positive_*; thin lines are
    the values as logged, thick ones means over the last 2% of the steps. validations: the lines of validation.jsonl,
    dicts with step, loss, and bbox/AP, segm/AP50, ...; without any, the last part is missing."""
    figure = _figure((11, 12 if validations else 9))
    parts = (3, 1, 1.5, 2.5)[: 4 if validations else 3]
    losses, rates, counts, *precision = figure.subplots(len(parts), 1, sharex=True, height_ratios=parts)
    steps = [line["step"] for line in log]
    names = [name for name in log[0] if name.startswith("loss")] if log else []
    for index, name in enumerate(names):
        _draw_series(losses, steps, [line[name] for line in log], name, COLORS[index % 6] if index else "black")
    points = [(line["step"], line["loss"]) for line in validations if "loss" in line]
    if points:
        losses.plot(*zip(*points, strict=True), "o--", color="black", markersize=4, label="held-out loss")
    losses.set(ylabel="loss", yscale="log")
    rates.plot(steps, [line["lr"] for line in log], color="black")
    rates.set(ylabel="learning rate")
    for index, name in enumerate([name for name in log[0] if name.startswith("positive")] if log else []):
        _draw_series(counts, steps, [line[name] for line in log], name.replace("_", " "), COLORS[index])
    counts.set(ylabel="in the batch")
    counts.set_ylim(bottom=0)
    for axes in precision:
        shown = [name for name in ("segm/AP", "segm/AP50", "bbox/AP", "bbox/AP50") if name in validations[0]]
        for index, name in enumerate(shown):
            found = [line[name] for line in validations]
            style = "o-" if name.startswith("segm") else "s--"
            axes.plot([line["step"] for line in validations], found, style, color=COLORS[index], label=name)
        axes.set(ylabel="AP, held-out images", ylim=(0, 1))
    (precision or [counts])[0].set(xlabel="step")
    for axes in (losses, counts, *precision):
        if axes.lines:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=7, frameon=False)
    for axes in (losses, rates, counts, *precision):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _pixels(figure)


def _draw_series(axes, steps, values, name: str, color) -> None:
    window = max(1, len(values) // 50)
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(1, len(values) + 1) - window)
    means = (total[1:] - total[first]) / np.arange(1, len(values) + 1).clip(max=window)
    axes.plot(steps, values, color=color, linewidth=0.5, alpha=0.3)
    axes.plot(steps, means, color=color, linewidth=1.8, label=name)


def draw_errors(errors: dict[str, dict[str, tuple[int, float]]]):
    """What each kind of error costs as bars. errors: {"boxes": {kind: (how many there are, what AP50 loses)}, ...}."""
    figure = _figure((8, 4.5))
    axes = figure.subplots()
    height = 0.8 / len(errors)
    for index, (title, kinds) in enumerate(errors.items()):
        places = np.arange(len(kinds)) + (index - (len(errors) - 1) / 2) * height
        costs = [max(0.0, cost) for _, cost in kinds.values()]
        bars = axes.barh(places, costs, 0.9 * height, color=COLORS[4 - 3 * index], label=title, hatch="//" * index)
        axes.bar_label(bars, [f"{cost:.3f} ({count:,})" for count, cost in kinds.values()], padding=4, fontsize=9)
    axes.set_yticks(np.arange(len(kinds)), list(kinds))
    axes.set(xlabel="AP50 that this kind of error costs (how many there are)")
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return _pixels(figure)


def draw_anchors(image, anchors: dict):
    """Anchors over an image (3, H, W), a colour for each level; those that leave the image are seen whole.

    anchors: {name of a level: array (A, 4)}; give a few of them, as those of one cell."""
    figure = _figure((7, 7))
    axes = figure.subplots()
    height, width = image.shape[1:]
    axes.imshow(image.transpose(1, 2, 0), extent=(0, width, height, 0))
    for level, (name, boxes) in enumerate(anchors.items()):
        for index, (x1, y1, x2, y2) in enumerate(np.asarray(boxes).tolist()):
            label = name if index == 0 else None
            axes.plot((x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1), color=COLORS[level % len(COLORS)], lw=2, label=label)
    axes.autoscale_view()
    axes.set(xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal", facecolor="#dddddd")
    axes.legend(loc="upper right")
    return _pixels(figure)


def draw_roi_grid(feature, roi, bins, points=()):
    """A RoI on a feature map: the map's cells, the RoI, the bins it is divided into, and the sampling points.

    feature: (h, w), drawn with cell (row i, column j) covering [j, j+1) x [i, i+1). roi: (4,), and bins (B, 4):
    boxes in the same coordinates; the bins are those of RoIAlign, or RoIPool's after rounding. points: (P, 2)
    as (x, y), where RoIAlign samples the map: the value of a cell belongs to its centre."""
    figure = _figure((7, 7))
    axes = figure.subplots()
    height, width = feature.shape
    axes.imshow(feature, cmap="gray", extent=(0, width, height, 0))
    axes.set_xticks(range(width + 1), minor=True)
    axes.set_yticks(range(height + 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for index, (x1, y1, x2, y2) in enumerate(np.asarray(bins).tolist()):
        name = "bins" if index == 0 else None
        axes.plot((x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1), color=COLORS[1], lw=1.2, label=name)
    x1, y1, x2, y2 = np.asarray(roi).tolist()
    axes.plot((x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1), color=COLORS[0], lw=2.5, ls="--", label="RoI")
    if len(points):
        axes.scatter(*np.asarray(points).T, s=14, color=COLORS[5], zorder=3, label="sampling points")
    axes.set(xlabel="x (cells)", ylabel="y (cells)", aspect="equal")
    axes.legend(loc="upper right")
    return _pixels(figure)


def draw_graph(tensor: Tensor):
    """The graph that `tensor` was computed from, before its backward pass: operators as boxes, leaves as
    ellipses, the inputs at the top. Raises ValueError for a Tensor without a graph, RuntimeError for a graph
    that was walked before."""
    if tensor.node is None:
        raise ValueError("This Tensor has no graph: nothing it was computed from requires gradients.")
    depth = {tensor.node: 0}  # of a Node: its longest way to the result
    for node in outputs_first(tensor.node):
        for parent in filter(None, node.parents):
            depth[parent] = max(depth.get(parent, 0), depth[node] + 1)
    layers = [[node for node in depth if depth[node] == d] for d in range(max(depth.values()) + 1)]
    x: dict = {}
    for layer in layers:  # each Node as near to those that use it as its layer allows
        users = {node: [x[user] for user in x if any(parent is node for parent in user.parents)] for node in layer}
        layer.sort(key=lambda node: np.mean(users[node]) if users[node] else 0.0)
        x |= {node: index - (len(layer) - 1) / 2 for index, node in enumerate(layer)}

    widest = max(len(layer) for layer in layers)
    figure = _figure((max(3.0, 1.6 * widest), max(2.0, 0.9 * len(layers))))
    axes = figure.subplots()
    for node in depth:
        leaf = node.backward is None
        style = {"boxstyle": "ellipse" if leaf else "round", "fc": COLORS[0] if leaf else "#dceefa", "ec": "#444444"}
        axes.text(x[node], depth[node], node.name, ha="center", va="center", bbox=style, fontsize=11, zorder=2)
        for parent in filter(None, node.parents):
            arrow = {"arrowstyle": "-|>", "color": "#444444", "shrinkA": 12, "shrinkB": 12}
            axes.annotate("", (x[node], depth[node]), (x[parent], depth[parent]), arrowprops=arrow, zorder=1)
    axes.set(xlim=(-widest / 2 - 0.1, widest / 2 + 0.1), ylim=(-0.6, len(layers) - 0.4))
    axes.axis("off")
    return _pixels(figure)


# On axes of the reader's own -----------------------------------------------------------------------------


def plot_cells(axes, values, title: str = "", unit: str = "cells", stride: float = 1) -> None:
    """A map of cells on matplotlib axes: pale, its cells dashed, a mark at each centre, where the value lives.

    values: (h, w); cell (row i, column j) covers [j, j + 1) x [i, i + 1) times stride, the length of a cell
    in the unit, so that boxes and points can be drawn over it."""
    height, width = values.shape
    low, high = float(values.min()), float(values.max())
    extent = (0, width * stride, height * stride, 0)
    axes.imshow(values, cmap="gray", extent=extent, vmin=low - 1.5 * (high - low) - 1e-6, vmax=high, zorder=0)
    axes.vlines(np.arange(width + 1) * stride, 0, height * stride, color="#777777", lw=0.6, ls="--", zorder=1)
    axes.hlines(np.arange(height + 1) * stride, 0, width * stride, color="#777777", lw=0.6, ls="--", zorder=1)
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    axes.scatter(x, y, marker="+", s=18, lw=0.7, color="#555555", zorder=1)
    axes.set(title=title, xlabel=f"x ({unit})", ylabel=f"y ({unit})", aspect="equal")


def plot_boxes(axes, boxes, label: str | None = None, **style) -> None:
    """Boxes (N, 4) or one box (4,) as outlines on matplotlib axes; style: of axes.plot, label: for the legend."""
    for index, (x1, y1, x2, y2) in enumerate(np.reshape(boxes, (-1, 4)).tolist()):
        axes.plot((x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1), label=label if index == 0 else None, **style)
