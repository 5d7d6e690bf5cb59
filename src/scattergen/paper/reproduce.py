"""The founding paper beside a run: every stage in turn, then one page that says what agrees."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from scattergen import __version__
from scattergen.datasets import Dataset
from scattergen.density_run import fit_density_run
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
    stability_trials,
    training_time,
)
from scattergen.paper.material import FULL, PAPER_DENSITIES, Effort, Material
from scattergen.paper.page import Finding, ReproductionPage
from scattergen.paper.stage_cache import Measured, StageCache
from scattergen.presets import preset
from scattergen.progress import SILENT, Progress
from scattergen.report import paper
from scattergen.report.draft import duration
from scattergen.runs import RunFolder

FEWEST_TEST_IMAGES = 20  # that the normality tests and distances need
_SHAPES = {"mnist": ((1, 28, 28),), "celeba": ((3, 128, 128), (3, 64, 64))}
_RESULTS = {results.name: results for results in (paper.MNIST, paper.CELEBA)}


@dataclass(frozen=True)
class Stage:
    """One computation whose result is kept.

    Attributes:
        module: Where it is written; another text of it, or of what it imports, may measure
            something else.
        depends: What else its result depends on.
        measure: Computes it; the folder is for what it needs to be resumed.
    """

    module: ModuleType
    depends: Callable[[Material], dict[str, Any]]
    measure: Callable[[Material, Path], Measured]

    def key(self, material: Material) -> dict[str, Any]:
        """All that its result depends on."""
        code = sources.digest(sources.modules_of_stage(self.module.__name__))
        return {**self.depends(material), "code": code}


STAGES: dict[str, Stage] = {
    module.NAME: Stage(module, module.depends, module.measure)
    for module in (
        leading_components,
        normality_counts,
        count_search,
        nonlinear_dependence,
        density_samples,
        latent_prior,
        other_decoder,
        codes_in_use,
        gaussian_marginals,
        central_limit,
        raw_coefficients,
        stability_trials,
    )
} | {
    name: Stage(
        pixel_baselines,
        partial(pixel_baselines.depends, name),
        partial(pixel_baselines.measure, name),
    )
    for name in pixel_baselines.NAMES
}
"""Name to stage; the slowest are last."""

Section = Callable[[ReproductionPage, Mapping[str, Measured], Material], None]

SECTIONS: tuple[Section, ...] = (
    leading_components.show,
    normality_counts.show,
    nonlinear_dependence.show,
    gaussian_marginals.show,
    central_limit.show,
    density_samples.show_samples,
    latent_prior.show,
    density_samples.show_training,
    training_time.show,
    stability.show,
    raw_coefficients.show,
    codes_in_use.show,
)
"""In the order of the page, which is the paper's."""

CELEBA_STAGES = (
    leading_components.NAME,
    normality_counts.NAME,
    count_search.NAME,
    nonlinear_dependence.NAME,
    density_samples.NAME,
    latent_prior.NAME,
    codes_in_use.NAME,
)
"""Those that are computed for CelebA, too."""

CELEBA_SECTIONS: tuple[Section, ...] = (
    paper_setting.show,
    leading_components.show,
    normality_counts.show,
    nonlinear_dependence.show,
    density_samples.show_samples,
    latent_prior.show,
    density_samples.show_training,
    codes_in_use.show,
)
"""Of the page for CelebA."""


@dataclass(frozen=True)
class Reproduction:
    """Outcome of a reproduction.

    Attributes:
        page: The HTML page.
        findings: What agrees with the paper and what does not, in the page's order; of a page that
            was there before, too.
        finished_before: Nothing had to be done.
    """

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
    """Measure everything that the paper shows on a run, and write it as one HTML page.

    Those of the paper's densities that the run lacks are fitted first, and become part of it.
    Every stage is kept in the run's folder "reproduction" as soon as it is computed, and found
    again while what it depends on (the run's parts, the images, the options) is the same.
    Interrupted at any moment, the same call continues.

    Args:
        path: The run folder.
        data: The dataset that the run was fitted to, with a test set: 28 × 28 grey images for
            MNIST, 128 × 128 or 64 × 64 ones in colour for CelebA.
        name: The paper's data set, whose numbers stand beside those of the run.
        effort: How much to spend.
        seed: Of everything random.
        device: Where to compute.
        command: The command line, to be shown.
        progress: Where to report.

    Returns:
        The page and its findings.

    Raises:
        InputError: If the data are not those of the run, or not such images.
        RunFolderError: If the run is unfinished or damaged, or has another density in the place of
            one of the paper's.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse
        scattering", 2022.
    """
    seed = check_seed(seed)
    run = RunFolder.open(path)
    _check(run, data, name)
    _fit_missing(run, data, name, device, progress)
    material = Material(run, data, effort, seed, device, progress, _RESULTS[name])
    stages = STAGES if name == "mnist" else {stage: STAGES[stage] for stage in CELEBA_STAGES}
    with run.locked():
        cache = StageCache(run.path / "reproduction" / effort.name, progress)
        results = {
            key: cache.get(key, stage.key(material), partial(stage.measure, material))
            for key, stage in stages.items()
        }
        page = run.path / f"{_PAGES[effort.name]}.html"
        findings, text = _render(run, results, material, command)
        same = page.is_file() and page.read_text(encoding="utf-8") == text
        if not same:
            with atomic_path(page) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return Reproduction(page, findings, same and not cache.computed)


