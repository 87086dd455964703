"""The toy set: coloured shapes on a noisy background, drawn on demand from (seed, index) alone.

Five classes: circle, square, triangle, star, and ring, whose hole is background, so that no box implies its
mask. Pictures hold 1 to 6 of them at any rotation, later ones over earlier ones. Each outline is a signed
distance function: the distance of a pixel's centre to the outline, negative inside, from which both the mask
(distance below zero) and the antialiased edge (one pixel wide) follow.

Not from the paper; it is what every lesson and the default training run on.
"""

import math
import operator
from typing import NamedTuple

import numpy as np

from tinymrcnn.randomness import Purpose, generator

NAMES = ("circle", "square", "triangle", "star", "ring")
RADIUS = (0.08, 0.25)  # of the shorter side; the radius of the circle around the shape
MAX_OBJECTS = 6
MIN_VISIBLE = 30  # pixels; an object that shows less stays in the picture but is no target
CONTRAST = 60  # of 255: every object differs by more from all of the background in one channel at least
NOISE = (6, 36)  # of 255: how far apart the brightest and the darkest noise of a picture lie
PAIR_IOU = (0.3, 0.9)  # of the boxes around what a crowded pair shows, before other shapes occlude it
PAIR_TOLERANCE = 0.02  # on the IoU that is drawn for a pair
PAIR_TRIES = 300  # to find its second shape
RING_WIDTH = 0.4
STAR_INNER = 0.45
CACHE_BYTES = 256 * 2**20


class Shape(NamedTuple):
    """label: 1..5, in the order of NAMES. x, y, radius: in pixels. angle: in radians."""

    label: int
    x: float
    y: float
    radius: float
    angle: float


# Outlines in the unit circle -----------------------------------------------------------------------------


def ring_distance(x, y, width):
    """Distance to the ring between radius 1 - width and 1; width 1 is the disc."""
    r = np.hypot(x, y)
    return np.maximum(r - 1, 1 - width - r) if width < 1 else r - 1


def star_distance(x, y, points, inner):
    """Distance to a star with `points` tips at radius 1 and notches at radius `inner`. A regular polygon is
    the star whose notches are the middles of its sides: inner = cos(pi / points).

    Folding the plane at its axes of symmetry leaves one edge, from the tip (1, 0) to one notch."""
    half = math.pi / points
    angle = np.abs((np.arctan2(y, x) + half) % (2 * half) - half)
    r = np.hypot(x, y)
    x, y = r * np.cos(angle) - 1, r * np.sin(angle)  # from the tip
    edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
    distance = np.hypot(x - along * edge_x, y - along * edge_y)
    return np.where(edge_x * y - edge_y * x > 0, -distance, distance)


def unit_distance(label, x, y):
    """Signed distance of points to the outline of class `label` with radius 1."""
    match NAMES[label - 1]:
        case "circle":
            return ring_distance(x, y, 1)
        case "square":
            return star_distance(x, y, 4, math.cos(math.pi / 4))
        case "triangle":
            return star_distance(x, y, 3, math.cos(math.pi / 3))
        case "star":
            return star_distance(x, y, 5, STAR_INNER)
        case "ring":
            return ring_distance(x, y, RING_WIDTH)


def coverage(shape: Shape, height: int, width: int):
    """How much of each pixel the shape covers, as ((rows, columns), share): two slices, its window in the
    picture, and a float32 array of that window in 0..1. The shape's mask is share >= 0.5."""
    reach = shape.radius + 1
    rows = slice(max(0, int(shape.y - reach)), min(height, math.ceil(shape.y + reach)))
    columns = slice(max(0, int(shape.x - reach)), min(width, math.ceil(shape.x + reach)))
    y = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - shape.y) / shape.radius
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - shape.x) / shape.radius
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    distance = unit_distance(shape.label, cos * x + sin * y, cos * y - sin * x) * shape.radius
    return (rows, columns), np.clip(0.5 - distance, 0, 1)


# Where the shapes lie ------------------------------------------------------------------------------------


def random_shape(rng, height, width) -> Shape:
    """Any class, size and rotation. The centre lies at least half a radius inside the picture: its border
    may cut a shape, but not most of it."""
    radius = rng.uniform(*RADIUS) * min(height, width)
    x, y = rng.uniform(radius / 2, width - radius / 2), rng.uniform(radius / 2, height - radius / 2)
    return Shape(int(rng.integers(1, len(NAMES) + 1)), x, y, radius, rng.uniform(0, 2 * math.pi))


