"""The founding paper beside a run: every stage in turn, then one page that says what agrees."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from scattergen.datasets import Dataset
from scattergen.errors import InputError, RunFolderError
from scattergen.files import atomic_path
from scattergen.keywords import check_seed
from scattergen.model import GenerativeScatteringNetwork
from scattergen.paper import (
    central_limit,
    codes_in_use,
    count_search,
    density_samples,
    gaussian_marginals,
    latent_prior,
    leading_components,
    nonlinear_dependence,
    normality_counts,
    other_decoder,
    paper_setting,
    pixel_baselines,
    raw_coefficients,
    sources,
    stability,
    training_time,
)
from scattergen.paper.findings import Finding, Measured, Section, measured, render_page
from scattergen.paper.material import FULL, PAPER_DENSITIES, Effort, Material
from scattergen.pipeline.fit import fit_density_run
from scattergen.progress import SILENT, Progress
from scattergen.report import paper
from scattergen.runs import RunFolder, Stages
from scattergen.stages.presets import preset

FEWEST_TEST_IMAGES = 20  # that the normality tests and distances need
_SHAPES = {"mnist": ((1, 28, 28),), "celeba": ((3, 128, 128), (3, 64, 64))}
_RESULTS = {results.name: results for results in (paper.MNIST, paper.CELEBA)}
_PAGES = {"full": "reproduction", "quick": "reproduction-quick"}

Show = Callable[[Mapping[str, Measured], Material], Section]


@dataclass(frozen=True)
class Stage:
    """One computation whose result is kept: `measure` is given the folder of what it needs to be resumed."""

    module: ModuleType
    depends: Callable[[Material], dict[str, Any]]
    measure: Callable[[Material, Path], Measured]

    def key(self, material: Material) -> dict[str, Any]:
        """All that its result depends on, the text of its module and of what that imports included."""
        code = sources.digest(sources.modules_of_stage(self.module.__name__))
        return {**self.depends(material), "code": code}


_MODULES = (
    leading_components, normality_counts, count_search, nonlinear_dependence, density_samples, latent_prior,
    other_decoder, codes_in_use, gaussian_marginals, central_limit, raw_coefficients, stability,
)  # fmt: skip

STAGES = {module.NAME: Stage(module, module.depends, module.measure) for module in _MODULES} | {
    name: Stage(pixel_baselines, partial(pixel_baselines.depends, name), partial(pixel_baselines.measure, name))
    for name in pixel_baselines.NAMES
}
"""Name to stage; the slowest are last."""

SECTIONS: tuple[Show, ...] = (
    leading_components.show, normality_counts.show, nonlinear_dependence.show, gaussian_marginals.show,
    central_limit.show, density_samples.show_samples, latent_prior.show, density_samples.show_training,
    training_time.show, stability.show, raw_coefficients.show, codes_in_use.show,
)  # fmt: skip
"""In the order of the page, which is the paper's."""

CELEBA_STAGES = (
    "leading_components", "normality_counts", "count_search", "nonlinear_dependence", "density_samples",
    "latent_prior", "codes_in_use",
)  # fmt: skip

CELEBA_SECTIONS: tuple[Show, ...] = (
    paper_setting.show, leading_components.show, normality_counts.show, nonlinear_dependence.show,
    density_samples.show_samples, latent_prior.show, density_samples.show_training, codes_in_use.show,
)  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """The page, what agrees with the paper in the page's order, and whether nothing had to be done."""

    page: Path
    findings: tuple[Finding, ...]
    finished_before: bool


