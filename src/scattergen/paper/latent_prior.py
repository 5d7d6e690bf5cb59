"""Are the latent variables of the paper's VAE what its samples take them for?

Its decoder maps latent variables h to codes. Samples take h from N(0, I); training took h from the
draws q(h|z) of all codes z, and nothing but β makes the one resemble the other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scattergen.densities import VariationalAutoencoder
from scattergen.paper.decoder_settings import DECODED, by_setting, with_other
from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import distances_by_setting
from scattergen.paper.latent_variables import MIXTURE, POSTERIOR, latent_variables
from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage
from scattergen.paper.stage_cache import Measured
from scattergen.report.draft import number, sample_size
from scattergen.report.html import table, tag

NAME = "latent_prior"
_MOST = 0.75  # of what a better source of h gains


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {
        **material.depends_on_model("codes", "decoder", "densities/vae"),
        **material.depends_on_distances(),
    }


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
        with_other(measured, results),
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
        "divergence summed over the latent variables, beside an error averaged over the "
        "components; the paper does not say what it multiplies."
    )


def _expected_norm(H: int) -> float:
    """Mean length of a standard normal vector."""
    half = torch.tensor(H / 2, dtype=torch.float64)
    return 2**0.5 * (torch.lgamma(half + 0.5) - torch.lgamma(half)).exp().item()


def _finding(setting: str, distances: Mapping[str, float], vae: float, gaussian: float) -> Finding:
    item = "Section 2.1, the VAE’s latent variables"
    posterior_score, mixture = distances[POSTERIOR], distances[MIXTURE]
    numbers = (
        f"With {setting} and h from N(0, I) the paper’s VAE scores {number(vae, 1)}, with h from a "
        f"mixture fitted to its latent variables {number(mixture, 1)}, and with those variables "
        f"themselves {number(posterior_score, 1)} (white Gaussian codes {number(gaussian, 1)})"
    )
    if mixture > 2 * vae:
        because = (
            f"{numbers}: its own latent variables score worse by this distance, so where h comes "
            "from is not what these samples lack."
        )
        return Finding(item, "cannot be compared", because)
    best = min(posterior_score, mixture)
    kept = (gaussian - vae) / (gaussian - best) if best < gaussian else 0.0
    if kept <= 0:
        because = (
            f"{numbers}: its decoder may have learnt the dependencies, but its latent variables "
            "are not “close to independent Gaussians”."
        )
        return Finding(item, "disagrees", because)
    because = (
        f"{numbers}: N(0, I) keeps {number(100 * kept)} % of what the best source of h gains over "
        "white Gaussian codes, so its latent variables are "
        + ("close to independent Gaussians." if kept >= _MOST else "not close to these.")
    )
    return Finding(item, "agrees" if kept >= _MOST else "agrees in part", because)
