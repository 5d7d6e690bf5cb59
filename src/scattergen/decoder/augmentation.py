"""Changed images and codes that decoders are trained on, too: mirrored, moved, cut short."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import read_tensors_if_whole, write_tensors


def augment(images: Tensor, generator: torch.Generator, *, flips: bool = False, shifts: int = 0) -> Tensor:
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


def mirrored_codes(
    encoder: ScatteringEncoder,
    images: ImageSource | Tensor,
    n: int,
    *,
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """Codes of the first images of a source, mirrored left to right.

    Args:
        encoder: Computes them.
        images: At least n.
        n: How many.
        processes: Those that share the work.
        checkpoint: Of the training, beside which they are kept until it is resumed.
        progress: Where to report.

    Returns:
        (n, d).

    Warns:
        UserWarning: If those that were kept are damaged.
    """
    path = None if checkpoint is None else checkpoint.with_name("mirrored.safetensors")
    found = None
    if processes.rank == 0 and path is not None:
        found = read_tensors_if_whole(path)
        if found is None and path.exists():
            warnings.warn(f"{path} is damaged: it is made again.", stacklevel=2)
    stored = torch.empty(0) if found is None else found[0].get("codes", torch.empty(0))
    if processes.broadcast(len(stored) == n):
        return processes.broadcast(stored)
    codes = encoder.transform(_Mirrored(images, n), progress, processes=processes)
    if processes.rank == 0 and path is not None:
        write_tensors(path, {"codes": codes})
    return codes


def shortening(n: int, d: int, share: float, generator: torch.Generator) -> Tensor:
    """Which components each of n codes keeps, if some lose theirs from a random one on.

    Args:
        n: Number of codes.
        d: Of their components.
        share: Of the codes that lose some.
        generator: Source of all randomness.

    Returns:
        (n, d), True for components that are kept.

    Example:
        >>> shortening(4, 3, 0.0, torch.Generator()).all().item()
        True
    """
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
