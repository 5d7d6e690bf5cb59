"""What run.json and the files that it names must hold, whoever wrote them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.runs.options import is_name

SUFFIX = ".safetensors"
DENSITIES = "densities"
"""The only sub-folder that run.json may name files in."""

_REMEDY = "copy the run folder again as a whole, or fit it again with --overwrite"


class _Nothing:
    """What no value is."""


# A dictionary names the entries of an object: "name?" may be missing, "*" is any other.  A list
# holds values of one form, a tuple a list of so many.
_NUMBER = int | float
_STAGE = {"seconds?": _NUMBER, "epochs?": int, "iterations?": int}
_SCORES = {
    "kernel": _NUMBER, "standard_error": _NUMBER, "sharpness": _NUMBER, "*": _Nothing,
}  # fmt: skip
_RESTORED = {**_SCORES, "psnr": _NUMBER}
_JUDGEMENT = {
    "features": (str, str), "n": int, "n_test": int, "best": str | None, "*": _Nothing,
    "rows": {
        "decoder": _RESTORED, "least squares?": _RESTORED, "*": {**_SCORES, "psnr?": _NUMBER | None}
    },
}  # fmt: skip
_EPOCH = {
    name: _NUMBER
    for name in ("epoch", "seconds", "loss", "validation/loss", "validation/psnr", "*")
}
_INDEX = {
    "scattergen": str,
    "options": {
        "data?": {
            "name?": str, "fingerprint?": str, "n?": int, "crop?": int | None, "limit?": int | None
        },
        "preset?": str | None, "seed?": int, "max_seconds?": _NUMBER,
        "encoder?": dict, "decoder?": dict, "training?": {"epochs?": int},
        "sampling?": {"n_components?": int | str | None, "density?": str | None},
        "densities?": {"*": dict},
    },
    "files": {"*": str | list},
    "stages": {
        "decoder?": {**_STAGE, "history?": [_EPOCH]},
        "sampling?": {**_STAGE, "n_components": int | None},
        "report?": {
            **_STAGE, "psnr?": _NUMBER, "ssim?": _NUMBER, "best?": str | None,
            "judgement?": _JUDGEMENT, "tested_on?": str | None,
        },
        "*": _STAGE,
    },
}  # fmt: skip
_METADATA: dict[str, Any] = {
    "encoder": {
        "image_shape": (int, int, int), "n_components": int, "J": int, "L": int, "max_order": int
    },
    "codes": {"classes?": [str]},
    "linear": {
        "n_components": int, "image_shape": (int, int, int), "grid": (int, int), "n_channels": int
    },
    "decoder": {"kind?": str, "channels?": [int]},
    DENSITIES: {"name": str, "hyperparameters": dict, "seed?": int},
}  # fmt: skip


def misfit(value: Any, schema: Any, at: str = "") -> str | None:
    """Where JSON does not have the form that it should have.

    Args:
        value: The JSON.
        schema: A type, a union of types, or these in a list, tuple or dictionary, as above.
        at: Where the value is.

    Returns:
        Names with "." between the levels; None if all is well.

    Example:
        >>> misfit({"data": {"n": "many"}}, {"data": {"n": int, "limit?": int}})
        '.data.n'
    """
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(schema, dict):
        known = {name.removesuffix("?"): one for name, one in schema.items()}
        if not isinstance(value, dict):
            return at
        for name in schema:
            if name != "*" and not name.endswith("?") and name not in value:
                return f"{at}.{name}"
        every = known.get("*", object)
        parts = [(one, known.get(name, every), f"{at}.{name}") for name, one in value.items()]
    elif isinstance(schema, list | tuple):
        any_number = isinstance(schema, list)
        if not isinstance(value, list) or not (any_number or len(value) == len(schema)):
            return at
        forms = schema * len(value) if any_number else schema
        parts = [(one, form, at) for one, form in zip(value, forms, strict=True)]
    elif not _is_a(value, schema):
        return at
    return next((found for part in parts if (found := misfit(*part)) is not None), None)


def _is_a(value: Any, schema: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the integers
        return schema in (bool, object)
    # No number that is counted or measured has more digits.
    return isinstance(value, schema) and not (isinstance(value, int) and abs(value) >= 2**63)


def is_file(name: str) -> bool:
    """Whether run.json may name a file so.

    Args:
        name: Relative to the run's folder.

    Returns:
        True for "NAME.safetensors" and "densities/NAME.safetensors".

    Example:
        >>> is_file("densities/vae.safetensors"), is_file("../vae.safetensors")
        (True, False)
    """
    folder, _, _ = name.rpartition("/")
    return (
        name.endswith(SUFFIX) and is_name(name.removesuffix(SUFFIX)) and folder in ("", DENSITIES)
    )


def check_index(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a run.json that is not of the form that scattergen writes.

    Args:
        path: Of the file, for the message.
        content: Without its format and digest.

    Raises:
        RunFolderError: If it is another one.
    """
    found = misfit(content, _INDEX)
    _refuse(path, next(_oddities(content), None) if found is None else found)


