"""The pages beside the lessons: their links lead somewhere, and the glossary can be searched by eye."""

import re

import pytest
from test_lessons import FOLDER, problem_with

PAGES = sorted(FOLDER.glob("*.md"))


def test_the_pages_are_there():
    assert [page.name for page in PAGES] == ["debugging.md", "glossary.md", "many_workers.md", "your_own_detector.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert links and [problem for link in links if (problem := problem_with(link, page))] == []


def test_lesson_00_and_the_readme_lead_to_all_pages():
    first = (FOLDER / "00_start_here.ipynb").read_text(encoding="utf-8")
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"]({page.name})" in first and f"](lessons/{page.name})" in readme


def test_the_glossary():
    text = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*(.+)\*\* \| (.+) \| (\[.+\)) \|$", text, flags=re.MULTILINE)
    terms = [term.lower() for term, *_ in rows]
    assert len(rows) > 100 and terms == sorted(terms) and len(set(terms)) == len(terms)
    for _, meaning, lessons in rows:
        assert meaning.endswith(".") and re.fullmatch(
            r"\[(\d\d)\]\(\1_\w+\.ipynb\)(, \[(\d\d)\]\(\3_\w+\.ipynb\))*", lessons
        )
