"""Answers to the exercises of lesson 00 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: a loop
def count(instances, label, score):
    n = 0
    for k, s in zip(instances["labels"], instances["scores"], strict=True):
        if k == label and s >= score:
            n += 1
    return n


# %% exercise-1 right: the length of what is left, as an array
def count(instances, label, score):
    scores = instances["scores"][instances["labels"] == label]
    return np.array(len(scores[~(scores < score)]))


# %% exercise-1 wrong: > for >=
def count(instances, label, score):
    return int(((instances["labels"] == label) & (instances["scores"] > score)).sum())


# %% exercise-1 wrong: zero
def count(instances, label, score):
    return 0


# %% exercise-1 wrong: the scores ignored
def count(instances, label, score):
    return int((instances["labels"] == label).sum())


# %% exercise-1 wrong: the labels ignored
def count(instances, label, score):
    return int((instances["scores"] >= score).sum())


# %% exercise-1 wrong: off by one in the label
def count(instances, label, score):
    return int(((instances["labels"] == label - 1) & (instances["scores"] >= score)).sum())


# %% exercise-1 wrong: the sign, below the score
def count(instances, label, score):
    return int(((instances["labels"] == label) & (instances["scores"] < score)).sum())


# %% exercise-1 wrong: or for and
def count(instances, label, score):
    return int(((instances["labels"] == label) | (instances["scores"] >= score)).sum())


# %% exercise-1 wrong: the bools instead of their number
def count(instances, label, score):
    return (instances["labels"] == label) & (instances["scores"] >= score)


# %% exercise-2 right: a list, from sums along the axes
def box_of(mask):
    across, down = np.flatnonzero(mask.sum(0)), np.flatnonzero(mask.sum(1))
    return [float(across[0]), float(down[0]), float(across[-1] + 1), float(down[-1] + 1)]


# %% exercise-2 right: an array, by loops
def box_of(mask):
    box = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for y, x in np.argwhere(mask):
        box[:2] = np.minimum(box[:2], (x, y))
        box[2:] = np.maximum(box[2:], (x + 1, y + 1))
    return box


# %% exercise-2 wrong: without the end of the last pixel
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


# %% exercise-2 wrong: x and y exchanged
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


# %% exercise-2 wrong: the width and the height
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


# %% exercise-2 wrong: pixel centres
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min() + 0.5, rows.min() + 0.5, columns.max() + 0.5, rows.max() + 0.5


# %% exercise-2 wrong: zeros
def box_of(mask):
    return np.zeros(4)


# %% exercise-2 wrong: the whole picture
def box_of(mask):
    return 0, 0, mask.shape[1], mask.shape[0]


# %% exercise-2 wrong: the order x1, x2, y1, y2
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), columns.max() + 1, rows.min(), rows.max() + 1


# %% exercise-2 wrong: the package's function
def box_of(mask):
    return boxes_around(mask[None])[0]


# %% exercise-3 right: pixel by pixel
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for y, x in np.ndindex(labels.shape):
        best = 0.0
        for score, label, mask in zip(instances["scores"], instances["labels"], instances["masks"], strict=True):
            if score >= 0.5 and score > best and mask[y, x] >= 0.5:
                labels[y, x], best = label, score
    return labels


# %% exercise-3 right: all pixels at once
def class_map(instances):
    rank = instances["scores"][:, None, None] * (instances["masks"] >= 0.5)
    rank[instances["scores"] < 0.5] = 0
    return np.where(rank.max(0) > 0, instances["labels"][rank.argmax(0)], 0)


# %% exercise-3 wrong: the least sure wins
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in np.argsort(-instances["scores"]):
        if instances["scores"][n] >= 0.5:
            labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: in the stored order
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in range(len(instances["scores"])):
        if instances["scores"][n] >= 0.5:
            labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: in the stored order backwards
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in reversed(range(len(instances["scores"]))):
        if instances["scores"][n] >= 0.5:
            labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: the highest probability of the mask
def class_map(instances):
    masks = np.where(instances["scores"][:, None, None] >= 0.5, instances["masks"], 0)
    return np.where(masks.max(0) >= 0.5, instances["labels"][masks.argmax(0)], 0)


# %% exercise-3 wrong: score times probability
def class_map(instances):
    sure = (instances["scores"] >= 0.5)[:, None, None] & (instances["masks"] >= 0.5)
    rank = instances["scores"][:, None, None] * instances["masks"] * sure
    return np.where(rank.max(0) > 0, instances["labels"][rank.argmax(0)], 0)


# %% exercise-3 wrong: low scores count too
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in np.argsort(instances["scores"]):
        labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: > for >= in the score
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in np.argsort(instances["scores"]):
        if instances["scores"][n] > 0.5:
            labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: > for >= in the mask
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in np.argsort(instances["scores"]):
        if instances["scores"][n] >= 0.5:
            labels[instances["masks"][n] > 0.5] = instances["labels"][n]
    return labels


# %% exercise-3 wrong: transposed
def class_map(instances):
    labels = np.zeros(instances["masks"].shape[1:], int)
    for n in np.argsort(instances["scores"]):
        if instances["scores"][n] >= 0.5:
            labels[instances["masks"][n] >= 0.5] = instances["labels"][n]
    return labels.T


# %% exercise-3 wrong: zeros
def class_map(instances):
    return np.zeros(instances["masks"].shape[1:], int)


# %% exercise-4 right: by loops
above = below = 0
for name, parameter in model.named_parameters():
    below += parameter.size
    if "mask" in name:
        above += parameter.size
share = above / below

# %% exercise-4 right: as a number
share = 0.137771

# %% exercise-4 wrong: percent
share = 100 * sum(p.size for name, p in model.named_parameters() if "mask" in name)
share /= sum(p.size for p in model.parameters())

# %% exercise-4 wrong: arrays instead of numbers
share = sum("mask" in name for name, _ in model.named_parameters()) / len(list(model.parameters()))

# %% exercise-4 wrong: the rest
share = sum(p.size for name, p in model.named_parameters() if "mask" not in name)
share /= sum(p.size for p in model.parameters())

# %% exercise-4 wrong: the mask branch against the rest
share = sum(p.size for name, p in model.named_parameters() if "mask" in name)
share /= sum(p.size for name, p in model.named_parameters() if "mask" not in name)

# %% exercise-4 wrong: the head without the predictor
share = sum(p.size for name, p in model.named_parameters() if "mask_head" in name)
share /= sum(p.size for p in model.parameters())

# %% exercise-4 wrong: the number of numbers
share = sum(p.size for name, p in model.named_parameters() if "mask" in name)

# %% exercise-4 wrong: the predictor alone
share = sum(p.size for name, p in model.named_parameters() if "mask_predictor" in name)
share /= sum(p.size for p in model.parameters())

# %% exercise-4 wrong: zero
share = 0.0


# %% exercise-5 right: by loops
def fullness(mask, box):
    x1, y1, x2, y2 = box
    count = 0
    for y in range(y1, y2):
        for x in range(x1, x2):
            count += mask[y, x]
    return count / ((x2 - x1) * (y2 - y1))


# %% exercise-5 right: the mask transposed
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return mask.T[x1:x2, y1:y2].mean()


# %% exercise-5 wrong: the colleague's
def fullness(mask, box):
    x1, y1, x2, y2 = (int(side) for side in box)
    inside = mask[x1:x2, y1:y2]
    return inside.sum() / max(inside.size, 1)


# %% exercise-5 wrong: only the first axis mended
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return mask[y1:y2, y1:y2].mean()


# %% exercise-5 wrong: the last row and column too
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return mask[y1 : y2 + 1, x1 : x2 + 1].mean()


# %% exercise-5 wrong: as if the box were x, y, width, height
def fullness(mask, box):
    x, y, width, height = box
    return mask[y : y + height, x : x + width].mean()


# %% exercise-5 wrong: all of the mask over the box
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return mask.sum() / ((x2 - x1) * (y2 - y1))


# %% exercise-5 wrong: the share of the mask
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return mask[y1:y2, x1:x2].sum() / mask.sum()


# %% exercise-5 wrong: the wrong sign
def fullness(mask, box):
    x1, y1, x2, y2 = box
    return -mask[y1:y2, x1:x2].mean()


# %% exercise-5 wrong: one for every box
def fullness(mask, box):
    return 1.0


# %% exercise-5 wrong: the package's own function
def fullness(mask, box):
    return paste_masks(mask[None].astype(np.float32), np.array([box], np.float32), mask.shape).mean()
