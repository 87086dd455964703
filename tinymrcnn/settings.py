"""Settings: small frozen dataclasses whose fields are checked when they are made, and found by name.

The type of a field says what it may hold: `nms: Fraction = 0.7` refuses 2.0 and "a lot". Every stage of the model
has its settings in its own file (RPNSettings in rpn.py, ...), and Config is made of them. TrainConfig, at the end,
holds those of training, with AugmentSettings for its images.
"""

import ast
import dataclasses
import difflib
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar


class Range(NamedTuple):
    """The range of a number, both ends included."""

    least: float
    most: float


UNIONS = (typing.Union, types.UnionType)
LARGEST = 1_000_000
Count = Annotated[int, Range(1, LARGEST)]
CountOrZero = Annotated[int, Range(0, LARGEST)]
Width = Annotated[int, Range(1, 16_384)]  # channels or hidden units
PoolSize = Annotated[int, Range(1, 128)]
Fraction = Annotated[float, Range(0, 1)]
NotNegative = Annotated[float, Range(0, LARGEST)]
Positive = Annotated[float, Range(1e-9, LARGEST)]
Zoom = Annotated[float, Range(0.1, 10)]


@dataclass(frozen=True)
class Settings:
    """A group of settings. Whole numbers become floats where a float is asked for, and lists become tuples.

    Raises ValueError, naming the field, for a value of another type or beyond its range."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            value = _conform(getattr(self, name), hint, f"{type(self).__name__}: {name}")
            object.__setattr__(self, name, value)  # how a frozen dataclass sets its own field


S = TypeVar("S", bound=Settings)


def hints(kind: type[Settings]) -> dict[str, Any]:
    """The declared type of every field, by name."""
    return typing.get_type_hints(kind, include_extras=True)


def replace(settings: S, **overrides: Any) -> S:
    """The settings with some fields replaced: `replace(config, roi_op="roi_pool", **{"rpn.nms": 0.6})`.

    For the names see find_field. Raises ValueError for a name that is unknown or ambiguous, and for a bad value."""
    top: dict[str, Any] = {}
    stages: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():  # all at once, since one alone can contradict another field
        stage, _, field = find_field(type(settings), name).rpartition(".")
        (stages.setdefault(stage, {}) if stage else top)[field] = value
    for stage, fields in stages.items():
        top[stage] = dataclasses.replace(top.get(stage, getattr(settings, stage)), **fields)
    return dataclasses.replace(settings, **top)


def find_field(kind: type[Settings], name: str) -> str:
    """The full name of a field, "rpn.nms", of which `name` may be any of three forms: "rpn.nms", "rpn_nms", or, where
    only one stage has such a field, the field alone: "roi_op".

    Raises ValueError for a name that is unknown or ambiguous, with the names that it may mean."""
    known = field_names(kind)
    if name in known or name in hints(kind):  # a whole stage too
        return name
    found = [full for full in known if full.replace(".", "_") == name]
    found = found or [full for full in known if full.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{name!r} can mean several fields of {kind.__name__}: name one of {', '.join(found)}.")
    spellings = {spelling: full for full in known for spelling in (full, full.rpartition(".")[2])}
    near = difflib.get_close_matches(name, spellings, n=1)
    hint = f" Did you mean {spellings[near[0]]!r}?" if near else ""
    raise ValueError(f"{kind.__name__} has no field {name!r}.{hint} Its fields are: {', '.join(known)}.")


def parse_setting(pair: str) -> tuple[str, Any]:
    """(name, value) of a text "FIELD=VALUE" from the command line, the value written as in Python; a text without
    quotes is a text. Raises ValueError where there is no "="."""
    name, equals, text = pair.partition("=")
    if not equals:
        raise ValueError(f"--set {pair!r} is not FIELD=VALUE.")
    words = {"true": True, "false": False, "none": None}
    try:
        return name, words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def value_of(settings: Settings, name: str) -> Any:
    """The value of a field, by any of its names (see find_field)."""
    for part in find_field(type(settings), name).split("."):
        settings = getattr(settings, part)
    return settings


def field_names(kind: type[Settings]) -> tuple[str, ...]:
    """The full names of all fields: "preset", ..., "rpn.nms", ..."""
    names: list[str] = []
    for name, hint in hints(kind).items():
        names += [f"{name}.{field}" for field in hints(hint)] if _is_settings(hint) else [name]
    return tuple(names)


def flatten(settings: Settings) -> dict[str, Any]:
    """{full name of every field: its value}."""
    return {name: value_of(settings, name) for name in field_names(type(settings))}


def from_dict(kind: type[S], fields: dict[str, Any]) -> S:
    """Settings from what dataclasses.asdict, or a JSON file of it, holds.

    Raises ValueError for a field that is unknown, missing or badly filled."""
    if not isinstance(fields, dict):
        raise ValueError(f"{kind.__name__} must be an object with named fields, not {fields!r}.")
    declared = hints(kind)
    if unknown := sorted(set(fields) - set(declared)):
        raise ValueError(f"{kind.__name__} has no field {', '.join(map(repr, unknown))}.")
    if missing := sorted(set(declared) - set(fields)):
        raise ValueError(f"{kind.__name__} lacks the field {', '.join(map(repr, missing))}.")
    return kind(**{
        name: from_dict(declared[name], value) if _is_settings(declared[name]) else value
        for name, value in fields.items()
    })  # fmt: skip


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _conform(value: Any, hint: Any, name: str) -> Any:
    """The value as `hint` declares it. Raises ValueError, beginning with `name`, where it does not fit."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        try:
            value = _conform(value, parts[0], name)
            if parts[1].least <= value <= parts[1].most:
                return value
        except ValueError:
            pass
        raise ValueError(f"{name} is {value!r}; it must be {_described(hint)}.")
    if origin in UNIONS:  # "X | None"
        return None if value is None else _conform(value, parts[0], name)
    if origin is tuple and isinstance(value, (tuple, list)):
        kinds = parts[:1] * len(value) if parts[1:] == (...,) else parts
        if len(kinds) == len(value):
            return tuple(
                _conform(v, kind, f"{name}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True))
            )
    elif origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
    elif hint is int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
    elif hint is float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and _is_finite(value):
            return float(value)
    elif origin is None and isinstance(value, hint):  # bool, str, a stage
        return value
    raise ValueError(f"{name} is {value!r}; it must be {_described(hint)}.")


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def _described(hint: Any) -> str:
    """What a field takes, in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_described(parts[0])} from {parts[1].least:g} to {parts[1].most:g}"
    if origin in UNIONS:
        return f"{_described(parts[0])}, or None"
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple and parts[1:] == (...,):
        return f"a tuple, each entry {_described(parts[0])}"
    if origin is tuple:
        return f"a tuple of {len(parts)}, each entry {_described(parts[0])}"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}.get(
        hint, str(hint.__name__)
    )


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """How training images are varied besides the flip, see data/augment.py. The defaults vary nothing."""

    turn: bool = False  # by 0, 1, 2 or 3 quarters; with the flip, all eight ways to lay an image down
    zoom: tuple[Zoom, Zoom] = (1.0, 1.0)  # least and most
    brightness: Fraction = 0.0  # changes by this share at most, up or down
    contrast: Fraction = 0.0  # likewise
    hue: Annotated[float, Range(0, 0.5)] = 0.0  # of the circle of colours, at most, either way
    blur: Annotated[float, Range(0, 10)] = 0.0  # pixels: the widest Gaussian
    paste: Fraction = 0.0  # of the images get half of the objects of another one, in front of their own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"AugmentSettings: zoom is {self.zoom}; the least comes first.")


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Training. The defaults train the `shapes` preset from scratch, on two CPU cores in less than ten minutes."""

    steps: Count = 1800
    batch_size: Annotated[int, Range(1, 65_536)] = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: NotNegative = 1e-3
    weight_decay: NotNegative = 1e-4
    momentum: Fraction = 0.9  # SGD only
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_steps: CountOrZero = 100
    drops: tuple[Fraction, ...] = (0.67, 0.89)  # "step": where the rate drops to a tenth, as fractions of all steps
    clip_norm: NotNegative = 10.0  # of all gradients together; 0 does not clip
    flip: bool = True  # left and right, half of the images
    augment: AugmentSettings = AugmentSettings()
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    checkpoint_every: Count = 200
    preview_every: Count = 200
    val_every: CountOrZero = 200  # steps from one validation on held-out images to the next; 0: none
    patience: CountOrZero = (
        0  # the run ends after so many validations without a better AP; 0: never before its last step
    )
    # Where several workers share a batch (training/parallel.py): whether batch normalisation sees the images of all
    sync_norm: bool = False
    ema: Fraction = 0.0  # the share of itself that a moving average of the weights keeps in a step; 0: no average
