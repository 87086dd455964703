"""Data sets (`len`, `dataset[i] -> (image, target)`, `categories`), image files, and training batches."""

from tinymrcnn.data.augment import augment, flip_horizontally
from tinymrcnn.data.categories import map_categories
from tinymrcnn.data.check import DataWarning
from tinymrcnn.data.coco import CocoDataset, image_ids_of, write_coco
from tinymrcnn.data.coco_names import COCO_NAMES, coco_categories
from tinymrcnn.data.formats.cityscapes import CityscapesDataset
from tinymrcnn.data.images import find_images, read_image, write_image
from tinymrcnn.data.loader import batches
from tinymrcnn.data.shapes import ShapesDataset

__all__ = [
    "COCO_NAMES",
    "CityscapesDataset",
    "CocoDataset",
    "DataWarning",
    "ShapesDataset",
    "augment",
    "batches",
    "coco_categories",
    "find_images",
    "flip_horizontally",
    "image_ids_of",
    "map_categories",
    "read_image",
    "write_coco",
    "write_image",
]
