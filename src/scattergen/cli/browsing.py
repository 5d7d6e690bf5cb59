"""The commands that look around: list, compare, nearest, edit, explore, options."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.display.words import say, setting, visible
from scattergen.errors import InputError

_LONGEST = 40  # of a setting in a table


def list_(
    folder: Annotated[Path, Argument(help="Folder with runs in it or below.", metavar="DIR", parser=arg.path)],
    common: arg.Common = arg.COMMON,
) -> None:
    """List the runs in a folder and below.

    Example:
      scattergen list runs/
    """
    from scattergen.cli.opening import prepare
    from scattergen.cli.printing import WIDE, print_table
    from scattergen.files import gigabytes
    from scattergen.pipeline.browse import runs_below

    prepare(common)
    runs = runs_below(folder)
    if common.as_json:
        print(json.dumps(runs))
        return
    if not runs:
        say(f"There are no runs in {folder}.")
        return
    rows = [
        [
            run["run"], f"{run['n']:,} of {run['data']}" if run["n"] else "-",
            "×".join(map(str, run["image_shape"] or ())),
            ", ".join(f"{key} (best)" if key == run["best"] else key for key in run["densities"]),
            _in_cell(run["psnr"]), run["changed"], "complete" if run["complete"] else "unfinished",
            gigabytes(run["bytes"]),
        ]
        for run in runs if "problem" not in run
    ]  # fmt: skip
    print_table(("run", "images", "size", "densities", "dB", "changed", "state", "on disk"), rows, WIDE)
    say(*(run["problem"] for run in runs if "problem" in run))


def compare(
    runs: Annotated[list[Path], Argument(help="Two or more run folders.", metavar="RUN RUN...", parser=arg.path)],
    out: Annotated[Path | None, Option(metavar="PATH", parser=arg.path,
        help="Samples of each run's best density, a row for each: grid.png (or .jpg, .webp).")] = None,
    n: Annotated[int, Option("-n", min=1, help="Samples in a row.")] = 8,
    seed: arg.Seed = 0, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Show runs side by side: options that differ, and what was measured.

    Kernel distances are those of the runs' reports, left out where "judged by" is not as in the first.
    Fréchet distances are those of `scattergen evaluate`.

    Examples:
      scattergen compare runs/a runs/b
      scattergen compare runs/* --out rows.png
    """
    from scattergen.cli.opening import prepare
    from scattergen.cli.printing import WIDE, print_table
    from scattergen.datasets.image_files import check_output, write_images
    from scattergen.pipeline.browse import compare_runs, samples_of_runs
    from scattergen.runs import RunFolder

    prepare(common)
    if len(runs) < 2:
        raise InputError(f"{runs[0]} alone cannot be compared: name two runs or more.")
    opened = [RunFolder.open(path) for path in runs]
    if out is not None:
        check_output(out, n * len(runs))
    found = compare_runs(opened)
    if out is not None:
        write_images(out, samples_of_runs(opened, n, seed, common.device), columns=n)
    if common.as_json:
        print(json.dumps({"runs": [str(path) for path in runs], **found, "out": None if out is None else str(out)}))
        return
    rows = [[name, *map(_in_cell, row)] for part in ("measured", "options") for name, row in found[part].items()]
    print_table(("", *(visible(path) for path in runs)), rows, WIDE)
    if out is not None:
        say(f"Samples: {out}")


