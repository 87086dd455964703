"""Answers, right and wrong, for the functions of lessons/mine.py that are no exercise; the others have theirs in
lesson_answers."""


# %% sampling_points right: bin by bin, in lists
def sampling_points(roi, scale, bins, ratio):
    points = []
    for low, high, n in ((roi[0], roi[2], bins[1]), (roi[1], roi[3], bins[0])):
        size = (high - low) * scale / n
        points.append([low * scale - 0.5 + p * size + (i + 0.5) * size / ratio for p in range(n) for i in range(ratio)])
    return tuple(points)


# %% sampling_points wrong: without the half of aligned
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: at the left ends of the parts
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + np.arange(n * ratio) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: the half in pixels
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return (low - 0.5) * scale + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: the bins are (w, h)
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[0]), along(y1, y2, bins[1])


# %% sampling_points wrong: ys before xs
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(y1, y2, bins[0]), along(x1, x2, bins[1])


# %% sampling_points wrong: one sample a bin
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale - 0.5 + (np.arange(n) + 0.5) * (high - low) * scale / n

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: from end to end
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return np.linspace(low * scale, high * scale, n * ratio) - 0.5

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: the RoI rounded first
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return np.round(low * scale) - 0.5 + (np.arange(n * ratio) + 0.5) * np.round((high - low) * scale) / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% sampling_points wrong: the half added
def sampling_points(roi, scale, bins, ratio):
    x1, y1, x2, y2 = roi

    def along(low, high, n):
        return low * scale + 0.5 + (np.arange(n * ratio) + 0.5) * (high - low) * scale / (n * ratio)

    return along(x1, x2, bins[1]), along(y1, y2, bins[0])


# %% boxes_of_class wrong: the boxes as they are
def boxes_of_class(deltas, boxes, labels):
    return boxes


# %% boxes_of_class wrong: columns as (4, K)
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), 4, -1)[np.arange(len(deltas)), :, labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% boxes_of_class wrong: times the weights
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] * (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:].clip(-4, 4)) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% boxes_of_class wrong: off by one, the columns of the class before
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels - 1] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * np.exp(own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% boxes_of_class wrong: from the corner
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    corner = boxes[:, :2] + own[:, :2] * size
    return np.concatenate([corner, corner + size * np.exp(own[:, 2:])], axis=1)


# %% boxes_of_class wrong: 1 + dw for exp(dw)
def boxes_of_class(deltas, boxes, labels):
    own = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), labels] / (10, 10, 5, 5)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + own[:, :2] * size
    half = size * (1 + own[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


# %% boxes_of_class right: row by row
def boxes_of_class(deltas, boxes, labels):
    rows = []
    for d, (x1, y1, x2, y2), label in zip(deltas, boxes, labels, strict=True):
        dx, dy, dw, dh = d[4 * label : 4 * label + 4] / np.array([10, 10, 5, 5])
        w, h = x2 - x1, y2 - y1
        x, y, w, h = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(rows)


# %% my_smooth_l1 wrong: zeros
def my_smooth_l1(d, beta):
    return 0 * d, 0 * d


# %% my_smooth_l1 wrong: the slope has no sign
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, np.abs(d) / beta, 1)


# %% my_smooth_l1 wrong: the values alone
def my_smooth_l1(d, beta):
    return np.where(np.abs(d) < beta, d**2 / (2 * beta), np.abs(d) - beta / 2)


# %% my_smooth_l1 wrong: the signs of d decide
def my_smooth_l1(d, beta):
    inside = d < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, d / beta, np.sign(d))


# %% my_smooth_l1 wrong: a beta of 1
def my_smooth_l1(d, beta):
    inside = np.abs(d) < 1
    return np.where(inside, d**2 / 2, np.abs(d) - 0.5), np.where(inside, d, np.sign(d))


# %% my_smooth_l1 wrong: a step at beta
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d)), np.where(inside, d / beta, np.sign(d))


# %% my_smooth_l1 wrong: the slope is twice as large
def my_smooth_l1(d, beta):
    inside = np.abs(d) < beta
    return np.where(inside, d**2 / (2 * beta), np.abs(d) - beta / 2), np.where(inside, 2 * d / beta, np.sign(d))


# %% my_smooth_l1 right: the slope by clipping, up to beta itself
def my_smooth_l1(d, beta):
    size = np.abs(d)
    return np.where(size <= beta, size * size / beta / 2, size - beta / 2), (d / beta).clip(-1, 1)
