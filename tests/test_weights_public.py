"""Public weights into a model: every name finds its place, the background comes first, and what does not fit is told.

The translation into detectron2's names is written down here a second time, the other way round, and the published
lists of names and shapes are compared where they are at hand."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_tiny import imports_of
from tiny_models import BACKBONES, tiny_model
from weight_files import tensors, write_detectron2, write_legacy, write_zip

from tinymrcnn.data import coco_categories
from tinymrcnn.models import build_model
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.weights import CheckpointError, load_public_model, load_weights, loading, save_checkpoint
from tinymrcnn.weights.foreign import public_weights

LISTS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "state_dicts"
TORCHVISION = dict(norm="frozen", block="bottleneck", anchor_rounded=True, aligned=False, num_classes=5)
DETECTRON2 = dict(
    norm="frozen", block="bottleneck", stride_in_1x1=True, channel_order="bgr", pixel_scale=255.0, num_classes=5,
    pixel_std=(1, 1, 1),
)  # fmt: skip
RESNEXT = dict(DETECTRON2, groups=2, expansion=2, stride_in_1x1=False, pixel_std=(57.375, 57.12, 58.395))
BOX, MASK = "roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."


def public_state(model, seed=7):
    """Random arrays, all different, under the model's own names."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=array.shape).astype(np.float32) for name, array in model.state_dict().items()}


def old_torchvision_name(name):
    if name.startswith("backbone.fpn."):
        return name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
    if name.startswith("roi_heads.mask_head."):
        index, _, rest = name.removeprefix("roi_heads.mask_head.").split(".")
        return f"roi_heads.mask_head.mask_fcn{int(index) + 1}.{rest}"
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


def detectron2_name(name, backbone):
    bottom_up = "backbone.bottom_up." if backbone == "fpn" else "backbone."
    part = name.split(".")
    if name.startswith("backbone.fpn."):
        kind = {"inner_blocks": "lateral", "layer_blocks": "output"}[part[2]]
        return f"backbone.fpn_{kind}{int(part[3]) + 2}.{part[5]}"
    if part[1] in ("body", "layer4"):
        if name.startswith("backbone.body.conv1"):
            return f"{bottom_up}stem.conv1.{part[3]}"
        if name.startswith("backbone.body.bn1"):
            return f"{bottom_up}stem.conv1.norm.{part[3]}"
        stage = "roi_heads.res5" if name.startswith("roi_heads.") else f"{bottom_up}res{int(part[2][-1]) + 1}"
        block, *layer, kind = part[2 if name.startswith("roi_heads.") else 3 :]
        if layer[0] == "downsample":
            return f"{stage}.{block}.shortcut{'.norm' if layer[1] == '1' else ''}.{kind}"
        norm = ".norm" if layer[0].startswith("bn") else ""
        return f"{stage}.{block}.conv{layer[0][-1]}{norm}.{kind}"
    if name.startswith("roi_heads.mask_head."):
        return f"roi_heads.mask_head.mask_fcn{int(part[2]) + 1}.{part[4]}"
    for ours, theirs in {
        "rpn.head.conv.0.0": "proposal_generator.rpn_head.conv",
        "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
        "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        "box_head.fc6": "box_head.fc1",
        "box_head.fc7": "box_head.fc2",
        "mask_predictor.conv5_mask": "mask_head.deconv",
        "mask_predictor.mask_fcn_logits": "mask_head.predictor",
    }.items():
        name = name.replace(ours, theirs)
    return name


def detectron2_state(state, backbone, agnostic=False):
    """The same weights as detectron2 has them: its names, the background last, nothing for its box and mask."""
    theirs = {}
    for name, array in state.items():
        if name.startswith(BOX + "cls_score"):
            array = np.concatenate([array[1:], array[:1]])
        elif name.startswith(BOX + "bbox_pred"):
            array = array[4:]
        elif name.startswith(MASK) and not agnostic:
            array = array[1:]
        theirs[detectron2_name(name, backbone)] = array
    return theirs


def assert_loaded(model, state, skip=()):
    for name, array in model.state_dict().items():
        if name not in skip:
            assert np.array_equal(array, state[name]), name


