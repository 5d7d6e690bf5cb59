"""Keys of densities in models and runs: what they say, and which density is meant if none is named."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scattergen.densities import Density, density_class, improved_keywords, names, needs_labels
from scattergen.densities.sampling import takes
from scattergen.errors import InputError
from scattergen.runs import LAST_STAGE, RunFolder


class DensityChoice(NamedTuple):
    """What the key of a density says: its name in the registry, its keywords, and whether there is one per class."""

    name: str
    keywords: dict[str, Any]
    by_class: bool


def choice_of_key(key: str, keywords: Mapping[str, Any] | None = None) -> DensityChoice:
    """The density that a key stands for, or is the name of; keywords given go before the improved ones.

    Example:
        >>> choice = choice_of_key("vae-improved", {"epochs": 5})
        >>> choice.name, choice.keywords["epochs"], choice.keywords["prior"], choice.by_class
        ('vae', 5, 'mixture', False)
    """
    given = dict(keywords or {})
    if key in names():
        return DensityChoice(key, given, needs_labels(key))
    plain = key.removesuffix("-by-class")
    name = plain.removesuffix("-improved")
    if name not in names():
        return DensityChoice(key, given, False)
    improved = improved_keywords(name) if name != plain else {}
    return DensityChoice(name, {**improved, **given}, plain != key or needs_labels(name))


def density_key(name: str, *, improved: bool = False, by_class: bool = False) -> str:
    """The key under which a density is stored if none is given, such as "vae-improved-by-class"."""
    by_class = by_class and not needs_labels(name)
    return name + ("-improved" if improved else "") + ("-by-class" if by_class else "")


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


def default_by_class(densities: Mapping[str, Density | type[Density]]) -> str:
    """The density that classes are sampled from if none is named: the first whose `sample` takes labels."""
    for key, density in densities.items():
        if takes(density.sample, "labels"):
            return key
    raise InputError(
        "This model has no class-conditional density: fit one with `scattergen density RUN mixture --by-class`."
    )


def density_classes(run: RunFolder) -> dict[str, type[Density]]:
    """Classes of the densities that a run holds, without loading any; those of missing packages are left out."""
    classes = {}
    for key in run.names("densities"):
        try:
            classes[key] = density_class(run.metadata(f"densities/{key}")["name"])
        except InputError:
            continue
    return classes
