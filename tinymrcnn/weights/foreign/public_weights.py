"""Public files of weights as arrays under our names: torchvision's .pth, detectron2's .pkl or .pth, or .safetensors.

The models are the same networks under other names. This file translates the names of both families into ours
(which are torchvision's) and puts the background first among the classes. Lesson 15 walks through it.
"""

import re
from pathlib import Path

import numpy as np

from tinymrcnn.archives import RefusedError, open_zip
from tinymrcnn.safetensors import is_safetensors, read_metadata, read_safetensors
from tinymrcnn.weights.foreign.pickled_arrays import ARRAYS
from tinymrcnn.weights.foreign.pickles import read_pickle
from tinymrcnn.weights.foreign.torch_files import MAGIC, read_torch_legacy, read_torch_zip

NAMES = 12  # that a message lists

# Names: what a family calls an entry, and what we call it

# torchvision's names of 2019, which its published files may still hold
OLD_TORCHVISION = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0."),
)
DETECTRON2 = (
    # ResNet; "bottom_up" where an FPN stands on it; the last stage of C4 runs on RoIs
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"^backbone\.stem\.", "backbone.body."),
    (r"^backbone\.res(\d)\.", lambda match: f"backbone.body.layer{int(match[1]) - 1}."),
    (r"^roi_heads\.res5\.", "roi_heads.layer4."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    # FPN
    (r"^backbone\.fpn_lateral(\d)\.", lambda match: f"backbone.fpn.inner_blocks.{int(match[1]) - 2}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda match: f"backbone.fpn.layer_blocks.{int(match[1]) - 2}.0."),
    # RPN
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    # box and mask branch
    (r"^roi_heads\.box_head\.fc([12])\.", lambda match: f"roi_heads.box_head.fc{int(match[1]) + 5}."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
# Not weights: counters, and constants that our Config holds
NOT_WEIGHTS = r"\.num_batches_tracked$|^pixel_(mean|std)$|anchor_generator\.cell_anchors"

# Fields of Config: what a family's weights were trained for, where no shape shows it
CONVENTIONS = {
    "torchvision": {
        "stride_in_1x1": False, "channel_order": "rgb", "pixel_scale": 1.0, "anchor_rounded": True, "aligned": False,
    },
    "detectron2": {
        "stride_in_1x1": True, "channel_order": "bgr", "pixel_scale": 255.0, "pixel_std": (1.0, 1.0, 1.0),
        "anchor_rounded": False, "aligned": True,
    },
}  # fmt: skip
# detectron2's ResNeXt was trained elsewhere than its ResNets
RESNEXT = {"stride_in_1x1": False, "pixel_std": (57.375, 57.12, 58.395)}

CLASSIFIER, BOX_REGRESSION, MASK_LOGITS = PREDICTORS = (
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
)
MASK_BRANCH = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")

# From the file to arrays under our names


def read_public(path: Path) -> tuple[str, dict[str, np.ndarray], dict]:
    """(family, {our name: array}, {field of Config: the value that the weights were trained for}) of a public file.
    The classes are still in the order of the family. Raises RefusedError."""
    state = state_dict(read_file(path))
    family = _family(state)
    weights = translate(state, DETECTRON2 if family == "detectron2" else OLD_TORCHVISION)
    of_resnext = RESNEXT if family == "detectron2" and _has_groups(weights) else {}
    return family, weights, CONVENTIONS[family] | of_resnext


def is_our_own(path: Path) -> bool:
    """Whether a file is a checkpoint of tinymrcnn, by its content. Raises RefusedError for a damaged archive."""
    with open(path, "rb") as file:
        start = file.read(16)
        if is_safetensors(start, path.stat().st_size):
            file.seek(0)
            return "tinymrcnn" in read_metadata(file)
    if not start.startswith(b"PK"):
        return False
    with open_zip(path) as archive:
        return "metadata.npy" in archive.namelist()


def read_file(path: Path):
    """What a file of torch.save or of safetensors, or a pickle, holds. Raises RefusedError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
        file.seek(0)
        if not start:
            raise RefusedError("It is empty: it was not written to its end, or not copied whole.")
        if is_safetensors(start, size):  # first: its length may begin as the files below do
            return read_safetensors(file, size)
        if start.startswith(b"PK"):
            return read_torch_zip(path)
        if start.startswith(b"\x80"):
            value = read_pickle(file, size, ARRAYS)
            return read_torch_legacy(file, size) if type(value) is int and value == MAGIC else value
        if start.lstrip().startswith(b"<"):
            raise RefusedError(
                f"It is a web page and holds no weights (it begins with {start!r}): the download got a message "
                "from the server instead of the file. Open it in a browser to read it, and download the file again."
            )
        raise RefusedError(f"It is no file of weights in a format that is known here (it begins with {start!r}).")


def state_dict(value) -> dict[str, np.ndarray]:
    """The dictionary of arrays, which training scripts and detectron2 put under "model"."""
    if type(value) is dict and type(value.get("model")) is dict:
        value = value["model"]
    if type(value) is not dict or not value:
        raise RefusedError(f"It holds no named arrays, but a {type(value).__name__}.")
    if not all(type(name) is str and isinstance(array, np.ndarray) for name, array in value.items()):
        names = ", ".join(ascii(name)[:80] for name in list(value)[:NAMES])
        raise RefusedError(f"It holds no dictionary of named arrays; the entries that it has are: {names}.")
    return value


def _family(state: dict) -> str:
    if any(name.startswith("backbone.body.") for name in state):
        return "torchvision"
    if any(name.startswith(("backbone.bottom_up.", "backbone.stem.", "backbone.res")) for name in state):
        return "detectron2"
    names = ", ".join(ascii(name)[:80] for name in list(state)[:4])
    raise RefusedError(
        "Its names are neither those of torchvision's nor those of detectron2's Faster or Mask R-CNN; "
        f"it begins with {names}."
    )


def _has_groups(weights: dict[str, np.ndarray]) -> bool:
    """Whether the 3x3 convolution of the first bottleneck reads fewer channels than it makes, else as many."""
    filters = weights.get("backbone.body.layer1.0.conv2.weight")
    return filters is not None and filters.ndim == 4 and filters.shape[1] < filters.shape[0]


def translate(state: dict, rules) -> dict[str, np.ndarray]:
    translated = {}
    for name, array in state.items():
        ours = name
        for pattern, replacement in rules:
            ours = re.sub(pattern, replacement, ours)
        if ours in translated:
            raise RefusedError(f"It holds the entry {ascii(ours)[:80]} twice, under an old and a new name.")
        translated[ours] = array
    return translated


def background_first(weights: dict, class_agnostic_masks: bool = False) -> dict:
    """Weights whose last class is the background, reordered so that it is class 0.

    A family that has it last has neither a box correction nor a mask for it: those rows become zero."""
    weights = dict(weights)
    for kind in ("weight", "bias"):
        scores, boxes, masks = (weights.get(predictor + kind) for predictor in PREDICTORS)
        if scores is None or scores.ndim == 0:
            continue  # the table of differences will say so
        objects = len(scores) - 1
        weights[CLASSIFIER + kind] = np.roll(scores, 1, axis=0)
        if boxes is not None and boxes.ndim and len(boxes) == 4 * objects:
            weights[BOX_REGRESSION + kind] = _zeros_before(boxes, 4)
        if masks is not None and masks.ndim and len(masks) == objects and not class_agnostic_masks:
            weights[MASK_LOGITS + kind] = _zeros_before(masks, 1)
    return weights


def _zeros_before(array, rows: int) -> np.ndarray:
    return np.concatenate([np.zeros((rows, *array.shape[1:]), array.dtype), array])
