"""Many small pictures with their objects on one sheet, to see at a glance whether the labels are right."""

import numpy as np
from PIL import Image

from tinymrcnn.draw.figures import draw_grid
from tinymrcnn.draw.overlay import draw_instances, shrunk

SHOWN, COLUMNS = 16, 4
SIDE = 320  # pixels of a picture's longer side
LARGEST = 1024  # pixels of an image's longer side, before it is drawn on


def spread(length: int, count: int = SHOWN) -> list[int]:
    """`count` indices, or as many as there are, evenly spread over a data set."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist() if length else []


def draw_target(dataset, index: int, largest: int = 2048):
    """An image of a data set with its objects drawn over it: (H, W, 3) uint8; a larger image is shrunk."""
    image, target = dataset[index]
    small = shrunk(image, largest)
    if small.shape != image.shape:
        scale = np.array([small.shape[2] / image.shape[2], small.shape[1] / image.shape[1]] * 2, np.float32)
        target = {**target, "boxes": target["boxes"] * scale}
        if "masks" in target:
            size = small.shape[:0:-1]
            target["masks"] = [np.asarray(Image.fromarray(mask).resize(size)) for mask in target["masks"]]
    return draw_instances(small, target, dataset.categories)


def contact_sheet(dataset, indices: list[int]):
    """The images of these indices, with their objects, in rows of COLUMNS: (H, W, 3) uint8."""
    pictures = []
    for index in indices:
        picture = Image.fromarray(draw_target(dataset, index, LARGEST))
        picture.thumbnail((SIDE, SIDE))
        pictures.append(np.asarray(picture))
    return draw_grid([pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)])
