"""Angles and Mallat's experiments: reconstruction, interpolation, resampling of components."""

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.image_quality import psnr
from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage, panels, titled
from scattergen.paper.stage_cache import Measured
from scattergen.report.draft import number, sample_size
from scattergen.report.html import table, tag

NAME = "codes_in_use"
_PAIRS, _STEPS, _RESAMPLED = 8, 8, 8
_SMALL_GAP = 2.0  # dB
_QUALITY = 2000  # images whose mean PSNR is measured


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes", "decoder")
    return {**parts, **material.depends_on_distances()}


def measure(material: Material, work: Path) -> Measured:
    """Reconstruct, interpolate and resample, and measure the quality of each."""
    tensors: dict[str, Tensor] = {}
    quality = {}
    n = min(_QUALITY, material.n_images)
    for split, source in (("training", material.train), ("test", material.test)):
        images = material.some(source, n, stream=4)[:]
        decoded = material.model.reconstruct(images)
        quality[split] = psnr(images, decoded).clamp(max=100).mean().item()
        tensors[split] = torch.stack([images[:_PAIRS], decoded[:_PAIRS]])
    distances, midpoints = _interpolate(material, tensors)
    resampled = _resample(material, tensors)
    facts = {
        "n": n,
        "psnr": quality,
        "distances": distances,
        "midpoints": midpoints,
        "n_pairs": material.n_images // 2,
        "resampled": resampled,
    }
    return Measured(facts, tensors)


