"""A balanced random sample of positives and negatives.

Nearly every anchor and most proposals are background: a loss over all of them would learn to say
"background". Section 3.1.3 of the Faster R-CNN paper: 256 anchors an image, up to half of them positive;
section 3.1 of the Mask R-CNN paper: 64 or 512 proposals, up to a quarter positive. Lessons 05 and 08.
"""

import numpy as np

from tinymrcnn.boxes.matching import BACKGROUND


def sample_balanced(
    matches: np.ndarray, count: int, positive_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw up to `count` indices without replacement: positives first, filled up with negatives.

    matches: (A,) integers on the host, as a Matcher makes them: the index of an object (0 or above) is positive,
    BACKGROUND (-1) is negative, IGNORED (-2) is never drawn.
    At most int(count * positive_fraction) are positive; if there are too few negatives, no more positives
    are drawn instead. The draw is on the host, so that every device trains on the same sample.

    Returns (positive indices, negative indices), int64, ascending. Raises ValueError for a negative count, a
    fraction outside 0..1, and matches that are not a vector of integers.
    """
    if matches.ndim != 1 or matches.dtype.kind != "i":
        raise ValueError(f"matches must be a vector of signed integers, not {matches.dtype} {matches.shape}.")
    if count < 0 or not 0 <= positive_fraction <= 1:
        raise ValueError(f"count must be >= 0 and positive_fraction in 0..1, not {count} and {positive_fraction}.")
    positives, negatives = np.flatnonzero(matches >= 0), np.flatnonzero(matches == BACKGROUND)
    num_positives = min(len(positives), int(count * positive_fraction))
    num_negatives = min(len(negatives), count - num_positives)
    return (
        np.sort(rng.choice(positives, num_positives, replace=False, shuffle=False)),
        np.sort(rng.choice(negatives, num_negatives, replace=False, shuffle=False)),
    )
