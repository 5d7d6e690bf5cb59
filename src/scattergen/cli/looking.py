"""The commands that tell about a run, info, report, evaluate and diagnose, and reproduce: the paper measured again."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.display.words import say
from scattergen.errors import InputError


def info(
    run: arg.Run,
    config: Annotated[bool, Option("--config", help="Print a file for `fit --config` that fits the same.")] = False,
    common: arg.Common = arg.COMMON,
) -> None:
    """Tell what a run holds, how it was made, and whether its files are intact.

    Examples:
      scattergen info runs/mnist
      scattergen info runs/mnist --config > fit.toml
    """
    from scattergen.cli.opening import prepare
    from scattergen.cli.printing import print_table
    from scattergen.runs import RunFolder
    from scattergen.stages.config import config_of, to_toml

    prepare(common)
    opened = RunFolder.open(run)
    opened.check()
    if config:
        channels = opened.metadata("encoder")["image_shape"][0] if opened.has("encoder") else None
        found = config_of(opened.options, channels)
        print(json.dumps(found) + "\n" if common.as_json else to_toml(found), end="")
        return
    stages, keys = opened.stages, opened.names("densities")
    measured = stages.get("report", {})
    best = measured.get("best")
    if common.as_json:
        facts = {"run": str(run), "version": opened.version, "complete": opened.finished, "best": best}
        held = {"densities": keys, "options": opened.shown_options, "stages": stages}
        print(json.dumps({**facts, **held}))
        return
    state = "complete" if opened.finished else "unfinished: run the same fit command again"
    say(f"{run}: {state}; made by scattergen {opened.version}; files intact.")
    if RunFolder.begun(run).replaces:
        say("A run to replace it is unfinished: its fit command (with --overwrite) continues it.")
    say(f"Densities: {', '.join(keys) or 'none'}" + ("." if best is None else f"; the best by measurement: {best}."))
    if opened.has("encoder"):
        width = opened.metadata("encoder")["n_components"]
        leading = {**opened.options.get("sampling", {}), **stages.get("sampling", {})}.get("n_components")
        some = "" if leading in (None, width) else f", of which densities model the first {leading}"
        say(f"Codes: {width} components{some}.")
    if rows := [(key, f"{stage['seconds']:.1f}") for key, stage in stages.items() if "seconds" in stage]:
        print_table(("stage", "seconds"), rows)
    if "psnr" in measured:
        say(f"Test reconstruction: {measured['psnr']:.2f} dB PSNR.")
    say(*json.dumps(opened.shown_options, indent=2).split("\n"))


def report(run: arg.Run, common: arg.Common = arg.COMMON) -> None:
    """Write the report of a run again, if it does not show all that the run holds.

    `density`, `evaluate` and `diagnose` do so themselves. It is needed after a run was moved.

    Examples:
      scattergen report runs/mnist
    """
    from scattergen.cli.opening import prepare
    from scattergen.pipeline.report import renew_report

    progress, page = prepare(common), run / "report.html"
    renewed = renew_report(run, device=common.device, progress=progress)
    done = [] if renewed else ["The report shows all that the run holds: nothing to do."]
    arg.tell(common, {"report": str(page), "renewed": renewed}, *done, f"Report: {page}")


def evaluate(
    run: arg.Run,
    images: Annotated[str | None, Option(metavar="IMAGES",
        help="The images that the run was fitted to; not needed for MNIST.")] = None,
    densities: Annotated[str | None, Option("--density", metavar="NAMES", help="Which densities.",
        show_default="all of the run")] = None,
    against: Annotated[str, Option(metavar="test|train|IMAGES", help="Real images to compare with.")] = "test",
    n: Annotated[int | None, Option("-n", min=20,
        help="Images in a row of the table.", show_default="as many as real ones, from 1,000 to 10,000")] = None,
    repeats: Annotated[int, Option(metavar="R", min=1,
        help="Sets of samples of a density, to see how its score varies.")] = 1,
    features: arg.Features = None, seed: arg.Seed = 0, reading: arg.Reading = arg.READING,
    common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Measure how close a run's samples are to real images.

    Beside the densities stand what training images score, decoded training codes (perfect codes
    through this decoder), and decoded test codes. ± is one standard error; behind a Fréchet
    distance over seeds (--repeats) it is the standard deviation. log p is the mean log-likelihood
    of codes, in nats; only some densities have one. Sharpness is the share of real images' fine
    detail that a row has.

    Examples:
      scattergen evaluate runs/mnist
      scattergen evaluate runs/mnist --density mixture,vae -n 2000 --repeats 5
      scattergen evaluate runs/faces --images faces/ --against other-faces/
    """
    from scattergen.cli.opening import begin, open_like, open_of_run
    from scattergen.cli.printing import print_scores
    from scattergen.datasets import Dataset
    from scattergen.pipeline.evaluate import evaluate_run

    work = begin(common, seed)
    data = open_of_run(run, images, reading)
    reference = Dataset(f"{data.name}, training", data.train) if against == "train" else None
    if against not in ("train", "test"):
        reference = open_like(run, against, reading)
    names = None if densities is None else arg.parse_names(densities)
    result = evaluate_run(
        run, data, densities=names, reference=reference, n=n, repeats=repeats, features=features, **work
    )
    if common.as_json:
        print(json.dumps(result.summary()))
        return
    print_scores(result)
    if result.kept:
        say(f"Scores:  {run / 'evaluation.json'}", f"Picture: {run / 'pictures' / 'evaluation.png'}")


