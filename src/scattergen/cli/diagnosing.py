"""The command that tests how codes are distributed."""

import json
from typing import Annotated, Literal

import typer

from scattergen.cli.arguments import Crop, Device, Json, Mode, Quiet, Run, Seed, Size, Strict, Threads
from scattergen.errors import InputError


def diagnose(
    run: Run,
    density: Annotated[str | None, typer.Option(metavar="NAME", help="Test samples of this density too.")] = None,
    part: Annotated[Literal["train", "test"], typer.Option(help="Codes of which images.")] = "train",
    images: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES", help="The images that the run was fitted to, for --part test; not needed for MNIST."
        ),
    ] = None,
    components: Annotated[int, typer.Option(min=2, help="Leading components to test.")] = 64,
    n: Annotated[int, typer.Option("-n", min=40, help="Codes to test.")] = 5_000,
    simulations: Annotated[int, typer.Option(min=19, help="Simulations or shuffles of each test.")] = 199,
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
    from scattergen.cli.opening import open_of_run, prepare
    from scattergen.cli.printing import print_tests
    from scattergen.pipeline.diagnose import diagnose_run
    from scattergen.runs import RunFolder

    progress = prepare(device, threads, quiet)
    data = None
    if part == "test":
        if images is None:
            if RunFolder.open(run).options.get("data", {}).get("name") != "mnist":
                raise InputError(f"{run} was not fitted to the embedded MNIST: name its images by --images.")
            images = "mnist"
        data = open_of_run(run, images, size, crop, mode, strict)
    elif images is not None:
        raise InputError("The codes of the training images are in the run: leave out --images, or add --part test.")
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
    print_tests(result)