def visible_masks(covers, height: int, width: int) -> np.ndarray:
    """What each of several shapes shows, (N, H, W) bool, from their coverages, from the back to the front."""
    front = np.zeros((height, width), np.int8)  # which shape each pixel shows, counted from 1
    for number, (window, share) in enumerate(covers, start=1):
        front[window][share >= 0.5] = number
    return front == np.arange(1, len(covers) + 1, dtype=np.int8)[:, None, None]


def visible_iou(covers, height: int, width: int) -> float:
    """The IoU of the boxes around what two shapes show, the second before the first; 0 if one is no target."""
    masks = visible_masks(covers, height, width)
    if (masks.sum((1, 2)) < MIN_VISIBLE).any():
        return 0.0
    first, second = boxes_around(masks)
    shared = (np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])).clip(min=0).prod()
    return float(shared / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - shared))


def partner(rng, shape: Shape, height: int, width: int) -> Shape:
    """A second shape of the same class, before the first and so close that their visible boxes overlap by an IoU
    drawn evenly from PAIR_IOU; if no shape that is tried does, the one that comes nearest."""
    wanted = rng.uniform(*PAIR_IOU)
    # shapes of other sizes, or further away, overlap too little
    smallest, largest = (share * min(height, width) for share in RADIUS)
    sizes = max(shape.radius * wanted, smallest), min(shape.radius / wanted, largest)
    reach = 2 * shape.radius * (1 - wanted) / (1 + wanted)
    first = coverage(shape, height, width)
    best, least = shape, math.inf
    for _ in range(PAIR_TRIES):
        radius, angle = rng.uniform(*sizes), rng.uniform(0, 2 * math.pi)
        x, y = shape.x + rng.uniform(-reach, reach), shape.y + rng.uniform(-reach, reach)
        if not (radius / 2 <= x <= width - radius / 2 and radius / 2 <= y <= height - radius / 2):
            continue
        other = Shape(shape.label, x, y, radius, angle)
        miss = abs(visible_iou([first, coverage(other, height, width)], height, width) - wanted)
        if miss < least:
            best, least = other, miss
        if miss <= PAIR_TOLERANCE:
            break
    return best


