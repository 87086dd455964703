"""lessons/mine.py with every function in it: those of the solutions, side by side."""

import math

import numpy as np

# 02 Convolution


def output_side(side, kernel, stride, padding, dilation):
    """The number of output pixels along a side of `side` input pixels."""
    reach = dilation * (kernel - 1) + 1  # pixels from the first to the last cell of the filter
    return (side + 2 * padding - reach) // stride + 1


# 04 FPN


def nearest(x, out_h, out_w):
    """An (H, W) array resized to (out_h, out_w)."""
    rows = np.arange(out_h) * x.shape[0] // out_h
    columns = np.arange(out_w) * x.shape[1] // out_w
    return x[rows[:, None], columns]


def enlarge_backward(grad):
    """The gradient (N, C, H, W) of x from that of x enlarged by 2, (N, C, 2H, 2W)."""
    n, c, h, w = grad.shape
    return grad.reshape(n, c, h // 2, 2, w // 2, 2).sum((3, 5))  # every copy of a cell adds to its gradient


# 05 RPN


def grid_anchors(cell, h, w, stride):
    """(A, 4) anchors around (0, 0) to the (h * w * A, 4) anchors of a map."""
    y, x = np.meshgrid(np.arange(h) * stride, np.arange(w) * stride, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (shifts[:, :, None] + cell).reshape(-1, 4)


def encode(gt, boxes):
    """The (dx, dy, dw, dh) that turn each box into the one of the same row of gt."""
    sizes, wanted_sizes = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / sizes, np.log(wanted_sizes / sizes)], axis=1)


def greedy_nms(overlaps, scores, threshold):
    """(N, N) overlaps and (N,) scores to the indices that survive, by descending score."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(best)
        left = rest[overlaps[best, rest] <= threshold]
    return np.array(kept)


# 07 RoIAlign


def sampling_points(roi, scale, bins, ratio):
    """roi: (x1, y1, x2, y2) in pixels. Returns xs (w * ratio,) and ys (h * ratio,)."""
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        # the samples are the midpoints of n * ratio equal parts of the RoI
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# 08 Box branch


def boxes_of_class(deltas, boxes, labels):
    """deltas (R, 4K), boxes (R, 4), labels (R,). Returns (R, 4)."""
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    size = size * np.exp(own[:, 2:])
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def my_smooth_l1(d, beta):
    """d: any shape. Returns (values, slopes), arrays of the same shape."""
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, d / beta, np.sign(d))


# 09 Mask branch


def my_mask_loss(logits, labels, targets):
    """logits (P, K, m, m), labels (P,), targets (P, m, m). Returns one number."""
    z = logits[np.arange(len(labels)), labels]
    # -log sigmoid(z) = log(1 + exp(-z)) and -log(1 - sigmoid(z)) = log(1 + exp(z)), which logaddexp never overflows
    return (targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)).mean()


def my_mask_loss_gradient(logits, labels, targets):
    """As my_mask_loss; returns an array (P, K, m, m)."""
    gradient = np.zeros_like(logits)
    rows = np.arange(len(labels))
    gradient[rows, labels] = (1 / (1 + np.exp(-logits[rows, labels])) - targets) / targets.size
    return gradient


# 10 Training


def rate(step, steps, warmup, peak):
    """The learning rate of a step, 0 to steps - 1."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def mirrored(boxes, width):
    """(N, 4) boxes (x1, y1, x2, y2) of the mirror image."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def clipped(gradients, limit):
    """A tuple of arrays in the same directions, together at most `limit` long."""
    length = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
    factor = limit / max(length, limit)  # a length of 0 divides nothing
    return tuple(gradient * factor for gradient in gradients)
