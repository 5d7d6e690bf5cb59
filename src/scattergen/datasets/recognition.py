"""Whether images are those that a run was fitted to, wherever their files are by now, and which have changed."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.arrays import WithMirrored
from scattergen.datasets.folder import ImageFolder
from scattergen.datasets.reading import ImageReader
from scattergen.datasets.source import Dataset, ImageSource, Subset

CONVERSIONS = ("size", "converted")  # what `conversions_of` tells


def files_of(images: ImageSource | Tensor) -> tuple[ImageFolder, NDArray[np.int64]] | None:
    """The folder whose files images are, and their numbers there; None of other images."""
    if isinstance(images, ImageFolder):
        return images, np.arange(len(images))
    if not isinstance(images, Subset | WithMirrored):
        return None
    found = files_of(images.source)
    return None if found is None else (found[0], found[1][images.numbers.numpy()])


def names_of(images: ImageSource) -> list[str] | None:
    """The names of the files in their folder that images are; None of other images."""
    found = files_of(images)
    return found and [found[0].files[number].relative_to(found[0].root).as_posix() for number in found[1]]


def identity_of(data: Dataset) -> dict[str, Any]:
    """What a run stores of its data, to recognise them, and to do to files again what was done to them."""
    taken = {name: value for name in ("crop", "limit") if (value := getattr(data, name)) is not None}
    known = {"name": data.name, "fingerprint": data.train.fingerprint, **marks_of(data.train)}
    return {**known, "n": len(data.train), **taken, **conversions_of(data.train)}


def recognise(data: Dataset, fitted_to: Mapping[str, Any]) -> bool:
    """Whether training images are those that a run was fitted to."""
    return "fingerprint" in fitted_to and data.train.fingerprint == fitted_to["fingerprint"]


def marks_of(images: ImageSource) -> dict[str, str]:
    """Four letters for each file, of its name and content, by which a run can tell which one has changed."""
    found = files_of(images)
    if found is None:
        return {}
    marks = (hashlib.sha256(mark).digest()[:3] for mark in found[0].marks(found[1].tolist()))
    return {"marks": base64.b64encode(b"".join(marks)).decode()}


def conversions_of(images: ImageSource | Tensor) -> dict[str, Any]:
    """How files became images, so that commands need not be told again: the size asked for, and what was changed."""
    if isinstance(images, Subset | WithMirrored):
        return conversions_of(images.source)
    return {"size": images.size, "converted": images.converted} if isinstance(images, ImageReader) else {}


def what_changed(data: Dataset, fitted_to: Mapping[str, Any], run: Path) -> str | None:
    """A sentence on files that a run does not know; None if most are others, or of another choice."""
    found, old = files_of(data.train), fitted_to.get("marks")
    if found is None or old is None or fitted_to.get("limit") != data.limit:
        return None
    old, new = (re.findall("....", marks) for marks in (old, marks_of(data.train)["marks"]))
    known, files = set(old), [found[0].files[number] for number in found[1]]
    others = [file for file, mark in zip(files, new, strict=True) if mark not in known]
    missing = len(known - set(new))
    if not 0 < max(len(others), missing) <= max(len(old), len(new)) / 2:
        return None
    # A file that is gone, or has another name, moves those that follow it, and others from the test images to these.
    in_place = [file for file, before, now in zip(files, old, new, strict=False) if before != now]
    if len(old) == len(new) and in_place == others:
        problem = f"{others[0]} is not the image that {run} was fitted to"
        problem += f" ({len(others)} have changed)" if others[1:] else ""
        return f"{problem}: put back what was there, or fit the images again (--overwrite)."
    problem = f"{found[0].root} holds other training images than {run} was fitted to (missing: {missing}"
    problem += f", new or from the test images: {len(others)}, such as {others[0]}" if others else ""
    return f"{problem}): put back what was removed or renamed and take out what is new, or fit again (--overwrite)."
