"""Statistics of a few seeds: known values, other ways to the same number, and how often an interval holds the truth."""

import itertools
import math

import numpy as np
import pytest

from tinymrcnn.experiments.statistics import (
    holm,
    noise_floor,
    paired_bootstrap,
    seeds_needed,
    sign_flip_p,
    verdict,
)

PICTURES = 50


def mean_metric(run, weights):
    """The simplest metric: the mean over the pictures of the test set. run: (PICTURES,) values."""
    return weights @ run / weights.sum()


# The bootstrap -------------------------------------------------------------------------------------------


def simulate(rng, pairs, seed_noise, picture_noise, effect=0.5):
    """Runs of two variants: each picture is hard or easy for all, each seed and each picture favours one variant a bit,
    and there is some noise of both."""
    picture = rng.normal(0, 1, PICTURES)
    shift = effect + rng.normal(0, picture_noise, PICTURES)
    runs_b = [picture + rng.normal(0, 0.3, PICTURES) for _ in range(pairs)]
    return [run + shift + rng.normal(0, seed_noise) + rng.normal(0, 0.3, PICTURES) for run in runs_b], runs_b


@pytest.mark.parametrize(
    "seed_noise, picture_noise, least, most",
    [(0.1, 1.0, 0.91, 0.99), (0.4, 0.0, 0.83, 0.94)],
    ids=["pictures and seeds", "seeds alone"],
)
def test_how_often_the_interval_holds_the_truth(seed_noise, picture_noise, least, most):
    """About as often as the docstring says: 95 %, and 89 % where the noise is that of 8 seeds."""
    rng, trials, held = np.random.default_rng(0), 120, 0
    for trial in range(trials):
        runs = simulate(rng, 8, seed_noise, picture_noise)
        low, high = paired_bootstrap(mean_metric, *runs, PICTURES, resamples=200, seed=trial)
        held += low <= 0.5 <= high
    assert least <= held / trials <= most


def test_pictures_are_drawn_once_for_all_pairs():
    """Where all seeds give the same, pictures are all of the noise, and it does not fall with the number of seeds."""
    rng = np.random.default_rng(1)
    run_a, run_b = rng.normal(0.5, 1, PICTURES), np.zeros(PICTURES)
    one = paired_bootstrap(mean_metric, [run_a], [run_b], PICTURES, resamples=2000)
    many = paired_bootstrap(mean_metric, [run_a] * 16, [run_b] * 16, PICTURES, resamples=2000)
    expected = 2 * 1.96 * run_a.std() / math.sqrt(PICTURES)
    assert one[1] - one[0] == pytest.approx(expected, rel=0.1)
    assert many[1] - many[0] == pytest.approx(expected, rel=0.1)


def test_both_arms_see_the_same_pictures():
    """Hard and easy pictures cancel where the variants differ by the same in each of them."""
    picture = np.random.default_rng(2).normal(0, 100, PICTURES)
    low, high = paired_bootstrap(mean_metric, [picture + 1, picture + 2], [picture, picture], PICTURES, resamples=200)
    assert (low, high) == pytest.approx((1, 2))


def test_each_run_is_compared_with_that_of_its_own_seed():
    rng = np.random.default_rng(7)
    runs_b = [rng.normal(0, 100, PICTURES) for _ in range(4)]
    interval = paired_bootstrap(mean_metric, [run + 1 for run in runs_b], runs_b, PICTURES, resamples=50)
    assert interval == pytest.approx((1, 1))


def test_weights_are_a_test_set_of_the_same_size():
    seen = []

    def metric(run, weights):
        assert weights.shape == (PICTURES,) and weights.dtype.kind == "i" and weights.sum() == PICTURES
        seen.append(weights)
        return run

    low, high = paired_bootstrap(metric, [3.0], [1.0], PICTURES, resamples=20)
    assert (low, high) == (2, 2)
    assert len({weights.tobytes() for weights in seen}) == 20  # anew for every resample, the same in both arms
    paired_bootstrap(metric, [3.0], [1.0], PICTURES, resamples=20)
    np.testing.assert_array_equal(seen[:40], seen[40:])  # and a seed gives the same draws again


