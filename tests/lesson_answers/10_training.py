"""Answers to the exercises of lesson 10 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""

# %% exercise-1 wrong: all the same
answers = dict.fromkeys("ABCDEFGHI", 1)


# %% exercise-1 wrong: in the order of the list
answers = dict(zip("ABCDEFGHI", range(1, 10), strict=True))


# %% exercise-1 wrong: counted from 0
answers = dict(zip("ABCDEFGHI", np.random.default_rng(2).permutation(9).tolist(), strict=True))


# %% exercise-1 wrong: letters for numbers
answers = dict(zip((1 + np.random.default_rng(2).permutation(9)).tolist(), "ABCDEFGHI", strict=True))


# %% exercise-1 wrong: two exchanged
found = (1 + np.random.default_rng(2).permutation(9)).tolist()
answers = dict(zip("ABCDEFGHI", [found[1], found[0], *found[2:]], strict=True))


# %% exercise-1 wrong: one is missing
answers = dict(zip("ABCDEFGH", (1 + np.random.default_rng(2).permutation(9)).tolist(), strict=False))


# %% exercise-1 wrong: the names
answers = dict(zip("ABCDEFGHI", list(failing_runs.FAULTS)[1:], strict=True))


# %% exercise-1 wrong: a list
answers = (1 + np.random.default_rng(2).permutation(9)).tolist()


# %% exercise-1 right: in another order
answers = dict(zip("IHGFEDCBA", (1 + np.random.default_rng(2).permutation(9)).tolist()[::-1], strict=True))


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


# %% exercise-5 wrong: zeros
def joint_losses(parts):
    return dict.fromkeys(parts[0], 0.0)


# %% exercise-5 wrong: the mean of the means
def joint_losses(parts):
    return {name: np.mean([part[name][0] / part[name][1] for part in parts]) for name in parts[0]}


# %% exercise-5 wrong: the mean of the means that exist
def joint_losses(parts):
    means = {name: [part[name][0] / part[name][1] for part in parts if part[name][1]] for name in parts[0]}
    return {name: np.mean(values) if values else 0.0 for name, values in means.items()}


# %% exercise-5 wrong: the sums
def joint_losses(parts):
    return {name: sum(part[name][0] for part in parts) for name in parts[0]}


# %% exercise-5 wrong: nothing divided by nothing
def joint_losses(parts):
    return {name: sum(p[name][0] for p in parts) / sum(p[name][1] for p in parts) for name in parts[0]}


# %% exercise-5 wrong: the sum of the means
def joint_losses(parts):
    return {name: sum(part[name][0] / max(1, part[name][1]) for part in parts) for name in parts[0]}


# %% exercise-5 wrong: off by one, the last process is left out
def joint_losses(parts):
    kept = parts[:-1] or parts
    return {name: sum(p[name][0] for p in kept) / max(1, sum(p[name][1] for p in kept)) for name in parts[0]}


# %% exercise-5 wrong: divided by the number of processes
def joint_losses(parts):
    return {name: sum(part[name][0] for part in parts) / len(parts) for name in parts[0]}


# %% exercise-5 wrong: turned upside down
def joint_losses(parts):
    return {name: sum(p[name][1] for p in parts) / max(1, sum(p[name][0] for p in parts)) for name in parts[0]}


# %% exercise-5 wrong: the package's own function
def joint_losses(parts):
    return {name: loss for name, loss in mean_losses(parts[0]).items()}


# %% exercise-5 right: with arrays
def joint_losses(parts):
    totals = {name: np.array([part[name] for part in parts]).sum(0) for name in parts[0]}
    return {name: total / max(count, 1) for name, (total, count) in totals.items()}


# %% exercise-5 right: process by process
def joint_losses(parts):
    losses = {}
    for name in parts[0]:
        total, count = 0.0, 0
        for part in parts:
            total, count = total + part[name][0], count + part[name][1]
        losses[name] = 0.0 if count == 0 else total / count
    return losses


# %% exercise-6 wrong: zero
def moved(steps, lr, momentum):
    return 0.0


# %% exercise-6 wrong: without momentum
def moved(steps, lr, momentum):
    return -lr * steps


# %% exercise-6 wrong: the sign
def moved(steps, lr, momentum):
    place, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        place += lr * velocity
    return place


# %% exercise-6 wrong: a running mean
def moved(steps, lr, momentum):
    place, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + (1 - momentum)
        place -= lr * velocity
    return place


# %% exercise-6 wrong: the final length from the start on
def moved(steps, lr, momentum):
    return -lr * steps / (1 - momentum)


# %% exercise-6 wrong: the last step alone
def moved(steps, lr, momentum):
    return -lr * (1 - momentum**steps) / (1 - momentum)


# %% exercise-6 wrong: off by one, the velocity moves it before it grows
def moved(steps, lr, momentum):
    place, velocity = 0.0, 0.0
    for _ in range(steps):
        place -= lr * velocity
        velocity = momentum * velocity + 1
    return place


# %% exercise-6 wrong: Nesterov's step
def moved(steps, lr, momentum):
    place, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        place -= lr * (1 + momentum * velocity)
    return place


# %% exercise-6 wrong: the package's optimiser
def moved(steps, lr, momentum):
    parameter = Parameter(np.zeros(1))
    optimizer = SGD([parameter], lr, momentum)
    for _ in range(steps):
        parameter.grad = np.ones(1)
        optimizer.step()
    return parameter.data[0]


# %% exercise-6 right: in closed form
def moved(steps, lr, momentum):
    return -lr / (1 - momentum) * (steps - momentum * (1 - momentum**steps) / (1 - momentum))


# %% exercise-6 right: as a sum of sums
def moved(steps, lr, momentum):
    return -lr * sum(momentum**k for n in range(steps) for k in range(n + 1))
