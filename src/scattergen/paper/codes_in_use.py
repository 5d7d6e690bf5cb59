"""Angles and Mallat's experiments: reconstruction, interpolation, resampling of components."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.paper.findings import Facts, Finding, Measured, Results, Section, Stage, Verdict, judge
from scattergen.paper.material import Material, mean_psnr

NAME = "codes_in_use"
_COLUMNS = 8  # pairs, steps of a line, and resampled images
_QUALITY = 2000  # images whose mean PSNR is measured


def measure(material: Material, work: Path) -> Measured:
    """Reconstruct, interpolate and resample, and measure the quality of each."""
    tensors: dict[str, Tensor] = {}
    quality = {}
    n = min(_QUALITY, material.n_images)
    for split, source in (("training", material.train), ("test", material.test)):
        images = material.some(source, n, stream=4)[:]
        decoded = material.model.reconstruct(images)
        quality[split] = mean_psnr(images, decoded)
        tensors[split] = torch.stack([images[:_COLUMNS], decoded[:_COLUMNS]])
    facts = {"n": n, "psnr": quality, **_interpolate(material, tensors), "resampled": _resample(material, tensors, n)}
    return Measured(facts, tensors)


STAGES = {NAME: Stage(__name__, measure, parts=("encoder", "codes", "decoder"), distances=True)}


def _interpolate(material: Material, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Lines between test images; distances and kernel distances, in thousandths, of midpoints to test images."""
    model, half = material.model, material.n_images // 2
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
    model, images, d = material.model, material.test[:_COLUMNS], material.training_codes.shape[1]
    rows, parts = [images, model.reconstruct(images)], []
    codes = model.encode(material.some(material.test, n, stream=4)[:])
    plain = model.decode(codes)
    for start, stop in itertools.pairwise(sorted({0, max(1, d // 32), max(2, d // 4), d})):
        rows.append(model.resample(images, start, stop, material.seed))
        noise = draw_in_chunks(n, material.seed, partial(Noise.normal, n_features=stop - start))
        changed = torch.cat([codes[:, :start], noise, codes[:, stop:]], dim=1)
        parts.append({"start": start, "stop": stop, "psnr": mean_psnr(plain, model.decode(changed))})
    tensors["resampled"] = torch.cat(rows)
    return parts


def show(results: Results, material: Material) -> Section:
    """Angles and Mallat's experiments."""
    return Section(NAME, _finding(results[NAME].facts), [results[NAME]], {"columns": _COLUMNS})


def _finding(facts: Facts) -> Finding:
    gap = facts["psnr"]["training"] - facts["psnr"]["test"]
    inside, outside = (facts["midpoints"][key] for key in ("in code space", "of pixels"))
    nearer = outside[0] - inside[0]
    better = nearer > 2 * math.hypot(inside[1], outside[1])
    verdict: Verdict = "agrees" if better and nearer > 0.5 * outside[0] else "agrees in part"
    return judge("Angles and Mallat, 2018", verdict, NAME, gap=gap, inside=inside, outside=outside, better=better)
