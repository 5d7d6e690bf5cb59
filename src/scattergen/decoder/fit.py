"""Fitting the decoder: regression of images on their codes by the training loop."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from scattergen.datasets import ImageArray, ImageSource
from scattergen.decoder.augmentation import augment, mirrored_codes, shortening
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.image_quality import psnr
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.training.loop import Batch, check_shares, train
from scattergen.training.settings import TrainingSettings
from scattergen.training.state import History, Metrics


class ImageLoss(Protocol):
    """A loss of images in [-1, 1], (N, C, H, W), made for a shape and fitted to real ones."""

    def fit(self, images: Tensor, /) -> Self:
        """Look at real images."""

    def __call__(self, output: Tensor, images: Tensor, generator: torch.Generator, /) -> Tensor:
        """The loss of a decoder's output, given the images that it should be."""


LOSSES: dict[str, Callable[[tuple[int, int, int]], ImageLoss] | None] = {
    "pixels": None,
    "scattering": ScatteringLoss,
}  # fmt: skip
"""Name to what is added to the error of pixels; None for nothing."""

_WEIGHT = 0.25  # of what is added; few images restore worse by more of it (docs/notes/log.md)
_REAL_IMAGES = 512  # that it is fitted to, such as the size of scattering paths

# Rounds of validation in which the gap must have grown, and its size in dB, before a warning.
_GROWING_ROUNDS, _LARGE_GAP = 3, 2.0


class OverfittingWarning(UserWarning):
    """The decoder reproduces training images ever better than validation images."""


class _Pairs:
    """Codes and images, and perhaps codes of the mirrored images, read together by index."""

    def __init__(self, codes: Tensor, images: ImageSource | Tensor, n: int, mirrored: Tensor | None) -> None:
        # As an array, for the thread that reads ahead (see `ImageReader.read`).
        self.codes, self.images, self.n = codes.numpy(), images, n
        self.mirrored = None if mirrored is None else mirrored.numpy()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor) -> Batch:
        rows = index.numpy()
        pair = (torch.from_numpy(self.codes[rows]), self.images[index])
        return pair if self.mirrored is None else (*pair, torch.from_numpy(self.mirrored[rows]))


