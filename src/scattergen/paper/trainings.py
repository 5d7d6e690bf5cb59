"""Trainings besides the run's: a decoder of the other setting; how much decoder and GANs depend on rate and seed."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scattergen.calls.state import seeded
from scattergen.datasets import Subset
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.densities.gan import GenerativeAdversarialNetwork
from scattergen.display.words import sample_size
from scattergen.errors import InputError, ScattergenError
from scattergen.paper.density_samples import DECODED, latent_variables
from scattergen.paper.findings import OTHER, SETTINGS, Facts, Finding, Measured, Results, Section, Stage, Verdict, judge
from scattergen.paper.material import SHOWN, Material, mean_psnr
from scattergen.paper.pixel_models import DCGAN
from scattergen.report.html import themed
from scattergen.report.plots import rate_curves, rate_factor

STABILITY = "stability"


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
    "pixel GAN": _Method(150, 32, 5e-4, {"channels": (16, 8)}),  # the rate of `training_time`
}
_SMALLEST_VARIANCE = 0.05  # of images, over that of test images: with less they are all alike
_HELD_OUT = 1  # image that the decoder's fit asks for, to validate
_SHOWN = 8
_QUALITY = 2000  # test images whose PSNR is measured by the other decoder, and codes that it decodes at a time
_PIECE = 512  # codes that a decoder of trials decodes at a time
_DIVERGED, _ALIKE = "diverged", "all alike"
Trial = dict[str, Any]


def _untrained(seed: int, **keywords: Any) -> Decoder:
    with seeded(seed):
        return Decoder(**keywords)


def measure_other_decoder(material: Material, work: Path) -> Measured:
    """Train a decoder of codes as they are if the run's is of unit norm, and vice versa; score and show densities."""
    model, seed, n, device = material.model, material.seed, material.n_images, material.device
    unit_norm = not model.decoder.unit_norm
    decoder = _untrained(seed, **{**model.decoder.hyperparameters, "unit_norm": unit_norm}).to(device)
    options, most = material.run.options.get("training", {}), material.effort.decoder_epochs
    epochs = {} if most is None else {"epochs": min(most, options.get("epochs", most))}
    history = DecoderTraining(**{**options, **epochs}).fit(
        decoder, material.training_codes, material.train, encoder=model.encoder, seed=seed, device=device,
        checkpoint=work / "checkpoint.safetensors", progress=material.progress,
    )  # fmt: skip
    trained = time.monotonic()

    def decode(codes: Tensor) -> Tensor:
        return torch.cat([decoder.decode(piece.to(device)).cpu() for piece in codes.float().split(_QUALITY)])

    distances, latent, pictures = {}, {}, {}
    with material.progress.task(SETTINGS[unit_norm], len(material.densities) + 3) as task:
        others = material.numbers(len(material.train), n, stream=3)
        distances[DECODED] = material.distance_of_codes(material.training_codes[others], decode)
        task.advance()
        for key in material.densities:
            codes = model.sample_codes(n, key, seed)
            distances[key] = material.distance_of_codes(codes, decode)
            pictures[key] = decode(codes[:SHOWN])
            task.advance()
        for key, codes in latent_variables(material)[0].items():
            latent[key] = material.distance_of_codes(codes, decode)
            task.advance()
    pictures |= material.matrices(decode)
    chosen = material.numbers(len(material.test), _QUALITY, stream=4)
    tests, test_codes = material.test[chosen], material.test_codes[chosen]
    facts = {
        "unit_norm": unit_norm, "distances": distances, "latent": latent,
        "psnr": mean_psnr(tests, decode(test_codes)), "run_psnr": mean_psnr(tests, model.decode(test_codes)),
        "epochs": len(history), "run_epochs": options.get("epochs"),
    }  # fmt: skip
    # Of the training before an interruption, too.
    return Measured(facts, pictures, seconds=history[-1]["seconds"] + time.monotonic() - trained)


def measure_stability(material: Material, work: Path) -> Measured:
    """Train every method at every rate with every seed, and score what comes out."""
    trials = material.effort.trials
    rows: list[Trial] = []
    pictures: dict[str, Tensor] = {}
    with material.progress.task("trials", len(_TRAIN) * len(trials.factors) * trials.seeds) as task:
        for name in _TRAIN:
            shown = []
            for factor in trials.factors:
                for k in range(trials.seeds):
                    row, images = _trial(material, name, factor, material.seed + k)
                    rows.append({"method": name, "factor": factor, "seed": k, **row})
                    if k == 0:
                        shown.append(images[:_SHOWN])
                    task.advance()
            pictures[name] = torch.cat(shown)
    tests = _tests(material)
    blank = material.distance(torch.zeros_like(tests[:]))
    return Measured({"n": len(tests), "n_real": material.n_images, "rows": rows, "blank": blank}, pictures)


def _trial(material: Material, name: str, factor: float, seed: int) -> tuple[Trial, Tensor]:
    """One training, its score and its images; a failure is a result, too, and its images blank."""
    row: Trial = {"distance": None, "psnr": None, "seconds": None, "steps": None, "failure": _DIVERGED}
    tests = _tests(material)[:]
    try:
        images, row["seconds"], row["steps"] = _TRAIN[name](material, factor, seed)
    except InputError:
        raise
    except ScattergenError:  # the training loop refuses losses and parameters that are not finite
        images = torch.full_like(tests, math.nan)
    if not torch.isfinite(images).all():
        return row, torch.zeros_like(tests)
    row["distance"] = material.distance(images)
    if name == "decoder":
        row["psnr"] = mean_psnr(tests, images)
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
    chosen = material.numbers(len(material.train), wanted * method.batch_size + held_out, stream=10)
    n = len(chosen) - held_out
    per_epoch = n // min(method.batch_size, n)
    epochs = max(1, round(wanted / per_epoch))
    options = {"epochs": epochs, "batch_size": method.batch_size, "learning_rate": factor * method.rate}
    return chosen, options, epochs * per_epoch


