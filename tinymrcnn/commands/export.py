"""`tinymrcnn export`: a trained model as an ONNX file, for programs that run without this package."""

from collections.abc import Sequence
from pathlib import Path

from tinymrcnn.commands.predict import load_predictor, needs_preset
from tinymrcnn.export import export_model
from tinymrcnn.export.detector import TEXT
from tinymrcnn.export.graph import OPSET, import_onnx
from tinymrcnn.files import SHIPPED_MODEL, make_folder, printable, replacing
from tinymrcnn.models.test_time import set_free_settings
from tinymrcnn.settings import parse_setting


def export_command(
    weights=SHIPPED_MODEL, out="model.onnx", *, preset: str | None = None, settings: Sequence[str] | None = None
) -> int:
    """Write the model of a checkpoint, or of a public file of weights, to the new file `out`. Returns 0.

    preset: the model that a public file belongs to. settings: texts "FIELD=VALUE" of what may change after training.
    Raises RuntimeError where onnx is not installed, ValueError or OSError for weights or settings that do not fit, for
    a model that ONNX cannot express, and where `out` exists or cannot be written."""
    import_onnx()
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"'{printable(out)}' exists already: name another file, or remove it.")
    make_folder(out.parent)
    needs_preset(weights, preset)
    model = load_predictor(weights, preset)
    set_free_settings(model, dict(map(parse_setting, settings or ())))
    content = export_model(model).SerializeToString()
    with replacing(out) as file:
        file.write(content)
    print(f"{printable(out)}: {len(content) / 1e6:.1f} MB, operators of ONNX's opset {OPSET}.\n\n{TEXT}", end="")
    return 0
