"""Masks as COCO writes them: polygons, or run lengths, or these packed into a string.

Run lengths are the counts of 0s and 1s in turn down the columns. Everything that is read is checked before
pycocotools sees it, which reads beyond the end of some damaged strings.
"""

import numpy as np
from pycocotools import mask as coco_mask

from tinymrcnn.data.check import as_integer

LONGEST_OUTLINE = 1_000_000  # pixels; pycocotools takes 40 bytes for each


def encode_mask(mask: np.ndarray) -> dict:
    """A mask (H, W) of 0/1, bool or uint8, as COCO's compressed run lengths {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def encode_ids(ids: np.ndarray) -> dict[int, dict]:
    """The objects of a label image (H, W), integers: {its number: {"segmentation" (compressed run lengths), "bbox",
    "area", "iscrowd": 0}} for each number but 0, in their order. Takes the time of one mask, not of as many as there
    are."""
    height, width = ids.shape
    flat = ids.T.ravel()  # down the columns
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    numbers, first = np.unique(flat[starts][order], return_index=True)
    objects = {}
    for number, runs in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        if number == 0:
            continue
        counts = runs_of(starts[runs], ends[runs], flat.size)
        bounds = _bounds_of_runs(counts, height)
        assert bounds is not None  # every number has a pixel
        x1, y1, x2, y2 = bounds.tolist()
        objects[number] = {
            "segmentation": pack_runs(counts, height, width),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(counts[1::2].sum()),
            "iscrowd": 0,
        }
    return objects


def decode_mask(segmentation, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, run lengths or packed run lengths) as a mask (H, W), uint8.

    Parts of one or two points have no area and are passed over. Raises ValueError; its text says
    what is wrong, as the end of a sentence."""
    if isinstance(segmentation, dict):
        return _filled(read_runs(segmentation, height, width), height, width)
    return _filled(_rasterized(read_polygons(segmentation, height, width), height, width), height, width)


def mask_bounds(segmentation, height: int, width: int) -> np.ndarray | None:
    """The box (x1, y1, x2, y2) around a segmentation, float64, cut at the image's borders; None where it covers no
    pixel. Around run lengths this is the box of the pixels, around polygons that of their points.

    Much faster than decoding the mask. Raises ValueError as decode_mask does."""
    if isinstance(segmentation, dict):
        return _bounds_of_runs(read_runs(segmentation, height, width), height)
    polygons = read_polygons(segmentation, height, width)
    points = np.concatenate(polygons).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    inside = low.min() >= 0 and high[0] <= width and high[1] <= height
    if not (inside and any(_surely_has_a_pixel(polygon) for polygon in polygons)):
        if _bounds_of_runs(_rasterized(polygons, height, width), height) is None:
            return None
    return np.concatenate([low, high]).clip(0, [width, height, width, height])


# Polygons ------------------------------------------------------------------------------------------------


def read_polygons(segmentation, height: int, width: int) -> list[np.ndarray]:
    """The polygons (x1, y1, x2, y2, ...), float64, without those of one or two points, which have no area.

    Raises ValueError where there is none, or one is not a flat list of finite coordinates in or near the image, or
    its outline is so long that it would fill the memory."""
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    polygons = []
    for polygon in segmentation:
        try:
            points = np.asarray(polygon)
        except (ValueError, OverflowError):  # lists of several lengths
            points = np.empty(0, object)
        if not isinstance(polygon, list) or points.ndim != 1 or points.dtype.kind not in "if" or len(points) % 2:
            raise ValueError("a polygon of its segmentation is no list x1, y1, x2, y2, ... of three or more points")
        if len(points) < 6:
            continue
        x, y = points[0::2], points[1::2]
        if not (abs(x - width / 2).max() <= 1.5 * width and abs(y - height / 2).max() <= 1.5 * height):
            if not np.isfinite(points).all():
                raise ValueError("a polygon of its segmentation is no list x1, y1, x2, y2, ... of finite numbers")
            raise ValueError(f"a polygon of its segmentation lies far outside the image of {height} x {width}")
        longest = len(x) * 3 * (height + width)  # that it can be, this near to the image
        if longest > LONGEST_OUTLINE and abs(np.diff(x)).sum() + abs(np.diff(y)).sum() > LONGEST_OUTLINE:
            raise ValueError(f"a polygon of its segmentation is longer than {LONGEST_OUTLINE:,} pixels")
        polygons.append(points.astype(np.float64))
    if not polygons:
        raise ValueError("a polygon of its segmentation is no list x1, y1, x2, y2, ... of three or more points")
    return polygons


