"""Answers to the exercises of lesson 08 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: as it was
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    width, height = width * np.exp(dw), height * np.exp(dh)
    x, y = x + dx * width, y + dy * height
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: the boxes as they are
def repaired(corrections, boxes):
    return boxes.copy()


# %% exercise-1 wrong: the sign
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x - dx * width, y - dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: transposed, width and height exchanged
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * height, y + dy * width
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: 1 + dw for exp(dw)
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * width, y + dy * height
    width, height = width * (1 + dw), height * (1 + dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: without the weights
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * width, y + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: off by one, widths with one pixel more
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * width, y + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: from the corner
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = boxes[:, 0], boxes[:, 1]
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * width, y + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 wrong: the lesson's own plain decode, without weights
def repaired(corrections, boxes):
    return decode(corrections, boxes)


# %% exercise-1 wrong: the package's function
def repaired(corrections, boxes):
    return BoxCoder((10, 10, 5, 5)).decode(corrections, boxes)[:, 0]


# %% exercise-1 right: two lines exchanged
def repaired(corrections, boxes):
    dx, dy, dw, dh = (corrections / np.array([10, 10, 5, 5])).T
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = x + dx * width, y + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


# %% exercise-1 right: row by row
def repaired(corrections, boxes):
    rows = []
    for (dx, dy, dw, dh), (x1, y1, x2, y2) in zip(corrections / np.array([10, 10, 5, 5]), boxes, strict=True):
        w, h = x2 - x1, y2 - y1
        x, y, w, h = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(rows)


# %% exercise-2 wrong: zeros
answer = (0, 0, 0)


# %% exercise-2 wrong: without the weights
answer = (1 / 3, np.log(2), 1 / 3 - 1 / 18)


# %% exercise-2 wrong: half the width
answer = (5, 5 * np.log(2), 5 - 1 / 18)


# %% exercise-2 wrong: to the base of 2
answer = (10 / 3, 5, 10 / 3 - 1 / 18)


# %% exercise-2 wrong: beta instead of half of it
answer = (10 / 3, 5 * np.log(2), 10 / 3 - 1 / 9)


# %% exercise-2 wrong: on the parabola
answer = (10 / 3, 5 * np.log(2), (10 / 3) ** 2 * 9 / 2)


# %% exercise-2 wrong: a and b exchanged
answer = (5 * np.log(2), 10 / 3, 10 / 3 - 1 / 18)


# %% exercise-2 wrong: half as wide is a factor of 0.5
answer = (10 / 3, 2.5, 10 / 3 - 1 / 18)


# %% exercise-2 wrong: the sign of b
answer = (10 / 3, 5 * np.log(1 / 2), 10 / 3 - 1 / 18)


# %% exercise-2 wrong: two numbers
answer = (10 / 3, 5 * np.log(2))


# %% exercise-2 right: to three digits
answer = 3.333, 3.466, 3.278


# %% exercise-2 right: a list
answer = [10 / 3, np.log(32), 59 / 18]


# %% exercise-3 wrong: zeros
def my_box_losses(logits, deltas, labels, wanted):
    return 0.0, 0.0


# %% exercise-3 wrong: the box loss divided by the positives
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(some)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 wrong: the box loss a mean over four numbers
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).mean(1).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 wrong: the background is left out
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return -np.log(p[some, labels[some]]).mean(), box


# %% exercise-3 wrong: the sign of the classification
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 wrong: columns as (4, K)
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), 4, -1)[some, :, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 wrong: a beta of 1
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1, d * d / 2, d - 0.5).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 right: sample by sample
def my_box_losses(logits, deltas, labels, wanted):
    classification, box, rows = 0.0, 0.0, iter(wanted)
    for z, d, label in zip(logits, deltas, labels, strict=True):
        classification += np.log(np.exp(z - z.max()).sum()) + z.max() - z[label]
        if label:
            for off in np.abs(d[4 * label : 4 * label + 4] - next(rows)):
                box += 4.5 * off**2 if off < 1 / 9 else off - 1 / 18
    return classification / len(labels), box / len(labels)


# %% exercise-3 wrong: large logits overflow
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-3 wrong: the package's function
def my_box_losses(logits, deltas, labels, wanted):
    return ops.cross_entropy(Tensor(logits), labels).item(), 0.0


# %% exercise-4 wrong: zeros
def my_box_gradient(deltas, labels, wanted):
    return np.zeros_like(deltas)


# %% exercise-4 wrong: the sign of all
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = -(9 * d).clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: no sign
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = (9 * np.abs(d)).clip(0, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: divided by the positives
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = (9 * d).clip(-1, 1) / len(positives)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: not divided
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = (9 * d).clip(-1, 1)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: a beta of 1
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = d.clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: d inside of beta
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = np.where(np.abs(d) < 1 / 9, d, np.sign(d)) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: off by one, the class before
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives] - 1] - wanted
    gradient[positives, labels[positives] - 1] = (9 * d).clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: L1
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = np.sign(d) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: transposed, columns as (4, K)
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), 4, deltas.shape[1] // 4))
    d = deltas.reshape(gradient.shape)[positives, :, labels[positives]] - wanted
    gradient[positives, :, labels[positives]] = (9 * d).clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: every class is pulled
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives] - wanted[:, None]
    gradient[positives] = (9 * d).clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 wrong: the package's function
def my_box_gradient(deltas, labels, wanted):
    leaf = Tensor(deltas, requires_grad=True)
    ops.smooth_l1_loss(leaf, np.zeros_like(deltas), beta=1 / 9).backward()
    return leaf.grad


# %% exercise-4 right: by clipping
def my_box_gradient(deltas, labels, wanted):
    positives = np.flatnonzero(labels)
    gradient = np.zeros((len(labels), deltas.shape[1] // 4, 4))
    d = deltas.reshape(gradient.shape)[positives, labels[positives]] - wanted
    gradient[positives, labels[positives]] = (9 * d).clip(-1, 1) / len(labels)
    return gradient.reshape(deltas.shape)


# %% exercise-4 right: sample by sample
def my_box_gradient(deltas, labels, wanted):
    gradient, rows = np.zeros_like(deltas), iter(wanted)
    for s, label in enumerate(labels):
        if label:
            for i, w in enumerate(next(rows)):
                d = deltas[s, 4 * label + i] - w
                gradient[s, 4 * label + i] = (d * 9 if abs(d) < 1 / 9 else np.sign(d)) / len(labels)
    return gradient