def _oddities(content: Mapping[str, Any]) -> Iterator[str]:
    """What a form does not tell."""
    for name, hashes in content["files"].items():
        # There are two while one file takes the place of another.
        if not is_file(name) or None not in (misfit(hashes, str), misfit(hashes, (str, str))):
            yield f".files.{name}"
    yield from (f".stages.{name}" for name in content["stages"] if not is_name(name))
    judgement = content["stages"].get("report", {}).get("judgement")
    if judgement is not None and judgement["best"] not in (None, *judgement["rows"]):
        yield ".stages.report.judgement.best"
    if judgement is not None and "n" not in content["options"].get("data", {}):
        yield ".options.data.n"


def check_metadata(path: Path, name: str, metadata: Any) -> None:
    """Refuse metadata that are not those of the tensors of a name.

    Args:
        path: Of the file, for the message.
        name: Of the tensors.
        metadata: Found there.

    Raises:
        RunFolderError: If they have another form.

    Example:
        >>> check_metadata(Path("codes.safetensors"), "codes", {"classes": ["cat", "dog"]})
    """
    _refuse(path, misfit(metadata, _METADATA.get(name.partition("/")[0], object)))


def check_tensors(
    path: Path, name: str, tensors: Mapping[str, Tensor], metadata: Any, width: int | None
) -> None:
    """Refuse tensors that hold NaN or infinities, and codes that are none.

    Args:
        path: Of the file, for the message.
        name: Of the tensors.
        tensors: Found there.
        metadata: Which `check_metadata` has checked.
        width: Of codes, where that is known.

    Raises:
        RunFolderError: If they cannot be used.

    Example:
        >>> check_tensors(Path("a.safetensors"), "a", {"w": torch.zeros(2)}, {}, None)
    """
    for key, tensor in tensors.items():
        # A history may say that something was not measured.
        numbers = tensor.is_floating_point() and "history/" not in key
        if tensor.is_complex() or (numbers and not torch.isfinite(_wide(tensor)).all()):
            raise RunFolderError(
                f"{path} holds NaN, infinities or complex numbers ({_shown(key)}): {_REMEDY}."
            )
    if name == "codes":
        codes, labels = tensors.get("codes", torch.empty(0)), tensors.get("labels")
        n_classes = len(metadata.get("classes", ()))
        fits = codes.ndim == 2 and len(codes) > 0 and width in (None, codes.shape[1])
        for one in (codes, tensors.get("mirrored", codes)):
            fits = fits and one.shape == codes.shape and one.dtype == torch.float32
        if labels is None:
            fits = fits and n_classes == 0
        elif fits:
            fits = labels.shape == codes.shape[:1] and labels.dtype == torch.int64
            fits = fits and bool(((labels >= 0) & (labels < n_classes)).all())
        _refuse(path, None if fits else ".codes")


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.itemsize > 1 else tensor.float()  # of 8 bits PyTorch cannot tell


def _refuse(path: Path, found: str | None) -> None:
    if found is not None:
        raise RunFolderError(
            f"{path} is damaged ({_shown(found.lstrip('.') or 'its content')} is not what "
            f"scattergen writes): {_REMEDY}."
        )


def _shown(name: str) -> str:
    """A name that may be of any length and hold any letter, in quotes."""
    return json.dumps(name if len(name) <= 80 else name[:77] + "...", ensure_ascii=False)
