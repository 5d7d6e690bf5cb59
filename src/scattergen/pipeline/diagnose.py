"""Diagnosing a run: how its codes are distributed and what a density misses, kept beside it."""

import warnings
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
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, SIMULATIONS, pairs_of
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation import TwoSampleTest, classifier_two_sample_test
from scattergen.files import atomic_path, write_json
from scattergen.keywords import whole_number
from scattergen.machine import machine
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.report.diagnostic_plots import (
    component_pairs,
    dependence_heat_map,
    marginal_histograms,
    normal_quantiles,
)
from scattergen.report.plots import eigenvalue_spectrum, figure_png
from scattergen.runs import RunFolder, Stages, check_name

COMPONENTS, CODES = 64, 5_000
_PAIRS = 6  # panels of scatter plots


@dataclass(frozen=True)
class RunDiagnosis:
    """What the tests found.

    Attributes:
        tables: "training codes" or "test codes", then the density if there is one, to the tests.
        told_apart: How well a classifier told the density's samples from the codes.
        rejections: As `tables`, to the number of components that K² rejects at 0.05, uncorrected.
        seed: Of choices, samples and simulations.
        scores: File that has it all; None if the run is on a disk that is full or only to be read.
        pictures: Files of plots.
    """

    tables: dict[str, Battery]
    told_apart: TwoSampleTest | None
    rejections: dict[str, int]
    seed: int
    scores: Path | None
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
    """Test the codes of a run, and samples of one of its densities, for normality and dependence.

    Writes diagnosis.json, or diagnosis-DENSITY.json, and pictures of the same names.

    Args:
        path: The run folder.
        density: Key of a density whose samples are tested too.
        data: The dataset that the run was fitted to: codes of its test images are tested instead of
            those of the training images, which the run holds.
        components: The leading components are tested, so many of them at most.
        n: Codes, and samples; fewer if there are fewer codes.
        n_simulations: Simulations or shuffles of each test.
        seed: Of choices, samples and simulations.
        device: Where to compute.
        progress: Where to report.

    Returns:
        The tests.

    Raises:
        InputError: If the density is unknown, the data are not those of the run or have no test
            images, or there are too few codes or components.
        RunFolderError: If the run is damaged or incomplete.
    """
    components = whole_number("components", components, least=2)
    n = whole_number("n", n, least=FEWEST_CODES)
    run = RunFolder.open(path)
    there = run.names("densities")
    if density is not None and density not in there:
        raise InputError(f'{path} has no density "{density}": it has {", ".join(there) or "none"}.')
    model = GenerativeScatteringNetwork.load(run, device, densities=() if density is None else (density,))
    if data is None:
        name, every = "training codes", run.read("codes")[0]["codes"]
        codes = every[random_rows(len(every), n, seed)]
    else:
        name, codes = "test codes", _test_codes(run, model, data, n, seed, progress)
    if density is not None:  # which may model the leading components only
        modelled = getattr(model.densities[density], "n_features_", components)
        components = whole_number("components", min(components, modelled), least=2)
    tables = {name: codes[:, :components]}
    if density is not None:
        tables[density] = model.sample_codes(len(codes), density, seed)[:, :components]
    batteries = {
        key: run_battery(z, n_simulations=n_simulations, seed=seed, progress=progress, description=key)
        for key, z in tables.items()
    }
    stem = "diagnosis" if density is None else f"diagnosis-{density}"
    check_name(stem)
    found = RunDiagnosis(
        tables=batteries,
        told_apart=None if density is None else classifier_two_sample_test(tables[name], tables[density], seed=seed),
        rejections={key: count_rejections(z).count("K2", 0.05) for key, z in tables.items()},
        seed=seed,
        scores=run.path / f"{stem}.json",
    )
    eigenvalues = model.encoder.whitening.explained_variance_
    try:
        return _keep(run, found, stem, [z.double().numpy() for z in tables.values()], eigenvalues)
    except ScattergenError as error:
        warnings.warn(f"The tests are not kept with the run. {error}", stacklevel=2)
        return replace(found, scores=None)


def _test_codes(
    run: RunFolder, model: GenerativeScatteringNetwork, data: Dataset, n: int, seed: int, progress: Progress
) -> Tensor:
    fitted_to = run.options.get("data", {}).get("fingerprint")
    if fitted_to not in (None, data.train.fingerprint):
        raise InputError(
            f"{data.name} does not hold the images that {run.path} was fitted to: name those, with "
            "the same --size and --mode."
        )
    if data.test is None:
        raise InputError(f"{data.name} has no test images: leave out --part test.")
    codes = model.encode(data.test, progress)
    return codes[random_rows(len(codes), n, seed)]


def _keep(
    run: RunFolder, found: RunDiagnosis, stem: str, tables: list[NDArray[np.float64]], eigenvalues: Tensor
) -> RunDiagnosis:
    """Write the file and the pictures."""
    codes, samples = tables[0], tables[1] if len(tables) > 1 else None
    matrices = [battery.pairs.correlation for battery in found.tables.values()]
    below = None if samples is None else matrices[1]
    name = [*found.tables][-1]
    pairs = _strongest(matrices[0])
    draw: dict[str, Callable[[], Figure]] = {
        "eigenvalues": lambda: eigenvalue_spectrum(eigenvalues),
        "marginals": lambda: marginal_histograms(codes, samples, name),
        "quantiles": lambda: normal_quantiles(codes, samples, name),
        "pairs": lambda: component_pairs(codes, pairs, samples, name),
        "dependence": lambda: dependence_heat_map(matrices[0], below, name),
    }
    names = {key: f"pictures/{stem}-{key}.png" for key in draw}
    made_from = [one for one in ("encoder", "codes", f"densities/{name}") if run.has(one)]
    key = Stages(run, SILENT).key(stem, {"seed": found.seed, "n": len(codes)}, made_from)
    with run.working(stem, key) as folder:
        products = {f"{stem}.json": folder / "tests.json"}
        write_json(folder / "tests.json", found.summary())
        for one, picture in names.items():
            products[picture] = folder / f"{one}.png"
            with atomic_path(products[picture]) as temporary:
                temporary.write_bytes(figure_png(draw[one]()))
        run.note(stem, key, {}, made_from, products)
    return replace(found, pictures=tuple(run.path / picture for picture in names.values()))


def _strongest(correlation: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The pairs that depend most on each other."""
    first, second = pairs_of(len(correlation))
    order = np.argsort(-correlation[first, second], kind="stable")[:_PAIRS]
    return [(int(first[k]), int(second[k])) for k in order]
