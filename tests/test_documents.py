"""What the documents show runs as it stands there, on few images and by small networks: programs, commands, notebooks.

What cannot run says why: a command by `NOT_RUN`, a program by the comment `<!-- not run: … -->` above it.
"""

import io
import json
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scattergen import datasets
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
ELSEWHERE = {"from-kymatio.md": "test_scattering_docs.py"}
# Names that a program of a page takes for granted.
PRELUDE = {"scattering.md": "import torch\nimages = torch.rand(2, 28, 28)"}
# Numbers that are too large for a test.
SMALLER = {
    **{"10_000": "60", "5000": "60", "-n 10000": "-n 60", "size=64": "size=16", "--size 64": "--size 16"},
    **{"run_battery(z)": "run_battery(z, n_simulations=19)", "diagnose ": "diagnose --simulations 19 "},
}
# Beginnings and parts of commands that are not run, and why.
NOT_RUN = {
    r"(pip|make|mkdir|cd|git|conda) ": "it sets up this very environment",
    r"jupyter ": "it needs JupyterLab; the notebooks have a test of their own",
    r"python (benchmarks|examples)/": "it takes minutes; tests of their own run benchmarks and examples",
    r"torchrun |srun |export |head=|NODE_RANK=|-m scattergen|--rdzv": "it needs a cluster",
    r"scattergen .*(--devices|--nodes|--device cuda)": "it needs more processors, or a GPU",
    r"scattergen .*(hf:|push )": "it needs the internet",
    r"scattergen .*(celeba)": "it needs the images of CelebA",
    r"scattergen reproduce ": "it takes minutes; test_reproduction.py runs it",
    r"scattergen explore ": "it serves until it is stopped; a test of its own opens it",
}


def blocks(page, *kinds):
    """Reason not to be run, and text, of the fenced blocks of some kinds."""
    return [(why, text) for why, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def commands(text):
    """The commands in a block, without comments and the descriptions beside them."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        parts = re.split(r" {2,}|(?<=--estimate) (?=how )", re.sub(r"(^|\s+)#.*", "", line.strip().removeprefix("$ ")))
        yield parts[0]
        yield from (part for part in parts[1:] if part.startswith("scattergen "))


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
    densities = {"gaussian": {}, "mixture": {"n_components": 2}, "parzen": {}}
    options["densities"] = {key: densities[key] for key in densities if key in options["densities"]}
    options["decoder"]["channels"] = [4 for _ in options["decoder"]["channels"]]
    if "sampling" in options:
        options["sampling"]["n_components"] = 4
    return options


@pytest.fixture(scope="module")
def place(scattergen, tmp_path_factory):
    """A folder with what the documents name, where digits are few and presets small."""
    place = tmp_path_factory.mktemp("documents")
    random = np.random.default_rng(0)
    for name in ("photos", "faces", "shared"):
        for i in range(60):
            path = place / name / ("cats" if i % 2 else "dogs") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    digits = few_digits()
    np.savez(place / "images.npz", x=digits.test[:20].numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for module in (datasets, opening, cli_opening):
            patch.setattr(module, "mnist", lambda: digits)
        patch.setattr(presets, "preset", small_preset)
        scattergen("fit", "mnist", "--out", "runs/mnist", "--quiet")
        scattergen("density", "runs/mnist", "gaussian", "--by-class", "--quiet")
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
    exec(PRELUDE.get(page.name, ""), namespace)
    for program in programs:
        exec(compile(smaller(program), str(page), "exec"), namespace)


def test_the_commands_of_the_documents_run(place, scattergen, subtests=None):
    """Each once for every choice of options; `fit` takes a new folder where the page's is there."""
    seen, failed = set(), []
    for page in PAGES:
        for why, text in blocks(page, "", "sh"):
            for line in () if why else commands(text):
                if any(re.match(start, line) for start in NOT_RUN) or not line:
                    continue
