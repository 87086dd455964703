"""The site of the lessons (lessons/site/build.py): it builds without a warning, no link is dead, nothing comes from the
network, and in a browser the formulas, the search and the explainer work."""

import functools
import html.parser
import importlib.util
import json
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium

from tinymrcnn.files import PACKAGE, source_files

pytestmark = pytest.mark.lessons
ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "lessons"
NEEDS = "sphinx myst_nb furo sphinx-mathjax-offline".split()
needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="opens pages: there is no Chromium or Chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as the README's command builds it."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        pytest.skip(f"There is no {missing[0]}: pip install -e '.[site]'.")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, LESSONS / "site/build.py", out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-4000:]
    return out


class Page(html.parser.HTMLParser):
    """ids: what a link can lead to. links: where those of people lead. loaded: what a browser fetches for the page."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if found.get("src"):
            self.loaded.append(found["src"])
        if found.get("href"):
            fetched = tag == "link" and re.search("stylesheet|icon|preload", found.get("rel", ""))
            (self.loaded if fetched else self.links).append(found["href"])


@functools.cache
def read(path: Path) -> Page:
    return Page(path)


def pages_of(site):
    return sorted(site.rglob("*.html"))


def problem_with(link: str, page: Path, site: Path) -> str | None:
    if re.match(r"(https?|mailto|data):", link):
        return None
    file, _, anchor = link.partition("#")
    target = page.parent / urllib.parse.unquote(file.partition("?")[0]) if file else page
    if not target.is_file() or not target.resolve().is_relative_to(site):
        return f"{page.relative_to(site)}: {link}"
    if anchor and target.suffix == ".html" and "explainer" not in file:  # the explainer's address keeps its state
        if urllib.parse.unquote(anchor) not in read(target).ids:
            return f"{page.relative_to(site)}: {link}: there is no such place"
    return None


def test_no_link_is_dead(site):
    pages = pages_of(site)
    problems = [problem_with(link, page, site) for page in pages for link in read(page).links + read(page).loaded]
    assert len(problems) > 20_000 and [problem for problem in problems if problem] == []


def test_nothing_comes_from_the_network(site):
    fetched = {address for page in pages_of(site) for address in read(page).loaded}
    sheets = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    fetched |= set(re.findall(r"url\(\s*[\"']?([^)\"']+)", sheets)) | set(re.findall(r"@import\s+([^;]+)", sheets))
    assert len(fetched) > 10 and [address for address in fetched if re.match(r"(https?:)?//", address)] == []


@pytest.mark.parametrize("path", sorted([*LESSONS.glob("*.ipynb"), *LESSONS.glob("*.md")]), ids=lambda path: path.name)
def test_every_lesson_has_a_page(site, path):
    page = site / f"lessons/{path.stem}.html"
    assert page.is_file()
    assert f"lessons/{path.stem}.html" in read(site / "index.html").links
    if path.suffix == ".ipynb":
        assert (site / f"lessons/{path.name}").read_bytes() == path.read_bytes()  # to take along
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
        figures = sum(any(kind.startswith("image/") for kind in kinds) for kinds in data)
        said = re.findall(r'<img[^>]*\balt="([^"]*)"', page.read_text(encoding="utf-8"))
        assert len(said) >= figures and [alt for alt in said if "_images/" in alt or not alt] == []


def test_every_room_has_a_page_and_every_file_its_lines(site):
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert (site / f"tinymrcnn/{path.stem}.html").is_file(), path.name
        elif (path / "__init__.py").is_file():
            assert (site / f"tinymrcnn/{path.name}/index.html").is_file(), path.name
    for path in source_files():
        page = read(site / f"{path.relative_to(ROOT).as_posix()}.html")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert f"L{lines}" in page.ids and f"L{lines + 1}" not in page.ids


def test_a_docstring_and_its_line(site):
    page = site / "tinymrcnn/roi/index.html"
    assert "tinymrcnn.roi.roi_align.roi_align" in read(page).ids
    lines = (PACKAGE / "roi/roi_align.py").read_text(encoding="utf-8").split("\n")
    line = next(number for number, text in enumerate(lines, start=1) if text.startswith("def roi_align("))
    assert f"roi_align.py.html#L{line}" in read(page).links
    for word in ("Mask R-CNN (He et al. 2017), section 3", "sampling_ratio"):
        assert word in page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(site):
    with Chromium(1200, 900) as page:
        yield page


def opened(page, path):
    """Opens a page as a double click does, and waits for its formulas."""
    page.open(path.as_uri(), "document.readyState == 'complete' && (!window.MathJax || MathJax.startup?.promise)", 120)
    page.run("window.MathJax?.startup?.promise.then(() => true)")


@needs_chromium
def test_the_lessons_pages_are_silent_and_their_formulas_are_set(site, page):
    page.messages.clear()
    formulas = 0
    for path in sorted((site / "lessons").glob("*.html")):
        opened(page, path)
        wanted = page.run("document.querySelectorAll('.math').length")
        assert page.run("document.querySelectorAll('mjx-container').length") == wanted, path.name
        assert page.run("document.querySelectorAll('[data-mjx-error], mjx-merror').length") == 0, path.name
        assert page.messages == [], path.name
        formulas += wanted
    assert formulas > 200


@needs_chromium
@pytest.mark.parametrize("name", ["index", "README", "tinymrcnn/roi/index", "tinymrcnn/roi/roi_align.py", "genindex"])
def test_other_pages_are_silent(site, page, name):
    page.messages.clear()
    opened(page, site / f"{name}.html")
    assert page.messages == []


@needs_chromium
def test_the_search_finds(site, page):
    page.messages.clear()
    page.open(
        f"{(site / 'search.html').as_uri()}?q=saw-tooth", "document.querySelectorAll('#search-results li').length"
    )
    page.wait("!document.querySelector('#search-results .search-summary')?.textContent.includes('Searching')")
    found = page.run("[...document.querySelectorAll('#search-results li a')].map((link) => link.href)")
    assert any("07_roi_align" in link for link in found)
    assert page.messages == []


@needs_chromium
def test_the_explainer_detects(site, page):
    page.messages.clear()
    page.open(
        (site / "lessons/explainer/index.html").as_uri(),
        "typeof app == 'object' && app.found?.detections.scores[0] > 0.9",
        120,
    )
    assert (
        page.run("document.querySelector('footer a').getAttribute('href')")
        == "../../tinymrcnn/models/two_stage.py.html"
    )
    opened(page, site / "explainer.html")
    page.wait("document.querySelector('iframe').getBoundingClientRect().height > 500")
    assert page.messages == []


@needs_chromium
@pytest.mark.parametrize("name", ["index", "lessons/00_start_here", "lessons/07_roi_align", "tinymrcnn/models/index"])
def test_nothing_sticks_out(site, page, name):
    """Neither on a phone nor where the theme's columns come and go."""
    try:
        for width in (360, 800, 1125, 1320, 1560, 1700):
            page.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
            opened(page, site / f"{name}.html")
            assert page.run("document.documentElement.scrollWidth") <= width
    finally:
        page.ask("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
