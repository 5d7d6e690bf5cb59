"""A model as the named tensors of a run folder, and back."""

import math
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from scattergen.calls.keywords import check_keywords
from scattergen.datasets import Dataset, class_labels
from scattergen.datasets.recognition import identity_of
from scattergen.datasets.source import check_dataset
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.decoder.sharpening import Sharpening
from scattergen.densities import Density, hyperparameters, make
from scattergen.display.progress import Progress
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError, RunFolderError
from scattergen.files.tensors import check_shapes
from scattergen.runs import RunFolder, check_name, save_run
from scattergen.runs.layout import INDEX, refuse_foreign
from scattergen.runs.schema import REMEDY
from scattergen.stages.density import best_density, density_metadata
from scattergen.stages.options import AnyDecoder, Images
from scattergen.stages.presets import Options

Part = TypeVar("Part")


@dataclass
class Parts:
    """What a model is made of, under the names that the attributes of `GenerativeScatteringNetwork` have."""

    encoder: ScatteringEncoder
    decoder: AnyDecoder
    densities: dict[str, Density] = field(default_factory=dict)
    linear: LinearDecoder | None = None
    options: Options = field(default_factory=dict)
    best: str | None = None
    n_leading: int | None = None
    sharpening: Sharpening | None = None
    sharpen: float = 0.0
    psnr: float | None = None  # mean, in dB, of reconstructed images that the decoder was not trained on


def save_parts(parts: Parts, path: Path | str, data: Dataset | None = None, *, overwrite: bool = False) -> None:
    """Write a model as a run folder, or add the densities that it lacks to the one that holds the model already.

    With the `data` that it was fitted to, codes of their training part are stored as those of a fit are.
    """
    # Everything that can fail for the model's sake comes before anything is replaced.
    encoder, decoder, options = parts.encoder, parts.decoder, parts.options
    for part, kinds in ((encoder, ScatteringEncoder), (decoder, AnyDecoder)):
        if not isinstance(part, kinds):
            what = f"A {type(part).__name__} is no encoder or decoder of scattergen, so that no run folder can hold it"
            remedy = "store its tensors yourself, and make the model again by GenerativeScatteringNetwork(...)"
            raise InputError(f"{what}: {remedy}.")
    content: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "encoder": (encoder.state_dict(), encoder.hyperparameters),
        "decoder": (decoder.state_dict(), decoder_metadata(decoder)),
    }
    linear = decoder.linear if isinstance(decoder, LocalDecoder) else parts.linear
    if linear is not None:
        content["linear"] = (linear.state_dict(), linear.hyperparameters)
    if parts.sharpening is not None:
        content["sampling"] = ({"gains": parts.sharpening.gains}, {})
    for key, density in parts.densities.items():
        stage = f"densities/{key}"
        check_name(stage)
        d = getattr(density, "n_features_", decoder.n_components)
        if d > decoder.n_components:  # fewer are the leading ones
            theirs = f"those of this model have {decoder.n_components}: fit it to encode(images) of this model"
            raise InputError(f"The density {key} is of codes with {d} components, {theirs}.")
        metadata = density_metadata(density)  # first, since it says what is not registered
        content[stage] = (density.state_dict(), metadata)
    if parts.n_leading is not None or parts.best is not None or parts.sharpen:  # no stage will tell
        chosen = {"n_components": parts.n_leading, "density": parts.best, "sharpen": parts.sharpen}
        options = {**options, "sampling": chosen}
    if data is not None:
        check_dataset(data)
        refuse_foreign(Path(path).expanduser())  # before codes are computed
        content["codes"] = stored_codes(encoder.transform(data.train, Progress.where_somebody_watches()), data.train)
        options = {**options, "data": identity_of(data)}
    elif not overwrite and (Path(path).expanduser() / INDEX).is_file():
        there = RunFolder.open(path).options
        options = {**options, "data": there["data"]} if "data" in there else options
    measured = math.nan if parts.psnr is None else float(parts.psnr)
    facts = {"decoder": {"psnr": measured}} if math.isfinite(measured) else {}
    save_run(path, options, content, facts, overwrite=overwrite)


def stored_codes(codes: Tensor, images: Images) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Codes of images (N, d), with their labels if they have classes, as tensors and metadata of a run."""
    classes = class_labels(images)
    if classes is None:
        return {"codes": codes.contiguous()}, {}
    return {"codes": codes.contiguous(), "labels": classes.labels}, {"classes": classes.classes}


def decoder_metadata(decoder: AnyDecoder) -> dict[str, Any]:
    """What is stored beside a decoder's tensors: its keywords, and its kind if it is a local one."""
    return {**({"kind": "local"} if isinstance(decoder, LocalDecoder) else {}), **decoder.hyperparameters}


def read_parts(path: Path | str | RunFolder, device: str, keys: Collection[str] | None) -> Parts:
    """The model of a run folder or of an opened run, with the densities of these keys, or all."""
    run = path if isinstance(path, RunFolder) else RunFolder.open(path)
    while True:
        try:
            return _read_parts(run, device, keys)
        except RunFolderError:
            if not run.refresh():  # else another process has replaced it meanwhile
                raise