def diagnose(
    run: arg.Run,
    density: Annotated[str | None, Option(metavar="NAME", help="Test samples of this density too.")] = None,
    part: Annotated[Literal["train", "test"], Option(help="Codes of which images.")] = "train",
    images: Annotated[str | None, Option(metavar="IMAGES",
        help="The images that the run was fitted to, for --part test; not needed for MNIST.")] = None,
    components: Annotated[int, Option(min=2, help="Leading components to test.")] = 64,
    n: Annotated[int, Option("-n", min=40, help="Codes to test.")] = 5_000,
    simulations: Annotated[int, Option(min=19, help="Simulations or shuffles of each test.")] = 199,
    seed: arg.Seed = 0, reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Test whether the codes of a run are normal and their components independent.

    With --density the same tests of its samples stand beside them: where the codes are rejected and
    the samples are not, or have another effect, is what the density misses. Effects do not grow
    with n; p-values of simulated tests are at least 1/(simulations + 1).

    Examples:
      scattergen diagnose runs/mnist
      scattergen diagnose runs/mnist --density mixture --components 32
      scattergen diagnose runs/mnist --part test -n 10000
    """
    from scattergen.cli.opening import begin, open_of_run
    from scattergen.cli.printing import print_tests
    from scattergen.pipeline.evaluate import diagnose_run

    work = begin(common, seed)
    if part == "train" and images is not None:
        raise InputError("Codes of training images are those in the run: leave out --images, or add --part test.")
    data = open_of_run(run, images, reading) if part == "test" else None
    found = diagnose_run(run, density=density, data=data, components=components, n=n, n_simulations=simulations, **work)
    if common.as_json:
        print(json.dumps(found.summary()))
    else:
        print_tests(found)


def reproduce(
    name: Annotated[Literal["mnist", "celeba"], Argument(help="The paper's data set.")],
    images: Annotated[str | None, Option(metavar="DIR",
        help="Folder of CelebA's aligned images that it was fitted to.")] = None,
    run: Annotated[Path | None, Option(metavar="RUN",
        help="Run folder made by `scattergen fit`.", show_default="runs/mnist or runs/celeba", parser=arg.path)] = None,
    quick: Annotated[bool, Option("--quick", help="Fewer images and shorter trainings: 4 minutes.")] = False,
    seed: arg.Seed = 0, strict: arg.Strict = True, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Measure the founding paper's tables and figures again, and write them beside its own.

    Needs a finished run of `scattergen fit mnist` or of `scattergen fit DIR --preset celeba`. What
    it lacks of the paper's densities, such as the GAN, is fitted and added to it. For MNIST a
    second decoder and two models of pixels are trained, too, for minutes each. CelebA's images of
    half the resolution (89×109) stand in for it as a proxy, and the page says so. Interrupted, the
    same command continues where it stopped.

    Examples:
      scattergen reproduce mnist
      scattergen reproduce mnist --run runs/mine --quick
      scattergen reproduce celeba --images img_align_celeba/
    """
    from scattergen.cli.opening import begin, open_of_paper
    from scattergen.paper import FULL, QUICK, reproduce_run

    work = begin(common, seed)
    run = run or Path("runs", name)
    data, command = open_of_paper(name, run, images, strict), shlex.join(["scattergen", *sys.argv[1:]])
    result = reproduce_run(run, data, name=name, effort=QUICK if quick else FULL, command=command, **work)
    before, findings = result.finished_before, [asdict(found) for found in result.findings]
    lines = ["Everything was measured before with the same options: nothing to do."] if before else []
    lines += [f"{found.item}: {found.verdict}." for found in result.findings]
    facts = {"page": str(result.page), "findings": findings, "finished_before": before}
    arg.tell(common, facts, *lines, f"Page: {result.page}")
