"""The readers of other people's formats, as the fuzzer (fuzz.py) is set on them: of a data set in each format, a file
is damaged; then the set is recognised, opened, and all of its images and masks are read.
"""

import json
import shutil
import warnings
from pathlib import Path

import format_writers as writers
from fuzz_damage import BYTE_EDITS, JSON_EDITS, Context, Target, spoil_bytes, spoil_json
from hypothesis import strategies as st

from tinymrcnn.data import DataWarning
from tinymrcnn.data.formats import open_source, open_split

LAYOUTS = ("coco", "roboflow", "original_coco", "yolo", "labelme", "via", "cvat", "labelstudio", "ids", "cellpose",
           "instances", "voc", "colored_voc", "cityscapes")  # fmt: skip
POLYGONS_ALONE = ("yolo", "via")


def prepare_formats(folder: Path) -> Context:
    for layout in LAYOUTS:
        able = layout not in POLYGONS_ALONE
        getattr(writers, f"write_{layout}")(folder / layout, writers.scenes(holes=able, parts=able))
    context = Context(folder, "spoilt")
    for number in range(len(LAYOUTS)):
        assert run_formats(context, (number, 0, [], [])) is None
    return context


def run_formats(context: Context, example) -> None:
    number, which, edits, byte_edits = example
    folder, spoilt = context.folder / LAYOUTS[number % len(LAYOUTS)], context.folder / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    shutil.copytree(folder, spoilt)
    files = sorted(path for path in spoilt.rglob("*") if path.is_file())
    texts = [path for path in files if path.suffix in (".json", ".xml", ".txt", ".yaml")]
    file = (texts or files)[which % len(texts or files)]
    content = file.read_bytes()
    if file.suffix == ".json":
        content = json.dumps(spoil_json(json.loads(content), edits)).encode()
    file.write_bytes(spoil_bytes(content, byte_edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        for split in open_source(spoilt).splits.values():
            dataset = open_split(split, split.has_masks())
            for index in range(len(dataset)):
                dataset[index]


FORMAT_READERS = {
    "formats": Target(
        prepare_formats, run_formats,
        st.tuples(st.integers(0, 13), st.integers(0, 20), JSON_EDITS, st.just([]) | BYTE_EDITS),
    ),
}  # fmt: skip
