"""End-to-end models of pixels, each trained for a fixed time and scored on the way.

Their keywords are those of `benchmarks/peers.py`, chosen there by short runs on training images.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scattergen.files import write_json
from scattergen.machine import machine
from scattergen.paper.findings import Measured
from scattergen.paper.material import Material
from scattergen.paper.pixel_models import DCGAN, PixelVAE

NAMES = {"pixel_vae": "pixel VAE", "pixel_gan": "pixel GAN"}
_MODELS: dict[str, tuple[type[PixelVAE] | type[DCGAN], dict[str, Any]]] = {
    "pixel_vae": (PixelVAE, {"n_latent": 32, "beta": 0.3, "prior": "mixture", "n_components": 150}),
    "pixel_gan": (DCGAN, {"learning_rate": 5e-4, "batch_size": 64}),
}
_ENDLESS = 100_000  # epochs: the clock stops the training
_SHOWN = 64
_CODES_PER_COMPONENT = 20  # of the mixture prior, if there are few images


def depends(name: str, material: Material) -> dict[str, Any]:
    """What the stage depends on; the machine too, since the clock stops the training."""
    this, effort = machine(), material.effort
    return {
        "train": material.train.fingerprint,
        "test": material.test.fingerprint,
        "seed": material.seed,
        **material.depends_on_distances(),
        "keywords": _keywords(name, material),
        "seconds": effort.pixel_seconds,
        "snapshots": list(effort.snapshots),
        "machine": [this["processor"], this["threads"]],
    }


def _keywords(name: str, material: Material) -> dict[str, Any]:
    keywords = dict(_MODELS[name][1])
    if "n_components" in keywords:
        most = max(1, len(material.train) // _CODES_PER_COMPONENT)
        keywords["n_components"] = min(keywords["n_components"], most)
    return keywords


def measure(name: str, material: Material, work: Path) -> Measured:
    """Train one model for the fixed time, making snapshots not counted; score it at each of them and at its end."""
    effort = material.effort
    model = _MODELS[name][0](**{"epochs": _ENDLESS} | _keywords(name, material))

    def score() -> float:
        if isinstance(model, PixelVAE):
            model.fit_prior(material.train, seed=material.seed)
        return material.distance(model.sample(material.n_images, seed=material.seed))

    model.fit(
        material.train,
        seed=material.seed,
        device=material.device,
        progress=material.progress,
        checkpoint=work / "checkpoint.safetensors",
        max_seconds=effort.pixel_seconds,
        on_step=partial(_snapshot, work, effort.snapshots, score),
    )
    snapshots = [json.loads(path.read_text()) for path in sorted(work.glob("snapshot-*.json"))]
    last = model.history_[-1]
    facts = {
        "description": model.description,
        "epochs": int(last["epoch"]),
        "seconds": last["seconds"],
        "curve": [*([row["seconds"], row["distance"]] for row in snapshots), [last["seconds"], score()]],
        "n": material.n_images,
    }
    return Measured(facts, {"samples": model.sample(_SHOWN, seed=material.seed)}, seconds=last["seconds"])


def _snapshot(work: Path, due: tuple[float, ...], score: Callable[[], float], seconds: float) -> None:
    """Score the model if a moment has come that has not been scored yet."""
    passed = [work / f"snapshot-{moment:08.1f}.json" for moment in due if seconds >= moment]
    if passed and not passed[-1].exists():
        write_json(passed[-1], {"seconds": seconds, "distance": score()})
