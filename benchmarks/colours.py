"""Opponent colours instead of RGB in the encoder: least squares from as many components, on test images.

    python benchmarks/colours.py [--faces DIR] [--emoji DIR] [--only LABEL …]

Encoders are fitted to images in RGB, and to luminance and two chroma channels (an orthonormal basis of colours, chroma
times a weight, which decides how many components it gets). Least squares from the codes restores RGB: the codes that
know more have the higher PSNR.  Images are those of benchmarks/own_images.py.
"""

import argparse
from pathlib import Path

import torch
from own_images import emoji, faces, photos, shapes
from torch import Tensor

from scattergen.datasets import Dataset
from scattergen.decoder.local import LinearDecoder
from scattergen.display.machine import machine
from scattergen.encoder import ScatteringEncoder

WEIGHTS = (1.0, 0.7, 0.5)
COMPONENTS = {"shapes 1000": 256, "photos 1000": 192, "emoji": 256, "faces 2000": 256}


def opponent(weight: float) -> Tensor:
    """Rows are luminance, red against blue, and both against green."""
    basis = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    basis /= basis.norm(dim=1, keepdim=True)
    return basis * torch.tensor([1.0, weight, weight])[:, None]


def restored(x: Tensor, x_test: Tensor, colours: Tensor, n_components: int) -> Tensor:
    """Test images by least squares from codes of images in other colours."""

    def seen(images: Tensor) -> Tensor:
        mixed = torch.einsum("ij,njhw->nihw", colours, images)
        return (mixed - low) / (high - low)  # one scale for all channels, so that only `colours` weighs them

    low, high = 0.0, 1.0
    both = torch.cat([seen(x), seen(x_test)])
    low, high = both.min().item(), both.max().item()
    J = 3 if x.shape[-1] == 64 else 2
    encoder = ScatteringEncoder(tuple(x.shape[1:]), J=J, n_components=n_components, flips=True, store="memory")
    encoder.fit(seen(x))
    codes, mirrored = (encoder.transform(seen(images)) for images in (x, x.flip(3)))
    return LinearDecoder.of(encoder).fit(codes, x, mirrored).decode(encoder.transform(seen(x_test)))


def decibels(x: Tensor, y: Tensor) -> float:
    """PSNR in the mean of images, or of their chroma, which is not in [0, 1]."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10().mean().item()


def main() -> None:
    """One line for each kind of images and colours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, help="folder of CelebA's aligned images")
    parser.add_argument("--emoji", type=Path, help="folder of emoji, a sub-folder for each class")
    parser.add_argument("--only", nargs="*", choices=COMPONENTS, default=list(COMPONENTS))
    arguments = parser.parse_args()
    makers = {
        "shapes 1000": lambda: Dataset("shapes", shapes(1000, 0), shapes(500, 1)),
        "photos 1000": lambda: Dataset("photos", photos(1000, 0), photos(500, 1)),
        "emoji": lambda: emoji(arguments.emoji, None),
        "faces 2000": lambda: faces(arguments.faces, 2000),
    }
    print(f"{'images':14}{'components':>11}  {'colours':18}{'PSNR':>7}{'grey':>7}{'rest':>7}")
    for label in arguments.only:
        try:
            data = makers[label]()
        except FileNotFoundError as error:
            print(f"left out: {label} ({error})")
            continue
        assert data.test is not None, "all have test images"
        x, x_test = data.train[:], data.test[:1000]
        grey = x_test.mean(1, keepdim=True)
        for weight in (None, *WEIGHTS):
            y = restored(x, x_test, torch.eye(3) if weight is None else opponent(weight), COMPONENTS[label])
            y_grey = y.mean(1, keepdim=True)
            scores = [decibels(a, b) for a, b in ((x_test, y), (grey, y_grey), (x_test - grey, y - y_grey))]
            name = "RGB" if weight is None else f"opponent, {weight}"
            print(f"{label:14}{COMPONENTS[label]:11}  {name:18}{scores[0]:7.2f}{scores[1]:7.2f}{scores[2]:7.2f}")
    print(machine())


if __name__ == "__main__":
    main()
