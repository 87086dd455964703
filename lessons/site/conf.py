"""Sphinx's settings for the site; build.py calls Sphinx with them."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import tinymrcnn

ROOT = Path(tinymrcnn.__file__).resolve().parents[1]

project = "tinymrcnn"
release = version = tinymrcnn.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.mathjax"]

html_theme = "furo"
html_title = "tinymrcnn"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"priority": 400})]
html_favicon = "static/favicon.svg"
html_copy_source = html_show_sourcelink = html_show_copyright = False

# The notebooks as they are stored: nothing is executed, and no widget is looked for on the network
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["amsmath", "dollarmath"]
# The report has no headings of the second level; a listing whose language Pygments does not know is set as plain text
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
myst_all_links_external = True  # build.py has made them what they shall be

# All of MathJax that the pages load is one file, from a package of PyPI
mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0], "static/mathjax")
html_static_path.append(str(mathjax / "tex-svg-full.js"))
mathjax_path = "tex-svg-full.js"

autodoc_default_options = {"members": True, "member-order": "bysource"}
add_module_names = False


def linkcode_resolve(domain, info):
    """The line of a name in the page of its source file, seen from the page of its room."""
    module = importlib.import_module(info["module"])
    found = module
    for name in info["fullname"].split("."):
        found = inspect.getattr_static(found, name, None)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    try:
        line = inspect.getsourcelines(inspect.unwrap(found))[1]
    except (TypeError, OSError):
        return None
    room = (ROOT / "tinymrcnn" / info["module"].split(".")[1]).with_suffix("")
    folder = room if room.is_dir() else ROOT / "tinymrcnn"
    return f"{Path(module.__file__).relative_to(folder).as_posix()}.html#L{line}"


def as_plain_text(app, what, name, subject, options, lines):
    """The docstrings are plain text: `names` are set as code, what reStructuredText would take for its own marks is
    escaped, and a paragraph with columns or indented lines stays as it is."""
    result = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = paragraph.split("\n")
        if any(re.search(r"^ |\S {2,}\S", row) for row in rows):
            result += ["::", "", *(f"    {row}" for row in rows), ""]
        else:
            parts = re.split(r"`+([^`]+)`+", paragraph.replace("\n- ", "\n\n- "))
            parts[::2] = (re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2])
            parts[1::2] = (f"``{part}``" for part in parts[1::2])
            result += ["".join(parts), ""]
    lines[:] = "\n".join(result).split("\n")


def without_a_text(app, what, name, subject, skip, options):
    """Fields of named tuples have texts that Python made."""
    return True if str(getattr(subject, "__doc__", "")).startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", as_plain_text)
    app.connect("autodoc-skip-member", without_a_text)
