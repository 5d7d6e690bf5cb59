"""Images and their mirror images as one source."""

import hashlib

import torch
from torch import Tensor

from scattergen.datasets.arrays import fingerprint_of
from scattergen.datasets.source import ImageSource, Index, positions


class WithMirrored:
    """Images to fit to, their mirror images, and then the images that are held out, likewise.

    With m of N images that are not held out, it holds images 0 … m − 1, the same mirrored left to right, images
    m … N − 1, and these mirrored: the first 2m are for fitting.

    Args:
        source: N images, a source or a tensor (N, C, H, W).
        n_held_out: number of the last images that are held out.
        mirrored: whether to mirror at all.

    Attributes:
        n_fit: number of the first images here that are not held out.
        times: 2 if there are mirrored images, else 1.

    Example:
        >>> x = torch.arange(6.0).view(3, 1, 1, 2)
        >>> WithMirrored(x, n_held_out=1)[:].flatten(1).tolist()
        [[0.0, 1.0], [2.0, 3.0], [1.0, 0.0], [3.0, 2.0], [4.0, 5.0], [5.0, 4.0]]
    """

    labels = None

    def __init__(self, source: ImageSource | Tensor, n_held_out: int = 0, mirrored: bool = True) -> None:
        self.source, self.times = source, 2 if mirrored else 1
        n, m = len(source), len(source) - n_held_out
        fit, held_out = torch.arange(m), torch.arange(m, n)
        parts = [fit, fit, held_out, held_out] if mirrored else [fit, held_out]
        self._numbers = torch.cat(parts)
        flipped = [torch.full((len(part),), i % 2 == 1) for i, part in enumerate(parts)]
        self._flipped = torch.cat(flipped) & mirrored
        self.n_fit = m * self.times

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Index) -> Tensor:
        chosen = torch.from_numpy(positions(index, len(self)))
        images, flipped = self.source[self._numbers[chosen]], self._flipped[chosen]
        if flipped.any():
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return images

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """What was computed for these images, in the source's order.

        Args:
            rows: one row for each of these images, (len(self), k).

        Returns:
            Rows of the images and of the mirrored images, each (N, k); None for the second if there are none.
        """
        plain = rows[~self._flipped]
        return plain, rows[self._flipped] if self.times == 2 else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.source.shape[-3:]
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the source's fingerprint and of what is done to it."""
        base = fingerprint_of(self.source)
        if self.times == 1 and self.n_fit == len(self):  # the images as they are
            return base
        text = f"{base} held out from {self.n_fit} times {self.times}"
        return hashlib.sha256(text.encode()).hexdigest()
