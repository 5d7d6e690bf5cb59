"""The command that tests how codes are distributed."""

import json
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from scattergen.cli.arguments import (
    Crop,
    Device,
    Json,
    Mode,
    Quiet,
    Run,
    Seed,
    Size,
    Strict,
    Threads,
    open_of_run,
    prepare,
)
from scattergen.diagnosing import CODES, COMPONENTS, RunDiagnosis, diagnose_run
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, SIMULATIONS
from scattergen.errors import InputError
from scattergen.runs import RunFolder


def diagnose(
    run: Run,
    density: Annotated[
        str | None, typer.Option(metavar="NAME", help="Test samples of this density too.")
    ] = None,
    part: Annotated[
        Literal["train", "test"], typer.Option(help="Codes of which images.")
    ] = "train",
    images: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="The images that the run was fitted to, for --part test; not needed for MNIST.",
        ),
    ] = None,
    components: Annotated[
        int, typer.Option(min=2, help="Leading components to test.")
    ] = COMPONENTS,
    n: Annotated[int, typer.Option("-n", min=FEWEST_CODES, help="Codes to test.")] = CODES,
    simulations: Annotated[
        int, typer.Option(min=19, help="Simulations or shuffles of each test.")
    ] = SIMULATIONS,
    seed: Seed = 0,
    size: Size = None,
    crop: Crop = None,
    mode: Mode = None,
    strict: Strict = True,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test whether the codes of a run are normal and their components independent.

    With --density the same tests of its samples stand beside them: where the codes are rejected and
    the samples are not, or have another effect, is what the density misses.  Effects do not grow
    with n; p-values of simulated tests are at least 1/(simulations + 1).

    [bold]Examples[/bold]

      scattergen diagnose runs/mnist

      scattergen diagnose runs/mnist --density mixture --components 32

      scattergen diagnose runs/mnist --part test -n 10000
    """
    progress = prepare(device, threads, quiet)
    data = None
    if part == "test":
        if images is None:
            if RunFolder.open(run).options.get("data", {}).get("name") != "mnist":
                raise InputError(
                    f"{run} was not fitted to the embedded MNIST: name its images by --images."
                )
            images = "mnist"
        data = open_of_run(run, images, size, crop, mode, strict)
    elif images is not None:
        raise InputError(
            "The codes of the training images are in the run: leave out --images, or add --part "
            "test."
        )
    result = diagnose_run(
        run,
        density=density,
        data=data,
        components=components,
        n=n,
        n_simulations=simulations,
        seed=seed,
        device=device,
        progress=progress,
    )
    if as_json:
        print(json.dumps(result.summary()))
        return
    _print_tests(result)


def _print_tests(result: RunDiagnosis) -> None:
    batteries = result.tables
    first = next(iter(batteries.values()))
    print(f"{first.n:,} codes, the leading {first.d} components; seed {result.seed}.")
    table = Table("null hypothesis", "test", box=None, padding=(0, 2, 0, 0))
    for name in batteries:
        table.add_column(name, justify="right")
        table.add_column("p", justify="right")
        table.add_column("effect", justify="right")
    table.add_column("what the effect is")
    for k, test in enumerate(first.tests):
        cells = []
        for battery in batteries.values():
            found = battery.tests[k]
            cells += [
                f"{found.statistic:.3g}",
                f"{_probability(found.pvalue)}",
                f"{found.effect:.3f}",
            ]
        table.add_row(test.null, test.name, *cells, test.effect_name)
    Console(width=150).print(table)
    pairs = first.d * (first.d - 1) // 2
    for name, battery in batteries.items():
        print(
            f"{name}: K² rejects {result.rejections[name]} of {battery.d} components at 0.05, "
            f"uncorrected; {len(battery.pairs.dependent())} of {pairs:,} pairs are dependent at "
            "0.05, corrected for all pairs."
        )
    if result.told_apart is not None:
        p = _probability(result.told_apart.pvalue)
        print(
            f"A classifier tells these samples from codes with accuracy "
            f"{result.told_apart.accuracy:.3f} (chance 0.5; p: {p})."
        )
    print(f"Scores:   {result.scores}")
    print(f"Pictures: {result.pictures[0].parent / result.scores.stem}-*.png")


def _probability(p: float) -> str:
    """A p-value; one that is too small for a float is told from an impossible 0."""
    return f"{p:.2g}" if p > 0 else "< 1e-300"