def nearest(
    run: arg.Run,
    images: Annotated[str | None, Argument(metavar="IMAGES",
        help="Images to look for; samples of the run if left out.")] = None,
    out: Annotated[Path | None, Option(metavar="PATH", parser=arg.path,
        help="Each image, then those near it: grid.png (or .jpg, .webp), images.npz …")] = None,
    trained_on: Annotated[str | None, Option("--images", metavar="IMAGES",
        help="The images that the run was fitted to, to show them; not needed for MNIST.")] = None,
    n: Annotated[int, Option("-n", min=1, help="How many images to look for, from the first.")] = 8,
    k: Annotated[int, Option("-k", min=1, help="How many training images for each.")] = 5,
    density: arg.Density = None,
    seed: arg.Seed = 0, reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Find the training images that samples, or images of yours, are nearest to, by their scattering coefficients.

    Examples:
      scattergen nearest runs/mnist --density vae --out nearest.png
      scattergen nearest runs/faces my-faces/ --images faces/ --out nearest.png
    """
    import torch

    from scattergen.cli.opening import open_codes, open_of_run, prepare
    from scattergen.cli.printing import print_table
    from scattergen.datasets.image_files import check_output, write_images
    from scattergen.datasets.recognition import names_of
    from scattergen.pipeline.browse import nearest_training_images
    from scattergen.pipeline.evaluate import check_data
    from scattergen.runs import RunFolder

    prepare(common)
    opened = RunFolder.open(run)
    if out is not None:
        check_output(out, n * (1 + k))
    names = None
    if out is not None or trained_on is not None:
        data = open_of_run(run, trained_on, reading)
        check_data(opened, data)
        names = names_of(data.train)
    model, codes, shown, made = open_codes(opened, images, density, seed, slice(n), reading, common)
    distances, numbers = nearest_training_images(opened, model.encoder, codes, k)
    if out is not None:
        near = data.train[numbers.flatten()].unflatten(0, numbers.shape)
        write_images(out, torch.cat([shown[:, None], near], 1).flatten(0, 1), columns=1 + k)
    rows, apart = numbers.tolist(), distances.tolist()
    files = None if names is None else [[names[row] for row in one] for one in rows]
    if common.as_json:
        found = {"nearest": rows, "distances": apart, **({} if files is None else {"files": files})}
        print(json.dumps({"out": None if out is None else str(out), **made, **found}))
        return
    what = "Numbers of training images" if files is None else "Training images"
    say(f"{what}, the nearest first, and the distances of scattering coefficients:")
    each = zip(files or rows, apart, strict=True)
    cells = ([f"{name} ({at:.2f})" for name, at in zip(*one, strict=True)] for one in each)
    print_table(("image", *([""] * k)), ([str(i), *row] for i, row in enumerate(cells)))
    if out is not None:
        say(f"Picture: {out}")


def edit(
    run: arg.Run, out: arg.ImagesOut,
    component: Annotated[list[str], Option(metavar="NUMBER=CHANGE",
        help="Move this component, from 1, by so many standard deviations; repeatable.")],
    image: Annotated[str | None, Option(metavar="IMAGES", help="Edit an image of these; else a sample.")] = None,
    row: Annotated[int, Option(min=0, help="Number of the image, or of the sample.")] = 0,
    density: arg.Density = None,
    seed: arg.Seed = 0, steps: arg.Steps = None,
    reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Change an image along components of its code.

    Components are numbered as in the report, the one of largest variance first. A .gif goes there and back.

    Examples:
      scattergen edit runs/mnist --component 3=+2 --seed 7 --out before-and-after.png
      scattergen edit runs/mnist --component 1=3 --component 5=-1.5 --image mnist --row 4 --steps 8 --out row.png
    """
    from scattergen.cli.opening import open_codes, prepare
    from scattergen.datasets.image_files import check_output, is_animation, write_series
    from scattergen.pipeline.browse import edited
    from scattergen.runs import RunFolder

    prepare(common)
    changes = arg.parse_changes(component)
    steps = steps or (32 if is_animation(out) else 2)
    check_output(out, steps)
    chosen = slice(row, row + 1)
    model, codes, _, made = open_codes(RunFolder.open(run), image, density, seed, chosen, reading, common)
    decoded = model.decode(edited(codes[0], changes, steps), sharpen=0.0 if image else model.sharpen)
    write_series(out, decoded)
    arg.tell_written(common, out, steps, components=changes, **made)


def explore(
    run: arg.Run,
    images: Annotated[str | None, Option(metavar="IMAGES",
        help="The images that the run was fitted to, of which it shows the nearest; not needed for MNIST.")] = None,
    port: Annotated[int | None, Option(min=1, max=65535, help="Of the page.",
        show_default="the first free one from 7860 on")] = None,
    host: Annotated[str, Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Explore a run in the browser: sample, edit, morph, and see what scattering sees.

    Only this machine reaches the page, which works offline; Ctrl-C ends it. Pictures that you show
    it are deleted then. It needs the extra "ui": pip install 'scattergen[ui]'.

    Examples:
      scattergen explore runs/mnist
      scattergen explore runs/faces --images faces/ --port 8000 --no-browser
    """
    from scattergen.explorer.page import opening
    from scattergen.explorer.serving import serve

    data = None
    if images is not None or not (run / "run.json").is_file():  # else PyTorch is imported once the page is there
        from scattergen.cli.opening import open_of_run
        from scattergen.explorer.session import Explorer

        data = open_of_run(run, images, reading)
        _ = Explorer(run, data).training_images  # refuses those of another run
    if common.threads is not None or common.device != "cpu":
        from scattergen.cli.opening import prepare

        prepare(common)

    def tell(address: str) -> None:
        arg.tell(common, {"address": address}, f"{run} is shown at {address} until you press Ctrl-C.")
        sys.stdout.flush()  # now, as the command does not end

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(opening(run, data, common.device), host=host, port=port, browser=browser, tell=tell)


def options(
    preset: Annotated[arg.PresetName, Argument(metavar="PRESET", help="Whose values are shown.")] = "auto",
    density: Annotated[str | None, Option(metavar="NAME",
        help="List the options of this density instead, such as vae or vae-improved.")] = None,
    common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """List what --set takes: every option with its value and what it means.

    Examples:
      scattergen options
      scattergen options mnist
      scattergen options --density vae
    """
    from scattergen.cli.printing import print_table
    from scattergen.stages.meanings import BY_IMAGES, density_options, fit_options

    found = fit_options(preset) if density is None else density_options(density)
    if common.as_json:
        print(json.dumps([option._asdict() for option in found]))
        return
    rows = ([name, value if value == BY_IMAGES else json.dumps(value), meaning] for name, value, meaning in found)
    print_table(("option", "value", "meaning"), rows)
    if density is None:
        say("Options of a density: scattergen options --density NAME; in a fit, --set densities.NAME.OPTION=VALUE.")


def _in_cell(value: Any) -> str:
    """A value in a table: a number, one with its error, a setting, or nothing."""
    if isinstance(value, tuple):
        return " ± ".join(f"{part:.2f}" for part in value)
    text = f"{value:.4g}" if isinstance(value, float) else "-" if value is None else setting(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
