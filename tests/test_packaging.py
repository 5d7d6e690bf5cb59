"""What a stranger who installs the package gets."""

import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import scattergen

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "src" / "scattergen" / "datasets" / "data"


def test_versions_agree():
    assert importlib.metadata.version("scattergen") == scattergen.__version__
    assert f"version: {scattergen.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_mnist_is_the_shipped_file_with_its_licence():
    digest = hashlib.sha256((DATA / "mnist.npz").read_bytes()).hexdigest()
    assert digest == "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"
    licence = (DATA / "LICENSE-MNIST").read_text()
    assert "CC BY-SA 3.0" in licence
    assert digest in licence


def test_every_direct_dependency_is_pinned_exactly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in required}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    # No "+cpu": such local versions exist only on the index of one hardware variant.
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+(post\d+)?", pin) for pin in pins)
    assert names <= {pin.split("==")[0] for pin in pins}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Hatchling runs in this environment, so the build needs no network.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "datasets/data/mnist.npz",
        "datasets/data/LICENSE-MNIST",
        "evaluation/data/mnist-classifier-1.safetensors",
    ],
)
def test_wheel_ships(wheel_names, name):
    assert f"scattergen/{name}" in wheel_names


def test_wheel_ships_every_file_of_the_package(wheel_names):
    source = ROOT / "src" / "scattergen"
    files = [
        path.relative_to(ROOT / "src").as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert set(files) <= wheel_names


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [name for name in targets if not (page.parent / name).exists()] == []


def test_every_document_is_reached_from_another():
    linked = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"\]\(([^):#]+\.md)", page.read_text())
        if (page.parent / name).resolve() != page
    }
    assert {page for page in PAGES if page.parent != ROOT} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_documents_are_short(page):
    """Tables, pictures and what programs print have the lines that they need."""
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!", "    "))] == []
