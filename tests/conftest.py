"""The command line called within this process, and a small run that was fitted through it."""

import contextlib
import functools
import gc
import importlib.util
import io
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

# Threads that wait for the next sum would keep the processor from other work, on a busy machine for minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # which PyTorch reads as it is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # `make test` has a worker for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import scipy.special
import torch
from PIL import Image

from forks import Forks
from scattergen import cli
from scattergen.datasets import mnist
from scattergen.datasets.image_files import png
from scattergen.evaluation import PerceptualFeatures
from scattergen.pipeline import evaluate
from scattergen.report import html, plots
from scattergen.runs import RunFolder
from scattergen.scattering import transform

gc.freeze()  # what was imported will stay: not to look through it again and again is a tenth of all tests' time

# 16 components of 300 digits, small networks, seconds of training: enough to be a complete run.
# The paper's kind of decoder and densities; the preset auto has tests of its own.
TINY_OPTIONS = {
    "encoder.n_components": "16",
    "encoder.flips": "false",
    "decoder.kind": "generator",
    "decoder.unit_norm": "true",
    "training.loss": "pixels",
    "training.flips": "false",
    "training.shortened": "0",
    "training.patience": "null",
    "sampling.n_components": "null",
    "sampling.sharpen": "0",
    "decoder.channels": "[16,8,4]",
    "decoder.momentum": "0.5",
    "training.epochs": "3",
    "densities.vae.epochs": "2",
    "densities.vae.widths": "[32,16]",
    "densities.gan.epochs": "2",
    "densities.gan.widths": "[16,32]",
}

FIGURE_PNG = plots.figure_png


def _run_cli(*arguments, code=0, showing_warnings=False):
    """Run `scattergen ARGUMENTS`, expect an exit code, and return both outputs."""
    out, err = io.StringIO(), io.StringIO()
    argv, found = sys.argv, 0
    sys.argv = ["scattergen", *map(str, arguments)]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),  # which also undoes how `main` shows them
        ):
            if showing_warnings:
                warnings.simplefilter("default")
            cli.main()
    except SystemExit as stop:
        found = stop.code or 0
    finally:
        sys.argv = argv
    result = SimpleNamespace(code=found, out=out.getvalue(), err=err.getvalue())
    assert result.code == code, f"exit code {found}\n{result.out}\n{result.err}"
    return result


@pytest.hookimpl(optionalhook=True)  # of a plugin that running single tests does not need
def pytest_xdist_auto_num_workers(config):
    """As many workers as cores, up to eight: each imports PyTorch and fits the run that tests share."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.fixture(autouse=True, scope="session")
def light_processes(tmp_path_factory):
    """Makes small fits quick, here and in processes of their own, by what takes seconds for each and matters to none.

    They are judged by scattering features instead of those of photographs; processes do without TorchMetrics, with
    which Fabric would import SciPy and Matplotlib, and leave figures blank, as `blank_figures` does here.
    """
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("light_process.py"), folder / "sitecustomize.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PerceptualFeatures, "installed", staticmethod(lambda: False))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


def _blank_png(figure):
    return png(Image.new("L", figure.canvas.get_width_height()))


@contextlib.contextmanager
def _figures_by(figure_png):
    with pytest.MonkeyPatch.context() as patch:
        for module in (html, plots, evaluate):
            patch.setattr(module, "figure_png", figure_png)
        yield


@pytest.fixture(autouse=True, scope="session")
def blank_figures():
    """Figures within this process are made, but stay blank: to lay them out and draw them is most of a small fit."""
    with _figures_by(_blank_png):
        yield


@pytest.fixture(scope="module")
def drawn_figures(blank_figures):
    """Draws figures after all: for the tests of a module that are about them."""
    with _figures_by(FIGURE_PNG):
        yield


@pytest.fixture
def drawing(blank_figures):
    """Draws figures after all, in one test."""
    with _figures_by(FIGURE_PNG):
        yield


@pytest.fixture(autouse=True)
def same_threads():
    """Sets the number of threads back, which `--threads` changes for the whole process.

    Sums depend on it in their last bits, and so would the tests that come later.
    """
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scattergen():
    """Calls the command line: `scattergen("info", run)`, with code=2 where an error is expected."""
    return _run_cli


@pytest.fixture(scope="session")
def tiny():
    """Options of the small fit as arguments of the command line."""
    options = [w for name, value in TINY_OPTIONS.items() for w in ("--set", f"{name}={value}")]
    return ["--densities", "gaussian,mixture,vae,gan", *options]


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Runs code in processes of its own: `forks.start(code, *arguments)`."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.end()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """300 training and 40 test digits in an .npz file."""
    data = mnist()
    parts = {"x_train": data.train[:300], "x_test": data.test[:40]}
    arrays = {name: (x[:, 0].numpy() * 255).round().astype(np.uint8) for name, x in parts.items()}
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, **arrays, y_train=data.train.labels[:300], y_test=data.test.labels[:40])
    return path


@pytest.fixture(scope="session")
def fitted(scattergen, digits, tiny, tmp_path_factory):
    """A finished run, not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "fitted"
    scattergen("fit", digits, "--out", run, "--quiet", *tiny)
    return run


