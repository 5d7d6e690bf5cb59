"""The stability of training: how much its result depends on learning rate and seed.

The paper separates what is trained by regression (the decoder) from what is trained adversarially. Here the decoder,
the GAN of codes and a GAN of pixels are each trained anew, briefly, at learning rates around their own and with several
seeds. Budgets are numbers of steps, so that the result is reproducible; they take about as long for all three.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, geometric_mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scattergen.datasets import Subset
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.densities.gan import GenerativeAdversarialNetwork
from scattergen.errors import InputError, ScattergenError
from scattergen.image_quality import psnr
from scattergen.paper.findings import Finding, Measured, Section, Verdict
from scattergen.paper.material import Material
from scattergen.paper.pixel_models import DCGAN
from scattergen.paper.plots import rate_curves, rate_factor
from scattergen.report.html import themed
from scattergen.wording import number, sample_size

NAME = "stability"


class _Method(NamedTuple):
    steps_per_second: int  # on the two cores that this was written on; elsewhere seconds differ, steps do not
    batch_size: int
    rate: float
    network: dict[str, Any]  # smaller than elsewhere: it takes seconds for the hundreds of steps that all need


_METHODS = {
    "decoder": _Method(120, 32, DecoderTraining().learning_rate, {"channels": (32, 16, 8)}),
    "latent GAN": _Method(
        250, 64, GenerativeAdversarialNetwork().learning_rate, {"widths": (128, 256), "discriminator_widths": (128, 64)}
    ),
    "pixel GAN": _Method(150, 32, 5e-4, {"channels": (16, 8)}),  # the rate of `pixel_baselines`
}
_SMALLEST_VARIANCE = 0.05  # of images, over that of test images: with less they are all alike
_HELD_OUT = 1  # image that the decoder's fit asks for, to validate
_SHOWN = 8
_PIECE = 512  # codes that are decoded at a time
_DIVERGED, _ALIKE = "diverged", "all alike"

Trial = dict[str, Any]
_Train = Callable[[Material, float, int], tuple[Tensor, float, int]]
"""Trains with a rate factor and seed; gives images, seconds and steps."""


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    trials = material.effort.trials
    return {
        **material.depends_on_model("encoder", "codes", "decoder"),
        **material.depends_on_distances(),
        "train": material.train.fingerprint,
        "trials": [trials.seconds, list(trials.factors), trials.seeds, trials.n_images],
        "rates": {name: method.rate for name, method in _METHODS.items()},
    }


def measure(material: Material, work: Path) -> Measured:
    """Train every method at every rate with every seed, and score what comes out."""
    trials = material.effort.trials
    rows: list[Trial] = []
    pictures: dict[str, Tensor] = {}
    with material.progress.task("trials", len(_TRAIN) * len(trials.factors) * trials.seeds) as task:
        for name, train in _TRAIN.items():
            shown = []
            for factor in trials.factors:
                for k in range(trials.seeds):
                    row, images = _trial(material, train, factor, material.seed + k)
                    rows.append({"method": name, "factor": factor, "seed": k, **row})
                    if k == 0:
                        shown.append(images[:_SHOWN])
                    task.advance()
            pictures[name] = torch.cat(shown)
    tests = _tests(material)
    blank = material.distance(torch.zeros_like(tests[:]))
    return Measured({"n": len(tests), "n_real": material.n_images, "rows": rows, "blank": blank}, pictures)


def _trial(material: Material, train: _Train, factor: float, seed: int) -> tuple[Trial, Tensor]:
    """One training, its score and its images; a failure is a result, too, and its images blank."""
    row: Trial = {"distance": None, "psnr": None, "seconds": None, "steps": None}
    tests = _tests(material)[:]
    try:
        images, row["seconds"], row["steps"] = train(material, factor, seed)
    except InputError:
        raise
    except ScattergenError:  # the training loop refuses losses and parameters that are not finite
        return {**row, "failure": _DIVERGED}, torch.zeros_like(tests)
    if not torch.isfinite(images).all():
        return {**row, "failure": _DIVERGED}, torch.zeros_like(tests)
    row["distance"] = material.distance(images)
    if train is _TRAIN["decoder"]:
        row["psnr"] = psnr(tests, images).clamp(max=100).mean().item()
    alike = images.var(0).mean() < _SMALLEST_VARIANCE * tests.var(0).mean()
    return {**row, "failure": _ALIKE if alike else None}, images


def _tests(material: Material) -> Subset:
    """Test images, the same for all trials."""
    n = min(material.effort.trials.n_images, material.n_images)
    return Subset(material.test, material.numbers(len(material.test), n, stream=9))


def _options(material: Material, name: str, factor: float, held_out: int = 0) -> tuple[Tensor, dict[str, Any], int]:
    """Numbers of training images, keywords of a training on them, and the steps that it takes."""
    method = _METHODS[name]
    wanted = max(1, round(material.effort.trials.seconds * method.steps_per_second))
    N, batch_size = len(material.train), method.batch_size
    chosen = material.numbers(N, min(N, wanted * batch_size + held_out), stream=10)
    n = len(chosen) - held_out
    per_epoch = n // min(batch_size, n)
    epochs = max(1, round(wanted / per_epoch))
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": factor * method.rate}
    return chosen, options, epochs * per_epoch


def _train_decoder(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    model, own = material.model, material.model.decoder
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        network = {"unit_norm": own.hyperparameters["unit_norm"], **_METHODS["decoder"].network}
        decoder = Decoder(own.n_components, own.image_shape, **network)
    chosen, options, steps = _options(material, "decoder", factor, _HELD_OUT)
    training = DecoderTraining(**options, n_validation=_HELD_OUT)
    codes, images = material.training_codes[chosen], Subset(material.train, chosen)
    history = training.fit(decoder.to(material.device), codes, images, seed=seed, device=material.device)
    test_codes = model.encode(_tests(material)).to(material.device)
    decoded = torch.cat([decoder.decode(z).cpu() for z in test_codes.split(_PIECE)])
    return decoded, history[-1]["seconds"], steps


def _train_latent_gan(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    chosen, options, steps = _options(material, "latent GAN", factor)
    gan = GenerativeAdversarialNetwork(**options, **_METHODS["latent GAN"].network)
    gan.fit(material.training_codes[chosen], seed=seed, device=material.device)
    codes = gan.sample(len(_tests(material)), seed=seed)
    # The model refuses to decode codes that are not finite, which are as bad as such images.
    images = material.model.decode(codes) if bool(torch.isfinite(codes).all()) else codes
    return images, gan.history_[-1]["seconds"], steps


def _train_pixel_gan(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    chosen, options, steps = _options(material, "pixel GAN", factor)
    gan = DCGAN(**options, **_METHODS["pixel GAN"].network)
    gan.fit(Subset(material.train, chosen), seed=seed, device=material.device)
    return gan.sample(len(_tests(material)), seed=seed), gan.history_[-1]["seconds"], steps


_TRAIN: dict[str, _Train] = {"decoder": _train_decoder, "latent GAN": _train_latent_gan, "pixel GAN": _train_pixel_gan}


def sensitivity(rows: Sequence[Trial], blank: float) -> dict[str, Any]:
    """How much a method's distance depends on rate and seed, given that of blank images.

    "means", by factor: geometric, over the seeds that did not diverge; None if all did. "kept": the mean over trainings
    of (blank − distance)/(blank − best distance), at least 0, which a training that diverged has. "rates": the worst of
    the means over the best. "seeds": the median over factors of the worst seed over the best; None if there is one
    seed. Either is infinite if that worst training diverged. "failed": a count.
    """
    by_factor: dict[float, list[float | None]] = {}
    for row in rows:
        by_factor.setdefault(row["factor"], []).append(row["distance"])
    finite = {k: [d for d in found if d is not None] for k, found in by_factor.items()}
    means = {k: geometric_mean(found) if found else None for k, found in finite.items()}
    known = [mean for mean in means.values() if mean is not None]
    diverged = any(None in found for found in by_factor.values())
    best = min((d for found in finite.values() for d in found), default=blank)
    kept = [
        max(0.0, (blank - d) / (blank - best)) if d is not None and best < blank else 0.0
        for found in by_factor.values()
        for d in found
    ]
    spreads = [
        math.inf if None in found else max(finite[k]) / min(finite[k])
        for k, found in by_factor.items()
        if len(found) > 1
    ]
    return {
        "means": means,
        "kept": sum(kept) / len(kept),
        "rates": math.inf if diverged else max(known) / min(known),
        "seeds": median(spreads) if spreads else None,
        "failed": sum(row["failure"] is not None for row in rows),
    }


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """How much each method's result depends on learning rate and seed."""
    facts = results[NAME].facts
    factors, by_method = _factors(facts), _by_method(facts)
    trials = {
        name: {factor: [row["distance"] for row in rows if row["factor"] == factor] for factor in factors}
        for name, rows in by_method.items()
    }
    title = f"Fréchet distance to test images, {sample_size(facts['n'])}"
    decibels = [
        [row["psnr"] for row in by_method["decoder"] if row["factor"] == factor and row["psnr"]] for factor in factors
    ]
    shown = {
        "factors": list(map(rate_factor, factors)),
        "curves": themed(partial(rate_curves, trials, title)),
        "methods": [_method(name, rows, facts) for name, rows in by_method.items()],
        "decibels": [fmean(found) if found else None for found in decibels],
        "columns": _SHOWN,
        "ratio": _ratio,
    }
    return Section(NAME, _finding(facts), [results[NAME]], shown)


