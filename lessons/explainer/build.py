"""Builds the explainer, a page in which the package's own kernels detect live and can be opened:

    python lessons/explainer/build.py

It joins page.html, style.css, the scripts in js/, the kernels as WebAssembly (kernels.py), the weights of the model
that comes with the package, as numbers of 16 bits, and sample pictures into one file, index.html, which a double click
opens.

WebAssembly is linked by LLVM's linker: `apt-get install lld`, or `pip install ziglang`, or any wasm-ld that the
variable WASM_LD names.
"""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import tinymrcnn
from tinymrcnn.data import read_image
from tinymrcnn.draw import draw_instances

HERE = Path(__file__).resolve().parent
SAMPLES = [HERE.parents[1] / f"data/shapes_sample/images/{number:06d}.png" for number in (4, 14, 7, 12, 8, 10, 2, 3)]
DETECTOR = "memory layers detector".split()  # the scripts that compute; PAGE: those that show it
PAGE = "facts app drawing sums picture maps proposals trace roi drag branches challenges start".split()
LARGEST = 5_000_000  # bytes
# The settings that the detector's scripts read
SETTINGS = {
    "transform": "pixel_mean pixel_std size_divisible",
    "resnet": "depths strides",
    "rpn": "anchor_sizes aspect_ratios pre_nms_test post_nms_test nms min_proposal_size",
    "pooler": "sampling_ratio aligned canonical_size canonical_level level_epsilon",
    "box": "pool weights score_threshold nms max_detections min_box_size",
    "mask": "pool layers",
}


def text_of(*names):
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def base64_of(data):
    return base64.b64encode(data).decode()


def weights(model):
    """([name, shape] of every weight, their numbers one after the other as little-endian float16)."""
    state = model.state_dict()
    numbers = [array.astype("<f2").tobytes() for array in state.values()]
    return [[name, list(array.shape)] for name, array in state.items()], b"".join(numbers)


def settings(config):
    """The settings that the page needs, stage by stage, as JSON has them."""
    stages = {stage: getattr(config, stage) for stage in SETTINGS}
    found = {stage: {name: getattr(stages[stage], name) for name in names.split()} for stage, names in SETTINGS.items()}
    return {"num_classes": config.num_classes, **found}


def page(module, table):
    """The text of index.html. module: the bytes of the kernels. table: the types of their arguments and results."""
    model = tinymrcnn.load_model()
    manifest, numbers = weights(model)
    facts = {
        "kernels": table,
        "weights": manifest,
        "config": settings(model.config),
        "classes": ["background", *(category["name"] for category in model.categories)],
    }
    parts = {
        "style": text_of("style.css"),
        "facts": json.dumps(facts, separators=(",", ":")),
        "module": base64_of(module),
        "numbers": base64_of(numbers),
        "samples": json.dumps([base64_of(path.read_bytes()) for path in SAMPLES]),
        "first-frame": base64_of((HERE / "first_frame.png").read_bytes()),
        "detector": text_of(*(f"js/{name}.js" for name in DETECTOR)),
        "page": text_of(*(f"js/{name}.js" for name in PAGE)),
    }
    text = text_of("page.html")
    for name, part in parts.items():
        assert text.count(f"{{{{{name}}}}}") == 1, name
        text = text.replace(f"{{{{{name}}}}}", part)
    return text


def parts_of(text):
    """(the kernels' bytes, their table) of a page."""
    module = text.split('id="module">')[1].split("<")[0]
    return base64.b64decode(module), json.loads(text.split('id="facts">')[1].split("</script>")[0])["kernels"]


def linker():
    """The command that links WebAssembly, as a list; None where there is none."""
    names = [os.environ.get("WASM_LD", ""), "wasm-ld", *(f"wasm-ld-{version}" for version in range(30, 13, -1))]
    for name in names:
        if found := shutil.which(name):
            return [found]
    return [sys.executable, "-m", "ziglang", "wasm-ld"] if importlib.util.find_spec("ziglang") else None


def compiled_kernels():
    """The same two, compiled from the package's sources and linked by linker()."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, HERE / "kernels.py", folder], check=True)
        table = json.loads((Path(folder) / "kernels.json").read_text())
        out = Path(folder) / "kernels.wasm"
        options = ["-m", "wasm32", "--no-entry", "--allow-undefined", "--gc-sections", "--strip-all", "-o", out]
        exports = [f"--export={name}" for name in (*table, "__heap_base")]
        subprocess.run([*linker(), *options, *exports, *(f"{folder}/{name}.o" for name in table)], check=True)
        return out.read_bytes(), table


def draw_first_frame():
    """What shows where no script runs: the first sample picture with what the model finds in it."""
    model = tinymrcnn.load_model()
    model.eval()
    image = read_image(SAMPLES[0])
    Image.fromarray(draw_instances(image, model([image])[0], model.categories)).save(HERE / "first_frame.png")


def main():
    if linker() is None:
        sys.exit("There is no wasm-ld, LLVM's linker for WebAssembly: apt-get install lld, or pip install ziglang.")
    kernels = compiled_kernels()
    draw_first_frame()
    text = page(*kernels)
    assert len(text.encode()) <= LARGEST, f"The page has {len(text.encode()):,} bytes, more than {LARGEST:,}."
    (HERE / "index.html").write_text(text, encoding="utf-8")
    print(f"{HERE / 'index.html'}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
