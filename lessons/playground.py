"""RoIPool and RoIAlign under your own hand, in a notebook: the explainer's part 6 on your own model and picture.

The widget runs the explainer's scripts (explainer/js) and its kernels, the package's own as WebAssembly, which it takes
out of explainer/index.html. Where no widget runs, as on GitHub, the same region is shown in a figure.
"""

import base64
import functools
import io
import json
import re
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from explainer.build import parts_of
from matplotlib.figure import Figure
from PIL import Image

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import channels_last, to_numpy
from tinymrcnn.draw import ROLE_COLORS, plot_boxes, plot_cells
from tinymrcnn.roi import roi_align, roi_pool
from tinymrcnn.roi.roi_align import roi_bins as align_bins
from tinymrcnn.roi.roi_align import sample_position, samples_per_bin
from tinymrcnn.roi.roi_pool import bin_cells
from tinymrcnn.roi.roi_pool import roi_bins as pool_bins

EXPLAINER = Path(__file__).resolve().parent / "explainer"
SCRIPTS = "memory app drawing sums playground trace roi drag".split()
STRIDES = (4, 8, 16, 32)  # of P2 to P5


@functools.cache
def kernels():
    """(the kernels' bytes, the types of their arguments and results), as they are in the explainer."""
    return parts_of((EXPLAINER / "index.html").read_text(encoding="utf-8"))


