"""A learned step after the decoder that makes an image's code agree with the one that it was decoded from.

    python benchmarks/consistency.py LABEL --models runs/own-images/models [--faces DIR] [--emoji DIR] [--epochs 4]

For a model of benchmarks/own_images.py: the decoded image y is encoded again, the residual r = z − P S(y) is pulled
back to pixels (by least squares, and by the gradient of |r|² / 2), and a small network is trained to correct y by
what it sees, with the decoder's loss, the decoder being frozen: the first step of an unrolled inversion (Adler, Öktem,
"Learned primal-dual reconstruction", 2018). Printed are PSNR, kernel distance · 1000, sharpness and the residual of
restored test images and of the mixture's samples, with the decoder alone and with the step.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from own_images import rows
from torch import Tensor, nn
from torch.nn import functional

from scattergen import GenerativeScatteringNetwork, load
from scattergen.decoder.fit import shortening
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.display.machine import machine
from scattergen.evaluation import PerceptualFeatures, kernel_distance
from scattergen.image_quality import psnr, sharpness
from scattergen.report import save_image_grid

WEIGHT, BATCH, RATE, WIDTH = 0.25, 16, 3e-3, 96  # of the scattering loss; of the training; channels


class Step(nn.Module):
    """Corrects images in [-1, 1], at half their resolution, by a residual of codes."""

    def __init__(self, model: GenerativeScatteringNetwork) -> None:
        super().__init__()
        self.model, self.linear, (C, _, _) = model, model.linear, model.encoder.image_shape
        self.mixing = nn.Conv2d(self.linear.coefficients.shape[1], 32, 1)
        self.pixels, self.coefficients = nn.Conv2d(12 * C, WIDTH, 3, padding=1), nn.Conv2d(32, WIDTH, 1)
        self.down = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(4))
        self.last = nn.Conv2d(WIDTH, 4 * C, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # it starts as no correction
        nn.init.zeros_(self.last.bias)

    def see(self, z: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded images, the residual of the kept components, and its gradient in pixels."""
        with torch.no_grad():
            y = torch.cat([self.model.decoder(part) for part in z.split(64)]).float().clamp(-1, 1)
        x = ((y + 1) / 2).requires_grad_(True)
        with torch.enable_grad():
            residual = (z - self.code(x)) * kept
            (pulled,) = torch.autograd.grad(-residual.square().sum() / 2, x)
        residual = residual.detach()
        size = pulled.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-8
        pulled = pulled / size * residual.square().mean(1).sqrt()[:, None, None, None]
        return y, residual, pulled

    def code(self, x: Tensor) -> Tensor:
        """Codes, differentiable."""
        encoder = self.model.encoder
        return encoder.whitening.transform(encoder.scattering(x).flatten(1))

    def forward(self, y: Tensor, residual: Tensor, pulled: Tensor) -> Tensor:
        """Corrected images."""
        by_linear = 2 * (residual @ self.linear.weight).view_as(y)
        maps = self.mixing(torch.einsum("nd,dchw->nchw", residual, self.linear.coefficients))
        f = functional.pixel_unshuffle(torch.cat([y, by_linear, pulled], 1), 2)
        size = f.shape[2:]
        f = self.pixels(f) + self.coefficients(functional.interpolate(maps, size=size, mode="bilinear"))
        f = self.norms[0](f).relu()
        wide = functional.interpolate(self.middle(self.down(f).relu()).relu(), size=size, mode="bilinear")
        f = f + wide
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            f = f + norm(convolution(f)).relu()
        return y + functional.pixel_shuffle(self.last(f), 2)

    def decode(self, z: Tensor, kept: Tensor) -> Tensor:
        """Images in [0, 1]."""
        made = []
        for part in z.split(125):
            seen = self.see(part, kept)
            with torch.no_grad():
                made.append(((self(*seen) + 1) / 2).clamp(0, 1))
        return torch.cat(made)


