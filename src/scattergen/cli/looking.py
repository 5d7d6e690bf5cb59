"""The commands that tell about a run."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from scattergen.cli.arguments import (
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
    open_source,
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
    features: Annotated[
        FeatureName | None,
        typer.Option(help="Features of images; digits for MNIST, scattering for others."),
    ] = None,
    seed: Seed = 0,
    size: Size = None,
    mode: Mode = None,
    strict: Strict = True,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure how close a run's samples are to real images.

    Beside the densities stand what training images score, decoded training codes (perfect codes
    through this decoder), and decoded test codes.  ± is one standard error.

    [bold]Examples[/bold]

      scattergen evaluate runs/mnist

      scattergen evaluate runs/mnist --density mixture,vae -n 2000

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
    data = open_source(images, size=size, mode=mode, strict=strict)
    if against == "train":
        reference = Dataset(f"{data.name}, training", data.train)
    elif against == "test":
        reference = None
    else:
        reference = open_like(data.train.shape, against, size, mode, strict)
    result = evaluate_run(
        run,
        data,
        densities=None if densities is None else parse_names(densities),
        reference=reference,
        n=n,
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
        "bins", "copying", "fit, s", "images/s",
    )  # fmt: skip
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for key, row in result.rows.items():
        kernel, manifolds = row.kernel, row.manifolds
        seconds, speed = result.training_seconds.get(key), result.images_per_second.get(key)
        # References were made from the images that copies are looked for among.
        copying = row.memorisation.copying if row.memorisation and speed else None
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
            "" if copying is None else f"{copying:+.1f}",
            "" if seconds is None else f"{seconds:.1f}",
            "" if speed is None else f"{speed:,.0f}",
        )  # fmt: skip
    Console(width=150).print(table)