def _method(name: str, trials: list[Trial], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    found = sensitivity(trials, facts["blank"])
    seconds = [row["seconds"] for row in trials if row["seconds"] is not None]
    cells = []
    for factor in _factors(facts):
        failures = [row["failure"] for row in trials if row["factor"] == factor]
        failed = {"diverged": failures.count(_DIVERGED), "alike": _ALIKE in failures}
        cells.append({"mean": found["means"][factor], **failed})
    return {
        "name": name,
        "rate": _METHODS[name].rate,
        "steps": max((row["steps"] or 0 for row in trials), default=0),
        "seconds": median(seconds) if seconds else None,
        "at_factors": cells,
        "found": found,
        "trials": len(trials),
    }


def _by_method(facts: Mapping[str, Any]) -> dict[str, list[Trial]]:
    names = dict.fromkeys(row["method"] for row in facts["rows"])
    return {name: [row for row in facts["rows"] if row["method"] == name] for name in names}


def _factors(facts: Mapping[str, Any]) -> list[float]:
    return sorted({row["factor"] for row in facts["rows"]})


def _ratio(value: float | None) -> str:
    return "–" if value is None else number(value, 2 if value < 10 else 0)


def _finding(facts: Mapping[str, Any]) -> Finding:
    by_method, factors = _by_method(facts), _factors(facts)
    found = {name: sensitivity(trials, facts["blank"]) for name, trials in by_method.items()}
    own = found["decoder"]
    # Signs make less what is steadier.
    steadier = [
        sign * own[kind] < sign * other[kind]
        for kind, sign in (("kept", -1), ("rates", 1), ("seeds", 1))
        for name, other in found.items()
        if name != "decoder" and own[kind] is not None
    ]
    span = f"{rate_factor(factors[0])} to {rate_factor(factors[-1])} times its own"
    kept = ", ".join(f"{name} {number(100 * row['kept'])} %" for name, row in found.items())
    rates = ", ".join(f"{name} {_ratio(row['rates'])}" for name, row in found.items())
    because = (
        f"Over rates of {span}, a training keeps of what the method’s best one reaches: {kept}. "
        f"The worst rate’s distance is a multiple of the best one’s: {rates}. "
    )
    if own["seeds"] is not None:
        seeds = ", ".join(f"{name} {_ratio(row['seeds'])}" for name, row in found.items())
        because += f"Between seeds: {seeds}. "
    failures = [
        f"{row['failed']} of {len(by_method[name])} of the {name}" for name, row in found.items() if row["failed"]
    ]
    because += f"Trainings that failed: {', '.join(failures) or 'none'}. Regression is the steadier training by "
    score = f"{sum(steadier)} of {len(steadier)} comparisons with a GAN"
    if all(steadier) and not own["failed"]:
        verdict: Verdict = "agrees"
        because += "every comparison."
    elif sum(steadier) > len(steadier) / 2:
        verdict = "agrees in part"
        because += f"{score}."
    else:
        verdict = "cannot be compared"
        because += (
            f"{score}, no more than half: trainings of seconds cannot settle what the paper says of trainings of "
            "minutes and hours."
        )
    return Finding("Section 6, stability", verdict, because)
