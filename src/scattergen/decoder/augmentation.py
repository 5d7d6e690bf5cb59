"""Changed images and codes that decoders are trained on, too: mirrored, moved, cut short."""

import torch
from torch import Tensor

from scattergen.datasets import ImageSource


def augment(images: Tensor, generator: torch.Generator, *, flips: bool = False, shifts: int = 0) -> Tensor:
    """Images (N, C, H, W), perhaps mirrored with probability one half, moved by up to so many pixels along each axis.

    Edge pixels are repeated.
    """
    n, _, H, W = images.shape
    rows, columns = torch.arange(H).expand(n, H), torch.arange(W).expand(n, W)
    if flips:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if shifts:
        moves = torch.randint(-shifts, shifts + 1, (2, n, 1), generator=generator)
        rows, columns = (rows + moves[0]).clamp(0, H - 1), (columns + moves[1]).clamp(0, W - 1)
    batch = torch.arange(n)[:, None, None]
    moved = images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).contiguous()


class Mirrored:
    """The first images of a source, left and right exchanged."""

    labels, fingerprint = None, ""  # not asked for

    def __init__(self, images: ImageSource | Tensor, n: int) -> None:
        channels, height, width = images.shape[-3:]
        self.images, self.n, self.shape = images, n, (channels, height, width)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.images[index].flip(3)


def shortening(n: int, d: int, share: float, generator: torch.Generator) -> Tensor:
    """Which components n codes keep, (n, d), if this share of them lose theirs from a random one on."""
    fewest = fewest_leading(d)
    kept = fewest * (d / fewest) ** torch.rand(n, generator=generator)  # as often in every octave
    chosen = torch.rand(n, generator=generator) < share
    return torch.arange(d) < torch.where(chosen, kept.floor(), torch.tensor(float(d)))[:, None]


def fewest_leading(d: int) -> int:
    """The fewest of d components that shortened codes keep: a thirty-second, and at least 4 if there are so many."""
    return min(d, max(4, d // 32))
