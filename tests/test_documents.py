"""What the documents show runs as it stands there, on few images and by small networks: programs, commands, notebooks.

What cannot run says why: a command by `NOT_RUN`, a program by the comment `<!-- not run: … -->` above it.
"""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scattergen import datasets, densities, diagnostics, evaluation, report, scattering
from scattergen.cli import opening as cli_opening
from scattergen.datasets import Dataset, ImageArray, opening
from scattergen.stages import presets

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("the documents are not in this copy", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n+)?^```(\w*)[^\n]*\n(.*?)^```", re.S | re.M)

# Pages whose programs another test runs.
ELSEWHERE = {
    "explorer.md": "test_explorer.py",
    "from-kymatio.md": "test_scattering_docs.py",
    "notebooks.md": "test_notebook.py",
    "scikit-learn.md": "test_sklearn.py",
    "sharing.md": "test_sharing.py",
}
# Numbers that are too large for a test.
SMALLER = {
    "10_000": "60",
    "5000": "60",
    "-n 10000": "-n 60",
    "-n 2000": "-n 40",
    "--repeats 5": "--repeats 2",
    "size=64": "size=16",
    "--size 64": "--size 16",
    "--improved": "--improved --set epochs=1",
    "evaluate runs": "evaluate -n 40 runs",
    "diagnose runs": "diagnose --simulations 19 --components 4 runs",
    "run_battery(z)": "run_battery(z, n_simulations=19)",
}
# Sizes of a tutorial, by their names there.
FEW = {"n_images": 60, "n_components": 10, "epochs": 1, "n_scored": 40, "side": 16, "n_samples": 4}
# Beginnings and parts of commands that are not run, and why.
NOT_RUN = {
    r"(pip|make|mkdir|cd|git|conda|hf) ": "it sets up this very environment",
    r"jupyter ": "it needs JupyterLab; the notebooks have a test of their own",
    r"(python|sh) (benchmarks|examples)/": "it takes minutes; tests of their own run benchmarks and examples",
    r"torchrun |srun |export |head=|NODE_RANK=|-m scattergen|--rdzv": "it needs a cluster",
    r"scattergen .*(--devices|--nodes|--device cuda)": "it needs more processors, or a GPU",
    r"scattergen .*(hf:|push )": "it needs the internet",
    r"scattergen .*(celeba)": "it needs the images of CelebA",
    r"scattergen reproduce ": "it takes minutes; test_reproduction.py runs it",
    r"scattergen export .*onnx": "it needs the extra onnx; test_sharing.py runs it where that is installed",
    r"scattergen explore ": "it serves until it is stopped; a test of its own opens it",
}


