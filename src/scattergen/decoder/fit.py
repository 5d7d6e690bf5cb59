"""Fitting the decoder: regression of images on their codes by the training loop."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scattergen.datasets import ImageArray, ImageSource, Subset, WithMirrored
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.files.tensors import read_tensors_if_whole, write_tensors
from scattergen.image_quality import psnr
from scattergen.processes import ALONE, Processes
from scattergen.training.loop import Batch, History, Metrics, check_shares, train
from scattergen.training.settings import TrainingSettings

# Name to what is added to the error of pixels. It is made for (C, H, W) and fitted to real images in [-1, 1]; then it
# gives the loss of a decoder's output (N, C, H, W), the images that it should be, and a generator.
LOSSES: dict[str, Callable[[tuple[int, int, int]], Any] | None] = {
    "pixels": None,
    "scattering": ScatteringLoss,
}  # fmt: skip

_WEIGHT = 0.25  # of what is added; few images restore worse by more of it (docs/notes/log.md)
_REAL_IMAGES = 512  # that it is fitted to, such as the size of scattering paths
# Rounds of validation in which the gap must have grown, and its size in dB, before a warning.
_GROWING_ROUNDS, _LARGE_GAP = 3, 2.0


class OverfittingWarning(UserWarning):
    """The decoder reproduces training images ever better than validation images."""


@dataclass(frozen=True, kw_only=True)
class DecoderTraining:
    r"""Trains decoders to invert codes, by the error of pixels or also of local scattering.

    $\min_G \sum_i \lVert G(z_i) - x_i \rVert_1$ over images in [-1, 1], by Adam with a one-cycle schedule; with
    `loss="scattering"`, which makes sharper images, the mean over pixels plus a quarter of `ScatteringLoss`. A value
    out of its range raises an `InputError`.

    Args:
        loss: "pixels", or "scattering" for the error of local scattering, too.
        epochs, batch_size, learning_rate, betas, precision: As in `training.TrainingSettings`.
        n_validation: How many of the last images are held out; a tenth, at most 5,000, by default.
        patience: Stop after so many epochs without a lower validation loss, and go back to the best, or, with
            a local decoder, to least squares if none was better.
        flips: Augment by mirrored images, whose codes are computed once (with `shifts`, in every step).
        shifts: Augment by moves of up to so many pixels, encoded in every step.
        shortened: Share of codes that lose, in every step, components from a random one on, so that fewer do, too.

    Example:
        >>> decoder, z, x = Decoder(16, (1, 8, 8), channels=(8, 4)), torch.randn(64, 16), torch.rand(64, 1, 8, 8)
        >>> sorted(DecoderTraining(epochs=1, batch_size=16).fit(decoder, z, x)[0])[-3:]
        ['validation/loss', 'validation/psnr', 'validation/train_psnr']
    """

    loss: str = "pixels"
    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 2e-2
    betas: tuple[float, float] = (0.9, 0.99)
    n_validation: int | None = None
    patience: int | None = None
    flips: bool = False
    shifts: int = 0
    shortened: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f'loss="{self.loss}" is unknown: choose one of {", ".join(LOSSES)}.')
        if not 0 <= self.shortened <= 1:
            raise InputError(f"shortened={self.shortened} is no share: give 0 to 1.")
        if self.shifts < 0:
            raise InputError(f"shifts={self.shifts}: give 0 or more pixels.")
        TrainingSettings.of(self)  # which refuses the others

    def held_out(self, n: int) -> int:
        """How many of n images are held out for validation; an `InputError` if too few are left to train on."""
        n_validation = min(5000, max(1, n // 10)) if self.n_validation is None else self.n_validation
        if n_validation < 1 or n - n_validation < 2:
            problem = f"{n} images with {n_validation} of them held out leave {max(n - n_validation, 0)} to train on"
            raise InputError(f"{problem}: hold out at least 1 and leave at least 2.")
        return n_validation

    def check(self, n: int, n_processes: int = 1) -> None:
        """Refuse too few images, or too many processes that train together, before any work is done for them."""
        check_shares(min(self.batch_size, n - self.held_out(n)), n_processes)

    def fit(
        self, decoder: Decoder | LocalDecoder, codes: Tensor, images: ImageSource | Tensor, *,
        encoder: ScatteringEncoder | None = None, mirrored: Tensor | None = None, seed: int = 0, device: str = "cpu",
        processes: Processes = ALONE, checkpoint: Path | None = None,
        on_epoch: Callable[[History], None] | None = None, progress: Progress = SILENT,
    ) -> History:  # fmt: skip
        """Train a decoder in place; an `OverfittingWarning` tells of a growing gap of training to validation PSNR.

        `codes` (N, d) are of the N images, and `mirrored` of the same images mirrored, if they are known already. The
        `encoder` computes those of augmented images, and `flips` and `shifts` need it. The other arguments, and the
        metrics of each epoch, are as in `scattergen.training.train`: "loss", "validation/loss", "validation/psnr" and
        "validation/train_psnr" (dB). An `InputError` if there are too few images, or augmentation lacks its encoder; a
        `ScattergenError` if the loss becomes infinite or NaN.
        """
        if len(codes) != len(images):
            raise InputError(f"{len(codes)} codes do not fit {len(images)} images: give one each.")
        if encoder is None and (self.shifts > 0 or (self.flips and mirrored is None)):
            raise InputError("Augmented images must be encoded again: pass the encoder too.")
        task = _Regression(self, decoder, codes, images, encoder, seed, device, progress)
        if self.flips and self.shifts == 0:
            task.mirrored = task.mirrored_codes(processes, checkpoint) if mirrored is None else mirrored

        def after_epoch(history: History) -> None:
            if self.patience is None:  # else the best epoch is kept, whatever comes after it
                _warn_of_overfitting(history)
            if on_epoch is not None:
                on_epoch(history)

        settings = TrainingSettings.of(
            self, description="decoder", seed=seed, device=device,
            from_start=isinstance(decoder, LocalDecoder),  # which starts as least squares
            prefetch=not isinstance(images, (Tensor, ImageArray)),
        )  # fmt: skip
        return train(
            {"decoder": decoder}, {"decoder": task.loss}, task, settings, validate=task.validate,
            processes=processes, checkpoint=checkpoint, on_epoch=after_epoch, progress=progress,
        )  # fmt: skip


@dataclass
class _Regression:
    """One regression of images on their codes: its data and loss, the first n, and its validation on the others."""

    training: DecoderTraining
    decoder: Decoder | LocalDecoder
    codes: Tensor
    images: ImageSource | Tensor
    encoder: ScatteringEncoder | None
    seed: int
    device: str
    progress: Progress
    mirrored: Tensor | None = None  # codes of mirrored images

    def __post_init__(self) -> None:
        self.n = len(self.codes) - self.training.held_out(len(self.codes))
        self.added: Any = None
        make = LOSSES[self.training.loss]
        if make is not None:
            some = torch.linspace(0, self.n - 1, min(self.n, _REAL_IMAGES)).round().long()
            self.added = make(self.decoder.image_shape).fit(2 * self.images[some] - 1)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor) -> Batch:
        """Codes, images, and the mirrored images' codes if there are any."""
        # By NumPy, for the thread that reads ahead (see `ImageReader`).
        tables = [self.codes] if self.mirrored is None else [self.codes, self.mirrored]
        z, *others = (torch.from_numpy(table.numpy()[index.numpy()]) for table in tables)
        return z, self.images[index], *others

    def mirrored_codes(self, processes: Processes, checkpoint: Path | None) -> Tensor:
        """Codes (n, d) of the n images mirrored, kept beside the training's checkpoint until it is resumed."""
        assert self.encoder is not None
        path, codes = None, torch.empty(0)
        if checkpoint is not None and processes.rank == 0:
            path = checkpoint.with_name("mirrored.safetensors")
            found = read_tensors_if_whole(path)
            if found is not None:
                codes = found[0].get("codes", codes)
            elif path.exists():
                warnings.warn(f"{path} is damaged: it is made again.", stacklevel=2)
        codes = processes.broadcast(codes)
        if len(codes) != self.n:
            first = len(self.images)  # of those that are mirrored
            mirrored = Subset(WithMirrored(self.images), slice(first, first + self.n))
            codes = self.encoder.transform(mirrored, self.progress, processes=processes)
            if path is not None:
                write_tensors(path, {"codes": codes})
        return codes

    def error(self, output: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Of images in [-1, 1]."""
        pixels = (output - wanted).abs().mean()
        if self.added is None or not torch.isfinite(pixels):  # the training has diverged
            return pixels
        return pixels + _WEIGHT * self.added(output.float(), wanted, generator)

    def loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """The error of a batch, augmented as the options say."""
        how = self.training
        z, x, *rest = batch
        if rest:
            swapped = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            z = torch.where(swapped[:, None], rest[0], z)
            x = torch.where(swapped[:, None, None, None], x.flip(3), x)
        elif how.shifts > 0 and self.encoder is not None:
            x = augment(x.cpu(), generator, flips=how.flips, shifts=how.shifts)
            z = self.encoder.whitening.transform(self.encoder.features(x))
            z, x = z.to(self.device), x.to(self.device)
        if how.shortened > 0:
            z = z * shortening(len(z), z.shape[1], how.shortened, generator).to(z)
        return self.error(modules["decoder"](z), 2 * x - 1, generator)

    def validate(self) -> Metrics:
        """Loss and PSNR of the held-out images, and PSNR of as many others."""
        lost, decibels = self._measure(self.n, len(self.codes))
        seen = self._measure(0, min(self.n, len(self.codes) - self.n, 1000))[1]
        self.progress.message(f"  validation: {decibels:.2f} dB PSNR, training images {seen:.2f} dB")
        return {"loss": lost, "psnr": decibels, "train_psnr": seen}

    def _measure(self, start: int, stop: int) -> tuple[float, float]:
        """Loss and PSNR of decoded images; the decoder is in evaluation mode."""
        total, decibels = 0.0, 0.0
        generator = torch.Generator().manual_seed(self.seed)  # the same directions in every epoch
        for i in range(start, stop, 256):
            j = min(i + 256, stop)
            x, y = self.images[i:j], self.decoder(self.codes[i:j].to(self.device)).cpu()
            total += self.error(y, 2 * x - 1, generator).item() * (j - i)
            decibels += psnr(x, (y + 1) / 2).clamp(max=100).sum().item()
        return total / (stop - start), decibels / (stop - start)


def _warn_of_overfitting(history: History) -> None:
    """Warn in the first epoch in which the gap is large and has been growing."""
    gaps = [row["validation/train_psnr"] - row["validation/psnr"] for row in history]
    if _overfits(gaps) and not any(_overfits(gaps[:i]) for i in range(len(gaps))):
        problem = f"training images are {gaps[-1]:.1f} dB better than validation images, and the gap grows"
        remedy = "Use more images, fewer epochs, or augmentation (shifts, flips)."
        warnings.warn(f"The decoder overfits: {problem}. {remedy}", OverfittingWarning, stacklevel=2)


def _overfits(gaps: list[float]) -> bool:
    recent = gaps[-_GROWING_ROUNDS - 1 :]
    return len(recent) > _GROWING_ROUNDS and recent[-1] > _LARGE_GAP and all(a < b for a, b in pairwise(recent))


def augment(images: Tensor, generator: torch.Generator, *, flips: bool = False, shifts: int = 0) -> Tensor:
    """Images (N, C, H, W), mirrored at random, moved by up to so many pixels along each axis; edges are repeated."""
    n, _, H, W = images.shape
    rows, columns = torch.arange(H).expand(n, H), torch.arange(W).expand(n, W)
    if flips:
        columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    if shifts:
        moves = torch.randint(-shifts, shifts + 1, (2, n, 1), generator=generator)
        rows, columns = (rows + moves[0]).clamp(0, H - 1), (columns + moves[1]).clamp(0, W - 1)
    batch = torch.arange(n)[:, None, None]
    return images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


def shortening(n: int, d: int, share: float, generator: torch.Generator) -> Tensor:
    """Which components n codes keep, (n, d), if this share of them lose theirs from a random one on."""
    fewest = fewest_leading(d)
    kept = fewest * (d / fewest) ** torch.rand(n, generator=generator)  # as often in every octave
    chosen = torch.rand(n, generator=generator) < share
    return torch.arange(d) < torch.where(chosen, kept.floor(), torch.tensor(float(d)))[:, None]


def fewest_leading(d: int) -> int:
    """The fewest of d components that shortened codes keep: a thirty-second, and at least 4 if there are so many."""
    return min(d, max(4, d // 32))
