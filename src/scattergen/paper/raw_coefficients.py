"""Oyallon et al.'s route, a GAN of raw coefficients and their inversion, beside the same GAN of whitened components."""

import math
import time
import timeit
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Subset
from scattergen.densities.gan import IMPROVED_GAN, GenerativeAdversarialNetwork
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.paper.findings import Facts, Finding, Measured, Results, Section, Stage, Verdict, judge
from scattergen.paper.material import Material, mean_psnr
from scattergen.scattering.inversion import Reconstruction, reconstruct

NAME = "raw_coefficients"
_RECIPE: dict[str, Any] = {
    **{key: value for key, value in IMPROVED_GAN.items() if key != "leading"},
    # Narrower than for codes alone, since 3,969 coefficients make every step eight times as dear.
    "widths": [256, 256], "discriminator_widths": [256, 128], "batch_size": 64,
}  # fmt: skip
_SHOWN = 16
_DECODED = 2000  # samples of every route whose decoded images are scored
_EXPENSIVE = 10  # times as slow
_TIMED = 5  # repetitions of the decoding, of which the fastest counts
_NEGATIVE = -1e-3  # rounding of the filters leaves −2e-4 in coefficients of images


def measure(material: Material, work: Path) -> Measured:
    """Train both networks, turn their samples into images by both routes, and score them."""
    model, encoder, effort, seed = material.model, material.model.encoder, material.effort, material.seed
    chosen = material.numbers(len(material.train), effort.n_raw, stream=8)
    s = _features(encoder, Subset(material.train, chosen))
    shift, scale = s.mean(0), s.std(0)
    scale = scale.clamp_min(1e-6 * scale.max().item())  # of a coefficient that does not vary
    raw = _fit(material, (s - shift) / scale)
    latent = _fit(material, material.training_codes[chosen])
    n = min(_DECODED, material.n_images)
    samples = raw.sample(n, seed=seed) * scale + shift
    codes = {
        "decoded": encoder.whitening.transform(samples),
        "latent": latent.sample(n, seed=seed),
        "run": model.sample_codes(n, "gan", seed),
    }
    few = min(effort.n_inverted, n)
    start = time.monotonic()
    # Further starts end as far from coefficients that no image has, and take four times as long.
    found = _invert(samples[:few], material, n_starts=1)
    inversion = (time.monotonic() - start) / few
    images = {"inverted": found.images, **{k: model.decode(z[:few]) for k, z in codes.items()}}
    first = codes["latent"][:_SHOWN]
    decoding = min(timeit.repeat(lambda: model.decode(first), number=1, repeat=_TIMED)) / len(first)
    tests = material.test[:_SHOWN]
    decoded, again = model.reconstruct(tests), _invert(_features(encoder, tests), material, n_starts=4)
    facts = {
        "n_train": len(chosen),
        "n": n,
        "n_few": few,
        "n_real": material.n_images,
        "dimensions": {"raw": encoder.n_features, "latent": encoder.whitening.n_components},
        "training": {key: {"seconds": gan.history_[-1]["seconds"]} for key, gan in (("raw", raw), ("latent", latent))},
        "description": {"raw": raw.description, "run": model.densities["gan"].description},
        "run_seconds": float(material.run.stages.get("densities/gan", {}).get("seconds", 0.0)),
        "distance": {key: material.distance_of_codes(z) for key, z in codes.items()},
        "kernel": {key: material.kernel_distance(x) for key, x in images.items()},
        "seconds": {"inversion": inversion, "decoder": decoding},
        "residual": _spread(found.error),
        "negative": (samples < _NEGATIVE).float().mean().item(),
        "control": {
            "n": len(tests),
            "residual": _spread(again.error),
            "inverted": mean_psnr(tests, again.images),
            "decoded": mean_psnr(tests, decoded),
        },
    }
    shown = {key: x[:_SHOWN] for key, x in images.items()}
    return Measured(facts, {**shown, "control": torch.cat([tests, again.images, decoded])})


STAGES = {NAME: Stage(
    __name__, measure, parts=("encoder", "codes", "decoder", "densities/gan"), images=("train", "test"),
    effort=("n_raw", "raw_epochs", "n_inverted"), distances=True, others=lambda _: {"recipe": _RECIPE},
)}  # fmt: skip


def _features(encoder: ScatteringEncoder, images: Any) -> Tensor:
    """Scattering coefficients of a source or of images, (n, D)."""
    size = encoder.batch_size
    return torch.cat([encoder.features(images[i : i + size]) for i in range(0, len(images), size)])


def _fit(material: Material, x: Tensor) -> GenerativeAdversarialNetwork:
    network = GenerativeAdversarialNetwork(epochs=material.effort.raw_epochs, **_RECIPE)
    return network.fit(x, seed=material.seed, progress=material.progress, device=material.device)


def _invert(s: Tensor, material: Material, n_starts: int) -> Reconstruction:
    """Images (n, C, H, W) of flattened coefficients (n, D), and their relative errors."""
    channels, scattering = material.model.encoder.image_shape[0], material.model.encoder.scattering
    wanted = s.reshape(len(s), channels, *scattering.output_shape)
    options: dict[str, Any] = {"seed": material.seed, "device": material.device, "progress": material.progress}
    return reconstruct(wanted, scattering, n_starts=n_starts, **options)


def _spread(error: Tensor) -> list[float]:
    """Smallest, median and largest."""
    return [error.min().item(), error.median().item(), error.max().item()]


def show(results: Results, material: Material) -> Section:
    """What a GAN of raw coefficients costs and gives, beside one of codes."""
    return Section(NAME, _finding(results[NAME].facts), [results[NAME]], {"at_once": _SHOWN})


def _finding(facts: Facts) -> Finding:
    slower = facts["seconds"]["inversion"] / facts["seconds"]["decoder"]
    (raw, raw_error), (latent, latent_error) = facts["kernel"]["inverted"], facts["kernel"]["latent"]
    error = math.hypot(raw_error, latent_error)
    verdict: Verdict = "agrees" if raw - latent > 2 * error else "agrees in part"
    if slower < _EXPENSIVE:
        verdict = "disagrees"
    words = {"facts": facts, "error": error, "better": latent - raw > 2 * error, "expensive": _EXPENSIVE}
    return judge("Section 2.3, Oyallon et al., 2018", verdict, NAME, **words)
