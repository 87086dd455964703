"""Answers to the exercises of lesson 13 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zeros
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    return np.zeros(len(seeds))


# %% exercise-1 wrong: the sign
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def iou(shared, union, rows, columns):
        return (shared[rows][:, columns].sum(1) / union[rows][:, columns].sum(1)).mean()

    both = zip(seeds, pictures, strict=True)
    return np.array([iou(shared_b, union_b, r, c) - iou(shared_a, union_a, r, c) for r, c in both])


# %% exercise-1 wrong: transposed, seeds and pictures exchanged
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def iou(shared, union, rows, columns):
        return (shared.T[rows][:, columns].sum(1) / union.T[rows][:, columns].sum(1)).mean()

    both = zip(pictures, seeds, strict=True)
    return np.array([iou(shared_a, union_a, r, c) - iou(shared_b, union_b, r, c) for r, c in both])


# %% exercise-1 wrong: off by one, the last picture is left out
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def iou(shared, union, rows, columns):
        return (shared[rows][:, columns[:-1]].sum(1) / union[rows][:, columns[:-1]].sum(1)).mean()

    both = zip(seeds, pictures, strict=True)
    return np.array([iou(shared_a, union_a, r, c) - iou(shared_b, union_b, r, c) for r, c in both])


# %% exercise-1 wrong: each drawn picture once, however often it was drawn
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def iou(shared, union, rows, columns):
        columns = np.unique(columns)
        return (shared[rows][:, columns].sum(1) / union[rows][:, columns].sum(1)).mean()

    both = zip(seeds, pictures, strict=True)
    return np.array([iou(shared_a, union_a, r, c) - iou(shared_b, union_b, r, c) for r, c in both])


# %% exercise-1 wrong: the mean of the pictures' IoUs
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    d = shared_a / union_a - shared_b / union_b
    return np.array([d[r][:, c].mean() for r, c in zip(seeds, pictures, strict=True)])


# %% exercise-1 wrong: the pixels of all seeds together
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def iou(shared, union, rows, columns):
        return shared[rows][:, columns].sum() / union[rows][:, columns].sum()

    both = zip(seeds, pictures, strict=True)
    return np.array([iou(shared_a, union_a, r, c) - iou(shared_b, union_b, r, c) for r, c in both])


# %% exercise-1 wrong: arm b keeps all seeds and pictures
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    whole = (shared_b.sum(1) / union_b.sum(1)).mean()
    both = zip(seeds, pictures, strict=True)
    return np.array([(shared_a[r][:, c].sum(1) / union_a[r][:, c].sum(1)).mean() - whole for r, c in both])


# %% exercise-1 wrong: the package's function
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    iou = (shared_a / union_a, shared_b / union_b)
    return statistics.paired_bootstrap(lambda run, w: run @ w / w.sum(), *iou, shared_a.shape[1], len(seeds))


# %% exercise-1 right: all at once
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    def ious(shared, union):
        pick = (seeds[:, :, None], pictures[:, None, :])
        return shared[pick].sum(2) / union[pick].sum(2)

    return (ious(shared_a, union_a) - ious(shared_b, union_b)).mean(1)


# %% exercise-1 right: by weights, with loops
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    found = []
    for rows, columns in zip(seeds, pictures, strict=True):
        weights = np.bincount(columns, minlength=shared_a.shape[1])
        total = 0.0
        for row in rows:
            total += shared_a[row] @ weights / (union_a[row] @ weights)
            total -= shared_b[row] @ weights / (union_b[row] @ weights)
        found.append(total / len(rows))
    return found


# %% exercise-2 wrong: as many as in the pilot
def pictures_needed(error, pictures, effect):
    return pictures


# %% exercise-2 wrong: effect and error exchanged
def pictures_needed(error, pictures, effect):
    return int(np.ceil(pictures * (2.8016 * effect / error) ** 2))


# %% exercise-2 wrong: not squared
def pictures_needed(error, pictures, effect):
    return int(np.ceil(pictures * 2.8016 * error / effect))


# %% exercise-2 wrong: no power
def pictures_needed(error, pictures, effect):
    return int(np.ceil(pictures * (1.96 * error / effect) ** 2))


# %% exercise-2 wrong: one-sided
def pictures_needed(error, pictures, effect):
    return int(np.ceil(pictures * ((1.645 + 0.842) * error / effect) ** 2))


# %% exercise-2 wrong: rounded down
def pictures_needed(error, pictures, effect):
    return int(pictures * (2.8016 * error / effect) ** 2)


# %% exercise-2 wrong: off by one
def pictures_needed(error, pictures, effect):
    return int(np.ceil(pictures * (2.8016 * error / effect) ** 2)) + 1


# %% exercise-2 wrong: two arms that are not paired
def pictures_needed(error, pictures, effect):
    return int(np.ceil(2 * pictures * (2.8016 * error / effect) ** 2))


# %% exercise-2 wrong: without the pilot's pictures
def pictures_needed(error, pictures, effect):
    return int(np.ceil((2.8016 * error / effect) ** 2))


# %% exercise-2 wrong: the package's function
def pictures_needed(error, pictures, effect):
    spread = error * pictures**0.5
    return statistics.seeds_needed([effect - spread, effect, effect + spread])


# %% exercise-2 right: as a float, with the exact quantiles
def pictures_needed(error, pictures, effect):
    per_picture = error * np.sqrt(pictures)
    return np.ceil((per_picture * (1.959964 + 0.841621) / effect) ** 2)


# %% exercise-2 right: by trying
def pictures_needed(error, pictures, effect):
    n = 1
    while error * (pictures / n) ** 0.5 > effect / 2.8:
        n += 1
    return n


# %% exercise-3 wrong: two exchanged
answer = {"A": "tuned on the test set", "B": "best of seeds", "C": "different steps"}

# %% exercise-3 wrong: a plausible one
answer = {"A": "best of seeds", "B": "tuned on the test set", "C": "unequal training data"}

# %% exercise-3 wrong: another plausible one
answer = {"A": "best of seeds", "B": "different pictures", "C": "different steps"}

# %% exercise-3 wrong: one is missing
answer = {"A": "best of seeds", "B": "tuned on the test set"}

# %% exercise-3 wrong: all the same
answer = dict.fromkeys("ABC", "best of seeds")

# %% exercise-3 wrong: a list
answer = ["best of seeds", "tuned on the test set", "different steps"]

# %% exercise-3 right: in another order
answer = {"C": "different steps", "B": "tuned on the test set", "A": "best of seeds"}


# %% exercise-4 wrong: zeros
def repaired_interval(a, b, seed, resamples=2000):
    return np.zeros(2)


# %% exercise-4 wrong: nothing repaired
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        rows = rng.integers(n, size=n)
        means.append(np.mean([(a - b)[row][rng.integers(m, size=m)].mean() for row in rows]))
    return np.quantile(means, [0.025, 0.975])


# %% exercise-4 wrong: the sign
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        means.append((b - a)[rng.integers(n, size=n)][:, rng.integers(m, size=m)].mean())
    return np.quantile(means, [0.025, 0.975])


# %% exercise-4 wrong: the pictures alone
def repaired_interval(a, b, seed, resamples=2000):
    rng, d = np.random.default_rng(seed), (a - b).mean(0)
    return np.quantile([d[rng.integers(len(d), size=len(d))].mean() for _ in range(resamples)], [0.025, 0.975])


# %% exercise-4 wrong: the seeds alone
def repaired_interval(a, b, seed, resamples=2000):
    rng, d = np.random.default_rng(seed), (a - b).mean(1)
    return np.quantile([d[rng.integers(len(d), size=len(d))].mean() for _ in range(resamples)], [0.025, 0.975])


# %% exercise-4 wrong: both arms with pictures and seeds of their own
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        one = a[rng.integers(n, size=n)][:, rng.integers(m, size=m)].mean()
        means.append(one - b[rng.integers(n, size=n)][:, rng.integers(m, size=m)].mean())
    return np.quantile(means, [0.025, 0.975])


# %% exercise-4 wrong: 90 %
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        means.append((a - b)[rng.integers(n, size=n)][:, rng.integers(m, size=m)].mean())
    return np.quantile(means, [0.05, 0.95])


# %% exercise-4 wrong: off by one, one seed too few in each draw
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        means.append((a - b)[rng.integers(n, size=n // 2)][:, rng.integers(m, size=m)].mean())
    return np.quantile(means, [0.025, 0.975])


# %% exercise-4 wrong: high before low
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        means.append((a - b)[rng.integers(n, size=n)][:, rng.integers(m, size=m)].mean())
    return np.quantile(means, [0.975, 0.025])


# %% exercise-4 wrong: the package's function
def repaired_interval(a, b, seed, resamples=2000):
    return statistics.paired_bootstrap(lambda run, w: run @ w / w.sum(), a, b, a.shape[1], resamples, seed)


# %% exercise-4 right: by weights, all draws at once
def repaired_interval(a, b, seed, resamples=2000):
    rng = np.random.default_rng(seed)
    n, m = a.shape
    rows = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    columns = rng.multinomial(m, np.full(m, 1 / m), size=resamples) / m
    return np.percentile(((rows @ (a - b)) * columns).sum(1), (2.5, 97.5))


# %% exercise-4 right: a tuple of two numbers, each arm by itself with the same draws
def repaired_interval(a, b, seed, resamples=2000):
    rng, means = np.random.default_rng(seed + 1), []
    n, m = a.shape
    for _ in range(resamples):
        drawn = np.ix_(rng.choice(n, n), rng.choice(m, m))
        means.append(a[drawn].mean() - b[drawn].mean())
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


# %% exercise-5 wrong: a word
my_plan = "RoIAlign with more samples"

# %% exercise-5 wrong: five seeds
my_plan = Plan(
    "mine", "Samples", "More are better.",
    (Variant("one", "shapes_c4", {"pooler.sampling_ratio": 1}), Variant("four", "shapes_c4")),
    (Comparison("four", "one"),), seeds=5,
)  # fmt: skip

# %% exercise-5 wrong: a setting that does not exist
my_plan = Plan(
    "mine", "Samples", "More are better.",
    (Variant("one", "shapes_c4", {"pooler.samples": 1}), Variant("four", "shapes_c4")),
    (Comparison("four", "one"),),
)  # fmt: skip

# %% exercise-5 wrong: a preset that does not exist
my_plan = Plan(
    "mine", "Samples", "More are better.", (Variant("one", "shapes_c6"), Variant("four", "shapes_c4")),
    (Comparison("four", "one"),),
)  # fmt: skip

# %% exercise-5 wrong: two things changed
my_plan = Plan(
    "mine", "Samples", "More are better.",
    (Variant("one", "shapes_c4", {"pooler.sampling_ratio": 1}), Variant("four", "shapes")),
    (Comparison("four", "one"),),
)  # fmt: skip

# %% exercise-5 wrong: nothing changed
my_plan = Plan(
    "mine", "Samples", "More are better.", (Variant("one", "shapes_c4"), Variant("four", "shapes_c4")),
    (Comparison("four", "one"),),
)  # fmt: skip

# %% exercise-5 wrong: nothing compared
my_plan = Plan("mine", "Samples", "More are better.", (Variant("four", "shapes_c4"),), ())

# %% exercise-5 wrong: any effect is of interest
my_plan = Plan(
    "mine", "Samples", "More are better.",
    (Variant("one", "shapes_c4", {"pooler.sampling_ratio": 1}), Variant("four", "shapes_c4")),
    (Comparison("four", "one", smallest=0.0),),
)  # fmt: skip

# %% exercise-5 wrong: the test is on the pictures that choose the learning rate
my_plan = Plan(
    "mine", "Samples", "More are better.",
    (Variant("one", "shapes_c4", {"pooler.sampling_ratio": 1}), Variant("four", "shapes_c4")),
    (Comparison("four", "one"),), tests="validation, ordinary",
)  # fmt: skip

# %% exercise-5 wrong: no claim
my_plan = Plan(
    "mine", "Samples", " ", (Variant("one", "shapes_c4"), Variant("four", "shapes")), (Comparison("four", "one"),)
)

# %% exercise-5 wrong: a plan that exists
my_plan = PLANS["table-2e"]

# %% exercise-5 wrong: a metric that does not exist
my_plan = Plan(
    "mine", "Samples", "More are better.", (Variant("one", "shapes_c4"), Variant("four", "shapes")),
    (Comparison("four", "one", "mask AP"),),
)  # fmt: skip

# %% exercise-5 right: two presets
my_plan = Plan(
    "mine", "Stride 16 or 32", "C4 finds more than C5.", (Variant("c5", "shapes_c5"), Variant("c4", "shapes_c4")),
    (Comparison("c4", "c5", "bbox/AP75"),), seeds=10, trunk_steps=0,
)  # fmt: skip

# %% exercise-5 right: changed at the test only
my_plan = Plan(
    "mine", "Decoding", "Own against background is the better reading.",
    (
        Variant("all", "shapes", {"mask.loss": "softmax"}, test={"mask.softmax_decoding": "all"}),
        Variant("background", "shapes", {"mask.loss": "softmax"}),
    ),
    (Comparison("background", "all"),),
)  # fmt: skip
