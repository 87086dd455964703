"""Answers to the exercises of lesson 12 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zeros
def precision_and_recall(right, objects):
    return np.zeros(len(right)), np.zeros(len(right))


# %% exercise-1 wrong: recall over the findings
def precision_and_recall(right, objects):
    return np.cumsum(right) / np.arange(1, len(right) + 1), np.cumsum(right) / len(right)


# %% exercise-1 wrong: the two exchanged
def precision_and_recall(right, objects):
    return np.cumsum(right) / objects, np.cumsum(right) / np.arange(1, len(right) + 1)


# %% exercise-1 wrong: off by one, before each finding
def precision_and_recall(right, objects):
    hits = np.cumsum(right) - right
    return hits / np.arange(1, len(right) + 1), hits / objects


# %% exercise-1 wrong: off by one, n + 1
def precision_and_recall(right, objects):
    return np.cumsum(right) / np.arange(2, len(right) + 2), np.cumsum(right) / objects


# %% exercise-1 wrong: from the end of the list
def precision_and_recall(right, objects):
    hits = np.cumsum(right[::-1])
    return hits / np.arange(1, len(right) + 1), hits / objects


# %% exercise-1 right: one by one
def precision_and_recall(right, objects):
    hits = [right[: n + 1].sum() for n in range(len(right))]
    return [h / (n + 1) for n, h in enumerate(hits)], [h / objects for h in hits]


# %% exercise-2 wrong: zero
def average(precision, recall):
    return 0.0


# %% exercise-2 wrong: the trapezoid
def average(precision, recall):
    return ((precision[1:] + precision[:-1]) / 2 * np.diff(recall)).sum()


# %% exercise-2 wrong: VOC's area below the steps
def average(precision, recall):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall, prepend=0) * best).sum()


# %% exercise-2 wrong: above the recall only
def average(precision, recall):
    return np.mean([precision[recall > r].max(initial=0) for r in RECALLS])


# %% exercise-2 wrong: at the recall, not the best from there
def average(precision, recall):
    return np.mean([precision[recall >= r][0] if (recall >= r).any() else 0 for r in RECALLS])


# %% exercise-2 wrong: the mean of the precisions
def average(precision, recall):
    return precision.mean()


# %% exercise-2 wrong: 100 recalls, without 0
def average(precision, recall):
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS[1:]])


# %% exercise-2 wrong: up to this recall
def average(precision, recall):
    return np.mean([precision[recall <= r].max(initial=0) for r in RECALLS])


# %% exercise-2 right: by a running maximum
def average(precision, recall):
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return best[np.searchsorted(recall, RECALLS)].sum() / 101


# %% exercise-3 wrong: nobody finds anything
def choose(overlaps, threshold):
    return np.full(len(overlaps), -1)


# %% exercise-3 wrong: above the threshold only
def choose(overlaps, threshold):
    left, chosen = overlaps.copy(), []
    for row in left:
        best = row.argmax() if len(row) and row.max() > threshold else -1
        chosen.append(best)
        if best >= 0:
            left[:, best] = -1
    return np.array(chosen, int)


# %% exercise-3 wrong: VOC's rule
def choose(overlaps, threshold):
    chosen = []
    for row in overlaps:
        best = row.argmax() if len(row) and row.max() >= threshold else -1
        chosen.append(-1 if best in chosen else best)
    return np.array(chosen, int)


# %% exercise-3 wrong: objects are not taken
def choose(overlaps, threshold):
    return np.array([row.argmax() if row.max(initial=0) >= threshold else -1 for row in overlaps], int)


# %% exercise-3 wrong: the first object that fits
def choose(overlaps, threshold):
    left, chosen = overlaps.copy(), []
    for row in left:
        fits = np.flatnonzero(row >= threshold)
        chosen.append(fits[0] if len(fits) else -1)
        left[:, fits[:1]] = -1
    return np.array(chosen, int)


# %% exercise-3 wrong: transposed, each object chooses
def choose(overlaps, threshold):
    chosen = np.full(len(overlaps), -1)
    for g in range(overlaps.shape[1]):
        if len(overlaps) and overlaps[:, g].max() >= threshold:
            chosen[overlaps[:, g].argmax()] = g
    return chosen


# %% exercise-3 wrong: off by one, objects are counted from 1
def choose(overlaps, threshold):
    left, chosen = overlaps.copy(), np.full(len(overlaps), -1)
    for d, row in enumerate(left):
        if row.max(initial=0) >= threshold:
            left[:, row.argmax()], chosen[d] = (-1, row.argmax() + 1)
    return chosen


# %% exercise-3 right: with a set of what is taken
def choose(overlaps, threshold):
    taken, chosen = set(), []
    for row in overlaps.tolist():
        free = [(iou, g) for g, iou in enumerate(row) if iou >= threshold and g not in taken]
        chosen.append(max(free)[1] if free else -1)
        taken.add(chosen[-1])
    return np.array(chosen, int)


# %% exercise-4 wrong: zeros
answer = 0, 0, 0

# %% exercise-4 wrong: 0.6 reached by 60 recalls
answer = 0.6, 0.36, 0.6

# %% exercise-4 wrong: b and c exchanged
answer = 61 / 101, 61 / 101, 0.6 * 61 / 101

# %% exercise-4 wrong: what comes later spoils c
answer = 61 / 101, 0.6 * 61 / 101, 0.6 * 61 / 101

# %% exercise-4 wrong: no harm in b
answer = 61 / 101, 61 / 101, 61 / 101

# %% exercise-4 wrong: nothing is missing
answer = 1, 0.6, 1

# %% exercise-4 wrong: one number
answer = 61 / 101

# %% exercise-4 right: to three digits
answer = 0.604, 0.3624, 0.604

# %% exercise-4 right: a list
answer = [61 / 101, 36.6 / 101, 61 / 101]


# %% exercise-5 wrong: as they are
def repair(boxes):
    return boxes


# %% exercise-5 wrong: x, y, width, height
def repair(boxes):
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


# %% exercise-5 wrong: corners with y first
def repair(boxes):
    return boxes[:, [1, 0, 3, 2]]


# %% exercise-5 wrong: width before height
def repair(boxes):
    y, x, width, height = boxes.T
    return np.stack([x, y, x + width, y + height], 1)


# %% exercise-5 wrong: x is not exchanged
def repair(boxes):
    x, y, height, width = boxes.T
    return np.stack([x, y, x + width, y + height], 1)


# %% exercise-5 wrong: off by one
def repair(boxes):
    y, x, height, width = boxes.T
    return np.stack([x, y, x + width - 1, y + height - 1], 1)


# %% exercise-5 wrong: the place is the centre
def repair(boxes):
    y, x, height, width = boxes.T
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


# %% exercise-5 right: by columns
def repair(boxes):
    corner = boxes[:, 1::-1]
    return np.concatenate([corner, corner + boxes[:, :1:-1]], axis=1)
