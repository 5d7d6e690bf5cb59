"""The paper's thesis: components of codes depend on each other, and which densities have that.

The battery of `scattergen.diagnostics`, on codes and on samples of every density. Codes divided by their norms show how
much of the dependence is one scale that all components of an image share.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scattergen.diagnostics import run_battery
from scattergen.evaluation import classifier_two_sample_test
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.material import PAPER_DENSITIES, Material
from scattergen.report.diagnostic_plots import dependence_heat_map
from scattergen.report.html import themed
from scattergen.wording import number

NAME = "nonlinear_dependence"
CODES, DIRECTIONS = "codes", "codes of equal norm"
# Codes, and as many samples: a network that learns from fewer misses much of what it sees here.
_TOLD_APART = 10_000
_LEVEL = 0.05


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts, effort = material.depends_on_model("encoder", "codes", *material.parts), material.effort
    budget = {"components": effort.components_diagnosed, "simulations": effort.simulations}
    return {**parts, "n": effort.n_diagnosed, **budget}


def measure(material: Material, work: Path) -> Measured:
    """Run the battery on the leading components of codes and of every density's samples."""
    effort, every = material.effort, material.training_codes
    many = every[material.numbers(len(every), _TOLD_APART, stream=7)]
    chosen = every[material.numbers(len(every), effort.n_diagnosed, stream=6)]
    mean_norm = every.norm(dim=1).mean()
    tables = {CODES: chosen, DIRECTIONS: chosen * (mean_norm / chosen.norm(dim=1, keepdim=True))}
    told_apart = {}
    leading = slice(0, effort.components_diagnosed)
    for key in material.densities:
        samples = material.model.sample_codes(len(many), key, material.seed)
        told_apart[key] = classifier_two_sample_test(many[:, leading], samples[:, leading]).accuracy
        tables[key] = samples[: len(chosen)]
    rows, heat_maps = {}, {}
    options: dict[str, Any] = {"n_simulations": effort.simulations, "seed": material.seed}
    for name, codes in tables.items():
        battery = run_battery(codes[:, leading], **options, progress=material.progress, description=name)
        rows[name] = {"tests": [test.summary() for test in battery.tests], "told_apart": told_apart.get(name)}
        heat_maps[name] = torch.from_numpy(battery.pairs.correlation)
    facts = {
        "rows": rows,
        "n": len(chosen),
        "n_told_apart": len(many),
        "d": min(effort.components_diagnosed, every.shape[1]),
        "simulations": effort.simulations,
    }
    return Measured(facts, heat_maps)


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Which tests find a dependence, in codes and in samples of every density."""
    measured = results[NAME]
    codes = measured.tensors[CODES].numpy()
    heat_maps = {
        key: themed(partial(dependence_heat_map, codes, measured.tensors[key].numpy(), key))
        for key in ("gaussian", _best(measured.facts))
    }
    return Section(NAME, _finding(measured.facts), [measured], {"level": _LEVEL, "heat_maps": heat_maps})


def _best(facts: Mapping[str, Any]) -> str:
    """The density whose samples are hardest to tell from codes, other than white noise."""
    rows = facts["rows"]
    told = [key for key, row in rows.items() if row["told_apart"] is not None and key != "gaussian"]
    return min(told, key=lambda key: rows[key]["told_apart"])


def _finding(facts: Mapping[str, Any]) -> Finding:
    item, rows = "The thesis: nonlinear dependencies", facts["rows"]
    pvalues = {
        name: [test["pvalue"] for test in rows[name]["tests"] if test["null"] == "independent"]
        for name in (CODES, DIRECTIONS)
    }
    rejected, left = (sum(p <= _LEVEL for p in pvalues[name]) for name in (CODES, DIRECTIONS))
    tests = len(pvalues[CODES])
    if not rejected:
        return Finding(item, "disagrees", "No test finds a dependence between the components of codes.")
    because = (
        f"{rejected} of {tests} tests of independence reject it for the codes, "
        f"{left} of {tests} once codes have equal norms"
    )
    because += (
        ", so a scale that all components of an image share is not all of it. "
        if left
        else ": a scale that all components of an image share is all that they find. "
    )
    best, told = _best(facts), {key: row["told_apart"] for key, row in rows.items()}
    paper = ", ".join(f"{number(told[key], 2)} of {key}" for key in PAPER_DENSITIES)
    because += f"A classifier tells samples from codes with accuracy {paper}"
    if best not in PAPER_DENSITIES:
        because += f"; {number(told[best], 2)} of {best}, which is not in the paper"
    return Finding(item, "agrees" if rejected == tests else "agrees in part", because + ".")
