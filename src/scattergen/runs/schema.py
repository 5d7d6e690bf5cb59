"""What run.json and the files that it names must hold, whoever wrote them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.runs.layout import DENSITIES, is_key, is_product, is_stage

REMEDY = "copy the run folder again as a whole, or fit it again with --overwrite"


class _Nothing:
    """A type that no value has."""


# A dictionary names the entries of an object: "name?" may be missing, "*" stands for all others.
# A list is a list of values of one form; a tuple is a list of that length.
_NUMBER = int | float
_STAGE = {"seconds?": _NUMBER, "epochs?": int, "iterations?": int}
_SCORES = {"kernel": _NUMBER, "standard_error": _NUMBER, "sharpness": _NUMBER, "*": _Nothing}
_SCORES["copying_pvalue?"] = _NUMBER | None
_RESTORED = {**_SCORES, "psnr": _NUMBER, "ssim?": _NUMBER | None}
_ROWS = {
    "decoder": _RESTORED,
    "least squares?": _RESTORED,
    "*": {**_SCORES, "psnr?": _NUMBER | None, "ssim?": _NUMBER | None},
}
_JUDGEMENT = {
    "features": (str, str), "n": int, "n_test": int, "best": str | None, "rows": _ROWS, "*": _Nothing,
}  # fmt: skip
_EPOCH = {name: _NUMBER for name in ("epoch", "seconds", "loss", "validation/loss", "validation/psnr", "*")}
_ENTRY = {"key": str, "sha256": str | None, "after": {"*": str}, "products": [str], "facts": dict, "*": _Nothing}
_KEPT = {"stage": str, "key": str, "facts": dict, "after": {"*": str}, "*": _Nothing}  # and the content
_FACTS = {
    "decoder": {**_STAGE, "history?": [_EPOCH], "psnr?": _NUMBER},
    "sampling": {**_STAGE, "n_components": int | None},
    "report": {
        **_STAGE, "psnr?": _NUMBER, "ssim?": _NUMBER, "best?": str | None,
        "judgement?": _JUDGEMENT, "tested_on?": str | None,
        "command?": str, "machine?": {"*": str}, "judged?": {"*": str},
    },
}  # fmt: skip
_RECORD = {
    "scattergen": str,
    "options": {
        "data?": {"name?": str, "fingerprint?": str, "marks?": str, "n?": int, "crop?": int | None,
                  "limit?": int | None, "size?": int | None, "converted?": [str]},
        "preset?": str | None, "seed?": int, "max_seconds?": _NUMBER,
        "encoder?": dict, "decoder?": dict, "training?": {"epochs?": int}, "densities?": {"*": dict},
        "sampling?": {"n_components?": int | str | None, "density?": str | None, "sharpen?": _NUMBER},
    },
    "stages": {"*": _ENTRY}, "*": _Nothing,
}  # fmt: skip
_INDEX = {**_RECORD, "next?": _RECORD}
_COUNTS = {"K2": (int, int), "JB": (int, int), "*": _Nothing}
_RATE = {"n": int, "test": str, "level": _NUMBER, "observed": _NUMBER, "simulated": _NUMBER, "*": _Nothing}
_REFERENCE = {
    "n_test": int, "features?": (str, str), "detail?": _NUMBER, "rows?": _ROWS, "rejections?": [_RATE],
    "normality?": {"n": int, "d": int, "constant": int, "levels": (_NUMBER, _NUMBER), "counts": _COUNTS, "*": _Nothing},
    "normality_split?": str, "skewness?": [_NUMBER], "excess_kurtosis?": [_NUMBER],
}  # fmt: skip
_METADATA: dict[str, Any] = {
    "encoder": {"image_shape": (int, int, int), "n_components": int, "J": int, "L": int, "max_order": int},
    "codes": {"classes?": [str]},
    "linear": {"n_components": int, "image_shape": (int, int, int), "grid": (int, int), "n_channels": int},
    "decoder": {"kind?": str, "channels?": [int]},
    "reference": _REFERENCE,
    DENSITIES: {"name": str, "hyperparameters": dict, "seed?": int},
}
# Of what people look at, which a report tells again: evaluation.json and diagnosis.json.
_ESTIMATE = {"value": _NUMBER, "standard_error": _NUMBER}
EVALUATION: dict[str, Any] = {
    "against": str, "n": int, "seed": int, "features": {"name": str, "version": str},
    "rows": {"*": {
        "frechet": _ESTIMATE, "kernel": _ESTIMATE, "manifolds": {"precision": _ESTIMATE, "recall": _ESTIMATE},
        "training_seconds": _NUMBER | None, "images_per_second": _NUMBER | None,
    }},
}  # fmt: skip
DIAGNOSIS: dict[str, Any] = {
    "tables": {"*": {"n": int, "components": int, "tests": [
        {"null": str, "name": str, "pvalue": _NUMBER, "effect": _NUMBER, "effect_name": str}
    ]}},
}  # fmt: skip


def misfit(value: Any, schema: Any, at: str = "") -> str | None:
    """The first place, such as ".data.n", where JSON does not have the form that it should; None if it has."""
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return at
        missing = [name for name in schema if name != "*" and not name.endswith("?") and name not in value]
        if missing:
            return f"{at}.{missing[0]}"
        known = {name.removesuffix("?"): one for name, one in schema.items()}
        parts = [(one, known.get(name, known.get("*", object)), f"{at}.{name}") for name, one in value.items()]
    elif isinstance(schema, list | tuple):
        if not isinstance(value, list) or (isinstance(schema, tuple) and len(value) != len(schema)):
            return at
        forms = schema if isinstance(schema, tuple) else schema * len(value)
        parts = [(one, form, at) for one, form in zip(value, forms, strict=True)]
    elif not _is_a(value, schema):
        return at
    return next((found for part in parts if (found := misfit(*part)) is not None), None)


def _is_a(value: Any, schema: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the integers
        return schema in (bool, object)
    # No count and no measurement is that large.
    return isinstance(value, schema) and not (isinstance(value, int) and abs(value) >= 2**63)


def check_index(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a run.json whose content (without format and digest) is not what scattergen writes."""
    found = misfit(content, _INDEX)
    if found is None:
        records = {"": content, ".next": content.get("next")}
        found = next((f"{at}{one}" for at, record in records.items() if record for one in _odd(record)), None)
    _refuse(path, found)


