"""Answers to the exercises of lesson 08 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zeros
def my_encode(wanted, box, weights):
    return np.zeros(4)


# %% exercise-1 wrong: corners for centres
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = wanted[2:] - wanted[:2], box[2:] - box[:2]
    x, y = wanted[:2] - box[:2]
    return np.array([x / pw, y / ph, np.log(gw / pw), np.log(gh / ph)]) * weights


# %% exercise-1 wrong: off by one, widths with one pixel more
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = wanted[2:] - wanted[:2] + 1, box[2:] - box[:2] + 1
    x, y = (wanted[:2] + wanted[2:] - box[:2] - box[2:]) / 2
    return np.array([x / pw, y / ph, np.log(gw / pw), np.log(gh / ph)]) * weights


# %% exercise-1 wrong: the sign, from wanted to box
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = box[2:] - box[:2], wanted[2:] - wanted[:2]
    x, y = (box[:2] + box[2:] - wanted[:2] - wanted[2:]) / 2
    return np.array([x / pw, y / ph, np.log(gw / pw), np.log(gh / ph)]) * weights


# %% exercise-1 wrong: divided by the wanted size
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = wanted[2:] - wanted[:2], box[2:] - box[:2]
    x, y = (wanted[:2] + wanted[2:] - box[:2] - box[2:]) / 2
    return np.array([x / gw, y / gh, np.log(gw / pw), np.log(gh / ph)]) * weights


# %% exercise-1 wrong: without the weights
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = wanted[2:] - wanted[:2], box[2:] - box[:2]
    x, y = (wanted[:2] + wanted[2:] - box[:2] - box[2:]) / 2
    return np.array([x / pw, y / ph, np.log(gw / pw), np.log(gh / ph)])


# %% exercise-1 wrong: transposed, y before x
def my_encode(wanted, box, weights):
    (gw, gh), (pw, ph) = wanted[2:] - wanted[:2], box[2:] - box[:2]
    x, y = (wanted[:2] + wanted[2:] - box[:2] - box[2:]) / 2
    return np.array([y / ph, x / pw, np.log(gh / ph), np.log(gw / pw)]) * weights


# %% exercise-1 right: in two parts
def my_encode(wanted, box, weights):
    size = box[2:] - box[:2]
    shift = ((wanted[:2] + wanted[2:]) / 2 - (box[:2] + box[2:]) / 2) / size
    return np.concatenate([shift, np.log((wanted[2:] - wanted[:2]) / size)]) * np.array(weights)


# %% exercise-2 wrong: the boxes as they are
def boxes_of_class(deltas, boxes, labels):
    return boxes


# %% exercise-2 wrong: columns as (4, K)
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), 4, -1)[np.arange(len(deltas)), :, labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% exercise-2 wrong: times the weights
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] * (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:].clip(-4, 4)) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% exercise-2 wrong: off by one, the columns of the class before
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels - 1] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% exercise-2 wrong: from the corner
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    corner = boxes[:, :2] + own[:, :2] * size
    return np.concatenate([corner, corner + size * np.exp(own[:, 2:])], axis=1)


# %% exercise-2 wrong: 1 + dw for exp(dw)
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * (1 + own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% exercise-2 wrong: the package's function, of all classes
def boxes_of_class(deltas, boxes, labels):
    return BoxCoder((10, 10, 5, 5)).decode(deltas, boxes)


# %% exercise-2 right: row by row
def boxes_of_class(deltas, boxes, labels):
    rows = []
    for d, (x1, y1, x2, y2), label in zip(deltas, boxes, labels, strict=True):
        dx, dy, dw, dh = d[4 * label : 4 * label + 4] / np.array([10, 10, 5, 5])
        w, h = x2 - x1, y2 - y1
        x, y, w, h = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(rows)


# %% exercise-3 wrong: zeros
def my_smooth_l1(d, beta):
    return 0 * d, 0 * d


# %% exercise-3 wrong: the slope has no sign
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, np.abs(d) / beta, 1)


# %% exercise-3 wrong: the values alone
def my_smooth_l1(d, beta):
    return np.where(np.abs(d) < beta, d**2 / (2 * beta), np.abs(d) - beta / 2)


# %% exercise-3 wrong: the signs of d decide
def my_smooth_l1(d, beta):
    inside = d < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, d / beta, np.sign(d))


# %% exercise-3 wrong: a beta of 1
def my_smooth_l1(d, beta):
    inside = np.abs(d) < 1
    return np.where(inside, d**2 / 2, np.abs(d) - 0.5), np.where(inside, d, np.sign(d))


# %% exercise-3 wrong: a step at beta
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d)), np.where(inside, d / beta, np.sign(d))


# %% exercise-3 wrong: the slope is twice as large
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, 2 * d / beta, np.sign(d))


# %% exercise-3 right: the slope by clipping, up to beta itself
def my_smooth_l1(d, beta):
    size = np.abs(d)
    return np.where(size <= beta, size * size / beta / 2, size - beta / 2), (d / beta).clip(-1, 1)


# %% exercise-4 wrong: zeros
def my_box_losses(logits, deltas, labels, wanted):
    return 0.0, 0.0


# %% exercise-4 wrong: the box loss divided by the positives
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(some)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-4 wrong: the box loss a mean over four numbers
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).mean(1).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-4 wrong: the background is left out
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return -np.log(p[some, labels[some]]).mean(), box


# %% exercise-4 wrong: the sign of the classification
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-4 wrong: columns as (4, K)
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), 4, -1)[some, :, labels[some]] - wanted)
    box = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-4 wrong: a beta of 1
def my_box_losses(logits, deltas, labels, wanted):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    some = np.flatnonzero(labels)
    d = np.abs(deltas.reshape(len(labels), -1, 4)[some, labels[some]] - wanted)
    box = np.where(d < 1, d * d / 2, d - 0.5).sum() / len(labels)
    return -np.log(p[np.arange(len(labels)), labels]).mean(), box


# %% exercise-4 right: sample by sample
def my_box_losses(logits, deltas, labels, wanted):
    classification, box, rows = 0.0, 0.0, iter(wanted)
    for z, d, label in zip(logits, deltas, labels, strict=True):
        classification += np.log(np.exp(z - z[label]).sum())
        if label:
            for off in np.abs(d[4 * label : 4 * label + 4] - next(rows)):
                box += 4.5 * off**2 if off < 1 / 9 else off - 1 / 18
    return classification / len(labels), box / len(labels)
