"""ONNX files: onnxruntime finds in them what the model finds.

Where two candidates are equal but for rounding, a choice between them goes either way: which of two scores is the
higher, whether a box is at a threshold or beyond it, which proposal is the last of the best. So objects are compared
without regard to their order, random models make few proposals, which leaves few choices, and their predictors are
scaled to differ as those of a trained model do. Scaled, they are as far from float64 as from each other, half a
thousandth of a pixel; a trained model is compared to a ten-thousandth.
"""

import functools
import json
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_models import C4, C5, FCIS, MNC, RESNEXT, scene, tiny_model
from torchvision_twin import SMALL, calibrate, small_model, standardize

from tinymrcnn import build_model, load_model
from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import channels_first
from tinymrcnn.cli import main
from tinymrcnn.data import ShapesDataset
from tinymrcnn.export import export_body, export_model, graph
from tinymrcnn.export.detector import assign_levels, iou_threshold, rescale
from tinymrcnn.export.transform import transform
from tinymrcnn.models import list_presets, pooler
from tinymrcnn.models.pooler import PoolerSettings
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.transform import Batch, TransformSettings, make_batch
from tinymrcnn.nn import Module
from tinymrcnn.weights import save_checkpoint

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install -e '.[export]').")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install -e '.[export]').")

RANDOM = 1e-3  # how far the findings of random models may be apart
SIZES = [(128, 128), (96, 160), (200, 130), (90, 333)]


def run(exported, **inputs):
    """{name: array} of the outputs of an onnx.ModelProto, or of the file of one."""
    content = exported if isinstance(exported, str) else exported.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def same(model, found, image, tolerance=1e-4):
    """Whether an exported model has found what the model finds. Returns how many objects that is."""
    (expected,) = model.detect([image])
    assert found.keys() == expected.keys() and (np.diff(found["scores"]) <= 0).all()
    distances = abs(found["boxes"][:, None] - expected["boxes"]).sum(axis=2)
    distances[found["labels"][:, None] != expected["labels"]] = np.inf
    partner = distances.argmin(axis=0) if distances.size else np.zeros(0, int)
    assert sorted(partner) == list(range(len(found["scores"])))
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype, name
        differences = abs(found[name][partner] - array)
        assert (differences <= tolerance).all(), f"{name}: {differences.max()}"
    return len(expected["scores"])


@functools.cache
def shapes_model():
    model = load_model(device="cpu")
    return model, export_model(model)


@no_grad()
def outspoken(model, image):
    """With predictors scaled to what those of a trained model put out, so that classes, scores and masks differ."""
    heads, batch = model.roi_heads, model.transform([image])
    features = model.features(batch)
    hidden = [model.rpn.head.conv(feature) for feature in features]
    standardize(model.rpn.head.cls_logits, [model.rpn.head.cls_logits(x).data for x in hidden], 2.0)
    rois = [boxes[::7] for boxes in model.propose(model.run_rpn(features, batch), batch)]
    outputs = model.box_branch(model.roi_features(features, rois, model.config.box.pool))
    standardize(heads.box_predictor.cls_score, [outputs[0].data], 2.0)
    standardize(heads.box_predictor.bbox_pred, [outputs[1].data], 1.0)
    if model.config.masks:
        mlp = model.config.mask.head == "mlp"
        logits = model.mask_branch(features, rois).data
        layer = heads.mask_predictor.mask_fc_logits if mlp else heads.mask_predictor.mask_fcn_logits
        standardize(layer, [logits.reshape(len(logits), -1) if mlp else logits], 3.0)
    return model


# The whole model


@pytest.mark.parametrize("size", SIZES)
def test_the_trained_model_finds_the_same(size):
    model, exported = shapes_model()
    for image, _ in (ShapesDataset(2, size, seed=5)[i] for i in range(2)):
        assert same(model, run(exported, image=image), image) > 5