def place_shapes(rng, height: int, width: int, crowded: bool) -> list[Shape]:
    """1 to 6 shapes, from the back to the front; crowded: 1 to 3 pairs, neighbours in the list."""
    if not crowded:
        return [random_shape(rng, height, width) for _ in range(rng.integers(1, MAX_OBJECTS + 1))]
    firsts = [random_shape(rng, height, width) for _ in range(rng.integers(1, MAX_OBJECTS // 2 + 1))]
    return [shape for first in firsts for shape in (first, partner(rng, first, height, width))]


# The picture ---------------------------------------------------------------------------------------------


def paint_background(rng, height: int, width: int) -> np.ndarray:
    """One colour, gently shaded along any direction: (3, H, W) float32 in 0..255, without the noise."""
    color = rng.uniform(30, 225, 3).astype(np.float32)
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(5, 25)
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    slope = (math.sin(angle) * y[:, None] + math.cos(angle) * x) / 2**0.5
    return color[:, None, None] + strength * slope


def contrasting_color(rng, background) -> np.ndarray:
    """Any colour (3,) that lies more than CONTRAST away from all of the background in one channel at least."""
    darkest, lightest = background.min((1, 2)), background.max((1, 2))
    while True:
        color = rng.uniform(0, 255, 3).astype(np.float32)
        if ((color < darkest - CONTRAST) | (color > lightest + CONTRAST)).any():
            return color


def draw(rng, height: int, width: int, crowded: bool):
    """One picture: image (3, H, W) uint8, visible masks (N, H, W) bool, labels (N,) int64."""
    shapes = place_shapes(rng, height, width, crowded)
    background = paint_background(rng, height, width)
    image = background.copy()
    covers = [coverage(shape, height, width) for shape in shapes]
    for window, share in covers:
        view = image[:, *window]
        view += share * (contrasting_color(rng, background)[:, None, None] - view)
    image += rng.uniform(*NOISE) * (rng.random(image.shape, np.float32) - 0.5)
    masks = visible_masks(covers, height, width)
    visible = masks.sum((1, 2)) >= MIN_VISIBLE
    labels = np.array([shape.label for shape in shapes], np.int64)
    return np.rint(image).clip(0, 255).astype(np.uint8), masks[visible], labels[visible]


def boxes_around(masks) -> np.ndarray:
    """The tight boxes (N, 4) float32 of masks (N, H, W); (0, 0, 0, 0) for a mask without a pixel."""
    columns, rows = masks.any(1), masks.any(2)
    x1, y1 = columns.argmax(1), rows.argmax(1)
    x2, y2 = columns.shape[1] - columns[:, ::-1].argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1)
    return np.stack([x1, y1, x2, y2], 1).astype(np.float32) * masks.any((1, 2))[:, None]


class ShapesDataset:
    """dataset[i] -> (image, target) of one drawn picture.

    num_images: its length. image_size: one side or (height, width), at least 32. seed: a non-negative
    integer; image i is drawn from (seed, i) alone. crowded: pairs of one class, one before the other, whose
    boxes overlap by an IoU of 0.3 to 0.9; True, False, or the share of such pictures: 0.5 is every second one.

    image: (3, H, W) RGB float32, multiples of 1/255. target: boxes (N, 4) float32 around what is visible,
    labels (N,) int64, masks (N, H, W) uint8, image_id int, area (N,) float32 in pixels, iscrowd (N,) int64
    zeros. categories: a list of {"label", "name", "id"} in the order of the labels 1, 2, ...

    Raises ValueError for arguments out of range, IndexError for an index out of range."""

    categories = [{"label": label, "name": name, "id": label} for label, name in enumerate(NAMES, start=1)]

    def __init__(self, num_images: int, image_size=128, seed: int = 0, crowded: bool | float = False):
        size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if len(size) != 2 or not all(isinstance(side, (int, np.integer)) and side >= 32 for side in size):
            raise ValueError(f"image_size must be one side or (height, width), each at least 32, got {image_size!r}.")
        if not isinstance(num_images, (int, np.integer)) or num_images < 1:
            raise ValueError(f"num_images must be a positive integer, got {num_images!r}.")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
        if not isinstance(crowded, (bool, np.bool_, int, float, np.number)) or not 0 <= crowded <= 1:
            raise ValueError(f"crowded must be True, False, or a share of the pictures from 0 to 1, got {crowded!r}.")
        self.num_images, self.seed, self.crowded = int(num_images), int(seed), crowded
        self.image_size = (int(size[0]), int(size[1]))
        self._cache: dict[int, tuple] = {}
        self._free_bytes = CACHE_BYTES

    def __repr__(self) -> str:
        return f"ShapesDataset({self.num_images}, {self.image_size}, seed={self.seed}, crowded={self.crowded})"

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int):
        number = operator.index(index)
        number += self.num_images if number < 0 else 0
        if not 0 <= number < self.num_images:
            raise IndexError(f"Image {index} of a data set of {self.num_images} images was asked for.")
        image, bits, labels = self._drawn(number)
        height, width = self.image_size
        masks = np.unpackbits(bits, axis=1, count=height * width).reshape(-1, height, width)
        target = {
            "boxes": boxes_around(masks),
            "labels": labels.copy(),
            "masks": masks,
            "image_id": number,
            "area": masks.sum((1, 2), dtype=np.int64).astype(np.float32),
            "iscrowd": np.zeros(len(labels), np.int64),
        }
        return image.astype(np.float32) / 255, target

    def _drawn(self, number: int) -> tuple:
        """(image uint8, masks as bits, labels), kept while there is room: a full cache keeps what it has,
        since training visits all images in turn and would find nothing in a cache of the latest ones."""
        if (kept := self._cache.get(number)) is not None:
            return kept
        crowded = math.floor((number + 1) * self.crowded) > math.floor(number * self.crowded)  # evenly spread
        image, masks, labels = draw(generator(self.seed, Purpose.SHAPES, number), *self.image_size, crowded)
        entry = (image, np.packbits(masks.reshape(len(masks), image[0].size), axis=1), labels)
        size = sum(array.nbytes for array in entry)
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._cache[number] = entry
        return entry
