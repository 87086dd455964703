"""The RPN's outputs at a few anchors, with gradients: what training needs of them.

The loss looks at 256 anchors of an image, of some hundred thousand; the gradient of all others is 0. So the outputs for
all are computed without a graph, for the proposals, and those of the sampled anchors once more, from the 3x3 cells
around each. Neither the maps between the RPN's layers nor a gradient of their size are ever needed: a training step of
R50-FPN takes a tenth less time and memory. rpn.rpn_loss takes RPNOutputs, of all anchors, or these.
"""

from dataclasses import dataclass

import numpy as np

from tinymrcnn import ops
from tinymrcnn.autograd import Tensor, cat
from tinymrcnn.backend import like
from tinymrcnn.models.rpn import Anchors, RPNHead
from tinymrcnn.nn import Conv2d
from tinymrcnn.roi.roi_align import roi_align_unchecked

# Shapes below: N images, A anchors of all levels together, M of them, R cells of a map


@dataclass
class FewAnchors:
    """head, features: the RPN's head, and the maps (N, C, H_l, W_l) that it reads, finest first."""

    anchors: Anchors
    head: RPNHead
    features: list[Tensor]

    def at(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """As RPNOutputs.at: (M,) places among the (N, A), on the host, to logits (M,) and deltas (M, 4)."""
        head, features, count = self.head, self.features, len(self.head.cls_logits.weight.data)
        starts = np.cumsum([0, *(feature.shape[2] * feature.shape[3] for feature in features)])
        image, cell = np.divmod(index // count, starts[-1])
        order = np.argsort(cell, kind="stable")  # level by level
        places = np.split(order, np.searchsorted(cell[order], starts[1:-1]))
        windows = cat(
            windows_around(feature, image[some], *np.divmod(cell[some] - start, feature.shape[3]))
            for feature, some, start in zip(features, places, starts, strict=False)
        )
        hidden = ops.relu(_on_rows(head.conv[0][0], windows.permute(0, 2, 3, 1).flatten(1)))
        deltas = _on_rows(head.bbox_pred, hidden).reshape(len(index), count, 4)
        chosen = np.argsort(order), index % count
        return _on_rows(head.cls_logits, hidden)[chosen], deltas[chosen]


def windows_around(feature: Tensor, image: np.ndarray, y: np.ndarray, x: np.ndarray) -> Tensor:
    """The 3x3 cells around the cells (y, x) of a map (N, C, H, W), (R, C, 3, 3), zeros beyond its border: RoIAlign with
    one sample in the middle of every cell."""
    rois = np.stack([image, x - 1, y - 1, x + 2, y + 2], axis=1)
    rows, columns = (at[:, None] + np.arange(-1, 2) for at in (y, x))
    within = [(0 <= at) & (at < size) for at, size in zip((rows, columns), feature.shape[2:], strict=True)]
    inside = (within[0][:, None, :, None] & within[1][:, None, None]).astype(np.dtype(feature.dtype))
    rois, inside = like(rois, feature.data), like(inside, feature.data)
    windows: Tensor = roi_align_unchecked(feature, rois, 3, 1.0, sampling_ratio=1, aligned=True) * inside
    return windows


def _on_rows(layer: Conv2d, rows: Tensor) -> Tensor:
    """The convolution of one window in each row, (R, kernel_h kernel_w C), to (R, O)."""
    product: Tensor = ops.linear(rows, layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias)
    return product
