"""Solutions of lesson 13, the article on trial."""


# %% exercise-1
def bootstrap_difference(shared_a, union_a, shared_b, union_b, seeds, pictures):
    """shared and union of arms a and b: (n, m), for n seeds and m pictures. seeds: (R, n), pictures: (R, m), indices
    drawn with replacement. Returns (R,)."""
    differences = []
    for rows, columns in zip(seeds, pictures, strict=True):
        drawn = np.ix_(rows, columns)
        ious = [
            shared[drawn].sum(1) / union[drawn].sum(1) for shared, union in ((shared_a, union_a), (shared_b, union_b))
        ]
        differences.append((ious[0] - ious[1]).mean())
    return np.array(differences)


# %% exercise-2
# Ten times smaller an effect takes a hundred times as many pictures: 50,000.
def pictures_needed(error, pictures, effect):
    """error: the standard error of the difference with so many pictures, in points; effect: the true one, in points.
    Returns a whole number."""
    return int(np.ceil(pictures * ((1.96 + 0.84) * error / effect) ** 2))


# %% exercise-3
# In all three tables "ours" is the baseline: the same sigmoid heads, so that the true difference is 0.
answer = {"A": "best of seeds", "B": "tuned on the test set", "C": "different steps"}


# %% exercise-4
# There was one test set. Drawn anew for each seed, what suits one arm in every run averages out over the seeds.
def repaired_interval(a, b, seed, resamples=2000):
    """a, b: (n seeds, m pictures) of two arms. Returns low and high of 95 %."""
    rng, means = np.random.default_rng(seed), []
    n, m = a.shape
    for _ in range(resamples):
        rows, columns = rng.integers(n, size=n), rng.integers(m, size=m)
        means.append((a - b)[rows][:, columns].mean())
    return np.quantile(means, [0.025, 0.975])


# %% exercise-5
my_plan = Plan(
    name="samples-per-bin",
    title="One sample in a bin, or four",
    claim="The paper says that RoIAlign does not depend on how many samples a bin takes. So one should be as good as "
    "four; that four are better by a point of mask AP is what would refute it.",
    variants=(
        Variant("one sample", "shapes_c4", {"pooler.sampling_ratio": 1}),
        Variant("four samples", "shapes_c4"),
    ),
    comparisons=(Comparison("four samples", "one sample"),),
)
