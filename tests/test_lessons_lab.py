"""The lessons in JupyterLab, started as the README says: every link of every lesson can be opened."""

import json
import os
import posixpath
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from chromium import Chromium, find_chromium
from test_lessons import ROOT, every_lesson, links_of

pytestmark = pytest.mark.lessons
TABS = "[...document.querySelectorAll('.lm-DockPanel-tabBar .lm-TabBar-tabLabel')].map((tab) => tab.textContent)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """lab(path) -> the address of a path on a JupyterLab server that was started with the README's options."""
    pytest.importorskip("jupyterlab", reason="JupyterLab not installed: pip install -e '.[lessons]'")
    options = re.search(r"\.venv/bin/jupyter lab (.*)", (ROOT / "README.md").read_text(encoding="utf-8")).group(1)
    folder = tmp_path_factory.mktemp("lab")
    (folder / "labconfig").mkdir()
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / "labconfig" / "page_config.json").write_text(json.dumps(news))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", *options.split(), "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=lessons"]
    command += [f"--FileCheckpoints.checkpoint_dir={folder / 'checkpoints'}"]  # else they lie beside the code
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}

    def address(path=""):
        return f"http://127.0.0.1:{port}/{path}?token=lessons"

    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(address("api"))
                break
            except OSError:
                time.sleep(0.3)
        else:
            pytest.fail(f"JupyterLab does not answer: {(folder / 'server.log').read_text()[-2000:]}")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_the_first_page_is_lesson_00(lab):
    assert urllib.parse.urlsplit(urllib.request.urlopen(lab()).url).path == "/lab/tree/lessons/00_start_here.ipynb"


def contents(lab, lesson) -> dict[str, str]:
    """{path: "file", "notebook" or "directory"} of what a lesson links to, as the server has it."""
    found = {}
    for link in {link.partition("#")[0] for link in links_of(lesson) if not re.match(r"\w+:|#", link)}:
        path = posixpath.normpath(f"lessons/{link}")
        answer = json.load(urllib.request.urlopen(lab(f"api/contents/{urllib.parse.quote(path)}") + "&content=0"))
        found[answer["path"]] = answer["type"]
    return found


@every_lesson
def test_the_server_has_what_a_lesson_links_to(lab, lesson):
    """A link to a folder would end in a dialog: "is a directory, not a file"."""
    found = contents(lab, lesson)
    assert len(found) > 1 and set(found.values()) <= {"file", "notebook"}, found


@pytest.mark.skipif(find_chromium() is None, reason="opens a page: there is no Chromium or Chrome")
def test_links_open_when_they_are_clicked(lab):
    with Chromium() as page:
        page.open(lab("lab/tree/lessons/00_start_here.ipynb"), "document.querySelector('.jp-Notebook a[href]')", 120)
        for name in ("two_stage.py", "01_autograd.ipynb"):
            page.run(f"document.querySelector(\".jp-Notebook a[href*='{name}']\").click()")
            page.wait(f"{TABS}.includes('{name}')", 30)
