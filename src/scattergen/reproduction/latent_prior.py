"""Are the latent variables of the paper's VAE what its samples take them for?

Its decoder maps latent variables h to codes. Samples take h from N(0, I); training took h from the
draws q(h|z) of all codes z, and nothing but β makes the one resemble the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.densities.networks import posterior
from scattergen.report.draft import number, sample_size
from scattergen.report.html import table, tag
from scattergen.reproduction.decoder_settings import OTHER, by_setting
from scattergen.reproduction.density_samples import DECODED, distances_by_setting
from scattergen.reproduction.density_samples import NAME as SAMPLES
from scattergen.reproduction.material import Material
from scattergen.reproduction.page import Finding, ReproductionPage
from scattergen.reproduction.stage_cache import Measured

NAME = "latent_prior"
_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to
POSTERIOR, MIXTURE = "posterior", "mixture"


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {
        **material.depends_on_model("codes", "decoder", "densities/vae"),
        **material.depends_on_distances(),
    }


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


def measure(material: Material, work: Path) -> Measured:
    """Score decoded means g(h) with h from elsewhere than N(0, I)."""
    vae = material.model.densities["vae"]
    assert isinstance(vae, VariationalAutoencoder)
    latent = latent_variables(material)
    distances = {}
    with material.progress.task("latent variables from elsewhere", len(latent.decoded)) as task:
        for name, codes in latent.decoded.items():
            distances[name] = material.distance_of_codes(codes)
            task.advance()
    facts = {
        "distances": distances,
        "norms": list(latent.norms),
        "deviation": latent.deviation,
        "components": latent.components,
        "H": vae.n_latent,
        "n": material.n_images,
    }
    return Measured(facts)


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured, samples = results[NAME], results[SAMPLES].facts
    facts, how = measured.facts, material.measure.title
    elsewhere = by_setting(results, material, facts["distances"], "latent")
    from_prior = distances_by_setting(results, material)
    rows: list[list[object]] = []
    for name, found in (
        (f"N(0, I), as in the paper; H = {facts['H']}", [d["vae"] for d in from_prior.values()]),
        ("draws of q(h|z) of training codes", [d[POSTERIOR] for d in elsewhere.values()]),
        (
            f"a mixture of {facts['components']} Gaussians fitted to such draws",
            [d[MIXTURE] for d in elsewhere.values()],
        ),
        ("– (reference: decoded training codes)", [d[DECODED] for d in from_prior.values()]),
        ("– (reference: the density gaussian)", [d["gaussian"] for d in from_prior.values()]),
    ):
        rows.append([name, *(number(value, 1) for value in found)])
    caption = (
        f"{how[0].upper()}{how[1:]} to test images of what the paper’s VAE makes of latent "
        f"variables h from different sources, {sample_size(facts['n'])}. The second row is no "
        "generative model: it decodes what was encoded."
    )
    setting, scores = next(iter(elsewhere.items()))
    vae, gaussian = from_prior[setting]["vae"], from_prior[setting]["gaussian"]
    content = [
        table(["h from", *(f"{how}, {name}" for name in elsewhere)], rows, caption=caption),
        tag("p", _reading(facts, samples["rows"]["vae"]["hyperparameters"])),
    ]
    page.section(
        "The VAE’s prior",
        _finding(setting, scores, vae, gaussian),
        content,
        [measured, *([results[OTHER]] if OTHER in results else [])],
        sample_size(facts["n"]),
    )


def _reading(facts: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    mean, deviation = facts["norms"]
    expected, H = _expected_norm(facts["H"]), facts["H"]
    return (
        f"Draws of q(h|z) are {number(mean, 1)} ± {number(deviation, 1)} long (mean and standard "
        f"deviation over training codes) where those of N(0, I) in {H} dimensions are "
        f"{number(expected, 1)} ± {number((H - expected**2) ** 0.5, 1)}. The mean standard "
        f"deviation of q(h|z) is {number(facts['deviation'], 2)}, between 0 of an autoencoder and "
        f"1 of latent variables that say nothing. Here β = {vae['beta']:g} multiplies the "
        "divergence summed over the latent variables, beside the mean squared error; the paper "
        "does not say what it multiplies."
    )


def _expected_norm(H: int) -> float:
    """Mean length of a standard normal vector."""
    half = torch.tensor(H / 2, dtype=torch.float64)
    ratio: Tensor = torch.lgamma(half + 0.5) - torch.lgamma(half)
    return float(2**0.5 * ratio.exp())


def _finding(setting: str, distances: Mapping[str, float], vae: float, gaussian: float) -> Finding:
    item = "Section 2.1, the VAE’s latent variables"
    posterior_score, mixture = distances[POSTERIOR], distances[MIXTURE]
    numbers = (
        f"With {setting} and h from N(0, I) the paper’s VAE scores {number(vae, 1)}, with h from a "
        f"mixture fitted to its latent variables {number(mixture, 1)}, and with those variables "
        f"themselves {number(posterior_score, 1)} (white Gaussian codes {number(gaussian, 1)})"
    )
    if mixture < 0.5 * vae:
        because = (
            f"{numbers}: its decoder has learnt the dependencies, but its latent variables are not "
            "“close to independent Gaussians”."
        )
        return Finding(item, "disagrees", because)
    if mixture > 2 * vae:
        because = (
            f"{numbers}: its own latent variables score worse by this distance, so where h comes "
            "from is not what these samples lack."
        )
        return Finding(item, "cannot be compared", because)
    because = f"{numbers}: where h comes from matters little, as it should."
    return Finding(item, "agrees", because)
