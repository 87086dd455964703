"""The process around a command: pipes, encodings, signals, warnings, and an environment without a home or a backend."""

import json
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from tinymrcnn import cli
from tinymrcnn.commands import terminal
from tinymrcnn.commands.terminal import ReaderGone, only_prints, prepare_drawing, say
from tinymrcnn.data import ShapesDataset
from tinymrcnn.weights import save_checkpoint


@pytest.fixture
def command(monkeypatch):
    """command(function): the exit code of main() with a command that does this."""

    def run(function):
        monkeypatch.setattr(cli, "_models", function)
        return cli.main(["models"])

    return run


@pytest.fixture
def stream(monkeypatch):
    """stream(name, **options): stdout or stderr becomes a pipe; returns its reading end."""
    opened = []

    def replace(name, **options):
        reader, writer = os.pipe()
        file = open(writer, "w", **options)
        opened.append(file)
        monkeypatch.setattr(sys, name, file)
        return open(reader, "rb")

    yield replace
    monkeypatch.undo()
    for file in opened:
        file.close()


def test_what_cannot_be_encoded_is_escaped(stream, command):
    reader = stream("stdout", encoding="ascii")
    assert command(lambda: print("猫 ü") or 0) == 0
    assert sys.stdout.errors == "strict"  # as it was
    sys.stdout.close()
    assert reader.read() == b"\\u732b \\xfc\n"
    reader.close()


