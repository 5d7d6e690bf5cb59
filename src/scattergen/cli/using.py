"""The commands that use a model: sample, encode, decode, reconstruct, interpolate."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.errors import InputError

_LONGEST_ROW = 16  # images of a class in a picture


def sample(
    run: arg.Run, out: arg.ImagesOut,
    density: arg.Density = None,
    n: Annotated[int | None, Option("-n", min=1, help="How many images.",
        show_default="64, or 8 for each of several classes")] = None,
    label: Annotated[list[str] | None,
        Option(help="Class, by name or number; repeatable, or separated by commas.")] = None,
    temperature: Annotated[float, Option(help="Factor of the noise; below 1 less variety.")] = 1.0,
    sharpen: Annotated[float | None, Option(min=0, max=1,
        help="How crisp, from 0 (as decoded) to 1.", show_default="that of the run")] = None,
    seed: arg.Seed = 0, batch_size: arg.BatchSize = 256, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Make new images.

    Image k depends on the run, the density, the seed and k only. A .npz file also holds the codes.
    With several classes, each gets an equal part of the images, one class after the other.

    Examples:
      scattergen sample runs/mnist --out samples.png
      scattergen sample runs/mnist --density vae -n 1000 --seed 7 --out samples.npz
      scattergen sample runs/mnist --temperature 0.8 --out alike.png
      scattergen sample runs/faces --sharpen 0 --out as-decoded.png
      scattergen sample runs/mnist --label 3,5 --out threes-and-fives.png
    """
    from scattergen.cli.opening import prepare
    from scattergen.datasets import ClassLabels
    from scattergen.datasets.image_files import check_output, write_images
    from scattergen.densities.class_conditional import label_numbers
    from scattergen.densities.sampling import check_temperature
    from scattergen.model import GenerativeScatteringNetwork
    from scattergen.runs import RunFolder
    from scattergen.stages.density import density_to_sample

    progress = prepare(common)
    check_output(out)
    check_temperature(temperature)
    opened = RunFolder.open(run)
    opened.require("decoder")
    density = density_to_sample(opened, density, by_class=bool(label))
    model = GenerativeScatteringNetwork.load(opened, common.device, densities=[density])
    names = getattr(model.densities[density], "classes_", None)
    labels = arg.parse_labels(label or [], names or ())
    n = n or (8 * len(labels) if len(labels) > 1 else 64)
    if n < len(labels):
        raise InputError(f"-n {n} images cannot show {len(labels)} classes: make more images.")
    model.check_memory(n)
    check_output(out, n)
    classes = None
    if labels:
        each = [labels[k * len(labels) // n] for k in range(n)]
        if names is None:
            remedy = "leave out --density, or fit one that is by `scattergen density RUN NAME --by-class`"
            raise InputError(f"The density {density} is not class-conditional: {remedy}.")
        classes = ClassLabels(label_numbers(each, n, names), tuple(names))
    codes = model.sample_codes(n, density, seed, temperature, None if classes is None else classes.labels)
    sharpen = model.sharpen if sharpen is None else sharpen
    images = model.decode(codes, batch_size, progress, sharpen=sharpen)
    columns = None
    if len(labels) > 1:  # a row for each class, unless that is too long
        each_has, rest = divmod(n, len(labels))
        columns = each_has if rest == 0 and each_has <= _LONGEST_ROW else 8
    write_images(out, images, codes, columns=columns, classes=classes)
    how = {"density": density, "seed": seed, "temperature": temperature, "sharpen": sharpen}
    arg.tell_written(common, out, n, **how, **({"labels": labels} if labels else {}))


def encode(
    run: arg.Run, images: arg.Source,
    out: Annotated[Path, Option(metavar="PATH", help="codes.npz or codes.npy.", parser=arg.path)],
    part: arg.Part = None, reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Turn images into codes.

    Example:
      scattergen encode runs/mnist images.npz --out codes.npz
      scattergen encode runs/mnist mnist --part train --out training-codes.npz
    """
    from scattergen.cli.opening import open_like, prepare
    from scattergen.datasets.image_files import check_codes_path, write_codes
    from scattergen.model import GenerativeScatteringNetwork

    progress = prepare(common)
    check_codes_path(out)
    model = GenerativeScatteringNetwork.load(run, common.device, densities=())
    data = open_like(run, images, reading, part)
    write_codes(out, model.encode(data.train, progress))
    arg.tell_written(common, out, len(data.train))


def decode(
    run: arg.Run,
    codes: Annotated[Path, Argument(help="codes.npz or codes.npy.", metavar="CODES", parser=arg.path)],
    out: arg.ImagesOut, batch_size: arg.BatchSize = 256, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Turn codes into images.

    Example:
      scattergen decode runs/mnist codes.npz --out images/
    """
    from scattergen.cli.opening import prepare
    from scattergen.datasets.image_files import check_output, read_codes, write_images
    from scattergen.model import GenerativeScatteringNetwork

    progress = prepare(common)
    check_output(out)
    z = read_codes(codes)
    check_output(out, len(z))
    model = GenerativeScatteringNetwork.load(run, common.device, densities=())
    write_images(out, model.decode(z, batch_size, progress), z)
    arg.tell_written(common, out, len(z))


def reconstruct(
    run: arg.Run, images: arg.Source, out: arg.ImagesOut,
    n: Annotated[int | None, Option("-n", min=1, help="How many images, from the first.", show_default="all")] = None,
    part: arg.Part = None, reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Encode images and decode them again.

    A grid shows eight originals in one row and their reconstructions in the next.

    Example:
      scattergen reconstruct runs/mnist mnist -n 32 --out pairs.png
    """
    import torch

    from scattergen.cli.opening import as_fitted, open_like, prepare
    from scattergen.datasets.image_files import check_output, is_grid, write_images
    from scattergen.datasets.recognition import names_of
    from scattergen.image_quality import psnr
    from scattergen.model import GenerativeScatteringNetwork
    from scattergen.runs import RunFolder

    progress = prepare(common)
    check_output(out)
    model = GenerativeScatteringNetwork.load(run, common.device, densities=())
    source = open_like(run, images, reading, part).train
    check_output(out, min(len(source), n or len(source)))
    originals = source[:n]
    codes = model.encode(originals, progress)
    results = model.decode(codes, progress=progress)
    columns = min(8, len(results))
    shown = results
    if is_grid(out):  # a row of originals above the row of their reconstructions, in turn
        missing = -len(results) % columns
        blank = torch.ones(missing, *results.shape[1:])
        rows = zip(*(torch.cat([x, blank]).split(columns) for x in (originals, results)), strict=True)
        shown = torch.cat([row for pair in rows for row in pair])[: 2 * len(results) + missing]
    write_images(out, shown, codes, columns=columns)
    mean = psnr(originals, results).clamp(max=100).mean().item()  # JSON has no infinity
    facts, names = {"psnr": mean}, names_of(source)
    if part is None and names is not None and (fitted_to := as_fitted(RunFolder.open(run), images, reading)):
        facts["trained_on"] = len({*names[: len(results)]} & {*(names_of(fitted_to.train) or ())})
    arg.tell_written(common, out, len(results), **facts)


def interpolate(
    run: arg.Run, images: arg.Source, out: arg.ImagesOut, ends: arg.Ends = arg.ENDS,
    steps: arg.Steps = None, part: arg.Part = None, reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Morph one image into another along a straight line between their codes.

    A .gif goes there and back.

    Examples:
      scattergen interpolate runs/mnist mnist --from-label 3 --to-label 9 --out morph.gif
      scattergen interpolate runs/mnist mnist --from 3 --to 9 --steps 10 --out morph.png
      scattergen interpolate runs/faces faces/ --from anna.jpg --to tom.jpg --out morph.gif
    """
    import torch

    from scattergen.cli.opening import number_of, open_like, prepare
    from scattergen.datasets.image_files import check_output, is_animation, write_series
    from scattergen.model import GenerativeScatteringNetwork

    prepare(common)
    steps = steps or (32 if is_animation(out) else 8)
    check_output(out, steps)
    model = GenerativeScatteringNetwork.load(run, common.device, densities=())
    source = open_like(run, images, reading, part).train
    asked = ((ends.start, ends.from_label, "0"), (ends.stop, ends.to_label, "1"))
    numbers = [number_of(source, images, *one) for one in asked]
    first, last = source[torch.tensor(numbers)]
    write_series(out, model.interpolate(first, last, steps))
    arg.tell_written(common, out, steps, rows=numbers)
