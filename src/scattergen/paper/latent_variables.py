"""Latent variables of the paper's VAE that do not come from N(0, I)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.densities.networks import posterior
from scattergen.paper.material import Material

_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to
POSTERIOR, MIXTURE = "posterior", "mixture"


@dataclass(frozen=True)
class LatentVariables:
    """Latent variables from elsewhere than N(0, I).

    Attributes:
        decoded: Codes g(h) of draws of q(h|z), and of draws of a mixture fitted to these.
        norms: Mean and standard deviation of the lengths of draws of q(h|z).
        deviation: Mean standard deviation of q(h|z).
        components: Of the mixture.
    """

    decoded: dict[str, Tensor]
    norms: tuple[float, float]
    deviation: float
    components: int


@torch.no_grad()
def latent_variables(material: Material) -> LatentVariables:
    """Draw latent variables of the run's VAE and decode them.

    Args:
        material: Of the run.

    Returns:
        As many of each as a set of images has.
    """
    vae = material.model.densities["vae"]
    assert isinstance(vae, VariationalAutoencoder)
    codes, seed, n = material.training_codes, material.seed, material.n_images
    mean, log_variance = posterior(vae.encoder_, codes)
    generator = torch.Generator().manual_seed(seed)
    deviation = (log_variance / 2).exp()
    h = mean + deviation * torch.randn(mean.shape, generator=generator)
    fitted = h[material.numbers(len(h), _FITTED, stream=9)]
    mixture = GaussianMixture(n_components=min(_COMPONENTS, max(1, len(fitted) // 20)))
    drawn = {
        POSTERIOR: h[material.numbers(len(h), n, stream=10)],
        MIXTURE: mixture.fit(fitted, seed=seed).sample(n, seed=seed),
    }
    norms = h.norm(dim=1)
    return LatentVariables(
        decoded={name: vae.decoder_(latent) for name, latent in drawn.items()},
        norms=(norms.mean().item(), norms.std().item()),
        deviation=deviation.mean().item(),
        components=len(mixture.means_),
    )
