"""Models of pixels on people's own images, each within one time budget, beside ours.

    python benchmarks/own_peers.py {faces,emoji} --images DIR [--models runs/own-images/models]
        [--seconds 1800] [--seed 0] [--out runs/own-peers]
        [--only {pixel_vae,dcgan,flow_matching} …]

Trains on the training images of benchmarks/own_images.py, from pixels to 1,000 samples within the
budget; then prints one table of perceptual kernel distance · 1000 to the test images and sharpness,
in which the fits of own_images.py that lie in --models have a row, too, and writes a picture: test
images, and two rows of samples of each model, the first that were drawn. Stopped at any moment,
the same command continues. `flow_matching` is torchcfm's and has an environment of its own,
OUT/env.
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _environment import ROOT, python_of
from own_images import emoji, faces
from torch import Tensor

from scattergen import load
from scattergen.datasets import Dataset, ImageSource
from scattergen.display.progress import Progress
from scattergen.evaluation import PerceptualFeatures, kernel_distance
from scattergen.files import atomic_path
from scattergen.image_quality import sharpness
from scattergen.paper.pixel_models import DCGAN, PixelVAE
from scattergen.report import save_image_grid

DATA: dict[str, Callable[[Path | None, int | None], Dataset]] = {"faces": faces, "emoji": emoji}
N, SHOWN = 1000, 10
SAMPLING_SHARE = 0.03  # of the budget, for the prior of the VAE and for sampling
ENDLESS = 100_000  # epochs: the clock stops the training
# Four grids for 64×64 pixels, as in DCGAN's paper; the VAE's likelihood is that for photographs.
PIXEL_MODELS: dict[str, tuple[type[PixelVAE] | type[DCGAN], dict[str, Any]]] = {
    "pixel_vae": (
        PixelVAE,
        {
            "n_latent": 128, "channels": (256, 128, 64, 32), "likelihood": "gaussian",
            "n_components": 50, "batch_size": 64,
        },
    ),
    "dcgan": (
        DCGAN, {"channels": (256, 128, 64, 32), "learning_rate": 2e-4, "batch_size": 64}
    ),
}  # fmt: skip
NAMES = [*PIXEL_MODELS, "flow_matching"]


def train_pixels(name: str, images: ImageSource, seconds: float, seed: int, work: Path, result: Path) -> None:
    """PixelVAE or DCGAN."""
    kind, keywords = PIXEL_MODELS[name]
    model = kind(**({"epochs": ENDLESS} | keywords)).fit(
        images[:], seed=seed, progress=Progress(), checkpoint=work / "checkpoint.safetensors",
        max_seconds=(1 - SAMPLING_SHARE) * seconds,
    )  # fmt: skip
    start = time.monotonic()
    if isinstance(model, PixelVAE):
        model.fit_prior(images[:], seed=seed)
    made = (255 * model.sample(N, seed=seed)).round().to(torch.uint8).numpy()
    last = model.history_[-1]
    with atomic_path(result) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=made,
            seconds=last["seconds"] + time.monotonic() - start,
            description=f"{model.description}, stopped in epoch {last['epoch']:.0f}",
        )


def train_flow(python: Path, images: ImageSource, seconds: float, seed: int, work: Path, result: Path) -> None:
    """torchcfm, in its environment."""
    pixels = work / "images.npy"
    np.save(pixels, (255 * images[:]).round().to(torch.uint8).numpy())
    with atomic_path(result) as temporary:
        subprocess.run(
            [
                python, ROOT / "benchmarks" / "_flow_matching.py", pixels, temporary,
                "--work", work, "--seconds", str(seconds), "--seed", str(seed), "-n", str(N),
            ],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip


def compare(data: Dataset, label: str, models: Path | None, out: Path) -> None:
    """The table and the picture of what there is."""
    assert data.test is not None, "both have test images"
    test, extract = data.test[:N], PerceptualFeatures()
    reference, detail = extract(test), sharpness(test).mean()
    made: dict[str, tuple[Tensor, str]] = {}
    for folder in sorted(models.glob(f"{label}*")) if models else []:
        if folder.name in (label, f"{label}--generator-by-pixels"):
            model = load(folder)
            made[f"scattergen, {folder.name}"] = (model.sample(N), f"its best density: {model.best}")
    for name in NAMES:
        if (out / f"{name}.npz").exists():
            with np.load(out / f"{name}.npz") as found:
                images = torch.from_numpy(found["images"]).float() / 255
                made[name] = images, f"{found['seconds']:.0f} s; {found['description']}"
    print(f"{'model':40}{'kernel · 1000':>16}{'sharpness':>11}")
    for name, (images, description) in made.items():
        found = kernel_distance(reference, extract(images))
        print(
            f"{name:40}{1000 * found.value:9.0f} ± {1000 * found.standard_error:<4.0f}"
            f"{(sharpness(images).mean() / detail).item():11.2f}  {description}"
        )
    rows = [test[:SHOWN]] + [images[: 2 * SHOWN] for images, _ in made.values()]
    save_image_grid(torch.cat(rows), out / f"{label}.png", columns=SHOWN)
    print(f"{out / label}.png: test images, then {', '.join(made)}")


def main() -> None:
    """Train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--images", type=Path, required=True, help="their folder")
    parser.add_argument("--models", type=Path, help="folder of the fits of own_images.py")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "own-peers")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    data, out = DATA[arguments.data](arguments.images, None), arguments.out / arguments.data
    for name in arguments.only:
        result, work = out / f"{name}.npz", out / name
        if result.exists():
            continue
        work.mkdir(parents=True, exist_ok=True)
        budget = (data.train, arguments.seconds, arguments.seed, work, result)
        if name == "flow_matching":
            train_flow(python_of(arguments.out / "env", "torchcfm-requirements.txt"), *budget)
        else:
            train_pixels(name, *budget)
        shutil.rmtree(work)
    compare(data, arguments.data, arguments.models, out)


if __name__ == "__main__":
    main()
