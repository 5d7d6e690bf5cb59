"""Keywords with which every registered density is fitted in a moment, and codes to fit to."""

import torch

from scattergen.densities import needs_labels, registered_name

D = 5
SMALL = {
    "gaussian": {},
    "mixture": {"n_components": 3, "shrinkage": 20.0},
    "parzen": {"n_neighbors": 3, "max_codes": 400},
    "vae": {"n_latent": 3, "widths": (16,), "epochs": 2, "batch_size": 64},
    "gan": {"n_latent": 3, "widths": (16,), "epochs": 2, "batch_size": 64},
    # Three of the five components are modelled, the other two follow by regressions.
    "flow": {"leading": 3, "layers": 2, "widths": (16,), "bins": 4, "epochs": 2, "batch_size": 64},
    "class_conditional": {"density": "gaussian", "classes": ["low", "high"]},
}
GRADIENT = ["vae", "gan", "flow"]


def codes():
    """500 codes of D dependent components, some of either sign in each."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator)
    return torch.randn(500, D, generator=generator) @ mixing + 1


def fit(density, z, **keywords):
    """Fit a density; one that needs labels gets the sign of the codes' first component."""
    labels = ((z[:, 0] > 0).long(),) if needs_labels(registered_name(density)) else ()
    return density.fit(z, *labels, **keywords)
