"""The central-limit argument: are codes nearer to normal when averaged over larger windows?

Angles and Mallat, and the paper after them, expect components to become normal as the scale J grows, since a
coefficient averages over a window of 2^J pixels a side, and distant pixels depend little on each other. Here components
of several scales are fitted to the same images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.diagnostics import count_rejections, effect_sizes
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.paper.findings import Finding, Measured, Section, Verdict
from scattergen.paper.material import Material
from scattergen.wording import number

NAME = "central_limit"
_COMPONENTS = 64  # that all scales have, so that like is compared with like
_LEVEL = 0.01


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    images = {"train": material.train.fingerprint, "test": material.test.fingerprint}
    effort = {"n": material.effort.n_scattered, "scales": list(material.effort.scales)}
    return {**images, **effort, "seed": material.seed}


def measure(material: Material, work: Path) -> Measured:
    """Fit leading components at every scale to some training images; test those of test images."""
    wanted, scales = material.effort.n_scattered, material.effort.scales
    n, n_test = min(wanted, len(material.train)), min(wanted, len(material.test))
    train = material.some(material.train, n, stream=6)
    test = material.some(material.test, n_test, stream=6)
    shape, d = material.train.shape, min(_COMPONENTS, n - 1)
    rows = []
    with material.progress.task("scales", len(scales)) as task:
        for J in scales:
            if min(shape[1:]) < 2**J:
                continue
            encoder = ScatteringEncoder(shape, J, n_components=d, device=material.device)
            if encoder.n_features >= d:
                codes = encoder.fit(train, material.progress).transform(test)
                coefficients = torch.cat([encoder.features(x) for x in test[:].split(256)])
                rejected = count_rejections(codes, [_LEVEL]).count("JB", _LEVEL)
                effects = {**_effects("", codes), **_effects("coefficient_", coefficients)}
                rows.append({"J": J, "rejected": rejected, **effects})
            task.advance()
    return Measured({"n": n, "n_test": n_test, "d": d, "rows": rows})


def _effects(prefix: str, table: Tensor) -> dict[str, float]:
    """Medians of those of all columns but constant ones, which have none."""
    skewness, kurtosis = (float(np.nanmedian(np.abs(effect))) for effect in effect_sizes(table))
    return {f"{prefix}skewness": skewness, f"{prefix}kurtosis": kurtosis}


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Whether averaging over larger windows makes codes more normal."""
    return Section(NAME, _finding(results[NAME].facts), [results[NAME]], {"level": _LEVEL})


def _finding(facts: Mapping[str, Any]) -> Finding:
    first, last = facts["rows"][0], facts["rows"][-1]
    of = {"coefficient_": "coefficients", "": "components"}
    falls = {
        name: all(last[f"{key}{size}"] < first[f"{key}{size}"] for size in ("skewness", "kurtosis"))
        for key, name in of.items()
    }
    changes = " and ".join(
        f"of {name} from {number(first[f'{key}kurtosis'], 2)} to {number(last[f'{key}kurtosis'], 2)}"
        for key, name in of.items()
    )
    because = (
        f"From windows of {2 ** first['J']} to {2 ** last['J']} pixels a side, the median |excess "
        f"kurtosis| {changes.replace(' from', ' goes from', 1)}. "
    )
    if all(falls.values()):
        verdict: Verdict = "agrees"
        because += "Averaging does bring both nearer to normal, as the theorem says"
    elif falls["coefficients"]:
        verdict = "agrees in part"
        because += (
            "Averaging brings the coefficients nearer to normal, as the theorem says, but not their whitened components"
        )
    else:
        verdict = "disagrees"
        because += "On whole digits, averaging over the windows that fit makes nothing normal"
    because += (
        f"; at the largest, {last['rejected']} of {facts['d']} components are rejected"
        f"{', as the paper argues against Angles and Mallat' if last['rejected'] else ''}."
    )
    return Finding("Section 1, the central-limit argument", verdict, because)