def fit_command(name: str, images: str = "DIR", run: str | None = None) -> str:
    """The command that fits a run which can be reproduced.

    Args:
        name: Of the paper's data set.
        images: Folder of CelebA.
        run: Folder of the run; by default the one that a reproduction looks for.

    Returns:
        The command line.

    Example:
        >>> fit_command("celeba", "faces")
        'scattergen fit faces --preset celeba --out runs/celeba'
    """
    what = [name] if name == "mnist" else [images, "--preset", name]
    return shlex.join(["scattergen", "fit", *what, "--out", run or f"runs/{name}"])


_LEFT_OUT = {
    "mnist": "Left out: the paper’s CelebA rows of Tables 1 to 3 and its Figure 3, which need that "
    "data set: `scattergen reproduce celeba --images DIR`.",
    "celeba": "Left out: Table 4 but for the time of the decoder’s training, since models of "
    "pixels are trained on MNIST only, and what the MNIST page tests beyond the paper’s tables: "
    "Gaussian marginals, the central-limit argument, stability, and raw coefficients.",
}

_QUICK = {
    "mnist": "This page was made with --quick: fewer images and shorter trainings, so distances "
    "are larger (their bias falls as n grows) and pixel models worse than without it.",
    "celeba": "This page was made with --quick: fewer images, random samples and simulations, so "
    "everything is less precise than without it.",
}

_PAGES = {"full": "reproduction", "quick": "reproduction-quick"}


def _check(run: RunFolder, data: Dataset, name: str) -> None:
    """Refuse what could not be reproduced, before anything is computed."""
    if data.test is None or len(data.test) < FEWEST_TEST_IMAGES:
        found = "no" if data.test is None else str(len(data.test))
        raise InputError(
            f"{data.name} has {found} test images: a reproduction needs at least "
            f"{FEWEST_TEST_IMAGES} to compare with."
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
            f"{run.path} is an unfinished fit: run the `scattergen fit` command that made it "
            "again, to its end."
        )
    for key in PAPER_DENSITIES:
        if not run.has(f"densities/{key}"):
            continue
        kind = run.metadata(f"densities/{key}")["name"]
        if kind != key:
            raise RunFolderError(
                f'The density "{key}" of {run.path} is of the kind {kind}: store it under another '
                f"name and fit the paper's by `scattergen density RUN {key}`."
            )


def _fit_missing(run: RunFolder, data: Dataset, name: str, device: str, progress: Progress) -> None:
    """Fit the paper's densities that the run lacks: by its preset or else by their defaults."""
    keywords = preset(name, data.train.shape, len(data.train))["densities"]
    there = [key for key in PAPER_DENSITIES if run.has(f"densities/{key}")]
    GenerativeScatteringNetwork.load(run, device, there)  # refused before anything is fitted
    for key in PAPER_DENSITIES:
        if key not in there:
            seed = run.options.get("seed", 0)
            fit_density_run(
                run.path, key, keywords=keywords.get(key), seed=seed, device=device,
                progress=progress,
            )  # fmt: skip


def _render(
    run: RunFolder, results: Mapping[str, Measured], material: Material, command: str
) -> tuple[tuple[Finding, ...], str]:
    page = ReproductionPage(
        "A paper, measured again", command or "scattergen.paper.reproduce_run(…)",
        material.seed, __version__,
    )  # fmt: skip
    for add in SECTIONS if material.paper is paper.MNIST else CELEBA_SECTIONS:
        add(page, results, material)
    lead = (
        "Ziomek and Farrahi, “Modelling nonlinear dependencies in the latent space of inverse "
        f"scattering”: its tables and figures for {material.paper.title} beside those of "
        f"{run.path.name}, a run of {len(material.train):,} training and {len(material.test):,} "
        f"test images.{paper_setting.proxy_sentence(material)}"
    )
    quick = material.effort.name == "quick"
    seconds = sum(measured.seconds for measured in results.values())
    remarks = [
        f"All stages together took {duration(seconds)}; each is kept, and computed again only if "
        "what it depends on has changed.",
        "The run was fitted by scattergen "
        f"{run.version}, seed {run.options.get('seed', 'unknown')}; its own report has all "
        "options.",
        _LEFT_OUT[material.paper.name],
    ]
    if quick:
        remarks.insert(
            0,
            _QUICK[material.paper.name],
        )
    text = page.render(lead, remarks)
    return tuple(page.findings), text
