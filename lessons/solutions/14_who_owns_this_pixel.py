"""Solutions of lesson 14, FCIS and MNC."""


# %% exercise-1
def assemble(maps, roi, k):
    """maps: (2, k, k, H, W), outside and inside, row of the part, column of the part. roi: (x1, y1, x2, y2), integers,
    pixels x1 to x2 - 1 and y1 to y2 - 1. Returns what the RoI reads, (2, y2 - y1, x2 - x1)."""
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, (y - y1) * k // (y2 - y1), (x - x1) * k // (x2 - x1), y, x]


# %% exercise-2
def forced_ties(roi_a, roi_b, k):
    """Two RoIs (x1, y1, x2, y2), integers, that overlap. Returns a bool array, one value for each pixel of the
    rectangle in which they overlap, rows first."""

    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] & equal(0, 2)


# %% exercise-3
def bound(inside, outside):
    """inside, outside: (G, N) numbers of pixels, G at most 10. Returns the highest mean IoU, a number."""
    best = 0.0
    for number in range(2 ** len(inside)):
        chosen = np.array([number >> g & 1 for g in range(len(inside))])
        best = max(best, (chosen @ inside / (inside.sum(axis=0) + chosen @ outside)).mean())
    return best


# %% exercise-4
answers = {"A": 5, "B": 1, "C": 4, "D": 2, "E": 3}


# %% exercise-5
def still_tied(roi_a, roi_b, k):
    """Two RoIs (x1, y1, x2, y2), integers, that overlap. Returns a share of the common pixels, from 0 to 1."""

    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + shift) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 0.5)]
    return (tied[0] & tied[1]).mean()
