"""Inversion of the scattering transform against the trained decoder: PSNR and seconds per image.

    python benchmarks/inversion.py [--run runs/mnist] [--n 16] [--starts 4] [--seed 0]

The images are the first n of MNIST's test set. Solved are those whose relative error in what was
matched is at most 0.001.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from scattergen import GenerativeScatteringNetwork, RunFolderError, Scattering2D
from scattergen.datasets import mnist
from scattergen.display.machine import machine
from scattergen.encoder import reconstruct_codes
from scattergen.image_quality import psnr
from scattergen.scattering import reconstruct


def print_row(name: str, images: Tensor, make: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
    start = time.perf_counter()
    found, error = make()
    seconds = (time.perf_counter() - start) / len(images)
    decibels = psnr(images, found)
    solved = "" if error is None else f"{int((error <= 1e-3).sum())} of {len(images)}"
    print(
        f"{name:>34} {decibels.mean():8.1f} {decibels.median():8.1f} {decibels.min():8.1f} {solved:>10} {seconds:14.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--n", type=int, default=16, help="test images")
    parser.add_argument("--starts", type=int, default=4, help="most starts per image")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    chosen = parser.parse_args()
    images = mnist().test[: chosen.n]
    keywords = {"n_starts": chosen.starts, "seed": chosen.seed}
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"first {chosen.n} MNIST test images, at most {chosen.starts} starts, seed {chosen.seed}")
    print(f"{'PSNR in dB of':>34} {'mean':>8} {'median':>8} {'worst':>8} {'solved':>10} {'s per image':>14}")

    def from_coefficients(s: Tensor, transform: Scattering2D) -> tuple[Tensor, Tensor]:
        found = reconstruct(s, transform, **keywords)
        return found.images, found.error.amax(1)

    transform = Scattering2D(J=2, shape=(28, 28))
    s = transform(images)
    print_row("inversion, coefficients", images, lambda: from_coefficients(s, transform))
    try:
        model = GenerativeScatteringNetwork.load(chosen.run)
    except RunFolderError as error:
        print(f"Codes and decoder are left out. {error} Make the run by `make mnist`, or name one.")
        return
    encoder = model.encoder
    z = encoder.transform(images)

    def from_codes() -> tuple[Tensor, Tensor]:
        found = reconstruct_codes(z, encoder, **keywords)
        return found.images, found.error

    projected = encoder.whitening.inverse_transform(z).reshape(s.shape)
    d = z.shape[1]
    print_row(f"inversion, {d} codes", images, from_codes)
    print_row(f"inversion, {d} codes projected back", images, lambda: from_coefficients(projected, encoder.scattering))
    model.decode(z)  # warm
    print_row(f"decoder, {d} codes", images, lambda: (model.decode(z), None))


if __name__ == "__main__":
    with torch.no_grad():
        main()
