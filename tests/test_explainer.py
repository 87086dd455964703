"""The explainer, lessons/explainer/index.html: the committed page is what its sources build, and computes what the
package computes."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium

import tinymrcnn
from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import channels_last
from tinymrcnn.data import ShapesDataset
from tinymrcnn.roi import roi_align, roi_pool

TESTS = Path(__file__).resolve().parent
EXPLAINER = TESTS.parent / "lessons/explainer"
PAGE = EXPLAINER / "index.html"
# Pictures of three sizes, non-square and not multiples of 32 too
PICTURES = [
    ShapesDataset(3, seed=1),
    ShapesDataset(3, image_size=(96, 160), seed=2),
    ShapesDataset(4, (100, 75), seed=3),
]
# The same order of operations gives the same bits; a sum in another order, or another exp, differs by rounding
EXACT = {"images", "anchors", "labels"}
RELATIVE = 1e-4


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("explainer_build", EXPLAINER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    """The model that comes with the package, with the page's weights of 16 bits."""
    model = tinymrcnn.load_model()
    model.load_state_dict({name: w.astype(np.float16).astype(np.float32) for name, w in model.state_dict().items()})
    model.eval()
    return model


@no_grad()
def stages(model, image):
    """Every array of one detection by its name, maps as [N, H, W, C], as in the page."""
    batch = model.transform([image])
    maps = model.backbone.body(batch.images)
    levels = model.features(batch)
    outputs = model.run_rpn(levels, batch)
    proposals = model.propose(outputs, batch)
    roi_features = model.roi_features(levels, proposals, model.config.box.pool)
    box_logits, box_deltas = model.box_branch(roi_features)
    detections = model.box_detections(roi_features, batch, proposals)
    mask_logits = model.mask_branch(levels, [detections[0]["boxes"]])
    masks = model.mask_detections(levels, detections)
    pasted = model.postprocess([{**detections[0], "masks": masks[0]}], batch)[0]["masks"]
    arrays = {
        "picture": image.transpose(1, 2, 0), "images": channels_last(batch.images.data),
        "logits": outputs.logits.data, "deltas": outputs.deltas.data, "anchors": outputs.anchors.boxes,
        "proposals": proposals[0], "box_logits": box_logits.data, "box_deltas": box_deltas.data, **detections[0],
        "mask_logits": channels_last(mask_logits.data), "masks": masks[0], "pasted": pasted,
    }  # fmt: skip
    arrays |= {f"c{i}": channels_last(map.data) for i, map in enumerate(maps, start=2)}
    arrays |= {f"p{i}": channels_last(map.data) for i, map in enumerate(levels, start=2)}
    rois = np.concatenate([np.zeros((len(proposals[0]), 1), np.float32), proposals[0]], axis=1)[::5]
    arrays["rois"] = rois
    for i, level in enumerate(levels, start=2):
        arrays[f"roi_pool-{i}"] = channels_last(roi_pool(level, rois, 7, 1 / 2**i).data)
        for ratio, aligned in ((2, True), (0, False)):
            name = f"roi_align-{i}-{ratio}-{str(aligned).lower()}"
            arrays[name] = channels_last(roi_align(level, rois, 7, 1 / 2**i, ratio, aligned).data)
    return arrays


def write_cases(model, folder):
    """The pictures and the arrays for tests/explainer.js."""
    cases = []
    for image in [dataset[i][0] for dataset in PICTURES for i in range(len(dataset))]:
        arrays = stages(model, image)
        for name, array in arrays.items():
            (folder / f"{len(cases)}-{name}.bin").write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
        shapes = {name: array.shape for name, array in arrays.items()}
        cases.append({"height": image.shape[1], "width": image.shape[2], "shapes": shapes})
    (folder / "cases.json").write_text(json.dumps(cases))
    return cases


def compare(page, model, folder):
    """What tests/explainer.js finds in Node for the ten pictures."""
    write_cases(model, folder)
    command = ["node", str(TESTS / "explainer.js"), str(page), str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def check(results):
    assert len(results) == 10
    for number, result in enumerate(results):
        assert len(result) == 33
        for name, found in result.items():
            if name in EXACT or name.startswith("roi_"):
                assert found == {"difference": 0, "unequal": 0}, (number, name, found)
            else:
                assert found["difference"] < RELATIVE, (number, name, found)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="runs JavaScript: there is no Node")


@needs_node
def test_every_stage_computes_what_python_computes(model, tmp_path):
    check(compare(PAGE, model, tmp_path))


def test_the_page_is_what_its_sources_build(build):
    """All but the kernels, which other versions of Numba and LLVM compile to other bytes."""
    text = PAGE.read_text(encoding="utf-8")
    same = text == build.page(*build.parts_of(text))
    assert same, "Build the page anew: python lessons/explainer/build.py"  # without 4 MB of difference
    assert len(text.encode()) <= build.LARGEST


def test_the_page_asks_for_nothing_from_outside():
    """It opens by a double click, without a network: no address but those of the article's sources in links."""
    text = PAGE.read_text(encoding="utf-8")
    for asking in ("src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        for place in text.split(asking)[1:]:
            assert place.startswith(('"data:', "data:", '"" ')), (asking, place[:80])


@pytest.mark.exhaustive
@pytest.mark.skipif(find_chromium() is None, reason="opens a page: there is no Chromium or Chrome")
def test_the_same_in_a_browser(model, tmp_path):
    cases = write_cases(model, tmp_path)
    with Chromium() as page:
        page.open(PAGE.as_uri(), "typeof app == 'object' && app.found")
        page.run((TESTS / "explainer.js").read_text(encoding="utf-8"))
        page.give_files(sorted(map(str, tmp_path.glob("*.bin"))))
        results = [
            page.run(f"compareCase(app.detector, {json.dumps(case)}, (name) => files[`{number}-${{name}}.bin`])")
            for number, case in enumerate(cases)
        ]
    check(results)


@pytest.mark.exhaustive
@needs_node
def test_the_kernels_are_what_their_sources_build(build, model, tmp_path):
    """Compiled and linked anew; other versions of Numba and LLVM give other bytes, but the same numbers."""
    if build.linker() is None:
        pytest.skip("There is no wasm-ld: apt-get install lld, or pip install ziglang")
    module, table = build.compiled_kernels()
    assert table == build.parts_of(PAGE.read_text(encoding="utf-8"))[1]
    page = tmp_path / "index.html"
    page.write_text(build.page(module, table), encoding="utf-8")
    check(compare(page, model, tmp_path))