def refused(model, path, message):
    before = model.state_dict()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    assert_loaded(model, before)
    return str(caught.value)


@pytest.fixture
def torchvision(tmp_path):
    """(path, state): weights that fit tiny_model(**TORCHVISION)."""
    state = public_state(tiny_model(**TORCHVISION))
    return write_zip(tmp_path / "w.pth", tensors(state)), state


# Names and classes


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
def test_torchvision(tmp_path, write, old):
    model = tiny_model(**TORCHVISION)
    state = public_state(model)
    file = {old_torchvision_name(name): array for name, array in state.items()} if old else dict(state)
    assert old == (file.keys() != state.keys())
    file["backbone.body.bn1.num_batches_tracked"] = np.array(3, np.int64)
    report = load_weights(model, write(tmp_path / "w.pth", tensors(file)))
    assert_loaded(model, state)
    assert report.family == "torchvision" and set(report.loaded) == set(state) and report.classes == (5, 5)
    assert (report.kept, report.left_out, report.notes) == ((), ("backbone.body.bn1.num_batches_tracked",), ())
    assert str(report) == f"Loaded {len(state)} arrays of weights from '{tmp_path / 'w.pth'}' (names of torchvision)."


@pytest.mark.parametrize("masks", [True, False], ids=["mask", "faster"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_detectron2(tmp_path, backbone, masks):
    model = tiny_model(**DETECTRON2, **BACKBONES[backbone], masks=masks)
    state = public_state(model)
    for name in (BOX + "bbox_pred.weight", BOX + "bbox_pred.bias", MASK + "weight", MASK + "bias"):
        if name in state:  # detectron2 has nothing for the background
            state[name][: 4 if "bbox" in name else 1] = 0
    file = detectron2_state(state, backbone)
    assert not any("layer" in name or "inner" in name or "fc6" in name for name in file)
    file |= {"pixel_mean": np.zeros((3, 1, 1)), "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4))}
    for protocol in (2, 5):
        model = tiny_model(**DETECTRON2, **BACKBONES[backbone], masks=masks)
        report = load_weights(model, write_detectron2(tmp_path / "w.pkl", file, protocol))
        assert_loaded(model, state)
        assert report.family == "detectron2" and report.classes == (5, 5) and report.notes == ()
        assert len(report.left_out) == 2 and len(report.loaded) == len(state) == len(file) - 2
    # as its trainer saves it
    load_weights(model, write_zip(tmp_path / "w.pth", {"model": tensors(file), "iteration": 3}))
    assert_loaded(model, state)


def test_detectron2_s_resnext(tmp_path):
    """What its weights were trained with, and no shape shows, is not what those of a ResNet were."""
    model = tiny_model(**RESNEXT)
    state = public_state(model)
    state[BOX + "bbox_pred.weight"][:4] = state[BOX + "bbox_pred.bias"][:4] = 0
    state[MASK + "weight"][:1] = state[MASK + "bias"][:1] = 0
    path = write_detectron2(tmp_path / "w.pkl", detectron2_state(state, "fpn"))
    report = load_weights(model, path)
    assert_loaded(model, state)
    assert report.family == "detectron2" and report.notes == report.kept == report.left_out == ()
    resnet = {name: DETECTRON2[name] for name in ("stride_in_1x1", "pixel_std")}
    notes = load_weights(tiny_model(**{**RESNEXT, **resnet}), path).notes
    assert len(notes) == 2 and "stride_in_1x1 = False, the model has True" in notes[0]
    assert "pixel_std = (57.375, 57.12, 58.395), the model has (1.0, 1.0, 1.0)" in notes[1]
    refused(tiny_model(**{**RESNEXT, "groups": 4}), path, r"wrong shape backbone\.body\.layer1\.0\.conv2\.weight")


def resnext101_entries():
    """(name, shape) of mask_rcnn_X_101_32x8d_FPN_3x, after detectron2's layers; 4 arrays of every normalisation."""
    yield "backbone.bottom_up.stem.conv1", (64, 3, 7, 7)
    channels = 64
    for stage, blocks in enumerate((3, 4, 23, 3)):
        width = 256 * 2**stage
        for block in range(blocks):
            name = f"backbone.bottom_up.res{stage + 2}.{block}."
            if block == 0:
                yield name + "shortcut", (width, channels, 1, 1)
            yield name + "conv1", (width, channels, 1, 1)
            yield name + "conv2", (width, width // 32, 3, 3)
            yield name + "conv3", (width, width, 1, 1)
            channels = width
        yield f"backbone.fpn_lateral{stage + 2}", (256, width, 1, 1)
        yield f"backbone.fpn_output{stage + 2}", (256, 256, 3, 3)
    yield "proposal_generator.rpn_head.conv", (256, 256, 3, 3)
    yield "proposal_generator.rpn_head.objectness_logits", (3, 256, 1, 1)
    yield "proposal_generator.rpn_head.anchor_deltas", (12, 256, 1, 1)
    yield "roi_heads.box_head.fc1", (1024, 256 * 7 * 7)
    yield "roi_heads.box_head.fc2", (1024, 1024)
    yield "roi_heads.box_predictor.cls_score", (81, 1024)
    yield "roi_heads.box_predictor.bbox_pred", (320, 1024)
    yield from ((f"roi_heads.mask_head.mask_fcn{i}", (256, 256, 3, 3)) for i in range(1, 5))
    yield "roi_heads.mask_head.deconv", (256, 256, 2, 2)
    yield "roi_heads.mask_head.predictor", (80, 256, 1, 1)


def test_every_entry_of_detectron2_s_resnext_has_its_place():
    """Of the full size, without a file, which would be as large as the model."""
    expected = {}
    for name, shape in resnext101_entries():
        if "bottom_up" in name:
            expected |= {f"{name}.norm.{kind}": shape[:1] for kind in ("weight", "bias", "running_mean", "running_var")}
        else:
            expected[f"{name}.bias"] = (256,) if name.endswith("deconv") else shape[:1]
        expected[f"{name}.weight"] = shape
    assert len(expected) == 562
    with without_drawing():
        model = build_model("detectron2_resnext101_fpn")
    shapes = {name: array.shape for name, array in (*model.named_parameters(), *model.named_buffers())}
    found = {detectron2_name(name, "fpn"): shape for name, shape in shapes.items()}
    for name in PREDICTORS:  # detectron2 has a background for the classifier only
        if not name.startswith(BOX + "cls_score"):
            found[detectron2_name(name, "fpn")] = (shapes[name][0] * 80 // 81, *shapes[name][1:])
    assert found == expected


def test_background_first():
    rng = np.random.default_rng(0)
    theirs = {
        BOX + "cls_score.weight": rng.normal(size=(4, 2)), BOX + "cls_score.bias": np.array([1.0, 2, 3, 9]),
        BOX + "bbox_pred.weight": rng.normal(size=(12, 2)), BOX + "bbox_pred.bias": np.arange(12.0),
        MASK + "weight": rng.normal(size=(3, 5, 1, 1)), MASK + "bias": np.array([5.0, 6, 7]),
    }  # fmt: skip
    ours = public_weights.background_first(theirs)
    assert ours[BOX + "cls_score.bias"].tolist() == [9, 1, 2, 3]
    assert np.array_equal(ours[BOX + "cls_score.weight"], theirs[BOX + "cls_score.weight"][[3, 0, 1, 2]])
    assert ours[BOX + "bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(12)]
    assert ours[MASK + "bias"].tolist() == [0, 5, 6, 7]
    assert not ours[MASK + "weight"][0].any() and np.array_equal(ours[MASK + "weight"][1:], theirs[MASK + "weight"])
    x = rng.normal(size=2)
    scores, boxes = (ours[BOX + kind + ".weight"] @ x for kind in ("cls_score", "bbox_pred"))
    assert np.array_equal(scores[1:], (theirs[BOX + "cls_score.weight"] @ x)[:3])
    assert np.array_equal(boxes.reshape(4, 4)[1:], (theirs[BOX + "bbox_pred.weight"] @ x).reshape(3, 4))


@pytest.mark.parametrize("classes", [2, 5])
def test_class_agnostic_masks(tmp_path, classes):
    settings = dict(DETECTRON2, num_classes=classes, class_agnostic_masks=True)
    model = tiny_model(**settings)
    state = public_state(model)
    state[BOX + "bbox_pred.weight"][:4] = state[BOX + "bbox_pred.bias"][:4] = 0
    load_weights(model, write_detectron2(tmp_path / "w.pkl", detectron2_state(state, "fpn", agnostic=True)))
    assert_loaded(model, state)


# Other classes, no mask branch, other conventions


@pytest.mark.parametrize("family", ["torchvision", "detectron2", "tinymrcnn"])
def test_another_number_of_classes(tmp_path, family):
    settings = DETECTRON2 if family == "detectron2" else TORCHVISION
    source = tiny_model(**settings)
    state = public_state(source)
    path = tmp_path / "w"
    if family == "torchvision":
        write_zip(path, tensors(state))
    elif family == "detectron2":
        write_detectron2(path, detectron2_state(state, "fpn"))
    else:
        source.load_state_dict(state)
        save_checkpoint(path, source)
    model = tiny_model(seed=1, **{**settings, "num_classes": 3})
    before = model.state_dict()
    report = load_weights(model, path)
    kept = {prefix + kind for prefix in (BOX + "cls_score.", BOX + "bbox_pred.", MASK) for kind in ("weight", "bias")}
    assert set(report.kept) == kept and report.family == family and report.classes == (5, 3)
    assert set(report.loaded) == set(state) - kept
    assert_loaded(model, {**state, **{name: before[name] for name in kept}})
    assert "The file knows 5 classes, the model 3 (background included): the predictors keep" in str(report)
    assert BOX + "cls_score.weight" in str(report) and report.notes == ()


def named(*names):
    return [{"label": label, "name": name, "id": 10 * label} for label, name in enumerate(names, start=1)]


def by_class(state, name, classes):
    return state[name].reshape(classes, -1)


PREDICTORS = [prefix + kind for prefix in (BOX + "cls_score.", BOX + "bbox_pred.", MASK) for kind in ("weight", "bias")]


def assert_rows(model, source, before, rows):
    """rows: for every label of the model the label in the source, or None where the row is as it was before."""
    after, (theirs, ours) = model.state_dict(), (source[BOX + "cls_score.bias"].size, model.config.num_classes)
    for name in PREDICTORS:
        for label, row in enumerate(rows):
            expected = by_class(before, name, ours)[label] if row is None else by_class(source, name, theirs)[row]
            assert np.array_equal(by_class(after, name, ours)[label], expected), (name, label)
    assert_loaded(model, source, skip=PREDICTORS)


@pytest.mark.parametrize(
    "theirs, ours, rows, text",
    [
        # another order
        ("abcd", "dcba", [0, 4, 3, 2, 1], "4 of the model's 4 classes: the predictors keep what they learned of d, c"),
        # another class of the same number
        ("abcd", "abxd", [0, 1, 2, None, 4], "3 of the model's 4 classes: the predictors keep what they learned of a, "
         "b, d.\nNew to the predictors, and to be trained from the beginning: x."),
        # fewer, and more
        ("abcd", "db", [0, 4, 2], "2 of the model's 2 classes"),
        ("abcd", "xaybzc", [0, None, 1, None, 2, None, 3], "3 of the model's 6 classes"),
        # none but the background
        ("abcd", "wxyz", [0, None, None, None, None], "none of the model's 4 classes.\nNew to the predictors, and"),
    ],
)  # fmt: skip
def test_predictors_of_the_same_names_are_carried_over(tmp_path, theirs, ours, rows, text):
    source = tiny_model(seed=1, num_classes=5)
    source.categories = named(*theirs)
    save_checkpoint(tmp_path / "own.npz", source)
    model = tiny_model(seed=2, num_classes=len(ours) + 1)
    model.categories = named(*ours)
    before = model.state_dict()
    report = load_weights(model, tmp_path / "own.npz")
    assert_rows(model, source.state_dict(), before, rows)
    assert report.carried == tuple(name for name in ours if name in theirs)
    assert report.new == tuple(name for name in ours if name not in theirs)
    assert report.kept == () and f"By name the file knows {text}" in str(report)


def test_the_same_names_in_the_same_order_load_as_they_are(tmp_path):
    source, model = tiny_model(seed=1), tiny_model(seed=2)
    source.categories = model.categories = named(*"abcde")
    save_checkpoint(tmp_path / "own.npz", source)
    report = load_weights(model, tmp_path / "own.npz")
    assert_loaded(model, source.state_dict())
    assert report.carried is None and report.new == () and len(str(report).splitlines()) == 1


def test_class_agnostic_masks_belong_to_all_classes(tmp_path):
    source, model = tiny_model(1, class_agnostic_masks=True), tiny_model(2, class_agnostic_masks=True, num_classes=3)
    source.categories, model.categories = named(*"abcde"), named(*"ex")
    save_checkpoint(tmp_path / "own.npz", source)
    load_weights(model, tmp_path / "own.npz")
    assert_loaded(model, source.state_dict(), skip=PREDICTORS[:4])
    scores = model.state_dict()[BOX + "cls_score.bias"]
    assert np.array_equal(scores[:2], source.state_dict()[BOX + "cls_score.bias"][[0, 5]])


@pytest.mark.parametrize("agnostic", [False, True])
def test_masks_by_an_mlp_keep_what_they_know_of_a_class(tmp_path, agnostic):
    """Of a class it has a row for every cell of the mask, here 4 x 4; of no class in particular just as many."""
    settings = dict(mask_head="mlp", mask_pool=2, class_agnostic_masks=agnostic)
    source, model = tiny_model(1, **settings), tiny_model(2, **settings, num_classes=4)
    source.categories, model.categories = named(*"abcde"), named(*"exb")
    save_checkpoint(tmp_path / "own.npz", source)
    before, report = model.state_dict(), load_weights(model, tmp_path / "own.npz")
    assert report.carried == ("e", "b") and report.new == ("x",)
    logits = [f"roi_heads.mask_predictor.mask_fc_logits.{kind}" for kind in ("weight", "bias")]
    for name in logits:
        new, old, own = model.state_dict()[name], source.state_dict()[name], before[name]
        if agnostic:
            assert np.array_equal(new, old) and len(new) == 16
        else:
            new, old, own = (array.reshape(-1, 16, *array.shape[1:]) for array in (new, old, own))
            assert np.array_equal(new[[0, 1, 3]], old[[0, 5, 2]]) and np.array_equal(new[2], own[2])
    assert_loaded(model, source.state_dict(), skip=[*PREDICTORS, *logits])


@pytest.mark.parametrize("family, classes", [("torchvision", 91), ("detectron2", 81)])
def test_public_files_know_the_names_of_coco(tmp_path, family, classes):
    settings = {**(DETECTRON2 if family == "detectron2" else TORCHVISION), "num_classes": classes}
    state = public_state(tiny_model(**settings))
    if family == "torchvision":
        path = write_zip(tmp_path / "w", tensors(state))
    else:
        for name in PREDICTORS[2:]:  # detectron2 has nothing for the background
            state[name][: 4 if "bbox" in name else 1] = 0
        path = write_detectron2(tmp_path / "w", detectron2_state(state, "fpn"))
    model = tiny_model(seed=1, **{**settings, "num_classes": 4})
    model.categories = named("dog", "circle", "person")
    before = model.state_dict()
    report = load_weights(model, path)
    dog = [category["name"] for category in coco_categories(classes)].index("dog") + 1
    assert_rows(model, state, before, [0, dog, None, 1])
    assert report.carried == ("dog", "person") and report.new == ("circle",)


def test_a_model_with_other_categories_than_classes(tmp_path, torchvision):
    model = tiny_model(**TORCHVISION)
    model.categories = named("a")
    with pytest.raises(ValueError, match="The model has 5 classes with the background, and 1 categories"):
        load_weights(model, torchvision[0])


def test_the_model_of_a_public_file(torchvision, monkeypatch):
    """Read once; the classes and the branches are those of the file."""
    path, state = torchvision
    reads, read_public = [], loading.read_public
    monkeypatch.setattr(loading, "read_public", lambda path: reads.append(path) or read_public(path))
    preset = tiny_model(**{**TORCHVISION, "num_classes": 91}).config
    model, report = load_public_model(path, preset)
    assert reads == [path] and not model.training and model.config.num_classes == 5 and model.config.masks
    assert model.categories is None and len(report.loaded) == len(state)
    assert_loaded(model, state)
    boxes = {name: array for name, array in state.items() if not name.startswith("roi_heads.mask")}
    assert not load_public_model(write_zip(path, tensors(boxes)), preset)[0].config.masks
    with pytest.raises(ValueError, match="There is no preset 'resnet'"):
        load_public_model(path, "resnet")


def test_a_public_file_that_claims_many_classes(torchvision, little_memory):
    """A classifier without width for a million classes takes 4 MB in the file; the model would take a hundred times."""
    path, state = torchvision
    preset = tiny_model(**TORCHVISION).config
    state[BOX + "cls_score.bias"] = np.zeros(10**6, np.float32)
    state[BOX + "cls_score.weight"] = np.zeros((10**6, 0), np.float32)
    write_zip(path, tensors(state))
    for read in (lambda: load_public_model(path, preset), lambda: load_weights(tiny_model(**TORCHVISION), path)):
        with pytest.raises(CheckpointError, match=r"w\.pth'(.|\n)*does not fit(.|\n)*cls_score"):
            read()


def test_other_classes_excuse_no_other_shape(tmp_path, torchvision):
    path, state = torchvision
    message = refused(tiny_model(**{**TORCHVISION, "num_classes": 3, "mask_channels": 6}), path, "does not fit")
    assert "wrong shape" in message and MASK + "weight" in message and MASK + "bias" not in message
    state[MASK + "bias"] = state[MASK + "bias"][:4]
    refused(tiny_model(**TORCHVISION), write_zip(path, tensors(state)), "wrong shape roi_heads.mask_predictor")
    del state[BOX + "cls_score.bias"]
    refused(tiny_model(**TORCHVISION), write_zip(path, tensors(state)), r"missing +roi_heads\.box_predictor\.cls_score")


def test_a_model_without_masks(torchvision):
    path, state = torchvision
    model = tiny_model(**TORCHVISION, masks=False)
    report = load_weights(model, path)
    assert_loaded(model, state)
    assert set(state) - set(report.left_out) == set(report.loaded) == set(model.state_dict())
    assert f"The model has no mask branch: {len(report.left_out)} arrays" in str(report)
    # the other way round something is missing
    mask_rcnn = tiny_model(**TORCHVISION)
    refused(mask_rcnn, write_zip(path, tensors(public_state(model))), r"missing +roi_heads\.mask_head\.0\.0\.weight")


def test_other_conventions_are_told(tmp_path, torchvision):
    path, state = torchvision
    report = load_weights(tiny_model(**DETECTRON2), path)
    assert len(report.notes) == 5
    assert "Warning: the weights were trained with stride_in_1x1 = False, the model has True" in str(report)
    model = tiny_model(**TORCHVISION)
    model.load_state_dict(state)
    save_checkpoint(tmp_path / "own.npz", model)
    notes = load_weights(tiny_model(**{**TORCHVISION, "aligned": True}), tmp_path / "own.npz").notes
    assert len(notes) == 1 and "trained with aligned = False" in notes[0]


def test_our_own_file(tmp_path):
    model, other = tiny_model(seed=1), tiny_model(seed=2)
    save_checkpoint(tmp_path / "own.pth", model)  # known by its content, not its name
    report = load_weights(other, tmp_path / "own.pth")
    assert_loaded(other, model.state_dict())
    assert report.family == "tinymrcnn" and report.notes == report.kept == report.left_out == ()


def test_other_floats(tmp_path):
    model = tiny_model(**TORCHVISION)
    state = {name: array.astype(np.float64) for name, array in public_state(model).items()}
    load_weights(model, write_zip(tmp_path / "w.pth", tensors(state)))
    assert_loaded(model, {name: array.astype(np.float32) for name, array in state.items()})
    assert all(array.dtype == np.float32 for array in model.state_dict().values())
    half = {name: array.astype(np.float16) for name, array in state.items()}
    load_weights(model, write_zip(tmp_path / "w.pth", tensors(half)))
    assert_loaded(model, half)


# What does not fit


def test_the_table(tmp_path, torchvision):
    path, state = torchvision
    del state["rpn.head.cls_logits.bias"]
    state["extra\x1b[31m"] = np.zeros((2, 3), np.float32)
    state["roi_heads.box_head.fc7.bias"] = np.zeros(9, np.float32)
    message = refused(tiny_model(**TORCHVISION), write_zip(path, tensors(state)), r"does not fit the model \(shapes\)")
    lines = [line.split() for line in message.splitlines()[1:]]
    assert lines == [
        ["entry", "in", "the", "file", "in", "the", "model"],
        ["wrong", "shape", "roi_heads.box_head.fc7.bias", "(9,)", "(8,)"],
        ["missing", "rpn.head.cls_logits.bias", "-", "(3,)"],
        ["unexpected", r"extra\x1b[31m", "(2,", "3)", "-"],
    ]
    columns = [line.index(word) for line, word in zip(message.splitlines()[2:], ("(9,)", "-  ", "(2,"), strict=True)]
    assert len(set(columns)) == 1  # a table: the columns stand below each other


def test_a_long_table_is_cut(tmp_path, torchvision):
    path, state = torchvision
    state |= {f"extra.{i}": np.zeros(1, np.float32) for i in range(50)}
    message = refused(tiny_model(**TORCHVISION, depths=(1, 1, 4, 1)), write_zip(path, tensors(state)), "does not fit")
    assert "unexpected ... and 38 more" in message and len(message.splitlines()) == 2 + 13 + 13
    deeper = refused(tiny_model(**DETECTRON2, **BACKBONES["c4"]), path, "Does the preset belong to the file?")
    assert "wrong shape" in deeper


def test_numbers_that_cannot_be_weights(tmp_path, torchvision):
    path, state = torchvision
    name = "backbone.body.layer2.0.conv1.weight"
    for wrong in (np.nan, np.inf, -np.inf):
        changed = {**state, name: state[name].copy()}
        changed[name][1, 2] = wrong
        refused(tiny_model(**TORCHVISION), write_zip(path, tensors(changed)), rf"{name} \(float32\).*not finite")
    for array in (np.full(state[name].shape, 1e39), np.ones(state[name].shape, np.int64)):
        refused(
            tiny_model(**TORCHVISION), write_zip(path, tensors({**state, name: array})), rf"{name} \((float|int)64\)"
        )


# What is no file of weights


def test_missing_empty_and_foreign_files(tmp_path):
    model, path = tiny_model(), tmp_path / "w.pth"
    for name in (path, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file of weights"):
            load_weights(model, name)
    for content, message in (
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "is a web page and holds no weights.*download the file again"),
        (b"\n\n<html>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "no file of weights in a format that is known"),
        (b"cos\nsystem\n(S'true'\ntR.", r"no file of weights in a format that is known here \(it begins with b.cos"),
        (b"\x1f\x8b\x08" + bytes(50), "no file of weights in a format"),
        (b"PK\x03\x04" + bytes(500), "truncated or damaged"),
        (b"\x80", "ends in the middle"),
    ):
        path.write_bytes(content)
        refused(model, path, rf"w\.pth' is refused\. It.*{message}")


def test_files_that_hold_something_else(tmp_path):
    model, path = tiny_model(), tmp_path / "w.pkl"
    for value, message in (
        ([1, 2], "holds no named arrays, but a list"),
        ({}, "holds no named arrays, but a dict"),
        (3, "holds no named arrays, but a int"),
        ({"epoch": 3, "net\n": {}}, r"no dictionary of named arrays; the entries that it has are: 'epoch', 'net\\n'"),
        (
            {"backbone.body.a": np.zeros(1), "roi_heads.mask_head.mask_fcn" + "9" * 5000 + ".bias": np.zeros(1)},
            "999999",
        ),
        ({1: np.zeros(3)}, "no dictionary of named arrays"),
        ({"model": {"a": [np.zeros(3)]}}, "no dictionary of named arrays; the entries that it has are: 'a'"),
        ({"conv1.weight": np.zeros(3), "fc.bias": np.zeros(3)}, "Its names are neither.*'conv1.weight', 'fc.bias'"),
    ):
        path.write_bytes(pickle.dumps(value))
        refused(model, path, message)
    same = {"backbone.body.a": np.zeros(3), "rpn.head.conv.bias": np.zeros(3), "rpn.head.conv.0.0.bias": np.zeros(3)}
    path.write_bytes(pickle.dumps(same))
    refused(model, path, r"'rpn\.head\.conv\.0\.0\.bias' twice, under an old and a new name")


def test_a_trap_is_named_and_not_sprung(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"backbone.stem.conv1.weight": Trap()}, "__author__": "Detectron2"}))
    refused(tiny_model(), path, rf"model_final\.pkl' is refused\. It asks for the Python object '{os.mkdir.__module__}")
    assert not (tmp_path / "sprung").exists()


def test_a_compressed_checkpoint_of_our_own(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, metadata=np.array("{}"), **{"weights/a": np.zeros(10**6)})
    refused(tiny_model(), path, "compressed archive")


# The published lists


def listed(name, column=0):
    """{name: shape} of a list of names and shapes; column 2: the old names."""
    entries = {}
    for line in (LISTS / name).read_text().splitlines():
        if not line.startswith("#"):
            fields = line.split("\t")
            key = fields[column] if len(fields) > column and column != 0 else fields[0]
            entries[key] = tuple(int(size) for size in fields[1].strip("()").split(",") if size.strip())
    return entries


@pytest.mark.skipif(not LISTS.is_dir(), reason="the lists of published names are not at hand")
@pytest.mark.parametrize(
    "preset, file, column, count",
    [
        ("torchvision_resnet50_fpn", "torchvision_maskrcnn_r50fpn_keys.txt", 0, 307),
        ("torchvision_resnet50_fpn", "torchvision_maskrcnn_r50fpn_keys.txt", 2, 307),
        ("detectron2_resnet50_fpn", "detectron2_mask_rcnn_R_50_FPN_3x_keys.txt", 0, 307),
        ("detectron2_resnet50_c4", "detectron2_mask_rcnn_R_50_C4_3x_keys.txt", 0, 279),
    ],
)
def test_every_published_entry_finds_its_place(tmp_path, preset, file, column, count):
    """Full size: the file is filled with small numbers that depend on the entry, and all of them arrive."""
    shapes = listed(file, column)
    assert len(shapes) == count
    values = {name: np.float32(i / 1000) for i, name in enumerate(shapes, start=1)}
    state = {name: np.full(shape, values[name]) for name, shape in shapes.items()}
    if preset.startswith("detectron2"):
        path = write_detectron2(tmp_path / "w.pkl", state)
    else:
        path = write_zip(tmp_path / "w.pth", tensors(state))
    model = build_model(preset)
    report = load_weights(model, path)
    path.unlink()
    assert len(report.loaded) == count and report.kept == report.left_out == report.notes == ()
    for name, array in model.state_dict().items():
        if preset.startswith("detectron2"):
            name = detectron2_name(name, "c4" if preset.endswith("c4") else "fpn")
        elif column == 2:
            name = old_torchvision_name(name)
        assert array.flat[-1] == values.pop(name)
    assert not values


# torchvision itself


@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_torchvision_s_own_model(tmp_path, new):
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    twin = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    torch.save(twin.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    model = build_model("torchvision_resnet50_fpn")
    report = load_weights(model, tmp_path / "w.pth")
    assert len(report.loaded) == 307 and len(report.left_out) == 53 and report.notes == report.kept == ()
    assert_loaded(model, {name: tensor.numpy() for name, tensor in twin.state_dict().items()})


# The rooms


def test_our_own_files_and_those_of_others_are_read_apart():
    """The readers of foreign files know nothing of checkpoints, nor checkpoints of them; both stand on archives.py and
    safetensors.py."""
    package = Path(public_weights.__file__).parents[1]
    for path in (package / "foreign").glob("*.py"):
        imported = imports_of(path.read_text())
        assert not [name for name in imported if name.startswith(("tinymrcnn.weights.", "tinymrcnn.models"))
                    and not name.startswith("tinymrcnn.weights.foreign.")], path.name  # fmt: skip
    assert not [name for name in imports_of((package / "checkpoint.py").read_text()) if "foreign" in name]
