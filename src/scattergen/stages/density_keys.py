"""Keys of densities in models and runs: what they say, and which is meant if none is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scattergen.densities import Density, density_class, improved_keywords, names, needs_labels
from scattergen.densities.sampling import takes
from scattergen.errors import InputError
from scattergen.runs import LAST_STAGE, RunFolder


def default_density(keys: Sequence[str], best: str | None = None) -> str:
    """The density that is sampled if none is named.

    Args:
        keys: Keys of those there are.
        best: That of the least distance to test images, where this was measured.

    Returns:
        The best if it is there, else "mixture", else the last one.

    Raises:
        InputError: If there is none.

    Example:
        >>> default_density(["gaussian", "mixture", "vae"])
        'mixture'
        >>> default_density(["gaussian", "mixture", "vae"], best="vae")
        'vae'
    """
    if not keys:
        raise InputError("This model has no density: fit one with `scattergen density RUN NAME`.")
    if best is not None and best in keys:
        return best
    return "mixture" if "mixture" in keys else keys[-1]


def best_density(run: RunFolder) -> str | None:
    """The density that is sampled from a run by default, if one was found or asked for.

    Args:
        run: The run.

    Returns:
        The option "sampling.density", or else the best that the end of the fit found.
    """
    asked: str | None = run.options.get("sampling", {}).get("density")
    return asked or run.stages.get(LAST_STAGE, {}).get("best")


def density_key(name: str, *, improved: bool = False, by_class: bool = False) -> str:
    """The key under which a density is stored if none is given.

    Args:
        name: In the registry.
        improved: Whether it has the keywords of `IMPROVED`.
        by_class: Whether there is one per class.

    Returns:
        The key.

    Example:
        >>> density_key("vae", improved=True, by_class=True)
        'vae-improved-by-class'
    """
    by_class = by_class and not needs_labels(name)
    return name + ("-improved" if improved else "") + ("-by-class" if by_class else "")


@dataclass(frozen=True)
class DensityChoice:
    """What the key of a density says.

    Attributes:
        name: In the registry.
        keywords: Hyper-parameters, those of `IMPROVED` included if the key says so.
        by_class: Whether there is one per class.
    """

    name: str
    keywords: dict[str, Any]
    by_class: bool


def choice_of_key(key: str, keywords: Mapping[str, Any] | None = None) -> DensityChoice:
    """The density that a key such as "vae-improved-by-class" stands for.

    Args:
        key: A name in the registry, perhaps with "-improved" and "-by-class".
        keywords: Hyper-parameters, over the improved ones.

    Returns:
        What the key says; if it says nothing, it is the name.

    Raises:
        InputError: If the density has no improved keywords.

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


def default_by_class(densities: Mapping[str, Density | type[Density]]) -> str:
    """The density that classes are sampled from if none is named.

    Args:
        densities: Key to density, or to its class.

    Returns:
        The first key of a class-conditional one, which is one whose `sample` takes labels.

    Raises:
        InputError: If there is none.

    Example:
        >>> from scattergen.densities import ClassConditional, Gaussian
        >>> default_by_class({"gaussian": Gaussian(), "mine": ClassConditional("gaussian")})
        'mine'
    """
    for key, density in densities.items():
        if takes(density.sample, "labels"):
            return key
    raise InputError(
        "This model has no class-conditional density: fit one with `scattergen density RUN mixture --by-class`."
    )


def density_classes(run: RunFolder) -> dict[str, type[Density]]:
    """Kinds of the densities that a run holds, without loading any.

    Args:
        run: The run.

    Returns:
        Key to class; those of packages that are not installed are left out.
    """
    classes = {}
    for key in run.names("densities"):
        try:
            classes[key] = density_class(run.metadata(f"densities/{key}")["name"])
        except InputError:
            continue
    return classes
