"""Why samples of the paper's VAE are poor: where its latent variables are drawn from.

Its decoder maps latent variables h to codes. Samples take h from N(0, I); training took h from the
draws q(h|z) of all codes z, and nothing but a small β makes the one resemble the other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.report.draft import number, sample_size
from scattergen.report.html import table, tag
from scattergen.reproduction.density_samples import DECODED
from scattergen.reproduction.density_samples import NAME as SAMPLES
from scattergen.reproduction.material import Material
from scattergen.reproduction.page import Finding, ReproductionPage
from scattergen.reproduction.stage_cache import Measured

NAME = "latent_prior"
_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to
_NEARLY_NONE = 0.1  # standard deviation of q(h|z), beside the 1 of N(0, I)
POSTERIOR, MIXTURE = "posterior", "mixture"


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {
        **material.depends_on_model("codes", "decoder", "densities/vae"),
        **material.depends_on_distances(),
    }


@torch.no_grad()
def measure(material: Material, work: Path) -> Measured:
    """Score decoded means g(h) with h from elsewhere than N(0, I)."""
    vae = material.model.densities["vae"]
    assert isinstance(vae, VariationalAutoencoder)
    codes, seed = material.training_codes, material.seed
    mean, log_variance = vae.encoder_(codes).chunk(2, dim=1)
    generator = torch.Generator().manual_seed(seed)
    deviation = (log_variance / 2).exp()
    h = mean + deviation * torch.randn(mean.shape, generator=generator)
    n, H = material.n_images, h.shape[1]
    fitted = h[material.numbers(len(h), _FITTED, stream=9)]
    mixture = GaussianMixture(n_components=min(_COMPONENTS, max(1, len(fitted) // 20)))
    drawn = {
        POSTERIOR: h[material.numbers(len(h), n, stream=10)],
        MIXTURE: mixture.fit(fitted, seed=seed).sample(n, seed=seed),
    }
    distances = {}
    with material.progress.task("latent variables from elsewhere", len(drawn)) as task:
        for name, latent in drawn.items():
            distances[name] = material.distance_of_codes(vae.decoder_(latent))
            task.advance()
    norms = h.norm(dim=1)
    facts = {
        "distances": distances,
        "norms": [norms.mean().item(), norms.std().item()],
        "deviation": deviation.mean().item(),
        "components": mixture.n_components,
        "H": H,
        "n": n,
    }
    return Measured(facts)


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured, samples = results[NAME], results[SAMPLES].facts
    facts, how = measured.facts, material.measure.title
    vae, gaussian = (samples["rows"][key]["distance"] for key in ("vae", "gaussian"))
    rows = [
        [f"N(0, I), as in the paper; H = {facts['H']}", number(vae, 1)],
        ["draws of q(h|z) of training codes", number(facts["distances"][POSTERIOR], 1)],
        [
            f"a mixture of {facts['components']} Gaussians fitted to such draws",
            number(facts["distances"][MIXTURE], 1),
        ],
        ["– (reference: decoded training codes)", number(samples["references"][DECODED], 1)],
        ["– (reference: the density gaussian)", number(gaussian, 1)],
    ]
    caption = (
        f"{how[0].upper()}{how[1:]} to test images of what the paper’s VAE makes of latent "
        f"variables h from different sources, {sample_size(facts['n'])}. The second row is no "
        "generative model: it decodes what was encoded."
    )
    content = [
        table(["h from", how], rows, caption=caption),
        tag("p", _reading(facts, vae)),
    ]
    page.section(
        "What the VAE’s prior misses",
        _finding(facts, vae, gaussian),
        content,
        [measured],
        sample_size(facts["n"]),
    )


def _reading(facts: Mapping[str, Any], vae: float) -> str:
    mean, deviation = facts["norms"]
    expected, H = _expected_norm(facts["H"]), facts["H"]
    words = (
        f"Draws of q(h|z) are {number(mean, 1)} ± {number(deviation, 1)} long (mean and standard "
        f"deviation over training codes) where those of N(0, I) in {H} dimensions are "
        f"{number(expected, 1)} ± {number((H - expected**2) ** 0.5, 1)}. The mean standard "
        f"deviation of q(h|z) is {number(facts['deviation'], 2)}"
    )
    if facts["distances"][POSTERIOR] > vae:
        return (
            f"{words}. Decoding what was encoded is no better than decoding noise: this VAE does "
            "not reconstruct its codes, whatever its prior."
        )
    if facts["deviation"] > _NEARLY_NONE or facts["distances"][MIXTURE] > 0.5 * vae:
        return f"{words}."
    return (
        f"{words}: with so small a β the model is almost an autoencoder without noise, which "
        "nothing forces to fill the space between the codes of its training images. A density of h "
        "has to be fitted afterwards, as Ghosh et al. (“From variational to deterministic "
        "autoencoders”, 2020) do; the density vae-improved of this software does so."
    )


def _expected_norm(H: int) -> float:
    """Mean length of a standard normal vector."""
    half = torch.tensor(H / 2, dtype=torch.float64)
    ratio: Tensor = torch.lgamma(half + 0.5) - torch.lgamma(half)
    return float(2**0.5 * ratio.exp())


def _finding(facts: Mapping[str, Any], vae: float, gaussian: float) -> Finding:
    item = "Section 2.1, the VAE’s latent variables"
    posterior, mixture = (facts["distances"][key] for key in (POSTERIOR, MIXTURE))
    numbers = (
        f"With h from N(0, I) the paper’s VAE scores {number(vae, 1)}, with h from a mixture "
        f"fitted to its latent variables {number(mixture, 1)}, and with those variables themselves "
        f"{number(posterior, 1)} (white Gaussian codes {number(gaussian, 1)})"
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
    return Finding(item, "agrees", f"{numbers}: where h comes from matters little.")
