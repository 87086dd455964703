"""The readers that the fuzzer (fuzz.py) is set on: annotations, images, checkpoints, public weights."""

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from fuzz_damage import ARRAY_EDITS, BYTE_EDITS, JSON_EDITS, Context, Target, spoil_arrays, spoil_bytes, spoil_json
from hypothesis import strategies as st
from PIL import Image
from test_weights_safetensors import CODES, written
from tiny_models import scene, tiny_model
from weight_files import pickled, tensors, write_detectron2, write_legacy, write_zip

from tinymrcnn.data import CocoDataset, ShapesDataset, read_image, write_coco
from tinymrcnn.safetensors import write_safetensors
from tinymrcnn.weights import load_model, load_public_model, load_weights, save_checkpoint


def small_data_set(folder: Path) -> dict:
    """Three images of 32 x 48 with objects of every form; returns the annotations."""
    write_coco(ShapesDataset(3, (32, 48), seed=3), folder)
    content = json.loads((folder / "annotations.json").read_text())
    content["categories"] = content["categories"][:2]
    masks = [
        [[2.0, 2.0, 9.0, 2.0, 9.5, 11.0]], {"size": [32, 48], "counts": [64, 6, 26, 6, 1434]},
        [[1, 1, 5, 1, 5, 5], [8, 8, 12, 8, 12, 12]],
    ]  # fmt: skip
    boxes = [[2, 2, 7.5, 9], [2, 0, 2, 6], [1, 1, 11, 11]]
    content["annotations"] = [
        {"id": i, "image_id": content["images"][i % 3]["id"], "category_id": 1 + i % 2, "bbox": boxes[i % 3],
         "segmentation": masks[i % 3], "area": 36.0, "iscrowd": int(i == 4)}
        for i in range(6)
    ]  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    return content


# Annotations


def prepare_annotations(folder: Path) -> Context:
    context = Context(folder, "spoilt.json", small_data_set(folder / "set"))
    assert run_annotations(context, ([], [], "utf-8")) is None
    return context


def run_annotations(context: Context, example) -> None:
    edits, byte_edits, encoding = example
    text = json.dumps(spoil_json(context.base, edits)).encode().decode().encode(encoding)
    (context.folder / "spoilt.json").write_bytes(spoil_bytes(text, byte_edits))
    dataset = CocoDataset(context.folder / "set" / "images", context.folder / "spoilt.json")
    for index in range(len(dataset)):
        dataset[index]


# Images

FORMATS = {
    "png": ("RGB", "P", "L", "LA", "RGBA", "1", "I;16"), "jpeg": ("RGB", "L", "CMYK"), "gif": ("P",),
    "bmp": ("RGB", "1"), "tiff": ("RGB", "I;16", "CMYK", "F"), "webp": ("RGB", "RGBA"), "ppm": ("RGB", "L"),
    "ico": ("RGBA",), "dds": ("RGB",), "avif": ("RGB",), "jpeg2000": ("RGB",), "tga": ("RGB",), "sgi": ("RGB",),
    "pcx": ("RGB",), "eps": ("RGB",), "pdf": ("RGB",), "im": ("RGB",), "spider": ("F",), "msp": ("1",), "xbm": ("1",),
    "blp": ("P",), "mpo": ("RGB",), "qoi": ("RGB",),
}  # fmt: skip
SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".gif", ".ppm", "")


def prepare_images(folder: Path) -> Context:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    bases = []
    for kind, modes in FORMATS.items():
        for mode in modes:
            file = io.BytesIO()
            with contextlib.suppress(Exception):  # this Pillow cannot write it
                image = Image.fromarray(pixels)
                if mode == "I;16":
                    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
                image.convert(mode).save(file, kind) if mode != "I;16" else image.save(file, kind)
                bases.append(file.getvalue())
    context = Context(folder, "spoilt", bases)
    assert len(bases) > 12 and run_images(context, (0, [], False, ".png")) is None
    return context


