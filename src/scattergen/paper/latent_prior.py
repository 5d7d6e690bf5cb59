"""Are the latent variables of the paper's VAE what its samples take them for?

Its decoder maps latent variables h to codes. Samples take h from N(0, I); training took h from the draws q(h|z) of all
codes z, and nothing but β makes the one resemble the other.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattergen.paper.decoder_settings import by_setting, with_other
from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import distances_by_setting
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.latent_variables import MIXTURE, POSTERIOR, latent_variables
from scattergen.paper.material import Material
from scattergen.wording import number

NAME = "latent_prior"
_MOST = 0.75  # of what a better source of h gains


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {**material.depends_on_model("codes", "decoder", "densities/vae"), **material.depends_on_distances()}


def measure(material: Material, work: Path) -> Measured:
    """Score decoded means g(h) with h from elsewhere than N(0, I)."""
    decoded, facts = latent_variables(material)
    distances = {}
    with material.progress.task("latent variables from elsewhere", len(decoded)) as task:
        for name, codes in decoded.items():
            distances[name] = material.distance_of_codes(codes)
            task.advance()
    return Measured({"distances": distances, **facts, "n": material.n_images})


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """What the VAE's decoder makes of latent variables from each source."""
    measured = results[NAME]
    elsewhere = by_setting(results, material, measured.facts["distances"], "latent")
    prior = distances_by_setting(results, material)
    shown = {
        "elsewhere": elsewhere,
        "prior": prior,
        "expected": _expected_norm(measured.facts["H"]),
        "beta": results[SAMPLES].facts["rows"]["vae"]["hyperparameters"]["beta"],
    }
    setting, scores = next(iter(elsewhere.items()))
    finding = _finding(setting, scores, prior[setting]["vae"], prior[setting]["gaussian"])
    return Section(NAME, finding, with_other(measured, results), shown)


def _expected_norm(H: int) -> float:
    """Mean length of a standard normal vector."""
    return 2**0.5 * math.exp(math.lgamma(H / 2 + 0.5) - math.lgamma(H / 2))


def _finding(setting: str, distances: Mapping[str, float], vae: float, gaussian: float) -> Finding:
    item = "Section 2.1, the VAE’s latent variables"
    posterior, mixture = distances[POSTERIOR], distances[MIXTURE]
    numbers = (
        f"With {setting} and h from N(0, I) the paper’s VAE scores {number(vae, 1)}, with h from a mixture fitted to "
        f"its latent variables {number(mixture, 1)}, and with those variables themselves {number(posterior, 1)} "
        f"(white Gaussian codes {number(gaussian, 1)})"
    )
    if mixture > 2 * vae:
        because = (
            f"{numbers}: its own latent variables score worse by this distance, so where h comes from is not what "
            "these samples lack."
        )
        return Finding(item, "cannot be compared", because)
    best = min(posterior, mixture)
    kept = (gaussian - vae) / (gaussian - best) if best < gaussian else 0.0
    if kept <= 0:
        because = (
            f"{numbers}: its decoder may have learnt the dependencies, but its latent variables are not “close to "
            "independent Gaussians”."
        )
        return Finding(item, "disagrees", because)
    close = kept >= _MOST
    because = (
        f"{numbers}: N(0, I) keeps {number(100 * kept)} % of what the best source of h gains over white Gaussian "
        f"codes, so its latent variables are {'close to independent Gaussians' if close else 'not close to these'}."
    )
    return Finding(item, "agrees" if close else "agrees in part", because)
