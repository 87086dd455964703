"""What FCIS cannot represent however well it is trained, found before anything is trained.

Two objects of one class read the same position-sensitive maps. A pixel that lies in both RoIs, and in both of them in
the part of the same number, gets one answer for both: inside or outside. A map's cell is `stride` pixels wide, and all
of its pixels that are read through one part get one answer, too. So the pixels of an RoI fall into groups, one for each
cell and part. An oracle knows the true masks and boxes, takes the boxes as RoIs, and makes the best maps: for each
object alone, as if it had the maps to itself, and for both of a pair at once. There are two of them.

The first chooses the groups that are inside, for the highest mean mask IoU. Parts and cells are those of
models/fcis.py, but every pixel is read for itself: no mask made of whole groups is better.

The second reads and decodes as models/fcis.py does. There an RoI is a grid of 21 x 21 bins, a bin is the mean of what
it covers, and masks are interpolated, so that maps of many values can place an outline between two cells: with coarse
maps it is above the first. Its maps are free numbers, for which the mask loss of the two RoIs is minimised: a convex
problem, so this is the lowest loss that any network can reach, and the IoU that comes with it. Voting and the second
pass are off.

Objects of other classes have maps of their own and share nothing. Beside FCIS, the same bound of Mask R-CNN: a target
of 28 x 28 cells for each object, pasted back.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tinymrcnn.autograd import Tensor
from tinymrcnn.boxes import box_iou, crop_masks, paste_masks
from tinymrcnn.data import ShapesDataset
from tinymrcnn.draw.overlay import COLORS
from tinymrcnn.models.fcis import FCISSettings, fcis_mask_targets, on_pixels
from tinymrcnn.models.mask_branch import MaskSettings, mask_targets
from tinymrcnn.models.voting import cut_at_half
from tinymrcnn.roi.ps_roi_pool import group_of, ps_roi_pool_unchecked
from tinymrcnn.roi.rois import boxes_to_rois
from tinymrcnn.threads import one_blas_thread

TITLE = "What FCIS cannot represent: masks of the best maps there can be"

GROUPS = (3, 7)  # parts of an RoI along each axis
STRIDES = (1, 4, 8)  # pixels a cell of the maps
SETTINGS, STRIDE = FCISSettings(), 8  # of the second oracle, as in the preset shapes_fcis
RIDGE = 1e-3  # times half the squared length of the maps, added to their loss, which else may have no minimum
OVERLAPS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)  # edges of the bins of the boxes' IoU
MASK_SIZE = 28


class Pair(NamedTuple):
    """Two objects of one class in one picture: masks (2, H, W) bool, boxes (2, 4), and the boxes' IoU."""

    masks: np.ndarray
    boxes: np.ndarray
    overlap: float


def pairs_of(target: dict) -> Iterator[Pair]:
    """All pairs of one class in a picture whose boxes overlap by an IoU within OVERLAPS."""
    overlaps = box_iou(target["boxes"], target["boxes"])
    for i, j in combinations(range(len(overlaps)), 2):
        if target["labels"][i] == target["labels"][j] and OVERLAPS[0] <= overlaps[i, j] < OVERLAPS[-1]:
            yield Pair(target["masks"][[i, j]] > 0, target["boxes"][[i, j]], float(overlaps[i, j]))


# The first oracle: what FCIS reads


