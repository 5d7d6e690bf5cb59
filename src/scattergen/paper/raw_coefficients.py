"""Oyallon et al.'s route: a GAN of raw scattering coefficients, and images by their inversion.

The same fully connected network is trained in both spaces, with the same images, steps and seed, so that what differs
is the space: all coefficients, standardised one by one, or whitened components.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Subset
from scattergen.densities.gan import IMPROVED_GAN, GenerativeAdversarialNetwork
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.image_quality import psnr
from scattergen.paper.findings import Finding, Measured, Section, Verdict
from scattergen.paper.material import Material
from scattergen.scattering.inversion import Reconstruction, reconstruct
from scattergen.wording import duration, number

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

_ROUTES = {
    "inverted": "GAN of raw coefficients, inverted",
    "decoded": "the same samples, whitened and decoded",
    "latent": "GAN of codes, same recipe, decoded",
    "run": "the run’s GAN of codes, decoded",
}


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    effort = material.effort
    return {
        **material.depends_on_model("encoder", "codes", "decoder", "densities/gan"),
        **material.depends_on_distances(),
        "train": material.train.fingerprint,
        "recipe": _RECIPE,
        "budget": [effort.n_raw, effort.raw_epochs, effort.n_inverted],
    }


def measure(material: Material, work: Path) -> Measured:
    """Train both networks, turn their samples into images by both routes, and score them."""
    model, effort, seed = material.model, material.effort, material.seed
    encoder = model.encoder
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
        "seconds": {"inversion": inversion, "decoder": _decoding_seconds(material, codes["latent"])},
        "residual": _spread(found.error),
        "negative": (samples < _NEGATIVE).float().mean().item(),
        "control": {
            "n": len(tests),
            "residual": _spread(again.error),
            "inverted": psnr(tests, again.images).clamp(max=100).mean().item(),
            "decoded": psnr(tests, decoded).clamp(max=100).mean().item(),
        },
    }
    shown = {key: x[:_SHOWN] for key, x in images.items()}
    shown["control"] = torch.cat([tests, again.images, decoded])
    return Measured(facts, shown)


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


def _decoding_seconds(material: Material, codes: Tensor) -> float:
    """Seconds per image of decoding as many codes as are shown, at once."""
    codes, fastest = codes[:_SHOWN], math.inf
    for _ in range(_TIMED):
        start = time.monotonic()
        material.model.decode(codes)
        fastest = min(fastest, time.monotonic() - start)
    return fastest / len(codes)


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """What a GAN of raw coefficients costs and gives, beside one of codes."""
    facts = results[NAME].facts
    training, raw, latent = facts["training"], facts["dimensions"]["raw"], facts["dimensions"]["latent"]
    trained = {
        "inverted": (raw, training["raw"]["seconds"]),
        "latent": (latent, training["latent"]["seconds"]),
        "run": (latent, facts["run_seconds"]),
    }
    routes = []
    for key, name in _ROUTES.items():
        dimensions, seconds = trained.get(key, (raw, None))
        per_image = facts["seconds"]["inversion" if key == "inverted" else "decoder"]
        scores = {"distance": facts["distance"].get(key), "kernel": facts["kernel"][key]}
        costs = {"dimensions": dimensions, "training": seconds, "per_image": per_image}
        routes.append({"key": key, "name": name, **costs, **scores})
    shown = {"routes": routes, "at_once": _SHOWN, "milliseconds": _milliseconds}
    return Section(NAME, _finding(facts), [results[NAME]], shown)


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds, 1 if seconds < 0.01 else 0)} ms"


def _finding(facts: Mapping[str, Any]) -> Finding:
    seconds, kernel = facts["seconds"], facts["kernel"]
    slower = seconds["inversion"] / seconds["decoder"]
    (raw, raw_error), (latent, latent_error) = kernel["inverted"], kernel["latent"]
    error = math.hypot(raw_error, latent_error)
    training = {key: duration(network["seconds"]) for key, network in facts["training"].items()}
    because = (
        "The paper sets its few components and its decoder against a GAN of all coefficients and “expensive numerical "
        f"reconstructions”. Here an image takes {_milliseconds(seconds['inversion'])} by inversion and "
        f"{_milliseconds(seconds['decoder'])} by the decoder, 1/{number(slower)} of that, and the network of all "
        f"coefficients takes {training['raw']} for the steps that the one of codes does in {training['latent']}. "
    )
    scores = f"kernel distance {number(raw, 2)} against {number(latent, 2)}"
    if slower < _EXPENSIVE:
        verdict: Verdict = "disagrees"
        because += f"That is less than {_EXPENSIVE} times; {scores} with the decoder’s route."
    elif raw - latent > 2 * error:
        verdict = "agrees"
        because += f"Its images are worse, too: {scores}."
    else:
        verdict = "agrees in part"
        better = latent - raw > 2 * error
        because += (
            f"But its images are {'better' if better else 'not worse'} after as many steps of the "
            f"same recipe: {scores}, standard error of the difference {number(error, 2)}."
        )
    decoded = facts["distance"]
    because += (
        " Whitened and decoded instead, samples of raw coefficients have a Fréchet distance of "
        f"{number(decoded['decoded'], 1)}, samples of codes {number(decoded['latent'], 1)}."
    )
    return Finding("Section 2.3, Oyallon et al., 2018", verdict, because)
