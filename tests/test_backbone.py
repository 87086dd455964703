"""A classifier's ResNet in the body of a model: names of three families, what is read off the arrays, the refused."""

import pickle

import numpy as np
import pytest
from test_weights_safetensors import written
from tiny_models import TINY, tiny_model
from weight_files import tensors, write_detectron2, write_legacy, write_zip

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.cli import main
from tinymrcnn.data import ShapesDataset, write_coco
from tinymrcnn.models import build_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.settings import replace
from tinymrcnn.weights import CheckpointError, load_backbone, load_checkpoint, read_backbone

RESNETS = {
    "ResNet-18": ("basic", (2, 2, 2, 2)), "ResNet-34": ("basic", (3, 4, 6, 3)),
    "ResNet-50": ("bottleneck", (3, 4, 6, 3)), "ResNet-101": ("bottleneck", (3, 4, 23, 3)),
    "ResNet-152": ("bottleneck", (3, 8, 36, 3)),
}  # fmt: skip
SMALL = {name: value for name, value in TINY.items() if name not in ("depths", "widths", "stem_width")}


def body(block="basic", depths=(2, 2, 2, 2), widths=(4, 8, 8, 16), **overrides):
    """A model with a frozen, spread ResNet, and the arrays of its body by their names there, with a classifier's."""
    model = tiny_model(block=block, depths=depths, widths=widths, stem_width=4, norm="frozen", **overrides)
    prefix, rng = "backbone.body.", np.random.default_rng(0)
    arrays = {n.removeprefix(prefix): a for n, a in model.state_dict().items() if n.startswith(prefix)}
    counters = {n.replace("running_var", "num_batches_tracked"): np.array(9) for n in arrays if "running_var" in n}
    last = widths[-1] * (4 if block == "bottleneck" else 1)
    classifier = {"fc.weight": rng.normal(size=(10, last)).astype("f"), "fc.bias": np.zeros(10, "f")}
    return model, arrays | counters | classifier


def twin(backbone, **overrides):
    """A new model that fits the backbone, small elsewhere."""
    return build_model(replace(get_config("shapes"), **backbone.settings), **{**SMALL, **overrides})


def maps_of(model, seed=3):
    image = np.random.default_rng(seed).random((3, 64, 96), np.float32)
    with no_grad():
        return [feature.data for feature in model.eval().backbone.body(model.transform([image]).images)]


def detectron2_names(arrays):
    names = {}
    for name, array in arrays.items():
        name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
        for number in "123":
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
            name = name.replace(f"layer{number}.", f"res{int(number) + 1}.")
        name = name.replace("layer4.", "res5.")
        if "num_batches" not in name:
            names[f"stem.{name}" if name[:3] in ("con", "fc.") else name] = array
    return names


