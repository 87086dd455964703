"""Answers to the exercises of lesson 05 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: with loops
def grid_anchors(cell, h, w, stride):
    return [
        [x1 + j * stride, y1 + i * stride, x2 + j * stride, y2 + i * stride]
        for i in range(h)
        for j in range(w)
        for x1, y1, x2, y2 in cell
    ]


# %% exercise-1 right: repeated and tiled
def grid_anchors(cell, h, w, stride):
    x, y = np.tile(np.arange(w), h) * stride, np.repeat(np.arange(h), w) * stride
    return np.tile(cell, (h * w, 1)) + np.repeat(np.stack([x, y, x, y], 1), len(cell), axis=0)


# %% exercise-1 wrong: the columns first
def grid_anchors(cell, h, w, stride):
    return np.array([box + np.array([j, i, j, i]) * stride for j in range(w) for i in range(h) for box in cell])


# %% exercise-1 wrong: anchor by anchor
def grid_anchors(cell, h, w, stride):
    return np.array([box + np.array([j, i, j, i]) * stride for box in cell for i in range(h) for j in range(w)])


# %% exercise-1 wrong: on the middles of the cells
def grid_anchors(cell, h, w, stride):
    return np.array([box + (np.array([j, i, j, i]) + 0.5) * stride for i in range(h) for j in range(w) for box in cell])


# %% exercise-1 wrong: x and y exchanged
def grid_anchors(cell, h, w, stride):
    return np.array([box + np.array([i, j, i, j]) * stride for i in range(h) for j in range(w) for box in cell])


# %% exercise-1 wrong: rows and columns exchanged
def grid_anchors(cell, h, w, stride):
    return np.array([box + np.array([j, i, j, i]) * stride for i in range(w) for j in range(h) for box in cell])


# %% exercise-1 wrong: the stride forgotten
def grid_anchors(cell, h, w, stride):
    return np.array([box + np.array([j, i, j, i]) for i in range(h) for j in range(w) for box in cell])


# %% exercise-1 wrong: counted from 1
def grid_anchors(cell, h, w, stride):
    return np.array(
        [box + np.array([j, i, j, i]) * stride for i in range(1, h + 1) for j in range(1, w + 1) for box in cell]
    )


# %% exercise-1 wrong: not a list of boxes
def grid_anchors(cell, h, w, stride):
    x, y = np.meshgrid(np.arange(w) * stride, np.arange(h) * stride)
    return np.stack([x, y, x, y], -1)[:, :, None] + cell


# %% exercise-2 right: number by number
def encode(gt, boxes):
    rows = []
    for (gx1, gy1, gx2, gy2), (x1, y1, x2, y2) in zip(gt.tolist(), boxes.tolist(), strict=True):
        w, h = x2 - x1, y2 - y1
        dx, dy = ((gx1 + gx2) / 2 - (x1 + x2) / 2) / w, ((gy1 + gy2) / 2 - (y1 + y2) / 2) / h
        rows.append((dx, dy, math.log((gx2 - gx1) / w), math.log((gy2 - gy1) / h)))
    return rows


# %% exercise-2 wrong: in units of the object
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / wanted, np.log(wanted / size)], axis=1)


# %% exercise-2 wrong: in pixels
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift, np.log(wanted / size)], axis=1)


# %% exercise-2 wrong: the corners
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    return np.concatenate([(gt[:, :2] - boxes[:, :2]) / size, np.log(wanted / size)], axis=1)


# %% exercise-2 wrong: the wrong sign
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - gt[:, :2] - gt[:, 2:]) / 2
    return np.concatenate([shift / size, np.log(wanted / size)], axis=1)


# %% exercise-2 wrong: without the logarithm
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / size, wanted / size], axis=1)


# %% exercise-2 wrong: a logarithm to base 2
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2], gt[:, 2:] - gt[:, :2]
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / size, np.log2(wanted / size)], axis=1)


# %% exercise-2 wrong: sizes that count the last pixel
def encode(gt, boxes):
    size, wanted = boxes[:, 2:] - boxes[:, :2] + 1, gt[:, 2:] - gt[:, :2] + 1
    shift = (gt[:, :2] + gt[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / size, np.log(wanted / size)], axis=1)


# %% exercise-2 wrong: the package's own class
def encode(gt, boxes):
    return BoxCoder().encode(gt, boxes)


# %% exercise-3 right: a list, box by box
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        if all(overlaps[n, m] <= threshold for m in kept):
            kept.append(n)
    return kept


# %% exercise-3 right: with a mask
def greedy_nms(overlaps, scores, threshold):
    gone, kept = np.zeros(len(scores), bool), []
    for n in np.argsort(-scores, kind="stable"):
        if not gone[n]:
            kept.append(n)
            gone |= overlaps[n] > threshold
    return np.array(kept)


# %% exercise-3 wrong: < for <=
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(-scores, kind="stable"):
        if (overlaps[n, kept] < threshold).all():
            kept.append(n)
    return np.array(kept)


# %% exercise-3 wrong: equal scores in reverse order
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(scores, kind="stable")[::-1]:
        if (overlaps[n, kept] <= threshold).all():
            kept.append(n)
    return np.array(kept)


# %% exercise-3 wrong: both
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(scores, kind="stable")[::-1]:
        if (overlaps[n, kept] < threshold).all():
            kept.append(n)
    return np.array(kept)


# %% exercise-3 wrong: unsorted
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in range(len(scores)):
        if (overlaps[n, kept] <= threshold).all():
            kept.append(n)
    return np.array(kept)


# %% exercise-3 wrong: the worst first
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(scores, kind="stable"):
        if (overlaps[n, kept] <= threshold).all():
            kept.append(n)
    return np.array(kept)


# %% exercise-3 wrong: dropped boxes drop others
def greedy_nms(overlaps, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    return np.array([n for at, n in enumerate(order) if (overlaps[n, order[:at]] <= threshold).all()])


# %% exercise-3 wrong: only the best box drops others
def greedy_nms(overlaps, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    return np.array([n for n in order if n == order[0] or overlaps[n, order[0]] <= threshold])


# %% exercise-3 wrong: by index in the end
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(-scores, kind="stable"):
        if (overlaps[n, kept] <= threshold).all():
            kept.append(n)
    return np.sort(kept)


# %% exercise-3 wrong: the scores of those that stay
def greedy_nms(overlaps, scores, threshold):
    kept = []
    for n in np.argsort(-scores, kind="stable"):
        if (overlaps[n, kept] <= threshold).all():
            kept.append(n)
    return scores[kept]


# %% exercise-4 right: to three places
answer = (1, 0.547, 0.333, 0.215)

# %% exercise-4 right: as fractions, in an array
answer = np.array([1, 282.842712 / (800 - 282.842712), 1 / 3, 141.421356 / (800 - 141.421356)])

# %% exercise-4 wrong: the ratio is width by height
answer = (0.143, 0.215, 0.333, 0.547)

# %% exercise-4 wrong: to two places
answer = (1, 0.55, 0.33, 0.21)

# %% exercise-4 wrong: shared by the object's area
answer = (1, 0.707, 0.5, 0.354)

# %% exercise-4 wrong: shared by both areas
answer = (0.5, 0.354, 0.25, 0.177)

# %% exercise-4 wrong: in the other order
answer = (0.215, 0.333, 0.547, 1)

# %% exercise-4 wrong: the last one left out
answer = (1, 0.547, 0.333)

# %% exercise-4 wrong: percent
answer = (100, 54.7, 33.3, 21.5)


# %% exercise-5 right: the ignored ones spare those that are taken
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    labels = np.full(len(best), -1)
    for of_object in overlaps:
        if of_object.max() > 0:
            at = of_object == of_object.max()
            labels[at] = objects[at]
    labels[(best >= low) & (labels < 0)] = -2
    labels[best >= high] = objects[best >= high]
    return labels


# %% exercise-5 right: as section 3 has it
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_of_object = overlaps.max(axis=1, keepdims=True)
    positive = (best >= high) | ((overlaps == best_of_object) & (best_of_object > 0)).any(axis=0)
    return np.where(positive, objects, np.where(best >= low, -2, -1))


# %% exercise-5 wrong: as it was
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    labels = np.full(len(best), -1)
    for of_object in overlaps:
        if of_object.max() > 0:
            at = of_object == of_object.max()
            labels[at] = objects[at]
    labels[best >= low] = -2
    labels[best >= high] = objects[best >= high]
    return labels


# %% exercise-5 wrong: the colleague's function
mended = label_anchors


# %% exercise-5 wrong: no anchors for badly covered objects
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    return np.where(best >= high, objects, np.where(best >= low, -2, -1))


# %% exercise-5 wrong: the first of equally good ones
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    labels = np.where(best >= high, objects, np.where(best >= low, -2, -1))
    for of_object in overlaps:
        if of_object.max() > 0:
            labels[of_object.argmax()] = objects[of_object.argmax()]
    return labels


# %% exercise-5 wrong: the object takes the anchor from another one
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    labels = np.where(best >= high, objects, np.where(best >= low, -2, -1))
    for number, of_object in enumerate(overlaps):
        if of_object.max() > 0:
            labels[of_object == of_object.max()] = number
    return labels


# %% exercise-5 wrong: an object that nothing touches takes all that is left
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    positive = (best >= high) | (overlaps == overlaps.max(axis=1, keepdims=True)).any(axis=0)
    return np.where(positive, objects, np.where(best >= low, -2, -1))


# %% exercise-5 wrong: > for >= at the upper threshold
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_of_object = overlaps.max(axis=1, keepdims=True)
    positive = (best > high) | ((overlaps == best_of_object) & (best_of_object > 0)).any(axis=0)
    return np.where(positive, objects, np.where(best >= low, -2, -1))


# %% exercise-5 wrong: > for >= at the lower threshold
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_of_object = overlaps.max(axis=1, keepdims=True)
    positive = (best >= high) | ((overlaps == best_of_object) & (best_of_object > 0)).any(axis=0)
    return np.where(positive, objects, np.where(best > low, -2, -1))


# %% exercise-5 wrong: ignored and background exchanged
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_of_object = overlaps.max(axis=1, keepdims=True)
    positive = (best >= high) | ((overlaps == best_of_object) & (best_of_object > 0)).any(axis=0)
    return np.where(positive, objects, np.where(best >= low, -1, -2))


# %% exercise-5 wrong: objects and anchors exchanged
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=1), overlaps.argmax(axis=1)
    return np.where(best >= high, objects, np.where(best >= low, -2, -1))


# %% exercise-5 wrong: the thresholds are those of this lesson
def mended(overlaps, high=0.7, low=0.3):
    best, objects = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_of_object = overlaps.max(axis=1, keepdims=True)
    positive = (best >= 0.7) | ((overlaps == best_of_object) & (best_of_object > 0)).any(axis=0)
    return np.where(positive, objects, np.where(best >= 0.3, -2, -1))


# %% exercise-5 wrong: the package's own class
def mended(overlaps, high=0.7, low=0.3):
    return Matcher(high, low, allow_low_quality=True)(overlaps)
