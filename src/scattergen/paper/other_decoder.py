"""A second decoder: of codes as they are if the run's is of codes of unit norm, and vice versa.

It is trained by the run's own options, and the run's densities are scored and shown through it.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.image_quality import psnr
from scattergen.paper.decoder_settings import DECODED, OTHER, SHOWN, decoded_matrices, name_of
from scattergen.paper.findings import Measured
from scattergen.paper.latent_variables import latent_variables
from scattergen.paper.material import Decode, Material

NAME = OTHER
_QUALITY = 2000  # test images whose PSNR is measured


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes", "decoder", *material.parts)
    training = {"train": material.train.fingerprint, "training": _training(material)}
    return {**parts, **material.depends_on_distances(), **training}


def _training(material: Material) -> dict[str, Any]:
    """Of the run's `DecoderTraining`, with fewer epochs if little effort is to be spent."""
    training = dict(material.run.options.get("training", {}))
    most = material.effort.decoder_epochs
    if most is not None:
        training["epochs"] = min(most, training.get("epochs", most))
    return training


def measure(material: Material, work: Path) -> Measured:
    """Train the other decoder; score and show through it what the run's densities draw."""
    model, seed, n = material.model, material.seed, material.n_images
    unit_norm = not model.decoder.unit_norm
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        decoder = Decoder(**{**model.decoder.hyperparameters, "unit_norm": unit_norm}).to(material.device)
    history = DecoderTraining(**_training(material)).fit(
        decoder,
        material.training_codes,
        material.train,
        encoder=model.encoder,
        seed=seed,
        device=material.device,
        checkpoint=work / "checkpoint.safetensors",
        progress=material.progress,
    )
    trained = time.monotonic()

    def decode(codes: Tensor) -> Tensor:
        pieces = codes.float().split(_QUALITY)
        return torch.cat([decoder.decode(piece.to(material.device)).cpu() for piece in pieces])

    distances, latent, pictures = {}, {}, {}
    with material.progress.task(name_of(unit_norm), len(material.densities) + 3) as task:
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
    pictures |= decoded_matrices(model.encoder.whitening.explained_variance_, decode)
    facts = {
        "unit_norm": unit_norm,
        "distances": distances,
        "latent": latent,
        "psnr": _psnr(material, decode),
        "run_psnr": _psnr(material, model.decode),
        "epochs": len(history),
        "run_epochs": material.run.options.get("training", {}).get("epochs"),
    }
    # Of the training before an interruption, too.
    seconds = history[-1]["seconds"] + time.monotonic() - trained
    return Measured(facts, pictures, seconds=seconds)


def _psnr(material: Material, decode: Decode) -> float:
    chosen = material.numbers(len(material.test), min(_QUALITY, len(material.test)), stream=4)
    return psnr(material.test[chosen], decode(material.test_codes[chosen])).clamp(max=100).mean().item()