@dataclass(frozen=True, kw_only=True)
class DecoderTraining:
    r"""Trains decoders to invert codes, by the error of pixels or also of local scattering.

    $\min_G \sum_i \lVert G(z_i) - x_i \rVert_1$ over images in [-1, 1], by Adam with a one-cycle schedule; with
    `loss="scattering"` the mean over pixels plus a quarter of `ScatteringLoss`.

    Args:
        loss: "pixels", or "scattering", which makes sharper images.
        epochs: Passes over the data.
        batch_size: Images per step.
        learning_rate: Peak of the schedule.
        betas: Adam's decay rates.
        n_validation: How many of the last images are held out; a tenth, at most 5,000, by default.
        patience: Stop after so many epochs without a lower validation loss, and go back to the best epoch, or to a
            `LocalDecoder` as it was given if none was better.
        flips: Augment by mirrored images, whose codes are computed once (with `shifts`, in every step).
        shifts: Augment by moves of up to so many pixels, encoded in every step.
        shortened: Share of codes, in every step, that lose their components from a random one on: the decoder then
            makes images of any number of leading components.
        precision: "float32", "bfloat16" or "auto".

    Raises:
        InputError: If a value is out of its range.

    Example:
        >>> x = torch.rand(64, 1, 8, 8)
        >>> decoder = Decoder(16, (1, 8, 8), channels=(8, 4))
        >>> training = DecoderTraining(epochs=1, batch_size=16)
        >>> history = training.fit(decoder, torch.randn(64, 16), x)
        >>> sorted(history[0])[-3:]
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
        """How many of n images are held out for validation.

        Args:
            n: Number of images.

        Returns:
            At least 1.

        Raises:
            InputError: If too few images are left to train on.

        Example:
            >>> DecoderTraining().held_out(100)
            10
        """
        n_validation = min(5000, max(1, n // 10)) if self.n_validation is None else self.n_validation
        if n_validation < 1 or n - n_validation < 2:
            raise InputError(
                f"{n} images with {n_validation} of them held out leave {max(n - n_validation, 0)} "
                "to train on: hold out at least 1 and leave at least 2."
            )
        return n_validation

    def check(self, n: int, n_processes: int = 1) -> None:
        """Refuse a number of images, or of processes, before any work is done for them.

        Args:
            n: Number of images.
            n_processes: That train together.

        Raises:
            InputError: If the images are too few, or the processes too many.

        Example:
            >>> DecoderTraining(n_validation=99).check(100)
            Traceback (most recent call last):
            ...
            scattergen.errors.InputError: 100 images with 99 of them held out leave 1 to ...
        """
        check_shares(min(self.batch_size, n - self.held_out(n)), n_processes)

    def fit(
        self,
        decoder: Decoder | LocalDecoder,
        codes: Tensor,
        images: ImageSource | Tensor,
        *,
        encoder: ScatteringEncoder | None = None,
        mirrored: Tensor | None = None,
        seed: int = 0,
        device: str = "cpu",
        processes: Processes = ALONE,
        checkpoint: Path | None = None,
        on_epoch: Callable[[History], None] | None = None,
        progress: Progress = SILENT,
    ) -> History:
        """Train a decoder in place.

        Args:
            decoder: Trained afterwards.
            codes: (N, d).
            images: The N images of the codes.
            encoder: Computes the codes of augmented images, which `flips` and `shifts` need.
            mirrored: Codes of the N mirrored images, if they are known already.
            seed: Of the order of the data and the augmentation.
            device: Where to train.
            processes: Those that train together (see `scattergen.training.train`).
            checkpoint: File to resume from.
            on_epoch: Called after each epoch with the metrics of all epochs so far.
            progress: Where to report.

        Returns:
            One dictionary per epoch with "loss", "validation/loss" (the same over validation images),
            "validation/psnr" and "validation/train_psnr" (dB; mean over validation images and over as many training
            images).

        Raises:
            InputError: If there are too few images, or augmentation lacks its encoder.
            ScattergenError: If the loss becomes infinite or NaN.

        Warns:
            OverfittingWarning: If the gap between training and validation PSNR keeps growing.
        """
        if len(codes) != len(images):
            raise InputError(f"{len(codes)} codes do not fit {len(images)} images: give one each.")
        if encoder is None and (self.shifts > 0 or (self.flips and mirrored is None)):
            raise InputError("Augmented images must be encoded again: pass the encoder too.")
        task = _Regression(self, decoder, codes, images, encoder, seed, device, progress)
        if not self.flips or self.shifts > 0:
            mirrored = None
        elif mirrored is None and encoder is not None:
            mirrored = mirrored_codes(
                encoder, images, task.n, processes=processes, checkpoint=checkpoint, progress=progress
            )

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
            {"decoder": decoder}, {"decoder": task.loss}, _Pairs(codes, images, task.n, mirrored), settings,
            validate=task.validate, processes=processes, checkpoint=checkpoint, on_epoch=after_epoch,
            progress=progress,
        )  # fmt: skip


@dataclass
class _Regression:
    """One regression of images on their codes: its loss on the first n, and its validation on the others."""

    training: DecoderTraining
    decoder: Decoder | LocalDecoder
    codes: Tensor
    images: ImageSource | Tensor
    encoder: ScatteringEncoder | None
    seed: int
    device: str
    progress: Progress

    def __post_init__(self) -> None:
        self.n = len(self.codes) - self.training.held_out(len(self.codes))
        self.added: ImageLoss | None = None
        make = LOSSES[self.training.loss]
        if make is not None:
            some = torch.linspace(0, self.n - 1, min(self.n, _REAL_IMAGES)).round().long()
            self.added = make(self.decoder.image_shape).fit(2 * self.images[some] - 1)

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
        warnings.warn(
            f"The decoder overfits: training images are {gaps[-1]:.1f} dB better than validation images, and the gap "
            "grows. Use more images, fewer epochs, or augmentation (shifts, flips).",
            OverfittingWarning,
            stacklevel=2,
        )


def _overfits(gaps: list[float]) -> bool:
    recent = gaps[-_GROWING_ROUNDS - 1 :]
    growing = all(a < b for a, b in pairwise(recent))
    return len(recent) > _GROWING_ROUNDS and growing and recent[-1] > _LARGE_GAP
