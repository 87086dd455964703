"""The body of a model from a file of a classifier: a ResNet-18 to 152 that has seen ImageNet, which is how the paper
begins (section 3.1), and everyone after it.

Three families name its arrays: torchvision's resnet18, ..., resnet152; detectron2's stem and res2 to res5; and
Caffe2's, of the models by the ResNet paper's authors, whose normalisation is a scale and a shift and which look at
pixels as detectron2's presets do. The depth and the widths are read off the arrays.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights.checkpoint import CheckpointError
from tinymrcnn.weights.comparison import differences, no_weights, shapes_of
from tinymrcnn.weights.foreign.public_weights import DETECTRON2, read_file, state_dict, translate

BODY = "backbone.body."
LAST_STAGE = "roi_heads.layer4."  # where a C4 model has the fourth stage
STAGES = ("layer1", "layer2", "layer3", "layer4")
EPS = 1e-5  # of the normalisation in all three families
NOT_OF_THE_BODY = r"^(stem\.)?fc(1000)?[._]|^pred_|_momentum$|^conv1_b$|num_batches_tracked$|^(lr|weight_order|epoch)$"
CAFFE2 = (
    (r"^res_conv1_bn_", "bn1_"),
    (r"^res(\d)_(\d+)_branch1_bn_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1_"),
    (r"^res(\d)_(\d+)_branch1_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0_"),
    (r"^res(\d)_(\d+)_branch2([abc])_bn_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{'abc'.index(m[3]) + 1}_"),
    (r"^res(\d)_(\d+)_branch2([abc])_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.conv{'abc'.index(m[3]) + 1}_"),
    (r"_[ws]$", ".weight"),
    (r"_b$", ".bias"),
)
RGB = {
    "transform.channel_order": "rgb", "transform.pixel_scale": 1.0, "transform.pixel_mean": (0.485, 0.456, 0.406),
    "transform.pixel_std": (0.229, 0.224, 0.225), "resnet.stride_in_1x1": False,
}  # fmt: skip
BGR = {
    "transform.channel_order": "bgr", "transform.pixel_scale": 255.0,
    "transform.pixel_mean": (103.53, 116.28, 123.675), "transform.pixel_std": (1.0, 1.0, 1.0),
    "resnet.stride_in_1x1": True,
}  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """weights: {name within the body: array}. settings: {field of Config: value} of a model with such a body."""

    path: Path
    family: str
    weights: dict[str, np.ndarray]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        depths, basic = self.settings["resnet.depths"], self.settings["resnet.block"] == "basic"
        layers = (2 if basic else 3) * sum(depths) + 2
        return f"ResNeXt-{layers}" if self.settings["resnet.groups"] > 1 else f"ResNet-{layers}"


def read_backbone(path) -> Backbone:
    """The ResNet of a file of torch.save, a pickle or safetensors; nothing that it holds is run.

    Raises FileNotFoundError, and CheckpointError, which names the file, where it is damaged or holds no ResNet with
    four stages."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights '{path}'.")
    try:
        family, weights = _named_as_ours(_unwrapped(read_file(path)))
        if problem := no_weights(weights):
            raise RefusedError(problem)
        return Backbone(path, family, weights, _settings(weights) | (BGR if family == "Caffe2" else RGB))
    except RefusedError as error:
        raise CheckpointError(f"The file of weights '{path}' is refused. {error}") from error


def _unwrapped(value) -> dict[str, np.ndarray]:
    """The named arrays of what a file holds; Caffe2's lie under "blobs", beside other things."""
    if type(value) is dict and type(value.get("blobs")) is dict:
        value = {name: array for name, array in value["blobs"].items() if isinstance(array, np.ndarray)}
    arrays = state_dict(value)
    return {name: array for name, array in arrays.items() if not re.search(NOT_OF_THE_BODY, name)}


def _named_as_ours(arrays: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """(family, {name within the body: array})."""
    if "conv1_w" in arrays:
        weights = translate(arrays, CAFFE2)
        for name in [name for name in weights if re.search(r"(bn\d|downsample\.1)\.weight$", name)]:
            norm, ones = name.removesuffix("weight"), np.ones_like(weights[name])
            weights |= {f"{norm}running_mean": 0 * ones, f"{norm}running_var": (1 - EPS) * ones}
        return "Caffe2", weights
    if "stem.conv1.weight" in arrays:
        long = {f"backbone.bottom_up.{name}": array for name, array in arrays.items()}
        translated = translate(long, DETECTRON2)
        return "detectron2", {name.removeprefix(BODY): array for name, array in translated.items()}
    return "torchvision", dict(arrays)


def _settings(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the ResNet of a Config must be to hold these arrays. Raises RefusedError where they are none."""
    blocks = [{name.split(".")[1] for name in weights if name.startswith(f"{stage}.")} for stage in STAGES]
    second = [weights.get(f"{stage}.0.conv2.weight") for stage in STAGES]
    filters = [weights.get("conv1.weight"), *second]
    if not all(isinstance(array, np.ndarray) and array.ndim == 4 and array.size for array in filters):
        names = ", ".join(ascii(name)[:80] for name in list(weights)[:4])
        raise RefusedError(
            f"It holds no ResNet of a stem and four stages as a classifier has it: it begins with {names}."
        )
    widths = tuple(len(array) for array in second if array is not None)
    bottleneck, third = "layer1.0.conv3.weight" in weights, weights.get("layer1.0.conv3.weight", second[0])
    assert second[0] is not None and third is not None  # checked above
    return {
        "resnet.block": "bottleneck" if bottleneck else "basic",
        "resnet.depths": tuple(len(numbers) for numbers in blocks),
        "resnet.widths": widths,
        "resnet.groups": max(1, widths[0] // second[0].shape[1]) if bottleneck else 1,
        "resnet.expansion": max(1, len(third) // widths[0]) if bottleneck else 4,
        "resnet.stem_width": len(weights["conv1.weight"]),
        "resnet.norm": "frozen",
        "resnet.norm_eps": EPS,
    }


def load_backbone(model, backbone: Backbone) -> str:
    """Copy the weights into the body of a model that has the Backbone's settings. Returns what was done, to print.

    Raises CheckpointError, with a table, where they do not fit; the model is unchanged then."""
    own = shapes_of(model)
    places = {name: name.removeprefix(BODY) for name in own if name.startswith(BODY)}
    places |= {name: name.removeprefix("roi_heads.") for name in own if name.startswith(LAST_STAGE)}
    needed = set(places.values())
    found = {
        name: array for name, array in backbone.weights.items() if name in needed or not name.startswith("layer4.")
    }
    if table := differences(found, {place: own[name] for name, place in places.items()}):
        raise CheckpointError(f"The {backbone.name} of '{backbone.path}' does not fit the model's backbone.\n{table}")
    model.load_state_dict({**model.state_dict(), **{name: found[place] for name, place in places.items()}})
    fresh = [part for part, names in _parts(own).items() if not names & places.keys()]
    return (
        f"Loaded {len(places)} arrays of a {backbone.name} from '{backbone.path}' (names of {backbone.family}) into "
        f"the backbone. Fresh, and to be trained from the beginning: {', '.join(fresh)}."
    )


def _parts(names) -> dict[str, set[str]]:
    """The names of a model's arrays by the part they belong to: "backbone.body", "rpn.head", ..."""
    parts: dict[str, set[str]] = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:2]), set()).add(name)
    return parts
