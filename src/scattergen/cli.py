"""The command line: parse, call, print."""

import json
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table

import scattergen
from scattergen.datasets import Dataset, open_dataset
from scattergen.errors import InputError, ScattergenError
from scattergen.fitting import fit_density_run, fit_run
from scattergen.image_files import (
    check_codes_path,
    check_output,
    read_codes,
    write_codes,
    write_images,
)
from scattergen.image_quality import psnr
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import Progress
from scattergen.run_folder import RunFolder

_SHOWN = 5  # of the files that were left out
_INTERRUPTED = 130  # what typer exits with after Ctrl-C

app = typer.Typer(
    help="Generative models from wavelet scattering: images to codes, codes to new images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(help="Run folder made by `scattergen fit`.", metavar="RUN")]
Source = Annotated[
    str,
    typer.Argument(help='"mnist", a .npy or .npz file, or a folder of images.', metavar="IMAGES"),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one option; repeatable."),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Resize images of a folder and crop them to this square.")
]
Mode = Annotated[
    Literal["L", "RGB"] | None, typer.Option(help="Convert images of a folder to grey or colour.")
]
Strict = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Refuse unreadable files, or leave them out.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images decoded together; affects time only.")]
Device = Annotated[str, typer.Option(help='"cpu", "cuda", "cuda:1" …', rich_help_panel="Common")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Processor threads.", rich_help_panel="Common")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel="Common")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Common")
]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"scattergen {scattergen.__version__}")
        raise typer.Exit


@app.command()
def fit(
    images: Source,
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    preset: Annotated[
        Literal["mnist", "auto"] | None, typer.Option(help="Options to start from.")
    ] = None,
    densities: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Densities to fit, separated by commas.")
    ] = None,
    options: Set = None,
    seed: Seed = 0,
    size: Size = None,
    mode: Mode = None,
    strict: Strict = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run that is there and start over.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fit encoder, decoder and densities to images, and write a report.

    Interrupted, the same command (without --overwrite) continues where it stopped.

    [bold]Examples[/bold]

      scattergen fit mnist --out runs/mnist

      scattergen fit faces/ --size 64 --out runs/faces --set training.epochs=20

      scattergen fit images.npz --out runs/mine --densities gaussian,mixture --set encoder.J=3
    """
    progress = _prepare(device, threads, quiet)
    fitted = fit_run(
        _open(images, size=size, mode=mode, strict=strict),
        out,
        preset_name=preset,
        changes=_parse(options),
        densities=None if densities is None else [name.strip() for name in densities.split(",")],
        seed=seed,
        device=device,
        overwrite=overwrite,
        command=shlex.join(["scattergen", *sys.argv[1:]]),
        progress=progress,
    )
    result = {
        "run": str(out),
        "report": str(fitted.report),
        "pictures": str(out / "pictures"),
        "finished_before": fitted.finished_before,
        **fitted.measurements,
    }
    if as_json:
        print(json.dumps(result))
        return
    if fitted.finished_before:
        print(f"{out} was finished before with the same options: nothing to do.")
    if "psnr" in result:
        print(f"Test reconstruction: {result['psnr']:.2f} dB PSNR.")
    print(f"Pictures: {out / 'pictures'}\nReport:   {fitted.report}")


@app.command()
def density(
    run: Run,
    name: Annotated[str, typer.Argument(help="gaussian, mixture, vae, gan, or one of a plugin.")],
    stored_as: Annotated[
        str | None, typer.Option("--as", metavar="KEY", help="Its name in the run.")
    ] = None,
    options: Set = None,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Fit again and replace one of that name.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fit one more density on the codes of a run.

    [bold]Examples[/bold]

      scattergen density runs/mnist vae --set beta=0.01 --as vae-0.01

      scattergen density runs/mnist mixture --set n_components=100 --as mixture-100
    """
    progress = _prepare(device, threads, quiet)
    before, picture = fit_density_run(
        run,
        name,
        keywords=_parse(options),
        stored_as=stored_as,
        seed=seed,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )
    if as_json:
        key = stored_as or name
        print(json.dumps({"density": key, "picture": str(picture), "finished_before": before}))
        return
    if before:
        print("It was fitted before with the same options: nothing to do.")
    print(f"Samples: {picture}")


