"""Masks as spans, pixels in a row from a first to a last one: compared with each other without being unpacked.

The pixels of an image are numbered down its columns, as COCO does. A mask is then a few spans of numbers, and what two
masks share is found by walking along both. COCO's run lengths say the same with lengths in place of numbers (see
data/coco_masks.py); run_lengths.py makes spans of what a model has found.
"""

from typing import NamedTuple

import numpy as np

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
    """masks: (N, H, W) of any type; what is not 0 belongs to the mask."""
    edges = [np.flatnonzero(np.diff(mask.T.ravel() != 0, prepend=False, append=False)) for mask in masks]
    both = np.concatenate([np.empty(0, np.int64), *edges])
    return Spans(both[0::2].copy(), both[1::2].copy(), np.cumsum([0, *(len(each) // 2 for each in edges)]))


def spans_of_strings(strings: list[str]) -> Spans:
    """COCO's compressed run lengths of N masks of equal size.

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
