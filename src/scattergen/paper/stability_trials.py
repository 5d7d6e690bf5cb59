"""Short trainings of three methods at several learning rates and with several seeds.

The paper separates what is trained by regression (the decoder) from what is trained adversarially.
Here the decoder, the GAN of codes and a GAN of pixels are each trained anew, briefly, at learning
rates around their own and with several seeds. Budgets are numbers of steps, so that the result is
reproducible; they take about as long for all three.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Subset
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.densities.gan import GenerativeAdversarialNetwork
from scattergen.errors import InputError, ScattergenError
from scattergen.image_quality import psnr
from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.paper.pixel_models import DCGAN

NAME = "stability"
_STEPS_PER_SECOND = {"decoder": 120, "latent GAN": 250, "pixel GAN": 150}
"""On two cores of the machine that this was written on; elsewhere seconds differ, steps do not."""

_NETWORKS: dict[str, dict[str, Any]] = {
    "decoder": {"channels": (32, 16, 8)},
    "latent GAN": {"widths": (128, 256), "discriminator_widths": (128, 64)},
    "pixel GAN": {"channels": (16, 8)},
}
"""Smaller than elsewhere, so that some hundred steps, without which all are blank, take seconds."""

RATES: dict[str, float] = {
    "decoder": DecoderTraining().learning_rate,
    "latent GAN": GenerativeAdversarialNetwork().learning_rate,
    "pixel GAN": 5e-4,  # as in `pixel_baselines`
}
_BATCH_SIZES = {"decoder": 32, "latent GAN": 64, "pixel GAN": 32}
_SMALLEST_VARIANCE = 0.05  # of images, over that of test images: with less they are all alike
_HELD_OUT = 1  # image that the decoder's fit asks for, to validate
SHOWN = 8
_PIECE = 512  # codes that are decoded at a time
DIVERGED, ALIKE = "diverged", "all alike"

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
        "rates": RATES,
    }


def measure(material: Material, work: Path) -> Measured:
    """Train every method at every rate with every seed, and score what comes out."""
    trials = material.effort.trials
    rows: list[Trial] = []
    pictures: dict[str, Tensor] = {}
    total = len(_TRAIN) * len(trials.factors) * trials.seeds
    with material.progress.task("trials", total) as task:
        for name, train in _TRAIN.items():
            shown = []
            for factor in trials.factors:
                for k in range(trials.seeds):
                    row, images = _trial(material, train, factor, material.seed + k)
                    rows.append({"method": name, "factor": factor, "seed": k, **row})
                    if k == 0:
                        shown.append(images[:SHOWN])
                    task.advance()
            pictures[name] = torch.cat(shown)
    facts = {
        "n": min(trials.n_images, material.n_images),
        "n_real": material.n_images,
        "rows": rows,
        "blank": material.distance(torch.zeros_like(_tests(material)[:])),
    }
    return Measured(facts, pictures)


def _trial(material: Material, train: _Train, factor: float, seed: int) -> tuple[Trial, Tensor]:
    """One training, its score and its images; a failure is a result, too, and its images blank."""
    row: Trial = {"distance": None, "psnr": None, "seconds": None, "steps": None}
    tests = _tests(material)[:]
    try:
        images, row["seconds"], row["steps"] = train(material, factor, seed)
    except InputError:
        raise
    except ScattergenError:  # the training loop refuses losses and parameters that are not finite
        return {**row, "failure": DIVERGED}, torch.zeros_like(tests)
    if not torch.isfinite(images).all():
        return {**row, "failure": DIVERGED}, torch.zeros_like(tests)
    row["distance"] = material.distance(images)
    if train is _TRAIN["decoder"]:
        row["psnr"] = psnr(tests, images).clamp(max=100).mean().item()
    alike = images.var(0).mean() < _SMALLEST_VARIANCE * tests.var(0).mean()
    return {**row, "failure": ALIKE if alike else None}, images


def _tests(material: Material) -> Subset:
    """Test images, the same for all trials."""
    n = min(material.effort.trials.n_images, material.n_images)
    return Subset(material.test, material.numbers(len(material.test), n, stream=9))


def _budget(material: Material, name: str, held_out: int = 0) -> tuple[Tensor, int, int]:
    """Numbers of training images, epochs over them, and the steps that these make."""
    wanted = max(1, round(material.effort.trials.seconds * _STEPS_PER_SECOND[name]))
    N, batch_size = len(material.train), _BATCH_SIZES[name]
    chosen = material.numbers(N, min(N, wanted * batch_size + held_out), stream=10)
    n = len(chosen) - held_out
    per_epoch = n // min(batch_size, n)
    epochs = max(1, round(wanted / per_epoch))
    return chosen, epochs, epochs * per_epoch


def _train_decoder(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    model = material.model
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        decoder = Decoder(
            model.decoder.n_components,
            model.decoder.image_shape,
            unit_norm=model.decoder.hyperparameters["unit_norm"],
            **_NETWORKS["decoder"],
        )
    chosen, epochs, steps = _budget(material, "decoder", _HELD_OUT)
    training = DecoderTraining(
        epochs=epochs,
        batch_size=_BATCH_SIZES["decoder"],
        learning_rate=factor * RATES["decoder"],
        n_validation=_HELD_OUT,
    )
    history = training.fit(
        decoder.to(material.device),
        material.training_codes[chosen],
        Subset(material.train, chosen),
        seed=seed,
        device=material.device,
    )
    codes = model.encode(_tests(material)).to(material.device)
    images = torch.cat([decoder.decode(z).cpu() for z in codes.split(_PIECE)])
    return images, history[-1]["seconds"], steps


def _train_latent_gan(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    chosen, epochs, steps = _budget(material, "latent GAN")
    gan = GenerativeAdversarialNetwork(
        epochs=epochs,
        batch_size=_BATCH_SIZES["latent GAN"],
        learning_rate=factor * RATES["latent GAN"],
        **_NETWORKS["latent GAN"],
    ).fit(material.training_codes[chosen], seed=seed, device=material.device)
    codes = gan.sample(len(_tests(material)), seed=seed)
    # The model refuses to decode codes that are not finite, which are as bad as such images.
    images = material.model.decode(codes) if bool(torch.isfinite(codes).all()) else codes
    return images, gan.history_[-1]["seconds"], steps


def _train_pixel_gan(material: Material, factor: float, seed: int) -> tuple[Tensor, float, int]:
    chosen, epochs, steps = _budget(material, "pixel GAN")
    gan = DCGAN(
        epochs=epochs,
        batch_size=_BATCH_SIZES["pixel GAN"],
        learning_rate=factor * RATES["pixel GAN"],
        **_NETWORKS["pixel GAN"],
    ).fit(Subset(material.train, chosen), seed=seed, device=material.device)
    images = gan.sample(len(_tests(material)), seed=seed)
    return images, gan.history_[-1]["seconds"], steps


_TRAIN: dict[str, _Train] = {"decoder": _train_decoder, "latent GAN": _train_latent_gan, "pixel GAN": _train_pixel_gan}
