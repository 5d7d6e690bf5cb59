"""What commands do first: check the device and memory, and open images."""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.calls.device import check_device
from scattergen.cli.arguments import Common, Reading
from scattergen.datasets import Dataset, ImageSource, celeba, class_labels, limit, mnist, open_dataset
from scattergen.datasets.opening import holds_files
from scattergen.datasets.published import CROPS
from scattergen.datasets.reading import ImageReader
from scattergen.datasets.recognition import names_of, recognise
from scattergen.datasets.source import MNIST
from scattergen.display.machine import memory
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.model import DECODING_BATCH, GenerativeScatteringNetwork
from scattergen.runs import RunFolder
from scattergen.stages.density import density_to_sample
from scattergen.stages.presets import CELEBA_PRESETS

_MANY_PIXELS = 1 << 20  # of one image


def prepare(common: Common) -> Progress:
    """Check the device, set the number of threads, and make the progress display."""
    if common.threads is not None:
        torch.set_num_threads(common.threads)
    check_device(common.device)
    return Progress(show=not common.quiet)


def begin(common: Common, seed: int) -> dict[str, Any]:
    """As `prepare`; what the work of a command is given: its seed, device and progress."""
    return {"seed": seed, "device": common.device, "progress": prepare(common)}


def check_sides(source: str, data: Dataset) -> None:
    """Say what a fit to big images takes, before it does; refuse what memory cannot hold."""
    (channels, height, width), n = data.train.shape, len(data.train)
    if height * width <= _MANY_PIXELS:
        return
    # A batch, and what it is compared with.
    needed = 2 * 4 * min(n, DECODING_BATCH) * channels * height * width
    what = f"{n:,} images of {width}×{height} pixels are fitted whole, which takes at least {needed / 1e9:,.1f} GB"
    remedy = "make them smaller, as by --size 128" if holds_files(source) else "make the images in the array smaller"
    there = memory()
    if needed > there:
        raise InputError(f"{source}: {what} of memory, and this machine has {there / 1e9:,.1f} GB: {remedy}.")
    warnings.warn(f"{source}: {what} of memory and a long time: {remedy}.", stacklevel=2)


def open_to_fit(
    source: str, reading: Reading, preset: str | None, most: int | None, workers: int = 0, progress: Progress = SILENT
) -> Dataset:
    """The images that a run is fitted to with a preset, at most so many for training."""
    if preset in CELEBA_PRESETS:
        if reading.crop is not None or reading.mode == "L":
            what = "The presets of CelebA cut their own square from CelebA's images, in colour"
            raise InputError(f"{what}: leave out --crop and --mode.")
        if source == MNIST or source.startswith("hf:") or Path(source).expanduser().is_file():
            what = f"The presets of CelebA are for a folder of its aligned images, not for {source}"
            raise InputError(f"{what}: name the folder img_align_celeba.")
        data = celeba(source, size=reading.size, strict=reading.strict, workers=workers, progress=progress)
    else:
        data = open_dataset(source, workers=workers, progress=progress, **reading._asdict())
    _say_what_is_left_out(source, data)
    return data if most is None else limit(data, most)


def open_of_run(run: Path, source: str | None, reading: Reading) -> Dataset:
    """The images of a run, split and by default cropped, resized and converted as in its fit; or the embedded MNIST."""
    opened = RunFolder.open(run)
    fitted_to, preset = opened.options.get("data", {}), opened.options.get("preset")
    if source is None:
        source = name = fitted_to.get("name", "")
        if name != MNIST:  # but that of a folder, whose place a run does not know
            source = f"./{name}"
            if name in ("", "..") or name != Path(name).name or not os.path.isdir(source):
                raise InputError(f"{run} does not hold the images that it was fitted to: name them by --images.")
    if holds_files(source):
        if preset not in CELEBA_PRESETS:
            reading = _as_files_of(opened, reading)
        reading = reading._replace(size=reading.size or fitted_to.get("size"))
    return open_to_fit(source, reading, preset=preset, most=fitted_to.get("limit"))


def open_like(run: Path, source: str, reading: Reading, part: str | None = None) -> Dataset:
    """All images of a source, or one part of one with a test set, as the training part; image files read as a run's."""
    opened, asked = RunFolder.open(run), reading
    wanted = _, height, width = tuple(opened.metadata("encoder")["image_shape"])
    if holds_files(source):
        reading = _as_files_of(opened, reading)
        if reading.size is None and height == width and reading.crop != height:
            reading = reading._replace(size=height)
    data = None if part is None else as_fitted(opened, source, asked)
    if data is None:  # a part of images that have none of their own is that of a fit
        data = open_dataset(source, **{**reading._asdict(), **({"test_fraction": 0} if part is None else {})})
        _say_what_is_left_out(source, data)
    if data.train.shape != wanted:
        what = f"{source} gives {_in_words(data.train.shape)}, but {run} is a model of {_in_words(wanted)}"
        how = "choose --size, --crop and --mode to suit" if holds_files(source) else "convert the array, or give files"
        if height != width and data.train.shape[1:] != wanted[1:] and holds_files(source):
            how = f"make them {width}×{height} pixels first, as --size and --crop make squares"
        raise InputError(f"{what}: {how}.")
    _say_how_converted(source, data, asked, reading, opened.options.get("data", {}).get("converted", []))
    if data.test is None and part == "test":
        raise InputError(f"{source} has too few images for a test set: leave out --part.")
    return Dataset(data.name, data.train if part == "train" or data.test is None else data.test)


