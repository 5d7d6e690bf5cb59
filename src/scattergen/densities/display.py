"""How densities show themselves in Python and in notebooks."""

import inspect

from scattergen.densities.protocol import Density, hyperparameters
from scattergen.display.notebook import Card, Displayed


class DisplayedDensity(Displayed):
    """Gives a density, one's own too, a `repr` and a card in notebooks: changed keywords, whether it is fitted, size.

    Example:
        >>> from scattergen.densities import GaussianMixture
        >>> GaussianMixture(n_components=30)
        GaussianMixture(n_components=30); fitted: not yet; model: Gaussian mixture, κ = auto
    """

    def _card(self: Density) -> Card:
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        changed = [f"{k}={v!r}" for k, v in hyperparameters(self).items() if getattr(self, k) != defaults[k]]
        fitted = f"to codes of {self.n_features_} components" if hasattr(self, "n_features_") else "not yet"
        return Card(f"{type(self).__name__}({', '.join(changed)})", {"fitted": fitted, "model": self.description})
