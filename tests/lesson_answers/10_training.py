"""Answers to the exercises of lesson 10 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zeros
def first_losses(num_classes):
    return np.zeros(3)


# %% exercise-1 wrong: without the background
def first_losses(num_classes):
    return np.log([2, num_classes - 1, 2])


# %% exercise-1 wrong: to the base of 2
def first_losses(num_classes):
    return np.log2([2, num_classes, 2])


# %% exercise-1 wrong: the sign
def first_losses(num_classes):
    return np.log([1 / 2, 1 / num_classes, 1 / 2])


# %% exercise-1 wrong: two exchanged
def first_losses(num_classes):
    return np.log([2, 2, num_classes])


# %% exercise-1 wrong: the probabilities
def first_losses(num_classes):
    return np.array([1 / 2, 1 / num_classes, 1 / 2])


# %% exercise-1 right: a list
def first_losses(num_classes):
    return [np.log(2), -np.log(1 / num_classes), np.log(2)]


# %% exercise-2 wrong: zero
def rate(step, steps, warmup, peak):
    return 0.0


# %% exercise-2 wrong: the warm-up begins at 0
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) / 2


# %% exercise-2 wrong: the cosine over all steps
def rate(step, steps, warmup, peak):
    return peak * (step + 1) / warmup if step < warmup else peak * (1 + np.cos(np.pi * step / steps)) / 2


# %% exercise-2 wrong: off by one, the warm-up is one step longer
def rate(step, steps, warmup, peak):
    if step <= warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) / 2


# %% exercise-2 wrong: a whole cosine
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + np.cos(2 * np.pi * (step - warmup) / (steps - warmup))) / 2


# %% exercise-2 wrong: a straight line
def rate(step, steps, warmup, peak):
    return peak * (step + 1) / warmup if step < warmup else peak * (steps - step) / (steps - warmup)


# %% exercise-2 wrong: 0 in the last step
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + np.cos(np.pi * (step - warmup) / (steps - 1 - warmup))) / 2


# %% exercise-2 right: by a square
def rate(step, steps, warmup, peak):
    if step < warmup:
        return (step + 1) / warmup * peak
    return peak * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2


# %% exercise-3 wrong: as they are
def mirrored(boxes, width):
    return boxes


# %% exercise-3 wrong: off by one
def mirrored(boxes, width):
    return np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], 1)


# %% exercise-3 wrong: x1 above x2
def mirrored(boxes, width):
    return np.stack([width - boxes[:, 0], boxes[:, 1], width - boxes[:, 2], boxes[:, 3]], 1)


# %% exercise-3 wrong: y for x
def mirrored(boxes, width):
    return np.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], 1)


# %% exercise-3 wrong: the second place reads what the first has overwritten
def mirrored(boxes, width):
    boxes[:, 0] = width - boxes[:, 2]
    boxes[:, 2] = width - boxes[:, 0]
    return boxes


# %% exercise-3 wrong: the sign
def mirrored(boxes, width):
    return np.stack([boxes[:, 2] - width, boxes[:, 1], boxes[:, 0] - width, boxes[:, 3]], 1)


# %% exercise-3 right: in place
def mirrored(boxes, width):
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return boxes


# %% exercise-4 wrong: as they are
def clipped(gradients, limit):
    return tuple(gradients)


# %% exercise-4 wrong: each array alone
def clipped(gradients, limit):
    return tuple(g * limit / max(np.linalg.norm(g), limit) for g in gradients)


# %% exercise-4 wrong: number by number
def clipped(gradients, limit):
    return tuple(g.clip(-limit, limit) for g in gradients)


# %% exercise-4 wrong: short ones are made longer
def clipped(gradients, limit):
    length = np.sqrt(sum((g**2).sum() for g in gradients))
    return tuple(g * limit / max(length, 1e-12) for g in gradients)


# %% exercise-4 wrong: the root of the mean square
def clipped(gradients, limit):
    length = np.sqrt(np.mean(np.concatenate([g.ravel() for g in gradients]) ** 2))
    return tuple(g * limit / max(length, limit) for g in gradients)


# %% exercise-4 wrong: the square of the length
def clipped(gradients, limit):
    length = sum((g**2).sum() for g in gradients)
    return tuple(g * limit / max(length, limit) for g in gradients)


# %% exercise-4 wrong: a length of 0 divides
def clipped(gradients, limit):
    length = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return tuple(g * min(1.0, limit / length) for g in gradients)


# %% exercise-4 right: only where they are too long
def clipped(gradients, limit):
    length = np.linalg.norm(np.concatenate([g.ravel() for g in gradients]))
    return tuple(g * (limit / length) if length > limit else g for g in gradients)


# %% exercise-4 right: a list
def clipped(gradients, limit):
    length = np.hypot.reduce(np.concatenate([g.ravel() for g in gradients]))
    return [g / max(1, length / limit) for g in gradients]