def as_fitted(run: RunFolder, source: str, reading: Reading) -> Dataset | None:
    """The images of a source, split and limited as in the fit of a run, if it was fitted to them."""
    with suppress(InputError):
        data = open_of_run(run.path, source, reading)
        if recognise(data, run.options.get("data", {})):
            return data
    return None


def _in_words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'colour'} images of {width}×{height} pixels"


def open_codes(
    run: RunFolder, source: str | None, density: str | None, seed: int, rows: slice, reading: Reading, common: Common
) -> tuple[GenerativeScatteringNetwork, Tensor, Tensor, dict[str, Any]]:
    """A run's model, codes of some images of a source or else of samples, these images, and how they came about."""
    if source is None:
        key = density_to_sample(run, density, by_class=False)
        model = GenerativeScatteringNetwork.load(run, common.device, densities=[key])
        model.check_memory(rows.stop)
        codes = model.sample_codes(rows.stop, key, seed)[rows]
        return model, codes, model.decode(codes, sharpen=model.sharpen), {"density": key, "seed": seed}
    if density is not None:
        raise InputError(f"Samples of {density} are not made where images are named: leave out {source} or --density.")
    model = GenerativeScatteringNetwork.load(run, common.device, densities=())
    found = open_like(run.path, source, reading).train
    check_row(found, source, rows.start or 0)
    images = found[rows]
    return model, model.encode(images), images, {"images": source}


def check_row(source: ImageSource, name: str, number: int) -> None:
    """Refuse the number of an image that a source does not have."""
    if number >= len(source):
        raise InputError(f"There is no image {number}: {name} has the images 0 to {len(source) - 1}.")


def number_of(source: ImageSource, name: str, image: str | None, label: str | None, default: str) -> int:
    """The number of an image that is asked for by it, by the name of its file, or as the first one of a class."""
    if label is None:
        image = default if image is None else image
        names = names_of(source) or []
        as_a_path = os.path.relpath(image or ".", os.path.expanduser(name))  # as the shell completes it
        for one in (image, as_a_path):
            if one in names:
                return names.index(one)
        if not (image.isascii() and image.isdigit()):
            some = f", such as {names[0]}" if names else ""
            raise InputError(f'{name} has no image "{image}": give a number, from 0, or the name of a file{some}.')
        check_row(source, name, int(image))
        return int(image)
    if image is not None:
        raise InputError(f"An image, {image}, and a class, {label}, are given for the same end: leave out one.")
    found = class_labels(source)
    if found is None:
        raise InputError(f"The images of {name} have no classes: give their numbers, by --from and --to.")
    if label not in found.classes:
        raise InputError(f'{name} has no image of a class "{label}": its classes are {", ".join(found.classes)}.')
    return int((found.labels == found.classes.index(label)).nonzero()[0])


def open_of_paper(name: str, run: Path, images: str | None, strict: bool) -> Dataset:
    """The images of the founding paper's data set, "mnist" or "celeba", that a run was fitted to."""
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
    side = RunFolder.open(run).metadata("encoder")["image_shape"][1]
    size = side if side in CROPS.values() else None  # of a run on other images, which is refused
    return open_to_fit(images, Reading(size=size, strict=strict), preset=name, most=None)


def _as_files_of(run: RunFolder, reading: Reading) -> Reading:
    """How files are read as those of a run: its colours, and its crop where neither a crop nor a size is asked for."""
    crop = run.options.get("data", {}).get("crop") if reading.crop is None and reading.size is None else reading.crop
    channels = run.metadata("encoder")["image_shape"][0]
    return reading._replace(crop=crop, mode=reading.mode or ("L" if channels == 1 else "RGB"))


def _say_how_converted(source: str, data: Dataset, asked: Reading, done: Reading, known: list[str]) -> None:
    """Warn of what is done to files, unasked, so that they are as images of a run, to whose files it was not done."""
    parts: list[Any] = [part for part in (data.train, data.test) if isinstance(part, ImageReader)]
    said = []
    if asked.mode is None and "mode" not in known and any(part.file_modes - {part.mode} for part in parts):
        said.append("made grey" if done.mode == "L" else "made colour")
    sizes = {size for part in parts for size in part.file_sizes if "size" not in known} - {(done.size, done.size)}
    if asked.size is None and done.crop is None and done.size is not None and sizes:
        width, height = min(sizes)
        said.append(f"resized from {width}×{height} to {done.size}×{done.size}")
    if said:
        what = f"The images of {source} are {' and '.join(said)}, as those of the run are"
        warnings.warn(f"{what}: if they are of another kind, what comes of them means little.", stacklevel=3)


def _say_what_is_left_out(source: str, data: Dataset) -> None:
    for sentence in data.skipped[:5]:
        warnings.warn(sentence, stacklevel=3)
    if data.skipped:
        used = len(data.train) + len(data.test or ())
        warnings.warn(f"Files left out of {source}: {len(data.skipped):,}; {used:,} are used.", stacklevel=3)
