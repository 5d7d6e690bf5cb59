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
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.image_quality import psnr
from scattergen.paper.decoder_settings import DECODED, OTHER, SHOWN, name_of
from scattergen.paper.latent_variables import latent_variables
from scattergen.paper.material import Decode, Material
from scattergen.paper.measured import Measured

NAME = OTHER
_QUALITY = 2000  # test images whose PSNR is measured


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = [f"densities/{key}" for key in material.densities]
    return {
        **material.depends_on_model("encoder", "codes", "decoder", *parts),
        **material.depends_on_distances(),
        "train": material.train.fingerprint,
        "training": _training(material),
    }


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
    own = model.decoder
    unit_norm = not own.unit_norm
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        decoder = Decoder(**{**own.hyperparameters, "unit_norm": unit_norm}).to(material.device)
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
        for key, codes in latent_variables(material).decoded.items():
            latent[key] = material.distance_of_codes(codes, decode)
            task.advance()
    variances = model.encoder.whitening.explained_variance_
    pictures["paper"] = decode(component_grid(variances, PAPER_VALUES))
    pictures["sigma"] = decode(component_grid(variances, SIGMA_VALUES, in_sigma=True))
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
    n = min(_QUALITY, len(material.test))
    chosen = material.numbers(len(material.test), n, stream=4)
    images = material.test[chosen]
    decoded = decode(material.test_codes[chosen])
    return psnr(images, decoded).clamp(max=100).mean().item()
