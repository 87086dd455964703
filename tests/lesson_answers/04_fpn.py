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


# %% exercise-3 right: by recursion
def top_down(lateral):
    if len(lateral) == 1:
        return list(lateral)
    rest = top_down(lateral[1:])
    return [lateral[0] + np.kron(rest[0], np.ones((1, 2, 2))), *rest]


# %% exercise-3 wrong: the lateral map comes down, not the sum
def top_down(lateral):
    above = [x.repeat(2, axis=1).repeat(2, axis=2) for x in lateral[1:]]
    return [*(x + y for x, y in zip(lateral, above, strict=False)), lateral[-1]]


# %% exercise-3 wrong: the coarsest first
def top_down(lateral):
    sums = [lateral[-1]]
    for x in reversed(lateral[:-1]):
        sums.append(x + sums[-1].repeat(2, axis=1).repeat(2, axis=2))
    return sums


# %% exercise-3 wrong: subtracted
def top_down(lateral):
    sums = [lateral[-1]]
    for x in reversed(lateral[:-1]):
        sums.insert(0, x - sums[0].repeat(2, axis=1).repeat(2, axis=2))
    return sums


# %% exercise-3 wrong: tiled, not repeated
def top_down(lateral):
    sums = [lateral[-1]]
    for x in reversed(lateral[:-1]):
        sums.insert(0, x + np.tile(sums[0], (1, 2, 2)))
    return sums


# %% exercise-3 wrong: the coarsest left out
def top_down(lateral):
    sums = [lateral[-1]]
    for x in reversed(lateral[:-1]):
        sums.insert(0, x + sums[0].repeat(2, axis=1).repeat(2, axis=2))
    return sums[:-1]


# %% exercise-3 wrong: nothing comes down
def top_down(lateral):
    return list(lateral)


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
