"""Random numbers are a function of (seed, purpose, step, image), and no two purposes share theirs."""

import itertools

import numpy as np

from tinymrcnn.randomness import Purpose, generator


def test_every_purpose_has_numbers_of_its_own():
    assert len(set(Purpose.__members__.values())) == len(Purpose.__members__) and 0 not in set(Purpose)
    first = [generator(0, purpose).random() for purpose in Purpose]
    assert len(set(first)) == len(first)


def test_every_part_counts():
    asked = itertools.product((0, 1), (Purpose.ORDER, Purpose.FLIP), (0, 1), (0, 1))
    first = [generator(seed, purpose, step, image).random() for seed, purpose, step, image in asked]
    assert len(set(first)) == 16
    assert generator(3, Purpose.FLIP, 7, 9).random() == np.random.default_rng([3, 4, 7, 9]).random()