def _read_parts(run: RunFolder, device: str, keys: Collection[str] | None) -> Parts:
    tensors, keywords = run.read("encoder")
    J, L, order = (keywords[name] for name in ("J", "L", "max_order"))
    paths = (order > 0) * J * L + (order > 1) * L * L * J * (J - 1) // 2
    _check_size("encoder", [paths], tensors)
    encoder = _made(run, "encoder", ScatteringEncoder, keywords, device=device)
    encoder.load_state_dict(tensors)
    same = {name: keywords[name] for name in ("n_components", "image_shape")}
    linear = None
    if run.has("linear"):
        tensors, keywords = run.read("linear")
        _check_same(run, "linear decoder", keywords, same)
        shapes = {name: tuple(value) if isinstance(value, list) else value for name, value in keywords.items()}
        linear = _made(run, "linear decoder", LinearDecoder, shapes)
        linear.load_state_dict(tensors)
    decoder = _decoder(run, linear, same)
    densities = {}
    for key in run.names("densities") if keys is None else keys:
        densities[key] = _density(run, key)
        d = getattr(densities[key], "n_features_", 0)
        if d > decoder.n_components:
            theirs = f"those of this model have {decoder.n_components}: copy the run folder again as a whole"
            raise RunFolderError(f"The density {key} of {run.path} is of codes with {d} components, {theirs}.")
    gains = run.read("sampling")[0].get("gains") if run.has("sampling") else None
    if gains is not None:
        check_shapes("sharpening", {"gains": gains}, {"gains": (max(decoder.image_shape[1:]),)})
    asked, found = run.options.get("sampling", {}), run.stages.get("sampling", {})
    n_leading = found.get("n_components", asked.get("n_components"))
    return Parts(
        encoder, decoder.to(device), densities, linear, options=run.options, best=best_density(run),
        n_leading=None if n_leading == "auto" else n_leading,  # of an unfinished fit
        sharpening=None if gains is None else _made(run, "sharpening", Sharpening, {"gains": gains}),
        sharpen=asked.get("sharpen", 0.0), psnr=run.psnr,
    )  # fmt: skip


def _decoder(run: RunFolder, linear: LinearDecoder | None, same: Mapping[str, Any]) -> AnyDecoder:
    tensors, keywords = run.read("decoder")
    kind: Callable[..., AnyDecoder] = Decoder
    if keywords.pop("kind", "generator") == "local":
        if linear is None:
            lacks = f"{run.path} lacks the least squares that its decoder starts from (linear.safetensors)"
            remedy = "run the `scattergen fit` command that made it again, with --overwrite"
            raise RunFolderError(f"{lacks}: {remedy}.")
        kind, keywords = LocalDecoder, {"linear": linear, **keywords}
    else:
        _check_same(run, "decoder", keywords, same)
    _check_size("decoder", [], tensors, layers=len(keywords.get("channels", [])))
    with torch.device("meta"):  # its shapes, before its weights take memory and time
        _made(run, "decoder", kind, keywords).check_state(tensors)
    decoder = _made(run, "decoder", kind, keywords)
    decoder.load_state_dict(tensors)
    return decoder


def _made(run: RunFolder, what: str, make: Callable[..., Part], keywords: Mapping[str, Any], **fixed: Any) -> Part:
    """A part of a model, not loaded yet, from its stored keywords."""
    try:
        check_keywords(f"the {what}", make, keywords, tuple(fixed))
        return make(**keywords, **fixed)
    # As of a keyword that is missing, or sizes that no tensor can have.
    except (InputError, TypeError, ValueError, RuntimeError) as error:
        raise RunFolderError(f"The {what} of {run.path} cannot be made ({_reason(error)}): {REMEDY}.") from error


def _check_same(run: RunFolder, what: str, keywords: Mapping[str, Any], same: Mapping[str, Any]) -> None:
    for name, value in same.items():
        if keywords.get(name) != value:
            encoder = f"its encoder, which has {name}={value}: copy the run folder again as a whole"
            raise RunFolderError(f"The {what} of {run.path} does not belong to {encoder}.")


def _density(run: RunFolder, key: str) -> Density:
    tensors, metadata = run.read(f"densities/{key}")
    try:
        density = make(metadata["name"], **metadata["hyperparameters"])
        _check_density_size(metadata["name"], hyperparameters(density), tensors)
        density.load_state_dict(tensors)
        return density
    except (InputError, LookupError, TypeError, ValueError, RuntimeError) as error:
        command = shlex.join(["scattergen", "density", str(run.path), key, "--overwrite"])
        remedy = f"if another version of scattergen stored it, fit it again by `{command}`"
        what = f"The density {key} of {run.path} cannot be loaded ({_reason(error)})"
        raise RunFolderError(f"{what}: {remedy}.") from error


def _check_size(what: str, widths: Sequence[int], tensors: Mapping[str, Tensor], layers: int = 0) -> None:
    """Refuse a network of larger or more layers than its tensors: hidden ones of some widths, and `layers` besides."""
    stored = sum(tensor.numel() for tensor in tensors.values())
    weights = sum(a * b for a, b in pairwise(widths))
    if max(weights, *widths, 0) > stored or len(widths) + layers > len(tensors):
        how = "these have larger or more layers than its tensors are; fit the run again with --overwrite"
        raise RunFolderError(f"The stored {what} does not fit its options: {how}.")


def _check_density_size(name: str, keywords: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if name == "class_conditional":
        _check_size("density", [], tensors, layers=tensors["weights"].numel())  # each class has tensors of its own
        _check_density_size(keywords["density"], keywords["keywords"], tensors)
    elif name in ("vae", "gan", "flow"):
        for widths in (keywords["widths"], keywords.get("discriminator_widths", [])):
            _check_size("density", widths, tensors, keywords.get("layers", 0))
        for width in (keywords.get("n_latent", 0), keywords.get("bins", 0)):
            _check_size("density", [width], tensors)


def _reason(error: Exception) -> str:
    """The first line of an error, without what a tampered file makes of it."""
    line = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return line if len(line) <= 300 else line[:300] + " …"
