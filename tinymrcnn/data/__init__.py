"""Data sets (`len`, `dataset[i] -> (image, target)`, `categories`), image files, and training batches."""

from tinymrcnn.data.coco import CocoDataset, write_coco
from tinymrcnn.data.images import read_image, write_image
from tinymrcnn.data.loader import batches, flip_horizontally
from tinymrcnn.data.shapes import ShapesDataset

__all__ = [
    "CocoDataset",
    "ShapesDataset",
    "batches",
    "flip_horizontally",
    "read_image",
    "write_coco",
    "write_image",
]
