"""Weights from a file into a model: torchvision's .pth, detectron2's .pkl or .pth, and our own .npz.

The models are the same networks under other names. This file translates the names of both families into ours
(which are torchvision's), puts the background first among the classes, and compares what it found with what the
model has, entry by entry. Lesson 15 walks through it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinymrcnn.models.settings import value_of
from tinymrcnn.weights.checkpoint import CheckpointError, load_checkpoint
from tinymrcnn.weights.foreign.pickles import ARRAYS, PickleError, read_pickle
from tinymrcnn.weights.foreign.torch_files import MAGIC, open_zip, read_torch_legacy, read_torch_zip

LINES = 12  # of the table, for each kind of difference

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

# What a family's weights were trained for, and no shape tells: fields of Config
CONVENTIONS = {
    "torchvision": {
        "stride_in_1x1": False, "channel_order": "rgb", "pixel_scale": 1.0, "anchor_rounded": True, "aligned": False,
    },
    "detectron2": {
        "stride_in_1x1": True, "channel_order": "bgr", "pixel_scale": 255.0, "anchor_rounded": False, "aligned": True,
    },
}  # fmt: skip

CLASSIFIER, BOX_REGRESSION, MASK_LOGITS = PREDICTORS = (
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
)
MASK_BRANCH = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")


@dataclass(frozen=True)
class WeightsReport:
    """What load_weights did; str() of it is a few sentences to print.

    family: whose names the file uses. loaded: the entries that the model took from it. kept: the entries of the
    predictors that stay as they were, because the number of classes differs. left_out: entries of the file that the
    model does not need. classes: in the file and in the model, background included. notes: warnings."""

    path: Path
    family: str
    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    classes: tuple[int, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Loaded {len(self.loaded)} arrays of weights from '{self.path}' (names of {self.family})."]
        if self.kept:
            lines.append(
                f"The file knows {self.classes[0]} classes, the model {self.classes[1]} (background included): the "
                f"predictors keep the weights that they had, and must be trained: {', '.join(self.kept)}."
            )
        if masks := [name for name in self.left_out if name.startswith(MASK_BRANCH)]:
            lines.append(f"The model has no mask branch: {len(masks)} arrays of the file's were left out.")
        return "\n".join([*lines, *self.notes])


def load_weights(model, path) -> WeightsReport:
    """Copy the weights of a file into a model of the same architecture, and tell what was done.

    The format is told by the content: torchvision's or detectron2's files, of torch.save or pickled, or our own. If
    the number of classes differs, everything but the predictors is loaded, and the report says so. Nothing that the
    file holds is run. Raises FileNotFoundError, and CheckpointError, a ValueError that names the file, where it is
    damaged, hostile or something else, or where entries are missing, unexpected, mis-shaped or not finite, with a
    table of them; the model is unchanged then."""
    path = Path(path)
    family, found, conventions = read_weights(path)
    if family == "detectron2":
        found = background_first(found, model.config.mask.class_agnostic_masks)
    left_out = [name for name in found if re.search(NOT_WEIGHTS, name)]
    if not model.config.masks:
        left_out += [name for name in found if name.startswith(MASK_BRANCH)]
    found = {name: array for name, array in found.items() if name not in set(left_out)}

    own = model.state_dict()
    classes = (*np.shape(found.get(CLASSIFIER + "bias", ()))[:1], 0)[0], model.config.num_classes
    kept = [name for name in own if name.startswith(PREDICTORS) and _other_classes(found.get(name), own[name], classes)]
    if differences := _differences(found, own, kept):
        raise CheckpointError(
            f"The file of weights '{path}' (names of {family}) does not fit the model ({model.config.preset}). "
            f"Does the preset belong to the file?\n{differences}"
        )
    loaded = [name for name in own if name not in kept]
    _check_numbers(path, {name: found[name] for name in loaded}, own)
    model.load_state_dict({name: own[name] if name in kept else found[name] for name in own})
    notes = [
        f"Warning: the weights were trained with {field} = {value}, the model has {value_of(model.config, field)}: "
        "its results will differ from those of the original."
        for field, value in conventions.items()
        if value_of(model.config, field) != value
        and not (field == "stride_in_1x1" and model.config.resnet.block == "basic")
    ]
    return WeightsReport(path, family, tuple(loaded), tuple(kept), tuple(left_out), classes, tuple(notes))


# From the file to arrays under our names


def read_weights(path) -> tuple[str, dict[str, np.ndarray], dict]:
    """(family, {our name: array}, {field of Config: the value that the weights were trained for}) of a file of
    weights. The classes are still in the order of the family. Raises as load_weights does."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights '{path}'.")
    try:
        value = _read(path)
        if value is None:
            checkpoint = load_checkpoint(path)
            conventions = {field: value_of(checkpoint.config, field) for field in CONVENTIONS["torchvision"]}
            return "tinymrcnn", checkpoint.weights, conventions
        state = _state_dict(value)
        family = _family(state)
        return family, _translate(state, DETECTRON2 if family == "detectron2" else OLD_TORCHVISION), CONVENTIONS[family]
    except PickleError as error:
        raise CheckpointError(f"The file of weights '{path}' is refused. {error}") from error


