"""Builds the site: the lessons as pages with their stored outputs, the explainer, and a page for every room.

    python lessons/site/build.py FOLDER

The site mirrors the repository. It begins with the lessons and the README, and takes in whatever a page links to:
notebooks and Markdown files become pages, other texts pages of numbered lines, folders the page of their room or a list
of their files, and pictures and numbers are copied. So every relative link leads to something, in lessons to come as
well. FOLDER/index.html opens by a double click, and no page asks the network for anything.

Sphinx makes the pages, with the settings of conf.py; a warning is an error.
"""

import json
import re
import shutil
import sys
import tempfile
import urllib.parse
from pathlib import Path

from docutils.nodes import make_id
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from rooms import ROOMS, overview, path_of, room_page
from sphinx.cmd.build import build_main

from tinymrcnn.files import source_files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LESSONS, PACKAGE = ROOT / "lessons", ROOT / "tinymrcnn"
EXPLAINER = LESSONS / "explainer/index.html"
TEXTS = {".py", ".js", ".css", ".html", ".toml", ".txt", ".yml", ".sh", ""}
ORPHAN = "---\norphan: true\n---\n\n"  # a page that no list of contents has
CODE = re.compile(r"(```.*?```|`[^`\n]+`|\$\$.*?\$\$)", re.DOTALL)
LINK = re.compile(r"(!\[[^\[\]]*\]\(\s*<?|\]\(\s*<?|(?:href|src)=[\"'])([^()\s>\"']+)")


