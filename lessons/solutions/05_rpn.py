"""Solutions of lesson 05, the RPN."""


# %% exercise-1
def grid_anchors(cell, h, w, stride):
    """(A, 4) anchors around (0, 0) to the (h * w * A, 4) anchors of a map."""
    y, x = np.meshgrid(np.arange(h) * stride, np.arange(w) * stride, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (shifts[:, :, None] + cell).reshape(-1, 4)


# %% exercise-2
def encode(gt, boxes):
    """The (dx, dy, dw, dh) that turn each box into the one of the same row of gt."""
    sizes, wanted_sizes = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / sizes, np.log(wanted_sizes / sizes)], axis=1)


# %% exercise-3
def greedy_nms(overlaps, scores, threshold):
    """(N, N) overlaps and (N,) scores to the indices that survive, by descending score."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(best)
        left = rest[overlaps[best, rest] <= threshold]
    return np.array(kept)


# %% exercise-4
# An anchor of ratio r is 20 / sqrt(r) wide and 20 sqrt(r) high. What it shares with the object has the smaller of the
# two widths and of the two heights, and the union is 800 minus that. Only the ratio 1/4 would be positive.
shared = [min(40, 20 / math.sqrt(r)) * min(10, 20 * math.sqrt(r)) for r in (0.25, 0.5, 1, 2)]
answer = tuple(area / (800 - area) for area in shared)


# %% exercise-5
# "Ignored" was set after the best anchors of the objects, and overwrote those whose IoU is below the upper threshold.
def mended(overlaps, high=0.7, low=0.3):
    """(G, A) IoUs of objects and anchors to (A,): the object of each anchor, -1 background, -2 ignored."""
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    labels = np.full(len(best), -1)  # background, until we know better
    labels[best >= low] = -2  # neither good nor bad
    labels[best >= high] = objects[best >= high]  # the good ones
    for of_object in overlaps:  # every object gets its best anchors, however badly they fit
        if of_object.max() > 0:
            at = of_object == of_object.max()
            labels[at] = objects[at]
    return labels