def reproduce_run(
    path: Path | str,
    data: Dataset,
    *,
    name: Literal["mnist", "celeba"] = "mnist",
    effort: Effort = FULL,
    seed: int = 0,
    device: str = "cpu",
    command: str = "",
    progress: Progress = SILENT,
) -> Reproduction:
    """Measure on a run everything that the paper shows of the data set `name`, and write it as one HTML page.

    Those of the paper's densities that the run lacks are fitted first, and become part of it. So does every stage, as
    soon as it is computed, and is found again while all that it depends on is the same. Interrupted at any moment, the
    same call continues.

    Args:
        path: The run folder.
        data: The dataset that the run was fitted to, with a test set: 28 × 28 grey images for MNIST, 128 × 128 or
            64 × 64 ones in colour for CelebA.
        name: The paper's data set, whose numbers stand beside those of the run.
        effort: How much to spend.
        seed: Of everything random.
        device: Where to compute.
        command: The command line, to be shown.
        progress: Where to report.

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
    stages = STAGES if name == "mnist" else {stage: STAGES[stage] for stage in CELEBA_STAGES}
    names = {key: key if effort.name == "full" else f"{effort.name}-{key}" for key in stages}
    kept, results, computed = Stages(run, progress), dict[str, Measured](), False
    for key, stage in stages.items():
        results[key], found = measured(kept, names[key], stage.key(material), partial(stage.measure, material))
        computed |= not found
    page = run.path / f"{_PAGES[effort.name]}.html"
    findings, text = _render(results, material, command)
    same = page.is_file() and page.read_text(encoding="utf-8") == text
    if not same:
        _keep_page(run, page.name, text, [f"paper/{name}" for name in names.values()])
    return Reproduction(page, findings, same and not computed)


def _keep_page(run: RunFolder, name: str, text: str, made_from: list[str]) -> None:
    stage = name.removesuffix(".html")
    key = Stages(run, SILENT).key(stage, {}, made_from)
    with run.working(stage, key) as folder:
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        run.note(stage, key, {}, made_from, {name: folder / name})


def fit_command(name: str, images: str = "DIR", run: str | None = None) -> str:
    """The command that fits a run that can be reproduced, by default in the folder that a reproduction looks for.

    >>> fit_command("celeba", "faces")
    'scattergen fit faces --preset celeba --out runs/celeba'
    """
    what = [name] if name == "mnist" else [images, "--preset", name]
    return shlex.join(["scattergen", "fit", *what, "--out", run or f"runs/{name}"])


def _check(run: RunFolder, data: Dataset, name: str) -> None:
    """Refuse what could not be reproduced, before anything is computed."""
    if data.test is None or len(data.test) < FEWEST_TEST_IMAGES:
        found = "no" if data.test is None else str(len(data.test))
        raise InputError(
            f"{data.name} has {found} test images: a reproduction needs at least {FEWEST_TEST_IMAGES} to compare with."
        )
    if data.train.shape not in _SHAPES[name]:
        wanted = " or ".join(" × ".join(map(str, shape)) for shape in _SHAPES[name])
        raise InputError(
            f"{data.name} has images of {' × '.join(map(str, data.train.shape))}: the reproduction "
            f"is of the paper's {_RESULTS[name].title}, with images of {wanted}."
        )
    if run.options.get("data", {}).get("fingerprint") != data.train.fingerprint:
        raise InputError(
            f"{run.path} was not fitted to {data.name}: name a run that was (--run), or fit one by "
            f"`{fit_command(name)}`."
        )
    for part in ("encoder", "codes", "decoder"):
        run.require(part)
    if run.metadata("decoder").get("kind", "generator") != "generator":
        raise InputError(
            f"{run.path} has a local decoder, which is not the paper's: name another run (--run), "
            f"or fit one by `{fit_command(name)}`."
        )
    if run.options.get("preset") is not None and not run.finished:
        raise RunFolderError(
            f"{run.path} is an unfinished fit: run the `scattergen fit` command that made it again, to its end."
        )
    for key in PAPER_DENSITIES:
        if run.has(f"densities/{key}") and (kind := run.metadata(f"densities/{key}")["name"]) != key:
            raise RunFolderError(
                f'The density "{key}" of {run.path} is of the kind {kind}: store it under another '
                f"name and fit the paper's by `scattergen density RUN {key}`."
            )


def _fit_missing(run: RunFolder, data: Dataset, name: str, device: str, progress: Progress) -> None:
    """Fit the paper's densities that the run lacks: by its preset or else by their defaults."""
    keywords = preset(name, data.train.shape, len(data.train))["densities"]
    there = [key for key in PAPER_DENSITIES if run.has(f"densities/{key}")]
    GenerativeScatteringNetwork.load(run, device, there)  # refused before anything is fitted
    seed = run.options.get("seed", 0)
    for key in PAPER_DENSITIES:
        if key not in there:
            fit_density_run(run.path, key, keywords=keywords.get(key), seed=seed, device=device, progress=progress)


def _render(results: Mapping[str, Measured], material: Material, command: str) -> tuple[tuple[Finding, ...], str]:
    chosen = SECTIONS if material.paper is paper.MNIST else CELEBA_SECTIONS
    sections = [show(results, material) for show in chosen]
    seconds = sum(measured.seconds for measured in results.values())
    text = render_page(sections, material, command or "scattergen.paper.reproduce_run(…)", seconds)
    return tuple(section.finding for section in sections if section.finding), text
