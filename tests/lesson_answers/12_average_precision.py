"""Answers to the exercises of lesson 12 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: as it was
def repaired(images, objects):
    right = np.concatenate([is_right[np.argsort(-scores)] for scores, is_right in images])
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: zero
def repaired(images, objects):
    return 0.0


# %% exercise-1 wrong: not sorted
def repaired(images, objects):
    right = np.concatenate([is_right for _, is_right in images])
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: the worst first
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    right = right[np.argsort(scores)]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: the mean of the images' own
def repaired(images, objects):
    values = []
    for scores, is_right in images:
        if len(scores):
            hits = np.cumsum(is_right[np.argsort(-scores)])
            precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
            values.append(np.mean([precision[recall >= r].max(initial=0) for r in RECALLS]))
    return np.mean(values)


# %% exercise-1 wrong: recall over the findings
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    right = right[np.argsort(-scores)]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / len(right)
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: above the recall only
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    right = right[np.argsort(-scores)]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall > r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: off by one, before each finding
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    right = right[np.argsort(-scores)]
    hits = np.cumsum(right) - right
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 wrong: not the best from there on
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    right = right[np.argsort(-scores)]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r][:1].sum() for r in RECALLS])


# %% exercise-1 wrong: the package's function
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    return precision_at_recalls(right[np.argsort(-scores)], objects).mean()


# %% exercise-1 right: in pairs
def repaired(images, objects):
    findings = sorted(((s, r) for scores, rights in images for s, r in zip(scores, rights, strict=True)), reverse=True)
    right = np.array([r for _, r in findings])
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-1 right: by a running maximum
def repaired(images, objects):
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])
    hits = np.cumsum(right[np.argsort(-scores)])
    precision = np.append(np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1], 0)
    return precision[np.searchsorted(hits / objects, RECALLS)].mean()


# %% exercise-2 wrong: zero
def area_below(precision, recall):
    return 0.0


# %% exercise-2 wrong: COCO's 101 points
def area_below(precision, recall):
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-2 wrong: the precision at the finding itself
def area_below(precision, recall):
    return (np.diff(recall, prepend=0) * precision).sum()


# %% exercise-2 wrong: the trapezoid
def area_below(precision, recall):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall) * (best[1:] + best[:-1]) / 2).sum()


# %% exercise-2 wrong: the best up to there
def area_below(precision, recall):
    return (np.diff(recall, prepend=0) * np.maximum.accumulate(precision)).sum()


# %% exercise-2 wrong: off by one, the first step is left out
def area_below(precision, recall):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall) * best[1:]).sum()


# %% exercise-2 wrong: off by one, the height of the step before
def area_below(precision, recall):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall, append=recall[-1]) * best).sum()


# %% exercise-2 wrong: the mean of the precisions
def area_below(precision, recall):
    return precision.mean()


# %% exercise-2 wrong: the sign
def area_below(precision, recall):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall[::-1], append=0)[::-1] * best).sum()


# %% exercise-2 wrong: transposed, recall over precision
def area_below(precision, recall):
    best = np.maximum.accumulate(recall[::-1])[::-1]
    return (np.diff(precision, prepend=0) * best).sum()


# %% exercise-2 right: rectangle by rectangle
def area_below(precision, recall):
    total, before = 0.0, 0.0
    for n, r in enumerate(recall):
        total += (r - before) * max(precision[n:])
        before = r
    return total


# %% exercise-2 right: from the last to the first
def area_below(precision, recall):
    total, best = 0.0, 0.0
    for n in range(len(recall) - 1, -1, -1):
        best = max(best, precision[n])
        total += (recall[n] - (recall[n - 1] if n else 0)) * best
    return total


# %% exercise-3 wrong: nobody finds anything
def choose_as_voc(overlaps, threshold):
    return np.full(len(overlaps), -1)


# %% exercise-3 wrong: COCO's rule
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        overlap = np.where(free, overlap, -1)
        if len(overlap) and overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 wrong: above the threshold only
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() > threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 wrong: objects are not taken
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
    return chosen


# %% exercise-3 wrong: taken where the overlap is too small, too
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
        if len(overlap):
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 wrong: fails without objects
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 wrong: off by one, objects are counted from 1
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax() + 1
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 wrong: transposed, each object chooses
def choose_as_voc(overlaps, threshold):
    chosen = np.full(len(overlaps), -1)
    for object_, overlap in enumerate(overlaps.T):
        if len(overlap) and overlap.max() >= threshold:
            chosen[overlap.argmax()] = object_
    return chosen


# %% exercise-3 wrong: the first object that fits
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and free[int((overlap >= threshold).argmax())]:
            chosen[finding] = int((overlap >= threshold).argmax())
            free[int((overlap >= threshold).argmax())] = False
    return chosen


# %% exercise-3 wrong: the package's function
def choose_as_voc(overlaps, threshold):
    nobody = np.zeros(overlaps.shape[1], bool)
    return match(overlaps, nobody, nobody, threshold)


# %% exercise-3 right: with an array of what is free
def choose_as_voc(overlaps, threshold):
    chosen, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and free[overlap.argmax()]:
            chosen[finding] = overlap.argmax()
            free[overlap.argmax()] = False
    return chosen


# %% exercise-3 right: a list
def choose_as_voc(overlaps, threshold):
    chosen = []
    for overlap in overlaps.tolist():
        best = max(range(len(overlap)), key=overlap.__getitem__, default=-1)
        chosen.append(best if best >= 0 and overlap[best] >= threshold and best not in chosen else -1)
    return chosen


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
