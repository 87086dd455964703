"""Solutions of lesson 10, training: each part replaces the cell with the same tag."""

# %% exercise-1
answers = {
    "A": 3,  # no warm-up: the loss and the gradient leap at the very beginning, then all goes on, somewhat behind
    "B": 8,  # labels: begins low (trained weights); the class loss falls in training, and rises on the dots
    "C": 7,  # boxes: the masks are cut out in wrong places; on right ones their loss leaps
    "D": 6,  # eight pictures: learned by heart, while the dots rise
    "E": 9,  # pixels: only the first dot is wild; in train mode the normalisation hides it, and its means follow
    "F": 4,  # not cleared: the gradient never gets shorter than the 10 to which it is clipped
    "G": 5,  # frozen: falls at first like the healthy one, then no more; the gradient gets short
    "H": 1,  # too high: the gradient explodes, then nearly vanishes, and nothing is ever found
    "I": 2,  # too low: everything falls slowly, the mask loss has not left ln 2
}


# %% exercise-2
def rate(step, steps, warmup, peak):
    """The learning rate of a step, 0 to steps - 1."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


# %% exercise-3
def mirrored(boxes, width):
    """(N, 4) boxes (x1, y1, x2, y2) of the mirror image."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


# %% exercise-4
def clipped(gradients, limit):
    """A tuple of arrays in the same directions, together at most `limit` long."""
    length = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
    factor = limit / max(length, limit)  # a length of 0 divides nothing
    return tuple(gradient * factor for gradient in gradients)


# %% exercise-5
def joint_losses(parts):
    """parts: a list of {name: (sum, count)}. Returns {name: mean}, in the same order."""
    losses = {}
    for name in parts[0]:
        total = sum(part[name][0] for part in parts)
        count = sum(part[name][1] for part in parts)
        losses[name] = total / count if count else 0.0
    return losses


# %% exercise-6
def moved(steps, lr, momentum):
    """The parameter after so many steps with a gradient of 1. One number."""
    place, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        place -= lr * velocity
    return place
