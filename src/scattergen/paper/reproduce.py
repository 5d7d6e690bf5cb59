"""The founding paper beside a run: every stage in turn, then one page that says what agrees."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from scattergen.calls.keywords import check_seed
from scattergen.datasets import Dataset
from scattergen.datasets.published import N_TEST, N_TRAIN
from scattergen.datasets.recognition import recognise
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError
from scattergen.files import atomic_path
from scattergen.model import GenerativeScatteringNetwork
from scattergen.paper import density_samples, dependence, normality, precursors, training_time, trainings
from scattergen.paper.findings import Finding, Measured, Results, Section, Stage, measured, render_page
from scattergen.paper.material import FULL, PAPER_DENSITIES, Effort, Material
from scattergen.pipeline.fit import fit_density_run
from scattergen.report import paper
from scattergen.runs import RunFolder, Stages
from scattergen.stages.presets import preset

FEWEST_TEST_IMAGES = 20  # that the normality tests and distances need
_SHAPES = {"mnist": ((1, 28, 28),), "celeba": ((3, 128, 128), (3, 64, 64))}
_RESULTS = {results.name: results for results in (paper.MNIST, paper.CELEBA)}


def show_setting(results: Results, material: Material) -> Section:
    """Where a run on CelebA departs from the paper's setting, as it is there and here; nowhere if it is in it."""
    encoder, decoder = material.model.encoder, material.model.decoder.hyperparameters
    side, J = encoder.image_shape[1], encoder.scattering.J
    channels, kernel = ", ".join(map(str, decoder["channels"])), decoder["kernel_size"]
    filters = f"{channels} channels, {kernel}×{kernel} filters"
    rows = {
        "images": ("128×128", f"{side}×{side}"),
        "training images": (f"{N_TRAIN:,}", f"{len(material.train):,}"),
        "test images": (f"{N_TEST:,}", f"{len(material.test):,}"), "scale J": ("4", f"{J}"),
        "coefficients of an image": (f"{3 * 417 * 64:,}", f"{encoder.n_features:,}"),
        "components": ("512", f"{encoder.whitening.n_components}"),
        "decoder": ("1024, 512, 256, 128, 64, 32 channels, 7×7 filters", filters),
    }  # fmt: skip
    same = side >> J == 128 >> 4
    departures = {what: row for what, row in rows.items() if row[0] != row[1] or (what == "scale J" and not same)}
    epochs = material.run.options.get("training", {}).get("epochs", "unknown")
    shown = {"departures": departures, "J": J, "same_part": same, "epochs": epochs, "n_train": N_TRAIN}
    return Section("paper_setting", shown=shown)


_MODULES = (dependence, normality, density_samples, precursors, trainings, training_time)
# Name to stage; the slowest are last.
STAGES: dict[str, Stage] = {name: stage for module in _MODULES for name, stage in module.STAGES.items()}
# In the order of the page, which is the paper's.
SECTIONS: tuple[Callable[[Results, Material], Section], ...] = (
    dependence.show_leading, normality.show, dependence.show_battery, dependence.show_marginals,
    normality.show_averages, density_samples.show_samples, density_samples.show_prior, density_samples.show_training,
    training_time.show, trainings.show_stability, precursors.show_raw, precursors.show_codes,
)  # fmt: skip
CELEBA_STAGES = (
    "leading_components", "normality_counts", "count_search", "nonlinear_dependence", "density_samples",
    "latent_prior", "codes_in_use",
)  # fmt: skip
CELEBA_SECTIONS = (
    show_setting, dependence.show_leading, normality.show, dependence.show_battery, density_samples.show_samples,
    density_samples.show_prior, density_samples.show_training, precursors.show_codes,
)  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """The page, what agrees with the paper in the page's order, and whether nothing had to be done."""

    page: Path
    findings: tuple[Finding, ...]
    finished_before: bool


