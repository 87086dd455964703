"""The run lengths of Label Studio's brush: an image of four channels, of which the fourth tells what is painted.

A stream of bits: 32 for the number of values, 5 for the bits of a value less 1, and four times 4 for the bits of a
run's length less 1. Then runs: 1 bit, whether all their values are the same; 2 bits, in which of the four sizes the
length less 1 follows; the length; and one value, or as many as the run is long. The format is rle-pack of
thi.ng/umbrella.
"""

import numpy as np


def decode_brush(packed: list, height: int, width: int) -> np.ndarray:
    """The mask (height, width), bool, of a list of bytes, integers from 0 to 255.

    Raises ValueError where it is damaged or of another size."""
    data = bytes(packed)
    bits = f"{int.from_bytes(data):0{8 * len(data)}b}" if data else ""
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("the brush's run lengths end too early")
        return int(bits[place - count : place], 2)

    total = take(32)
    if total != 4 * height * width:
        raise ValueError(f"the brush's run lengths are of {total} values, not of {height} x {width} pixels")
    of_value, of_length = take(5) + 1, [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    start = 0
    while start < total:
        same = take(1)
        end = start + take(of_length[take(2)]) + 1
        if end > total:
            raise ValueError("the brush's run lengths go beyond the image")
        values[start:end] = take(of_value) if same else [take(of_value) & 255 for _ in range(start, end)]
        start = end
    return values.reshape(height, width, 4)[:, :, 3] > 0
