"""Where random numbers come from: always from the host, always from (seed, purpose, step, image).

No generator is passed around, so the order and number of workers, a resume or a GPU change nothing.
"""

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What the numbers are for. Nonzero, since NumPy's seeding drops trailing zeros ([0, 7] equals [0, 7, 0])."""

    WEIGHTS = 1
    SHAPES = 2
    ORDER = 3
    FLIP = 4
    RPN_SAMPLE = 5
    ROI_SAMPLE = 6
    RESIZE = 7
    AUGMENT = 8
    PASTE = 9


def generator(seed: int, purpose: Purpose, step: int = 0, image: int = 0) -> np.random.Generator:
    """A fresh generator for one purpose at one step and one image (non-negative integers)."""
    return np.random.default_rng([seed, purpose, step, image])
