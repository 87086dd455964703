"""Solutions of lesson 12, average precision."""


# %% exercise-1
def precision_and_recall(right, objects):
    """Two arrays (D,): precision and recall after 1, 2, ..., D findings."""
    hits = np.cumsum(right)
    return hits / np.arange(1, len(right) + 1), hits / objects


# %% exercise-2
def average(precision, recall):
    """One number."""
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-3
def choose(overlaps, threshold):
    """(D,) integers."""
    left = overlaps.copy()
    chosen = np.full(len(left), -1)
    for finding in range(len(left)):
        if left.shape[1] and left[finding].max() >= threshold:
            chosen[finding] = left[finding].argmax()
            left[:, chosen[finding]] = -1  # taken
    return chosen


# %% exercise-4
# (a) precision 1 at the 61 recalls 0, 0.01, ..., 0.6. (b) the best precision comes at the end of the list, 60 of 100.
# (c) as (a): what follows the last right finding changes nothing.
answer = 61 / 101, 0.6 * 61 / 101, 61 / 101


# %% exercise-5
def repair(boxes):
    """(N, 4) boxes of the other program to (N, 4) boxes (x1, y1, x2, y2)."""
    y, x, height, width = boxes.T  # its boxes are (y, x, height, width)
    return np.stack([x, y, x + width, y + height], 1)
