"""Non-maximum suppression: of boxes that overlap a better one too much, only the better one stays.

The greedy rule of Girshick et al. 2014, used twice in Mask R-CNN (section 3.1): go through the boxes by
descending score, keep a box, and drop those after it whose IoU with it is above the threshold. Lesson 05
explains it.
"""

from typing import Any

import numpy as np

from tinymrcnn.backend import Array, array_module, backend_of, like, to_numpy
from tinymrcnn.kernels import THREADS_PER_BLOCK, cpu_kernel, cuda, cuda_kernel, launch, run, scalar

# The arithmetic, once for every target


@scalar
def iou(corners: Array, i: int, j: int) -> float:
    """Intersection over union of boxes i and j. corners: the four rows x1, y1, x2, y2, each (n,)."""
    x1, y1 = max(corners[0][i], corners[0][j]), max(corners[1][i], corners[1][j])
    x2, y2 = min(corners[2][i], corners[2][j]), min(corners[3][i], corners[3][j])
    T = type(x1)
    intersection: float = max(x2 - x1, T(0)) * max(y2 - y1, T(0))
    area_i: float = (corners[2][i] - corners[0][i]) * (corners[3][i] - corners[1][i])
    area_j: float = (corners[2][j] - corners[0][j]) * (corners[3][j] - corners[1][j])
    return intersection / (area_i + area_j - intersection)  # NaN, above no threshold, for two empty boxes


# The kernels. Boxes are sorted by group, then by descending score; group g is boxes starts[g] to starts[g + 1].


@cpu_kernel
def nms_cpu(thread: int, threads: int, corners: Array, starts: Array, threshold: float, keep: Array) -> None:
    """corners: (4, n) of the type of threshold. starts: (groups + 1,) int64. keep: (n,) bool, True at first."""
    for group in range(thread, len(starts) - 1, threads):
        end = starts[group + 1]
        for i in range(starts[group], end):
            if keep[i]:
                rest, stay = (corners[0][i:end], corners[1][i:end], corners[2][i:end], corners[3][i:end]), keep[i:end]
                for j in range(len(stay)):  # without a branch and from 0 on, so that the loop becomes vectors
                    stay[j] &= not iou(rest, 0, j) > threshold
                keep[i] = True  # it overlaps itself


# On a GPU every pair is compared at once, and only the walk through the results is sequential.


@cuda_kernel
def overlaps_cuda(corners: Array, first: Array, end: Array, threshold: float, overlaps: Array) -> None:
    """Set bit b of overlaps[i, word] if box i overlaps box 64 word + b of its group and that comes after i.

    first, end: for every box, the bounds of its group."""
    # Neighbouring threads compare their boxes with the same ones
    for element in range(cuda.grid(1), overlaps.size, cuda.gridsize(1)):
        i, word = element % len(overlaps), element // len(overlaps)
        base = first[i] + 64 * word
        bits = np.uint64(0)
        for j in range(max(base, i + 1), min(base + 64, end[i])):
            if iou(corners, i, j) > threshold:
                bits |= np.uint64(1) << np.uint64(j - base)
        overlaps[i, word] = bits