class Site:
    """source: the folder that Sphinx reads. extra: files that lie in the site as they are. seen: what the site has."""

    def __init__(self, source: Path, extra: Path):
        self.source, self.extra = source, extra
        self.seen: set[Path] = set()
        self.waiting: list[Path] = []

    def add(self, path: Path):
        if path not in self.seen:
            self.seen.add(path)
            self.waiting.append(path)

    def finish(self):
        """Writes what was added, and everything that it links to."""
        while self.waiting:
            path = self.waiting.pop()
            if path.is_dir():
                self.write(path / "index.md", self.listing(path) if path.name not in ROOMS else room_page(path.name))
            elif path.suffix == ".ipynb":
                self.write(path, self.notebook(path))
            elif path.suffix == ".md":
                text = self.with_links(path.read_text(encoding="utf-8"), path)
                self.write(path, text if path.parent in (ROOT, LESSONS) else ORPHAN + text)
            elif path == EXPLAINER:
                self.write(path, self.with_links(path.read_text(encoding="utf-8"), path), self.extra)
            elif path.suffix in TEXTS:
                self.write(Path(f"{path}.md"), code_page(path))
            else:
                self.copy(path)

    def write(self, path: Path, text: str, folder: Path | None = None):
        target = (folder or self.source) / place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def copy(self, path: Path):
        for folder in (self.source, self.extra):  # Sphinx looks for pictures beside the pages
            target = folder / place(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def with_links(self, text: str, page: Path) -> str:
        """The text of a page whose links lead to pages of the site; code is left as it is."""
        if page == EXPLAINER:  # most of it is scripts
            return re.sub(r'(?<=href=")\.\./[^"]+', lambda match: self.link(match[0], page), text)
        parts = CODE.split(text)
        parts[::2] = (LINK.sub(lambda match: match[1] + self.link(match[2], page), part) for part in parts[::2])
        return "".join(parts)

    def link(self, link: str, page: Path) -> str:
        """A link of a page as the site has it; what it leads to gets into the site."""
        file, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            return link
        if file:
            path = (page.parent / urllib.parse.unquote(file)).resolve()
            if not path.exists() or not path.is_relative_to(ROOT):
                sys.exit(f"{page.relative_to(ROOT)} links to {link}, which does not exist.")
            self.add(path)
            file = file.rstrip("/").replace(".github", "github") + ending(path)
            file = re.sub(r"\.(md|ipynb)\.html$", ".html", file)
        if anchor and not re.fullmatch(r"L\d+", anchor):  # a heading; JupyterLab keeps its capital letters and marks
            anchor = make_id(urllib.parse.unquote(anchor))
        return f"{file}#{anchor}" if anchor else file

    def notebook(self, path: Path) -> str:
        """A notebook for Sphinx: its links, its folded cells, its figures with their captions for those who do not see
        them, and a line that leads to the notebook itself."""
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for at, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "markdown":
                cell["source"] = self.with_links("".join(cell["source"]), path)
                continue
            if cell["metadata"].get("jupyter", {}).get("source_hidden"):
                cell["metadata"]["tags"] = sorted({*cell["metadata"].get("tags", []), "hide-input"})
            if caption := caption_below(notebook["cells"], at):  # what a screen reader says in the figure's place
                cell["metadata"]["mystnb"] = {"image": {"alt": caption}}
        self.copy(path)
        notebook["metadata"].pop("widgets", None)
        text = f"This page shows the lesson as it ran. To run and change it, take [the notebook]({path.name}) and see "
        text += "[how to set up](../README.html)."
        notebook["cells"].insert(1, {"id": "site", "cell_type": "markdown", "metadata": {}, "source": text})
        return json.dumps(notebook)

    def listing(self, folder: Path) -> str:
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        links = "\n".join(f"- [{name}]({self.link(name, folder / 'index.md')})" for name in names)
        return f"{ORPHAN}# {folder.relative_to(ROOT)}\n\n{links}\n"


def caption_below(cells: list[dict], at: int) -> str:
    """The caption of a figure of cell `at`, without marks: the text below begins with it, in italics."""
    below = next(("".join(cell["source"]) for cell in cells[at + 1 :] if cell["cell_type"] == "markdown"), "")
    caption = re.match(r"\*(?!\*)(.+?)(?<!\*)\*(?:\n\n|\Z)", below, re.DOTALL)
    return re.sub(r"[*`$]", "", caption[1]).replace("\n", " ") if caption else ""


def place(path: Path) -> Path:
    """Where a file of the repository lies in the site: in the same place. Servers hide names that begin with a dot."""
    return Path(path.relative_to(ROOT).as_posix().replace(".github", "github"))


def ending(path: Path) -> str:
    """What the link to a file or folder ends in on the site."""
    if path.is_dir():
        return "/index.html"
    return ".html" if path != EXPLAINER and path.suffix in TEXTS | {".md", ".ipynb"} else ""


def code_page(path: Path) -> str:
    """A text file with its lines, each of which can be linked to: #L33."""
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n").split("\n")
    rows = "".join(f'<span class="row" id="L{n}">{line}\n</span>' for n, line in enumerate(lines, start=1))
    html = f'<div class="highlight"><pre class="file">{rows}</pre></div>'
    return f"{ORPHAN}# {path.name}\n\n`{place(path)}`\n\n``````{{raw}} html\n{html}\n``````\n"


def summary(notebook: Path) -> tuple[str, str]:
    """(the title of a lesson, what one can do at its end)"""
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    title, *paragraphs = (" ".join(paragraph.split()) for paragraph in first.split("\n\n"))
    goal = next((text for text in paragraphs if text.startswith("At the end")), "")
    sentence = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", goal).partition(". ")[0].rstrip(".")
    return title.removeprefix("# "), f"{sentence}." if sentence else ""


def front_page(lessons: list[Path], texts: list[Path]) -> str:
    rows = [
        f"- [**{title}**](lessons/{path.stem}.html)\n\n  {goal}" for path in lessons for title, goal in [summary(path)]
    ]
    text = (
        (HERE / "index.md")
        .read_text(encoding="utf-8")
        .replace("TEXTS", "\n".join(f"lessons/{path.stem}" for path in texts))
    )
    text = text.replace("LESSONS", "\n".join(rows))
    return text.replace("NAMES", "\n".join(f"lessons/{path.stem}" for path in lessons))


def build(out: Path) -> int:
    """Builds the site in the folder `out`; 0 where Sphinx had nothing to complain about."""
    lessons, texts = sorted(LESSONS.glob("*.ipynb")), sorted(LESSONS.glob("*.md"))
    with tempfile.TemporaryDirectory() as folder:
        source, extra = Path(folder) / "source", Path(folder) / "extra"
        site = Site(source, extra)
        for path in (*lessons, *texts, EXPLAINER, ROOT / "README.md", *source_files()):
            site.add(path)
        for room in map(path_of, ROOMS):
            if room.is_dir():
                site.add(room)
            else:  # the file itself has a page of its own
                site.write(room.with_suffix(".md"), room_page(room.stem))
        site.write(PACKAGE / "index.md", overview())
        site.write(ROOT / "index.md", front_page(lessons, texts))
        site.write(ROOT / "explainer.md", (HERE / "explainer.md").read_text(encoding="utf-8"))
        site.finish()
        options = ["-W", "--keep-going", "-q", "-j", "auto", "-c", str(HERE), "-d", f"{folder}/doctrees"]
        options += ["-D", f"html_extra_path={extra}"]
        return build_main([*options, str(source), str(out)])


def main():
    if len(sys.argv) != 2:
        sys.exit("Say which folder the site shall lie in: python lessons/site/build.py FOLDER")
    sys.exit(build(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
