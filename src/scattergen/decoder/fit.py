"""Fitting the decoder: regression of images on their codes by the training loop."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scattergen.datasets import ImageArray, ImageSource
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.image_quality import psnr
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import read_tensors_if_whole, write_tensors
from scattergen.training import Batch, check_settings, check_shares, train
from scattergen.training_state import History, Metrics

LOSSES = ("pixels", "scattering")

_WEIGHT = 0.25  # of the scattering loss; few images restore worse by more of it (docs/log.md)
_SCALE_IMAGES = 512  # that the scattering loss takes the size of its paths from

# Rounds of validation in which the gap must have grown, and its size in dB, before a warning.
_GROWING_ROUNDS, _LARGE_GAP = 3, 2.0


class OverfittingWarning(UserWarning):
    """The decoder reproduces training images ever better than validation images."""


class _Pairs:
    """Codes and images, and perhaps codes of the mirrored images, read together by index."""

    def __init__(
        self, codes: Tensor, images: ImageSource | Tensor, n: int, mirrored: Tensor | None
    ) -> None:
        # As an array, for the thread that reads ahead (see `ImageReader.read`).
        self.codes, self.images, self.n = codes.numpy(), images, n
        self.mirrored = None if mirrored is None else mirrored.numpy()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor) -> Batch:
        rows = index.numpy()
        pair = (torch.from_numpy(self.codes[rows]), self.images[index])
        return pair if self.mirrored is None else (*pair, torch.from_numpy(self.mirrored[rows]))


class _Mirrored:
    """The first images of a source, left and right exchanged."""

    labels, fingerprint = None, ""  # not asked for

    def __init__(self, images: ImageSource | Tensor, n: int) -> None:
        channels, height, width = images.shape[-3:]
        self.images, self.n, self.shape = images, n, (channels, height, width)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.images[index].flip(3)


def augment(
    images: Tensor, generator: torch.Generator, *, flips: bool = False, shifts: int = 0
) -> Tensor:
    """Images that are mirrored left to right with probability one half and moved by a few pixels.

    Args:
        images: (N, C, H, W).
        generator: Source of all randomness.
        flips: Whether to mirror.
        shifts: Largest move along each axis in pixels; edge pixels are repeated.

    Returns:
        (N, C, H, W).

    Example:
        >>> x = torch.rand(4, 1, 8, 8)
        >>> augment(x, torch.Generator(), shifts=2).shape
        torch.Size([4, 1, 8, 8])
    """
    n, _, H, W = images.shape
    rows = torch.arange(H).expand(n, H)
    columns = torch.arange(W).expand(n, W)
    if flips:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if shifts:
        moves = torch.randint(-shifts, shifts + 1, (2, n, 1), generator=generator)
        rows = (rows + moves[0]).clamp(0, H - 1)
        columns = (columns + moves[1]).clamp(0, W - 1)
    batch = torch.arange(n)[:, None, None]
    moved = images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).contiguous()


def fit_decoder(
    decoder: Decoder | LocalDecoder,
    codes: Tensor,
    images: ImageSource | Tensor,
    *,
    loss: str = "pixels",
    epochs: int = 6,
    batch_size: int = 32,
    learning_rate: float = 2e-2,
    betas: tuple[float, float] = (0.9, 0.99),
    n_validation: int | None = None,
    patience: int | None = None,
    flips: bool = False,
    shifts: int = 0,
    shortened: float = 0.0,
    encoder: ScatteringEncoder | None = None,
    mirrored: Tensor | None = None,
    precision: str = "auto",
    seed: int = 0,
    device: str = "cpu",
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    on_epoch: Callable[[History], None] | None = None,
    progress: Progress = SILENT,
) -> History:
    r"""Train a decoder to invert codes, by the error of pixels or also of local scattering.

    $\min_G \sum_i \lVert G(z_i) - x_i \rVert_1$ over images in [-1, 1], by Adam with a one-cycle
    schedule; with `loss="scattering"` the mean over pixels plus a quarter of `ScatteringLoss`.

    Args:
        decoder: Trained in place.
        codes: (N, d).
        images: The N images of the codes.
        loss: "pixels", or "scattering", which makes sharper images.
        epochs: Passes over the data.
        batch_size: Images per step.
        learning_rate: Peak of the schedule.
        betas: Adam's decay rates.
        n_validation: How many of the last images are held out; a tenth, at most 5,000, by default.
        patience: Stop after so many epochs without a lower validation loss, and go back to the best
            epoch, or to a `LocalDecoder` as it was given if none was better.
        flips: Augment by mirrored images, whose codes are computed once (with `shifts`, in every
            step); needs `encoder`.
        shifts: Augment by moves of up to so many pixels, encoded in every step; needs `encoder`.
        shortened: Share of codes, in every step, that lose their components from a random one on:
            the decoder then makes images of any number of leading components.
        encoder: Computes the codes of augmented images.
        mirrored: Codes of the N mirrored images, if they are known already.
        precision: "float32", "bfloat16" or "auto".
        seed: Of the order of the data and the augmentation.
        device: Where to train.
        processes: Those that train together (see `scattergen.training.train`).
        checkpoint: File to resume from.
        on_epoch: Called after each epoch with the metrics of all epochs so far.
        progress: Where to report.

    Returns:
        One dictionary per epoch with "loss", "validation/loss" (the same over validation images),
        "validation/psnr" and "validation/train_psnr" (dB; mean over validation images and over as
        many training images).

    Raises:
        InputError: If there are too few images, or augmentation lacks its encoder.
        ScattergenError: If the loss becomes infinite or NaN.

    Warns:
        OverfittingWarning: If the gap between training and validation PSNR keeps growing.

    References:
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> x = torch.rand(64, 1, 8, 8)
        >>> decoder = Decoder(16, (1, 8, 8), channels=(8, 4))
        >>> history = fit_decoder(decoder, torch.randn(64, 16), x, epochs=1, batch_size=16)
        >>> sorted(history[0])[-3:]
        ['validation/loss', 'validation/psnr', 'validation/train_psnr']
    """
    if len(codes) != len(images):
        raise InputError(f"{len(codes)} codes do not fit {len(images)} images: give one each.")
    if loss not in LOSSES:
        raise InputError(f'loss="{loss}" is unknown: choose one of {", ".join(LOSSES)}.')
    if encoder is None and (shifts > 0 or (flips and mirrored is None)):
        raise InputError("Augmented images must be encoded again: pass the encoder too.")
    n_validation = _count_held_out(len(codes), n_validation)
    n = len(codes) - n_validation

    by_scattering = None
    if loss == "scattering":
        some = torch.linspace(0, n - 1, min(n, _SCALE_IMAGES)).round().long()
        by_scattering = ScatteringLoss(decoder.image_shape).fit(2 * images[some] - 1)

    def error(output: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        pixels = (output - wanted).abs().mean()
        if by_scattering is None or not torch.isfinite(pixels):  # the training has diverged
            return pixels
        return pixels + _WEIGHT * by_scattering(output.float(), wanted, generator)

    def step(modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        z, x, *rest = batch
        if rest:
            swapped = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            z = torch.where(swapped[:, None], rest[0], z)
            x = torch.where(swapped[:, None, None, None], x.flip(3), x)
        elif shifts > 0 and encoder is not None:
            x = augment(x.cpu(), generator, flips=flips, shifts=shifts)
            z = encoder.whitening.transform(encoder.features(x))
            z, x = z.to(device), x.to(device)
        if shortened > 0:
            z = z * _shortening(len(z), z.shape[1], shortened, generator).to(z)
        return error(modules["decoder"](z), 2 * x - 1, generator)

    def part(start: int, stop: int) -> tuple[float, float]:
        """Loss and PSNR of decoded images; `decoder` is in evaluation mode."""
        total, decibels = 0.0, 0.0
        generator = torch.Generator().manual_seed(seed)  # the same directions in every epoch
        for i in range(start, stop, 256):
            j = min(i + 256, stop)
            x, y = images[i:j], decoder(codes[i:j].to(device)).cpu()
            total += error(y, 2 * x - 1, generator).item() * (j - i)
            decibels += psnr(x, (y + 1) / 2).clamp(max=100).sum().item()
        return total / (stop - start), decibels / (stop - start)

    def validate() -> Metrics:
        lost, decibels = part(n, n + n_validation)
        seen = part(0, min(n, n_validation, 1000))[1]
        progress.message(f"  validation: {decibels:.2f} dB PSNR, training images {seen:.2f} dB")
        return {"loss": lost, "psnr": decibels, "train_psnr": seen}

    def after_epoch(history: History) -> None:
        if patience is None:  # else the best epoch is kept, whatever comes after it
            _warn_of_overfitting(history)
        if on_epoch is not None:
            on_epoch(history)

    if not flips or shifts > 0:
        mirrored = None
    elif mirrored is None and encoder is not None:
        mirrored = _mirrored_codes(encoder, _Mirrored(images, n), processes, checkpoint, progress)
    return train(
        {"decoder": decoder},
        {"decoder": step},
        _Pairs(codes, images, n, mirrored),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        betas=betas,
        validate=validate,
        patience=patience,
        from_start=isinstance(decoder, LocalDecoder),  # which starts as least squares
        seed=seed,
        precision=precision,
        device=device,
        prefetch=not isinstance(images, (Tensor, ImageArray)),
        processes=processes,
        checkpoint=checkpoint,
        on_epoch=after_epoch,
        progress=progress,
        description="decoder",
    )


def _shortening(n: int, d: int, share: float, generator: torch.Generator) -> Tensor:
    """Ones for the components that each of n codes keeps, (n, d)."""
    fewest = fewest_leading(d)
    kept = fewest * (d / fewest) ** torch.rand(n, generator=generator)  # as often in every octave
    chosen = torch.rand(n, generator=generator) < share
    return torch.arange(d) < torch.where(chosen, kept.floor(), torch.tensor(float(d)))[:, None]


def fewest_leading(d: int) -> int:
    """The least number of leading components that shortened codes keep.

    Args:
        d: Components of the codes.

    Returns:
        A thirty-second of them, and at least 4 if there are so many.

    Example:
        >>> fewest_leading(512), fewest_leading(50), fewest_leading(3)
        (16, 4, 3)
    """
    return min(d, max(4, d // 32))


def _mirrored_codes(
    encoder: ScatteringEncoder,
    images: _Mirrored,
    processes: Processes,
    checkpoint: Path | None,
    progress: Progress,
) -> Tensor:
    """Codes of mirrored images, (n, d); kept beside the checkpoint for a resumed training."""
    path = None if checkpoint is None else checkpoint.with_name("mirrored.safetensors")
    found = None
    if processes.rank == 0 and path is not None:
        found = read_tensors_if_whole(path)
        if found is None and path.exists():
            warnings.warn(f"{path} is damaged: it is made again.", stacklevel=2)
    stored = torch.empty(0) if found is None else found[0].get("codes", torch.empty(0))
    if processes.broadcast(len(stored) == len(images)):
        return processes.broadcast(stored)
    codes = encoder.transform(images, progress, processes=processes)
    if processes.rank == 0 and path is not None:
        write_tensors(path, {"codes": codes})
    return codes


def _warn_of_overfitting(history: History) -> None:
    """Warn in the first epoch in which the gap is large and has been growing."""
    gaps = [row["validation/train_psnr"] - row["validation/psnr"] for row in history]
    if _overfits(gaps) and not any(_overfits(gaps[:i]) for i in range(len(gaps))):
        warnings.warn(
            f"The decoder overfits: training images are {gaps[-1]:.1f} dB better than "
            "validation images, and the gap grows. Use more images, fewer epochs, or "
            "augmentation (shifts, flips).",
            OverfittingWarning,
            stacklevel=2,
        )


def _overfits(gaps: list[float]) -> bool:
    recent = gaps[-_GROWING_ROUNDS - 1 :]
    growing = all(a < b for a, b in pairwise(recent))
    return len(recent) > _GROWING_ROUNDS and growing and recent[-1] > _LARGE_GAP


def check_training(n: int, options: Mapping[str, Any], n_processes: int = 1) -> None:
    """Refuse options of `fit_decoder` before any work is done for them.

    Args:
        n: Number of images.
        options: Keywords of `fit_decoder`.
        n_processes: That train together.

    Raises:
        InputError: If a value is out of its range.

    Example:
        >>> check_training(100, {"n_validation": 99})
        Traceback (most recent call last):
        ...
        scattergen.errors.InputError: 100 images with 99 of them held out leave 1 to train on: ...
    """
    parameters = inspect.signature(fit_decoder).parameters
    chosen = {name: parameter.default for name, parameter in parameters.items()} | dict(options)
    n_validation = _count_held_out(n, chosen["n_validation"])
    if chosen["loss"] not in LOSSES:
        raise InputError(f'loss="{chosen["loss"]}" is unknown: choose one of {", ".join(LOSSES)}.')
    if not 0 <= chosen["shortened"] <= 1:
        raise InputError(f"shortened={chosen['shortened']} is no share: give 0 to 1.")
    if chosen["shifts"] < 0:
        raise InputError(f"shifts={chosen['shifts']}: give 0 or more pixels.")
    names = ("epochs", "batch_size", "learning_rate", "betas", "patience", "precision")
    check_settings(**{name: chosen[name] for name in names})
    check_shares(min(chosen["batch_size"], n - n_validation), n_processes)


def _count_held_out(n: int, n_validation: int | None) -> int:
    if n_validation is None:
        n_validation = min(5000, max(1, n // 10))
    if n_validation < 1 or n - n_validation < 2:
        raise InputError(
            f"{n} images with {n_validation} of them held out leave {max(n - n_validation, 0)} to "
            "train on: hold out at least 1 and leave at least 2."
        )
    return n_validation
