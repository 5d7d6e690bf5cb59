"""What a stranger who installs the package gets."""

import email
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import scattergen

ROOT = Path(__file__).resolve().parent.parent
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
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
def built(tmp_path_factory):
    """The folder of a wheel and a source distribution."""
    folder = tmp_path_factory.mktemp("built")
    # Hatchling runs in this environment, so the build needs no network.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def wheel_names(wheel):
    return set(wheel.namelist())


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


def test_what_the_package_index_shows_links_to_the_project(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    project = URLS["Repository"]
    assert [f"{name}, {url}" for name, url in URLS.items()] == metadata.get_all("Project-URL")
    assert all(url.startswith(project) for url in URLS.values())
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", metadata.get_payload())
    assert len(links) > 20
    for picture, link in links:
        assert link.startswith("https://")
        if link.startswith(project):
            kind, path = re.fullmatch(re.escape(project) + "/(raw|blob)/main/([^#]+)(#.*)?", link).groups()[:2]
            assert (kind == "raw") == bool(picture)
            assert (ROOT / path).is_file()


def test_the_readme_installs_from_the_project():
    readme = (ROOT / "README.md").read_text()
    assert f"pip install 'scattergen[fast] @ git+{URLS['Repository']}'\n" in readme
    (index,) = set(re.findall(r"https://download[^\s);]+", readme + (ROOT / "Makefile").read_text()))
    assert index == "https://download.pytorch.org/whl/cpu"  # the only one besides pip's own


def test_the_source_distribution_has_all_that_is_needed_to_build_test_and_read(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("docs", "examples", "benchmarks", "tests", "tools", "src")
    wanted = {path for folder in folders for path in (ROOT / folder).rglob("*.[mp][dyn]*") if path.is_file()}
    wanted |= {ROOT / name for name in ("README.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml")}
    assert {path.relative_to(ROOT).as_posix() for path in wanted if "__pycache__" not in path.parts} <= names


# Stands in for the environment's Python: tells what pip was asked for, and what it is configured with.
PYTHON_STUB = """#!/bin/sh
if [ "$3" = config ]; then echo "$PIP_CONFIGURATION"; exit; fi
echo "$@" >> asked
case "$*" in *--index-url*) exit "$INDEX_FAILS";; esac
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the build for CPUs is the usual one")
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("case", "taken"),
    [
        ("no GPU", "https://download.pytorch.org/whl/cpu"),
        ("no network", "https://download.pytorch.org/whl/cpu"),
        ("GPU", None),
        ("an index of pip's own", None),
        ("no index", None),
        ("another index", "file:///wheels"),
    ],
)
def test_make_takes_pytorch_for_cpus_where_there_is_no_gpu(tmp_path, case, taken):
    gpu = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")
    if gpu and case.startswith("no "):
        pytest.skip("this machine has a GPU")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stubs = dict.fromkeys(("made/bin/pip", "made/bin/python"), PYTHON_STUB)
    stubs["python"] = '#!/bin/sh\ntest "$2" != venv || cp -r made .venv\n'  # which makes the environment, as in a clone
    if case == "GPU":
        stubs["bin/nvidia-smi"] = PYTHON_STUB
    for place, text in stubs.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
        (tmp_path / place).chmod(0o755)
    indexes = {"no index": ["TORCH_INDEX="], "another index": ["TORCH_INDEX=file:///wheels"]}.get(case, [])
    own = "global.extra-index-url='file:///wheels'" if case == "an index of pip's own" else "global.timeout='60'"
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PIP_CONFIGURATION": own,
        "INDEX_FAILS": str(int(case == "no network")),
    }  # fmt: skip
    command = ["make", "PYTHON=./python", *indexes, ".venv/installed"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-1].endswith("-c constraints.txt -e .[dev]")
    assert [re.search(r"--index-url (\S+) torch$", line)[1] for line in asked[:-1]] == [taken] * (taken is not None)
    assert ("is not to be had" in done.stderr) == (case == "no network")
    assert (tmp_path / ".venv" / "installed").exists()


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