@functools.cache
def front_end() -> str:
    """The widget's JavaScript: the scripts as one function, which is called for each view of the widget."""
    page = (EXPLAINER / "page.html").read_text(encoding="utf-8")
    section = re.search(r'<section[^>]*id="roi-lab">(.*?)</section>', page, re.DOTALL).group(1)
    section = re.sub(r"<h2.*?</h2>", "", section).replace("chosen object", "best detection")
    style = (EXPLAINER / "style.css").read_text(encoding="utf-8").replace(":root", ":host")
    style += ":host { display: block; padding: 0.5rem 1rem; background: var(--paper); color: var(--ink); }"
    style += ":host { font: 1rem/1.5 var(--sans); }"
    style += "@media (min-width: 901px) { .pair { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }"
    scripts = "\n".join((EXPLAINER / f"js/{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    return f"""async function render({{ model, el }}) {{
const root = el.attachShadow({{ mode: "open" }});
root.innerHTML = {json.dumps(f"<style>{style}</style>{section}")};
const $ = (id) => root.getElementById(id);
{scripts}
return play(model);
}}
export default {{ render }};
"""


class RoiPlayground(anywidget.AnyWidget):
    """A region to drag over a picture by its body, an edge or a corner, with what both operators make of it.

    model: with a feature pyramid, as the preset `shapes` has it. image: (3, H, W) float32 in 0..1, small, because all
    its maps go to the browser. roi: (x1, y1, x2, y2) in pixels of the picture as the model resizes it; the best
    detection's box unless given.

    Dragging changes the values below, and setting them moves the widget: roi; level, 2 to 5; bins; sampling_ratio
    (0: about one sample a cell); aligned; channel, the one with the strongest contrast unless given. Raises ValueError
    for a model without the maps P2 to P5."""

    roi = traitlets.List(traitlets.Float(), minlen=4, maxlen=4).tag(sync=True)
    level = traitlets.Int(3, min=2, max=5).tag(sync=True)
    bins = traitlets.Enum((1, 2, 3, 4, 5, 7), 7).tag(sync=True)
    sampling_ratio = traitlets.Int(2, min=0, max=4).tag(sync=True)
    aligned = traitlets.Bool(True).tag(sync=True)
    channel = traitlets.Int(min=0).tag(sync=True)
    shared = ("roi", "level", "bins", "sampling_ratio", "aligned", "channel")
    _esm = traitlets.Unicode().tag(sync=True)
    _module, _maps, _pixels = (traitlets.Bytes().tag(sync=True) for _ in range(3))
    _table, _shapes, _picture = (traitlets.Any().tag(sync=True) for _ in range(3))

    def __init__(self, model, image, roi=None, **settings):
        training = model.training
        model.eval()
        with no_grad():
            batch = model.transform([image])
            levels = model.features(batch)[: len(STRIDES)]
            boxes = model([image])[0]["boxes"]
        model.train(training)
        self.maps = [np.ascontiguousarray(to_numpy(channels_last(level.data))) for level in levels]
        (height, width), (h, w) = batch.images.shape[2:], batch.sizes[0]
        if [map.shape[1:3] for map in self.maps] != [(height // s, width // s) for s in STRIDES]:
            raise ValueError("RoiPlayground needs a model with the maps P2 to P5, of strides 4, 8, 16 and 32.")
        if roi is None:
            middle = np.array([[0.3, 0.3, 0.7, 0.7]]) * (w, h, w, h)
            roi = boxes[0] * np.tile((w / image.shape[2], h / image.shape[1]), 2) if len(boxes) else middle[0]
        self.pixels = np.ones((height, width, 3), np.float32)
        resized = Image.fromarray((image.transpose(1, 2, 0) * 255).round().astype(np.uint8)).resize((w, h))
        self.pixels[:h, :w] = np.asarray(resized, np.float32) / 255
        level = settings.get("level", 3)
        settings.setdefault("channel", int(self.maps[level - 2][0].std((0, 1)).argmax()))
        module, table = kernels()
        super().__init__(
            roi=[round(float(value), 1) for value in roi], **settings, _esm=front_end(), _module=module, _table=table,
            _maps=b"".join(map.astype("<f4").tobytes() for map in self.maps), _shapes=[map.shape for map in self.maps],
            _pixels=self.pixels.astype("<f4").tobytes(),
            _picture={"height": height, "width": width, "box": [round(float(value), 1) for value in roi]},
        )  # fmt: skip

    @traitlets.validate("roi")
    def _check_roi(self, proposal):
        x1, y1, x2, y2 = proposal["value"]
        if not (np.isfinite(proposal["value"]).all() and x1 < x2 and y1 < y2):
            raise traitlets.TraitError(
                f"roi must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2, but is {proposal['value']}."
            )
        return proposal["value"]

    @traitlets.validate("channel")
    def _check_channel(self, proposal):
        channels = self.maps[0].shape[3]
        if proposal["value"] >= channels:
            raise traitlets.TraitError(f"There is no channel {proposal['value']}: the maps have {channels}.")
        return proposal["value"]

    def pooled(self, rois=None):
        """What RoIPool and RoIAlign make of the region, or of (R, 4) others: two arrays (R, bins, bins)."""
        map = Tensor(self.maps[self.level - 2].transpose(0, 3, 1, 2))
        rois = [np.array([self.roi] if rois is None else rois, np.float32)]
        pool = roi_pool(map, rois, self.bins, 1 / self.stride)
        align = roi_align(map, rois, self.bins, 1 / self.stride, self.sampling_ratio, self.aligned)
        return pool.data[:, self.channel], align.data[:, self.channel]

    @property
    def stride(self):
        return STRIDES[self.level - 2]

    def axis(self, low: float, high: float, size: int):
        """Along one axis of a map with `size` cells, in pixels: the ends of RoIPool's bins (bins, 2), the ends of
        RoIAlign's bins (bins + 1,), and its samples."""
        cells = [bin_cells(*pool_bins(low, high, 1 / self.stride, self.bins), i, size) for i in range(self.bins)]
        start, length = align_bins(low, high, 1 / self.stride, self.bins, self.aligned)
        count = samples_per_bin(length, self.sampling_ratio)
        samples = [sample_position(start, length, p, i, count) for p in range(self.bins) for i in range(count)]
        ends = start + length * np.arange(self.bins + 1)
        # a cell's centre has the whole number for RoIAlign, so half a cell is added
        return np.array(cells) * self.stride, (ends + 0.5) * self.stride, (np.array(samples) + 0.5) * self.stride

    def figure(self) -> Figure:
        """The region on the picture and under both operators, and what the middle bin reads as it is pushed aside."""
        values = self.maps[self.level - 2][0, :, :, self.channel]
        x1, y1, x2, y2 = self.roi
        columns, edges_x, samples_x = self.axis(x1, x2, values.shape[1])
        rows, edges_y, samples_y = self.axis(y1, y2, values.shape[0])
        figure = Figure(figsize=(11, 6.2), dpi=70, layout="constrained")
        grid = figure.add_gridspec(2, 6, height_ratios=(1.35, 1))
        picture, pool, align = (figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3))
        height, width = self.pixels.shape[:2]
        picture.imshow(self.pixels, extent=(0, width, height, 0))
        picture.set(title="the region", xlabel="x (pixels)", ylabel="y (pixels)")
        for axes, name in ((pool, "RoIPool: whole cells"), (align, "RoIAlign: nothing is rounded")):
            plot_cells(axes, values, name, "pixels", self.stride)
            axes.set(ylabel="")
        share = min(1, 2.6 * max((x2 - x1) / width, (y2 - y1) / height))  # a small region is seen close up on the maps
        left = np.clip((x1 + x2 - share * width) / 2, 0, (1 - share) * width)
        top = np.clip((y1 + y2 - share * height) / 2, 0, (1 - share) * height)
        for axes in (picture, pool, align):
            plot_boxes(axes, self.roi, color=ROLE_COLORS["roi"], lw=2.5, ls="--")
            axes.set(xlim=(left, left + share * width), ylim=(top + share * height, top))
        picture.set(xlim=(0, width), ylim=(height, 0))
        inset = 0.06 * self.stride  # neighbouring bins may share cells
        boxes = [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
        plot_boxes(pool, np.array(boxes) + inset * np.array([1, 1, -1, -1]), color=ROLE_COLORS["RoIPool"], lw=1.2)
        align.vlines(edges_x, edges_y[0], edges_y[-1], color=ROLE_COLORS["RoIAlign"], lw=0.8)
        align.hlines(edges_y, edges_x[0], edges_x[-1], color=ROLE_COLORS["RoIAlign"], lw=0.8)
        align.scatter(*np.meshgrid(samples_x, samples_y), s=4, color=ROLE_COLORS["RoIAlign"], zorder=3)
        self._draw_traces(figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:]), values.shape[1])
        return figure

    def _draw_traces(self, value, offset, cells):
        """The middle bin as the region is pushed to the right by two cells: its value, and how far it lies from its
        place. RoIPool draws stairs and a saw-tooth."""
        x1, y1, x2, y2 = self.roi
        middle = self.bins // 2
        pushes = np.linspace(0, 2 * self.stride, 161)
        values = self.pooled(np.array(self.roi) + pushes[:, None] * np.array([1, 0, 1, 0]))
        off = []
        for p in pushes:
            columns, edges, _ = self.axis(x1 + p, x2 + p, cells)
            place = x1 + p + (middle + 0.5) * (x2 - x1) / self.bins
            off.append((columns[middle].mean() - place, edges[middle : middle + 2].mean() - place))
        for axes, lines in ((value, [array[:, middle, middle] for array in values]), (offset, np.array(off).T)):
            for line, name in zip(lines, ("RoIPool", "RoIAlign"), strict=True):
                axes.plot(pushes, line, color=ROLE_COLORS[name], lw=1.8, label=name)
            axes.set(xlabel="the region is pushed to the right by (pixels)")
        value.set(title="the middle bin's value")
        offset.set(title="how far it lies too far to the right (pixels)")
        value.legend()

    def _repr_mimebundle_(self, **kwargs):
        """The widget, and the figure for places that run none: GitHub, the site, printed pages."""
        found = super()._repr_mimebundle_(**kwargs)
        bundle, metadata = found if isinstance(found, tuple) else (found, {})
        file = io.BytesIO()
        self.figure().savefig(file, format="png")
        small = Image.open(file).convert("RGB").quantize(128)
        small.save(file := io.BytesIO(), format="png", optimize=True)
        return {**(bundle or {}), "image/png": base64.b64encode(file.getvalue()).decode()}, metadata
