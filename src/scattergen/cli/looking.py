"""The commands that tell about a run."""

import json
import statistics
from typing import Annotated, Any

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
    open_like,
    open_of_run,
    parse_names,
    prepare,
)
from scattergen.datasets import Dataset
from scattergen.errors import InputError
from scattergen.evaluating import FeatureName, RunEvaluation, evaluate_run
from scattergen.runs import RunFolder
from scattergen.runs.place import REPLACEMENT


def info(
    run: Run,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Tell what a run holds, how it was made, and whether its files are intact.

    [bold]Example[/bold]

      scattergen info runs/mnist
    """
    prepare(device, threads, quiet)
    opened = RunFolder.open(run)
    opened.check()
    facts: dict[str, Any] = {
        "run": str(run),
        "version": opened.version,
        "complete": opened.finished,
        "densities": opened.names("densities"),
        "options": opened.options,
        "stages": opened.stages,
    }
    if as_json:
        print(json.dumps(facts))
        return
    state = "complete" if facts["complete"] else "unfinished: run the same fit command again"
    print(f"{run}: {state}; made by scattergen {opened.version}; files intact.")
    if (opened.path / REPLACEMENT).is_dir():
        print("A run to replace it is unfinished: its fit command (with --overwrite) continues it.")
    table = Table("stage", "seconds", box=None, padding=(0, 3, 0, 0))
    for name, stage in opened.stages.items():
        table.add_row(name, f"{stage['seconds']:.1f}" if "seconds" in stage else "")
    Console().print(table)
    quality = opened.stages.get("report", {})
    if "psnr" in quality:
        print(f"Test reconstruction: {quality['psnr']:.2f} dB PSNR.")
    print(json.dumps(opened.options, indent=2))


def evaluate(
    run: Run,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES", help="The images that the run was fitted to; not needed for MNIST."
        ),
    ] = None,
    densities: Annotated[
        str | None, typer.Option("--density", metavar="NAMES", help="Which; all of the run.")
    ] = None,
    against: Annotated[
        str, typer.Option(metavar="test|train|IMAGES", help="Real images to compare with.")
    ] = "test",
    n: Annotated[int, typer.Option("-n", min=20, help="Images in a row of the table.")] = 10_000,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="R", min=1, help="Sets of samples of a density, to see how its score varies."
        ),
    ] = 1,
    features: Annotated[
        FeatureName | None,
        typer.Option(help="Features of images; by default digits or scattering."),
    ] = None,
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
    """Measure how close a run's samples are to real images.

    Beside the densities stand what training images score, decoded training codes (perfect codes
    through this decoder), and decoded test codes.  ± is one standard error; behind a Fréchet
    distance over seeds (--repeats) it is the standard deviation.  log p is the mean log-likelihood
    of codes, in nats; only some densities have one.  Sharpness is the share of real images' fine
    detail that a row has.

    [bold]Examples[/bold]

      scattergen evaluate runs/mnist

      scattergen evaluate runs/mnist --density mixture,vae -n 2000 --repeats 5

      scattergen evaluate runs/faces --images faces/ --size 64 --against other-faces/
    """
    progress = prepare(device, threads, quiet)
    opened = RunFolder.open(run)
    if images is None:
        if opened.options.get("data", {}).get("name") != "mnist":
            raise InputError(
                f"{run} was not fitted to the embedded MNIST: name its images by --images."
            )
        images = "mnist"
    data = open_of_run(run, images, size, crop, mode, strict)
    if against == "train":
        reference = Dataset(f"{data.name}, training", data.train)
    elif against == "test":
        reference = None
    else:
        reference = open_like(run, against, size, crop, mode, strict)
    result = evaluate_run(
        run,
        data,
        densities=None if densities is None else parse_names(densities),
        reference=reference,
        n=n,
        repeats=repeats,
        features=features,
        seed=seed,
        device=device,
        progress=progress,
    )
    if as_json:
        print(json.dumps(result.summary()))
        return
    _print_scores(result)
    print(f"Scores:  {run / 'evaluation.json'}\nPicture: {run / 'pictures' / 'evaluation.png'}")


def _print_scores(result: RunEvaluation) -> None:
    name, version = result.features
    print(
        f"{result.n:,} images in a row against {result.against}; features {name} {version}; "
        f"seed {result.seed}."
    )
    columns = (
        "", "Fréchet", "kernel·1000", "precision", "recall", "density", "coverage", "classifier",
        "bins", "sharpness",
    )  # fmt: skip
    table = _table(*columns)
    for key, row in result.rows.items():
        kernel, manifolds = row.kernel, row.manifolds
        table.add_row(
            key,
            f"{row.frechet.value:.2f} ± {row.frechet.standard_error:.2f}",
            f"{1000 * kernel.value:.1f} ± {1000 * kernel.standard_error:.1f}",
            *(
                f"{estimate.value:.3f}"
                for estimate in (
                    manifolds.precision, manifolds.recall, manifolds.density, manifolds.coverage
                )
            ),
            f"{row.two_sample.accuracy:.3f}",
            f"{row.bins.different}/{row.bins.n_bins}",
            f"{result.sharpness[key]:.2f}",
        )  # fmt: skip
    console = Console(width=150)
    console.print(table)
    if result.images_per_second:
        print()
        console.print(_densities(result))
    for key in result.images_per_second:
        found = result.rows[key].memorisation
        if found and found.copies:
            print(
                f"The density {key} copies training images (p = {found.copying_pvalue:.4f}): "
                f"{found.train_share:.1%} of its samples are nearest to one, "
                f"{found.expected_share:.1%} would be by chance."
            )


def _densities(result: RunEvaluation) -> Table:
    """What only densities have."""
    repeats = max(map(len, result.repeats.values()))
    over_seeds = [f"Fréchet, {repeats} seeds"] if repeats > 1 else []
    table = _table(
        "", *over_seeds, "log p, test", "log p, training", "nearest is training", "copying, p",
        "fit, s", "images/s",
    )  # fmt: skip
    for key, speed in result.images_per_second.items():
        values, found = result.repeats[key], result.rows[key].memorisation
        likelihoods = (
            part.get(key) for part in (result.log_likelihood, result.training_log_likelihood)
        )
        seconds = result.training_seconds.get(key)
        table.add_row(
            key,
            *(
                f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
                for _ in over_seeds
            ),
            *("-" if x is None else f"{x.value:.1f} ± {x.standard_error:.1f}" for x in likelihoods),
            "-" if found is None else f"{found.train_share:.3f} ({found.expected_share:.3f})",
            "-" if found is None else f"{found.copying_pvalue:.4f}",
            "-" if seconds is None else f"{seconds:.1f}",
            f"{speed:,.0f}",
        )
    return table


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0))
