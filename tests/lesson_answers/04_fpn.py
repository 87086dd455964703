"""Answers to the exercises of lesson 04 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: with loops
def nearest(x, out_h, out_w):
    h, w = x.shape
    return [[x[i * h // out_h, j * w // out_w] for j in range(out_w)] for i in range(out_h)]


# %% exercise-1 wrong: rounded
def nearest(x, out_h, out_w):
    rows, columns = (np.round(np.arange(o) * n / o).astype(int) for o, n in zip((out_h, out_w), x.shape, strict=True))
    return x[np.minimum(rows, len(x) - 1)[:, None], np.minimum(columns, x.shape[1] - 1)]


# %% exercise-1 wrong: corner on corner
def nearest(x, out_h, out_w):
    rows, columns = (np.arange(o) * (n - 1) // (o - 1) for o, n in zip((out_h, out_w), x.shape, strict=True))
    return x[rows[:, None], columns]


# %% exercise-1 wrong: transposed
def nearest(x, out_h, out_w):
    rows, columns = (np.arange(o) * n // o for o, n in zip((out_h, out_w), x.shape, strict=True))
    return x[rows[:, None], columns].T


# %% exercise-1 wrong: height and width exchanged
def nearest(x, out_h, out_w):
    rows, columns = (np.arange(o) * n // o for o, n in zip((out_w, out_h), x.shape, strict=True))
    return x[rows[:, None], columns]


# %% exercise-1 wrong: every cell repeated
def nearest(x, out_h, out_w):
    return x.repeat(-(-out_h // len(x)), 0).repeat(-(-out_w // x.shape[1]), 1)[:out_h, :out_w]


# %% exercise-1 wrong: one cell further
def nearest(x, out_h, out_w):
    rows = np.minimum((np.arange(out_h) + 1) * len(x) // out_h, len(x) - 1)
    columns = np.minimum((np.arange(out_w) + 1) * x.shape[1] // out_w, x.shape[1] - 1)
    return x[rows[:, None], columns]


# %% exercise-1 wrong: the package's own operator
def nearest(x, out_h, out_w):
    return ops.interpolate(Tensor(x[None, None]), size=(out_h, out_w)).data[0, 0]


# %% exercise-2 right: four slices
def enlarge_backward(grad):
    even, odd = grad[:, :, ::2], grad[:, :, 1::2]
    return even[..., ::2] + even[..., 1::2] + odd[..., ::2] + odd[..., 1::2]


# %% exercise-2 wrong: the first copy alone
def enlarge_backward(grad):
    return grad[:, :, ::2, ::2]


# %% exercise-2 wrong: the mean of the copies
def enlarge_backward(grad):
    n, c, h, w = grad.shape
    return grad.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


# %% exercise-2 wrong: the wrong axes
def enlarge_backward(grad):
    n, c, h, w = grad.shape
    return grad.reshape(n, c, 2, h // 2, 2, w // 2).sum((2, 4))


# %% exercise-2 wrong: the wrong sign
def enlarge_backward(grad):
    n, c, h, w = grad.shape
    return -grad.reshape(n, c, h // 2, 2, w // 2, 2).sum((3, 5))


# %% exercise-2 wrong: one direction only
def enlarge_backward(grad):
    return (grad[:, :, ::2] + grad[:, :, 1::2])[..., ::2]


# %% exercise-2 wrong: the largest of the copies
def enlarge_backward(grad):
    n, c, h, w = grad.shape
    return grad.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


# %% exercise-3 right: box by box, as a list
def read(levels, boxes):
    result = []
    for box in boxes:
        k = level_of_box(box)
        result.append(mean_under(levels[k], box, 4 * 2**k))
    return result


# %% exercise-3 right: the groups put back by the inverse permutation
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    order = np.argsort(chosen, kind="stable")
    groups = [[mean_under(levels[k], box, 2 ** (k + 2)) for box in boxes[chosen == k]] for k in range(4)]
    values = np.empty(len(boxes))
    values[order] = np.concatenate(groups)
    return values


# %% exercise-3 right: sorted back
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    order = np.argsort(chosen, kind="stable")
    values = np.array([mean_under(levels[chosen[n]], boxes[n], 2 ** (chosen[n] + 2)) for n in order])
    return values[np.argsort(order)]


# %% exercise-3 wrong: the colleague's
def read(levels, boxes):
    return colleague_read(levels, boxes)


# %% exercise-3 wrong: the colleague's way
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    groups = [[mean_under(levels[k], box, 2 ** (k + 2)) for box in boxes[chosen == k]] for k in range(4)]
    return np.concatenate(groups)


# %% exercise-3 wrong: zeros
def read(levels, boxes):
    return np.zeros(len(boxes))


# %% exercise-3 wrong: permuted a second time
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    order = np.argsort(chosen, kind="stable")
    groups = [[mean_under(levels[k], box, 2 ** (k + 2)) for box in boxes[chosen == k]] for k in range(4)]
    return np.concatenate(groups)[order]


# %% exercise-3 wrong: the inverse taken twice
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    rank = np.argsort(np.argsort(chosen, kind="stable"), kind="stable")
    groups = [[mean_under(levels[k], box, 2 ** (k + 2)) for box in boxes[chosen == k]] for k in range(4)]
    values = np.empty(len(boxes))
    values[rank] = np.concatenate(groups)
    return values


# %% exercise-3 wrong: all from P2
def read(levels, boxes):
    return np.array([mean_under(levels[0], box, 4) for box in boxes])


# %% exercise-3 wrong: all from P4
def read(levels, boxes):
    return np.array([mean_under(levels[2], box, 16) for box in boxes])


# %% exercise-3 wrong: off by one, the coarser level
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    chosen = np.minimum(chosen + 1, 3)
    return np.array([mean_under(levels[k], box, 2 ** (k + 2)) for k, box in zip(chosen, boxes, strict=True)])


# %% exercise-3 wrong: the stride of P5 for all
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    return np.array([mean_under(levels[k], box, 32) for k, box in zip(chosen, boxes, strict=True)])


# %% exercise-3 wrong: x and y exchanged
def read(levels, boxes):
    chosen = np.array([level_of_box(box) for box in boxes])
    swapped = boxes[:, [1, 0, 3, 2]]
    return np.array([mean_under(levels[k], box, 2 ** (k + 2)) for k, box in zip(chosen, swapped, strict=True)])


# %% exercise-3 wrong: the sign
def read(levels, boxes):
    return -np.array([mean_under(levels[level_of_box(b)], b, 2 ** (level_of_box(b) + 2)) for b in boxes])


# %% exercise-3 wrong: the other way round
def read(levels, boxes):
    return colleague_read(levels, boxes)[::-1]


# %% exercise-3 wrong: the package's levels
def read(levels, boxes):
    chosen = assign_levels(boxes, [1 / 4, 1 / 8, 1 / 16, 1 / 32], FPNSettings())
    return np.array([mean_under(levels[k], box, 2 ** (k + 2)) for k, box in zip(chosen, boxes, strict=True)])


# %% exercise-4 right: as a fraction
answer = 224 / 6.25

# %% exercise-4 wrong: the other way round
answer = 224 * 800 / 128

# %% exercise-4 wrong: rounded to a whole pixel
answer = 36

# %% exercise-4 wrong: the small picture's side
answer = 128

# %% exercise-4 wrong: half a level
answer = 224 / 800

# %% exercise-4 wrong: the canonical size itself
answer = 224

# %% exercise-4 wrong: the power of two that comes nearest
answer = 224 / 8

# %% exercise-4 wrong: by the areas
answer = 224 / 6.25**2
