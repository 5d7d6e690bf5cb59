"""The command that measures the founding paper's tables and figures again."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.errors import InputError
from scattergen.terminal import say

if TYPE_CHECKING:
    from scattergen.datasets import Dataset


def reproduce(
    name: Annotated[Literal["mnist", "celeba"], Argument(help="The paper's data set.")],
    images: Annotated[
        str | None, Option(metavar="DIR", help="Folder of CelebA's aligned images that it was fitted to.")
    ] = None,
    run: Annotated[
        Path | None,
        Option(
            metavar="RUN",
            help="Run folder made by `scattergen fit`; runs/mnist or runs/celeba by default.",
            parser=arg.path,
        ),
    ] = None,
    quick: Annotated[bool, Option("--quick", help="Fewer images and shorter trainings: 4 minutes.")] = False,
    seed: arg.Seed = 0,
    strict: arg.Strict = True,
    common: arg.Common = arg.COMMON,
) -> None:
    """Measure the founding paper's tables and figures again, and write them beside its own.

    Needs a finished run of `scattergen fit mnist` or of `scattergen fit DIR --preset celeba`.  What
    it lacks of the paper's densities, such as the GAN, is fitted and added to it.  For MNIST a
    second decoder and two models of pixels are trained, too, for minutes each.  CelebA's images of
    half the resolution (89×109) stand in for it as a proxy, and the page says so.  Interrupted, the
    same command continues where it stopped.

    [bold]Examples[/bold]

      scattergen reproduce mnist

      scattergen reproduce mnist --run runs/mine --quick

      scattergen reproduce celeba --images img_align_celeba/
    """
    from scattergen.cli.opening import prepare
    from scattergen.paper import FULL, QUICK, reproduce_run

    progress = prepare(common)
    run = run or Path("runs", name)
    result = reproduce_run(
        run,
        _open(name, run, images, strict),
        name=name,
        effort=QUICK if quick else FULL,
        seed=seed,
        device=common.device,
        command=shlex.join(["scattergen", *sys.argv[1:]]),
        progress=progress,
    )
    if common.as_json:
        findings = [asdict(found) for found in result.findings]
        print(json.dumps({"page": str(result.page), "findings": findings, "finished_before": result.finished_before}))
        return
    if result.finished_before:
        say("Everything was measured before with the same options: nothing to do.")
    for found in result.findings:
        say(f"{found.item}: {found.verdict}.")
    say(f"Page: {result.page}")


def _open(name: str, run: Path, images: str | None, strict: bool) -> "Dataset":
    """The images of the paper's data set that a run was fitted to."""
    from scattergen.cli.opening import image_shape_of, open_celeba
    from scattergen.datasets import mnist
    from scattergen.datasets.published import CROPS
    from scattergen.paper import fit_command

    if name == "mnist":
        if images is not None:
            raise InputError("The digits of MNIST are part of scattergen: leave out --images.")
        return mnist()
    if images is None:
        raise InputError("CelebA is not part of scattergen: name the folder of its aligned images by --images.")
    if not Path(images).expanduser().is_dir():
        raise InputError(f"{images} is no folder: name that of CelebA's aligned images.")
    if not run.exists():
        raise InputError(f"There is no run folder {run}: fit it by `{fit_command(name, images, str(run))}`.")
    side = image_shape_of(run)[1]
    size = side if side in CROPS.values() else None  # of a run on other images, which is refused
    return open_celeba(images, size, strict)
