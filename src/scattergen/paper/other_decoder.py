"""A second decoder, trained as the run's: of codes as they are if that is of codes of unit norm, and vice versa."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.paper.density_samples import DECODED, latent_variables
from scattergen.paper.findings import OTHER, SETTINGS, Measured, Stage
from scattergen.paper.material import SHOWN, Material, mean_psnr

_QUALITY = 2000  # test images whose PSNR is measured


def _training(material: Material) -> dict[str, Any]:
    """Of the run's `DecoderTraining`, with fewer epochs if little effort is to be spent."""
    training = dict(material.run.options.get("training", {}))
    most = material.effort.decoder_epochs
    if most is not None:
        training["epochs"] = min(most, training.get("epochs", most))
    return training


def measure(material: Material, work: Path) -> Measured:
    """Train the other decoder; score and show through it what the run's densities draw."""
    model, seed, n, device = material.model, material.seed, material.n_images, material.device
    unit_norm = not model.decoder.unit_norm
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        decoder = Decoder(**{**model.decoder.hyperparameters, "unit_norm": unit_norm}).to(device)
    history = DecoderTraining(**_training(material)).fit(
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
        "epochs": len(history), "run_epochs": material.run.options.get("training", {}).get("epochs"),
    }  # fmt: skip
    # Of the training before an interruption, too.
    return Measured(facts, pictures, seconds=history[-1]["seconds"] + time.monotonic() - trained)


STAGES = {OTHER: Stage(
    __name__, measure, parts=("encoder", "codes", "decoder", "densities"), images=("train", "test"), distances=True,
    others=lambda material: {"training": _training(material)},
)}  # fmt: skip
