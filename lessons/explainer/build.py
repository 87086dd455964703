"""Builds the explainer, a page in which the package's own kernels detect live and can be opened:

    python lessons/explainer/build.py

It joins page.html, style.css, the scripts in js/, the kernels as WebAssembly (kernels.py), the weights of the model
that comes with the package, as numbers of 16 bits, and sample pictures into one file, index.html, which a double click
opens.
"""

import base64
import dataclasses
import json
from pathlib import Path

import tinymrcnn

HERE = Path(__file__).resolve().parent
SAMPLES = [HERE.parents[1] / f"data/shapes_sample/images/{number:06d}.png" for number in (10, 2, 4, 7, 8, 12, 14, 1)]
DETECTOR = ("memory", "layers", "detector")  # the scripts that compute; PAGE: those that show it
PAGE = ("facts", "app", "drawing", "sums", "picture", "maps", "proposals", "roi", "drag", "branches", "challenges", "start")
LARGEST = 5_000_000  # bytes


def text_of(*names):
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def base64_of(data):
    return base64.b64encode(data).decode()


def weights(model):
    """([name, shape] of every weight, their numbers one after the other as little-endian float16)."""
    state = model.state_dict()
    numbers = [array.astype("<f2").tobytes() for array in state.values()]
    return [[name, list(array.shape)] for name, array in state.items()], b"".join(numbers)


def page(module, table):
    """The text of index.html. module: the bytes of the kernels. table: the types of their arguments and results."""
    model = tinymrcnn.load_model()
    manifest, numbers = weights(model)
    facts = {
        "kernels": table,
        "weights": manifest,
        "config": dataclasses.asdict(model.config),
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


def main():
    import kernels

    text = page(*kernels.build())
    assert len(text.encode()) <= LARGEST, f"The page has {len(text.encode()):,} bytes, more than {LARGEST:,}."
    (HERE / "index.html").write_text(text, encoding="utf-8")
    print(f"{HERE / 'index.html'}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
