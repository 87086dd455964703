"""Answers to the exercises of lesson 14 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: loops
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    out = np.zeros((2, y2 - y1, x2 - x1))
    for y in range(y1, y2):
        for x in range(x1, x2):
            row, column = int((y - y1) / (y2 - y1) * k + 1e-9), int((x - x1) / (x2 - x1) * k + 1e-9)
            out[:, y - y1, x - x1] = maps[:, row, column, y, x]
    return out


# %% exercise-1 right: part by part
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    out = np.full((2, y2 - y1, x2 - x1), np.nan)
    rows, columns = (np.arange(n) * k // n for n in out.shape[1:])
    for row in range(k):
        for column in range(k):
            here = (rows == row)[:, None] & (columns == column)
            out[:, here] = maps[:, row, column, y1:y2, x1:x2][:, here]
    return out.tolist()


# %% exercise-1 wrong: rows and columns of the parts exchanged
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, (x - x1) * k // (x2 - x1), (y - y1) * k // (y2 - y1), y, x]


# %% exercise-1 wrong: the result transposed
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, (y - y1) * k // (y2 - y1), (x - x1) * k // (x2 - x1), y, x].transpose(0, 2, 1)


# %% exercise-1 wrong: inside and outside exchanged, a wrong sign
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[::-1, (y - y1) * k // (y2 - y1), (x - x1) * k // (x2 - x1), y, x]


# %% exercise-1 wrong: the part one too far
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, np.minimum((y - y1) * k // (y2 - y1) + 1, k - 1), (x - x1) * k // (x2 - x1), y, x]


# %% exercise-1 wrong: the RoI's last pixel is inside, <= for <
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1 : y2 + 1, x1 : x2 + 1]
    y, x = y.clip(max=maps.shape[3] - 1), x.clip(max=maps.shape[4] - 1)
    return maps[:, (y - y1) * k // (y2 - y1 + 1), (x - x1) * k // (x2 - x1 + 1), y, x]


# %% exercise-1 wrong: one pixel too wide in the division only
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, (y - y1) * k // (y2 - y1 + 1), (x - x1) * k // (x2 - x1 + 1), y, x]


# %% exercise-1 wrong: the part rounded to the nearest
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    row, column = np.rint((y - y1) * k / (y2 - y1)), np.rint((x - x1) * k / (x2 - x1))
    return maps[:, row.astype(int).clip(max=k - 1), column.astype(int).clip(max=k - 1), y, x]


# %% exercise-1 wrong: the maps read at the place within the RoI
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[: y2 - y1, : x2 - x1]
    return maps[:, y * k // (y2 - y1), x * k // (x2 - x1), y, x]


# %% exercise-1 wrong: the parts counted from the picture's corner
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    return maps[:, y * k // maps.shape[3], x * k // maps.shape[4], y, x]


# %% exercise-1 wrong: one width for both axes
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    y, x = np.mgrid[y1:y2, x1:x2]
    size = max(y2 - y1, x2 - x1)
    return maps[:, (y - y1) * k // size, (x - x1) * k // size, y, x]


# %% exercise-1 wrong: the package's own function
def assemble(maps, roi, k):
    x1, y1, x2, y2 = roi
    features = np.pad(maps.reshape(1, -1, *maps.shape[3:]), ((0, 0), (0, 0), (0, 1), (0, 1)))
    return ps_roi_pool(Tensor(features), np.array([[0, *roi]]), (y2 - y1, x2 - x1), 1.0, k).data[0]


# %% exercise-1 wrong: the check's own function
def assemble(maps, roi, k):
    return read_by_the_package(maps, roi, k)


# %% exercise-1 wrong: nothing but zeros
def assemble(maps, roi, k):
    return np.zeros((2, roi[3] - roi[1], roi[2] - roi[0]))


# %% exercise-2 right: loops, as a list
def forced_ties(roi_a, roi_b, k):
    def part(x, y, roi):
        return (y - roi[1]) * k // (roi[3] - roi[1]) * k + (x - roi[0]) * k // (roi[2] - roi[0])

    x1, y1, x2, y2 = max(roi_a[0], roi_b[0]), max(roi_a[1], roi_b[1]), min(roi_a[2], roi_b[2]), min(roi_a[3], roi_b[3])
    return [[part(x, y, roi_a) == part(x, y, roi_b) for x in range(x1, x2)] for y in range(y1, y2)]


# %% exercise-2 right: zeros and ones
def forced_ties(roi_a, roi_b, k):
    y, x = np.mgrid[
        max(roi_a[1], roi_b[1]) : min(roi_a[3], roi_b[3]), max(roi_a[0], roi_b[0]) : min(roi_a[2], roi_b[2])
    ]
    rows, columns = (
        [np.floor((p - r[c]) * k / (r[c + 2] - r[c])) for r in (roi_a, roi_b)] for p, c in ((y, 1), (x, 0))
    )
    return ((rows[0] == rows[1]) * (columns[0] == columns[1])).astype(int)


# %% exercise-2 wrong: the places within the RoIs instead of the parts
def forced_ties(roi_a, roi_b, k):
    y, x = np.mgrid[
        max(roi_a[1], roi_b[1]) : min(roi_a[3], roi_b[3]), max(roi_a[0], roi_b[0]) : min(roi_a[2], roi_b[2])
    ]
    return (y - roi_a[1] == y - roi_b[1]) & (x - roi_a[0] == x - roi_b[0])


# %% exercise-2 wrong: without the floor
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k / (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] & equal(0, 2)


# %% exercise-2 wrong: row or column
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] | equal(0, 2)


# %% exercise-2 wrong: one pixel too wide
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low] + 1) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] & equal(0, 2)


# %% exercise-2 wrong: the last common pixel too, <= for <
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]) + 1)
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] & equal(0, 2)


# %% exercise-2 wrong: B's parts of A's size
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi_a[high] - roi_a[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(1, 3)[:, None] & equal(0, 2)


# %% exercise-2 wrong: the wrong sign
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return ~(equal(1, 3)[:, None] & equal(0, 2))


# %% exercise-2 wrong: transposed
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return equal(0, 2)[:, None] & equal(1, 3)


# %% exercise-2 wrong: the share instead of the pixels
def forced_ties(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return (equal(1, 3)[:, None] & equal(0, 2)).mean()


# %% exercise-2 wrong: the package's own function
def forced_ties(roi_a, roi_b, k):
    first, second = (oracle.reads(np.array(roi, np.float32), (40, 50), k, 1)[0] for roi in (roi_a, roi_b))
    x1, y1 = np.maximum(roi_a[:2], roi_b[:2])
    x2, y2 = np.minimum(roi_a[2:], roi_b[2:])
    return (first == second)[y1:y2, x1:x2]


# %% exercise-2 wrong: nothing is tied
def forced_ties(roi_a, roi_b, k):
    x1, y1, x2, y2 = max(roi_a[0], roi_b[0]), max(roi_a[1], roi_b[1]), min(roi_a[2], roi_b[2]), min(roi_a[3], roi_b[3])
    return np.zeros((y2 - y1, x2 - x1), bool)


# %% exercise-3 right: itertools
def bound(inside, outside):
    import itertools

    best = 0
    for chosen in itertools.product((0, 1), repeat=len(inside)):
        of_objects = np.array(chosen) @ inside / (inside.sum(0) + np.array(chosen) @ outside)
        best = max(best, of_objects.sum() / len(of_objects))
    return best


# %% exercise-3 right: all sets at once
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / (inside.sum(0) + sets @ outside)).mean(1).max()


# %% exercise-3 wrong: the majority
def bound(inside, outside):
    chosen = (inside.sum(1) > outside.sum(1)).astype(int)
    return (chosen @ inside / (inside.sum(0) + chosen @ outside)).mean()


# %% exercise-3 wrong: the majority, with a tie inside, >= for >
def bound(inside, outside):
    chosen = (inside.sum(1) >= outside.sum(1)).astype(int)
    return (chosen @ inside / (inside.sum(0) + chosen @ outside)).mean()


# %% exercise-3 wrong: each object alone
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / (inside.sum(0) + sets @ outside)).max(0).mean()


# %% exercise-3 wrong: the IoU of the sums
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside.sum(1) / (inside.sum() + sets @ outside.sum(1))).max()


# %% exercise-3 wrong: the best object instead of the mean
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / (inside.sum(0) + sets @ outside)).max()


# %% exercise-3 wrong: the last set left out, an off by one
def bound(inside, outside):
    best = 0.0
    for number in range(2 ** (len(inside) - 1)):
        chosen = np.array([number >> g & 1 for g in range(len(inside))])
        best = max(best, (chosen @ inside / (inside.sum(0) + chosen @ outside)).mean())
    return best


# %% exercise-3 wrong: precision, the union without what is missed
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T[1:]
    return np.nan_to_num(sets @ inside / np.maximum(sets @ inside + sets @ outside, 1)).mean(1).max()


# %% exercise-3 wrong: recall, the union without what lies beside
def bound(inside, outside):
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / inside.sum(0)).mean(1).max()


# %% exercise-3 wrong: inside and outside exchanged
def bound(inside, outside):
    inside, outside = outside, inside
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / np.maximum(inside.sum(0) + sets @ outside, 1)).mean(1).max()


# %% exercise-3 wrong: transposed
def bound(inside, outside):
    inside, outside = inside.T, outside.T
    sets = np.array(np.meshgrid(*[[0, 1]] * len(inside))).reshape(len(inside), -1).T
    return (sets @ inside / np.maximum(inside.sum(0) + sets @ outside, 1)).mean(1).max()


# %% exercise-3 wrong: the package's own functions
def bound(inside, outside):
    return oracle.mean_iou(inside, outside, oracle.best_choice(inside, outside))


# %% exercise-3 wrong: the package, imported inside
def bound(inside, outside):
    from tinymrcnn.experiments.oracle import best_choice, mean_iou

    return mean_iou(inside, outside, best_choice(inside, outside))


# %% exercise-4 right: as numbers of NumPy
answers = {name: np.int64(number) for name, number in zip("ABCDE", (5, 1, 4, 2, 3), strict=True)}

# %% exercise-4 wrong: the first and the second exchanged
answers = {"A": 1, "B": 5, "C": 4, "D": 2, "E": 3}

# %% exercise-4 wrong: the last two exchanged
answers = {"A": 5, "B": 1, "C": 4, "D": 3, "E": 2}

# %% exercise-4 wrong: in the order of the list
answers = {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5}

# %% exercise-4 wrong: counted from 0
answers = {"A": 4, "B": 0, "C": 3, "D": 1, "E": 2}

# %% exercise-4 wrong: the other way round, number to picture
answers = {5: "A", 1: "B", 4: "C", 2: "D", 3: "E"}

# %% exercise-4 wrong: the same for all
answers = dict.fromkeys("ABCDE", 1)

# %% exercise-4 wrong: one is missing
answers = {"A": 5, "B": 1, "C": 4, "D": 2}

# %% exercise-4 wrong: words
answers = {"A": "early", "B": "column", "C": "right", "D": "row", "E": "exchanged"}


# %% exercise-5 right: pixel by pixel
def still_tied(roi_a, roi_b, k):
    def seen(x, y, roi):
        u, v = (x - roi[0]) * k / (roi[2] - roi[0]), (y - roi[1]) * k / (roi[3] - roi[1])
        return int(u), int(v), int(u + 0.5), int(v + 0.5)

    x1, y1, x2, y2 = max(roi_a[0], roi_b[0]), max(roi_a[1], roi_b[1]), min(roi_a[2], roi_b[2]), min(roi_a[3], roi_b[3])
    tied = [seen(x, y, roi_a) == seen(x, y, roi_b) for x in range(x1, x2) for y in range(y1, y2)]
    return sum(tied) / len(tied)


# %% exercise-5 right: as 2k parts, of which the half ones count too
def still_tied(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * 2 * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return (equal(1, 3)[:, None] & equal(0, 2)).mean()


# %% exercise-5 wrong: the usual parts alone
def still_tied(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = ((both - roi[low]) * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return (equal(1, 3)[:, None] & equal(0, 2)).mean()


# %% exercise-5 wrong: the shifted parts alone
def still_tied(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + 0.5) for roi in (roi_a, roi_b))
        return of_a == of_b

    return (equal(1, 3)[:, None] & equal(0, 2)).mean()


# %% exercise-5 wrong: one of the two readings is enough
def still_tied(roi_a, roi_b, k):
    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + shift) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 0.5)]
    return (tied[0] | tied[1]).mean()


# %% exercise-5 wrong: a whole part
def still_tied(roi_a, roi_b, k):
    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + shift) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 1)]
    return (tied[0] & tied[1]).mean()


# %% exercise-5 wrong: the product of the two shares
def still_tied(roi_a, roi_b, k):
    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + shift) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 0.5)]
    return tied[0].mean() * tied[1].mean()


# %% exercise-5 wrong: what is free instead, a wrong sign
def still_tied(roi_a, roi_b, k):
    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low]) * k / (roi[high] - roi[low]) + shift) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 0.5)]
    return 1 - (tied[0] & tied[1]).mean()


# %% exercise-5 wrong: only along x
def still_tied(roi_a, roi_b, k):
    both = np.arange(max(roi_a[0], roi_b[0]), min(roi_a[2], roi_b[2]))
    of_a, of_b = ((both - roi[0]) * 2 * k // (roi[2] - roi[0]) for roi in (roi_a, roi_b))
    return (of_a == of_b).mean()


# %% exercise-5 wrong: the last common pixel too, <= for <
def still_tied(roi_a, roi_b, k):
    def equal(low, high):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]) + 1)
        of_a, of_b = ((both - roi[low]) * 2 * k // (roi[high] - roi[low]) for roi in (roi_a, roi_b))
        return of_a == of_b

    return (equal(1, 3)[:, None] & equal(0, 2)).mean()


# %% exercise-5 wrong: a shift by half a pixel
def still_tied(roi_a, roi_b, k):
    def equal(low, high, shift):
        both = np.arange(max(roi_a[low], roi_b[low]), min(roi_a[high], roi_b[high]))
        of_a, of_b = (np.floor((both - roi[low] + shift) * k / (roi[high] - roi[low])) for roi in (roi_a, roi_b))
        return of_a == of_b

    tied = [equal(1, 3, shift)[:, None] & equal(0, 2, shift) for shift in (0, 0.5)]
    return (tied[0] & tied[1]).mean()


# %% exercise-5 wrong: the package's own function
def still_tied(roi_a, roi_b, k):
    pair = oracle.Pair(np.zeros((2, 40, 50), bool), np.array([roi_a, roi_b], np.float32), 0.5)
    return oracle.forced(pair, 2 * k)
