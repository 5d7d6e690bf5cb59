"""Morlet wavelets and the Gaussian low-pass of the scattering transform, built in Fourier.

By Poisson's formula, a filter sampled on a periodic grid has as its discrete Fourier transform the sum of the
2π-translates of its continuous one. All filters here are (differences of) Gaussians in Fourier, so they are real
there, need no FFT, and are exact to float64 rounding.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, hypot, pi, sin

import numpy as np
import torch
from torch import Tensor

SIGMA = 0.8
"""Spatial standard deviation of the finest envelope, in pixels."""

XI = 3 * pi / 4
"""Centre frequency of the finest wavelet, in radians per pixel."""

# Translates of a Gaussian that are more than this many standard deviations away contribute less
# than exp(-9.5²/2) = 3e-20, below float64 rounding of a filter whose maximum is about 1.
_REACH = 9.5


@dataclass(frozen=True)
class FilterBank:
    """Fourier-domain filters of one padded grid, real, in float64.

    Attributes:
        psi: Wavelets, (J, L, M, N).
        phi_rows: Low-pass along the rows' axis, (M,); the 2-D low-pass is the outer product.
        phi_columns: Low-pass along the columns' axis, (N,).
    """

    psi: Tensor
    phi_rows: Tensor
    phi_columns: Tensor


def _bins(size: int, centre: float, deviation: float) -> Tensor:
    """Bins of all periods of a spectrum in which a Gaussian matters, int64."""
    bins = size / (2 * pi)
    low, high = centre - _REACH * deviation, centre + _REACH * deviation
    return torch.arange(ceil(low * bins), floor(high * bins) + 1)


def _exp(x: Tensor) -> Tensor:
    """Exponentials with the same bits in every process.

    PyTorch's are computed by several threads, and in about one fresh process of 25 the bank had other last bits:
    enough that a resumed fit differs from an uninterrupted one.
    """
    return torch.from_numpy(np.exp(x.numpy()))


def gaussian(size: int, sigma: float) -> Tensor:
    r"""Spectrum of a periodised Gaussian of unit mass, (size,): $\sum_k e^{-\sigma^2 (\omega + 2\pi k)^2 / 2}$."""
    bins = _bins(size, 0.0, 1 / sigma)
    values = _exp(-0.5 * (2 * pi / size * sigma * bins.double()) ** 2)
    return values.new_zeros(size).index_add_(0, bins % size, values)


def morlet(shape: tuple[int, int], sigma: float, theta: float, xi: float, slant: float) -> Tensor:
    r"""Spectrum (M, N) of a periodised Morlet wavelet of direction theta, in radians from the rows' axis.

    $\hat g(\omega - \xi u_\theta) - \kappa\, \hat g(\omega)$, where $\hat g(\omega) =
    e^{-\sigma^2 (\omega_\parallel^2 + \omega_\perp^2 / s^2) / 2}$, s is the slant, and κ makes the mean zero: the
    envelope is sigma pixels wide along the wave and sigma / slant across it.
    """
    # Standard deviations along and across the wave, and of the envelope's shadow on either axis.
    along, across = 1 / sigma, slant / sigma
    shadow = (hypot(along * cos(theta), across * sin(theta)), hypot(along * sin(theta), across * cos(theta)))

    def envelope(centre: float) -> Tensor:
        rows = _bins(shape[0], centre * cos(theta), shadow[0])
        columns = _bins(shape[1], centre * sin(theta), shadow[1])
        x = (2 * pi / shape[0] * rows.double() - centre * cos(theta)).reshape(-1, 1)
        y = 2 * pi / shape[1] * columns.double() - centre * sin(theta)
        u = (cos(theta) * x + sin(theta) * y).div_(along).square_()
        v = (cos(theta) * y - sin(theta) * x).div_(across).square_()
        spectrum = _exp(u.add_(v).mul_(-0.5))
        folded = spectrum.new_zeros(shape[0], len(columns))
        folded.index_add_(0, rows % shape[0], spectrum)
        return spectrum.new_zeros(shape).index_add_(1, columns % shape[1], folded)

    wave, still = envelope(xi), envelope(0.0)
    return wave - (wave[0, 0] / still[0, 0]) * still


@lru_cache(maxsize=16)
def filter_bank(shape: tuple[int, int], J: int, L: int) -> FilterBank:
    r"""All filters of a scattering transform with J scales and L orientations on a padded grid.

    $\psi_{j,\theta}$ has σ = 0.8·2^j, ξ = 3π/(4·2^j), slant 4/L and angle (⌊L - L/2 - 1⌋ - θ)π/L for θ = 0 … L-1;
    φ is a Gaussian with σ = 0.8·2^(J-1).

    Args:
        shape: Padded grid (M, N), multiples of 2^J.
        J: Number of scales.
        L: Number of orientations.

    Returns:
        The bank; computed once per argument and shared, so its tensors must not be written to.

    References:
        Andreux et al., "Kymatio: scattering transforms in Python", 2020 (the conventions).

    Example:
        >>> filter_bank((36, 36), 2, 8).psi.shape
        torch.Size([2, 8, 36, 36])
    """
    # int(), not floor: for odd L the field's reference truncates towards zero.
    angles = [(int(L - L / 2 - 1) - theta) * pi / L for theta in range(L)]
    psi = torch.stack(
        [torch.stack([morlet(shape, SIGMA * 2**j, angle, XI / 2**j, 4 / L) for angle in angles]) for j in range(J)]
    )
    sigma = SIGMA * 2 ** (J - 1)
    return FilterBank(psi, gaussian(shape[0], sigma), gaussian(shape[1], sigma))


def low_frequencies(size: int, level: int) -> Tensor:
    """Indices, in DFT order, of the bins that remain when a spectrum is cropped to resolution 2^-level.

    Example:
        >>> low_frequencies(8, 1).tolist()
        [0, 1, 6, 7]
    """
    half = size // 2 ** (level + 1)
    return torch.cat([torch.arange(half), torch.arange(size - half, size)])


def low_pass_matrix(phi: Tensor, level: int, J: int) -> Tensor:
    """Matrix (outputs, size / 2^level) that averages by φ at resolution 2^-level, subsamples to 2^-J and crops by one.

    Along one axis all three are linear, so that they are one matrix.
    """
    kernel = torch.fft.ifft(phi[low_frequencies(len(phi), level)]).real
    size, step = len(kernel), 2 ** (J - level)
    outputs = torch.arange(step, size - step, step)
    return kernel[(outputs[:, None] - torch.arange(size)) % size]


def littlewood_paley(bank: FilterBank) -> tuple[float, float]:
    r"""Bounds of the Littlewood-Paley sum, which bound the energy that the wavelets keep.

    $A(\omega) = |\hat\phi|^2 + \tfrac12 \sum_{j,\theta} |\hat\psi_{j,\theta}(\omega)|^2 +
    |\hat\psi_{j,\theta}(-\omega)|^2$; a maximum of at most 1 makes the transform non-expansive.

    Args:
        bank: Filters of one grid.

    Returns:
        Minimum and maximum of A over the grid.

    References:
        Mallat, "Group invariant scattering", 2012.

    Example:
        >>> low, high = littlewood_paley(filter_bank((64, 64), 3, 8))
        >>> 0 < low < high
        True
    """
    energy = bank.psi.square().sum((0, 1))
    mirrored = energy.flip(0, 1).roll((1, 1), (0, 1))
    low_pass = torch.outer(bank.phi_rows, bank.phi_columns).square()
    total = low_pass + 0.5 * (energy + mirrored)
    return total.min().item(), total.max().item()
