"""Pictures of cells for lesson 17, drawn, with the labels of people who make mistakes: a folder as LabelMe writes it.

Nuclei are wobbly ellipses, many of which touch, in two stains: bright on black, as under fluorescence, and purple on
pink, as in a tissue section. Everything follows from (seed, number of the picture) alone.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tinymrcnn.data import write_image

HEIGHT, WIDTH = 96, 128  # pixels
CORNERS = 24  # of an outline
SHARP = 4  # pixels are drawn in so many parts along each axis, then averaged
NAME = "nucleus"
# Where those who labelled the pictures have made mistakes
TYPING_ERROR, TWO_CLICKS, HALF_DONE, MIRRORED = 6, 11, 12, range(20, 25)


def draw_cells(number: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Picture `number`: (3, HEIGHT, WIDTH) float32 RGB in 0..1, and the outline of every nucleus, (CORNERS, 2) x and y
    in pixels, inside the picture. Every third picture is purple on pink, the others are bright on black."""
    rng = np.random.default_rng([seed, number])
    outlines = _places(rng)
    purple = number % 3 == 2
    paint = _purple if purple else _bright
    picture = paint(rng, [inside(outline, soft=True) for outline in outlines])
    picture += rng.normal(0, 0.02 if purple else 0.03, picture.shape)
    return picture.clip(0, 1).astype(np.float32), [outline.clip(0, [WIDTH, HEIGHT]) for outline in outlines]


def _places(rng) -> list[np.ndarray]:
    """Outlines of 3 to 8 nuclei, each new one beside one of the others or anywhere, none deep inside another."""
    outlines: list[np.ndarray] = []
    circles: list[tuple] = []  # x, y, mean radius
    wanted = rng.integers(3, 9)
    for _ in range(400):
        if len(outlines) == wanted:
            break
        long = rng.uniform(10, 16)  # half of the axes
        short = long * rng.uniform(0.6, 1)
        radius = (long + short) / 2
        x, y = rng.uniform(2, WIDTH - 2), rng.uniform(2, HEIGHT - 2)
        if circles and rng.random() < 0.6:  # it touches another one
            other, angle = circles[rng.integers(len(circles))], rng.uniform(0, 2 * np.pi)
            x = other[0] + 0.95 * (radius + other[2]) * np.cos(angle)
            y = other[1] + 0.95 * (radius + other[2]) * np.sin(angle)
        if not (2 < x < WIDTH - 2 and 2 < y < HEIGHT - 2):
            continue
        if any(np.hypot(x - a, y - b) < 0.9 * (radius + r) for a, b, r in circles):
            continue
        circles.append((x, y, radius))
        angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        wobble = 1 + 0.05 * np.cos(2 * angles + rng.uniform(0, 6)) + 0.04 * np.cos(3 * angles + rng.uniform(0, 6))
        turn = rng.uniform(0, np.pi)
        along, across = long * wobble * np.cos(angles), short * wobble * np.sin(angles)
        xs = x + along * np.cos(turn) - across * np.sin(turn)
        ys = y + along * np.sin(turn) + across * np.cos(turn)
        outlines.append(np.stack([xs, ys], axis=1))
    return outlines


def inside(outline: np.ndarray, soft: bool = False) -> np.ndarray:
    """How much of every pixel lies inside of an outline, (HEIGHT, WIDTH) in 0..1."""
    large = Image.new("L", (SHARP * WIDTH, SHARP * HEIGHT))
    ImageDraw.Draw(large).polygon([tuple(point) for point in (SHARP * outline).tolist()], fill=255)
    if soft:
        large = large.filter(ImageFilter.GaussianBlur(0.8 * SHARP))
    small = np.asarray(large, np.float64).reshape(HEIGHT, SHARP, WIDTH, SHARP).mean((1, 3))
    return small / 255


def _clouds(rng, size: int) -> np.ndarray:
    """Smooth noise, (HEIGHT, WIDTH), of mean 0 and deviation 1. size: of a cloud, in pixels."""
    coarse = rng.normal(size=(HEIGHT // size + 2, WIDTH // size + 2)).astype(np.float32)
    clouds = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)
    return (clouds - clouds.mean()) / clouds.std()


def _bright(rng, insides) -> np.ndarray:
    light = 0.06 + 0.02 * _clouds(rng, 32)
    for inside in insides:
        texture = rng.uniform(0.25, 0.9) * (1 + 0.12 * _clouds(rng, 4))
        light = light + inside * (texture - light)
    for _ in range(rng.integers(0, 4)):  # specks of dirt, which are no nuclei
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        light = light + rng.uniform(0.3, 0.8) * np.exp(
            -((xs - x) ** 2 + (ys - y) ** 2) / (2 * rng.uniform(1, 2.5) ** 2)
        )
    return np.stack([light, light, light])


def _purple(rng, insides) -> np.ndarray:
    pink = np.array([0.90, 0.76, 0.84]) + rng.normal(0, 0.02, 3)
    picture = pink[:, None, None] + 0.05 * _clouds(rng, 6) * np.array([0.5, 1.0, 0.6])[:, None, None]
    for inside in insides:
        color = np.array([0.50, 0.33, 0.60]) + rng.normal(0, 0.05) + rng.normal(0, 0.02, 3)
        texture = color[:, None, None] + 0.06 * _clouds(rng, 3)
        picture = picture + 0.9 * inside * (texture - picture)
    return picture


def write_cells(folder, count: int = 48, seed: int = 0) -> None:
    """Pictures cells_00.png, cells_01.png, ... and beside each a JSON file with its nuclei as polygons, as LabelMe
    writes it. Some have mistakes: a name that is mistyped, a polygon of two points, half of the nuclei forgotten, and
    five that were drawn on the mirror images."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    for number in range(count):
        picture, outlines = draw_cells(number, seed)
        write_image(folder / f"cells_{number:02}.png", picture)
        labels = [NAME] * len(outlines)
        if number == TYPING_ERROR:
            labels[2] = "nuclues"
        elif number == TWO_CLICKS:
            outlines[1] = outlines[1][[0, CORNERS // 2]]  # a line and no polygon
        elif number in MIRRORED:
            outlines = [outline * [-1, 1] + [WIDTH, 0] for outline in outlines]
        elif number == HALF_DONE:
            outlines = outlines[::2]
        shapes = [
            {
                "label": label,
                "points": outline.round(2).tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for label, outline in zip(labels, outlines, strict=False)
        ]
        content = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"cells_{number:02}.png",
            "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH,
        }  # fmt: skip
        (folder / f"cells_{number:02}.json").write_text(json.dumps(content, indent=1))
