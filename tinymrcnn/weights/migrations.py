"""Files of older versions: what they lack or call otherwise, step by step, up to today's format.

A checkpoint's metadata carries the number of its format. Whoever changes what a checkpoint holds (a field that is new,
renamed or moved in Config or TrainConfig) adds 1 to FORMAT_VERSION and one function to MIGRATIONS, which names the
value that the older code worked with. So a default can change without changing the models that were trained before; a
field that is missing without such an entry is an error.

    1    No number; Config and TrainConfig as flat tables, of which the earliest files lack some fields.
    2    The number, and every field.
"""

from collections.abc import Callable

FORMAT_VERSION = 2

# Fields of Config that the earliest files lack, and what the code of then did
EARLIEST_CONFIG = {
    "train_min_sizes": [],
    "resize": "float",
    "round_sizes": False,
    "channel_order": "rgb",
    "pixel_scale": 1.0,
    "norm_eps": 1e-5,
    "rpn_fixed_count": False,
    "level_epsilon": [0.0, 1e-6],
    "clip_results": False,
    "paste_whole_pixels": False,
}


def from_format_1(metadata: dict) -> dict:
    return {**metadata, "config": {**EARLIEST_CONFIG, **metadata["config"]}}


# From the format of this number to the next one: a function of the metadata, which returns new ones
MIGRATIONS: dict[int, Callable[[dict], dict]] = {1: from_format_1}


def migrate(metadata: dict) -> dict:
    """The metadata of a checkpoint in today's format.

    Raises ValueError for a newer format or one that never was, and KeyError or TypeError where the metadata lack what
    their format has."""
    version = metadata.get("format_version", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"Its format_version is {version!r}, which no version of tinymrcnn has written.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"Its format has the number {version}, and this version knows formats up to {FORMAT_VERSION}: "
            "install a newer tinymrcnn to read it."
        )
    for step in range(version, FORMAT_VERSION):
        metadata = {**MIGRATIONS[step](metadata), "format_version": step + 1}
    return metadata
