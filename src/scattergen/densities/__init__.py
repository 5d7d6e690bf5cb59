"""Latent densities: models of the distribution of codes that are fitted in seconds."""

from scattergen.calls.state import guard
from scattergen.densities.class_conditional import ClassConditional, make_for_classes, needs_labels
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.flow import Flow
from scattergen.densities.gan import GenerativeAdversarialNetwork
from scattergen.densities.gaussian import Gaussian
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.parzen import ManifoldParzen
from scattergen.densities.protocol import Density, LikelihoodDensity, check_count, hyperparameters
from scattergen.densities.sampling import Noise, draw_in_chunks, sample_density
from scattergen.densities.vae import VariationalAutoencoder

from scattergen.densities.registry import (  # isort: skip
    DENSITIES, IMPROVED, density_class, improved_keywords, make, names, registered_name,
)  # fmt: skip

__all__ = [
    "DENSITIES", "IMPROVED", "ClassConditional", "Density", "DisplayedDensity", "Flow", "Gaussian", "GaussianMixture",
    "GenerativeAdversarialNetwork", "LikelihoodDensity", "ManifoldParzen", "Noise", "VariationalAutoencoder",
    "check_count", "density_class", "draw_in_chunks", "hyperparameters", "improved_keywords", "make",
    "make_for_classes", "names", "needs_labels", "registered_name", "sample_density",
]  # fmt: skip

for _density in DENSITIES.values():
    guard(_density, "fit", "sample", "sample_labels", "log_prob", "_log_prob", "state_dict", "load_state_dict")
