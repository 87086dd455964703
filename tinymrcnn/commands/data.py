"""`tinymrcnn data`: data sets, written to the disk."""

from collections.abc import Sequence

from tinymrcnn.data import ShapesDataset, write_coco
from tinymrcnn.files import printable


def write_shapes(
    out, *, num: int = 100, size: Sequence[int] = (128,), seed: int = 0, crowded: bool | float = False
) -> int:
    """Write the toy shapes as a COCO data set into a new folder. Returns the exit code, 0.

    size: the side of the pictures, or their height and width. crowded: as in ShapesDataset. Raises as
    ShapesDataset and write_coco do."""
    dataset = ShapesDataset(num, size[0] if len(size) == 1 else tuple(size), seed, crowded)
    write_coco(dataset, out)
    print(f"Wrote {len(dataset)} images to '{printable(out)}/images' and '{printable(out)}/annotations.json'.")
    return 0
