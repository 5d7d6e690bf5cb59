"""Giving decoded images the fine detail of real ones, by the power of their frequencies."""

import math
from typing import Self

import torch
from torch import Tensor

from scattergen.errors import InputError

_MOST = 2.0  # a gain; more would magnify what is but noise


class Sharpening:
    r"""Factors of the frequencies of decoded images that give them the power of real images.

    With the cosine transform $\hat y(k)$ of an image, $\hat y(k)\, g(|k|)^s$ has at strength s = 1, on average over
    images and directions, the power of the real images; at s = 0 nothing changes. Images look crisper, and know no more
    than before. The gains g, (R,), are those at the radii 0, 1, 2, …, in half periods along the longer side.
    """

    def __init__(self, gains: Tensor) -> None:
        if gains.ndim != 1 or not (torch.isfinite(gains).all() and (gains > 0).all()):
            raise InputError("The gains of a sharpening are one positive number per radius.")
        self.gains = gains

    @classmethod
    def fit(cls, images: Tensor, decoded: Tensor) -> Self:
        """Measure the gains by real images (N, C, H, W) and the same, decoded from their codes."""
        radii = _radii(*images.shape[2:])
        # A frequency that decoded images lack has nothing that could be magnified.
        ratio = (_power(images, radii) / _power(decoded, radii)).sqrt()
        return cls(ratio.clamp(1.0, _MOST).nan_to_num(1.0).float())

    def __call__(self, images: Tensor, strength: float = 1.0) -> Tensor:
        """Sharpened images (N, C, H, W) in [0, 1], at a strength from 0 to 1."""
        if not 0 <= strength <= 1:
            raise InputError(f"A strength of {strength}: give a number from 0 to 1.")
        if strength == 0:
            return images
        H, W = images.shape[2:]
        return sharpened(images, *(matrix.to(images) for matrix in self.matrices(H, W, strength)))

    def matrices(self, H: int, W: int, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        """The cosine transforms of columns, (H, H), and rows, (W, W), and the factor of each frequency, (H, W)."""
        return _cosines(H), _cosines(W), self.gains[_radii(H, W)] ** strength


def sharpened(images: Tensor, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
    """Images (N, C, H, W) with the frequencies multiplied, by the matrices of a sharpening."""
    frequencies = rows @ images @ columns.T
    return (rows.T @ (frequencies * factor) @ columns).clamp(0, 1)


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of a vector as a matrix, (size, size)."""
    k = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * k[:, None] * (k + 0.5)) * (2 / size) ** 0.5
    waves[0] /= 2**0.5
    return waves.float()


def _radii(H: int, W: int) -> Tensor:
    """Radius of each frequency, (H, W), at most that of the last along the longer side."""
    longest = max(H, W)
    rows, columns = (torch.arange(n) * (longest / n) for n in (H, W))
    return torch.hypot(rows[:, None], columns).round().long().clamp(max=longest - 1)


def _power(images: Tensor, radii: Tensor) -> Tensor:
    """Mean power at each radius."""
    rows, columns = (_cosines(size).to(images) for size in images.shape[2:])
    power = (rows @ images @ columns.T).double().square().mean((0, 1)).flatten()
    at, counts = radii.flatten(), radii.flatten().bincount()
    return torch.zeros(len(counts), dtype=torch.float64).index_add_(0, at, power) / counts