def caffe2_names(arrays):
    """Of a network whose normalisation has mean 0 and variance 1 (less the epsilon): scale and shift alone."""
    names = {"conv1_w": arrays["conv1.weight"], "pred_w": arrays["fc.weight"], "pred_b": arrays["fc.bias"]}
    names |= {"fc1000_w": arrays["fc.weight"], "fc1000_b": arrays["fc.bias"]}  # so in the files of ResNet-50 and -101
    names |= {"res_conv1_bn_s": arrays["bn1.weight"], "res_conv1_bn_b": arrays["bn1.bias"]}
    for name, array in arrays.items():
        if name.startswith("layer") and name.endswith(("weight", "bias")):
            stage, block, layer, *rest = name.split(".")
            branch = "branch1" if layer == "downsample" else "branch2" + "abc"[int(layer[-1]) - 1]
            scales = "bn" in layer or rest[0] == "1"
            kind = {"weight": "_bn_s" if scales else "_w", "bias": "_bn_b"}[rest[-1]]
            names[f"res{int(stage[-1]) + 1}_{block}_{branch}{kind}"] = array
    return names


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "detectron2"])
def test_the_body_sees_the_same(tmp_path, block, kind):
    model, arrays = body(block)
    path = tmp_path / "resnet.pth"
    if kind == "detectron2":
        write_detectron2(path, detectron2_names(arrays))
    else:
        {"zip": write_zip, "legacy": write_legacy}[kind](path, tensors(arrays))
    backbone = read_backbone(path)
    assert backbone.family == ("detectron2" if kind == "detectron2" else "torchvision")
    other = twin(backbone, seed=5)
    fresh = other.state_dict()
    report = load_backbone(other, backbone)
    for ours, theirs in zip(maps_of(other), maps_of(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert other.config.resnet == replace(model.config.resnet, norm="frozen") and other.config.resnet.block == block
    after = other.state_dict()
    for name in after:
        assert np.array_equal(after[name], fresh[name]) != name.startswith("backbone.body."), name
    count = sum(name.startswith("backbone.body.") for name in after)
    assert f"Loaded {count} arrays of a {backbone.name} from '{path}'" in report
    assert report.endswith(
        "trained from the beginning: backbone.fpn, rpn.head, roi_heads.box_head, roi_heads.box_predictor, "
        "roi_heads.mask_head, roi_heads.mask_predictor."
    )


def test_caffe2_scales_and_shifts(tmp_path):
    """Its models look at BGR pixels up to 255, and stride in the first convolution of a bottleneck."""
    model, arrays = body("bottleneck", stride_in_1x1=True)
    state = model.state_dict()
    for name, array in state.items():
        if "running" in name:
            array[:] = 0 if "mean" in name else 1 - 1e-5
    model.load_state_dict(state)
    blobs = caffe2_names(arrays) | {"conv1_w_momentum": arrays["conv1.weight"], "lr": 0.1, "weight_order": "x"}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "x"}, 2))
    backbone = read_backbone(tmp_path / "R-50.pkl")
    other = twin(backbone)
    load_backbone(other, backbone)
    assert backbone.family == "Caffe2" and other.config.resnet.stride_in_1x1
    transform = other.config.transform
    assert (transform.channel_order, transform.pixel_scale, transform.pixel_std) == ("bgr", 255.0, (1.0, 1.0, 1.0))
    assert transform == replace(get_config("detectron2_resnet50_fpn").transform, min_size=None, max_size=None,
                                train_min_sizes=(), resize="float", round_sizes=False)  # fmt: skip
    model.config = other.config
    for ours, theirs in zip(maps_of(other), maps_of(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("name", RESNETS)
def test_every_depth_is_recognised(tmp_path, name):
    block, depths = RESNETS[name]
    _, arrays = body(block, depths)
    backbone = read_backbone(write_zip(tmp_path / "r.pth", tensors(arrays)))
    assert backbone.name == name and backbone.settings["resnet.depths"] == depths
    assert backbone.settings["resnet.widths"] == (4, 8, 8, 16) and backbone.settings["resnet.stem_width"] == 4


def test_safetensors_and_groups(tmp_path):
    _, arrays = body("bottleneck", groups=2, expansion=2)
    arrays = {name: array for name, array in arrays.items() if "num_batches" not in name}
    path = written(tmp_path / "r.safetensors", arrays)
    backbone = read_backbone(path)
    assert (backbone.settings["resnet.groups"], backbone.settings["resnet.expansion"]) == (2, 2)
    assert backbone.name == "ResNeXt-26"
    load_backbone(twin(backbone), backbone)


def test_the_last_stage_of_c4_is_on_the_rois(tmp_path):
    _, arrays = body()
    backbone = read_backbone(write_zip(tmp_path / "r.pth", tensors(arrays)))
    c4 = build_model(replace(get_config("shapes_c4"), **backbone.settings), rpn_channels=8)
    report = load_backbone(c4, backbone)
    state = c4.state_dict()
    assert np.array_equal(state["roi_heads.layer4.0.conv1.weight"], arrays["layer4.0.conv1.weight"])
    assert "roi_heads.layer4" not in report and "backbone" not in report.partition("Fresh")[2]


def test_what_is_refused(tmp_path):
    _, arrays = body()
    path = tmp_path / "r.pth"
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        read_backbone(path)
    for change, message in (
        (lambda a: a.pop("layer3.0.conv2.weight"), r"r\.pth' is refused. It holds no ResNet .* begins with"),
        (lambda a: a["bn1.bias"].fill(np.inf), "not finite floats"),
    ):
        changed = {name: np.array(array) for name, array in arrays.items()}
        change(changed)
        with pytest.raises(CheckpointError, match=message):
            read_backbone(write_zip(path, tensors(changed)))
    missing = {name: array for name, array in arrays.items() if name != "layer2.0.bn1.weight"}
    backbone = read_backbone(write_zip(path, tensors(missing)))
    model = twin(backbone)
    before = model.state_dict()
    with pytest.raises(CheckpointError, match=r"ResNet-18 of .*does not fit(.|\n)*missing +layer2.0.bn1.weight"):
        load_backbone(model, backbone)
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_coco(ShapesDataset(3, (48, 64), seed=100), "set")
    write_zip(tmp_path / "r.pth", tensors(body()[1]))
    data = ["set/images", "set/annotations.json"]
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    argv = ["train", "--device", "cpu", "--data", *data, "--val", *data, "--steps", "1", "--backbone", "r.pth"]
    assert main([*argv, "--freeze-at", "2", "--out", "run", *small]) == 0
    printed = capsys.readouterr().out
    assert "arrays of a ResNet-18 from 'r.pth' (names of torchvision)" in printed and "frozen" in printed
    done = load_checkpoint("run/checkpoint.npz")
    assert done.config.resnet.norm == "frozen" and done.train_config.lr == 1e-4
    assert main(["train", "--device", "cpu", "--resume", "run", "--steps", "2"]) == 0
    assert main([*argv, "--weights", "run/model.npz"]) == 2
    assert "leave out --backbone" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_same_maps_as_torchvisions_backbone(tmp_path, name):
    """A classifier's random weights, saved by torch, in torchvision's own resnet_fpn_backbone and in ours."""
    import torch
    import torchvision

    torch.manual_seed(0)
    classifier = getattr(torchvision.models, name)(weights=None)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
    torch.save(classifier.state_dict(), tmp_path / "r.pth")
    theirs = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=name, weights=None, trainable_layers=0
    ).body.eval()
    theirs.load_state_dict(classifier.state_dict(), strict=False)
    backbone = read_backbone(tmp_path / "r.pth")
    assert backbone.name == name.replace("resnet", "ResNet-")
    ours = build_model(replace(get_config("torchvision_resnet50_fpn"), **backbone.settings))
    load_backbone(ours, backbone)
    x = np.random.default_rng(1).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with no_grad(), torch.no_grad():
        expected = list(theirs(torch.from_numpy(x)).values())
        for mine, their in zip(ours.eval().backbone.body(Tensor(x)), expected, strict=True):
            error = abs(mine.data - their.numpy()).max() / abs(their.numpy()).max()
            assert mine.shape == tuple(their.shape) and error < 1e-4