def _surely_has_a_pixel(polygon: np.ndarray) -> bool:
    """Whether a circle of radius 1 fits into the polygon, which it does where the area is not below the perimeter."""
    x, y = np.append(polygon, polygon[:2]).reshape(-1, 2).T
    along, down = x[1:] - x[:-1], y[1:] - y[:-1]
    return abs(x[:-1] @ down - y[:-1] @ along) / 2 >= np.sqrt(along * along + down * down).sum()


def _rasterized(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The run lengths of all polygons together, by pycocotools."""
    whole = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width))
    return unpack_counts(whole["counts"].decode("ascii"))


# Run lengths ---------------------------------------------------------------------------------------------


def read_runs(segmentation: dict, height: int, width: int) -> np.ndarray:
    """The run lengths, int64, of {"size": [height, width], "counts": a string or a list of integers}.

    Raises ValueError where they do not add up to the image."""
    size, counts, pixels = segmentation.get("size"), segmentation.get("counts"), height * width
    if not isinstance(size, list) or [as_integer(side) for side in size] != [height, width]:
        raise ValueError(f"its mask has the size {size}, the image has {[height, width]}")
    wrong_sum = f"its run lengths do not add up to the {height} x {width} pixels of the image"
    if isinstance(counts, str):
        runs = unpack_counts(counts)
    else:
        given = [as_integer(count) for count in counts] if isinstance(counts, list) else [None]
        meant = [count for count in given if count is not None]
        if len(meant) < len(given):
            raise ValueError("its run lengths are neither a string nor a list of integers")
        if sum(meant) != pixels:  # before they are put into 64 bits
            raise ValueError(wrong_sum)
        runs = np.array([min(max(count, -1), pixels) for count in meant], np.int64)
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise ValueError(wrong_sum)
    return runs


def runs_of(starts: np.ndarray, ends: np.ndarray, pixels: int) -> np.ndarray:
    """The run lengths, int64, of a mask whose pixels, numbered down the columns, are starts[0] to ends[0] - 1, and so
    on: ascending, and with gaps between. pixels: how many the image has."""
    edges = np.stack([starts, ends], 1).ravel()
    counts = np.diff(edges, prepend=0, append=pixels)
    return counts[:-1] if len(edges) and edges[-1] == pixels else counts  # nothing follows a mask that ends last


def pack_runs(counts: np.ndarray, height: int, width: int) -> dict:
    """Run lengths as encode_mask writes them."""
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def unpack_counts(packed: str) -> np.ndarray:
    """The run lengths in a compressed string: int64.

    A number is a row of 5-bit digits, lowest first, each written as the character 48 + digit, plus 32 where
    more follow; its last digit carries the sign. From the fourth on, a number is the difference to the run
    two before it. Raises ValueError where the string is no such row."""
    codes = np.frombuffer(packed.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    if ((codes < 0) | (codes > 63)).any() or len(last) == 0 or last[-1] < len(codes) - 1:
        raise ValueError("its compressed run lengths are no complete string of COCO's characters")
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("its compressed run lengths hold a number beyond 32 bits")
    counts = np.add.reduceat((codes & 31) << 5 * place, first)
    counts -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _filled(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _bounds_of_runs(runs: np.ndarray, height: int) -> np.ndarray | None:
    """The box of the pixels in runs of 1s, None where there is none."""
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    if len(ends) == 0:
        return None
    first, last = ends - lengths, ends - 1
    y1, y2 = (first % height).min(), (last % height).max() + 1
    if (first // height != last // height).any():  # a run that goes on in the next column touches both borders
        y1, y2 = 0, height
    return np.array([first[0] // height, y1, last[-1] // height + 1, y2], np.float64)
