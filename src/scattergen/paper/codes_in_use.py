"""Angles and Mallat's experiments: reconstruction, interpolation, resampling of components."""

import itertools
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.image_quality import psnr
from scattergen.paper.findings import Finding, Measured, Section, Verdict
from scattergen.paper.material import Material
from scattergen.wording import number

NAME = "codes_in_use"
_COLUMNS = 8  # pairs, steps of a line, and resampled images
_SMALL_GAP = 2.0  # dB
_QUALITY = 2000  # images whose mean PSNR is measured


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {**material.depends_on_model("encoder", "codes", "decoder"), **material.depends_on_distances()}


def measure(material: Material, work: Path) -> Measured:
    """Reconstruct, interpolate and resample, and measure the quality of each."""
    tensors: dict[str, Tensor] = {}
    quality = {}
    n = min(_QUALITY, material.n_images)
    for split, source in (("training", material.train), ("test", material.test)):
        images = material.some(source, n, stream=4)[:]
        decoded = material.model.reconstruct(images)
        quality[split] = psnr(images, decoded).clamp(max=100).mean().item()
        tensors[split] = torch.stack([images[:_COLUMNS], decoded[:_COLUMNS]])
    facts = {"n": n, "psnr": quality, **_interpolate(material, tensors), "resampled": _resample(material, tensors)}
    return Measured(facts, tensors)


def _interpolate(material: Material, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Lines between test images; the distances of midpoints of many pairs to test images.

    Those of "midpoints" are kernel distances, in thousandths, with their standard errors.
    """
    model = material.model
    half = material.n_images // 2
    source = material.some(material.test, 2 * half, stream=5)
    order = torch.randperm(2 * half, generator=torch.Generator().manual_seed(material.seed))
    ends = source[order[:half]], source[order[half:]]
    codes = model.encode(ends[0]), model.encode(ends[1])
    weights = torch.linspace(0, 1, _COLUMNS)
    lines, faded = [], []
    for k in range(min(4, half)):
        lines.append(model.decode(torch.lerp(codes[0][k], codes[1][k], weights[:, None])))
        faded.append(torch.lerp(ends[0][k], ends[1][k], weights[:, None, None, None]))
    tensors["in code space"], tensors["of pixels"] = torch.cat(lines), torch.cat(faded)
    middle, blend = (codes[0] + codes[1]) / 2, (ends[0] + ends[1]) / 2
    distances = {"in code space": material.distance_of_codes(middle)}
    estimates = {"in code space": material.kernel_distance(model.decode(middle), decoded=True)}
    if material.measure.to_decoded:
        # Or blends would be told from midpoints of codes by nothing but the decoder's softness.
        again = model.encode(blend)
        distances["of pixels"] = material.distance_of_codes(again)
        estimates["of pixels"] = material.kernel_distance(model.decode(again), decoded=True)
    else:
        distances["of pixels"] = material.distance(blend)
        estimates["of pixels"] = material.kernel_distance(blend)
    distances |= {"decoded ends": material.distance_of_codes(codes[0]), "ends": material.distance(ends[0])}
    kernel = {name: [1000 * value, 1000 * error] for name, (value, error) in estimates.items()}
    return {"distances": distances, "midpoints": kernel, "n_pairs": half}


def _resample(material: Material, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Parts of the codes replaced by noise: the first 1/32 of the components, those up to 1/4, and the rest."""
    model, images, d = material.model, material.test[:_COLUMNS], material.training_codes.shape[1]
    rows, parts = [images, model.reconstruct(images)], []
    codes = model.encode(material.some(material.test, min(_QUALITY, material.n_images), stream=4)[:])
    plain = model.decode(codes)
    for start, stop in itertools.pairwise(sorted({0, max(1, d // 32), max(2, d // 4), d})):
        rows.append(model.resample(images, start, stop, material.seed))
        noise = draw_in_chunks(len(codes), material.seed, partial(_normal, stop - start))
        changed = torch.cat([codes[:, :start], noise, codes[:, stop:]], dim=1)
        decibels = psnr(plain, model.decode(changed)).clamp(max=100).mean().item()
        parts.append({"start": start, "stop": stop, "psnr": decibels})
    tensors["resampled"] = torch.cat(rows)
    return parts


def _normal(width: int, noise: Noise, size: int) -> Tensor:
    return noise.normal(size, width)


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Angles and Mallat's experiments."""
    return Section(NAME, _finding(results[NAME].facts), [results[NAME]], {"columns": _COLUMNS})


def _finding(facts: Mapping[str, Any]) -> Finding:
    gap = facts["psnr"]["training"] - facts["psnr"]["test"]
    (inside, error), (outside, other) = (facts["midpoints"][key] for key in ("in code space", "of pixels"))
    because = (
        f"Test images are reconstructed {number(gap, 1)} dB worse than training images"
        f"{', so the decoder generalises' if gap < _SMALL_GAP else ''}. Midpoints in code space are at a kernel "
        f"distance of {number(inside)} ± {number(error)} thousandths and midpoints of pixels at "
        f"{number(outside)} ± {number(other)}: "
    )
    verdict: Verdict = "agrees in part"
    nearer = outside - inside
    if nearer <= 2 * math.hypot(error, other):
        because += "by this distance codes are no better a space to interpolate in."
    elif nearer > 0.5 * outside:
        verdict = "agrees"
        because += "codes are the better space to interpolate in, as Angles and Mallat show."
    else:
        because += (
            "codes are a better space to interpolate in, as Angles and Mallat show, but midpoints of two images are "
            "mostly no such images there either."
        )
    return Finding("Angles and Mallat, 2018", verdict, because)
