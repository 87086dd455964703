"""Masks as spans, pixels in a row from a first to a last one: compared with each other without being unpacked.

The pixels of an image are numbered along its rows, or down its columns: which of the two does not matter, as long as it
is the same for all masks that are compared. A mask is then a few spans of numbers, and what two masks share is found by
walking along both. COCO's run lengths say the same with lengths in place of numbers (see data/coco_masks.py).
"""

from typing import NamedTuple

import numpy as np

from tinymrcnn.boxes import paste_masks
from tinymrcnn.boxes.masks import first_pixel, over_whole_pixels, paste_kernel
from tinymrcnn.kernels import cpu_kernel


class Spans(NamedTuple):
    """N masks in one image. Mask n has the spans first[n]:first[n + 1], and span s the pixels start[s]:end[s].

    start, end: (S,) int64, ascending within a mask. first: (N + 1,) int64."""

    start: np.ndarray
    end: np.ndarray
    first: np.ndarray

    def areas(self) -> np.ndarray:
        """How many pixels each mask has, (N,) int64."""
        total = np.append(0, np.cumsum(self.end - self.start))
        return total[self.first[1:]] - total[self.first[:-1]]


# From masks ----------------------------------------------------------------------------------------------


def spans_of_masks(masks: np.ndarray) -> Spans:
    """masks: (N, H, W) of any type; what is not 0 belongs to the mask. Pixels are numbered along the rows."""
    edges = [np.flatnonzero(np.diff(mask.ravel() != 0, prepend=False, append=False)) for mask in masks]
    both = np.concatenate([np.empty(0, np.int64), *edges])
    return Spans(both[0::2].copy(), both[1::2].copy(), np.cumsum([0, *(len(each) // 2 for each in edges)]))


def spans_of_findings(masks: np.ndarray, boxes: np.ndarray, size, whole_pixels: bool = False) -> Spans:
    """paste_masks(masks, boxes, size, whole_pixels) >= 0.5 as spans, without an image for each mask.

    masks: (N, m, m) probabilities. boxes: (N, 4). size: (h, w) of the image. Raises ValueError as paste_masks does."""
    paste_masks(masks, boxes, (0, 0))  # which checks them
    rim = ((0, 0), (1, 1), (1, 1))
    if whole_pixels:
        masks, boxes = np.pad(masks, rim), over_whole_pixels(boxes, masks.shape[1:])
    return Spans(*_pasted(np.pad(masks, rim), boxes.astype(np.float64), np.empty((1, *size), masks.dtype)))


@cpu_kernel
def _pasted(masks, boxes, image):
    """The masks have a rim, as paste_kernel wants them. image: (1, h, w), in which they are pasted one
    after the other."""
    count, first = 0, np.zeros(len(masks) + 1, np.int64)
    h, w = image.shape[1:]
    start, end = np.empty(4 * w, np.int64), np.empty(4 * w, np.int64)
    for i in range(len(masks)):
        x1, y1, x2, y2 = boxes[i]
        if x1 < x2 and y1 < y2:
            paste_kernel(0, 1, masks[i : i + 1], boxes[i : i + 1], image)
            rim_x, rim_y = 0.5 * (x2 - x1) / (masks.shape[2] - 2), 0.5 * (y2 - y1) / (masks.shape[1] - 2)
            left, right = first_pixel(x1 - rim_x, w), first_pixel(x2 + rim_x, w)
            for y in range(first_pixel(y1 - rim_y, h), first_pixel(y2 + rim_y, h)):
                if count + w > len(start):  # a row may hold w / 2 spans
                    start, end = np.append(start, np.empty_like(start)), np.append(end, np.empty_like(end))
                inside = False
                for x in range(left, right):
                    if (image[0, y, x] >= 0.5) != inside:
                        inside = not inside
                        if inside:
                            start[count] = y * w + x
                        else:
                            end[count] = y * w + x
                            count += 1
                if inside:
                    end[count] = y * w + right
                    count += 1
        first[i + 1] = count
    return start[:count].copy(), end[:count].copy(), first


def spans_of_strings(strings: list[str]) -> Spans:
    """COCO's compressed run lengths of N masks of equal size. Pixels are numbered down the columns.

    The strings are taken as they are: those out of a file are checked by data.coco_masks.read_runs."""
    text = "".join(strings)
    return Spans(*_unpacked(np.frombuffer(text.encode("ascii"), np.uint8), np.cumsum([0, *map(len, strings)])))


@cpu_kernel
def _unpacked(codes, first_code):
    """How a string is written: see unpack_counts in data/coco_masks.py."""
    count, first = 0, np.zeros(len(first_code), np.int64)
    start, end = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    for i in range(len(first_code) - 1):
        pixel = runs = 0
        number = place = before = earlier = 0  # the run that is read, and the two before it
        for code in codes[first_code[i] : first_code[i + 1]]:
            digit = np.int64(code) - 48
            number |= (digit & 31) << place
            place += 5
            if digit & 32:
                continue
            if digit & 16:
                number -= 1 << place
            if runs > 2:
                number += earlier
            if runs % 2 and number > 0:
                start[count], end[count] = pixel, pixel + number
                count += 1
            pixel += number
            earlier, before = before, number
            runs += 1
            number = place = 0
        first[i + 1] = count
    return start[:count].copy(), end[:count].copy(), first


# Comparing -----------------------------------------------------------------------------------------------


@cpu_kernel
def shared_pixels(start, end, first, other_start, other_end, other_first, wanted):
    """How many pixels each of N masks shares with each of M others, (N, M) int64; 0 where `wanted` (N, M) is False."""
    shared = np.zeros(wanted.shape, np.int64)
    for n in range(len(first) - 1):
        for m in range(len(other_first) - 1):
            a, last_a = first[n], first[n + 1] - 1
            b, last_b = other_first[m], other_first[m + 1] - 1
            if wanted[n, m] and a <= last_a and b <= last_b and start[a] < other_end[last_b]:
                pixels = 0
                while a <= last_a and b <= last_b and other_start[b] < end[last_a]:
                    pixels += max(0, min(end[a], other_end[b]) - max(start[a], other_start[b]))
                    if end[a] < other_end[b]:
                        a += 1
                    else:
                        b += 1
                shared[n, m] = pixels
    return shared
