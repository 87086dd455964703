"""Answers to the exercises of lesson 09 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zeros
def cell_centre(box, i, j, m):
    return 0.0, 0.0


# %% exercise-1 wrong: i and j exchanged
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return x1 + (i + 0.5) / m * (x2 - x1), y1 + (j + 0.5) / m * (y2 - y1)


# %% exercise-1 wrong: the corner of the cell
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return x1 + j / m * (x2 - x1), y1 + i / m * (y2 - y1)


# %% exercise-1 wrong: off by one, the other corner
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return x1 + (j + 1) / m * (x2 - x1), y1 + (i + 1) / m * (y2 - y1)


# %% exercise-1 wrong: y before x
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return y1 + (i + 0.5) / m * (y2 - y1), x1 + (j + 0.5) / m * (x2 - x1)


# %% exercise-1 wrong: the outermost cells lie on the box
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return x1 + j / (m - 1) * (x2 - x1), y1 + i / (m - 1) * (y2 - y1)


# %% exercise-1 wrong: whole pixels
def cell_centre(box, i, j, m):
    x1, y1, x2, y2 = box
    return round(x1 + (j + 0.5) / m * (x2 - x1)), round(y1 + (i + 0.5) / m * (y2 - y1))


# %% exercise-1 right: an array
def cell_centre(box, i, j, m):
    first, last = np.array(box[:2], float), np.array(box[2:], float)
    return first + (last - first) * (np.array([j, i]) + 0.5) / m


# %% exercise-2 wrong: zero
def my_mask_loss(logits, labels, targets):
    return 0.0


# %% exercise-2 wrong: overflows
def my_mask_loss(logits, labels, targets):
    with np.errstate(all="ignore"):
        p = 1 / (1 + np.exp(-logits[np.arange(len(labels)), labels]))
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


# %% exercise-2 wrong: probabilities are clipped
def my_mask_loss(logits, labels, targets):
    p = (1 / (1 + np.exp(-logits[np.arange(len(labels)), labels]))).clip(1e-7, 1 - 1e-7)
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


# %% exercise-2 wrong: all classes
def my_mask_loss(logits, labels, targets):
    t = targets[:, None]
    return (t * np.logaddexp(0, -logits) + (1 - t) * np.logaddexp(0, logits)).mean()


# %% exercise-2 wrong: the sum
def my_mask_loss(logits, labels, targets):
    z = logits[np.arange(len(labels)), labels]
    return (targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)).sum()


# %% exercise-2 wrong: the sign
def my_mask_loss(logits, labels, targets):
    z = logits[np.arange(len(labels)), labels]
    return (targets * np.logaddexp(0, z) + (1 - targets) * np.logaddexp(0, -z)).mean()


# %% exercise-2 wrong: off by one, the class before
def my_mask_loss(logits, labels, targets):
    z = logits[np.arange(len(labels)), labels - 1]
    return (targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)).mean()


# %% exercise-2 wrong: the object's cells only
def my_mask_loss(logits, labels, targets):
    z = logits[np.arange(len(labels)), labels]
    return (targets * np.logaddexp(0, -z)).mean()


# %% exercise-2 right: with the absolute value
def my_mask_loss(logits, labels, targets):
    z = np.stack([of_roi[label] for of_roi, label in zip(logits, labels, strict=True)])
    return np.mean(np.maximum(z, 0) - z * targets + np.log1p(np.exp(-np.abs(z))))


# %% exercise-3 wrong: zeros
def my_mask_loss_gradient(logits, labels, targets):
    return np.zeros_like(logits)


# %% exercise-3 wrong: all classes
def my_mask_loss_gradient(logits, labels, targets):
    return (1 / (1 + np.exp(-logits)) - targets[:, None]) / targets.size


# %% exercise-3 wrong: not divided
def my_mask_loss_gradient(logits, labels, targets):
    gradient, rows = np.zeros_like(logits), np.arange(len(labels))
    gradient[rows, labels] = 1 / (1 + np.exp(-logits[rows, labels])) - targets
    return gradient


# %% exercise-3 wrong: the sign
def my_mask_loss_gradient(logits, labels, targets):
    gradient, rows = np.zeros_like(logits), np.arange(len(labels))
    gradient[rows, labels] = (targets - 1 / (1 + np.exp(-logits[rows, labels]))) / targets.size
    return gradient


# %% exercise-3 wrong: divided by the cells of one RoI
def my_mask_loss_gradient(logits, labels, targets):
    gradient, rows = np.zeros_like(logits), np.arange(len(labels))
    gradient[rows, labels] = (1 / (1 + np.exp(-logits[rows, labels])) - targets) / targets[0].size
    return gradient


# %% exercise-3 wrong: the own class alone, in a smaller array
def my_mask_loss_gradient(logits, labels, targets):
    return (1 / (1 + np.exp(-logits[np.arange(len(labels)), labels])) - targets) / targets.size


# %% exercise-3 wrong: the slope of the sigmoid once more
def my_mask_loss_gradient(logits, labels, targets):
    gradient, rows = np.zeros_like(logits), np.arange(len(labels))
    p = 1 / (1 + np.exp(-logits[rows, labels]))
    gradient[rows, labels] = (p - targets) * p * (1 - p) / targets.size
    return gradient


# %% exercise-3 right: by a mask of the classes
def my_mask_loss_gradient(logits, labels, targets):
    own = np.eye(logits.shape[1])[labels][:, :, None, None]
    return own * (0.5 + 0.5 * np.tanh(logits / 2) - targets[:, None]) / targets.size


# %% exercise-4 wrong: zero
def pasted_pixel(mask, box, x, y):
    return 0.0


# %% exercise-4 wrong: int for floor
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m, total = len(mask), 0.0
    u, v = (x + 0.5 - x1) / (x2 - x1) * m - 0.5, (y + 0.5 - y1) / (y2 - y1) * m - 0.5
    for i in (int(v), int(v) + 1):
        for j in (int(u), int(u) + 1):
            if 0 <= i < m and 0 <= j < m:
                total += (1 - abs(v - i)) * (1 - abs(u - j)) * mask[i, j]
    return total


# %% exercise-4 wrong: the border is repeated
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m, total = len(mask), 0.0
    u, v = (x + 0.5 - x1) / (x2 - x1) * m - 0.5, (y + 0.5 - y1) / (y2 - y1) * m - 0.5
    for i in (int(np.floor(v)), int(np.floor(v)) + 1):
        for j in (int(np.floor(u)), int(np.floor(u)) + 1):
            total += (1 - abs(v - i)) * (1 - abs(u - j)) * mask[np.clip(i, 0, m - 1), np.clip(j, 0, m - 1)]
    return total


# %% exercise-4 wrong: the pixel's corner for its centre
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m, total = len(mask), 0.0
    u, v = (x - x1) / (x2 - x1) * m - 0.5, (y - y1) / (y2 - y1) * m - 0.5
    for i in range(m):
        for j in range(m):
            total += max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j)) * mask[i, j]
    return total


# %% exercise-4 wrong: the cell's corner for its centre
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m, total = len(mask), 0.0
    u, v = (x + 0.5 - x1) / (x2 - x1) * m, (y + 0.5 - y1) / (y2 - y1) * m
    for i in range(m):
        for j in range(m):
            total += max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j)) * mask[i, j]
    return total


# %% exercise-4 wrong: transposed
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m, total = len(mask), 0.0
    u, v = (x + 0.5 - x1) / (x2 - x1) * m - 0.5, (y + 0.5 - y1) / (y2 - y1) * m - 0.5
    for i in range(m):
        for j in range(m):
            total += max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j)) * mask[j, i]
    return total


# %% exercise-4 wrong: the nearest cell
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m = len(mask)
    j, i = int(np.floor((x + 0.5 - x1) / (x2 - x1) * m)), int(np.floor((y + 0.5 - y1) / (y2 - y1) * m))
    return mask[i, j] if 0 <= i < m and 0 <= j < m else 0.0


# %% exercise-4 right: with a rim of zeros
def pasted_pixel(mask, box, x, y):
    x1, y1, x2, y2 = box
    m = len(mask)
    rows, columns = np.abs((y + 0.5 - y1) / (y2 - y1) * m - 0.5 - np.arange(m)), np.arange(m) + 0.5
    columns = np.abs((x + 0.5 - x1) / (x2 - x1) * m - columns)
    return (1 - rows).clip(0) @ mask @ (1 - columns).clip(0)


# %% exercise-5 wrong: as it was
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    parts = np.einsum("rchw,cdab->rdhwab", x, weight).transpose(0, 1, 2, 5, 3, 4)
    return parts.reshape(r, -1, 2 * h, 2 * w) + bias[:, None, None]


# %% exercise-5 wrong: zeros
def repaired(x, weight, bias):
    return np.zeros((len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]))


# %% exercise-5 wrong: every cell four times, by one filter
def repaired(x, weight, bias):
    one = np.einsum("rchw,cd->rdhw", x, weight[:, :, 0, 0])
    return one.repeat(2, axis=2).repeat(2, axis=3) + bias[:, None, None]


# %% exercise-5 wrong: transposed, the kernel over its diagonal
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    parts = np.einsum("rchw,cdab->rdhbwa", x, weight)
    return parts.reshape(r, -1, 2 * h, 2 * w) + bias[:, None, None]


# %% exercise-5 wrong: the kernel is flipped
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    parts = np.einsum("rchw,cdab->rdhawb", x, weight[:, :, ::-1, ::-1])
    return parts.reshape(r, -1, 2 * h, 2 * w) + bias[:, None, None]


# %% exercise-5 wrong: side by side
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    parts = np.einsum("rchw,cdab->rdahbw", x, weight)
    return parts.reshape(r, -1, 2 * h, 2 * w) + bias[:, None, None]


# %% exercise-5 wrong: without the bias
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    return np.einsum("rchw,cdab->rdhawb", x, weight).reshape(r, -1, 2 * h, 2 * w)


# %% exercise-5 wrong: off by one, the bias four times
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    parts = np.einsum("rchw,cdab->rdhawb", x, weight)
    return parts.reshape(r, -1, 2 * h, 2 * w) + 4 * bias[:, None, None]


# %% exercise-5 wrong: the sign of the bias
def repaired(x, weight, bias):
    r, _, h, w = x.shape
    return np.einsum("rchw,cdab->rdhawb", x, weight).reshape(r, -1, 2 * h, 2 * w) - bias[:, None, None]


# %% exercise-5 wrong: the package's function
def repaired(x, weight, bias):
    return ops.conv_transpose2d(Tensor(x), Tensor(weight), Tensor(bias), 2).data


# %% exercise-5 right: four convolutions in turn
def repaired(x, weight, bias):
    out = np.zeros((len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]))
    for a in (0, 1):
        for b in (0, 1):
            out[:, :, a::2, b::2] = np.einsum("rchw,cd->rdhw", x, weight[:, :, a, b])
    return out + bias[:, None, None]


# %% exercise-5 right: by the Kronecker product
def repaired(x, weight, bias):
    out = sum(np.kron(x[:, c, None], weight[None, c]) for c in range(len(weight)))
    return out + bias[:, None, None]