def with_checksums(content: bytes) -> bytes:
    """The chunks of a PNG file with checksums that are right again, so that the reader looks at what they hold."""
    place, out = 8, content[:8]
    while content[:4] == b"\x89PNG" and place + 12 <= len(content):
        length = min(struct.unpack(">I", content[place : place + 4])[0], len(content) - place - 12)
        chunk = content[place + 4 : place + 8 + length]
        out += content[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return out if place > 8 else content


def run_images(context: Context, example) -> None:
    base, edits, checksums, suffix = example
    content = spoil_bytes(context.base[base % len(context.base)], edits)
    path = context.folder / f"spoilt{suffix}"
    path.write_bytes(with_checksums(content) if checksums else content)
    read_image(path)


# Checkpoints


def prepare_checkpoint(folder: Path) -> Context:
    model = tiny_model(seed=1)
    model.categories = ShapesDataset.categories
    save_checkpoint(folder / "base.npz", model)
    context = Context(folder, "spoilt.npz", dict(np.load(folder / "base.npz")), scene(1, (32, 48))[0])
    assert run_checkpoint(context, ([], [], [], False)) is run_checkpoint(context, ([], [], [], True)) is None
    return context


def write_spoilt_checkpoint(path: Path, base: dict, edits, array_edits, byte_edits=(), safetensors=False) -> None:
    """edits: half of them are to the settings, the others to all metadata."""
    arrays = dict(base)
    metadata = json.loads(arrays.pop("metadata").item())
    for edit in edits:
        if edit[1] % 2:
            metadata = spoil_json(metadata, [edit])
        elif isinstance(metadata, dict) and "config" in metadata:
            metadata["config"] = spoil_json(metadata["config"], [edit])
    file, text, arrays = io.BytesIO(), json.dumps(metadata), spoil_arrays(arrays, array_edits)
    if safetensors:
        named = {name.removeprefix("weights/"): array for name, array in arrays.items() if array.dtype.str[1:] in CODES}
        write_safetensors(file, named, {"tinymrcnn": text})
    else:
        np.savez(file, metadata=np.array(text), **arrays)
    path.write_bytes(spoil_bytes(file.getvalue(), byte_edits))


def run_checkpoint(context: Context, example) -> None:
    edits, array_edits, byte_edits, safetensors = example
    path = context.folder / "spoilt.npz"
    write_spoilt_checkpoint(path, context.base, edits, array_edits, byte_edits, safetensors)
    load_model(path, "cpu").detect([context.more])


# Public weights


def prepare_public(folder: Path) -> Context:
    model = tiny_model(seed=2, norm="frozen", block="bottleneck")
    context = Context(folder, "spoilt.pth", model.state_dict(), model)
    for writer in range(6):
        assert run_public(context, (writer, [], [], [])) is None
    return context


def run_public(context: Context, example) -> None:
    """Damage to the arrays, to the pickle inside of a zip archive, and to the whole file."""
    writer, array_edits, program_edits, byte_edits = example
    path, state = context.folder / "spoilt.pth", spoil_arrays(context.base, array_edits)
    storable = "fib" if writer % 6 < 2 else "fibcUO"  # torch has no storages of other kinds
    state = {name: array if array.dtype.kind in storable else np.zeros(3) for name, array in state.items()}
    if writer % 6 == 5:
        written(path, {name: array for name, array in state.items() if array.dtype.str[1:] in CODES})
    elif writer % 6 == 0:
        program = spoil_bytes(pickled({"model": tensors(state)})[0], program_edits)
        write_zip(path, {"model": tensors(state)}, entries={"data.pkl": program})
    elif writer % 6 == 1:
        write_legacy(path, tensors(state))
    else:
        write_detectron2(path, state, writer % 6 + 1 if writer % 6 > 2 else 2)
    path.write_bytes(spoil_bytes(path.read_bytes(), byte_edits))
    load_weights(context.more, path)
    load_public_model(path, context.more.config)


READERS = {
    "annotations": Target(
        prepare_annotations, run_annotations,
        st.tuples(JSON_EDITS, st.just([]) | BYTE_EDITS, st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])),
    ),
    "images": Target(
        prepare_images, run_images,
        st.tuples(st.integers(0, 40), BYTE_EDITS, st.booleans(), st.sampled_from(SUFFIXES)),
    ),
    "checkpoint": Target(
        prepare_checkpoint, run_checkpoint,
        st.tuples(JSON_EDITS, st.just([]) | ARRAY_EDITS, st.just([]) | BYTE_EDITS, st.booleans()),
    ),
    "public": Target(
        prepare_public, run_public,
        st.tuples(st.integers(0, 5), st.just([]) | ARRAY_EDITS, BYTE_EDITS, st.just([]) | BYTE_EDITS),
    ),
}  # fmt: skip