@pytest.fixture
def run_copy(fitted, tmp_path):
    """A finished run to be changed or damaged."""
    return shutil.copytree(fitted, tmp_path / "run")


@pytest.fixture(scope="session")
def assert_nothing_left():
    """Tells that a run has nothing in it that is only needed while something is being made."""

    def check(run):
        index = json.loads((run / "run.json").read_text())
        assert "next" not in index
        stages = index["stages"].items()
        named = {f"{name}-{one['key']}.safetensors" for name, one in stages if one["sha256"]}
        found = {path.relative_to(run).as_posix() for path in run.rglob("*.safetensors")}
        assert found == named
        assert not (run / "work").exists()
        assert not list(run.rglob(".writing-*"))

    return check


def _tensors(path):
    run = RunFolder.open(path)
    names = ["encoder", "codes", "linear", "decoder", *(f"densities/{n}" for n in run.names("densities"))]
    return {f"{name}: {k}": t for name in names for k, t in run.read(name)[0].items()}


@pytest.fixture(scope="session")
def assert_same_model():
    """Compares everything fitted in two runs bit for bit."""

    def compare(run, other):
        found, expected = _tensors(run), _tensors(other)
        assert found.keys() == expected.keys()
        # Seconds of training are shared by no two fits.
        different = [
            name
            for name, tensor in expected.items()
            if not (name.endswith("history/seconds") or torch.equal(found[name], tensor))
        ]
        assert not different

    return compare


@pytest.fixture(scope="session")
def kymatio():
    """Builds transforms of Kymatio, the oracle, by (shape, J, L, max_order) and keywords."""
    if importlib.util.find_spec("kymatio") is None:
        pytest.skip("Kymatio, the oracle, is not installed")
    # Kymatio 0.3.0 imports a function that SciPy 1.17 removed, for its transform of spheres only.
    if not hasattr(scipy.special, "sph_harm"):
        scipy.special.sph_harm = scipy.special.sph_harm_y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kymatio.torch import Scattering2D as Peer

    @functools.lru_cache  # its filters take seconds
    def build(shape, J, L, max_order, **keywords):
        return Peer(J=J, shape=shape, L=L, max_order=max_order, **keywords)

    return build


@pytest.fixture(params=["torch", "compiled"])
def algorithm(request, monkeypatch):
    """What holds for PyTorch's operations and for the compiled kernel of the CPU."""
    if request.param == "torch":
        monkeypatch.setattr(transform, "compiled_kernels", lambda: None)
    elif transform.compiled_kernels() is None:
        pytest.skip("Numba, which compiles the kernel, is not installed")
