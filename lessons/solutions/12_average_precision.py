"""Solutions of lesson 12, average precision."""


# %% exercise-1
def repaired(images, objects):
    """images: of each image the pair of its findings' scores (D,) and which are right (D,), of one class. objects: how
    many there are in all images. Returns the average precision."""
    scores = np.concatenate([scores for scores, _ in images])
    right = np.concatenate([is_right for _, is_right in images])[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    return np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])


# %% exercise-2
def area_below(precision, recall):
    """precision, recall: (D,), after each finding. One number."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return (np.diff(recall, prepend=0) * best_from_here).sum()


# %% exercise-3
def choose_as_voc(overlaps, threshold):
    """overlaps: (D, G), the best finding first. Returns (D,) integers, -1 for none."""
    chosen, taken = np.full(len(overlaps), -1), set()
    for finding, overlap in enumerate(overlaps):
        if len(overlap) and overlap.max() >= threshold and int(overlap.argmax()) not in taken:
            chosen[finding] = overlap.argmax()
            taken.add(int(overlap.argmax()))
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