def train(step: Step, x: Tensor, z: Tensor, mirrored: Tensor, epochs: int) -> None:
    """By all images but the last tenth, on which the best epoch is chosen."""
    n, d = len(x) - len(x) // 10, z.shape[1]
    loss = ScatteringLoss(step.model.encoder.image_shape).fit(2 * x[:512] - 1)

    def error(y: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        return (y - wanted).abs().mean() + WEIGHT * loss(y, wanted, generator)

    def validation() -> float:
        step.eval()
        y, generator = step.decode(z[n:], torch.ones(d)), torch.Generator().manual_seed(0)
        value = error(2 * y - 1, 2 * x[n:] - 1, generator).item()
        step.train()
        return value

    optimizer = torch.optim.Adam(step.parameters(), RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * (n // BATCH))
    generator, best, kept = torch.Generator().manual_seed(0), validation(), copy.deepcopy(step.state_dict())
    for epoch in range(epochs):
        for index in torch.randperm(n, generator=generator)[: n // BATCH * BATCH].split(BATCH):
            swapped = torch.rand(BATCH, generator=generator) < 0.5
            wanted = 2 * torch.where(swapped[:, None, None, None], x[index].flip(3), x[index]) - 1
            shortened = shortening(BATCH, d, 0.5, generator).float()
            codes = torch.where(swapped[:, None], mirrored[index], z[index]) * shortened
            seen = step.see(codes, shortened)
            with torch.autocast("cpu", torch.bfloat16):
                y = step(*seen)
            optimizer.zero_grad()
            error(y.float(), wanted, generator).backward()
            optimizer.step()
            schedule.step()
        found = validation()
        print(f"epoch {epoch + 1}: {found:.4f}", flush=True)
        if found < best:
            best, kept = found, copy.deepcopy(step.state_dict())
    step.load_state_dict(kept)
    step.eval()


def main() -> None:
    """Train a step, and print what it changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("label", help="of a row of own_images.py")
    parser.add_argument("--models", type=Path, required=True, help="folder of the fits of own_images.py")
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--emoji", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    name = "".join(c if c.isalnum() else "-" for c in arguments.label)
    data = rows(arguments.faces, arguments.emoji)[arguments.label][0]()
    assert data.test is not None, "all have test images"
    model, x, x_test = load(arguments.models / name), data.train[:], data.test[:1000]
    transform = model.encoder.transform
    z, mirrored, z_test = transform(x), transform(x.flip(3)), transform(x_test)
    torch.manual_seed(0)
    step, every = Step(model), torch.ones(z.shape[1])
    start = time.monotonic()
    train(step, x, z, mirrored, arguments.epochs)
    print(f"trained in {time.monotonic() - start:.0f} s")
    leading = model.densities["mixture"].sample(1000, seed=0)
    samples = functional.pad(leading, (0, z.shape[1] - leading.shape[1]))
    kept = (torch.arange(z.shape[1]) < leading.shape[1]).float()
    extract, detail = PerceptualFeatures(), sharpness(x_test).mean()
    reference, shown = extract(x_test), [x_test[:10]]
    print(f"{'images':32}{'PSNR':>7}{'kernel':>8}{'sharpness':>11}{'residual':>10}{'ms each':>9}")
    for label, codes, part in (("restored", z_test, every), ("samples", samples, kept)):
        for way, decode in (("decoder", lambda z, _: model.decode(z)), ("with the step", step.decode)):
            start = time.monotonic()
            y = decode(codes, part)
            each = 1000 * (time.monotonic() - start) / len(y)
            with torch.no_grad():
                residual = torch.cat(
                    [(step.code(a) - b) * part for a, b in zip(y.split(125), codes.split(125), strict=True)]
                )
            quality = f"{psnr(x_test, y).mean():7.2f}" if codes is z_test else " " * 7
            print(
                f"{label + ', ' + way:32}{quality}{1000 * kernel_distance(reference, extract(y)).value:8.0f}"
                f"{sharpness(y).mean() / detail:11.2f}{residual.square().mean().sqrt():10.3f}{each:9.1f}"
            )
            shown.append(y[:10])
    picture = arguments.models.parent / "pictures" / f"{name}-consistency.png"
    save_image_grid(torch.cat(shown), picture, columns=10)
    print(f"{picture}: test images; restored, with the step; samples, with the step. {machine()}")


if __name__ == "__main__":
    main()