@cuda_kernel
def walk_cuda(overlaps: Array, starts: Array, removed: Array, keep: Array) -> None:
    """One block of threads per group, 64 boxes after 64: clear keep[i] of every box that a kept one before it overlaps.

    removed: (groups, words) bits, all 0 at first."""
    one = np.uint64(1)
    for group in range(cuda.blockIdx.x, len(starts) - 1, cuda.gridDim.x):
        for word in range((starts[group + 1] - starts[group] + 63) // 64):
            first = starts[group] + 64 * word
            end = min(first + 64, starts[group + 1])
            cuda.syncthreads()  # every thread sees the words that the others wrote for the 64 boxes before
            gone = removed[group, word]  # of these 64, by kept boxes before them, then by one another
            for i in range(first, end):  # no branch, so that the reads need not wait for one another
                gone |= overlaps[i, word] * (one - (gone >> np.uint64(i - first) & one))
            for i in range(first + cuda.threadIdx.x, end, cuda.blockDim.x):
                keep[i] = gone >> np.uint64(i - first) & one == 0
            for later in range(word + 1 + cuda.threadIdx.x, overlaps.shape[1], cuda.blockDim.x):
                for i in range(first, end):
                    if gone >> np.uint64(i - first) & one == 0:
                        removed[group, later] |= overlaps[i, later]


# The functions


def nms(boxes: Array, scores: Array, iou_threshold: float) -> Array:
    """The boxes that survive, best first.

    boxes: (n, 4) float32 or float64 array (x1, y1, x2, y2). scores: (n,) array. A box is dropped when its IoU
    with a better box that stays is above iou_threshold; an equal IoU is allowed. Returns their indices, int64, by
    descending score; of equal scores the smaller index counts as the better.

    Raises ValueError for other shapes or dtypes, and naming the row for a value that is not finite; TypeError
    when the arrays lie on different devices.
    """
    xp = array_module(boxes, scores)
    return batched_nms(boxes, scores, xp.zeros(len(boxes), np.int64), iou_threshold)


def batched_nms(boxes: Array, scores: Array, idxs: Array, iou_threshold: float) -> Array:
    """nms within every group of boxes on its own: boxes of other groups never suppress one another.

    idxs: (n,) integer array, the group (class, level, image) of each box. The rest is as in nms; the indices
    come by descending score over all groups.
    """
    xp = array_module(boxes, scores, idxs)
    _check_arguments(xp, boxes, scores, idxs, iou_threshold)
    best_first = xp.argsort(-scores, kind="stable")
    grouped = best_first[xp.argsort(idxs[best_first], kind="stable")]
    groups, keep = to_numpy(idxs[grouped]), xp.ones(len(boxes), bool)
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1, append=groups[-1:] + 1))
    keep[grouped] = survivors(boxes[grouped], keep, starts, iou_threshold)
    return best_first[keep[best_first]]


def survivors(boxes: Array, there: Array, starts: np.ndarray, iou_threshold: float) -> Array:
    """NMS of sorted boxes, which waits for nothing: which of the boxes (n, 4) stay, (n,) bool.

    Group g is boxes starts[g] to starts[g + 1], by descending score; starts: (groups + 1,) on the host. there: (n,)
    bool; a box that is not there does not stay, and suppresses no other."""
    xp, keep = array_module(boxes, there), there.copy()
    threshold = boxes.dtype.type(iou_threshold)
    if float(threshold) > iou_threshold:
        threshold = np.nextafter(threshold, boxes.dtype.type(-1))  # so `>` decides as it would in float64
    corners, sizes, ends = xp.ascontiguousarray(boxes.T), np.diff(starts), like(starts, boxes)
    if backend_of(boxes).host_view is not None:
        run(nms_cpu, None, int((sizes * sizes).sum()), corners, ends, threshold, keep)
        return keep
    corners = xp.where(there, corners, 0)  # an empty box overlaps no other
    words = -(-int(max(sizes, default=0)) // 64)
    group = xp.searchsorted(ends, xp.arange(len(boxes)), side="right")  # and one more
    overlaps = xp.empty((len(boxes), words), np.uint64)
    removed = xp.zeros((len(sizes), words), np.uint64)
    launch(overlaps_cuda, overlaps.size, corners, ends[group - 1], ends[group], threshold, overlaps)
    launch(walk_cuda, len(removed) * THREADS_PER_BLOCK, overlaps, ends, removed, keep)
    return keep & there


def _check_arguments(xp: Any, boxes: Array, scores: Array, idxs: Array, iou_threshold: float) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype not in (np.float32, np.float64):
        raise ValueError(f"The boxes must be a float (n, 4) array, not {boxes.dtype} {boxes.shape}.")
    for name, array, kinds, numbers in ("the scores", scores, "f", "floats"), ("their groups", idxs, "iu", "integers"):
        if array.shape != boxes.shape[:1] or array.dtype.kind not in kinds:
            rule = f"{name} must be {len(boxes)} {numbers} in one dimension"
            raise ValueError(f"There are {len(boxes)} boxes, so {rule}, not {array.dtype} {array.shape}.")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"The IoU threshold must lie in 0..1, not {iou_threshold!r}.")
    finite = xp.isfinite(boxes).all(axis=1) & xp.isfinite(scores)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"Box {row} or its score is not finite: {boxes[row].tolist()}, score {float(scores[row])}.")