def _odd(record: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a run beyond the form of its JSON."""
    measured = "seconds" in record["stages"].get("encoder", {"facts": {}})["facts"]
    for name, entry in record["stages"].items():
        at = f".stages.{name}"
        yield from (f"{at}.products" for one in entry["products"] if not is_product(one))
        found = _odd_stage(name, entry, measured or bool(entry["facts"]))
        if found is not None:
            yield at + found
            return  # the judgement below may be malformed, too
    judgement = record["stages"].get("report", {"facts": {}})["facts"].get("judgement")
    if judgement is not None and judgement["best"] not in (None, *judgement["rows"]):
        yield ".stages.report.facts.judgement.best"
    if judgement is not None and "n" not in record["options"].get("data", {}):
        yield ".options.data.n"


def _odd_stage(name: str, entry: Mapping[str, Any], measured: bool) -> str | None:
    """What is wrong with a stage, in run.json or in the metadata of its file."""
    if not is_stage(name) or not all(map(is_key, [entry["key"], *entry["after"].values()])):
        return ""
    found = misfit(entry["facts"], _FACTS.get(name, _STAGE)) if measured else None
    return None if found is None else f".facts{found}"


def content_of(path: Path, name: str, key: str, kept: Any) -> Any:
    """The content within the metadata `kept` in the file of a stage; refused if it has another form."""
    found = misfit(kept, {**_KEPT, "content": _METADATA.get(name.partition("/")[0], object)})
    if found is None and (kept["stage"], kept["key"]) != (name, key):
        found = ".stage"
    _refuse(path, _odd_stage(name, kept, bool(kept["facts"])) if found is None else found)
    return kept["content"]


def check_tensors(path: Path, name: str, tensors: Mapping[str, Tensor], metadata: Any, width: int | None) -> None:
    """Refuse tensors with NaN or infinities, and codes without the right shape, width (if known) or labels."""
    for key, tensor in tensors.items():
        # In a history NaN says that something was not measured.
        numbers = tensor.is_floating_point() and "history/" not in key
        wide = tensor.float() if numbers and tensor.itemsize == 1 else tensor  # isfinite does not know 8 bits
        if tensor.is_complex() or (numbers and not torch.isfinite(wide).all()):
            raise RunFolderError(f"{path} holds NaN, infinities or complex numbers ({_shown(key)}): {REMEDY}.")
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


def _refuse(path: Path, found: str | None) -> None:
    if found is not None:
        where = _shown(found.lstrip(".") or "its content")
        raise RunFolderError(f"{path} is damaged ({where} is not what scattergen writes): {REMEDY}.")


def _shown(name: str) -> str:
    """A name of any length, with any letters, in quotes and cut short."""
    return json.dumps(name if len(name) <= 80 else name[:77] + "...", ensure_ascii=False)
