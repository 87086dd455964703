"""The arrays of a file compared with those of a model: which names, shapes and numbers do not fit."""

import numpy as np

LINES = 12  # of the table, for each kind of difference


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    """The shape of every entry of model.state_dict(), without a copy of it."""
    entries = {name: parameter.data for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    return {name: tuple(array.shape) for name, array in entries.items()}


def differences(found: dict[str, np.ndarray], own: dict[str, tuple[int, ...]]) -> str:
    """A table of the entries that are missing, unexpected or of the wrong shape; empty where there are none.

    found: the file's arrays. own: the model's shapes."""
    rows = [
        ("wrong shape", name, str(found[name].shape), str(own[name]))
        for name in own
        if name in found and found[name].shape != own[name]
    ]
    rows += [("missing", name, "-", str(own[name])) for name in own if name not in found]
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


def no_weights(arrays: dict[str, np.ndarray], dtype=np.float32) -> str | None:
    """A sentence about the first array that cannot be weights of `dtype`, or None. Weights are floats of any precision,
    finite also after they are rounded to `dtype`."""
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            usable = array.dtype.kind == "f" and bool(np.isfinite(array.astype(dtype, copy=False)).all())
        if not usable:
            return f"Its entry {ascii(name)[1:-1][:80]} ({array.dtype}) holds numbers that are not finite floats."
    return None
