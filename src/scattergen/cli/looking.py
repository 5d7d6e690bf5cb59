"""The commands that tell about a run."""

import json
from typing import Annotated, Any

import typer

from scattergen.cli.arguments import (
    Crop,
    Device,
    Features,
    Json,
    Mode,
    Quiet,
    Run,
    Seed,
    Size,
    Strict,
    Threads,
    parse_names,
)
from scattergen.errors import InputError
from scattergen.terminal import say


def info(
    run: Run, device: Device = "cpu", threads: Threads = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Tell what a run holds, how it was made, and whether its files are intact.

    [bold]Example[/bold]

      scattergen info runs/mnist
    """
    from scattergen.cli.opening import prepare
    from scattergen.cli.printing import print_stages
    from scattergen.runs import RunFolder

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
    say(f"{run}: {state}; made by scattergen {opened.version}; files intact.")
    if opened.being_replaced():
        say("A run to replace it is unfinished: its fit command (with --overwrite) continues it.")
    print_stages(opened.stages)
    quality = opened.stages.get("report", {})
    if "psnr" in quality:
        say(f"Test reconstruction: {quality['psnr']:.2f} dB PSNR.")
    say(*json.dumps(opened.options, indent=2).split("\n"))


def evaluate(
    run: Run,
    images: Annotated[
        str | None, typer.Option(metavar="IMAGES", help="The images that the run was fitted to; not needed for MNIST.")
    ] = None,
    densities: Annotated[str | None, typer.Option("--density", metavar="NAMES", help="Which; all of the run.")] = None,
    against: Annotated[str, typer.Option(metavar="test|train|IMAGES", help="Real images to compare with.")] = "test",
    n: Annotated[int, typer.Option("-n", min=20, help="Images in a row of the table.")] = 10_000,
    repeats: Annotated[
        int, typer.Option(metavar="R", min=1, help="Sets of samples of a density, to see how its score varies.")
    ] = 1,
    features: Features = None,
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
    from scattergen.cli.opening import open_like, open_of_run, prepare
    from scattergen.cli.printing import print_scores
    from scattergen.datasets import Dataset
    from scattergen.pipeline.evaluate import evaluate_run
    from scattergen.runs import RunFolder

    progress = prepare(device, threads, quiet)
    opened = RunFolder.open(run)
    if images is None:
        if opened.options.get("data", {}).get("name") != "mnist":
            raise InputError(f"{run} was not fitted to the embedded MNIST: name its images by --images.")
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
    print_scores(result)
    if result.kept:
        picture = run / "pictures" / "evaluation.png"
        say(f"Scores:  {run / 'evaluation.json'}", f"Picture: {picture}")