def _read(path: Path):
    """What the file holds, or None where it is a checkpoint of ours."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
        file.seek(0)
        if not start:
            raise PickleError("It is empty: it was not written to its end, or not copied whole.")
        if start.startswith(b"PK"):
            with open_zip(path) as archive:
                ours = "metadata.npy" in archive.namelist()
            return None if ours else read_torch_zip(path)
        if start.startswith(b"\x80"):
            value = read_pickle(file, size, ARRAYS)
            return read_torch_legacy(file, size) if type(value) is int and value == MAGIC else value
        if start.lstrip().startswith(b"<"):
            raise PickleError(
                f"It is a web page and holds no weights (it begins with {start!r}): the download got a message "
                "from the server instead of the file. Open it in a browser to read it, and download the file again."
            )
        raise PickleError(f"It is no file of weights in a format that is known here (it begins with {start!r}).")


def _state_dict(value) -> dict[str, np.ndarray]:
    """The dictionary of arrays, which training scripts and detectron2 put under "model"."""
    if type(value) is dict and type(value.get("model")) is dict:
        value = value["model"]
    if type(value) is not dict or not value:
        raise PickleError(f"It holds no named arrays, but a {type(value).__name__}.")
    if not all(type(name) is str and isinstance(array, np.ndarray) for name, array in value.items()):
        names = ", ".join(ascii(name)[:80] for name in list(value)[:LINES])
        raise PickleError(f"It holds no dictionary of named arrays; the entries that it has are: {names}.")
    return value


def _family(state: dict) -> str:
    if any(name.startswith("backbone.body.") for name in state):
        return "torchvision"
    if any(name.startswith(("backbone.bottom_up.", "backbone.stem.", "backbone.res")) for name in state):
        return "detectron2"
    names = ", ".join(ascii(name)[:80] for name in list(state)[:4])
    raise PickleError(
        "Its names are neither those of torchvision's nor those of detectron2's Faster or Mask R-CNN; "
        f"it begins with {names}."
    )


def _translate(state: dict, rules) -> dict[str, np.ndarray]:
    translated = {}
    for name, array in state.items():
        ours = name
        for pattern, replacement in rules:
            ours = re.sub(pattern, replacement, ours)
        if ours in translated:
            raise PickleError(f"It holds the entry {ascii(ours)[:80]} twice, under an old and a new name.")
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


# From arrays to the model


def _other_classes(array, own, classes: tuple[int, int]) -> bool:
    """Whether a predictor's array differs from the model's in the number of classes, and in nothing else."""
    in_file, in_model = classes
    return (
        array is not None
        and 0 < in_file != in_model
        and array.shape != own.shape
        and array.shape[1:] == own.shape[1:]
        and array.ndim > 0
        and len(array) * in_model == len(own) * in_file
    )


def _differences(found: dict, own: dict, kept) -> str:
    """A table of the entries that are missing, unexpected or of the wrong shape; empty where there are none."""
    rows = [
        ("wrong shape", name, str(found[name].shape), str(own[name].shape))
        for name in own
        if name in found and name not in kept and found[name].shape != own[name].shape
    ]
    rows += [("missing", name, "-", str(own[name].shape)) for name in own if name not in found]
    rows += [("unexpected", ascii(name)[1:-1][:80], str(found[name].shape), "-") for name in found if name not in own]
    shown = [("", "entry", "in the file", "in the model")] if rows else []
    for kind in ("wrong shape", "missing", "unexpected"):
        of_kind = [row for row in rows if row[0] == kind]
        shown += of_kind[:LINES]
        if len(of_kind) > LINES:
            shown.append((kind, f"... and {len(of_kind) - LINES} more", "", ""))
    widths = [max((len(row[column]) for row in shown), default=0) for column in range(3)]
    return "\n".join(
        "  " + f"{a:<{widths[0]}} {b:<{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in shown
    )


def _check_numbers(path, found: dict, own: dict) -> None:
    for name, array in found.items():
        with np.errstate(over="ignore"):
            usable = array.dtype.kind == "f" and np.isfinite(array.astype(own[name].dtype, copy=False)).all()
        if not usable:
            raise CheckpointError(
                f"The file of weights '{path}' is refused. Its entry {name} ({array.dtype}) holds numbers that are not "
                "finite floats."
            )
