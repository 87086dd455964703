"""The site's pages of the rooms: what each file of tinymrcnn/ holds, from its docstrings."""

import ast
from pathlib import Path

from tinymrcnn.files import PACKAGE, source_files

# The network first, what everything else stands on last; rooms that are not named here follow
FOUND = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
ORDER = """
    autograd ops roi boxes nn models weights data training evaluation draw experiments export bench commands cli
    backend kernels threads randomness settings files archives safetensors machine stopping
""".split()
ROOMS = [*(room for room in ORDER if room in FOUND), *sorted(FOUND - {*ORDER, "__init__", "__main__"})]


def first_sentence(path: Path) -> str:
    """What a room or a file is, in its own words, as Markdown."""
    path = path / "__init__.py" if path.is_dir() else path
    words = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return words.split(". ")[0].rstrip(".:").replace("*", r"\*").replace("|", r"\|") + "."


def path_of(room: str) -> Path:
    folder = PACKAGE / room
    return folder if folder.is_dir() else folder.with_suffix(".py")


def overview() -> str:
    """The page of the package: all rooms."""
    pages = {room: f"{room}/index" if path_of(room).is_dir() else room for room in ROOMS}
    rows = "\n".join(f"| [{room}]({pages[room]}.html) | {first_sentence(path_of(room))} |" for room in ROOMS)
    names = "\n".join(pages.values())
    return (
        "# The rooms\n\nEvery file of the package begins with what it computes, and says which section of the paper it "
        f"comes from and which lesson explains it.\n\n| room | what it holds |\n|---|---|\n{rows}\n\n"
        f"```{{toctree}}\n:hidden:\n{names}\n```\n"
    )


def room_page(room: str) -> str:
    """The page of a room: its docstring and, file by file, those of its functions and classes."""
    path = path_of(room)
    if path.is_file():
        return f"# {room}\n\n[{path.name}]({path.name}.html)\n\n{members(path)}"
    files = [file for file in source_files(path) if file.name != "__init__.py"]
    parts = [f"# {room}\n\n{members(path / '__init__.py', ':no-members:')}"]
    for file in files:
        name = file.relative_to(path).as_posix()
        parts.append(f"## {name}\n\n[The code]({name}.html)\n\n{members(file)}")
    return "\n".join(parts)


def members(path: Path, option: str = "") -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return f"```{{eval-rst}}\n.. automodule:: {name}\n   {option}\n```\n"
