"""A box as the correction of another box: the (dx, dy, dw, dh) that the RPN and the box branch predict.

    dx = wx (gx - px) / pw        dw = ww ln(gw / pw)
    dy = wy (gy - py) / ph        dh = wh ln(gh / ph)

with (gx, gy) and (gw, gh) the centre and size of the wanted box, (px, py) and (pw, ph) those of the given
one, an anchor or a proposal. Shifts are measured in box sizes and sizes as logarithms, so the same numbers
describe the same correction at every scale. The weights w bring the four to comparable variances.
Appendix C of the R-CNN paper, equation 2 of the Faster R-CNN paper. Lessons 05 and 08 work through it.
"""

import math
from collections.abc import Sequence

import numpy as np

from tinymrcnn.backend import Array, array_module, like
from tinymrcnn.boxes.geometry import check_boxes, check_positive_size

# No correction enlarges a box more than 1000/16 times: exp() of a wild prediction would overflow.
LARGEST_LOG_SCALE = math.log(1000 / 16)


class BoxCoder:
    """Boxes to corrections and back.

    weights: (wx, wy, ww, wh); (1, 1, 1, 1) in the RPN, (10, 10, 5, 5) in the box branch.
    clip: the largest dw and dh that decode follows.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), clip: float = LARGEST_LOG_SCALE):
        self.weights = tuple(float(weight) for weight in weights)  # Python floats leave float32 as it is
        self.clip = float(clip)
        if len(self.weights) != 4 or min(self.weights) <= 0:
            raise ValueError(f"BoxCoder needs four positive weights (wx, wy, ww, wh), not {tuple(weights)}.")

    def encode(self, gt_boxes: Array, boxes: Array) -> Array:
        """The corrections that turn each of `boxes` (N, 4) into the box of the same row of `gt_boxes` (N, 4): (N, 4).

        Raises ValueError for shapes that differ and, on the host, for a box without a positive size.
        """
        check_positive_size(gt_boxes, "gt_boxes")
        check_positive_size(boxes, "boxes")
        if gt_boxes.shape != boxes.shape:
            shapes = f"gt_boxes {tuple(gt_boxes.shape)} with those of boxes {tuple(boxes.shape)}"
            raise ValueError(f"encode pairs the rows of {shapes}.")
        xp = array_module(gt_boxes, boxes)
        (wanted, wanted_sizes), (given, sizes) = map(_centres_and_sizes, (gt_boxes, boxes))
        weights = like(np.array(self.weights, boxes.dtype), boxes)
        shifts = weights[:2] * (wanted - given) / sizes
        return xp.concatenate([shifts, weights[2:] * xp.log(wanted_sizes / sizes)], axis=1)

    def decode(self, deltas: Array, boxes: Array) -> Array:
        """Apply K corrections to each box: `deltas` (N, 4K) and `boxes` (N, 4) to (N, K, 4) corrected boxes.

        K is 1 in the RPN and the number of classes in the box branch. The result may leave the image; deltas
        that are not finite give boxes that are not. Raises ValueError for shapes that do not fit.
        """
        check_boxes(boxes)
        if deltas.ndim != 2 or deltas.shape[0] != boxes.shape[0] or deltas.shape[1] % 4:
            shapes = f"{tuple(deltas.shape)} and {tuple(boxes.shape)}"
            raise ValueError(f"decode needs deltas (N, 4K) for boxes (N, 4): got {shapes}.")
        xp = array_module(deltas, boxes)
        deltas = deltas.reshape(deltas.shape[0], deltas.shape[1] // 4, 4)
        deltas = deltas / like(np.array(self.weights, deltas.dtype), boxes)
        given, sizes = (array[:, None] for array in _centres_and_sizes(boxes))  # (N, 1, 2) against (N, K, 2)
        centres = deltas[..., :2] * sizes + given
        halves = 0.5 * (xp.exp(xp.minimum(deltas[..., 2:], self.clip)) * sizes)
        return xp.concatenate([centres - halves, centres + halves], axis=-1)


def _centres_and_sizes(boxes: Array) -> tuple[Array, Array]:
    """(N, 4) boxes to their centres (x, y) and their sizes (width, height), (N, 2) each."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * sizes, sizes
