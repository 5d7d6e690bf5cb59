"""The commands that fit: a whole model, and one more density."""

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.errors import InputError

if TYPE_CHECKING:
    from scattergen.pipeline.fit import FittedRun


def fit(
    images: arg.Source,
    out: Annotated[Path | None, Option(metavar="PATH", parser=arg.path,
        help="Run folder to make; needed unless --estimate is given.")] = None,
    preset: arg.Preset = None,
    densities: Annotated[str | None, Option(metavar="NAMES",
        help="Densities to fit, such as mixture,parzen,vae-improved; a name may also end in -by-class.",
        show_default="those of the preset")] = None,
    options: arg.Set = None, config: arg.Config = None, seed: arg.Seed = 0, reading: arg.Reading = arg.READING,
    limit: Annotated[int | None, Option(min=3, metavar="N", help="Use at most N training images.")] = None,
    max_time: Annotated[str | None, Option(metavar="TIME",
        help="Train the decoder for as many epochs as let the fit end in 90s, 10m or 1.5h.")] = None,
    estimate: Annotated[bool, Option("--estimate", help="Tell how long each stage will take; write nothing.")] = False,
    workers: Annotated[int, Option(min=0, max=256, help="Processes that decode image files; 0 for threads.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite",
        help="Replace a run that is there once the new one is done.")] = False,
    devices: Annotated[int | None, Option(min=1,
        help="Processes on each machine, with --device cuda one for each GPU.")] = None,
    nodes: Annotated[int | None, Option(min=1, help="Machines; each runs the command.")] = None,
    log: arg.Log = None,
    common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Fit encoder, decoder and densities to images, and write a report.

    Interrupted, the same command continues where it stopped.

    Examples:
      scattergen fit mnist --out runs/mnist
      scattergen fit faces/ --size 64 --out runs/faces --set training.epochs=20
      scattergen fit img_align_celeba/ --preset celeba --out runs/celeba
      scattergen fit images.npz --out runs/mine --densities mixture,vae-improved --set encoder.J=3
      scattergen fit faces/ --size 64 --estimate
      scattergen fit faces/ --size 64 --out runs/quick --limit 2000 --max-time 5m
      scattergen fit faces/ --out runs/faces --device cuda --devices 4
      scattergen fit faces/ --out runs/again --config fit.toml --seed 1
    """
    import torch

    from scattergen.cli import sentence_of
    from scattergen.cli.opening import begin, check_sides, open_to_fit, prepare
    from scattergen.datasets import class_labels
    from scattergen.datasets.image_files import check_place
    from scattergen.pipeline.fit import fit_run, options_of_fit
    from scattergen.processes import ALONE, Layout, Processes, errors_reported, join, supervise, this_program
    from scattergen.runs.layout import refuse_foreign
    from scattergen.stages.options import check_options
    from scattergen.training.recording import recording

    if out is None:
        if not estimate:
            raise InputError("A fit needs a place for its run: name a new folder by --out.")
        out = Path()  # where nothing is written
    keys = None if densities is None else arg.parse_names(densities)
    changes = config | arg.parse_options(options)
    seconds = None if max_time is None else arg.parse_time(max_time)
    layout, threads = Layout.asked_for(devices, nodes, common.device), common.threads
    if layout.world_size > 1 and layout.local_rank is None and not estimate:
        prepare(common)  # which checks the device
        supervise([*this_program(), *sys.argv[1:]], layout, threads or torch.get_num_threads())
        return
    with errors_reported(layout, sentence_of):
        if not estimate:
            _refuse_inside(out, images)
            if layout.rank == 0:
                refuse_foreign(out)
                check_place(out)
        device = layout.device_of_rank(common.device)
        share = None if threads is None else max(1, threads // layout.devices)
        work = begin(common._replace(device=device, threads=share, quiet=common.quiet or layout.rank > 0), seed)
        with warnings.catch_warnings():
            if layout.rank > 0:  # rank 0 says the same
                warnings.simplefilter("ignore")
            data = open_to_fit(images, reading, preset=preset, most=limit, workers=workers, progress=work["progress"])
            check_sides(images, data)
        choice = options_of_fit(data, preset, changes, keys)
        if estimate:
            from scattergen.cli.printing import print_estimate
            from scattergen.pipeline.estimate import estimate_fit, shortened

            n = len(data.train)
            check_options(choice.options, data.train.shape, n, class_labels(data.train))
            stages = estimate_fit(data, choice.options, device, work["progress"])
            if seconds is not None:
                stages = shortened(stages, choice.options, seconds)
            print_estimate(stages, n, common.as_json)
            return
        processes: Processes = ALONE
        if layout.world_size > 1:
            # Rank 0 has the machine for itself once the others have left.
            processes = join(layout, device, threads=threads or torch.get_num_threads() * layout.devices)
        command = shlex.join(["scattergen", *sys.argv[1:]])
        with recording(log, out / "tensorboard"):
            fitted = fit_run(
                data, out, choice, max_seconds=seconds, overwrite=overwrite, command=command, processes=processes,
                **work,
            )  # fmt: skip
    if layout.rank > 0:
        return
    _tell(fitted, out, common)


def _tell(fitted: "FittedRun", out: Path, common: arg.Common) -> None:
    """Print how a fit ended."""
    measured, before, expectation = fitted.measurements, fitted.finished_before, fitted.expectation
    pictures, report = out / "pictures", fitted.report
    lines = [f"{out} was finished before with the same options: nothing to do."] if before else []
    if expectation is not None:
        lines.append(expectation)
    elif "psnr" in measured:
        lines.append(f"Test reconstruction: {measured['psnr']:.2f} dB PSNR.")
    facts = {"run": str(out), "report": str(report), "pictures": str(pictures), "finished_before": before}
    facts |= {**measured, "expectation": expectation}
    arg.tell(common, facts, *lines, f"Pictures: {pictures}", f"Report:   {report}")


def _refuse_inside(out: Path, images: str) -> None:
    """Refuse a run among the images, and images in the run, where a fit replaces pictures."""
    from scattergen.datasets.source import MNIST

    named = os.path.expanduser(images.removeprefix("hf:").partition(",")[0] if images.startswith("hf:") else images)
    if images == MNIST or not os.path.exists(named):
        return
    source, run = Path(named).resolve(), out.resolve()
    if os.path.isdir(named) and run.is_relative_to(source):
        what = f"{out} lies inside {images}, so that the run's pictures would be taken for images of it"
        raise InputError(f"{what}: choose a place outside (--out).")
    if source != run and source.is_relative_to(run):
        remedy = "copy the images to a place outside, or choose another one for the run (--out)"
        raise InputError(f"{images} lies inside {out}, whose pictures a fit replaces: {remedy}.")


def density(
    run: arg.Run,
    name: Annotated[str, Argument(help="gaussian, mixture, parzen, vae, gan, flow, or one of your own.")],
    stored_as: Annotated[str | None, Option("--as", metavar="KEY",
        help="Its name in the run.", show_default="as in vae-improved")] = None,
    improved: Annotated[bool, Option("--improved",
        help="Start from better keywords than the paper's: vae, gan.")] = False,
    by_class: Annotated[bool, Option("--by-class", help="Fit one for every class, for sample --label.")] = False,
    options: arg.Set = None, seed: arg.Seed = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Fit again and replace one of that name.")] = False,
    log: arg.Log = None, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Fit one more density on the codes of a run.

    The classes of a folder of images are its sub-folders, those of an .npz file its labels.

    Examples:
      scattergen density runs/mnist vae --set beta=0.01 --as vae-0.01
      scattergen density runs/mnist mixture --set n_components=100 --as mixture-100
      scattergen density runs/mnist vae --improved
      scattergen density runs/photos parzen --by-class
    """
    from scattergen.cli.opening import begin
    from scattergen.pipeline.fit import fit_density_run
    from scattergen.training.recording import recording

    with recording(log, run / "tensorboard"):
        fitted = fit_density_run(
            run, name, **begin(common, seed), keywords=arg.parse_options(options), improved=improved,
            by_class=by_class, stored_as=stored_as, overwrite=overwrite,
        )  # fmt: skip
    facts = {"density": fitted.key, "picture": str(fitted.picture), "finished_before": fitted.finished_before}
    lines = ["It was fitted before with the same options: nothing to do."] if fitted.finished_before else []
    lines.append(f"Samples: {fitted.picture}")
    if fitted.classes:
        facts["rows"] = fitted.classes
        lines.append(f"Its rows: {', '.join(fitted.classes)}")
    arg.tell(common, facts, *lines)
