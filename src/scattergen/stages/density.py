"""The stage of a fit that makes one density of the codes, and the keys of densities in models and runs."""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen import densities
from scattergen.datasets import ClassLabels
from scattergen.densities import Density
from scattergen.densities.class_conditional import check_labels
from scattergen.densities.sampling import takes
from scattergen.errors import InputError, ScattergenError
from scattergen.runs import LAST_STAGE, Result, RunFolder, Stages, refuse_differences


def fit_density(
    name: str, key: str, codes: Tensor, labels: ClassLabels | Tensor | NDArray[Any] | Sequence[int] | None,
    stages: Stages, *, n_leading: int | None = None, keywords: Mapping[str, Any] | None = None, seed: int = 0,
    device: str = "cpu", overwrite: bool = False,
) -> Density:  # fmt: skip
    """Fit a density to (leading components of) codes (N, d), one for each class if there are labels; or find it."""
    labels, classes = labels if isinstance(labels, ClassLabels) else (labels, None)
    density = make_density(DensityChoice(name, dict(keywords or {}), labels is not None), classes)
    if not getattr(density, "all_components", False):
        codes = codes[:, :n_leading]
    stage, metadata = f"densities/{key}", density_metadata(density, seed)
    run = stages.run
    if run is not None and run.has(stage) and run.is_whole(stage) and not overwrite:
        tensors, kept = run.read(stage)
        refuse_differences(run.path / stage, kept, metadata)
        density.load_state_dict(tensors)
        stages.progress.message(f"{stage}: done before")
        return density

    def fit(work: Path | None) -> Result:
        start = time.monotonic()
        checkpoint = None if work is None else work / "checkpoint.safetensors"
        given = () if labels is None else (labels,)
        density.fit(codes, *given, seed=seed, progress=stages.progress, device=device, checkpoint=checkpoint)
        if not torch.isfinite(density.sample(1, seed=seed)).all():
            remedy = "change its options and run the command again"
            raise ScattergenError(f"The density {key} draws infinite or NaN codes, so it is not kept: {remedy}.")
        history = getattr(density, "history_", [])
        # The training loop counts epochs; other fits have iterations, or one row.
        unit = "epochs" if history and "learning_rate" in history[0] else "iterations"
        # The history counts the parts before an interruption, too, but not what a fit does before and after its epochs.
        seconds = max([time.monotonic() - start, *(row["seconds"] for row in history[-1:])])
        facts = {unit: len(history), "description": density.description, "seconds": seconds}
        return Result(density.state_dict(), metadata, facts)

    # Whoever calls this from Python may give other codes than those of the run.
    fitted_to = [codes] if labels is None else [codes, check_labels(labels, len(codes))]
    content = [one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data for one in fitted_to]
    depends = {**metadata, "fitted_to": [hashlib.sha256(one).hexdigest() for one in content]}
    result = stages.get(stage, depends, fit, ["codes"] if run is not None and run.has("codes") else [])
    if result.found:
        density.load_state_dict(result.tensors)
    return density


def density_metadata(density: Density, seed: int | None = None) -> dict[str, Any]:
    """What is stored beside a density's tensors and tells it from others, if its class is registered."""
    metadata = {"name": densities.registered_name(density), "hyperparameters": densities.hyperparameters(density)}
    return metadata if seed is None else {**metadata, "seed": seed}


class DensityChoice(NamedTuple):
    """What the key of a density says: its name in the registry, its keywords, and whether there is one per class."""

    name: str
    keywords: dict[str, Any]
    by_class: bool


def make_density(choice: DensityChoice, classes: Sequence[str] | None = None) -> Density:
    """A density that is yet to be fitted, or one for each class."""
    name, keywords, by_class = choice
    return densities.make_for_classes(name, keywords, classes) if by_class else densities.make(name, **keywords)


def choice_of_key(key: str, keywords: Mapping[str, Any] | None = None) -> DensityChoice:
    """The density that a key stands for, or is the name of; keywords given go before the improved ones."""
    name, improved, by_class = _taken_apart(key)
    given = {**(densities.improved_keywords(name) if improved else {}), **(keywords or {})}
    return DensityChoice(name, given, by_class or _needs_labels(name))


def density_key(key: str, *, improved: bool = False, by_class: bool = False) -> str:
    """The key under which a density is stored if none is given, such as "vae-improved-by-class", by a name or a key."""
    name, is_improved, is_by_class = _taken_apart(key)
    by_class = (by_class or is_by_class) and not _needs_labels(name)
    return name + ("-improved" if improved or is_improved else "") + ("-by-class" if by_class else "")


def _taken_apart(key: str) -> tuple[str, bool, bool]:
    """Name in the registry, whether it is improved, and whether it is one for each class."""
    if key in densities.names():
        return key, False, False
    plain = key.removesuffix("-by-class")
    name = plain.removesuffix("-improved")
    return name, name != plain, plain != key


def _needs_labels(name: str) -> bool:
    return name in densities.names() and densities.needs_labels(name)


def check_densities(run: RunFolder, keys: Iterable[str]) -> None:
    """Refuse keys of densities that a run does not have."""
    there = run.names("densities")
    for key in keys:
        if key not in there:
            raise InputError(f'{run.path} has no density "{key}": it has {", ".join(there) or "none"}.')


def default_density(keys: Sequence[str], best: str | None = None) -> str:
    """The density that is sampled if none is named: the best if it is there, else "mixture", else the last one."""
    if not keys:
        raise InputError("This model has no density: fit one with `scattergen density RUN NAME`.")
    if best is not None and best in keys:
        return best
    return "mixture" if "mixture" in keys else keys[-1]


def best_density(run: RunFolder) -> str | None:
    """The density that a run's options ask for, or else the best that the end of its fit found."""
    asked: str | None = run.options.get("sampling", {}).get("density")
    return asked or run.stages.get(LAST_STAGE, {}).get("best")


def default_by_class(fitted: Mapping[str, Density | type[Density]], best: str | None = None) -> str:
    """The density that classes are sampled from if none is named: the best or the first whose `sample` takes labels."""
    for key in sorted(fitted, key=lambda one: one != best):
        if takes(fitted[key].sample, "labels"):
            return key
    remedy = "fit one with `scattergen density RUN mixture --by-class`, or by fit_density with labels"
    raise InputError(f"This model has no class-conditional density: {remedy}.")


def density_to_sample(run: RunFolder, asked: str | None, *, by_class: bool) -> str:
    """The key of the density that is asked for, if the run has it, or of that to take; nothing is loaded."""
    keys = run.names("densities")
    if asked is not None:
        check_densities(run, [asked])
        return asked
    if not by_class:
        return default_density(keys, best_density(run))
    classes = {}
    for key in keys:
        with suppress(InputError):  # of a package that is missing
            classes[key] = densities.density_class(run.metadata(f"densities/{key}")["name"])
    return default_by_class(classes, best_density(run))
