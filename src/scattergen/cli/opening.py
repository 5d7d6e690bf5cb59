"""What commands do first: check the device and memory, and open images."""

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from scattergen.datasets import Dataset, celeba, limit, open_dataset
from scattergen.datasets.decoding import Mode
from scattergen.datasets.opening import holds_files
from scattergen.errors import InputError
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.runs import RunFolder
from scattergen.stages.presets import CELEBA_PRESETS

_SHOWN = 5  # files left out that are named


def prepare(device: str, threads: int | None, quiet: bool) -> Progress:
    """Check the device, set the number of threads, and make the progress display."""
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
        raise InputError(f'The device "{device}" cannot be used here ({reason}): choose another, such as "cpu".')
    return Progress(show=not quiet)


def check_memory(n: int, model: GenerativeScatteringNetwork) -> None:
    """Refuse more images than memory can hold together with their codes while those are drawn."""
    floats = math.prod(model.decoder.image_shape) + 3 * model.decoder.n_components
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * n * floats > there:
        raise InputError(
            f"{n:,} images take {4 * n * floats / 2**30:,.0f} GiB of memory and this machine has "
            f"{there / 2**30:,.0f}: make them in parts, each with another --seed."
        )


def open_source(source: str, **how: Any) -> Dataset:
    """Open a dataset and say which files were left out."""
    return _saying_what_is_left_out(source, open_dataset(source, **how))


def open_celeba(source: str, size: int | None, strict: bool, workers: int = 0, progress: Progress = SILENT) -> Dataset:
    """Open a folder in CelebA's layout and say which files were left out."""
    if source == "mnist" or source.startswith("hf:") or Path(source).is_file():
        raise InputError(
            f"The presets of CelebA are for a folder of its aligned images, not for {source}: "
            "name the folder img_align_celeba."
        )
    data = celeba(source, size=size, strict=strict, workers=workers, progress=progress)
    return _saying_what_is_left_out(source, data)


def open_to_fit(
    source: str,
    size: int | None,
    crop: int | None,
    mode: Mode | None,
    strict: bool,
    *,
    preset: str | None,
    most: int | None,
    workers: int = 0,
    progress: Progress = SILENT,
) -> Dataset:
    """The images that a run is fitted to with a preset, at most so many for training."""
    if preset in CELEBA_PRESETS:
        if crop is not None or mode == "L":
            raise InputError(
                "The presets of CelebA cut their own square from CelebA's images, in colour: "
                "leave out --crop and --mode."
            )
        data = open_celeba(source, size, strict, workers, progress)
    else:
        data = open_source(source, size=size, crop=crop, mode=mode, strict=strict, workers=workers, progress=progress)
    return data if most is None else limit(data, most)


def open_of_run(
    run: Path, source: str | None, size: int | None, crop: int | None, mode: Mode | None, strict: bool
) -> Dataset:
    """The images of a run, split and by default cropped as in its fit; without a source, the embedded MNIST."""
    options = RunFolder.open(run).options
    fitted_to, preset = options.get("data", {}), options.get("preset")
    if source is None:
        if fitted_to.get("name") != "mnist":
            raise InputError(f"{run} was not fitted to the embedded MNIST: name its images by --images.")
        source = "mnist"
    if preset not in CELEBA_PRESETS:
        crop = _crop_of(run, source, size, crop)
    return open_to_fit(source, size, crop, mode, strict, preset=preset, most=fitted_to.get("limit"))


def open_like(
    run: Path, source: str, size: int | None, crop: int | None, mode: Mode | None, strict: bool, part: str | None = None
) -> Dataset:
    """All images of a source as the training part, or one part of a source with a test set.

    The images of a folder get the crop, size and mode of those of a run.
    """
    crop = _crop_of(run, source, size, crop)
    if holds_files(source):
        channels, height, width = image_shape_of(run)
        mode = mode or ("L" if channels == 1 else "RGB")
        if size is None and height == width and crop != height:
            size = height
    data = open_source(source, size=size, crop=crop, mode=mode, strict=strict, test_fraction=0)
    if data.test is None and part == "test":
        raise InputError(f"{source} has no test set of its own: leave out --part.")
    return Dataset(data.name, data.train if part == "train" or data.test is None else data.test)


def image_shape_of(run: Path) -> tuple[int, int, int]:
    """(C, H, W) of the images that a run was fitted to."""
    channels, height, width = RunFolder.open(run).metadata("encoder")["image_shape"]
    return channels, height, width


def _crop_of(run: Path, source: str, size: int | None, crop: int | None) -> int | None:
    """The crop asked for, or for a folder, if no size is asked for either, that of the run."""
    if crop is None and size is None and holds_files(source):
        recorded: int | None = RunFolder.open(run).options.get("data", {}).get("crop")
        return recorded
    return crop


def _saying_what_is_left_out(source: str, data: Dataset) -> Dataset:
    for sentence in data.skipped[:_SHOWN]:
        warnings.warn(sentence, stacklevel=3)
    if data.skipped:
        warnings.warn(f"Files left out of {source}: {len(data.skipped)}.", stacklevel=3)
    return data