def reads(box: np.ndarray, size: tuple[int, int], group: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Which part, and which cell of its maps, every pixel of an RoI reads: two (H, W) int64 arrays, -1 outside it.

    box: (4,). size: (H, W) of the picture. Of an RoI h pixels high, row i lies in part floor(i group / h), whatever
    number of bins the RoI is read in, as long as the parts divide it; cells begin at the picture's corner."""
    x1, y1, x2, y2 = on_pixels(box[None])[0].astype(np.int64).tolist()
    y, x = np.mgrid[: size[0], : size[1]]
    within = (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
    part = group_of(y - y1, y2 - y1, group) * group + group_of(x - x1, x2 - x1, group)
    cell = y // stride * -(-size[1] // stride) + x // stride
    return np.where(within, part, -1), np.where(within, cell, -1)


def count(masks: np.ndarray, boxes: np.ndarray, group: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """masks (N, H, W) bool and boxes (N, 4) of objects that share their maps, to (G, N) int64 twice: how many pixels of
    each object, and of the rest of its RoI, take the answer of each of the G pairs of part and cell that are read."""
    addresses = []
    for box in boxes:
        part, cell = reads(box, masks.shape[1:], group, stride)
        addresses.append(np.where(part >= 0, cell * group**2 + part, -1))
    joined = np.stack(addresses)
    places, answers = np.unique(joined, return_inverse=True)
    answers = answers.reshape(joined.shape)
    inside, outside = (
        np.stack([np.bincount(a[m], minlength=len(places)) for a, m in zip(answers, of, strict=True)], axis=1)
        for of in (masks, ~masks)
    )
    return inside[places >= 0], outside[places >= 0]


# The best choice


def mean_iou(inside: np.ndarray, outside: np.ndarray, chosen: np.ndarray) -> float:
    """The mean over N objects of their masks' IoU, if the chosen groups (G,) bool are inside; inside, outside: (G, N)
    pixels."""
    return float((chosen @ inside / (inside.sum(axis=0) + chosen @ outside)).mean())


def best_choice(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The groups (G,) bool that should be inside, for the highest mean IoU of the N objects that share them.

    The IoU of an object is a / (size + b), with a the pixels of it and b the others that are chosen. At a choice with
    the IoUs q, a group with a' and b' more moves the mean by about the sum of (a' - q b') / (size + b) over the
    objects. Choose all groups for which that is positive, and repeat as long as the mean rises.

    For one object this is Dinkelbach's method (1967), which ends at the optimum: if the groups with a' > q b' have the
    IoU q again, then a - q b <= q size for every choice, so none has a higher IoU. For two the mean has another form;
    there single groups are turned over as long as one of them helps, and the end need not be the optimum. The tests
    hold it beside all choices where there are few, and elsewhere beside an upper bound."""
    starts = [(inside > outside).any(axis=1), *(inside > outside).T]
    return max((_improved(inside, outside, start) for start in starts), key=lambda c: mean_iou(inside, outside, c))


def _improved(inside: np.ndarray, outside: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    best, highest = chosen, -1.0
    while (here := mean_iou(inside, outside, chosen)) > highest:
        best, highest = chosen, here
        union = inside.sum(axis=0) + best @ outside
        chosen = ((inside - best @ inside / union * outside) / union).sum(axis=1) > 0
    while inside.shape[1] > 1:
        sign = np.where(best, -1, 1)[:, None]
        turned = (best @ inside + sign * inside) / (inside.sum(axis=0) + best @ outside + sign * outside)
        turned = turned.mean(axis=1)  # (G,), each group turned over alone
        if turned.max() <= highest:
            break
        best = best ^ (np.arange(len(best)) == turned.argmax())
        highest = turned.max()
    return best


def bounds(pair: Pair, group: int, stride: int) -> tuple[float, float]:
    """The highest mean mask IoU of the two: each with maps of its own, and both with the same maps."""
    alone = [count(pair.masks[[i]], pair.boxes[[i]], group, stride) for i in range(2)]
    both = count(pair.masks, pair.boxes, group, stride)
    first, second, shared = (mean_iou(*counts, best_choice(*counts)) for counts in (*alone, both))
    return (first + second) / 2, shared


def forced(pair: Pair, group: int) -> float:
    """Of the pixels in both RoIs, how many lie in parts of the same number, so that they get one answer for both."""
    first, second = (reads(box, pair.masks.shape[1:], group, 1)[0] for box in pair.boxes)
    common = (first >= 0) & (second >= 0)
    return float((first == second)[common].mean())


# The second oracle: the model's own reading


def reading_matrix(boxes: np.ndarray, size: tuple[int, int], settings: FCISSettings, stride: int) -> np.ndarray:
    """What read_rois of models/fcis.py reads of one map for each part, as a matrix: (R m m, F) float64, from the F
    pairs of part and cell that are read, to the m x m bins of R RoIs (R, 4) in a picture of `size` (H, W)."""
    bins, group = settings.pooled, settings.group
    height, width = (-(-side // stride) + 2 for side in size)  # the maps have a rim of a cell
    cells = np.eye(height * width).reshape(1, height * width, height, width)
    rois = boxes_to_rois([on_pixels(boxes.astype(np.float64)) + stride])
    read = ps_roi_pool_unchecked(Tensor(cells), rois, bins, 1.0, 1, split=stride).data  # (R, cells, m, m)
    of_bin = np.array([group_of(index, bins, group) for index in range(bins)])
    part = of_bin[:, None] * group + of_bin
    roi, cell, y, x = np.nonzero(read)
    used, column = np.unique(part[y, x] * height * width + cell, return_inverse=True)
    matrix = np.zeros((len(boxes) * bins**2, len(used)))
    matrix[(roi * bins + y) * bins + x, column] = read[roi, cell, y, x]
    return matrix


def lowest_loss(matrix: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The maps (F,), inside minus outside, whose reading (B, F) @ (F,) has the lowest sum of binary cross-entropies
    with the targets (B,), 0 and 1, plus the ridge: to about 0.01 of it, by Newton's method."""

    def loss(maps: np.ndarray) -> float:
        logits = matrix @ maps
        return float(np.logaddexp(0, logits).sum() - targets @ logits + RIDGE / 2 * maps @ maps)

    maps = np.zeros(matrix.shape[1])
    while True:
        probabilities = 0.5 + 0.5 * np.tanh(matrix @ maps / 2)
        gradient = matrix.T @ (probabilities - targets) + RIDGE * maps
        curvature = (matrix.T * (probabilities * (1 - probabilities))) @ matrix + RIDGE * np.eye(len(maps))
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < 0.02:  # twice what is left to gain
            return maps
        while loss(maps - step) > loss(maps):
            step /= 2
        maps = maps - step


def fitted_masks(masks: np.ndarray, boxes: np.ndarray, settings: FCISSettings, stride: int) -> np.ndarray:
    """What FCIS makes of objects that share the maps of the lowest loss: masks (N, H, W) and boxes (N, 4), to masks."""
    boxes = on_pixels(boxes.astype(np.float64))
    matrix = reading_matrix(boxes, masks.shape[1:], settings, stride)
    targets = fcis_mask_targets(masks, boxes, objects=np.arange(len(boxes)), settings=settings)
    logits = (matrix @ lowest_loss(matrix, targets.ravel())).reshape(targets.shape)
    whole = np.tile([0.0, 0.0, settings.pooled, settings.pooled], (len(boxes), 1))
    finer = crop_masks(0.5 + 0.5 * np.tanh(logits / 2), whole, 2 * settings.pooled)  # as decode_fcis
    pasted: np.ndarray = paste_masks(cut_at_half(finer, settings.mask_threshold), boxes, masks.shape[1:]) >= 0.5
    return pasted


def fitted(pair: Pair) -> tuple[float, float]:
    """The mean mask IoU of the two with the maps of the lowest loss: each with its own, and both with the same."""
    with one_blas_thread:  # the matrices are small
        alone = np.concatenate([fitted_masks(pair.masks[[i]], pair.boxes[[i]], SETTINGS, STRIDE) for i in range(2)])
        return pair_iou(alone, pair), pair_iou(fitted_masks(pair.masks, pair.boxes, SETTINGS, STRIDE), pair)


def pair_iou(masks: np.ndarray, pair: Pair) -> float:
    """The mean IoU of two masks (2, H, W) bool with those of the pair."""
    return float(((masks & pair.masks).sum((1, 2)) / (masks | pair.masks).sum((1, 2))).mean())


def round_trip(pair: Pair) -> float:
    """The mean mask IoU of the two after Mask R-CNN's target of 28 x 28 cells, pasted back and cut at 0.5."""
    targets = mask_targets(pair.masks, pair.boxes, objects=np.arange(2), size=MASK_SIZE, settings=MaskSettings())
    return pair_iou(paste_masks(targets, pair.boxes, pair.masks.shape[1:]) >= 0.5, pair)


# The table and the figure


def oracle(num_images: int = 500, seed: int = 1) -> list[dict[str, Any]]:
    """The means over all pairs of ShapesDataset(num_images, seed=seed, crowded=True), one row for each bin of the
    boxes' IoU that has pairs: overlap (low, high), pairs, round_trip, maps (group, stride, forced, alone and both of
    the first oracle), and fitted (group, stride, alone and both of the second)."""
    dataset = ShapesDataset(num_images, seed=seed, crowded=True)
    pairs = [pair for index in range(num_images) for pair in pairs_of(dataset[index][1])]
    rows = []
    for low, high in zip(OVERLAPS[:-1], OVERLAPS[1:], strict=True):
        found = [pair for pair in pairs if low <= pair.overlap < high]
        if found:
            maps = [means(found, group, stride) for group in GROUPS for stride in STRIDES]
            alone, both = np.mean([fitted(pair) for pair in found], axis=0).tolist()
            rows.append({
                "overlap": [low, high],
                "pairs": len(found),
                "round_trip": float(np.mean([round_trip(pair) for pair in found])),
                "maps": maps,
                "fitted": {"group": SETTINGS.group, "stride": STRIDE, "alone": alone, "both": both},
            })  # fmt: skip
    return rows


def means(pairs: list[Pair], group: int, stride: int) -> dict[str, Any]:
    """The means of the first oracle."""
    ties = float(np.mean([forced(pair, group) for pair in pairs]))
    alone, both = np.mean([bounds(pair, group, stride) for pair in pairs], axis=0).tolist()
    return {"group": group, "stride": stride, "forced": ties, "alone": alone, "both": both}


def run(quick: bool = False) -> dict[str, Any]:
    """The table with what it is of, as JSON can hold it; quick: of a few pictures."""
    images = 6 if quick else 500
    return {
        "data": f"ShapesDataset({images}, seed=1, crowded=True)",
        "measure": "mean mask IoU of pairs of one class, by the IoU of their boxes",
        "rows": oracle(images),
    }


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown: of FCIS each object alone -> both from the same maps."""
    columns = [f"k = {group}, stride {stride}" for group in GROUPS for stride in STRIDES]
    titles = ["IoU of the boxes", "pairs", "Mask R-CNN, 28 x 28", *columns, f"k = {SETTINGS.group}, as the model reads"]
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join(['---'] * len(titles))} |"]
    for row in result["rows"]:
        low, high = row["overlap"]
        found = [f"{maps['alone']:.3f} -> {maps['both']:.3f}" for maps in (*row["maps"], row["fitted"])]
        cells = [f"{low:g} to {high:g}", str(row["pairs"]), f"{row['round_trip']:.3f}", *found]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any]) -> Figure:
    """The bounds over the overlap, one panel for each stride: dashed alone, drawn through with shared maps."""
    rows = result["rows"]
    centres = [sum(row["overlap"]) / 2 for row in rows]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, len(STRIDES), sharey=True)
    for panel, stride in zip(panels, STRIDES, strict=True):
        curves = {
            f"k = {group}": [
                next(maps for maps in row["maps"] if (maps["group"], maps["stride"]) == (group, stride)) for row in rows
            ]
            for group in GROUPS
        }
        if stride == STRIDE:
            curves[f"k = {SETTINGS.group}, read as the model reads"] = [row["fitted"] for row in rows]
        for (name, values), color, marker in zip(
            curves.items(), (COLORS[0], COLORS[4], COLORS[2]), "so^", strict=False
        ):
            panel.plot(centres, [value["alone"] for value in values], color=color, ls="--", marker=marker, ms=5)
            both = [value["both"] for value in values]
            panel.plot(centres, both, color=color, marker=marker, ms=5, label=f"FCIS, {name}")
        panel.plot(centres, [row["round_trip"] for row in rows], color="black", ls=":", label="Mask R-CNN, 28 x 28")
        panel.set(title="maps as fine as the picture" if stride == 1 else f"maps of stride {stride}")
        panel.set(xlabel="IoU of the two boxes", xlim=(OVERLAPS[0], OVERLAPS[-1]))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="mask IoU", ylim=(0.35, 1.02))
    handles, labels = panels[-1].get_legend_handles_labels()
    styles = {"each object alone": "--", "both with the same maps": "-"}
    handles += [Line2D([], [], color="gray", ls=style) for style in styles.values()]
    figure.legend(handles, [*labels, *styles], loc="outside lower center", ncols=3, frameon=False)
    return figure