def _train_decoder(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    model, own = material.model, material.model.decoder
    network = {"unit_norm": own.hyperparameters["unit_norm"], **_METHODS["decoder"].network}
    decoder = _untrained(seed, n_components=own.n_components, image_shape=own.image_shape, **network)
    chosen, options, steps = _options(material, "decoder", factor, _HELD_OUT)
    training = DecoderTraining(**options, n_validation=_HELD_OUT)
    codes, images = material.training_codes[chosen], Subset(material.train, chosen)
    history = training.fit(decoder.to(material.device), codes, images, seed=seed, device=material.device)
    test_codes = model.encode(_tests(material)).to(material.device)
    return torch.cat([decoder.decode(z).cpu() for z in test_codes.split(_PIECE)]), history[-1]["seconds"], steps


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


# Each trains with a rate factor and seed, and gives images, seconds and steps.
_TRAIN: dict[str, Callable[[Material, float, int], tuple[Tensor, float, int]]] = {
    "decoder": _train_decoder, "latent GAN": _train_latent_gan, "pixel GAN": _train_pixel_gan,
}  # fmt: skip


def sensitivity(rows: Sequence[Trial], blank: float) -> dict[str, Any]:
    """How much a method's distance depends on rate and seed, given that of blank images."""
    by_factor: dict[float, list[float]] = {}  # infinite where a training diverged
    for row in rows:
        by_factor.setdefault(row["factor"], []).append(math.inf if row["distance"] is None else row["distance"])
    distances = [d for found in by_factor.values() for d in found]
    finite = {factor: [d for d in found if d != math.inf] for factor, found in by_factor.items()}
    means = {factor: geometric_mean(found) if found else None for factor, found in finite.items()}
    known = [mean for mean in means.values() if mean is not None]
    best = min(distances)
    kept = [max(0.0, (blank - d) / (blank - best)) if best < blank else 0.0 for d in distances]
    spreads = [_spread(found) for found in by_factor.values() if len(found) > 1]
    return {
        "means": means,  # by factor: geometric, over the seeds that did not diverge; None if all did
        "kept": sum(kept) / len(kept),  # of the way from blank images to the best ones; 0 if a training diverged
        "rates": math.inf if math.inf in distances else _spread(known),
        "seeds": median(spreads) if spreads else None,  # over factors; None if there is one seed
        "failed": sum(row["failure"] is not None for row in rows),
    }


def _spread(distances: list[float]) -> float:
    """The worst over the best; infinite if a training diverged."""
    return math.inf if math.inf in distances else max(distances) / min(distances)


def show_stability(results: Results, material: Material) -> Section:
    """How much each method's result depends on learning rate and seed."""
    facts = results[STABILITY].facts
    by_method, factors = _tables(facts)
    methods, trials = [], {}
    for name, rows in by_method.items():
        trials[name] = {factor: [row["distance"] for row in rows if row["factor"] == factor] for factor in factors}
        known = [row for row in rows if row["seconds"] is not None]
        seconds = median(row["seconds"] for row in known) if known else None
        found, steps = sensitivity(rows, facts["blank"]), max((row["steps"] for row in known), default=0)
        told = {"rate": _METHODS[name].rate, "steps": steps, "seconds": seconds, "found": found}
        methods.append({"name": name, **told, "rows": rows})
    shown = {
        "factors": {factor: rate_factor(factor) for factor in factors}, "methods": methods, "columns": _SHOWN,
        "curves": themed(partial(rate_curves, trials, f"Fréchet distance to test images, {sample_size(facts['n'])}")),
    }  # fmt: skip
    return Section(STABILITY, _stability_finding(facts), [results[STABILITY]], shown)


def _tables(facts: Facts) -> tuple[dict[str, list[Trial]], list[float]]:
    """Trials by method, and the factors of the learning rates."""
    by_method = {name: [*rows] for name, rows in itertools.groupby(facts["rows"], key=itemgetter("method"))}
    return by_method, sorted({row["factor"] for row in facts["rows"]})


def _stability_finding(facts: Facts) -> Finding:
    by_method, factors = _tables(facts)
    found = {name: sensitivity(trials, facts["blank"]) for name, trials in by_method.items()}
    own = found["decoder"]
    # Signs make less what is steadier.
    steadier = [
        sign * own[kind] < sign * other[kind]
        for kind, sign in (("kept", -1), ("rates", 1), ("seeds", 1))
        for name, other in found.items()
        if name != "decoder" and own[kind] is not None
    ]
    verdict: Verdict = "agrees in part" if sum(steadier) > len(steadier) / 2 else "cannot be compared"
    if all(steadier) and not own["failed"]:
        verdict = "agrees"
    span = {"slowest": rate_factor(factors[0]), "fastest": rate_factor(factors[-1])}
    return judge("Section 6, stability", verdict, STABILITY, **span, found=found, trials=by_method, steadier=steadier)


STAGES = {
    OTHER: Stage(measure_other_decoder, ("encoder", "codes", "decoder", "densities")),
    STABILITY: Stage(measure_stability, ("encoder", "codes", "decoder")),
}