def reproduce_run(
    path: Path | str, data: Dataset, *, name: Literal["mnist", "celeba"] = "mnist", effort: Effort = FULL,
    seed: int = 0, device: str = "cpu", command: str = "", progress: Progress = SILENT,
) -> Reproduction:  # fmt: skip
    """Measure on a run everything that the paper shows of the data set `name`, and write it as one HTML page.

    `data` are those that the run was fitted to, with a test set: 28 × 28 grey images for MNIST, 128 × 128 or 64 × 64
    ones in colour for CelebA. Those of the paper's densities that the run lacks are fitted first, and become part of
    it. So does every stage, as soon as it is computed, and is found again while all that it depends on is the same.
    Interrupted at any moment, the same call continues. The page shows `command`, the command line.

    Raises:
        InputError: If the data are not those of the run, or not such images.
        RunFolderError: If the run is unfinished or damaged, or has another density in the place of one of the paper's.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse scattering", 2022.
    """
    seed = check_seed(seed)
    run = RunFolder.open(path)
    _check(run, data, name)
    _fit_missing(run, data, name, device, progress)
    run.refresh()
    material = Material(run, data, effort, seed, device, progress, _RESULTS[name])
    stages, shows = STAGES, SECTIONS
    if name == "celeba":
        stages, shows = {stage: STAGES[stage] for stage in CELEBA_STAGES}, CELEBA_SECTIONS
    prefix = "" if effort.name == "full" else "quick-"
    kept, results, computed = Stages(run, progress), dict[str, Measured](), False
    for key, stage in stages.items():
        results[key], found = measured(kept, f"{prefix}{key}", stage.key(material), partial(stage.measure, material))
        computed |= not found
    sections = [show(results, material) for show in shows]
    seconds = sum(result.seconds for result in results.values())
    text = render_page(sections, material, command or "scattergen.paper.reproduce_run(…)", seconds)
    page = run.path / ("reproduction-quick.html" if prefix else "reproduction.html")
    same = page.is_file() and page.read_text(encoding="utf-8") == text
    if not same:
        made_from = [f"paper/{prefix}{key}" for key in stages]
        whole = kept.key(page.stem, {}, made_from)
        with run.working(page.stem, whole) as folder:
            with atomic_path(folder / page.name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            run.note(page.stem, whole, {}, made_from, {page.name: folder / page.name})
    findings = tuple(section.finding for section in sections if section.finding)
    return Reproduction(page, findings, same and not computed)


def fit_command(name: str, images: str = "DIR", run: str | None = None) -> str:
    """The command that fits a run that can be reproduced, by default in the folder that a reproduction looks for."""
    what = [name] if name == "mnist" else [images, "--preset", name]
    return shlex.join(["scattergen", "fit", *what, "--out", run or f"runs/{name}"])


def _check(run: RunFolder, data: Dataset, name: str) -> None:
    """Refuse what could not be reproduced, before anything is computed."""
    if data.test is None or len(data.test) < FEWEST_TEST_IMAGES:
        found = "no" if data.test is None else str(len(data.test))
        needs = f"a reproduction needs at least {FEWEST_TEST_IMAGES} to compare with"
        raise InputError(f"{data.name} has {found} test images: {needs}.")
    if data.train.shape not in _SHAPES[name]:
        found, *wanted = (" × ".join(map(str, shape)) for shape in (data.train.shape, *_SHAPES[name]))
        of = f"the paper's {_RESULTS[name].title}, with images of {' or '.join(wanted)}"
        raise InputError(f"{data.name} has images of {found}: the reproduction is of {of}.")
    path, fit = run.path, f"fit one by `{fit_command(name)}`."
    if not recognise(data, run.options.get("data", {})):
        raise InputError(f"{path} was not fitted to {data.name}: name a run that was (--run), or {fit}")
    for part in ("encoder", "codes", "decoder"):
        run.require(part)
    if run.metadata("decoder").get("kind", "generator") != "generator":
        raise InputError(f"{path} has a local decoder, which is not the paper's: name another run (--run), or {fit}")
    if run.options.get("preset") is not None and not run.finished:
        remedy = "run the `scattergen fit` command that made it again, to its end"
        raise RunFolderError(f"{path} is an unfinished fit: {remedy}.")
    for key in PAPER_DENSITIES:
        if run.has(f"densities/{key}") and (kind := run.metadata(f"densities/{key}")["name"]) != key:
            remedy = f"store it under another name and fit the paper's by `scattergen density RUN {key}`"
            raise RunFolderError(f'The density "{key}" of {path} is of the kind {kind}: {remedy}.')


def _fit_missing(run: RunFolder, data: Dataset, name: str, device: str, progress: Progress) -> None:
    """Fit the paper's densities that the run lacks: by its preset or else by their defaults."""
    keywords = preset(name, data.train.shape, len(data.train))["densities"]
    there = [key for key in PAPER_DENSITIES if run.has(f"densities/{key}")]
    GenerativeScatteringNetwork.load(run, device, there)  # refused before anything is fitted
    seed = run.options.get("seed", 0)
    for key in PAPER_DENSITIES:
        if key not in there:
            fit_density_run(run.path, key, keywords=keywords.get(key), seed=seed, device=device, progress=progress)
