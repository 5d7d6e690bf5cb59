"""Whether components depend on each other: the two of Figure 1, all of them, and normal ones, which need not."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from scattergen.diagnostics import dagostino_k2, jarque_bera, run_battery
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES
from scattergen.evaluation import classifier_two_sample_test
from scattergen.paper.findings import Finding, Measured, Results, Section, Stage, by_setting, graded, judge, with_other
from scattergen.paper.material import Material
from scattergen.report.diagnostic_plots import dependence_heat_map
from scattergen.report.html import themed
from scattergen.report.plots import visualisation_matrix

LEADING, THESIS, MARGINALS = "leading_components", "nonlinear_dependence", "gaussian_marginals"
_PERMUTATIONS = 999
_BINS = 10
_LEVEL = 0.01  # of the permutation tests
_ENOUGH = 5000  # test images; of fewer, the training images have more power
CODES, DIRECTIONS = "codes", "codes of equal norm"  # without the one scale that all components of an image share
# Codes, and as many samples: a network that learns from fewer misses much of what it sees here.
_TOLD_APART = 10_000
_BATTERY_LEVEL = 0.05
_N = 10_000  # of each pair of variables
Floats = NDArray[np.float64]


def measure_leading(material: Material, work: Path) -> Measured:
    """Decode both matrices; measure the dependence of the two components."""
    model, tests, train = material.model, material.test_codes, material.training_codes
    codes, of = (tests, "test") if len(tests) >= min(_ENOUGH, len(train)) else (train, "training")
    sigma = model.encoder.whitening.explained_variance_[:2].sqrt()
    first, second = codes[:, :2].double().numpy().T
    statistics = {"correlation of squares": correlation_of_squares, "correlation ratio": correlation_ratio}
    dependence = {name: _permutation_test(f, first, second, material.seed) for name, f in statistics.items()}
    facts = {
        "sigma": sigma.tolist(), "reached": (train[:, :2].abs().amax(0) * sigma).tolist(),
        "share": (train[:, :2].square().sum(1) / train.square().sum(1)).max().item(),
        "n_train": len(train), "n": len(codes), "of": of,
        "correlation": float(np.corrcoef(first, second)[0, 1]), "dependence": dependence,
    }  # fmt: skip
    return Measured(facts, material.matrices(model.decode))


def correlation_of_squares(first: Floats, second: Floats) -> float:
    """Correlation of the squares of two variables, (n,): 0 in expectation if they are independent."""
    return float(np.corrcoef(first**2, second**2)[0, 1])


def correlation_ratio(first: Floats, second: Floats) -> float:
    """Share of `second`’s variance that its mean given the decile of `first` explains; about 9/n if independent."""
    bins = np.searchsorted(np.quantile(first, np.linspace(0, 1, _BINS + 1)[1:-1]), first)
    counts = np.bincount(bins, minlength=_BINS)
    means = np.bincount(bins, second, minlength=_BINS) / np.maximum(counts, 1)
    return float((counts * (means - second.mean()) ** 2).sum() / (len(second) * second.var()))


def _permutation_test(
    statistic: Callable[[Floats, Floats], float], first: Floats, second: Floats, seed: int
) -> dict[str, float]:
    """The statistic, and how often as large a one is found after one variable is shuffled."""
    random = np.random.default_rng(seed)
    value = statistic(first, second)
    shuffled = (statistic(first, random.permutation(second)) for _ in range(_PERMUTATIONS))
    as_large = sum(abs(other) >= abs(value) for other in shuffled)
    return {"value": value, "p": (1 + as_large) / (1 + _PERMUTATIONS)}


def show_leading(results: Results, material: Material) -> Section:
    """Both matrices through each decoder, and whether the two components are independent."""
    measured = results[LEADING]
    first, second = sigma = measured.facts["sigma"]
    scaled = [value * first for value in SIGMA_VALUES], [value * second for value in SIGMA_VALUES]
    values = {"paper": (PAPER_VALUES, PAPER_VALUES), "sigma": scaled}
    matrices = {
        setting: {key: themed(partial(visualisation_matrix, tensors[key], *at, sigma)) for key, at in values.items()}
        for setting, tensors in by_setting(results, material, measured.tensors, "pictures").items()
    }
    dependent = [name for name, row in measured.facts["dependence"].items() if row["p"] <= _LEVEL]
    words = {"dependent": dependent, "level": _LEVEL}
    finding = judge("Figure 1", "agrees" if dependent else "cannot be compared", LEADING, **words)
    return Section(LEADING, finding, with_other(LEADING, results), {"matrices": matrices})


def measure_battery(material: Material, work: Path) -> Measured:
    """Run the battery on the leading components of codes and of every density's samples."""
    effort, every = material.effort, material.training_codes
    many = every[material.numbers(len(every), _TOLD_APART, stream=7)]
    chosen = every[material.numbers(len(every), effort.n_diagnosed, stream=6)]
    tables = {CODES: chosen, DIRECTIONS: chosen * (every.norm(dim=1).mean() / chosen.norm(dim=1, keepdim=True))}
    told_apart = {}
    leading = slice(0, effort.components_diagnosed)
    for key in material.densities:
        samples = material.model.sample_codes(len(many), key, material.seed)
        told_apart[key] = classifier_two_sample_test(many[:, leading], samples[:, leading]).accuracy
        tables[key] = samples[: len(chosen)]
    options: dict[str, Any] = {"n_simulations": effort.simulations, "seed": material.seed}
    rows, heat_maps = {}, {}
    for name, codes in tables.items():
        battery = run_battery(codes[:, leading], **options, progress=material.progress, description=name)
        rows[name] = {"tests": [test.summary() for test in battery.tests], "told_apart": told_apart.get(name)}
        heat_maps[name] = torch.from_numpy(battery.pairs.correlation)
    d = min(effort.components_diagnosed, every.shape[1])
    counts = {"n": len(chosen), "n_told_apart": len(many), "d": d, "simulations": effort.simulations}
    return Measured({"rows": rows, **counts}, heat_maps)


