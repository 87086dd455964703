"""Weights from a file into a model: our own .npz, torchvision's .pth, detectron2's .pkl or .pth, and .safetensors.

What the file holds under our names is compared with what the model has, entry by entry. Where the classes differ, the
predictors' rows of the classes that both know by name are carried over, and the others are left to be trained.
Lesson 15 walks through it.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinymrcnn.archives import RefusedError
from tinymrcnn.data import coco_categories
from tinymrcnn.models import TwoStage, build_model
from tinymrcnn.models.presets import get_config
from tinymrcnn.nn.allowance import at_most
from tinymrcnn.settings import value_of
from tinymrcnn.weights.checkpoint import CheckpointError, load_checkpoint
from tinymrcnn.weights.comparison import LINES, differences, no_weights, shapes_of
from tinymrcnn.weights.foreign.public_weights import (
    CLASSIFIER,
    CONVENTIONS,
    MASK_BRANCH,
    NOT_WEIGHTS,
    PREDICTORS,
    background_first,
    is_our_own,
    read_public,
)

# With those of the mask branch as an MLP and of FCIS and MNC, which no public file has
OUR_PREDICTORS = (
    *PREDICTORS, "roi_heads.mask_predictor.mask_fc_logits.", "roi_heads.maps.cls_seg.", "roi_heads.seg_cls_score.",
)  # fmt: skip


@dataclass(frozen=True)
class FileOfWeights:
    """What a file holds. family: whose names it uses. weights: {our name: array}, the classes in the family's order.
    conventions: {name of a setting: what the weights were trained with}. names: those of the classes but the
    background, in order, or None where they are not known. classes: how many our own files say that there are."""

    path: Path
    family: str
    weights: dict[str, np.ndarray]
    conventions: dict
    names: list[str] | None
    classes: int = 0

    @property
    def num_classes(self) -> int:
        """With the background; 0 where there is no classifier."""
        return self.classes or (*np.shape(self.weights.get(CLASSIFIER + "bias", ()))[:1], 0)[0]

    def background_first(self, config) -> dict[str, np.ndarray]:
        """The weights with the classes in our order."""
        return (
            background_first(self.weights, config.mask.class_agnostic_masks)
            if self.family == "detectron2"
            else self.weights
        )


@dataclass(frozen=True)
class WeightsReport:
    """What load_weights did; str() of it is a few sentences to print.

    family: whose names the file uses. loaded: the entries that the model took from it. kept: the entries of the
    predictors that stay as they were, because the number of classes differs. left_out: entries of the file that the
    model does not need. classes: in the file and in the model, background included. carried, new: the names of the
    model's classes that the file knows, and of those that it does not; None if they were not compared by name.
    notes: warnings."""

    path: Path
    family: str
    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    classes: tuple[int, int]
    carried: tuple[str, ...] | None
    new: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Loaded {len(self.loaded)} arrays of weights from '{self.path}' (names of {self.family})."]
        if self.kept:
            lines.append(
                f"The file knows {self.classes[0]} classes, the model {self.classes[1]} (background included): the "
                f"predictors keep the weights that they had, and must be trained: {', '.join(self.kept)}."
            )
        if self.carried is not None:
            known = f": the predictors keep what they learned of {_listed(self.carried)}" if self.carried else ""
            count = f"{len(self.carried) or 'none'} of the model's {self.classes[1] - 1} classes"
            lines.append(f"By name the file knows {count}{known}.")
        if self.new:
            lines.append(f"New to the predictors, and to be trained from the beginning: {_listed(self.new)}.")
        if masks := [name for name in self.left_out if name.startswith(MASK_BRANCH)]:
            lines.append(f"The model has no mask branch: {len(masks)} arrays of the file's were left out.")
        return "\n".join([*lines, *self.notes])


def load_weights(model, path) -> WeightsReport:
    """Copy the weights of a file into a model of the same architecture, and tell what was done.

    The format is recognised by the content: torchvision's or detectron2's names in a file of torch.save, pickle or
    safetensors, or our own. Where model.categories are set and the file's classes have names, the classes are matched
    by name: the predictors' rows of the classes that both know, and of the background, are carried over to the model's
    labels, those of new classes stay as they are. Without names the numbers of classes are compared: if they differ,
    everything except the predictors is loaded. The report says which. Nothing that the file holds is run.

    Raises FileNotFoundError, and CheckpointError, a ValueError that names the file, where it is damaged, hostile or
    something else, or where entries are missing, unexpected, mis-shaped or not finite, with a table of them; the model
    is unchanged then."""
    return fill(model, read_weights(path))


def load_public_model(path, preset) -> tuple[TwoStage, WeightsReport]:
    """The model of a public file in eval mode on the CPU, and what was loaded; the file is read once.

    preset: a name or Config, which the file itself does not tell. The number of classes, and whether there are masks,
    is the file's. The classes of COCO are the model's categories where their number is right. Raises as load_weights
    does, and ValueError for an unknown preset."""
    file = read_weights(path)
    config = get_config(preset) if isinstance(preset, str) else preset
    masks = any(name.startswith(MASK_BRANCH) for name in file.weights)
    weights = file.background_first(config)
    try:
        with at_most(len(weights), sum(array.size for array in weights.values())):
            model = build_model(config, file.num_classes or None, masks=masks)
    except ValueError:
        model = build_model(config, masks=masks)  # too large for the file; the differences are reported below
    report = fill(model, file)
    model.categories = coco_categories(model.config.num_classes)
    model.eval()
    return model, report


def read_weights(path) -> FileOfWeights:
    """A file of weights, with nothing compared yet. Raises as load_weights does."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights '{path}'.")
    try:
        if is_our_own(path):
            checkpoint = load_checkpoint(path)
            conventions = {field: value_of(checkpoint.config, field) for field in CONVENTIONS["torchvision"]}
            names = [category["name"] for category in checkpoint.categories] or None
            return FileOfWeights(
                path, "tinymrcnn", checkpoint.weights, conventions, names, checkpoint.config.num_classes
            )
        family, weights, conventions = read_public(path)
    except RefusedError as error:
        raise CheckpointError(f"The file of weights '{path}' is refused. {error}") from error
    file = FileOfWeights(path, family, weights, conventions, None)
    categories = coco_categories(file.num_classes)
    return replace(file, names=[category["name"] for category in categories] if categories else None)


