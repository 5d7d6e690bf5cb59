"""Latent variables of the paper's VAE that do not come from N(0, I)."""

from typing import Any

import torch
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.densities.networks import posterior
from scattergen.paper.material import Material

_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to
POSTERIOR, MIXTURE = "posterior", "mixture"


@torch.no_grad()
def latent_variables(material: Material) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Codes g(h) of draws of q(h|z), and of draws of a mixture fitted to these; and facts about both.

    "norms" are mean and standard deviation of the lengths of draws of q(h|z), "deviation" is its mean standard one.
    """
    vae = material.model.densities["vae"]
    assert isinstance(vae, VariationalAutoencoder)
    seed, n = material.seed, material.n_images
    mean, log_variance = posterior(vae.encoder_, material.training_codes)
    deviation = (log_variance / 2).exp()
    h = mean + deviation * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    fitted = h[material.numbers(len(h), _FITTED, stream=9)]
    mixture = GaussianMixture(n_components=min(_COMPONENTS, max(1, len(fitted) // 20)))
    drawn = {
        POSTERIOR: h[material.numbers(len(h), n, stream=10)],
        MIXTURE: mixture.fit(fitted, seed=seed).sample(n, seed=seed),
    }
    norms = h.norm(dim=1)
    facts = {
        "norms": [norms.mean().item(), norms.std().item()],
        "deviation": deviation.mean().item(),
        "components": len(mixture.means_),
        "H": vae.n_latent,
    }
    return {name: vae.decoder_(latent) for name, latent in drawn.items()}, facts