def test_what_the_bootstrap_refuses():
    with pytest.raises(ValueError, match="there are 1 and 2"):
        paired_bootstrap(mean_metric, [1], [1, 2], 3)
    with pytest.raises(ValueError, match="one at least"):
        paired_bootstrap(mean_metric, [], [], 3)
    with pytest.raises(ValueError, match="not finite"):
        paired_bootstrap(lambda run, weights: math.nan, [1], [1], 3)


# Tests ---------------------------------------------------------------------------------------------------


def test_sign_flip_by_hand():
    assert sign_flip_p([1, 2, 3, 4, 5, 6, 7, 8]) == 2 / 256
    assert sign_flip_p([-0.1] * 6) == 2 / 64
    assert sign_flip_p([1.0]) == 1
    # sums of +-1 +-2 +-4: 7 5 3 1 -1 -3 -5 -7; 1 + 2 - 4 = -1 is the nearest to 0, 5 is the second
    assert sign_flip_p([1, 2, -4]) == 1
    assert sign_flip_p([-1, 2, 4]) == 4 / 8
    assert sign_flip_p([]) == sign_flip_p([0, 0, 0]) == 1
    assert type(sign_flip_p([1, 2])) is float


def test_sign_flip_counts_ties_in_spite_of_rounding():
    """0.1 + 0.2 - 0.3 is not 0 in floating point, and 0.1 + 0.2 is more than 0.3."""
    assert sign_flip_p([0.1, 0.2, -0.3]) == sign_flip_p([1, 2, -3]) == 1
    assert sign_flip_p([0.3, 0.1, 0.1, 0.1]) == sign_flip_p([3, 1, 1, 1]) == 2 / 16
    assert sign_flip_p([0.3, -0.1, -0.1, -0.1, 0.7]) == sign_flip_p([3, -1, -1, -1, 7])


def test_sign_flip_against_all_patterns():
    rng = np.random.default_rng(3)
    for n in range(1, 9):
        differences = rng.integers(-4, 5, n)  # whole numbers: exact sums, many ties
        sums = [abs(sum(signs * differences)) for signs in itertools.product([1, -1], repeat=n)]
        assert sign_flip_p(differences) == np.mean(np.array(sums) >= abs(sum(differences)))


def test_sign_flip_refuses_what_it_cannot_do():
    for differences in ([1.0] * 25, [1.0, math.nan]):
        with pytest.raises(ValueError, match="up to 24 finite"):
            sign_flip_p(differences)


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})
    assert holm({"a": 0.01, "b": 0.02, "c": 0.9}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}
    assert list(holm({"z": 0.5, "a": 0.1})) == ["z", "a"]
    assert holm({}) == {}


def test_noise_floor_against_all_ways_to_cut():
    rng = np.random.default_rng(4)
    for n in range(2, 10):
        values, squares = rng.normal(0.3, 0.02, n), []
        for kept in itertools.combinations(range(n), n - n % 2):
            for half in itertools.combinations(kept, n // 2):
                other = [i for i in kept if i not in half]
                squares.append((values[list(half)].mean() - values[other].mean()) ** 2)
        assert noise_floor(values) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)
    assert noise_floor([0.25, 0.5]) == pytest.approx(0.25, rel=1e-12)
    with pytest.raises(ValueError, match="two are needed"):
        noise_floor([0.3])


def test_noise_floor_and_a_row_of_a_table():
    """The standard error of a difference of 8 runs and 8 others of the same variant is noise_floor / sqrt(2)."""
    rng = np.random.default_rng(5)
    rows = rng.normal(0, 1, (4000, 2, 8))
    floors = [noise_floor(row) ** 2 for row in rows[:, 0]]
    differences = rows[:, 0].mean(1) - rows[:, 1].mean(1)
    assert math.sqrt(np.mean(floors) / 2) == pytest.approx(differences.std(), rel=0.05)


# Verdicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "difference, interval, p, expected_sign, expected",
    [
        (0.05, (0.02, 0.08), 0.008, 1, "reproduced"),
        (-0.05, (-0.08, -0.02), 0.008, -1, "reproduced"),
        (-0.05, (-0.08, -0.02), 0.008, 1, "reversed"),
        (0.05, (0.02, 0.08), 0.008, -1, "reversed"),
        (0.05, (-0.01, 0.11), 0.008, 1, "not resolved"),  # 0 is in the interval
        (0.05, (0.0, 0.1), 0.008, 1, "not resolved"),  # its end is not outside
        (-0.05, (-0.1, 0.0), 0.008, -1, "not resolved"),
        (0.05, (0.02, 0.08), 0.05, 1, "not resolved"),  # p
        (0.009, (0.005, 0.013), 0.008, 1, "not resolved"),  # too small to be of interest
        (-0.009, (-0.013, -0.005), 0.008, 1, "not resolved"),
        (0.01, (0.005, 0.015), 0.008, 1, "reproduced"),  # as small as that
        (-0.05, (0.02, 0.08), 0.008, 1, "not resolved"),  # an interval on the other side
        (math.nan, (0.02, 0.08), 0.008, 1, "not resolved"),
        (0.05, (0.02, 0.08), math.nan, 1, "not resolved"),
    ],
)
def test_verdicts(difference, interval, p, expected_sign, expected):
    assert verdict(difference, interval, p, expected_sign, smallest=0.01) == expected


def test_no_difference_is_in_no_direction():
    """Also where the plan names no smallest effect."""
    for difference in (0.0, -0.01):
        assert verdict(difference, (0.02, 0.08), 0.008, 1) == "not resolved"
    assert verdict(1e-6, (0.02, 0.08), 0.008, 1) == "reproduced"


def test_a_verdict_needs_a_direction():
    with pytest.raises(ValueError, match="1 or -1"):
        verdict(0.1, (0, 1), 0.01, 0, 0.01)


# How many seeds ------------------------------------------------------------------------------------------


def test_seeds_needed_by_hand():
    differences = np.array([-1.0, 1.0] * 4) + 0.5
    spread = math.sqrt(8 / 7)
    assert seeds_needed(differences) == math.ceil((2.8016 * spread / 0.5) ** 2 + 1.921) == 38
    assert seeds_needed(differences, effect=1.0) == seeds_needed(differences, effect=-1.0) == 11
    assert seeds_needed(differences, effect=10.0) == seeds_needed([0.2, 0.2, 0.2]) == 6
    assert seeds_needed(differences, effect=0.095) == 996
    assert seeds_needed(differences, effect=0.09) is None
    for nothing in ([], [0.3], [0.0, 0.0], [-1.0, 1.0]):
        assert seeds_needed(nothing) is None
    assert seeds_needed([-1.0, 1.0], effect=1e-300) is None


@pytest.mark.parametrize("effect", [1.2, 1.0, 0.9])
def test_seeds_needed_give_the_test_of_signs_its_power(effect):
    """Simulated: of that many pairs, or one more (see the docstring), 80 % are found."""
    seeds = seeds_needed([-1 / math.sqrt(2), 1 / math.sqrt(2)], effect)  # a standard deviation of 1
    rng = np.random.default_rng(6)
    signs = np.array(list(itertools.product([1, -1], repeat=seeds)))

    def power(n):
        patterns = signs[: 2**n, -n:]  # the last n signs of the first 2^n patterns: all that there are
        found = rng.normal(effect, 1, (2000, n))
        p = np.mean(np.abs(found @ patterns.T) >= np.abs(found.sum(1))[:, None] - 1e-9, axis=1)
        assert p[0] == sign_flip_p(found[0])
        return np.mean(p < 0.05)

    assert power(seeds - 2) < 0.8 and power(seeds) > 0.76
