"""Found masks straight to run lengths, where COCO's output is wanted and no picture.

A mask that the model found is a small grid over a box. COCO wants of it where it begins and ends down every column of
the image. So the grid is sampled at the pixels of its box alone, column by column, by the arithmetic that pastes
(boxes/masks.py), and only the places are kept at which it passes 0.5: to the last pixel those of
paste_masks(...) >= 0.5, without an image. Whoever shows a mask pastes it.
"""

import numpy as np

from tinymrcnn.boxes import paste_masks
from tinymrcnn.boxes.masks import between, fill_row, over_whole_pixels, pixels_of, tap
from tinymrcnn.data.coco_masks import pack_runs, runs_of
from tinymrcnn.evaluation.spans import Spans
from tinymrcnn.kernels import cpu_kernel


def encode_findings(masks: np.ndarray, boxes: np.ndarray, size, whole_pixels: bool = False) -> list[dict]:
    """data.coco_masks.encode_mask of each mask of paste_masks(masks, boxes, size, whole_pixels) >= 0.5.

    The arguments and errors are those of spans_of_findings."""
    height, width = map(int, size)
    spans = spans_of_findings(masks, boxes, (height, width), whole_pixels)
    parts = map(slice, spans.first[:-1], spans.first[1:])
    runs = [runs_of(spans.start[part], spans.end[part], height * width) for part in parts]
    return [pack_runs(each, height, width) for each in runs]


def spans_of_findings(masks: np.ndarray, boxes: np.ndarray, size, whole_pixels: bool = False) -> Spans:
    """paste_masks(masks, boxes, size, whole_pixels) >= 0.5 as spans.

    masks: (N, m, m) probabilities. boxes: (N, 4). size: (h, w) of the image. Raises ValueError as paste_masks does."""
    paste_masks(masks, boxes, (0, 0))  # which checks them
    rim = ((0, 0), (1, 1), (1, 1))
    if whole_pixels:
        masks, boxes = np.pad(masks, rim), over_whole_pixels(boxes, masks.shape[1:])
    return Spans(*_sampled(np.pad(masks, rim), boxes.astype(np.float64), *size))


@cpu_kernel
def _sampled(masks, boxes, h, w):
    """The masks have a rim, as paste_kernel wants them."""
    T = masks.dtype.type
    count, first = 0, np.zeros(len(masks) + 1, np.int64)
    start, end = np.empty(4 * h, np.int64), np.empty(4 * h, np.int64)
    mh, mw = masks.shape[1] - 2, masks.shape[2] - 2
    for i in range(len(masks)):
        x1, y1, x2, y2 = boxes[i]
        if x1 < x2 and y1 < y2:
            left, right = pixels_of(x1, x2, mw, w)
            top, bottom = pixels_of(y1, y2, mh, h)
            cells = np.empty((mw + 2, bottom - top), masks.dtype)  # the mask at the height of each pixel row
            for y in range(top, bottom):
                fill_row(cells[:, y - top], masks[i], y, y1, y2)
            for x in range(left, right):
                lower, share = tap(x, x1, x2, mw)
                before, after, share = cells[lower], cells[lower + 1], T(share)
                if count + h > len(start):  # a column may hold h / 2 spans
                    start, end = np.append(start, np.empty_like(start)), np.append(end, np.empty_like(end))
                inside = False
                for y in range(top, bottom):
                    if (between(before[y - top], after[y - top], share) >= 0.5) != inside:
                        inside = not inside
                        if inside and y == 0 and count > first[i] and end[count - 1] == x * h:
                            count -= 1  # it goes on from the end of the column before
                        elif inside:
                            start[count] = x * h + y
                        else:
                            end[count] = x * h + y
                            count += 1
                if inside:
                    end[count] = x * h + bottom
                    count += 1
        first[i + 1] = count
    return start[:count].copy(), end[:count].copy(), first
