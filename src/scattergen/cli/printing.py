"""Tables on the console."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from scattergen.files import gigabytes
from scattergen.pipeline.estimate import StageEstimate
from scattergen.pipeline.evaluate import RunDiagnosis, RunEvaluation
from scattergen.terminal import say, visible
from scattergen.wording import duration

_WIDE = 150  # columns for tables that may be wider than the terminal


def print_stages(stages: dict[str, dict[str, Any]]) -> None:
    """Print the finished stages of a run with their seconds."""
    table = _table("stage", "seconds")
    for name, stage in stages.items():
        _add(table, name, f"{stage['seconds']:.1f}" if "seconds" in stage else "")
    _show(table)


def print_estimate(stages: Sequence[StageEstimate], n: int, as_json: bool) -> None:
    """Print what each stage of a fit to n images will take."""
    total = sum(stage.seconds for stage in stages)
    most = max(stage.bytes for stage in stages)
    if as_json:
        rows = [asdict(stage) for stage in stages]
        print(json.dumps({"n": n, "seconds": total, "bytes": most, "stages": rows}))
        return
    table = _table("stage", "time", "memory")
    for stage in stages:
        _add(table, stage.name, duration(stage.seconds), gigabytes(stage.bytes))
    _add(table, "all", duration(total), gigabytes(most))
    say(f"A fit to {n:,} images would take about {duration(total)}; nothing was written.")
    _show(table)


def print_scores(result: RunEvaluation) -> None:
    """Print what `evaluate` found."""
    name, version = result.features
    say(f"{result.n:,} images in a row against {result.against}; features {name} {version}; seed {result.seed}.")
    manifold_scores = ("precision", "recall", "density", "coverage")
    table = _table("", "Fréchet", "kernel·1000", *manifold_scores, "classifier", "bins", "sharpness")
    for key, row in result.rows.items():
        _add(
            table,
            key,
            f"{row.frechet.value:.2f} ± {row.frechet.standard_error:.2f}",
            f"{1000 * row.kernel.value:.1f} ± {1000 * row.kernel.standard_error:.1f}",
            *(f"{getattr(row.manifolds, name).value:.3f}" for name in manifold_scores),
            f"{row.two_sample.accuracy:.3f}",
            f"{row.bins.different}/{row.bins.n_bins}",
            f"{result.sharpness[key]:.2f}",
        )
    _show(table, _WIDE)
    if result.images_per_second:
        say("")
        _show(_densities(result), _WIDE)
    for key in result.images_per_second:
        found = result.rows[key].memorisation
        if found and found.copies:
            say(
                f"The density {key} copies training images (p = {found.copying_pvalue:.4f}): {found.train_share:.1%} "
                f"of its samples are nearest to one, {found.expected_share:.1%} would be by chance."
            )


def _densities(result: RunEvaluation) -> Table:
    """The table of what is measured only for densities."""
    repeats = max(map(len, result.repeats.values()))
    over_seeds = [f"Fréchet, {repeats} seeds"] if repeats > 1 else []
    table = _table(
        "", *over_seeds, "log p, test", "log p, training", "nearest is training", "copying, p", "fit, s", "images/s"
    )
    for key, speed in result.images_per_second.items():
        values, found = result.repeats[key], result.rows[key].memorisation
        likelihoods = (part.get(key) for part in (result.log_likelihood, result.training_log_likelihood))
        seconds = result.training_seconds.get(key)
        _add(
            table,
            key,
            *(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for _ in over_seeds),
            *("-" if x is None else f"{x.value:.1f} ± {x.standard_error:.1f}" for x in likelihoods),
            "-" if found is None else f"{found.train_share:.3f} ({found.expected_share:.3f})",
            "-" if found is None else f"{found.copying_pvalue:.4f}",
            "-" if seconds is None else f"{seconds:.1f}",
            f"{speed:,.0f}",
        )
    return table


def print_tests(result: RunDiagnosis) -> None:
    """Print what `diagnose` found."""
    batteries = result.tables
    first = next(iter(batteries.values()))
    say(f"{first.n:,} codes, the leading {first.d} components; seed {result.seed}.")
    table = _table("null hypothesis", "test")
    for name in batteries:
        for column in (visible(name), "p", "effect"):
            table.add_column(column, justify="right")
    table.add_column("what the effect is")
    for k, test in enumerate(first.tests):
        cells = []
        for battery in batteries.values():
            found = battery.tests[k]
            cells += [f"{found.statistic:.3g}", _probability(found.pvalue), f"{found.effect:.3f}"]
        _add(table, test.null, test.name, *cells, test.effect_name)
    _show(table, _WIDE)
    pairs = first.d * (first.d - 1) // 2
    for name, battery in batteries.items():
        say(
            f"{name}: K² rejects {result.rejections[name]} of {battery.d} components at 0.05, uncorrected; "
            f"{len(battery.pairs.dependent())} of {pairs:,} pairs are dependent at 0.05, corrected for all pairs."
        )
    if result.told_apart is not None:
        accuracy, p = result.told_apart.accuracy, _probability(result.told_apart.pvalue)
        say(f"A classifier tells these samples from codes with accuracy {accuracy:.3f} (chance 0.5; p: {p}).")
    if result.scores is not None:
        say(f"Scores:   {result.scores}")
        say(f"Pictures: {result.pictures[0].parent / result.scores.stem}-*.png")


def _probability(p: float) -> str:
    """A p-value; one too small for a float is not shown as 0, which is impossible."""
    return f"{p:.2g}" if p > 0 else "< 1e-300"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0))


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(visible, cells))


def _show(table: Table, width: int | None = None) -> None:
    # Names must not be taken for markup or emoji.
    Console(width=width, markup=False, emoji=False).print(table)