def blocks(page, *kinds):
    """Reason not to be run, and text, of the fenced blocks of some kinds."""
    return [(why, text) for why, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def commands(text):
    """The commands in a block, without comments."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        yield re.sub(r"(^|\s+)#.*", "", line.strip().removeprefix("$ "))


def smaller(text):
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def few_digits():
    """As many digits as a test can wait for, by the name of all."""
    digits = datasets.mnist()
    train, test = (
        ImageArray(part[:n].numpy(), part.labels[:n], classes=[*"0123456789"], name=f"mnist[{name}]")
        for name, part, n in (("train", digits.train, 150), ("test", digits.test, 60))
    )
    return Dataset("mnist", train, test)


def small_preset(name, shape, n, original=presets.preset):
    options = presets.override(original(name, shape, n), {"training.epochs": 1, "encoder.n_components": 12})
    quick = {"gaussian": {}, "mixture": {"n_components": 2}, "parzen": {}}
    options["densities"] = {key: quick[key] for key in quick if key in options["densities"]}
    options["decoder"]["channels"] = [4 for _ in options["decoder"]["channels"]]
    if "sampling" in options:
        options["sampling"]["n_components"] = 4
    return options


@pytest.fixture(scope="module")
def place(scattergen, tmp_path_factory):
    """A folder with what the documents name, where digits are few and presets small."""
    place = tmp_path_factory.mktemp("documents")
    random = np.random.default_rng(0)
    for name in ("photos", "faces", "my-faces"):
        for i in range(200):  # of which a tenth are for tests
            path = place / name / ("cats" if i % 2 else "dogs") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    digits = few_digits()
    np.savez(place / "images.npz", x=digits.test[:20].numpy())
    (place / "fit.toml").write_text("[training]\nepochs = 1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for module in (datasets, opening, cli_opening):
            patch.setattr(module, "mnist", lambda: digits)
        patch.setattr(presets, "preset", small_preset)
        scattergen("fit", "mnist", "--out", "runs/mnist", "--quiet")
        scattergen("density", "runs/mnist", "gaussian", "--by-class", "--quiet")
        scattergen("density", "runs/mnist", "vae", "--set", "epochs=1", "--quiet")
        for name in ("a", "b"):
            shutil.copytree("runs/mnist", f"runs/{name}")
        yield place


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_programs_of_a_page_run(page, place, capsys):
    if page.name in ELSEWHERE:
        pytest.skip(f"{ELSEWHERE[page.name]} runs them")
    found = blocks(page, "python")
    programs = [text for why, text in found if not why]
    if not programs:
        pytest.skip("; ".join(why for why, _ in found))
    namespace = {"__name__": "page"}
    for program in programs:
        exec(compile(smaller(program), str(page), "exec"), namespace)


def shown_commands():
    """Every command line of the documents, with its page; in a block of no kind, only those of ours."""
    return [
        (page, line)
        for page in PAGES
        for kind in ("", "sh")
        for why, text in blocks(page, kind)
        for line in commands(text)
        if not why and line and (kind == "sh" or line.startswith("scattergen "))
    ]


def may_run(line):
    return not any(re.match(start, line) for start in NOT_RUN)


def test_every_command_is_ours_or_says_why_it_is_not_run():
    assert [(page.name, line) for page, line in shown_commands() if may_run(line) and line[:11] != "scattergen "] == []


def test_the_commands_of_the_documents_run(place, scattergen):
    """Each once for every run and choice of options."""
    seen = set()
    for _, line in shown_commands():
        words = shlex.split(smaller(line))[1:]
        made = words[words.index("--out") + 1] if words[0] == "fit" and "--estimate" not in words else None
        kind = (*words[:2], made, *(word for word in words if word.startswith("-")))
        if may_run(line) and kind not in seen:
            seen.add(kind)
            scattergen(*words, "--quiet")


def cells(notebook):
    """The programs of a notebook, of which the sizes in its first cell are those of a test."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            program = "".join(cell["source"])
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(FEW) >= set(re.findall(r"^(\w+) =", program, re.M))
                program = "\n".join(f"{name} = {value}" for name, value in FEW.items())
            yield program


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_tutorial_runs(notebook, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "notebook"}
    for program in cells(notebook):
        exec(compile(program, str(notebook), "exec"), namespace)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_tutorial_has_texts_for_its_pictures_and_is_small(notebook):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    pictures = [cell for cell in found for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert all(len(cell["metadata"]["alt"]) > 10 for cell in pictures)
    assert [output for cell in found for output in cell.get("outputs", []) if output["output_type"] == "error"] == []
    assert notebook.stat().st_size < 2**20


def test_every_picture_has_a_text_for_who_cannot_see_it():
    for page in PAGES:
        for text in re.findall(r"!\[(.*?)\]\(", page.read_text(encoding="utf-8"), re.S):
            assert len(text) > 10, page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built so that a warning is an error."""
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    if not (ROOT / "mkdocs.yml").exists():
        pytest.skip("mkdocs.yml is not in this copy")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_needs_nothing_from_elsewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    loaded = r'<(?:script|img|iframe|source)[^>]* src="(?:https?:)?//|<link[^>]*stylesheet[^>]* href="(?:https?:)?//'
    assert [path for path, text in pages.items() if re.search(loaded, text)] == []
    for sheet in [*site.rglob("*.css"), *site.rglob("*.js")]:
        assert "fonts.googleapis" not in sheet.read_text(encoding="utf-8"), sheet


def test_no_page_is_large_and_every_picture_has_a_text(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        names = set(re.findall(r'<(?:img|script|link)[^>]*(?:src|href)="([^"#?]+)', text))
        files = [path.parent / name for name in names if not name.startswith(("http", "data:"))]
        assert path.stat().st_size + sum(file.stat().st_size for file in files if file.is_file()) < 10 * 2**20, path
        assert [image for image in re.findall("<img[^>]*>", text) if not re.search(r'alt="[^"]{4,}"', image)] == []


def test_the_api_has_every_public_name(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    modules = [datasets, densities, diagnostics, evaluation, report, scattering]
    if find_spec("sklearn"):
        modules.append(import_module("scattergen.sklearn"))
    for module in modules:
        of_its_own = [
            name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", [name for name in of_its_own if not name.startswith("_")]):
            if inspect.getdoc(getattr(module, name)) and callable(getattr(module, name)):
                assert re.search(rf'id="{module.__name__}[.\w]*\.{name}"', text), name
