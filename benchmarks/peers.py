"""Peers that learn from pixels, each within one time budget, for benchmarks/densities.py.

    python benchmarks/peers.py [{pixel_vae,dcgan,rae}] [--seconds 900] [--seed 0] [--out runs/peers]

Trains on MNIST's 60,000 training images and draws 10,000, from pixels to samples within the budget,
and writes DIR/NAME.npz: `images` (10000, 28, 28) uint8; `seconds`, of all that; `threads`;
`description`; and, for a curve of quality against seconds, `snapshots` (k, 10000, 28, 28) with
`snapshot_seconds` (k,), which are those of a run that stopped there: making snapshots is not
counted, sampling is. Stopped at any moment, the same command continues. Without a name, all three
are trained. `rae` is pythae's and has an environment of its own, runs/pythae-env, made when it is
missing.
"""

import argparse
import os
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _environment import ROOT, python_of
from numpy.typing import NDArray

from scattergen.datasets import mnist
from scattergen.display.progress import Progress
from scattergen.files import atomic_path
from scattergen.paper.pixel_models import DCGAN, PixelVAE

N = 10_000
SNAPSHOTS = (30, 60, 120, 240, 480)  # seconds
SAMPLING_SHARE = 0.03  # of the budget, kept for the prior of the VAE and for sampling
# Chosen by short runs on 55,000 training images and the Fréchet distance of samples to the others.
PIXEL_MODELS: dict[str, tuple[type[PixelVAE] | type[DCGAN], dict[str, Any]]] = {
    "pixel_vae": (PixelVAE, {"n_latent": 32, "beta": 0.3, "n_components": 150}),
    "dcgan": (DCGAN, {"learning_rate": 5e-4, "batch_size": 64}),
}
ENDLESS = 100_000  # epochs: the clock stops the training


def save(path: Path, **arrays: Any) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def draw(model: PixelVAE | DCGAN, seed: int) -> tuple[NDArray[np.uint8], float]:
    """Samples (N, 28, 28) of a model in training, and the seconds that they took."""
    start = time.monotonic()
    if isinstance(model, PixelVAE):
        model.fit_prior(mnist().train, seed=seed)
    x = model.sample(N, seed=seed)[:, 0]
    return (255 * x).round().to(torch.uint8).numpy(), time.monotonic() - start


def train_pixels(name: str, seconds: float, seed: int, work: Path, result: Path) -> None:
    kind, keywords = PIXEL_MODELS[name]
    model = kind(**({"epochs": ENDLESS} | keywords))
    due = [s for s in SNAPSHOTS if s < seconds]

    def snapshot(spent: float) -> None:
        passed = [s for s in due if spent >= s]
        path = work / f"{passed[-1]:04}.npz" if passed else None
        if path is not None and not path.exists():
            images, sampling = draw(model, seed)
            save(path, images=images, seconds=spent + sampling)

    model.fit(
        mnist().train,
        seed=seed,
        progress=Progress(),
        checkpoint=work / "checkpoint.safetensors",
        max_seconds=(1 - SAMPLING_SHARE) * seconds,
        on_step=snapshot,
    )
    # The history's seconds end with the last step, so that `fit`'s own prior is not counted twice.
    images, sampling = draw(model, seed)
    snapshots = [np.load(path) for path in sorted(work.glob("[0-9]*.npz"))]
    last = model.history_[-1]
    save(
        result,
        images=images,
        seconds=last["seconds"] + sampling,
        threads=torch.get_num_threads(),
        description=f"{model.description}, stopped in epoch {last['epoch']:.0f}",
        snapshot_seconds=np.array([s["seconds"] for s in snapshots]),
        snapshots=np.array([s["images"] for s in snapshots]).reshape(-1, N, 28, 28),
    )


def train_rae(seconds: float, seed: int, work: Path, result: Path) -> None:
    with atomic_path(result) as temporary:
        subprocess.run(
            [
                python_of(ROOT / "runs" / "pythae-env", "pythae-requirements.txt"),
                ROOT / "benchmarks" / "_pythae_rae.py",
                str(files("scattergen.datasets") / "data" / "mnist.npz"), temporary,
                "--work", work, "--seconds", str(seconds), "--seed", str(seed),
                "--snapshots", *map(str, SNAPSHOTS),
            ],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*PIXEL_MODELS, "rae"]
    parser.add_argument("name", nargs="?", choices=names, help="all of them, if left out")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "peers")
    arguments = parser.parse_args()
    seconds, seed = arguments.seconds, arguments.seed
    for name in [arguments.name] if arguments.name else names:
        result = arguments.out / f"{name}.npz"
        work = arguments.out / f"{name}-{seconds:g}s-seed{seed}"
        done = work / "done"
        if result.exists() and done.exists():
            print(f"{result} is there already: remove {work} to train again.")
            continue
        work.mkdir(parents=True, exist_ok=True)
        if name == "rae":
            train_rae(seconds, seed, work, result)
        else:
            train_pixels(name, seconds, seed, work, result)
        # Another budget or seed writes the same result, so only the last of them is done.
        for other in arguments.out.glob(f"{name}-*/done"):
            other.unlink()
        for path in work.iterdir():
            path.unlink()
        done.touch()
        with np.load(result) as found:
            print(f"{result}: {found['description']}; {found['seconds']:.1f} s")


if __name__ == "__main__":
    main()
