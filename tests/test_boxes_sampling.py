"""The balanced sample: its counts, its randomness, and what it may never draw."""

import numpy as np
import pytest

from tinymrcnn.boxes import sample_balanced


def matches(positives, negatives, ignored, seed=0):
    values = np.repeat([7, -1, -2], [positives, negatives, ignored])
    return np.random.default_rng(seed).permutation(values)


@pytest.mark.parametrize(
    "positives, negatives, count, fraction, drawn",
    [
        (200, 900, 256, 0.5, (128, 128)),  # plenty of both
        (10, 900, 256, 0.5, (10, 246)),  # few positives: filled up with negatives
        (200, 900, 512, 0.25, (128, 384)),
        (200, 20, 256, 0.5, (128, 20)),  # few negatives: not filled up
        (0, 900, 256, 0.5, (0, 256)),
        (50, 0, 64, 0.25, (16, 0)),
        (0, 0, 64, 0.25, (0, 0)),
        (9, 9, 0, 0.5, (0, 0)),
        (9, 9, 5, 0.5, (2, 3)),  # int(2.5) = 2
        (9, 9, 7, 0.5, (3, 4)),  # int(3.5) = 3, where rounding gives 4
        (9, 9, 7, 0.25, (1, 6)),  # int(1.75) = 1
    ],
)
def test_counts(positives, negatives, count, fraction, drawn):
    values = matches(positives, negatives, 300)
    positive, negative = sample_balanced(values, count, fraction, np.random.default_rng(1))
    assert (len(positive), len(negative)) == drawn
    for indices, label in ((positive, 7), (negative, -1)):
        assert indices.dtype == np.int64
        assert (values[indices] == label).all()
        assert (np.diff(indices) > 0).all()  # ascending, so none twice


def test_every_object_counts_as_positive_the_first_too():
    positive, negative = sample_balanced(np.array([0, -1, -2, 7]), 4, 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(positive, [0, 3])
    np.testing.assert_array_equal(negative, [1])


def test_the_draw_follows_the_generator_alone():
    values = matches(300, 2000, 100)
    first = sample_balanced(values, 64, 0.25, np.random.default_rng(7))
    again = sample_balanced(values, 64, 0.25, np.random.default_rng(7))
    other = sample_balanced(values, 64, 0.25, np.random.default_rng(8))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_every_index_is_equally_likely():
    # 3 of 12 negatives, 4,000 times: each is drawn 1,000 times on average, with a standard deviation of
    # sqrt(4000 * 1/4 * 3/4) = 27
    values, rng = np.full(12, -1), np.random.default_rng(0)
    counts = np.bincount(np.concatenate([sample_balanced(values, 3, 0.5, rng)[1] for _ in range(4000)]), minlength=12)
    assert counts.sum() == 12_000 and abs(counts - 1000).max() < 5 * 27


def test_wrong_arguments_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="vector of signed integers"):
        sample_balanced(np.zeros(4, np.float32), 2, 0.5, rng)
    with pytest.raises(ValueError, match="vector of signed integers"):
        sample_balanced(np.zeros((2, 2), np.int64), 2, 0.5, rng)
    with pytest.raises(ValueError, match="positive_fraction"):
        sample_balanced(np.zeros(4, np.int64), 2, 1.5, rng)
    with pytest.raises(ValueError, match="count"):
        sample_balanced(np.zeros(4, np.int64), -1, 0.5, rng)
