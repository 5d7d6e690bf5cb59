"""The known densities by name, and making one from keywords that a user wrote."""

from importlib.metadata import entry_points
from typing import Any

from scattergen.calls.keywords import check_keywords, nearest_name
from scattergen.densities.flow import Flow
from scattergen.densities.gan import IMPROVED_GAN, GenerativeAdversarialNetwork
from scattergen.densities.gaussian import Gaussian
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.parzen import ManifoldParzen
from scattergen.densities.protocol import Density
from scattergen.densities.vae import IMPROVED_VAE, VariationalAutoencoder
from scattergen.errors import InputError

DENSITIES: dict[str, type[Density]] = {
    "gaussian": Gaussian,
    "mixture": GaussianMixture,
    "parzen": ManifoldParzen,
    "vae": VariationalAutoencoder,
    "gan": GenerativeAdversarialNetwork,
    "flow": Flow,
}
"""Name to class. `DENSITIES["mine"] = Mine` adds one; so does an installed package that declares it in the entry-point
group "scattergen.densities". "class_conditional", which is made of others, is added by its own module."""

IMPROVED: dict[str, dict[str, Any]] = {"vae": IMPROVED_VAE, "gan": IMPROVED_GAN}
"""Name to keywords with which a density of the founding paper, whose defaults are the paper's, is good."""

_GROUP = "scattergen.densities"


def names() -> list[str]:
    """Names of all densities in the order of registration, with those of installed packages, which are not imported.

    Example:
        >>> names()[:4]
        ['gaussian', 'mixture', 'parzen', 'vae']
    """
    return list(dict.fromkeys([*DENSITIES, *entry_points(group=_GROUP).names]))


def density_class(name: str) -> type[Density]:
    """Class of a density, one of `names()`; that of an installed package is imported now, or raises an `InputError`.

    Example:
        >>> density_class("mixture").__name__
        'GaussianMixture'
    """
    if name not in DENSITIES:
        found = [point for point in entry_points(group=_GROUP) if point.name == name]
        if not found:
            near = nearest_name(name, names())
            meant = f'"{near}" may be meant, of' if near else "choose one of"
            others = f"{', '.join(names())} (docs/own-parts.md adds others)"
            raise InputError(f'There is no density "{name}": {meant} {others}.')
        try:
            DENSITIES[name] = found[0].load()
        except (ImportError, AttributeError) as error:
            problem = f'The density "{name}" of {found[0].value} cannot be imported ({error})'
            raise InputError(f"{problem}: repair or remove the package that declares it.") from error
    return DENSITIES[name]


def improved_keywords(name: str) -> dict[str, Any]:
    """Keywords that make a density of the founding paper a good one, `IMPROVED[name]`; an `InputError` if it has none.

    Example:
        >>> improved_keywords("vae")["prior"]
        'mixture'
    """
    density_class(name)
    if name not in IMPROVED:
        remedy = f"leave out --improved, which {' and '.join(IMPROVED)} have"
        raise InputError(f'The density "{name}" has no improved variant, since its defaults are its best: {remedy}.')
    return dict(IMPROVED[name])


def registered_name(density: Density) -> str:
    """The name under which a density's class is registered, as stored in run folders; an `InputError` if it is not.

    Example:
        >>> registered_name(Gaussian())
        'gaussian'
    """
    for name, kind in DENSITIES.items():  # which holds a package's once it has been made
        if kind is type(density):
            return name
    own = type(density).__name__
    problem = f"{own} is not registered, so that it could not be loaded again"
    raise InputError(f'{problem}: call DENSITIES["{own.lower()}"] = {own} first.')


def make(name: str, /, **options: Any) -> Density:
    """Make an unfitted density from its name and keywords of its class, of which an unknown one raises an `InputError`.

    Example:
        >>> make("vae", beta=0.01).beta
        0.01
    """
    kind = density_class(name)
    check_keywords(f'the density "{name}"', kind, options)
    return kind(**options)