@pytest.mark.parametrize(("prints_only", "code"), [(False, 0), (True, 141)])
def test_a_reader_who_went_away_is_no_error(stream, command, prints_only, code):
    """Where a command makes files it goes on to the end, else it ends at once, as other programs do."""
    stream("stdout", encoding="utf-8").close()
    error = stream("stderr", encoding="utf-8")
    done = []

    def work():
        if prints_only:
            only_prints()
        for number in range(3):
            print("x" * 100_000)
            done.append(number)
        return 0

    assert command(work) == code
    assert done == ([] if prints_only else [0, 1, 2])
    sys.stderr.close()
    assert error.read() == b""
    error.close()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_that_was_closed(monkeypatch, command):
    """As SIGHUP finds it: what is printed then gives an input/output error."""
    outer, inner = os.openpty()
    os.close(outer)
    with open(inner, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", closed)
        assert command(lambda: print("x") or sys.stdout.flush() or signal.raise_signal(signal.SIGTERM)) == 143
        monkeypatch.undo()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_disk_under_the_output(monkeypatch, command, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert command(lambda: print("x") or 0) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == "tinymrcnn: error: [Errno 28] No space left on device\n"


def test_closed_streams(monkeypatch, command):
    """As services start programs: Python has None in their places."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def work():
        print("a")
        say("b")
        raise ValueError("c")

    assert command(work) == 2
    assert sys.stdout is None and sys.stderr is None


def test_signals_end_a_command_as_ctrl_c_does(command, capsys):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    assert command(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "\nInterrupted.\n"
    assert {number: signal.getsignal(number) for number in before} == before


def test_exit_codes_and_what_errors_say(command, capsys):
    def failing(error):
        def work():
            raise error

        return work

    for error, code, said in (
        (ValueError("Bad."), 2, "Bad."),
        (RuntimeError("a\x1b[2J\nb"), 2, "a\\x1b[2J\nb"),
        (FloatingPointError("nan"), 1, "nan"),
        (MemoryError(), 1, "The memory does not suffice."),
        (OSError(28, "No space left on device", "x/y.npz"), 1, "'x/y.npz': No space left on device."),
        (PermissionError(13, "Permission denied", "x"), 2, "'x': Permission denied."),
        (KeyError("x"), 1, "Something unexpected went wrong; --traceback shows where. KeyError: 'x'"),
        (KeyboardInterrupt(), 130, None),
    ):
        assert command(failing(error)) == code
        assert capsys.readouterr().err == (f"tinymrcnn: error: {said}\n" if said else "\nInterrupted.\n")
    with pytest.raises(ReaderGone), terminal.terminal():
        raise ReaderGone


def test_warnings_and_the_log_are_lines_of_one_sentence(command, capsys):
    def work():
        warnings.warn("2 boxes of 'a\nb' are odd.", stacklevel=1)
        terminal.logging.getLogger("tinymrcnn").warning("A %s is odd.", "picture")
        terminal.logging.getLogger("tinymrcnn").info("Resuming.")
        return 0

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert command(work) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "tinymrcnn: warning: 2 boxes of 'a\\nb' are odd.", "tinymrcnn: warning: A picture is odd.",
    ]  # fmt: skip
    assert printed.out == "Resuming.\n" and warnings.showwarning is shown
    assert not terminal.logging.getLogger("tinymrcnn").handlers


# Drawing


@pytest.fixture
def without_matplotlib(monkeypatch, tmp_path):
    """As in a process that has not imported it; returns an environment with a home."""
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(terminal.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(terminal.tempfile, "gettempdir", lambda: str(tmp_path))
    return {}


@pytest.mark.parametrize(
    ("name", "kept"),
    [("agg", True), ("TkAgg", True), ("module://json", True), ("", True), ("foo", False), ("module://no.such", False)],
)
def test_a_backend_that_cannot_be_imported_is_replaced(without_matplotlib, capsys, name, kept):
    environ = {"MPLBACKEND": name}
    prepare_drawing(environ)
    assert environ == {"MPLBACKEND": name if kept else "agg"}
    assert ("pictures are drawn with agg" in capsys.readouterr().err) is not kept


def test_without_a_home_matplotlib_gets_a_folder(without_matplotlib, capsys, monkeypatch, tmp_path):
    prepare_drawing(without_matplotlib)
    assert without_matplotlib == {} and capsys.readouterr().err == ""

    def none():
        raise RuntimeError("Could not determine home directory.")

    for home in (lambda: tmp_path / "a file", none):
        (tmp_path / "a file").touch()
        monkeypatch.setattr(terminal.Path, "home", home)
        environ = {}
        prepare_drawing(environ)
        folder = environ["MPLCONFIGDIR"]
        assert os.path.dirname(folder) == str(tmp_path) and os.stat(folder).st_mode & 0o077 == 0
        assert (
            capsys.readouterr().err
            == f"tinymrcnn: note: there is no home folder to write to; matplotlib keeps its fonts in '{folder}'.\n"
        )
    monkeypatch.setattr(terminal.Path, "home", none)
    environ = {"MPLCONFIGDIR": "x"}
    prepare_drawing(environ)
    assert environ == {"MPLCONFIGDIR": "x"}


ENVIRONMENT = """
import os
before = dict(os.environ)
import tinymrcnn.cli, tinymrcnn.files, tinymrcnn.stopping, tinymrcnn.commands.terminal
print(dict(os.environ) == before)
"""


def test_predict_in_an_odd_process(tmp_path):
    """A notebook's backend, no home, an ASCII terminal, a name beyond ASCII, and a reader of one line: all is done."""
    model = tiny_model(score_threshold=0.0)
    model.categories = [{**category, "name": "猫\x1b[2J"} for category in ShapesDataset.categories]
    save_checkpoint(tmp_path / "own.npz", model)
    (tmp_path / "ü").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ü" / f"{number}.png")
    odd = {"MPLBACKEND": "module://no_such.backend", "XDG_CONFIG_HOME": os.devnull, "PYTHONIOENCODING": "ascii"}
    environ = {**os.environ, **odd}
    environ.pop("MPLCONFIGDIR", None)
    command = [sys.executable, "-m", "tinymrcnn", "predict", "ü", "--weights", "own.npz", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="ascii"
    )
    first = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0, errors
    assert first.startswith("predictions/0_predicted.png: ") and "\x1b" not in first
    assert "drawn with agg" in errors and "Traceback" not in errors and "Errno" not in errors
    if sys.platform.startswith("linux"):
        assert "no home folder to write to" in errors
    assert len(os.listdir(tmp_path / "predictions")) == 3 * 3 + 1
    records = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert {os.path.basename(record["file_name"]) for record in records} == {"0.png", "1.png", "2.png"}
    seen = subprocess.run([sys.executable, "-c", ENVIRONMENT], capture_output=True, text=True)
    assert seen.stdout == "True\n"
