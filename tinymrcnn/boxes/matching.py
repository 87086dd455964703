"""Which object does each anchor or proposal answer for? Decided by intersection over union alone.

Section 3.1.2 of the Faster R-CNN paper: an anchor is positive when its IoU with some object is at least 0.7,
or when no anchor overlaps that object more; negative when its IoU with every object is below 0.3; the rest
takes no part. Proposals (section 3.1 of the Mask R-CNN paper): positive from 0.5 on, all others negative.
Lesson 05 draws the matches.
"""

from tinymrcnn.backend import Array, array_module

BACKGROUND = -1
IGNORED = -2


class Matcher:
    """Matches columns (anchors, proposals) to rows (ground-truth objects) of a matrix of IoUs.

    high: from this IoU on a column is positive. low: below it a column is background; in between it is ignored.
    allow_low_quality: for every object, the columns that overlap it most (all of them where several tie) are
    positive too, whatever their IoU, as long as it is not 0.

    Raises ValueError unless 0 <= low <= high <= 1.
    """

    def __init__(self, high: float, low: float, allow_low_quality: bool = False):
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Matcher needs 0 <= low <= high <= 1, not low = {low} and high = {high}.")
        self.high, self.low, self.allow_low_quality = float(high), float(low), allow_low_quality

    def __call__(self, iou: Array) -> Array:
        """iou: (G, A), G objects and A anchors, or (N, G, A) of N images. Returns (A,), or (N, A), int64: the object's
        row, BACKGROUND -1 or IGNORED -2.

        A column that is positive only as some object's best keeps the object that *it* overlaps most, which
        may be another one: so do the public models. Without objects everything is background.
        """
        if iou.ndim not in (2, 3):
            raise ValueError(f"iou must have the shape (objects, anchors), not {tuple(iou.shape)}.")
        xp = array_module(iou)
        if iou.size == 0:
            return xp.full(iou.shape[:-2] + iou.shape[-1:], BACKGROUND, dtype=xp.int64)
        best = iou.max(axis=-2)
        positive = best >= self.high
        if self.allow_low_quality:
            # An object that no anchor touches has a best IoU of 0, and every anchor elsewhere ties with it:
            # without the second condition all of them would become positive.
            best_of_object = iou.max(axis=-1, keepdims=True)
            positive |= (iou == xp.where(best_of_object > 0, best_of_object, 2)).any(axis=-2)
        matches = xp.where(best >= self.low, IGNORED, BACKGROUND)
        there = xp.nonzero(positive)  # few; NumPy's argmax over all columns takes longer than all the rest
        matches[there] = iou.swapaxes(-2, -1)[there].argmax(axis=-1)
        return matches
