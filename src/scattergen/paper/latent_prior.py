"""Are latent variables of the paper's VAE, draws of q(h|z) in training, N(0, I), which its samples take them for?"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.densities.networks import posterior
from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import distances_by_setting
from scattergen.paper.findings import Finding, Measured, Results, Section, Stage, Verdict, by_setting, judge, with_other
from scattergen.paper.material import Material

NAME = "latent_prior"
_MOST = 0.75  # of what a better source of h gains
_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to


@torch.no_grad()
def latent_variables(material: Material) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Codes g(h) of draws of q(h|z), and of draws of a mixture fitted to these; and facts about both."""
    vae = material.model.densities["vae"]
    assert isinstance(vae, VariationalAutoencoder)
    seed, n = material.seed, material.n_images
    mean, log_variance = posterior(vae.encoder_, material.training_codes)
    deviation = (log_variance / 2).exp()
    h = mean + deviation * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    fitted = h[material.numbers(len(h), _FITTED, stream=9)]
    mixture = GaussianMixture(n_components=min(_COMPONENTS, max(1, len(fitted) // 20)))
    draws = h[material.numbers(len(h), n, stream=10)]
    latent = {"posterior": draws, "mixture": mixture.fit(fitted, seed=seed).sample(n, seed=seed)}
    norms = h.norm(dim=1)
    facts = {
        "norms": [norms.mean().item(), norms.std().item()],  # of draws of q(h|z)
        "deviation": deviation.mean().item(),  # its standard one
        "components": len(mixture.means_),
        "H": vae.n_latent,
    }
    return {name: vae.decoder_(one) for name, one in latent.items()}, facts


def measure(material: Material, work: Path) -> Measured:
    """Score decoded means g(h) with h from elsewhere than N(0, I)."""
    decoded, facts = latent_variables(material)
    distances = {}
    with material.progress.task("latent variables from elsewhere", len(decoded)) as task:
        for name, codes in decoded.items():
            distances[name] = material.distance_of_codes(codes)
            task.advance()
    return Measured({"distances": distances, **facts, "n": material.n_images})


STAGES = {NAME: Stage(__name__, measure, parts=("codes", "decoder", "densities/vae"), distances=True)}


def show(results: Results, material: Material) -> Section:
    """What the VAE's decoder makes of latent variables from each source."""
    facts = results[NAME].facts
    elsewhere = by_setting(results, material, facts["distances"], "latent")
    prior = distances_by_setting(results, material)
    beta = results[SAMPLES].facts["rows"]["vae"]["hyperparameters"]["beta"]
    shown = {"elsewhere": elsewhere, "prior": prior, "expected": _expected_norm(facts["H"]), "beta": beta}
    setting, scores = next(iter(elsewhere.items()))
    finding = _finding(setting, scores, prior[setting]["vae"], prior[setting]["gaussian"])
    return Section(NAME, finding, with_other(NAME, results), shown)


def _expected_norm(H: int) -> float:
    """Mean length of a standard normal vector."""
    return 2**0.5 * math.exp(math.lgamma(H / 2 + 0.5) - math.lgamma(H / 2))


def _finding(setting: str, distances: Mapping[str, float], vae: float, gaussian: float) -> Finding:
    draws, mixture = distances["posterior"], distances["mixture"]
    best = min(draws, mixture)
    kept = (gaussian - vae) / (gaussian - best) if best < gaussian else 0.0
    verdict: Verdict = "agrees" if kept >= _MOST else "agrees in part"
    if mixture > 2 * vae:
        verdict = "cannot be compared"
    elif kept <= 0:
        verdict = "disagrees"
    words = {"setting": setting, "draws": draws, "mixture": mixture, "vae": vae, "gaussian": gaussian, "kept": kept}
    return judge("Section 2.1, the VAE’s latent variables", verdict, NAME, **words)