@app.command()
def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="grid.png, folder/, images.npz or images.npy.")],
    density: Annotated[
        str | None, typer.Option(help="Which density; mixture if there is one.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make new images.

    Image k depends on the run, the density, the seed and k only.  A .npz file also holds the codes.

    [bold]Examples[/bold]

      scattergen sample runs/mnist --out samples.png

      scattergen sample runs/mnist --density vae -n 1000 --seed 7 --out samples.npz
    """
    progress = _prepare(device, threads, quiet)
    check_output(out)
    model = GenerativeScatteringNetwork.load(run, device)
    codes = model.sample_codes(n, density, seed)
    write_images(out, model.decode(codes, batch_size, progress), codes)
    _say_written(out, n, as_json)


@app.command()
def encode(
    run: Run,
    images: Source,
    out: Annotated[Path, typer.Option(help="codes.npz or codes.npy.")],
    size: Size = None,
    mode: Mode = None,
    strict: Strict = True,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn images into codes.  Of MNIST, the test images.

    [bold]Example[/bold]

      scattergen encode runs/mnist images.npz --out codes.npz
    """
    progress = _prepare(device, threads, quiet)
    check_codes_path(out)
    model = GenerativeScatteringNetwork.load(run, device)
    data = _unsplit(images, size, mode, strict, model)
    write_codes(out, model.encode(data.train, progress))
    _say_written(out, len(data.train), as_json)


@app.command()
def decode(
    run: Run,
    codes: Annotated[Path, typer.Argument(help="codes.npz or codes.npy.", metavar="CODES")],
    out: Annotated[Path, typer.Option(help="grid.png, folder/, images.npz or images.npy.")],
    batch_size: BatchSize = 256,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn codes into images.

    [bold]Example[/bold]

      scattergen decode runs/mnist codes.npz --out images/
    """
    progress = _prepare(device, threads, quiet)
    check_output(out)
    z = read_codes(codes)
    model = GenerativeScatteringNetwork.load(run, device)
    write_images(out, model.decode(z, batch_size, progress), z)
    _say_written(out, len(z), as_json)


@app.command()
def reconstruct(
    run: Run,
    images: Source,
    out: Annotated[Path, typer.Option(help="grid.png, folder/, images.npz or images.npy.")],
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="How many images, from the first; all.")
    ] = None,
    size: Size = None,
    mode: Mode = None,
    strict: Strict = True,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Encode images and decode them again.  Of MNIST, the test images.

    A grid shows eight originals in one row and their reconstructions in the next.

    [bold]Example[/bold]

      scattergen reconstruct runs/mnist mnist -n 32 --out pairs.png
    """
    progress = _prepare(device, threads, quiet)
    check_output(out)
    model = GenerativeScatteringNetwork.load(run, device)
    originals = _unsplit(images, size, mode, strict, model).train[:n]
    codes = model.encode(originals, progress)
    results = model.decode(codes, progress=progress)
    shown = results
    if out.suffix == ".png":
        pairs = zip(originals.split(8), results.split(8), strict=True)
        shown = torch.cat([torch.cat([*pair]) for pair in pairs])
    write_images(out, shown, codes, columns=min(8, len(results)))
    mean = psnr(originals, results).clamp(max=100).mean().item()  # JSON has no infinity
    _say_written(out, len(results), as_json, psnr=mean)


@app.command()
def interpolate(
    run: Run,
    images: Source,
    out: Annotated[Path, typer.Option(help="grid.png, folder/, images.npz or images.npy.")],
    start: Annotated[int, typer.Option("--from", min=0, help="Number of the first image.")] = 0,
    stop: Annotated[int, typer.Option("--to", min=0, help="Number of the last image.")] = 1,
    steps: Annotated[int, typer.Option(min=2, help="Images, both ends included.")] = 8,
    size: Size = None,
    mode: Mode = None,
    strict: Strict = True,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Morph one image into another along a straight line between their codes.

    [bold]Example[/bold]

      scattergen interpolate runs/mnist mnist --from 3 --to 9 --steps 10 --out morph.png
    """
    _prepare(device, threads, quiet)
    check_output(out)
    model = GenerativeScatteringNetwork.load(run, device)
    source = _unsplit(images, size, mode, strict, model).train
    for number in (start, stop):
        if number >= len(source):
            raise InputError(
                f"There is no image {number}: {images} has the images 0 to {len(source) - 1}."
            )
    ends = source[torch.tensor([start, stop])]
    write_images(out, model.interpolate(ends[0], ends[1], steps), columns=steps)
    _say_written(out, steps, as_json)


@app.command()
def info(run: Run, as_json: Json = False) -> None:
    """Tell what a run holds, how it was made, and whether its files are intact.

    [bold]Example[/bold]

      scattergen info runs/mnist
    """
    opened = RunFolder.open(run)
    opened.check()
    facts: dict[str, Any] = {
        "run": str(run),
        "version": opened.version,
        # A model saved from Python has no stages.
        "complete": opened.has("decoder") and (not opened.stages or "report" in opened.stages),
        "densities": opened.names("densities"),
        "options": opened.options,
        "stages": opened.stages,
    }
    if as_json:
        print(json.dumps(facts))
        return
    state = "complete" if facts["complete"] else "unfinished: run the same fit command again"
    print(f"{run}: {state}; made by scattergen {opened.version}; files intact.")
    table = Table("stage", "seconds", box=None, padding=(0, 3, 0, 0))
    for name, stage in opened.stages.items():
        table.add_row(name, f"{stage['seconds']:.1f}" if "seconds" in stage else "")
    Console().print(table)
    quality = opened.stages.get("report", {})
    if "psnr" in quality:
        print(f"Test reconstruction: {quality['psnr']:.2f} dB PSNR.")
    print(json.dumps(opened.options, indent=2))


def _prepare(device: str, threads: int | None, quiet: bool) -> Progress:
    if threads is not None:
        torch.set_num_threads(threads)
    reason = "it is none of cpu, cuda, cuda:NUMBER and mps"
    try:
        usable = re.fullmatch(r"cpu|cuda(:\d+)?|mps", device) is not None
        if usable:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        usable, reason = False, str(error).splitlines()[0].rstrip(".")
    if not usable:
        raise InputError(
            f'The device "{device}" cannot be used here ({reason}): choose another, such as "cpu".'
        )
    return Progress(show=not quiet)


def _parse(options: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON, or else a string."""
    parsed: dict[str, Any] = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise InputError(
                f'"{option}" sets nothing: write --set NAME=VALUE, as in --set beta=0.01.'
            )
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def _open(source: str, **how: Any) -> Dataset:
    """Open a dataset and say which files were left out."""
    data = open_dataset(source, **how)
    for sentence in data.skipped[:_SHOWN]:
        warnings.warn(sentence, stacklevel=2)
    if data.skipped:
        warnings.warn(f"Files left out of {source}: {len(data.skipped)}.", stacklevel=2)
    return data


def _unsplit(
    source: str,
    size: int | None,
    mode: Literal["L", "RGB"] | None,
    strict: bool,
    model: GenerativeScatteringNetwork,
) -> Dataset:
    """All images of a source as the training part; of one with a test set of its own, that.

    The images of a folder are brought to the size and mode of the model's.
    """
    channels, height, width = model.decoder.image_shape
    if source != "mnist" and Path(source).is_dir():
        mode = mode or ("L" if channels == 1 else "RGB")
        if size is None and height == width:
            size = height
    data = _open(source, size=size, mode=mode, strict=strict, test_fraction=0)
    return data if data.test is None else Dataset(data.name, data.test)


def _say_written(path: Path, n: int, as_json: bool, **measured: float) -> None:
    if as_json:
        print(json.dumps({"out": str(path), "n": n, **measured}))
        return
    print(f"{path}: {n:,} {'item' if n == 1 else 'items'}.")
    for name, value in measured.items():
        print(f"{name.upper()}: {value:.2f} dB")


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ScattergenError as error:
        _fail(str(error))
    except OSError as error:
        # Of places where no better sentence was found, such as a network drive that went away.
        _fail(f"{error.filename or 'A file'} cannot be used ({error.strerror}): check the path.")
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("interrupted: the same command continues where it stopped.", file=sys.stderr)
        raise


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
