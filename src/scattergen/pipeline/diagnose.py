"""Diagnosing a run: how its codes are distributed and what a density misses, kept beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets import Dataset
from scattergen.datasets.source import random_rows
from scattergen.diagnostics import Battery, count_rejections, run_battery
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, SIMULATIONS
from scattergen.errors import InputError
from scattergen.evaluation import TwoSampleTest, classifier_two_sample_test
from scattergen.keywords import whole_number
from scattergen.machine import machine
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.keeping import check_data, check_densities, keep
from scattergen.progress import SILENT, Progress
from scattergen.report import diagnostic_plots as plots
from scattergen.report.plots import eigenvalue_spectrum
from scattergen.runs import RunFolder

COMPONENTS, CODES = 64, 5_000
_PAIRS = 6  # panels of scatter plots


@dataclass(frozen=True)
class RunDiagnosis:
    """What the tests found."""

    tables: dict[str, Battery]
    """The tests of "training codes" or "test codes", then of the density if there is one."""
    told_apart: TwoSampleTest | None
    """How well a classifier told the density's samples from the codes."""
    rejections: dict[str, int]
    """As `tables`, to the number of components that K² rejects at 0.05, uncorrected."""
    seed: int
    scores: Path | None
    """File that has it all; None if it could not be kept, since the disk is full or read-only."""
    pictures: tuple[Path, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Everything but the files, for JSON."""
        apart = self.told_apart
        return {
            "seed": self.seed,
            "machine": machine(),
            "tables": {
                name: {**battery.summary(), "k2_rejects_at_0.05": self.rejections[name]}
                for name, battery in self.tables.items()
            },
            "told_apart": None if apart is None else {"accuracy": apart.accuracy, "pvalue": apart.pvalue, "n": apart.n},
        }


def diagnose_run(
    path: Path | str,
    *,
    density: str | None = None,
    data: Dataset | None = None,
    components: int = COMPONENTS,
    n: int = CODES,
    n_simulations: int = SIMULATIONS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> RunDiagnosis:
    """Test at most n codes of a run, and samples of one of its densities, for normality and dependence.

    The tests are of the leading `components`, and of codes of training images, which the run holds, or with the `data`
    that it was fitted to of their test images.  diagnosis.json or diagnosis-DENSITY.json, and pictures of the same
    names, are kept in the run.
    """
    components = whole_number("components", components, least=2)
    n = whole_number("n", n, least=FEWEST_CODES)
    run = RunFolder.open(path)
    keys = () if density is None else (density,)
    check_densities(run, keys)
    model = GenerativeScatteringNetwork.load(run, device, densities=keys)
    if data is None:
        name, codes = "training codes", run.read("codes")[0]["codes"]
    else:
        check_data(run, data)
        if data.test is None:
            raise InputError(f"{data.name} has no test images: leave out --part test.")
        name, codes = "test codes", model.encode(data.test, progress)
    codes = codes[random_rows(len(codes), n, seed)]
    if density is not None:  # which may model the leading components only
        modelled = getattr(model.densities[density], "n_features_", components)
        components = whole_number("components", min(components, modelled), least=2)
    tables = {name: codes[:, :components]}
    if density is not None:
        tables[density] = model.sample_codes(len(codes), density, seed)[:, :components]
    stem = "diagnosis" if density is None else f"diagnosis-{density}"
    batteries = {
        key: run_battery(z, n_simulations=n_simulations, seed=seed, progress=progress, description=key)
        for key, z in tables.items()
    }
    drawn = _drawn(tables, batteries, model.encoder.whitening.explained_variance_)
    pictures = {f"{stem}-{one}": draw for one, draw in drawn.items()}
    found = RunDiagnosis(
        tables=batteries,
        told_apart=None if density is None else classifier_two_sample_test(tables[name], tables[density], seed=seed),
        rejections={key: count_rejections(z).count("K2", 0.05) for key, z in tables.items()},
        seed=seed,
        scores=run.path / f"{stem}.json",
        pictures=tuple(run.path / "pictures" / f"{one}.png" for one in pictures),
    )
    made_from = ["encoder", "codes", *(f"densities/{key}" for key in keys)]
    depends = {"seed": seed, "n": len(codes)}
    kept = keep(run, "tests", stem, found.summary(), pictures, depends, made_from)
    return found if kept else replace(found, scores=None, pictures=())


def _drawn(
    tables: dict[str, Tensor], batteries: dict[str, Battery], eigenvalues: Tensor
) -> dict[str, Callable[[], Figure]]:
    """What draws each picture of codes and perhaps, below or beside them, samples of a density."""
    codes, *others = (z.double().numpy() for z in tables.values())
    matrices = [battery.pairs.correlation for battery in batteries.values()]
    samples, below = (others[0], matrices[1]) if others else (None, None)
    name = [*tables][-1]
    pairs = _strongest(matrices[0])
    return {
        "eigenvalues": lambda: eigenvalue_spectrum(eigenvalues),
        "marginals": lambda: plots.marginal_histograms(codes, samples, name),
        "quantiles": lambda: plots.normal_quantiles(codes, samples, name),
        "pairs": lambda: plots.component_pairs(codes, pairs, samples, name),
        "dependence": lambda: plots.dependence_heat_map(matrices[0], below, name),
    }


def _strongest(correlation: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The pairs that depend most on each other."""
    first, second = np.triu_indices(len(correlation), k=1)
    order = np.argsort(-correlation[first, second], kind="stable")[:_PAIRS]
    return [(int(first[k]), int(second[k])) for k in order]
