"""Figures 2 and 3, Tables 2 and 3: samples of the densities, their training, and whether the VAE's prior is right."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from scattergen.densities import GaussianMixture, VariationalAutoencoder
from scattergen.densities.networks import posterior
from scattergen.paper.findings import Finding, Measured, Results, Section, Stage, by_setting, graded, judge, with_other
from scattergen.paper.material import PAPER_DENSITIES, SHOWN, Material
from scattergen.report import paper

SAMPLES, PRIOR = "density_samples", "latent_prior"
REAL, DECODED = "training images", "decoded training codes"
RECONSTRUCTED = "reconstructed test images, against test images"
_MOST = 0.75  # of what a better source of h gains
_COMPONENTS = 100
_FITTED = 20_000  # draws of h that the mixture is fitted to
_PARTS = ("encoder", "codes", "decoder", "densities")


def _training(material: Material) -> dict[str, Any]:
    """What the run knows about the training of its parts."""
    known = {name: dict(material.run.stages.get(name, {})) for name in material.parts(*_PARTS)}
    for stage in known.values():
        if "history" in stage:
            stage["epochs"] = len(stage.pop("history"))
    return known


def measure_samples(material: Material, work: Path) -> Measured:
    """Draw from every density; score the samples, training images and decoded training codes."""
    model, n = material.model, material.n_images
    rows: dict[str, dict[str, Any]] = {}
    pictures = {}
    with material.progress.task("densities", len(material.densities) + 2) as task:
        # Not the images whose codes are decoded: a perfect model would not know them either.
        distances = {REAL: material.distance(material.some(material.train, n, stream=2))}
        task.advance()
        others = material.numbers(len(material.train), n, stream=3)
        distances[DECODED] = material.distance_of_codes(material.training_codes[others])
        if material.measure.to_decoded:
            distances[RECONSTRUCTED] = material.distance_of_reconstructions()
        task.advance()
        for key in material.densities:
            codes = model.sample_codes(n, key, material.seed)
            distance, description = material.distance_of_codes(codes), model.densities[key].description
            rows[key] = {"distance": distance, "description": description, **material.run.metadata(f"densities/{key}")}
            pictures[key] = model.decode(codes[:SHOWN])
            task.advance()
    return Measured({"n": n, "references": distances, "rows": rows, "stages": _training(material)}, pictures)


def seconds_of(facts: Mapping[str, Any], stage: str) -> float:
    """Time that a stage of the run's fit took, as facts of this stage have it; 0 if the run does not say."""
    return float(facts["stages"][stage].get("seconds", 0.0))


def distances_by_setting(results: Results, material: Material) -> dict[str, Mapping[str, float]]:
    """Distances of all densities and of decoded training codes, by setting of the decoder, the paper's first."""
    facts = results[SAMPLES].facts
    own = {key: row["distance"] for key, row in facts["rows"].items()}
    return by_setting(results, material, {**own, DECODED: facts["references"][DECODED]}, "distances")


def show_samples(results: Results, material: Material) -> Section:
    """The paper’s figure of samples, and their distances."""
    facts, distances = results[SAMPLES].facts, distances_by_setting(results, material)
    pictures = by_setting(results, material, results[SAMPLES].tensors, "pictures")
    shown = {"distances": distances, "pictures": pictures, "count": SHOWN}
    return Section(SAMPLES, _samples_finding(facts, distances, material.paper), with_other(SAMPLES, results), shown)


def _samples_finding(
    facts: Mapping[str, Any], distances: Mapping[str, Mapping[str, float]], theirs: paper.Results = paper.MNIST
) -> Finding:
    found = next(iter(distances.values()))
    better = [key for key in ("vae", "gan") if found[key] < found["gaussian"]]
    others = [key for key in facts["rows"] if key not in PAPER_DENSITIES]
    best = min(others, key=lambda key: found[key], default=None)
    verdict = graded("vae" in better, "gan" in better) if theirs is paper.MNIST else "cannot be compared"
    return judge(theirs.figure, verdict, SAMPLES, distances=distances, better=better, best=best)


def show_training(results: Results, material: Material) -> Section:
    """Tables 2 and 3: the training of the paper's two models."""
    measured, theirs = results[SAMPLES], material.paper.training
    ours = {key: measured.facts["stages"][f"densities/{key}"] for key in ("vae", "gan")}
    seconds = {key: seconds_of(measured.facts, f"densities/{key}") for key in ours}
    faster = all(seconds[key] < 60 * int(theirs[key][1].split()[0]) for key in ours)
    same = all(stage.get("epochs") == theirs[key][0] for key, stage in ours.items())
    words = {"seconds": seconds, "ours": ours, "theirs": theirs, "same": same}
    finding = judge("Tables 2 and 3", "agrees" if faster and same else "agrees in part", "latent_training", **words)
    return Section("latent_training", finding, [measured])


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
        "norms": [norms.mean().item(), norms.std().item()], "deviation": deviation.mean().item(),  # of q(h|z)
        "components": len(mixture.means_), "H": vae.n_latent,
    }  # fmt: skip
    return {name: vae.decoder_(one) for name, one in latent.items()}, facts


def measure_prior(material: Material, work: Path) -> Measured:
    """Score decoded means g(h) with h from elsewhere than N(0, I)."""
    decoded, facts = latent_variables(material)
    distances = {}
    with material.progress.task("latent variables from elsewhere", len(decoded)) as task:
        for name, codes in decoded.items():
            distances[name] = material.distance_of_codes(codes)
            task.advance()
    return Measured({"distances": distances, **facts, "n": material.n_images})


def show_prior(results: Results, material: Material) -> Section:
    """What the VAE's decoder makes of latent variables from each source."""
    facts = results[PRIOR].facts
    elsewhere = by_setting(results, material, facts["distances"], "latent")
    prior = distances_by_setting(results, material)
    beta = results[SAMPLES].facts["rows"]["vae"]["hyperparameters"]["beta"]
    shown = {"elsewhere": elsewhere, "prior": prior, "expected": float(stats.chi.mean(facts["H"])), "beta": beta}
    setting, scores = next(iter(elsewhere.items()))
    finding = _prior_finding(setting, scores, prior[setting]["vae"], prior[setting]["gaussian"])
    return Section(PRIOR, finding, with_other(PRIOR, results), shown)


def _prior_finding(setting: str, distances: Mapping[str, float], vae: float, gaussian: float) -> Finding:
    draws, mixture = distances["posterior"], distances["mixture"]
    best = min(draws, mixture)
    kept = (gaussian - vae) / (gaussian - best) if best < gaussian else 0.0
    verdict = "cannot be compared" if mixture > 2 * vae else graded(kept > 0, kept >= _MOST)
    words = {"setting": setting, "draws": draws, "mixture": mixture, "vae": vae, "gaussian": gaussian, "kept": kept}
    return judge("Section 2.1, the VAE’s latent variables", verdict, PRIOR, **words)


STAGES = {
    SAMPLES: Stage(measure_samples, _PARTS, others=lambda material: {"stages": _training(material)}),
    PRIOR: Stage(measure_prior, ("codes", "decoder", "densities/vae")),
}
