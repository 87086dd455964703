"""What the numbers of a few seeds allow to say: intervals, tests, and one of three verdicts.

Two variants are trained with the same seeds, so that runs come in pairs: one seed means one order of the pictures,
and the difference within a pair is free of what both runs share. Two things remain that chance has decided, the seeds
and the pictures of the test set, and the bootstrap draws both anew; the sign-flip test looks at the seeds alone.
Nothing here knows of networks: a run is any object, and `metric` makes a number of it.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals); Owen, "The
pigeonhole bootstrap" (2007), for two crossed factors; Fisher, "The Design of Experiments" (1935), chapter 3, for the
sign-flip test; Holm (1979).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.05  # of the tests, and 1 - LEVEL is what the intervals cover
MIN_SEEDS = 6  # with 5, equal signs give p = 2 / 2^5 = 0.0625
MAX_SEEDS = 1000
ROUNDING = 1e-9  # sums of differences that are equal up to this share count as equal


def paired_bootstrap(
    metric: Callable, runs_a: Sequence, runs_b: Sequence, num_images: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """(low, high): the 95 % percentile interval of the mean difference a - b, over seeds and pictures.

    metric(run, weights) -> float: what a run reaches if picture i is in the test set weights[i] times; weights is
    (num_images,) int64 and sums up to num_images. runs_a[i] and runs_b[i] are the pair of one seed.

    Every resample draws the pairs with replacement, and then the pictures with replacement, once: all pairs and both
    arms see the same pictures. For all runs were tested on one and the same set of pictures: seeds and pictures are
    crossed. Drawing pictures anew for each pair would treat them as if every seed had a test set of its own; that a
    picture suits one variant in every run would then average out over the seeds, and the interval be too narrow.

    Of n seeds the bootstrap sees (n - 1) / n of their variance, and it takes a normal where a t distribution belongs.
    So where seeds are nearly all of the noise, it covers less than it says: 86 % with 6 seeds and 89 % with 8. This
    is why a verdict asks for the sign-flip test too.
    Raises ValueError for no pairs, unequal numbers, or a metric that is not finite."""
    if len(runs_a) != len(runs_b) or not len(runs_a):
        raise ValueError(f"Runs must come in pairs, one at least: there are {len(runs_a)} and {len(runs_b)}.")
    rng, pairs = np.random.default_rng(seed), len(runs_a)
    means = np.zeros(resamples)
    for resample in range(resamples):
        times = np.bincount(rng.integers(pairs, size=pairs), minlength=pairs)
        weights = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        for pair in np.flatnonzero(times).tolist():  # a third of the pairs is not drawn, and costs nothing
            difference = metric(runs_a[pair], weights) - metric(runs_b[pair], weights)
            means[resample] += times[pair] / pairs * difference
    if not np.isfinite(means).all():
        raise ValueError("The metric of a resampled test set is not finite: too few pictures count for it.")
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return low, high


def sign_flip_p(differences) -> float:
    """The exact two-sided p of paired differences (n,): were both variants the same, each difference would as well have
    the other sign. p is the share of all 2^n choices of signs whose sum is as far from 0 as the sum found, or farther.

    Sums that are equal but for rounding count as equal. 1.0 for no differences, or where all are 0; 8 equal signs give
    2 / 256. Raises ValueError for more than 24, whose patterns would fill the memory, and where one is not finite."""
    differences = np.asarray(differences, np.float64)
    if len(differences) > 24 or not np.isfinite(differences).all():
        raise ValueError(f"The sign-flip test takes up to 24 finite differences, not these {len(differences)}.")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    least = abs(differences.sum()) - ROUNDING * np.abs(differences).sum()
    return np.mean(np.abs(sums) >= least).item()


def holm(ps: dict[str, float]) -> dict[str, float]:
    """Holm's adjusted p of several tests, by name: the probability that any test without an effect falls below 0.05 is
    5 % at most. The smallest of m is multiplied by m, the next by m - 1, ..., none falling below the one before."""
    adjusted, reached = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        reached = max(reached, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in ps}


def noise_floor(values) -> float:
    """The A/A control: how far apart the means of two groups of seeds lie where the variant is the same.

    values: (n,) metrics of n runs of one variant. Over all ways to cut them into two halves, this is the root mean
    square of the difference of the halves' means. No way need be tried: it equals s * sqrt(2 / h), where s is the
    standard deviation of the values (over n - 1) and h = n // 2 the size of a half. With n odd, each value in turn is
    left out, so that both halves have the same size.

    A row of a table compares n runs with n others, not n / 2 with n / 2. So seeds alone, where pairing brings nothing,
    give the row's difference the standard error noise_floor / sqrt(2) (n even); a pairing that helps gives less.
    The pictures are the same in both halves and add nothing here. Raises ValueError for fewer than two values."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        raise ValueError(f"The noise between runs cannot be seen with {len(values)}; two are needed at least.")
    return values.std(ddof=1).item() * math.sqrt(2 / (len(values) // 2))


def verdict(
    difference: float, interval: tuple[float, float], p: float, expected_sign: int, smallest: float = 0.0
) -> str:
    """ "reproduced", "reversed" or "not resolved", by one rule for both directions. An effect is resolved where

    - the interval (low, high) excludes 0,
    - p < 0.05 (adjusted, where the comparison is a primary one),
    - and the difference, on the same side of 0, is at least `smallest`, the smallest effect of interest, which the
      plan fixes before the runs: with enough seeds and pictures any difference excludes 0, also one that nobody
      cares for.

    A resolved effect in the direction expected (expected_sign, 1 or -1) is reproduced, in the other one reversed.
    `smallest` is compared with the estimate, not with the interval's end: seeds and pictures have to show that there
    is an effect in this direction, and the estimate that it is worth a sentence. Raises ValueError for another sign."""
    if expected_sign not in (1, -1):
        raise ValueError(f"expected_sign must be 1 or -1, not {expected_sign!r}.")
    low, high = interval
    for sign, excludes_zero in ((1, low > 0), (-1, high < 0)):
        if excludes_zero and p < LEVEL and sign * difference > 0 and sign * difference >= smallest:
            return "reproduced" if sign == expected_sign else "reversed"
    return "not resolved"


def seeds_needed(differences, effect: float | None = None) -> int | None:
    """How many paired seeds a further trial would need, to find an effect with a power of 80 % at p < 0.05, two-sided.

    differences: (n,) those of the pairs so far, whose spread s is taken. effect: the size to find, such as the smallest
    of interest; None for the one observed, their mean. The answer is that of a paired t test, up to the next integer:
    n = (1.96 + 0.84)^2 (s / effect)^2 + 1.96^2 / 2 (Guenther, 1981). Below 10 seeds the sign-flip test has few steps of
    p and may need one seed more. Pictures add noise too, which more seeds do not lower.

    At least 6, since fewer cannot reach p < 0.05; None beyond 1000, for an effect of 0, and for fewer than two
    differences, which show no spread. It is a rough number: the true spread is 0.66 to 2.04 times that of 8 differences
    (95 %), so that 0.4 to 4 times as many seeds may be right."""
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2:
        return None
    effect = differences.mean().item() if effect is None else effect
    if effect == 0:
        return None
    z, z_power = 1.959964, 0.841621  # of the normal distribution at 0.975 and 0.8
    spread = differences.std(ddof=1).item() / effect
    seeds = (z + z_power) ** 2 * spread * spread + z**2 / 2  # a spread beyond all bounds gives inf, its ** 2 raises
    return max(MIN_SEEDS, math.ceil(seeds)) if seeds <= MAX_SEEDS else None
