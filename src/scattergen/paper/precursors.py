"""Experiments of the paper's precursors: uses of codes, and a GAN of raw coefficients beside one of codes."""

import itertools
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

CODES, RAW = "codes_in_use", "raw_coefficients"
_COLUMNS = 8  # pairs, steps of a line, and resampled images
_MOST = 2000  # images whose mean PSNR is measured, and samples of every route whose decoded images are scored
_RECIPE: dict[str, Any] = {
    **{key: value for key, value in IMPROVED_GAN.items() if key != "leading"},
    # Narrower than for codes alone, since 3,969 coefficients make every step eight times as dear.
    "widths": [256, 256], "discriminator_widths": [256, 128], "batch_size": 64,
}  # fmt: skip
_SHOWN = 16
_EXPENSIVE = 10  # times as slow
_TIMED = 5  # repetitions of the decoding, of which the fastest counts
_NEGATIVE = -1e-3  # rounding of the filters leaves −2e-4 in coefficients of images


def measure_codes(material: Material, work: Path) -> Measured:
    """Reconstruct, interpolate and resample, and measure the quality of each."""
    tensors: dict[str, Tensor] = {}
    quality = {}
    n = min(_MOST, material.n_images)
    for split, source in (("training", material.train), ("test", material.test)):
        images = material.some(source, n, stream=4)[:]
        decoded = material.model.reconstruct(images)
        quality[split] = mean_psnr(images, decoded)
        tensors[split] = torch.stack([images[:_COLUMNS], decoded[:_COLUMNS]])
    facts = {"n": n, "psnr": quality, **_interpolate(material, tensors), "resampled": _resample(material, tensors, n)}
    return Measured(facts, tensors)


