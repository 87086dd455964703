"""Files that appear whole or not at all, folders that one run has to itself, and text that is safe to print."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tinymrcnn.files import (
    LOCK,
    PACKAGE,
    PARTIAL,
    check_output,
    locked,
    make_folder,
    printable,
    quoted,
    replacing,
    source_files,
    told,
)


def test_a_file_appears_when_the_block_has_ended_well(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


def test_two_writers_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_error_leaves_the_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as raised, replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]
    if isinstance(error, OSError):
        assert raised.value.filename == str(path) and raised.value.errno == errno.ENOSPC


def test_ctrl_c_within_savez_stays_ctrl_c(tmp_path):
    """numpy.savez cannot close its archive then, and raises a ValueError of its own."""

    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.npz"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ValueError("Can't close the ZIP file while there is an open writing handle on it.")  # noqa: B904
    with pytest.raises(ValueError, match="its own"):  # an error that was handled before has nothing to do with it
        try:
            raise OSError(errno.EIO, "another")
        except OSError:
            with replacing(tmp_path / "a.npz"):
                raise ValueError("its own")  # noqa: B904
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, replacing(tmp_path / "gone" / "a.npz"):
        pass
    assert told(raised.value) == f"'{tmp_path / 'gone' / 'a.npz'}': No such file or directory."


# Locks


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    (tmp_path / f".c.npz.123{PARTIAL}").touch()  # what a killed run left
    (tmp_path / ".other.partial").touch()
    with locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [LOCK, ".other.partial"]
        with pytest.raises(RuntimeError, match=rf"in use by another run: process {os.getpid()} on .*, since \d{{4}}-"):
            with locked(tmp_path):
                pass
    assert os.listdir(tmp_path) == [".other.partial"]
    with locked(tmp_path):
        pass


HOLD = """
import sys, time
from tinymrcnn.files import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=f"process {holder.pid} "), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert holder.returncode in (-getattr(signal, "SIGKILL", 9), 1)
    with locked(tmp_path):
        pass


def test_where_no_lock_can_be_had_it_is_said(tmp_path, monkeypatch, caplog):
    def unsupported(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("tinymrcnn.files._lock", unsupported)
    with locked(tmp_path):
        pass
    assert "cannot be locked" in caplog.text


# Output files


def test_only_what_is_ours_is_replaced(tmp_path):
    ours, theirs, picture = tmp_path / "ours.json", tmp_path / "theirs.json", tmp_path / "image.png"
    ours.write_text('{"a": 1}')
    theirs.write_text("[1]")
    picture.write_bytes(b"\x89PNG")

    def is_ours(content):
        return isinstance(content, dict)

    check_output(ours, is_ours, "numbers")
    check_output(tmp_path / "new" / "folder" / "a.json", is_ours, "numbers")
    assert os.listdir(tmp_path / "new" / "folder") == []
    for path in (theirs, picture):
        with pytest.raises(FileExistsError, match="exists and holds no numbers"):
            check_output(path, is_ours, "numbers")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file for the numbers"):
        check_output(tmp_path, is_ours, "numbers")
    for call in (lambda: make_folder(ours), lambda: check_output(ours / "a.json", is_ours, "numbers")):
        with pytest.raises(NotADirectoryError, match="ours.json' cannot be a folder"):
            call()


# Text


def test_text_of_files_cannot_move_the_cursor():
    assert printable("a\x1b[2J\r\nb\u202e\ud800 ü猫") == "a\\x1b[2J\\r\\nb\\u202e\\ud800 ü猫"
    assert told(ValueError("one\ntwo\x1b")) == "one\ntwo\\x1b"
    assert told(OSError(errno.EACCES, "Permission denied", "a\nb")) == "'a\\nb': Permission denied."


def test_paths_are_quoted_as_the_shell_takes_them():
    assert quoted("runs/a", windows=False) == "runs/a"
    assert quoted("my runs/it's", windows=False) == "'my runs/it'\"'\"'s'"
    assert quoted(r"my runs\a", windows=True) == r'"my runs\a"'


def test_copies_of_jupyterlab_are_no_source_files(tmp_path):
    for name in ("b.py", "a/c.py", ".ipynb_checkpoints/b-checkpoint.py", "a/.ipynb_checkpoints/c.py", "a/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert source_files(tmp_path) == [tmp_path / "a/c.py", tmp_path / "b.py"]
    assert PACKAGE / "files.py" in source_files()
