"""The wheel: what is in it, and that it works away from the clone."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tinymrcnn

CLONE = Path(__file__).resolve().parents[1]
SAMPLE = CLONE / "data" / "shapes_sample" / "images"


def test_all_that_is_no_code_is_package_data():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["tinymrcnn"]
    package = CLONE / "tinymrcnn"
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    assert carried == {path for path in others if path.suffix != ".py"}
    assert {path.name for path in carried} >= {"py.typed", "shapes.npz"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, built without the network from a copy of what it is made of."""
    source, built, site = (tmp_path_factory.mktemp(name) for name in ("source", "built", "site"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(CLONE / name, source)
    shutil.copytree(CLONE / "tinymrcnn", source / "tinymrcnn", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(built)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.iterdir()
    name = f"tinymrcnn-{tinymrcnn.__version__}"
    assert wheel.name == f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"tinymrcnn", f"{name}.dist-info"}
        archive.extractall(site)
    return site


@pytest.mark.exhaustive
def test_it_works_in_an_empty_folder(installed, tmp_path):
    """It predicts with the trained model that comes with it, and trains."""
    variables = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run("-c", "import tinymrcnn; print(tinymrcnn.__file__)").strip()).is_relative_to(installed)
    image = sorted(SAMPLE.iterdir())[0]
    run("-m", "tinymrcnn", "predict", str(image))
    assert list((tmp_path / "predictions").glob(f"{image.stem}*.png"))
    run("-m", "tinymrcnn", "train", "--quick", "--steps", "4")
    assert (tmp_path / "runs" / "shapes" / "model.npz").is_file()
    assert "RoIAlign" in run("-m", "tinymrcnn", "bench", "roi", "--quick")
    assert {path.name for path in tmp_path.iterdir()} == {"predictions", "runs"}