def show_battery(results: Results, material: Material) -> Section:
    """Which tests find a dependence, in codes and in samples of every density."""
    measured = results[THESIS]
    codes = measured.tensors[CODES].numpy()
    heat_maps = {
        key: themed(partial(dependence_heat_map, codes, measured.tensors[key].numpy(), key))
        for key in ("gaussian", _best(measured.facts))
    }
    finding = _battery_finding(measured.facts)
    return Section(THESIS, finding, [measured], {"level": _BATTERY_LEVEL, "heat_maps": heat_maps})


def _best(facts: Mapping[str, Any]) -> str:
    """The density whose samples are hardest to tell from codes, other than white noise."""
    rows = facts["rows"]
    told = [key for key, row in rows.items() if row["told_apart"] is not None and key != "gaussian"]
    return min(told, key=lambda key: rows[key]["told_apart"])


def _battery_finding(facts: Mapping[str, Any]) -> Finding:
    rows = facts["rows"]
    found, left = (
        [test["pvalue"] <= _BATTERY_LEVEL for test in rows[name]["tests"] if test["null"] == "independent"]
        for name in (CODES, DIRECTIONS)
    )
    told = {key: row["told_apart"] for key, row in rows.items()}
    words = {"found": found, "left": left, "told": told, "best": _best(facts)}
    return judge("The thesis: nonlinear dependencies", graded(*found), THESIS, **words)


def counter_examples(n: int, random: np.random.Generator) -> dict[str, Floats]:
    """Pairs (n, 2) of uncorrelated standard normal variables, the first independent, the others not."""
    first, other = random.standard_normal((2, n))
    # At this radius c the correlation of the third pair, 2 E z² [|z| < c] - 1, vanishes: E z² [|z| < c] = P(χ²₃ < c²).
    radius = np.sqrt(stats.chi2.median(3))
    seconds = {
        "z₂ drawn for itself": other,
        "z₂ = ±z₁, the sign by chance": first * np.sign(other),
        f"z₂ = z₁ where |z₁| < {radius:.3f}, else −z₁": np.where(np.abs(first) < radius, first, -first),
    }
    return {name: np.stack([first, second], 1) for name, second in seconds.items()}


def measure_marginals(material: Material, work: Path) -> Measured:
    """Test the marginals, the correlation and the dependence of each pair."""
    rows = []
    for name, z in counter_examples(_N, np.random.default_rng(material.seed)).items():
        tests = {"k2": dagostino_k2(z).pvalue.tolist(), "jb": jarque_bera(z).pvalue.tolist()}
        correlation, squares = float(np.corrcoef(z[:, 0], z[:, 1])[0, 1]), correlation_of_squares(z[:, 0], z[:, 1])
        rows.append({"name": name, **tests, "correlation": correlation, "squares": squares})
    return Measured({"rows": rows})


def show_marginals(results: Results, material: Material) -> Section:
    """That normal, whitened components need not be independent: only *jointly* normal ones are."""
    return Section(MARGINALS, judge("Section 4.2", "disagrees", MARGINALS), [results[MARGINALS]], {"n": _N})


STAGES = {
    LEADING: Stage(measure_leading, ("encoder", "codes", "decoder")),
    THESIS: Stage(measure_battery, ("encoder", "codes", "densities")),
    MARGINALS: Stage(measure_marginals),
}
