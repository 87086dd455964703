"""`tinymrcnn data`: data sets shown, converted, and written to the disk."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tinymrcnn.commands.source import checked_paths, parts_of
from tinymrcnn.commands.terminal import say
from tinymrcnn.data import ShapesDataset, write_coco
from tinymrcnn.data.formats import convert, open_source, open_split
from tinymrcnn.files import make_folder, printable, quoted, told


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


def convert_data(source: str, out: str, *, format: str | None = None) -> int:
    """Write a data set of any format that is read here as COCO into a new folder. Returns the exit code, 0.

    Raises as open_source and convert do."""
    named = open_source(source, format)
    print(named)
    for line in convert(named, out):
        print(f"Wrote {printable(Path(out) / line)}.")
    print(f"Train on it:\n  tinymrcnn train --data {quoted(out)}")
    return 0


def show_data(
    source: Sequence[str], *, format: str | None = None, images: Sequence[str] | None = None, out="shown"
) -> int:
    """Draw images of a data set with their objects into a folder. Returns the exit code: 1 where one cannot be read.

    source, format: as in check_data. images: names or patterns; None: 16 of each split, evenly spread. Raises
    ValueError or OSError for what is no data set, for a name that no image has, or an `out` that cannot be written."""
    from tinymrcnn.draw.contact_sheet import draw_target, spread
    from tinymrcnn.draw.figures import write_picture

    checked_paths("data show", source)
    datasets = {name: open_split(split, split.has_masks()) for name, split in parts_of(source, format).items()}
    chosen = [(part, index) for part, dataset in datasets.items() for index in _chosen(dataset, images, spread)]
    if not chosen:
        raise ValueError(f"No image is called {', '.join(map(printable, images or []))}.")
    folder, skipped = make_folder(out), 0
    taken: set[str] = set()
    for part, index in tqdm(chosen, desc="draw", unit="image", dynamic_ncols=True, disable=len(chosen) < 2):
        image = datasets[part].image_of(index)
        stem = Path(image["name"].replace("\\", "/")).stem
        while stem in taken:
            stem = f"{stem}_{part}_{image['id']}"
        taken.add(stem)
        try:
            write_picture(folder / f"{stem}_objects.png", draw_target(datasets[part], index))
        except (ValueError, OSError) as error:
            say(f"tinymrcnn: skipped: {told(error)}")
            skipped += 1
    print(f"Drew {len(chosen) - skipped} images into '{printable(folder)}'.")
    return 1 if skipped else 0


def _chosen(dataset, names: Sequence[str] | None, spread) -> list[int]:
    """The indices of the images with these names or patterns."""
    if names is None:
        return spread(len(dataset))
    found = []
    for index in range(len(dataset)):
        path = Path(dataset.image_of(index)["name"].replace("\\", "/"))
        if any(name in (path.as_posix(), path.name, path.stem) or fnmatch.fnmatch(path.as_posix(), name)
               for name in names):  # fmt: skip
            found.append(index)
    return found
