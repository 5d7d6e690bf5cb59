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
    """Images (N, C, H, W), perhaps mirrored with probability one half, moved by up to so many pixels along each axis.

    Edge pixels are repeated.
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
    """Codes (n, d) of the first n images mirrored, kept beside the checkpoint of the training until it is resumed."""
    path, stored = None, torch.empty(0)
    if checkpoint is not None and processes.rank == 0:
        path = checkpoint.with_name("mirrored.safetensors")
        found = read_tensors_if_whole(path)
        if found is not None:
            stored = found[0].get("codes", stored)
        elif path.exists():
            warnings.warn(f"{path} is damaged: it is made again.", stacklevel=2)
    if processes.broadcast(len(stored) == n):
        return processes.broadcast(stored)
    codes = encoder.transform(_Mirrored(images, n), progress, processes=processes)
    if path is not None:
        write_tensors(path, {"codes": codes})
    return codes


def shortening(n: int, d: int, share: float, generator: torch.Generator) -> Tensor:
    """Which components n codes keep, (n, d), if this share of them lose theirs from a random one on."""
    fewest = fewest_leading(d)
    kept = fewest * (d / fewest) ** torch.rand(n, generator=generator)  # as often in every octave
    chosen = torch.rand(n, generator=generator) < share
    return torch.arange(d) < torch.where(chosen, kept.floor(), torch.tensor(float(d)))[:, None]


def fewest_leading(d: int) -> int:
    """The fewest of d components that shortened codes keep: a thirty-second, and at least 4 if there are so many."""
    return min(d, max(4, d // 32))