def test_an_image_without_objects():
    model, exported = shapes_model()
    image = np.full((3, 70, 90), 0.5, np.float32)
    found = run(exported, image=image)
    assert same(model, found, image) == 0 and found["masks"].shape == (0, 28, 28)


FEW = dict(rpn_pre_nms_test=200, rpn_post_nms_test=60)


@pytest.mark.parity
def test_openvino_finds_the_same():
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (pip install -e '.[bench]').")
    model, exported = shapes_model()
    core = openvino.Core()
    network = core.compile_model(
        core.read_model(exported.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for image in (ShapesDataset(1, (96, 160), seed=5)[0][0], np.full((3, 70, 90), 0.5, np.float32)):
        found = {value.get_any_name(): array for value, array in network({0: image}).items()}
        assert (same(model, found, image) > 5) == (image.std() > 0)


PRESETS = {
    "torchvision": ("torchvision_resnet50_fpn", dict(min_size=200, max_size=300)),
    "longer side": ("torchvision_resnet50_fpn", dict(min_size=200, max_size=250)),
    "no multiple of 32": ("torchvision_resnet50_fpn", dict(min_size=150, max_size=250, size_divisible=1)),
    "detectron2": ("detectron2_resnet50_fpn", dict(min_size=190, max_size=250)),
    "smaller": ("detectron2_resnet50_fpn", dict(min_size=97, max_size=300)),
    "paper": ("paper_resnet50_fpn", dict(min_size=200, max_size=250)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_find_the_same(name):
    """Small ones, with the paper's, torchvision's and detectron2's settings, and seeded weights."""
    preset, overrides = PRESETS[name]
    image, _ = ShapesDataset(1, (120, 170), seed=5)[0]
    model = calibrate(small_model(preset, **FEW, **overrides), image).eval()
    assert same(model, run(export_model(model), image=image), image, RANDOM) > 50


VARIANTS = {
    "c4": C4,
    "c5": C5,
    "c5, dilated": {**C5, "strides": (1, 2, 1, 1)},
    "c4, roi_pool": {**C4, "roi_op": "roi_pool"},
    "roi_pool": dict(roi_op="roi_pool"),
    "roi_warp": dict(roi_op="roi_warp"),
    "adaptive": dict(sampling_ratio=0),
    "largest sample": dict(reduce="max"),
    "not aligned": dict(aligned=False),
    "groups": dict(norm="group"),
    "frozen": dict(norm="frozen"),
    "resnext": RESNEXT,
    "softmax": dict(mask_loss="softmax"),
    "softmax, all": dict(mask_loss="softmax", softmax_decoding="all"),
    "class-agnostic": dict(class_agnostic_masks=True),
    "mlp": dict(mask_head="mlp"),
    "boxes alone": dict(masks=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_find_the_same(name):
    image, _ = scene(3, (100, 150))
    model = outspoken(tiny_model(1, **FEW, **VARIANTS[name]).eval(), image)
    found = run(export_model(model), image=image)
    assert same(model, found, image, RANDOM) > 10
    assert len(set(found["labels"])) > 1 and found["scores"].std() > 0.05
    assert "masks" not in found or found["masks"].std() > 0.05


# Its parts


@pytest.mark.parametrize("resize", ["float", "pillow"])
@pytest.mark.parametrize("size", [(37, 53), (120, 64), (61, 240)])
def test_images_are_transformed_to_the_last_bit(resize, size):
    image = np.random.default_rng(0).random((3, *size), np.float32)
    pillow = dict(round_sizes=True, channel_order="bgr", pixel_scale=255.0, pixel_mean=(103.53, 116.28, 123.675))
    for min_size, max_size in ((50, None), (50, 90), (200, 301)):
        settings = TransformSettings(min_size, max_size, resize=resize, **(pillow if resize == "pillow" else {}))
        g = graph.Graph(Module())
        values = transform(g, "image", settings)
        exported = g.model(
            [("image", "image", np.float32, [3, "h", "w"])],
            [("images", values[0], np.float32, [1, 3, "H", "W"]), ("after", values[1], np.int64, [2]),
             ("before", values[2], np.int64, [2])], "", {},
        )  # fmt: skip
        found, batch = run(exported, image=image), make_batch([image], settings=settings)
        assert tuple(found["after"]) == batch.sizes[0] and tuple(found["before"]) == size
        assert np.array_equal(found["images"], batch.images.data)


def test_levels_are_the_same_at_their_borders():
    """Boxes of 112, 224 and 448 pixels are the smallest of their levels, or the largest of those before."""
    sides = np.array([1, 20, 111.99, 112, 112.01, 223.9, 224, 300, 447.99, 448, 448.01, 2000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    for epsilon in ((0.0, 1e-6), (1e-8, 0.0), (0.0, 0.0)):
        settings = PoolerSettings(level_epsilon=epsilon)
        g = graph.Graph(Module())
        levels = assign_levels(g, "boxes", scales, settings)
        sides_of = ("boxes", "boxes", np.float32, ["R", 4]), ("levels", levels, np.float32, ["R"])
        found = run(g.model([sides_of[0]], [sides_of[1]], "", {}), boxes=boxes)["levels"]
        expected = pooler.assign_levels(boxes, scales, settings)
        assert np.array_equal(found, expected) and set(expected) == {0, 1, 2, 3}


@pytest.mark.parametrize("clipped", [False, True])
def test_boxes_in_the_image_as_it_came_in(clipped):
    """Scaled by two factors; with box.clip_results also cut at its edges, and dropped where nothing is left."""
    boxes = np.array([[1, 2, 30, 40], [-3, 5, 9, 70], [60, 3, 64, 9], [8, 8, 8, 9]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    size, original = (64, 48), (31, 53)
    g = graph.Graph(Module())
    sizes = [g.constant(np.array(pair)) for pair in (size, original)]
    values = rescale(g, {"boxes": "boxes", "scores": "scores"}, *sizes, clipped)
    inputs = [("boxes", "boxes", np.float32, [4, 4]), ("scores", "scores", np.float32, [4])]
    outputs = [("out", values["boxes"], np.float32, ["D", 4])]
    if clipped:
        outputs.append(("kept", values["scores"], np.float32, ["D"]))
    feeds = {"boxes": boxes, "scores": scores} if clipped else {"boxes": boxes}
    found = run(g.model(inputs[: len(feeds)], outputs, "", {}), **feeds)
    batch = Batch(Tensor(np.zeros((1, 3, 64, 64), np.float32)), [size], [original], [0], None)
    (expected,) = tiny_model(clip_results=clipped).rescale([{"boxes": boxes, "scores": scores}], batch)
    assert np.array_equal(found["out"], expected["boxes"]) and len(expected["boxes"]) == (2 if clipped else 4)
    assert not clipped or np.array_equal(found["kept"], expected["scores"])


def test_the_body_alone():
    model = tiny_model(2, extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (128,))).eval()
    image = np.random.default_rng(0).standard_normal((1, 96, 160, 3), np.float32)
    with no_grad():
        expected = model.backbone.fpn(model.backbone.body(Tensor(channels_first(image))))
    exported = export_body(model, (96, 160))
    found = run(exported, images=image.transpose(0, 3, 1, 2).copy())
    assert list(found) == ["map0", "map1", "map2", "map3", "map4"]
    for array, maps in zip(found.values(), expected, strict=True):
        assert array.shape == maps.shape and abs(array - maps.data).max() < 1e-5 * abs(maps.data).max()
    assert {node.op_type for node in exported.graph.node} == {"Conv", "Relu", "MaxPool", "Resize", "Add"}
    with pytest.raises(ValueError, match="multiples of 32 pixels, not for 90x160"):
        export_body(model, (90, 160))


def test_what_the_file_says():
    model, exported = shapes_model()
    assert [(part.domain, part.version) for part in exported.opset_import] == [("", graph.OPSET)]
    weights = {tensor.name for tensor in exported.graph.initializer if not tensor.name.startswith("constant_")}
    assert weights - model.state_dict().keys() == {  # the biases that normalisations leave to their convolutions
        f"{name}.bias" for name, module in model.named_modules() if name + ".weight" in weights and module.bias is None
    }
    metadata = {entry.key: entry.value for entry in exported.metadata_props}
    assert metadata["preset"] == "shapes" and json.loads(metadata["categories"]) == model.categories
    assert "0 to 1" in exported.doc_string


def test_thresholds_decide_as_ours_do():
    """As in nms.survivors, where boxes with just this IoU stay."""
    for threshold in (0.5, 0.7):
        assert iou_threshold(threshold).dtype == np.float32 and iou_threshold(threshold) == np.float32(threshold)
    assert float(np.float32(0.7)) < 0.7 and float(np.float32(0.3)) > 0.3
    assert iou_threshold(0.3) == np.nextafter(np.float32(0.3), np.float32(0))


# What cannot be exported


@pytest.mark.parametrize(
    "overrides, message",
    [
        (FCIS, "FCIS cannot be exported: ONNX has no operators for its RoI features"),
        (MNC, "MNC cannot be exported"),
        (dict(reduce="max", sampling_ratio=0), "only where a bin has a fixed number of them"),
    ],
)
def test_models_that_onnx_cannot_express(overrides, message):
    with pytest.raises(ValueError, match=message):
        export_model(tiny_model(**overrides))


def test_without_onnx_a_sentence_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(tmp_path / "model.onnx")]) == 2
    assert "the package onnx is needed, in a clone pip install -e '.[export]'." in capsys.readouterr().err


# The command


def test_the_command_writes_a_file(tmp_path, capsys):
    out = tmp_path / "new" / "shapes.onnx"
    assert main(["export", str(out), "--set", "score_threshold=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "shapes.onnx: 4.8 MB" in printed and "image: (3, height, width) float32" in printed
    image, _ = ShapesDataset(1, (100, 140), seed=2)[0]
    found = run(str(out), image=image)
    assert len(found["scores"]) > 2 and found["scores"].min() > 0.5
    assert main(["export", str(out)]) == 2
    assert "exists already: name another file, or remove it." in capsys.readouterr().err
    assert main(["export", str(tmp_path / "other.onnx"), "--set", "mask.head=mlp"]) == 2
    assert "part of what was trained" in capsys.readouterr().err


def test_a_checkpoint_and_a_public_file(tmp_path, capsys):
    checkpoint, out = tmp_path / "model.npz", tmp_path / "model.onnx"
    model = tiny_model(3).eval()
    save_checkpoint(checkpoint, model)
    assert main(["export", str(checkpoint), str(out)]) == 0
    assert same(model, run(str(out), image=scene(1)[0]), scene(1)[0], RANDOM) > 0
    public = tmp_path / "public.pth"
    public.write_bytes(b"PK")
    assert main(["export", str(public), str(tmp_path / "public.onnx")]) == 2
    assert "name it with --preset" in capsys.readouterr().err


def test_an_image_file_as_the_readme_has_it(tmp_path):
    """From a file to the graph's input, without this package."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image = np.asarray(Image.open(tmp_path / "photo.png").convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    model, exported = shapes_model()
    assert run(exported, image=image)["boxes"].shape[1] == 4
    assert np.array_equal(image, pixels.transpose(2, 0, 1) / np.float32(255))


def test_every_preset_of_mask_rcnn_is_a_graph_that_onnx_accepts():
    """Small ones: full-size weights change nothing in it."""
    for name in list_presets():
        config = get_config(name)
        if config.model == "mask_rcnn":
            model = build_model(name, **SMALL, groups=min(4, config.resnet.groups))
            onnx.checker.check_model(export_model(model), full_check=True)
