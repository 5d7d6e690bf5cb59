"""Tables on the console."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from scattergen.display.words import duration, say, visible
from scattergen.files import gigabytes

if TYPE_CHECKING:  # what is printed; imported with SciPy's statistics and Matplotlib
    from scattergen.pipeline.estimate import StageEstimate
    from scattergen.pipeline.evaluate import RunDiagnosis, RunEvaluation

WIDE = 150  # columns for tables that may be wider than the terminal


def print_table(columns: Iterable[str | Column], rows: Iterable[Iterable[str]], width: int | None = None) -> None:
    """Print a table, in which names are taken neither for markup nor for emoji."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(visible, row))
    Console(width=width, markup=False, emoji=False).print(table)


def print_estimate(stages: Sequence["StageEstimate"], n: int, as_json: bool) -> None:
    """Print what each stage of a fit to n images will take."""
    total, most = sum(stage.seconds for stage in stages), max(stage.bytes for stage in stages)
    if as_json:
        print(json.dumps({"n": n, "seconds": total, "bytes": most, "stages": [asdict(stage) for stage in stages]}))
        return
    say(f"A fit to {n:,} images would take about {duration(total)}; nothing was written.")
    told = [*stages, replace(stages[0], name="all", seconds=total, bytes=most)]
    print_table(("stage", "time", "memory"), ((one.name, duration(one.seconds), gigabytes(one.bytes)) for one in told))


def print_scores(result: "RunEvaluation") -> None:
    """Print what `evaluate` found."""
    name, version = result.features
    say(f"{result.n:,} images in a row against {result.against}; features {name} {version}; seed {result.seed}.")
    manifold_scores = ("precision", "recall", "density", "coverage")
    rows = []
    for key, row in result.rows.items():
        rows.append([
            key, f"{row.frechet.value:.2f} ± {row.frechet.standard_error:.2f}",
            f"{1000 * row.kernel.value:.1f} ± {1000 * row.kernel.standard_error:.1f}",
            *(f"{getattr(row.manifolds, name).value:.3f}" for name in manifold_scores),
            f"{row.two_sample.accuracy:.3f}", f"{row.bins.different}/{row.bins.n_bins}", f"{result.sharpness[key]:.2f}",
        ])  # fmt: skip
    print_table(("", "Fréchet", "kernel·1000", *manifold_scores, "classifier", "bins", "sharpness"), rows, WIDE)
    if not result.images_per_second:
        return
    say("")
    # What is measured only for densities.
    repeats = max(map(len, result.repeats.values()))
    over_seeds = [f"Fréchet, {repeats} seeds"] if repeats > 1 else []
    columns = ("log p, test", "log p, training", "nearest is training", "copying, p", "fit, s", "images/s")
    rows, copies = [], []
    for key, speed in result.images_per_second.items():
        values, found = result.repeats[key], result.rows[key].memorisation
        likelihoods = (part.get(key) for part in (result.log_likelihood, result.training_log_likelihood))
        seconds = result.training_seconds.get(key)
        rows.append([
            key, *(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for _ in over_seeds),
            *("-" if x is None else f"{x.value:.1f} ± {x.standard_error:.1f}" for x in likelihoods),
            "-" if found is None else f"{found.train_share:.3f} ({found.expected_share:.3f})",
            "-" if found is None else f"{found.copying_pvalue:.4f}",
            "-" if seconds is None else f"{seconds:.1f}", f"{speed:,.0f}",
        ])  # fmt: skip
        if found and found.copies:
            what = f"The density {key} copies training images (p = {found.copying_pvalue:.4f})"
            nearest = f"{found.train_share:.1%} of its samples are nearest to one"
            copies.append(f"{what}: {nearest}, {found.expected_share:.1%} would be by chance.")
    print_table(("", *over_seeds, *columns), rows, WIDE)
    if not any(result.rows[key].memorisation for key in result.images_per_second):
        copies.append("Whether samples are copies cannot be told by training images: compare with test images.")
    say(*copies)


def print_tests(result: "RunDiagnosis") -> None:
    """Print what `diagnose` found."""
    batteries = result.tables
    first = next(iter(batteries.values()))
    say(f"{first.n:,} codes, the leading {first.d} components; seed {result.seed}.")
    measured = [Column(title, justify="right") for name in batteries for title in (visible(name), "p", "effect")]
    rows = []
    for tests in zip(*(battery.tests for battery in batteries.values()), strict=True):
        cells = [text for t in tests for text in (f"{t.statistic:.3g}", _probability(t.pvalue), f"{t.effect:.3f}")]
        rows.append([tests[0].null, tests[0].name, *cells, tests[0].effect_name])
    print_table(("null hypothesis", "test", *measured, "what the effect is"), rows, WIDE)
    pairs = first.d * (first.d - 1) // 2
    for name, battery in batteries.items():
        rejected = f"K² rejects {result.rejections[name]} of {battery.d} components at 0.05, uncorrected"
        dependent = f"{len(battery.pairs.dependent())} of {pairs:,} pairs are dependent at 0.05"
        say(f"{name}: {rejected}; {dependent}, corrected for all pairs.")
    if result.told_apart is not None:
        accuracy, p = result.told_apart.accuracy, _probability(result.told_apart.pvalue)
        say(f"A classifier tells these samples from codes with accuracy {accuracy:.3f} (chance 0.5; p: {p}).")
    if result.scores is not None:
        say(f"Scores:   {result.scores}")
        say(f"Pictures: {result.scores.parent / 'pictures' / result.scores.stem}-*.png")


def _probability(p: float) -> str:
    """A p-value; one too small for a float is not shown as 0, which is impossible."""
    return f"{p:.2g}" if p > 0 else "< 1e-300"
