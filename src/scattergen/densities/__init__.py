"""Latent densities: models of the distribution of codes that are fitted in seconds."""

from scattergen.densities.flow import Flow
from scattergen.densities.flow_matching import FlowMatching
from scattergen.densities.gan import GenerativeAdversarialNetwork
from scattergen.densities.gaussian import Gaussian
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import (
    Density,
    LikelihoodDensity,
    check_count,
    hyperparameters,
)
from scattergen.densities.registry import (
    DENSITIES,
    IMPROVED,
    density_class,
    make,
    names,
    registered_name,
)
from scattergen.densities.sampling import draw_in_chunks, standard_normal
from scattergen.densities.sliced import SlicedTransport
from scattergen.densities.vae import VariationalAutoencoder

__all__ = [
    "DENSITIES",
    "IMPROVED",
    "Density",
    "Flow",
    "FlowMatching",
    "Gaussian",
    "GaussianMixture",
    "GenerativeAdversarialNetwork",
    "LikelihoodDensity",
    "SlicedTransport",
    "VariationalAutoencoder",
    "check_count",
    "density_class",
    "draw_in_chunks",
    "hyperparameters",
    "make",
    "names",
    "registered_name",
    "standard_normal",
]