def fill(model, file: FileOfWeights) -> WeightsReport:
    """load_weights() of a file that is read already."""
    config = model.config
    found = file.background_first(config)
    left_out = [name for name in found if re.search(NOT_WEIGHTS, name)]
    if not config.masks:
        left_out += [name for name in found if name.startswith(MASK_BRANCH)]
    found = {name: array for name, array in found.items() if name not in set(left_out)}

    own, classes = shapes_of(model), (file.num_classes, config.num_classes)
    of_classes = {name for name in own if name.startswith(OUR_PREDICTORS)}
    if config.mask.class_agnostic_masks:  # which belong to all classes
        of_classes -= {name for name in own if name.startswith(MASK_BRANCH)}
    expected = {n: _with_classes(shape, *classes) if n in of_classes else shape for n, shape in own.items()}
    if table := differences(found, expected):
        raise CheckpointError(
            f"The file of weights '{file.path}' (names of {file.family}) does not fit the model ({config.preset}). "
            f"Does the preset belong to the file?\n{table}"
        )
    theirs, ours = file.names or [], [category["name"] for category in model.categories or ()]
    if ours and len(ours) != config.num_classes - 1:
        raise ValueError(f"The model has {config.num_classes} classes with the background, and {len(ours)} categories.")
    by_name = bool(theirs and ours and theirs != ours)
    kept = [] if by_name else [name for name in own if expected[name] != own[name]]
    loaded = {name: found[name] for name in own if name not in kept}
    if problem := no_weights(loaded):
        raise CheckpointError(f"The file of weights '{file.path}' is refused. {problem}")

    state = model.state_dict()
    carried: tuple[str, ...] | None = None
    new: tuple[str, ...] = ()
    if by_name:
        carried, new = tuple(n for n in ours if n in theirs), tuple(n for n in ours if n not in theirs)
        rows = [(0, 0)] + [(1 + i, 1 + theirs.index(name)) for i, name in enumerate(ours) if name in theirs]
        for name in of_classes:
            loaded[name] = _matched(state[name], loaded[name], classes[1], rows)
    model.load_state_dict({**state, **loaded})
    return WeightsReport(
        file.path, file.family, tuple(loaded), tuple(kept), tuple(left_out), classes, carried, new,
        tuple(_notes(file.conventions, config)),
    )  # fmt: skip


def _with_classes(shape: tuple[int, ...], in_file: int, in_model: int) -> tuple[int, ...]:
    """The shape that a predictor of the model would have with as many classes as the file knows (0: unknown)."""
    return (shape[0] // in_model * in_file, *shape[1:]) if in_file else shape


def _matched(own: np.ndarray, found: np.ndarray, num_classes: int, rows: list[tuple[int, int]]) -> np.ndarray:
    """A predictor of the model in which the rows of some classes are the file's: (label in the model, in the file)."""
    each, result = len(own) // num_classes, own.copy()  # rows of a class: 1, for boxes 4, of FCIS its maps, ...
    for ours, theirs in rows:
        result[each * ours : each * (ours + 1)] = found[each * theirs : each * (theirs + 1)]
    return result


def _notes(conventions: dict, config) -> list[str]:
    return [
        f"Warning: the weights were trained with {field} = {value}, the model has {value_of(config, field)}: "
        "its results will differ from those of the original."
        for field, value in conventions.items()
        if value_of(config, field) != value and not (field == "stride_in_1x1" and config.resnet.block == "basic")
    ]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - LINES} more" if len(names) > LINES else ""
    return ", ".join(names[:LINES]) + more