def _interpolate(
    material: Material, tensors: dict[str, Tensor]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Lines between test images; the distance of midpoints of many pairs to test images.

    The second dictionary has kernel distances, in thousandths, with their standard errors.
    """
    model, test = material.model, material.test
    half = material.n_images // 2
    source = material.some(test, 2 * half, stream=5)
    order = torch.randperm(2 * half, generator=torch.Generator().manual_seed(material.seed))
    ends = source[order[:half]], source[order[half:]]
    codes = model.encode(ends[0]), model.encode(ends[1])
    weights = torch.linspace(0, 1, _STEPS)
    lines, faded = [], []
    for k in range(min(4, half)):
        lines.append(model.decode(torch.lerp(codes[0][k], codes[1][k], weights[:, None])))
        faded.append(torch.lerp(ends[0][k], ends[1][k], weights[:, None, None, None]))
    tensors["in code space"], tensors["of pixels"] = torch.cat(lines), torch.cat(faded)
    middle = (codes[0] + codes[1]) / 2
    blend = (ends[0] + ends[1]) / 2
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
    distances |= {
        "decoded ends": material.distance_of_codes(codes[0]),
        "ends": material.distance(ends[0]),
    }
    kernel = {
        name: [1000 * found.value, 1000 * found.standard_error] for name, found in estimates.items()
    }
    return distances, kernel


def _resample(material: Material, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Parts of the codes replaced by noise."""
    images = material.test[:_RESAMPLED]
    d = material.training_codes.shape[1]
    rows = [images, material.model.reconstruct(images)]
    kept = material.some(material.test, min(_QUALITY, material.n_images), stream=4)[:]
    codes = material.model.encode(kept)
    plain, parts = material.model.decode(codes), []
    for start, stop in _ranges(d):
        rows.append(material.model.resample(images, start, stop, material.seed))
        noise = draw_in_chunks(len(codes), material.seed, _normal(stop - start))
        changed = torch.cat([codes[:, :start], noise, codes[:, stop:]], dim=1)
        decibels = psnr(plain, material.model.decode(changed)).clamp(max=100).mean().item()
        parts.append({"start": start, "stop": stop, "psnr": decibels})
    tensors["resampled"] = torch.cat(rows)
    return parts


def _normal(width: int) -> Callable[[Noise, int], Tensor]:
    """Draws rows of white noise."""
    return lambda noise, size: noise.normal(size, width)


def _ranges(d: int) -> list[tuple[int, int]]:
    """Leading, middle and trailing components: the first 1/32, up to 1/4, and the rest."""
    cuts = sorted({0, max(1, d // 32), max(2, d // 4), d})
    return list(itertools.pairwise(cuts))


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured = results[NAME]
    facts, tensors = measured.facts, measured.tensors
    pairs = [
        titled(
            f"{split.capitalize()} images",
            page.grid(tensors[split].flatten(0, 1), _PAIRS, f"{split} images above decoded ones"),
            tag("p", f"Mean PSNR {number(facts['psnr'][split], 2)} dB"),
        )
        for split in ("training", "test")
    ]
    lines = [
        titled(
            f"Straight lines {where}",
            page.grid(tensors[where], _STEPS, f"four rows of interpolations {where}"),
        )
        for where in ("in code space", "of pixels")
    ]
    names = [f"{part['start'] + 1} to {part['stop']}" for part in facts["resampled"]]
    resampled = page.grid(
        tensors["resampled"], _RESAMPLED, "test images, reconstructions, and resampled components"
    )
    distances = facts["distances"]
    kernel = {
        name: f"{number(value)} ± {number(error)}"
        for name, (value, error) in facts["midpoints"].items()
    }
    content = [
        page.page.figure(
            panels(*pairs),
            f"Above: originals. Below: decoded codes. {sample_size(facts['n'])} each.",
        ),
        page.page.figure(
            panels(*lines),
            "Test images morphed into others: decoded points of the line between two codes, and "
            "the line between the images themselves, which fades one into the other.",
        ),
        table(
            ["", material.measure.title, "kernel distance × 1,000"],
            [
                [
                    "midpoints in code space, decoded",
                    number(distances["in code space"], 1),
                    kernel["in code space"],
                ],
                [
                    _blends(material),
                    number(distances["of pixels"], 1),
                    kernel["of pixels"],
                ],
                ["ends, decoded", number(distances["decoded ends"], 1), "–"],
                ["ends", number(distances["ends"], 1), "–"],
            ],
            caption=f"Midpoints of {facts['n_pairs']:,} random pairs of test images, compared with "
            f"{_compared_with(material)}. The ends are "
            "among the test images that they are compared with, so their distances are optimistic.",
        ),
        page.page.figure(
            resampled,
            f"Rows: test images; reconstructions; components {', '.join(names)} replaced by noise.",
        ),
        table(
            ["components resampled", "PSNR to the reconstruction, dB"],
            [
                [name, number(part["psnr"], 1)]
                for name, part in zip(names, facts["resampled"], strict=True)
            ],
            caption=f"How much of an image depends on which components, over "
            f"{sample_size(facts['n'])} test images: a low PSNR means another image.",
        ),
    ]
    page.section(
        "Reconstruction, morphing, resampling", _finding(facts), content, [measured],
        f"{sample_size(facts['n'])} images per split",
    )  # fmt: skip


def _blends(material: Material) -> str:
    return f"midpoints of pixels{', encoded and decoded' if material.measure.to_decoded else ''}"


def _compared_with(material: Material) -> str:
    if material.measure.to_decoded:
        return "test images, if they are decoded with decoded ones"
    return "test images"


def _finding(facts: Mapping[str, Any]) -> Finding:
    gap = facts["psnr"]["training"] - facts["psnr"]["test"]
    (inside, error), (outside, other) = (
        facts["midpoints"][key] for key in ("in code space", "of pixels")
    )
    because = (
        f"Test images are reconstructed {number(gap, 1)} dB worse than training images"
        f"{', so the decoder generalises' if gap < _SMALL_GAP else ''}. Midpoints in code space "
        "are at a kernel distance of "
        f"{number(inside)} ± {number(error)} thousandths and midpoints of pixels at "
        f"{number(outside)} ± {number(other)}: "
    )
    nearer = outside - inside
    if nearer > 2 * math.hypot(error, other):
        if nearer > 0.5 * outside:
            because += "codes are the better space to interpolate in, as Angles and Mallat show."
            return Finding("Angles and Mallat, 2018", "agrees", because)
        because += (
            "codes are a better space to interpolate in, as Angles and Mallat show, but midpoints "
            "of two images are mostly no such images there either."
        )
    else:
        because += "by this distance codes are no better a space to interpolate in."
    return Finding("Angles and Mallat, 2018", "agrees in part", because)
