"""The command that measures the founding paper's tables and figures again."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from scattergen.cli.arguments import Device, Json, Quiet, Seed, Threads, path, prepare
from scattergen.datasets import mnist
from scattergen.reproduction import FULL, QUICK, reproduce_run


def reproduce(
    name: Annotated[Literal["mnist"], typer.Argument(help="The paper's data set.")],
    run: Annotated[
        Path,
        typer.Option(metavar="RUN", help="Run folder made by `scattergen fit`.", parser=path),
    ] = Path("runs/mnist"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer images and shorter trainings: 3 minutes.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the founding paper's tables and figures again, and write them beside its own.

    Needs a finished run of `scattergen fit mnist`.  Two models of pixels are trained for 4 minutes
    each; interrupted, the same command continues where it stopped.

    [bold]Examples[/bold]

      scattergen reproduce mnist

      scattergen reproduce mnist --run runs/mine --quick
    """
    progress = prepare(device, threads, quiet)
    result = reproduce_run(
        run,
        mnist(),
        effort=QUICK if quick else FULL,
        seed=seed,
        device=device,
        command=shlex.join(["scattergen", *sys.argv[1:]]),
        progress=progress,
    )
    if as_json:
        findings = [
            {"item": found.item, "verdict": found.verdict, "because": found.because}
            for found in result.findings
        ]
        facts = {"page": str(result.page), "findings": findings}
        print(json.dumps({**facts, "finished_before": result.finished_before}))
        return
    if result.finished_before:
        print("Everything was measured before with the same options: nothing to do.")
    for found in result.findings:
        print(f"{found.item}: {found.verdict}.")
    print(f"Page: {result.page}")
