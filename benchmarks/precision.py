"""What storing coefficients in fewer bits does to codes and to decoded images.

    python benchmarks/precision.py [runs/mnist mnist] [--n 600]

Scatters test images of a finished run, rounds the coefficients, or their deviations from
the mean of a chunk as the encoder's store does, to 16 bits, and compares codes and decoded images
with those of float32.  Changes of codes are in standard deviations of a component.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import scattergen as sg
from scattergen.cli.arguments import READING
from scattergen.cli.opening import open_of_run
from scattergen.display.machine import machine
from scattergen.image_quality import psnr

_TRAILING = 64  # components of least variance, which rounding changes most


def rounded(s: Tensor, dtype: torch.dtype, shift: Tensor) -> Tensor:
    return (s - shift).to(dtype).float() + shift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default="runs/mnist", help="finished run")
    parser.add_argument("images", nargs="?", default="mnist", help="what it was fitted to")
    parser.add_argument("--n", type=int, default=600, help="test images")
    arguments = parser.parse_args()
    data = open_of_run(arguments.run, arguments.images, READING)
    model = sg.load(arguments.run)
    images = (data.train if data.test is None else data.test)[: arguments.n]
    encoder, n = model.encoder, len(images)
    parts = images.split(encoder.batch_size)
    s = torch.cat([encoder.features(part) for part in parts])
    mean = encoder.features(data.train[: encoder.batch_size]).mean(0)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))

    def quality(codes: Tensor) -> float:
        return psnr(images, model.decode(codes)).mean().item()

    exact = encoder.whitening.transform(s)
    decibels = quality(exact)
    print(f"{n} test images of {arguments.images}: {decibels:.2f} dB from float32 coefficients\n")
    print(f"{'stored as':>20} {'rms':>8} {'trailing':>9} {'largest':>8} {'PSNR':>12}")
    for name, dtype, shift in (
        ("float16 deviations", torch.float16, mean),
        ("float16 coefficients", torch.float16, torch.zeros_like(mean)),
        ("bfloat16 deviations", torch.bfloat16, mean),
    ):
        codes = encoder.whitening.transform(rounded(s, dtype, shift))
        change = codes - exact
        trailing = change[:, -_TRAILING:].square().mean().sqrt()
        print(
            f"{name:>20} {change.square().mean().sqrt():8.4f} {trailing:9.4f} "
            f"{change.abs().max():8.3f} {quality(codes) - decibels:+9.5f} dB"
        )


if __name__ == "__main__":
    main()