def _interpolate(material: Material, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Lines between test images; distances and kernel distances, in thousandths, of midpoints to test images."""
    model, half = material.model, material.n_images // 2
    source = material.some(material.test, 2 * half, stream=5)
    order = torch.randperm(2 * half, generator=torch.Generator().manual_seed(material.seed))
    ends = source[order[:half]], source[order[half:]]
    codes = model.encode(ends[0]), model.encode(ends[1])
    weights = torch.linspace(0, 1, _COLUMNS)
    shown = range(min(4, half))
    lines = [model.decode(torch.lerp(codes[0][k], codes[1][k], weights[:, None])) for k in shown]
    faded = [torch.lerp(ends[0][k], ends[1][k], weights[:, None, None, None]) for k in shown]
    tensors["in code space"], tensors["of pixels"] = torch.cat(lines), torch.cat(faded)
    decoded, blend = {"in code space": (codes[0] + codes[1]) / 2}, (ends[0] + ends[1]) / 2
    if material.measure.to_decoded:
        # Or blends would be told from midpoints of codes by nothing but the decoder's softness.
        decoded["of pixels"] = model.encode(blend)
    distances = {name: material.distance_of_codes(z) for name, z in decoded.items()}
    kernel = {name: material.kernel_distance(model.decode(z), decoded=True) for name, z in decoded.items()}
    if not material.measure.to_decoded:
        distances["of pixels"], kernel["of pixels"] = material.distance(blend), material.kernel_distance(blend)
    distances |= {"decoded ends": material.distance_of_codes(codes[0]), "ends": material.distance(ends[0])}
    thousandths = {name: [1000 * value, 1000 * error] for name, (value, error) in kernel.items()}
    return {"distances": distances, "midpoints": thousandths, "n_pairs": half}


def _resample(material: Material, tensors: dict[str, Tensor], n: int) -> list[dict[str, Any]]:
    """Parts of the codes replaced by noise: the first 1/32 of the components, those up to 1/4, and the rest."""
    model, images, d = material.model, material.some(material.test, n, stream=4)[:], material.training_codes.shape[1]
    plain = model.reconstruct(images)
    rows, parts = [images[:_COLUMNS], plain[:_COLUMNS]], []
    for start, stop in itertools.pairwise(sorted({0, max(1, d // 32), max(2, d // 4), d})):
        changed = model.resample(images, start, stop, material.seed)
        rows.append(changed[:_COLUMNS])
        parts.append({"start": start, "stop": stop, "psnr": mean_psnr(plain, changed)})
    tensors["resampled"] = torch.cat(rows)
    return parts


def show_codes(results: Results, material: Material) -> Section:
    """Angles and Mallat's experiments: reconstruction, interpolation, resampling of components."""
    return Section(CODES, _codes_finding(results[CODES].facts), [results[CODES]], {"columns": _COLUMNS})


def _codes_finding(facts: Facts) -> Finding:
    gap = facts["psnr"]["training"] - facts["psnr"]["test"]
    inside, outside = (facts["midpoints"][key] for key in ("in code space", "of pixels"))
    nearer = outside[0] - inside[0]
    better = nearer > 2 * math.hypot(inside[1], outside[1])
    verdict: Verdict = "agrees" if better and nearer > 0.5 * outside[0] else "agrees in part"
    return judge("Angles and Mallat, 2018", verdict, CODES, gap=gap, inside=inside, outside=outside, better=better)


def measure_raw(material: Material, work: Path) -> Measured:
    """Train both networks, turn their samples into images by both routes, and score them."""
    model, encoder, effort, seed = material.model, material.model.encoder, material.effort, material.seed
    chosen = material.numbers(len(material.train), effort.n_raw, stream=8)
    s = _features(encoder, Subset(material.train, chosen))
    shift, scale = s.mean(0), s.std(0)
    scale = scale.clamp_min(1e-6 * scale.max().item())  # of a coefficient that does not vary
    raw = _fit(material, (s - shift) / scale)
    latent = _fit(material, material.training_codes[chosen])
    n = min(_MOST, material.n_images)
    samples = raw.sample(n, seed=seed) * scale + shift
    codes = {"decoded": encoder.whitening.transform(samples), "latent": latent.sample(n, seed=seed)}
    codes["run"] = model.sample_codes(n, "gan", seed)
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
    training = {key: {"seconds": gan.history_[-1]["seconds"]} for key, gan in (("raw", raw), ("latent", latent))}
    control = {"inverted": mean_psnr(tests, again.images), "decoded": mean_psnr(tests, decoded)}
    facts = {
        "n_train": len(chosen), "n": n, "n_few": few, "n_real": material.n_images,
        "dimensions": {"raw": encoder.n_features, "latent": encoder.whitening.n_components},
        "training": training, "run_seconds": float(material.run.stages.get("densities/gan", {}).get("seconds", 0.0)),
        "description": {"raw": raw.description, "run": model.densities["gan"].description},
        "distance": {key: material.distance_of_codes(z) for key, z in codes.items()},
        "kernel": {key: material.kernel_distance(x) for key, x in images.items()},
        "seconds": {"inversion": inversion, "decoder": decoding},
        "residual": _spread(found.error), "negative": (samples < _NEGATIVE).float().mean().item(),
        "control": {"n": len(tests), "residual": _spread(again.error), **control},
    }  # fmt: skip
    shown = {key: x[:_SHOWN] for key, x in images.items()}
    return Measured(facts, {**shown, "control": torch.cat([tests, again.images, decoded])})


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


def show_raw(results: Results, material: Material) -> Section:
    """Oyallon et al.'s route: what a GAN of raw coefficients costs and gives, beside one of codes."""
    return Section(RAW, _raw_finding(results[RAW].facts), [results[RAW]], {"at_once": _SHOWN})


def _raw_finding(facts: Facts) -> Finding:
    slower = facts["seconds"]["inversion"] / facts["seconds"]["decoder"]
    (raw, raw_error), (latent, latent_error) = facts["kernel"]["inverted"], facts["kernel"]["latent"]
    error = math.hypot(raw_error, latent_error)
    verdict: Verdict = "agrees" if raw - latent > 2 * error else "agrees in part"
    if slower < _EXPENSIVE:
        verdict = "disagrees"
    words = {"facts": facts, "error": error, "better": latent - raw > 2 * error, "expensive": _EXPENSIVE}
    return judge("Section 2.3, Oyallon et al., 2018", verdict, RAW, **words)


STAGES = {
    CODES: Stage(measure_codes, ("encoder", "codes", "decoder")),
    RAW: Stage(measure_raw, ("encoder", "codes", "decoder", "densities/gan")),
}
